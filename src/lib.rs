//! acetate: a union filesystem in user space that behaves like kernel overlayfs.

pub mod cli;
pub mod diff;
pub mod error;
pub mod fuse;
pub mod layer;
#[allow(unsafe_code)]
pub mod sys;
pub mod union;
pub mod upper;
