//! A blob: a piece of an open file.

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use super::refusal::{Refusal, Result};
use super::tar::Input;
use crate::sys::file::read_at;

/// A piece of an open file.
#[derive(Clone, Debug)]
pub struct Blob {
    file: Arc<File>,
    offset: u64,
    size: u64,
}

impl Blob {
    /// The whole of a regular file.
    ///
    /// # Errors
    /// It cannot be opened, or is something that could keep us waiting.
    pub fn open(path: &Path) -> std::io::Result<Blob> {
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(std::io::Error::other("it is not a regular file"));
        }
        Ok(Blob { file: Arc::new(file), offset: 0, size: found.len() })
    }

    /// A piece of this one. `None` when it is not within it.
    pub fn part(&self, offset: u64, size: u64) -> Option<Blob> {
        let end = offset.checked_add(size)?;
        (end <= self.size).then(|| Blob { file: Arc::clone(&self.file), offset: self.offset + offset, size })
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads it from its beginning.
    pub fn reader(&self) -> BlobReader {
        BlobReader { blob: self.clone(), at: 0 }
    }

    /// All of it.
    ///
    /// # Errors
    /// It is larger than `limit`, or cannot be read.
    pub fn bytes(&self, limit: u64) -> Result<Vec<u8>> {
        if self.size > limit {
            return Err(Refusal::new(format!("it has {} bytes, more than such a document has", self.size)));
        }
        let mut all = Vec::new();
        self.reader().read_to_end(&mut all).map_err(Refusal::new)?;
        Ok(all)
    }
}

/// Reads a blob.
#[derive(Debug)]
pub struct BlobReader {
    blob: Blob,
    at: u64,
}

impl Read for BlobReader {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.blob.size - self.at).unwrap_or(usize::MAX);
        let wanted = left.min(buf.len());
        let Some(buf) = buf.get_mut(..wanted) else { return Ok(0) };
        let got = read_at(self.blob.file.as_fd(), self.blob.offset + self.at, buf)?;
        if got == 0 && wanted > 0 {
            return Err(std::io::Error::other("it became shorter while it was read"));
        }
        self.at += got as u64;
        Ok(got)
    }
}

/// A blob as an archive of which parts are left out without reading them.
#[derive(Debug)]
pub struct SeekingInput(BufReader<BlobReader>);

impl SeekingInput {
    /// Reads `blob`.
    pub fn new(blob: &Blob) -> SeekingInput {
        SeekingInput(BufReader::with_capacity(16 << 10, blob.reader()))
    }
}

impl Input for SeekingInput {
    fn fill(&mut self) -> Result<&[u8]> {
        use std::io::BufRead;
        self.0.fill_buf().map_err(Refusal::new)
    }

    fn consume(&mut self, count: usize) {
        std::io::BufRead::consume(&mut self.0, count);
    }

    fn skip(&mut self, count: u64) -> Result<()> {
        let buffered = self.0.buffer().len() as u64;
        let step = buffered.min(count);
        std::io::BufRead::consume(&mut self.0, step as usize);
        let reader = self.0.get_mut();
        let to = reader.at.checked_add(count - step).filter(|to| *to <= reader.blob.size);
        reader.at = to.ok_or_else(|| {
            Refusal::new("it ends in the middle of an entry").hint("it is truncated: fetch it again")
        })?;
        Ok(())
    }
}
