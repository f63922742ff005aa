//! Copy-up: bringing an object into the upper with everything that must be preserved (overlay-spec section 2).
//!
//! The hard part is what may happen meanwhile: another trigger on the same object (one copy, the others wait: the
//! node's `copying` lock), a removal of the name (the copy becomes an orphan), and changes in the directory (not held
//! up: its lock is taken only for the publishing link). Ancestors come first, top down, each as an empty directory.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Union;
use super::ids::is_acl;
use super::node::{Alias, Names, Node, UpperPart};
use super::owner::UPPER;
use super::types::Caller;
use crate::layer::Real;
use crate::layer::marks::Mark;
use crate::layer::stand_in;
use crate::sys::{At, Dir, Errno, Kind, Result, SetTime, Stat, file};
use crate::upper::{Staged, Upper};

/// How much of a regular file's data the caller needs in the upper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    /// None, where `metacopy=on` allows to leave it below (C-25); all of it otherwise.
    MetaOnly,
    /// All.
    Full,
    /// Only so many bytes: the rest is about to be cut off (C-11).
    UpTo(u64),
}

impl Union {
    /// Makes sure that `node` has an upper, with data as `data` says. Errors: EROFS without an upper; EINTR when
    /// interrupted (nothing is left behind, C-18); what either filesystem says.
    pub(super) fn copy_up(&self, caller: &Caller, node: &Arc<Node>, data: Data) -> Result<()> {
        let upper = self.upper.as_ref().ok_or(Errno::EROFS)?;
        if !is_satisfied(node, data) {
            let stop = self.interrupts.watch(caller.request);
            for ancestor in missing_ancestors(node) {
                self.copy_up_one(upper, stop.flag(), &ancestor, Data::Full)?;
            }
            self.copy_up_one(upper, stop.flag(), node, data)?;
        }
        match node.any_alias() {
            Some(Alias { parent, name, upper: false })
                if self.names_matter(node) || is_in_index_alone(node) =>
            {
                self.link_up_name(caller, node, &parent, &name)
            }
            _ => Ok(()),
        }
    }

    /// [`Union::copy_up`] of a directory that is about to be changed.
    pub(super) fn copy_up_dir(&self, caller: &Caller, node: &Arc<Node>) -> Result<Arc<Dir>> {
        self.copy_up(caller, node, Data::Full)?;
        self.upper_dir(node)?.ok_or(Errno::EROFS)
    }

    fn copy_up_one(&self, upper: &Upper, stop: &AtomicBool, node: &Arc<Node>, data: Data) -> Result<()> {
        let _copying = node.copying(stop)?;
        if is_satisfied(node, data) {
            return Ok(());
        }
        if node.has_upper() {
            return self.bring_data(upper, stop, node);
        }
        if node.data_path.is_some() {
            // Data that is missing is found out before anything is made (C-27).
            self.lower_data(node)?;
        }
        let top = node.lower.first().ok_or(Errno::EIO)?;
        let lower = top.real(&self.cache)?;
        let raw = lower.at().stat()?;
        let stat = self.seen(top.layer, lower.at(), raw)?;
        self.copies.fetch_add(1, Ordering::Relaxed);
        let leave_data = self.config.metacopy && stat.kind() == Kind::File && data == Data::MetaOnly;
        let staged = self.stage_copy(
            upper,
            stop,
            node,
            (&lower, &raw, &stat),
            if leave_data { None } else { Some(data) },
        )?;
        let part = self.mark_copy(upper, node, &lower, &stat, &staged, leave_data)?;
        // Mode, then times, each of which something before it would undo (C-6).
        if self.overrides() {
            self.own(staged.at(), staged.at().stat()?.kind(), &stat)?;
        } else if stat.kind() != Kind::Symlink {
            staged.at().chmod(stat.mode)?;
        }
        staged.at().utimens(Some(SetTime::To(stat.atime)), Some(SetTime::To(stat.mtime)))?;
        self.publish_copy(upper, node, &stat, staged, part)
    }

    /// Builds the object with data, attributes and flags (C-6).
    fn stage_copy<'u>(
        &self,
        upper: &'u Upper,
        stop: &AtomicBool,
        node: &Arc<Node>,
        (lower, raw, stat): (&Real, &Stat, &Stat),
        data: Option<Data>,
    ) -> Result<Staged<'u>> {
        let layer = node.lower.first().map_or(UPPER, |object| object.layer);
        let staged = match raw.kind() {
            Kind::File => {
                let (staged, fd) = upper.stage_file()?;
                self.own_copy(staged.at(), stat)?;
                // Any change of size or data takes `security.capability` away, so it comes before the attributes.
                match data {
                    Some(data) => self.fill(stop, node, &fd, stat.size, data)?,
                    None => file::truncate(fd.as_fd(), stat.size)?,
                }
                self.copy_xattrs(layer, lower.at(), staged.at())?;
                if data.is_some() && upper.syncs() {
                    file::sync(fd.as_fd(), false)?;
                }
                self.copy_fileattr(upper, lower.at(), staged.at(), stat)?;
                return Ok(staged);
            }
            Kind::Dir => upper.stage_dir()?,
            Kind::Symlink => {
                let target = std::ffi::CString::new(lower.at().readlink()?).map_err(|_| Errno::EIO)?;
                upper.stage_symlink(&target)?
            }
            _ if self.overrides() => upper.stage_file()?.0,
            kind => upper.stage_node(kind, stat.rdev)?,
        };
        self.own_copy(staged.at(), stat)?;
        self.copy_xattrs(layer, lower.at(), staged.at())?;
        if stat.kind() == Kind::Dir {
            self.copy_fileattr(upper, lower.at(), staged.at(), stat)?;
        }
        Ok(staged)
    }

    /// Copies the data of a node's lower file into `to`, stoppable by an interrupt of the caller's request (C-18).
    fn fill(&self, stop: &AtomicBool, node: &Arc<Node>, to: &OwnedFd, size: u64, data: Data) -> Result<()> {
        let size = match data {
            Data::UpTo(limit) => size.min(limit),
            Data::MetaOnly | Data::Full => size,
        };
        if size == 0 {
            return Ok(());
        }
        let from = open_lower(self.lower_data(node)?.at())?;
        crate::sys::copy::copy_data(from.as_fd(), to.as_fd(), size, stop)?;
        self.copied_bytes.fetch_add(size, Ordering::Relaxed);
        Ok(())
    }

    /// The owner comes before everything else: changing it takes `security.capability` away.
    fn own_copy(&self, at: At<'_>, stat: &Stat) -> Result<()> {
        if self.overrides() { Ok(()) } else { at.chown(Some(stat.uid), Some(stat.gid)) }
    }

    /// Every attribute but private ones; what is escaped stays so (C-5, C-7). A filesystem without any attributes
    /// takes the copy without them, as in the kernel.
    fn copy_xattrs(&self, layer: u32, from: At<'_>, to: At<'_>) -> Result<()> {
        let takes_any = self.upper.as_ref().is_some_and(|upper| upper.features().xattr);
        let shifted = self.is_shifted(layer);
        for name in from.listxattr()?.split(|&b| b == 0).filter(|n| !n.is_empty()) {
            if self.prefix.owns(name) && self.prefix.shown(name).is_none() {
                continue;
            }
            if self.overrides() && stand_in::is_override(name) {
                continue;
            }
            let name = std::ffi::CString::new(name).map_err(|_| Errno::EIO)?;
            let Some(mut value) = from.find_xattr(&name)? else { continue };
            if shifted && is_acl(&name) {
                value = self.config.ids.acl_stored(&value)?;
            } else if shifted && name.to_bytes() == b"security.capability" {
                value = self.config.ids.capability_stored(&value)?;
            }
            match to.setxattr(&name, &value, 0) {
                Err(Errno::EOPNOTSUPP) if !takes_any || !must_be_kept(name.to_bytes()) => {}
                done => done?,
            }
        }
        Ok(())
    }

    /// Flags: sync and noatime go onto the copy, immutable and append-only into a mark (C-8).
    fn copy_fileattr(&self, upper: &Upper, from: At<'_>, to: At<'_>, stat: &Stat) -> Result<()> {
        super::fileattr::copy_flags(from, to, stat.kind())?;
        let letters: Vec<u8> = [(stat.append_only, b'a'), (stat.immutable, b'i')]
            .into_iter()
            .filter_map(|(set, letter)| set.then_some(letter))
            .collect();
        if !letters.is_empty() {
            upper.mark(to, Mark::Protattr, &letters)?;
        }
        Ok(())
    }

    /// Private marks of a copy: origin, metacopy.
    fn mark_copy(
        &self,
        upper: &Upper,
        node: &Arc<Node>,
        lower: &Real,
        stat: &Stat,
        staged: &Staged<'_>,
        leave_data: bool,
    ) -> Result<UpperPart> {
        let indexed = self.index_entry_for(node, lower)?;
        let origin = stat.kind() == Kind::Dir || stat.nlink == 1 || indexed.is_some();
        if origin {
            let record = self.origin_record(lower, node.lower.first().map_or(1, |o| o.layer))?;
            upper.mark_if_possible(staged.at(), Mark::Origin, &record)?;
        }
        if indexed.is_some() && stat.kind() != Kind::Dir {
            let nlink = node.state().nlink.unwrap_or(stat.nlink);
            let mark = super::index::nlink_by_lower(nlink, stat.nlink);
            upper.mark(staged.at(), Mark::Nlink, mark.as_bytes())?;
        }
        if leave_data {
            upper.mark(staged.at(), Mark::Metacopy, b"")?;
        }
        Ok(UpperPart { metacopy: leave_data, origin, index: indexed, ..UpperPart::default() })
    }

    /// The one system call that makes the copy visible, with the directory's names locked.
    fn publish_copy(
        &self,
        upper: &Upper,
        node: &Arc<Node>,
        stat: &Stat,
        staged: Staged<'_>,
        part: UpperPart,
    ) -> Result<()> {
        loop {
            let Some(alias) = node.any_alias() else {
                return match &part.index {
                    Some(entry) if node.state().orphan.is_none() => {
                        // Reached by a handle: no name is known, and the index needs none (I-9).
                        staged.publish_new(upper.index().ok_or(Errno::EIO)?, entry)?;
                        self.adopt(node, stat, part);
                        Ok(())
                    }
                    _ => self.publish_orphan(node, staged, part),
                };
            };
            let dir = self.upper_dir(&alias.parent)?.ok_or(Errno::EIO)?;
            let mut names = alias.parent.names_mut();
            let still =
                node.state().aliases.iter().any(|a| a.parent.id == alias.parent.id && a.name == alias.name);
            if !still {
                continue;
            }
            if let Some(entry) = &part.index
                && stat.kind() != Kind::Dir
            {
                let index = upper.index().ok_or(Errno::EIO)?;
                staged.publish_new(index, entry)?;
                self.adopt(node, stat, part.clone());
                return self.link_up(upper, node, &alias, &dir, &mut names);
            }
            self.make_impure(upper, &alias.parent, &mut names)?;
            if let Some(entry) = &part.index {
                self.index_dir(upper, entry, &staged)?;
            }
            let before = dir.this().stat()?;
            staged.publish_new(&dir, &alias.name)?;
            restore_times(&dir, &before);
            node.add_alias(&alias.parent, &alias.name, true);
            let before = node.state().ino;
            self.adopt(node, stat, part);
            names.renumbered(&alias.name);
            drop(names);
            if before != node.state().ino {
                self.transport.forget_listing(alias.parent.id);
            } else {
                self.listing_is_due(&alias.parent);
            }
            self.listing_is_due(node);
            return Ok(());
        }
    }

    /// Records that the node has an upper now.
    fn adopt(&self, node: &Arc<Node>, stat: &Stat, part: UpperPart) {
        let full = !part.metacopy;
        let breaks = stat.kind() != Kind::Dir && stat.nlink > 1 && part.index.is_none();
        {
            let mut state = node.state();
            if part.index.is_some() && stat.kind() != Kind::Dir {
                state.nlink.get_or_insert(stat.nlink);
            }
            state.upper = Some(part);
        }
        if full {
            self.note_upper_data(node);
        }
        if breaks {
            self.renumber(node);
        }
        self.transport.forget_attributes(node.id);
    }

    /// A copy of a lower name with several links is a file of its own (I-5): it has the upper's number.
    fn renumber(&self, node: &Arc<Node>) {
        match self.upper_real(node).and_then(|r| r.map_or(Err(Errno::EIO), |r| r.at().stat())) {
            Ok(stat) => node.state().ino = self.encode_ino(0, stat.ino),
            Err(e) => log::warn!("cannot read the number of a copied-up file: {e}"),
        }
    }

    /// The name went away while its data was being copied: the copy lives on without one (C-24).
    fn publish_orphan(&self, node: &Arc<Node>, staged: Staged<'_>, part: UpperPart) -> Result<()> {
        let fd = staged.into_orphan()?;
        let full = !part.metacopy;
        {
            let mut state = node.state();
            state.orphan = Some(Arc::new(Dir::from(fd)));
            state.upper = Some(part);
        }
        if full {
            self.note_upper_data(node);
        }
        Ok(())
    }

    /// Gives an indexed file its name in the upper (I-6).
    fn link_up(
        &self,
        upper: &Upper,
        node: &Arc<Node>,
        alias: &Alias,
        dir: &Dir,
        names: &mut Names,
    ) -> Result<()> {
        self.make_impure(upper, &alias.parent, names)?;
        self.set_nlink_mark_by_lower(node)?;
        let real = self.upper_real(node)?.ok_or(Errno::EIO)?;
        let before = dir.this().stat()?;
        match dir.link(real.at(), &alias.name) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(e) => return Err(e),
        }
        restore_times(dir, &before);
        node.add_alias(&alias.parent, &alias.name, true);
        self.set_nlink_mark(node)
    }

    /// Makes sure that one particular name of an indexed node exists in the upper.
    pub(super) fn link_up_name(
        &self,
        caller: &Caller,
        node: &Arc<Node>,
        parent: &Arc<Node>,
        name: &crate::sys::Name,
    ) -> Result<()> {
        let upper = self.upper.as_ref().ok_or(Errno::EROFS)?;
        let known =
            node.state().aliases.iter().any(|a| a.upper && a.parent.id == parent.id && *a.name == *name);
        if known {
            return Ok(());
        }
        let dir = self.copy_up_dir(caller, parent)?;
        let alias = Alias { parent: Arc::clone(parent), name: name.to_owned(), upper: true };
        let mut names = parent.names_mut();
        self.link_up(upper, node, &alias, &dir, &mut names)
    }

    /// Some child has an origin now: listings must look numbers up (`P.impure`).
    pub(super) fn make_impure(&self, upper: &Upper, parent: &Arc<Node>, names: &mut Names) -> Result<()> {
        if names.impure {
            return Ok(());
        }
        if let Some(dir) = self.upper_dir(parent)? {
            upper.mark_if_possible(dir.this(), Mark::Impure, b"y")?;
            names.impure = true;
        }
        Ok(())
    }

    /// Brings the data of a metadata-only upper (C-25). Until the mark goes, which is one system call, the data below
    /// counts. So all of it must be there by then, also what the caller is about to cut off: a file cut short before
    /// its mark goes, or after, would be neither the old nor the new one if the machine stopped in between.
    fn bring_data(&self, upper: &Upper, stop: &AtomicBool, node: &Arc<Node>) -> Result<()> {
        let real = self.steady(node)?;
        let stat = real.at().stat()?;
        let capability = real.at().find_xattr(c"security.capability")?;
        self.copies.fetch_add(1, Ordering::Relaxed);
        let fd = real.at().open(libc::O_WRONLY)?;
        self.fill(stop, node, &fd, stat.size, Data::Full)?;
        if upper.syncs() {
            file::sync(fd.as_fd(), false)?;
        }
        if let Some(value) = capability {
            real.at().setxattr(c"security.capability", &value, 0)?;
        }
        real.at().removexattr(upper.reader().prefix.attr(Mark::Metacopy))?;
        if let Some(part) = &mut node.state().upper {
            part.metacopy = false;
        }
        self.note_upper_data(node);
        self.transport.forget_attributes(node.id);
        Ok(())
    }
}

/// Whether an attribute that cannot be copied fails the copy-up (C-7).
fn must_be_kept(name: &[u8]) -> bool {
    name.starts_with(b"security.") || name.starts_with(b"system.posix_acl_")
}

/// Opens a lower file for reading without touching its access time.
pub(super) fn open_lower(at: At<'_>) -> Result<OwnedFd> {
    open_quietly(at, libc::O_RDONLY | libc::O_NONBLOCK)
}

/// Opens without touching the access time where that is allowed.
pub(super) fn open_quietly(at: At<'_>, flags: i32) -> Result<OwnedFd> {
    match at.open(flags | libc::O_NOATIME) {
        Err(Errno::EPERM) => at.open(flags),
        done => done,
    }
}

fn is_satisfied(node: &Node, data: Data) -> bool {
    match &node.state().upper {
        None => false,
        Some(part) => !part.metacopy || data == Data::MetaOnly,
    }
}

/// A file that was copied up before any of its names was known.
fn is_in_index_alone(node: &Node) -> bool {
    let state = node.state();
    node.kind != Kind::Dir
        && state.upper.as_ref().is_some_and(|u| u.index.is_some())
        && !state.aliases.iter().any(|a| a.upper)
}

/// The ancestors without an upper, topmost first.
fn missing_ancestors(node: &Arc<Node>) -> Vec<Arc<Node>> {
    let mut missing = Vec::new();
    let mut at = node.any_alias();
    while let Some(alias) = at {
        if alias.parent.has_upper() {
            break;
        }
        at = alias.parent.any_alias();
        missing.push(alias.parent);
    }
    missing.reverse();
    missing
}

/// A copy-up is no change of the directory it happens in (C-12). Best effort, as the kernel's.
pub(super) fn restore_times(dir: &Dir, before: &Stat) {
    let times = (Some(SetTime::To(before.atime)), Some(SetTime::To(before.mtime)));
    if let Err(e) = dir.this().utimens(times.0, times.1) {
        log::warn!("cannot restore the times of a directory after a copy-up in it: {e}");
    }
}

/// Interrupts kept for requests that do not watch yet.
const EARLY: usize = 64;

/// Copies that can be told to stop.
#[derive(Debug, Default)]
pub(super) struct Interrupts {
    /// Leaf lock.
    known: std::sync::Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    watched: std::collections::HashMap<u64, Arc<AtomicBool>>,
    /// An interrupt comes once, and another thread may read it before its request has got as far as watching.
    early: std::collections::VecDeque<u64>,
}

/// A copy being watched for an interrupt; dropped when it is over.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    of: &'a Interrupts,
    request: u64,
    flag: Arc<AtomicBool>,
}

impl Interrupts {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn watch(&self, request: u64) -> Watch<'_> {
        let mut known = self.known();
        let flag = Arc::new(AtomicBool::new(known.early.contains(&request)));
        known.watched.insert(request, Arc::clone(&flag));
        Watch { of: self, request, flag }
    }

    pub(super) fn interrupt(&self, request: u64) {
        let mut known = self.known();
        if let Some(flag) = known.watched.get(&request) {
            flag.store(true, Ordering::Relaxed);
            return;
        }
        if known.early.len() == EARLY {
            known.early.pop_front();
        }
        known.early.push_back(request);
    }
}

impl Watch<'_> {
    fn flag(&self) -> &AtomicBool {
        &self.flag
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.of.known().watched.remove(&self.request);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_that_comes_before_its_request_watches_is_not_lost_c18() {
        let interrupts = Interrupts::default();
        interrupts.interrupt(7);
        assert!(interrupts.watch(7).flag().load(Ordering::Relaxed));
        let watch = interrupts.watch(8);
        assert!(!watch.flag().load(Ordering::Relaxed));
        interrupts.interrupt(8);
        assert!(watch.flag().load(Ordering::Relaxed));
        drop(watch);
        (100..1000).for_each(|request| interrupts.interrupt(request));
        assert_eq!(interrupts.known().early.len(), EARLY);
        assert!(interrupts.known().watched.is_empty());
    }
}
