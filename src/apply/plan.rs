//! What has to be done, as plain values that survive a crash.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Dest;
use crate::diff::{Change, Difference, Differing, Member, Tree, What};
use crate::error::SetupError;
use crate::sys::{Errno, Kind, Time};
use crate::union::control::Text;

/// A path in the tree, as it is stored.
pub(super) type Path = Text;

/// One step. Paths are those of the tree as it will be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Step {
    /// Takes a name away, with everything in it.
    Remove(Path),
    /// Makes an empty directory; it gets its attributes at the end.
    Directory(Path),
    /// Puts the renamed directory of this number there.
    Place(Path, usize),
    /// Puts the staged file of this number there.
    Put(Path, usize),
    /// Gives the staged file of this number a further name there.
    Link(Path, usize),
    /// Gives what is at the second path a further name at the first.
    LinkTo(Path, Path),
    /// Gives what is there the owner, mode, attributes and times it has in the changes.
    Adjust(Path),
}

/// A directory and its access and modification time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Timed {
    pub path: Path,
    pub times: [(i64, u32); 2],
}

/// Everything that has to be done, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Files to build before anything else, by their paths in the changed tree.
    pub staged: Vec<Path>,
    /// Renamed directories, by their paths in the tree as it was, the deepest first.
    pub parked: Vec<Path>,
    /// Steps, from the top down.
    pub steps: Vec<Step>,
    /// Directories that get owner, mode and attributes as in the changes.
    pub dressed: BTreeSet<Vec<u8>>,
    /// Directories whose times the steps disturb, and the times they are to have. They are asked for beforehand: one
    /// that is the lower's own has no others to be asked for later.
    pub timed: Vec<Timed>,
    /// The paths of `timed` while the plan is made.
    #[serde(skip)]
    disturbed: BTreeSet<Vec<u8>>,
    /// The time of the root in the end; `None`: what it was.
    pub root_time: Option<(i64, u32)>,
    /// Of the upper.
    pub digest: u64,
}

impl Plan {
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.dressed.is_empty() && self.root_time.is_none()
    }

    /// What makes `difference` happen in `dest`.
    pub(super) fn new(dest: &Dest, difference: &Difference, now: &Tree) -> Result<Plan, SetupError> {
        let root = now.root().map_err(|e| dest.failed("compare the root of", e))?.attr;
        let mut plan = Plan { digest: difference.digest, ..Plan::default() };
        plan.park(dest, difference)?;
        let groups = Groups::new(difference);
        let mut replaced = BTreeSet::new();
        for differing in difference.differing.iter().filter(|d| d.change.what != What::Deleted) {
            replaced.insert(&differing.change.path);
        }
        for differing in &difference.differing {
            let deleted = differing.change.what == What::Deleted;
            // What replaces a name takes care of what was there.
            if !(deleted && replaced.contains(&differing.change.path)) {
                plan.step(differing, &groups);
            }
        }
        plan.link_the_rest(&groups);
        plan.disturbed.extend(difference.renamed_in.iter().cloned());
        // An upper's root has the time of its making until something happens in it.
        let lived = root.btime.is_some_and(|born| root.mtime > born);
        if lived || difference.renamed_in.iter().any(|path| path == b".") {
            plan.root_time = Some((root.mtime.secs, root.mtime.nanos));
        }
        plan.disturbed.remove(&b"."[..]);
        for path in std::mem::take(&mut plan.disturbed) {
            let text = Text::from(path.as_slice());
            let seen = now.find(&path).and_then(|seen| seen.ok_or(Errno::ENOENT));
            let attr =
                seen.map_err(|e| SetupError::new("read the times of", e.desc()).at(text.to_path()))?.attr;
            let times = [attr.atime, attr.mtime].map(|time| (time.secs, time.nanos));
            plan.timed.push(Timed { path: text, times });
        }
        Ok(plan)
    }

    fn park(&mut self, dest: &Dest, difference: &Difference) -> Result<(), SetupError> {
        let mut from: Vec<&[u8]> = difference.differing.iter().filter_map(|d| renamed(&d.change)).collect();
        from.sort_by_key(|path| std::cmp::Reverse(path.iter().filter(|&&b| b == b'/').count()));
        if let Some(twice) =
            from.iter().enumerate().find_map(|(i, path)| from.iter().skip(i + 1).find(|p| *p == path))
        {
            return Err(SetupError::new(
                "apply the changes to",
                format!("two directories say that they were {}", Text::from(*twice)),
            )
            .at(&dest.path)
            .hint("the upper was put together by hand; acetate check explains it"));
        }
        self.parked = from.into_iter().map(Text::from).collect();
        Ok(())
    }

    fn step(&mut self, differing: &Differing, groups: &Groups) {
        let Change { path, what, kind, .. } = &differing.change;
        let (text, kind) = (Text::from(path.as_slice()), kind.unwrap_or(Kind::File));
        match what {
            What::Deleted => self.at(path, Step::Remove(text)),
            What::Renamed { from } => {
                let number = self.parked.iter().position(|parked| parked.as_bytes() == from.as_slice());
                self.at(path, Step::Place(text, number.unwrap_or(usize::MAX)));
            }
            What::Added if kind == Kind::Dir => {
                self.at(path, Step::Directory(text));
                self.dressed.insert(path.clone());
                self.disturbed.insert(path.clone());
            }
            What::Changed(_) if kind == Kind::Dir => {
                self.dressed.insert(path.clone());
                self.disturbed.insert(path.clone());
            }
            // Every name of a file with several is made at its first one.
            _ if groups.has(path) => {}
            What::Changed(facets)
                if !facets.content && differing.was.as_ref().is_some_and(|w| w.attr.nlink < 2) =>
            {
                self.steps.push(Step::Adjust(text));
            }
            What::Added | What::Changed(_) | What::Undecided => {
                let number = self.stage(path);
                self.at(path, Step::Put(text, number));
            }
        }
    }

    /// A step that changes a name, and so the time of the directory it is in.
    fn at(&mut self, path: &[u8], step: Step) {
        self.disturbed.insert(parent(path).to_vec());
        self.steps.push(step);
    }

    fn stage(&mut self, path: &[u8]) -> usize {
        self.staged.push(Text::from(path));
        self.staged.len() - 1
    }

    /// Files with several names. After every directory is there, each name is led to one file.
    fn link_the_rest(&mut self, groups: &Groups) {
        for group in &groups.all {
            if group.adjustable {
                group
                    .changed
                    .iter()
                    .for_each(|path| self.steps.push(Step::Adjust(Text::from(path.as_slice()))));
                continue;
            }
            if group.changed.is_empty() && group.is_whole() {
                continue;
            }
            match &group.unchanged {
                // What is there as it should be is given the other names.
                Some(base) => {
                    for path in group.names.iter().filter(|path| *path != base) {
                        let step = Step::LinkTo(Text::from(path.as_slice()), Text::from(base.as_slice()));
                        self.at(path, step);
                    }
                }
                None => {
                    let Some(first) = group.names.first() else { continue };
                    let number = self.stage(first);
                    for path in &group.names {
                        self.at(path, Step::Link(Text::from(path.as_slice()), number));
                    }
                }
            }
        }
    }
}

fn renamed(change: &Change) -> Option<&[u8]> {
    match &change.what {
        What::Renamed { from } => Some(from),
        _ => None,
    }
}

/// The directory that a path is in.
pub(super) fn parent(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|&b| b == b'/') {
        Some(at) => path.get(..at).unwrap_or_default(),
        None => b".",
    }
}

/// Files with several names that the changes touch.
struct Groups {
    all: Vec<Group>,
    paths: BTreeSet<Vec<u8>>,
}

#[derive(Default)]
struct Group {
    names: Vec<Vec<u8>>,
    /// Number and links before, for each name that was there.
    before: Vec<Option<(u64, u32)>>,
    /// Names that differ from before.
    changed: Vec<Vec<u8>>,
    /// A name that does not.
    unchanged: Option<Vec<u8>>,
    /// Nothing but attributes differs, and the names were just these: they can be set on the file that is there.
    adjustable: bool,
}

impl Group {
    /// Its names were the names of one file before, and nothing else was.
    fn is_whole(&self) -> bool {
        let Some(Some((ino, links))) = self.before.first() else { return false };
        let one = self.before.iter().all(|before| matches!(before, Some((other, _)) if other == ino));
        one && usize::try_from(*links).is_ok_and(|links| links == self.names.len())
    }
}

impl Groups {
    fn new(difference: &Difference) -> Groups {
        let differing: BTreeMap<&[u8], &Differing> = (difference.differing.iter())
            .filter(|d| d.change.what != What::Deleted)
            .map(|d| (d.change.path.as_slice(), d))
            .collect();
        let mut by_number: BTreeMap<u64, Vec<&Member>> = BTreeMap::new();
        for member in &difference.members {
            by_number.entry(member.ino).or_default().push(member);
        }
        let mut groups = Groups { all: Vec::new(), paths: BTreeSet::new() };
        for mut members in by_number.into_values().filter(|members| members.len() > 1) {
            members.sort_by(|a, b| a.path.cmp(&b.path));
            let mut group = Group { adjustable: true, ..Group::default() };
            for member in members {
                match differing.get(member.path.as_slice()) {
                    None => {
                        group.unchanged.get_or_insert_with(|| member.path.clone());
                    }
                    Some(Differing { change, .. }) => {
                        group.adjustable &= matches!(change.what, What::Changed(facets) if !facets.content);
                        group.changed.push(member.path.clone());
                    }
                }
                group.names.push(member.path.clone());
                group.before.push(member.before);
            }
            group.adjustable &= !group.changed.is_empty() && group.is_whole();
            groups.paths.extend(group.names.iter().cloned());
            groups.all.push(group);
        }
        groups
    }

    fn has(&self, path: &[u8]) -> bool {
        self.paths.contains(path)
    }
}

impl From<(i64, u32)> for Time {
    fn from((secs, nanos): (i64, u32)) -> Time {
        Time { secs, nanos }
    }
}
