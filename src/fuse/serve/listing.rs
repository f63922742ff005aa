//! Requests about open directories.

use super::{Reply, Turn, UNASKED, View};
use crate::fuse::wire::abi::{self, fopen};
use crate::fuse::wire::{DirWriter, entry_out};
use crate::sys::{Errno, Result};
use crate::union::NodeId;

impl Turn<'_> {
    /// Nothing is opened: a listing is read by its node, and the kernel is told when one that it cached is stale.
    /// Errors: ENOSYS, after which the kernel does not ask again (F-7).
    pub(super) fn opendir(&mut self) -> Result<Reply> {
        if self.server.unasked.dirs {
            return Err(Errno::ENOSYS);
        }
        let open_flags = fopen::CACHE_DIR | fopen::KEEP_CACHE;
        self.put(&abi::OpenOut { fh: UNASKED, open_flags, backing_id: 0 })
    }

    pub(super) fn readdir(&mut self, node: NodeId, args: &abi::ReadIn) -> Result<Reply> {
        let union = self.union;
        let view = View::of(union.config());
        let mut writer = DirWriter::new(self.window(args.size));
        union.readdir(node, args.offset, &mut |entry| writer.plain(&view.listed(entry)))?;
        Ok(Reply::Body(writer.used()))
    }

    pub(super) fn readdirplus(&mut self, node: NodeId, args: &abi::ReadIn) -> Result<Reply> {
        let (union, shape, caller) = (self.union, self.server.shape, self.caller());
        let view = View::of(union.config());
        let size = self.body.len().min(args.size as usize);
        let mut writer = DirWriter::new(self.body.get_mut(..size).unwrap_or_default());
        let nodes = &mut self.handed.nodes;
        union.readdirplus(&caller, node, args.offset, &mut |entry, known| {
            let out = known.map(|known| entry_out(shape.to_wire(known.node), &view.entry(known)));
            let taken = writer.plus(out.as_ref(), &view.listed(entry));
            if let (true, Some(known)) = (taken, known) {
                nodes.push(known.node);
            }
            taken
        })?;
        Ok(Reply::Body(writer.used()))
    }
}
