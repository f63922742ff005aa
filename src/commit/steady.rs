//! Reading an object that somebody may be changing.
//!
//! A reading counts when the object was the same before and after it: same inode, size, times, and above all the time
//! of its last change, which the kernel moves on for every write that happens after somebody looked at it. A store
//! through a mapping moves it only when the page was clean before, so where a writer has the file open it is written
//! back first. Where the file system can share blocks, a snapshot that costs nothing is read instead.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use super::head::Shape;
use super::snapshot;
use crate::diff::tree::Data;
use crate::sys::file::{self, Writers};
use crate::sys::{At, Errno, Result, Stat};

/// Files up to this size are read into memory and, if need be, again.
const IN_MEMORY: u64 = 4 << 20;

/// The coarsest clock by which file systems date changes, with a margin.
const TICK: Duration = Duration::from_millis(20);

/// Names an object for as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    dev: u64,
    ino: u64,
    /// A number can be given to another file once the first is gone.
    born: Option<crate::sys::Time>,
}

impl Id {
    pub(super) fn of(stat: &Stat) -> Id {
        Id { dev: stat.dev, ino: stat.ino, born: stat.btime }
    }
}

/// Files that were changed while they went straight into the layer.
#[derive(Debug, Default)]
pub(super) struct Busy(BTreeMap<Id, u32>);

impl Busy {
    pub(super) fn note(&mut self, id: Id) {
        *self.0.entry(id).or_default() += 1;
    }

    fn tries(&self, id: Id) -> u32 {
        self.0.get(&id).copied().unwrap_or(0)
    }
}

/// Contents that can be read at any place.
pub(super) trait Readable {
    /// Some bytes at `offset`; 0 at the end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize>;
    /// lseek(2) for SEEK_DATA and SEEK_HOLE.
    fn seek(&self, offset: u64, whence: i32) -> Result<u64>;
    /// Reading will not go from the beginning to the end.
    fn in_pieces(&self) {}
}

impl Readable for BorrowedFd<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        file::read_at(*self, offset, buf)
    }

    fn seek(&self, offset: u64, whence: i32) -> Result<u64> {
        file::seek(*self, offset, whence)
    }

    fn in_pieces(&self) {
        file::advise_random(*self);
    }
}

impl Readable for &[u8] {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.get(at..)).unwrap_or_default();
        let n = rest.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..n), rest.get(..n)) {
            to.copy_from_slice(from);
        }
        Ok(n)
    }

    fn seek(&self, offset: u64, whence: i32) -> Result<u64> {
        match (whence, self.len() as u64) {
            (_, size) if offset >= size => Err(Errno::ENXIO),
            (libc::SEEK_HOLE, size) => Ok(size),
            _ => Ok(offset),
        }
    }
}

impl Readable for Data<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.read(offset, buf)
    }

    fn seek(&self, offset: u64, whence: i32) -> Result<u64> {
        Data::seek(self, offset, whence)
    }
}

/// Whether an object is what it was.
pub(super) fn same(a: &Stat, b: &Stat) -> bool {
    let facts = |s: &Stat| (s.dev, s.ino, s.size, s.mode, s.uid, s.gid, s.mtime, s.ctime, s.btime);
    facts(a) == facts(b)
}

/// Contents of a file, at one moment.
#[derive(Debug)]
pub(super) enum Contents {
    /// All of them.
    Memory(Vec<u8>, Shape),
    /// In a file that nobody else has.
    Private(OwnedFd, Shape),
    /// In the file itself, which must be looked at again afterwards.
    Direct(OwnedFd, Shape),
}

/// Why a reading does not count.
#[derive(Debug)]
pub(super) enum Disturbed {
    /// It was changed meanwhile.
    Changed,
    /// It is gone, or another one has its name.
    Replaced,
    /// Something failed.
    Failed(Errno),
}

impl From<Errno> for Disturbed {
    fn from(e: Errno) -> Disturbed {
        match e {
            Errno::ENOENT | Errno::ESTALE => Disturbed::Replaced,
            e => Disturbed::Failed(e),
        }
    }
}

/// How contents are to be read.
#[derive(Clone, Copy)]
pub(super) struct How<'a> {
    /// Somebody may be writing.
    pub live: bool,
    /// What came in the way before.
    pub busy: &'a Busy,
    /// Where a snapshot that shares blocks can be; on the file system of the upper.
    pub beside: &'a Path,
    /// Whether the layer so far can be thrown away.
    pub restartable: bool,
}

/// Opens a regular file for reading without leaving a trace in its access time, where that is possible.
pub(super) fn open(at: At<'_>) -> Result<OwnedFd> {
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    match at.open(flags | libc::O_NOATIME) {
        Err(Errno::EPERM) => at.open(flags),
        done => done,
    }
}

/// Reads a file whose metadata was `seen`, and says what its metadata was when that began. `tries`: how often it failed
/// already.
pub(super) fn contents(
    at: At<'_>,
    seen: &Stat,
    tries: u32,
    how: How<'_>,
) -> std::result::Result<(Contents, Stat), Disturbed> {
    let fd = open(at).map_err(|e| match e {
        // It is no longer what it was.
        Errno::ELOOP | Errno::ENXIO => Disturbed::Replaced,
        e => e.into(),
    })?;
    let tries = tries + how.busy.tries(Id::of(seen));
    let writers = if how.live { file::writers(fd.as_fd()) } else { Writers::None };
    if (tries > 0 || (seen.size > IN_MEMORY && writers == Writers::Open))
        && let Some((private, stat)) = snapshot::shared(fd.as_fd(), how.beside)?
    {
        return private_contents(private, stat);
    }
    if writers != Writers::None {
        file::sync(fd.as_fd(), true)?;
        settle(fd.as_fd())?;
    }
    let before = At::Fd(fd.as_fd()).stat()?;
    if Id::of(&before) != Id::of(seen) {
        return Err(Disturbed::Replaced);
    }
    if before.size <= IN_MEMORY {
        let shape = shape(&fd.as_fd(), before.size)?;
        let data = read_all(fd.as_fd(), before.size)?;
        unchanged(&before, fd.as_fd())?;
        return Ok((Contents::Memory(data, shape), before));
    }
    if how.restartable && tries == 0 && writers != Writers::Open {
        let shape = shape(&fd.as_fd(), before.size)?;
        return Ok((Contents::Direct(fd, shape), before));
    }
    let private = snapshot::unnamed(how.beside)?;
    crate::sys::copy::copy_data(fd.as_fd(), private.as_fd(), before.size, &AtomicBool::new(false))?;
    unchanged(&before, fd.as_fd())?;
    private_contents(private, before)
}

/// Waits until a change that happens from now on has a later date than the last one.
fn settle(fd: BorrowedFd<'_>) -> Result<()> {
    let last = At::Fd(fd).stat()?.ctime;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let changed = Duration::new(u64::try_from(last.secs).unwrap_or(0), last.nanos);
    if now.saturating_sub(changed) < TICK {
        std::thread::sleep(TICK);
    }
    Ok(())
}

/// Whether the file an open descriptor is on is still what it was.
pub(super) fn unchanged(before: &Stat, fd: BorrowedFd<'_>) -> std::result::Result<(), Disturbed> {
    if same(before, &At::Fd(fd).stat()?) { Ok(()) } else { Err(Disturbed::Changed) }
}

fn private_contents(fd: OwnedFd, stat: Stat) -> std::result::Result<(Contents, Stat), Disturbed> {
    let shape = shape(&fd.as_fd(), stat.size)?;
    Ok((Contents::Private(fd, shape), stat))
}

fn read_all(fd: BorrowedFd<'_>, size: u64) -> std::result::Result<Vec<u8>, Disturbed> {
    let mut data = vec![0; usize::try_from(size).map_err(|_| Errno::EFBIG)?];
    match file::read_at(fd, 0, &mut data)? {
        n if n == data.len() => Ok(data),
        _ => Err(Disturbed::Changed),
    }
}

/// The least that counts as a hole, in bytes, and the grid holes lie on.
const GRAIN: u64 = 4096;

/// The most stretches of data that one file is described with.
const STRETCHES: usize = 8192;

/// Where the data is. Of a file that the file system says has holes, every block of zeros is taken for one: where the
/// holes lie then depends on the contents alone, not on the file system or on what happens to be in memory.
pub(super) fn shape(data: &dyn Readable, size: u64) -> Result<Shape> {
    let dense = Shape { size, map: None };
    match data.seek(0, libc::SEEK_HOLE) {
        Ok(hole) if hole < size => {}
        Ok(_) | Err(Errno::ENXIO | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS) => return Ok(dense),
        Err(e) => return Err(e),
    }
    // Reading ahead would fill preallocated space in memory, which then counts as data.
    data.in_pieces();
    let mut map: Vec<(u64, u64)> = Vec::new();
    let mut block = vec![0; 64 * GRAIN as usize];
    let mut at = 0;
    while at < size {
        let start = match data.seek(at, libc::SEEK_DATA) {
            Ok(start) if start < size => start / GRAIN * GRAIN,
            Ok(_) | Err(Errno::ENXIO) => break,
            Err(e) => return Err(e),
        };
        let end = match data.seek(start.max(at), libc::SEEK_HOLE) {
            Ok(end) if end > start => end.next_multiple_of(GRAIN).min(size),
            Ok(_) | Err(Errno::ENXIO) => size,
            Err(e) => return Err(e),
        };
        at = scan(data, (start.max(at), end), &mut block, &mut map)?;
    }
    Ok(Shape { size, map: Some(coarser(map)) })
}

/// Adds the stretches of `from`..`to` that are not zeros; both are on the grid, or the end of the file.
fn scan(
    data: &dyn Readable,
    (from, to): (u64, u64),
    block: &mut [u8],
    map: &mut Vec<(u64, u64)>,
) -> Result<u64> {
    let mut at = from;
    while at < to {
        let wanted = usize::try_from(to - at).unwrap_or(usize::MAX).min(block.len());
        let got = data.read_at(at, block.get_mut(..wanted).unwrap_or_default())?;
        if got == 0 {
            break;
        }
        for piece in block.get(..got).unwrap_or_default().chunks(GRAIN as usize) {
            let length = piece.len() as u64;
            if piece.iter().any(|b| *b != 0) {
                match map.last_mut() {
                    Some((start, so_far)) if *start + *so_far == at => *so_far += length,
                    _ => map.push((at, length)),
                }
            }
            at += length;
        }
    }
    Ok(to)
}

/// Closes the smallest holes until there are few enough.
fn coarser(mut map: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    let mut least = GRAIN;
    while map.len() > STRETCHES {
        least *= 2;
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for (start, length) in map {
            match merged.last_mut() {
                Some((first, so_far)) if start - (*first + *so_far) < least => {
                    *so_far = start + length - *first
                }
                _ => merged.push((start, length)),
            }
        }
        map = merged;
    }
    map
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn holes_lie_where_the_zeros_are() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        assert_eq!(shape(&file.as_fd(), 1 << 20).unwrap().map, Some(vec![]));
        file.write_all_at(b"x", 8192).unwrap();
        file.write_all_at(&[0; 4096], 12288).unwrap();
        file.write_all_at(b"end", (1 << 20) - 3).unwrap();
        let expected = vec![(8192, 4096), ((1 << 20) - 4096, 4096)];
        assert_eq!(shape(&file.as_fd(), 1 << 20).unwrap().map, Some(expected));
        let dense = tempfile::tempfile().unwrap();
        dense.write_all_at(&[0; 10_000], 0).unwrap();
        assert_eq!(shape(&dense.as_fd(), 10_000).unwrap().map, None);
    }

    #[test]
    fn a_file_of_very_many_stretches_is_described_with_fewer() {
        let map: Vec<(u64, u64)> = (0..100_000).map(|i| (8192 * i, 4096)).collect();
        let fewer = coarser(map);
        assert!(fewer.len() <= STRETCHES);
        assert_eq!(fewer[0].0, 0);
        let (start, length) = fewer[fewer.len() - 1];
        assert_eq!(start + length, 8192 * 99_999 + 4096);
    }

    #[test]
    fn a_file_is_what_it_was_until_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "one").unwrap();
        let d = crate::sys::Dir::open_path(dir.path()).unwrap();
        let name = crate::sys::NameBuf::new(b"f").unwrap();
        let seen = d.stat(&name).unwrap();
        let busy = Busy::default();
        let how = How { live: true, busy: &busy, beside: dir.path(), restartable: true };
        let Ok((Contents::Memory(data, _), before)) = contents(d.at(&name), &seen, 0, how) else { panic!() };
        assert_eq!(data, b"one");
        let open = open(d.at(&name)).unwrap();
        assert!(unchanged(&before, open.as_fd()).is_ok());
        std::fs::write(dir.path().join("f"), "two").unwrap();
        assert!(matches!(unchanged(&before, open.as_fd()), Err(Disturbed::Changed)));
        std::fs::remove_file(dir.path().join("f")).unwrap();
        assert!(matches!(contents(d.at(&name), &before, 0, how), Err(Disturbed::Replaced)));
    }
}
