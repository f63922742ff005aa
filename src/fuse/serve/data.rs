//! Requests about open files.

use super::{Reply, Turn, UNASKED, opened};
use crate::fuse::wire::abi::{self, fopen};
use crate::sys::{Errno, Result};
use crate::union::{self, DataPath, HandleId, NodeId, Opened, SetAttr};

/// The most a narrow reply can report of a copy: what fits its 32 bits, in whole pages.
const NARROW_MAX: u64 = 0xffff_f000;

fn open_out(opened: Opened) -> abi::OpenOut {
    let (open_flags, backing_id) = match opened.data {
        DataPath::Cached { keep: true } => (fopen::KEEP_CACHE, 0),
        DataPath::Cached { keep: false } => (0, 0),
        DataPath::Direct => (fopen::DIRECT_IO, 0),
        DataPath::Passthrough(id) => (fopen::PASSTHROUGH, id.0.cast_signed()),
    };
    abi::OpenOut { fh: opened.handle.0, open_flags, backing_id }
}

impl Turn<'_> {
    /// Errors: ENOSYS on a mount without an upper, after which the kernel opens files by itself (F-7); else those of
    /// [`union::Union::open_file`].
    pub(super) fn open(&mut self, node: NodeId, args: &abi::OpenIn) -> Result<Reply> {
        if self.server.unasked.files {
            return Err(Errno::ENOSYS);
        }
        let opened = self.union.open_file(&self.caller(), node, args.flags.cast_signed())?;
        self.handed.file = Some(opened.handle);
        self.truncated_by_a_stranger(node, opened, args.open_flags)?;
        self.put(&open_out(opened))
    }

    /// A file made and opened by one request.
    pub(super) fn put_created(
        &mut self,
        entry: &union::Entry,
        opened: Opened,
        open_flags: u32,
    ) -> Result<Reply> {
        self.handed.file = Some(opened.handle);
        self.put_entry(entry)?;
        self.truncated_by_a_stranger(entry.node, opened, open_flags)?;
        let second = self.body.get_mut(size_of::<abi::EntryOut>()..).unwrap_or_default();
        zerocopy::IntoBytes::write_to_prefix(&open_out(opened), second).map_err(|_| Errno::EIO)?;
        Ok(Reply::Body(size_of::<abi::EntryOut>() + size_of::<abi::OpenOut>()))
    }

    /// Clears suid and sgid when the kernel says that this O_TRUNC is by someone who may not keep them.
    fn truncated_by_a_stranger(&self, node: NodeId, opened: Opened, open_flags: u32) -> Result<()> {
        if open_flags & abi::OPEN_KILL_SUIDGID != 0 {
            let change = SetAttr { kill_priv: true, ..SetAttr::default() };
            self.union.setattr(&self.caller(), node, Some(opened.handle), &change)?;
        }
        Ok(())
    }

    pub(super) fn read(&mut self, node: NodeId, args: &abi::ReadIn) -> Result<Reply> {
        let union = self.union;
        let count = union.read(opened(node, args.fh), args.offset, self.window(args.size))?;
        Ok(Reply::Body(count))
    }

    pub(super) fn write(&mut self, args: &abi::WriteIn, data: &[u8]) -> Result<Reply> {
        if args.fh == UNASKED {
            // Opened for writing after a remount, though there is no upper.
            return Err(Errno::EROFS);
        }
        let kill_priv = args.write_flags & abi::WRITE_KILL_SUIDGID != 0;
        let written = self.union.write(&self.caller(), HandleId(args.fh), args.offset, data, kill_priv)?;
        let size = u32::try_from(written).map_err(|_| Errno::EIO)?;
        self.put(&abi::WriteOut { size, padding: 0 })
    }

    pub(super) fn fallocate(&mut self, args: &abi::FallocateIn) -> Result<Reply> {
        let mode = args.mode.cast_signed();
        self.union.fallocate(&self.caller(), HandleId(args.fh), mode, args.offset, args.length)?;
        Ok(Reply::Body(0))
    }

    pub(super) fn lseek(&mut self, node: NodeId, args: &abi::LseekIn) -> Result<Reply> {
        let offset = self.union.lseek(opened(node, args.fh), args.offset, args.whence.cast_signed())?;
        self.put(&abi::LseekOut { offset })
    }

    pub(super) fn copy_file_range(&mut self, args: &abi::CopyFileRangeIn, wide: bool) -> Result<Reply> {
        if args.flags != 0 {
            return Err(Errno::EINVAL);
        }
        let length = if wide { args.len } else { args.len.min(NARROW_MAX) };
        let from = (HandleId(args.fh_in), args.off_in);
        let to = (HandleId(args.fh_out), args.off_out);
        let copied = self.union.copy_file_range(&self.caller(), from, to, length)?;
        if wide {
            return self.put(&abi::CopyFileRangeOut { bytes_copied: copied });
        }
        let size = u32::try_from(copied).map_err(|_| Errno::EIO)?;
        self.put(&abi::WriteOut { size, padding: 0 })
    }
}
