//! Reading tar archives that may be hostile.
//!
//! An archive is a stream of 512-byte headers, each followed by data; what does not fit in a header (long names, big
//! numbers, attributes, the map of a sparse file) comes in extra entries before it, in three dialects (ustar, GNU,
//! PAX). Nothing is believed: every number is checked before it is used, and nothing is held in memory that an
//! archive can make large. What names mean is not decided here.

mod pax;
mod sparse;

use std::io::BufRead;

use tar::{EntryType, Header};

use super::refusal::{Refusal, Result};
use crate::sys::Time;
use pax::Pax;
pub use sparse::Extent;

const BLOCK: usize = 512;
/// The largest extra entry, in bytes: room for the largest attributes that Linux has, many times.
const EXTRA_LIMIT: u64 = 4 << 20;
/// The longest name of an entry, in bytes.
const PATH_LIMIT: usize = 16 << 10;
/// The longest target of a symlink that Linux has.
const LINK_LIMIT: usize = 4095;

/// Where an archive comes from.
pub trait Input {
    /// The next bytes; none at the end.
    fn fill(&mut self) -> Result<&[u8]>;
    /// `count` of them were used.
    fn consume(&mut self, count: usize);
    /// Leaves out bytes. Errors: fewer are left.
    fn skip(&mut self, mut count: u64) -> Result<()> {
        while count > 0 {
            let here = self.fill()?.len() as u64;
            if here == 0 {
                return Err(truncated());
            }
            let step = here.min(count);
            self.consume(step as usize);
            count -= step;
        }
        Ok(())
    }
}

/// Any reader of the standard library.
#[derive(Debug)]
pub struct Plain<R>(pub R);

impl<R: BufRead> Input for Plain<R> {
    fn fill(&mut self) -> Result<&[u8]> {
        self.0.fill_buf().map_err(Refusal::new)
    }

    fn consume(&mut self, count: usize) {
        self.0.consume(count);
    }
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symlink, with its target.
    Symlink(Vec<u8>),
    /// Another name of the entry with this name.
    Hardlink(Vec<u8>),
    /// A character device.
    Char(u32, u32),
    /// A block device.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

/// One entry, as the archive has it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name, not checked.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When it was changed.
    pub mtime: Time,
    /// When it was read, if that is told.
    pub atime: Option<Time>,
    /// Extended attributes, names and values.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The size of the file, in bytes.
    pub size: u64,
    /// Which parts of a sparse file the data is for.
    pub sparse: Option<Vec<Extent>>,
    /// Where its data begins in the archive.
    pub offset: u64,
}

/// Reads the entries of an archive, one after another.
#[derive(Debug)]
pub struct Reader<I> {
    input: I,
    position: u64,
    /// Data of the current entry that was not read yet.
    left: u64,
    /// What fills its last block.
    padding: u64,
    globals: Pax,
}

fn truncated() -> Refusal {
    Refusal::new("it ends in the middle of an entry").hint("it is truncated: fetch it again")
}

impl<I: Input> Reader<I> {
    /// Reads from `input`.
    pub fn new(input: I) -> Reader<I> {
        Reader { input, position: 0, left: 0, padding: 0, globals: Pax::default() }
    }

    /// What it reads from.
    pub fn into_input(self) -> I {
        self.input
    }

    /// The next entry; `None` at the end of the archive. Data of the one before that was not read is left out.
    ///
    /// # Errors
    /// A header that is damaged, or numbers and names that nobody has.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        let (mut pax, mut long_name, mut long_link) = (None::<Pax>, None::<Vec<u8>>, None::<Vec<u8>>);
        loop {
            self.skip_rest()?;
            let Some(header) = self.header()? else {
                return match pax.is_some() || long_name.is_some() || long_link.is_some() {
                    true => Err(truncated()),
                    false => Ok(None),
                };
            };
            let size =
                header.entry_size().map_err(|_| Refusal::new("a header has a size that is no number"))?;
            match header.entry_type() {
                EntryType::XHeader => pax = Some(Pax::parse(&self.extra(size)?)?),
                EntryType::XGlobalHeader => {
                    let more = Pax::parse(&self.extra(size)?)?;
                    self.globals.merge(more);
                }
                EntryType::GNULongName => long_name = Some(until_nul(self.extra(size)?)),
                EntryType::GNULongLink => long_link = Some(until_nul(self.extra(size)?)),
                _ => {
                    let mut all = self.globals.clone();
                    if let Some(pax) = pax {
                        all.merge(pax);
                    }
                    return self.entry(&header, all, long_name, long_link).map(Some);
                }
            }
        }
    }

    /// The next piece of the data of the current entry; empty at its end.
    ///
    /// # Errors
    /// The archive ends before.
    pub fn data(&mut self) -> Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let here = self.input.fill()?;
        if here.is_empty() {
            return Err(truncated());
        }
        let step = usize::try_from(self.left).unwrap_or(usize::MAX).min(here.len());
        Ok(here.get(..step).unwrap_or_default())
    }

    /// `count` bytes of it were used.
    pub fn consume(&mut self, count: usize) {
        self.input.consume(count);
        self.position += count as u64;
        self.left = self.left.saturating_sub(count as u64);
    }

    fn skip_rest(&mut self) -> Result<()> {
        let rest = self.left.checked_add(self.padding).ok_or_else(truncated)?;
        self.input.skip(rest)?;
        self.position = self.position.checked_add(rest).ok_or_else(truncated)?;
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    /// Says how much data follows.
    fn expect(&mut self, size: u64) -> Result<()> {
        if size > i64::MAX as u64 {
            return Err(Refusal::new("its size is negative or larger than any file"));
        }
        (self.left, self.padding) = (size, size.wrapping_neg() % BLOCK as u64);
        Ok(())
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let here = self.input.fill()?;
            if here.is_empty() {
                return if filled == 0 { Ok(None) } else { Err(truncated()) };
            }
            let step = here.len().min(BLOCK - filled);
            if let (Some(to), Some(from)) = (block.get_mut(filled..filled + step), here.get(..step)) {
                to.copy_from_slice(from);
            }
            self.input.consume(step);
            filled += step;
        }
        self.position += BLOCK as u64;
        Ok(Some(block))
    }

    /// The next header. Two blocks of zeros are the end, and so is the end of the stream, as for GNU tar.
    fn header(&mut self) -> Result<Option<Header>> {
        let Some(block) = self.block()? else { return Ok(None) };
        if block.iter().all(|byte| *byte == 0) {
            return match self.block()? {
                Some(next) if next.iter().any(|byte| *byte != 0) => {
                    Err(Refusal::new("a block of zeros stands between its entries").hint("it is damaged"))
                }
                _ => Ok(None),
            };
        }
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(&block);
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { u32::from(b' ') } else { u32::from(*byte) })
            .sum();
        match header.cksum() {
            Ok(said) if said == sum => Ok(Some(header)),
            _ => {
                Err(Refusal::new(format!("the header at byte {} has a wrong checksum", self.position - 512))
                    .hint("it is damaged, or no tar archive"))
            }
        }
    }

    /// The whole data of an extra entry.
    fn extra(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > EXTRA_LIMIT {
            return Err(Refusal::new(format!(
                "an extended header of {size} bytes is larger than any has to be"
            )));
        }
        self.expect(size)?;
        let mut all = Vec::new();
        loop {
            let piece = self.data()?;
            let len = piece.len();
            if len == 0 {
                return Ok(all);
            }
            all.extend_from_slice(piece);
            self.consume(len);
        }
    }

    fn entry(
        &mut self,
        header: &Header,
        pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry> {
        let path = pax.path()?.or(long_name).unwrap_or_else(|| header.path_bytes().into_owned());
        if path.len() > PATH_LIMIT {
            return Err(Refusal::new(format!("a name of {} bytes is longer than any path", path.len())));
        }
        self.rest_of_entry(header, &pax, &path, long_link).map_err(|e| e.entry(&path))
    }

    fn rest_of_entry(
        &mut self,
        header: &Header,
        pax: &Pax,
        path: &[u8],
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry> {
        let link = || {
            let link = pax.link()?.or(long_link).unwrap_or_else(|| {
                header.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default()
            });
            match link.len() {
                0 => Err(Refusal::new("it is a link without a target")),
                1..=LINK_LIMIT => Ok(link),
                _ => Err(Refusal::new("its link target is longer than any path")),
            }
        };
        let device = || match (header.device_major(), header.device_minor()) {
            (Ok(Some(major)), Ok(Some(minor))) => Ok((major, minor)),
            _ => Err(Refusal::new("it is a device without a number")),
        };
        let kind = match header.entry_type() {
            EntryType::Regular if path.ends_with(b"/") => EntryKind::Dir,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => EntryKind::File,
            EntryType::Directory => EntryKind::Dir,
            EntryType::Symlink => EntryKind::Symlink(link()?),
            EntryType::Link => EntryKind::Hardlink(link()?),
            EntryType::Char => device().map(|(major, minor)| EntryKind::Char(major, minor))?,
            EntryType::Block => device().map(|(major, minor)| EntryKind::Block(major, minor))?,
            EntryType::Fifo => EntryKind::Fifo,
            other => {
                let letter = [other.as_byte()];
                return Err(Refusal::new(format!("it is of the unknown type '{}'", letter.escape_ascii())));
            }
        };
        let stored = match pax.size()? {
            Some(size) => size,
            None => header.entry_size().map_err(|_| Refusal::new("its size is no number"))?,
        };
        if stored > i64::MAX as u64 {
            return Err(Refusal::new("its size is negative or larger than any file"));
        }
        // Only files have data; some writers put a size on links and directories all the same.
        let stored = if kind == EntryKind::File { stored } else { 0 };
        let sparse = match kind {
            EntryKind::File => self.sparse_map(header, pax, stored)?,
            _ => {
                self.expect(stored)?;
                None
            }
        };
        let number = |pax: Option<u64>, header: std::io::Result<u64>, what: &str| {
            let id = match pax {
                Some(id) => id,
                None => header.map_err(|_| Refusal::new(format!("its {what} is no number")))?,
            };
            u32::try_from(id)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| Refusal::new(format!("its {what} {id} is none that Linux has")))
        };
        let mtime = match pax.time("mtime")? {
            Some(time) => time,
            None => {
                let raw = header.mtime().map_err(|_| Refusal::new("its time is no number"))?;
                // GNU writes times before 1970 as the two's complement.
                Time { secs: raw as i64, nanos: 0 }
            }
        };
        let size = sparse.as_ref().map_or(stored, |map| map.real_size);
        Ok(Entry {
            path: sparse.as_ref().and_then(|map| map.name.clone()).unwrap_or_else(|| path.to_vec()),
            kind,
            mode: header.mode().map_err(|_| Refusal::new("its mode is no number"))? & 0o7777,
            uid: number(pax.number("uid")?, header.uid(), "owner")?,
            gid: number(pax.number("gid")?, header.gid(), "group")?,
            mtime,
            atime: pax.time("atime")?,
            xattrs: pax.xattrs(),
            size,
            sparse: sparse.map(|map| map.extents),
            offset: self.position,
        })
    }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|b| *b == 0) {
        bytes.truncate(end);
    }
    bytes
}
