//! Tests through the kernel: real mounts of the `acetate` program, each under a time limit, with the lower layers
//! fingerprinted around every one of them (C-23).

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod world;

mod bounds;
mod broken;
mod caches;
mod coherence;
mod copying;
mod data;
mod files;
mod gathered;
mod hanging;
mod locks;
mod mixed;
mod protocol;
mod quota;
mod robust;
mod unable;
