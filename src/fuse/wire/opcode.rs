//! Every request FUSE 7.45 knows, and what this server does with it.
//!
//! One table holds the decision for each number, so that nothing is answered by accident: a request is served, or it
//! is answered ENOSYS for a stated reason (which the kernel remembers as "not offered"), or it cannot arrive for a
//! stated reason (and is answered ENOSYS all the same).

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// Decoded and passed to the union.
    Served,
    /// Answered ENOSYS: that is the best answer, because of the reason.
    Enosys(&'static str),
    /// Not sent on a connection as negotiated here.
    Impossible(&'static str),
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Opcode {
    /// The number on the wire.
    pub number: u32,
    /// Its name without `FUSE_`, lower case.
    pub name: &'static str,
    /// What becomes of it.
    pub treatment: Treatment,
}

macro_rules! opcodes {
    ($($name:ident = $number:literal, $text:literal, $treatment:expr;)*) => {
        $(#[allow(missing_docs)] pub const $name: u32 = $number;)*
        /// Every opcode, in the order of the numbers.
        pub const OPCODES: [Opcode; [$($number),*].len()] = {
            use Treatment::*;
            [$(Opcode { number: $number, name: $text, treatment: $treatment }),*]
        };
    };
}

opcodes! {
    LOOKUP = 1, "lookup", Served;
    FORGET = 2, "forget", Served;
    GETATTR = 3, "getattr", Served;
    SETATTR = 4, "setattr", Served;
    READLINK = 5, "readlink", Served;
    SYMLINK = 6, "symlink", Served;
    UNASSIGNED_7 = 7, "unassigned-7", Impossible("the protocol never assigned it");
    MKNOD = 8, "mknod", Served;
    MKDIR = 9, "mkdir", Served;
    UNLINK = 10, "unlink", Served;
    RMDIR = 11, "rmdir", Served;
    RENAME = 12, "rename", Served;
    LINK = 13, "link", Served;
    OPEN = 14, "open", Served;
    READ = 15, "read", Served;
    WRITE = 16, "write", Served;
    STATFS = 17, "statfs", Served;
    RELEASE = 18, "release", Served;
    UNASSIGNED_19 = 19, "unassigned-19", Impossible("the protocol never assigned it");
    FSYNC = 20, "fsync", Served;
    SETXATTR = 21, "setxattr", Served;
    GETXATTR = 22, "getxattr", Served;
    LISTXATTR = 23, "listxattr", Served;
    REMOVEXATTR = 24, "removexattr", Served;
    FLUSH = 25, "flush", Enosys("written data is in the backing file already; the kernel then stops asking");
    INIT = 26, "init", Impossible("answered by the handshake, and sent once");
    OPENDIR = 27, "opendir", Served;
    READDIR = 28, "readdir", Served;
    RELEASEDIR = 29, "releasedir", Served;
    FSYNCDIR = 30, "fsyncdir", Served;
    GETLK = 31, "getlk", Impossible("locks are not negotiated: the kernel keeps them (A-17)");
    SETLK = 32, "setlk", Impossible("locks are not negotiated: the kernel keeps them (A-17)");
    SETLKW = 33, "setlkw", Impossible("locks are not negotiated: the kernel keeps them (A-17)");
    ACCESS = 34, "access", Enosys("default_permissions: the kernel decides");
    CREATE = 35, "create", Served;
    INTERRUPT = 36, "interrupt", Served;
    BMAP = 37, "bmap", Impossible("only for filesystems on a block device");
    DESTROY = 38, "destroy", Served;
    IOCTL = 39, "ioctl", Served;
    POLL = 40, "poll", Enosys("files are always ready; the kernel then decides alone");
    NOTIFY_REPLY = 41, "notify-reply", Impossible("pages are never asked back with NOTIFY_RETRIEVE");
    BATCH_FORGET = 42, "batch-forget", Served;
    FALLOCATE = 43, "fallocate", Served;
    READDIRPLUS = 44, "readdirplus", Served;
    RENAME2 = 45, "rename2", Served;
    LSEEK = 46, "lseek", Served;
    COPY_FILE_RANGE = 47, "copy-file-range", Served;
    SETUPMAPPING = 48, "setupmapping", Impossible("DAX windows belong to virtiofs");
    REMOVEMAPPING = 49, "removemapping", Impossible("DAX windows belong to virtiofs");
    SYNCFS = 50, "syncfs", Served;
    TMPFILE = 51, "tmpfile", Served;
    STATX = 52, "statx", Served;
    COPY_FILE_RANGE_64 = 53, "copy-file-range-64", Served;
    CUSE_INIT = 4096, "cuse-init", Impossible("character devices in user space are another device node");
}

/// The line of `number`, and its place in [`OPCODES`]; `None` for a number later than 7.45.
pub fn opcode(number: u32) -> Option<(usize, &'static Opcode)> {
    let place = match number {
        CUSE_INIT => OPCODES.len() - 1,
        1..=COPY_FILE_RANGE_64 => number as usize - 1,
        _ => return None,
    };
    OPCODES.get(place).map(|line| (place, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_opcode_of_7_45_is_named_once_and_found() {
        for number in (1..=53).chain([4096]) {
            let lines = OPCODES.iter().filter(|line| line.number == number).count();
            assert_eq!(lines, 1, "opcode {number}");
            assert_eq!(opcode(number).unwrap().1.number, number);
        }
        assert_eq!(OPCODES.len(), 54);
        for unknown in [0, 54, 4095, 4097, u32::MAX] {
            assert!(opcode(unknown).is_none());
        }
    }
}
