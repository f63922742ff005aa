//! What is wrong with an upper or a layer, and what can be done about it.
//!
//! A mount forgives much: a mark that makes no sense is ignored, or makes one directory fail, and nobody is told why.
//! Here every mark is looked at once, against the layers below where they are known. Repairing touches marks alone,
//! never data, and only where what the mount shows stays as it is.

mod facts;
mod fix;
mod walk;
mod work;

use std::ffi::CString;
use std::path::PathBuf;

pub use fix::apply;
pub use walk::findings;
pub use work::stale;

use crate::layer::marks::Prefix;
use crate::sys::NameBuf;

/// What is checked.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The upper or layer.
    pub upper: PathBuf,
    /// The layers below, top first; without them nothing is known about what marks lead to.
    pub lower: Vec<PathBuf>,
    /// Data-only layers, top first.
    pub data_only: Vec<PathBuf>,
    /// Whether the lowers hold `.wh.` markers.
    pub lower_markers: bool,
    /// How marks are spelled.
    pub prefix: Prefix,
    /// Owners and modes are those of `override_stat` attributes.
    pub overridden: bool,
    /// Another spelling occurs as well: where.
    pub other_spelling: Option<Vec<NameBuf>>,
    /// Deletions of both kinds occur, devices and `.wh.` files.
    pub mixed_whiteouts: bool,
}

/// Where something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Beneath the upper's root.
    Upper(Vec<NameBuf>),
    /// In the work directory.
    Work(PathBuf),
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub place: Place,
    /// A word for programs; stable.
    pub problem: &'static str,
    /// What is wrong, as a sentence without a subject.
    pub why: String,
    /// What to do.
    pub advice: &'static str,
    /// What would repair it, if that is safe.
    pub repair: Option<Repair>,
}

/// A change of marks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// The whiteout goes.
    RemoveWhiteout,
    /// The attribute goes.
    RemoveAttr(CString),
    /// The attribute gets this value.
    SetAttr(CString, Vec<u8>),
    /// The leftover goes, with all that is in it.
    RemoveLeftover,
}

#[cfg(test)]
mod tests;
