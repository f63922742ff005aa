//! The walk through the upper.
//!
//! Hard is only what renames and replaced directories do to names. A whiteout at the old place of a renamed
//! directory is no deletion, and what was made there since is no change of the old directory: so the places that
//! redirects point to are collected first, and a second walk is made when there are any. Beneath a directory that
//! replaces the one below (opaque, or made where there was none), a name that is missing is deleted although no
//! whiteout says so.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::compare::{self, Bytes};
use super::tree::{Seen, Tree};
use super::{Change, Stack, What, marks_only};
use crate::error::SetupError;
use crate::layer::marks::{Prefix, RedirectTo};
use crate::layer::{Below, DirCache, Found, Object, Probe, Reader};
use crate::sys::{Dir, Errno, Kind, NameBuf, Result};
use crate::union::{Config, Redirect};

/// Open descriptors of upper directories; the walk goes through the tree in order, so few are in use at a time.
const OPEN_DIRS: usize = 256;

/// All changes of `stack.upper`, sorted by path. Errors name what cannot be read.
pub fn changes(stack: &Stack) -> std::result::Result<Vec<Change>, SetupError> {
    let upper = Upper::open(stack)?;
    let mut changes = if stack.lower.is_empty() {
        marks_only::changes(&upper).map_err(|(at, e)| unreadable(stack, &at, e))?
    } else {
        let (before, now) = (Tree::open(&config(stack, &[]))?, Tree::open(&config(stack, &[&stack.upper]))?);
        let first = compare(stack, &upper, &before, &now, Moved::new())?;
        let last = match first.moved.is_empty() {
            true => first,
            false => compare(stack, &upper, &before, &now, first.moved)?,
        };
        last.changes
    };
    changes.sort_by(in_order);
    Ok(changes)
}

fn unreadable(stack: &Stack, at: &[NameBuf], e: Errno) -> SetupError {
    let mut path = stack.upper.clone();
    path.extend(at.iter().map(|n| std::ffi::OsStr::from_bytes(n.as_bytes())));
    SetupError::new("compare", e.desc()).at(path)
}

/// The lowers as a read-only stack, `above` on top of them.
fn config(stack: &Stack, above: &[&std::path::PathBuf]) -> Config {
    Config {
        lower: above.iter().copied().chain(&stack.lower).cloned().collect(),
        data_only: stack.data_only.clone(),
        userxattr: stack.userxattr,
        redirect: Redirect::Follow,
        metacopy: true,
        oci_whiteouts: stack.oci_whiteouts,
        ..Config::default()
    }
}

/// The upper as it is stored.
pub(super) struct Upper {
    pub(super) root: Arc<Object>,
    reader: Reader,
    cache: DirCache,
}

impl Upper {
    fn open(stack: &Stack) -> std::result::Result<Upper, SetupError> {
        let failed = |e: Errno| SetupError::new("open the upper", e.desc()).at(&stack.upper);
        let dir = Dir::open_path(&stack.upper).map_err(failed)?;
        let ino = dir.this().stat().map_err(failed)?.ino;
        let prefix = if stack.userxattr { Prefix::User } else { Prefix::Trusted };
        Ok(Upper {
            root: Object::root(0, Arc::new(dir), ino),
            reader: Reader { prefix, oci: false, overrides: false },
            cache: DirCache::new(OPEN_DIRS),
        })
    }

    /// Every entry of a directory and what it stands for; one that vanishes meanwhile is left out.
    pub(super) fn entries(&self, of: &Arc<Object>) -> Result<Vec<(NameBuf, Probe)>> {
        let dir = of.open(&self.cache)?;
        let mut all = Vec::new();
        for raw in dir.entries()? {
            match self.reader.probe(&dir, &raw.name, Below::Some)? {
                Probe::Absent => {}
                probe => all.push((raw.name, probe)),
            }
        }
        Ok(all)
    }
}

/// Paths in the tree below that renamed directories came from.
type Moved = BTreeSet<Vec<NameBuf>>;

fn compare(
    stack: &Stack,
    upper: &Upper,
    before: &Tree,
    now: &Tree,
    known: Moved,
) -> std::result::Result<Walk, SetupError> {
    let mut walk = Walk { changes: Vec::new(), known, moved: Moved::new(), at: Vec::new() };
    let outcome = walk.run(upper, before, now);
    outcome.map_err(|e| unreadable(stack, &walk.at, e))?;
    Ok(walk)
}

/// What one walk has learnt.
struct Walk {
    changes: Vec<Change>,
    /// Where an earlier walk saw that renamed directories came from.
    known: Moved,
    /// The same, as this walk sees it.
    moved: Moved,
    /// Where the walk is, for a person to read.
    at: Vec<NameBuf>,
}

/// A directory of the upper that is to be gone through.
struct Frame<'t> {
    raw: Arc<Object>,
    now: Seen<'t>,
    /// What it stands for below; `None` when it is new.
    before: Option<Seen<'t>>,
    below: &'t Tree,
    /// Whether names of `before` that the upper does not have are gone.
    replaces: bool,
}

impl Walk {
    fn run(&mut self, upper: &Upper, before: &Tree, now: &Tree) -> Result<()> {
        let root = Frame {
            raw: Arc::clone(&upper.root),
            now: now.root()?,
            before: Some(before.root()?),
            below: before,
            replaces: false,
        };
        let mut todo = vec![root];
        while let Some(frame) = todo.pop() {
            self.directory(upper, &frame, &mut todo)?;
        }
        Ok(())
    }

    /// Goes through one directory and puts its subdirectories on `todo`.
    fn directory<'t>(&mut self, upper: &Upper, frame: &Frame<'t>, todo: &mut Vec<Frame<'t>>) -> Result<()> {
        self.at.clone_from(&frame.now.path);
        let mut names_changed = false;
        let mut present = BTreeSet::new();
        for (name, probe) in upper.entries(&frame.raw)? {
            self.at.push(name.clone());
            names_changed |= match probe {
                Probe::Absent => false,
                Probe::Whiteout => {
                    self.deleted(frame, &name)?;
                    true
                }
                Probe::Entry(found) => self.entry(frame, &name, &found, todo)?,
            };
            self.at.pop();
            present.insert(name);
        }
        let Some(before) = &frame.before else { return Ok(()) };
        if frame.replaces {
            for name in before.names()?.difference(&present) {
                self.deleted(frame, name)?;
                names_changed = true;
            }
        }
        let mut facets = compare::facets(before, &frame.now, Bytes::Compare)?;
        // An upper's root was made by whoever made the upper, at any time.
        facets.mtime &= !names_changed && !frame.now.path.is_empty();
        if !facets.is_empty() {
            self.push(&frame.now.path, What::Changed(facets), &frame.now, 0);
        }
        Ok(())
    }

    /// What `name` of the directory stands for below, unless that is known to live on under another name.
    fn old<'t>(&self, frame: &Frame<'t>, name: &NameBuf) -> Result<Option<Seen<'t>>> {
        let Some(before) = &frame.before else { return Ok(None) };
        Ok(before.child(name)?.filter(|old| !self.known.contains(&old.path)))
    }

    fn deleted(&mut self, frame: &Frame<'_>, name: &NameBuf) -> Result<()> {
        if let Some(old) = self.old(frame, name)? {
            self.push(&joined(&frame.now.path, name), What::Deleted, &old, 0);
        }
        Ok(())
    }

    /// One object of the upper. Returns whether the directory has other names than before.
    fn entry<'t>(
        &mut self,
        frame: &Frame<'t>,
        name: &NameBuf,
        found: &Found,
        todo: &mut Vec<Frame<'t>>,
    ) -> Result<bool> {
        let Some(now) = frame.now.child(name)? else { return Ok(false) };
        let raw = Object::within(&frame.raw, name.clone(), &found.stat);
        let old = self.old(frame, name)?;
        if let Some(source) = source(frame, name, found)? {
            if let Some(old) = old {
                self.push(&now.path, What::Deleted, &old, 0);
            }
            self.push(&now.path, What::Renamed { from: text(&source.path) }, &now, 0);
            self.moved.insert(source.path.clone());
            todo.push(Frame { raw, now, before: Some(source), below: frame.below, replaces: found.cut });
            return Ok(true);
        }
        let is_dir = now.attr.kind() == Kind::Dir;
        match old {
            Some(old) if old.attr.kind() != now.attr.kind() => {
                self.push(&now.path, What::Deleted, &old, 0);
            }
            Some(old) if is_dir => {
                let replaces = found.cut || frame.replaces && found.redirect.is_none();
                todo.push(Frame { raw, now, before: Some(old), below: frame.below, replaces });
                return Ok(false);
            }
            Some(old) => {
                self.changed(&old, &now, found)?;
                return Ok(false);
            }
            None => {}
        }
        self.push(&now.path, What::Added, &now, size(&now));
        if is_dir {
            todo.push(Frame { raw, now, before: None, below: frame.below, replaces: false });
        }
        Ok(true)
    }

    /// A non-directory that was there before.
    fn changed(&mut self, old: &Seen<'_>, now: &Seen<'_>, found: &Found) -> Result<()> {
        let shared = found.metacopy && found.redirect.is_none();
        let facets = compare::facets(old, now, if shared { Bytes::Shared } else { Bytes::Compare })?;
        if !facets.is_empty() {
            self.push(&now.path, What::Changed(facets), now, if facets.content { size(now) } else { 0 });
        }
        Ok(())
    }

    fn push(&mut self, path: &[NameBuf], what: What, about: &Seen<'_>, bytes: u64) {
        self.changes.push(Change { path: text(path), what, kind: Some(about.attr.kind()), bytes });
    }
}

/// The directory that a renamed one was, if a redirect of the upper says so and it is there.
fn source<'t>(frame: &Frame<'t>, name: &NameBuf, found: &Found) -> Result<Option<Seen<'t>>> {
    let source = match (&found.redirect, &frame.before) {
        (Some(RedirectTo::Absolute(path)), _) => frame.below.at(path)?,
        // Beneath a directory that replaces the one below, no layer is asked for a sibling.
        (Some(RedirectTo::Sibling(old)), Some(before)) if !frame.replaces => before.child(old)?,
        _ => None,
    };
    let own = |s: &Seen<'_>| frame.before.as_ref().is_some_and(|b| s.path == joined(&b.path, name));
    Ok(source.filter(|s| s.attr.kind() == Kind::Dir && !own(s)))
}

fn size(of: &Seen<'_>) -> u64 {
    if of.attr.kind() == Kind::File { of.attr.size } else { 0 }
}

pub(super) fn joined(path: &[NameBuf], name: &NameBuf) -> Vec<NameBuf> {
    [path, std::slice::from_ref(name)].concat()
}

/// A path as one string of bytes.
pub(super) fn text(path: &[NameBuf]) -> Vec<u8> {
    if path.is_empty() {
        return b".".to_vec();
    }
    path.iter().map(|n| n.as_bytes()).collect::<Vec<_>>().join(&b'/')
}

/// By path, a directory before what is in it; then in the order in which the changes would be done again.
fn in_order(a: &Change, b: &Change) -> Ordering {
    let names = |c: &Change| c.path != b".";
    (names(a).cmp(&names(b)))
        .then_with(|| a.path.split(|&b| b == b'/').cmp(b.path.split(|&b| b == b'/')))
        .then_with(|| a.what.rank().cmp(&b.what.rank()))
}
