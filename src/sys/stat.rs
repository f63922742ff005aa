//! What statx(2) says of an object, in plain numbers.

use std::fmt;

/// Seconds and nanoseconds since the epoch; seconds may be negative, nanoseconds are always 0..1_000_000_000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Whole seconds, negative before 1970.
    pub secs: i64,
    /// Nanoseconds added to `secs`.
    pub nanos: u32,
}

/// A device number in its two halves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Dev {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl Dev {
    /// The 32-bit form FUSE carries (F-44): 12 bits of major, 20 bits of minor.
    pub fn to_wire(self) -> u32 {
        (self.minor & 0xff) | (self.major << 8) | ((self.minor & !0xff) << 12)
    }

    /// The inverse of [`Dev::to_wire`].
    pub fn from_wire(raw: u32) -> Dev {
        Dev { major: (raw & 0xf_ff00) >> 8, minor: (raw & 0xff) | ((raw >> 12) & 0xf_ff00) }
    }

    /// The form of the C library's `dev_t`.
    pub fn to_libc(self) -> libc::dev_t {
        libc::makedev(self.major, self.minor)
    }
}

/// The type of an object, as in the upper bits of `st_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A directory.
    Dir,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl Kind {
    /// The type in `mode`; unknown bits count as a socket, the one kind that nothing is done with.
    pub fn of_mode(mode: u32) -> Kind {
        match mode & libc::S_IFMT {
            libc::S_IFDIR => Kind::Dir,
            libc::S_IFREG => Kind::File,
            libc::S_IFLNK => Kind::Symlink,
            libc::S_IFCHR => Kind::Char,
            libc::S_IFBLK => Kind::Block,
            libc::S_IFIFO => Kind::Fifo,
            _ => Kind::Socket,
        }
    }

    /// The `S_IF…` bits.
    pub fn mode_bits(self) -> u32 {
        match self {
            Kind::Dir => libc::S_IFDIR,
            Kind::File => libc::S_IFREG,
            Kind::Symlink => libc::S_IFLNK,
            Kind::Char => libc::S_IFCHR,
            Kind::Block => libc::S_IFBLK,
            Kind::Fifo => libc::S_IFIFO,
            Kind::Socket => libc::S_IFSOCK,
        }
    }

    /// The `DT_…` value that readdir gives.
    pub fn d_type(self) -> u8 {
        (self.mode_bits() >> 12) as u8
    }

    /// The kind of a `DT_…` value; `None` for DT_UNKNOWN.
    pub fn of_d_type(raw: u8) -> Option<Kind> {
        match raw {
            libc::DT_DIR => Some(Kind::Dir),
            libc::DT_REG => Some(Kind::File),
            libc::DT_LNK => Some(Kind::Symlink),
            libc::DT_CHR => Some(Kind::Char),
            libc::DT_BLK => Some(Kind::Block),
            libc::DT_FIFO => Some(Kind::Fifo),
            libc::DT_SOCK => Some(Kind::Socket),
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Dir => "directory",
            Kind::File => "file",
            Kind::Symlink => "symlink",
            Kind::Char => "character device",
            Kind::Block => "block device",
            Kind::Fifo => "FIFO",
            Kind::Socket => "socket",
        })
    }
}

/// The metadata of one real object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Filesystem of the object (`makedev` form).
    pub dev: u64,
    /// Inode number on that filesystem.
    pub ino: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links.
    pub nlink: u32,
    /// Length in bytes.
    pub size: u64,
    /// Allocated 512-byte blocks.
    pub blocks: u64,
    /// Preferred I/O size in bytes.
    pub blksize: u32,
    /// Device number of a device node.
    pub rdev: Dev,
    /// Last access.
    pub atime: Time,
    /// Last change of contents.
    pub mtime: Time,
    /// Last change of metadata.
    pub ctime: Time,
    /// Birth, where the filesystem records it.
    pub btime: Option<Time>,
    /// The immutable flag is set.
    pub immutable: bool,
    /// The append-only flag is set.
    pub append_only: bool,
}

impl Stat {
    /// The type bits of `mode`.
    pub fn kind(&self) -> Kind {
        Kind::of_mode(self.mode)
    }

    /// Whether this is a form-A whiteout: a character device with device number 0:0 (L-9).
    pub fn is_whiteout_device(&self) -> bool {
        self.kind() == Kind::Char && self.rdev == Dev::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_the_wire() {
        for (major, minor) in [(0, 0), (1, 3), (8, 0x12345), (0xfff, 0xfffff), (259, 256)] {
            let dev = Dev { major, minor };
            assert_eq!(Dev::from_wire(dev.to_wire()), dev);
        }
    }

    #[test]
    fn every_kind_has_one_d_type() {
        for kind in [Kind::Dir, Kind::File, Kind::Symlink, Kind::Char, Kind::Block, Kind::Fifo, Kind::Socket]
        {
            assert_eq!(Kind::of_d_type(kind.d_type()), Some(kind));
            assert_eq!(Kind::of_mode(kind.mode_bits() | 0o644), kind);
        }
        assert_eq!(Kind::of_d_type(libc::DT_UNKNOWN), None);
    }
}
