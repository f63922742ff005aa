//! Removing what nothing needs and nobody uses.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use super::super::digest::Digest;
use super::{Store, lock, stage};
use crate::error::SetupError;

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Freed {
    /// Images without a name.
    pub images: Vec<Digest>,
    /// Layers that no image needs.
    pub layers: Vec<Digest>,
    /// Bytes that the files in them had.
    pub bytes: u64,
    /// Images and layers that nothing needs but somebody uses now.
    pub in_use: Vec<Digest>,
}

impl Store {
    /// Removes images without a name, then layers without an image. What a mount or an import uses stays.
    ///
    /// # Errors
    /// Something cannot be read or removed; the store is whole all the same.
    pub fn gc(&self) -> Result<Freed, SetupError> {
        self.sweep();
        let mut freed = Freed::default();
        for id in self.image_ids()? {
            let is_named = || Ok(self.names()?.iter().any(|named| named.image == id));
            if self.remove(&self.image_path(&id), &is_named, &mut freed.in_use, id)? {
                freed.images.push(id);
            }
        }
        for id in self.layer_ids()? {
            let path = self.layer_path(&id);
            let is_needed = || Ok(self.needed()?.contains(&id));
            let bytes = self.layer_totals(&id).map_or(0, |totals| totals.bytes);
            if self.remove(&path, &is_needed, &mut freed.in_use, id)? {
                freed.layers.push(id);
                freed.bytes += bytes;
            }
        }
        Ok(freed)
    }

    /// The layers of all images that are there.
    fn needed(&self) -> Result<BTreeSet<Digest>, SetupError> {
        let mut needed = BTreeSet::new();
        for id in self.image_ids()? {
            match self.image(&id) {
                Ok(image) => needed.extend(image.layers.iter().map(|layer| layer.diff_id)),
                // Removed between the two looks, which only makes less needed.
                Err(_) if !self.image_path(&id).exists() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(needed)
    }

    /// Removes `path` unless it is needed, which is asked once more when nobody can begin to use it any more.
    fn remove(
        &self,
        path: &Path,
        is_needed: &dyn Fn() -> Result<bool, SetupError>,
        in_use: &mut Vec<Digest>,
        id: Digest,
    ) -> Result<bool, SetupError> {
        if is_needed()? {
            return Ok(false);
        }
        let failed = |e: std::io::Error| SetupError::new("remove", e).at(path);
        let Some(lock) = lock::take(path).map_err(failed)? else {
            if path.exists() {
                in_use.push(id);
            }
            return Ok(false);
        };
        if is_needed()? {
            return Ok(false);
        }
        // Out of its place with one rename; from then on it is only rubbish, for us or for whoever comes next.
        let staging = self.stage()?;
        let rubbish = staging.path().join("rubbish");
        std::fs::rename(path, &rubbish).map_err(failed)?;
        drop(lock);
        if let Some(parent) = path.parent() {
            stage::sync_dir(parent).map_err(failed)?;
        }
        Ok(true)
    }
}
