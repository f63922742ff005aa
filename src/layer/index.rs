//! The layer index: what the directories of one layer hold, written down once so that nobody has to list them again.
//!
//! A stack of a thousand layers is slow at first touch because every contributor of a directory is opened and listed.
//! An index answers that from memory. It is only ever a shortcut: whatever it does not know, or knows no longer, is
//! read from the layer. A directory is known by its inode number and its times, and for a plain layer both are
//! compared (one statx) each time its names are wanted; a directory that changed within the last moments before the
//! index was made could have changed again within the same tick of the clock, so it is not believed either. Only a
//! layer that its keeper knows to be immutable is believed without looking.
//!
//! Directories whose names mean different things to different readers (OCI markers, xattr whiteouts) are left out.
//!
//! The file lies beside the layer, never inside it: magic, version, length and checksum, then the records. This is the
//! only place that knows how they are encoded.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::marks::{self, Opaque, Prefix};
use super::{Listed, OCI_PREFIX, Reader};
use crate::error::SetupError;
use crate::sys::clone::{Access, private_clone};
use crate::sys::{Dir, Errno, Kind, NameBuf, Result, Stat};

const MAGIC: &[u8; 8] = b"acetidx\0";
const VERSION: u32 = 1;
/// Magic, version, length, checksum.
const HEAD: usize = 8 + 4 + 8 + 8;

/// A directory that changed later than this before the index was made is not believed, in seconds.
const SETTLED: i64 = 2;

/// Whether a layer can have changed since its index was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Nobody knows: every directory is compared before its record is used.
    Validate,
    /// Its keeper knows that it cannot.
    Immutable,
}

/// One directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// Seconds and nanoseconds.
    ctime: (i64, u32),
    mtime: (i64, u32),
    names: Vec<Named>,
}

/// One name: its bytes, `DT_…` (0 for a whiteout), raw inode number.
type Named = (Vec<u8>, u8, u64);

/// The index of one layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerIndex {
    /// When it was made, in seconds since 1970.
    taken: i64,
    /// By inode number.
    directories: HashMap<u64, Record>,
}

/// Where the index of the layer `layer` is kept: `.NAME.index` beside it. `None` for `/`.
pub fn beside(layer: &Path) -> Option<PathBuf> {
    let mut name = std::ffi::OsString::from(".");
    name.push(layer.file_name()?);
    name.push(".index");
    Some(layer.with_file_name(name))
}

fn times(stat: &Stat) -> ((i64, u32), (i64, u32)) {
    ((stat.ctime.secs, stat.ctime.nanos), (stat.mtime.secs, stat.mtime.nanos))
}

impl LayerIndex {
    /// Reads all directories of the layer `layer`, through a private read-only clone of its mount where that can be had.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn build(layer: &Path) -> std::result::Result<LayerIndex, SetupError> {
        let fail = |e: Errno| SetupError::new("read the layer", e.desc()).at(layer);
        let clone = private_clone(layer, Access::ReadOnly).map_err(fail)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let taken = i64::try_from(now).unwrap_or(i64::MAX);
        let mut index = LayerIndex { taken, directories: HashMap::new() };
        let mut pending = vec![Arc::new(Dir::from(clone.root))];
        let mut below: Vec<(Arc<Dir>, NameBuf)> = Vec::new();
        while let Some(dir) = pending.pop() {
            let names = index.add(&dir).map_err(fail)?;
            below.extend(names.into_iter().map(|name| (Arc::clone(&dir), name)));
            if let Some((parent, name)) = below.pop() {
                pending.push(Arc::new(parent.open_dir(&name).map_err(fail)?));
            }
        }
        Ok(index)
    }

    /// Records one directory and gives the names of those in it.
    fn add(&mut self, dir: &Dir) -> Result<Vec<NameBuf>> {
        let stat = dir.this().stat()?;
        let listed = Reader { prefix: Prefix::Trusted, oci: false, overrides: false }.list(dir)?;
        let is_dir = |entry: &&Listed| entry.kind == Some(Kind::Dir);
        let directories = listed.iter().filter(is_dir).map(|entry| entry.name.clone()).collect();
        let marker = listed.iter().any(|entry| entry.name.as_bytes().starts_with(OCI_PREFIX));
        if !marker && !holds_xattr_whiteouts(dir)? && times(&dir.this().stat()?) == times(&stat) {
            let name = |Listed { name, kind, ino }: Listed| {
                (name.as_bytes().to_vec(), kind.map_or(libc::DT_UNKNOWN, Kind::d_type), ino)
            };
            let (ctime, mtime) = times(&stat);
            let names = listed.into_iter().map(name).collect();
            self.directories.insert(stat.ino, Record { ctime, mtime, names });
        }
        Ok(directories)
    }

    /// How many directories it knows, and how many names are in them.
    pub fn counts(&self) -> (usize, usize) {
        (self.directories.len(), self.directories.values().map(|record| record.names.len()).sum())
    }

    /// What the directory with raw inode number `ino` holds; `None` when that is not known, or not known any more. `stat`
    /// is asked only where the layer may have changed.
    pub fn list(
        &self,
        ino: u64,
        trust: Trust,
        stat: impl FnOnce() -> Result<Stat>,
    ) -> Result<Option<Vec<Listed>>> {
        let Some(record) = self.directories.get(&ino) else { return Ok(None) };
        if trust == Trust::Validate {
            let now = stat()?;
            let settled = record.ctime.0.saturating_add(SETTLED) <= self.taken;
            if !settled || now.ino != ino || times(&now) != (record.ctime, record.mtime) {
                return Ok(None);
            }
        }
        let listed = |(name, d_type, ino): &Named| {
            Ok(Listed { name: NameBuf::new(name)?, kind: Kind::of_d_type(*d_type), ino: *ino })
        };
        record.names.iter().map(listed).collect::<Result<Vec<_>>>().map(Some)
    }

    /// Whether both know the same directories and the same names in them, in whatever order.
    pub fn holds_the_same(&self, other: &LayerIndex) -> bool {
        let sorted = |record: &Record| {
            let mut names = record.names.clone();
            names.sort();
            names
        };
        let same = |(ino, record): (&u64, &Record)| {
            other.directories.get(ino).is_some_and(|other| sorted(other) == sorted(record))
        };
        self.directories.len() == other.directories.len() && self.directories.iter().all(same)
    }

    /// Writes it to the new file `file`, where nobody reads it yet. Whoever makes the layer brings both to the disk.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_new(&self, file: &Path) -> std::io::Result<()> {
        let bytes = self.encode().map_err(std::io::Error::other)?;
        fs::File::options().write(true).create_new(true).mode(0o644).open(file)?.write_all(&bytes)
    }

    /// Writes it to `file`, in one step: whoever reads at the same time gets the old one or this.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, file: &Path) -> std::result::Result<(), SetupError> {
        let fail = |e: &dyn std::fmt::Display| {
            SetupError::new("write the layer index", e).at(file).hint("it is kept beside the layer")
        };
        let bytes = self.encode().map_err(|e| fail(&e))?;
        let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut made = tempfile::NamedTempFile::new_in(dir).map_err(|e| fail(&e))?;
        made.write_all(&bytes).and_then(|()| made.as_file().sync_data()).map_err(|e| fail(&e))?;
        made.persist(file).map(drop).map_err(|e| fail(&e.error))
    }

    /// Reads the index in `file`; `None` when there is none.
    ///
    /// # Errors
    /// When it is damaged, of another version, or belongs to somebody who is neither root nor this user.
    pub fn load(file: &Path) -> std::result::Result<Option<LayerIndex>, SetupError> {
        let fail = |why: &str| {
            SetupError::new("use the layer index", why)
                .at(file)
                .hint("make it again with: acetate index LAYER")
        };
        let mut open = match fs::File::open(file) {
            Ok(open) => open,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(fail(&e.to_string())),
        };
        let owner = open.metadata().map_err(|e| fail(&e.to_string()))?.uid();
        if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
            return Err(fail("it belongs to another user"));
        }
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut open, &mut bytes).map_err(|e| fail(&e.to_string()))?;
        LayerIndex::decode(&bytes).map(Some).map_err(|why| fail(&why))
    }

    fn encode(&self) -> std::result::Result<Vec<u8>, String> {
        let payload =
            bincode::serde::encode_to_vec(self, bincode::config::standard()).map_err(|e| e.to_string())?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((payload.len() as u64).to_le_bytes());
        bytes.extend(checksum(&payload).to_le_bytes());
        bytes.extend(payload);
        Ok(bytes)
    }

    fn decode(bytes: &[u8]) -> std::result::Result<LayerIndex, String> {
        let (head, payload) = bytes.split_at_checked(HEAD).ok_or("it is cut off")?;
        let number = |from: usize| {
            let field = head.get(from..from + 8).and_then(|field| field.try_into().ok());
            field.map(u64::from_le_bytes).ok_or("it is cut off")
        };
        if head.get(..8) != Some(MAGIC.as_slice()) {
            return Err("it is something else".into());
        }
        if head.get(8..12) != Some(VERSION.to_le_bytes().as_slice()) {
            return Err("it is of another version".into());
        }
        if number(12)? != payload.len() as u64 || number(20)? != checksum(payload) {
            return Err("it is damaged".into());
        }
        let decoded = bincode::serde::decode_from_slice(payload, bincode::config::standard());
        decoded.map(|(index, _)| index).map_err(|e| format!("it is damaged: {e}"))
    }
}

/// Empty files may be whiteouts here, for one prefix or the other (L-10).
fn holds_xattr_whiteouts(dir: &Dir) -> Result<bool> {
    for prefix in [Prefix::Trusted, Prefix::User] {
        match marks::opaque(dir.this(), prefix) {
            Ok(Opaque::Xwhiteouts) | Err(Errno::EACCES | Errno::EPERM) => return Ok(true),
            Ok(_) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

/// FNV-1a, 64 bits: against accidents; whoever may write the file may write the layer's name too.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A layer whose directories settled long before its index was made.
    fn settled(layer: &Path) -> LayerIndex {
        let mut index = LayerIndex::build(layer).unwrap();
        index.taken += 10;
        index
    }

    fn layer() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let layer = dir.path().join("layer");
        fs::create_dir_all(layer.join("a/b/c")).unwrap();
        fs::write(layer.join("a/f"), "x").unwrap();
        fs::write(layer.join("a/b/g"), "x").unwrap();
        (dir, layer)
    }

    fn stat(path: &Path) -> Stat {
        Dir::open_path(path).unwrap().this().stat().unwrap()
    }

    fn names(index: &LayerIndex, dir: &Path, trust: Trust) -> Option<Vec<String>> {
        let listed = index.list(stat(dir).ino, trust, || Ok(stat(dir))).unwrap()?;
        let mut names: Vec<String> = listed.iter().map(|l| l.name.to_string()).collect();
        names.sort();
        Some(names)
    }

    #[test]
    fn an_index_knows_every_directory_and_survives_the_disk() {
        let (dir, layer) = layer();
        let index = settled(&layer);
        let file = dir.path().join(".layer.index");
        assert_eq!(beside(&layer).as_deref(), Some(file.as_path()));
        assert_eq!(LayerIndex::load(&file).unwrap(), None);
        index.save(&file).unwrap();
        let loaded = LayerIndex::load(&file).unwrap().unwrap();
        assert_eq!(loaded, index);
        assert_eq!(loaded.counts(), (4, 5));
        assert_eq!(names(&loaded, &layer.join("a"), Trust::Validate).unwrap(), ["b", "f"]);
        assert_eq!(names(&loaded, &layer.join("a/b/c"), Trust::Validate).unwrap(), [""; 0]);
    }

    #[test]
    fn a_directory_that_changed_is_not_believed_unless_its_keeper_vouches_for_it() {
        let (_dir, layer) = layer();
        let index = settled(&layer);
        let a = layer.join("a");
        let before = stat(&a);
        while stat(&a).ctime == before.ctime {
            fs::write(a.join("new"), "x").unwrap();
            fs::remove_file(a.join("f")).or_else(|_| fs::remove_file(a.join("new"))).unwrap();
        }
        assert_eq!(names(&index, &a, Trust::Validate), None);
        assert!(names(&index, &a, Trust::Immutable).is_some());
        assert!(names(&index, &layer.join("a/b"), Trust::Validate).is_some(), "its sibling did not change");
    }

    #[test]
    fn a_directory_that_had_only_just_changed_is_not_believed() {
        let (_dir, layer) = layer();
        let mut index = LayerIndex::build(&layer).unwrap();
        index.taken = stat(&layer).ctime.secs;
        assert_eq!(names(&index, &layer, Trust::Validate), None);
        assert!(names(&index, &layer, Trust::Immutable).is_some());
    }

    #[test]
    fn markers_that_readers_disagree_on_are_left_to_the_readers() {
        let (_dir, layer) = layer();
        fs::write(layer.join("a/.wh.gone"), "").unwrap();
        let index = settled(&layer);
        assert_eq!(names(&index, &layer.join("a"), Trust::Immutable), None);
        assert!(names(&index, &layer, Trust::Immutable).is_some());
    }

    #[test]
    fn a_damaged_index_is_refused_at_every_byte() {
        let (_dir, layer) = layer();
        let bytes = settled(&layer).encode().unwrap();
        assert!(LayerIndex::decode(&bytes).is_ok());
        for at in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] ^= 0x40;
            assert!(LayerIndex::decode(&broken).is_err(), "byte {at}");
            assert!(LayerIndex::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
