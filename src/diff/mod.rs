//! What an upper changed, without a mount.
//!
//! An upper says where something happened, not what: a copied-up file may be unchanged, a whiteout may stand for
//! nothing, a directory may be there only to lead to a child. So every object of the upper is compared with the one
//! object it stands for below, and nothing else is read. Two read-only unions answer for "before" (the lowers) and
//! "now" (the upper on top of them); the raw upper only says which names to ask about. All marks, redirects and
//! metadata-only files are thereby read by the same code that serves a mount.

mod compare;
mod linked;
mod marks_only;
mod tree;
mod walk;

use std::path::PathBuf;

pub use tree::{Data, Seen, Tree};
pub use walk::{Difference, Differing, Member, Was, changes, examine, view, views};

use crate::sys::Kind;

/// What to compare.
#[derive(Clone, Debug, Default)]
pub struct Stack {
    /// The upper directory.
    pub upper: PathBuf,
    /// The lower directories, top first. Without any, most of the upper is [`What::Undecided`].
    pub lower: Vec<PathBuf>,
    /// Data-only layers, top first.
    pub data_only: Vec<PathBuf>,
    /// Whether marks are `user.overlay.` attributes.
    pub userxattr: bool,
    /// Whether the lowers hold `.wh.` markers (L-14).
    pub oci_whiteouts: bool,
    /// The upper's work directory, if it is known; wanted for its index, which tells what other names a changed file
    /// has.
    pub work: Option<PathBuf>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// From the root of the tree, without a leading slash; `.` for the root itself.
    pub path: Vec<u8>,
    /// What happened to it.
    pub what: What,
    /// What it is now; what it was, if it was deleted. `None` when a deletion cannot be compared with the lowers.
    pub kind: Option<Kind>,
    /// Bytes that a copy of the change would carry: the size of a file that was added or whose content changed.
    pub bytes: u64,
}

/// What happened to a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It is gone, with everything in it.
    Deleted,
    /// It was not there before.
    Added,
    /// A directory that was called `from` before.
    Renamed {
        /// The path before.
        from: Vec<u8>,
    },
    /// It was there before and differs.
    Changed(Facets),
    /// Something lies in the upper; without the lowers nobody can say what it was.
    Undecided,
}

impl What {
    /// The letter that stands for it in a listing.
    pub fn letter(&self) -> char {
        match self {
            What::Deleted => 'D',
            What::Added => 'A',
            What::Renamed { .. } => 'R',
            What::Changed(_) => 'C',
            What::Undecided => '?',
        }
    }

    /// Changes of one path in the order in which they would be done again.
    fn rank(&self) -> u8 {
        match self {
            What::Deleted => 0,
            What::Added | What::Undecided => 1,
            What::Renamed { .. } => 2,
            What::Changed(_) => 3,
        }
    }
}

/// In what an object differs from before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facets {
    /// Bytes of a file, target of a symlink, number of a device.
    pub content: bool,
    /// Permission bits.
    pub mode: bool,
    /// User or group.
    pub owner: bool,
    /// Modification time. Of a directory whose names changed it goes without saying, and is not set.
    pub mtime: bool,
    /// Extended attributes, ACLs and capabilities among them.
    pub xattr: bool,
}

impl Facets {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Facets::default()
    }

    /// The names of what differs, in a fixed order.
    pub fn names(&self) -> Vec<&'static str> {
        let all = [
            (self.content, "content"),
            (self.mode, "mode"),
            (self.owner, "owner"),
            (self.mtime, "mtime"),
            (self.xattr, "xattr"),
        ];
        all.into_iter().filter_map(|(set, name)| set.then_some(name)).collect()
    }
}

#[cfg(test)]
mod tests;
