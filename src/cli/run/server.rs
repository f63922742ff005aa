//! The server of a run: a child in a mount namespace of its own that lays the unions over their directories and
//! serves them until the command has ended, or until nobody is left who waits for it.

use std::ffi::CString;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::{logging, mount, options::MountFlags};
use super::tree::Tree;
use crate::error::SetupError;
use crate::fuse;
use crate::sys::process::{self, Child, EndingSignals, Side};
use crate::sys::{Dir, mountapi, mountinfo, namespace};
use crate::union::Union;

/// First byte of the server's word.
const LIVE: u8 = b'+';
const FAILED: u8 = b'-';
/// How long a mount that nobody uses any more may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(2);

/// A server that serves.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Its end is the server's.
    words: PipeReader,
    /// Closed, the server ends; closed also when this process is killed.
    leash: PipeWriter,
}

/// Starts the server and waits until its mounts are there.
///
/// # Errors
/// Why there is no mount.
pub fn start(trees: &[Tree]) -> Result<Server, SetupError> {
    let failed = |e: &dyn std::fmt::Display| SetupError::new("start the server", e);
    let (mut words, told) = std::io::pipe().map_err(|e| failed(&e))?;
    let (held, leash) = std::io::pipe().map_err(|e| failed(&e))?;
    match process::fork().map_err(|e| failed(&e))? {
        Side::Parent(child) => {
            drop((told, held));
            let mut first = [0];
            let live = words.read(&mut first).is_ok_and(|n| n == 1) && first == [LIVE];
            let server = Server { child, words, leash };
            if live { Ok(server) } else { Err(server.sentence("before the command was started")) }
        }
        Side::Child => {
            drop((words, leash));
            std::process::exit(match serve(trees, told, held) {
                Ok(()) => 0,
                Err(()) => 1,
            })
        }
    }
}

impl Server {
    /// A descriptor of the process, by which its mount namespace is joined.
    ///
    /// # Errors
    /// As pidfd_open(2).
    pub fn process(&self) -> Result<OwnedFd, SetupError> {
        self.child.watch().map_err(|errno| SetupError::new("hold the server", errno.desc()))
    }

    /// Takes the mounts away and waits until every change is on disk.
    ///
    /// # Errors
    /// The server failed meanwhile: what it had taken is in the upper, but it may not be all.
    pub fn end(self) -> Result<(), SetupError> {
        let Server { child, mut words, leash } = self;
        drop(leash);
        let mut rest = Vec::new();
        words.read_to_end(&mut rest).map_err(|e| SetupError::new("hear from the server", e))?;
        match child.end() {
            Ok(process::End::Exited(0)) => Ok(()),
            Ok(_) if !rest.is_empty() => Err(SetupError::quoted(String::from_utf8_lossy(&rest))),
            Ok(end) => {
                Err(SetupError::new("serve until the end", format!("the server ended early: {end:?}")))
            }
            Err(errno) => Err(SetupError::new("wait for the server", errno.desc())),
        }
    }

    /// What a server said that did not come to life.
    fn sentence(self, when: &str) -> SetupError {
        let Server { child, mut words, leash } = self;
        drop(leash);
        let mut said = Vec::new();
        let heard = words.read_to_end(&mut said);
        let end = child.wait().unwrap_or_else(|errno| errno.to_string());
        match heard {
            Ok(n) if n > 0 => SetupError::quoted(String::from_utf8_lossy(&said)),
            _ => SetupError::new("run", format!("the server {end} {when}")),
        }
    }
}

/// The whole life of the server. Whatever goes wrong is told through `told`.
fn serve(trees: &[Tree], mut told: PipeWriter, mut leash: PipeReader) -> Result<(), ()> {
    let mut live = false;
    let outcome = go_live(trees).and_then(|mounts| {
        logging::leave_stderr(None);
        let gone = |_| SetupError::new("serve", "the command that asked for it is gone");
        process::detach().map_err(|e| SetupError::new("leave the terminal", e))?;
        told.write_all(&[LIVE]).map_err(gone)?;
        live = true;
        // Nothing is ever written: the end is what counts.
        leash.read_to_end(&mut Vec::new()).map_err(|e| SetupError::new("wait for the command", e))?;
        mounts.into_iter().rev().try_for_each(Mount::end)
    });
    outcome.map_err(|error| {
        let word = [if live { &[][..] } else { &[FAILED] }, error.to_string().as_bytes()].concat();
        // If nobody listens any more, nobody is left to tell.
        drop(told.write_all(&word));
    })
}

/// A union over its directory.
struct Mount {
    mounted: fuse::Mounted,
    on: PathBuf,
    upper: PathBuf,
    work: PathBuf,
}

fn go_live(trees: &[Tree]) -> Result<Vec<Mount>, SetupError> {
    // Held back for good: this process ends with the one that started it.
    let _signals = EndingSignals::block().map_err(|e| SetupError::new("hold back signals", e))?;
    process::close_inherited();
    process::clear_umask();
    if let Err(errno) = process::raise_open_files() {
        log::debug!("the limit of open files stays as it is: {errno}");
    }
    namespace::own_mounts().map_err(|errno| super::no_namespace("mount", errno))?;
    trees.iter().map(lay).collect()
}

/// Lays the union of `tree` over its directory, and what was mounted inside that again over the union.
fn lay(tree: &Tree) -> Result<Mount, SetupError> {
    let inside = mounts_inside(&tree.on)?;
    let config = tree.config();
    let flags = MountFlags { allow_other: true, ..MountFlags::default() };
    let options = mount::mount_options(&config, &flags, false, tree.stacked, None, tree.on.clone());
    let mounted = fuse::mount(&options, |transport| Union::open(&config, transport))?;
    for (path, copy) in inside {
        let there = mountinfo::locate_dir(&path).or_else(|_| mountapi::locate(&path));
        there.and_then(|there| mountapi::attach(copy.as_fd(), there.as_fd())).map_err(|errno| {
            SetupError::new("show the mount inside the directory", errno.desc()).at(&path)
        })?;
    }
    if let Some(inside) = &tree.inside {
        inside.furnish()?;
    }
    let (upper, work) = (tree.changes.upper(), tree.changes.work());
    Ok(Mount { mounted, on: tree.on.clone(), upper, work })
}

/// Copies of the mounts directly beneath `on`, which the union would hide. They are no part of it, so they are shown
/// read-only: what is not collected must not be changed.
fn mounts_inside(on: &Path) -> Result<Vec<(PathBuf, OwnedFd)>, SetupError> {
    let all = mountinfo::mounts().map_err(|errno| SetupError::new("read the mounts", errno.desc()))?;
    let mut copies: Vec<(PathBuf, OwnedFd)> = Vec::new();
    for entry in all.iter().filter(|entry| entry.mountpoint != on && entry.mountpoint.starts_with(on)) {
        if copies.iter().any(|(path, _)| entry.mountpoint.starts_with(path)) {
            continue;
        }
        let path = CString::new(entry.mountpoint.as_os_str().as_bytes()).unwrap_or_default();
        match mountapi::clone_read_only(&path) {
            Ok(copy) => copies.push((entry.mountpoint.clone(), copy)),
            Err(errno) => log::warn!("{} is not seen in the run: {errno}", entry.mountpoint.display()),
        }
    }
    for (path, _) in &copies {
        log::info!("{} is a mount of its own: it is read-only in the run", path.display());
    }
    Ok(copies)
}

impl Mount {
    /// Ends the mount, and brings what was written to disk. Processes that the command left behind and that still use
    /// the mount get errors from then on, so what they have only in memory mapped is written first.
    fn end(self) -> Result<(), SetupError> {
        let Mount { mounted, on, upper, work } = self;
        let failed = |what: &str, errno: crate::sys::Errno| SetupError::new(what, errno.desc()).at(&upper);
        if let Err(errno) = Dir::open_path(&on).and_then(|root| root.syncfs()) {
            log::warn!("{}: {errno}", on.display());
        }
        if let Err(errno) = mounted.unmount() {
            log::warn!("{}: {errno}", on.display());
        }
        let (done, ended) = std::sync::mpsc::channel();
        let union = std::sync::Arc::clone(mounted.union());
        let waiter = std::thread::Builder::new().name("end".into()).spawn(move || {
            // Nobody listens any more once the patience has ended.
            if done.send(mounted.wait()).is_err() {
                log::debug!("the mount has ended late");
            }
        });
        if waiter.is_err() || ended.recv_timeout(PATIENCE).is_err() {
            log::warn!("{}: processes that the command left behind lose it", on.display());
        }
        drop(union);
        Dir::open_path(&upper)
            .and_then(|dir| dir.syncfs())
            .map_err(|errno| failed("bring to disk everything that was written to", errno))?;
        settle(&work).map_err(|e| SetupError::new("clean the work directory", e).at(&work))
    }
}

/// Takes back the mark that nothing was synced: now it is.
fn settle(work: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(work.join("work/incompat")) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
