//! Linux, and the only `unsafe` code of the crate. Errors are errnos.

mod at;
mod dir;
pub mod file;
pub mod fusedev;
pub mod mountapi;
mod name;
mod stat;

pub use at::{At, SetTime};
pub use dir::{Dir, RawEntry, RenameFlag, read_entries, seek_entries};
pub use name::{NAME_MAX, Name, NameBuf};
pub use nix::errno::Errno;
pub use stat::{Dev, Kind, Stat, Time};

/// The result of everything below the command line: the error is an errno.
pub type Result<T> = std::result::Result<T, Errno>;

/// The errno inside an I/O error of the standard library; EIO when it carries none.
pub fn errno_of(e: std::io::Error) -> Errno {
    e.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
