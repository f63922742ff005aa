//! Which server belongs to which mount: one small file per server, in a directory of its user.
//!
//! mountinfo knows every mount but not its server, and who unmounts wants to wait for the server. The files are a
//! hint and never believed: a record counts only while the process it names is alive and is the one that wrote it
//! (number and start time, seen from the same pid namespace), and a mount is recognised by its connection, which is
//! one number in every mount namespace.

use std::fs::{DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::SetupError;
use crate::sys::process::{self, Process};
use crate::union::control::{LayerInfo, Text};

/// Where in its life a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It serves.
    Mounted,
    /// The mount is gone; what was written is brought to disk.
    Finishing,
}

/// A server and its mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Where in its life it is.
    pub state: State,
    /// Its process id.
    pub pid: u32,
    /// When that process was started, in clock ticks since boot.
    pub start: u64,
    /// The pid namespace in which `pid` counts.
    pub pid_namespace: String,
    /// Minor device number of the mount.
    pub connection: u32,
    /// The mount's unique id.
    pub mount_id: u64,
    /// Where it was mounted.
    pub mountpoint: Text,
    /// The upper, the lowers, the data-only layers.
    pub layers: Vec<LayerInfo>,
    /// The work directory.
    pub work: Option<Text>,
    /// The settled options.
    pub options: Vec<String>,
    /// When it was mounted, in seconds since 1970.
    pub since: u64,
}

impl Record {
    /// A process that is found by nobody else: this one. `None` without /proc.
    pub fn identity() -> Option<(u32, u64, String)> {
        let pid = std::process::id();
        Some((pid, process::start_of(pid)?, pid_namespace()?))
    }

    /// The server, held. `None`: it is gone, or cannot be seen from here.
    pub fn server(&self) -> Option<Process> {
        match pid_namespace() {
            Some(here) if here == self.pid_namespace => Process::find(self.pid, self.start).ok().flatten(),
            _ => None,
        }
    }
}

fn pid_namespace() -> Option<String> {
    Some(std::fs::read_link("/proc/self/ns/pid").ok()?.to_string_lossy().into_owned())
}

/// The directories in which records of user `uid` can be, the preferred one first.
fn places(uid: u32) -> Vec<PathBuf> {
    let own = nix::unistd::geteuid().as_raw() == uid;
    let session =
        std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| own && dir.is_absolute());
    let mut places = match uid {
        0 => vec![PathBuf::from("/run/acetate")],
        _ => vec![PathBuf::from(format!("/run/user/{uid}/acetate"))],
    };
    if let Some(session) = session.filter(|_| uid != 0) {
        places.insert(0, session.join("acetate"));
    }
    places.push(PathBuf::from(format!("/tmp/acetate-{uid}")));
    places
}

/// Whether `dir` is a directory that `uid` alone may fill. Anybody can create names in /tmp.
fn belongs_to(dir: &Path, uid: u32) -> bool {
    dir.symlink_metadata()
        .is_ok_and(|found| found.is_dir() && found.uid() == uid && found.mode() & 0o022 == 0)
}

/// This server's own record; removed when it ends.
#[derive(Debug)]
pub struct Entry {
    path: PathBuf,
    record: Record,
}

impl Entry {
    /// Writes `record` where others find it.
    ///
    /// # Errors
    /// When no directory for it can be made; the mount works all the same, but nobody can wait for its end.
    pub fn publish(record: Record) -> Result<Entry, SetupError> {
        let uid = nix::unistd::geteuid().as_raw();
        let mut failure = String::from("no directory for it");
        for dir in places(uid) {
            if let Err(e) = DirBuilder::new().mode(0o700).create(&dir) {
                failure = format!("{}: {e}", dir.display());
            }
            if !belongs_to(&dir, uid) {
                continue;
            }
            let path = dir.join(format!("{}-{}.json", record.pid, record.connection));
            match write(&path, &record) {
                Ok(()) => return Ok(Entry { path, record }),
                Err(e) => failure = format!("{}: {e}", path.display()),
            }
        }
        Err(SetupError::new("record the mount for acetate list and umount", failure))
    }

    /// Says that the mount is gone and only the disk is waited for.
    pub fn finishing(&mut self) {
        self.record.state = State::Finishing;
        if let Err(e) = write(&self.path, &self.record) {
            log::debug!("{}: {e}", self.path.display());
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    if let Err(e) = std::fs::remove_file(path) {
        log::debug!("{}: {e}", path.display());
    }
}

/// Whole or not at all: readers look at any time.
fn write(path: &Path, record: &Record) -> std::io::Result<()> {
    let staged = path.with_extension("new");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&staged)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    std::fs::rename(&staged, path)
}

/// The records of servers of user `uid` that are alive. Those of dead ones are removed on the way.
pub fn records(uid: u32) -> Vec<Record> {
    let mut alive = Vec::new();
    for dir in places(uid).into_iter().filter(|dir| belongs_to(dir, uid)) {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for path in
            entries.flatten().map(|entry| entry.path()).filter(|p| p.extension().is_some_and(|e| e == "json"))
        {
            match read(&path) {
                Some(record) if record.server().is_some() => alive.push(record),
                Some(record) if Some(&record.pid_namespace) == pid_namespace().as_ref() => remove(&path),
                _ => {}
            }
        }
    }
    alive
}

fn read(path: &Path) -> Option<Record> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// The record of the server of connection `connection`, mounted by user `uid`. The kernel gives the number to another
/// mount as soon as one is gone, while its server may still be syncing: the latest mount is the one that is there.
pub fn find(uid: u32, connection: u32) -> Option<Record> {
    let of_connection = records(uid).into_iter().filter(|record| record.connection == connection);
    of_connection.max_by_key(|record| record.mount_id)
}

/// What `record` has become since; `None` when its server has ended.
pub fn again(uid: u32, record: &Record) -> Option<Record> {
    records(uid).into_iter().find(|now| (now.pid, now.mount_id) == (record.pid, record.mount_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let (pid, start, pid_namespace) = Record::identity().unwrap();
        Record {
            state: State::Mounted,
            pid,
            start,
            pid_namespace,
            connection: 7,
            mount_id: 1 << 40,
            mountpoint: Text::from(&b"/m\xff"[..]),
            layers: Vec::new(),
            work: None,
            options: vec!["ro".into()],
            since: 1,
        }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1-7.json");
        write(&path, &record()).unwrap();
        assert_eq!(read(&path).unwrap(), record());
        std::fs::write(&path, "{").unwrap();
        assert_eq!(read(&path), None);
    }

    #[test]
    fn a_record_counts_only_while_the_process_that_wrote_it_lives() {
        let mut stale = record();
        assert!(stale.server().is_some());
        stale.start += 1;
        assert!(stale.server().is_none());
        let mut elsewhere = record();
        elsewhere.pid_namespace = "pid:[1]".into();
        assert!(elsewhere.server().is_none());
    }

    #[test]
    fn a_directory_that_others_can_fill_is_not_believed() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let uid = nix::unistd::geteuid().as_raw();
        assert!(belongs_to(dir.path(), uid));
        assert!(!belongs_to(dir.path(), uid + 1));
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!belongs_to(dir.path(), uid));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/", &link).unwrap();
        assert!(!belongs_to(&link, uid));
    }
}
