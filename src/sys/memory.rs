//! Memory straight from the kernel: it costs nothing until it is used, and can be given back.

use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

use super::{Errno, Result};

/// Zeroed bytes that start on a page.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<libc::c_void>,
    length: usize,
}

// SAFETY: the mapping is owned by this value alone, like the memory of a Vec.
unsafe impl Send for Mapping {}

impl Mapping {
    /// So many bytes. Errors: ENOMEM, EINVAL for none.
    pub fn new(length: usize) -> Result<Mapping> {
        let size = NonZeroUsize::new(length).ok_or(Errno::EINVAL)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches nothing that exists.
        let start =
            unsafe { mmap_anonymous(None, size, access, MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE) }?;
        Ok(Mapping { start, length })
    }

    /// All of it.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped readable and writable for `length` bytes until `self` is dropped, and borrowed through `self`.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.length) }
    }

    /// Gives the memory back; the bytes are zero again.
    ///
    /// # Errors
    /// As madvise(2).
    pub fn give_back(&mut self) -> Result<()> {
        // SAFETY: the range is this mapping, borrowed mutably, so nothing points into it; its bytes become zero.
        unsafe { madvise(self.start, self.length, MmapAdvise::MADV_DONTNEED) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is exactly the mapping made in `new`, and nobody can use it any more.
        if let Err(errno) = unsafe { munmap(self.start, self.length) } {
            log::error!("{} bytes of memory could not be unmapped: {errno}", self.length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_was_given_back_is_zero_and_usable() {
        let mut memory = Mapping::new(1 << 20).unwrap();
        memory.bytes().fill(7);
        memory.give_back().unwrap();
        assert!(memory.bytes().iter().all(|b| *b == 0));
        memory.bytes()[12345] = 1;
        assert_eq!(memory.bytes()[12345], 1);
    }
}
