//! The verbs and their arguments.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};

use super::mount::{Lower, Request, Writable};
use super::options::Dialect;
use super::{
    Failure, Output, apply, bench, check, commit, convert, diff, generate, image, index, layers, run, squash,
};

/// A union filesystem in user space that behaves like kernel overlayfs.
#[derive(Debug, Parser)]
#[command(name = "acetate", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(
    override_usage = "acetate VERB [ARGUMENTS]\n       acetate -o lowerdir=A:B,upperdir=U,workdir=W MNT"
)]
#[command(after_help = "Layers are written top first. Exit status: 0 done, 1 failed, 2 wrong usage.\n\
    Example: acetate mount --lower app --lower base --upper changes mnt")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
    /// Print JSON with stable field names.
    #[arg(long, global = true)]
    pub json: bool,
    /// Print nothing but failures.
    #[arg(long, global = true)]
    pub quiet: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Mount layers as one tree; returns when the tree is there.
    #[command(after_help = "Example: acetate mount --lower app --lower base --upper changes mnt\n\
        The same:  acetate -o lowerdir=app:base,upperdir=changes,workdir=.changes.work mnt\n\n\
        Options of -o are those of kernel overlayfs (lowerdir, upperdir, workdir, redirect_dir, index, nfs_export,\n\
        xino, metacopy, uuid, userxattr, volatile, fsync, ro, nodev, nosuid, noexec, noatime, ...) and\n\
        whiteout=oci   read .wh. markers in lower layers       passthrough=off   all data through the page cache\n\
        noacl          no POSIX ACLs                           allow_other       other users may use the mount\n\
        threads=N      at most N threads                       fsname=NAME       the source that mount(8) shows\n\
        transport=...  auto, uring (io_uring) or dev (/dev/fuse)")]
    Mount(MountArgs),
    /// Unmount, and wait until everything is on disk.
    #[command(after_help = "Example: acetate umount mnt")]
    Umount(UmountArgs),
    /// List the mounts of acetate.
    #[command(after_help = "Example: acetate list --json")]
    List,
    /// Show layers, options, and what a mount has done.
    #[command(after_help = "Example: acetate status mnt")]
    Status(MountpointArgs),
    /// Bring everything written so far to the upper's disk (what syncfs(2) cannot over FUSE).
    #[command(after_help = "Example: acetate sync mnt")]
    Sync(MountpointArgs),
    /// Show which layer a path comes from, what it covers, or why it is absent.
    #[command(after_help = "Example: acetate which mnt/etc/motd mnt/bin/hello")]
    Which(WhichArgs),
    /// Run a command that changes nothing but an upper, and show what it would have changed.
    #[command(after_help = "Example: acetate run --on project -- make install\n\n\
        CMD sees DIR at its own path; every change goes to an upper. Its output, signals and exit status are its own\n\
        (125: acetate failed; 126, 127: CMD cannot be run, is not there; 128+N: killed by signal N).\n\
        The changes are shown on stderr. Without a flag they are asked about on a terminal, and elsewhere kept in\n\
        $TMPDIR or /var/tmp, and it is told where. With --json CMD's output goes to stderr, the report to stdout.")]
    Run(run::Args),
    /// Show what an upper changes.
    #[command(after_help = "Example: acetate diff mnt")]
    Diff(diff::Args),
    /// Measure kernel overlayfs, acetate and its rivals side by side (root only).
    #[command(after_help = "Example: acetate bench --quick --rounds 3 --json figures.json\n\n\
        Prints a table, writes one HTML page with plots, and leaves nothing behind.")]
    Bench(bench::Args),
    /// Import container images, and keep them as layers that can be mounted.
    #[command(after_help = "Example: acetate image import layout:1.0 --name app:1.0")]
    Image(image::ImageArgs),
    /// Write down what the directories of layers hold, so that stacks of many are fast at first touch.
    #[command(after_help = "Example: acetate index layers/base layers/tools\n\n\
        The index of DIR is kept beside it, in .DIR.index; the layer itself is only read. A directory that changed\n\
        since is read from the layer again, so an old index does no harm.")]
    Index(index::Args),
    /// Make the changes of an upper in a real tree.
    #[command(after_help = "Example: acetate apply changes project\n\n\
        The tree comes out as if the commands had run in it. If it is interrupted, the same command finishes it.\n\
        What was changed in DEST since is not overwritten without --force. Afterwards the upper is of no further use.")]
    Apply(apply::Args),
    /// Merge several layers into one that stands for all of them.
    #[command(after_help = "Example: acetate squash --lower app --lower tools -o merged\n\n\
        The new layer is in the kernel's format and shows the same tree in place of the others, above whatever lies\n\
        below. With --base nothing lies below, and it is a plain directory.")]
    Squash(squash::Args),
    /// Write shell completions and man pages, for packages.
    #[command(hide = true, after_help = "Example: acetate generate target/package")]
    Generate(generate::Args),
    /// Write what an upper changes as a layer of an image.
    #[command(after_help = "Example: acetate commit mnt -o layer.tar.gz")]
    Commit(commit::Args),
    /// Find what is wrong with an upper or a layer, and repair what is safe.
    #[command(
        after_help = "Exit status: 0 clean, 1 repaired, 4 something is left, 8 it failed, 16 wrong usage; or a sum.\n\
        Example: acetate check changes --lower app --lower base"
    )]
    Check(check::Args),
    /// Write a layer in another dialect of marks.
    #[command(after_help = "Example: acetate convert --to oci changes copy")]
    Convert(convert::Args),
}

/// Arguments of `mount`.
#[derive(Debug, Args)]
pub struct MountArgs {
    /// A lower layer; repeat it, top first. @FILE: one directory per line (./@FILE is a directory).
    #[arg(long, value_name = "DIR|@FILE")]
    pub lower: Vec<OsString>,
    /// The layers of an image of the store, below those of --lower if there are any.
    #[arg(long, value_name = "REF")]
    pub image: Option<String>,
    /// Where the image is kept [default: as for `acetate image`].
    #[arg(long, value_name = "DIR", requires = "image")]
    pub store: Option<PathBuf>,
    /// The layer that takes the changes; without one the mount is read-only.
    #[arg(long, value_name = "DIR")]
    pub upper: Option<PathBuf>,
    /// Scratch directory on the upper's file system [default: .NAME.work beside the upper].
    #[arg(long, value_name = "DIR", requires = "upper")]
    pub work: Option<PathBuf>,
    /// Changes go to a private directory in $TMPDIR or /var/tmp and are thrown away at the end.
    #[arg(long, conflicts_with = "upper")]
    pub ephemeral: bool,
    /// Mount options, as for kernel overlayfs.
    #[arg(short = 'o', value_name = "OPTIONS", allow_hyphen_values = true)]
    pub options: Vec<OsString>,
    /// Which way requests come: over io_uring where possible, only so, or over /dev/fuse [default: auto].
    #[arg(long, value_name = "auto|uring|dev", value_parser = ["auto", "uring", "dev"])]
    pub transport: Option<String>,
    /// Stay in the foreground (for supervisors; tells systemd when the mount is there).
    #[arg(long)]
    pub foreground: bool,
    /// Write messages to FILE instead of the system log.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Where to mount.
    #[arg(value_name = "MNT")]
    pub mountpoint: PathBuf,
}

impl MountArgs {
    /// The request these arguments make.
    pub fn into_request(self, output: Output) -> Result<Request, Failure> {
        let writable = match (self.upper, self.ephemeral) {
            (Some(upper), _) => Writable::Upper { upper, work: self.work },
            (None, true) => Writable::Ephemeral,
            (None, false) => Writable::AsOptionsSay,
        };
        let mut listed = layers::expand(&self.lower).map_err(Failure::Failed)?;
        let mut options = self.options;
        options.extend(self.transport.map(|word| format!("transport={word}").into()));
        let (mut immutable, mut used) = (Vec::new(), Vec::new());
        if let Some(word) = &self.image {
            let stack = image::stack(self.store.as_deref(), word)?;
            options.extend(stack.options().map(OsString::from));
            listed.extend(stack.layers);
            (immutable, used) = (stack.immutable, stack.held);
        }
        let lower = if listed.is_empty() { Lower::AsOptionsSay } else { Lower::Listed(listed) };
        Ok(Request {
            lower,
            writable,
            dialect: Dialect::Native,
            debug: false,
            options,
            source: None,
            mountpoint: self.mountpoint,
            foreground: self.foreground,
            log: self.log,
            output,
            immutable,
            used,
        })
    }
}

/// Arguments of `umount`.
#[derive(Debug, Args)]
pub struct UmountArgs {
    /// Take the mount from sight now, although it is in use, and do not wait.
    #[arg(long)]
    pub lazy: bool,
    /// The mount.
    #[arg(value_name = "MNT")]
    pub mountpoint: PathBuf,
}

/// A mount of ours.
#[derive(Debug, Args)]
pub struct MountpointArgs {
    /// The mount, or a directory in it.
    #[arg(value_name = "MNT")]
    pub mountpoint: PathBuf,
}

/// Arguments of `which`.
#[derive(Debug, Args)]
pub struct WhichArgs {
    /// Draw a grid, a row for each path and a column for each layer.
    #[arg(long)]
    pub grid: bool,
    /// The rows of the grid alone.
    #[arg(long, requires = "grid")]
    pub no_heading: bool,
    /// Paths in a mount, present or not.
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
}

/// Whether `word`, as the first argument, makes the whole line one for [`Cli`].
pub fn is_verb(word: &OsStr) -> bool {
    let flags = ["-h", "--help", "-V", "--version"];
    word.to_str().is_some_and(|word| flags.contains(&word) || verbs().iter().any(|verb| verb == word))
}

/// The names of all verbs.
pub fn verbs() -> Vec<String> {
    Cli::command().get_subcommands().map(|verb| verb.get_name().to_string()).collect()
}

/// The help of the program.
pub fn help() -> clap::builder::StyledStr {
    Cli::command().render_help()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_arguments_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_shows_an_example() {
        for verb in Cli::command().get_subcommands() {
            let after = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.contains("Example: acetate "), "{}", verb.get_name());
        }
    }

    #[test]
    fn an_upper_and_an_ephemeral_one_exclude_each_other() {
        let parse = |words: &[&str]| Cli::try_parse_from([&["acetate", "mount"], words].concat());
        assert!(parse(&["--lower", "a", "--upper", "u", "--ephemeral", "m"]).is_err());
        assert!(parse(&["--lower", "a", "--work", "w", "m"]).is_err());
        assert!(parse(&["--lower", "a", "--lower", "b", "--ephemeral", "m", "--json"]).is_ok());
    }
}
