//! The JSON documents of an image: index, manifest, configuration. Only what is used is read; the rest is kept as it is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use crate::error::SetupError;

/// The largest document that is read, in bytes (the same as registries accept).
pub const DOCUMENT_LIMIT: u64 = 8 << 20;

/// The annotation that holds a tag or a whole name.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// containerd's annotation of the whole name.
pub const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// What points at a blob.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What kind of blob.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes; a negative one is refused by its type.
    pub size: u64,
    /// Notes.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// For which machine.
    #[serde(default)]
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// Whether it points at another index.
    pub fn is_index(&self) -> bool {
        self.media_type.ends_with("image.index.v1+json") || self.media_type.ends_with("manifest.list.v2+json")
    }
}

/// A kind of machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// As Go calls it.
    #[serde(default)]
    pub architecture: String,
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// For instance `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl Platform {
    /// This machine's.
    pub fn here() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Platform { architecture: architecture.into(), os: "linux".into(), variant: None }
    }

    /// Reads `os/architecture[/variant]`.
    pub fn parse(text: &str) -> Option<Platform> {
        let mut words = text.split('/').map(str::to_string);
        let (os, architecture) = (words.next()?, words.next()?);
        let platform = Platform { os, architecture, variant: words.next() };
        (words.next().is_none() && !platform.os.is_empty() && !platform.architecture.is_empty())
            .then_some(platform)
    }

    /// Whether an image for `other` is one for this.
    pub fn takes(&self, other: &Platform) -> bool {
        self.os == other.os
            && self.architecture == other.architecture
            && (self.variant.is_none() || self.variant == other.variant)
    }
}

/// A list of manifests.
#[derive(Clone, Debug, Deserialize)]
pub struct Index {
    /// Its entries.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
}

/// One image.
#[derive(Clone, Debug, Deserialize)]
pub struct Manifest {
    /// Its configuration.
    pub config: Descriptor,
    /// Its layers, lowest first.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
}

/// What the configuration says of an image and of the processes in it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ImageConfig {
    /// When it was made.
    #[serde(default)]
    pub created: Option<String>,
    /// For which machine.
    #[serde(flatten)]
    pub platform: Platform,
    /// How to run it.
    #[serde(default)]
    pub config: Option<RunConfig>,
    /// Digests of the uncompressed layers.
    #[serde(default)]
    pub rootfs: RootFs,
}

/// How to run an image.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfig {
    /// `user[:group]`, names or numbers.
    #[serde(deserialize_with = "or_default")]
    pub user: String,
    /// `NAME=value`.
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// What is always run.
    #[serde(deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    /// Its arguments, or what is run without one.
    #[serde(deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    /// Where it starts.
    #[serde(deserialize_with = "or_default")]
    pub working_dir: String,
    /// Directories that are not part of the image's changes.
    #[serde(deserialize_with = "or_default")]
    pub volumes: BTreeMap<String, serde_json::Value>,
    /// Notes.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks it to end.
    #[serde(deserialize_with = "or_default")]
    pub stop_signal: String,
}

/// Engines write `null` for what is empty.
fn or_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(d).map(Option::unwrap_or_default)
}

/// The layers of a configuration.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct RootFs {
    /// Digests of the uncompressed layers, lowest first.
    #[serde(default)]
    pub diff_ids: Vec<Digest>,
}

/// Reads a document.
///
/// # Errors
/// Its sentence names `what`.
pub fn read<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, SetupError> {
    serde_json::from_slice(bytes).map_err(|e| SetupError::new(format!("read the {what}"), e))
}
