//! Two mounts that are made to do the same things, and everything that must then be equal.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use nix::errno::Errno;

use super::accepted;
use super::actor::Actor;
use super::op::{At, Op, Slot, Who};
use super::outcome::{Clock, Labels, Outcome, Value};
use super::stack::{Recipe, Set};
use super::upper;
use crate::support::backing::Unavailable;
use crate::support::fingerprint::Fingerprint;
use crate::support::mounts::{Mounted, Mounter};
use crate::support::sys;
use crate::support::tree::{self, Tree, difference};

/// A difference between the two sides, told with everything needed to understand it.
#[derive(Debug)]
pub struct Mismatch(pub String);

/// The result of something that both sides must agree on.
pub type Agreed<T> = Result<T, Mismatch>;

/// Who is the reference, who is under test, and with which options each is mounted.
#[derive(Clone, Debug)]
pub struct Sides {
    /// The side that is right.
    pub reference: Mounter,
    /// The side under test.
    pub candidate: Mounter,
    /// Options only the candidate gets; for tests of the harness itself.
    pub sabotage: String,
}

impl Sides {
    /// Kernel overlayfs, and whatever is under test.
    pub fn standard() -> Self {
        Self { reference: Mounter::Kernel, candidate: Mounter::candidate(), sabotage: String::new() }
    }
}

/// The two mounted sets.
pub struct Pair {
    mounts: Option<(Mounted, Mounted)>,
    /// The kernel's side.
    pub reference: Actor,
    /// The side under test.
    pub candidate: Actor,
    sides: Sides,
    options: String,
    who: Who,
    mask: u32,
    history: Vec<(Op, Outcome)>,
    fingerprints: Vec<Fingerprint>,
    /// Whether C-24 was met: the kernel's vain copy-up then leaves `impure` on the parent.
    excused_orphan: bool,
    /// Whether there was a rename that [`accepted::touched_sources`] is about.
    touched_sources: bool,
    /// Whether names of indexed files may be copied up later than the kernel does: see `accepted::lagging_names`.
    lagging_names: bool,
}

const ROOT: Who = Who { uid: 0, gid: 0, groups: Vec::new() };

/// Why a pair could not be set up.
#[derive(Debug)]
pub enum Obstacle {
    /// The machine lacks something.
    Unavailable(Unavailable),
    /// A side does not mount.
    Mismatch(Mismatch),
}

impl From<Unavailable> for Obstacle {
    fn from(unavailable: Unavailable) -> Self {
        Self::Unavailable(unavailable)
    }
}

impl From<Mismatch> for Obstacle {
    fn from(mismatch: Mismatch) -> Self {
        Self::Mismatch(mismatch)
    }
}

impl Pair {
    /// Builds the layers twice and mounts both.
    pub fn mount(recipe: &Recipe, sides: Sides) -> Result<Self, Obstacle> {
        let mut pair = Self::build(recipe, sides)?;
        pair.mount_both()?;
        Ok(pair)
    }

    /// Builds the layers twice, and leaves them unmounted.
    pub fn build(recipe: &Recipe, sides: Sides) -> Result<Self, Obstacle> {
        let clock = Clock::start();
        let actor = || -> Result<Actor, Unavailable> {
            let set = Set::build(recipe)?;
            let labels = Labels::learn(set.lowers.iter().map(|lower| &lower.tree), recipe.one_filesystem());
            Ok(Actor::new(set, labels, clock))
        };
        let (reference, candidate) = (actor()?, actor()?);
        let fingerprints =
            [&reference, &candidate].map(|actor| Fingerprint::take(actor.set.lower_roots())).into();
        Ok(Self {
            mounts: None,
            reference,
            candidate,
            sides,
            options: recipe.options.clone(),
            who: ROOT,
            mask: 0o022,
            history: Vec::new(),
            fingerprints,
            excused_orphan: false,
            touched_sources: false,
            lagging_names: false,
        })
    }

    /// The lines that build the layers.
    pub fn layers(&self) -> &str {
        &self.reference.set.log
    }

    /// Accepts what [`accepted::lagging_names`] is about.
    pub fn accept_lagging_names(&mut self) {
        self.lagging_names = true;
    }

    /// Whether that can happen at all: there is an index, and a lower file with several names.
    pub fn names_can_lag(&self) -> bool {
        let linked = |tree: &Tree| tree.entries.values().any(|entry| !entry.is_dir() && entry.links > 1);
        ["index=on", "nfs_export=on"].iter().any(|word| self.options.contains(word))
            && self.reference.set.lowers.iter().any(|lower| linked(&lower.tree))
    }

    /// Replaces the mount options for the next mount.
    pub fn set_options(&mut self, options: &str) {
        self.options = options.to_owned();
    }

    /// Mounts both sides.
    pub fn mount_both(&mut self) -> Agreed<()> {
        sys::umask(0o022);
        let theirs = [self.options.as_str(), &self.sides.sabotage].join(if self.sides.sabotage.is_empty() {
            ""
        } else {
            ","
        });
        let reference = self.mount_one(self.sides.reference, &self.reference.set, &self.options)?;
        let candidate =
            self.mount_one(self.sides.candidate, &self.candidate.set, theirs.trim_start_matches(','))?;
        sys::umask(self.mask);
        self.mounts = Some((reference, candidate));
        Ok(())
    }

    /// Whether each side can be mounted as it is; neither is afterwards.
    pub fn try_mounts(&mut self) -> (bool, bool) {
        let tried = |mounter, set: &Set| try_one(mounter, set, &set.options(&self.options));
        (tried(self.sides.reference, &self.reference.set), tried(self.sides.candidate, &self.candidate.set))
    }

    /// The same with a whole option string, in which `{l1}`, `{l2}`, `{u}` and `{w}` stand for the directories.
    pub fn try_raw(&mut self, options: &str) -> (bool, bool) {
        let tried = |mounter, set: &Set| try_one(mounter, set, set.fill_in(options).as_bytes());
        (tried(self.sides.reference, &self.reference.set), tried(self.sides.candidate, &self.candidate.set))
    }

    /// Changes something in both unmounted sets.
    pub fn spoil(&mut self, change: impl Fn(&Set) -> std::io::Result<()>) {
        for actor in [&self.reference, &self.candidate] {
            change(&actor.set).expect("changing a set between mounts");
        }
    }

    fn mount_one(&self, mounter: Mounter, set: &Set, options: &str) -> Agreed<Mounted> {
        let options = set.options(options);
        mounter.mount(&options, &set.mount_point, None).map_err(|refusal| {
            self.told(format!("{mounter:?} refused {}: {refusal:?}", String::from_utf8_lossy(&options)))
        })
    }

    /// Unmounts both sides after closing everything.
    pub fn unmount_both(&mut self) -> Agreed<()> {
        self.reference.let_go();
        self.candidate.let_go();
        let Some((reference, candidate)) = self.mounts.take() else { return Ok(()) };
        let outcomes = (reference.unmount(), candidate.unmount());
        match outcomes {
            (Ok(()), Ok(())) => Ok(()),
            other => Err(self.told(format!("unmounting: {other:?}"))),
        }
    }

    /// Performs one operation on both sides; they must answer the same.
    pub fn perform(&mut self, op: &Op) -> Agreed<Outcome> {
        match op {
            Op::Become(who) => self.who = who.clone(),
            Op::Umask(mask) => {
                self.mask = *mask;
                sys::umask(*mask);
            }
            Op::Remount => {
                self.history.push((op.clone(), Ok(Value::Nothing)));
                self.unmount_both()?;
                self.mount_both()?;
                return Ok(Ok(Value::Nothing));
            }
            _ => {
                let wanted = self.reference.perform(op, &self.who);
                let got = self.candidate.perform(op, &self.who);
                self.touched_sources |= matches!(op, Op::Rename { flags: 0, .. })
                    && self.reference.set.upper_on_ext4
                    && [&wanted, &got].iter().all(|answer| **answer == Err(Errno::ENOTEMPTY));
                let excused = wanted != got && self.excuse(op, &wanted, &got);
                self.history.push((op.clone(), wanted.clone()));
                let known = std::mem::take(&mut self.reference.complaints);
                let mut flaws = std::mem::take(&mut self.candidate.complaints);
                flaws.retain(|flaw| !known.contains(flaw));
                if !flaws.is_empty() {
                    return Err(self.told(format!("{op:?}\n  candidate: {flaws:?}")));
                }
                if wanted != got && !excused {
                    return Err(self.told(format!("{op:?}\n  reference: {wanted:?}\n  candidate: {got:?}")));
                }
                return Ok(wanted);
            }
        }
        self.history.push((op.clone(), Ok(Value::Nothing)));
        Ok(Ok(Value::Nothing))
    }

    /// Performs one operation whose answers may differ: the candidate's must be in `better`, or the reference's.
    pub fn perform_either(&mut self, op: &Op, better: &[Outcome]) -> Agreed<Outcome> {
        let wanted = self.reference.perform(op, &self.who);
        let got = self.candidate.perform(op, &self.who);
        self.history.push((op.clone(), wanted.clone()));
        if wanted == got || better.contains(&got) {
            return Ok(wanted);
        }
        Err(self.told(format!("{op:?}\n  reference: {wanted:?}, or {better:?}\n  candidate: {got:?}")))
    }

    /// C-24: of a lower file that was unlinked while open, the kernel reports a link and refuses changes of its
    /// attributes with EEXIST. Doing it right is accepted; the descriptor is then closed, as its state differs.
    fn excuse(&mut self, op: &Op, wanted: &Outcome, got: &Outcome) -> bool {
        if let (Op::Changed { .. }, Ok(Value::Lines(wanted)), Ok(Value::Lines(got))) = (op, wanted, got) {
            // I-2: one device number for everything is better than the kernel's several.
            return wanted.iter().filter(|word| *word != "otherdev").eq(got);
        }
        if let (true, Op::Stat(_), Ok(Value::Lines(wanted)), Ok(Value::Lines(got))) =
            (self.counts_index_links(), op, wanted, got)
            && without_word(wanted, "links=") == without_word(got, "links=")
        {
            return true;
        }
        if self.excuse_for_names(op, wanted, got) {
            return true;
        }
        let slot = match op {
            Op::Stat(At::Slot(slot)) => *slot,
            _ => match changed_slot(op) {
                Some(slot) => slot,
                None => return false,
            },
        };
        let Ok(fd) = self.reference.fd(slot) else { return false };
        let place = sys::readlink(format!("/proc/self/fd/{fd}").as_bytes()).unwrap_or_default();
        let accepted = match (wanted, got) {
            (Err(Errno::EEXIST), Ok(_)) => true,
            (Ok(Value::Lines(wanted)), Ok(Value::Lines(got))) => {
                without_word(wanted, "links=") == without_word(got, "links=")
                    && got.contains(&"links=0".to_owned())
            }
            _ => false,
        };
        if accepted && place.ends_with(b" (deleted)") {
            self.excused_orphan = true;
            for actor in [&mut self.reference, &mut self.candidate] {
                actor.slots.remove(&slot);
            }
            return true;
        }
        false
    }

    /// What [`accepted`] says of whole uppers and trees, for the one object that an operation looks at.
    fn excuse_for_names(&self, op: &Op, wanted: &Outcome, got: &Outcome) -> bool {
        let words = |outcome: &Outcome| match outcome {
            Ok(Value::Lines(words)) => Some(words.clone()),
            Err(Errno::ENOENT) => None,
            other => Some(vec![format!("{other:?}")]),
        };
        let (wanted, got) = (words(wanted), words(got));
        let (one, other) = (wanted.as_deref(), got.as_deref());
        match (op, one, other) {
            (Op::Upper(_), _, _) if self.lagging_names && accepted::lagging_object(one, other) => true,
            (Op::Upper(_), Some(one), Some(other)) => {
                let line = |words: &[String]| BTreeMap::from([(String::new(), words.join(" "))]);
                let (mut one, mut other) = (line(one), line(other));
                if self.counts_index_links() {
                    accepted::counted_index_links(&mut one);
                    accepted::counted_index_links(&mut other);
                }
                if self.touched_sources {
                    accepted::touched_sources(&mut one, &mut other);
                }
                one == other
            }
            (Op::Stat(_), Some(one), Some(other)) => {
                let line = |words: &[String]| {
                    let mode = words.iter().find_map(|word| word.strip_prefix("mode="));
                    let mode = mode.and_then(|mode| u32::from_str_radix(mode, 8).ok()).unwrap_or_default();
                    let line = format!("{} {}", tree::kind_letter(mode), words.join(" "));
                    BTreeMap::from([(String::new(), line)])
                };
                let (mut one, mut other) = (line(one), line(other));
                if self.lagging_names {
                    accepted::lagging_directories(&mut one, &mut other);
                }
                if self.touched_sources {
                    accepted::touched_sources(&mut one, &mut other);
                }
                if self.options.contains("userxattr") {
                    one = accepted::without_numbers_of_special_files(one, accepted::has_many_names);
                    other = accepted::without_numbers_of_special_files(other, accepted::has_many_names);
                }
                one == other
            }
            _ => false,
        }
    }

    /// Whether the kernel would bring an unlinked name back: a change of attributes through a descriptor of an
    /// unlinked lower device, FIFO or the like is copied up over the whiteout (for regular files, see C-24).
    pub fn would_resurrect(&self, op: &Op) -> bool {
        let Some(fd) = changed_slot(op).and_then(|slot| self.reference.fd(slot).ok()) else { return false };
        let place = sys::readlink(format!("/proc/self/fd/{fd}").as_bytes()).unwrap_or_default();
        let kind = sys::fstat(fd).map_or(0, |stat| u32::from(stat.stx_mode) & libc::S_IFMT);
        place.ends_with(b" (deleted)") && kind != libc::S_IFREG
    }

    /// Compares everything there is: the merged trees, then the uppers on disk, then each upper under the other
    /// side's mount, and the lower layers with what they were.
    pub fn finish(mut self, swap: Swap) -> Agreed<()> {
        self.reference.let_go();
        self.candidate.let_go();
        if self.mounts.is_some() {
            let trees = self.compare_trees()?;
            self.unmount_both()?;
            self.compare_uppers()?;
            if swap == Swap::Uppers && self.reference.set.upper.is_some() {
                self.swap(&trees)?;
            }
        }
        self.check_lowers()
    }

    /// The lower layers must be what they were.
    pub fn check_lowers(&self) -> Agreed<()> {
        let changes: Vec<String> = self.fingerprints.iter().flat_map(Fingerprint::changes).collect();
        if changes.is_empty() {
            return Ok(());
        }
        Err(self.told(format!("a lower layer was modified:\n  {}", changes.join("\n  "))))
    }

    /// Compares the merged trees as they are now.
    pub fn compare_trees(&self) -> Agreed<(Tree, Tree)> {
        let wanted = tree::read(&self.reference.set.mount_point);
        let got = tree::read(&self.candidate.set.mount_point);
        let (mut left, mut right) =
            (self.merged(&self.reference, &wanted), self.merged(&self.candidate, &got));
        if self.lagging_names {
            accepted::lagging_directories(&mut left, &mut right);
        }
        if self.touched_sources {
            accepted::touched_sources(&mut left, &mut right);
        }
        if self.options.contains("userxattr") {
            left = accepted::without_numbers_of_special_files(left, accepted::has_many_names);
            right = accepted::without_numbers_of_special_files(right, accepted::has_many_names);
        }
        self.same_lines("merged trees", left, right)?;
        self.no_new_problems(&wanted, &got)?;
        Ok((wanted, got))
    }

    fn merged(&self, actor: &Actor, tree: &Tree) -> BTreeMap<String, String> {
        upper::merged_lines(tree, &actor.labels, actor.clock)
    }

    fn no_new_problems(&self, wanted: &Tree, got: &Tree) -> Agreed<()> {
        let new: Vec<&String> =
            got.problems.iter().filter(|problem| !wanted.problems.contains(problem)).collect();
        let missing: Vec<&String> = wanted
            .problems
            .iter()
            .filter(|problem| problem.starts_with("stat ") && !got.problems.contains(problem))
            .collect();
        if new.is_empty() && missing.is_empty() {
            return Ok(());
        }
        Err(self.told(format!(
            "the candidate's tree: problems {new:?}; problems only in the reference {missing:?}"
        )))
    }

    /// Compares the uppers on disk.
    pub fn compare_uppers(&self) -> Agreed<()> {
        let lines = |actor: &Actor| {
            let lines = upper::lines(&actor.set, actor.clock);
            if self.excused_orphan {
                without_words(lines, &["trusted.overlay.impure=", "user.overlay.impure="])
            } else {
                lines
            }
        };
        let (mut wanted, mut got) = (lines(&self.reference), lines(&self.candidate));
        if self.lagging_names {
            accepted::lagging_names(&mut wanted, &mut got);
        }
        if self.touched_sources {
            accepted::touched_sources(&mut wanted, &mut got);
        }
        self.same_lines("uppers on disk", wanted, got)
    }

    fn swap(&mut self, trees: &(Tree, Tree)) -> Agreed<()> {
        sys::umask(0o022);
        let crossed = [
            (self.sides.candidate, &self.reference, &trees.0, "the kernel's upper, mounted by the candidate"),
            (self.sides.reference, &self.candidate, &trees.1, "the candidate's upper, mounted by the kernel"),
        ];
        for (mounter, actor, before, what) in crossed {
            let mounted = self.mount_one(mounter, &actor.set, &self.options)?;
            let now = tree::read(&actor.set.mount_point);
            mounted.unmount().map_err(|error| self.told(format!("{what}: {error}")))?;
            let lines = |tree: &Tree| match self.options.contains("userxattr") {
                // Only files and directories can have `user.` attributes, so the origin of others is not recorded.
                true => accepted::without_numbers_of_special_files(self.merged(actor, tree), |_| true),
                false => self.merged(actor, tree),
            };
            self.same_lines(what, lines(before), lines(&now))?;
            if actor.labels.known() && !self.options.contains("userxattr") {
                self.same_lines(what, upper::inode_lines(before), upper::inode_lines(&now))?;
            }
            if mounter == self.sides.candidate {
                self.no_new_problems(before, &now)?;
            }
        }
        Ok(())
    }

    /// See [`accepted::counted_index_links`].
    fn counts_index_links(&self) -> bool {
        self.options.contains("nfs_export=on")
    }

    fn same_lines(
        &self,
        what: &str,
        mut wanted: BTreeMap<String, String>,
        mut got: BTreeMap<String, String>,
    ) -> Agreed<()> {
        if self.counts_index_links() {
            accepted::counted_index_links(&mut wanted);
            accepted::counted_index_links(&mut got);
        }
        let lines = difference(&wanted, &got);
        if lines.is_empty() {
            return Ok(());
        }
        Err(self.told(format!("{what} differ (- reference, + candidate):\n  {}", lines.join("\n  "))))
    }

    /// A mismatch with what led to it.
    pub fn told(&self, what: String) -> Mismatch {
        let mut story = format!("{what}\noptions: {}\nafter:\n", self.options);
        for (op, outcome) in &self.history {
            writeln!(story, "  {op:?} => {outcome:?}").expect("writing to a string");
        }
        Mismatch(story)
    }
}

/// Whether the uppers are mounted by the other side at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// They are.
    Uppers,
    /// They are not: the scenario leaves something a new mount refuses.
    Nothing,
}

fn try_one(mounter: Mounter, set: &Set, options: &[u8]) -> bool {
    match mounter.mount(options, &set.mount_point, None) {
        Ok(mounted) => mounted.unmount().is_ok(),
        Err(_) => false,
    }
}

fn without_word<'a>(words: &'a [String], beginning: &str) -> Vec<&'a String> {
    words.iter().filter(|word| !word.starts_with(beginning)).collect()
}

fn without_words(lines: BTreeMap<String, String>, beginnings: &[&str]) -> BTreeMap<String, String> {
    let unwanted = |word: &str| beginnings.iter().any(|beginning| word.starts_with(beginning));
    let strip = |line: String| line.split(' ').filter(|word| !unwanted(word)).collect::<Vec<_>>().join(" ");
    lines.into_iter().map(|(path, line)| (path, strip(line))).collect()
}

/// The descriptor through which an operation changes attributes.
fn changed_slot(op: &Op) -> Option<Slot> {
    match op {
        Op::Chmod { at: At::Slot(slot), .. }
        | Op::Chown { at: At::Slot(slot), .. }
        | Op::Utimens { at: At::Slot(slot), .. }
        | Op::Setxattr { at: At::Slot(slot), .. }
        | Op::Removexattr { at: At::Slot(slot), .. }
        | Op::SetFlags { at: At::Slot(slot), .. } => Some(*slot),
        _ => None,
    }
}
