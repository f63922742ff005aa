//! The layer index of a layer in the store, and whether it may be believed.
//!
//! Nobody changes a layer of the store, so its index is used without looking at the layer. It knows directories by
//! their inode numbers, however, and a store that was copied or restored has others. So what the root of the layer was
//! when the index was made is noted beside it; where that is not so any more, the index is compared like any other.

use std::path::Path;

use super::super::digest::Digest;
use super::super::refusal::{Refusal, Result};
use super::Store;
use crate::layer::index::{LayerIndex, beside};
use crate::sys::Dir;

const NOTE: &str = "indexed";

/// What tells one root of a layer from another.
fn identity(tree: &Path) -> std::io::Result<String> {
    let stat = Dir::open_path(tree).and_then(|dir| dir.this().stat())?;
    Ok(format!("{} {}.{:09}\n", stat.ino, stat.ctime.secs, stat.ctime.nanos))
}

/// Writes the index of the layer that is being made in `place`.
///
/// # Errors
/// It cannot be read or written.
pub fn write(place: &Path) -> Result<()> {
    let tree = place.join("tree");
    let failed = |e: &dyn std::fmt::Display| Refusal::new(format!("its index cannot be written: {e}"));
    let file = beside(&tree).ok_or_else(|| failed(&"it has no name"))?;
    LayerIndex::build(&tree).map_err(|e| failed(&e))?.write_new(&file).map_err(|e| failed(&e))?;
    let note = identity(&tree).and_then(|identity| std::fs::write(place.join(NOTE), identity));
    note.map_err(|e| failed(&e))
}

/// Whether the index of the layer in `place` is of this very directory.
fn is_own(place: &Path) -> bool {
    let noted = std::fs::read_to_string(place.join(NOTE));
    noted.is_ok_and(|noted| identity(&place.join("tree")).is_ok_and(|now| now == noted))
}

impl Store {
    /// Whether the index of a layer may be believed without looking at the layer.
    pub fn is_indexed(&self, layer: &Digest) -> bool {
        is_own(&self.layer_path(layer))
    }

    /// What is wrong with the index of a layer, if one would be believed.
    ///
    /// # Errors
    /// The layer cannot be read.
    pub(super) fn wrong_index(&self, layer: &Digest) -> Result<Option<String>> {
        let tree = self.layer_path(layer).join("tree");
        let Some(file) = beside(&tree).filter(|_| self.is_indexed(layer)) else { return Ok(None) };
        Ok(match LayerIndex::load(&file) {
            Ok(None) => None,
            Ok(Some(index)) => {
                let now = LayerIndex::build(&tree).map_err(|e| Refusal::new(e.to_string()))?;
                (!index.holds_the_same(&now))
                    .then(|| "its index names what is not there, or too little".into())
            }
            Err(e) => Some(e.to_string()),
        })
    }
}
