//! The walk through the upper.
//!
//! Hard is only what renames and replaced directories do to names. A whiteout at the old place of a renamed
//! directory is no deletion, and what was made there since is no change of the old directory: so the places that
//! redirects point to are collected first, and a second walk is made when there are any. Beneath a directory that
//! replaces the one below (opaque, or made where there was none), a name that is missing is deleted although no
//! whiteout says so.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::compare::{self, Bytes};
use super::tree::{Seen, Tree};
use super::{Change, Stack, What, marks_only};
use crate::error::SetupError;
use crate::layer::marks::{Prefix, RedirectTo};
use crate::layer::{Below, DirCache, Found, Object, Probe, Reader};
use crate::sys::{Dir, Errno, Kind, NameBuf, Result, Stat, Time};
use crate::union::{Attr, Config, Redirect};

/// Open descriptors of upper directories; the walk goes through the tree in order, so few are in use at a time.
const OPEN_DIRS: usize = 256;

/// All changes of `stack.upper`, sorted by path. Errors name what cannot be read.
pub fn changes(stack: &Stack) -> std::result::Result<Vec<Change>, SetupError> {
    if stack.lower.is_empty() {
        let upper = Upper::open(stack)?;
        let mut changes = marks_only::changes(&upper).map_err(|(at, e)| unreadable(stack, &at, e))?;
        changes.sort_by(in_order);
        return Ok(changes);
    }
    let (before, now) = views(stack)?;
    Ok(examine(stack, &before, &now)?.differing.into_iter().map(|d| d.change).collect())
}

/// The tree before the changes and with them.
///
/// # Errors
/// A layer that cannot be used.
pub fn views(stack: &Stack) -> std::result::Result<(Tree, Tree), SetupError> {
    let lowers = config(stack);
    let now = Config {
        upper: Some(stack.upper.clone()),
        index: stack.work.as_deref().is_some_and(has_index),
        work: stack.work.clone(),
        frozen: true,
        ..lowers.clone()
    };
    Ok((Tree::open(&lowers)?, Tree::open(&now)?))
}

/// The lowers of `stack` as one tree.
///
/// # Errors
/// A layer that cannot be used.
pub fn view(stack: &Stack) -> std::result::Result<Tree, SetupError> {
    Tree::open(&config(stack))
}

/// Whether files with several names are looked up in an index.
fn has_index(work: &std::path::Path) -> bool {
    std::fs::read_dir(work.join("index")).is_ok_and(|mut entries| entries.next().is_some())
}

/// Everything that tells how to make the tree `before` into `now`, the two [`views`] of `stack`.
///
/// # Errors
/// They name what cannot be read.
pub fn examine(stack: &Stack, before: &Tree, now: &Tree) -> std::result::Result<Difference, SetupError> {
    let upper = Upper::open(stack)?;
    let first = compare(stack, &upper, before, now, Moved::new())?;
    let mut last = match first.moved.is_empty() {
        true => first,
        false => compare(stack, &upper, before, now, first.moved)?,
    };
    if let Some(work) = stack.work.as_deref().filter(|work| has_index(work)) {
        let outcome = Dir::open_path(&work.join("index")).and_then(|index| last.linked(&index, before, now));
        outcome.map_err(|e| unreadable(stack, &last.at, e))?;
    }
    let Walk { mut differing, members, renamed_in, digest, .. } = last;
    differing.sort_by(|a, b| in_order(&a.change, &b.change));
    Ok(Difference { differing, members, renamed_in, digest })
}

/// How a tree differs from what it was.
#[derive(Debug, Default)]
pub struct Difference {
    /// What differs, sorted by path.
    pub differing: Vec<Differing>,
    /// Files with several names that the upper knows of.
    pub members: Vec<Member>,
    /// Directories (paths of now) in which names came or went.
    pub renamed_in: Vec<Vec<u8>>,
    /// Two uppers with the same number are, with near certainty, the same.
    pub digest: u64,
}

/// One difference, with what is needed to make it elsewhere.
#[derive(Clone, Debug)]
pub struct Differing {
    /// What differs.
    pub change: Change,
    /// The path that it has, or would have, in the tree before; `None` within a new directory.
    pub place: Option<Vec<u8>>,
    /// What it was.
    pub was: Option<Was>,
    /// When the upper began to have its own opinion of it, as far as that can be known.
    pub since: Option<Time>,
    /// Links of it now.
    pub nlink: u32,
    /// Its data is in a lower.
    pub borrowed: bool,
}

/// What an object was.
#[derive(Clone, Debug)]
pub struct Was {
    /// Its path in the tree before.
    pub path: Vec<u8>,
    /// Its attributes.
    pub attr: Attr,
}

/// A name of a file with several names.
#[derive(Clone, Debug)]
pub struct Member {
    /// The path now.
    pub path: Vec<u8>,
    /// Number of the file in the upper: the same for every name of it.
    pub ino: u64,
    /// Number and links before, if the name was there.
    pub before: Option<(u64, u32)>,
}

fn unreadable(stack: &Stack, at: &[NameBuf], e: Errno) -> SetupError {
    let mut path = stack.upper.clone();
    path.extend(at.iter().map(|n| std::ffi::OsStr::from_bytes(n.as_bytes())));
    SetupError::new("compare", e.desc()).at(path)
}

/// The lowers as a read-only stack.
fn config(stack: &Stack) -> Config {
    Config {
        lower: stack.lower.clone(),
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
    let mut walk = Walk::new(known);
    let outcome = walk.run(upper, before, now);
    outcome.map_err(|e| unreadable(stack, &walk.at, e))?;
    Ok(walk)
}

/// What one walk has learnt.
pub(super) struct Walk {
    differing: Vec<Differing>,
    members: Vec<Member>,
    renamed_in: Vec<Vec<u8>>,
    digest: u64,
    /// The directories of the upper, by their paths now, and what they were.
    pub(super) directories: BTreeMap<Vec<u8>, Option<Vec<NameBuf>>>,
    /// Everything else of the upper.
    pub(super) visited: BTreeSet<Vec<u8>>,
    /// Where an earlier walk saw that renamed directories came from.
    known: Moved,
    /// The same, as this walk sees it.
    moved: Moved,
    /// Where the walk is, for a person to read.
    pub(super) at: Vec<NameBuf>,
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
    fn new(known: Moved) -> Walk {
        Walk {
            differing: Vec::new(),
            members: Vec::new(),
            renamed_in: Vec::new(),
            digest: DIGEST_SEED,
            directories: BTreeMap::new(),
            visited: BTreeSet::new(),
            known,
            moved: Moved::new(),
            at: Vec::new(),
        }
    }

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
        let was = frame.before.as_ref().map(|before| before.path.clone());
        self.directories.insert(text(&frame.now.path), was);
        let mut names_changed = false;
        let mut present = BTreeSet::new();
        for (name, probe) in upper.entries(&frame.raw)? {
            self.at.push(name.clone());
            self.digest = digest(self.digest, &self.at, &probe);
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
        if names_changed {
            self.renamed_in.push(text(&frame.now.path));
        }
        let mut facets = compare::facets(before, &frame.now, Bytes::Compare)?;
        // An upper's root was made by whoever made the upper, at any time.
        facets.mtime &= !names_changed && !frame.now.path.is_empty();
        if !facets.is_empty() {
            self.push(Subject::changed(before, &frame.now), What::Changed(facets), 0);
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
            self.push(Subject::deleted(frame, name, &old), What::Deleted, 0);
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
                self.push(Subject::deleted(frame, name, &old), What::Deleted, 0);
            }
            self.push(Subject::changed(&source, &now), What::Renamed { from: text(&source.path) }, 0);
            self.moved.insert(source.path.clone());
            todo.push(Frame { raw, now, before: Some(source), below: frame.below, replaces: found.cut });
            return Ok(true);
        }
        let is_dir = now.attr.kind() == Kind::Dir;
        match old {
            Some(old) if old.attr.kind() != now.attr.kind() => {
                let since = now.attr.btime;
                self.push(Subject { since, ..Subject::deleted(frame, name, &old) }, What::Deleted, 0);
            }
            Some(old) if is_dir => {
                let replaces = found.cut || frame.replaces && found.redirect.is_none();
                todo.push(Frame { raw, now, before: Some(old), below: frame.below, replaces });
                return Ok(false);
            }
            Some(old) => {
                self.member(&now, &found.stat, Some(&old));
                self.changed(&old, &now, found)?;
                return Ok(false);
            }
            None => {}
        }
        if !is_dir {
            self.member(&now, &found.stat, None);
        }
        self.push(Subject::added(frame, name, &now, found), What::Added, size(&now));
        if is_dir {
            todo.push(Frame { raw, now, before: None, below: frame.below, replaces: false });
        }
        Ok(true)
    }

    /// A non-directory of the upper.
    pub(super) fn member(&mut self, now: &Seen<'_>, raw: &Stat, before: Option<&Seen<'_>>) {
        let path = text(&now.path);
        if raw.nlink > 1 {
            let before = before.map(|old| (old.attr.ino, old.attr.nlink));
            self.members.push(Member { path: path.clone(), ino: raw.ino, before });
        }
        self.visited.insert(path);
    }

    /// A non-directory that was there before.
    fn changed(&mut self, old: &Seen<'_>, now: &Seen<'_>, found: &Found) -> Result<()> {
        let shared = found.metacopy && found.redirect.is_none();
        let facets = compare::facets(old, now, if shared { Bytes::Shared } else { Bytes::Compare })?;
        if !facets.is_empty() {
            let subject = Subject { borrowed: found.metacopy, ..Subject::changed(old, now) };
            self.push(subject, What::Changed(facets), if facets.content { size(now) } else { 0 });
        }
        Ok(())
    }

    pub(super) fn push(&mut self, subject: Subject, what: What, bytes: u64) {
        let Subject { path, kind, place, was, since, nlink, borrowed } = subject;
        let change = Change { path, what, kind: Some(kind), bytes };
        self.differing.push(Differing { change, place, was, since, nlink, borrowed });
    }
}

/// What a difference is about.
pub(super) struct Subject {
    path: Vec<u8>,
    kind: Kind,
    place: Option<Vec<u8>>,
    was: Option<Was>,
    since: Option<Time>,
    nlink: u32,
    borrowed: bool,
}

impl Subject {
    pub(super) fn changed(before: &Seen<'_>, now: &Seen<'_>) -> Subject {
        Subject {
            path: text(&now.path),
            kind: now.attr.kind(),
            place: Some(text(&before.path)),
            was: Some(Was { path: text(&before.path), attr: before.attr }),
            since: now.attr.btime,
            nlink: now.attr.nlink,
            borrowed: false,
        }
    }

    /// What is gone leaves no time; its directory was changed when it went, or later.
    fn deleted(frame: &Frame<'_>, name: &NameBuf, old: &Seen<'_>) -> Subject {
        Subject {
            path: text(&joined(&frame.now.path, name)),
            kind: old.attr.kind(),
            place: Some(text(&old.path)),
            was: Some(Was { path: text(&old.path), attr: old.attr }),
            since: Some(frame.now.attr.ctime),
            nlink: 0,
            borrowed: false,
        }
    }

    fn added(frame: &Frame<'_>, name: &NameBuf, now: &Seen<'_>, found: &Found) -> Subject {
        Subject {
            path: text(&now.path),
            kind: now.attr.kind(),
            place: frame.before.as_ref().map(|before| text(&joined(&before.path, name))),
            was: None,
            since: now.attr.btime,
            nlink: now.attr.nlink,
            borrowed: found.metacopy,
        }
    }
}

const DIGEST_SEED: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a over what an upper says of a name.
fn digest(seed: u64, path: &[NameBuf], probe: &Probe) -> u64 {
    let mut digest = seed;
    let mut take = |bytes: &[u8]| {
        for byte in bytes {
            digest = (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    take(&text(path));
    match probe {
        Probe::Absent => take(b"-"),
        Probe::Whiteout => take(b"w"),
        Probe::Entry(found) => {
            let Found { stat, .. } = found;
            for number in
                [stat.ino, stat.size, u64::from(stat.mode), stat.ctime.secs as u64, stat.ctime.nanos.into()]
            {
                take(&number.to_le_bytes());
            }
        }
    }
    digest
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
