//! One valid message of every operation that is served, for the tests of this floor.

use zerocopy::IntoBytes;

use super::abi::{self, InHeader};
use super::opcode::*;

/// A message about `nodeid` with these arguments.
pub(in crate::fuse) fn message(opcode: u32, nodeid: u64, parts: &[&[u8]]) -> Vec<u8> {
    with_extensions(opcode, nodeid, parts, &[])
}

/// The same, with extensions behind the arguments.
pub(in crate::fuse) fn with_extensions(
    opcode: u32,
    nodeid: u64,
    parts: &[&[u8]],
    extensions: &[u8],
) -> Vec<u8> {
    let length =
        size_of::<InHeader>() + parts.iter().map(|part| part.len()).sum::<usize>() + extensions.len();
    let header = InHeader {
        len: length as u32,
        opcode,
        unique: 2 * u64::from(opcode),
        nodeid,
        uid: 3_000_000_000,
        gid: 0,
        pid: 7,
        total_extlen: (extensions.len() / 8) as u16,
        padding: 0,
    };
    let mut message = header.as_bytes().to_vec();
    for part in parts {
        message.extend_from_slice(part);
    }
    message.extend_from_slice(extensions);
    message
}

/// Security label and group, as a kernel with SELinux sends them with a creating request.
pub(in crate::fuse) fn extensions() -> Vec<u8> {
    let (name, value) = (b"security.selinux\0", b"system_u:object_r:tmp_t:s0\0");
    let size =
        abi::aligned(size_of::<abi::ExtHeader>() + size_of::<abi::Secctx>() + name.len() + value.len());
    let mut all = abi::ExtHeader { size: size as u32, kind: 1 }.as_bytes().to_vec();
    all.extend_from_slice(abi::Secctx { size: value.len() as u32, padding: 0 }.as_bytes());
    all.extend_from_slice(name);
    all.extend_from_slice(value);
    all.resize(size, 0);
    all.extend_from_slice(abi::ExtHeader { size: 16, kind: abi::EXT_GROUPS }.as_bytes());
    all.extend_from_slice([1u32, 3_000_000_001].as_bytes());
    all
}

/// Every served operation once; node 1 and handle 1 throughout.
pub(in crate::fuse) fn samples() -> Vec<Vec<u8>> {
    let read = abi::ReadIn { fh: 1, size: 4096, ..Default::default() };
    let write = abi::WriteIn { fh: 1, size: 5, write_flags: abi::WRITE_KILL_SUIDGID, ..Default::default() };
    let release = abi::ReleaseIn { fh: 1, ..Default::default() };
    let fsync = abi::FsyncIn { fh: 1, fsync_flags: 1, padding: 0 };
    let create = abi::CreateIn { flags: 2, mode: 0o100_644, umask: 0o22, open_flags: 1 };
    let copy =
        abi::CopyFileRangeIn { fh_in: 1, nodeid_out: 1, fh_out: 1, len: 1 << 33, ..Default::default() };
    let setattr =
        abi::SetattrIn { valid: abi::fattr::MTIME, mtime: u64::MAX, mtimensec: 9, ..Default::default() };
    let setxattr = abi::SetxattrIn { size: 5, flags: 1, setxattr_flags: 1, padding: 0 };
    let forgets = [abi::ForgetOne { nodeid: 9, nlookup: 1 }, abi::ForgetOne { nodeid: 8, nlookup: 2 }];
    let ioctl = abi::IoctlIn { fh: 1, flags: 0, cmd: 0x4008_6602, arg: 0, in_size: 4, out_size: 0 };
    let extended = extensions();
    let creating = |opcode, parts: &[&[u8]]| with_extensions(opcode, 1, parts, &extended);
    vec![
        message(LOOKUP, 1, &[b"name\0"]),
        message(FORGET, 9, &[abi::ForgetIn { nlookup: 3 }.as_bytes()]),
        message(BATCH_FORGET, 0, &[abi::BatchForgetIn { count: 2, dummy: 0 }.as_bytes(), forgets.as_bytes()]),
        message(GETATTR, 1, &[abi::GetattrIn::default().as_bytes()]),
        message(STATX, 1, &[abi::StatxIn { sx_mask: 0xfff, ..Default::default() }.as_bytes()]),
        message(SETATTR, 1, &[setattr.as_bytes()]),
        message(READLINK, 1, &[]),
        creating(SYMLINK, &[b"link\0", b"target/of it\0"]),
        creating(MKNOD, &[abi::MknodIn { mode: 0o010_644, ..Default::default() }.as_bytes(), b"fifo\0"]),
        creating(MKDIR, &[abi::MkdirIn { mode: 0o755, umask: 0o22 }.as_bytes(), b"dir\0"]),
        message(UNLINK, 1, &[b"name\0"]),
        message(RMDIR, 1, &[b"dir\0"]),
        message(RENAME, 1, &[abi::RenameIn { newdir: 1 }.as_bytes(), b"from\0", b"to\0"]),
        message(
            RENAME2,
            1,
            &[abi::Rename2In { newdir: 1, flags: 2, padding: 0 }.as_bytes(), b"from\0", b"to\0"],
        ),
        message(LINK, 1, &[abi::LinkIn { oldnodeid: 1 }.as_bytes(), b"hard\0"]),
        message(OPEN, 1, &[abi::OpenIn { flags: 0, open_flags: 1 }.as_bytes()]),
        creating(CREATE, &[create.as_bytes(), b"file\0"]),
        creating(TMPFILE, &[create.as_bytes(), b"/\0"]),
        message(RELEASE, 1, &[release.as_bytes()]),
        message(READ, 1, &[read.as_bytes()]),
        message(WRITE, 1, &[write.as_bytes(), b"hello"]),
        message(STATFS, 1, &[]),
        message(FSYNC, 1, &[fsync.as_bytes()]),
        message(FALLOCATE, 1, &[abi::FallocateIn { fh: 1, length: 4096, ..Default::default() }.as_bytes()]),
        message(LSEEK, 1, &[abi::LseekIn { fh: 1, whence: 3, ..Default::default() }.as_bytes()]),
        message(COPY_FILE_RANGE, 1, &[copy.as_bytes()]),
        message(COPY_FILE_RANGE_64, 1, &[copy.as_bytes()]),
        message(OPENDIR, 1, &[abi::OpenIn::default().as_bytes()]),
        message(READDIR, 1, &[read.as_bytes()]),
        message(READDIRPLUS, 1, &[read.as_bytes()]),
        message(RELEASEDIR, 1, &[release.as_bytes()]),
        message(FSYNCDIR, 1, &[fsync.as_bytes()]),
        message(SETXATTR, 1, &[setxattr.as_bytes(), b"user.x\0", b"value"]),
        message(GETXATTR, 1, &[abi::GetxattrIn { size: 64, padding: 0 }.as_bytes(), b"user.x\0"]),
        message(LISTXATTR, 1, &[abi::GetxattrIn::default().as_bytes()]),
        message(REMOVEXATTR, 1, &[b"user.x\0"]),
        message(IOCTL, 1, &[ioctl.as_bytes(), &[1, 2, 3, 4]]),
        message(INTERRUPT, 0, &[abi::InterruptIn { unique: 6 }.as_bytes()]),
        message(SYNCFS, 1, &[&[0; 8]]),
        message(DESTROY, 0, &[]),
    ]
}
