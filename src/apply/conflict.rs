//! What in the tree is no longer what the changes were made on.
//!
//! If the tree is the lower itself, what it was cannot be asked any more; but the kernel notes when an object was
//! changed last, and the upper when it began to have its own opinion. If the tree is another one, it is compared with
//! the lower. What is already as the changes want it is never in the way.

use std::collections::BTreeSet;

use super::Dest;
use crate::diff::{Difference, Differing, Tree, Was, What};
use crate::error::SetupError;
use crate::sys::{Dir, Errno, Kind, NameBuf, Result, Stat, Time};
use crate::union::Attr;
use crate::union::control::Text;

/// A sentence for each conflict.
pub(super) fn find(
    dest: &Dest,
    difference: &Difference,
    now: &Tree,
) -> std::result::Result<Vec<String>, SetupError> {
    let mut all = Vec::new();
    let vacated: BTreeSet<&[u8]> = difference.differing.iter().filter_map(|d| vacates(d)).collect();
    for differing in &difference.differing {
        // The root itself is always there, and its time of change says nothing.
        let Some(place) = differing.place.as_ref().filter(|place| *place != b".") else { continue };
        // What is there goes away first, and is looked at for that.
        if differing.was.is_none() && vacated.contains(place.as_slice()) {
            continue;
        }
        let found = check(dest, differing, place, now);
        let why = found.map_err(|e| dest.failed("compare", e))?;
        all.extend(why.map(|why| format!("{} {why}", Text::from(place.as_slice()))));
    }
    Ok(all)
}

/// The place that a deletion or a renaming leaves empty.
fn vacates(differing: &Differing) -> Option<&[u8]> {
    match &differing.change.what {
        What::Deleted => differing.place.as_deref(),
        What::Renamed { from } => Some(from),
        _ => None,
    }
}

/// Why what is at `place` must not be touched.
fn check(dest: &Dest, differing: &Differing, place: &[u8], now: &Tree) -> Result<Option<&'static str>> {
    let deleted = differing.change.what == What::Deleted;
    let (there, was) = (at(&dest.dir, place)?, &differing.was);
    let Some((dir, name, there)) = there else {
        let gone = was.is_some() && !deleted && !is_done(dest, differing, now)?;
        return Ok(gone.then_some("is gone"));
    };
    let Some(was) = was else {
        return Ok((!matches(&there, differing, now)?).then_some("has appeared"));
    };
    if !deleted && matches(&there, differing, now)? {
        return Ok(None);
    }
    if !dest.is_lower {
        return Ok((!is_as_before(&there, was)).then_some("is not what the changes were made on"));
    }
    let Some(since) = differing.since else { return Ok(None) };
    let changed = match there.kind() {
        // Its own time of change says only that names came or went, unless all of it is to go.
        Kind::Dir if deleted => changed_within(&dir.open_dir(&name)?, since)?,
        Kind::Dir => false,
        _ => there.ctime > since,
    };
    Ok(changed.then_some("was changed since"))
}

/// Whether what a step would make is there already, under the path it has in the end.
fn is_done(dest: &Dest, differing: &Differing, now: &Tree) -> Result<bool> {
    match at(&dest.dir, &differing.change.path)? {
        Some((_, _, there)) => matches(&there, differing, now),
        None => Ok(false),
    }
}

/// Whether an object looks as the changes want it. Contents are told by size and time.
fn matches(there: &Stat, differing: &Differing, now: &Tree) -> Result<bool> {
    let Some(wanted) = now.find(&differing.change.path)? else { return Ok(false) };
    Ok(looks_like(there, &wanted.attr))
}

fn looks_like(there: &Stat, wanted: &Attr) -> bool {
    let same = there.kind() == wanted.kind()
        && (there.mode, there.uid, there.gid) == (wanted.mode, wanted.owner.uid, wanted.owner.gid);
    same && (there.kind() == Kind::Dir || (there.size, there.mtime) == (wanted.size, wanted.mtime))
}

fn is_as_before(there: &Stat, was: &Was) -> bool {
    looks_like(there, &was.attr)
}

type Place = (Dir, NameBuf, Stat);

/// What is at `path` of the tree, with the directory it is in.
fn at(root: &Dir, path: &[u8]) -> Result<Option<Place>> {
    let mut dir = Dir::from(root.this().pin()?);
    let mut names = path.split(|&b| b == b'/').map(NameBuf::new).collect::<Result<Vec<_>>>()?;
    let Some(last) = names.pop() else { return Ok(None) };
    for name in names {
        dir = match dir.open_dir(&name) {
            Ok(dir) => dir,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            Err(e) => return Err(e),
        };
    }
    Ok(dir.find(&last)?.map(|stat| (dir, last, stat)))
}

/// Whether anything in a directory was changed after `since`.
fn changed_within(dir: &Dir, since: Time) -> Result<bool> {
    let mut todo = vec![Dir::from(dir.this().pin()?)];
    while let Some(dir) = todo.pop() {
        if dir.this().stat()?.ctime > since {
            return Ok(true);
        }
        for entry in dir.entries()? {
            let stat = dir.stat(&entry.name)?;
            if stat.kind() == Kind::Dir {
                todo.push(dir.open_dir(&entry.name)?);
            } else if stat.ctime > since {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
