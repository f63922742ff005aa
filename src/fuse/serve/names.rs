//! Requests about names: find, create, remove, move.

use std::ffi::CStr;

use super::{Reply, Turn};
use crate::fuse::nodes::Target;
use crate::fuse::wire::{Extensions, ForgetList, Wanted, abi, negative_entry};
use crate::sys::{Dev, Errno, Kind, Name, Result};
use crate::union::{NewNode, NodeId, ROOT, RenameMode};

const NOREPLACE: u32 = 1;
const EXCHANGE: u32 = 2;

fn new_node(mode: u32, umask: u32, extensions: &Extensions<'_>) -> NewNode {
    let owned = |(name, value): &(&CStr, &[u8])| (name.to_bytes().to_vec(), value.to_vec());
    NewNode {
        mode: mode & 0o7777,
        umask: umask & 0o777,
        security: extensions.security.iter().map(owned).collect(),
    }
}

impl Turn<'_> {
    pub(super) fn lookup(&mut self, node: NodeId, wanted: Wanted<'_>) -> Result<Reply> {
        let found = match wanted {
            Wanted::Child(name) => self.union.lookup(&self.caller(), node, name)?,
            Wanted::Itself => Some(self.union.lookup_self(node)?),
            Wanted::Parent if node == ROOT => return self.put_unseen(),
            Wanted::Parent => Some(self.union.lookup_parent(node)?),
        };
        match found {
            Some(entry) => self.put_entry(&entry),
            None => self.put(&negative_entry()),
        }
    }

    pub(super) fn forget(&mut self, references: u64) -> Result<Reply> {
        self.forget_one(self.header.nodeid, references);
        Ok(Reply::Nothing)
    }

    pub(super) fn batch_forget(&mut self, list: &ForgetList<'_>) -> Result<Reply> {
        for one in list.iter() {
            self.forget_one(one.nodeid, one.nlookup);
        }
        Ok(Reply::Nothing)
    }

    /// The union's root was never handed out as a reference of its own: it lives as long as the mount.
    fn forget_one(&self, raw: u64, references: u64) {
        match self.server.shape.target_of(raw) {
            Target::Node(node) if node != ROOT => self.union.forget(node, references),
            Target::Node(_) | Target::Unseen => {}
        }
    }

    pub(super) fn symlink(
        &mut self,
        parent: NodeId,
        name: &Name,
        target: &CStr,
        extensions: &Extensions<'_>,
    ) -> Result<Reply> {
        let new = new_node(0o777, 0, extensions);
        let entry = self.union.symlink(&self.creator()?, parent, name, target, &new)?;
        self.put_entry(&entry)
    }

    pub(super) fn mknod(
        &mut self,
        parent: NodeId,
        args: &abi::MknodIn,
        name: &Name,
        extensions: &Extensions<'_>,
    ) -> Result<Reply> {
        let kind = match Kind::of_mode(args.mode) {
            // mknod(2) without a type makes a regular file.
            _ if args.mode & libc::S_IFMT == 0 => Kind::File,
            Kind::Dir | Kind::Symlink => return Err(Errno::EINVAL),
            kind => kind,
        };
        let new = new_node(args.mode, args.umask, extensions);
        let entry =
            self.union.mknod(&self.creator()?, parent, name, kind, Dev::from_wire(args.rdev), &new)?;
        self.put_entry(&entry)
    }

    pub(super) fn mkdir(
        &mut self,
        parent: NodeId,
        args: &abi::MkdirIn,
        name: &Name,
        extensions: &Extensions<'_>,
    ) -> Result<Reply> {
        let new = new_node(args.mode, args.umask, extensions);
        let entry = self.union.mkdir(&self.creator()?, parent, name, &new)?;
        self.put_entry(&entry)
    }

    pub(super) fn rename(&mut self, from: (NodeId, &Name), to: (u64, &Name), flags: u32) -> Result<Reply> {
        let mode = match flags {
            0 => RenameMode::Replace,
            NOREPLACE => RenameMode::NoReplace,
            EXCHANGE => RenameMode::Exchange,
            _ => return Err(Errno::EINVAL),
        };
        let newdir = self.node(to.0)?;
        self.union.rename(&self.caller(), from, (newdir, to.1), mode)?;
        Ok(Reply::Body(0))
    }

    pub(super) fn link(&mut self, old: u64, parent: NodeId, name: &Name) -> Result<Reply> {
        let node = self.node(old)?;
        let entry = self.union.link(&self.caller(), node, parent, name)?;
        self.put_entry(&entry)
    }

    pub(super) fn create(
        &mut self,
        parent: NodeId,
        args: &abi::CreateIn,
        name: &Name,
        extensions: &Extensions<'_>,
    ) -> Result<Reply> {
        let new = new_node(args.mode, args.umask, extensions);
        let flags = args.flags.cast_signed();
        let (entry, opened) = self.union.create(&self.creator()?, parent, name, flags, &new)?;
        self.put_created(&entry, opened, args.open_flags)
    }

    pub(super) fn tmpfile(
        &mut self,
        parent: NodeId,
        args: &abi::CreateIn,
        extensions: &Extensions<'_>,
    ) -> Result<Reply> {
        let new = new_node(args.mode, args.umask, extensions);
        let (entry, opened) = self.union.tmpfile(&self.creator()?, parent, args.flags.cast_signed(), &new)?;
        self.put_created(&entry, opened, args.open_flags)
    }

    /// The union's node behind a second node id of a request.
    fn node(&self, raw: u64) -> Result<NodeId> {
        match self.server.shape.target_of(raw) {
            Target::Node(node) => Ok(node),
            Target::Unseen => Err(Errno::EACCES),
        }
    }
}
