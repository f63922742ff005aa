//! An archive of `docker save` (and of podman's `save --format docker-archive`): `manifest.json` names files in it.

use serde::Deserialize;

use super::super::digest::Digest;
use super::super::manifest::{self, DOCUMENT_LIMIT, ImageConfig};
use super::super::name::{SourceName, Which};
use super::super::refusal::{Refusal, Result};
use super::archive::Archive;
use super::{SourceImage, SourceLayer, stem};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

/// The images that are asked for.
pub fn images(archive: &Archive, source: &SourceName) -> Result<Vec<SourceImage>> {
    if !archive.has("manifest.json") {
        return Err(Refusal::new("it is neither an OCI layout nor an archive of docker save")
            .hint("such archives have a file index.json or manifest.json"));
    }
    let document = archive.open("manifest.json")?.bytes(DOCUMENT_LIMIT)?;
    let saved: Vec<Saved> = manifest::read("file manifest.json", &document).map_err(Refusal::new)?;
    let mut found = Vec::new();
    for image in &saved {
        let config = archive.open(&image.config)?.bytes(DOCUMENT_LIMIT)?;
        let id = Digest::of(&config);
        let names = image.repo_tags.clone().unwrap_or_default();
        let wanted = match &source.which {
            Which::All => true,
            Which::Tag(tag) => names.iter().any(|name| name == tag || name.ends_with(&format!(":{tag}"))),
            Which::Digest(digest) => *digest == id,
        };
        if wanted {
            let names = if names.is_empty() { vec![format!("{}:latest", stem(&source.path))] } else { names };
            found.push(read(archive, image, names, config, id)?);
        }
    }
    if found.is_empty() {
        let known: Vec<String> = saved.iter().filter_map(|image| image.repo_tags.clone()).flatten().collect();
        return Err(Refusal::new("it has no such image").hint(format!("it has {}", known.join(", "))));
    }
    Ok(found)
}

fn read(
    archive: &Archive,
    image: &Saved,
    names: Vec<String>,
    config: Vec<u8>,
    id: Digest,
) -> Result<SourceImage> {
    // The file is named after its digest; where it is, that is checked.
    let stem = image.config.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
    if let Some(said) = Digest::from_hex(stem).filter(|said| *said != id) {
        return Err(Refusal::new(format!("the configuration {said} has the digest {id}"))
            .hint("it was damaged or changed: fetch it again"));
    }
    let settings: ImageConfig = manifest::read("configuration", &config).map_err(Refusal::new)?;
    let diff_ids = settings.rootfs.diff_ids;
    if diff_ids.len() != image.layers.len() {
        return Err(Refusal::new(format!(
            "manifest.json has {} layers and the configuration {}",
            image.layers.len(),
            diff_ids.len()
        )));
    }
    let mut layers = Vec::new();
    for (name, diff_id) in image.layers.iter().zip(diff_ids) {
        // Newer archives name the blob after its digest.
        let digest = name.strip_prefix("blobs/sha256/").and_then(Digest::from_hex);
        layers.push(SourceLayer { blob: archive.open(name)?, digest, diff_id });
    }
    Ok(SourceImage { names, manifest: None, config, layers })
}
