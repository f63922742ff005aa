//! Which layers know a name of a merged directory, learnt once.
//!
//! A name of a directory with a hundred contributors would cost a hundred system calls, and a name that is in none of
//! them as many, each time it is asked for. Layers never change, so each contributor is listed once, and from then on
//! only those that hold a name are asked about it: as a rule one, for an absent name none. Whiteouts are listed too;
//! what a name means is still decided by [`super::lookup::Fold`], which sees the same answers in the same order.
//!
//! Listing costs more than a lookup, so a directory must have earned it by the probes that were made in it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use super::node::Node;
use super::{Union, listing::Listing};
use crate::layer::{Listed, Object, Reader};
use crate::sys::{Errno, Kind, Name, NameBuf, Result};

/// With fewer contributors, asking them all costs no more than knowing.
const MANY: usize = 4;

/// So many probes of layers are made in a directory before its contributors are listed.
const WORTH: u32 = 64;

/// What one contributor holds under a name.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// Its place among the contributors.
    part: u32,
    /// `None` for a whiteout.
    kind: Option<Kind>,
    /// Raw inode number.
    ino: u64,
}

/// The names of all contributors below the upper.
#[derive(Debug, Default)]
pub(super) struct Below {
    /// The topmost holder, and the others from the top down.
    names: HashMap<NameBuf, (Held, Vec<Held>)>,
}

/// What a node knows of the names below it.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Probes that lookups made in it.
    probes: AtomicU32,
    /// Set once; `None` where the contributors cannot be listed.
    below: OnceLock<Option<Arc<Below>>>,
}

impl Below {
    fn add(&mut self, part: u32, listed: Vec<Listed>) {
        for Listed { name, kind, ino } in listed {
            let held = Held { part, kind, ino };
            match self.names.entry(name) {
                std::collections::hash_map::Entry::Vacant(free) => drop(free.insert((held, Vec::new()))),
                std::collections::hash_map::Entry::Occupied(mut known) => {
                    let (first, others) = known.get_mut();
                    let last = others.last_mut().unwrap_or(first);
                    // A marker beside an entry of its own layer hides only what is below (L-14).
                    if last.part == part {
                        last.kind = last.kind.or(kind);
                    } else {
                        others.push(held);
                    }
                }
            }
        }
    }

    /// The first contributor from place `from` on that holds `name`.
    pub(super) fn next(&self, name: &Name, from: usize) -> Option<usize> {
        let (first, others) = self.names.get(name)?;
        let places = std::iter::once(first).chain(others).map(|held| held.part as usize);
        places.into_iter().find(|place| *place >= from)
    }

    /// Whether an object of this name shows through where the upper has no entry.
    pub(super) fn shows(&self, name: &Name) -> bool {
        self.names.get(name).is_some_and(|(first, _)| first.kind.is_some())
    }

    /// Adds what shows through to a listing that already has the upper's names; `hidden` are the upper's whiteouts.
    pub(super) fn show(
        &self,
        listing: &mut Listing,
        hidden: &dyn Fn(&Name) -> bool,
        number: &dyn Fn(u32, u64) -> u64,
    ) {
        for (name, (first, _)) in &self.names {
            let Some(kind) = first.kind else { continue };
            if !hidden(name) {
                listing.insert(name.clone(), kind, Some(number(first.part, first.ino)));
            }
        }
    }
}

impl Union {
    /// What is known of the names below, for a lookup; learnt when that has been earned.
    pub(super) fn known_below(&self, node: &Node) -> Option<Arc<Below>> {
        if node.lower.len() < MANY {
            return None;
        }
        if let Some(known) = node.known.below.get() {
            return known.clone();
        }
        let more = u32::try_from(node.lower.len()).unwrap_or(WORTH).min(WORTH);
        if node.known.probes.fetch_add(more, Ordering::Relaxed).saturating_add(more) < WORTH {
            return None;
        }
        self.learn_below(node).ok().flatten()
    }

    /// The same, for a listing, which has to read everything anyway. `None` for a few contributors.
    ///
    /// Errors: what the layers say; a lookup does without, and asks them one by one.
    pub(super) fn learn_below(&self, node: &Node) -> Result<Option<Arc<Below>>> {
        if node.lower.len() < MANY {
            return Ok(None);
        }
        if let Some(Some(known)) = node.known.below.get() {
            return Ok(Some(Arc::clone(known)));
        }
        match self.list_below(node) {
            Ok(below) => Ok(node.known.below.get_or_init(|| Some(Arc::new(below))).clone()),
            Err(e) => {
                // What may not be read may still be searched; that will not change.
                if matches!(e, Errno::EACCES | Errno::EPERM) {
                    node.known.below.get_or_init(|| None);
                }
                Err(e)
            }
        }
    }

    fn list_below(&self, node: &Node) -> Result<Below> {
        let mut below = Below::default();
        for (place, part) in node.lower.iter().enumerate() {
            let listed = self.list_part(part)?;
            below.add(u32::try_from(place).map_err(|_| Errno::EOVERFLOW)?, listed);
        }
        Ok(below)
    }

    /// What one contributor holds, from the index of its layer where that is known and still true.
    fn list_part(&self, part: &Arc<Object>) -> Result<Vec<Listed>> {
        let layer = self.layer(part.layer)?;
        // An index holds the types of inodes, which an attribute may override.
        if !layer.reader.overrides
            && let Some(index) = layer.index()
            && let Some(listed) = index.list(part.ino, layer.trust, || part.real(&self.cache)?.at().stat())?
        {
            return Ok(listed);
        }
        let reader: Reader = layer.reader;
        reader.list(&*part.open(&self.cache)?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::union::{Caller, Config, NoTransport, Owner, ROOT};

    fn name(n: &str) -> NameBuf {
        NameBuf::new(n.as_bytes()).unwrap()
    }

    fn caller() -> Caller {
        Caller { owner: Owner { uid: 0, gid: 0 }, pid: 1, request: 0 }
    }

    /// A hundred layers; file `f{n}` is in layer `n`, and every layer has the directory `d`.
    fn hundred(at: &Path) -> (Vec<PathBuf>, Union) {
        let lower: Vec<PathBuf> = (0..100).map(|n| at.join(format!("l{n}"))).collect();
        for (n, layer) in lower.iter().enumerate() {
            fs::create_dir_all(layer.join("d")).unwrap();
            fs::write(layer.join(format!("f{n}")), n.to_string()).unwrap();
            fs::write(layer.join(format!("d/g{n}")), n.to_string()).unwrap();
        }
        let config = Config { lower: lower.clone(), ..Config::default() };
        (lower, Union::open(&config, Arc::new(NoTransport)).unwrap())
    }

    #[test]
    fn a_second_missing_name_in_a_hundred_layers_asks_none_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let (lower, union) = hundred(dir.path());
        let look = |n: &str| union.lookup(&caller(), ROOT, &name(n)).unwrap();
        assert!(look("absent").is_none());
        // Whoever asked a layer now would see what must not be there.
        for layer in &lower {
            fs::write(layer.join("late"), "x").unwrap();
        }
        assert!(look("late").is_none());
        assert!(look("absent").is_none());
    }

    #[test]
    fn a_name_of_one_layer_in_a_hundred_asks_that_one_only() {
        let dir = tempfile::tempdir().unwrap();
        let (lower, union) = hundred(dir.path());
        let look = |n: &str| union.lookup(&caller(), ROOT, &name(n)).unwrap();
        assert!(look("absent").is_none());
        // Were a layer above asked, it would win.
        for layer in lower.iter().take(70) {
            fs::create_dir(layer.join("f70")).unwrap();
        }
        assert_eq!(look("f70").unwrap().attr.attr.kind(), Kind::File);
    }

    #[test]
    fn creating_and_removing_over_a_hundred_layers_asks_none_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let (lower, plain) = hundred(dir.path());
        drop(plain);
        let [upper, work] = ["u", "w"].map(|name| dir.path().join(name));
        [&upper, &work].into_iter().for_each(|dir| fs::create_dir(dir).unwrap());
        let userxattr = !nix::unistd::geteuid().is_root();
        let config = Config {
            lower: lower.clone(),
            upper: Some(upper.clone()),
            work: Some(work),
            userxattr,
            ..Config::default()
        };
        let union = Union::open(&config, Arc::new(NoTransport)).unwrap();
        assert!(union.lookup(&caller(), ROOT, &name("absent")).unwrap().is_none());
        // Whoever asked a layer now would think that the name is taken, and would leave a whiteout.
        fs::write(lower[50].join("new"), "x").unwrap();
        let new = crate::union::NewNode { mode: 0o644, ..Default::default() };
        union.mknod(&caller(), ROOT, &name("new"), Kind::File, Default::default(), &new).unwrap();
        union.unlink(&caller(), ROOT, &name("new")).unwrap();
        assert_eq!(fs::read_dir(&upper).unwrap().count(), 0);
        // What does show through is still covered.
        union.unlink(&caller(), ROOT, &name("f99")).unwrap();
        assert_eq!(fs::read_dir(&upper).unwrap().count(), 1);
    }

    #[test]
    fn a_listing_of_a_hundred_layers_shows_each_name_once_and_lookups_agree() {
        let dir = tempfile::tempdir().unwrap();
        let (_, union) = hundred(dir.path());
        let sub = union.lookup(&caller(), ROOT, &name("d")).unwrap().unwrap();
        let mut seen = Vec::new();
        union
            .readdir(sub.node, 0, &mut |entry| {
                seen.push((entry.name.to_vec(), entry.ino));
                true
            })
            .unwrap();
        assert_eq!(seen.len(), 102);
        for (n, ino) in seen.iter().filter(|(n, _)| n.starts_with(b"g")) {
            let entry = union.lookup(&caller(), sub.node, &NameBuf::new(n).unwrap()).unwrap().unwrap();
            assert_eq!(entry.attr.attr.ino, *ino);
        }
        assert!(union.lookup(&caller(), sub.node, &name("g100")).unwrap().is_none());
    }

    #[test]
    fn an_immutable_layer_is_listed_from_its_index_alone_and_a_plain_one_is_not_believed() {
        use crate::layer::index::{LayerIndex, beside};
        let dir = tempfile::tempdir().unwrap();
        let (lower, _) = hundred(dir.path());
        for layer in &lower {
            LayerIndex::build(layer).unwrap().save(&beside(layer).unwrap()).unwrap();
        }
        // What an index does not know shows whether it was believed.
        for layer in &lower {
            fs::write(layer.join("late"), "x").unwrap();
        }
        let open = |immutable: Vec<PathBuf>| {
            let config = Config { lower: lower.clone(), immutable, ..Config::default() };
            Union::open(&config, Arc::new(NoTransport)).unwrap()
        };
        let look = |union: &Union, n: &str| union.lookup(&caller(), ROOT, &name(n)).unwrap().is_some();
        let trusted = open(lower.clone());
        assert!(look(&trusted, "f99") && look(&trusted, "d") && !look(&trusted, "late"));
        let plain = open(Vec::new());
        assert!(look(&plain, "f99") && look(&plain, "late"));
    }

    #[test]
    fn where_attributes_say_types_an_index_is_not_believed() {
        use crate::layer::index::{LayerIndex, beside};
        use crate::layer::stand_in;
        let dir = tempfile::tempdir().unwrap();
        let (lower, _) = hundred(dir.path());
        let top = crate::sys::Dir::open_path(&lower[0]).unwrap();
        let fifo = name("f0");
        let stat = top.stat(&fifo).unwrap();
        let stand_for = crate::sys::Stat { mode: libc::S_IFIFO | 0o644, ..stat };
        if let Err(errno) = stand_in::write(top.at(&fifo), Kind::File, &stand_for) {
            eprintln!("skipped: no attributes in {}: {errno}", dir.path().display());
            return;
        }
        for layer in &lower {
            LayerIndex::build(layer).unwrap().save(&beside(layer).unwrap()).unwrap();
        }
        let overrides = crate::union::Overrides::Believed;
        let config = Config { lower: lower.clone(), immutable: lower, overrides, ..Config::default() };
        let union = Union::open(&config, Arc::new(NoTransport)).unwrap();
        let mut kind = None;
        union
            .readdir(ROOT, 0, &mut |entry| {
                kind = kind.or((entry.name == b"f0").then_some(entry.kind));
                true
            })
            .unwrap();
        assert_eq!(kind, Some(Kind::Fifo));
    }

    #[test]
    fn a_damaged_index_is_as_good_as_none() {
        use crate::layer::index::beside;
        let dir = tempfile::tempdir().unwrap();
        let (lower, _) = hundred(dir.path());
        lower.iter().for_each(|layer| fs::write(beside(layer).unwrap(), "no index").unwrap());
        let config = Config { lower: lower.clone(), immutable: lower, ..Config::default() };
        let union = Union::open(&config, Arc::new(NoTransport)).unwrap();
        assert!(union.lookup(&caller(), ROOT, &name("f99")).unwrap().is_some());
    }

    #[test]
    fn a_whiteout_between_two_layers_hides_what_is_below_it_only() {
        let dir = tempfile::tempdir().unwrap();
        let lower: Vec<PathBuf> = (0..6).map(|n| dir.path().join(format!("l{n}"))).collect();
        lower.iter().for_each(|layer| fs::create_dir(layer).unwrap());
        for n in [1, 5] {
            fs::write(lower[n].join("above"), "x").unwrap();
        }
        fs::write(lower[5].join("gone"), "x").unwrap();
        fs::write(lower[3].join(".wh.above"), "").unwrap();
        fs::write(lower[3].join(".wh.gone"), "").unwrap();
        let config = Config { lower, oci_whiteouts: true, ..Config::default() };
        let union = Union::open(&config, Arc::new(NoTransport)).unwrap();
        for _ in 0..40 {
            assert!(union.lookup(&caller(), ROOT, &name("gone")).unwrap().is_none());
            assert!(union.lookup(&caller(), ROOT, &name("above")).unwrap().is_some());
        }
        let mut seen = 0;
        union
            .readdir(ROOT, 0, &mut |_| {
                seen += 1;
                true
            })
            .unwrap();
        assert_eq!(seen, 3);
    }
}
