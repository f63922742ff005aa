//! An image as layers to mount, held for as long as they are.

use std::path::PathBuf;
use std::sync::Arc;

use super::super::digest::Digest;
use super::super::unpack::dialect::Dialect;
use super::{Held, Image, Store};
use crate::error::SetupError;

/// The layers of an image. Nobody removes them while this, or a copy of `held`, is there.
#[derive(Clone, Debug)]
pub struct Stack {
    /// Which image.
    pub image: Digest,
    /// Its layers, the topmost first.
    pub layers: Vec<PathBuf>,
    /// Those of them whose layer index may be believed without looking.
    pub immutable: Vec<PathBuf>,
    /// What keeps them.
    pub held: Vec<Arc<Held>>,
    /// How owners and modes are kept in them.
    pub dialect: Dialect,
}

impl Stack {
    /// The options with which such layers are mounted. To an ordinary user everything shows as his own (he could not even
    /// read what the image keeps for its root), and what he makes is the image's root's.
    pub fn options(&self) -> Option<String> {
        let kept = "userxattr,xattr_permissions=2";
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        match self.dialect {
            Dialect::Root => None,
            Dialect::User if !uid.is_root() => {
                Some(format!("{kept},squash_to_uid={uid}:0,squash_to_gid={gid}:0"))
            }
            Dialect::Namespace | Dialect::User => Some(kept.into()),
        }
    }
}

impl Store {
    /// The directories of an image's layers, the topmost first.
    pub fn layers(&self, image: &Image) -> Vec<PathBuf> {
        let front = image.front.then(|| self.image_path(&image.id).join("front"));
        let layers = image.layers.iter().rev().map(|layer| self.layer_path(&layer.diff_id).join("tree"));
        front.into_iter().chain(layers).collect()
    }

    /// Holds the layers of the image that `word` means.
    ///
    /// # Errors
    /// There is no such image, or it is not whole.
    pub fn stack(&self, word: &str) -> Result<Stack, SetupError> {
        let id = self.find(word)?;
        let broken = |what: String| {
            SetupError::new(format!("use the image '{}'", word.escape_default()), what)
                .hint("import it again")
        };
        let mut held = vec![self.hold_image(&id)?.ok_or_else(|| broken("it was removed meanwhile".into()))?];
        let image = self.image(&id)?;
        for layer in &image.layers {
            let layer = layer.diff_id;
            held.push(
                self.hold_layer(&layer)?.ok_or_else(|| broken(format!("its layer {layer} is missing")))?,
            );
        }
        if image.layers.is_empty() {
            return Err(broken("it has no layers".into()));
        }
        let held = held.into_iter().map(Arc::new).collect();
        let indexed = image.layers.iter().filter(|layer| self.is_indexed(&layer.diff_id));
        let immutable = indexed.map(|layer| self.layer_path(&layer.diff_id).join("tree")).collect();
        Ok(Stack { image: id, layers: self.layers(&image), immutable, held, dialect: self.dialect() })
    }
}
