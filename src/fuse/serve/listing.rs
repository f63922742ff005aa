//! Requests about open directories.

use super::{Reply, Turn, View};
use crate::fuse::wire::abi::{self, fopen};
use crate::fuse::wire::{DirWriter, entry_out};
use crate::sys::Result;
use crate::union::{HandleId, NodeId};

impl Turn<'_> {
    pub(super) fn opendir(&mut self, node: NodeId) -> Result<Reply> {
        let opened = self.union.opendir(&self.caller(), node)?;
        self.handed.dir = Some(opened.handle);
        let open_flags = if opened.keep_cache { fopen::CACHE_DIR | fopen::KEEP_CACHE } else { 0 };
        self.put(&abi::OpenOut { fh: opened.handle.0, open_flags, backing_id: 0 })
    }

    pub(super) fn readdir(&mut self, args: &abi::ReadIn) -> Result<Reply> {
        let union = self.union;
        let view = View::of(union.config());
        let mut writer = DirWriter::new(self.window(args.size));
        union.readdir(HandleId(args.fh), args.offset, &mut |entry| writer.plain(&view.listed(entry)))?;
        Ok(Reply::Body(writer.used()))
    }

    pub(super) fn readdirplus(&mut self, args: &abi::ReadIn) -> Result<Reply> {
        let (union, shape, caller) = (self.union, self.server.shape, self.caller());
        let view = View::of(union.config());
        let size = self.body.len().min(args.size as usize);
        let mut writer = DirWriter::new(self.body.get_mut(..size).unwrap_or_default());
        let nodes = &mut self.handed.nodes;
        union.readdirplus(&caller, HandleId(args.fh), args.offset, &mut |entry, known| {
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
