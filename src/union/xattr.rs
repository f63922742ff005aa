//! Extended attributes through the mount (overlay-spec 1.4, 5.2).

use std::ffi::{CStr, CString};

use super::copy_up::Data;
use super::types::{Caller, NodeId, SetXattrMode};
use super::{Overrides, Union, mode};
use crate::layer::stand_in;
use crate::sys::{At, Errno, Kind, Result, caller_has_cap_sys_admin};

impl Union {
    /// Reads an attribute, with ids as the layers record them. Errors: ENODATA, also for private ones (L-24); EINVAL for a
    /// capability of a root user who has no counterpart.
    pub fn getxattr(&self, _caller: &Caller, node: NodeId, name: &CStr) -> Result<Vec<u8>> {
        let node = self.node(node)?;
        if self.config.noacl && is_acl(name) {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.hides(name.to_bytes()) {
            return Err(Errno::ENODATA);
        }
        let stored = self.prefix.stored(name)?;
        let read = |layer, at: At<'_>| {
            let value = at.getxattr(&stored)?;
            if self.is_shifted(layer) { self.config.ids.unshifted(name, value) } else { Ok(value) }
        };
        match self.of_top(&node, read) {
            // A filesystem without ACLs has none; that the mount knows them is another matter.
            Err(Errno::EOPNOTSUPP) if is_acl(name) => Err(Errno::ENODATA),
            answer => answer,
        }
    }

    /// Attributes that say owners are nobody's business but ours (`xattr_permissions`).
    fn hides(&self, name: &[u8]) -> bool {
        self.config.overrides != Overrides::Plain && stand_in::is_override(name)
    }

    /// The names of all attributes that the caller may see, each followed by a NUL (L-24, L-27).
    pub fn listxattr(&self, caller: &Caller, node: NodeId) -> Result<Vec<u8>> {
        let node = self.node(node)?;
        let stored = self.steadily(&node, |at| at.listxattr())?;
        let mut shown = Vec::with_capacity(stored.len());
        let mut trusted = None;
        for name in stored.split(|&b| b == 0).filter(|n| !n.is_empty()) {
            let Some(name) = self.prefix.shown(name) else { continue };
            if self.hides(&name) {
                continue;
            }
            if name.starts_with(b"trusted.")
                && !*trusted.get_or_insert_with(|| caller_has_cap_sys_admin(caller.pid))
            {
                continue;
            }
            shown.extend_from_slice(&name);
            shown.push(0);
        }
        Ok(shown)
    }

    /// Sets an attribute, copying the object up (C-1). Errors: EPERM for immutable and append-only objects and
    /// what the upper's filesystem says.
    pub fn setxattr(
        &self,
        caller: &Caller,
        node: NodeId,
        name: &CStr,
        value: &[u8],
        mode: SetXattrMode,
        kill_sgid: bool,
    ) -> Result<()> {
        let node = self.node(node)?;
        self.check_changeable(&node)?;
        if self.config.noacl && is_acl(name) {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.hides(name.to_bytes()) {
            return Err(Errno::EPERM);
        }
        let stored = self.prefix.stored(name)?;
        if !node.has_upper() {
            self.copy_up(caller, &node, Data::MetaOnly)?;
        }
        let real = self.steady_upper(&node)?;
        let flags = match mode {
            SetXattrMode::Any => 0,
            SetXattrMode::Create => libc::XATTR_CREATE,
            SetXattrMode::Replace => libc::XATTR_REPLACE,
        };
        real.at().setxattr(&stored, value, flags)?;
        if kill_sgid {
            let stat = self.upper_seen(real.at())?;
            let after = mode::after_acl(stat.mode);
            if after != stat.mode {
                self.set_mode(real.at(), after)?;
            }
        }
        self.acl_changed(&node, name);
        self.listing_is_due(&node);
        Ok(())
    }

    /// Removes an attribute; one that is not there copies nothing up (C-2).
    pub fn removexattr(&self, caller: &Caller, node: NodeId, name: &CStr) -> Result<()> {
        let node = self.node(node)?;
        self.check_changeable(&node)?;
        if self.hides(name.to_bytes()) {
            return Err(Errno::EPERM);
        }
        let stored: CString = self.prefix.stored(name)?;
        if self.upper.is_none() {
            return Err(Errno::EROFS);
        }
        if !node.has_upper() {
            self.steadily(&node, |at| at.getxattr(&stored)).map(drop)?;
        }
        if !node.has_upper() {
            self.copy_up(caller, &node, Data::MetaOnly)?;
        }
        let real = self.steady_upper(&node)?;
        real.at().removexattr(&stored)?;
        self.acl_changed(&node, name);
        self.listing_is_due(&node);
        Ok(())
    }

    fn check_changeable(&self, node: &super::node::Node) -> Result<()> {
        let state = node.state();
        if state.immutable || state.append_only { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// A directory's default ACL decides about the umask of what is created in it.
    fn acl_changed(&self, node: &super::node::Node, name: &CStr) {
        if node.kind == Kind::Dir && name == c"system.posix_acl_default" {
            node.names_mut().default_acl = None;
        }
    }
}

fn is_acl(name: &CStr) -> bool {
    name.to_bytes().starts_with(b"system.posix_acl_")
}
