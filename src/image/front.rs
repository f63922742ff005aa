//! The directory on top of an image's layers, for attributes that directories have from layers below.
//!
//! A layer may hold `a/b/file` and no entry for `a/b`. Unpacked over the layers below, as other programs do, `a/b` then
//! keeps what it was; as a layer by itself it has to be something, and what a layer says of a directory counts before
//! what is below (L-3). The same layer lies on other layers in other images, so it cannot be mended in itself. So each
//! image for which this makes a difference gets one more layer, of nothing but directories, each with what it should
//! have.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::Path;

use super::refusal::{Refusal, Result};
use super::unpack::contents::{self, What};
use super::unpack::dialect::Dialect;
use crate::layer::marks::Mark;
use crate::sys::{At, Dev, Dir, Kind, NameBuf, SetTime};

type Words<'a> = Vec<&'a [u8]>;

/// A layer, and which of its directories no entry describes.
struct Layer {
    root: Dir,
    implicit: BTreeSet<Vec<u8>>,
}

/// What one layer says of a path.
enum Found {
    /// Nothing; the layers below count.
    Nothing,
    /// Nothing, and the layers below are hidden.
    Hidden,
    /// A directory; whether the layers below are hidden by it.
    Dir(Dir, Below),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Below {
    Shown,
    Hidden,
}

/// Makes the directory `front` if the layers at `places` (top first, each with `tree` and `contents` in it) need it.
///
/// # Errors
/// A layer cannot be read, or the directory cannot be made.
pub fn make(front: &Path, places: &[&Path], dialect: Dialect) -> Result<bool> {
    let mut layers = Vec::new();
    for place in places {
        let mut implicit = BTreeSet::new();
        contents::read(&place.join("contents"), |path, line| match line.what {
            What::Dir { implicit: true, .. } => drop(implicit.insert(path)),
            _ => drop(implicit.remove(&path)),
        })?;
        layers.push(Layer { root: Dir::open_path(&place.join("tree"))?, implicit });
    }
    let candidates: BTreeSet<&Vec<u8>> = layers.iter().flat_map(|layer| &layer.implicit).collect();
    let mut needed: BTreeSet<Vec<u8>> = BTreeSet::new();
    for path in candidates {
        if let Some((_, How::Inherited)) = meaning(&layers, path, dialect)? {
            // With every directory on the way.
            let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
            needed.extend(ends.filter_map(|end| path.get(..end)).map(<[u8]>::to_vec));
            needed.extend([Vec::new(), path.clone()]);
        }
    }
    if needed.is_empty() {
        return Ok(false);
    }
    build(front, &layers, &needed, dialect)?;
    Ok(true)
}

/// Where the attributes of a directory come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// From the topmost layer that has it.
    Own,
    /// From one below that.
    Inherited,
}

/// Another descriptor of the same directory.
fn again(dir: &Dir) -> Result<Dir> {
    dir.as_fd().try_clone_to_owned().map(Dir::from).map_err(Refusal::new)
}

fn words(path: &[u8]) -> Words<'_> {
    path.split(|b| *b == b'/').filter(|word| !word.is_empty()).collect()
}

/// The directory that says what `path` is. `None`: it is no directory in the image.
fn meaning(layers: &[Layer], path: &[u8], dialect: Dialect) -> Result<Option<(Dir, How)>> {
    let words = words(path);
    let mut topmost = None;
    for layer in layers {
        match look(&layer.root, &words, dialect)? {
            Found::Nothing => {}
            Found::Hidden => break,
            Found::Dir(dir, below) => {
                if !layer.implicit.contains(path) {
                    let how = if topmost.is_some() { How::Inherited } else { How::Own };
                    return Ok(Some((dir, how)));
                }
                topmost.get_or_insert(dir);
                if below == Below::Hidden {
                    break;
                }
            }
        }
    }
    Ok(topmost.map(|dir| (dir, How::Own)))
}

fn look(root: &Dir, words: &Words<'_>, dialect: Dialect) -> Result<Found> {
    let opaque = dialect.prefix().attr(Mark::Opaque);
    let mut dir = again(root)?;
    let mut below = Below::Shown;
    for word in words {
        let name = NameBuf::new(word)?;
        let Some(stat) = dir.find(&name)? else {
            return Ok(if below == Below::Hidden { Found::Hidden } else { Found::Nothing });
        };
        if Kind::of_mode(stat.mode) != Kind::Dir || stat.rdev != Dev::default() {
            return Ok(Found::Hidden);
        }
        dir = dir.open_dir(&name)?;
        if dir.this().find_xattr(opaque)?.as_deref() == Some(b"y") {
            below = Below::Hidden;
        }
    }
    Ok(Found::Dir(dir, below))
}

fn build(front: &Path, layers: &[Layer], needed: &BTreeSet<Vec<u8>>, dialect: Dialect) -> Result<()> {
    std::fs::create_dir(front).map_err(|e| Refusal::new(format!("{}: {e}", front.display())))?;
    let root = Dir::open_path(front)?;
    let place = |path: &[u8]| -> Result<Dir> {
        let mut dir = again(&root)?;
        for word in words(path) {
            dir = dir.open_dir(&NameBuf::new(word)?)?;
        }
        Ok(dir)
    };
    // In this order what is on the way comes first.
    for path in needed {
        if let Some((last, parent)) = words(path).split_last() {
            place(&parent.join(&b'/'))?.mkdir(&NameBuf::new(last)?, 0o700)?;
        }
    }
    // And what is made in a directory changes its times.
    for path in needed.iter().rev() {
        let (from, _) =
            meaning(layers, path, dialect)?.ok_or_else(|| Refusal::new("a layer changed meanwhile"))?;
        copy_attributes(&from, &place(path)?, dialect)?;
    }
    Ok(())
}

/// Everything but the marks of overlayfs, as it is stored.
fn copy_attributes(from: &Dir, to: &Dir, dialect: Dialect) -> Result<()> {
    let stat = from.this().stat()?;
    let readable = to.open_readable()?;
    let to = At::Fd(readable.as_fd());
    let now = to.stat()?;
    if (now.uid, now.gid) != (stat.uid, stat.gid) {
        to.chown(Some(stat.uid), Some(stat.gid))?;
    }
    let opaque = dialect.prefix().attr(Mark::Opaque);
    to.chmod(stat.mode & 0o7777)?;
    for name in from.this().listxattr()?.split_inclusive(|b| *b == 0) {
        match std::ffi::CStr::from_bytes_with_nul(name) {
            Ok(name) if name != opaque => to.setxattr(name, &from.this().getxattr(name)?, 0)?,
            _ => {}
        }
    }
    Ok(to.utimens(Some(SetTime::To(stat.atime)), Some(SetTime::To(stat.mtime)))?)
}
