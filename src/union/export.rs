//! File handles that outlast the server (I-9, F-13).
//!
//! A handle that a program takes through the mount holds the node id and a generation, and the kernel asks for a node
//! it has forgotten by its id alone. So with `nfs_export` the id itself says which real object a node is: the inode's
//! number and generation, which is all that the handles of the layers' filesystems are made of, and whether it is the
//! upper's object or a lower one. The kernel's overlayfs makes the same choice: an object that was copied up under an
//! index entry is its lower object, for good; any other upper object is itself.
//!
//! ```text
//!   63               32 31              0
//!  [ generation ^ tag  ][ inode number   ]      tag: one for each filesystem and side
//! ```
//!
//! The way back: the tags are tried one by one; the handle that results is opened and compared. A non-directory needs
//! no name: it is used through its handle or its index entry. A directory is reached through its names, from the root of
//! the union: those of its layer, or, below a renamed one, those of the upper that the index leads to.
//!
//! Where a lower layer is on such a mount itself, the id is the other mount's, with all its bits changed by the tag.
//!
//! An object that does not fit (an inode number of more than 32 bits, a subvolume, one that has no lasting id in the mount
//! below) has a passing id: its handles hold as long as the server runs, and are ESTALE afterwards.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use super::lookup::Resolved;
use super::node::{Node, UpperPart, Wanted};
use super::types::{Entry, NodeId, ROOT};
use super::xino::{FsId, UPPER_FS};
use super::{LayerInfo, Union};
use crate::layer::Object;
use crate::layer::marks::{self, Mark};
use crate::layer::origin::{self, Record};
use crate::sys::handle::{self, FileHandle};
use crate::sys::{At, Dir, Errno, Kind, Name, NameBuf, Result, Stat, mountinfo};
use crate::upper::Upper;

/// An odd number whose multiples differ in many bits.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// f_type of FUSE.
const FUSE: i64 = 0x6573_5546;

/// What the handles of a filesystem are made of.
#[derive(Debug)]
enum Form {
    /// Inode number and generation, as in this one.
    Inode(FileHandle),
    /// A node id.
    Fuse,
}

impl Form {
    fn of(fd: BorrowedFd<'_>) -> Result<Form> {
        match mountinfo::filesystem_type(fd)? {
            FUSE => Ok(Form::Fuse),
            _ => handle::of(At::Fd(fd)).map(Form::Inode),
        }
    }
}

/// One filesystem, seen as the upper's or as that of lower layers.
#[derive(Debug)]
struct Side {
    /// The first layer on it; 0: the upper.
    layer: u32,
    fsid: FsId,
    dev: u64,
    tag: u64,
    form: Form,
}

impl Side {
    /// The id of the object with this handle. `None` where it does not fit.
    fn id_of(&self, handle: &FileHandle) -> Option<NodeId> {
        let id = match &self.form {
            Form::Fuse => handle.fuse_node()? ^ self.tag,
            Form::Inode(sample) => {
                let (ino, generation) = handle.parts()?;
                if sample.of_another(ino, generation).as_ref() != Some(handle) {
                    return None;
                }
                u64::from(generation ^ self.half_tag()) << 32 | u64::from(ino)
            }
        };
        (id > ROOT.0 && id < u64::MAX - 1).then_some(NodeId(id))
    }

    /// The inverse of [`Side::id_of`], if the id is of this side.
    fn handle_of(&self, id: NodeId) -> Option<FileHandle> {
        match &self.form {
            Form::Fuse => Some(FileHandle::of_fuse_node(id.0 ^ self.tag)),
            Form::Inode(sample) => {
                let (ino, generation) = (id.0 as u32, (id.0 >> 32) as u32 ^ self.half_tag());
                sample.of_another(ino, generation)
            }
        }
    }

    /// The tag of a generation.
    fn half_tag(&self) -> u32 {
        (self.tag >> 32) as u32
    }
}

/// The sides of a stack whose objects have lasting ids; none without `nfs_export`.
#[derive(Debug)]
pub(super) struct Exports(Vec<Side>);

impl Exports {
    pub(super) fn new(wanted: bool, upper: Option<&Upper>, layers: &[LayerInfo]) -> Result<Exports> {
        let mut sides: Vec<Side> = Vec::new();
        if !wanted {
            return Ok(Exports(sides));
        }
        if let Some(upper) = upper {
            let dev = upper.root().this().stat()?.dev;
            let form = Form::of(upper.root().as_fd())?;
            sides.push(Side { layer: 0, fsid: UPPER_FS, dev, tag: 0, form });
        }
        for (i, layer) in layers.iter().enumerate() {
            if layer.decodes && !sides.iter().any(|s| s.layer > 0 && s.fsid == layer.fsid) {
                let tag = SPREAD.wrapping_mul(1 + sides.len() as u64);
                let form = Form::of(layer.clone.root.as_fd())?;
                sides.push(Side { layer: i as u32 + 1, fsid: layer.fsid, dev: layer.dev, tag, form });
            }
        }
        Ok(Exports(sides))
    }

    fn id_in_upper(&self, handle: &FileHandle) -> Option<NodeId> {
        self.0.iter().find(|s| s.layer == 0)?.id_of(handle)
    }

    fn id_in_lower(&self, fsid: FsId, handle: &FileHandle) -> Option<NodeId> {
        self.0.iter().find(|s| s.layer > 0 && s.fsid == fsid)?.id_of(handle)
    }
}

/// A directory's names from the root of its layer, each with the handle of what it names.
type Way = Vec<(NameBuf, FileHandle)>;

impl Union {
    /// The lasting id of what was resolved at `name` of `parent`. `None` without `nfs_export`, and where none fits.
    pub(super) fn lasting_id_of_name(
        &self,
        parent: &Arc<Node>,
        name: &Name,
        r: &Resolved,
    ) -> Result<Option<NodeId>> {
        if self.exports.0.is_empty() {
            return Ok(None);
        }
        let dir = if r.in_upper { self.upper_dir(parent)? } else { None };
        self.lasting_id(r, dir.as_deref().map(|dir| dir.at(name)))
    }

    /// The lasting id of an object of the upper that has no lower one.
    pub(super) fn lasting_id_of_upper(&self, at: At<'_>) -> Result<Option<NodeId>> {
        if self.exports.0.is_empty() {
            return Ok(None);
        }
        handle::of(at).map(|handle| self.exports.id_in_upper(&handle))
    }

    fn lasting_id(&self, r: &Resolved, upper: Option<At<'_>>) -> Result<Option<NodeId>> {
        if r.upper.is_some() && r.index.is_none() && !self.is_indexed_dir(r)? {
            return upper.map_or(Ok(None), |at| self.lasting_id_of_upper(at));
        }
        if let Some(object) = r.lower.first() {
            let handle = handle::of(object.real(&self.cache)?.at())?;
            return Ok(self.exports.id_in_lower(self.fsid_of(object.layer), &handle));
        }
        let origin = r.origin.as_ref().and_then(|o| Some((o.fsid, origin::decode(&o.record)?)));
        Ok(origin.and_then(|(fsid, record)| self.exports.id_in_lower(fsid, &record.handle)))
    }

    /// A node itself (F-13), which the kernel may have forgotten, or know from an earlier server. Errors: ESTALE for one
    /// that is gone, or has no name any more (I-9).
    pub fn lookup_self(&self, id: NodeId) -> Result<Entry> {
        let node = match self.nodes.acquire(id) {
            Some(node) => node,
            None => self.recall(id)?,
        };
        if node.state().orphan.is_some() {
            self.forget_node(node.id, 1);
            return Err(Errno::ESTALE);
        }
        self.entry(&node, None).inspect_err(|_| self.forget_node(node.id, 1))
    }

    /// Finds the object that a lasting id names, and takes a reference to its node.
    fn recall(&self, id: NodeId) -> Result<Arc<Node>> {
        for side in &self.exports.0 {
            let Some((handle, fd)) = self.open_side(side, id)? else { continue };
            let stat = fd.this().stat()?;
            let recalled = match (stat.kind(), side.layer) {
                (Kind::Dir, 0) => self.recall_upper_dir(fd),
                (Kind::Dir, _) => self.recall_lower_dir(side, &handle),
                (_, 0) => self.recall_upper(id, handle, &fd, stat),
                (_, _) => self.recall_lower(id, side, handle, stat),
            };
            let node = recalled.map_err(|e| {
                log::debug!("a handle leads to nothing that is shown: {}", e.desc());
                Errno::ESTALE
            })?;
            if node.id == id {
                return Ok(node);
            }
            self.forget_node(node.id, 1);
        }
        Err(Errno::ESTALE)
    }

    /// The object that `id` names on one side, if there is one.
    fn open_side(&self, side: &Side, id: NodeId) -> Result<Option<(FileHandle, Dir)>> {
        let Some(handle) = side.handle_of(id) else { return Ok(None) };
        let opened = match (side.layer, &self.upper) {
            (0, Some(upper)) => handle::open(upper.root().open_readable()?.as_fd(), &handle),
            (0, None) => return Ok(None),
            (layer, _) => handle::open(self.layer(layer)?.clone.root.as_fd(), &handle),
        };
        let fd = match opened {
            Ok(fd) => Dir::from(fd),
            Err(e) => {
                log::debug!("no object of layer {} has this handle: {}", side.layer, e.desc());
                return Ok(None);
            }
        };
        // Some filesystems do not compare a generation of 0.
        let same = handle::of(fd.this())? == handle && fd.this().stat()?.dev == side.dev;
        Ok(same.then_some((handle, fd)))
    }

    fn recall_upper(&self, id: NodeId, handle: FileHandle, fd: &Dir, stat: Stat) -> Result<Arc<Node>> {
        if stat.nlink == 0 || stat.is_whiteout_device() {
            return Err(Errno::ESTALE);
        }
        let set = marks::present(fd.this(), self.prefix)?;
        let part = UpperPart { origin: set.has(Mark::Origin), ..UpperPart::default() };
        let mut resolved = Resolved {
            stat,
            origin: if part.origin { self.decode_origin(fd.this())? } else { None },
            upper: Some(part),
            in_upper: true,
            protect: self.protection(fd.this(), &set)?,
            upper_marks: set,
            lower: Vec::new(),
            data_path: None,
            index: None,
        };
        self.apply_index(&mut resolved)?;
        if self.lasting_id(&resolved, Some(fd.this()))? != Some(id) {
            return Err(Errno::ESTALE);
        }
        let (node, _) = self.intern(resolved, Wanted { id: Some(id), name: None })?;
        node.state().found = Some(handle);
        Ok(node)
    }

    fn recall_lower(&self, id: NodeId, side: &Side, handle: FileHandle, stat: Stat) -> Result<Arc<Node>> {
        let root = self.layer(side.layer)?.root.open(&self.cache)?;
        let object = Object::by_handle(side.layer, root, handle, &stat);
        let set = marks::present(object.real(&self.cache)?.at(), self.prefix)?;
        if stat.nlink == 0 || stat.is_whiteout_device() || set.has(Mark::Metacopy) {
            return Err(Errno::ESTALE);
        }
        let mut resolved = Resolved {
            stat,
            upper: None,
            in_upper: false,
            upper_marks: marks::MarkSet::default(),
            protect: (false, false),
            lower: vec![object],
            data_path: None,
            index: None,
            origin: None,
        };
        self.apply_index(&mut resolved)?;
        self.intern(resolved, Wanted { id: Some(id), name: None }).map(|(node, _)| node)
    }

    fn recall_upper_dir(&self, fd: Dir) -> Result<Arc<Node>> {
        let upper = self.upper.as_ref().ok_or(Errno::ESTALE)?;
        let root = upper.root().this().stat()?;
        let (way, _) = climb(fd, |stat| ((stat.dev, stat.ino) == (root.dev, root.ino)).then_some(()))?;
        self.walk(&mut way.iter().map(|(name, _)| name))
    }

    /// A directory of a lower layer: its own names lead to it, below the deepest of its ancestors that the index says
    /// has an upper.
    fn recall_lower_dir(&self, side: &Side, handle: &FileHandle) -> Result<Arc<Node>> {
        let (way, layer) = self.way_in_layers(side, handle)?;
        let mut tail = way.as_slice();
        let mut head: Way = Vec::new();
        if let Some(upper) = &self.upper
            && let Some(index) = upper.index()
        {
            for (depth, (_, handle)) in way.iter().enumerate().rev() {
                if let Some(found) = self.indexed_way(upper, index, layer, handle)? {
                    head = found;
                    tail = way.get(depth + 1..).unwrap_or_default();
                    break;
                }
            }
        }
        self.walk(&mut head.iter().chain(tail).map(|(name, _)| name))
    }

    /// The layer that a directory is in, and its names there. There is a way up from it only in the mount of that layer.
    fn way_in_layers(&self, side: &Side, handle: &FileHandle) -> Result<(Way, &LayerInfo)> {
        for layer in self.layers.iter().filter(|layer| layer.fsid == side.fsid) {
            let fd = handle::open(layer.clone.root.as_fd(), handle)?;
            let is_root = |stat: &Stat| ((stat.dev, stat.ino) == (layer.dev, layer.root.ino)).then_some(());
            match climb(Dir::from(fd), is_root) {
                Ok((way, ())) => return Ok((way, layer)),
                Err(Errno::ESTALE | Errno::ENOENT) => {}
                Err(e) => return Err(e),
            }
        }
        Err(Errno::ESTALE)
    }

    /// The names of the upper directory that the index has for a lower one.
    fn indexed_way(
        &self,
        upper: &Upper,
        index: &Dir,
        layer: &LayerInfo,
        lower: &FileHandle,
    ) -> Result<Option<Way>> {
        let record = Record { handle: lower.clone(), uuid: layer.uuid, upper: false };
        let Some(record) = origin::encode(&record) else { return Ok(None) };
        let entry = NameBuf::new(origin::index_name(&record).as_bytes())?;
        match index.find(&entry)? {
            None => return Ok(None),
            Some(stat) if stat.kind() != Kind::Dir => return Err(Errno::ESTALE),
            Some(_) => {}
        }
        let value = index.at(&entry).find_xattr(self.prefix.attr(Mark::Upper))?.ok_or(Errno::ESTALE)?;
        let record = origin::decode(&value).filter(|record| record.upper).ok_or(Errno::ESTALE)?;
        let fd = handle::open(upper.root().open_readable()?.as_fd(), &record.handle)?;
        let root = upper.root().this().stat()?;
        let is_root = |stat: &Stat| ((stat.dev, stat.ino) == (root.dev, root.ino)).then_some(());
        climb(Dir::from(fd), is_root).map(|(way, _)| Some(way))
    }

    /// The node that a path of the union names, with a reference. Errors: ESTALE when there is none.
    fn walk(&self, names: &mut dyn Iterator<Item = &NameBuf>) -> Result<Arc<Node>> {
        let mut at = self.nodes.acquire(ROOT).ok_or(Errno::ESTALE)?;
        for name in names {
            let next = self.lookup_node(&at, name);
            self.forget_node(at.id, 1);
            at = next?.ok_or(Errno::ESTALE)?;
            if at.kind != Kind::Dir {
                self.forget_node(at.id, 1);
                return Err(Errno::ESTALE);
            }
        }
        Ok(at)
    }
}

/// Goes up from a directory until `is_root` knows where it is. Gives the names on the way, topmost first. Errors: ESTALE
/// when no root is above it.
fn climb<T>(from: Dir, is_root: impl Fn(&Stat) -> Option<T>) -> Result<(Way, T)> {
    let mut way = Vec::new();
    let mut at = from;
    let mut stat = at.this().stat()?;
    loop {
        if let Some(root) = is_root(&stat) {
            way.reverse();
            return Ok((way, root));
        }
        let parent = at.parent()?;
        let above = parent.this().stat()?;
        if (above.dev, above.ino) == (stat.dev, stat.ino) || stat.nlink == 0 {
            return Err(Errno::ESTALE);
        }
        way.push((name_in(&parent, &at, &stat)?, handle::of(at.this())?));
        at = parent;
        stat = above;
    }
}

/// The name of a directory in the directory it is in: the kernel knows it; else the directory is searched.
fn name_in(parent: &Dir, child: &Dir, stat: &Stat) -> Result<NameBuf> {
    let is_it = |name: &Name| -> Result<bool> {
        Ok(parent.find(name)?.is_some_and(|s| (s.dev, s.ino) == (stat.dev, stat.ino)))
    };
    if let Ok(path) = std::fs::read_link(format!("/proc/self/fd/{}", child.as_fd().as_raw_fd()))
        && let Some(name) = path.file_name()
        && let Ok(name) = NameBuf::new(std::os::unix::ffi::OsStrExt::as_bytes(name))
        && is_it(&name)?
    {
        return Ok(name);
    }
    for entry in parent.entries()? {
        if entry.ino == stat.ino && is_it(&entry.name)? {
            return Ok(entry.name);
        }
    }
    Err(Errno::ESTALE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> FileHandle {
        FileHandle { kind: 1, bytes: vec![7; 8] }
    }

    fn side(layer: u32, tag: u64) -> Side {
        Side { layer, fsid: UPPER_FS, dev: 1, tag, form: Form::Inode(sample()) }
    }

    #[test]
    fn an_id_leads_back_to_the_handle_it_was_made_of_i9() {
        for tag in [0, SPREAD, SPREAD.wrapping_mul(2)] {
            let side = side(0, tag);
            for (ino, generation) in [(2, 0), (12, 0xdead_beef), (u32::MAX, 5), (5, u32::MAX)] {
                let handle = sample().of_another(ino, generation).unwrap();
                let id = side.id_of(&handle).unwrap();
                assert_eq!(side.handle_of(id), Some(handle));
            }
            let fuse = Side { form: Form::Fuse, ..side };
            for node in [12, 0xdead_beef_0000_0005] {
                let handle = FileHandle::of_fuse_node(node);
                let id = fuse.id_of(&handle).unwrap();
                assert_eq!(fuse.handle_of(id), Some(handle));
            }
        }
    }

    #[test]
    fn the_same_inode_has_another_id_as_upper_and_as_lower_object() {
        let handle = sample().of_another(12, 34).unwrap();
        assert_ne!(side(0, 0).id_of(&handle), side(1, SPREAD).id_of(&handle));
    }

    #[test]
    fn what_does_not_fit_has_no_lasting_id() {
        let side = side(0, 0);
        assert_eq!(side.id_of(&sample().of_another(1, 0).unwrap()), None);
        assert_eq!(side.id_of(&FileHandle { kind: 1, bytes: vec![1; 12] }), None);
        assert_eq!(side.id_of(&FileHandle { kind: 0x99, bytes: vec![1; 8] }), None);
    }
}
