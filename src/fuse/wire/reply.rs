//! Encoding: the union's plain values as wire structs, and directory records into a buffer.

use zerocopy::IntoBytes;

use super::abi::{self, Dirent, EntryOut, SxTime, aligned};
use crate::sys::{Kind, Time};
use crate::union::{self, DirEntry, StatFs, Valid};

/// An id that means nobody: what the kernel sends for an id without a mapping.
pub const INVALID_ID: u32 = u32::MAX;

/// Seconds that outlive every mount; the kernel turns larger numbers into its own maximum.
const FOREVER: u64 = u32::MAX as u64;

fn seconds(valid: Valid) -> u64 {
    match valid {
        Valid::Unlimited => FOREVER,
        Valid::Never => 0,
    }
}

fn attr(a: &union::Attr) -> abi::Attr {
    abi::Attr {
        ino: a.ino,
        size: a.size,
        blocks: a.blocks,
        atime: a.atime.secs.cast_unsigned(),
        mtime: a.mtime.secs.cast_unsigned(),
        ctime: a.ctime.secs.cast_unsigned(),
        atimensec: a.atime.nanos,
        mtimensec: a.mtime.nanos,
        ctimensec: a.ctime.nanos,
        mode: a.mode,
        nlink: a.nlink,
        uid: a.owner.uid,
        gid: a.owner.gid,
        rdev: a.rdev.to_wire(),
        blksize: a.blksize,
        flags: 0,
    }
}

/// The reply to GETATTR and SETATTR.
pub fn attr_out(reply: &union::AttrReply) -> abi::AttrOut {
    abi::AttrOut { attr_valid: seconds(reply.valid), attr: attr(&reply.attr), ..Default::default() }
}

/// A name that resolved. `nodeid` is the entry's node as on the wire; the name itself stays true without end, since
/// only requests of this mount change names (F-38).
pub fn entry_out(nodeid: u64, entry: &union::Entry) -> EntryOut {
    EntryOut {
        nodeid,
        generation: entry.generation,
        entry_valid: match entry.name {
            union::Valid::Unlimited => FOREVER,
            union::Valid::Never => 0,
        },
        attr_valid: seconds(entry.attr.valid),
        attr: attr(&entry.attr.attr),
        ..Default::default()
    }
}

/// A name that does not exist, and may be remembered as such until this mount creates it.
pub fn negative_entry() -> EntryOut {
    EntryOut { entry_valid: FOREVER, ..Default::default() }
}

/// The reply to STATX.
pub fn statx_out(reply: &union::AttrReply) -> abi::StatxOut {
    let a = &reply.attr;
    let time = |t: Time| SxTime { tv_sec: t.secs, tv_nsec: t.nanos, reserved: 0 };
    let mut mask = libc::STATX_BASIC_STATS;
    if a.btime.is_some() {
        mask |= libc::STATX_BTIME;
    }
    let stat = abi::Statx {
        mask,
        blksize: a.blksize,
        nlink: a.nlink,
        uid: a.owner.uid,
        gid: a.owner.gid,
        mode: a.mode as u16,
        ino: a.ino,
        size: a.size,
        blocks: a.blocks,
        atime: time(a.atime),
        btime: a.btime.map(time).unwrap_or_default(),
        ctime: time(a.ctime),
        mtime: time(a.mtime),
        rdev_major: a.rdev.major,
        rdev_minor: a.rdev.minor,
        ..Default::default()
    };
    abi::StatxOut { attr_valid: seconds(reply.valid), stat, ..Default::default() }
}

/// The reply to STATFS.
pub fn statfs_out(s: &StatFs) -> abi::Kstatfs {
    abi::Kstatfs {
        blocks: s.blocks,
        bfree: s.bfree,
        bavail: s.bavail,
        files: s.files,
        ffree: s.ffree,
        bsize: s.bsize,
        namelen: s.namelen,
        frsize: s.frsize,
        ..Default::default()
    }
}

/// Directory records, one after the other, until the buffer is full.
pub struct DirWriter<'a> {
    buffer: &'a mut [u8],
    used: usize,
}

impl<'a> DirWriter<'a> {
    /// Fills `buffer`, whose length is the size the kernel asked for.
    pub fn new(buffer: &'a mut [u8]) -> DirWriter<'a> {
        DirWriter { buffer, used: 0 }
    }

    /// Bytes written.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Adds a record of READDIR; false when it does not fit, and nothing was written.
    pub fn plain(&mut self, entry: &DirEntry<'_>) -> bool {
        self.record(None, entry)
    }

    /// Adds a record of READDIRPLUS; `known` as looked up, or `None` where the kernel shall not learn a node.
    pub fn plus(&mut self, known: Option<&EntryOut>, entry: &DirEntry<'_>) -> bool {
        self.record(Some(known.copied().unwrap_or_default()), entry)
    }

    fn record(&mut self, plus: Option<EntryOut>, entry: &DirEntry<'_>) -> bool {
        let head = plus.as_ref().map_or(&[][..], IntoBytes::as_bytes);
        let dirent = Dirent {
            ino: entry.ino,
            off: entry.next,
            namelen: entry.name.len() as u32,
            kind: u32::from(Kind::d_type(entry.kind)),
        };
        let length = aligned(head.len() + size_of::<Dirent>() + entry.name.len());
        let Some(room) = self.used.checked_add(length).and_then(|end| self.buffer.get_mut(self.used..end))
        else {
            return false;
        };
        let mut at = 0;
        for part in [head, dirent.as_bytes(), entry.name] {
            let Some(place) = room.get_mut(at..at + part.len()) else { return false };
            place.copy_from_slice(part);
            at += part.len();
        }
        if let Some(padding) = room.get_mut(at..) {
            padding.fill(0);
        }
        self.used += length;
        true
    }
}
