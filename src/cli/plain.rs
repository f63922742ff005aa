//! The form without a verb: `acetate -o OPTS MNT`, as podman writes it, and `acetate SOURCE MNT -o OPTS`, as mount(8)
//! writes it for its helpers.
//!
//! Nobody types these lines with care; programs build them. So options may be attached, repeated, and come after the
//! directories, and `-f` means what the caller means by it: foreground, or for mount(8) a rehearsal.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::mount::{Lower, Request, Writable};
use super::options::{self, nearest};
use super::{Failure, Format, Output, args};
use crate::error::SetupError;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Somebody who runs `acetate` itself.
    Direct,
    /// mount(8), through `mount.acetate` or `mount.fuse.acetate`.
    MountHelper,
    /// Somebody who runs, as far as they know, `fuse-overlayfs`.
    FuseOverlayfs,
}

/// What the line asks for.
#[derive(Debug)]
pub enum Asked {
    /// A mount.
    Mount(Request),
    /// To say whether a mount would be refused.
    Rehearsal(Request),
    /// The help text.
    Help,
    /// The version.
    Version,
}

/// What the flags said so far.
#[derive(Debug, Default)]
struct Line {
    options: Vec<OsString>,
    places: Vec<OsString>,
    foreground: bool,
    rehearsal: bool,
    read_only: bool,
    quiet: bool,
    debug: bool,
    log: Option<PathBuf>,
}

/// Reads the arguments after the program's name.
///
/// # Errors
/// Usage: an unknown flag, or not one or two places.
pub fn read(dialect: Dialect, words: &[OsString]) -> Result<Asked, Failure> {
    let mut line = Line::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = |flag: &str| {
            words
                .next()
                .cloned()
                .ok_or_else(|| usage(flag, "it needs a value", "acetate --help shows the forms"))
        };
        match word.as_bytes() {
            b"-h" | b"--help" => return Ok(Asked::Help),
            b"-V" | b"--version" => return Ok(Asked::Version),
            b"--foreground" => line.foreground = true,
            b"-f" if dialect == Dialect::MountHelper => line.rehearsal = true,
            b"-f" => line.foreground = true,
            b"-d" | b"--debug" => (line.foreground, line.debug) = (true, true),
            b"--quiet" => line.quiet = true,
            b"--log" => line.log = Some(PathBuf::from(value("--log")?)),
            b"-r" => line.read_only = true,
            b"-n" | b"-s" | b"-v" | b"-w" => {}
            b"-t" | b"-N" => drop(value("-t")?),
            b"-o" => line.options.push(value("-o")?),
            b"--" => line.places.extend(words.by_ref().cloned()),
            [b'-', b'o', attached @ ..] => line.options.push(OsStr::from_bytes(attached).to_os_string()),
            [b'-', _, ..] => return Err(unknown(word, dialect, &line.places)),
            _ => line.places.push(word.clone()),
        }
    }
    line.into_asked(dialect)
}

impl Line {
    fn into_asked(mut self, dialect: Dialect) -> Result<Asked, Failure> {
        if self.read_only {
            self.options.push(OsString::from("ro"));
        }
        let (source, mountpoint) = match self.places.as_slice() {
            [mountpoint] if dialect != Dialect::MountHelper => (None, mountpoint),
            [source, mountpoint] => (Some(source.to_string_lossy().into_owned()), mountpoint),
            places => return Err(misplaced(dialect, places)),
        };
        if self.options.is_empty() {
            return Err(misplaced(dialect, &self.places));
        }
        let mountpoint = PathBuf::from(mountpoint);
        let words = match dialect {
            Dialect::Direct => options::Dialect::guess(&self.options, &mountpoint),
            Dialect::MountHelper => options::Dialect::Native,
            Dialect::FuseOverlayfs => options::Dialect::FuseOverlayfs,
        };
        let request = Request {
            dialect: words,
            debug: self.debug,
            lower: Lower::AsOptionsSay,
            writable: Writable::AsOptionsSay,
            options: self.options,
            source,
            mountpoint,
            foreground: self.foreground,
            log: self.log,
            output: Output::new(Format::Text, self.quiet),
            immutable: Vec::new(),
            used: Vec::new(),
        };
        Ok(if self.rehearsal { Asked::Rehearsal(request) } else { Asked::Mount(request) })
    }
}

fn usage(what: &str, why: &str, hint: &str) -> Failure {
    Failure::Usage(SetupError::new(format!("understand {what}"), why).hint(hint))
}

fn unknown(word: &OsStr, dialect: Dialect, places: &[OsString]) -> Failure {
    if let [_] = places {
        return misplaced(dialect, places);
    }
    let verb = "flags of a verb come after it, as in: acetate list --json";
    usage(&word.to_string_lossy(), "there is no such flag in the form without a verb", verb)
}

/// One reason fits nearly every such line: a verb that was mistyped.
fn misplaced(dialect: Dialect, places: &[OsString]) -> Failure {
    let verbs = args::verbs();
    let verb = places.first().and_then(|first| nearest(first.as_bytes(), verbs.iter().map(String::as_str)));
    match (verb, places) {
        (Some(verb), [first, ..]) => {
            usage(&first.to_string_lossy(), "it is no verb", &format!("did you mean: acetate {verb}?"))
        }
        (None, [first]) if dialect == Dialect::Direct => usage(
            &first.to_string_lossy(),
            "it is no verb, and a mount without one needs -o",
            "say acetate -o lowerdir=A:B MNT; acetate --help lists the verbs",
        ),
        _ => {
            let form = match dialect {
                Dialect::Direct => "say acetate -o lowerdir=A:B MNT; acetate --help lists the verbs",
                Dialect::MountHelper => "say mount.acetate SOURCE MNT -o lowerdir=A:B",
                Dialect::FuseOverlayfs => "say fuse-overlayfs -o lowerdir=A:B MNT",
            };
            usage("the arguments", "a mount needs one mount point and -o", form)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(dialect: Dialect, words: &[&str]) -> Result<Asked, Failure> {
        read(dialect, &words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    fn request(dialect: Dialect, words: &[&str]) -> Request {
        match ask(dialect, words) {
            Ok(Asked::Mount(request)) => request,
            other => panic!("{words:?}: {other:?}"),
        }
    }

    fn refused(words: &[&str]) -> String {
        match ask(Dialect::Direct, words) {
            Err(Failure::Usage(e)) => e.to_string(),
            other => panic!("{words:?}: {other:?}"),
        }
    }

    #[test]
    fn options_may_be_attached_repeated_and_anywhere() {
        let r = request(Dialect::Direct, &["-olowerdir=a", "mnt", "-o", "ro", "-f"]);
        assert_eq!(r.options, ["lowerdir=a", "ro"].map(OsString::from));
        assert_eq!((r.mountpoint, r.source, r.foreground), (PathBuf::from("mnt"), None, true));
    }

    #[test]
    fn mount_8_names_a_source_first_and_its_f_is_a_rehearsal() {
        let r = request(
            Dialect::MountHelper,
            &["overlay", "/mnt", "-n", "-o", "rw,lowerdir=a", "-t", "fuse.acetate"],
        );
        assert_eq!((r.source.as_deref(), r.mountpoint), (Some("overlay"), PathBuf::from("/mnt")));
        assert!(matches!(
            ask(Dialect::MountHelper, &["a", "/mnt", "-f", "-o", "lowerdir=a"]),
            Ok(Asked::Rehearsal(_))
        ));
        assert!(ask(Dialect::MountHelper, &["/mnt", "-o", "lowerdir=a"]).is_err());
        let r = request(Dialect::FuseOverlayfs, &["overlay", "/mnt", "-o", "rw,lowerdir=a,dev,suid"]);
        assert_eq!((r.source.as_deref(), r.dialect), (Some("overlay"), options::Dialect::FuseOverlayfs));
        let r = request(Dialect::Direct, &["overlay", "/mnt", "-o", "lowerdir=a"]);
        assert_eq!(r.source.as_deref(), Some("overlay"));
    }

    #[test]
    fn after_two_dashes_everything_is_a_place() {
        let r = request(Dialect::Direct, &["-o", "lowerdir=a", "--", "-mnt"]);
        assert_eq!(r.mountpoint, PathBuf::from("-mnt"));
    }

    #[test]
    fn a_mistyped_verb_is_recognised() {
        assert!(refused(&["monut", "--lower", "a"]).contains("acetate mount"));
        assert!(refused(&["--json", "list"]).contains("flag"));
        assert!(refused(&["umonut", "mnt"]).contains("acetate umount"), "{}", refused(&["umonut", "mnt"]));
        assert!(refused(&["frobnicate"]).contains("no verb"));
        assert!(refused(&["-o", "lowerdir=a"]).contains("one mount point"));
        assert!(refused(&["-o"]).contains("needs a value"));
    }
}
