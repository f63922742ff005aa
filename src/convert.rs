//! A layer in another dialect: the same tree, with its marks spelled differently.
//!
//! The copy is made under a name nobody looks at and appears by one rename. What users of a mount see is the same in
//! each dialect, so every attribute goes through the name that it is shown under. Two things do not travel
//! everywhere: kernel overlayfs follows redirects and metadata-only files with `trusted.` marks alone, and files of
//! the `.wh.` dialect have no marks to say where they came from.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::error::SetupError;
use crate::layer::marks::{Mark, Opaque, Prefix, is_mark, opaque};
use crate::sys::clone::{Access, private_clone};
use crate::sys::copy::copy_data;
use crate::sys::{At, Dev, Dir, Errno, Kind, NameBuf, RenameFlag, Result, SetTime, Stat};

/// How a layer says what it deletes and replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Dialect {
    /// Devices 0:0 and `trusted.overlay.` attributes.
    Kernel,
    /// Devices 0:0 and `user.overlay.` attributes.
    Userxattr,
    /// `.wh.` files.
    Oci,
}

impl Dialect {
    fn prefix(self) -> Option<Prefix> {
        match self {
            Dialect::Kernel => Some(Prefix::Trusted),
            Dialect::Userxattr => Some(Prefix::User),
            Dialect::Oci => None,
        }
    }
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Objects that were copied.
    pub objects: u64,
    /// Deletions among them.
    pub whiteouts: u64,
    /// Directories that replace what is below.
    pub opaque: u64,
    /// Marks that only help (where something came from, and the like) and that the new dialect or its file system does
    /// not take.
    pub dropped: u64,
}

/// Copies the layer `from`, which is written in `old`, to `to`, which must not exist, in `new`.
///
/// # Errors
/// What cannot be read or written, by name; a mark without a form in the new dialect. Nothing appears then.
pub fn convert(
    from: &Path,
    old: Dialect,
    to: &Path,
    new: Dialect,
) -> std::result::Result<Report, SetupError> {
    let staging = Staging::beside(to)?;
    let failed = |e: Errno| SetupError::new("read the layer", e.desc()).at(from);
    let clone = private_clone(from, Access::ReadOnly).map_err(failed)?;
    let source = Arc::new(Dir::from(clone.tree));
    let mut copier = Copier { from, old, new, links: Default::default(), report: Report::default() };
    let target = Arc::new(staging.dir()?);
    copier.tree(source, target)?;
    staging.publish(to)?;
    Ok(copier.report)
}

/// A directory beside the target, removed unless it was published.
struct Staging {
    path: PathBuf,
    published: bool,
}

impl Staging {
    fn beside(to: &Path) -> std::result::Result<Staging, SetupError> {
        let refused = |why: &str| SetupError::new("convert into", why).at(to);
        let name = to.file_name().ok_or_else(|| refused("it has no name"))?;
        if to.symlink_metadata().is_ok() {
            return Err(refused("it is there already").hint("name a directory that does not exist"));
        }
        let parent = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut bytes = [0; 8];
        crate::sys::random(&mut bytes).map_err(|e| refused(e.desc()))?;
        let suffix = format!("{:016x}", u64::from_ne_bytes(bytes));
        let mut staged = std::ffi::OsString::from(".acetate-");
        staged.push(suffix);
        if name.len() > 255 {
            return Err(refused("its name is too long"));
        }
        let path = parent.join(staged);
        std::fs::create_dir(&path).map_err(|e| {
            let e = SetupError::new("write into the directory", crate::sys::errno_of(e).desc()).at(parent);
            e.hint("name a place that you may write to")
        })?;
        let staging = Staging { path, published: false };
        // What the directory around it hands down must not reach the copy.
        for acl in [DEFAULT_ACL, c"system.posix_acl_access"] {
            match staging.dir()?.this().removexattr(acl) {
                Ok(()) | Err(Errno::ENODATA | Errno::EOPNOTSUPP) => {}
                Err(e) => return Err(SetupError::new("prepare", e.desc()).at(&staging.path)),
            }
        }
        Ok(staging)
    }

    fn dir(&self) -> std::result::Result<Dir, SetupError> {
        Dir::open_path(&self.path).map_err(|e| SetupError::new("open", e.desc()).at(&self.path))
    }

    fn publish(mut self, to: &Path) -> std::result::Result<(), SetupError> {
        let failed = |e: Errno| SetupError::new("publish the layer as", e.desc()).at(to);
        let parent = self.path.parent().unwrap_or(Path::new("."));
        let parent = Dir::open_path(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
            .map_err(failed)?;
        let name =
            |path: &Path| NameBuf::new(path.file_name().unwrap_or_default().as_bytes()).map_err(failed);
        self.dir()?.syncfs().map_err(failed)?;
        parent.rename(&name(&self.path)?, &parent, &name(to)?, RenameFlag::NoReplace).map_err(failed)?;
        self.published = true;
        parent.sync().map_err(failed)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published
            && let Err(e) = std::fs::remove_dir_all(&self.path)
        {
            log::warn!("{} is left over: {e}", self.path.display());
        }
    }
}

struct Copier<'a> {
    from: &'a Path,
    old: Dialect,
    new: Dialect,
    /// Objects with several names, by device and inode: the directory and name of the first copy.
    links: std::collections::HashMap<(u64, u64), (Arc<Dir>, NameBuf)>,
    report: Report,
}

/// A directory that is being copied.
struct Frame {
    source: Arc<Dir>,
    target: Arc<Dir>,
    path: Vec<NameBuf>,
    stat: Stat,
    todo: Vec<NameBuf>,
}

type Step<T> = std::result::Result<T, SetupError>;

impl Copier<'_> {
    fn failed(&self, path: &[NameBuf], e: Errno) -> SetupError {
        let error = SetupError::new("convert", e.desc()).at(self.place(path));
        match e {
            Errno::EPERM => error.hint("owners, devices and trusted attributes can be written by root alone"),
            Errno::ENOSPC | Errno::EDQUOT => error.hint("free some space"),
            _ => error,
        }
    }

    fn place(&self, path: &[NameBuf]) -> PathBuf {
        let mut place = self.from.to_path_buf();
        place.extend(path.iter().map(|name| OsStr::from_bytes(name.as_bytes())));
        place
    }

    /// Depth first, so that the times of a directory are set when nothing in it changes any more.
    fn tree(&mut self, source: Arc<Dir>, target: Arc<Dir>) -> Step<()> {
        let stat = source.this().stat().map_err(|e| self.failed(&[], e))?;
        let mut frames = vec![self.frame(source, target, Vec::new(), stat)?];
        while let Some(frame) = frames.last_mut() {
            let Some(name) = frame.todo.pop() else {
                let done = frames.pop();
                if let Some(frame) = done {
                    finish(frame.source.this(), frame.target.this(), &frame.stat)
                        .map_err(|e| self.failed(&frame.path, e))?;
                }
                continue;
            };
            let (source, target) = (Arc::clone(&frame.source), Arc::clone(&frame.target));
            let path = [frame.path.as_slice(), std::slice::from_ref(&name)].concat();
            let below = self.object(&source, &target, &name, &path)?;
            if let Some((source, target, stat)) = below {
                let next = self.frame(source, target, path, stat)?;
                frames.push(next);
            }
        }
        Ok(())
    }

    /// Begins a directory: its attributes, and the names in it.
    fn frame(&mut self, source: Arc<Dir>, target: Arc<Dir>, path: Vec<NameBuf>, stat: Stat) -> Step<Frame> {
        let failed = |copier: &Self, e| copier.failed(&path, e);
        let mut todo: Vec<NameBuf> =
            source.entries().map_err(|e| failed(self, e))?.into_iter().map(|e| e.name).collect();
        // Sorted, so that the first name of a hard link is the same each time.
        todo.sort_by(|a, b| b.cmp(a));
        self.attributes(source.this(), target.this(), &path, Kind::Dir)?;
        let is_opaque = match self.old.prefix() {
            Some(prefix) => opaque(source.this(), prefix).map_err(|e| failed(self, e))? == Opaque::Yes,
            None => source
                .find(&fixed(OPAQUE))
                .map_err(|e| failed(self, e))?
                .is_some_and(|s| s.kind() == Kind::File),
        };
        if is_opaque {
            self.report.opaque += 1;
            self.make_opaque(&target, &path)?;
        }
        Ok(Frame { source, target, path, stat, todo })
    }

    fn make_opaque(&mut self, target: &Dir, path: &[NameBuf]) -> Step<()> {
        match self.new.prefix() {
            Some(prefix) => target.this().setxattr(prefix.attr(Mark::Opaque), b"y", 0),
            None => target.create(&fixed(OPAQUE), libc::O_WRONLY, 0o644).map(drop),
        }
        .map_err(|e| self.failed(path, e))
    }

    /// Copies one object; a directory is made and returned to be gone through.
    #[allow(clippy::type_complexity)]
    fn object(
        &mut self,
        source: &Arc<Dir>,
        target: &Arc<Dir>,
        name: &NameBuf,
        path: &[NameBuf],
    ) -> Step<Option<(Arc<Dir>, Arc<Dir>, Stat)>> {
        let failed = |copier: &Self, e| copier.failed(path, e);
        let at = source.at(name);
        let stat = at.stat().map_err(|e| failed(self, e))?;
        if let Some(victim) = self.victim(source, name, &stat, path)? {
            return self.whiteout(source, target, &victim, path).map(|()| None);
        }
        if name.as_bytes().starts_with(b".wh.") {
            if self.old == Dialect::Oci {
                return Ok(None);
            }
            if self.new == Dialect::Oci {
                let why = "its name would stand for a deletion in the new dialect";
                return Err(SetupError::new("convert", why).at(self.place(path)).hint("rename it first"));
            }
        }
        self.report.objects += 1;
        if stat.kind() == Kind::Dir {
            target.mkdir(name, 0o700).map_err(|e| failed(self, e))?;
            let below = (source.open_dir(name), target.open_dir(name));
            let (from, to) = (below.0.map_err(|e| failed(self, e))?, below.1.map_err(|e| failed(self, e))?);
            // In the `.wh.` dialect a marker for a name that is there too is about what is below.
            let hides =
                self.old == Dialect::Oci && self.has_marker(source, name).map_err(|e| failed(self, e))?;
            if hides && self.new != Dialect::Oci {
                self.report.opaque += 1;
                self.make_opaque(&to, path)?;
            }
            return Ok(Some((Arc::new(from), Arc::new(to), stat)));
        }
        let id = (stat.dev, stat.ino);
        if stat.nlink > 1 {
            if let Some((dir, first)) = self.links.get(&id) {
                return target.link(dir.at(first), name).map(|()| None).map_err(|e| failed(self, e));
            }
            self.links.insert(id, (Arc::clone(target), name.clone()));
        }
        self.create(at, target, name, &stat).map_err(|e| failed(self, e))?;
        self.attributes(at, target.at(name), path, stat.kind())?;
        finish(at, target.at(name), &stat).map_err(|e| failed(self, e))?;
        Ok(None)
    }

    fn has_marker(&self, source: &Dir, name: &NameBuf) -> Result<bool> {
        match NameBuf::new(&[b".wh.", name.as_bytes()].concat()) {
            Ok(marker) => Ok(source.find(&marker)?.is_some_and(|s| s.kind() == Kind::File)),
            Err(_) => Ok(false),
        }
    }

    fn create(&self, at: At<'_>, target: &Dir, name: &NameBuf, stat: &Stat) -> Result<()> {
        match stat.kind() {
            Kind::File => {
                let from = match at.open(libc::O_RDONLY | libc::O_NOATIME) {
                    Err(Errno::EPERM) => at.open(libc::O_RDONLY),
                    done => done,
                }?;
                let to = target.create(name, libc::O_RDWR, 0o600)?;
                copy_data(from.as_fd(), to.as_fd(), stat.size, &AtomicBool::new(false))
            }
            Kind::Symlink => {
                let target_of = CString::new(at.readlink()?).map_err(|_| Errno::EINVAL)?;
                target.symlink(name, &target_of)
            }
            kind => target.mknod(name, kind.mode_bits() | 0o600, stat.rdev),
        }
    }

    /// The name that an object deletes, if it is a deletion.
    fn victim(&self, source: &Dir, name: &NameBuf, stat: &Stat, path: &[NameBuf]) -> Step<Option<NameBuf>> {
        let Some(prefix) = self.old.prefix() else {
            let victim = name.as_bytes().strip_prefix(b".wh.").filter(|_| stat.kind() == Kind::File);
            // `.wh..wh.opq` and bookkeeping are no deletions of names.
            return match victim {
                Some(victim) if !victim.starts_with(b".wh.") => {
                    NameBuf::new(victim).map(Some).map_err(|_| {
                        let why = "it has the name of a deletion, but of a name that nothing can have";
                        SetupError::new("convert", why).at(self.place(path)).hint("remove it first")
                    })
                }
                _ => Ok(None),
            };
        };
        let form_b = stat.kind() == Kind::File
            && stat.size == 0
            && source
                .at(name)
                .find_xattr(prefix.attr(Mark::Whiteout))
                .map_err(|e| self.failed(path, e))?
                .is_some();
        Ok((stat.is_whiteout_device() || form_b).then(|| name.clone()))
    }

    fn whiteout(&mut self, source: &Dir, target: &Dir, victim: &NameBuf, path: &[NameBuf]) -> Step<()> {
        let failed = |e| self.failed(path, e);
        // In a marker dialect the name itself can be there too; the directory then is opaque, and a file just replaces.
        if self.old == Dialect::Oci && source.find(victim).map_err(failed)?.is_some() {
            return Ok(());
        }
        let made = match self.new {
            Dialect::Oci => match NameBuf::new(&[b".wh.", victim.as_bytes()].concat()) {
                Ok(marker) => target.create(&marker, libc::O_WRONLY, 0o644).map(drop),
                Err(e) => Err(e),
            },
            Dialect::Kernel | Dialect::Userxattr => target.mknod(victim, libc::S_IFCHR, Dev::default()),
        };
        made.map_err(failed)?;
        self.report.whiteouts += 1;
        Ok(())
    }

    /// Copies what users of a mount see, and the marks that have a form in the new dialect; opaque ones come apart.
    fn attributes(&mut self, from: At<'_>, to: At<'_>, path: &[NameBuf], kind: Kind) -> Step<()> {
        let failed = |copier: &Self, e| copier.failed(path, e);
        let listed = from.listxattr().map_err(|e| failed(self, e))?;
        for stored in listed.split_inclusive(|b| *b == 0) {
            let stored = CStr::from_bytes_with_nul(stored).map_err(|_| failed(self, Errno::EIO))?;
            let Some(value) = from.find_xattr(stored).map_err(|e| failed(self, e))? else { continue };
            if let Some(prefix) = self.old.prefix()
                && prefix.shown(stored.to_bytes()).is_none()
            {
                self.mark(stored, &value, prefix, to, path)?;
                continue;
            }
            let shown = match self.old.prefix() {
                Some(prefix) => prefix.shown(stored.to_bytes()).unwrap_or_default(),
                None => stored.to_bytes().to_vec(),
            };
            let shown = CString::new(shown).map_err(|_| failed(self, Errno::EIO))?;
            let named = match self.new.prefix() {
                Some(prefix) => prefix.stored(&shown).map_err(|e| failed(self, e))?,
                None => shown,
            };
            // Set at the end: what is made in a directory inherits it.
            if stored == DEFAULT_ACL {
                continue;
            }
            // A file system's own view of something that is copied by its other name.
            if stored.to_bytes().starts_with(b"trusted.SGI_ACL_") || stored == c"security.selinux" {
                continue;
            }
            match to.setxattr(&named, &value, 0) {
                Ok(()) => {}
                Err(Errno::EPERM | Errno::EOPNOTSUPP)
                    if named.to_bytes().starts_with(b"user.") && !matches!(kind, Kind::File | Kind::Dir) =>
                {
                    self.report.dropped += 1;
                }
                Err(e) => return Err(failed(self, e)),
            }
        }
        Ok(())
    }

    /// One mark of the old dialect.
    fn mark(&mut self, stored: &CStr, value: &[u8], old: Prefix, to: At<'_>, path: &[NameBuf]) -> Step<()> {
        let is = |mark: Mark| old.attr(mark) == stored;
        if is(Mark::Opaque) || is(Mark::Whiteout) || !is_mark(old, stored) {
            return Ok(());
        }
        let follows = self.new == Dialect::Kernel;
        if (is(Mark::Redirect) || is(Mark::Metacopy)) && !follows {
            let what = if is(Mark::Redirect) { "it was renamed" } else { "only its attributes are here" };
            let why = format!("{what}, and the new dialect has no mark for that");
            let error = SetupError::new("convert", why).at(self.place(path));
            return Err(error.hint("acetate commit writes its contents out, given the layers below"));
        }
        let Some(new) = self.new.prefix() else {
            self.report.dropped += 1;
            return Ok(());
        };
        let Some(mark) = crate::layer::marks::ALL.into_iter().find(|mark| old.attr(*mark) == stored) else {
            return Ok(());
        };
        match to.setxattr(new.attr(mark), value, 0) {
            Ok(()) => Ok(()),
            // `user.` attributes exist on files and directories alone; such marks only help.
            Err(Errno::EPERM | Errno::EOPNOTSUPP) if !is(Mark::Redirect) && !is(Mark::Metacopy) => {
                self.report.dropped += 1;
                Ok(())
            }
            Err(e) => Err(self.failed(path, e)),
        }
    }
}

const DEFAULT_ACL: &CStr = c"system.posix_acl_default";
const OPAQUE: &str = ".wh..wh..opq";

fn fixed(name: &str) -> NameBuf {
    match NameBuf::new(name.as_bytes()) {
        Ok(name) => name,
        Err(_) => unreachable!("a plain name"),
    }
}

/// Owner, mode and times, last: owners clear set-id bits, and everything changes times.
fn finish(from: At<'_>, to: At<'_>, stat: &Stat) -> Result<()> {
    let now = to.stat()?;
    if (now.uid, now.gid) != (stat.uid, stat.gid) {
        // A change of owner takes capabilities away.
        to.chown(Some(stat.uid), Some(stat.gid))?;
        if let Some(capability) = from.find_xattr(c"security.capability")? {
            to.setxattr(c"security.capability", &capability, 0)?;
        }
    }
    if stat.kind() != Kind::Symlink {
        to.chmod(stat.mode)?;
    }
    if stat.kind() == Kind::Dir
        && let Some(acl) = from.find_xattr(DEFAULT_ACL)?
    {
        to.setxattr(DEFAULT_ACL, &acl, 0)?;
    }
    to.utimens(Some(SetTime::To(stat.atime)), Some(SetTime::To(stat.mtime)))
}
