//! The arguments of `run`, and the directories they mean.

use std::ffi::OsString;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::super::Failure;
use super::super::layers::{self, Found, Purpose, find};
use super::super::scratch::{self, Ephemeral};
use super::ending::After;
use super::inside::Inside;
use super::tree::{Changes, Tree};
use crate::error::SetupError;

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory that CMD may change for show; repeat it for several [default: the current directory].
    #[arg(long, value_name = "DIR")]
    pub on: Vec<PathBuf>,
    /// Show this stack instead of the directory itself, top first; @FILE: one directory per line. Without --on it lies
    /// over the topmost.
    #[arg(long, value_name = "DIR|@FILE")]
    pub lower: Vec<OsString>,
    /// Collect the changes in DIR, on top of those it has; it stays.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["keep", "discard"])]
    pub upper: Option<PathBuf>,
    /// Leave the changes in DIR, a new or empty directory, for `acetate apply DIR …` later.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["apply", "discard", "ask"])]
    pub keep: Option<PathBuf>,
    /// Apply the changes to the directory at the end, whatever CMD's exit status.
    #[arg(long, conflicts_with_all = ["discard", "ask"])]
    pub apply: bool,
    /// Show the changes and throw them away.
    #[arg(long, conflicts_with = "ask")]
    pub discard: bool,
    /// Show the changes and ask what to do with them (the default on a terminal).
    #[arg(long)]
    pub ask: bool,
    /// Run in an image of the store, with its user, environment and directory, instead of on a directory.
    #[arg(long, value_name = "REF", conflicts_with_all = ["on", "lower", "apply"])]
    pub image: Option<String>,
    /// Where the image is kept [default: as for `acetate image`].
    #[arg(long, value_name = "DIR", requires = "image")]
    pub store: Option<PathBuf>,
    /// The command and its arguments [with --image: what the image says].
    #[arg(value_name = "CMD", required_unless_present = "image", trailing_var_arg = true)]
    pub command: Vec<OsString>,
}

/// What was asked for, with nothing contradictory in it.
#[derive(Debug)]
pub struct Wanted {
    on: Vec<PathBuf>,
    lower: Vec<OsString>,
    upper: Option<PathBuf>,
    keep: Option<PathBuf>,
    image: Option<(String, Option<PathBuf>)>,
    /// What becomes of the changes.
    pub after: After,
    /// The command and its arguments.
    pub command: Vec<OsString>,
}

impl Args {
    /// Refuses what clap cannot see.
    ///
    /// # Errors
    /// Usage: arguments that do not go together.
    pub fn check(self) -> Result<Wanted, Failure> {
        let refuse =
            |what: &str, why: &str, hint: &str| Err(Failure::Usage(SetupError::new(what, why).hint(hint)));
        if self.on.len() > 1 && (self.keep.is_some() || self.upper.is_some() || !self.lower.is_empty()) {
            let hint = "run it once for each directory, or leave --keep, --upper and --lower out";
            return refuse("use several --on", "--keep, --upper and --lower are about one tree", hint);
        }
        if self.apply && !self.lower.is_empty() {
            let hint = "leave --apply out and merge the layers with acetate squash";
            return refuse(
                "apply the changes",
                "they were made on several layers and fit none of them",
                hint,
            );
        }
        let after = match (&self.keep, &self.upper) {
            _ if self.apply => After::Apply,
            _ if self.discard => After::Discard,
            _ if self.ask => After::Ask,
            (None, None) => After::AsFits,
            _ => After::Keep,
        };
        let Args { on, lower, upper, keep, image, store, command, .. } = self;
        let image = image.map(|image| (image, store));
        Ok(Wanted { on, lower, upper, keep, image, after, command })
    }
}

impl Wanted {
    /// Whether the command lives in an image.
    pub fn is_image(&self) -> bool {
        self.image.is_some()
    }

    /// Finds every directory, and makes the ones that changes go to.
    ///
    /// # Errors
    /// A directory that cannot be used.
    pub fn trees(&self) -> Result<Vec<Tree>, SetupError> {
        if let Some((word, store)) = &self.image {
            let inside = Inside::find(word, store.as_deref(), &self.command)?;
            let top = inside.stack.layers.first().cloned().unwrap_or_default();
            let changes = self.changes(&top)?;
            let (on, lower) = (inside.place.clone(), inside.stack.layers.clone());
            return Ok(vec![Tree {
                on,
                lower,
                stacked: false,
                applies: false,
                changes,
                inside: Some(inside),
            }]);
        }
        if !self.lower.is_empty() {
            let lower = layers::expand(&self.lower)?;
            let lower =
                lower.iter().map(|path| named(path, Purpose::Lower)).collect::<Result<Vec<_>, _>>()?;
            let on = match (self.on.first(), lower.first()) {
                (Some(on), _) => named(on, Purpose::Mountpoint)?.path,
                (None, Some(top)) => top.path.clone(),
                (None, None) => return Err(SetupError::new("run on a stack", "it has no layer")),
            };
            return Ok(vec![self.tree(on, lower, false)?]);
        }
        let here = [PathBuf::from(".")];
        let on = if self.on.is_empty() { here.as_slice() } else { &self.on };
        let mut found = on.iter().map(|path| named(path, Purpose::On)).collect::<Result<Vec<_>, _>>()?;
        found.sort_by(|a, b| a.path.cmp(&b.path));
        found.dedup_by(|a, b| a.path == b.path);
        found.into_iter().map(|found| self.tree(found.path.clone(), vec![found], true)).collect()
    }

    fn tree(&self, on: PathBuf, lower: Vec<Found>, applies: bool) -> Result<Tree, SetupError> {
        if on == Path::new("/") {
            return Err(SetupError::new("run on", "the root directory cannot be covered")
                .at(on)
                .hint("name the directories that may be changed, as in: --on /etc --on /usr --on /var"));
        }
        let stacked = lower.iter().any(|found| found.stacked);
        let lower: Vec<PathBuf> = lower.into_iter().map(|found| found.path).collect();
        let top = lower.first().cloned().unwrap_or_default();
        let changes = self.changes(&top)?;
        Ok(Tree { on, lower, stacked, applies, changes, inside: None })
    }

    fn changes(&self, top: &Path) -> Result<Changes, SetupError> {
        Ok(match (&self.keep, &self.upper) {
            (Some(dir), _) => named_upper(dir, top, Fresh::Yes)?,
            (None, Some(dir)) => named_upper(dir, top, Fresh::No)?,
            // What is thrown away anyway may be swept by the next process if this one is killed.
            (None, None) if self.after == After::Discard => Changes::Private(Ephemeral::create(top)?),
            (None, None) => Changes::Private(Ephemeral::create_lasting(top)?),
        })
    }
}

/// A directory with a name that leads to it.
fn named(path: &Path, purpose: Purpose) -> Result<Found, SetupError> {
    let found = find(path, purpose)?;
    match found.held {
        None => Ok(found),
        Some(_) => {
            Err(SetupError::new("use", "it has no name that leads to it (deleted, or too long)").at(path))
        }
    }
}

/// Whether an upper must be new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fresh {
    Yes,
    No,
}

/// The upper that the user named, made if it is missing.
fn named_upper(dir: &Path, top: &Path, fresh: Fresh) -> Result<Changes, SetupError> {
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => scratch::dress_as(top, dir).map_err(|errno| {
            SetupError::new("prepare the directory for the changes", errno.desc()).at(dir)
        })?,
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(e) => {
            return Err(SetupError::new("make the directory for the changes", e)
                .at(dir)
                .hint("name one whose parent exists and is yours"));
        }
    }
    let upper = named(dir, Purpose::Upper)?.path;
    let occupied = std::fs::read_dir(&upper).is_ok_and(|mut entries| entries.next().is_some());
    if occupied && fresh == Fresh::Yes {
        return Err(SetupError::new("keep the changes in", "it is not empty")
            .at(dir)
            .hint("name a new directory, or use --upper to go on with the changes in it"));
    }
    let work = layers::default_work(&upper)?;
    super::super::mount::make_work(&work)?;
    Ok(Changes::Named { upper, work })
}
