//! `commit`: what an upper changed becomes a layer, and whoever unpacks that layer gets the tree that the mount showed.
//!
//! The trees come from kernel overlayfs, so neither the upper nor the tree it stands for is of our making; umoci unpacks
//! the images.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod dialects;
mod kinds;
mod layer;
mod layout;
mod live;
mod world;
