//! The stage: a directory in the tree for what is not visible yet, and for what a call after a crash must know.
//!
//! Making it changes the time of the root, so its name says what that time was: even a crash right after leaves it
//! known. That a tree has all changes of an upper is noted on the upper, in an attribute that no mount shows.

use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};

use super::plan::Plan;
use super::{Dest, Request};
use crate::error::SetupError;
use crate::sys::{Dir, Errno, Name, NameBuf, RenameFlag, Result, SetTime, Time};
use crate::union::control::Text;

const PREFIX: &str = ".acetate-apply.";

/// The stage of a tree.
#[derive(Debug)]
pub(super) struct Stage {
    pub dir: Dir,
    name: NameBuf,
    /// The time of the root before.
    before: Time,
}

/// What is written down.
#[derive(Serialize, Deserialize)]
struct Journal {
    upper: Text,
    plan: Plan,
}

/// Sets the time of the root, which making and removing the stage disturbs.
pub(super) fn set_time(root: &Dir, time: Time) -> Result<()> {
    root.this().utimens(None, Some(SetTime::To(time)))
}

pub(super) fn name(text: &str) -> Result<NameBuf> {
    NameBuf::new(text.as_bytes())
}

impl Stage {
    /// The stage that an earlier call left in `root`.
    pub(super) fn find(root: &Dir) -> Result<Option<Stage>> {
        for entry in root.entries()? {
            if let Some(before) = time_in(&entry.name) {
                return Ok(Some(Stage { dir: root.open_dir(&entry.name)?, name: entry.name, before }));
            }
        }
        Ok(None)
    }

    pub(super) fn create(root: &Dir) -> Result<Stage> {
        let before = root.this().stat()?.mtime;
        let name = name(&format!("{PREFIX}{}.{:09}", before.secs, before.nanos))?;
        root.mkdir(&name, 0o700)?;
        let dir = root.open_dir(&name)?;
        // What the tree's default ACL would give to new files is none of ours.
        for acl in [c"system.posix_acl_default", c"system.posix_acl_access"] {
            match dir.this().removexattr(acl) {
                Ok(()) | Err(Errno::ENODATA | Errno::EOPNOTSUPP) => {}
                Err(e) => return Err(e),
            }
        }
        dir.this().chmod(0o700)?;
        Ok(Stage { dir, name, before })
    }

    /// Writes the plan down: all of it or nothing.
    pub(super) fn write(&self, plan: &Plan, upper: &std::path::Path) -> Result<()> {
        let (new, journal) = (name("journal.new")?, name("journal")?);
        let text = serde_json::to_vec(&Journal { upper: Text::from(upper), plan: plan.clone() })
            .map_err(|_| Errno::EINVAL)?;
        let mut file = std::fs::File::from(self.dir.create(&new, libc::O_WRONLY, 0o600)?);
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(crate::sys::errno_of)?;
        self.dir.rename(&new, &self.dir, &journal, RenameFlag::Replace)?;
        self.dir.sync()
    }

    /// The plan of the call that made the stage. `None`: it had none yet, and nothing was touched.
    pub(super) fn journal(&self, upper: &std::path::Path) -> std::result::Result<Option<Plan>, SetupError> {
        let failed = |e: &dyn std::fmt::Display| SetupError::new("go on with the interrupted changes of", e);
        let file = match name("journal").and_then(|journal| self.dir.at(&journal).open(libc::O_RDONLY)) {
            Err(Errno::ENOENT) => return Ok(None),
            file => file.map_err(|e| failed(&e.desc()))?,
        };
        let mut text = Vec::new();
        std::fs::File::from(file).read_to_end(&mut text).map_err(|e| failed(&e))?;
        let journal: Journal = serde_json::from_slice(&text).map_err(|e| failed(&e))?;
        if journal.upper.as_bytes() != upper.as_os_str().as_bytes() {
            return Err(failed(&format!("they are those of {}, and not finished", journal.upper))
                .hint(format!("finish them first: acetate apply {} DEST", journal.upper)));
        }
        Ok(Some(journal.plan))
    }

    /// Whether a mark of progress is there.
    pub(super) fn has(&self, mark: &str) -> Result<bool> {
        Ok(self.dir.find(&name(mark)?)?.is_some())
    }

    /// Makes a mark of progress.
    pub(super) fn mark(&self, mark: &str) -> Result<()> {
        match self.dir.mkdir(&name(mark)?, 0o700) {
            Err(Errno::EEXIST) => Ok(()),
            done => done,
        }
    }

    /// The time that the root is to have when all is done.
    pub(super) fn root_time(&self, plan: &Plan) -> Time {
        plan.root_time.map_or(self.before, Time::from)
    }

    /// Says that the plan is carried out: what is in the stage now is garbage.
    pub(super) fn done(&self) -> Result<()> {
        self.dir.rename(&name("journal")?, &self.dir, &name("journal.done")?, RenameFlag::Replace)
    }

    /// Removes it; to be called only when there is no plan or it is carried out.
    pub(super) fn remove(self, root: &Dir) -> Result<()> {
        for entry in self.dir.entries()? {
            remove_any(&self.dir, &entry.name)?;
        }
        root.rmdir(&self.name)?;
        set_time(root, self.before)
    }
}

/// Removes `name` with everything in it; absence is no error.
pub(super) fn remove_any(dir: &Dir, name: &Name) -> Result<()> {
    match dir.unlink(name) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(Errno::EISDIR | Errno::EPERM) => crate::upper::remove_tree(dir, name),
        Err(e) => Err(e),
    }
}

/// The time in the name of a stage.
fn time_in(name: &Name) -> Option<Time> {
    parse_time(std::str::from_utf8(name.as_bytes()).ok()?.strip_prefix(PREFIX)?)
}

fn parse_time(text: &str) -> Option<Time> {
    let (secs, nanos) = text.split_once('.')?;
    Some(Time { secs: secs.parse().ok()?, nanos: nanos.parse().ok()? })
}

fn attribute(request: &Request) -> &'static std::ffi::CStr {
    if request.stack.userxattr { c"user.overlay.acetate.applied" } else { c"trusted.overlay.acetate.applied" }
}

/// Notes on the upper that the tree has its changes; `time`: all but the time of the root. An upper that cannot be
/// written, or whose file system has no attributes, goes without: its changes are then compared again.
pub(super) fn mark_applied(request: &Request, dest: &Dest, digest: u64, time: Option<Time>) -> Result<()> {
    let time = time.map_or(String::new(), |time| format!(" {}.{}", time.secs, time.nanos));
    let value = format!("{digest:x} {}:{}{time}", dest.stat.dev, dest.stat.ino);
    let upper = Dir::open_path(&request.stack.upper)?;
    match upper.this().setxattr(attribute(request), value.as_bytes(), 0) {
        Err(Errno::EOPNOTSUPP | Errno::EROFS | Errno::EPERM | Errno::EACCES | Errno::ENOSPC) => {
            log::debug!("{} is not marked as applied", request.stack.upper.display());
            Ok(())
        }
        done => done,
    }
}

/// Whether this upper, as it is now, was applied to this tree. Sets the time of the root if the call that did it was
/// killed before it came to that.
pub(super) fn is_applied(request: &Request, dest: &Dest, digest: u64) -> Result<bool> {
    let upper = Dir::open_path(&request.stack.upper)?;
    let Some(value) = upper.this().find_xattr(attribute(request))? else { return Ok(false) };
    let value = String::from_utf8_lossy(&value).into_owned();
    let mut words = value.split(' ');
    let own = [format!("{digest:x}"), format!("{}:{}", dest.stat.dev, dest.stat.ino)];
    if own.iter().any(|word| words.next() != Some(word)) {
        return Ok(false);
    }
    if let Some(time) = words.next().and_then(parse_time) {
        set_time(&dest.dir, time)?;
        mark_applied(request, dest, digest, None)?;
    }
    Ok(true)
}
