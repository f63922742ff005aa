//! An OCI image layout, as far as adding an image to it goes.
//!
//! A layout is what its `index.json` says, and that is replaced by one rename after everything it names is on disk. So
//! whenever this is stopped, the layout is the old one or the new one; what was added and is not named is garbage that
//! every tool ignores.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::output::Staged;
use crate::error::SetupError;
use crate::sys::errno_of;

/// The largest document that is read, in bytes.
const LIMIT: u64 = 8 << 20;

/// The annotation that holds a tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A layout and a tag in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The directory.
    pub layout: PathBuf,
    /// The tag that the image gets.
    pub tag: String,
}

impl Target {
    /// Reads `LAYOUT:TAG`; the tag is behind the last colon.
    ///
    /// # Errors
    /// One of them is missing, or the tag has letters that tags do not have.
    pub fn parse(text: &std::ffi::OsStr) -> Result<Target, SetupError> {
        use std::os::unix::ffi::OsStrExt;
        let bad = |why: &str| {
            SetupError::new("use the image", why)
                .at(text)
                .hint("write LAYOUT:TAG, for instance images:latest")
        };
        let bytes = text.as_bytes();
        let colon = bytes.iter().rposition(|b| *b == b':').ok_or_else(|| bad("it has no :TAG"))?;
        let (layout, tag) = bytes.split_at(colon);
        let tag =
            std::str::from_utf8(tag.get(1..).unwrap_or_default()).map_err(|_| bad("its tag is no text"))?;
        check_tag(tag).map_err(bad)?;
        if layout.is_empty() {
            return Err(bad("it names no directory"));
        }
        let layout = PathBuf::from(std::ffi::OsStr::from_bytes(layout));
        Ok(Target { layout, tag: tag.to_string() })
    }
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-+@/".contains(c);
    match tag {
        "" => Err("its tag is empty"),
        tag if tag.chars().all(good) => Ok(()),
        _ => Err("its tag has a letter that is not one of a-z A-Z 0-9 . _ - + @ /"),
    }
}

/// What the new image is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// The image with this tag.
    Tag(String),
    /// Nothing.
    Scratch,
}

/// An image that was read.
#[derive(Clone, Debug)]
pub struct Image {
    descriptor: Option<Value>,
    manifest: Value,
    config: Value,
}

/// What is added to an image, besides the layer.
#[derive(Clone, Debug, Default)]
pub struct Note {
    /// In seconds since 1970.
    pub created: i64,
    /// Who made it.
    pub author: Option<String>,
    /// What it is.
    pub message: Option<String>,
}

/// A layout.
#[derive(Debug)]
pub struct Layout {
    path: PathBuf,
}

impl Layout {
    /// Opens a layout; makes an empty one, not yet visible as a layout, if `make` allows it and there is nothing.
    ///
    /// # Errors
    /// It is no layout, or of a version that is not known.
    pub fn open(path: &Path, make: bool) -> Result<Layout, SetupError> {
        let layout = Layout { path: path.to_path_buf() };
        let bad = |why: &str| SetupError::new("use the layout", why).at(path);
        match std::fs::read(path.join("oci-layout")) {
            Ok(text) => {
                let marker: Value = serde_json::from_slice(&text)
                    .map_err(|e| bad(&format!("its file oci-layout is bad: {e}")))?;
                match marker.get("imageLayoutVersion").and_then(Value::as_str) {
                    Some("1.0.0") => Ok(layout),
                    version => Err(bad(&format!("its version is {}", version.unwrap_or("not told")))
                        .hint("only version 1.0.0 is known")),
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && make => {
                layout.make()?;
                Ok(layout)
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                Err(bad("it has no file oci-layout, so it is none")
                    .hint("name an OCI image layout; --base scratch makes a new one"))
            }
            Err(e) => Err(bad(errno_of(e).desc())),
        }
    }

    fn make(&self) -> Result<(), SetupError> {
        let failed =
            |e: std::io::Error| SetupError::new("make the layout", errno_of(e).desc()).at(&self.path);
        if let Ok(entries) = std::fs::read_dir(&self.path) {
            let ours = |name: &std::ffi::OsStr| name == "blobs" || name == "index.json";
            if entries.flatten().any(|entry| !ours(&entry.file_name())) {
                let error = SetupError::new("make the layout", "the directory has other files in it");
                return Err(error.at(&self.path).hint("name a directory that is empty or missing"));
            }
        }
        std::fs::create_dir_all(self.blobs()).map_err(failed)
    }

    /// Where the blobs are.
    pub fn blobs(&self) -> PathBuf {
        self.path.join("blobs/sha256")
    }

    fn index(&self) -> Result<Value, SetupError> {
        let path = self.path.join("index.json");
        match read_limited(&path) {
            Ok(text) => parse(&text, &path),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !self.path.join("oci-layout").exists() => {
                Ok(json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}))
            }
            Err(e) => Err(SetupError::new("read", errno_of(e).desc()).at(path)),
        }
    }

    /// The image to begin with.
    ///
    /// # Errors
    /// There is no image with the tag, there are several, or it cannot be read.
    pub fn image(&self, base: &Base) -> Result<Image, SetupError> {
        let Base::Tag(tag) = base else { return Ok(scratch()) };
        let index = self.index()?;
        let found: Vec<&Value> = manifests(&index).iter().filter(|d| tag_of(d) == Some(tag)).collect();
        let refuse = |why: String, hint: String| {
            Err(SetupError::new(format!("use the image '{tag}' of"), why).at(&self.path).hint(hint))
        };
        let descriptor = match found.as_slice() {
            [one] => (*one).clone(),
            [] => {
                let known: Vec<&str> = manifests(&index).iter().filter_map(tag_of).collect();
                let known = if known.is_empty() { "none".to_string() } else { known.join(", ") };
                let hint = "name one with --base, or begin with nothing: --base scratch";
                return refuse(format!("there is none; it has: {known}"), hint.into());
            }
            several => {
                let why = format!("{} images have this tag", several.len());
                return refuse(why, "name one that is alone with --base".into());
            }
        };
        let mut pointed = descriptor.clone();
        for _ in 0..4 {
            let document: Value = parse(&self.blob(&pointed)?, &self.path)?;
            if !is_index(&pointed, &document) {
                let Some(config) = document.get("config") else {
                    return refuse("its manifest has no configuration".into(), "is it an image?".into());
                };
                let config = parse(&self.blob(config)?, &self.path)?;
                return Ok(Image { descriptor: Some(descriptor), manifest: document, config });
            }
            let Some(here) = manifests(&document).iter().find(|d| is_for_here(d)) else {
                let why = "it has no manifest for this kind of machine".into();
                return refuse(why, "name an image that has with --base".into());
            };
            pointed = here.clone();
        }
        refuse("its index leads to an index, again and again".into(), "is it an image?".into())
    }

    /// A document that `descriptor` points at, checked.
    fn blob(&self, descriptor: &Value) -> Result<Vec<u8>, SetupError> {
        let bad = |why: &str| SetupError::new("read an image of", why).at(&self.path);
        let digest = descriptor.get("digest").and_then(Value::as_str).unwrap_or_default();
        let is_hex = |hex: &str| {
            hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
        };
        let Some(hex) = digest.strip_prefix("sha256:").filter(|hex| is_hex(hex)) else {
            return Err(bad(&format!("'{}' is no SHA-256 digest", digest.escape_default())));
        };
        let path = self.blobs().join(hex);
        let data = read_limited(&path).map_err(|e| SetupError::new("read", errno_of(e).desc()).at(&path))?;
        if digest_of(&data) != digest {
            return Err(SetupError::new("use", "its contents do not have the digest of its name").at(path));
        }
        Ok(data)
    }

    fn put(&self, media_type: &str, document: &Value) -> Result<Value, SetupError> {
        let text = serde_json::to_vec(document).map_err(|e| SetupError::new("write JSON", e))?;
        let digest = digest_of(&text);
        let staged = Staged::in_dir(&self.blobs())?;
        write_staged(staged, &text, digest.trim_start_matches("sha256:"))?;
        Ok(json!({"mediaType": media_type, "digest": digest, "size": text.len()}))
    }

    /// Gives `tag` to the image that is `base` with one layer more, whose blob is there already. Returns the digest of
    /// its manifest.
    ///
    /// # Errors
    /// Something cannot be written, or somebody gave the tag to another image meanwhile.
    pub fn append(&self, tag: &str, base: &Image, layer: &Layer, note: &Note) -> Result<String, SetupError> {
        let config = self.put(CONFIG, &with_layer(&base.config, &base.manifest, layer, note))?;
        let mut manifest = in_oci_terms(&base.manifest);
        set(&mut manifest, "config", config);
        let added = json!({"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size});
        array(&mut manifest, "layers").push(added);
        let descriptor = self.put(MANIFEST, &manifest)?;
        let digest = descriptor.get("digest").and_then(Value::as_str).unwrap_or_default().to_string();
        self.publish(tag, base, descriptor)?;
        Ok(digest)
    }

    fn publish(&self, tag: &str, base: &Image, mut descriptor: Value) -> Result<(), SetupError> {
        let failed =
            |e: std::io::Error| SetupError::new("lock the layout", errno_of(e).desc()).at(&self.path);
        let dir = File::open(&self.path).map_err(failed)?;
        // Held until the new index is there, so that no two lose each other's images.
        let _lock = Flock::lock(dir, FlockArg::LockExclusive)
            .map_err(|(_, e)| SetupError::new("lock the layout", e.desc()).at(&self.path))?;
        let mut index = self.index()?;
        let before = manifests(&index).iter().find(|d| tag_of(d) == Some(tag)).cloned();
        let began_here = base.descriptor.as_ref().is_some_and(|d| tag_of(d) == Some(tag));
        if began_here && before != base.descriptor {
            let why = format!("the tag '{tag}' was given to another image meanwhile");
            let error = SetupError::new("add the layer to", why).at(&self.path);
            return Err(error.hint("commit again"));
        }
        let annotations = before.as_ref().and_then(|d| d.get("annotations")).and_then(Value::as_object);
        let mut annotations = annotations.cloned().unwrap_or_default();
        annotations.insert(REF_NAME.into(), tag.into());
        set(&mut descriptor, "annotations", Value::Object(annotations));
        let all = array(&mut index, "manifests");
        let place = all.iter().position(|d| tag_of(d) == Some(tag)).unwrap_or(all.len());
        all.retain(|d| tag_of(d) != Some(tag));
        all.insert(place, descriptor);
        let text = serde_json::to_vec(&index).map_err(|e| SetupError::new("write JSON", e))?;
        write_staged(Staged::in_dir(&self.path)?, &text, "index.json")?;
        if !self.path.join("oci-layout").exists() {
            let marker = br#"{"imageLayoutVersion":"1.0.0"}"#;
            write_staged(Staged::in_dir(&self.path)?, marker, "oci-layout")?;
        }
        Ok(())
    }
}

/// A layer whose blob is in the layout.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Of the blob.
    pub digest: String,
    /// Before compression.
    pub diff_id: String,
    /// Bytes of the blob.
    pub size: u64,
    /// How it is compressed, in OCI's words.
    pub media_type: &'static str,
}

fn scratch() -> Image {
    let machine = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    };
    Image {
        descriptor: None,
        manifest: json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": []}),
        config: json!({"architecture": machine, "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": []}, "history": []}),
    }
}

/// The configuration of an image with one layer more.
fn with_layer(config: &Value, manifest: &Value, layer: &Layer, note: &Note) -> Value {
    let mut config = config.clone();
    let created = rfc3339(note.created);
    if !config.is_object() {
        config = json!({});
    }
    let rootfs =
        config.as_object_mut().map(|c| c.entry("rootfs").or_insert_with(|| json!({"type": "layers"})));
    if let Some(rootfs) = rootfs {
        array(rootfs, "diff_ids").push(layer.diff_id.clone().into());
    }
    // A history that is told at all must tell of every layer.
    let layers = manifest.get("layers").and_then(Value::as_array).map_or(0, Vec::len);
    let history = array(&mut config, "history");
    if history.is_empty() {
        history.extend((0..layers).map(|_| json!({"created": created, "comment": "not recorded"})));
    }
    let mut entry = json!({"created": created, "created_by": "acetate commit"});
    if let Some(author) = &note.author {
        set(&mut entry, "author", author.clone().into());
    }
    if let Some(message) = &note.message {
        set(&mut entry, "comment", message.clone().into());
    }
    history.push(entry);
    set(&mut config, "created", created.into());
    if let Some(author) = &note.author {
        set(&mut config, "author", author.clone().into());
    }
    config
}

/// A manifest of Docker's kind says the same in other words.
fn in_oci_terms(manifest: &Value) -> Value {
    let mut manifest = manifest.clone();
    set(&mut manifest, "mediaType", MANIFEST.into());
    for layer in array(&mut manifest, "layers") {
        let word = match layer.get("mediaType").and_then(Value::as_str) {
            Some("application/vnd.docker.image.rootfs.diff.tar.gzip") => {
                "application/vnd.oci.image.layer.v1.tar+gzip"
            }
            Some("application/vnd.docker.image.rootfs.diff.tar") => "application/vnd.oci.image.layer.v1.tar",
            Some("application/vnd.docker.image.rootfs.diff.tar.zstd") => {
                "application/vnd.oci.image.layer.v1.tar+zstd"
            }
            _ => continue,
        };
        set(layer, "mediaType", word.into());
    }
    manifest
}

fn manifests(index: &Value) -> &[Value] {
    index.get("manifests").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn tag_of(descriptor: &Value) -> Option<&str> {
    descriptor.get("annotations")?.get(REF_NAME)?.as_str()
}

fn is_index(descriptor: &Value, document: &Value) -> bool {
    let word = descriptor.get("mediaType").and_then(Value::as_str).unwrap_or_default();
    word == INDEX || word.ends_with("manifest.list.v2+json") || document.get("manifests").is_some()
}

fn is_for_here(descriptor: &Value) -> bool {
    let image = scratch().config;
    let platform = descriptor.get("platform");
    let says = |key: &str| platform.and_then(|p| p.get(key)).and_then(Value::as_str);
    says("os").is_none_or(|os| os == "linux")
        && says("architecture")
            .is_none_or(|machine| Some(machine) == image.get("architecture").and_then(Value::as_str))
}

/// The object's field `key`, made an array if it is none.
fn array<'v>(object: &'v mut Value, key: &str) -> &'v mut Vec<Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let field = &mut object[key];
    if !field.is_array() {
        *field = Value::Array(Vec::new());
    }
    match field {
        Value::Array(array) => array,
        _ => unreachable!("made an array above"),
    }
}

fn set(object: &mut Value, key: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(key.into(), value);
    }
}

fn parse(text: &[u8], path: &Path) -> Result<Value, SetupError> {
    serde_json::from_slice(text).map_err(|e| SetupError::new("read JSON in", e).at(path))
}

fn read_limited(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(LIMIT + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LIMIT {
        return Err(std::io::Error::from_raw_os_error(libc::EFBIG));
    }
    Ok(text)
}

fn digest_of(data: &[u8]) -> String {
    let digits: String = Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

fn write_staged(staged: Staged, text: &[u8], name: &str) -> Result<(), SetupError> {
    let failed = |e: std::io::Error| SetupError::new("write", errno_of(e).desc()).at(name);
    let mut file = File::from(staged.file().try_clone().map_err(failed)?);
    file.write_all(text).map_err(failed)?;
    staged.publish(name.as_ref())
}

/// `2001-09-09T01:46:40Z`.
fn rfc3339(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // The civil calendar in eras of 400 years that begin on 1 March.
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{of_month:02}T{:02}:{:02}:{:02}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_000_000_000), "2001-09-09T01:46:40Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(4_107_542_399), "2100-02-28T23:59:59Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59Z");
    }

    #[test]
    fn a_target_is_a_directory_and_a_tag() {
        let target = Target::parse("a:b/c:1.0".as_ref()).unwrap();
        assert_eq!((target.layout, target.tag.as_str()), (PathBuf::from("a:b/c"), "1.0"));
        for bad in ["dir", "dir:", ":tag", "dir:a b", "dir:ü"] {
            assert!(Target::parse(bad.as_ref()).is_err(), "{bad}");
        }
    }

    fn blob(layout: &Layout) -> Layer {
        let staged = Staged::in_dir(&layout.blobs()).unwrap();
        let digest = digest_of(b"layer");
        write_staged(staged, b"layer", &digest[7..]).unwrap();
        let media_type = "application/vnd.oci.image.layer.v1.tar";
        Layer { digest, diff_id: digest_of(b"layer"), size: 5, media_type }
    }

    #[test]
    fn an_image_grows_by_a_layer_and_keeps_what_it_was() {
        let t = tempfile::tempdir().unwrap();
        let path = t.path().join("layout");
        assert!(Layout::open(&path, false).is_err());
        let layout = Layout::open(&path, true).unwrap();
        let layer = blob(&layout);
        let note = Note { created: 5, message: Some("m".into()), ..Note::default() };
        layout.append("one", &layout.image(&Base::Scratch).unwrap(), &layer, &note).unwrap();
        let layout = Layout::open(&path, false).unwrap();
        let one = layout.image(&Base::Tag("one".into())).unwrap();
        let first = layout.append("two", &one, &layer, &note).unwrap();
        let again = layout.append("two", &one, &layer, &note).unwrap();
        assert_eq!(first, again);
        let two = layout.image(&Base::Tag("two".into())).unwrap();
        assert_eq!(two.manifest["layers"].as_array().unwrap().len(), 2);
        assert_eq!(two.config["rootfs"]["diff_ids"].as_array().unwrap().len(), 2);
        assert_eq!(two.config["history"][1]["comment"], "m");
        assert_eq!(two.config["created"], "1970-01-01T00:00:05Z");
        let index = layout.index().unwrap();
        let tags: Vec<_> = manifests(&index).iter().filter_map(tag_of).collect();
        assert_eq!(tags, ["one", "two"]);
        let missing = layout.image(&Base::Tag("three".into())).unwrap_err().to_string();
        assert!(missing.contains("it has: one, two"), "{missing}");
    }

    #[test]
    fn a_tag_that_moved_meanwhile_is_not_overwritten() {
        let t = tempfile::tempdir().unwrap();
        let layout = Layout::open(t.path(), true).unwrap();
        let layer = blob(&layout);
        layout.append("t", &scratch(), &layer, &Note::default()).unwrap();
        let seen = layout.image(&Base::Tag("t".into())).unwrap();
        layout.append("t", &seen, &layer, &Note::default()).unwrap();
        let refused = layout.append("t", &seen, &layer, &Note::default()).unwrap_err().to_string();
        assert!(refused.contains("meanwhile"), "{refused}");
        assert_eq!(
            layout.image(&Base::Tag("t".into())).unwrap().manifest["layers"].as_array().unwrap().len(),
            2
        );
    }

    #[test]
    fn a_blob_with_other_contents_is_refused() {
        let t = tempfile::tempdir().unwrap();
        let layout = Layout::open(t.path(), true).unwrap();
        let layer = blob(&layout);
        let digest = layout.append("t", &scratch(), &layer, &Note::default()).unwrap();
        std::fs::write(layout.blobs().join(&digest[7..]), "{}").unwrap();
        assert!(layout.image(&Base::Tag("t".into())).unwrap_err().to_string().contains("digest"));
    }
}
