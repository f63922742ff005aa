//! What several layers decide together about each name, and where the layers below them would be asked.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::diff::Stack;
use crate::error::SetupError;
use crate::layer::marks::{Prefix, RedirectTo};
use crate::layer::{Below, DirCache, Found, Object, Probe, Reader, Real};
use crate::sys::{Dir, Errno, Kind, NameBuf, Result};

/// Open descriptors of directories.
const OPEN_DIRS: usize = 256;

/// The layers, as they are stored.
pub(super) struct Layers {
    roots: Vec<Arc<Object>>,
    reader: Reader,
    cache: DirCache,
}

/// Where a directory goes on in the layers below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Nowhere: it replaces what is there.
    Cut,
    /// At this path.
    At(Vec<NameBuf>),
}

/// A directory of the merged tree.
pub(super) struct Folded {
    /// The layers it is in, top first.
    parts: Vec<(usize, Arc<Object>)>,
    pub rest: Rest,
}

/// What is decided about a name.
pub(super) enum Decided {
    /// It is deleted.
    Whiteout,
    /// A file or the like.
    Object(Plain),
    Directory(Folded),
}

/// What is no directory.
pub(super) struct Plain {
    /// The object itself, and its marks.
    pub raw: Arc<Object>,
    pub found: Found,
    /// For a metadata-only file whose data is in none of these layers: where it is below.
    pub data: Option<RedirectTo>,
}

/// What a name is called in the layers that are still to be asked.
enum Looking {
    /// This, in the directories of the parent.
    Sibling(NameBuf),
    /// This, from the root of every layer.
    Absolute(Vec<NameBuf>),
}

impl Layers {
    pub(super) fn open(stack: &Stack) -> std::result::Result<Layers, SetupError> {
        let prefix = if stack.userxattr { Prefix::User } else { Prefix::Trusted };
        let open = |(index, path): (usize, &std::path::PathBuf)| {
            let dir = Dir::open_path(path)?;
            let ino = dir.this().stat()?.ino;
            Ok(Object::root(index as u32, Arc::new(dir), ino))
        };
        let mut roots = Vec::new();
        for (index, path) in stack.lower.iter().enumerate() {
            let root = open((index, path));
            roots.push(root.map_err(|e: Errno| SetupError::new("open the layer", e.desc()).at(path))?);
        }
        let reader = Reader { prefix, oci: stack.oci_whiteouts, overrides: false };
        Ok(Layers { roots, reader, cache: DirCache::new(OPEN_DIRS) })
    }

    /// The root directory.
    pub(super) fn root(&self) -> Result<Folded> {
        let mut parts = Vec::new();
        let mut rest = Rest::At(Vec::new());
        for (index, root) in self.roots.iter().enumerate() {
            parts.push((index, Arc::clone(root)));
            if self.reader.root_is_cut(&*root.open(&self.cache)?)? {
                rest = Rest::Cut;
                break;
            }
        }
        Ok(Folded { parts, rest })
    }

    /// Every name that is shown or deleted in a directory.
    pub(super) fn children(&self, parent: &Folded) -> Result<Vec<(NameBuf, Decided)>> {
        let mut names = BTreeSet::new();
        for (_, part) in &parent.parts {
            names.extend(self.reader.list(&*part.open(&self.cache)?)?.into_iter().map(|listed| listed.name));
        }
        let mut all = Vec::new();
        for name in names {
            if let Some(decided) = self.decide(parent, &name)? {
                all.push((name, decided));
            }
        }
        Ok(all)
    }

    fn decide(&self, parent: &Folded, name: &NameBuf) -> Result<Option<Decided>> {
        let mut looking = Looking::Sibling(name.clone());
        let mut parts: Vec<(usize, Arc<Object>)> = Vec::new();
        let mut cut = false;
        for index in 0..self.roots.len() {
            let (dir, found, stop) = match self.ask(index, parent, &mut looking)? {
                Answer::Nothing { stop: false } => continue,
                Answer::Nothing { stop: true } => {
                    cut = true;
                    break;
                }
                Answer::Whiteout if parts.is_empty() => return Ok(Some(Decided::Whiteout)),
                Answer::Whiteout => {
                    cut = true;
                    break;
                }
                Answer::Entry { dir, found, stop } => (dir, found, stop),
            };
            if found.stat.kind() != Kind::Dir {
                if parts.is_empty() {
                    let data =
                        if found.metacopy { self.data_below(index, parent, looking, &found)? } else { None };
                    return Ok(Some(Decided::Object(Plain { raw: dir, found, data })));
                }
                cut = true;
                break;
            }
            parts.push((index, dir));
            // A path from the root leads on, whatever was replaced on the way here.
            if found.cut || (stop && !matches!(found.redirect, Some(RedirectTo::Absolute(_)))) {
                cut = true;
                break;
            }
            self.follow(&mut looking, found.redirect);
        }
        if parts.is_empty() {
            return Ok(None);
        }
        let rest = match (cut, looking, &parent.rest) {
            (true, _, _) => Rest::Cut,
            (false, Looking::Absolute(path), _) => Rest::At(path),
            (false, Looking::Sibling(_), Rest::Cut) => Rest::Cut,
            (false, Looking::Sibling(name), Rest::At(above)) => {
                Rest::At([above.as_slice(), &[name]].concat())
            }
        };
        Ok(Some(Decided::Directory(Folded { parts, rest })))
    }

    /// Where the data of a metadata-only file of layer `top` is, if it is below all layers.
    fn data_below(
        &self,
        top: usize,
        parent: &Folded,
        mut looking: Looking,
        found: &Found,
    ) -> Result<Option<RedirectTo>> {
        self.follow(&mut looking, found.redirect.clone());
        for index in top + 1..self.roots.len() {
            match self.ask(index, parent, &mut looking)? {
                Answer::Nothing { stop: false } => {}
                Answer::Entry { found, .. } if found.metacopy => self.follow(&mut looking, found.redirect),
                // The data itself; or nothing that could be it, which the view will say.
                Answer::Entry { .. } | Answer::Whiteout | Answer::Nothing { stop: true } => return Ok(None),
            }
        }
        Ok(Some(match looking {
            Looking::Sibling(name) => RedirectTo::Sibling(name),
            Looking::Absolute(path) => RedirectTo::Absolute(path),
        }))
    }

    /// The object as it is stored.
    pub(super) fn real(&self, object: &Object) -> Result<Real> {
        object.real(&self.cache)
    }

    fn follow(&self, looking: &mut Looking, redirect: Option<RedirectTo>) {
        match (redirect, &mut *looking) {
            (None, _) => {}
            (Some(RedirectTo::Absolute(path)), _) => *looking = Looking::Absolute(path),
            (Some(RedirectTo::Sibling(name)), Looking::Sibling(_)) => *looking = Looking::Sibling(name),
            (Some(RedirectTo::Sibling(name)), Looking::Absolute(path)) => {
                path.pop();
                path.push(name);
            }
        }
    }

    /// What layer `index` says.
    fn ask(&self, index: usize, parent: &Folded, looking: &mut Looking) -> Result<Answer> {
        match looking {
            Looking::Sibling(name) => {
                let Some((_, part)) = parent.parts.iter().find(|(layer, _)| *layer == index) else {
                    return Ok(Answer::Nothing { stop: false });
                };
                let (part, name) = (Arc::clone(part), name.clone());
                Ok(self.probe(&part, &name, false)?)
            }
            Looking::Absolute(path) => self.walk(index, path),
        }
    }

    fn probe(&self, parent: &Arc<Object>, name: &NameBuf, stop: bool) -> Result<Answer> {
        let dir = parent.open(&self.cache)?;
        Ok(match self.reader.probe(&dir, name, Below::Some)? {
            Probe::Absent => Answer::Nothing { stop },
            Probe::Whiteout => Answer::Whiteout,
            Probe::Entry(found) => {
                let dir = Object::within(parent, name.clone(), &found.stat);
                Answer::Entry { dir, found, stop }
            }
        })
    }

    /// Follows a path from the root of a layer. What a directory on the way hides it hides from the layers below, and
    /// where it was called otherwise the path goes on under that name there.
    fn walk(&self, index: usize, path: &mut Vec<NameBuf>) -> Result<Answer> {
        let mut at = self.roots.get(index).map(Arc::clone).ok_or(Errno::EIO)?;
        let (names, mut stop) = (path.clone(), false);
        for (depth, name) in names.iter().enumerate() {
            let answer = self.probe(&at, name, stop)?;
            if depth + 1 == names.len() {
                return Ok(answer);
            }
            let (dir, found) = match answer {
                Answer::Entry { dir, found, .. } if found.stat.kind() == Kind::Dir => (dir, found),
                Answer::Nothing { stop } => return Ok(Answer::Nothing { stop }),
                Answer::Whiteout | Answer::Entry { .. } => return Ok(Answer::Nothing { stop: true }),
            };
            stop |= found.cut;
            let after = path.len() - (names.len() - depth - 1);
            match found.redirect {
                None => {}
                Some(RedirectTo::Sibling(new)) => {
                    if let Some(slot) = path.get_mut(after - 1) {
                        *slot = new;
                    }
                }
                Some(RedirectTo::Absolute(new)) => {
                    *path = [new.as_slice(), path.get(after..).unwrap_or_default()].concat();
                    stop = false;
                }
            }
            at = dir;
        }
        Ok(Answer::Nothing { stop })
    }
}

/// What one layer says.
enum Answer {
    /// Nothing; `stop`: and the layers below are not to be asked.
    Nothing {
        stop: bool,
    },
    Whiteout,
    Entry {
        dir: Arc<Object>,
        found: Found,
        stop: bool,
    },
}
