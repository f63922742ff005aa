//! Opening the upper: its lock, the sweep of its work directory, and what its filesystem can do.
//!
//! Layout, as the kernel's: `WORK/work` is scratch, emptied at every mount, mode 0; `WORK/index` appears with
//! `index=on`, and is then the scratch directory too (what is under construction has a name that begins with `#`);
//! `WORK/work/incompat/X` says that a feature X that this program may not know must be respected, so any
//! unknown X refuses the mount, and the known one, `volatile`, says that an earlier volatile mount may have lost
//! data.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::{Features, Upper};
use crate::error::SetupError;
use crate::layer::Reader;
use crate::layer::marks::Mark;
use crate::sys::{Dev, Dir, Errno, Kind, Name, NameBuf, RenameFlag, Result, WorkLock};

/// What to open.
#[derive(Clone, Copy, Debug)]
pub struct OpenUpper<'a> {
    /// The layer.
    pub upper: &'a Path,
    /// Its scratch directory.
    pub work: &'a Path,
    /// How its marks are spelled.
    pub reader: Reader,
    /// Nothing is synced.
    pub volatile: bool,
    /// A volatile mount leaves its marker, and one that is there is heeded.
    pub marked: bool,
    /// Keep an index directory.
    pub index: bool,
}

fn fixed(name: &str) -> Result<NameBuf> {
    NameBuf::new(name.as_bytes())
}

/// Opens the upper and sweeps. `root` and `base` are the opened upper and work directories, `held` their locks and the
/// mount that they are beneath, if it is our own.
/// Refused, with nothing changed: a work directory in use by another daemon of ours, or one that carries an
/// incompatible feature's or a volatile mount's marker (O-1).
pub fn open(
    what: &OpenUpper<'_>,
    root: Arc<Dir>,
    base: &Dir,
    held: ([WorkLock; 2], Option<OwnedFd>),
) -> std::result::Result<Upper, SetupError> {
    let fail = |doing: &str, e: Errno| SetupError::new(doing, e.desc()).at(what.work);
    refuse_incompatible(base, what)?;
    let work = prepare_work(base).map_err(|e| fail("prepare the work directory", e))?;
    let index = match what.index {
        false => None,
        true => Some(Arc::new(
            open_or_make(base, "index", private_mode()).map_err(|e| fail("prepare the index in", e))?,
        )),
    };
    let features = probe(&work, what.reader).map_err(|e| {
        fail("use the work directory", e).hint("the upper's filesystem must be writable and support it")
    })?;
    if what.volatile && what.marked {
        leave_volatile_marker(&work).map_err(|e| fail("leave the volatile marker in", e))?;
    }
    // As the kernel does: the index directory, where there is one, is the scratch directory as well.
    let scratch = match index {
        None => work,
        Some(_) => open_or_make(base, "index", private_mode()).map_err(|e| fail("open the index in", e))?,
    };
    Ok(Upper {
        root,
        work: scratch,
        index,
        reader: what.reader,
        features,
        sync: !what.volatile,
        spare: Mutex::new(None),
        next_temp: AtomicU64::new(1),
        link_whiteouts: AtomicBool::new(true),
        _held: Some(held),
    })
}

/// The upper `root` for looking at, with the index of its work directory `base` if there is one. Nothing may be
/// changed through it, and it does not claim that anything could be.
pub fn open_frozen(root: Arc<Dir>, base: Option<&Arc<Dir>>, reader: Reader) -> Result<Upper> {
    let index = base.map(|base| find_dir(base, "index")).transpose()?.flatten().map(Arc::new);
    let work = root.this().pin()?.into();
    Ok(Upper {
        root,
        work,
        index,
        reader,
        features: Features { tmpfile: false, rename_whiteout: false, xattr: false, device_whiteouts: false },
        sync: false,
        spare: Mutex::new(None),
        next_temp: AtomicU64::new(1),
        link_whiteouts: AtomicBool::new(false),
        _held: None,
    })
}

fn find_dir(dir: &Dir, name: &str) -> Result<Option<Dir>> {
    match dir.open_dir(&fixed(name)?) {
        Ok(d) => Ok(Some(d)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(e) => Err(e),
    }
}

fn refuse_incompatible(base: &Dir, what: &OpenUpper<'_>) -> std::result::Result<(), SetupError> {
    let path = what.work;
    let read = || -> Result<Option<NameBuf>> {
        let Some(work) = find_dir(base, "work")? else { return Ok(None) };
        let Some(incompat) = find_dir(&work, "incompat")? else { return Ok(None) };
        Ok(incompat.entries()?.into_iter().next().map(|e| e.name))
    };
    match read() {
        Err(e) => Err(SetupError::new("read the work directory", e.desc()).at(path)),
        Ok(None) => Ok(()),
        Ok(Some(name)) if name.as_bytes() == b"volatile" && !what.marked => Ok(()),
        Ok(Some(name)) if name.as_bytes() == b"volatile" => Err(SetupError::new(
            "use the upper with the work directory",
            "an earlier volatile mount of it may have lost data",
        )
        .at(path)
        .hint("discard the upper, or remove work/incompat/volatile in the work directory to trust it")),
        Ok(Some(name)) => Err(SetupError::new(
            "use the work directory",
            format!("it carries the unknown incompatible feature '{name}'"),
        )
        .at(path)
        .hint("mount it with the program that made it")),
    }
}

/// Work/work, empty and of mode 0 (C-15).
fn prepare_work(base: &Dir) -> Result<Dir> {
    let name = fixed("work")?;
    match base.find(&name)? {
        None => {}
        Some(s) if s.kind() == Kind::Dir => remove_tree(base, &name)?,
        Some(_) => base.unlink(&name)?,
    }
    let work = open_or_make(base, "work", private_mode())?;
    // A default ACL of the directory around it must not reach what is built there.
    for acl in [c"system.posix_acl_default", c"system.posix_acl_access"] {
        match work.this().removexattr(acl) {
            Ok(()) | Err(Errno::ENODATA | Errno::EOPNOTSUPP) => {}
            Err(e) => return Err(e),
        }
    }
    work.this().chmod(private_mode())?;
    Ok(work)
}

/// Mode 0 keeps everybody out, and us too if we lack the capability to pass.
fn private_mode() -> u32 {
    if nix::unistd::geteuid().is_root() { 0 } else { 0o700 }
}

fn open_or_make(base: &Dir, name: &str, mode: u32) -> Result<Dir> {
    let name = fixed(name)?;
    match base.mkdir(&name, mode) {
        Ok(()) | Err(Errno::EEXIST) => base.open_dir(&name),
        Err(e) => Err(e),
    }
}

/// Deletes `name` and all beneath it, without recursion on the stack and without following symlinks.
pub fn remove_tree(parent: &Dir, name: &Name) -> Result<()> {
    // Each level on the list is a directory whose entries are being deleted.
    let mut levels: Vec<(Dir, NameBuf)> = vec![(parent.open_dir(name)?, name.to_owned())];
    while let Some((dir, _)) = levels.last() {
        let mut deeper = None;
        for entry in dir.entries()? {
            let is_dir = match Kind::of_d_type(entry.d_type) {
                Some(kind) => kind == Kind::Dir,
                None => dir.stat(&entry.name)?.kind() == Kind::Dir,
            };
            if !is_dir {
                dir.unlink(&entry.name)?;
            } else if let Err(e) = dir.rmdir(&entry.name) {
                if !matches!(e, Errno::ENOTEMPTY | Errno::EEXIST) {
                    return Err(e);
                }
                deeper = Some(entry.name);
                break;
            }
        }
        if let Some(sub) = deeper {
            let opened = dir.open_dir(&sub)?;
            levels.push((opened, sub));
        } else if let Some((_, done)) = levels.pop() {
            levels.last().map_or(parent, |(above, _)| above).rmdir(&done)?;
        }
    }
    Ok(())
}

fn probe(work: &Dir, reader: Reader) -> Result<Features> {
    let xattr = match work.this().setxattr(reader.prefix.attr(Mark::Opaque), b"0", 0) {
        Ok(()) => {
            work.this().removexattr(reader.prefix.attr(Mark::Opaque))?;
            true
        }
        Err(Errno::EOPNOTSUPP | Errno::EPERM) => false,
        Err(e) => return Err(e),
    };
    let tmpfile = match work.tmpfile(0o600) {
        Ok(_) => true,
        Err(Errno::EOPNOTSUPP) => false,
        Err(e) => return Err(e),
    };
    let device_whiteouts = probe_device(work)?;
    let rename_whiteout = device_whiteouts && probe_rename_whiteout(work)?;
    Ok(Features { tmpfile, rename_whiteout, device_whiteouts, xattr })
}

fn probe_device(work: &Dir) -> Result<bool> {
    let name = fixed("#probe-device")?;
    match work.mknod(&name, libc::S_IFCHR, Dev::default()) {
        Ok(()) => work.unlink(&name).map(|()| true),
        Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::EACCES) => Ok(false),
        Err(e) => Err(e),
    }
}

fn probe_rename_whiteout(work: &Dir) -> Result<bool> {
    let (a, b) = (fixed("#probe-a")?, fixed("#probe-b")?);
    work.mknod(&a, libc::S_IFREG | 0o600, Dev::default())?;
    let works = match work.rename(&a, work, &b, RenameFlag::Whiteout) {
        Ok(()) => work.find(&a)?.is_some_and(|s| s.is_whiteout_device()),
        Err(_) => false,
    };
    for name in [&a, &b] {
        match work.unlink(name) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(works)
}

fn leave_volatile_marker(work: &Dir) -> Result<()> {
    let mut dir = None;
    for name in ["incompat", "volatile"] {
        let made = open_or_make(dir.as_ref().unwrap_or(work), name, private_mode())?;
        dir = Some(made);
    }
    match dir.as_ref().unwrap_or(work).create(&fixed("dirty")?, libc::O_WRONLY, private_mode() & 0o600) {
        Ok(_) | Err(Errno::EEXIST) => Ok(()),
        Err(e) => Err(e),
    }
}
