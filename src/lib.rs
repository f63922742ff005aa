//! acetate: a union filesystem in user space that behaves like kernel overlayfs.
//!
//! # Architecture
//!
//! A small pure core decides what a stack of layers means; one write path turns every change into exactly one
//! publishing system call; thin adapters speak FUSE and the command line. `use` points down only:
//!
//! ```text
//! cli --> fuse --> union --> upper --> layer --> sys --> libc, nix
//!   |---> diff ------/         (diff reads layers through a union of its own; it needs no mount)
//!   \---> image -----------------------> layer
//! ```
//!
//! | floor | knows | does not know |
//! |---|---|---|
//! | [`sys`] | Linux, and the only `unsafe`: names, objects, directories, copying, mount clones, credentials | layers |
//! | [`layer`] | how to read one layer; every dialect of marks | that there are several |
//! | [`upper`] | how to change the top layer: stage, publish, whiteout, sweep | lookups over several layers |
//! | [`union`] | merging, nodes, copy-up, create, remove, rename, listings, data | FUSE messages, option strings |
//! | [`fuse`] | the wire, the dispatch, the channel, mounting, passthrough backings | how a merge is decided |
//! | [`image`] | OCI layouts, archives, the store of layers; hands out directories | mounts |
//! | [`cli`] | words people type, life of the daemon, output | FUSE messages |
//!
//! A name is one checked component ([`sys::Name`]) and a place is an open directory and a name, never a path. A lower
//! object never moves, so it is its parent and its name; an upper object is where the union's own tree says it is.
//! Descriptors of directories come from one bounded cache; no inode holds one, except an orphan.
//!
//! A change is decided purely (`union::rename::plan`, `union::lookup::Fold`), built as an [`upper::Staged`] that nobody
//! sees, and published by one rename, link, mknod or unlink. What a crash leaves before that is garbage in the work
//! directory, swept at the next mount.
//!
//! The mount is a FUSE filesystem whose root holds one directory, the union's root, and what is attached to the mount
//! point is a clone of that directory: the kernel caches the ACLs of every inode but the root, so nobody pays for them.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod apply;
pub mod cli;
pub mod diff;
pub mod error;
pub mod fuse;
pub mod image;
pub mod layer;
pub mod squash;
#[allow(unsafe_code)]
pub mod sys;
pub mod union;
pub mod upper;
