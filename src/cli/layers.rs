//! Directories that a person named, made into paths that stay true.
//!
//! The server leaves the caller's working directory, and a path may pass through a symlink and then `..`. So every
//! directory is found by the kernel, once, while the caller's directory is still ours (L-8), and from then on goes by
//! the name the kernel gives it. Where it has none (deleted, or longer than a page) it goes by its open descriptor.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::SetupError;
use crate::sys::{Errno, mountinfo};

/// f_type of file systems that stand on another one (F-39).
const STACKED: [i64; 3] = [0x794c_7630, 0x6573_5546, 0xf15f];

/// A directory that was found.
#[derive(Debug)]
pub struct Found {
    /// Its path from the root.
    pub path: PathBuf,
    /// Whether its file system is itself stacked.
    pub stacked: bool,
    /// Keeps `path` true where it names a descriptor.
    pub held: Option<OwnedFd>,
}

/// What a directory is wanted for; how messages call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A lower layer.
    Lower,
    /// A data-only layer.
    Data,
    /// The upper.
    Upper,
    /// The work directory.
    Work,
    /// The mount point.
    Mountpoint,
    /// The directory of a run.
    On,
}

impl Purpose {
    fn what(self) -> &'static str {
        match self {
            Purpose::Lower => "use the lower layer",
            Purpose::Data => "use the data-only layer",
            Purpose::Upper => "use the upper directory",
            Purpose::Work => "use the work directory",
            Purpose::Mountpoint => "use the mount point",
            Purpose::On => "run on the directory",
        }
    }
}

/// Finds the directory `path`.
///
/// # Errors
/// It is missing, no directory, not reachable, or on a dead mount.
pub fn find(path: &Path, purpose: Purpose) -> Result<Found, SetupError> {
    let fd = mountinfo::locate_dir(path).map_err(|errno| refuse(path, purpose, errno))?;
    let stacked = match purpose {
        // What is mounted there already may be dead, and does not matter.
        Purpose::Mountpoint => false,
        _ => STACKED
            .contains(&mountinfo::filesystem_type(fd.as_fd()).map_err(|errno| refuse(path, purpose, errno))?),
    };
    Ok(match mountinfo::path_of(fd.as_fd()) {
        Some(path) => Found { path, stacked, held: None },
        None => Found { path: mountinfo::proc_path(fd.as_fd()), stacked, held: Some(fd) },
    })
}

fn refuse(path: &Path, purpose: Purpose, errno: Errno) -> SetupError {
    let refused = |why: &str| SetupError::new(purpose.what(), why).at(path);
    match errno {
        Errno::ENOENT if path.as_os_str().is_empty() => refused("its name is empty").hint("name a directory"),
        Errno::ENOENT if purpose == Purpose::Lower && path.as_os_str().as_bytes().contains(&b',') => {
            refused("there is no such directory")
                .hint("check the name; a comma in a name is written \\, after -o")
        }
        Errno::ENOENT => match purpose {
            Purpose::Lower | Purpose::Data => refused("there is no such directory").hint("check the name"),
            _ => refused("there is no such directory").hint(format!("create it: mkdir {}", path.display())),
        },
        Errno::ENOTDIR => refused("it is not a directory").hint("name a directory"),
        Errno::EACCES => refused("permission denied")
            .hint("you need search permission on every directory that leads there"),
        Errno::ENOTCONN => {
            refused("a FUSE mount whose server is dead is in the way").hint("unmount that first")
        }
        Errno::ELOOP => refused("its symbolic links lead in a circle").hint("name the directory itself"),
        errno => refused(errno.desc()),
    }
}

/// The words after `--lower`, with every `@FILE` replaced by the directories it lists.
///
/// # Errors
/// A file that cannot be read.
pub fn expand(words: &[OsString]) -> Result<Vec<PathBuf>, SetupError> {
    let mut out = Vec::new();
    for word in words {
        match word.as_bytes() {
            [b'@', file @ ..] => {
                let file = Path::new(OsStr::from_bytes(file));
                let text = std::fs::read(file).map_err(|e| {
                    SetupError::new("read the list of lower layers", e)
                        .at(file)
                        .hint("a directory whose name begins with @ is written ./@NAME")
                })?;
                out.extend(lines(&text));
            }
            _ => out.push(PathBuf::from(word)),
        }
    }
    Ok(out)
}

/// One directory per line, as bytes; empty lines say nothing.
fn lines(text: &[u8]) -> impl Iterator<Item = PathBuf> + '_ {
    let lines = text.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.filter(|line| !line.is_empty()).map(|line| PathBuf::from(OsStr::from_bytes(line)))
}

/// Where the work directory of `upper` lies when none is named: `.NAME.work` beside it.
///
/// # Errors
/// When nothing beside it can be on the same mount.
pub fn default_work(upper: &Path) -> Result<PathBuf, SetupError> {
    let refused = |why: &str| {
        SetupError::new("choose a work directory for the upper directory", why)
            .at(upper)
            .hint("name one on the same file system with --work DIR")
    };
    let (Some(parent), Some(name)) = (upper.parent(), upper.file_name()) else {
        return Err(refused("nothing lies beside it"));
    };
    let mount = |path: &Path| mountinfo::locate_dir(path).ok().and_then(|fd| mountinfo::mount_id(fd.as_fd()));
    if mount(parent) != mount(upper) {
        return Err(refused("it is the root of a mount, so what lies beside it is on another one"));
    }
    let mut work = OsString::from(".");
    work.push(name);
    work.push(".work");
    match work.len() {
        ..=255 => Ok(parent.join(work)),
        _ => Err(refused("its name is too long to be part of another")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_layers_is_one_directory_per_line_of_any_bytes() {
        let found: Vec<PathBuf> = lines(b"/a b\n\n/c:d,e\r\n/\xff").collect();
        assert_eq!(found.len(), 3);
        assert_eq!(found[0], PathBuf::from("/a b"));
        assert_eq!(found[2].as_os_str().as_bytes(), b"/\xff");
    }

    #[test]
    fn a_file_with_thousands_of_layers_is_expanded_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("list");
        let text: String = (0..3000).map(|i| format!("/layer/{i}\n")).collect();
        std::fs::write(&file, text).unwrap();
        let words = [OsString::from("top"), OsString::from(format!("@{}", file.display())), "bottom".into()];
        let layers = expand(&words).unwrap();
        assert_eq!((layers.len(), &layers[1], &layers[3001]), (3002, &"/layer/0".into(), &"bottom".into()));
        assert!(expand(&[OsString::from("@/nowhere")]).unwrap_err().to_string().contains("./@NAME"));
    }

    #[test]
    fn the_default_work_directory_lies_beside_the_upper() {
        let dir = tempfile::tempdir().unwrap();
        let upper = dir.path().canonicalize().unwrap().join("changes");
        std::fs::create_dir(&upper).unwrap();
        assert_eq!(default_work(&upper).unwrap(), upper.with_file_name(".changes.work"));
        assert!(default_work(Path::new("/")).is_err());
        assert!(default_work(Path::new("/proc")).unwrap_err().to_string().contains("--work"));
    }

    #[test]
    fn what_is_wrong_with_a_directory_is_said_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let say = |path: &Path, purpose| find(path, purpose).unwrap_err().to_string();
        assert!(say(&file, Purpose::Lower).ends_with("it is not a directory (name a directory)"));
        assert!(say(&dir.path().join("x"), Purpose::Upper).contains("mkdir"));
        assert!(say(Path::new(""), Purpose::Lower).contains("empty"));
    }
}
