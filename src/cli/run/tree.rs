//! A tree that the command sees changed.

use std::path::PathBuf;

use super::super::scratch::Ephemeral;
use super::inside::Inside;
use crate::diff::Stack;
use crate::image::unpack::dialect::Dialect;
use crate::sys::process;
use crate::union::{Config, Fsync, Redirect};

/// A tree, and where its changes go.
#[derive(Debug)]
pub struct Tree {
    /// Where the command sees it.
    pub on: PathBuf,
    /// What it is made of, top first.
    pub lower: Vec<PathBuf>,
    /// Whether the file system of a layer is itself stacked.
    pub stacked: bool,
    /// Whether the changes can be applied to `on`: it is the one layer.
    pub applies: bool,
    /// Where changes go.
    pub changes: Changes,
    /// It is an image, and the command lives in it.
    pub inside: Option<Inside>,
}

/// Where changes go.
#[derive(Debug)]
pub enum Changes {
    /// To a directory of our own.
    Private(Ephemeral),
    /// To one that the user named.
    Named {
        /// The upper.
        upper: PathBuf,
        /// Its work directory.
        work: PathBuf,
    },
}

impl Changes {
    /// The upper.
    pub fn upper(&self) -> PathBuf {
        match self {
            Changes::Private(made) => made.upper(),
            Changes::Named { upper, .. } => upper.clone(),
        }
    }

    /// Its work directory.
    pub fn work(&self) -> PathBuf {
        match self {
            Changes::Private(made) => made.work(),
            Changes::Named { work, .. } => work.clone(),
        }
    }
}

impl Tree {
    /// Whether marks are `user.*` attributes: where others are not allowed, and in a store that has such marks.
    fn userxattr(&self) -> bool {
        let kept = |inside: &Inside| inside.stack.dialect != Dialect::Root;
        !process::may_use_trusted_xattrs() || self.inside.as_ref().is_some_and(kept)
    }

    /// The stack as it is mounted. A program must not notice that it runs on a union, so hard links stay together and
    /// directories can be renamed. Nothing is synced on the way: that is done once, at the end.
    pub fn config(&self) -> Config {
        Config {
            lower: self.lower.clone(),
            upper: Some(self.changes.upper()),
            work: Some(self.changes.work()),
            userxattr: self.userxattr(),
            redirect: Redirect::On,
            index: true,
            fsync: Fsync::Volatile,
            ..self.inside.as_ref().map(Inside::config).unwrap_or_default()
        }
    }

    /// The same for `diff`.
    pub fn stack(&self) -> Stack {
        Stack {
            upper: self.changes.upper(),
            lower: self.lower.clone(),
            userxattr: self.userxattr(),
            work: Some(self.changes.work()),
            ..Stack::default()
        }
    }
}
