//! Who wrote an option string.
//!
//! Container engines were made for another program, fuse-overlayfs, and write its words; they expect that what is not
//! understood is ignored, and they unpack images in a way in which deletions are files named `.wh.NAME`. A person who
//! mounts wants a mistyped word refused. The name of the program tells them apart; where an engine was pointed at
//! `acetate` itself, the words do that nobody else uses, or the place: the store in which engines keep their layers.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Words;
use super::text::{key_and_value, split};
use crate::error::SetupError;

/// A way to write options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// That of kernel overlayfs and mount(8).
    #[default]
    Native,
    /// That of fuse-overlayfs.
    FuseOverlayfs,
}

/// Words that only callers of fuse-overlayfs use.
const TELLS: &[&str] = &[
    "fast_ino",
    "gidmapping",
    "ino32_t",
    "noxattrs",
    "plugins",
    "private",
    "squash_to_gid",
    "squash_to_root",
    "squash_to_uid",
    "static_nlink",
    "threaded",
    "timeout",
    "uidmapping",
    "writeback",
    "xattr_permissions",
];

impl Dialect {
    /// The dialect of somebody who runs `acetate -o OPTIONS MOUNTPOINT`.
    pub fn guess(options: &[OsString], mountpoint: &Path) -> Dialect {
        let tells = |piece: &[u8]| {
            let (key, value) = key_and_value(piece);
            TELLS.iter().any(|tell| tell.as_bytes() == key)
                || (key == b"fsync" && matches!(value, Some(b"0" | b"1")))
        };
        let told = options.iter().any(|text| split(text.as_bytes()).into_iter().any(tells));
        if told || is_in_a_store(mountpoint) { Dialect::FuseOverlayfs } else { Dialect::Native }
    }

    /// Reads one option string into `words`.
    ///
    /// # Errors
    /// A word that the dialect does not take.
    pub fn read(self, words: &mut Words, options: &OsStr) -> Result<(), SetupError> {
        match self {
            Dialect::Native => words.read(options),
            Dialect::FuseOverlayfs => words.read_as_fuse_overlayfs(options),
        }
    }
}

/// Whether this is where container engines mount a layer: `merged`, beside `diff` and the file `link` that names it.
pub fn is_in_a_store(mountpoint: &Path) -> bool {
    mountpoint.file_name() == Some(OsStr::new("merged"))
        && mountpoint
            .parent()
            .is_some_and(|layer| layer.join("link").is_file() && layer.join("diff").is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(options: &[&str], mountpoint: &Path) -> Dialect {
        Dialect::guess(&options.iter().map(OsString::from).collect::<Vec<_>>(), mountpoint)
    }

    #[test]
    fn an_engine_is_known_by_its_words() {
        let anywhere = Path::new("/mnt");
        for own in
            ["lowerdir=a,upperdir=b,workdir=c,private", "lowerdir=a,uidmapping=0:1:1", "lowerdir=a,fsync=0"]
        {
            assert_eq!(guess(&[own], anywhere), Dialect::FuseOverlayfs, "{own}");
        }
        assert_eq!(guess(&["lowerdir=a", "timeout=1"], anywhere), Dialect::FuseOverlayfs);
        for plain in ["lowerdir=a,volatile,fsync=strict", "lowerdir=a,frobnicate", r"lowerdir=a\,private"] {
            assert_eq!(guess(&[plain], anywhere), Dialect::Native, "{plain}");
        }
    }

    #[test]
    fn an_engine_is_known_by_its_store() {
        let store = tempfile::tempdir().unwrap();
        let merged = store.path().join("merged");
        assert_eq!(guess(&["lowerdir=l/A"], &merged), Dialect::Native);
        std::fs::create_dir(store.path().join("diff")).unwrap();
        std::fs::write(store.path().join("link"), "A").unwrap();
        assert_eq!(guess(&["lowerdir=l/A"], &merged), Dialect::FuseOverlayfs);
        assert_eq!(guess(&["lowerdir=l/A"], &store.path().join("mnt")), Dialect::Native);
    }
}
