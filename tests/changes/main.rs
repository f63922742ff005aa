//! What was changed, and keeping it: `run`, `apply`, `squash`, `diff`.

#![allow(clippy::unwrap_used, clippy::duplicate_mod, missing_docs)]

mod apply;
mod dialects;
mod generated;
mod killed;
mod random;
mod run;
mod squash;
#[path = "../support/stage.rs"]
mod stage;
#[path = "../support/mod.rs"]
mod support;
#[path = "../crash/tracer.rs"]
mod tracer;
mod world;
