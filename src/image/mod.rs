//! Images: taken apart into layers that overlayfs can mount, and kept in a store.
//!
//! What comes in came from outside: every digest is checked, every name and number refused unless it is one that an
//! image can have, and nothing has its place in the store before all of it is whole. What is in the store is plain
//! layers, so that whoever mounts one needs nothing of this.

pub mod blob;
pub mod digest;
mod front;
pub mod import;
pub mod manifest;
pub mod name;
pub mod refusal;
pub mod runtime;
pub mod source;
pub mod store;
mod stream;
pub mod tar;
pub mod unpack;
pub mod users;
