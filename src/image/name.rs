//! What images are called: in the store, and in what they are imported from.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::digest::Digest;
use crate::error::SetupError;

/// The longest name, in bytes. Escaped, it still is a file name.
const LONGEST: usize = 80;

/// `NAME:TAG`, checked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageName(String);

impl ImageName {
    /// Reads `NAME[:TAG]`; the tag is `latest` unless said otherwise.
    ///
    /// # Errors
    /// Letters that names do not have.
    pub fn parse(text: &str) -> Result<ImageName, SetupError> {
        let bad = |why: &str| {
            SetupError::new(format!("use the image name '{}'", text.escape_default()), why)
                .hint("a name is made of letters, digits, and . _ - /, with an optional :TAG")
        };
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:+".contains(c);
        if text.is_empty() {
            return Err(bad("it is empty"));
        }
        if let Some(c) = text.chars().find(|c| !allowed(*c)) {
            return Err(bad(&format!("it contains '{}'", c.escape_default())));
        }
        let (name, tag) = split_tag(text);
        if name.is_empty() || tag == Some("") || name.starts_with(['.', '-', '/', ':']) || name.ends_with('/')
        {
            return Err(bad("it has no name or no tag"));
        }
        let full = format!("{name}:{}", tag.unwrap_or("latest"));
        if full.len() > LONGEST {
            return Err(bad(&format!("it is longer than {LONGEST} letters")));
        }
        Ok(ImageName(full))
    }

    /// The name of a file for it: every `/` and `:` is escaped.
    pub fn file_name(&self) -> String {
        let mut out = String::new();
        for c in self.0.chars() {
            match c {
                '/' => out.push_str("%2f"),
                ':' => out.push_str("%3a"),
                c => out.push(c),
            }
        }
        out + ".json"
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The tag is behind the last colon unless that belongs to a port (`host:5000/name`).
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    }
}

/// Which image of a layout or archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// Every one.
    All,
    /// The one with this tag, or this whole name.
    Tag(String),
    /// The one with this manifest or configuration.
    Digest(Digest),
}

/// `LAYOUT`, `LAYOUT:TAG` or `LAYOUT@sha256:…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceName {
    /// A directory or a file.
    pub path: PathBuf,
    /// Which image in it.
    pub which: Which,
}

impl SourceName {
    /// Reads one. A path that exists as it is written is meant as it is written; `oci:`, `oci-archive:` and
    /// `docker-archive:` before it, as other tools have them, are taken off.
    ///
    /// # Errors
    /// A digest that is none.
    pub fn parse(word: &OsStr) -> Result<SourceName, SetupError> {
        let exists = |bytes: &[u8]| Path::new(OsStr::from_bytes(bytes)).symlink_metadata().is_ok();
        let mut bytes = word.as_bytes();
        for prefix in [&b"oci:"[..], b"oci-archive:", b"docker-archive:"] {
            if let Some(rest) = bytes.strip_prefix(prefix).filter(|_| !exists(bytes)) {
                bytes = rest;
                break;
            }
        }
        let path = |bytes: &[u8]| PathBuf::from(OsString::from_vec(bytes.to_vec()));
        if exists(bytes) {
            return Ok(SourceName { path: path(bytes), which: Which::All });
        }
        if let Some(at) = bytes.iter().rposition(|b| *b == b'@')
            && let Some((before, after)) = bytes.split_at_checked(at)
            && after.starts_with(b"@sha256:")
        {
            let digest = String::from_utf8_lossy(after.get(1..).unwrap_or_default()).into_owned();
            return Ok(SourceName { path: path(before), which: Which::Digest(Digest::parse(&digest)?) });
        }
        // The tag may itself be a whole name with colons: the shortest path that exists wins.
        let colons = bytes.iter().enumerate().filter(|(_, b)| **b == b':').map(|(at, _)| at);
        for at in colons {
            if let Some((before, after)) = bytes.split_at_checked(at)
                && exists(before)
                && let Ok(tag) = std::str::from_utf8(after.get(1..).unwrap_or_default())
                && !tag.is_empty()
            {
                return Ok(SourceName { path: path(before), which: Which::Tag(tag.to_string()) });
            }
        }
        Ok(SourceName { path: path(bytes), which: Which::All })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_tag_is_the_latest() {
        let name = |text| ImageName::parse(text).unwrap().to_string();
        assert_eq!(name("debian"), "debian:latest");
        assert_eq!(name("localhost:5000/a/b"), "localhost:5000/a/b:latest");
        assert_eq!(name("localhost:5000/a/b:1.0"), "localhost:5000/a/b:1.0");
        for bad in ["", ":x", "a:", "../x", "a b", "a\0", "/a", &"x".repeat(81)] {
            assert!(ImageName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_makes_one_file_name() {
        assert_eq!(ImageName::parse("a/b:1").unwrap().file_name(), "a%2fb%3a1.json");
    }

    #[test]
    fn a_source_is_a_path_and_which_image_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let layout = dir.path().join("lay:out");
        std::fs::create_dir(&layout).unwrap();
        let read = |suffix: &str| {
            let mut word = layout.clone().into_os_string();
            word.push(suffix);
            SourceName::parse(&word).unwrap()
        };
        assert_eq!(read(""), SourceName { path: layout.clone(), which: Which::All });
        assert_eq!(read(":1.0"), SourceName { path: layout.clone(), which: Which::Tag("1.0".into()) });
        let digest = Digest::of(b"x");
        assert_eq!(read(&format!("@{digest}")).which, Which::Digest(digest));
        assert!(SourceName::parse(OsStr::new("x@sha256:zz")).is_err());
    }
}
