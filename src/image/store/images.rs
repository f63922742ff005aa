//! Images and their names.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::super::digest::Digest;
use super::super::manifest::{self, ImageConfig};
use super::super::name::ImageName;
use super::super::unpack::contents::Totals;
use super::{Held, Staging, Store, lock, stage};
use crate::error::SetupError;

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The digest of its archive, uncompressed.
    pub diff_id: Digest,
    /// How many objects it has.
    pub objects: u64,
    /// How many bytes its files have.
    pub bytes: u64,
}

/// An image of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The digest of its configuration.
    pub id: Digest,
    /// The digest of the manifest it came with, if it had one.
    pub manifest: Option<Digest>,
    /// Its layers, lowest first.
    pub layers: Vec<LayerRecord>,
    /// A directory of its own lies on top of its layers, for attributes that directories have from layers below.
    pub front: bool,
    /// When it was imported, in seconds since 1970.
    pub imported: u64,
}

/// A name and what it means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The name.
    pub name: String,
    /// The image.
    pub image: Digest,
}

impl Store {
    /// The place of a layer, whether it is there or not.
    pub fn layer_path(&self, layer: &Digest) -> PathBuf {
        self.dir("layers").join(layer.hex())
    }

    /// The place of an image, whether it is there or not.
    pub fn image_path(&self, image: &Digest) -> PathBuf {
        self.dir("images").join(image.hex())
    }

    /// Holds a layer that is there. `None`: it is not.
    ///
    /// # Errors
    /// As open(2).
    pub fn hold_layer(&self, layer: &Digest) -> Result<Option<Held>, SetupError> {
        let path = self.layer_path(layer);
        lock::hold(&path).map_err(|e| SetupError::new("use the layer", e).at(&path))
    }

    /// Holds an image that is there. `None`: it is not.
    ///
    /// # Errors
    /// As open(2).
    pub fn hold_image(&self, image: &Digest) -> Result<Option<Held>, SetupError> {
        let path = self.image_path(image);
        lock::hold(&path).map_err(|e| SetupError::new("use the image", e).at(&path))
    }

    /// How much a layer that is there is.
    ///
    /// # Errors
    /// Its record is damaged.
    pub fn layer_totals(&self, layer: &Digest) -> Result<Totals, SetupError> {
        super::super::unpack::contents::read(&self.layer_path(layer).join("contents"), |_, _| ())
            .map_err(|e| e.during(format!("use the layer {layer} of the store")))
    }

    /// An image.
    ///
    /// # Errors
    /// It is not there, or damaged.
    pub fn image(&self, id: &Digest) -> Result<Image, SetupError> {
        let path = self.image_path(id).join("image.json");
        let failed = |e: &dyn std::fmt::Display| SetupError::new("read the image", e).at(&path);
        serde_json::from_slice(&std::fs::read(&path).map_err(|e| failed(&e))?).map_err(|e| failed(&e))
    }

    /// The configuration of an image.
    ///
    /// # Errors
    /// It is not there, or damaged.
    pub fn config(&self, id: &Digest) -> Result<ImageConfig, SetupError> {
        let path = self.image_path(id).join("config.json");
        let bytes =
            std::fs::read(&path).map_err(|e| SetupError::new("read the configuration", e).at(&path))?;
        manifest::read("configuration of the image", &bytes)
    }

    /// Makes an image in `staging`; it is there once it is published.
    ///
    /// # Errors
    /// As write(2).
    pub fn stage_image(
        &self,
        staging: &Staging,
        image: &Image,
        config: &[u8],
    ) -> Result<PathBuf, SetupError> {
        use std::os::unix::fs::DirBuilderExt;
        let path = staging.path().join(format!("image-{}", image.id.hex()));
        let failed = |e: std::io::Error| SetupError::new("write the image", e).at(&path);
        let json = serde_json::to_vec_pretty(image).map_err(|e| failed(e.into()))?;
        std::fs::DirBuilder::new().mode(0o700).recursive(true).create(&path).map_err(failed)?;
        stage::write_durably(&path.join("image.json"), &json).map_err(failed)?;
        stage::write_durably(&path.join("config.json"), config).map_err(failed)?;
        Ok(path)
    }

    /// Lets `name` mean `image` from now on.
    ///
    /// # Errors
    /// As write(2) and rename(2).
    pub fn set_name(&self, staging: &Staging, name: &ImageName, image: Digest) -> Result<(), SetupError> {
        let path = self.dir("names").join(name.file_name());
        let failed = |e: std::io::Error| SetupError::new("write the name", e).at(&path);
        let json =
            serde_json::to_vec(&Named { name: name.to_string(), image }).map_err(|e| failed(e.into()))?;
        let staged = staging.path().join("name");
        stage::write_durably(&staged, &json).map_err(failed)?;
        std::fs::rename(&staged, &path).map_err(failed)?;
        stage::sync_dir(&self.dir("names")).map_err(failed)
    }

    /// Takes a name away. False: there was none.
    ///
    /// # Errors
    /// As unlink(2).
    pub fn remove_name(&self, name: &str) -> Result<bool, SetupError> {
        let path = self.dir("names").join(ImageName::parse(name)?.file_name());
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(SetupError::new("remove the name", e).at(&path)),
        }
        stage::sync_dir(&self.dir("names")).map_err(|e| SetupError::new("remove the name", e).at(&path))?;
        Ok(true)
    }

    /// All names, in their order.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn names(&self) -> Result<Vec<Named>, SetupError> {
        let dir = self.dir("names");
        let mut all = BTreeMap::new();
        for entry in std::fs::read_dir(&dir).map_err(|e| SetupError::new("read the names", e).at(&dir))? {
            let path = entry.map_err(|e| SetupError::new("read the names", e).at(&dir))?.path();
            let failed = |e: &dyn std::fmt::Display| SetupError::new("read the name", e).at(&path);
            let bytes = match std::fs::read(&path) {
                Ok(bytes) => bytes,
                // Taken away meanwhile.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(failed(&e)),
            };
            let named: Named = serde_json::from_slice(&bytes).map_err(|e| failed(&e))?;
            all.insert(named.name.clone(), named);
        }
        Ok(all.into_values().collect())
    }

    /// The ids of all images that are there, named or not.
    ///
    /// # Errors
    /// As readdir(3).
    pub fn image_ids(&self) -> Result<Vec<Digest>, SetupError> {
        self.digests("images")
    }

    /// The digests of all layers that are there, needed or not.
    ///
    /// # Errors
    /// As readdir(3).
    pub fn layer_ids(&self) -> Result<Vec<Digest>, SetupError> {
        self.digests("layers")
    }

    fn digests(&self, name: &str) -> Result<Vec<Digest>, SetupError> {
        let dir = self.dir(name);
        let failed = |e: std::io::Error| SetupError::new("read the directory", e).at(&dir);
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(failed)? {
            all.extend(entry.map_err(failed)?.file_name().to_str().and_then(Digest::from_hex));
        }
        all.sort();
        Ok(all)
    }

    /// The image that `word` means: a name, an id, or the beginning of one (with or without `sha256:`).
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn find(&self, word: &str) -> Result<Digest, SetupError> {
        let none = |why: &str| {
            SetupError::new(format!("find the image '{}'", word.escape_default()), why)
                .hint("acetate image ls shows what there is, acetate image import brings more")
        };
        let hex = word.strip_prefix("sha256:").unwrap_or(word);
        let names = self.names()?;
        if let Ok(name) = ImageName::parse(word) {
            let name = name.to_string();
            if let Some(named) = names.iter().find(|named| named.name == name) {
                return Ok(named.image);
            }
        }
        if hex.len() < 6 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(none("there is none with this name in the store"));
        }
        let mut found: Vec<Digest> = Vec::new();
        for id in self.image_ids()? {
            let by_manifest =
                || self.image(&id).is_ok_and(|i| i.manifest.is_some_and(|m| m.hex().starts_with(hex)));
            if id.hex().starts_with(hex) || by_manifest() {
                found.push(id);
            }
        }
        match found.as_slice() {
            [one] => Ok(*one),
            [] => Err(none("there is none with this name or id in the store")),
            _ => Err(none("several ids begin like this")),
        }
    }
}
