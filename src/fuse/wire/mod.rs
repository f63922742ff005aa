//! FUSE 7.45 as bytes: requests in, replies out, no input or output of its own.
//!
//! The hard part is trust: a message comes from the kernel, yet a name in it can be anything a program typed, and a
//! later kernel may send what this one does not. So a message that cannot be understood costs exactly that request,
//! and nothing is read beyond its end. The same code serves every channel (`/dev/fuse`, io_uring).

pub mod abi;
mod extension;
mod opcode;
mod reply;
mod request;

pub use extension::{Extensions, SupplementaryGroups};
pub use opcode::*;
pub use reply::{DirWriter, INVALID_ID, attr_out, entry_out, negative_entry, statfs_out, statx_out};
pub use request::*;

#[cfg(test)]
pub(super) mod samples;
#[cfg(test)]
mod tests;
