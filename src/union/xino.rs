//! Which `st_ino` an object of a layer shows when the layers are on several file systems (I-2, I-3).
//!
//! A mount has one `st_dev`, and each file system counts its inodes from 1, so the numbers have to be kept apart, and the
//! same object has to get the number it had before a remount, and the one the kernel's `xino=on` gives it. Inode
//! numbers leave their high bits unused; those take the number of the file system:
//!
//! ```text
//!   63             shift+1   shift   shift-1                0
//!  [ number of file system ][  0   ][ inode number there     ]    encoded
//!  [ zeros                 ][  1   ][ count                  ]    for inodes that have high bits of their own
//! ```
//!
//! How many bits are taken was found by running kernel 6.18, and is tested below: 32 where every file system says by its
//! handles that its inode numbers have 32 bits (ext4 and its like), else floor(log2(n − 1)) + 2 for n file systems.
//!
//! Nothing here makes a system call.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Number of a file system within one stack: 0 is the upper's (kept free where there is none), then the others in the
/// order in which the lower layers, top first, come to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct FsId(u32);

/// The file system of the upper.
pub(super) const UPPER_FS: FsId = FsId(0);

/// What counts of the file system that a layer's root is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LayerFs {
    /// Its `st_dev`. (Subvolumes of btrfs have one each and count as several, which keeps their equal numbers apart.)
    pub(super) dev: u64,
    /// Its inode numbers have 32 bits, as [`FileHandle::is_ino32`](crate::sys::handle::FileHandle::is_ino32) tells of the root's handle. False
    /// where the process may not open handles (CAP_DAC_READ_SEARCH), as for the kernel.
    pub(super) ino32: bool,
}

/// How the bits are shared out in one stack.
#[derive(Debug)]
pub(super) struct InodeNumbers {
    lower: Vec<FsId>,
    /// Width of the real inode number; `None` when all layers are on one file system and nothing is encoded.
    shift: Option<u32>,
    /// Numbers given to inodes that have high bits of their own, by file system and real number. Leaf lock.
    overflows: Mutex<HashMap<(FsId, u64), u64>>,
}

impl InodeNumbers {
    /// For a stack of these layers: `lower` top first, data-only layers included.
    pub(super) fn new(upper: Option<LayerFs>, lower: &[LayerFs]) -> InodeNumbers {
        let mut devices = vec![upper.map(|fs| fs.dev)];
        let numbers = lower.iter().map(|fs| number_of(fs.dev, &mut devices)).collect();
        let distinct = devices.iter().flatten().count();
        let ino32 = upper.iter().chain(lower).all(|fs| fs.ino32);
        let reserved = if ino32 { 32 } else { (devices.len() as u32 - 1).checked_ilog2().unwrap_or(0) + 2 };
        InodeNumbers {
            lower: numbers,
            shift: (distinct > 1).then_some(64 - reserved),
            overflows: Mutex::default(),
        }
    }

    /// The file system of the lower layer `index`, 0 being the topmost; `None` when there is no such layer.
    pub(super) fn of_lower(&self, index: usize) -> Option<FsId> {
        self.lower.get(index).copied()
    }

    /// The `st_ino` of the object that has number `real_ino` on `fs`: always the same one in one mount, and no other
    /// object's.
    pub(super) fn shown(&self, real_ino: u64, fs: FsId) -> u64 {
        self.encode(real_ino, fs).unwrap_or_else(|| {
            let mut given = self.overflows.lock().unwrap_or_else(PoisonError::into_inner);
            let next = self.overflow(given.len() as u64);
            *given.entry((fs, real_ino)).or_insert(next.unwrap_or(real_ino))
        })
    }

    /// The `st_ino` of the object that has number `real_ino` on `fs`. `None` when that number uses the high bits itself:
    /// then a number from [`InodeNumbers::overflow`] has to do, for as long as the mount lasts.
    fn encode(&self, real_ino: u64, fs: FsId) -> Option<u64> {
        match self.shift {
            None => Some(real_ino),
            Some(shift) => (real_ino >> shift == 0).then(|| real_ino | u64::from(fs.0) << shift << 1),
        }
    }

    /// The `count`-th number that no [`InodeNumbers::encode`] gives; `None` when there are no more, or when all layers
    /// are on one file system, where none is needed.
    fn overflow(&self, count: u64) -> Option<u64> {
        let shift = self.shift?;
        (count >> shift == 0).then_some(1 << shift | count)
    }
}

/// The number of the file system `dev`, which is added to `devices` (indexed by number) when it is new.
fn number_of(dev: u64, devices: &mut Vec<Option<u64>>) -> FsId {
    let known = devices.iter().position(|&known| known == Some(dev));
    let number = known.unwrap_or_else(|| {
        devices.push(Some(dev));
        devices.len() - 1
    });
    FsId(number as u32)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use super::*;
    use crate::sys::testing::{mount_ext4, mount_overlay, mount_tmpfs, with_private_mounts};
    use crate::sys::{At, handle};

    fn fs64(dev: u64) -> LayerFs {
        LayerFs { dev, ino32: false }
    }

    fn fs32(dev: u64) -> LayerFs {
        LayerFs { dev, ino32: true }
    }

    #[test]
    fn on_one_file_system_numbers_are_the_real_ones() {
        for (upper, lower) in
            [(Some(fs64(1)), vec![fs64(1); 3]), (None, vec![fs64(1); 2]), (None, vec![fs32(7)])]
        {
            let numbers = InodeNumbers::new(upper, &lower);
            assert_eq!(numbers.encode(u64::MAX, numbers.of_lower(0).unwrap()), Some(u64::MAX));
            assert_eq!(numbers.encode(5, UPPER_FS), Some(5));
            assert_eq!(numbers.overflow(0), None);
        }
    }

    #[test]
    fn a_second_file_system_takes_the_highest_bit() {
        let numbers = InodeNumbers::new(Some(fs64(1)), &[fs64(1), fs64(2)]);
        assert_eq!(numbers.of_lower(0), Some(UPPER_FS));
        assert_eq!(numbers.of_lower(1), Some(FsId(1)));
        assert_eq!(numbers.of_lower(2), None);
        assert_eq!(numbers.encode(2, FsId(1)), Some(0x8000_0000_0000_0002));
        assert_eq!(numbers.encode(2, UPPER_FS), Some(2));
        assert_eq!(numbers.encode(1 << 62, FsId(1)), None);
        assert_eq!(numbers.encode((1 << 62) - 1, FsId(1)), Some(0xbfff_ffff_ffff_ffff));
        assert_eq!(numbers.overflow(3), Some(0x4000_0000_0000_0003));
        assert_eq!(numbers.overflow(1 << 62), None);
    }

    #[test]
    fn inodes_with_high_bits_of_their_own_get_distinct_and_lasting_numbers() {
        let numbers = InodeNumbers::new(Some(fs64(1)), &[fs64(2)]);
        let high = |n: u64| numbers.shown(n << 62 | 5, FsId(1));
        let (first, second, other) = (high(1), high(2), numbers.shown(1 << 62 | 5, UPPER_FS));
        assert_eq!([first, second, other], [1 << 62, 1 << 62 | 1, 1 << 62 | 2]);
        assert_eq!([high(1), high(2)], [first, second]);
        assert_eq!(numbers.shown(7, FsId(1)), 1 << 63 | 7);
    }

    #[test]
    fn without_upper_its_number_stays_free() {
        let numbers = InodeNumbers::new(None, &[fs64(8), fs64(9), fs64(8)]);
        assert_eq!([0, 1, 2].map(|i| numbers.of_lower(i)), [1, 2, 1].map(|n| Some(FsId(n))));
        assert_eq!(numbers.encode(0, FsId(1)), Some(1 << 62));
    }

    #[test]
    fn an_upper_of_its_own_counts_and_one_64_bit_file_system_decides_for_all() {
        let numbers = InodeNumbers::new(Some(fs32(1)), &[fs32(2), fs32(3)]);
        assert_eq!(numbers.encode(0xffff_ffff, FsId(2)), Some(2 << 33 | 0xffff_ffff));
        assert_eq!(numbers.encode(1 << 32, FsId(2)), None);
        let numbers = InodeNumbers::new(Some(fs64(1)), &[fs32(2), fs32(3)]);
        assert_eq!(numbers.encode(1, FsId(2)), Some(1 << 63 | 1));
    }

    #[test]
    fn no_two_objects_ever_share_a_number() {
        for count in 1..70_u64 {
            let lower: Vec<_> = (0..count).map(fs64).collect();
            for upper in [None, Some(fs64(0)), Some(fs64(999))] {
                let numbers = InodeNumbers::new(upper, &lower);
                let Some(shift) = numbers.shift else { continue };
                let mut seen = std::collections::HashSet::new();
                let all = (0..lower.len()).map(|i| numbers.of_lower(i).unwrap());
                let fs_ids: std::collections::BTreeSet<_> = all.chain(upper.map(|_| UPPER_FS)).collect();
                for ino in [0, 1, (1 << shift) - 1] {
                    for &fs in &fs_ids {
                        assert!(seen.insert(numbers.encode(ino, fs).unwrap()), "{count} {upper:?}");
                    }
                    assert!(seen.insert(numbers.overflow(ino).unwrap()), "{count} {upper:?}");
                }
            }
        }
    }

    fn facts(path: &Path) -> LayerFs {
        let root = File::open(path).unwrap();
        let stat = root.metadata().unwrap();
        let ino32 = handle::of(At::Fd(root.as_fd())).is_ok_and(|h| h.is_ino32(stat.ino()));
        LayerFs { dev: stat.dev(), ino32 }
    }

    #[test]
    fn the_kernel_with_xino_on_shows_the_same_numbers() {
        with_private_mounts(|| {
            let dir = tempfile::tempdir().unwrap();
            let at = |name: &str| dir.path().join(name);
            for name in ["t1", "t2", "t3", "t4"] {
                mount_tmpfs(&at(name));
            }
            let mut stacks = vec!["t2", "-:t1", "t1:t2", "t2:t1:t3", "-:t1:t2", "-:t1:t2:t3:t4"];
            let disks = ["e1", "e2", "e3"].iter().enumerate().all(|(i, name)| {
                let uuid = format!("00112233-4455-6677-8899-00000000000{i}");
                mount_ext4(&at(&format!("image{i}")), &uuid, &at(name))
            });
            if disks {
                stacks.extend(["e1:e2", "-:e1:e2", "e1:e2:e3", "e1:t1", "t1:e1", "-:e1:t1:e2", "e1:e2:e1"]);
            }
            for (round, stack) in stacks.iter().enumerate() {
                let mut names: Vec<_> = stack.split(':').collect();
                let top = names.remove(0);
                names.push("t1");
                // Each layer is a directory of its own with a file of its own.
                let place = |name: &str, index: usize| at(name).join(format!("round{round}-{index}"));
                let lower: Vec<_> = names.iter().enumerate().map(|(i, name)| place(name, i)).collect();
                for (i, path) in lower.iter().enumerate() {
                    fs::create_dir(path).unwrap();
                    fs::write(path.join(format!("file{i}")), b"").unwrap();
                }
                let list: Vec<_> = lower.iter().map(|path| path.display().to_string()).collect();
                let mut options = format!("xino=on,lowerdir={}", list.join(":"));
                let upper = (top != "-").then(|| place(top, 100));
                if let Some(upper) = &upper {
                    let work = place(top, 101);
                    fs::create_dir(upper).unwrap();
                    fs::create_dir(&work).unwrap();
                    fs::write(upper.join("file"), b"").unwrap();
                    options += &format!(",upperdir={},workdir={}", upper.display(), work.display());
                }
                let merged = at("merged");
                if lower.len() == 1 && upper.is_none() {
                    continue;
                }
                mount_overlay(&merged, &options).unwrap();
                let lower_facts: Vec<_> = lower.iter().map(|path| facts(path)).collect();
                let numbers = InodeNumbers::new(upper.as_deref().map(facts), &lower_facts);
                let shown = |name: &str| fs::metadata(merged.join(name)).unwrap().ino();
                for (i, path) in lower.iter().enumerate() {
                    let name = format!("file{i}");
                    let real = fs::metadata(path.join(&name)).unwrap().ino();
                    let expected = numbers.encode(real, numbers.of_lower(i).unwrap());
                    assert_eq!(Some(shown(&name)), expected, "{stack} {name}");
                }
                if let Some(upper) = upper {
                    let real = fs::metadata(upper.join("file")).unwrap().ino();
                    assert_eq!(Some(shown("file")), numbers.encode(real, UPPER_FS), "{stack} upper");
                }
                nix::mount::umount(&merged).unwrap();
            }
        });
    }
}
