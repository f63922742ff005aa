//! Images: what is imported is what was packed, and what is hostile is refused.

#![allow(clippy::unwrap_used, missing_docs)]

mod archives;
mod bundles;
mod formats;
mod hostile;
mod kills;
mod mounting;
mod round;
mod store;
mod tarball;
mod world;
