//! New objects and new names.
//!
//! Where the upper has no entry, the filesystem itself creates the object with its final owner and mode in one system
//! call, in the caller's name, so inheritance of groups and ACLs is the filesystem's own. Over a whiteout the object
//! is built in the work directory and renamed over it (D-4), so what a parent would have passed on is computed here.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::copy_up::Data;
use super::node::{Key, Names, Node, State, UpperPart, Wanted};
use super::owner::UPPER;
use super::types::{Caller, Dev, Entry, NewNode, NodeId, Opened};
use super::{Union, acl};
use crate::layer::marks::Mark;
use crate::sys::{Dir, Errno, Kind, Name, Result, Stat, act_as};
use crate::upper::{Slot, Upper};

/// What is to be created.
#[derive(Clone, Copy, Debug)]
enum Make<'a> {
    File,
    Dir,
    Symlink(&'a CStr),
    Special(Kind, Dev),
}

impl Make<'_> {
    fn kind(self) -> Kind {
        match self {
            Make::File => Kind::File,
            Make::Dir => Kind::Dir,
            Make::Symlink(_) => Kind::Symlink,
            Make::Special(kind, _) => kind,
        }
    }
}

/// What was created.
struct Made {
    node: Arc<Node>,
    /// Its metadata: nobody can have changed it yet, for nobody knows it.
    stat: Stat,
    /// A regular file, open for reading and writing, where such a descriptor was at hand.
    fd: Option<OwnedFd>,
}

impl Union {
    /// A regular file, FIFO, socket or device. Errors: EPERM for a 0:0 character device (L-17), EEXIST, EROFS.
    pub fn mknod(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &Name,
        kind: Kind,
        rdev: Dev,
        new: &NewNode,
    ) -> Result<Entry> {
        if kind == Kind::Char && rdev == Dev::default() {
            return Err(Errno::EPERM);
        }
        let make = if kind == Kind::File { Make::File } else { Make::Special(kind, rdev) };
        let made = self.make(caller, parent, name, make, new)?;
        self.reply(&made.node, Some(made.stat))
    }

    /// A directory (D-5, D-6).
    pub fn mkdir(&self, caller: &Caller, parent: NodeId, name: &Name, new: &NewNode) -> Result<Entry> {
        let made = self.make(caller, parent, name, Make::Dir, new)?;
        self.reply(&made.node, Some(made.stat))
    }

    /// A symbolic link.
    pub fn symlink(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &Name,
        target: &CStr,
        new: &NewNode,
    ) -> Result<Entry> {
        let new = NewNode { mode: 0o777, umask: 0, security: new.security.clone() };
        let made = self.make(caller, parent, name, Make::Symlink(target), &new)?;
        self.reply(&made.node, Some(made.stat))
    }

    /// A regular file, opened.
    pub fn create(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &Name,
        flags: i32,
        new: &NewNode,
    ) -> Result<(Entry, Opened)> {
        let Made { node, stat, fd } = self.make(caller, parent, name, Make::File, new)?;
        self.opened_new(&node, Some(stat), fd, flags)
    }

    /// A regular file without a name.
    pub fn tmpfile(
        &self,
        caller: &Caller,
        parent: NodeId,
        flags: i32,
        new: &NewNode,
    ) -> Result<(Entry, Opened)> {
        let parent = self.directory(parent)?;
        let dir = self.copy_up_dir(caller, &parent)?;
        let mode = self.creation_mode(&parent, &dir, new)?;
        let fd = match self.overrides() {
            true => dir.tmpfile(0o600)?,
            false => act_as((caller.owner.uid, caller.owner.gid), || dir.tmpfile(mode))?,
        };
        let at = crate::sys::At::Fd(std::os::fd::AsFd::as_fd(&fd));
        if self.overrides() {
            let gid = self.group_for(caller, &self.upper_seen(dir.this())?);
            let mode = libc::S_IFREG | mode;
            self.own(at, Kind::File, &Stat { uid: caller.owner.uid, gid, mode, ..at.stat()? })?;
        }
        set_security(at, new)?;
        let stat = at.stat()?;
        let pinned = at.pin()?;
        let state = State {
            ino: self.encode_ino(0, stat.ino),
            upper: Some(UpperPart::default()),
            orphan: Some(Arc::new(Dir::from(pinned))),
            ..State::default()
        };
        let wanted = Wanted { id: self.lasting_id_of_upper(at)?, name: None };
        let node = self.nodes.intern(None, wanted, |id| Node::new(id, Kind::File, Vec::new(), state));
        self.opened_new(&node, None, Some(fd), flags)
    }

    fn opened_new(
        &self,
        node: &Arc<Node>,
        stat: Option<Stat>,
        fd: Option<OwnedFd>,
        flags: i32,
    ) -> Result<(Entry, Opened)> {
        let opened = self.open_upper(node, fd, flags & !(libc::O_TRUNC | libc::O_EXCL | libc::O_CREAT));
        let opened = opened.inspect_err(|_| self.forget_node(node.id, 1))?;
        match self.entry(node, stat) {
            Ok(entry) => Ok((entry, opened)),
            Err(e) => {
                self.release(opened.handle);
                self.forget_node(node.id, 1);
                Err(e)
            }
        }
    }

    fn reply(&self, node: &Arc<Node>, stat: Option<Stat>) -> Result<Entry> {
        self.entry(node, stat).inspect_err(|_| self.forget_node(node.id, 1))
    }

    /// Creates and gives the kernel a reference to the node.
    fn make(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &Name,
        what: Make<'_>,
        new: &NewNode,
    ) -> Result<Made> {
        let upper = self.upper.as_ref().ok_or(Errno::EROFS)?;
        if self.hides_markers(name) {
            return Err(Errno::EPERM);
        }
        let parent = self.directory(parent)?;
        if parent.state().immutable {
            return Err(Errno::EPERM);
        }
        let dir = self.copy_up_dir(caller, &parent)?;
        let mut names = parent.names_mut();
        let slot = self.slot(upper, &parent, &dir, &names, name)?;
        let opaque = what.kind() == Kind::Dir && self.marks_new_dirs() && parent.is_merged();
        let mut marked = slot == Slot::Whiteout && what.kind() == Kind::Dir;
        let fd = match slot {
            Slot::Free if new.security.is_empty() && !self.overrides() => {
                let mode = self.mode_for(&mut names, &dir, new)?;
                let fd = act_as((caller.owner.uid, caller.owner.gid), || make_in(&dir, name, what, mode))?;
                if opaque {
                    // Only an optimisation for later mounts (D-6).
                    upper.mark_if_possible(dir.at(name), Mark::Opaque, b"y")?;
                    marked = true;
                }
                fd
            }
            slot => self.make_staged(upper, caller, &dir, name, what, new, slot)?,
        };
        let stat = self.seen(UPPER, dir.at(name), dir.stat(name)?)?;
        let wanted = Wanted { id: self.lasting_id_of_upper(dir.at(name))?, name: None };
        let node = self.adopt_new(&parent, name, &stat, marked, &mut names, wanted);
        Ok(Made { node, stat, fd })
    }

    /// What the upper has at `name`, which the merged tree must not have. Errors: EEXIST.
    pub(super) fn slot(
        &self,
        upper: &Upper,
        parent: &Arc<Node>,
        dir: &Dir,
        names: &Names,
        name: &Name,
    ) -> Result<Slot> {
        if names.dead {
            return Err(Errno::ENOENT);
        }
        match upper.slot(dir, name)? {
            None => return Err(Errno::EEXIST),
            Some(Slot::Whiteout) => return Ok(Slot::Whiteout),
            Some(Slot::Free) => {}
        }
        let known_absent = names.listing.as_ref().is_some_and(|l| !l.has(name));
        if !known_absent && self.lower_has(parent, name)? {
            return Err(Errno::EEXIST);
        }
        Ok(Slot::Free)
    }

    /// Whether a layer below the upper provides `name` of `parent`, were the upper's own entry not there (D-1).
    pub(super) fn lower_has(&self, parent: &Node, name: &Name) -> Result<bool> {
        if let Some(below) = self.known_below(parent) {
            return Ok(below.shows(name));
        }
        for part in &parent.lower {
            let dir = part.open(&self.cache)?;
            let reader = self.layer(part.layer)?.reader;
            match reader.probe(&dir, name, crate::layer::Below::Nothing) {
                Ok(crate::layer::Probe::Absent) => {}
                Ok(crate::layer::Probe::Whiteout) => return Ok(false),
                // What cannot be examined is taken to be there: a needless whiteout is the safe error.
                Ok(crate::layer::Probe::Entry(_)) | Err(_) => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Builds the object in the work directory and publishes it.
    #[allow(clippy::too_many_arguments)]
    fn make_staged(
        &self,
        upper: &Upper,
        caller: &Caller,
        dir: &Dir,
        name: &Name,
        what: Make<'_>,
        new: &NewNode,
        slot: Slot,
    ) -> Result<Option<OwnedFd>> {
        let kind = what.kind();
        let (staged, fd) = match what {
            Make::File => upper.stage_file().map(|(staged, fd)| (staged, Some(fd)))?,
            Make::Dir => (upper.stage_dir()?, None),
            Make::Symlink(target) => (upper.stage_symlink(target)?, None),
            Make::Special(_, _) if self.overrides() => (upper.stage_file()?.0, None),
            Make::Special(kind, rdev) => (upper.stage_node(kind, rdev)?, None),
        };
        let parent = self.upper_seen(dir.this())?;
        let inherited = acl::inherit(dir.this(), kind, new.mode, new.umask)?;
        let set_gid = parent.mode & libc::S_ISGID != 0;
        let keep = if set_gid && kind == Kind::Dir { libc::S_ISGID } else { 0 };
        let raw = staged.at().stat()?;
        let rdev = if let Make::Special(_, rdev) = what { rdev } else { raw.rdev };
        let mode = kind.mode_bits() | inherited.mode | keep;
        let stat = Stat { uid: caller.owner.uid, gid: self.group_for(caller, &parent), mode, rdev, ..raw };
        self.own(staged.at(), raw.kind(), &stat)?;
        if kind != Kind::Symlink {
            inherited.apply(staged.at())?;
        }
        set_security(staged.at(), new)?;
        match (kind, slot) {
            (Kind::Dir, Slot::Whiteout) => {
                upper.mark(staged.at(), Mark::Opaque, b"y")?;
                upper.clean(staged.publish_exchange(dir, name, Kind::Char)?);
            }
            (_, Slot::Whiteout) => staged.publish_over(dir, name)?,
            (_, Slot::Free) => staged.publish_new(dir, name)?,
        }
        Ok(fd)
    }

    /// The group of what the caller makes in `parent`.
    fn group_for(&self, caller: &Caller, parent: &Stat) -> u32 {
        if parent.mode & libc::S_ISGID != 0 { parent.gid } else { caller.owner.gid }
    }

    /// The permission bits to create with: the umask counts only where no default ACL does.
    fn mode_for(&self, names: &mut Names, dir: &Dir, new: &NewNode) -> Result<u32> {
        let has = match names.default_acl {
            Some(known) => known,
            None => {
                let found = dir.this().find_xattr(c"system.posix_acl_default")?.is_some();
                names.default_acl = Some(found);
                found
            }
        };
        Ok(if has { new.mode & 0o7777 } else { new.mode & !new.umask & 0o7777 })
    }

    fn creation_mode(&self, parent: &Arc<Node>, dir: &Dir, new: &NewNode) -> Result<u32> {
        self.mode_for(&mut parent.names_mut(), dir, new)
    }

    /// The node of an object that was just created.
    fn adopt_new(
        &self,
        parent: &Arc<Node>,
        name: &Name,
        stat: &Stat,
        opaque: bool,
        names: &mut Names,
        wanted: Wanted<'_>,
    ) -> Arc<Node> {
        let ino = self.encode_ino(0, stat.ino);
        let state =
            State { ino, upper: Some(UpperPart { opaque, ..UpperPart::default() }), ..State::default() };
        let node = self.nodes.intern(None, wanted, |id| Node::new(id, stat.kind(), Vec::new(), state));
        node.add_alias(parent, name, true);
        self.name_appeared(names, name, &node, Some(ino));
        node
    }

    /// Gives `node` the further name `name` in `parent` (I-7). Errors: EEXIST, EMLINK, EPERM for directories and
    /// immutable files, EXDEV.
    pub fn link(&self, caller: &Caller, node: NodeId, parent: NodeId, name: &Name) -> Result<Entry> {
        let upper = self.upper.as_ref().ok_or(Errno::EROFS)?;
        let (node, parent) = (self.node(node)?, self.directory(parent)?);
        if node.kind == Kind::Dir || self.hides_markers(name) {
            return Err(Errno::EPERM);
        }
        {
            let state = node.state();
            if state.immutable || state.append_only || parent.state().immutable {
                return Err(Errno::EPERM);
            }
        }
        self.copy_up(caller, &node, Data::MetaOnly)?;
        let dir = self.copy_up_dir(caller, &parent)?;
        self.set_nlink_mark(&node)?;
        if node.state().upper.as_ref().is_some_and(|u| u.metacopy) {
            self.store_redirect(upper, &node, super::rename::Reach::AnyDirectory)?;
        }
        let mut names = parent.names_mut();
        let slot = self.slot(upper, &parent, &dir, &names, name)?;
        let real = self.upper_real(&node)?.ok_or(Errno::ESTALE)?;
        if node.state().upper.as_ref().is_some_and(|u| u.origin) {
            self.make_impure(upper, &parent, &mut names)?;
        }
        match slot {
            Slot::Free => dir.link(real.at(), name)?,
            Slot::Whiteout => upper.stage_link(real.at(), node.kind)?.publish_over(&dir, name)?,
        }
        node.add_alias(&parent, name, true);
        self.linked(&node, real.at().stat()?.ino);
        let node = self.nodes.acquire(node.id).ok_or(Errno::ESTALE)?;
        self.name_appeared(&mut names, name, &node, None);
        drop(names);
        self.reply(&node, None)
    }

    /// A file has one more link: it must be recognised by its inode from now on, and is an orphan no more.
    fn linked(&self, node: &Arc<Node>, raw_ino: u64) {
        let key = {
            let mut state = node.state();
            state.orphan = None;
            if let Some(n) = &mut state.nlink {
                *n += 1;
            }
            match state.key {
                Some(_) => None,
                None => Some(*state.key.insert(Key::Upper(raw_ino))),
            }
        };
        if let Some(key) = key {
            self.nodes.set_key(key, node.id);
        }
    }

    /// The directory has a new name. `ino`: its number, where that cannot change once the node is forgotten (without
    /// an origin, a copied-up object then has the upper's).
    pub(super) fn name_appeared(&self, names: &mut Names, name: &Name, node: &Arc<Node>, ino: Option<u64>) {
        names.version += 1;
        names.children.insert(name.to_owned(), node.id);
        if let Some(listing) = &mut names.listing {
            Arc::make_mut(listing).insert(name.to_owned(), node.kind, ino);
        }
    }

    /// A name of the directory is gone.
    pub(super) fn name_vanished(&self, names: &mut Names, name: &Name) {
        names.version += 1;
        names.children.remove(name);
        if let Some(listing) = &mut names.listing {
            Arc::make_mut(listing).remove(name);
        }
    }
}

/// Security attributes the kernel computed for the new inode.
fn set_security(at: crate::sys::At<'_>, new: &NewNode) -> Result<()> {
    for (name, value) in &new.security {
        let name = std::ffi::CString::new(name.as_slice()).map_err(|_| Errno::EINVAL)?;
        at.setxattr(&name, value, 0)?;
    }
    Ok(())
}

/// One system call that makes the object with its final mode.
fn make_in(dir: &Dir, name: &Name, what: Make<'_>, mode: u32) -> Result<Option<OwnedFd>> {
    match what {
        Make::File => dir.create(name, libc::O_RDWR, mode).map(Some),
        Make::Dir => dir.mkdir(name, mode).map(|()| None),
        Make::Symlink(target) => dir.symlink(name, target).map(|()| None),
        Make::Special(kind, rdev) => dir.mknod(name, kind.mode_bits() | mode, rdev).map(|()| None),
    }
}
