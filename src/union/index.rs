//! What ties an upper object to the lower one it came from: origins, the index of hard links, inode numbers
//! (overlay-spec 1.5, 4.1).

use std::os::fd::AsFd;
use std::sync::Arc;

use super::lookup::Resolved;
use super::node::Node;
use super::types::{Caller, NodeId};
use super::xino::{FsId, UPPER_FS};
use super::{LayerInfo, Union};
use crate::layer::Real;
use crate::layer::marks::Mark;
use crate::layer::origin::{self, Record};
use crate::sys::{At, Dir, Errno, Kind, Name, NameBuf, Result, Stat, handle};
use crate::upper::{Staged, Upper};

/// The lower object an upper one was copied up from.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub fsid: FsId,
    pub ino: u64,
    pub nlink: u32,
    /// The handle record itself.
    pub record: Vec<u8>,
}

impl Union {
    /// Whether hard links of the lower layers are kept together.
    pub(super) fn indexes(&self) -> bool {
        self.upper.as_ref().is_some_and(|u| u.index().is_some())
    }

    /// Whether it matters by which of its names a file is used: a copy-up makes just that one in the upper (I-6).
    pub(super) fn names_matter(&self, node: &Node) -> bool {
        node.kind != Kind::Dir && self.indexes() && node.lower.first().is_some_and(|o| o.nlink > 1)
    }

    /// The handle record of a lower object; empty when its filesystem encodes none.
    pub(super) fn origin_record(&self, lower: &Real, layer: u32) -> Result<Vec<u8>> {
        let layer = self.layer(layer)?;
        match handle::of(lower.at()) {
            Ok(h) => {
                Ok(origin::encode(&Record { handle: h, uuid: layer.uuid, upper: false }).unwrap_or_default())
            }
            Err(Errno::EOPNOTSUPP) => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    /// The handle record of the topmost lower object of a node; empty when it has none, or its filesystem encodes none.
    pub fn lower_record(&self, node: NodeId) -> Result<Vec<u8>> {
        let node = self.node(node)?;
        match node.lower.first() {
            Some(lower) => self.origin_record(&lower.real(&self.cache)?, lower.layer),
            None => Ok(Vec::new()),
        }
    }

    /// Reads `P.origin` and finds the object it names in the layers. Anything corrupt or foreign counts as none
    /// (L-29).
    pub(super) fn decode_origin(&self, at: At<'_>) -> Result<Option<Origin>> {
        let Some(value) = at.find_xattr(self.prefix.attr(Mark::Origin))? else { return Ok(None) };
        let Some(record) = origin::decode(&value) else { return Ok(None) };
        let found = locate(&self.layers, &record)?;
        Ok(found.map(|(layer, stat)| Origin {
            fsid: layer.fsid,
            ino: stat.ino,
            nlink: stat.nlink,
            record: value,
        }))
    }

    /// A merged directory whose upper was not made by a copy-up gets its origin at the first look, so that its number
    /// stays the lower's, and its parent is marked for it.
    pub(super) fn fix_origin(&self, parent: &Arc<Node>, name: &crate::sys::Name, r: &Resolved) -> Result<()> {
        let (Some(upper), Some(part), Some(first)) = (&self.upper, &r.upper, r.lower.first()) else {
            return Ok(());
        };
        if r.stat.kind() != Kind::Dir || part.origin || !upper.features().xattr {
            return Ok(());
        }
        let Some(dir) = self.upper_dir(parent)? else { return Ok(()) };
        let record = self.origin_record(&first.real(&self.cache)?, first.layer)?;
        upper.mark_if_possible(dir.at(name), Mark::Origin, &record)?;
        self.make_impure(upper, parent, &mut parent.names_mut())
    }

    /// The number of a resolved object (I-1 to I-5).
    pub(super) fn ino_of(&self, r: &Resolved) -> Result<u64> {
        let own = match (&r.upper, r.lower.first()) {
            (Some(_), _) => self.encode_ino(0, r.stat.ino),
            (None, Some(o)) => return Ok(self.encode_ino(o.layer, o.ino)),
            (None, None) => return Err(Errno::EIO),
        };
        // With nfs_export, only what is indexed is known to be the one upper of its lower object.
        if self.config.nfs_export && r.index.is_none() && !self.is_indexed_dir(r)? {
            return Ok(own);
        }
        if r.stat.kind() == Kind::Dir {
            return Ok(r.lower.first().map_or(own, |o| self.encode_ino(o.layer, o.ino)));
        }
        if let Some(o) = &r.origin
            && (o.nlink == 1 || r.index.is_some())
        {
            return Ok(self.numbers.shown(o.ino, o.fsid));
        }
        match r.lower.first() {
            Some(o) if r.upper.as_ref().is_some_and(|u| u.origin) => Ok(self.encode_ino(o.layer, o.ino)),
            _ => Ok(own),
        }
    }

    /// Whether the index has an entry for the lower object of a merged directory (L-30).
    fn is_indexed_dir(&self, r: &Resolved) -> Result<bool> {
        let (Some(upper), Some(object), Kind::Dir) = (&self.upper, r.lower.first(), r.stat.kind()) else {
            return Ok(false);
        };
        let Some(index) = upper.index() else { return Ok(false) };
        let record = self.origin_record(&object.real(&self.cache)?, object.layer)?;
        if record.is_empty() {
            return Ok(false);
        }
        Ok(index.find(&NameBuf::new(origin::index_name(&record).as_bytes())?)?.is_some())
    }

    /// The number shown for a raw inode of a layer (0: the upper).
    pub(super) fn encode_ino(&self, layer: u32, ino: u64) -> u64 {
        self.numbers.shown(ino, self.fsid_of(layer))
    }

    /// The number of the filesystem a layer is on.
    pub(super) fn fsid_of(&self, layer: u32) -> FsId {
        match layer {
            0 => UPPER_FS,
            n => self.layer(n).map_or(UPPER_FS, |l| l.fsid),
        }
    }

    /// Looks a resolved object up in the index (I-6): another name of it may have been copied up.
    pub(super) fn apply_index(&self, r: &mut Resolved) -> Result<()> {
        let Some(upper) = &self.upper else { return Ok(()) };
        let Some(index) = upper.index() else { return Ok(()) };
        if r.stat.kind() == Kind::Dir {
            return Ok(());
        }
        let entry = match (&r.upper, r.lower.first()) {
            (None, Some(o)) if o.nlink > 1 || self.config.nfs_export => {
                let real = o.real(&self.cache)?;
                let record = self.origin_record(&real, o.layer)?;
                if record.is_empty() { None } else { Some(origin::index_name(&record)) }
            }
            _ => None,
        };
        match entry {
            Some(name) => {
                let name = NameBuf::new(name.as_bytes())?;
                let Some(stat) = index.find(&name)? else { return Ok(()) };
                if stat.is_whiteout_device() {
                    return Err(Errno::EIO);
                }
                let set = crate::layer::marks::present(index.at(&name), self.prefix)?;
                let metacopy = set.has(Mark::Metacopy);
                let redirect = match set.has(Mark::Redirect) {
                    true => crate::layer::marks::redirect(index.at(&name), self.prefix)?,
                    false => None,
                };
                r.upper = Some(super::node::UpperPart {
                    metacopy,
                    redirect,
                    origin: set.has(Mark::Origin),
                    index: Some(name.clone()),
                    ..Default::default()
                });
                r.upper_marks = set;
                let links = r.lower.first().map_or(1, |o| o.nlink);
                r.stat = stat;
                r.stat.nlink = self.linked_count(index.at(&name), stat.nlink, links)?;
                r.index = Some(name);
            }
            None if r.upper.as_ref().is_some_and(|u| u.origin) => self.find_index_of_upper(r)?,
            None => {}
        }
        Ok(())
    }

    /// Whether an upper object found by name is the one an index entry stands for.
    fn find_index_of_upper(&self, r: &mut Resolved) -> Result<()> {
        let (Some(upper), Some(from)) = (&self.upper, &r.origin) else { return Ok(()) };
        let Some(index) = upper.index() else { return Ok(()) };
        if r.stat.nlink < 2 {
            return Ok(());
        }
        let name = NameBuf::new(origin::index_name(&from.record).as_bytes())?;
        match index.find(&name)? {
            Some(stat) if stat.ino == r.stat.ino && stat.dev == r.stat.dev => {
                r.stat.nlink = self.linked_count(index.at(&name), stat.nlink, from.nlink)?;
                if let Some(part) = &mut r.upper {
                    part.index = Some(name.clone());
                }
                r.index = Some(name);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The links of the union: those of the upper or lower inode, corrected by `P.nlink` (1.5).
    fn linked_count(&self, at: At<'_>, upper: u32, lower: u32) -> Result<u32> {
        let Some(value) = at.find_xattr(self.prefix.attr(Mark::Nlink))? else { return Ok(upper) };
        Ok(parse_nlink(&value, upper, lower).unwrap_or(upper))
    }

    /// The name of a node's index entry, if it is to have one (I-6, L-30).
    pub(super) fn index_entry_for(&self, node: &Node, lower: &Real) -> Result<Option<NameBuf>> {
        let Some(object) = node.lower.first() else { return Ok(None) };
        let wanted = self.config.nfs_export || (node.kind != Kind::Dir && object.nlink > 1);
        if !self.indexes() || !wanted {
            return Ok(None);
        }
        let record = self.origin_record(lower, object.layer)?;
        if record.is_empty() {
            return Ok(None);
        }
        NameBuf::new(origin::index_name(&record).as_bytes()).map(Some)
    }

    /// Gives a directory that is being copied up its index entry: an empty directory that names it (L-30). Whatever a
    /// crash left under that name is replaced.
    pub(super) fn index_dir(&self, upper: &Upper, entry: &Name, copy: &Staged<'_>) -> Result<()> {
        let index = upper.index().ok_or(Errno::EIO)?;
        let uuid = if self.keeps_uuids { handle::filesystem_uuid(upper.root()) } else { [0; 16] };
        let record = Record { handle: handle::of(copy.at())?, uuid, upper: true };
        let staged = upper.stage_dir()?;
        upper.mark(staged.at(), Mark::Upper, &origin::encode(&record).ok_or(Errno::EOPNOTSUPP)?)?;
        staged.at().chmod(0)?;
        staged.publish_over(index, entry)
    }

    /// With `nfs_export`, what becomes of the index entry of a lower object whose last name went: a whiteout, which makes
    /// handles taken earlier stale (I-9).
    fn bury(&self, upper: &Upper, index: &Dir, entry: &Name) -> Result<()> {
        match index.find(entry)? {
            Some(stat) if !stat.is_whiteout_device() => {
                let debris = upper.replace_by_whiteout(index, entry, stat.kind())?;
                upper.clean(debris);
                Ok(())
            }
            Some(_) => Ok(()),
            None => upper.whiteout(index, entry),
        }
    }

    /// Writes the union's link count relative to the upper inode's, before that one changes.
    pub(super) fn set_nlink_mark(&self, node: &Arc<Node>) -> Result<()> {
        let Some(upper) = &self.upper else { return Ok(()) };
        let nlink = {
            let state = node.state();
            match (&state.upper, state.nlink) {
                (Some(part), Some(nlink)) if part.index.is_some() => nlink,
                _ => return Ok(()),
            }
        };
        let real = self.upper_real(node)?.ok_or(Errno::ESTALE)?;
        let difference = i64::from(nlink) - i64::from(real.at().stat()?.nlink);
        upper.mark(real.at(), Mark::Nlink, format!("U{difference:+}").as_bytes())
    }

    /// Writes the union's link count relative to the lower inode's, which never changes: what holds while names are
    /// added to the upper inode that the union has had all along.
    pub(super) fn set_nlink_mark_by_lower(&self, node: &Arc<Node>) -> Result<()> {
        let Some(upper) = &self.upper else { return Ok(()) };
        let nlink = node.state().nlink;
        let Some(nlink) = nlink else { return Ok(()) };
        let real = self.upper_real(node)?.ok_or(Errno::ESTALE)?;
        let lower = match node.lower.first() {
            Some(object) => Some(object.nlink),
            None => self.decode_origin(real.at())?.map(|o| o.nlink),
        };
        let Some(lower) = lower else { return Ok(()) };
        upper.mark(real.at(), Mark::Nlink, nlink_by_lower(nlink, lower).as_bytes())
    }

    /// Before a name of an indexed file goes: the file must be indexed, the name must be one of the upper inode's (it is
    /// by that link that the count goes down), and the count must be written down.
    pub(super) fn index_before_unlink(
        &self,
        caller: &Caller,
        node: &Arc<Node>,
        parent: &Arc<Node>,
        name: &crate::sys::Name,
    ) -> Result<()> {
        if !self.indexes() {
            return Ok(());
        }
        let shared = node.kind != Kind::Dir && node.lower.first().is_some_and(|o| o.nlink > 1);
        let exported = self.config.nfs_export && !node.lower.is_empty();
        if shared || exported {
            if node.kind != Kind::Dir {
                node.prefer_alias(parent.id, name);
            }
            self.copy_up(caller, node, super::copy_up::Data::MetaOnly)?;
        }
        if node.kind != Kind::Dir && node.state().upper.as_ref().is_some_and(|u| u.index.is_some()) {
            self.link_up_name(caller, node, parent, name)?;
        }
        self.set_nlink_mark(node)
    }

    /// After a name of an indexed file went: the last one takes the index entry along.
    pub(super) fn index_after_unlink(&self, node: &Arc<Node>) -> Result<()> {
        if node.kind == Kind::Dir {
            return self.index_after_rmdir(node);
        }
        let (entry, left) = {
            let mut state = node.state();
            let Some(nlink) = &mut state.nlink else { return Ok(()) };
            *nlink = nlink.saturating_sub(1);
            let left = *nlink;
            (state.upper.as_ref().and_then(|u| u.index.clone()), left)
        };
        let (Some(entry), Some(upper), 0) = (entry, &self.upper, left) else { return Ok(()) };
        let Some(index) = upper.index() else { return Ok(()) };
        let pinned = index.at(&entry).pin()?;
        {
            let mut state = node.state();
            state.orphan = Some(Arc::new(crate::sys::Dir::from(pinned)));
            if let Some(part) = &mut state.upper {
                part.index = None;
            }
        }
        if self.config.nfs_export { self.bury(upper, index, &entry) } else { index.unlink(&entry) }
    }

    fn index_after_rmdir(&self, node: &Arc<Node>) -> Result<()> {
        let (Some(upper), Some(lower), true) = (&self.upper, node.lower.first(), self.config.nfs_export)
        else {
            return Ok(());
        };
        let entry = self.index_entry_for(node, &lower.real(&self.cache)?)?;
        match (entry, upper.index()) {
            (Some(entry), Some(index)) => self.bury(upper, index, &entry),
            _ => Ok(()),
        }
    }
}

/// A link count as `L+n`.
pub(super) fn nlink_by_lower(nlink: u32, lower: u32) -> String {
    format!("L{:+}", i64::from(nlink) - i64::from(lower))
}

/// The lower object that a record names, and a layer of its filesystem.
pub(super) fn locate<'a>(layers: &'a [LayerInfo], record: &Record) -> Result<Option<(&'a LayerInfo, Stat)>> {
    for layer in layers.iter().filter(|l| l.decodes && l.uuid == record.uuid) {
        let Ok(fd) = handle::open(layer.clone.root.as_fd(), &record.handle) else { continue };
        let stat = At::Fd(fd.as_fd()).stat()?;
        if stat.dev == layer.dev {
            return Ok(Some((layer, stat)));
        }
    }
    Ok(None)
}

/// Parses `U+n` and `L-n`. `None` for anything else, and for a count that cannot be.
pub(super) fn parse_nlink(value: &[u8], upper: u32, lower: u32) -> Option<u32> {
    let text = std::str::from_utf8(value).ok()?;
    let base = match text.as_bytes().first()? {
        b'U' => upper,
        b'L' => lower,
        _ => return None,
    };
    let difference: i64 = text.get(1..)?.parse().ok()?;
    u32::try_from(i64::from(base) + difference).ok().filter(|&n| n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_counts_are_relative_to_the_upper_or_the_lower_inode() {
        assert_eq!(parse_nlink(b"U+1", 2, 5), Some(3));
        assert_eq!(parse_nlink(b"L-1", 2, 5), Some(4));
        assert_eq!(parse_nlink(b"U-2", 2, 5), None);
        assert_eq!(parse_nlink(b"X+1", 2, 5), None);
        assert_eq!(parse_nlink(b"", 2, 5), None);
    }
}
