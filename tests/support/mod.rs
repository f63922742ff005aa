//! What the mounted tests share: a private mount namespace with scratch filesystems of every kind, layer
//! builders, mounts that undo themselves, fingerprints and tree dumps.
//!
//! Every mount happens inside one mount namespace that belongs to the test process. When the process ends,
//! however it ends, the namespace and everything mounted in it end too.

#![allow(dead_code, reason = "each test target uses its own part of this")]

pub mod backing;
pub mod fingerprint;
pub mod layer;
pub mod mounts;
pub mod rng;
#[allow(unsafe_code)]
pub mod sys;
pub mod tree;
pub mod watchdog;
pub mod way;
