//! `acetate mount`: from a request to a live mount.
//!
//! A mount that is refused must leave no trace, and a mount that is reported must be there. So the request first
//! becomes a [`Plan`] in which every word is settled and every directory found, without touching anything; only then
//! does [`super::daemon`] begin to act.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::layers::{self, Purpose, find};
use super::options::{self, Dialect, MountFlags, Rights, Words};
use super::{Failure, Outcome, Output, daemon, logging};
use crate::error::SetupError;
use crate::image::store::{Held, Stack};
use crate::sys::process;
use crate::union::{Atime, Config, Fsync, Passthrough, Writeback};
use crate::{fuse, sys};

/// Where the lower layers are named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lower {
    /// In `-o`.
    AsOptionsSay,
    /// With `--lower`, top first.
    Listed(Vec<PathBuf>),
}

/// Where changes go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Writable {
    /// What `-o` says: an upper with its work directory, or nowhere.
    AsOptionsSay,
    /// To this upper; without a work directory one is made beside it.
    Upper {
        /// `--upper`.
        upper: PathBuf,
        /// `--work`.
        work: Option<PathBuf>,
    },
    /// To a private directory that is removed at the end.
    Ephemeral,
}

/// A mount as it was asked for, whatever the form.
#[derive(Clone, Debug)]
pub struct Request {
    /// The lower layers.
    pub lower: Lower,
    /// Where changes go.
    pub writable: Writable,
    /// Who wrote the options.
    pub dialect: Dialect,
    /// Say everything.
    pub debug: bool,
    /// Every `-o`, in order.
    pub options: Vec<std::ffi::OsString>,
    /// The source that mount(8) is to show.
    pub source: Option<String>,
    /// Where to mount.
    pub mountpoint: PathBuf,
    /// Do not detach.
    pub foreground: bool,
    /// `--log`.
    pub log: Option<PathBuf>,
    /// How the command speaks.
    pub output: Output,
    /// Those of the lower layers whose keeper knows that they do not change.
    pub immutable: Vec<PathBuf>,
    /// What keeps the layers of an image in their store.
    pub used: Vec<Arc<Held>>,
}

impl Request {
    /// A mount of the layers of an image.
    pub fn of_image(stack: &Stack, writable: Writable, mountpoint: PathBuf, output: Output) -> Request {
        Request {
            lower: Lower::Listed(stack.layers.clone()),
            writable,
            dialect: Dialect::Native,
            debug: false,
            options: stack.options().into_iter().map(Into::into).collect(),
            source: None,
            mountpoint,
            foreground: false,
            log: None,
            output,
            immutable: stack.immutable.clone(),
            used: stack.held.clone(),
        }
    }
}

/// A mount with nothing left to find out.
#[derive(Debug)]
pub struct Plan {
    /// The stack; without upper and work if `ephemeral`.
    pub config: Config,
    /// The mount; `mountpoint` is a path from the root.
    pub mount: fuse::Options,
    /// The settled options, for people.
    pub words: Vec<String>,
    /// Make a private upper.
    pub ephemeral: bool,
    /// The work directory was not named: make it if it is missing.
    pub make_work: bool,
    /// Do not detach.
    pub foreground: bool,
    /// Where messages go.
    pub log: Option<File>,
    /// Keep paths true that name a descriptor.
    pub held: Vec<OwnedFd>,
    /// Keep layers in their store for as long as they are mounted.
    pub used: Vec<Arc<Held>>,
}

/// Mounts. Returns when the mount is live, or after its end with `--foreground`.
///
/// # Errors
/// Why not. Nothing was changed then.
pub fn run(request: &Request) -> Outcome {
    prepare(request.output)?;
    daemon::start(plan(request)?, request.output)
}

/// Says whether the request would be refused, as far as that can be known without mounting.
///
/// # Errors
/// As [`run`].
pub fn rehearse(request: &Request) -> Outcome {
    prepare(request.output)?;
    plan(request).map(drop)
}

fn prepare(output: Output) -> Result<(), SetupError> {
    process::fill_standard_streams().map_err(|e| SetupError::new("open /dev/null", e))?;
    logging::install(if output.is_quiet() { log::LevelFilter::Error } else { log::LevelFilter::Warn });
    if let Err(errno) = process::raise_open_files() {
        log::debug!("the limit of open files stays as it is: {errno}");
    }
    Ok(())
}

/// Settles the words and finds the directories.
fn plan(request: &Request) -> Result<Plan, Failure> {
    let rights = if process::may_use_trusted_xattrs() { Rights::Trusted } else { Rights::UserOnly };
    let settled = words(request).and_then(|words| words.settle(rights)).map_err(Failure::Usage)?;
    if request.debug || settled.flags.debug {
        logging::say_everything();
    }
    settled.remarks.iter().for_each(|remark| log::warn!("{remark}"));
    let (mut config, flags) = (settled.config, settled.flags);

    let mountpoint = find(&request.mountpoint, Purpose::Mountpoint)?;
    config.root_stands_in =
        request.dialect == Dialect::FuseOverlayfs && options::is_in_a_store(&mountpoint.path);
    super::umount::clear_dead(&mountpoint.path)?;
    let mut held: Vec<OwnedFd> = mountpoint.held.into_iter().collect();
    let mut stacked = false;
    let mut fix = |path: &mut PathBuf, purpose| -> Result<(), SetupError> {
        let found = find(path, purpose)?;
        *path = found.path;
        stacked |= found.stacked;
        held.extend(found.held);
        Ok(())
    };
    let immutable: Vec<bool> = config.lower.iter().map(|path| request.immutable.contains(path)).collect();
    config.lower.iter_mut().try_for_each(|path| fix(path, Purpose::Lower))?;
    config.immutable =
        config.lower.iter().zip(immutable).filter(|(_, is)| *is).map(|(path, _)| path.clone()).collect();
    config.data_only.iter_mut().try_for_each(|path| fix(path, Purpose::Data))?;
    let ephemeral = request.writable == Writable::Ephemeral;
    let make_work = matches!(request.writable, Writable::Upper { work: None, .. });
    if ephemeral {
        (config.upper, config.work) = (None, None);
    }
    if let Some(upper) = &mut config.upper {
        fix(upper, Purpose::Upper)?;
        if make_work {
            config.work = Some(layers::default_work(upper)?);
        }
    }
    if let Some(work) = config.work.as_mut().filter(|work| !make_work || work.symlink_metadata().is_ok()) {
        fix(work, Purpose::Work)?;
    }
    let log = request.log.as_deref().map(open_log).transpose()?;
    let words = options::describe(&config, &flags);
    config.words.clone_from(&words);
    let mount = mount_options(&config, &flags, ephemeral, stacked, request.source.clone(), mountpoint.path);
    Ok(Plan {
        config,
        mount,
        words,
        ephemeral,
        make_work,
        foreground: request.foreground,
        log,
        held,
        used: request.used.clone(),
    })
}

/// All words of the request, the flags of the command line last.
fn words(request: &Request) -> Result<Words, SetupError> {
    let mut words = Words::default();
    request.options.iter().try_for_each(|options| request.dialect.read(&mut words, options))?;
    if let Lower::Listed(lower) = &request.lower {
        if !words.lower.is_empty() {
            return Err(twice("--lower", "lowerdir="));
        }
        words.lower.clone_from(lower);
    }
    if request.writable != Writable::AsOptionsSay && (words.upper.is_some() || words.work.is_some()) {
        return Err(twice("--upper, --work or --ephemeral", "upperdir= or workdir="));
    }
    match &request.writable {
        Writable::AsOptionsSay => {}
        Writable::Upper { upper, work } => {
            words.upper = Some(upper.clone());
            // Settled as if it were named; its place is known once the upper is found.
            words.work = Some(work.clone().unwrap_or_default());
        }
        Writable::Ephemeral => {
            (words.upper, words.work) = (Some(PathBuf::new()), Some(PathBuf::new()));
            // What is thrown away need not reach a disk.
            words.fsync.get_or_insert(Fsync::Volatile);
        }
    }
    Ok(words)
}

fn twice(flag: &str, option: &str) -> SetupError {
    SetupError::new(format!("use {flag} together with -o {option}"), "both say the same thing")
        .hint("say it once")
}

fn open_log(path: &Path) -> Result<File, SetupError> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .map_err(|e| SetupError::new("open the log file", e).at(path).hint("name a file that you may write"))
}

/// What `fuse` is told of a mount of `config`.
pub(super) fn mount_options(
    config: &Config,
    flags: &MountFlags,
    ephemeral: bool,
    stacked: bool,
    source: Option<String>,
    mountpoint: PathBuf,
) -> fuse::Options {
    let root = nix::unistd::geteuid().is_root();
    fuse::Options {
        mountpoint,
        read_only: flags.read_only || (config.upper.is_none() && !ephemeral),
        // Like kernel overlayfs, where everybody may use what root mounted.
        allow_other: flags.allow_other || root,
        nodev: flags.nodev,
        nosuid: flags.nosuid,
        noexec: flags.noexec,
        noatime: flags.atime == Atime::Never,
        acl: !config.noacl,
        export: config.nfs_export,
        passthrough: config.passthrough == Passthrough::Auto
            && config.writeback != Writeback::On
            && process::may_use_trusted_xattrs(),
        writeback: (config.upper.is_some() || ephemeral)
            && match config.writeback {
                Writeback::Off => false,
                Writeback::On => true,
                // Who may have passthrough and refuses it wants each write served.
                Writeback::Auto => !process::may_use_trusted_xattrs(),
            },
        stacked,
        context: flags.context.clone(),
        private: flags.private,
        max_write: flags.max_write,
        threads: flags.threads,
        transport: flags.transport,
        source: flags.fsname.clone().or(source).unwrap_or_else(|| "acetate".to_string()),
    }
}

/// Makes the work directory of a plan whose work directory was not named. True: it was not there before.
///
/// # Errors
/// As mkdir(2).
pub fn make_work(work: &Path) -> Result<bool, SetupError> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new().mode(0o700).create(work) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(SetupError::new(
            "create the work directory",
            sys::Errno::from_raw(e.raw_os_error().unwrap_or(0)).desc(),
        )
        .at(work)
        .hint("name another one on the upper's file system with --work DIR")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Format;

    fn request(options: &[&str]) -> Request {
        Request {
            lower: Lower::AsOptionsSay,
            writable: Writable::AsOptionsSay,
            dialect: Dialect::Native,
            debug: false,
            options: options.iter().map(Into::into).collect(),
            source: None,
            mountpoint: PathBuf::from("mnt"),
            foreground: false,
            log: None,
            output: Output::new(Format::Text, true),
            immutable: Vec::new(),
            used: Vec::new(),
        }
    }

    #[test]
    fn several_option_strings_are_one() {
        let words = words(&request(&["lowerdir=a", "ro,volatile"])).unwrap();
        assert_eq!(words.lower, [PathBuf::from("a")]);
        assert!(words.flags.read_only);
    }

    #[test]
    fn a_layer_named_both_ways_is_refused() {
        let mut twice = request(&["lowerdir=a"]);
        twice.lower = Lower::Listed(vec!["b".into()]);
        assert!(words(&twice).unwrap_err().to_string().contains("say it once"));
        let mut twice = request(&["lowerdir=a,upperdir=u,workdir=w"]);
        twice.writable = Writable::Ephemeral;
        assert!(words(&twice).unwrap_err().to_string().contains("say it once"));
    }

    #[test]
    fn an_ephemeral_upper_is_volatile_unless_told_otherwise() {
        let mut ephemeral = request(&["lowerdir=a"]);
        ephemeral.writable = Writable::Ephemeral;
        let settled = words(&ephemeral).unwrap().settle(Rights::Trusted).unwrap();
        assert_eq!(settled.config.fsync, Fsync::Volatile);
        ephemeral.options = vec!["lowerdir=a,fsync=strict".into()];
        let settled = words(&ephemeral).unwrap().settle(Rights::Trusted).unwrap();
        assert_eq!(settled.config.fsync, Fsync::Strict);
    }
}
