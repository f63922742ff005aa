//! Copying the data of one file into another, holes included (C-9, C-10).

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::at::check;
use super::{Errno, Result, file};

nix::ioctl_write_int!(ficlone, 0x94, 9);

/// How much is copied between two looks at the stop flag, in bytes.
const CHUNK: u64 = 16 << 20;

/// Copies the first `size` bytes of `from` over the empty file `to`: shared blocks where the filesystem can, else
/// extent by extent, leaving holes as holes. `to` ends up `size` bytes long. Errors: EINTR once `stop` is set (C-18);
/// what either filesystem says.
pub fn copy_data(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64, stop: &AtomicBool) -> Result<()> {
    if share_blocks(from, to, size)? {
        return Ok(());
    }
    let mut at = 0;
    while at < size {
        let start = match file::seek(from, at, libc::SEEK_DATA) {
            Ok(start) => start.min(size),
            Err(Errno::ENXIO) => break,
            // A filesystem without holes.
            Err(Errno::EINVAL) => at,
            Err(e) => return Err(e),
        };
        let end = match file::seek(from, start, libc::SEEK_HOLE) {
            Ok(end) => end.min(size),
            Err(Errno::EINVAL | Errno::ENXIO) => size,
            Err(e) => return Err(e),
        };
        copy_extent(from, to, start, end, stop)?;
        at = end.max(start + 1);
    }
    file::truncate(to, size)
}

/// FICLONE, then the length. False where blocks cannot be shared.
fn share_blocks(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> Result<bool> {
    // SAFETY: an ioctl that takes a descriptor number; both are open.
    match unsafe { ficlone(to.as_raw_fd(), from.as_raw_fd() as libc::c_ulong) } {
        Ok(_) => file::truncate(to, size).map(|()| true),
        Err(Errno::ENOSPC) => Err(Errno::ENOSPC),
        Err(_) => Ok(false),
    }
}

fn copy_extent(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    start: u64,
    end: u64,
    stop: &AtomicBool,
) -> Result<()> {
    let mut at = start;
    let mut in_kernel = true;
    while at < end {
        if stop.load(Ordering::Relaxed) {
            return Err(Errno::EINTR);
        }
        let want = (end - at).min(CHUNK);
        if in_kernel {
            match file::copy_range((from, at), (to, at), want) {
                Ok(0) => in_kernel = false,
                Ok(n) => {
                    at += n;
                    continue;
                }
                Err(Errno::EXDEV | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EPERM) => {
                    in_kernel = false;
                }
                Err(e) => return Err(e),
            }
        }
        match copy_by_buffer(from, to, at, want.min(1 << 20))? {
            // The file is shorter than it was; what is missing reads as zeros.
            0 => break,
            n => at += n,
        }
    }
    Ok(())
}

fn copy_by_buffer(from: BorrowedFd<'_>, to: BorrowedFd<'_>, at: u64, want: u64) -> Result<u64> {
    let mut buf = vec![0u8; want as usize];
    let got = file::read_at(from, at, &mut buf)?;
    let mut done = 0;
    while let Some(rest) = buf.get(done..got)
        && !rest.is_empty()
    {
        let n = check(unsafe {
            // SAFETY: `rest` is readable for its length.
            libc::pwrite(to.as_raw_fd(), rest.as_ptr().cast(), rest.len(), (at + done as u64) as i64)
        } as libc::c_long)?;
        done += n;
    }
    Ok(got as u64)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    fn sparse() -> (std::fs::File, u64) {
        let f = tempfile::tempfile().unwrap();
        let size = (8 << 20) + 5;
        f.set_len(size).unwrap();
        f.write_all_at(b"start", 0).unwrap();
        f.write_all_at(b"middle", 4 << 20).unwrap();
        (f, size)
    }

    #[test]
    fn holes_stay_holes_and_bytes_stay_bytes_c9() {
        let (from, size) = sparse();
        let to = tempfile::tempfile().unwrap();
        copy_data(from.as_fd(), to.as_fd(), size, &AtomicBool::new(false)).unwrap();
        let (mut a, mut b) = (vec![0; size as usize], vec![0; size as usize]);
        from.read_exact_at(&mut a, 0).unwrap();
        to.read_exact_at(&mut b, 0).unwrap();
        assert!(a == b);
        assert_eq!(to.metadata().unwrap().len(), size);
        assert!(to.metadata().unwrap().blocks() <= from.metadata().unwrap().blocks());
    }

    #[test]
    fn a_stopped_copy_is_eintr_c18() {
        let (from, size) = sparse();
        let to = tempfile::tempfile().unwrap();
        assert_eq!(copy_data(from.as_fd(), to.as_fd(), size, &AtomicBool::new(true)), Err(Errno::EINTR));
    }

    #[test]
    fn a_shorter_copy_ends_where_it_was_told() {
        let (from, _) = sparse();
        let to = tempfile::tempfile().unwrap();
        copy_data(from.as_fd(), to.as_fd(), 3, &AtomicBool::new(false)).unwrap();
        assert_eq!(to.metadata().unwrap().len(), 3);
    }
}
