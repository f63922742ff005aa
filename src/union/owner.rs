//! Who owns an object and with which mode: in its inode, or in the attribute that stands for it.
//!
//! Three things can stand between an inode and what the union says of it: `xattr_permissions`, by which an attribute
//! says owner, mode and type; a lower layer on an idmapped mount, which shows ids that are shifted already; and nothing,
//! which is the usual case. Everything that reads or sets an owner or a mode goes through here.

use std::sync::Arc;

use super::node::Node;
use super::types::Owner;
use super::{Overrides, Union};
use crate::layer::stand_in;
use crate::sys::{At, Errno, Kind, Result, Stat};

/// The index of the upper where layers are counted.
pub(super) const UPPER: u32 = 0;

impl Union {
    /// Whether attributes say owners and modes.
    pub(super) fn overrides(&self) -> bool {
        self.config.overrides == Overrides::Believed
    }

    /// What the object `at` of layer `layer`, whose inode says `stat`, stands for.
    pub(super) fn seen(&self, layer: u32, at: At<'_>, stat: Stat) -> Result<Stat> {
        let stat = if self.overrides() {
            stand_in::unrecorded(stand_in::read(at, stat)?, self.keeper)
        } else {
            stat
        };
        if !self.is_shifted(layer) {
            return Ok(stat);
        }
        let Owner { uid, gid } = self.config.ids.stored(Owner { uid: stat.uid, gid: stat.gid });
        Ok(Stat { uid, gid, ..stat })
    }

    /// [`Union::seen`] of an object of the upper.
    pub(super) fn upper_seen(&self, at: At<'_>) -> Result<Stat> {
        self.seen(UPPER, at, at.stat()?)
    }

    /// [`Union::seen`] of the topmost object of a node.
    pub(super) fn node_seen(&self, node: &Arc<Node>) -> Result<Stat> {
        self.of_top(node, |layer, at| self.seen(layer, at, at.stat()?))
    }

    /// Looks at the topmost object of a node by the rules of its layer. Errors: those of `look`.
    pub(super) fn of_top<T>(&self, node: &Arc<Node>, look: impl Fn(u32, At<'_>) -> Result<T>) -> Result<T> {
        loop {
            let upper = node.has_upper();
            let layer = if upper { UPPER } else { node.lower.first().map_or(UPPER, |object| object.layer) };
            let found = self.steadily(node, |at| look(layer, at));
            // A copy-up in between would have been read by the rules of the layer it came from.
            if node.has_upper() == upper {
                return found;
            }
        }
    }

    /// Whether a layer shows ids that are shifted already; the upper never does.
    pub(super) fn is_shifted(&self, layer: u32) -> bool {
        layer != UPPER && self.layer(layer).is_ok_and(|layer| layer.shifted)
    }

    /// Sets the permission bits of an object of the upper.
    pub(super) fn set_mode(&self, at: At<'_>, mode: u32) -> Result<()> {
        self.change_seen(at, |stat| stat.mode = stat.kind().mode_bits() | mode & 0o7777, |at| at.chmod(mode))
    }

    /// Sets owner and group of an object of the upper; `None` leaves one alone. Set-id bits are the caller's concern.
    pub(super) fn set_owner(&self, at: At<'_>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let change = |stat: &mut Stat| {
            (stat.uid, stat.gid) = (uid.unwrap_or(stat.uid), gid.unwrap_or(stat.gid));
        };
        self.change_seen(at, change, |at| at.chown(uid, gid))
    }

    /// Changes the attribute, or the inode where there is none.
    fn change_seen(
        &self,
        at: At<'_>,
        change: impl FnOnce(&mut Stat),
        on_inode: impl FnOnce(At<'_>) -> Result<()>,
    ) -> Result<()> {
        if !self.overrides() {
            return on_inode(at);
        }
        let raw = at.stat()?;
        if !stand_in::can_carry(raw.kind()) {
            return unless_impossible(on_inode(at));
        }
        let mut stat = self.seen(UPPER, at, raw)?;
        change(&mut stat);
        self.record(at, raw.kind(), &stat)
    }

    /// Gives a new object of the upper, of kind `real`, its owner and mode, all at once.
    pub(super) fn own(&self, at: At<'_>, real: Kind, stat: &Stat) -> Result<()> {
        if !self.overrides() {
            // The owner first: changing it takes set-id bits away.
            at.chown(Some(stat.uid), Some(stat.gid))?;
            return if real == Kind::Symlink { Ok(()) } else { at.chmod(stat.mode) };
        }
        if !stand_in::can_carry(real) {
            return unless_impossible(at.chown(Some(stat.uid), Some(stat.gid)));
        }
        self.record(at, real, stat)
    }

    /// The inode itself stays ours, readable by whoever shares the layers and without set-id bits.
    fn record(&self, at: At<'_>, real: Kind, stat: &Stat) -> Result<()> {
        stand_in::write(at, real, stat)?;
        let backing = stat.mode & 0o777 | 0o755;
        if at.stat()?.mode & 0o7777 == backing { Ok(()) } else { at.chmod(backing) }
    }
}

/// A symbolic link cannot carry an attribute, and its owner may be out of reach; it stays ours then.
fn unless_impossible(done: Result<()>) -> Result<()> {
    match done {
        Err(Errno::EPERM | Errno::EINVAL) => Ok(()),
        done => done,
    }
}
