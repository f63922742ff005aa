//! Carrying out a plan, from wherever an earlier call was stopped.
//!
//! Three marks in the stage divide the work: before `staged` only the stage is written; before `parked` renamed
//! directories are taken out of the tree; after it each step says by what it finds whether it was done. A staged file
//! or a parked directory that is no longer in the stage is where it belongs.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::sync::atomic::AtomicBool;

use super::plan::{Plan, Step, Timed, parent};
use super::stage::{Stage, name, remove_any};
use super::{Dest, dress};
use crate::diff::{Seen, Tree};
use crate::error::SetupError;
use crate::sys::{Dir, Errno, Kind, NameBuf, RenameFlag, Result, SetTime, copy};
use crate::union::control::Text;

/// Told how many of how many steps are done.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize);

/// Work in progress.
pub(super) struct Acting<'a> {
    dest: &'a Dest,
    stage: &'a Stage,
    plan: &'a Plan,
    now: &'a Tree,
    progress: Progress<'a>,
    done: usize,
    /// The directory used last.
    last: Option<(Vec<u8>, Dir)>,
}

impl<'a> Acting<'a> {
    pub(super) fn new(
        dest: &'a Dest,
        stage: &'a Stage,
        plan: &'a Plan,
        now: &'a Tree,
        progress: Progress<'a>,
    ) -> Self {
        Acting { dest, stage, plan, now, progress, done: 0, last: None }
    }

    /// Does what is left to do.
    pub(super) fn run(mut self) -> std::result::Result<(), SetupError> {
        let plan = self.plan;
        if !self.mark_is_there("staged")? {
            for (number, path) in plan.staged.iter().enumerate() {
                self.build(number, path.as_bytes())
                    .map_err(|e| self.failed("build the new", path.as_bytes(), e))?;
                self.tick();
            }
            self.dest.dir.syncfs().map_err(|e| self.failed("bring to disk the new files for", b".", e))?;
            self.mark("staged")?;
        }
        if !self.mark_is_there("parked")? {
            for (number, path) in plan.parked.iter().enumerate() {
                self.park(number, path.as_bytes()).map_err(|e| self.failed("move", path.as_bytes(), e))?;
            }
            self.mark("parked")?;
        }
        for step in &plan.steps {
            let (path, done) = self.step(step);
            done.map_err(|e| self.failed("change", path.as_bytes(), e))?;
            self.tick();
        }
        self.directories()
    }

    fn tick(&mut self) {
        self.done += 1;
        (self.progress)(self.done, self.plan.staged.len() + self.plan.steps.len());
    }

    fn failed(&self, what: &str, path: &[u8], errno: Errno) -> SetupError {
        let path = self.dest.path.join(Text::from(path).to_path());
        let failed = SetupError::new(what, errno.desc()).at(path);
        failed.hint("the changes are not finished; the same command goes on with them")
    }

    fn mark_is_there(&self, mark: &str) -> std::result::Result<bool, SetupError> {
        self.stage.has(mark).map_err(|e| self.failed("read the stage in", b".", e))
    }

    fn mark(&self, mark: &str) -> std::result::Result<(), SetupError> {
        self.stage.mark(mark).map_err(|e| self.failed("write the stage in", b".", e))
    }

    /// The object at `path` as the changes have it.
    fn seen(&self, path: &[u8]) -> Result<Seen<'a>> {
        self.now.find(path)?.ok_or(Errno::ENOENT)
    }

    /// The directory of the tree that `path` is in, and its name there.
    fn place(&mut self, path: &[u8]) -> Result<(&Dir, NameBuf)> {
        let above = parent(path);
        let last = path.rsplit(|&b| b == b'/').next().unwrap_or_default();
        if self.last.as_ref().is_none_or(|(known, _)| known != above) {
            self.last = Some((above.to_vec(), open(&self.dest.dir, above)?));
        }
        let dir = self.last.as_ref().map(|(_, dir)| dir).ok_or(Errno::EIO)?;
        Ok((dir, NameBuf::new(last)?))
    }

    /// Builds a file in the stage.
    fn build(&mut self, number: usize, path: &[u8]) -> Result<()> {
        let (staged, new) = (staged(number)?, name("new")?);
        let like = self.seen(path)?;
        let dir = &self.stage.dir;
        remove_any(dir, &new)?;
        match like.attr.kind() {
            Kind::File => {
                let to = dir.create(&new, libc::O_WRONLY, 0o600)?;
                let from = like.data()?.file()?;
                copy::copy_data(from.as_fd(), to.as_fd(), like.attr.size, &AtomicBool::new(false))?;
            }
            Kind::Symlink => {
                let target = std::ffi::CString::new(like.target()?).map_err(|_| Errno::EINVAL)?;
                dir.symlink(&new, &target)?;
            }
            kind => dir.mknod(&new, kind.mode_bits() | 0o600, like.attr.rdev)?,
        }
        dress::dress(dir.at(&new), &like)?;
        dir.rename(&new, dir, &staged, RenameFlag::Replace)
    }

    fn park(&mut self, number: usize, path: &[u8]) -> Result<()> {
        let parked = parked(number)?;
        let stage = self.stage;
        let (dir, name) = self.place(path)?;
        match stage.dir.find(&parked)? {
            Some(_) => Ok(()),
            None => dir.rename(&name, &stage.dir, &parked, RenameFlag::NoReplace),
        }
    }

    fn step<'s>(&mut self, step: &'s Step) -> (&'s Text, Result<()>) {
        match step {
            Step::Remove(path) => (path, self.clear(path.as_bytes())),
            Step::Directory(path) => (path, self.directory(path.as_bytes())),
            Step::Place(path, number) => {
                (path, parked(*number).and_then(|from| self.put(path.as_bytes(), &from)))
            }
            Step::Put(path, number) => {
                (path, staged(*number).and_then(|from| self.put(path.as_bytes(), &from)))
            }
            Step::Link(path, number) => (path, self.link(path.as_bytes(), *number)),
            Step::LinkTo(path, base) => (path, self.link_to(path.as_bytes(), base.as_bytes())),
            Step::Adjust(path) => (path, self.adjust(path.as_bytes())),
        }
    }

    /// Takes away what is at `path`: a directory at once, then what is in it.
    fn clear(&mut self, path: &[u8]) -> Result<()> {
        let stage = self.stage;
        let (dir, last) = self.place(path)?;
        let trash = name("trash")?;
        match dir.find(&last)? {
            None => Ok(()),
            Some(stat) if stat.kind() == Kind::Dir => {
                remove_any(&stage.dir, &trash)?;
                dir.rename(&last, &stage.dir, &trash, RenameFlag::NoReplace)?;
                self.last = None;
                remove_any(&stage.dir, &trash)
            }
            Some(_) => dir.unlink(&last),
        }
    }

    fn directory(&mut self, path: &[u8]) -> Result<()> {
        let (dir, name) = self.place(path)?;
        match dir.find(&name)? {
            Some(stat) if stat.kind() == Kind::Dir => return Ok(()),
            Some(_) => dir.unlink(&name)?,
            None => {}
        }
        dir.mkdir(&name, 0o700)
    }

    /// Puts what is `from` in the stage at `path`; nothing if it is there already.
    fn put(&mut self, path: &[u8], from: &NameBuf) -> Result<()> {
        let stage = self.stage;
        let Some(new) = stage.dir.find(from)? else { return Ok(()) };
        self.make_room(path, new.kind())?;
        let (dir, name) = self.place(path)?;
        let done = stage.dir.rename(from, dir, &name, RenameFlag::Replace);
        if new.kind() == Kind::Dir {
            self.last = None;
        }
        done
    }

    /// A rename replaces a file by a file; everything else has to go first.
    fn make_room(&mut self, path: &[u8], kind: Kind) -> Result<()> {
        let (dir, name) = self.place(path)?;
        match dir.find(&name)? {
            Some(old) if old.kind() == Kind::Dir || kind == Kind::Dir => self.clear(path),
            _ => Ok(()),
        }
    }

    fn link(&mut self, path: &[u8], number: usize) -> Result<()> {
        let (stage, staged, new) = (self.stage, staged(number)?, name("new")?);
        remove_any(&stage.dir, &new)?;
        stage.dir.link(stage.dir.at(&staged), &new)?;
        self.make_room(path, Kind::File)?;
        let (dir, name) = self.place(path)?;
        stage.dir.rename(&new, dir, &name, RenameFlag::Replace)
    }

    fn link_to(&mut self, path: &[u8], base: &[u8]) -> Result<()> {
        let (stage, new) = (self.stage, name("new")?);
        remove_any(&stage.dir, &new)?;
        let (dir, name) = self.place(base)?;
        let is = dir.stat(&name)?;
        stage.dir.link(dir.at(&name), &new)?;
        let (dir, name) = self.place(path)?;
        if dir.find(&name)?.is_some_and(|there| (there.dev, there.ino) == (is.dev, is.ino)) {
            return Ok(());
        }
        self.make_room(path, Kind::File)?;
        let (dir, name) = self.place(path)?;
        stage.dir.rename(&new, dir, &name, RenameFlag::Replace)
    }

    fn adjust(&mut self, path: &[u8]) -> Result<()> {
        let like = self.seen(path)?;
        let (dir, name) = self.place(path)?;
        dress::dress(dir.at(&name), &like)
    }

    /// Attributes and times of directories, the deepest first; the root's time comes after the stage is gone.
    fn directories(&mut self) -> std::result::Result<(), SetupError> {
        self.last = None;
        let plan = self.plan;
        let times: BTreeMap<&[u8], &Timed> =
            plan.timed.iter().map(|timed| (timed.path.as_bytes(), timed)).collect();
        let all: BTreeSet<&[u8]> =
            plan.dressed.iter().map(Vec::as_slice).chain(times.keys().copied()).collect();
        for path in all.into_iter().rev() {
            self.finish_directory(path, plan.dressed.contains(path), times.get(path).copied())
                .map_err(|e| self.failed("change the directory", path, e))?;
        }
        Ok(())
    }

    fn finish_directory(&self, path: &[u8], dressed: bool, timed: Option<&Timed>) -> Result<()> {
        let dir = open(&self.dest.dir, path)?;
        if dressed {
            dress::dress(dir.this(), &self.seen(path)?)?;
        }
        let Some(timed) = timed else { return Ok(()) };
        let [atime, mtime] = timed.times.map(|time| Some(SetTime::To(time.into())));
        dir.this().utimens(atime, mtime)
    }
}

/// A directory of the tree by its path.
fn open(root: &Dir, path: &[u8]) -> Result<Dir> {
    let mut dir = Dir::from(root.this().pin()?);
    if path != b"." {
        for part in path.split(|&b| b == b'/') {
            dir = dir.open_dir(&NameBuf::new(part)?)?;
        }
    }
    Ok(dir)
}

fn staged(number: usize) -> Result<NameBuf> {
    name(&format!("file-{number}"))
}

fn parked(number: usize) -> Result<NameBuf> {
    name(&format!("directory-{number}"))
}
