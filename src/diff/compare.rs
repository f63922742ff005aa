//! One object against what it was before.

use super::Facets;
use super::tree::Seen;
use crate::sys::{Kind, Result};

/// Whether the bytes of two regular files of one size have to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bytes {
    /// They may differ.
    Compare,
    /// They are the same file's: a copy-up of metadata alone.
    Shared,
}

/// In what `now` differs from `before`, which is of the same kind.
pub(super) fn facets(before: &Seen<'_>, now: &Seen<'_>, bytes: Bytes) -> Result<Facets> {
    let (old, new) = (&before.attr, &now.attr);
    let content = match new.kind() {
        Kind::File if old.size != new.size => true,
        Kind::File => bytes == Bytes::Compare && !same_bytes(before, now)?,
        Kind::Symlink => before.target()? != now.target()?,
        Kind::Char | Kind::Block => old.rdev != new.rdev,
        Kind::Dir | Kind::Fifo | Kind::Socket => false,
    };
    Ok(Facets {
        content,
        // A symlink's permission bits mean nothing.
        mode: new.kind() != Kind::Symlink && old.mode != new.mode,
        owner: old.owner != new.owner,
        mtime: old.mtime != new.mtime,
        xattr: before.xattrs()? != now.xattrs()?,
    })
}

const CHUNK: usize = 256 * 1024;

fn same_bytes(before: &Seen<'_>, now: &Seen<'_>) -> Result<bool> {
    if now.attr.size == 0 {
        return Ok(true);
    }
    let (old, new) = (before.data()?, now.data()?);
    let (mut left, mut right) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut offset = 0;
    loop {
        let (n, m) = (old.read(offset, &mut left)?, new.read(offset, &mut right)?);
        if left.get(..n) != right.get(..m) {
            return Ok(false);
        }
        if n == 0 {
            return Ok(true);
        }
        offset += n as u64;
    }
}
