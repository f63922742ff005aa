//! Performs the operations on directory streams. The order of a listing is the filesystem's own affair, so
//! answers speak about sets: what came, what came twice, what never came.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, RawFd};

use nix::errno::Errno;

use super::actor::Actor;
use super::op::{Op, Slot};
use super::outcome::{Outcome, Value};
use crate::support::layer::literal;
use crate::support::sys::{self, Answer, Dirent};

/// What a directory stream has given so far.
#[derive(Debug, Default)]
pub struct Stream {
    start: i64,
    given: Vec<Dirent>,
    initial: BTreeSet<Vec<u8>>,
}

impl Actor {
    pub(super) fn listing(&mut self, op: &Op) -> Outcome {
        match op {
            Op::List(path) => {
                let fd = sys::open(&self.path(path), libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
                let entries = rest(fd.as_raw_fd(), 32768)?;
                Ok(Value::Lines(self.present(fd.as_raw_fd(), &entries)))
            }
            Op::ListSlot { slot, buffer } => {
                let fd = self.fd(*slot)?;
                let entries = rest(fd, *buffer)?;
                Ok(Value::Lines(self.present(fd, &entries)))
            }
            Op::ListSome { slot, count } => self.list_some(*slot, *count),
            Op::SeekEntry { slot, keep } => {
                let fd = self.fd(*slot)?;
                let stream = self.streams.get_mut(slot).ok_or(Errno::EBADF)?;
                stream.given.truncate(*keep);
                let offset = stream.given.last().map_or(stream.start, |entry| entry.next);
                sys::lseek(fd, offset, libc::SEEK_SET).map(|_| Value::Nothing)
            }
            Op::RemoveListed { slot, count, given } => self.remove_listed(*slot, *count, *given),
            Op::ListRest { slot, buffer } => self.list_rest(*slot, *buffer),
            Op::Drain { slot, buffer } => self.drain(*slot, *buffer),
            _ => unreachable!("not about a listing: {op:?}"),
        }
    }

    /// Names with types; entries that lookup denies are left out, for the kernel lists some whiteouts (L-11, L-12).
    fn present(&mut self, directory: RawFd, entries: &[Dirent]) -> Vec<String> {
        let mut lines = Vec::new();
        for entry in entries {
            let dots = entry.name == b"." || entry.name == b"..";
            let at = [format!("/proc/self/fd/{directory}/").as_bytes(), &entry.name].concat();
            match sys::stat(&at) {
                Err(Errno::ENOENT) => {}
                answer => {
                    if !dots && answer.is_ok_and(|stat| stat.stx_ino != entry.ino) {
                        self.complaints.push(format!("{}: d_ino differs from st_ino", literal(&entry.name)));
                    }
                    lines.push(format!("{} {}", entry.name.escape_ascii(), entry.kind));
                }
            }
        }
        lines.sort();
        lines
    }

    fn list_some(&mut self, slot: Slot, count: usize) -> Outcome {
        let fd = self.fd(slot)?;
        let stream = match self.streams.entry(slot) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let start = sys::lseek(fd, 0, libc::SEEK_CUR)?;
                new.insert(Stream { start, given: Vec::new(), initial: fresh(fd)? })
            }
        };
        let mut left = count;
        while left > 0 {
            let mut entries = sys::getdents(fd, 512)?;
            if entries.is_empty() {
                break;
            }
            if entries.len() > left {
                entries.truncate(left);
                sys::lseek(fd, entries[left - 1].next, libc::SEEK_SET)?;
            }
            left -= entries.len();
            stream.given.extend(entries);
        }
        Ok(Value::Number((count - left) as i64))
    }

    fn remove_listed(&mut self, slot: Slot, count: usize, given: bool) -> Outcome {
        let fd = self.fd(slot)?;
        let stream = self.streams.get(&slot).ok_or(Errno::EBADF)?;
        let came: BTreeSet<&[u8]> = stream.given.iter().map(|entry| entry.name.as_slice()).collect();
        let victims = stream.initial.iter().filter(|name| came.contains(name.as_slice()) == given);
        let mut removed = 0;
        for name in victims.take(count) {
            remove(fd, name)?;
            removed += 1;
        }
        Ok(Value::Number(removed))
    }

    fn list_rest(&mut self, slot: Slot, buffer: usize) -> Outcome {
        let fd = self.fd(slot)?;
        let entries = rest(fd, buffer)?;
        let now = fresh(fd)?;
        let stream = self.streams.get_mut(&slot).ok_or(Errno::EBADF)?;
        stream.given.extend(entries);
        let mut times: BTreeMap<&[u8], usize> = BTreeMap::new();
        for entry in &stream.given {
            *times.entry(&entry.name).or_default() += 1;
        }
        let twice = times.iter().filter(|(_, count)| **count > 1).map(|(name, _)| *name);
        let survivors = stream.initial.intersection(&now).map(Vec::as_slice);
        let missing = survivors.filter(|name| !times.contains_key(*name));
        let lines = twice.map(|name| format!("{} came twice", literal(name)));
        Ok(Value::Lines(lines.chain(missing.map(|name| format!("{} never came", literal(name)))).collect()))
    }

    fn drain(&mut self, slot: Slot, buffer: usize) -> Outcome {
        let fd = self.fd(slot)?;
        let mut times: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        loop {
            let entries = sys::getdents(fd, buffer)?;
            if entries.is_empty() {
                break;
            }
            for entry in entries.into_iter().filter(|entry| entry.name != b"." && entry.name != b"..") {
                if remove(fd, &entry.name) != Err(Errno::ENOENT) {
                    *times.entry(entry.name).or_default() += 1;
                }
            }
        }
        Ok(Value::Lines(
            times.iter().map(|(name, count)| format!("{} {count}", name.escape_ascii())).collect(),
        ))
    }
}

fn rest(fd: RawFd, buffer: usize) -> Answer<Vec<Dirent>> {
    let mut all = Vec::new();
    loop {
        let entries = sys::getdents(fd, buffer)?;
        if entries.is_empty() {
            return Ok(all);
        }
        all.extend(entries);
    }
}

/// The names that are there by a stream of its own.
fn fresh(fd: RawFd) -> Answer<BTreeSet<Vec<u8>>> {
    let again = sys::open(format!("/proc/self/fd/{fd}").as_bytes(), libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
    let names = rest(again.as_raw_fd(), 32768)?.into_iter().map(|entry| entry.name);
    Ok(names.filter(|name| name != b"." && name != b"..").collect())
}

fn remove(directory: RawFd, name: &[u8]) -> Answer<()> {
    let at = [format!("/proc/self/fd/{directory}/").as_bytes(), name].concat();
    match sys::unlink(&at) {
        Err(Errno::EISDIR) => sys::rmdir(&at),
        answer => answer,
    }
}
