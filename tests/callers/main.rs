//! The programs that call us, with the words they use: mount(8), container engines, and people's scripts.
//!
//! Every test works in a mount namespace and in directories of its own. What it mounts, starts or stores ends with it.

#![allow(clippy::unwrap_used, missing_docs)]

mod dialects;
mod engines;
mod mounting;
mod readme;
mod shifting;
#[path = "../support/stage.rs"]
mod stage;
mod standing_in;
