//! What every file of scenarios uses.

pub use libc::{
    LOCK_EX, LOCK_SH, LOCK_UN, O_APPEND, O_CREAT, O_DIRECT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_NONBLOCK,
    O_PATH, O_RDONLY, O_RDWR, O_TMPFILE, O_TRUNC, O_WRONLY, R_OK, RENAME_EXCHANGE, RENAME_NOREPLACE,
    RENAME_WHITEOUT, S_IFCHR, S_IFIFO, S_IFSOCK, SEEK_CUR, SEEK_DATA, SEEK_END, SEEK_HOLE, SEEK_SET, W_OK,
};
pub use nix::errno::Errno::*;

pub use super::op::{Op, Stamp};
pub use super::outcome::Value;
pub use super::scenario::scenario;
pub use crate::support::backing::Fs;
pub use crate::support::layer::{
    APPEND_ONLY, IMMUTABLE, Layer, NO_ATIME, SYNC, acl, acl_for_user, capability,
};
