//! The walk: from the upper's objects to entries, in the order of their names.
//!
//! Directories are of three sorts. Most stand in the layer as they stand in the upper. One that replaces the directory
//! below is marked opaque, and no marks are needed beneath it. One that was renamed has its old contents further down:
//! it is marked opaque too, and everything that is merged into it is written out.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::head::{self, Body, Meta, Shape, Unfit};
use super::output::{Finished, LayerWriter};
use super::steady::{self, Busy, Contents, Disturbed, How, Id, Readable};
use super::{Progress, Report, Source, TRIES, newer};
use crate::diff::tree::{Seen, Tree};
use crate::error::SetupError;
use crate::layer::marks::RedirectTo;
use crate::layer::override_stat::{self, OverrideStat};
use crate::layer::stand_in;
use crate::layer::{Below, DirCache, Found, Object, Probe, Reader};
use crate::sys::clone::{Access, ClonedMount, private_clone};
use crate::sys::{At, Dir, Errno, Kind, NameBuf, Stat, Time};
use crate::union::control::Text;
use crate::union::{Config, Redirect};

/// How a walk ended.
pub(super) enum Outcome {
    /// The layer is whole.
    Done(Box<(Report, Finished)>),
    /// A file was changed while it went into the layer.
    Disturbed(Id),
}

/// Why a walk stops.
enum Stop {
    Failed(SetupError),
    Disturbed(Id),
}

impl From<SetupError> for Stop {
    fn from(e: SetupError) -> Stop {
        Stop::Failed(e)
    }
}

type Step<T> = std::result::Result<T, Stop>;

/// The layers beneath the upper, opened when they are needed first.
struct Lowers<'a> {
    source: &'a Source,
    tree: OnceLock<Tree>,
}

impl Lowers<'_> {
    /// `why` says what they are needed for, and where.
    fn tree(&self, why: &str, at: &Path) -> Result<&Tree, SetupError> {
        if let Some(tree) = self.tree.get() {
            return Ok(tree);
        }
        if self.source.lower.is_empty() {
            let refused = SetupError::new("commit", why).at(at);
            return Err(refused.hint("name the layers below with --lower, top first, or commit the mount"));
        }
        let config = Config {
            lower: self.source.lower.clone(),
            data_only: self.source.data_only.clone(),
            userxattr: self.source.prefix == crate::layer::marks::Prefix::User,
            redirect: Redirect::Follow,
            metacopy: true,
            oci_whiteouts: self.source.lower_markers,
            ..Config::default()
        };
        let opened = Tree::open(&config)?;
        Ok(self.tree.get_or_init(|| opened))
    }
}

/// Something to be written.
enum Task<'t> {
    /// A name of a directory of the upper.
    Upper { parent: Arc<Object>, name: NameBuf, place: Place },
    /// An object of the layers below, in a renamed directory.
    Lower { seen: Seen<'t>, path: Vec<u8> },
    /// A deleted name.
    Whiteout(Vec<u8>),
}

/// Where an object is.
#[derive(Clone)]
struct Place {
    /// In the layer.
    path: Vec<u8>,
    /// In the layers below, as far as they are merged into its directory.
    below: Option<Vec<NameBuf>>,
    /// A directory around it replaces what is below, so nothing beneath it needs a mark.
    hidden: bool,
    /// A directory around it was renamed, so what is below is written out.
    expand: bool,
}

/// What is known of an object of the upper once it held still.
struct Steady {
    found: Found,
    meta: Meta,
    what: What,
}

enum What {
    Dir,
    File(Contents, Stat),
    /// The data is below.
    Metacopy(Vec<NameBuf>),
    Other(Body),
    Socket,
}

struct Walk<'a, 't> {
    source: &'a Source,
    busy: &'a Busy,
    progress: &'a dyn Progress,
    reader: Reader,
    cache: DirCache,
    beside: PathBuf,
    /// Who owns the root of the upper.
    keeper: u32,
    lowers: &'t Lowers<'a>,
    writer: LayerWriter,
    links: BTreeMap<Id, Vec<u8>>,
    lower_links: BTreeMap<u64, Vec<u8>>,
    report: Report,
    newest: Time,
}

/// Writes all of `source`.
pub(super) fn run(
    source: &Source,
    writer: LayerWriter,
    busy: &Busy,
    progress: &dyn Progress,
) -> Result<Outcome, SetupError> {
    let failed = |e: Errno| SetupError::new("read the upper", e.desc()).at(&source.upper);
    let clone: ClonedMount = private_clone(&source.upper, Access::ReadOnly).map_err(failed)?;
    let root = Arc::new(Dir::from(clone.tree));
    let keeper = root.this().stat().map_err(failed)?.uid;
    let lowers = Lowers { source, tree: OnceLock::new() };
    let mut walk = Walk {
        source,
        busy,
        progress,
        reader: Reader { prefix: source.prefix, oci: source.upper_markers, overrides: false },
        cache: DirCache::new(256),
        beside: source.upper.parent().unwrap_or(Path::new("/")).to_path_buf(),
        keeper,
        lowers: &lowers,
        writer,
        links: BTreeMap::new(),
        lower_links: BTreeMap::new(),
        report: Report::default(),
        newest: Time::default(),
    };
    match walk.all(root) {
        Ok(()) => {}
        Err(Stop::Failed(e)) => return Err(e),
        Err(Stop::Disturbed(id)) => return Ok(Outcome::Disturbed(id)),
    }
    let finished = walk.writer.finish()?;
    let report = Report {
        uncompressed: finished.uncompressed,
        size: finished.size,
        digest: finished.digest.clone(),
        diff_id: finished.diff_id.clone(),
        newest: walk.newest.secs,
        ..walk.report
    };
    Ok(Outcome::Done(Box::new((report, finished))))
}

impl<'t> Walk<'_, 't> {
    fn all(&mut self, root: Arc<Dir>) -> Step<()> {
        let stat = root.this().stat().map_err(|e| self.failed(b"", e))?;
        let object = Object::root(0, Arc::clone(&root), stat.ino);
        let meta = self.dir_meta(root.this(), b"")?;
        self.entry(b"./", &meta, &Body::Dir)?;
        let cut = self.reader.root_is_cut(&root).map_err(|e| self.failed(b"", e))?;
        let place = Place { path: Vec::new(), below: (!cut).then(Vec::new), hidden: cut, expand: false };
        if cut {
            self.opaque(b"")?;
        }
        let mut todo = Vec::new();
        self.children(&object, &place, &mut todo)?;
        while let Some(task) = todo.pop() {
            match task {
                Task::Whiteout(path) => self.whiteout(&path)?,
                Task::Lower { seen, path } => self.lower(seen, path, &mut todo)?,
                Task::Upper { parent, name, place } => self.upper(&parent, &name, place, &mut todo)?,
            }
        }
        Ok(())
    }

    fn path_of(&self, path: &[u8]) -> PathBuf {
        self.source.upper.join(OsStr::from_bytes(path))
    }

    fn failed(&self, path: &[u8], e: Errno) -> Stop {
        let error = SetupError::new("commit", e.desc()).at(self.path_of(path));
        Stop::Failed(match e {
            Errno::EACCES | Errno::EPERM => error.hint("it can be read by its owner and by root"),
            _ => error,
        })
    }

    /// Puts what is in a directory of the upper on `todo`, so that it is taken off in order.
    fn children(&mut self, dir: &Arc<Object>, place: &Place, todo: &mut Vec<Task<'t>>) -> Step<()> {
        let failed = |walk: &Self, e| walk.failed(&place.path, e);
        let opened = dir.open(&self.cache).map_err(|e| failed(self, e))?;
        let mut listed = self.reader.list(&opened).map_err(|e| failed(self, e))?;
        listed.sort_by(|a, b| (&a.name, a.kind.is_none()).cmp(&(&b.name, b.kind.is_none())));
        // A name and a marker for it in one layer: the marker is about the layers below.
        let mut marks = Vec::new();
        let mut tasks: Vec<(NameBuf, Task<'t>)> = Vec::new();
        let mut known = BTreeSet::new();
        for entry in listed {
            let path = joined(&place.path, entry.name.as_bytes());
            if entry.kind.is_none() {
                if !place.hidden && !known.contains(&entry.name) {
                    marks.push(Task::Whiteout(path));
                }
            } else {
                let place = Place { path, ..place.clone() };
                let task = Task::Upper { parent: Arc::clone(dir), name: entry.name.clone(), place };
                tasks.push((entry.name.clone(), task));
            }
            known.insert(entry.name);
        }
        if place.expand {
            for (name, seen) in self.below(place, &known)? {
                let path = joined(&place.path, name.as_bytes());
                tasks.push((name, Task::Lower { seen, path }));
            }
            tasks.sort_by(|a, b| a.0.cmp(&b.0));
        }
        todo.extend(tasks.into_iter().rev().map(|(_, task)| task));
        todo.extend(marks.into_iter().rev());
        Ok(())
    }

    /// What the layers below have in a renamed directory under names that the upper does not know.
    fn below(&self, place: &Place, known: &BTreeSet<NameBuf>) -> Step<Vec<(NameBuf, Seen<'t>)>> {
        let Some(below) = &place.below else { return Ok(Vec::new()) };
        let tree = self.lowers.tree(RENAMED, &self.path_of(&place.path))?;
        let failed = |e| self.failed(&place.path, e);
        let Some(dir) = tree.at(below).map_err(failed)?.filter(|seen| seen.attr.kind() == Kind::Dir) else {
            return Ok(Vec::new());
        };
        let mut all = Vec::new();
        for name in dir.names().map_err(failed)? {
            if !known.contains(&name)
                && let Some(seen) = dir.child(&name).map_err(failed)?
            {
                all.push((name, seen));
            }
        }
        Ok(all)
    }

    /// One name of the upper.
    fn upper(
        &mut self,
        parent: &Arc<Object>,
        name: &NameBuf,
        place: Place,
        todo: &mut Vec<Task<'t>>,
    ) -> Step<()> {
        if name.as_bytes().starts_with(b".wh.") {
            return Err(self.marker_name(&place.path).into());
        }
        let dir = match parent.open(&self.cache) {
            Ok(dir) => dir,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(e) => return Err(self.failed(&place.path, e)),
        };
        let mut tries = 0;
        loop {
            match self.attempt(&dir, name, &place, tries) {
                Ok(Ok(None)) => return Ok(()),
                Ok(Ok(Some(steady))) => return self.steady(parent, name, place, steady, todo),
                Ok(Err(Disturbed::Failed(e))) => return Err(self.failed(&place.path, e)),
                Ok(Err(Disturbed::Changed | Disturbed::Replaced)) => tries += 1,
                Err(stop) => return Err(stop),
            }
            if tries >= TRIES {
                let error = SetupError::new("commit", format!("it changed during each of {TRIES} readings"));
                let error = error.at(self.path_of(&place.path));
                return Err(error.hint("stop what writes to it for a moment, and commit again").into());
            }
        }
    }

    fn marker_name(&self, path: &[u8]) -> SetupError {
        let why = "a name that begins with .wh. is a deletion in a layer, so no object can have it";
        let error = SetupError::new("commit", why).at(self.path_of(path));
        error.hint("rename it; or, if it stands for a deletion here too, say --markers")
    }

    /// One reading of an object. `None`: there is nothing (any more), or a deletion.
    fn attempt(
        &mut self,
        dir: &Dir,
        name: &NameBuf,
        place: &Place,
        tries: u32,
    ) -> Step<std::result::Result<Option<Steady>, Disturbed>> {
        let found = match self.reader.probe(dir, name, Below::Some) {
            Ok(Probe::Absent) => return Ok(Ok(None)),
            Ok(Probe::Whiteout) => {
                if !place.hidden {
                    self.whiteout(&place.path)?;
                }
                return Ok(Ok(None));
            }
            Ok(Probe::Entry(found)) => found,
            Err(e @ (Errno::EINVAL | Errno::EACCES | Errno::EIO)) => {
                let error = SetupError::new("commit", format!("its marks make no sense ({})", e.desc()));
                let error = error.at(self.path_of(&place.path));
                return Err(error.hint("acetate check tells which, and what to do").into());
            }
            Err(e) => return Ok(Err(e.into())),
        };
        Ok(self.read(dir, name, found, place, tries))
    }

    fn read(
        &self,
        dir: &Dir,
        name: &NameBuf,
        found: Found,
        place: &Place,
        tries: u32,
    ) -> std::result::Result<Option<Steady>, Disturbed> {
        let at = dir.at(name);
        let mut stat = found.stat;
        let what = match found.stat.kind() {
            Kind::Dir => What::Dir,
            Kind::File if found.metacopy => What::Metacopy(match &found.redirect {
                Some(RedirectTo::Absolute(path)) => path.clone(),
                Some(RedirectTo::Sibling(old)) => lower_path(place, old).unwrap_or_default(),
                None => lower_path(place, name).unwrap_or_default(),
            }),
            Kind::File => {
                let how = How {
                    live: self.source.live,
                    busy: self.busy,
                    beside: &self.beside,
                    restartable: self.writer.is_staged(),
                };
                let (contents, then) = steady::contents(at, &stat, tries, how)?;
                stat = then;
                What::File(contents, then)
            }
            Kind::Symlink => What::Other(Body::Symlink(at.readlink().map_err(|e| match e {
                Errno::EINVAL => Disturbed::Replaced,
                e => e.into(),
            })?)),
            Kind::Char => What::Other(Body::Char(stat.rdev)),
            Kind::Block => What::Other(Body::Block(stat.rdev)),
            Kind::Fifo => What::Other(Body::Fifo),
            Kind::Socket => What::Socket,
        };
        let (meta, over) = self.meta(at, &stat)?;
        let settled = match &what {
            // A snapshot is right whatever happens to the file meanwhile.
            What::File(Contents::Private(..), _) => true,
            // Names come and go; what counts is read once more.
            What::Dir => but_for_time(&self.meta(at, &at.stat()?)?.0, &meta),
            _ => steady::same(&stat, &at.stat()?),
        };
        if !settled {
            return Err(Disturbed::Changed);
        }
        let what = match over {
            Some(over) => overridden(what, &over)?,
            None => what,
        };
        Ok(Some(Steady { found: Found { stat, ..found }, meta, what }))
    }

    fn meta(&self, at: At<'_>, stat: &Stat) -> Result<(Meta, Option<OverrideStat>), Disturbed> {
        let mut meta = Meta {
            mode: stat.mode & 0o7777,
            uid: stat.uid,
            gid: stat.gid,
            mtime: stat.mtime,
            xattrs: Vec::new(),
        };
        if self.source.overridden {
            let Stat { uid, gid, .. } = stand_in::unrecorded(*stat, self.keeper);
            (meta.uid, meta.gid) = (uid, gid);
        }
        let mut over = None;
        for stored in at.listxattr()?.split_inclusive(|b| *b == 0) {
            let attr = CStr::from_bytes_with_nul(stored).map_err(|_| Errno::EIO)?;
            if self.source.overridden && override_stat::is_name(attr) {
                over = at.find_xattr(attr)?.as_deref().and_then(override_stat::parse).or(over);
                continue;
            }
            let Some(shown) = self.reader.prefix.shown(attr.to_bytes()).filter(|n| travels(n)) else {
                continue;
            };
            if let Some(value) = at.find_xattr(attr)? {
                meta.xattrs.push((shown, value));
            }
        }
        meta.xattrs.sort();
        if let Some(over) = &over {
            (meta.uid, meta.gid, meta.mode) = (over.uid, over.gid, over.mode & 0o7777);
        }
        Ok((meta, over))
    }

    fn dir_meta(&self, at: At<'_>, path: &[u8]) -> Step<Meta> {
        let stat = at.stat().map_err(|e| self.failed(path, e))?;
        match self.meta(at, &stat) {
            Ok((meta, _)) => Ok(meta),
            Err(Disturbed::Failed(e)) => Err(self.failed(path, e)),
            Err(_) => Err(self.failed(path, Errno::ESTALE)),
        }
    }

    /// Writes an object of the upper.
    fn steady(
        &mut self,
        parent: &Arc<Object>,
        name: &NameBuf,
        place: Place,
        steady: Steady,
        todo: &mut Vec<Task<'t>>,
    ) -> Step<()> {
        let Steady { found, meta, what } = steady;
        let path = place.path.clone();
        if let What::Dir = what {
            self.entry(&joined(&path, b""), &meta, &Body::Dir)?;
            let dir = Object::within(parent, name.clone(), &found.stat);
            let inside = self.inside(name, place, &found)?;
            self.progress.step(0);
            return self.children(&dir, &inside, todo);
        }
        let id = Id::of(&found.stat);
        if found.stat.nlink > 1 && !matches!(what, What::Socket) {
            if let Some(first) = self.links.get(&id) {
                let first = first.clone();
                self.progress.step(0);
                return self.entry(&path, &meta, &Body::Link(first));
            }
            self.links.insert(id, path.clone());
        }
        let bytes = if found.stat.kind() == Kind::File { found.stat.size } else { 0 };
        match what {
            What::Dir => {}
            What::Socket => self.left_out(&path),
            What::Other(body) => self.entry(&path, &meta, &body)?,
            What::Metacopy(from) => self.metacopy(&path, &meta, &found.stat, &from)?,
            What::File(contents, before) => self.file(&path, &meta, &contents, &before)?,
        }
        self.progress.step(bytes);
        Ok(())
    }

    /// Where the contents of a directory are, and its mark if it needs one.
    fn inside(&mut self, name: &NameBuf, place: Place, found: &Found) -> Step<Place> {
        let own = lower_path(&place, name);
        if found.cut {
            if !place.hidden {
                self.opaque(&place.path)?;
            }
            return Ok(Place { below: None, hidden: true, expand: false, ..place });
        }
        let from = match &found.redirect {
            Some(RedirectTo::Absolute(path)) => Some(path.clone()),
            Some(RedirectTo::Sibling(old)) => lower_path(&place, old),
            None => return Ok(Place { below: own, ..place }),
        };
        // Renamed and renamed back.
        if from == own {
            return Ok(Place { below: own, ..place });
        }
        self.lowers.tree(RENAMED, &self.path_of(&place.path))?;
        if !place.hidden {
            self.opaque(&place.path)?;
        }
        Ok(Place { below: from, hidden: true, expand: true, ..place })
    }

    /// An object of the layers below.
    fn lower(&mut self, seen: Seen<'t>, path: Vec<u8>, todo: &mut Vec<Task<'t>>) -> Step<()> {
        let failed = |walk: &Self, e| walk.failed(&path, e);
        if path.rsplit(|b| *b == b'/').next().is_some_and(|name| name.starts_with(b".wh.")) {
            return Err(self.marker_name(&path).into());
        }
        let attr = seen.attr;
        let xattrs = seen.xattrs().map_err(|e| failed(self, e))?;
        let xattrs = xattrs.into_iter().map(|(name, value)| (name.into_bytes(), value));
        let meta = Meta {
            mode: attr.mode & 0o7777,
            uid: attr.owner.uid,
            gid: attr.owner.gid,
            mtime: attr.mtime,
            xattrs: xattrs.filter(|(name, _)| travels(name)).collect(),
        };
        if attr.kind() == Kind::Dir {
            self.entry(&joined(&path, b""), &meta, &Body::Dir)?;
            for name in seen.names().map_err(|e| failed(self, e))?.into_iter().rev() {
                if let Some(child) = seen.child(&name).map_err(|e| failed(self, e))? {
                    todo.push(Task::Lower { seen: child, path: joined(&path, name.as_bytes()) });
                }
            }
            return Ok(());
        }
        if attr.nlink > 1 && attr.kind() != Kind::Socket {
            if let Some(first) = self.lower_links.get(&attr.ino) {
                let first = first.clone();
                return self.entry(&path, &meta, &Body::Link(first));
            }
            self.lower_links.insert(attr.ino, path.clone());
        }
        match attr.kind() {
            Kind::Dir => {}
            Kind::File => {
                let data = seen.data().map_err(|e| failed(self, e))?;
                self.copied(&path, &meta, attr.size, &data)?;
            }
            Kind::Symlink => {
                let target = seen.target().map_err(|e| failed(self, e))?;
                self.entry(&path, &meta, &Body::Symlink(target))?;
            }
            Kind::Char => self.entry(&path, &meta, &Body::Char(attr.rdev))?,
            Kind::Block => self.entry(&path, &meta, &Body::Block(attr.rdev))?,
            Kind::Fifo => self.entry(&path, &meta, &Body::Fifo)?,
            Kind::Socket => self.left_out(&path),
        }
        Ok(())
    }

    /// A file whose data is in the layers below.
    fn metacopy(&mut self, path: &[u8], meta: &Meta, stat: &Stat, from: &[NameBuf]) -> Step<()> {
        let at = self.path_of(path);
        let tree =
            self.lowers.tree("only its attributes are in the upper, its contents are further down", &at)?;
        let failed = |walk: &Self, e| walk.failed(path, e);
        let seen = if from.is_empty() { None } else { tree.at(from).map_err(|e| failed(self, e))? };
        if let Some(seen) = seen.filter(|seen| seen.attr.kind() == Kind::File) {
            let data = seen.data().map_err(|e| failed(self, e))?;
            return self.copied(path, meta, stat.size, &data);
        }
        for layer in &self.source.data_only {
            if let Some(fd) = data_file(layer, from).map_err(|e| failed(self, e))? {
                return self.copied(path, meta, stat.size, &fd.as_fd());
            }
        }
        let error = SetupError::new("commit", "its contents are in none of the layers below").at(at);
        Err(error.hint("were all of them named, in their order? acetate check tells more").into())
    }

    /// A file whose data nobody changes.
    fn copied(&mut self, path: &[u8], meta: &Meta, size: u64, data: &dyn Readable) -> Step<()> {
        let shape = steady::shape(data, size).map_err(|e| self.failed(path, e))?;
        self.entry(path, meta, &Body::File(shape.clone()))?;
        match self.stream(path, data, &shape)? {
            true => Ok(()),
            false => Err(self.failed(path, Errno::EIO)),
        }
    }

    /// A file of the upper.
    fn file(&mut self, path: &[u8], meta: &Meta, contents: &Contents, before: &Stat) -> Step<()> {
        let whole = match contents {
            Contents::Memory(data, shape) => {
                self.entry(path, meta, &Body::File(shape.clone()))?;
                self.stream(path, &data.as_slice(), shape)?
            }
            Contents::Private(fd, shape) => {
                self.entry(path, meta, &Body::File(shape.clone()))?;
                self.stream(path, &fd.as_fd(), shape)?
            }
            Contents::Direct(fd, shape) => {
                self.entry(path, meta, &Body::File(shape.clone()))?;
                let whole = self.stream(path, &fd.as_fd(), shape)?;
                whole && self.held_still(path, before, fd.as_fd())?
            }
        };
        if whole { Ok(()) } else { Err(Stop::Disturbed(Id::of(before))) }
    }

    fn held_still(&self, path: &[u8], before: &Stat, fd: BorrowedFd<'_>) -> Step<bool> {
        match steady::unchanged(before, fd) {
            Ok(()) => Ok(true),
            Err(Disturbed::Failed(e)) => Err(self.failed(path, e)),
            Err(_) => Ok(false),
        }
    }

    /// The data of a file; false when it ended early.
    fn stream(&mut self, path: &[u8], data: &dyn Readable, shape: &Shape) -> Step<bool> {
        let whole = [(0, shape.size)];
        let mut buffer = vec![0; 256 << 10];
        for &(start, length) in shape.map.as_deref().unwrap_or(&whole) {
            let mut done = 0;
            while done < length {
                let wanted = usize::try_from(length - done).unwrap_or(usize::MAX).min(buffer.len());
                let piece = buffer.get_mut(..wanted).unwrap_or_default();
                let got = data.read_at(start + done, piece).map_err(|e| self.failed(path, e))?;
                if got == 0 {
                    return Ok(false);
                }
                self.writer.put(buffer.get(..got).unwrap_or_default())?;
                done += got as u64;
            }
        }
        self.writer.put(&[0; head::BLOCK as usize][..head::padding(shape.stored())])?;
        Ok(true)
    }

    fn entry(&mut self, path: &[u8], meta: &Meta, body: &Body) -> Step<()> {
        self.newest = newer(self.newest, meta.mtime);
        self.report.entries += 1;
        self.headers(path, meta, body)
    }

    fn headers(&mut self, path: &[u8], meta: &Meta, body: &Body) -> Step<()> {
        let blocks = head::blocks(path, meta, body).map_err(|unfit| {
            let why = match unfit {
                Unfit::Attribute(name) => {
                    format!("the name of its attribute {} has no form in an archive", name.escape_ascii())
                }
                Unfit::Device(dev) => format!("its device number {}:{} is too large", dev.major, dev.minor),
            };
            SetupError::new("commit", why).at(self.path_of(path))
        })?;
        Ok(self.writer.put(&blocks)?)
    }

    fn whiteout(&mut self, path: &[u8]) -> Step<()> {
        self.report.whiteouts += 1;
        self.progress.step(0);
        let at = path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
        let (dir, name) = path.split_at(at);
        if name.len() + 4 > crate::sys::NAME_MAX {
            let why = "the name of its marker in a layer, .wh. and its own, would be longer than 255 bytes";
            return Err(SetupError::new("commit the deletion of", why).at(self.path_of(path)).into());
        }
        self.headers(&[dir, b".wh.", name].concat(), &MARKER, &Body::File(Shape::default()))
    }

    fn opaque(&mut self, path: &[u8]) -> Step<()> {
        self.report.opaque += 1;
        self.headers(&joined(path, b".wh..wh..opq"), &MARKER, &Body::File(Shape::default()))
    }

    fn left_out(&mut self, path: &[u8]) {
        self.report.left_out.push(Text::from(path));
    }
}

const RENAMED: &str = "it was renamed, and what is in it is further down";

/// What a marker has, so that it is the same whoever makes it.
const MARKER: Meta =
    Meta { mode: 0o644, uid: 0, gid: 0, mtime: Time { secs: 0, nanos: 0 }, xattrs: Vec::new() };

/// Whether two readings agree in everything but the time.
fn but_for_time(a: &Meta, b: &Meta) -> bool {
    (a.mode, a.uid, a.gid, &a.xattrs) == (b.mode, b.uid, b.gid, &b.xattrs)
}

fn joined(path: &[u8], name: &[u8]) -> Vec<u8> {
    match path {
        b"" => name.to_vec(),
        path => [path, b"/", name].concat(),
    }
}

/// Where the layers below have `name` of the directory that `place` is in.
fn lower_path(place: &Place, name: &NameBuf) -> Option<Vec<NameBuf>> {
    place.below.as_ref().map(|below| [below.as_slice(), std::slice::from_ref(name)].concat())
}

/// Whether an attribute means something elsewhere. Labels and signatures that belong to this machine do not, nor does
/// what a file system shows of its own.
fn travels(name: &[u8]) -> bool {
    const HERE: [&[u8]; 2] = [b"security.selinux", b"security.evm"];
    const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];
    let kept = [&b"user."[..], b"trusted.", b"security."].iter().any(|space| name.starts_with(space));
    ACLS.contains(&name) || kept && !HERE.contains(&name) && !name.starts_with(b"trusted.SGI_ACL_")
}

/// An object that is stored as another kind than it is.
fn overridden(what: What, over: &OverrideStat) -> std::result::Result<What, Disturbed> {
    let Some(kind) = over.kind else { return Ok(what) };
    Ok(match (kind, what) {
        (Kind::Symlink, What::File(Contents::Memory(target, _), _)) => What::Other(Body::Symlink(target)),
        (Kind::Char, What::File(..)) => What::Other(Body::Char(over.rdev)),
        (Kind::Block, What::File(..)) => What::Other(Body::Block(over.rdev)),
        (Kind::Fifo, What::File(..)) => What::Other(Body::Fifo),
        (Kind::Socket, What::File(..)) => What::Socket,
        (_, what) => what,
    })
}

/// A file of a data-only layer.
fn data_file(layer: &Path, path: &[NameBuf]) -> crate::sys::Result<Option<std::os::fd::OwnedFd>> {
    let Some((name, dirs)) = path.split_last() else { return Ok(None) };
    let mut dir = Dir::from(private_clone(layer, Access::ReadOnly)?.tree);
    for name in dirs {
        dir = match dir.open_dir(name) {
            Ok(dir) => dir,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            Err(e) => return Err(e),
        };
    }
    match dir.find(name)? {
        Some(stat) if stat.kind() == Kind::File => steady::open(dir.at(name)).map(Some),
        _ => Ok(None),
    }
}
