//! Decoding: bytes of one message to one typed [`Operation`] that borrows its names and data.

use std::ffi::CStr;
use std::fmt;

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::abi::{self, InHeader};
use super::extension::Extensions;
use super::opcode;
use crate::sys::{Errno, Name};

/// What was negotiated and changes the layout of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// SETXATTR carries its long form.
    pub setxattr_ext: bool,
}

/// One request.
#[derive(Debug)]
pub struct Request<'a> {
    /// Who asks, about which node, under which number.
    pub header: InHeader,
    /// What is asked.
    pub operation: Operation<'a>,
}

/// Why a message cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// It ends before its arguments do, or is not as long as it says.
    Truncated,
    /// A string without its NUL.
    Unterminated,
}

/// A message that yields no operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecodable {
    /// Not even a header: there is nobody to answer.
    NoHeader,
    /// The arguments make no sense; answered EIO.
    Malformed(InHeader, Broken),
    /// The arguments are understood and refused, for instance a name of 256 bytes.
    Refused(InHeader, Errno),
}

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Undecodable::NoHeader => f.write_str("a message without a header"),
            Undecodable::Malformed(header, broken) => {
                write!(
                    f,
                    "request {} with opcode {} makes no sense: {broken:?}",
                    header.unique, header.opcode
                )
            }
            Undecodable::Refused(header, errno) => {
                write!(f, "request {} with opcode {} is refused: {errno}", header.unique, header.opcode)
            }
        }
    }
}

/// A name as LOOKUP may carry it: with EXPORT_SUPPORT also `.` and `..` (F-13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// An ordinary name.
    Child(&'a Name),
    /// `.`
    Itself,
    /// `..`
    Parent,
}

/// An operation with its arguments. Node ids and handles are as on the wire.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Operation<'a> {
    Lookup(Wanted<'a>),
    Forget {
        references: u64,
    },
    BatchForget(ForgetList<'a>),
    Getattr(abi::GetattrIn),
    Statx(abi::StatxIn),
    Setattr(abi::SetattrIn),
    Readlink,
    Symlink {
        name: &'a Name,
        target: &'a CStr,
        extensions: Extensions<'a>,
    },
    Mknod {
        args: abi::MknodIn,
        name: &'a Name,
        extensions: Extensions<'a>,
    },
    Mkdir {
        args: abi::MkdirIn,
        name: &'a Name,
        extensions: Extensions<'a>,
    },
    Unlink(&'a Name),
    Rmdir(&'a Name),
    Rename {
        newdir: u64,
        flags: u32,
        from: &'a Name,
        to: &'a Name,
    },
    Link {
        oldnodeid: u64,
        name: &'a Name,
    },
    Open(abi::OpenIn),
    Create {
        args: abi::CreateIn,
        name: &'a Name,
        extensions: Extensions<'a>,
    },
    Tmpfile {
        args: abi::CreateIn,
        extensions: Extensions<'a>,
    },
    Release(abi::ReleaseIn),
    Read(abi::ReadIn),
    Write {
        args: abi::WriteIn,
        data: &'a [u8],
    },
    Statfs,
    Fsync(abi::FsyncIn),
    Fallocate(abi::FallocateIn),
    Lseek(abi::LseekIn),
    CopyFileRange {
        args: abi::CopyFileRangeIn,
        wide: bool,
    },
    Opendir(abi::OpenIn),
    Readdir(abi::ReadIn),
    Readdirplus(abi::ReadIn),
    Releasedir(abi::ReleaseIn),
    Fsyncdir(abi::FsyncIn),
    Setxattr {
        args: abi::SetxattrIn,
        name: &'a CStr,
        value: &'a [u8],
    },
    Getxattr {
        size: u32,
        name: &'a CStr,
    },
    Listxattr {
        size: u32,
    },
    Removexattr(&'a CStr),
    Ioctl {
        args: abi::IoctlIn,
        data: &'a [u8],
    },
    Interrupt {
        unique: u64,
    },
    Syncfs,
    Destroy,
    /// Anything the table does not serve.
    Unserved,
}

/// The nodes of one BATCH_FORGET.
#[derive(Clone, Copy, Debug)]
pub struct ForgetList<'a>(&'a [u8]);

impl ForgetList<'_> {
    /// Node ids as on the wire, each with the references given back.
    pub fn iter(&self) -> impl Iterator<Item = abi::ForgetOne> + '_ {
        self.0
            .chunks_exact(size_of::<abi::ForgetOne>())
            .filter_map(|raw| abi::ForgetOne::read_from_bytes(raw).ok())
    }
}

enum Trouble {
    Broken(Broken),
    Refused(Errno),
}

impl From<Broken> for Trouble {
    fn from(broken: Broken) -> Trouble {
        Trouble::Broken(broken)
    }
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Trouble {
        Trouble::Refused(errno)
    }
}

/// Decodes one message. Reads nothing beyond it.
pub fn decode(message: &[u8], dialect: Dialect) -> Result<Request<'_>, Undecodable> {
    let (header, _) = InHeader::read_from_prefix(message).map_err(|_| Undecodable::NoHeader)?;
    let whole = |broken| Undecodable::Malformed(header, broken);
    if header.len as usize != message.len() {
        return Err(whole(Broken::Truncated));
    }
    let end = message.len().checked_sub(8 * header.total_extlen as usize).ok_or(whole(Broken::Truncated))?;
    let arguments = message.get(size_of::<InHeader>()..end).ok_or(whole(Broken::Truncated))?;
    let extensions = message.get(end..).unwrap_or_default();
    match operation(header.opcode, Cursor(arguments), extensions, dialect) {
        Ok(operation) => Ok(Request { header, operation }),
        Err(Trouble::Broken(broken)) => Err(whole(broken)),
        Err(Trouble::Refused(errno)) => Err(Undecodable::Refused(header, errno)),
    }
}

fn operation<'a>(
    number: u32,
    mut c: Cursor<'a>,
    ext: &'a [u8],
    d: Dialect,
) -> Result<Operation<'a>, Trouble> {
    Ok(match number {
        opcode::LOOKUP => Operation::Lookup(c.wanted()?),
        opcode::FORGET => Operation::Forget { references: c.take::<abi::ForgetIn>()?.nlookup },
        opcode::BATCH_FORGET => Operation::BatchForget(c.forget_list()?),
        opcode::GETATTR => Operation::Getattr(c.take()?),
        opcode::STATX => Operation::Statx(c.take()?),
        opcode::SETATTR => Operation::Setattr(c.take()?),
        opcode::READLINK => Operation::Readlink,
        opcode::UNLINK => Operation::Unlink(c.name()?),
        opcode::RMDIR => Operation::Rmdir(c.name()?),
        opcode::LINK => Operation::Link { oldnodeid: c.take::<abi::LinkIn>()?.oldnodeid, name: c.name()? },
        opcode::RENAME => {
            let newdir = c.take::<abi::RenameIn>()?.newdir;
            Operation::Rename { newdir, flags: 0, from: c.name()?, to: c.name()? }
        }
        opcode::RENAME2 => {
            let args: abi::Rename2In = c.take()?;
            Operation::Rename { newdir: args.newdir, flags: args.flags, from: c.name()?, to: c.name()? }
        }
        opcode::SYMLINK | opcode::MKNOD | opcode::MKDIR | opcode::CREATE | opcode::TMPFILE => {
            creation(number, c, Extensions::decode(ext)?)?
        }
        opcode::OPEN => Operation::Open(c.take()?),
        opcode::RELEASE => Operation::Release(c.take()?),
        opcode::READ => Operation::Read(c.take()?),
        opcode::WRITE => {
            let args: abi::WriteIn = c.take()?;
            Operation::Write { args, data: c.bytes(args.size)? }
        }
        opcode::STATFS => Operation::Statfs,
        opcode::FSYNC => Operation::Fsync(c.take()?),
        opcode::FALLOCATE => Operation::Fallocate(c.take()?),
        opcode::LSEEK => Operation::Lseek(c.take()?),
        opcode::COPY_FILE_RANGE => Operation::CopyFileRange { args: c.take()?, wide: false },
        opcode::COPY_FILE_RANGE_64 => Operation::CopyFileRange { args: c.take()?, wide: true },
        opcode::OPENDIR => Operation::Opendir(c.take()?),
        opcode::READDIR => Operation::Readdir(c.take()?),
        opcode::READDIRPLUS => Operation::Readdirplus(c.take()?),
        opcode::RELEASEDIR => Operation::Releasedir(c.take()?),
        opcode::FSYNCDIR => Operation::Fsyncdir(c.take()?),
        opcode::SETXATTR => setxattr(c, d)?,
        opcode::GETXATTR => {
            Operation::Getxattr { size: c.take::<abi::GetxattrIn>()?.size, name: c.string()? }
        }
        opcode::LISTXATTR => Operation::Listxattr { size: c.take::<abi::GetxattrIn>()?.size },
        opcode::REMOVEXATTR => Operation::Removexattr(c.string()?),
        opcode::IOCTL => {
            let args: abi::IoctlIn = c.take()?;
            Operation::Ioctl { args, data: c.bytes(args.in_size)? }
        }
        opcode::INTERRUPT => Operation::Interrupt { unique: c.take::<abi::InterruptIn>()?.unique },
        opcode::SYNCFS => Operation::Syncfs,
        opcode::DESTROY => Operation::Destroy,
        _ => Operation::Unserved,
    })
}

fn creation<'a>(
    number: u32,
    mut c: Cursor<'a>,
    extensions: Extensions<'a>,
) -> Result<Operation<'a>, Trouble> {
    Ok(match number {
        opcode::SYMLINK => Operation::Symlink { name: c.name()?, target: c.string()?, extensions },
        opcode::MKNOD => Operation::Mknod { args: c.take()?, name: c.name()?, extensions },
        opcode::MKDIR => Operation::Mkdir { args: c.take()?, name: c.name()?, extensions },
        opcode::CREATE => Operation::Create { args: c.take()?, name: c.name()?, extensions },
        // A name follows that means nothing ("/").
        _ => Operation::Tmpfile { args: c.take()?, extensions },
    })
}

fn setxattr<'a>(mut c: Cursor<'a>, dialect: Dialect) -> Result<Operation<'a>, Trouble> {
    let args = if dialect.setxattr_ext {
        c.take::<abi::SetxattrIn>()?
    } else {
        let short: abi::SetxattrInShort = c.take()?;
        abi::SetxattrIn { size: short.size, flags: short.flags, ..Default::default() }
    };
    Ok(Operation::Setxattr { args, name: c.string()?, value: c.bytes(args.size)? })
}

/// The arguments not taken yet.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take<T: FromBytes + KnownLayout + Immutable>(&mut self) -> Result<T, Broken> {
        let (value, rest) = T::read_from_prefix(self.0).map_err(|_| Broken::Truncated)?;
        self.0 = rest;
        Ok(value)
    }

    fn string(&mut self) -> Result<&'a CStr, Broken> {
        let text = CStr::from_bytes_until_nul(self.0).map_err(|_| Broken::Unterminated)?;
        self.0 = self.0.get(text.count_bytes() + 1..).unwrap_or_default();
        Ok(text)
    }

    fn name(&mut self) -> Result<&'a Name, Trouble> {
        Ok(Name::new(self.string()?)?)
    }

    fn wanted(&mut self) -> Result<Wanted<'a>, Trouble> {
        let raw = self.string()?;
        Ok(match raw.to_bytes() {
            b"." => Wanted::Itself,
            b".." => Wanted::Parent,
            _ => Wanted::Child(Name::new(raw)?),
        })
    }

    fn bytes(&mut self, count: u32) -> Result<&'a [u8], Broken> {
        let (taken, rest) = self.0.split_at_checked(count as usize).ok_or(Broken::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn forget_list(&mut self) -> Result<ForgetList<'a>, Broken> {
        let count = self.take::<abi::BatchForgetIn>()?.count;
        let bytes = (count as usize).checked_mul(size_of::<abi::ForgetOne>()).ok_or(Broken::Truncated)?;
        Ok(ForgetList(self.0.get(..bytes).ok_or(Broken::Truncated)?))
    }
}
