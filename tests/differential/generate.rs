//! Random stacks and random operations over a tiny alphabet, so that things collide.

use std::sync::Arc;

use super::op::{At, Op, Rel, Slot, Stamp, Who};
use super::stack::{Build, LowerRecipe, Recipe};
use crate::support::backing::Fs;
use crate::support::layer::{Layer, acl_for_user, capability};
use crate::support::rng::Rng;

const NAMES: [&str; 3] = ["a", "b", "c"];
const DEPTH: usize = 3;
const MODES: [u32; 6] = [0o644, 0o600, 0o666, 0o755, 0o4755, 0o2777];
const OWNERS: [(u32, u32); 3] = [(0, 0), (1000, 1000), (2000, 1000)];
const ATTRIBUTES: [&str; 4] = ["user.x", "user.y", "trusted.z", "trusted.overlay.opaque"];
const SLOTS: usize = 3;

/// Where the layers lie and who calls.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The filesystem of the upper.
    pub fs: Fs,
    /// Whether lowers lie on other filesystems.
    pub mixed: bool,
    /// Whether ordinary users take part.
    pub ordinary: bool,
}

const OPTIONS: [&str; 12] = [
    "",
    "",
    "redirect_dir=on",
    "redirect_dir=on",
    "index=on",
    "metacopy=on",
    "redirect_dir=on,index=on",
    "redirect_dir=on,metacopy=on,index=on",
    "nfs_export=on,redirect_dir=on",
    "xino=on",
    "userxattr",
    "redirect_dir=on,xino=on",
];

/// The stack of a seed.
pub fn recipe(seed: u64, setting: Setting) -> Recipe {
    let rng = &mut Rng::new(seed ^ 0x51ac);
    let count = 1 + rng.below(5).min(rng.below(5));
    let options = (*rng.pick(&OPTIONS)).to_owned();
    let build = |seed: u64, upper: bool| -> Build {
        let private = if options == "userxattr" { "user.overlay." } else { "trusted.overlay." };
        Arc::new(move |l| directory(l, &mut Rng::new(seed), "", 0, private, upper))
    };
    let lowers = (0..count).map(|_| LowerRecipe {
        fs: setting.mixed.then(|| *rng.pick(&[Fs::Ext4, Fs::Xfs, Fs::Btrfs, Fs::Tmpfs])),
        data_only: false,
        build: build(rng.bits(), false),
    });
    let lowers = lowers.collect();
    let upper = rng.chance(25).then(|| build(rng.bits(), true));
    Recipe { fs: setting.fs, lowers, writable: true, upper, options }
}

fn directory(l: &Layer, rng: &mut Rng, path: &str, depth: usize, private: &str, upper: bool) {
    let mut files = Vec::new();
    for name in NAMES {
        let at = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
        match rng.below(20) {
            0..=4 => {
                l.file(&at, rng.bits().to_string());
                decorate(l, rng, &at);
                files.push(at);
            }
            5..=10 => {
                l.dir(&at);
                if depth + 1 < DEPTH {
                    directory(l, rng, &at, depth + 1, private, upper);
                }
                decorate(l, rng, &at);
                if rng.chance(15) {
                    l.xattr(&at, &format!("{private}opaque"), "y");
                }
            }
            11 => drop(l.symlink(&at, *rng.pick(&NAMES))),
            12 => drop(l.fifo(&at)),
            13 => drop(l.whiteout(&at)),
            14 if !upper => match files.first() {
                Some(first) => drop(l.link(first, &at)),
                None => drop(l.node(&at, libc::S_IFCHR | 0o666, 1, 3)),
            },
            _ => {}
        }
    }
}

fn decorate(l: &Layer, rng: &mut Rng, at: &str) {
    if rng.chance(30) {
        let (uid, gid) = *rng.pick(&OWNERS);
        l.chown(at, uid, gid);
    }
    if rng.chance(40) {
        l.chmod(at, *rng.pick(&MODES) | 0o111);
    }
    if rng.chance(20) {
        let name = *rng.pick::<&str>(&ATTRIBUTES[..3]);
        l.xattr(at, name, rng.bits().to_string());
    }
    if rng.chance(5) {
        l.xattr(at, "system.posix_acl_access", acl_for_user(0o640, 1000, 6));
    }
    if rng.chance(5) {
        l.times(at, (-5, 500), (-1_000_000, 999_999_999));
    }
}

/// The operations of a seed.
pub fn operations(seed: u64, setting: Setting, count: usize) -> Vec<Op> {
    let rng = &mut Rng::new(seed ^ 0x0b5);
    (0..count).map(|_| operation(rng, setting)).collect()
}

fn path(rng: &mut Rng) -> Rel {
    let depth = 1 + rng.below(DEPTH);
    let names: Vec<&str> = (0..depth).map(|_| *rng.pick(&NAMES)).collect();
    names.join("/").into()
}

fn at(rng: &mut Rng) -> At {
    if rng.chance(30) { At::Slot(slot(rng)) } else { At::Path(path(rng)) }
}

fn slot(rng: &mut Rng) -> Slot {
    rng.below(SLOTS) as Slot
}

fn data(rng: &mut Rng) -> Vec<u8> {
    let len = *rng.pick(&[0, 1, 5, 5000]);
    vec![b'A' + rng.below(26) as u8; len]
}

fn stamp(rng: &mut Rng) -> Stamp {
    *rng.pick(&[Stamp::Now, Stamp::Omit, Stamp::At(7, 77), Stamp::At(-3, 5), Stamp::At(1 << 33, 9)])
}

fn operation(rng: &mut Rng, setting: Setting) -> Op {
    match rng.below(100) {
        0..=29 => naming(rng),
        30..=54 => opening(rng),
        55..=74 => attribute(rng),
        75..=92 => looking(rng),
        93..=95 if setting.ordinary => Op::Become(caller(rng)),
        93..=95 => naming(rng),
        96 => Op::Umask(*rng.pick(&[0o022, 0, 0o077])),
        97..=98 => Op::Remount,
        _ => Op::Work("work".into()),
    }
}

fn caller(rng: &mut Rng) -> Who {
    let root = Who { uid: 0, gid: 0, groups: Vec::new() };
    let user = Who { uid: 1000, gid: 1000, groups: vec![2000] };
    rng.pick(&[root.clone(), root, user.clone(), user, Who { uid: 2000, gid: 2000, groups: Vec::new() }])
        .clone()
}

fn naming(rng: &mut Rng) -> Op {
    let (one, two) = (path(rng), path(rng));
    match rng.below(20) {
        0..=2 => Op::Mkdir { path: one, mode: *rng.pick(&[0o755, 0o777, 0o2775]) },
        3 => Op::Symlink { target: two, path: one },
        4 => {
            Op::Mknod { path: one, mode: *rng.pick(&[libc::S_IFIFO | 0o644, libc::S_IFCHR]), device: (0, 0) }
        }
        5..=6 => Op::Link { old: one, new: two },
        7 => Op::LinkSlot { slot: slot(rng), new: one },
        8..=10 => Op::Unlink(one),
        11..=12 => Op::Rmdir(one),
        13..=17 => Op::Rename { from: one, to: two, flags: 0 },
        18 => Op::Rename { from: one, to: two, flags: libc::RENAME_EXCHANGE },
        _ => Op::Rename {
            from: one,
            to: two,
            flags: *rng.pick(&[libc::RENAME_NOREPLACE, libc::RENAME_WHITEOUT]),
        },
    }
}

fn opening(rng: &mut Rng) -> Op {
    let (slot, offset) = (slot(rng), *rng.pick(&[0_i64, 1, 3, 4096]));
    match rng.below(25) {
        0..=3 => {
            let flags = [
                libc::O_RDONLY,
                libc::O_RDWR,
                libc::O_WRONLY | libc::O_APPEND,
                libc::O_RDWR | libc::O_CREAT,
                libc::O_WRONLY | libc::O_TRUNC,
                libc::O_RDWR | libc::O_CREAT | libc::O_EXCL,
            ];
            Op::Open { slot, path: path(rng), flags: *rng.pick(&flags) | libc::O_NONBLOCK, mode: 0o666 }
        }
        4 => Op::Open { slot, path: path(rng), flags: libc::O_TMPFILE | libc::O_RDWR, mode: 0o640 },
        5 => Op::Close(slot),
        6..=7 => Op::Pread { slot, offset, len: 6000 },
        8 => Op::Read { slot, len: 3 },
        9 => Op::Write { slot, data: data(rng) },
        10..=11 => Op::Pwrite { slot, offset, data: data(rng) },
        12 => Op::Truncate { at: at(rng), len: offset },
        13 => Op::Fsync(slot),
        14 => Op::Fallocate { slot, mode: *rng.pick(&[0, libc::FALLOC_FL_KEEP_SIZE]), offset, len: 10 },
        15 => {
            Op::CopyRange { from: slot, from_at: 0, to: (slot + 1) % SLOTS as Slot, to_at: offset, len: 100 }
        }
        16 => Op::Map { map: slot, slot, len: 8192, writable: true, shared: true },
        17 => Op::MapWrite { map: slot, offset: offset as usize, data: vec![b'm'; 2] },
        18 => Op::MapRead { map: slot, offset: 0, len: 4 },
        19..=20 => Op::WriteFile { path: path(rng), data: data(rng) },
        21..=22 => Op::Append { path: path(rng), data: data(rng) },
        _ => Op::ReadFile(path(rng)),
    }
}

fn attribute(rng: &mut Rng) -> Op {
    let at = at(rng);
    let name = (*rng.pick(&ATTRIBUTES)).to_owned();
    match rng.below(13) {
        0..=2 => Op::Chmod { at, mode: *rng.pick(&MODES) },
        3..=4 => {
            let (uid, gid) = *rng.pick(&OWNERS);
            Op::Chown { at, uid, gid }
        }
        5..=6 => Op::Utimens { at, atime: stamp(rng), mtime: stamp(rng) },
        7..=8 => Op::Setxattr { at, name, value: data(rng)[..].iter().take(5).copied().collect(), flags: 0 },
        9 => Op::Removexattr { at, name },
        10 => Op::Getxattr { at, name },
        11 => {
            let value = acl_for_user(*rng.pick(&MODES), 1000, 6);
            let name = *rng.pick(&["system.posix_acl_access", "system.posix_acl_default"]);
            Op::Setxattr { at, name: name.into(), value, flags: 0 }
        }
        _ => Op::Setxattr { at, name: "security.capability".into(), value: capability(), flags: 0 },
    }
}

fn looking(rng: &mut Rng) -> Op {
    match rng.below(11) {
        0..=2 => Op::Stat(at(rng)),
        3..=5 => Op::List(path(rng)),
        6 => Op::Listxattr(at(rng)),
        7 => Op::Access { path: path(rng), mode: *rng.pick(&[libc::R_OK, libc::W_OK, libc::X_OK]) },
        8 => Op::Same(at(rng), at(rng)),
        9 => Op::Readlink(path(rng)),
        _ => Op::Upper(path(rng)),
    }
}
