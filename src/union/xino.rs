//! Inode numbers that are unique over several filesystems (I-2, I-3).

/// How raw inode numbers become st_ino.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Encoding {
    /// High bits that hold the filesystem's number; 0 when there is only one filesystem.
    bits: u32,
}

impl Encoding {
    /// For `filesystems` distinct ones, the upper's counted even when there is none.
    pub(super) fn new(filesystems: u32) -> Encoding {
        match filesystems {
            0 | 1 => Encoding { bits: 0 },
            n => Encoding { bits: (n - 1).ilog2() + 2 },
        }
    }

    /// The number shown for inode `ino` of filesystem `fsid`. A number that needs the high bits itself is folded: the
    /// kernel would show another device instead, which a FUSE mount cannot.
    pub(super) fn encode(self, fsid: u32, ino: u64) -> u64 {
        if self.bits == 0 {
            return ino;
        }
        let shift = 64 - self.bits + 1;
        let high = ino >> shift;
        let folded = if high == 0 {
            ino
        } else {
            (ino ^ high.wrapping_mul(0x9e37_79b9_7f4a_7c15)) & ((1 << shift) - 1)
        };
        folded | (u64::from(fsid) << shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_filesystem_shows_raw_numbers_i1() {
        assert_eq!(Encoding::new(1).encode(0, 12345), 12345);
    }

    #[test]
    fn the_second_of_two_filesystems_has_bit_63_i3() {
        assert_eq!(Encoding::new(2).encode(1, 2), 0x8000_0000_0000_0002);
        assert_eq!(Encoding::new(2).encode(0, 2), 2);
    }

    #[test]
    fn numbers_of_different_filesystems_never_meet() {
        for n in 2..20 {
            let e = Encoding::new(n);
            let mut seen = std::collections::HashSet::new();
            for fs in 0..n {
                for ino in [1, 2, 1 << 31, (1 << 40) + 7] {
                    assert!(seen.insert(e.encode(fs, ino)), "{n} {fs} {ino}");
                }
            }
        }
    }
}
