//! FUSE: the protocol between the kernel and the union.
//!
//! `wire` is the protocol as bytes, `serve` turns one request into one call of the union, `dev` and `ring` move messages
//! between the kernel and `serve`, `session` mounts and negotiates. Nothing here knows how a merge is decided.

mod channel;
pub mod control;
mod dev;
mod fusermount;
mod handshake;
mod nodes;
mod ring;
mod serve;
mod session;
mod stats;
mod transport;
pub mod wire;

pub use channel::Wanted as TransportWanted;
pub use session::{Mounted, Options, Summary, Unmounter, mount};
pub use stats::Stats;
