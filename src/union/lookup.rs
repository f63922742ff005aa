//! What a name means in a stack of layers (overlay-spec 1.1 to 1.3).
//!
//! The layers are asked top first; each answer is fed to [`Fold`], a small state machine without I/O that says what
//! to ask next: the same name, another name (a redirect), another set of directories (an absolute redirect restarts
//! from the roots of the layers below), or nothing more. The loop around it does all system calls.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::index::Origin;
use super::node::{Key, Node, State, UpperPart, Wanted};
use super::types::{AttrReply, Entry, NodeId, Valid};
use super::xino::FsId;
use super::{Redirect, Union, attr};
use crate::layer::marks::{self, Mark, RedirectTo};
use crate::layer::{Below, Found, Object, Probe};
use crate::sys::{At, Dir, Errno, Kind, Name, NameBuf, Result, Stat};

/// Which names to walk in the next layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// One name in the parent's own contributor.
    Sibling(NameBuf),
    /// A path from the layer's root.
    Absolute(Vec<NameBuf>),
}

impl Route {
    /// The route below a component that carries `to`; `done` components precede it on this route.
    fn redirected(&self, done: usize, to: &RedirectTo) -> Route {
        let path: &[NameBuf] = match self {
            Route::Sibling(name) => std::slice::from_ref(name),
            Route::Absolute(path) => path,
        };
        let tail = path.get(done + 1..).unwrap_or_default();
        match (to, self) {
            (RedirectTo::Absolute(start), _) => Route::Absolute([start, tail].concat()),
            (RedirectTo::Sibling(name), Route::Sibling(_)) => Route::Sibling(name.clone()),
            (RedirectTo::Sibling(name), Route::Absolute(_)) => {
                let head = path.get(..done).unwrap_or_default();
                Route::Absolute([head, std::slice::from_ref(name), tail].concat())
            }
        }
    }
}

/// What has been learnt so far.
#[derive(Debug)]
pub(super) struct Fold {
    pub route: Route,
    /// A directory was found: everything else ends the search.
    is_dir: bool,
    /// Nothing below counts.
    pub stop: bool,
    /// The search was stopped by a mark rather than by a non-directory.
    pub opaque: bool,
    /// The last regular file found was metadata only.
    pub metacopy: bool,
    /// The last object found carried a redirect.
    redirected: Option<RedirectTo>,
}

/// What to do with an object the fold was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Take {
    Use,
    Ignore,
}

impl Fold {
    pub(super) fn new(name: NameBuf) -> Fold {
        Fold::on(Route::Sibling(name))
    }

    /// A fold on the same route that has seen nothing yet.
    pub(super) fn restarted(&self) -> Fold {
        Fold::on(self.route.clone())
    }

    fn on(route: Route) -> Fold {
        Fold { route, is_dir: false, stop: false, opaque: false, metacopy: false, redirected: None }
    }

    /// A whiteout, at the last component or before it.
    fn whiteout(&mut self) {
        self.stop = true;
        self.opaque = true;
    }

    /// An object at the last component of the route, `done` components in.
    pub(super) fn object(&mut self, done: usize, kind: Kind, found: &Found) -> Take {
        if kind != Kind::Dir {
            if self.is_dir {
                self.stop = true;
                return Take::Ignore;
            }
            self.metacopy = found.metacopy;
            self.stop = !found.metacopy;
            if !found.metacopy {
                return Take::Use;
            }
        } else if self.metacopy {
            // Data is looked for and a directory is in its place.
            self.stop = true;
            return Take::Ignore;
        } else {
            self.is_dir = true;
            if found.cut {
                self.stop = true;
                self.opaque = true;
                return Take::Use;
            }
        }
        self.follow(done, found);
        Take::Use
    }

    /// A directory on the way to the last component of an absolute route.
    fn passed(&mut self, done: usize, found: &Found) {
        if found.cut {
            self.stop = true;
        } else {
            self.follow(done, found);
        }
    }

    fn follow(&mut self, done: usize, found: &Found) {
        let Some(to) = &found.redirect else { return };
        if matches!(to, RedirectTo::Absolute(_)) {
            // An opaque ancestor does not block an absolute redirect (L-19).
            self.stop = false;
        }
        self.route = self.route.redirected(done, to);
        self.redirected = Some(to.clone());
    }
}

/// A name, resolved through the layers.
#[derive(Debug)]
pub(super) struct Resolved {
    /// Metadata of the topmost contributor.
    pub stat: Stat,
    pub upper: Option<UpperPart>,
    /// The upper has an entry of this name; not so when the upper was found through the index only.
    pub in_upper: bool,
    pub upper_marks: marks::MarkSet,
    /// Immutable and append-only, from `P.protattr`.
    pub protect: (bool, bool),
    pub lower: Vec<Arc<Object>>,
    pub data_path: Option<Vec<NameBuf>>,
    pub index: Option<NameBuf>,
    /// Where an upper non-directory was copied up from.
    pub origin: Option<Origin>,
}

impl Union {
    /// Finds or makes the node that `name` of `parent` is, without taking a reference for the kernel. `None`: absent.
    pub(super) fn resolve(&self, parent: &Arc<Node>, name: &Name) -> Result<Option<Resolved>> {
        let upper_dir = self.upper_dir(parent)?;
        let upper = match (&upper_dir, &self.upper) {
            (Some(dir), Some(upper)) => Some((dir, upper.reader())),
            _ => None,
        };
        let mut fold = Fold::new(name.to_owned());
        let mut top: Option<(Found, UpperPart)> = None;
        if let Some((dir, reader)) = upper {
            let below =
                if parent.lower.is_empty() && self.lower_count() == 0 { Below::Nothing } else { Below::Some };
            match reader.probe(dir, name, below)? {
                Probe::Absent => {}
                Probe::Whiteout => return Ok(None),
                Probe::Entry(mut found) => {
                    self.must_be_no_root(&found.stat)?;
                    if !matches!(found.stat.kind(), Kind::File | Kind::Dir) {
                        // No mark of these matters in a lower layer, but in the upper they may have an origin.
                        found.marks = marks::present(dir.at(name), reader.prefix)?;
                    }
                    let take = fold.object(0, found.stat.kind(), &found);
                    debug_assert_eq!(take, Take::Use);
                    let part = UpperPart {
                        metacopy: found.metacopy,
                        redirect: found.redirect.clone(),
                        opaque: found.cut,
                        origin: found.marks.has(Mark::Origin),
                        index: None,
                    };
                    self.check_follow(&fold)?;
                    top = Some((found, part));
                }
            }
        }
        let lower = self.resolve_lower(parent, &mut fold)?;
        self.assemble(name, upper_dir.as_deref(), fold, top, lower)
    }

    /// Asks the layers below the upper. Gives the contributors and the metadata of the topmost.
    fn resolve_lower(&self, parent: &Node, fold: &mut Fold) -> Result<Vec<(Arc<Object>, Stat)>> {
        let upper_metacopy = fold.metacopy;
        let mut parents: &[Arc<Object>] = match &fold.route {
            Route::Sibling(_) => &parent.lower,
            Route::Absolute(_) => &self.root_node().lower,
        };
        let mut found: Vec<(Arc<Object>, Stat)> = Vec::new();
        let mut at = 0;
        let below = if fold.stop { None } else { self.known_below(parent) };
        while !fold.stop {
            if let (Route::Sibling(name), Some(below)) = (&fold.route, &below) {
                // The others hold nothing of this name.
                at = below.next(name, at).unwrap_or(parents.len());
            }
            let Some(part) = parents.get(at) else { break };
            at += 1;
            let last = part.layer == self.lower_count();
            let before = fold.redirected.is_some();
            let Some((object, stat)) = self.find_in_layer(part, fold, last)? else { continue };
            let middle = fold.metacopy && !found.is_empty();
            if !middle {
                found.push((object, stat));
            }
            if let Some(RedirectTo::Absolute(_)) = &fold.redirected
                && !fold.stop
                && !std::ptr::eq(parents, &*self.root_node().lower)
            {
                parents = &self.root_node().lower;
                at = parents.iter().position(|p| p.layer > part.layer).unwrap_or(parents.len());
            }
            if !upper_metacopy && self.leads_to_data_layers(fold, parents.get(at).is_none()) {
                break;
            }
            if (upper_metacopy || fold.metacopy) && !self.config.metacopy {
                log::warn!("refusing to follow a metacopy: metacopy=off");
                return Err(Errno::EPERM);
            }
            if !before {
                self.check_follow(fold)?;
            }
        }
        Ok(found)
    }

    /// Errors: ELOOP for a directory that is the root of a layer: it was moved there, or layers overlap.
    fn must_be_no_root(&self, stat: &Stat) -> Result<()> {
        if stat.kind() == Kind::Dir && self.roots.contains(&(stat.dev, stat.ino)) {
            Err(Errno::ELOOP)
        } else {
            Ok(())
        }
    }

    /// A metacopy of the lowest layer that has it may lead to the data-only layers whatever `metacopy=` and
    /// `redirect_dir=` say: their contents are meant for nothing else (C-27).
    fn leads_to_data_layers(&self, fold: &Fold, at_the_end: bool) -> bool {
        fold.metacopy
            && at_the_end
            && matches!(fold.redirected, Some(RedirectTo::Absolute(_)))
            && !self.data_layers.is_empty()
    }

    fn check_follow(&self, fold: &Fold) -> Result<()> {
        if fold.redirected.is_some() && self.config.redirect == Redirect::NoFollow {
            log::warn!("refusing to follow a redirect: redirect_dir=nofollow");
            return Err(Errno::EPERM);
        }
        Ok(())
    }

    /// Walks the fold's route in one layer, from the contributor `part` of the parent (or the layer's root).
    pub(super) fn find_in_layer(
        &self,
        part: &Arc<Object>,
        fold: &mut Fold,
        last: bool,
    ) -> Result<Option<(Arc<Object>, Stat)>> {
        let path = match &fold.route {
            Route::Sibling(name) => vec![name.clone()],
            Route::Absolute(path) => path.clone(),
        };
        let below = if last { Below::Nothing } else { Below::Some };
        let reader = self.layer(part.layer)?.reader;
        let mut at = Arc::clone(part);
        let end = path.len().saturating_sub(1);
        for (done, name) in path.iter().enumerate() {
            let dir = at.open(&self.cache)?;
            let found = match reader.probe(&dir, name, below)? {
                Probe::Absent => return Ok(None),
                Probe::Whiteout => {
                    fold.whiteout();
                    return Ok(None);
                }
                Probe::Entry(found) => found,
            };
            self.must_be_no_root(&found.stat)?;
            let object = Object::within(&at, name.clone(), &found.stat);
            if done == end {
                let take = fold.object(done, found.stat.kind(), &found);
                return Ok((take == Take::Use).then_some((object, found.stat)));
            }
            if found.stat.kind() != Kind::Dir {
                // A directory that was found above ends at a non-directory on its way too (L-4).
                fold.stop |= fold.is_dir;
                return Ok(None);
            }
            fold.passed(done, &found);
            at = object;
        }
        Ok(None)
    }

    /// Puts the answers of the layers together and looks the object up in the index.
    fn assemble(
        &self,
        name: &Name,
        upper_dir: Option<&Dir>,
        fold: Fold,
        top: Option<(Found, UpperPart)>,
        lower: Vec<(Arc<Object>, Stat)>,
    ) -> Result<Option<Resolved>> {
        let lower_stat = lower.first().map(|(_, s)| *s);
        let mut objects: Vec<Arc<Object>> = lower.into_iter().map(|(o, _)| o).collect();
        let upper_metacopy = top.as_ref().is_some_and(|(_, u)| u.metacopy);
        let mut data_path = None;
        if fold.metacopy && (!objects.is_empty() || top.is_some()) {
            match (&fold.route, self.data_layers.is_empty()) {
                (Route::Absolute(path), false) if !objects.is_empty() => {
                    data_path = Some(path.clone());
                }
                _ => {
                    log::warn!("metacopy {name} has no data below");
                    return Err(Errno::EIO);
                }
            }
        } else if upper_metacopy && objects.is_empty() {
            log::warn!("metacopy {name} has no data below");
            return Err(Errno::EIO);
        }
        let Some((found, mut part)) = top else {
            let Some(stat) = lower_stat else { return Ok(None) };
            let mut resolved = Resolved {
                stat,
                upper: None,
                in_upper: false,
                upper_marks: marks::MarkSet::default(),
                protect: (false, false),
                lower: objects,
                data_path,
                index: None,
                origin: None,
            };
            self.apply_index(&mut resolved)?;
            self.check_index_of_dir(&resolved, None)?;
            return Ok(Some(resolved));
        };
        let mut origin = None;
        if found.stat.kind() != Kind::Dir {
            if part.origin
                && let Some(dir) = upper_dir
            {
                origin = self.decode_origin(dir.at(name))?;
            }
            if !upper_metacopy {
                objects.clear();
            }
        }
        part.metacopy = upper_metacopy;
        let protect = match upper_dir {
            Some(dir) => self.protection(dir.at(name), &found.marks)?,
            None => (false, false),
        };
        let mut resolved = Resolved {
            stat: found.stat,
            upper: Some(part),
            in_upper: true,
            upper_marks: found.marks,
            protect,
            lower: objects,
            data_path,
            index: None,
            origin,
        };
        self.apply_index(&mut resolved)?;
        self.check_index_of_dir(&resolved, upper_dir.map(|dir| dir.at(name)))?;
        Ok(Some(resolved))
    }

    /// Immutable and append-only, from `P.protattr` of an upper object that has these marks.
    pub(super) fn protection(&self, at: At<'_>, set: &marks::MarkSet) -> Result<(bool, bool)> {
        if !set.has(Mark::Protattr) {
            return Ok((false, false));
        }
        let letters = at.find_xattr(self.prefix.attr(Mark::Protattr))?.unwrap_or_default();
        Ok((letters.contains(&b'i'), letters.contains(&b'a')))
    }

    /// Looks `name` up and gives the kernel a reference to what it is.
    pub(super) fn lookup_node(&self, parent: &Arc<Node>, name: &Name) -> Result<Option<Arc<Node>>> {
        Ok(self.look_up(parent, name)?.map(|(node, _)| node))
    }

    /// The same, with the metadata of a node's topmost object where it had to be read for this: the node is new, so
    /// nobody can have changed it since.
    pub(super) fn look_up(
        &self,
        parent: &Arc<Node>,
        name: &Name,
    ) -> Result<Option<(Arc<Node>, Option<Stat>)>> {
        loop {
            let version = {
                let names = parent.names();
                if names.dead {
                    return Ok(None);
                }
                if let Some(id) = names.children.get(name)
                    && let Some(node) = self.nodes.acquire(*id)
                {
                    return Ok(Some((node, None)));
                }
                if let Some(listing) = &names.listing
                    && !listing.has(name)
                {
                    return Ok(None);
                }
                names.version
            };
            let Some(resolved) = self.resolve(parent, name)? else { return Ok(None) };
            self.fix_origin(parent, name, &resolved)?;
            let lasting = self.lasting_id_of_name(parent, name, &resolved)?;
            let mut names = parent.names_mut();
            if names.version != version {
                continue;
            }
            if let Some(id) = names.children.get(name)
                && let Some(node) = self.nodes.acquire(*id)
            {
                return Ok(Some((node, None)));
            }
            let upper_alias = resolved.in_upper;
            let wanted = Wanted { id: lasting, name: Some((parent.id, name)) };
            let (node, stat) = self.intern(resolved, wanted)?;
            node.add_alias(parent, name, upper_alias);
            names.children.insert(name.to_owned(), node.id);
            return Ok(Some((node, stat)));
        }
    }

    /// Finds or makes the node of what was resolved, with one reference. With the metadata, if it was made.
    pub(super) fn intern(&self, resolved: Resolved, wanted: Wanted<'_>) -> Result<(Arc<Node>, Option<Stat>)> {
        let key = self.key_of(&resolved);
        let ino = self.ino_of(&resolved)?;
        let stat = resolved.stat;
        let claim = self.claim_of(&resolved);
        // Not where it was read by other rules than those of a node (`Union::seen`).
        let layer = resolved.lower.first().map(|object| object.layer);
        let as_seen = !self.overrides()
            && resolved.index.is_none()
            && (resolved.upper.is_some() || !layer.is_some_and(|layer| self.is_shifted(layer)));
        let mut made = None;
        let node = self.nodes.intern(key, wanted, |id| {
            made = as_seen.then_some(stat);
            let nlink = resolved.index.is_some().then_some(stat.nlink);
            let mut part = resolved.upper;
            if let Some(part) = &mut part
                && part.index.is_none()
            {
                part.index.clone_from(&resolved.index);
            }
            let state = State {
                upper: part,
                ino,
                key,
                nlink,
                immutable: stat.immutable || resolved.protect.0,
                append_only: stat.append_only || resolved.protect.1,
                ..State::default()
            };
            let mut node = Node::new(id, stat.kind(), resolved.lower, state);
            node.data_path = resolved.data_path;
            node
        });
        if let Some(origin) = claim
            && !self.nodes.claim(origin, &node)
        {
            log::warn!("two objects of the upper say that they were copied up from the same lower one");
            self.forget_node(node.id, 1);
            return Err(Errno::ESTALE);
        }
        Ok((node, made))
    }

    /// The lower object that an upper one was copied up from, if it can be the only one: in a copy of an upper object,
    /// made behind the union's back, both would have the same number. The kernel refuses the second as well.
    fn claim_of(&self, r: &Resolved) -> Option<(FsId, u64)> {
        if r.upper.is_none() || r.index.is_some() || self.config.nfs_export {
            return None;
        }
        if r.stat.kind() == Kind::Dir {
            return r.lower.first().map(|o| (self.fsid_of(o.layer), o.ino));
        }
        r.origin.as_ref().filter(|o| o.nlink == 1).map(|o| (o.fsid, o.ino))
    }

    /// Whether two names of this object must be one node, and by what they are recognised.
    fn key_of(&self, r: &Resolved) -> Option<Key> {
        if r.stat.kind() == Kind::Dir {
            return None;
        }
        let lower = r.lower.first().map(|o| (self.fsid_of(o.layer), o.ino));
        let by_lower = |(fs, ino)| Key::Lower(fs, ino);
        if r.index.is_some() {
            return lower.or(r.origin.as_ref().map(|o| (o.fsid, o.ino))).map(by_lower);
        }
        if r.upper.is_some() {
            return (r.stat.nlink > 1).then_some(Key::Upper(r.stat.ino));
        }
        let links = r.lower.first().map_or(1, |o| o.nlink);
        if links > 1 && (self.upper.is_none() || self.indexes()) {
            return lower.map(by_lower);
        }
        None
    }

    /// Looks `name` of `parent` up for the kernel.
    pub(super) fn lookup_entry(&self, parent: NodeId, name: &Name) -> Result<Option<Entry>> {
        let parent = self.node(parent)?;
        let Some((node, stat)) = self.look_up(&parent, name)? else { return Ok(None) };
        if self.names_matter(&node) {
            node.prefer_alias(parent.id, name);
        }
        self.entry(&node, stat).map(Some).inspect_err(|_| self.forget_node(node.id, 1))
    }

    /// The reply for a node the kernel has just been given a reference to. `stat`: its metadata, where they are known.
    pub(super) fn entry(&self, node: &Arc<Node>, stat: Option<Stat>) -> Result<Entry> {
        let attr = match stat {
            Some(stat) => self.attr_from(node, &stat)?,
            None => self.attr_of(node)?,
        };
        Ok(Entry {
            node: node.id,
            generation: if node.lasting { 0 } else { self.generation },
            attr: AttrReply { attr, valid: attr::validity(node) },
            name: if self.names_matter(node) { Valid::Never } else { Valid::Unlimited },
        })
    }

    /// A handle that a program took outlives the kernel's references to its node. So with `nfs_export` a node whose id
    /// does not say which object it is has to be kept as long as it has a name (I-9).
    fn keeps_for_handles(&self, node: &Node) -> bool {
        self.config.nfs_export && !node.lasting && node.any_alias().is_some()
    }

    /// After many objects were forgotten, their memory lies in pieces between what is left; the more is left, the more
    /// must have gone before it is collected, so that forgetting everything does so a few times and not at every step.
    /// When hardly anything is left, less is worth collecting: nothing may follow for long.
    fn return_memory(&self, forgotten: usize) {
        const MANY: usize = 4096;
        const SOME: usize = 256;
        const HARDLY_ANY: usize = 32;
        let before = self.forgotten.fetch_add(forgotten, Ordering::Relaxed);
        let now = before + forgotten;
        if now / SOME > before / SOME {
            let left = self.nodes.len();
            let many = now / MANY > before / MANY && now >= left / 2;
            if many || left <= HARDLY_ANY {
                self.forgotten.store(0, Ordering::Relaxed);
                crate::sys::process::give_free_pages_back();
            }
        }
    }

    /// Gives references back and frees what nobody refers to any more.
    pub(super) fn forget_node(&self, id: NodeId, count: u64) {
        let mut forgotten = 0;
        let mut unused: Vec<Arc<Node>> = self.nodes.release(id, count).into_iter().collect();
        while let Some(node) = unused.pop() {
            if node.id == super::ROOT || !node.names().children.is_empty() || self.keeps_for_handles(&node) {
                continue;
            }
            if !self.nodes.remove(&node) {
                continue;
            }
            self.cache.forget(node.dir_key);
            self.kept_files.forget(node.id);
            self.kept_backings.forget(node.id);
            self.kept_dirs.forget(node.id);
            forgotten += 1;
            let aliases = std::mem::take(&mut node.state().aliases);
            for alias in aliases {
                let mut names = alias.parent.names_mut();
                if names.children.get(&alias.name) == Some(&node.id) {
                    names.children.remove(&alias.name);
                }
                drop(names);
                // Each parent may have been kept only for this child.
                unused.extend(self.nodes.release(alias.parent.id, 0));
            }
        }
        self.return_memory(forgotten);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::marks::MarkSet;

    fn name(n: &str) -> NameBuf {
        NameBuf::new(n.as_bytes()).unwrap()
    }

    fn found(cut: bool, metacopy: bool, redirect: Option<&str>) -> Found {
        let t = tempfile::tempdir().unwrap();
        let stat = Dir::open_path(t.path()).unwrap().this().stat().unwrap();
        let redirect = redirect.map(|r| RedirectTo::parse(r.as_bytes()).unwrap());
        Found { stat, cut, redirect, metacopy, marks: MarkSet::default() }
    }

    #[test]
    fn a_non_directory_decides_and_ends_a_directory_l1_l4() {
        let mut f = Fold::new(name("a"));
        assert_eq!(f.object(0, Kind::File, &found(false, false, None)), Take::Use);
        assert!(f.stop);
        let mut f = Fold::new(name("a"));
        assert_eq!(f.object(0, Kind::Dir, &found(false, false, None)), Take::Use);
        assert!(!f.stop);
        assert_eq!(f.object(0, Kind::Symlink, &found(false, false, None)), Take::Ignore);
        assert!(f.stop);
    }

    #[test]
    fn an_opaque_directory_contributes_and_stops_l5() {
        let mut f = Fold::new(name("a"));
        assert_eq!(f.object(0, Kind::Dir, &found(true, false, None)), Take::Use);
        assert!(f.stop && f.opaque);
    }

    #[test]
    fn redirects_compose_over_layers_l20() {
        let mut f = Fold::new(name("a"));
        f.object(0, Kind::Dir, &found(false, false, Some("b")));
        assert_eq!(f.route, Route::Sibling(name("b")));
        f.object(0, Kind::Dir, &found(false, false, Some("/x/y")));
        assert_eq!(f.route, Route::Absolute(vec![name("x"), name("y")]));
        f.passed(0, &found(false, false, Some("w")));
        assert_eq!(f.route, Route::Absolute(vec![name("w"), name("y")]));
        f.object(1, Kind::Dir, &found(false, false, Some("z")));
        assert_eq!(f.route, Route::Absolute(vec![name("w"), name("z")]));
    }

    #[test]
    fn an_opaque_ancestor_does_not_block_an_absolute_redirect_l19() {
        let mut f = Fold::new(name("a"));
        f.object(0, Kind::Dir, &found(false, false, Some("/x/y")));
        f.passed(0, &found(true, false, None));
        assert!(f.stop);
        f.object(1, Kind::Dir, &found(false, false, Some("/q")));
        assert!(!f.stop);
        assert_eq!(f.route, Route::Absolute(vec![name("q")]));
    }

    #[test]
    fn a_metacopy_goes_on_until_data_is_found_l23() {
        let mut f = Fold::new(name("a"));
        f.object(0, Kind::File, &found(false, true, Some("/d")));
        assert!(!f.stop && f.metacopy);
        f.object(0, Kind::File, &found(false, false, None));
        assert!(f.stop && !f.metacopy);
    }
}
