//! Several layers become one.
//!
//! What the layers show together is asked from a union of them, which reads every dialect of marks. What they hide
//! together is not to be seen there: a name that is deleted, a directory that replaces what is below, a directory
//! whose contents below go on under another name. That is found by `fold`, and written into the new layer as the
//! kernel writes it. A mark is written only where something below could show through.
//!
//! The new layer is built beside its place under another name and renamed when it is whole.

mod fold;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use crate::diff::{Seen, Stack, Tree, view};
use crate::error::SetupError;
use crate::layer::marks::{Mark, Prefix, RedirectTo};
use crate::sys::lock::{Held, WorkLock};
use crate::sys::{At, Dev, Dir, Errno, Kind, Name, NameBuf, RenameFlag, Result, SetTime, copy};

use fold::{Decided, Folded, Layers, Plain, Rest};

/// What to merge, and into what.
#[derive(Clone, Debug)]
pub struct Request {
    /// The layers; its upper is not looked at.
    pub layers: Stack,
    /// The new layer: missing, or an empty directory.
    pub output: PathBuf,
    /// Nothing will be below the new layer: it needs no marks.
    pub base: bool,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Written {
    /// Objects, the root not counted.
    pub objects: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// Whiteouts.
    pub whiteouts: u64,
    /// Directories that replace those below.
    pub opaque: u64,
    /// Directories whose contents below have another name.
    pub redirects: u64,
}

/// Told after every object how many there are.
pub type Progress<'a> = &'a mut dyn FnMut(u64);

/// Merges the layers.
///
/// # Errors
/// A layer that cannot be read; an output that is not empty or cannot be made. Nothing is at the output then.
pub fn run(request: &Request, progress: Progress<'_>) -> std::result::Result<Written, SetupError> {
    let (parent, name) = place(&request.output)?;
    let failed = |what: &str, errno: Errno| SetupError::new(what, errno.desc()).at(&request.output);
    refuse_occupied(&parent, &name, &request.output)?;
    let view = view(&request.layers)?;
    let layers = Layers::open(&request.layers)?;
    let (stage, staged, _lock) = stage(&parent, &name).map_err(|e| e.at(&request.output))?;
    let prefix = if request.layers.userxattr { Prefix::User } else { Prefix::Trusted };
    let mut writer = Writer {
        view: &view,
        layers: &layers,
        out: stage,
        prefix,
        base: request.base,
        links: BTreeMap::new(),
        written: Written::default(),
        progress,
        at: Vec::new(),
    };
    let written = match writer.all() {
        Ok(()) => writer.written,
        Err(errno) => {
            let at =
                writer.at.iter().map(|name| String::from_utf8_lossy(name.as_bytes())).collect::<Vec<_>>();
            let what = SetupError::new("merge the layers", errno.desc()).at(at.join("/"));
            // What cannot be removed is removed by the next call.
            if let Err(errno) = crate::upper::remove_tree(&parent, &staged) {
                log::warn!("{staged} stays: {errno}");
            }
            return Err(what);
        }
    };
    writer.out.syncfs().map_err(|e| failed("bring to disk", e))?;
    parent
        .rename(&staged, &parent, &name, RenameFlag::Replace)
        .map_err(|e| failed("put into its place", e))?;
    parent.sync().map_err(|e| failed("bring to disk", e))?;
    Ok(written)
}

/// The directory that the output is in, and its name there.
fn place(output: &Path) -> std::result::Result<(Dir, NameBuf), SetupError> {
    use std::os::unix::ffi::OsStrExt;
    let failed = |why: &str| SetupError::new("write the layer", why).at(output).hint("name a new directory");
    let name = output.file_name().ok_or_else(|| failed("it has no name"))?;
    let name = NameBuf::new(name.as_bytes()).map_err(|e| failed(e.desc()))?;
    let parent = match output.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok((Dir::open_path(parent).map_err(|e| failed(e.desc()))?, name))
}

fn refuse_occupied(parent: &Dir, name: &Name, output: &Path) -> std::result::Result<(), SetupError> {
    let refused = |why: &str| SetupError::new("write the layer", why).at(output).hint("name a new directory");
    match parent.find(name).map_err(|e| refused(e.desc()))? {
        None => Ok(()),
        Some(stat) if stat.kind() != Kind::Dir => Err(refused("something is there that is no directory")),
        Some(_) => {
            match parent.open_dir(name).and_then(|dir| dir.entries()).map_err(|e| refused(e.desc()))?.len() {
                0 => Ok(()),
                _ => Err(refused("it is not empty")),
            }
        }
    }
}

/// The directory in which the layer is built; what a killed call left there is removed.
fn stage(parent: &Dir, name: &Name) -> std::result::Result<(Dir, NameBuf, WorkLock), SetupError> {
    let failed = |errno: Errno| SetupError::new("build the layer for", errno.desc());
    let staged = NameBuf::new(&[b".", name.as_bytes(), b".squash"].concat()).map_err(failed)?;
    let held = |held| match held {
        Held::By(_) => SetupError::new("build the layer for", "another call is building it"),
        Held::Error(errno) => failed(errno),
    };
    if parent.find(&staged).map_err(failed)?.is_some() {
        let left = parent.open_dir(&staged).map_err(failed)?;
        let _lock = WorkLock::try_take(left.as_fd()).map_err(held)?;
        crate::upper::remove_tree(parent, &staged).map_err(failed)?;
    }
    parent.mkdir(&staged, 0o700).map_err(failed)?;
    let dir = parent.open_dir(&staged).map_err(failed)?;
    for acl in [c"system.posix_acl_default", c"system.posix_acl_access"] {
        match dir.this().removexattr(acl) {
            Ok(()) | Err(Errno::ENODATA | Errno::EOPNOTSUPP) => {}
            Err(e) => return Err(failed(e)),
        }
    }
    let lock = WorkLock::try_take(dir.as_fd()).map_err(held)?;
    Ok((dir, staged, lock))
}

/// A layer being written.
struct Writer<'a> {
    view: &'a Tree,
    layers: &'a Layers,
    out: Dir,
    prefix: Prefix,
    base: bool,
    /// The first path of each file with several names, by a number of its own.
    links: BTreeMap<(u64, u64), Vec<NameBuf>>,
    written: Written,
    progress: Progress<'a>,
    /// Where the work is, for a person to read.
    at: Vec<NameBuf>,
}

impl Writer<'_> {
    fn all(&mut self) -> Result<()> {
        let view = self.view;
        let mut todo = vec![(view.root()?, self.layers.root()?)];
        let mut directories = Vec::new();
        while let Some((seen, folded)) = todo.pop() {
            self.at.clone_from(&seen.path);
            let out = self.open(&seen.path)?;
            for (name, decided) in self.layers.children(&folded)? {
                self.at.push(name.clone());
                match decided {
                    Decided::Whiteout => self.whiteout(&out, &name, &folded)?,
                    Decided::Object(plain) => match seen.child(&name) {
                        // The view finds no data for it, since that is below all these layers.
                        Err(Errno::EIO) if plain.data.is_some() && !self.base => {
                            self.metadata_only(&out, &name, &plain)?;
                        }
                        child => self.object(&out, &name, &child?.ok_or(Errno::ENOENT)?)?,
                    },
                    Decided::Directory(below) => {
                        let child = seen.child(&name)?.ok_or(Errno::ENOENT)?;
                        out.mkdir(&name, 0o700)?;
                        self.marks(out.at(&name), &name, &folded, &below)?;
                        self.count(0);
                        todo.push((child, below));
                    }
                }
                self.at.pop();
            }
            directories.push(seen);
        }
        // Everything that is made in a directory changes its time.
        for seen in directories.into_iter().rev() {
            let dir = self.open(&seen.path)?;
            self.dress(dir.this(), &seen)?;
        }
        Ok(())
    }

    fn open(&self, path: &[NameBuf]) -> Result<Dir> {
        let mut dir = Dir::from(self.out.this().pin()?);
        for name in path {
            dir = dir.open_dir(name)?;
        }
        Ok(dir)
    }

    fn count(&mut self, bytes: u64) {
        self.written.objects += 1;
        self.written.bytes += bytes;
        (self.progress)(self.written.objects);
    }

    /// Whether anything of the layers below can be seen in a directory.
    fn shows_below(&self, folded: &Folded) -> bool {
        !self.base && !matches!(folded.rest, Rest::Cut)
    }

    fn whiteout(&mut self, out: &Dir, name: &Name, folded: &Folded) -> Result<()> {
        if self.shows_below(folded) {
            out.mknod(name, libc::S_IFCHR, Dev::default())?;
            self.written.whiteouts += 1;
        }
        Ok(())
    }

    /// What a directory hides, and where it goes on below.
    fn marks(&mut self, at: At<'_>, name: &NameBuf, parent: &Folded, own: &Folded) -> Result<()> {
        if self.base {
            return Ok(());
        }
        match (&own.rest, &parent.rest) {
            (Rest::Cut, Rest::Cut) => {}
            (Rest::Cut, Rest::At(_)) => {
                at.setxattr(self.prefix.attr(Mark::Opaque), b"y", 0)?;
                self.written.opaque += 1;
            }
            (Rest::At(path), Rest::At(above))
                if *path == [above.as_slice(), std::slice::from_ref(name)].concat() => {}
            (Rest::At(path), _) => {
                let value = RedirectTo::Absolute(path.clone()).to_value();
                at.setxattr(self.prefix.attr(Mark::Redirect), &value, 0)?;
                self.written.redirects += 1;
            }
        }
        Ok(())
    }

    /// Gives a file with several names a further one, if it is there under another already.
    fn link(&mut self, out: &Dir, name: &NameBuf, key: (u64, u64), nlink: u32) -> Result<bool> {
        if nlink < 2 {
            return Ok(false);
        }
        let Some(first) = self.links.get(&key) else {
            self.links.insert(key, self.at.clone());
            return Ok(false);
        };
        let (last, above) = first.split_last().ok_or(Errno::EIO)?;
        let dir = self.open(above)?;
        out.link(dir.at(last), name)?;
        self.count(0);
        Ok(true)
    }

    /// A file whose data stays below: what is stored of it, with the way that leads to the data from here.
    fn metadata_only(&mut self, out: &Dir, name: &NameBuf, plain: &Plain) -> Result<()> {
        let Plain { raw, found, data } = plain;
        if self.link(out, name, (found.stat.dev, found.stat.ino), found.stat.nlink)? {
            return Ok(());
        }
        let real = self.layers.real(raw)?;
        let to = out.create(name, libc::O_WRONLY, 0o600)?;
        crate::sys::file::truncate(to.as_fd(), found.stat.size)?;
        let at = out.at(name);
        let (stat, made) = (found.stat, at.stat()?);
        if (stat.uid, stat.gid) != (made.uid, made.gid) {
            at.chown(Some(stat.uid), Some(stat.gid))?;
        }
        for attr in real.at().listxattr()?.split_inclusive(|b| *b == 0) {
            let attr = std::ffi::CStr::from_bytes_with_nul(attr).map_err(|_| Errno::EIO)?;
            // Marks are written anew; escaped ones are somebody else's attributes.
            if self.prefix.shown(attr.to_bytes()).is_some() {
                at.setxattr(attr, &real.at().getxattr(attr)?, 0)?;
            }
        }
        at.setxattr(self.prefix.attr(Mark::Metacopy), b"", 0)?;
        match data {
            Some(RedirectTo::Sibling(same)) if same == name => {}
            Some(redirect) => at.setxattr(self.prefix.attr(Mark::Redirect), &redirect.to_value(), 0)?,
            None => {}
        }
        at.chmod(stat.mode & 0o7777)?;
        at.utimens(Some(SetTime::To(stat.atime)), Some(SetTime::To(stat.mtime)))?;
        self.count(0);
        Ok(())
    }

    fn object(&mut self, out: &Dir, name: &NameBuf, seen: &Seen<'_>) -> Result<()> {
        if self.link(out, name, (0, seen.attr.ino), seen.attr.nlink)? {
            return Ok(());
        }
        let mut bytes = 0;
        match seen.attr.kind() {
            Kind::File => {
                let to = out.create(name, libc::O_WRONLY, 0o600)?;
                bytes = seen.attr.size;
                let from = seen.data()?.file()?;
                copy::copy_data(from.as_fd(), to.as_fd(), bytes, &AtomicBool::new(false))?;
            }
            Kind::Symlink => {
                let target = std::ffi::CString::new(seen.target()?).map_err(|_| Errno::EINVAL)?;
                out.symlink(name, &target)?;
            }
            kind => out.mknod(name, kind.mode_bits() | 0o600, seen.attr.rdev)?,
        }
        self.dress(out.at(name), seen)?;
        self.count(bytes);
        Ok(())
    }

    /// Owner first, since it takes privileges away; the times last.
    fn dress(&self, at: At<'_>, like: &Seen<'_>) -> Result<()> {
        let (stat, attr) = (at.stat()?, &like.attr);
        if (stat.uid, stat.gid) != (attr.owner.uid, attr.owner.gid) {
            at.chown(Some(attr.owner.uid), Some(attr.owner.gid))?;
        }
        for (name, value) in like.xattrs()? {
            at.setxattr(&self.prefix.stored(&name)?, &value, 0)?;
        }
        if attr.kind() != Kind::Symlink {
            at.chmod(attr.mode & 0o7777)?;
        }
        at.utimens(Some(SetTime::To(attr.atime)), Some(SetTime::To(attr.mtime)))
    }
}
