//! The directories of a layer while it is unpacked: found without paths, remembered with what they should be.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;

use super::dialect::Attributes;
use super::{Refusal, Result, checked};
use crate::sys::{Dev, Dir, Errno, Kind};

/// How many directories are kept open.
const OPEN: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// What a path leads to.
#[derive(Debug)]
pub enum Parent {
    /// A directory.
    Dir(Arc<Dir>),
    /// It, or something on the way, is this and no directory.
    Blocked(Kind),
}

/// What is known of a directory.
#[derive(Debug, Default)]
pub struct Place {
    /// What its entry says; `None` while there was none.
    pub attributes: Option<Attributes>,
    /// It hides what is below.
    pub opaque: bool,
}

/// The directories of a layer.
#[derive(Debug)]
pub struct Places {
    root: Arc<Dir>,
    known: HashMap<Vec<u8>, Place>,
    open: LruCache<Vec<u8>, Arc<Dir>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    Leave,
}

impl Places {
    /// Only `root` is there.
    pub fn new(root: Dir) -> Places {
        let known = HashMap::from([(Vec::new(), Place::default())]);
        Places { root: Arc::new(root), known, open: LruCache::new(OPEN) }
    }

    /// The directory with these components, made with all that is missing.
    pub fn find(&mut self, words: &[&[u8]]) -> Result<Parent> {
        self.walk(words, Missing::Make)?.ok_or_else(|| Refusal::new("it cannot be made"))
    }

    /// The directory with these components; `None` when something is missing.
    pub fn look(&mut self, words: &[&[u8]]) -> Result<Option<Parent>> {
        self.walk(words, Missing::Leave)
    }

    /// What the entry of a directory that was found says.
    pub fn describe(&mut self, words: &[&[u8]], attributes: Attributes) {
        self.known.entry(words.join(&b'/')).or_default().attributes = Some(attributes);
    }

    /// A directory that was found hides what is below.
    pub fn set_opaque(&mut self, words: &[&[u8]]) {
        self.known.entry(words.join(&b'/')).or_default().opaque = true;
    }

    /// All, in the order of their paths; nothing is known afterwards.
    pub fn take_all(&mut self) -> Vec<(Vec<u8>, Place)> {
        let mut all: Vec<_> = self.known.drain().collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    fn walk(&mut self, words: &[&[u8]], missing: Missing) -> Result<Option<Parent>> {
        let path = words.join(&b'/');
        if words.is_empty() {
            return Ok(Some(Parent::Dir(Arc::clone(&self.root))));
        }
        if let Some(dir) = self.open.get(&path) {
            return Ok(Some(Parent::Dir(Arc::clone(dir))));
        }
        // From the deepest directory on the way that is open.
        let mut ends: Vec<usize> = Vec::with_capacity(words.len());
        for word in words {
            ends.push(ends.last().map_or(0, |end| end + 1) + word.len());
        }
        let upto = |end: Option<&usize>| end.and_then(|end| path.get(..*end)).unwrap_or_default();
        let mut depth = words.len() - 1;
        let mut dir = loop {
            if depth == 0 {
                break Arc::clone(&self.root);
            }
            if let Some(dir) = self.open.get(upto(ends.get(depth - 1))) {
                break Arc::clone(dir);
            }
            depth -= 1;
        };
        for (word, end) in words.iter().zip(&ends).skip(depth) {
            match self.step(&dir, word, upto(Some(end)), missing)? {
                Some(Parent::Dir(next)) => dir = next,
                other => return Ok(other),
            }
        }
        Ok(Some(Parent::Dir(dir)))
    }

    /// From a directory into the one named `word` in it, whose whole path is `path`.
    fn step(&mut self, parent: &Dir, word: &[u8], path: &[u8], missing: Missing) -> Result<Option<Parent>> {
        let name = checked(word)?;
        if missing == Missing::Make && !self.known.contains_key(path) {
            match parent.mkdir(&name, 0o700) {
                Ok(()) => drop(self.known.insert(path.to_vec(), Place::default())),
                Err(Errno::EEXIST) => {
                    let stat = parent.stat(&name)?;
                    let kind = Kind::of_mode(stat.mode);
                    if kind == Kind::Char && stat.rdev == Dev::default() {
                        // Deleted below and made anew here: it hides what it was.
                        parent.unlink(&name)?;
                        parent.mkdir(&name, 0o700)?;
                        self.known.insert(path.to_vec(), Place { attributes: None, opaque: true });
                    } else if kind != Kind::Dir {
                        return Ok(Some(Parent::Blocked(kind)));
                    }
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        match parent.open_dir(&name) {
            Ok(dir) => {
                let dir = Arc::new(dir);
                self.open.put(path.to_vec(), Arc::clone(&dir));
                Ok(Some(Parent::Dir(dir)))
            }
            Err(Errno::ENOENT) if missing == Missing::Leave => Ok(None),
            Err(Errno::ENOTDIR | Errno::ELOOP) => {
                Ok(Some(Parent::Blocked(Kind::of_mode(parent.stat(&name)?.mode))))
            }
            Err(errno) => Err(errno.into()),
        }
    }
}
