//! The words that name an upper and what lies below it, the same for `diff` and `apply`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::layers::{Purpose, default_work, expand, find};
use super::options::{Rights, Words};
use super::umount::Place;
use super::{Failure, questions};
use crate::diff::Stack;
use crate::error::SetupError;
use crate::layer::marks::{Mark, Prefix};
use crate::sys::{Dir, process};
use crate::union::control::{Question, Role, Status};

/// An upper and its layers, or a mount, which knows its own.
#[derive(Debug, clap::Args)]
pub struct StackArgs {
    /// A mount of ours, or an upper directory.
    #[arg(value_name = "STACK")]
    pub stack: PathBuf,
    /// A lower layer of the upper; repeat it, top first. @FILE: one directory per line; ::DIR: a data-only layer. Not
    /// with a mount.
    #[arg(long, value_name = "DIR|@FILE|::DIR")]
    pub lower: Vec<OsString>,
    /// The upper's work directory [default: .NAME.work beside it, if it is there].
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,
    /// How the layers are to be read, as for mount: whiteout=oci, userxattr, lowerdir=A:B::DATA.
    #[arg(short = 'o', value_name = "OPTIONS", allow_hyphen_values = true)]
    pub options: Vec<OsString>,
}

/// What was meant.
#[derive(Debug)]
pub struct Meant {
    /// The layers.
    pub stack: Stack,
    /// It is mounted now.
    pub live: bool,
}

impl StackArgs {
    /// The layers to compare: those of a mount of ours, or those that were named. `default`: the lowers, if none is.
    ///
    /// # Errors
    /// Usage: words that make no sense together. Failed: a directory that cannot be used.
    pub fn find(&self, default: &[PathBuf]) -> Result<Meant, Failure> {
        let found = find(&self.stack, Purpose::Upper)?;
        // Only a mount itself is meant as one; a directory in a mount can be an upper like any other.
        if let Ok(place) = Place::find(&self.stack, "compare")
            && place.is_root
        {
            if !self.lower.is_empty() || !self.options.is_empty() || self.work.is_some() {
                return Err(Failure::Usage(
                    SetupError::new("compare a mount with --lower, --work or -o", "a mount knows its layers")
                        .at(&self.stack)
                        .hint("leave them out"),
                ));
            }
            return Ok(Meant { stack: of_mount(&place, &self.stack)?, live: true });
        }
        let userxattr = !process::may_use_trusted_xattrs() || marked_for_users(&found.path);
        let mut stack = layers(&self.lower, &self.options, default, userxattr)?;
        stack.work = match &self.work {
            Some(work) => Some(find(work, Purpose::Work)?.path),
            None => default_work(&found.path).ok().filter(|work| work.is_dir()),
        };
        stack.upper = found.path;
        Ok(Meant { stack, live: false })
    }
}

/// The lowers and how to read them, found; `default`, if none is named.
///
/// # Errors
/// Usage: words that make no sense together. Failed: a directory that cannot be used.
pub fn layers(
    words: &[OsString],
    options: &[OsString],
    default: &[PathBuf],
    userxattr: bool,
) -> Result<Stack, Failure> {
    let mut stack = named(words, options, default, userxattr)?;
    for (layers, purpose) in [(&mut stack.lower, Purpose::Lower), (&mut stack.data_only, Purpose::Data)] {
        for path in layers.iter_mut() {
            *path = find(path, purpose)?.path;
        }
    }
    Ok(stack)
}

/// The lowers and how to read them, as they were written.
fn named(
    lower: &[OsString],
    options: &[OsString],
    default: &[PathBuf],
    userxattr: bool,
) -> Result<Stack, Failure> {
    let mut words = Words::default();
    options.iter().try_for_each(|text| words.read(text)).map_err(Failure::Usage)?;
    let listed = expand(lower)?;
    let data = |path: &PathBuf| path.as_os_str().as_bytes().starts_with(b"::");
    let (data_only, lower): (Vec<PathBuf>, Vec<PathBuf>) = listed.into_iter().partition(data);
    if !lower.is_empty() && !words.lower.is_empty() {
        let twice = SetupError::new("use --lower together with -o lowerdir=", "both say the same thing");
        return Err(Failure::Usage(twice.hint("say it once")));
    }
    words.lower.extend(lower);
    if words.lower.is_empty() {
        words.lower.extend_from_slice(default);
    }
    words.data_only.extend(data_only.iter().map(|path| after_colons(path)));
    if words.lower.is_empty() {
        return Ok(Stack { userxattr, ..Stack::default() });
    }
    (words.upper, words.work) = (None, None);
    let rights = if process::may_use_trusted_xattrs() { Rights::Trusted } else { Rights::UserOnly };
    let config = words.settle(rights).map_err(Failure::Usage)?.config;
    Ok(Stack {
        lower: config.lower,
        data_only: config.data_only,
        userxattr: userxattr || config.userxattr,
        oci_whiteouts: config.oci_whiteouts,
        ..Stack::default()
    })
}

fn after_colons(path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes.get(2..).unwrap_or_default()))
}

/// Whether the marks of an upper are `user.overlay.` attributes. Every upper that was ever changed carries one on its
/// root, unless its file system has none; root reads both forms.
fn marked_for_users(upper: &Path) -> bool {
    let Ok(dir) = Dir::open_path(upper) else { return false };
    let has = |prefix: Prefix| {
        [Mark::Impure, Mark::Origin, Mark::Uuid]
            .iter()
            .any(|mark| dir.this().find_xattr(prefix.attr(*mark)).is_ok_and(|value| value.is_some()))
    };
    has(Prefix::User) && !has(Prefix::Trusted)
}

/// The layers that a mount names. What was written through it is compared as its upper has it now.
fn of_mount(place: &Place, path: &Path) -> Result<Stack, SetupError> {
    let status: Status = questions::ask(place, &Question::Status, path)?;
    let of = |role: Role| status.layers.iter().filter(move |l| l.role == role).map(|l| l.path.to_path());
    let upper = of(Role::Upper).next().ok_or_else(|| {
        SetupError::new("compare", "the mount is read-only: it has no upper that could differ").at(path)
    })?;
    let has = |word: &str| status.options.iter().any(|option| option == word);
    Ok(Stack {
        upper,
        lower: of(Role::Lower).collect(),
        data_only: of(Role::Data).collect(),
        userxattr: has("userxattr"),
        oci_whiteouts: has("whiteout=oci"),
        work: status.work.as_ref().map(|work| work.to_path()),
    })
}
