//! Linux, and the only `unsafe` code of the crate. Errors are errnos.

mod at;
mod dir;
pub mod file;
pub mod mountinfo;
mod name;
pub mod process;
mod stat;

pub use at::{At, SetTime};
pub use dir::{Dir, RawEntry, RenameFlag, read_entries, seek_entries};
pub use name::{NAME_MAX, Name, NameBuf};
pub use nix::errno::Errno;
pub use stat::{Dev, Kind, Stat, Time};

/// The result of everything below the command line: the error is an errno.
pub type Result<T> = std::result::Result<T, Errno>;
