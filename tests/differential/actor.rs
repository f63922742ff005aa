//! Performs operations on one side.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use nix::errno::Errno;

use super::attributes;
use super::listing::Stream;
use super::op::{Op, Rel, Slot, Who};
use super::outcome::{Clock, Labels, Outcome, Value};
use super::stack::Set;
use super::upper;
use crate::support::sys::{self, Answer, FileHandle, Mapping};
use crate::support::{layer, tree};

/// One side: a mounted set of layers, and what a program holds open in it.
pub struct Actor {
    /// The layers below the mount.
    pub set: Set,
    /// Names of the lower inode numbers.
    pub labels: Labels,
    /// What "now" means.
    pub clock: Clock,
    /// Kept descriptors.
    pub slots: HashMap<Slot, OwnedFd>,
    pub(super) streams: HashMap<Slot, Stream>,
    /// Flaws seen in passing that the kernel has in rare cases: the candidate may have no others.
    pub complaints: Vec<String>,
    pub(super) remembered: HashMap<Vec<u8>, libc::statx>,
    maps: HashMap<Slot, Mapping>,
    handles: HashMap<Slot, FileHandle>,
    events: Option<OwnedFd>,
}

impl Actor {
    /// Starts with nothing open.
    pub fn new(set: Set, labels: Labels, clock: Clock) -> Self {
        Self {
            set,
            labels,
            clock,
            slots: HashMap::new(),
            streams: HashMap::new(),
            complaints: Vec::new(),
            remembered: HashMap::new(),
            maps: HashMap::new(),
            handles: HashMap::new(),
            events: None,
        }
    }

    /// Closes and unmaps everything; what is remembered, and file handles, stay.
    pub fn let_go(&mut self) {
        self.maps.clear();
        self.streams.clear();
        self.slots.clear();
        self.events = None;
    }

    /// The absolute path of a relative one.
    pub fn path(&self, path: &Rel) -> Vec<u8> {
        if let [b'@', digit @ b'0'..=b'9', rest @ ..] = path.0.as_slice() {
            let fd = self.slots.get(&(digit - b'0')).map_or(-1, AsRawFd::as_raw_fd);
            return [format!("/proc/self/fd/{fd}").as_bytes(), rest].concat();
        }
        let root = self.set.mount_point.as_os_str().as_bytes();
        if path.0.is_empty() { root.to_vec() } else { [root, b"/", &path.0].concat() }
    }

    /// The descriptor in a slot.
    pub fn fd(&self, slot: Slot) -> Answer<RawFd> {
        self.slots.get(&slot).map(AsRawFd::as_raw_fd).ok_or(Errno::EBADF)
    }

    /// Performs one operation as somebody.
    pub fn perform(&mut self, op: &Op, who: &Who) -> Outcome {
        let ordinary = who.uid != 0 || who.gid != 0 || !who.groups.is_empty();
        if ordinary {
            sys::become_user(who.uid, who.gid, &who.groups).expect("becoming another user");
        }
        let outcome = self.dispatch(op);
        if ordinary {
            sys::become_user(0, 0, &[]).expect("becoming root again");
        }
        outcome
    }

    fn dispatch(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Umask(_) | Op::Become(_) | Op::Remount => unreachable!("the pair does this for both sides"),
            Op::Open { .. }
            | Op::Close(_)
            | Op::Read { .. }
            | Op::Pread { .. }
            | Op::Write { .. }
            | Op::Pwrite { .. }
            | Op::DirectRead { .. }
            | Op::DirectWrite { .. }
            | Op::Seek { .. }
            | Op::Fsync(_)
            | Op::Fdatasync(_)
            | Op::Syncfs(_)
            | Op::Fallocate { .. }
            | Op::CopyRange { .. }
            | Op::Clone { .. }
            | Op::Flock { .. }
            | Op::OfdLock { .. } => self.descriptor(op),
            Op::Map { .. } | Op::MapRead { .. } | Op::MapWrite { .. } | Op::MapSync(_) | Op::Unmap(_) => {
                self.mapping(op)
            }
            Op::ReadFile(_) | Op::WriteFile { .. } | Op::Append { .. } | Op::Execute(_) => {
                self.whole_file(op)
            }
            Op::Mkdir { .. }
            | Op::Mknod { .. }
            | Op::Symlink { .. }
            | Op::Link { .. }
            | Op::LinkSlot { .. }
            | Op::Unlink(_)
            | Op::Rmdir(_)
            | Op::Rename { .. }
            | Op::Readlink(_) => self.name(op),
            Op::List(_)
            | Op::ListSlot { .. }
            | Op::ListSome { .. }
            | Op::SeekEntry { .. }
            | Op::RemoveListed { .. }
            | Op::ListRest { .. }
            | Op::Drain { .. } => self.listing(op),
            Op::Watch { .. } | Op::Events => self.watching(op),
            Op::Handle { .. } | Op::OpenHandle { .. } => self.handle(op),
            Op::Upper(path) => self.upper(path),
            Op::Work(path) => self.work(path),
            _ => attributes::perform(self, op),
        }
    }

    fn descriptor(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Open { slot, path, flags, mode } => {
                let fd = sys::open(&self.path(path), *flags, *mode)?;
                self.streams.remove(slot);
                self.slots.insert(*slot, fd);
                Ok(Value::Nothing)
            }
            Op::Close(slot) => {
                self.streams.remove(slot);
                self.slots.remove(slot).map(|_| Value::Nothing).ok_or(Errno::EBADF)
            }
            Op::Read { slot, len } => sys::read(self.fd(*slot)?, *len).map(Value::Bytes),
            Op::Pread { slot, offset, len } => sys::pread(self.fd(*slot)?, *offset, *len).map(Value::Bytes),
            Op::Write { slot, data } => sys::write(self.fd(*slot)?, data).map(Value::Number),
            Op::Pwrite { slot, offset, data } => {
                sys::pwrite(self.fd(*slot)?, *offset, data).map(Value::Number)
            }
            Op::DirectRead { slot, offset, len } => {
                sys::pread_aligned(self.fd(*slot)?, *offset, *len).map(Value::Bytes)
            }
            Op::DirectWrite { slot, offset, data } => {
                sys::pwrite_aligned(self.fd(*slot)?, *offset, data).map(Value::Number)
            }
            Op::Seek { slot, offset, whence } => {
                sys::lseek(self.fd(*slot)?, *offset, *whence).map(Value::Number)
            }
            Op::Fsync(slot) => done(sys::fsync(self.fd(*slot)?)),
            Op::Fdatasync(slot) => done(sys::fdatasync(self.fd(*slot)?)),
            Op::Syncfs(slot) => done(sys::syncfs(self.fd(*slot)?)),
            Op::Fallocate { slot, mode, offset, len } => {
                done(sys::fallocate(self.fd(*slot)?, *mode, *offset, *len))
            }
            Op::CopyRange { from, from_at, to, to_at, len } => {
                sys::copy_file_range(self.fd(*from)?, *from_at, self.fd(*to)?, *to_at, *len)
                    .map(Value::Number)
            }
            Op::Clone { from, to } => done(sys::clone_file(self.fd(*from)?, self.fd(*to)?)),
            Op::Flock { slot, operation } => lock(|fd| sys::flock(fd, *operation), self.fd(*slot)?),
            Op::OfdLock { slot, kind } => lock(|fd| sys::ofd_lock(fd, *kind), self.fd(*slot)?),
            _ => unreachable!("not about a descriptor: {op:?}"),
        }
    }

    fn mapping(&mut self, op: &Op) -> Outcome {
        let map = |slot| self.maps.get(slot).ok_or(Errno::EBADF);
        match op {
            Op::Map { map, slot, len, writable, shared } => {
                let mapping = Mapping::new(self.fd(*slot)?, *len, *writable, *shared)?;
                self.maps.insert(*map, mapping);
                Ok(Value::Nothing)
            }
            Op::MapRead { map: slot, offset, len } => map(slot)?.read(*offset, *len).map(Value::Bytes),
            Op::MapWrite { map: slot, offset, data } => map(slot)?.write(*offset, data).map(Value::Number),
            Op::MapSync(slot) => done(map(slot)?.sync()),
            Op::Unmap(slot) => self.maps.remove(slot).map(|_| Value::Nothing).ok_or(Errno::EBADF),
            _ => unreachable!("not about a mapping: {op:?}"),
        }
    }

    fn whole_file(&mut self, op: &Op) -> Outcome {
        match op {
            Op::ReadFile(path) => {
                let fd = sys::open(&self.path(path), libc::O_RDONLY | libc::O_NONBLOCK, 0)?;
                let mut content = Vec::new();
                loop {
                    let more = sys::read(fd.as_raw_fd(), 1 << 20)?;
                    if more.is_empty() {
                        return Ok(Value::Bytes(content));
                    }
                    content.extend(more);
                }
            }
            Op::WriteFile { path, data } => {
                let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_NONBLOCK;
                let fd = sys::open(&self.path(path), flags, 0o666)?;
                sys::write(fd.as_raw_fd(), data).map(Value::Number)
            }
            Op::Append { path, data } => {
                let fd = sys::open(&self.path(path), libc::O_WRONLY | libc::O_APPEND | libc::O_NONBLOCK, 0)?;
                sys::write(fd.as_raw_fd(), data).map(Value::Number)
            }
            Op::Execute(path) => {
                let program = PathBuf::from(std::ffi::OsString::from_vec(self.path(path)));
                match std::process::Command::new(program).status() {
                    Ok(status) => Ok(Value::Number(status.code().map_or(-1, i64::from))),
                    Err(error) => Err(error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)),
                }
            }
            _ => unreachable!("not about a whole file: {op:?}"),
        }
    }

    fn name(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Mkdir { path, mode } => done(sys::mkdir(&self.path(path), *mode)),
            Op::Mknod { path, mode, device: (major, minor) } => {
                done(sys::mknod(&self.path(path), *mode, libc::makedev(*major, *minor)))
            }
            Op::Symlink { target, path } => done(sys::symlink(&target.0, &self.path(path))),
            Op::Link { old, new } => done(sys::link(&self.path(old), &self.path(new), 0)),
            Op::LinkSlot { slot, new } => {
                let old = format!("/proc/self/fd/{}", self.fd(*slot)?);
                done(sys::link(old.as_bytes(), &self.path(new), libc::AT_SYMLINK_FOLLOW))
            }
            Op::Unlink(path) => done(sys::unlink(&self.path(path))),
            Op::Rmdir(path) => done(sys::rmdir(&self.path(path))),
            Op::Rename { from, to, flags } => done(sys::rename(&self.path(from), &self.path(to), *flags)),
            Op::Readlink(path) => sys::readlink(&self.path(path)).map(Value::Bytes),
            _ => unreachable!("not about a name: {op:?}"),
        }
    }

    fn watching(&mut self, op: &Op) -> Outcome {
        if self.events.is_none() {
            self.events = Some(sys::inotify_init()?);
        }
        let fd = self.events.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        match op {
            Op::Watch { path, mask } => sys::inotify_add(fd, &self.path(path), *mask).map(Value::Number),
            Op::Events => {
                let bytes = match sys::read(fd, 65536) {
                    Err(Errno::EAGAIN) => Vec::new(),
                    answer => answer?,
                };
                Ok(Value::Lines(events(&bytes)))
            }
            _ => unreachable!("not about events: {op:?}"),
        }
    }

    fn handle(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Handle { name, path } => {
                let handle = sys::file_handle(&self.path(path))?;
                self.handles.insert(*name, handle);
                Ok(Value::Nothing)
            }
            Op::OpenHandle { name, slot, flags } => {
                let handle = self.handles.get(name).ok_or(Errno::ENOENT)?;
                let root = sys::open(&self.path(&"".into()), libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
                let fd = sys::open_handle(root.as_fd(), handle, *flags)?;
                self.slots.insert(*slot, fd);
                Ok(Value::Nothing)
            }
            _ => unreachable!("not about handles: {op:?}"),
        }
    }

    fn upper(&self, path: &Rel) -> Outcome {
        let root = self.set.upper.as_ref().ok_or(Errno::EROFS)?;
        let at = [root.as_os_str().as_bytes(), b"/", &path.0].concat();
        let entry = tree::look(&at, path.0.clone(), None)?;
        let words = upper::describe(&entry, &self.set, self.clock);
        Ok(Value::Lines(words))
    }

    fn work(&self, path: &Rel) -> Outcome {
        let root = self.set.work.as_ref().ok_or(Errno::EROFS)?;
        let at = [root.as_os_str().as_bytes(), b"/", &path.0].concat();
        sys::stat(&at)?;
        let mut spare = true;
        let names = layer::names(&at).into_iter().filter_map(|name| {
            if name.first() == Some(&b'#') {
                // C-15: one cached whiteout may be there.
                let whiteout = tree::look(&[&at, &b"/"[..], &name].concat(), Vec::new(), None);
                let passes = whiteout.is_ok_and(|entry| entry.is_whiteout()) && std::mem::take(&mut spare);
                return (!passes).then(|| "#".to_owned());
            }
            Some(if name.len() > 20 { "handle".to_owned() } else { name.escape_ascii().to_string() })
        });
        let mut names: Vec<String> = names.collect();
        names.sort();
        Ok(Value::Lines(names))
    }
}

/// Turns success into a value.
pub fn done(answer: Answer<()>) -> Outcome {
    answer.map(|()| Value::Nothing)
}

/// Takes a lock, patiently: a process that another test is just starting has copies of all our descriptors until
/// its exec closes them, and with them it holds locks that were released here.
fn lock(take: impl Fn(RawFd) -> Answer<()>, fd: RawFd) -> Outcome {
    for _ in 0..20 {
        match take(fd) {
            Err(Errno::EAGAIN) => std::thread::sleep(std::time::Duration::from_millis(2)),
            answer => return done(answer),
        }
    }
    Err(Errno::EAGAIN)
}

fn events(mut bytes: &[u8]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    while bytes.len() >= 16 {
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (watch, mask, len) = (word(0), word(4), word(12) as usize);
        let name = bytes[16..16 + len].split(|byte| *byte == 0).next().unwrap_or_default();
        let line = format!("{watch} {mask:#x} {}", name.escape_ascii());
        if lines.last() != Some(&line) {
            lines.push(line);
        }
        bytes = &bytes[16 + len..];
    }
    lines
}
