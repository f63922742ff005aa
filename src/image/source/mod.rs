//! Where images are imported from: OCI layouts, as directories and as tar archives, and archives of `docker save`.

mod archive;
mod docker;
mod layout;

use std::path::Path;

use super::blob::Blob;
use super::digest::Digest;
use super::manifest::{DOCUMENT_LIMIT, Platform};
use super::name::SourceName;
use super::refusal::{Refusal, Result};
use crate::error::SetupError;
use archive::Archive;

/// A layer of an image that is to be imported.
#[derive(Clone, Debug)]
pub struct SourceLayer {
    /// What is to be unpacked.
    pub blob: Blob,
    /// The digest of the blob, where something says it.
    pub digest: Option<Digest>,
    /// The digest of what is in it, uncompressed.
    pub diff_id: Digest,
}

/// An image that is to be imported.
#[derive(Clone, Debug)]
pub struct SourceImage {
    /// What it calls itself; the first is used.
    pub names: Vec<String>,
    /// The digest of the manifest, if it has one.
    pub manifest: Option<Digest>,
    /// The configuration, as it is; its digest is the image's id.
    pub config: Vec<u8>,
    /// Lowest first.
    pub layers: Vec<SourceLayer>,
}

/// Finds the images that are asked for.
///
/// # Errors
/// What is wrong with the layout or the archive, or that there is no such image.
pub fn find(source: &SourceName, platform: &Platform) -> std::result::Result<Vec<SourceImage>, SetupError> {
    let path = source.path.as_path();
    let what = "import the image";
    let found = path.metadata().map_err(|e| {
        SetupError::new(what, e).at(path).hint("name an OCI layout, LAYOUT:TAG, or an archive of docker save")
    })?;
    let at = |e: Refusal| e.during(format!("{what} {}", path.display()));
    if found.is_dir() {
        return layout::images(&Files::Directory(path.to_path_buf()), source, platform).map_err(at);
    }
    let blob = Blob::open(path).map_err(|e| SetupError::new(what, e).at(path))?;
    let archive = Archive::read(blob).map_err(at)?;
    if archive.has("index.json") && archive.has("oci-layout") {
        layout::images(&Files::Archive(archive), source, platform).map_err(at)
    } else {
        docker::images(&archive, source).map_err(at)
    }
}

/// What holds the files of a layout.
#[derive(Debug)]
pub enum Files {
    /// A directory.
    Directory(std::path::PathBuf),
    /// A tar archive.
    Archive(Archive),
}

impl Files {
    /// The file `name`, a path of ours and not one that came from outside.
    pub fn open(&self, name: &str) -> Result<Blob> {
        match self {
            Files::Directory(dir) => {
                Blob::open(&dir.join(name)).map_err(|e| Refusal::new(format!("{name}: {e}")))
            }
            Files::Archive(archive) => archive.open(name),
        }
    }

    /// A JSON document.
    pub fn document(&self, name: &str) -> Result<Vec<u8>> {
        self.open(name)?.bytes(DOCUMENT_LIMIT).map_err(|e| e.entry(name.as_bytes()))
    }
}

/// What a path is called without its directories, for the name of an image that has none.
pub fn stem(path: &Path) -> String {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let name = real.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stem = name.split_once(".tar").map_or(name.as_str(), |(stem, _)| stem);
    let clean: String =
        stem.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' }).collect();
    let clean = clean.trim_start_matches(['.', '-']);
    if clean.is_empty() { "image".to_string() } else { clean.chars().take(60).collect() }
}
