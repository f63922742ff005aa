//! Answers to what can be asked of a mounted union.
//!
//! Lookup stops at the first layer that decides; who asks "why do I see this?" wants the layers below it too. So the
//! same fold and the same probe run here once more, and beside them, in every layer, a second fold that has seen
//! nothing yet: what it finds is what the layer holds, whether or not it counts. Nothing is changed or cached, and no
//! lock is held over a system call; an answer is true of each layer at the moment at which it was asked.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::control::{self, InLayer, Mark, Place, Question, Role, Status, Synced, Text, Which};
use super::lookup::{Fold, Route};
use super::node::Node;
use super::types::NodeId;
use super::{LayerInfo, Passthrough, ROOT, Union};
use crate::layer::marks::Mark as Attribute;
use crate::layer::{Below, Object, Probe, origin};
use crate::sys::handle::FileHandle;
use crate::sys::{At, Errno, Kind, NameBuf, Result, handle, mountinfo};

/// How many names beside a missing one are compared.
const BESIDE: usize = 4096;

/// What one layer holds under a name, whether or not it counts.
enum Held {
    Nothing,
    Whiteout,
    Entry { kind: Kind, cut: bool, at: Option<Vec<NameBuf>> },
}

/// Whether what a layer holds is part of what one sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// It is the topmost that counts.
    Top,
    /// It counts too.
    More,
    /// Something above hides it.
    Hidden,
}

/// The mark of one layer: a whiteout and an object are told apart wherever they are; what is seen decides the rest.
fn mark(held: &Held, part: Part) -> Mark {
    match (held, part) {
        (Held::Nothing, _) => Mark::Absent,
        (Held::Whiteout, _) => Mark::Deleted,
        (Held::Entry { .. }, Part::Hidden) => Mark::Covered,
        (Held::Entry { cut: true, .. }, _) => Mark::Replaces,
        (Held::Entry { .. }, Part::Top) => Mark::Shown,
        (Held::Entry { kind: Kind::Dir, .. }, Part::More) => Mark::Merged,
        // The data of a metadata-only file: it is the file above that one sees.
        (Held::Entry { .. }, Part::More) => Mark::Covered,
    }
}

/// A resolution on its way down.
struct Search {
    fold: Fold,
    answer: Which,
    /// The path in the mount, to tell where a layer has it under another one.
    path: Vec<NameBuf>,
    /// The lowest object that counts: behind a metadata-only file, its data.
    last: Option<Place>,
}

impl Search {
    fn put(&mut self, index: usize, held: &Held, part: Part) {
        let Some(layer) = self.answer.layers.get_mut(index) else { return };
        layer.mark = mark(held, part);
        if let Held::Entry { kind, at, .. } = held {
            layer.kind = Some(kind.to_string());
            let elsewhere = at.as_ref().filter(|at| **at != self.path);
            layer.at = elsewhere.map(|at| text(at));
            if part == Part::More {
                self.last = Some(Place { layer: index, path: text(at.as_ref().unwrap_or(&self.path)) });
            }
        }
        if part == Part::Top {
            self.answer.shown = Some(index);
        }
    }

    /// The part of the next object that counts.
    fn next_part(&self) -> Part {
        if self.answer.shown.is_none() { Part::Top } else { Part::More }
    }
}

impl Union {
    /// A question of `acetate which|status|sync`, JSON both ways. `node` is the directory asked about.
    ///
    /// Whom it is answered the adapter decides. Errors: EINVAL for what is no question, and what the layers say.
    pub fn control(&self, node: NodeId, question: &[u8]) -> Result<Vec<u8>> {
        let question: Question = serde_json::from_slice(question).map_err(|_| Errno::EINVAL)?;
        let answer = match question {
            Question::Status => serde_json::to_vec(&self.status()),
            Question::Sync => {
                self.sync()?;
                let synced = self.upper.as_ref().is_some_and(crate::upper::Upper::syncs);
                serde_json::to_vec(&Synced { synced })
            }
            Question::Which { name } => {
                let node = self.directory(node)?;
                let name = name.map(|name| NameBuf::new(name.as_bytes())).transpose()?;
                serde_json::to_vec(&self.which(&node, name)?)
            }
        };
        answer.map_err(|_| Errno::EIO)
    }

    fn status(&self) -> Status {
        let through = self.config.passthrough == Passthrough::Auto && self.transport.passes_through();
        Status {
            version: env!("CARGO_PKG_VERSION").to_string(),
            pid: std::process::id(),
            layers: self.told_layers(),
            work: self.config.work.as_deref().map(Text::from),
            options: self.config.words.clone(),
            data_path: match (through, self.transport.gathers_writes()) {
                (true, _) => "passthrough",
                (false, true) => "writeback",
                (false, false) => "cached",
            }
            .to_string(),
            copy_ups: self.copies.load(Relaxed),
            copied_bytes: self.copied_bytes.load(Relaxed),
            nodes: self.nodes.len() as u64,
            handles: self.handles.len() as u64,
            descriptors: std::fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count() as u64),
            ..Status::default()
        }
    }

    /// The upper, the lowers, the data-only layers.
    fn told_layers(&self) -> Vec<control::LayerInfo> {
        let info = |role, path: &Path| control::LayerInfo { role, path: Text::from(path) };
        let upper = self.config.upper.iter().map(|path| info(Role::Upper, path));
        let lower = self.layers.iter().map(|layer| info(Role::Lower, &layer.path));
        let data = self.data_layers.iter().map(|layer| info(Role::Data, &layer.path));
        upper.chain(lower).chain(data).collect()
    }

    /// The place of lower layer `layer` (1 is the topmost) among the told ones.
    fn told_index(&self, layer: u32) -> usize {
        layer as usize - usize::from(self.upper.is_none())
    }

    fn which(&self, asked: &Arc<Node>, name: Option<NameBuf>) -> Result<Which> {
        let layers = self.told_layers();
        let layers = layers.into_iter().map(|layer| InLayer { layer, ..InLayer::default() }).collect();
        let answer = Which { layers, ..Which::default() };
        let (parent, name) = match name {
            Some(name) => (Arc::clone(asked), name),
            None if asked.id == ROOT => return Ok(self.which_root(answer)),
            None => {
                let alias = asked.any_alias().ok_or(Errno::ENOENT)?;
                (alias.parent, alias.name)
            }
        };
        let mut path = path_of(&parent);
        path.push(name.clone());
        let mut search = Search { fold: Fold::new(name.clone()), answer, path, last: None };
        search.answer.path = text(&search.path);
        let origin = self.which_upper(&parent, &name, &mut search)?;
        self.which_lower(&parent, &mut search)?;
        self.which_data(&mut search);
        search.answer.copied_from = match search.answer.metadata_only {
            true => search.last,
            false => self.came_from(&search, origin),
        };
        Ok(search.answer)
    }

    /// Every root is part of the root, but those an OCI marker cuts off (L-7).
    fn which_root(&self, mut answer: Which) -> Which {
        let uppers = usize::from(self.upper.is_some());
        let parts = uppers + self.root_node().lower.len();
        for (at, layer) in answer.layers.iter_mut().enumerate() {
            layer.mark = match at {
                _ if layer.layer.role == Role::Data => continue,
                0 => Mark::Shown,
                at if at < parts => Mark::Merged,
                _ => Mark::Covered,
            };
            layer.kind = Some(Kind::Dir.to_string());
        }
        answer.shown = Some(0);
        answer
    }

    /// Asks the upper. Gives the record of where its object came from, if it has one.
    fn which_upper(
        &self,
        parent: &Arc<Node>,
        name: &NameBuf,
        search: &mut Search,
    ) -> Result<Option<origin::Record>> {
        let (Some(upper), Some(dir)) = (&self.upper, self.upper_dir(parent)?) else { return Ok(None) };
        let found = match upper.reader().probe(&dir, name, Below::Some)? {
            Probe::Absent => return Ok(None),
            Probe::Whiteout => {
                search.fold.stop = true;
                search.put(0, &Held::Whiteout, Part::Hidden);
                return Ok(None);
            }
            Probe::Entry(found) => found,
        };
        let kind = found.stat.kind();
        search.fold.object(0, kind, &found);
        search.put(0, &Held::Entry { kind, cut: found.cut, at: None }, Part::Top);
        search.answer.metadata_only = found.metacopy;
        if kind == Kind::Dir || !found.marks.has(Attribute::Origin) {
            return Ok(None);
        }
        let record = dir.at(name).find_xattr(self.prefix.attr(Attribute::Origin))?;
        Ok(record.and_then(|record| origin::decode(&record)))
    }

    fn which_lower(&self, parent: &Node, search: &mut Search) -> Result<()> {
        for number in 1..=self.lower_count() {
            let from = match &search.fold.route {
                Route::Sibling(_) => parent.lower.iter().find(|part| part.layer == number),
                Route::Absolute(_) => self.root_node().lower.iter().find(|part| part.layer == number),
            };
            let Some(from) = from else { continue };
            let held = self.held(from, &search.fold)?;
            let part = match search.fold.stop {
                true => Part::Hidden,
                false => match self.find_in_layer(from, &mut search.fold, number == self.lower_count())? {
                    Some(_) => search.next_part(),
                    None => Part::Hidden,
                },
            };
            search.put(self.told_index(number), &held, part);
        }
        Ok(())
    }

    /// What a layer holds on the route that the search has come to.
    fn held(&self, from: &Arc<Object>, fold: &Fold) -> Result<Held> {
        let mut unaware = fold.restarted();
        Ok(match self.find_in_layer(from, &mut unaware, false)? {
            Some((object, stat)) => Held::Entry { kind: stat.kind(), cut: unaware.opaque, at: object.path() },
            None if unaware.opaque => Held::Whiteout,
            None => Held::Nothing,
        })
    }

    /// A metadata-only file may have its data in a layer without names (C-27).
    fn which_data(&self, search: &mut Search) {
        let (true, Route::Absolute(path)) = (search.fold.metacopy, &search.fold.route) else { return };
        let path = path.clone();
        let first = self.told_layers().len() - self.data_layers.len();
        for (at, layer) in self.data_layers.iter().enumerate() {
            if self.walk_plain(&layer.root, &path).is_ok() {
                search.answer.metadata_only = true;
                let held = Held::Entry { kind: Kind::File, cut: false, at: Some(path) };
                return search.put(first + at, &held, Part::More);
            }
        }
    }

    /// Where the object shown came from, when it is the upper's and that can be told. A directory's redirect says it
    /// itself; for anything else the record is a handle. Only some may open it, and it leads to a name only while the
    /// name is in memory, so the likeliest names are compared first: the same one, and then the others beside it.
    fn came_from(&self, search: &Search, origin: Option<origin::Record>) -> Option<Place> {
        if self.upper.is_none() || search.answer.shown != Some(0) {
            return None;
        }
        if search.answer.layers.first()?.kind.as_deref() == Some("directory") {
            let (layer, part) = search.answer.layers.iter().enumerate().find(|(_, l)| l.at.is_some())?;
            return part.at.clone().map(|path| Place { layer, path });
        }
        let record = origin?;
        let candidates = || self.layers.iter().filter(|layer| layer.decodes && layer.uuid == record.uuid);
        let place = |layer: &LayerInfo, path: &[NameBuf]| Place {
            layer: self.told_index(layer.root.layer),
            path: text(path),
        };
        let same_name = |layer: &&LayerInfo| {
            let there = self.walk_plain(&layer.root, &search.path).and_then(|o| o.real(&self.cache));
            there.and_then(|real| handle::of(real.at())).is_ok_and(|there| there == record.handle)
        };
        if let Some(layer) = candidates().find(same_name) {
            return Some(place(layer, &search.path));
        }
        let opened = candidates().find_map(|layer| {
            let fd = handle::open(layer.clone.root.as_fd(), &record.handle).ok()?;
            Some(place(layer, &self.name_of(layer, &fd)?))
        });
        opened.or_else(|| {
            let dir = search.path.split_last()?.1;
            candidates().find_map(|layer| {
                let name = self.beside(layer, dir, &record.handle)?;
                Some(place(layer, &[dir, &[name]].concat()))
            })
        })
    }

    /// The name of an object in one directory of a layer, if it is there.
    fn beside(&self, layer: &LayerInfo, dir: &[NameBuf], wanted: &FileHandle) -> Option<NameBuf> {
        let dir = self.walk_plain(&layer.root, dir).and_then(|dir| dir.open(&self.cache)).ok()?;
        let mut entries = dir.entries().ok()?.into_iter().take(BESIDE);
        entries.find(|e| handle::of(dir.at(&e.name)).is_ok_and(|it| it == *wanted)).map(|e| e.name)
    }

    /// The path by which an object opened by its handle is known inside a layer; checked by walking it.
    fn name_of(&self, layer: &LayerInfo, fd: &OwnedFd) -> Option<Vec<NameBuf>> {
        let link = |fd| std::fs::read_link(mountinfo::proc_path(fd)).ok();
        let (path, root) = (link(fd.as_fd())?, link(layer.clone.root.as_fd())?);
        let inside = path.strip_prefix(&root).ok()?;
        let names: Vec<NameBuf> =
            inside.iter().map(|name| NameBuf::new(name.as_bytes())).collect::<Result<_>>().ok()?;
        let there = self.walk_plain(&layer.root, &names).ok()?;
        let stat = At::Fd(fd.as_fd()).stat().ok()?;
        (stat.dev == layer.dev && there.ino == stat.ino).then_some(names)
    }
}

/// The names from the root to a directory.
fn path_of(node: &Arc<Node>) -> Vec<NameBuf> {
    let mut names = Vec::new();
    let mut at = Arc::clone(node);
    while let Some(alias) = at.any_alias() {
        names.push(alias.name);
        at = alias.parent;
    }
    names.reverse();
    names
}

fn text(path: &[NameBuf]) -> Text {
    Text::from(path.iter().map(|name| name.as_bytes()).collect::<Vec<_>>().join(&b'/').as_slice())
}
