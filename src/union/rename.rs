//! Renaming (D-8 to D-16).
//!
//! [`plan`] decides from plain facts; the caller gathers them, stages what the plan says, and then performs ONE
//! renameat2 that carries WHITEOUT or EXCHANGE as planned.

use std::sync::Arc;

use super::copy_up::Data;
use super::node::{Names, Node};
use super::remove::check_removable;
use super::types::{Caller, NodeId, RenameMode};
use super::{Redirect, Union};
use crate::layer::marks::{Mark, RedirectTo};
use crate::sys::{Dir, Errno, Kind, Name, NameBuf, RenameFlag, Result};
use crate::upper::{Debris, Slot, Upper};

/// The longest absolute redirect in bytes, the kernel's `redirect_max` with its NUL.
const REDIRECT_MAX: usize = 256;

/// Where a moved object may be found from: whether a sibling redirect is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// It stays in its directory.
    SameDirectory,
    /// It leaves it, or has names in several.
    AnyDirectory,
}

/// What a rename depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub mode: RenameMode,
    pub source: Side,
    /// What is visible at the target.
    pub target: Option<Side>,
    /// The upper has a whiteout at the target.
    pub target_whiteout: bool,
    /// `redirect_dir=on`.
    pub may_redirect: bool,
}

/// One end of a rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Side {
    pub is_dir: bool,
    /// A directory with lower contributors.
    pub has_lower: bool,
    /// A layer below would show something at this name if the upper's entry were gone.
    pub covers: bool,
    /// Nothing below counts for this directory already.
    pub opaque: bool,
    /// The directory it moves to has lower contributors.
    pub into_merged: bool,
}

/// How to do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub flag: RenameFlag,
    pub source: Before,
    /// Only for an exchange.
    pub target: Before,
    /// The whiteout swapped to the old name is not needed there.
    pub drop_whiteout: bool,
}

/// What must be marked on an object before it moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    Nothing,
    /// Remember where its lower part is (D-10).
    Redirect,
    /// It must not merge with what is below its new place (D-11).
    Opaque,
}

fn before(side: Side) -> Before {
    match side {
        Side { is_dir: true, has_lower: true, .. } => Before::Redirect,
        Side { is_dir: true, opaque: false, into_merged: true, .. } => Before::Opaque,
        _ => Before::Nothing,
    }
}

/// Decides a rename. Errors: EXDEV for a directory that may not move (D-9), EEXIST, ENOENT, EISDIR, ENOTDIR (D-12,
/// D-13).
pub(super) fn plan(f: &Facts) -> Result<Plan> {
    let movable = |s: Side| f.may_redirect || !s.is_dir || !s.has_lower;
    if !movable(f.source) {
        return Err(Errno::EXDEV);
    }
    if f.mode == RenameMode::Exchange {
        let target = f.target.ok_or(Errno::ENOENT)?;
        if !movable(target) {
            return Err(Errno::EXDEV);
        }
        return Ok(Plan {
            flag: RenameFlag::Exchange,
            source: before(f.source),
            target: before(target),
            drop_whiteout: false,
        });
    }
    match (f.target, f.mode) {
        (Some(_), RenameMode::NoReplace) => return Err(Errno::EEXIST),
        (Some(t), _) if t.is_dir && !f.source.is_dir => return Err(Errno::EISDIR),
        (Some(t), _) if !t.is_dir && f.source.is_dir => return Err(Errno::ENOTDIR),
        _ => {}
    }
    let swap = f.target_whiteout && (f.source.covers || f.source.is_dir);
    let flag = match (f.source.covers, swap) {
        (_, true) => RenameFlag::Exchange,
        (true, false) => RenameFlag::Whiteout,
        (false, false) => RenameFlag::Replace,
    };
    Ok(Plan {
        flag,
        source: before(f.source),
        target: Before::Nothing,
        drop_whiteout: swap && !f.source.covers,
    })
}

/// One end of a rename in progress.
struct End<'a> {
    parent: &'a Arc<Node>,
    dir: &'a Dir,
    name: &'a Name,
}

impl Union {
    /// renameat2(2). Errors: those of `plan`; ENOTEMPTY, EINVAL for a directory moved beneath itself, EPERM for
    /// flags that forbid it, EROFS.
    pub fn rename(
        &self,
        caller: &Caller,
        from: (NodeId, &Name),
        to: (NodeId, &Name),
        mode: RenameMode,
    ) -> Result<()> {
        let upper = self.upper.as_ref().ok_or(Errno::EROFS)?;
        if self.hides_markers(to.1) {
            return Err(Errno::EPERM);
        }
        let (old, new) = (self.directory(from.0)?, self.directory(to.0)?);
        loop {
            let source = self.lookup_node(&old, from.1)?.ok_or(Errno::ENOENT)?;
            let target = self.lookup_node(&new, to.1);
            let done = target.and_then(|target| {
                let done = self.rename_nodes(
                    caller,
                    upper,
                    (&old, from.1, &source),
                    (&new, to.1, target.as_ref()),
                    mode,
                );
                self.listing_is_due(&source);
                if let Some(target) = target {
                    self.listing_is_due(&target);
                    self.forget_node(target.id, 1);
                }
                done
            });
            self.forget_node(source.id, 1);
            if let Some(debris) = done? {
                debris.into_iter().for_each(|d| upper.clean(d));
                return Ok(());
            }
        }
    }

    /// `None`: before the directories were locked, somebody else changed what one of the names stands for.
    fn rename_nodes(
        &self,
        caller: &Caller,
        upper: &Upper,
        (old, old_name, source): (&Arc<Node>, &Name, &Arc<Node>),
        (new, new_name, target): (&Arc<Node>, &Name, Option<&Arc<Node>>),
        mode: RenameMode,
    ) -> Result<Option<Vec<Debris>>> {
        check_removable(old, source)?;
        match target {
            Some(target) => check_removable(new, target)?,
            None if new.state().immutable => return Err(Errno::EPERM),
            None => {}
        }
        if is_beneath(new, source)
            || target.is_some_and(|t| mode == RenameMode::Exchange && is_beneath(old, t))
        {
            return Err(Errno::EINVAL);
        }
        if target.is_some_and(|t| t.id == source.id) && mode == RenameMode::Replace {
            // Two names of one file: POSIX says that nothing happens.
            return Ok(Some(Vec::new()));
        }
        if target.is_some_and(|t| is_beneath(old, t)) && mode == RenameMode::Replace {
            // The source itself is in it. Later, its lock would be taken twice.
            return Err(Errno::ENOTEMPTY);
        }
        // A first look without locks refuses before anything is copied up.
        plan(&self.facts((old, old_name, source), (new, new_name, target), mode, None)?)?;
        if let Some(target) = target
            && must_look_empty(target)
            && mode == RenameMode::Replace
        {
            self.must_be_empty(target, &mut target.names_mut())?;
        }
        source.prefer_alias(old.id, old_name);
        self.copy_up(caller, source, Data::MetaOnly)?;
        if source.kind != Kind::Dir {
            self.link_up_name(caller, source, old, old_name)?;
        }
        let old_dir = self.copy_up_dir(caller, old)?;
        let new_dir = self.copy_up_dir(caller, new)?;
        if let Some(target) = target {
            if mode == RenameMode::Exchange {
                self.copy_up(caller, target, Data::MetaOnly)?;
                if target.kind != Kind::Dir {
                    self.link_up_name(caller, target, new, new_name)?;
                }
            } else {
                self.index_before_unlink(caller, target, new, new_name)?;
            }
        }
        let _one_at_a_time = (old.id != new.id).then(|| self.renames.lock());
        let ends = (
            End { parent: old, dir: &old_dir, name: old_name },
            End { parent: new, dir: &new_dir, name: new_name },
        );
        self.rename_locked(upper, ends, source, target, mode)
    }

    /// `whiteout`: whether the upper has one at the target, once both directories are locked; before that, neither
    /// this nor what the layers below would show is asked.
    fn facts(
        &self,
        (old, old_name, source): (&Arc<Node>, &Name, &Arc<Node>),
        (new, new_name, target): (&Arc<Node>, &Name, Option<&Arc<Node>>),
        mode: RenameMode,
        whiteout: Option<bool>,
    ) -> Result<Facts> {
        let side = |node: &Arc<Node>, parent: &Arc<Node>, name: &Name, into: &Arc<Node>| -> Result<Side> {
            Ok(Side {
                is_dir: node.kind == Kind::Dir,
                has_lower: node.has_lower_part(),
                covers: whiteout.is_some() && self.lower_has(parent, name)?,
                opaque: node.state().upper.as_ref().is_some_and(|u| u.opaque),
                into_merged: into.has_lower_part(),
            })
        };
        Ok(Facts {
            mode,
            source: side(source, old, old_name, new)?,
            target: target.map(|t| side(t, new, new_name, old)).transpose()?,
            target_whiteout: whiteout.unwrap_or(false),
            may_redirect: self.config.redirect == Redirect::On,
        })
    }

    /// Everything from the locks of both directories on.
    fn rename_locked(
        &self,
        upper: &Upper,
        (old, new): (End<'_>, End<'_>),
        source: &Arc<Node>,
        target: Option<&Arc<Node>>,
        mode: RenameMode,
    ) -> Result<Option<Vec<Debris>>> {
        let mut locked = TwoDirs::lock(old.parent, new.parent);
        if locked.new_names().dead {
            return Err(Errno::ENOENT);
        }
        if !source.is_named(old.parent, old.name) {
            return Ok(None);
        }
        let whiteout = match target {
            Some(target) if target.is_named(new.parent, new.name) => false,
            Some(_) => return Ok(None),
            None => match upper.slot(new.dir, new.name)? {
                Some(slot) => slot == Slot::Whiteout,
                None => return Ok(None),
            },
        };
        let facts =
            self.facts((old.parent, old.name, source), (new.parent, new.name, target), mode, Some(whiteout))?;
        let plan = plan(&facts)?;
        let mut debris = Vec::new();
        let replaced = target.filter(|_| mode != RenameMode::Exchange);
        let mut inside = replaced.filter(|t| t.kind == Kind::Dir).map(|t| t.names_mut());
        if let (Some(inside), Some(target)) = (&mut inside, replaced.filter(|t| must_look_empty(t))) {
            self.must_be_empty(target, inside)?;
            debris.extend(self.clear_target(upper, &new, target)?);
        }
        self.mark_before_move(upper, source, plan.source, old.parent.id == new.parent.id)?;
        if let (Some(target), RenameMode::Exchange) = (target, mode) {
            self.mark_before_move(upper, target, plan.target, old.parent.id == new.parent.id)?;
        }
        self.mark_parents(
            upper,
            &old,
            &new,
            source,
            target.filter(|_| mode == RenameMode::Exchange),
            &mut locked,
        )?;
        let keep = match replaced {
            Some(target) => Some(self.keep_reachable(target)?),
            None => None,
        };
        self.move_entry(upper, &old, &new, plan)?;
        if plan.drop_whiteout {
            old.dir.unlink(old.name)?;
        }
        if let (Some(inside), Some(_)) = (&mut inside, replaced) {
            inside.dead = true;
            inside.listing = None;
        }
        drop(inside);
        if let (Some(target), Some(keep)) = (replaced, keep) {
            self.unlinked(new.parent, new.name, target, keep)?;
        }
        self.moved(&old, &new, source, target.filter(|_| mode == RenameMode::Exchange), &mut locked);
        Ok(Some(debris))
    }

    /// A directory that is to be replaced must be really empty, not only look so (D-12).
    fn clear_target(&self, upper: &Upper, new: &End<'_>, target: &Arc<Node>) -> Result<Option<Debris>> {
        match self.upper_dir(target)? {
            Some(dir) if !dir.entries()?.is_empty() => {
                let debris = upper.empty_of_whiteouts(new.dir, new.name)?;
                self.cache.forget(target.dir_key);
                Ok(Some(debris))
            }
            _ => Ok(None),
        }
    }

    fn mark_before_move(&self, upper: &Upper, node: &Arc<Node>, mark: Before, same_dir: bool) -> Result<()> {
        let reach = if same_dir { Reach::SameDirectory } else { Reach::AnyDirectory };
        let metacopy = node.state().upper.as_ref().is_some_and(|u| u.metacopy);
        match mark {
            Before::Nothing if metacopy => {
                let shared = node.lower.first().is_some_and(|o| o.nlink > 1);
                self.store_redirect(upper, node, if shared { Reach::AnyDirectory } else { reach })
            }
            Before::Nothing => Ok(()),
            Before::Redirect => self.store_redirect(upper, node, reach),
            Before::Opaque => {
                let real = self.upper_real(node)?.ok_or(Errno::ESTALE)?;
                upper.mark(real.at(), Mark::Opaque, b"y").map_err(|_| Errno::EXDEV)?;
                if let Some(part) = &mut node.state().upper {
                    part.opaque = true;
                }
                Ok(())
            }
        }
    }

    /// Parents that receive an object with an origin become impure.
    fn mark_parents(
        &self,
        upper: &Upper,
        old: &End<'_>,
        new: &End<'_>,
        source: &Node,
        exchanged: Option<&Arc<Node>>,
        locked: &mut TwoDirs<'_>,
    ) -> Result<()> {
        if old.parent.id == new.parent.id {
            return Ok(());
        }
        let has_origin = |n: &Node| {
            n.state().upper.as_ref().is_some_and(|u| u.origin) || (n.kind == Kind::Dir && n.has_lower_part())
        };
        if has_origin(source) {
            self.make_impure(upper, new.parent, locked.new_names())?;
        }
        if exchanged.is_some_and(|n| has_origin(n)) {
            self.make_impure(upper, old.parent, locked.old_names())?;
        }
        Ok(())
    }

    /// The publishing system call. Where the filesystem has no RENAME_WHITEOUT and the target is free, a whiteout put
    /// there first and then exchanged has the same effect in one step.
    fn move_entry(&self, upper: &Upper, old: &End<'_>, new: &End<'_>, plan: Plan) -> Result<()> {
        if plan.flag != RenameFlag::Whiteout || upper.features().rename_whiteout {
            return old.dir.rename(old.name, new.dir, new.name, plan.flag);
        }
        upper.expect_whiteouts(old.dir)?;
        match new.dir.find(new.name)? {
            None => {
                upper.whiteout(new.dir, new.name)?;
                let done = old.dir.rename(old.name, new.dir, new.name, RenameFlag::Exchange);
                if done.is_err() {
                    new.dir.unlink(new.name)?;
                }
                done
            }
            Some(_) => {
                // Both names exist for a moment; a crash then leaves the old one as well, never neither.
                old.dir.rename(old.name, new.dir, new.name, RenameFlag::Replace)?;
                upper.whiteout(old.dir, old.name)
            }
        }
    }

    /// Bookkeeping of the names after the move.
    fn moved(
        &self,
        old: &End<'_>,
        new: &End<'_>,
        source: &Arc<Node>,
        exchanged: Option<&Arc<Node>>,
        locked: &mut TwoDirs<'_>,
    ) {
        self.name_vanished(locked.old_names(), old.name);
        self.name_vanished(locked.new_names(), new.name);
        source.drop_alias(old.parent.id, old.name);
        if let Some(other) = exchanged {
            other.drop_alias(new.parent.id, new.name);
            other.add_alias(old.parent, old.name, true);
            self.name_appeared(locked.old_names(), old.name, other, None);
        }
        source.add_alias(new.parent, new.name, true);
        self.name_appeared(locked.new_names(), new.name, source, None);
    }

    /// Records where an object's lower part is (D-10, C-26). Errors: EXDEV when that cannot be stored.
    pub(super) fn store_redirect(&self, upper: &Upper, node: &Arc<Node>, reach: Reach) -> Result<()> {
        let known = node.state().upper.as_ref().and_then(|u| u.redirect.clone());
        match (&known, reach) {
            (Some(RedirectTo::Absolute(_)), _) | (Some(_), Reach::SameDirectory) => return Ok(()),
            _ => {}
        }
        let alias = node.any_alias().ok_or(Errno::EXDEV)?;
        let to = match reach {
            Reach::SameDirectory => RedirectTo::Sibling(alias.name),
            Reach::AnyDirectory => RedirectTo::Absolute(lower_path(node)?),
        };
        let value = to.to_value();
        if value.len() >= REDIRECT_MAX {
            return Err(Errno::EXDEV);
        }
        let real = self.upper_real(node)?.ok_or(Errno::ESTALE)?;
        upper.mark(real.at(), Mark::Redirect, &value).map_err(|_| Errno::EXDEV)?;
        if let Some(part) = &mut node.state().upper {
            part.redirect = Some(to);
        }
        Ok(())
    }
}

/// The path of a node in the layers below its upper: its own and its ancestors' redirects followed.
fn lower_path(node: &Arc<Node>) -> Result<Vec<NameBuf>> {
    let mut names: Vec<NameBuf> = Vec::new();
    let mut at = Arc::clone(node);
    while at.id != super::ROOT {
        let redirect = at.state().upper.as_ref().and_then(|u| u.redirect.clone());
        let alias = at.any_alias().ok_or(Errno::EXDEV)?;
        match redirect {
            Some(RedirectTo::Absolute(path)) => {
                names.extend(path.into_iter().rev());
                break;
            }
            Some(RedirectTo::Sibling(name)) => names.push(name),
            None => names.push(alias.name),
        }
        at = alias.parent;
    }
    names.reverse();
    Ok(names)
}

/// Whether a directory that is to be replaced is judged by its merged listing. A purely upper one is judged by the
/// filesystem in the renaming itself, after the source was prepared, as in the kernel.
fn must_look_empty(target: &Node) -> bool {
    target.kind == Kind::Dir && target.has_lower_part()
}

/// Whether `node` is `top` or inside it.
fn is_beneath(node: &Arc<Node>, top: &Arc<Node>) -> bool {
    if top.kind != Kind::Dir {
        return false;
    }
    let mut at = Some(Arc::clone(node));
    while let Some(here) = at {
        if here.id == top.id {
            return true;
        }
        at = here.any_alias().map(|a| a.parent);
    }
    false
}

/// The names of two directories, locked in rank order; one lock when they are the same.
struct TwoDirs<'a> {
    first: std::sync::RwLockWriteGuard<'a, Names>,
    second: Option<std::sync::RwLockWriteGuard<'a, Names>>,
    /// Whether `first` is the old directory.
    old_first: bool,
}

impl<'a> TwoDirs<'a> {
    fn lock(old: &'a Arc<Node>, new: &'a Arc<Node>) -> TwoDirs<'a> {
        if old.id == new.id {
            return TwoDirs { first: old.names_mut(), second: None, old_first: true };
        }
        let old_first = old.id < new.id;
        let (a, b) = if old_first { (old, new) } else { (new, old) };
        let first = a.names_mut();
        TwoDirs { first, second: Some(b.names_mut()), old_first }
    }

    fn old_names(&mut self) -> &mut Names {
        match &mut self.second {
            Some(second) if !self.old_first => second,
            _ => &mut self.first,
        }
    }

    fn new_names(&mut self) -> &mut Names {
        match &mut self.second {
            Some(second) if self.old_first => second,
            _ => &mut self.first,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_side() -> Vec<Side> {
        let bits = |n: u32, b: u32| n & (1 << b) != 0;
        (0..32)
            .map(|n| Side {
                is_dir: bits(n, 0),
                has_lower: bits(n, 1),
                covers: bits(n, 2),
                opaque: bits(n, 3),
                into_merged: bits(n, 4),
            })
            .collect()
    }

    fn every_fact() -> impl Iterator<Item = Facts> {
        let modes = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
        let targets: Vec<Option<Side>> =
            std::iter::once(None).chain(every_side().into_iter().map(Some)).collect();
        every_side().into_iter().flat_map(move |source| {
            let targets = targets.clone();
            modes.into_iter().flat_map(move |mode| {
                let targets = targets.clone();
                targets.into_iter().flat_map(move |target| {
                    [false, true].into_iter().flat_map(move |may_redirect| {
                        [false, true].into_iter().map(move |w| Facts {
                            mode,
                            source,
                            target,
                            target_whiteout: w && target.is_none(),
                            may_redirect,
                        })
                    })
                })
            })
        })
    }

    #[test]
    fn whatever_covers_a_lower_name_leaves_a_whiteout_behind_d8() {
        for f in every_fact() {
            let Ok(p) = plan(&f) else { continue };
            if f.mode != RenameMode::Exchange && f.source.covers {
                let left = p.flag == RenameFlag::Whiteout
                    || (p.flag == RenameFlag::Exchange && f.target_whiteout && !p.drop_whiteout);
                assert!(left, "{f:?} {p:?}");
            }
            if f.mode != RenameMode::Exchange && !f.source.covers {
                assert!(p.flag == RenameFlag::Replace || p.drop_whiteout, "{f:?} {p:?}");
            }
        }
    }

    #[test]
    fn a_directory_with_a_lower_part_moves_only_with_a_redirect_d9_d10() {
        for f in every_fact() {
            let merged = f.source.is_dir && f.source.has_lower;
            match plan(&f) {
                Ok(p) if merged => assert!(f.may_redirect && p.source == Before::Redirect),
                Err(Errno::EXDEV) => assert!(!f.may_redirect),
                _ => {}
            }
        }
    }

    #[test]
    fn a_pure_directory_moved_into_a_merged_one_becomes_opaque_d11() {
        for f in every_fact() {
            let Ok(p) = plan(&f) else { continue };
            let s = f.source;
            if s.is_dir && !s.has_lower && !s.opaque && s.into_merged {
                assert_eq!(p.source, Before::Opaque, "{f:?}");
            }
        }
    }

    #[test]
    fn types_and_existing_targets_are_refused_as_by_the_vfs_d12_d13() {
        for f in every_fact() {
            let result = plan(&f);
            match (f.mode, f.target) {
                (RenameMode::Exchange, None) => assert!(matches!(result, Err(Errno::ENOENT | Errno::EXDEV))),
                (RenameMode::NoReplace, Some(_)) => {
                    assert!(matches!(result, Err(Errno::EEXIST | Errno::EXDEV)));
                }
                (RenameMode::Replace, Some(t)) if t.is_dir != f.source.is_dir => assert!(result.is_err()),
                _ => {}
            }
        }
    }
}
