//! Copying the data of one regular file into an empty one, exactly.
//!
//! "Exactly" includes the holes (C-9), and the hard part is to get there cheaply on every pair of file systems: some
//! share blocks, some copy in the kernel, some do neither, and each says so with another errno. So each way is tried in
//! turn (C-10), and a refusal only ever leads to the next way; the last one, read and write, reports what is wrong.
//!
//! A copy can take minutes, so it is made in pieces between which it may be told to stop (C-18).

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Errno, Result, file};

/// The most that is copied between two looks at the stop flag, in bytes.
const PIECE: u64 = 8 << 20;

/// The buffer for copying by read and write, in bytes.
const BUFFER: usize = 256 << 10;

/// Makes `to`, an empty regular file open for writing without O_APPEND, a copy of the first `size` bytes of `from`:
/// contents and holes. Where `from` is shorter the rest reads as zeros. `stop` is looked at every few MiB.
///
/// The offset of `to` is neither used nor moved. The offset of `from` is moved (there is no other way to ask for
/// holes), so `from` must be an open file description of the caller's own, used by one copy at a time.
///
/// Errors: EINTR when `stop` became true; ENOSPC, EDQUOT, EFBIG, EIO and so on of writing or reading. After an error
/// `to` holds an unspecified part.
pub fn copy_data(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64, stop: &AtomicBool) -> Result<()> {
    check(stop)?;
    if size > 0 && reflink(from, to) {
        return file::truncate(to, size);
    }
    let mut copier = Copier { from, to, stop, way: Way::InKernel };
    let mut position = 0;
    while position < size {
        let Some((start, end)) = next_data(from, position, size)? else { break };
        copier.copy(start, end)?;
        position = end;
    }
    file::truncate(to, size)
}

fn check(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) { Err(Errno::EINTR) } else { Ok(()) }
}

/// Shares all blocks of `from`. False when this pair of files cannot; `to` is then still empty.
pub fn reflink(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    // SAFETY: FICLONE takes a descriptor number by value and touches no memory of ours.
    unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE as _, from.as_raw_fd()) == 0 }
}

/// The next stretch of data at or after `position` and before `size`; `None` when only a hole is left. A file system
/// that cannot tell holes has one stretch of data.
fn next_data(from: BorrowedFd<'_>, position: u64, size: u64) -> Result<Option<(u64, u64)>> {
    let start = match file::seek(from, position, libc::SEEK_DATA) {
        Ok(start) if start >= size => return Ok(None),
        Ok(start) => start,
        Err(Errno::ENXIO) => return Ok(None),
        Err(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS) => return Ok(Some((position, size))),
        Err(errno) => return Err(errno),
    };
    match file::seek(from, start, libc::SEEK_HOLE) {
        Ok(end) if end > start => Ok(Some((start, end.min(size)))),
        // No progress, or the file got shorter under our feet: the rest is read as it comes.
        Ok(_) | Err(Errno::ENXIO | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS) => {
            Ok(Some((start, size)))
        }
        Err(errno) => Err(errno),
    }
}

/// How bytes are moved; it only ever changes from the first to the second.
enum Way {
    InKernel,
    ByBuffer(Vec<u8>),
}

struct Copier<'a> {
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
    stop: &'a AtomicBool,
    way: Way,
}

impl Copier<'_> {
    /// Copies the bytes from `start` up to `end`, or up to the end of the source if that comes first.
    fn copy(&mut self, start: u64, end: u64) -> Result<()> {
        let mut position = start;
        while position < end {
            check(self.stop)?;
            let moved = match self.piece(position, (end - position).min(PIECE)) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            if moved == 0 {
                return Ok(());
            }
            position += moved;
        }
        Ok(())
    }

    /// Copies at most `length` bytes at `position`; 0 at the end of the source.
    fn piece(&mut self, position: u64, length: u64) -> Result<u64> {
        if let Way::InKernel = self.way {
            match file::copy_range((self.from, position), (self.to, position), length) {
                // Some files claim a length and give nothing in the kernel, yet can be read.
                Ok(0) => {}
                Ok(moved) => return Ok(moved),
                Err(errno) if is_refusal(errno) => {}
                Err(errno) => return Err(errno),
            }
            self.way = Way::ByBuffer(vec![0; BUFFER]);
        }
        match &mut self.way {
            Way::InKernel => Ok(0),
            Way::ByBuffer(buffer) => by_buffer(self.from, self.to, position, length, buffer),
        }
    }
}

/// Whether copy_file_range(2) says that it does not serve this pair of files, as opposed to having failed.
fn is_refusal(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EXDEV | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EPERM | Errno::ETXTBSY
    )
}

/// One read and the writes it takes.
fn by_buffer(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    position: u64,
    length: u64,
    buffer: &mut [u8],
) -> Result<u64> {
    let wanted = usize::try_from(length).map_or(buffer.len(), |length| length.min(buffer.len()));
    let got = file::read_at(from, position, buffer.get_mut(..wanted).unwrap_or_default())?;
    let mut written = 0;
    while let Some(rest) = buffer.get(written..got)
        && !rest.is_empty()
    {
        match file::write_at(to, position + written as u64, rest) {
            Ok(0) => return Err(Errno::EIO),
            Ok(more) => written += more,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(got as u64)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Seek, SeekFrom};
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    use super::*;

    static GO: AtomicBool = AtomicBool::new(false);

    /// Directories on the file systems at hand: the one of the temporary directory, and a tmpfs.
    fn places() -> Vec<tempfile::TempDir> {
        let mut places = vec![tempfile::tempdir().unwrap()];
        match tempfile::tempdir_in("/dev/shm") {
            Ok(dir) => places.push(dir),
            Err(error) => println!("skipped: tmpfs: {error}"),
        }
        places
    }

    fn new_file(path: &Path) -> File {
        File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap()
    }

    /// The stretches of data, ends included.
    fn map_of(of: &File) -> Vec<(u64, u64)> {
        let size = of.metadata().unwrap().len();
        let mut map = Vec::new();
        let mut position = 0;
        while let Ok(start) = file::seek(of.as_fd(), position, libc::SEEK_DATA) {
            position = file::seek(of.as_fd(), start, libc::SEEK_HOLE).unwrap();
            map.push((start, position.min(size)));
        }
        map
    }

    fn fill(file: &File, at: u64, length: usize) {
        let mut state = at ^ 0x9e37_79b9_7f4a_7c15;
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .take(length)
        .collect();
        file.write_all_at(&bytes, at).unwrap();
    }

    fn contents(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn contents_length_and_holes_are_the_same_between_every_pair_of_file_systems() {
        let places = places();
        let shapes: [(u64, &[(u64, usize)]); 8] = [
            (0, &[]),
            (1, &[(0, 1)]),
            (5000, &[(0, 5000)]),
            (1 << 20, &[]),
            (3 << 20, &[(1 << 20, 4096)]),
            (20 << 20, &[(0, 4096), (64 << 10, 100), (9 << 20, 9 << 20)]),
            ((12 << 20) + 17, &[(8 << 20, (4 << 20) + 17)]),
            (1 << 40, &[(1 << 39, 10)]),
        ];
        for (from_place, to_place) in
            places.iter().flat_map(|from| places.iter().map(move |to| (from.path(), to.path())))
        {
            for (size, pieces) in shapes {
                let from = new_file(&from_place.join("from"));
                from.set_len(size).unwrap();
                for &(at, length) in pieces {
                    fill(&from, at, length);
                }
                let to = new_file(&to_place.join("to"));
                copy_data(from.as_fd(), to.as_fd(), size, &GO).unwrap();
                assert_eq!(to.metadata().unwrap().len(), size);
                assert_eq!(map_of(&to), map_of(&from), "{from_place:?} {to_place:?} {size}");
                if size < 1 << 30 {
                    assert!(contents(&to) == contents(&from), "{from_place:?} {to_place:?} {size}");
                } else {
                    let mut bytes = [0; 10];
                    to.read_exact_at(&mut bytes, 1 << 39).unwrap();
                    let mut expected = [0; 10];
                    from.read_exact_at(&mut expected, 1 << 39).unwrap();
                    assert_eq!(bytes, expected);
                }
            }
        }
    }

    #[test]
    fn preallocated_space_does_not_become_data() {
        for place in places() {
            let from = new_file(&place.path().join("from"));
            file::allocate(from.as_fd(), 0, 0, 4 << 20).unwrap();
            let to = new_file(&place.path().join("to"));
            copy_data(from.as_fd(), to.as_fd(), 4 << 20, &GO).unwrap();
            assert!(contents(&to) == contents(&from));
        }
    }

    #[test]
    fn a_source_shorter_than_its_size_gives_zeros_and_a_longer_one_is_cut() {
        for place in places() {
            let from = new_file(&place.path().join("from"));
            fill(&from, 0, 10_000);
            for size in [5_000, 20_000] {
                let to = new_file(&place.path().join("to"));
                copy_data(from.as_fd(), to.as_fd(), size, &GO).unwrap();
                let mut expected = contents(&from);
                expected.resize(size as usize, 0);
                assert!(contents(&to) == expected, "{size}");
            }
        }
    }

    #[test]
    fn a_copy_told_to_stop_is_eintr() {
        for place in places() {
            let from = new_file(&place.path().join("from"));
            fill(&from, 0, 100);
            let to = new_file(&place.path().join("to"));
            let stop = AtomicBool::new(true);
            assert_eq!(copy_data(from.as_fd(), to.as_fd(), 100, &stop), Err(Errno::EINTR));
        }
    }

    #[test]
    fn a_copy_under_way_stops_soon_after_it_is_told() {
        let place = tempfile::tempdir().unwrap();
        let from = new_file(&place.path().join("from"));
        for at in 0..16_u64 {
            fill(&from, at * PIECE, PIECE as usize);
        }
        let to = new_file(&place.path().join("to"));
        let size = 16 * PIECE;
        let stop = AtomicBool::new(false);
        let mut copier =
            Copier { from: from.as_fd(), to: to.as_fd(), stop: &stop, way: Way::ByBuffer(vec![0; BUFFER]) };
        copier.copy(0, PIECE).unwrap();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(copier.copy(PIECE, size), Err(Errno::EINTR));
        assert_eq!(to.metadata().unwrap().len(), PIECE);
    }

    #[test]
    fn the_offset_of_the_target_stays() {
        let place = tempfile::tempdir().unwrap();
        let from = new_file(&place.path().join("from"));
        fill(&from, 0, 10_000);
        let mut to = new_file(&place.path().join("to"));
        to.seek(SeekFrom::Start(77)).unwrap();
        copy_data(from.as_fd(), to.as_fd(), 10_000, &GO).unwrap();
        assert_eq!(to.stream_position().unwrap(), 77);
    }

    #[test]
    fn read_and_write_serve_where_the_kernel_does_not_copy() {
        // A file of /proc cannot be copied in the kernel and has no length until it is read.
        let place = tempfile::tempdir().unwrap();
        let from = File::open("/proc/version").unwrap();
        let expected = std::fs::read("/proc/version").unwrap();
        let to = new_file(&place.path().join("to"));
        copy_data(from.as_fd(), to.as_fd(), expected.len() as u64, &GO).unwrap();
        assert_eq!(contents(&to), expected);
    }

    #[test]
    fn a_full_file_system_is_enospc() {
        crate::sys::testing::with_private_mounts(|| {
            let place = tempfile::tempdir().unwrap();
            let from = new_file(&place.path().join("from"));
            fill(&from, 0, 1 << 20);
            let small = place.path().join("small");
            std::fs::create_dir(&small).unwrap();
            let options = Some("size=64k");
            nix::mount::mount(Some("tmpfs"), &small, Some("tmpfs"), nix::mount::MsFlags::empty(), options)
                .unwrap();
            let to = new_file(&small.join("to"));
            assert_eq!(copy_data(from.as_fd(), to.as_fd(), 1 << 20, &GO), Err(Errno::ENOSPC));
        });
    }
}
