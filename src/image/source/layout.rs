//! An OCI image layout: `index.json` names manifests, a manifest names a configuration and layers, all by digest.

use super::super::digest::Digest;
use super::super::manifest::{
    self, CONTAINERD_NAME, Descriptor, ImageConfig, Index, Manifest, Platform, REF_NAME,
};
use super::super::name::{SourceName, Which};
use super::super::refusal::{Refusal, Result};
use super::{Files, SourceImage, SourceLayer, stem};

/// How deep indexes may lie in one another.
const DEPTH: usize = 4;
/// The most images that are imported at once.
const IMAGE_LIMIT: usize = 1000;

/// The images that are asked for.
pub fn images(files: &Files, source: &SourceName, platform: &Platform) -> Result<Vec<SourceImage>> {
    let index: Index = read(
        "index.json",
        &files
            .document("index.json")
            .map_err(|e| e.hint("an OCI layout has the files oci-layout and index.json"))?,
    )?;
    let mut found = Vec::new();
    for descriptor in index.manifests.iter().take(IMAGE_LIMIT) {
        let names = names(descriptor, source);
        let wanted = match &source.which {
            Which::All => true,
            Which::Tag(tag) => names.iter().any(|name| name == tag || last_tag(name) == Some(tag)),
            Which::Digest(_) => true,
        };
        if !wanted {
            continue;
        }
        let wanted = match source.which {
            Which::Digest(digest) => Some(digest),
            _ => None,
        };
        for (manifest, document) in manifests(files, descriptor, platform, wanted, DEPTH)? {
            found.push(image(files, names.clone(), &manifest, &document)?);
        }
    }
    if found.is_empty() {
        let known: Vec<String> = index.manifests.iter().flat_map(|d| names(d, source)).collect();
        return Err(Refusal::new(match &source.which {
            Which::All => "it has no image for this kind of machine".to_string(),
            Which::Tag(tag) => format!("it has no image with the tag '{}'", tag.escape_default()),
            Which::Digest(digest) => format!("it has no image {digest}"),
        })
        .hint(format!("it has {}", if known.is_empty() { "none".to_string() } else { known.join(", ") })));
    }
    Ok(found)
}

fn read<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    manifest::read(what, bytes).map_err(Refusal::new)
}

/// What an entry of the index is called: whole names as they are, a tag behind the name of the layout.
fn names(descriptor: &Descriptor, source: &SourceName) -> Vec<String> {
    let whole = descriptor.annotations.get(CONTAINERD_NAME);
    let tag = descriptor.annotations.get(REF_NAME);
    let named = tag.map(|tag| match tag.contains([':', '/']) {
        true => tag.clone(),
        false => format!("{}:{tag}", stem(&source.path)),
    });
    whole.cloned().into_iter().chain(named).collect()
}

fn last_tag(name: &str) -> Option<&str> {
    name.rsplit_once(':').map(|(_, tag)| tag)
}

/// The manifests a descriptor leads to: itself, or what suits the platform in an index.
fn manifests(
    files: &Files,
    descriptor: &Descriptor,
    platform: &Platform,
    wanted: Option<Digest>,
    depth: usize,
) -> Result<Vec<(Descriptor, Vec<u8>)>> {
    let is_wanted = wanted.is_none_or(|digest| digest == descriptor.digest);
    if !descriptor.is_index() {
        if descriptor.media_type.is_empty() || descriptor.media_type.contains("manifest") {
            let document = document(files, descriptor, "manifest")?;
            // A digest may also be that of the configuration, which is the image's id.
            let by_config =
                || read::<Manifest>("manifest", &document).is_ok_and(|m| wanted == Some(m.config.digest));
            return Ok(if is_wanted || by_config() {
                vec![(descriptor.clone(), document)]
            } else {
                Vec::new()
            });
        }
        return Ok(Vec::new());
    }
    if depth == 0 {
        return Err(Refusal::new("its indexes lie in one another without end"));
    }
    let index: Index = read("index", &document(files, descriptor, "index")?)?;
    let wanted = if is_wanted { None } else { wanted };
    let suits = |entry: &&Descriptor| match (&entry.platform, wanted) {
        (_, Some(_)) | (None, _) => true,
        (Some(other), None) => platform.takes(other),
    };
    let mut all = Vec::new();
    for entry in index.manifests.iter().filter(suits).take(IMAGE_LIMIT) {
        all.extend(manifests(files, entry, platform, wanted, depth - 1)?);
        // The first that suits is the image; the others are variants of it.
        if wanted.is_none() && !all.is_empty() {
            break;
        }
    }
    Ok(all)
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A JSON document, checked against its digest and size.
fn document(files: &Files, descriptor: &Descriptor, what: &str) -> Result<Vec<u8>> {
    let bytes = files.document(&blob_name(&descriptor.digest))?;
    if bytes.len() as u64 != descriptor.size {
        return Err(Refusal::new(format!(
            "the {what} {} has {} bytes where {} are announced",
            descriptor.digest,
            bytes.len(),
            descriptor.size
        )));
    }
    let found = Digest::of(&bytes);
    if found != descriptor.digest {
        return Err(Refusal::new(format!("the {what} {} has the digest {found}", descriptor.digest))
            .hint("it was damaged or changed: fetch it again"));
    }
    Ok(bytes)
}

fn image(
    files: &Files,
    names: Vec<String>,
    descriptor: &Descriptor,
    document_bytes: &[u8],
) -> Result<SourceImage> {
    let manifest: Manifest = read("manifest", document_bytes)?;
    let config = document(files, &manifest.config, "configuration")?;
    let settings: ImageConfig = read("configuration", &config)?;
    let diff_ids = settings.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers.len() {
        return Err(Refusal::new(format!(
            "the manifest {} has {} layers and its configuration {}",
            descriptor.digest,
            manifest.layers.len(),
            diff_ids.len()
        )));
    }
    let mut layers = Vec::new();
    for (layer, diff_id) in manifest.layers.iter().zip(diff_ids) {
        let blob = files.open(&blob_name(&layer.digest))?;
        if blob.size() != layer.size {
            return Err(Refusal::new(format!(
                "the layer {} has {} bytes where {} are announced",
                layer.digest,
                blob.size(),
                layer.size
            ))
            .hint("it is truncated or was changed: fetch it again"));
        }
        layers.push(SourceLayer { blob, digest: Some(layer.digest), diff_id });
    }
    Ok(SourceImage { names, manifest: Some(descriptor.digest), config, layers })
}
