//! What was changed, and keeping it: `run`, `apply`, `squash`, `diff`.

#![allow(clippy::unwrap_used, missing_docs)]

mod run;
#[path = "../support/stage.rs"]
mod stage;
mod world;
