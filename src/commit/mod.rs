//! An upper as an OCI layer.
//!
//! Two things make this harder than packing a directory. What overlayfs keeps in attributes has no form in a layer: a
//! renamed lower directory must be written out whole, a metadata-only file needs its data, and only deletions and
//! replaced directories have a form there. And the tree may change while it is read: so each object is read until it
//! held still (`steady`), and the layer appears only when all of it is there.
//!
//! The same tree gives the same bytes: entries come in the order of their names, holes are where the zeros are, and
//! nothing is written that depends on when or where it was made.

mod head;
pub mod layout;
mod output;
mod snapshot;
mod steady;
mod walk;

use std::path::PathBuf;

pub use output::{Compression, Destination, Finished};

use crate::error::SetupError;
use crate::layer::marks::Prefix;
use crate::sys::Time;

/// What is committed, and how it is read.
#[derive(Clone, Debug)]
pub struct Source {
    /// The upper directory.
    pub upper: PathBuf,
    /// The lower directories, top first; needed for renamed directories and metadata-only files alone.
    pub lower: Vec<PathBuf>,
    /// Data-only layers, top first.
    pub data_only: Vec<PathBuf>,
    /// Which attributes are marks.
    pub prefix: Prefix,
    /// Whether owners and modes are those in the `override_stat` attribute.
    pub overridden: bool,
    /// Whether `.wh.` files in the upper are marks.
    pub upper_markers: bool,
    /// Whether the lowers hold `.wh.` markers.
    pub lower_markers: bool,
    /// Somebody may be writing: data that is only mapped is brought to the file first.
    pub live: bool,
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Objects in the layer, hard links included.
    pub entries: u64,
    /// Deleted names.
    pub whiteouts: u64,
    /// Directories that replace what is below.
    pub opaque: u64,
    /// Bytes of the layer before compression.
    pub uncompressed: u64,
    /// Bytes of the file.
    pub size: u64,
    /// SHA-256 of the file, in the form `sha256:…`.
    pub digest: String,
    /// SHA-256 of the layer before compression.
    pub diff_id: String,
    /// Paths of sockets, which no layer can hold.
    pub left_out: Vec<crate::union::control::Text>,
    /// The newest modification time in it, in seconds since 1970.
    pub newest: i64,
}

/// Who is told how it goes.
pub trait Progress {
    /// One more object is done; so many bytes of contents came with it.
    fn step(&self, bytes: u64);
}

/// How often a file that changes is read before the commit fails.
pub const TRIES: u32 = 3;

/// Writes the layer to `destination`, staged: it is there when this returns, and nothing is there if it fails.
///
/// # Errors
/// What cannot be read or written, by name; a file that did not hold still in [`TRIES`] readings; a renamed directory
/// or metadata-only file without the lower it needs.
pub fn write(
    source: &Source,
    destination: &Destination,
    compression: Compression,
    progress: &dyn Progress,
) -> Result<(Report, Finished), SetupError> {
    crate::sys::file::ignore_lease_breaks().map_err(|e| SetupError::new("prepare reading", e.desc()))?;
    let mut busy = steady::Busy::default();
    loop {
        let writer = output::LayerWriter::new(destination, compression)?;
        match walk::run(source, writer, &busy, progress)? {
            walk::Outcome::Done(done) => return Ok(*done),
            walk::Outcome::Disturbed(id) => busy.note(id),
        }
    }
}

/// The newest of a set of times, at least the epoch.
fn newer(a: Time, b: Time) -> Time {
    a.max(b)
}
