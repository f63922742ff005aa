//! Differential tests: the same stack of layers is mounted by kernel overlayfs and by acetate, the same operations
//! are performed on both, and everything that can be seen must be equal, in three steps: call by call, tree by
//! tree, and with the uppers mounted by the other side. The lower layers are fingerprinted around every scenario.
//!
//! `ACETATE_DIFFERENTIAL_CANDIDATE=kernel` compares the kernel with itself, which shows that a failure of acetate
//! is not one of these tests. A random failure prints the variables that repeat it.

#![allow(clippy::unwrap_used, missing_docs)]
#![allow(dropping_references, reason = "ends a chain of calls in a closure that answers nothing")]

#[path = "../support/mod.rs"]
mod support;

mod accepted;
mod actor;
mod attributes;
mod generate;
mod listing;
mod op;
mod outcome;
mod pair;
mod scenario;
mod script;
mod stack;
mod upper;

mod prelude;

mod copy_up;
mod corners;
mod data;
mod deletion;
mod descriptors;
mod inodes;
mod lookup;
mod metacopy;
mod nested;
mod options;
mod permissions;
mod races;
mod random;
mod readdir;
mod redirects;
mod rename;
mod selftest;
mod whiteouts;
mod xattrs;
