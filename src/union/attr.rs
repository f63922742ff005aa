//! Attributes: what stat(2) shows, and changing it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Union;
use super::copy_up::Data;
use super::mode::{self, Member};
use super::node::Node;
use super::place::gone;
use super::types::{Attr, AttrReply, Caller, HandleId, NodeId, Owner, SetAttr, StatFs, Valid};
use crate::sys::{
    At, Errno, Kind, Result, SetTime, Stat, caller_has_group, caller_keeps_set_ids, caller_owns_any_file,
    file,
};

/// How long a node's attributes stay true: a mapping in passthrough changes times without a request (F-38).
pub(super) fn validity(node: &Node) -> Valid {
    if node.state().data.mappable > 0 { Valid::Never } else { Valid::Unlimited }
}

impl Union {
    /// The merged attributes of a node.
    pub(super) fn attr_of(&self, node: &Arc<Node>) -> Result<Attr> {
        let stat = self.node_seen(node).map_err(gone)?;
        self.attr_from(node, &stat)
    }

    /// The merged attributes, given those of the topmost object.
    pub(super) fn attr_from(&self, node: &Arc<Node>, stat: &Stat) -> Result<Attr> {
        node.note_flags(stat);
        let (ino, indexed, metacopy, orphan) = {
            let state = node.state();
            let metacopy = state.upper.as_ref().is_some_and(|u| u.metacopy);
            (state.ino, state.nlink, metacopy, state.orphan.is_some())
        };
        let nlink = match node.kind {
            Kind::Dir if orphan => 0,
            Kind::Dir if node.is_merged() || self.config.static_nlink => 1,
            Kind::Dir => stat.nlink,
            _ if orphan && state_has_no_upper(node) => 0,
            _ => indexed.unwrap_or(stat.nlink),
        };
        let blocks = if metacopy
            || (node.kind == Kind::File
                && node.lower.len() + usize::from(node.data_path.is_some()) > 1
                && state_has_no_upper(node))
        {
            match self.lower_data(node) {
                Ok(data) => data.at().stat()?.blocks,
                // No data to ask: whole pages, as the kernel guesses.
                Err(Errno::ENOENT) => stat.size.div_ceil(4096) * 8,
                Err(e) => return Err(e),
            }
        } else {
            stat.blocks
        };
        Ok(Attr {
            ino,
            mode: stat.mode,
            nlink,
            owner: Owner { uid: stat.uid, gid: stat.gid },
            rdev: stat.rdev,
            size: stat.size,
            blocks,
            blksize: stat.blksize,
            atime: stat.atime,
            mtime: stat.mtime,
            ctime: stat.ctime,
            btime: stat.btime,
        })
    }

    /// The attributes of a node, or of the object an open handle is on.
    pub fn getattr(&self, node: NodeId, _handle: Option<HandleId>) -> Result<AttrReply> {
        let node = self.node(node)?;
        Ok(AttrReply { attr: self.attr_of(&node)?, valid: validity(&node) })
    }

    /// Changes attributes; copies the object up first (C-1). Errors: EPERM for immutable and append-only objects
    /// EROFS without an upper, and what the upper's filesystem says.
    pub fn setattr(
        &self,
        caller: &Caller,
        node: NodeId,
        handle: Option<HandleId>,
        change: &SetAttr,
    ) -> Result<AttrReply> {
        let node = self.node(node)?;
        if *change == (SetAttr { kill_priv: true, ..SetAttr::default() }) {
            // The same request precedes a write, and is all that is left of a chown(2) that names no id.
            if node.state().data.writers > 0 {
                self.kill_privileges(caller, &node)?;
            } else {
                self.chown_to_nobody_else(caller, &node)?;
            }
            return Ok(AttrReply { attr: self.attr_of(&node)?, valid: validity(&node) });
        }
        check_flags(&node, change, handle.is_some())?;
        let data = match change.size {
            None => Data::MetaOnly,
            Some(size) => Data::UpTo(size),
        };
        self.copy_up(caller, &node, data)?;
        if let Some(size) = change.size {
            self.truncate(&node, handle, size)?;
        }
        let real = self.steady_upper(&node)?;
        if change.uid.is_some() || change.gid.is_some() {
            self.chown(caller, real.at(), change)?;
        }
        self.apply(real.at(), change)?;
        if change.kill_priv {
            self.kill_privileges(caller, &node)?;
        }
        self.listing_is_due(&node);
        Ok(AttrReply { attr: self.attr_of(&node)?, valid: validity(&node) })
    }

    fn truncate(&self, node: &Arc<Node>, handle: Option<HandleId>, size: u64) -> Result<()> {
        if let Some(handle) = handle
            && let Ok(handle) = self.handles.file(handle)
            && handle.writable
        {
            return file::truncate(std::os::fd::AsFd::as_fd(&self.data_fd(&handle)?), size);
        }
        let real = self.steady_upper(node)?;
        let fd = real.at().open(libc::O_WRONLY)?;
        file::truncate(std::os::fd::AsFd::as_fd(&fd), size)
    }

    /// chown(2) without any id: changes nothing but what every chown takes away. Errors: EPERM for strangers, if there is
    /// anything to take.
    fn chown_to_nobody_else(&self, caller: &Caller, node: &Arc<Node>) -> Result<()> {
        let stat = self.node_seen(node)?;
        let after = mode::after_chown(stat.mode, self.membership(caller, &stat));
        let stranger = self.owner_of(caller).uid != stat.uid && !caller_owns_any_file(caller.pid);
        if stranger && after != stat.mode {
            return Err(Errno::EPERM);
        }
        check_flags(node, &SetAttr { mode: Some(0), ..SetAttr::default() }, false)?;
        // Even if nothing is taken (C-1).
        self.copy_up(caller, node, Data::MetaOnly)?;
        if stranger {
            return Ok(());
        }
        let real = self.steady_upper(node)?;
        // Naming no id is still a change: the ctime says so.
        real.at().chown(None, None)?;
        if self.upper_seen(real.at())?.mode != after {
            self.set_mode(real.at(), after)?;
        }
        drop_capability(real.at())
    }

    /// Clears what a change of the data takes away (A-3, F-42): `security.capability`, and suid and sgid unless the
    /// caller may keep them. (The kernel's signal for it comes for the capability alone, too.)
    pub(super) fn kill_privileges(&self, caller: &Caller, node: &Arc<Node>) -> Result<()> {
        if !node.has_upper() {
            return Ok(());
        }
        let real = self.steady(node)?;
        let before = self.upper_seen(real.at())?;
        if before.mode & (libc::S_ISUID | libc::S_ISGID) != 0 && !caller_keeps_set_ids(caller.pid) {
            let after = mode::after_write(before.mode, self.membership(caller, &before));
            if after != before.mode {
                self.set_mode(real.at(), after)?;
                self.transport.forget_attributes(node.id);
            }
        }
        drop_capability(real.at())
    }

    /// Numbers of the upper's filesystem, or of the topmost lower's.
    pub fn statfs(&self) -> Result<StatFs> {
        let root = match &self.upper {
            Some(upper) => Arc::clone(upper.root()),
            None => self.layer(1)?.root.open(&self.cache)?,
        };
        let s = root.statfs()?;
        Ok(StatFs {
            blocks: s.f_blocks,
            bfree: s.f_bfree,
            bavail: s.f_bavail,
            files: s.f_files,
            ffree: s.f_ffree,
            bsize: u32::try_from(s.f_bsize).unwrap_or(4096),
            namelen: 255,
            frsize: u32::try_from(s.f_frsize).unwrap_or(4096),
        })
    }

    /// How many objects the kernel knows.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }
}

/// Removes `security.capability`. It is looked for first: removing even an absent one takes a capability that a
/// server of an ordinary user lacks.
fn drop_capability(at: At<'_>) -> Result<()> {
    match at.find_xattr(c"security.capability")? {
        Some(_) => at.removexattr(c"security.capability"),
        None => Ok(()),
    }
}

fn state_has_no_upper(node: &Node) -> bool {
    node.state().upper.is_none()
}

/// Immutable objects take no change at all, but for the size of a file that was open for writing before; append-only ones
/// neither truncation nor explicit times.
fn check_flags(node: &Node, change: &SetAttr, open: bool) -> Result<()> {
    let state = node.state();
    let now = |t: Option<SetTime>| !matches!(t, Some(SetTime::To(_)));
    let no_ids = change.mode.is_none() && change.uid.is_none() && change.gid.is_none();
    let no_times = now(change.atime) && now(change.mtime);
    let resizes = open && change.size.is_some() && no_ids && no_times;
    let touches = change.size.is_none() && no_ids && no_times;
    if (state.immutable && !resizes) || (state.append_only && !touches) {
        return Err(Errno::EPERM);
    }
    Ok(())
}

impl Union {
    /// Whether the caller is in the group of an object, as far as that matters.
    fn membership(&self, caller: &Caller, stat: &Stat) -> Member {
        if !mode::membership_matters(stat.mode) {
            return Member::No;
        }
        let shown = self.config.ids.shown(Owner { uid: stat.uid, gid: stat.gid }).gid;
        let belongs = self.owner_of(caller).gid == stat.gid
            || caller_has_group(caller.pid, shown)
            || caller_keeps_set_ids(caller.pid);
        if belongs { Member::Yes } else { Member::No }
    }

    /// Changes the owner. The upper's filesystem takes away what it would take from us, who are in every group; the
    /// caller may have to lose more.
    fn chown(&self, caller: &Caller, at: At<'_>, change: &SetAttr) -> Result<()> {
        let before = self.upper_seen(at)?;
        let after = mode::after_chown(before.mode, self.membership(caller, &before));
        self.set_owner(at, change.uid, change.gid)?;
        if after != before.mode && after != self.upper_seen(at)?.mode {
            self.set_mode(at, after)?;
        }
        Ok(())
    }

    /// Mode and times; the owner was first: changing it clears suid, which a mode given along with it may set again.
    fn apply(&self, at: At<'_>, change: &SetAttr) -> Result<()> {
        if let Some(mode) = change.mode {
            self.set_mode(at, mode)?;
        }
        if change.atime.is_some() || change.mtime.is_some() {
            at.utimens(change.atime, change.mtime)?;
        }
        Ok(())
    }

    /// Notes that a node's own upper data exists now: readers of lower descriptors switch over (C-19).
    pub(super) fn note_upper_data(&self, node: &Node) {
        node.has_upper_data.store(true, Ordering::Release);
    }
}
