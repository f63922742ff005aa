//! Reading directories (overlay-spec 4.2).
//!
//! A directory that only one layer can ever contribute to streams: the real directory's own cookies are handed out.
//! Any other has a merged listing, built once and then kept up to date by every change, in which an entry's offset is
//! derived from its name (I-16). So an offset stays right whatever was added or removed since, in this descriptor or
//! another, and a listing also answers which names are absent.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use super::node::{Names, Node};
use super::types::{Caller, DirEntry, Entry, NodeId};
use super::{Atime, ROOT, Union};
use crate::layer::marks::{self, Mark};
use crate::layer::{Listed, Reader};
use crate::sys::{
    Dir, Errno, Kind, Name, NameBuf, Result, Stat, Time, read_entries, seek_entries, with_entry_buffer,
};

/// The offset after `.`, and the one after `..`.
const AFTER_DOT: u64 = 1;
const AFTER_DOTDOT: u64 = 2;

/// One name of a merged listing.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub name: NameBuf,
    pub kind: Kind,
    /// `st_ino`; `None` until somebody needs it and has to look it up.
    pub ino: Option<u64>,
}

/// A merged listing: entries by offset.
#[derive(Clone, Debug, Default)]
pub(super) struct Listing {
    items: BTreeMap<u64, Item>,
}

/// The offset of a name: 62 bits of it, above those of the dots.
fn offset_of(name: &[u8]) -> u64 {
    // FNV-1a, then a finaliser: offsets must be the same in every mount, so no seeded hasher will do.
    let mut h: u64 = 0xcbf2_9ce4_8422_2325;
    for &b in name {
        h = (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    h ^= h >> 32;
    h = h.wrapping_mul(0xd6e8_feb8_6659_fd93);
    h ^= h >> 32;
    (h >> 2).max(AFTER_DOTDOT + 1)
}

impl Listing {
    /// The offset at which `name` is or would be. Names with equal hashes follow each other.
    fn find(&self, name: &Name) -> std::result::Result<u64, u64> {
        let mut at = offset_of(name.as_bytes());
        while let Some(item) = self.items.get(&at) {
            if *item.name == *name {
                return Ok(at);
            }
            at += 1;
        }
        Err(at)
    }

    pub(super) fn has(&self, name: &Name) -> bool {
        self.find(name).is_ok()
    }

    pub(super) fn insert(&mut self, name: NameBuf, kind: Kind, ino: Option<u64>) {
        let (Ok(at) | Err(at)) = self.find(&name);
        self.items.insert(at, Item { name, kind, ino });
    }

    pub(super) fn remove(&mut self, name: &Name) {
        let Ok(at) = self.find(name) else { return };
        self.items.remove(&at);
        // Close the gap, or names behind it could not be found any more.
        let mut next = at + 1;
        while let Some(item) = self.items.remove(&next) {
            let (Ok(place) | Err(place)) = self.find(&item.name);
            self.items.insert(place, item);
            next += 1;
        }
    }

    pub(super) fn forget_ino(&mut self, name: &Name) {
        if let Ok(at) = self.find(name)
            && let Some(item) = self.items.get_mut(&at)
        {
            item.ino = None;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The first entry at or after `offset`, with its offset.
    fn from(&self, offset: u64) -> Option<(u64, &Item)> {
        self.items.range(offset..).next().map(|(&o, i)| (o, i))
    }
}

/// A real directory being read.
#[derive(Debug)]
pub(super) struct Stream {
    fd: OwnedFd,
    /// Where the descriptor stands.
    at: u64,
    /// While the directory is read from its start and no number so far was another than that of the upper's own object: the
    /// version of its names at the start, and where the next part begins.
    plain: Option<(u64, u64)>,
}

impl Union {
    /// Advances the access time of a directory of the upper that is about to be listed, as the mount's flags say. The
    /// upper's filesystem does it when the directory is read; but what is shown comes from memory, the kernel's or ours.
    fn note_access(&self, node: &Arc<Node>) -> Result<()> {
        let Some(dir) = self.upper_dir(node)? else { return Ok(()) };
        let before = dir.this().stat()?;
        if self.config.atime == Atime::Strict || is_access_due(&before) {
            dir.access()?;
            if dir.this().stat()?.atime != before.atime {
                self.transport.forget_attributes(node.id);
            }
        }
        Ok(())
    }

    /// A change of the metadata of a directory makes its access time due again: the next listing must not come from the
    /// kernel's memory, or nobody would hear of it. Not for those who hold its names.
    pub(super) fn listing_is_due(&self, node: &Node) {
        if node.kind == Kind::Dir && std::mem::take(&mut node.names_mut().listed) {
            self.transport.forget_listing(node.id);
        }
    }

    /// The one real directory that is all there will ever be, if so.
    fn streams(&self, node: &Arc<Node>) -> Result<Option<Arc<Dir>>> {
        if node.has_upper() {
            let single = node.lower.is_empty();
            return if single { self.upper_dir(node) } else { Ok(None) };
        }
        match (node.lower.as_slice(), &self.upper) {
            ([only], None) if !self.layer(only.layer)?.reader.oci => only.open(&self.cache).map(Some),
            _ => Ok(None),
        }
    }

    /// The merged listing of a directory, built if need be.
    fn listing(&self, node: &Arc<Node>) -> Result<Arc<Listing>> {
        loop {
            let version = {
                let names = node.names();
                if names.dead {
                    return Ok(Arc::default());
                }
                if let Some(listing) = &names.listing {
                    return Ok(Arc::clone(listing));
                }
                names.version
            };
            let built = Arc::new(self.merge_listing(node)?);
            let mut names = node.names_mut();
            if names.version == version {
                names.listing = Some(Arc::clone(&built));
                return Ok(built);
            }
        }
    }

    /// Asks every contributor, top first; the first to speak of a name decides (L-1).
    fn merge_listing(&self, node: &Arc<Node>) -> Result<Listing> {
        let mut seen: HashSet<NameBuf> = HashSet::new();
        let mut listing = Listing::default();
        let mut take = |listed: Vec<Listed>, number: &dyn Fn(u64) -> Option<u64>| {
            let mut whiteouts = Vec::new();
            for entry in listed {
                let Some(kind) = entry.kind else {
                    whiteouts.push(entry.name);
                    continue;
                };
                if seen.insert(entry.name.clone()) {
                    listing.insert(entry.name, kind, number(entry.ino));
                }
            }
            seen.extend(whiteouts);
        };
        if let (Some(upper), Some(dir)) = (&self.upper, self.upper_dir(node)?) {
            // An origin may give another number; it is looked up when needed.
            take(upper.reader().list(&dir)?, &|_| None);
        }
        if let Some(below) = self.learn_below(node)? {
            let layer = |part: u32| node.lower.get(part as usize).map_or(0, |object| object.layer);
            below.show(&mut listing, &|name| seen.contains(name), &|part, ino| {
                self.encode_ino(layer(part), ino)
            });
            return Ok(listing);
        }
        for part in &node.lower {
            let dir = part.open(&self.cache)?;
            let reader: Reader = self.layer(part.layer)?.reader;
            take(reader.list(&dir)?, &|ino| Some(self.encode_ino(part.layer, ino)));
        }
        Ok(listing)
    }

    /// Whether the merged listing of a directory is empty; its lock is held by the caller.
    pub(super) fn is_empty_dir(&self, node: &Arc<Node>, names: &mut Names) -> Result<bool> {
        if let Some(listing) = &names.listing {
            return Ok(listing.is_empty());
        }
        Ok(self.merge_listing(node)?.is_empty())
    }

    /// The number of `..`.
    fn parent_ino(&self, node: &Arc<Node>) -> u64 {
        match node.any_alias() {
            Some(alias) if node.id != ROOT => alias.parent.state().ino,
            _ => node.state().ino,
        }
    }

    /// Gives the entries of a directory from `offset` on to `sink` until it says false. Nothing is opened for it, so
    /// nothing has to be closed (F-7). Errors: ENOTDIR, and what the layers' filesystems say.
    pub fn readdir(
        &self,
        node: NodeId,
        offset: u64,
        sink: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let node = self.directory(node)?;
        if node.names().dead {
            return Ok(());
        }
        let noted = self.config.atime != Atime::Never && !self.config.nodiratime;
        if offset == 0 && self.upper.is_some() && noted {
            if let Err(e) = self.note_access(&node) {
                log::debug!("the access time of a directory stays as it is: {}", e.desc());
            }
            node.names_mut().listed = true;
        }
        let Some(dir) = self.streams(&node)? else { return self.merged_entries(&node, offset, sink) };
        let open = || Ok(Mutex::new(Stream { fd: dir.open_readable()?, at: 0, plain: None }));
        let stream = self.kept_dirs.get_or(node.id, open)?;
        let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
        with_entry_buffer(|buf| self.stream_entries(&node, &mut stream, offset, buf, sink))
    }

    fn dots(&self, node: &Arc<Node>, offset: u64, sink: &mut dyn FnMut(DirEntry<'_>) -> bool) -> bool {
        let ino = node.state().ino;
        if offset < AFTER_DOT && !sink(DirEntry { ino, kind: Kind::Dir, next: AFTER_DOT, name: b"." }) {
            return false;
        }
        let ino = self.parent_ino(node);
        offset >= AFTER_DOTDOT || sink(DirEntry { ino, kind: Kind::Dir, next: AFTER_DOTDOT, name: b".." })
    }

    fn merged_entries(
        &self,
        node: &Arc<Node>,
        offset: u64,
        sink: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let listing = self.listing(node)?;
        if !self.dots(node, offset, sink) {
            return Ok(());
        }
        let mut at = offset.max(AFTER_DOTDOT + 1);
        while let Some((here, item)) = listing.from(at) {
            let ino = match item.ino {
                Some(ino) => Some(ino),
                None => self.child_ino(node, &item.name)?,
            };
            at = here + 1;
            let Some(ino) = ino else { continue };
            if !sink(DirEntry { ino, kind: item.kind, next: at, name: item.name.as_bytes() }) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The number of a child, from its node or by resolving the name. `None` when it is not there after all.
    fn child_ino(&self, node: &Arc<Node>, name: &Name) -> Result<Option<u64>> {
        let known = node.names().children.get(name).copied();
        if let Some(child) = known.and_then(|id| self.nodes.get(id)) {
            return Ok(Some(child.state().ino));
        }
        match self.resolve(node, name) {
            Ok(Some(resolved)) => self.ino_of(&resolved).map(Some),
            Ok(None) => Ok(None),
            // A child that cannot be used (L-21, L-22) must not take its siblings along.
            Err(e) => {
                log::warn!("listing {name} without its number: {e}");
                Ok(Some(u64::from(u32::MAX)))
            }
        }
    }

    /// Streams from the real directory. Its cookies are shifted by two, for the dots, and never reach the sign bit.
    fn stream_entries(
        &self,
        node: &Arc<Node>,
        stream: &mut Stream,
        offset: u64,
        buf: &mut [u8],
        sink: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<()> {
        if !self.dots(node, offset, sink) {
            return Ok(());
        }
        let reader = match (&self.upper, node.has_upper()) {
            (Some(upper), true) => upper.reader(),
            _ => self.layer(node.lower.first().map_or(1, |o| o.layer))?.reader,
        };
        let dir = match self.upper_dir(node)? {
            Some(dir) => dir,
            None => node.lower.first().ok_or(Errno::EIO)?.open(&self.cache)?,
        };
        let layer = if node.has_upper() { 0 } else { node.lower.first().map_or(1, |o| o.layer) };
        let impure = layer == 0 && marks::present(dir.this(), reader.prefix)?.has(Mark::Impure);
        let mut at = offset.saturating_sub(AFTER_DOTDOT);
        if stream.at != at || at == 0 {
            // Also at the start: a rewind must show what changed (I-15).
            seek_entries(stream.fd.as_fd(), at as i64)?;
            stream.plain = stream.plain.filter(|&(_, next)| next == at);
        }
        if at == 0 {
            stream.plain = impure.then(|| (node.names().version, 0));
        }
        let mut plain = stream.plain;
        loop {
            let mut failed = None;
            let mut stopped = false;
            let more = read_entries(stream.fd.as_fd(), buf, &mut |raw| {
                let next = raw.next as u64;
                let (name, listed) = (raw.name.clone(), reader.classify(&dir, raw, false));
                let entry = match listed {
                    Ok(Some(Listed { kind: Some(kind), ino, .. })) => (kind, ino),
                    Ok(_) => {
                        at = next;
                        return true;
                    }
                    Err(e) => {
                        failed = Some(e);
                        return false;
                    }
                };
                let ino = match impure {
                    false => Ok(Some(self.encode_ino(layer, entry.1))),
                    true => self.child_ino(node, &name),
                };
                if ino != Ok(Some(self.encode_ino(layer, entry.1))) {
                    plain = None;
                }
                match ino {
                    Ok(Some(ino)) => {
                        let given =
                            DirEntry { ino, kind: entry.0, next: next + AFTER_DOTDOT, name: name.as_bytes() };
                        if !sink(given) {
                            stopped = true;
                            return false;
                        }
                        at = next;
                        true
                    }
                    Ok(None) => {
                        at = next;
                        true
                    }
                    Err(e) => {
                        failed = Some(e);
                        false
                    }
                }
            })?;
            if let Some(e) = failed {
                return Err(e);
            }
            stream.plain = plain.map(|(version, _)| (version, at));
            stream.at = if stopped { u64::MAX } else { at };
            if !stopped
                && !more
                && let Some((version, _)) = stream.plain.take()
            {
                self.make_pure(node, &dir, version);
            }
            if stopped || !more {
                return Ok(());
            }
        }
    }

    /// Takes the mark from a directory in which nothing has an origin any more, if no name changed since `version`. It is
    /// only a hint, so a failure is no error.
    fn make_pure(&self, node: &Arc<Node>, dir: &Dir, version: u64) {
        let (Some(upper), mut names) = (&self.upper, node.names_mut()) else { return };
        if names.version != version {
            return;
        }
        match dir.this().removexattr(upper.reader().prefix.attr(Mark::Impure)) {
            Ok(()) | Err(Errno::ENODATA) => names.impure = false,
            Err(e) => log::debug!("a directory stays marked impure: {}", e.desc()),
        }
    }

    /// Like readdir, each name looked up for the kernel as well.
    pub fn readdirplus(
        &self,
        _caller: &Caller,
        node: NodeId,
        offset: u64,
        sink: &mut dyn FnMut(DirEntry<'_>, Option<Entry>) -> bool,
    ) -> Result<()> {
        let parent = self.directory(node)?;
        self.readdir(node, offset, &mut |entry| {
            let looked_up = match Name::new(&c_name(entry.name)) {
                Ok(name) => self.look_up(&parent, name).ok().flatten(),
                Err(_) => None,
            };
            // An entry that cannot be looked up is still listed, as by the kernel.
            let known = looked_up.as_ref().and_then(|(child, stat)| self.entry(child, *stat).ok());
            let accepted = sink(entry, known);
            if let Some((child, _)) = looked_up
                && (known.is_none() || !accepted)
            {
                self.forget_node(child.id, 1);
            }
            accepted
        })
    }

    /// Makes a directory durable.
    pub fn fsyncdir(&self, node: NodeId, _data_only: bool) -> Result<()> {
        let node = self.directory(node)?;
        self.sync_state.check()?;
        match (&self.upper, self.upper_dir(&node)?) {
            (Some(upper), Some(dir)) if upper.syncs() => dir.sync(),
            _ => Ok(()),
        }
    }
}

/// The rule of `relatime`: the access time is not after the last change, or a day old.
fn is_access_due(stat: &Stat) -> bool {
    const DAY: i64 = 24 * 60 * 60;
    let since = |time: Time| (time.secs, time.nanos);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since(stat.atime) <= since(stat.mtime)
        || since(stat.atime) <= since(stat.ctime)
        || i64::try_from(now.as_secs()).unwrap_or(i64::MAX).saturating_sub(stat.atime.secs) >= DAY
}

fn c_name(name: &[u8]) -> std::ffi::CString {
    std::ffi::CString::new(name).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: &str) -> NameBuf {
        NameBuf::new(n.as_bytes()).unwrap()
    }

    #[test]
    fn offsets_survive_additions_and_removals_i13() {
        let mut l = Listing::default();
        for i in 0..1000 {
            l.insert(name(&format!("f{i}")), Kind::File, Some(i));
        }
        let (middle, _) = l.items.iter().nth(500).map(|(o, i)| (*o, i.clone())).unwrap();
        let behind: Vec<_> = l.items.range(middle..).map(|(_, i)| i.name.clone()).collect();
        for i in 1000..2000 {
            l.insert(name(&format!("f{i}")), Kind::File, Some(i));
        }
        for i in (0..1000).step_by(2) {
            l.remove(&name(&format!("f{i}")));
        }
        let after: Vec<_> = l.items.range(middle..).map(|(_, i)| i.name.clone()).collect();
        for n in behind.iter().filter(|n| l.has(n)) {
            assert!(after.contains(n));
        }
        assert_eq!(l.items.len(), 1500);
    }

    #[test]
    fn names_that_share_an_offset_are_all_found_and_survive_each_others_removal() {
        let mut l = Listing::default();
        let base = offset_of(b"victim");
        l.insert(name("victim"), Kind::File, Some(1));
        // A neighbour that was pushed on by a collision.
        l.items.insert(base + 1, Item { name: name("other"), kind: Kind::File, ino: Some(2) });
        l.remove(&name("victim"));
        assert!(l.has(&name("other")) || l.items.values().any(|i| *i.name == *name("other")));
        assert!(!l.has(&name("victim")));
    }
}
