//! Performs the operations on attributes of one object.

use std::os::fd::AsRawFd;

use nix::errno::Errno;

use super::actor::{Actor, done};
use super::op::{At, Op};
use super::outcome::{Outcome, Value};
use crate::support::layer::{flags_of, literal, set_flags_of};
use crate::support::sys::{self, Answer};

const FS_GET_XATTR: u64 = 0x801c_581f;
const FS_SET_XATTR: u64 = 0x401c_5820;

/// Performs one of them.
pub fn perform(actor: &mut Actor, op: &Op) -> Outcome {
    match op {
        Op::Stat(at) => Ok(Value::Lines(shown(actor, &stat(actor, at)?))),
        Op::Times(at) => {
            let stat = stat(actor, at)?;
            let name = |time: libc::statx_timestamp| actor.clock.name((time.tv_sec, time.tv_nsec));
            Ok(Value::Lines(vec![
                format!("atime={}", name(stat.stx_atime)),
                format!("mtime={}", name(stat.stx_mtime)),
            ]))
        }
        Op::Same(one, other) => {
            let identity = |stat: libc::statx| (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
            let same = identity(stat(actor, one)?) == identity(stat(actor, other)?);
            Ok(Value::Number(i64::from(same)))
        }
        Op::Remember(path) => {
            let stat = sys::stat(&actor.path(path))?;
            actor.remembered.insert(path.0.clone(), stat);
            // Kernel time advances in ticks: a change right after this must get another time.
            std::thread::sleep(std::time::Duration::from_millis(12));
            Ok(Value::Nothing)
        }
        Op::Changed { path, since } => {
            let now = sys::stat(&actor.path(path))?;
            let old = actor.remembered.get(&since.0).ok_or(Errno::ENOENT)?;
            let mut lines = changes(old, &now);
            let device = |stat: &libc::statx| (stat.stx_dev_major, stat.stx_dev_minor);
            if device(&now) != device(&sys::stat(&actor.path(&"".into()))?) {
                lines.push("otherdev".into());
            }
            Ok(Value::Lines(lines))
        }
        Op::Chmod { at, mode } => done(match at {
            At::Path(path) => sys::chmod(&actor.path(path), *mode),
            At::Slot(slot) => sys::fchmod(actor.fd(*slot)?, *mode),
        }),
        Op::Chown { at, uid, gid } => done(match at {
            At::Path(path) => sys::lchown(&actor.path(path), *uid, *gid),
            At::Slot(slot) => sys::fchown(actor.fd(*slot)?, *uid, *gid),
        }),
        Op::Utimens { at, atime, mtime } => done(match at {
            At::Path(path) => sys::utimens(&actor.path(path), *atime, *mtime),
            At::Slot(slot) => sys::futimens(actor.fd(*slot)?, *atime, *mtime),
        }),
        Op::Truncate { at, len } => done(match at {
            At::Path(path) => sys::truncate(&actor.path(path), *len),
            At::Slot(slot) => sys::ftruncate(actor.fd(*slot)?, *len),
        }),
        Op::Access { path, mode } => done(sys::access(&actor.path(path), *mode)),
        Op::Statfs(path) => {
            let stat = sys::statfs(&actor.path(path))?;
            let read_only = stat.f_flags as u64 & libc::ST_RDONLY;
            Ok(Value::Lines(vec![
                format!("namelen={}", stat.f_namelen),
                format!("block={}", stat.f_bsize),
                format!("blocks={}", stat.f_blocks),
                format!("readonly={read_only}"),
            ]))
        }
        Op::Blocks(path) => Ok(Value::Number(sys::stat(&actor.path(path))?.stx_blocks as i64)),
        Op::GetFlags(_) | Op::SetFlags { .. } | Op::GetFsx(_) | Op::SetFsx { .. } | Op::Ioctl { .. } => {
            flags(actor, op)
        }
        _ => xattrs(actor, op),
    }
}

fn stat(actor: &Actor, at: &At) -> Answer<libc::statx> {
    match at {
        At::Path(path) => sys::stat(&actor.path(path)),
        At::Slot(slot) => sys::fstat(actor.fd(*slot)?),
    }
}

fn shown(actor: &Actor, stat: &libc::statx) -> Vec<String> {
    let mode = u32::from(stat.stx_mode);
    let mut words = vec![
        format!("mode={mode:o}"),
        format!("owner={}:{}", stat.stx_uid, stat.stx_gid),
        format!("links={}", stat.stx_nlink),
        format!("ino={}", actor.labels.name(stat.stx_ino)),
        format!("mtime={}", actor.clock.name((stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec))),
    ];
    if mode & libc::S_IFMT != libc::S_IFDIR {
        words.push(format!("size={}", stat.stx_size));
        words.push(format!("device={},{}", stat.stx_rdev_major, stat.stx_rdev_minor));
    }
    words
}

fn changes(old: &libc::statx, now: &libc::statx) -> Vec<String> {
    let time = |time: libc::statx_timestamp| (time.tv_sec, time.tv_nsec);
    [
        ("atime", time(old.stx_atime) != time(now.stx_atime)),
        ("ctime", time(old.stx_ctime) != time(now.stx_ctime)),
        ("ino", old.stx_ino != now.stx_ino),
        ("links", old.stx_nlink != now.stx_nlink),
        ("mode", old.stx_mode != now.stx_mode),
        ("mtime", time(old.stx_mtime) != time(now.stx_mtime)),
        ("size", old.stx_size != now.stx_size),
    ]
    .into_iter()
    .filter(|(_, changed)| *changed)
    .map(|(name, _)| name.to_owned())
    .collect()
}

fn flags(actor: &Actor, op: &Op) -> Outcome {
    let (Op::GetFlags(at)
    | Op::SetFlags { at, .. }
    | Op::GetFsx(at)
    | Op::SetFsx { at, .. }
    | Op::Ioctl { at, .. }) = op
    else {
        unreachable!("not about file flags: {op:?}")
    };
    let opened;
    let fd = match at {
        At::Path(path) => {
            opened = sys::open(&actor.path(path), libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOFOLLOW, 0)?;
            opened.as_raw_fd()
        }
        At::Slot(slot) => actor.fd(*slot)?,
    };
    match op {
        Op::GetFlags(_) => Ok(Value::Number(i64::from(flags_of(fd)?))),
        Op::SetFlags { flags, .. } => done(set_flags_of(fd, *flags)),
        Op::GetFsx(_) => {
            let mut words = [0_u8; 28];
            sys::ioctl(fd, FS_GET_XATTR, &mut words)?;
            let word =
                |at: usize| u32::from_ne_bytes([words[at], words[at + 1], words[at + 2], words[at + 3]]);
            Ok(Value::Lines(vec![format!("flags={:#x}", word(0) & 0xfe), format!("project={}", word(12))]))
        }
        Op::SetFsx { flags, project, .. } => {
            let mut words = [0_u8; 28];
            sys::ioctl(fd, FS_GET_XATTR, &mut words)?;
            words[..4].copy_from_slice(&flags.to_ne_bytes());
            words[12..16].copy_from_slice(&project.to_ne_bytes());
            sys::ioctl(fd, FS_SET_XATTR, &mut words).map(|_| Value::Nothing)
        }
        Op::Ioctl { request, .. } => sys::ioctl(fd, *request, &mut [0; 256]).map(Value::Number),
        _ => unreachable!("not about file flags: {op:?}"),
    }
}

fn xattrs(actor: &Actor, op: &Op) -> Outcome {
    match op {
        Op::Setxattr { at, name, value, flags } => done(match at {
            At::Path(path) => sys::setxattr(&actor.path(path), name.as_bytes(), value, *flags),
            At::Slot(slot) => sys::fsetxattr(actor.fd(*slot)?, name.as_bytes(), value, *flags),
        }),
        Op::Getxattr { at, name } => match at {
            At::Path(path) => sys::getxattr(&actor.path(path), name.as_bytes()),
            At::Slot(slot) => sys::fgetxattr(actor.fd(*slot)?, name.as_bytes()),
        }
        .map(Value::Bytes),
        Op::Listxattr(at) => {
            let names = match at {
                At::Path(path) => sys::listxattr(&actor.path(path)),
                At::Slot(slot) => sys::flistxattr(actor.fd(*slot)?),
            }?;
            let lines = names.iter().map(|name| literal(name).trim_matches('"').to_owned());
            Ok(Value::Lines(lines.collect()))
        }
        Op::Removexattr { at, name } => done(match at {
            At::Path(path) => sys::removexattr(&actor.path(path), name.as_bytes()),
            At::Slot(slot) => sys::fremovexattr(actor.fd(*slot)?, name.as_bytes()),
        }),
        _ => unreachable!("not about attributes: {op:?}"),
    }
}
