//! The walk through the upper, with the place that each object stands for below.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::facts::{self, Marks, Wrong};
use super::{Finding, Place, Repair, Subject};
use crate::diff::tree::Tree;
use crate::error::SetupError;
use crate::layer::marks::{Mark, Prefix, RedirectTo};
use crate::layer::{DirCache, Object};
use crate::sys::clone::{Access, private_clone};
use crate::sys::{Dir, Errno, Kind, NameBuf, Result, Stat};
use crate::union::{Config, Redirect};

/// A directory to go through.
struct Frame {
    object: Arc<Object>,
    path: Vec<NameBuf>,
    /// Where the layers below have it; `None`: nothing of them is merged here.
    below: Option<Vec<NameBuf>>,
    marks: Marks,
    stat: Stat,
}

struct Walk<'a> {
    subject: &'a Subject,
    cache: DirCache,
    tree: Option<Tree>,
    found: Vec<Finding>,
    /// Directories by what they are redirected to.
    redirected: BTreeMap<Vec<NameBuf>, Vec<NameBuf>>,
}

/// Everything that is wrong in the upper, by path.
///
/// # Errors
/// What cannot be read.
pub fn findings(subject: &Subject) -> std::result::Result<Vec<Finding>, SetupError> {
    let tree = match subject.lower.is_empty() {
        true => None,
        false => Some(Tree::open(&Config {
            lower: subject.lower.clone(),
            data_only: subject.data_only.clone(),
            userxattr: subject.prefix == Prefix::User,
            redirect: Redirect::Follow,
            metacopy: true,
            oci_whiteouts: subject.lower_markers,
            ..Config::default()
        })?),
    };
    let failed = |path: &[NameBuf], e: Errno| {
        let mut place = subject.upper.clone();
        place.extend(path.iter().map(|name| std::ffi::OsStr::from_bytes(name.as_bytes())));
        SetupError::new("check", e.desc()).at(place)
    };
    let clone = private_clone(&subject.upper, Access::ReadOnly).map_err(|e| failed(&[], e))?;
    let root = Arc::new(Dir::from(clone.tree));
    let mut walk =
        Walk { subject, cache: DirCache::new(256), tree, found: Vec::new(), redirected: BTreeMap::new() };
    let first = (|| {
        let stat = root.this().stat()?;
        let marks = Marks::read(root.this(), subject.prefix)?;
        let object = Object::root(0, Arc::clone(&root), stat.ino);
        Ok(Frame { object, path: Vec::new(), below: Some(Vec::new()), marks, stat })
    })();
    let mut todo = vec![first.map_err(|e| failed(&[], e))?];
    walk.spellings();
    while let Some(frame) = todo.pop() {
        walk.directory(&frame, &mut todo).map_err(|e| failed(&frame.path, e))?;
    }
    walk.found.sort_by(|a, b| path_of(a).cmp(path_of(b)));
    Ok(walk.found)
}

fn path_of(finding: &Finding) -> &[NameBuf] {
    match &finding.place {
        Place::Upper(path) => path,
        Place::Work(_) => &[],
    }
}

impl Walk<'_> {
    fn add(&mut self, path: &[NameBuf], wrong: Wrong) {
        let (problem, why, advice, repair) = wrong;
        self.found.push(Finding { place: Place::Upper(path.to_vec()), problem, why, advice, repair });
    }

    fn spellings(&mut self) {
        if let Some(path) = self.subject.other_spelling.clone() {
            let why = "the first of the marks that are spelled user.overlay., beside others spelled trusted.overlay.; a \
                       mount reads one spelling and shows the other as attributes";
            let advice =
                "mount it with the options it was written with; acetate convert --from changes the spelling";
            self.add(&path, ("mixed-marks", why.into(), advice, None));
        }
        if self.subject.mixed_whiteouts {
            let why = "deletions are marked by devices and by .wh. files; a mount reads the one or the other";
            let advice = "acetate convert --to kernel makes devices of all of them";
            self.add(&[], ("mixed-whiteouts", why.into(), advice, None));
        }
    }

    fn directory(&mut self, frame: &Frame, todo: &mut Vec<Frame>) -> Result<()> {
        let prefix = self.subject.prefix;
        let is_root = frame.path.is_empty();
        for wrong in facts::by_itself(&frame.marks, &frame.stat, prefix, is_root) {
            self.add(&frame.path, wrong);
        }
        if let Some(wrong) = facts::overrides(&frame.marks, &frame.stat, self.subject.overridden) {
            self.add(&frame.path, wrong);
        }
        let dir = frame.object.open(&self.cache)?;
        let mut copied = false;
        for raw in dir.entries()? {
            let path = [frame.path.as_slice(), std::slice::from_ref(&raw.name)].concat();
            let Some(stat) = dir.find(&raw.name)? else { continue };
            let marks = Marks::read(dir.at(&raw.name), prefix)?;
            copied |= marks.get(Mark::Origin).is_some() || marks.get(Mark::Redirect).is_some();
            let is_whiteout = stat.is_whiteout_device()
                || stat.kind() == Kind::File && stat.size == 0 && marks.get(Mark::Whiteout).is_some();
            if is_whiteout {
                self.whiteout(frame, &raw.name, &path, &stat)?;
                continue;
            }
            if stat.kind() == Kind::Dir {
                let below = self.below(frame, &raw.name, &path, &marks)?;
                let object = Object::within(&frame.object, raw.name.clone(), &stat);
                todo.push(Frame { object, path, below, marks, stat });
                continue;
            }
            for wrong in facts::by_itself(&marks, &stat, prefix, false) {
                self.add(&path, wrong);
            }
            if let Some(wrong) = facts::overrides(&marks, &stat, self.subject.overridden) {
                self.add(&path, wrong);
            }
            if stat.kind() == Kind::File && raw.name.as_bytes().starts_with(b".wh.") {
                self.marker(&raw.name, &path);
            }
            if stat.kind() == Kind::File && marks.get(Mark::Metacopy).is_some() {
                self.metacopy(frame, &raw.name, &path, &marks)?;
            }
        }
        if copied && frame.marks.get(Mark::Impure).is_none() && !is_root {
            let why = "something in it was copied up, and the impure mark that says so is missing: inode numbers in its \
                       listing are wrong";
            let repair = Repair::SetAttr(prefix.attr(Mark::Impure).to_owned(), b"y".to_vec());
            self.add(&frame.path, ("missing-impure", why.into(), "set the mark", Some(repair)));
        }
        Ok(())
    }

    /// What is wrong with a deletion.
    fn whiteout(&mut self, frame: &Frame, name: &NameBuf, path: &[NameBuf], stat: &Stat) -> Result<()> {
        let announced = frame.marks.get(Mark::Opaque);
        if stat.kind() == Kind::File && announced != Some(b"x") {
            let why = "it is a deletion in the form of an empty file, and its directory does not carry opaque=x, which \
                       announces such: the kernel lists it";
            let attr = self.subject.prefix.attr(Mark::Opaque).to_owned();
            let repair = announced.is_none().then(|| Repair::SetAttr(attr, b"x".to_vec()));
            let parent = path.split_last().map_or(&[][..], |(_, parent)| parent).to_vec();
            let already = self
                .found
                .iter()
                .any(|f| f.problem == "unannounced-whiteout" && f.place == Place::Upper(parent.clone()));
            if !already {
                self.add(
                    &parent,
                    ("unannounced-whiteout", why.replace("it is", "in it is"), "set the mark", repair),
                );
            }
        }
        let needless = match (&frame.below, &self.tree) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(below), Some(tree)) => {
                let target = [below.as_slice(), std::slice::from_ref(name)].concat();
                tree.at(&target)?.is_none()
            }
        };
        if needless {
            let why =
                "it deletes a name that no layer below has: the kernel lists it although it cannot be opened";
            self.add(path, ("needless-whiteout", why.into(), "remove it", Some(Repair::RemoveWhiteout)));
        }
        Ok(())
    }

    fn marker(&mut self, name: &NameBuf, path: &[NameBuf]) {
        let victim = name.as_bytes().strip_prefix(b".wh.").unwrap_or_default();
        if matches!(victim, b"" | b"." | b"..") {
            let why = "it has the name of a deletion, but of a name that nothing can have";
            self.add(path, ("bad-marker", why.into(), "remove it", None));
        }
    }

    /// Where the layers below have a directory, and what is wrong with what its marks say of that.
    fn below(
        &mut self,
        frame: &Frame,
        name: &NameBuf,
        path: &[NameBuf],
        marks: &Marks,
    ) -> Result<Option<Vec<NameBuf>>> {
        if marks.get(Mark::Opaque) == Some(b"y") {
            return Ok(None);
        }
        let own = |name: &NameBuf| {
            frame.below.as_ref().map(|b| [b.as_slice(), std::slice::from_ref(name)].concat())
        };
        let target = match marks.get(Mark::Redirect).map(RedirectTo::parse) {
            Some(Ok(RedirectTo::Absolute(target))) => Some(target),
            Some(Ok(RedirectTo::Sibling(old))) => own(&old),
            Some(Err(_)) => return Ok(None),
            None => {
                let below = own(name);
                return Ok(match (&self.tree, &below) {
                    (Some(tree), Some(at)) => tree.at(at)?.filter(|s| s.attr.kind() == Kind::Dir).and(below),
                    _ => below,
                });
            }
        };
        let advice = "name all layers, in their order; if one is missing, what was in the directory is lost";
        let shown = marks.get(Mark::Redirect).unwrap_or_default().escape_ascii().to_string();
        let Some(target) = target else {
            let why =
                format!("its redirect {shown} leads nowhere: a directory around it replaces what is below");
            self.add(path, ("dangling-redirect", why, advice, None));
            return Ok(None);
        };
        if let Some(tree) = &self.tree
            && tree.at(&target)?.is_none_or(|seen| seen.attr.kind() != Kind::Dir)
        {
            let why = format!("its redirect {shown} leads to no directory in the layers below");
            self.add(path, ("dangling-redirect", why, advice, None));
            return Ok(None);
        }
        if let Some(first) = self.redirected.insert(target.clone(), path.to_vec()) {
            let other = first.iter().map(|n| n.to_string()).collect::<Vec<_>>().join("/");
            let why = format!("its redirect {shown} is that of {other} too: a copy made outside of a mount");
            self.add(path, ("double-redirect", why, "remove the copy, or copy it through a mount", None));
        }
        Ok(Some(target))
    }

    /// A file whose contents are further down.
    fn metacopy(&mut self, frame: &Frame, name: &NameBuf, path: &[NameBuf], marks: &Marks) -> Result<()> {
        let own = |name: &NameBuf| {
            frame.below.as_ref().map(|b| [b.as_slice(), std::slice::from_ref(name)].concat())
        };
        let target = match marks.get(Mark::Redirect).map(RedirectTo::parse) {
            Some(Ok(RedirectTo::Absolute(target))) => Some(target),
            Some(Ok(RedirectTo::Sibling(old))) => own(&old),
            Some(Err(_)) => return Ok(()),
            None => own(name),
        };
        let there = match (&target, &self.tree) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(target), Some(tree)) => {
                tree.at(target)?.is_some_and(|seen| seen.attr.kind() == Kind::File)
                    || self.in_data_only(target)?
            }
        };
        if !there {
            let why =
                "its contents are said to be further down, and no layer below has them: it cannot be opened";
            let advice = "name all layers, in their order; if one is missing, the contents are lost";
            self.add(path, ("dangling-metacopy", why.into(), advice, None));
        }
        Ok(())
    }

    fn in_data_only(&self, path: &[NameBuf]) -> Result<bool> {
        for layer in &self.subject.data_only {
            let mut at = layer.clone();
            at.extend(path.iter().map(|name| std::ffi::OsStr::from_bytes(name.as_bytes())));
            if std::fs::symlink_metadata(at).is_ok_and(|m| m.is_file()) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
