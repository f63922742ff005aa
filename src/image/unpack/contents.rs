//! The record of a layer: what was unpacked, so that it can be verified later, and how much that is.
//!
//! It is written while unpacking, a line for each object, and nothing is read back for it. A later line about a path
//! counts in place of an earlier one. The last line seals the others: a record without it is not whole.

use std::ffi::CString;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::super::refusal::{Refusal, Result};
use crate::sys::{Kind, Time};

const HEAD: &str = "acetate contents 1";

/// What an object was unpacked as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What it is.
    pub what: What,
    /// Permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When it was changed.
    pub mtime: Time,
    /// [`hash_of`] its attributes as they are stored, but for marks of overlayfs and `override_stat`.
    pub xattrs: u64,
}

/// What an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A file with its size, and the XXH3 of its data.
    File(u64, u64),
    /// A directory; whether it is opaque, and whether no entry describes it.
    Dir {
        /// It hides what is below.
        opaque: bool,
        /// It is only on the way to something.
        implicit: bool,
    },
    /// A symlink, and the XXH3 of its target.
    Symlink(u64),
    /// A device.
    Device(Kind, u32, u32),
    /// A named pipe.
    Fifo,
    /// Another name of this path.
    Hardlink(Vec<u8>),
    /// A deletion.
    Whiteout,
}

/// How much a layer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Lines.
    pub objects: u64,
    /// Bytes of data.
    pub bytes: u64,
    /// Directories that no entry describes.
    pub implicit: u64,
}

/// One number for attributes, in whatever order they are.
pub fn hash_of(xattrs: &[(CString, Vec<u8>)]) -> u64 {
    let one = |(name, value): &(CString, Vec<u8>)| {
        let mut hasher = Xxh3::new();
        hasher.update(name.as_bytes_with_nul());
        hasher.update(value);
        hasher.digest()
    };
    xattrs.iter().map(one).fold(0, u64::wrapping_add)
}

/// Writes a record.
pub struct Writer {
    out: BufWriter<zstd::stream::write::Encoder<'static, File>>,
    seal: Xxh3,
    totals: Totals,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("totals", &self.totals).finish_non_exhaustive()
    }
}

impl Writer {
    /// Begins one.
    ///
    /// # Errors
    /// As creating a file.
    pub fn create(path: &Path) -> std::io::Result<Writer> {
        let encoder = zstd::stream::write::Encoder::new(File::create_new(path)?, 1)?;
        let mut writer =
            Writer { out: BufWriter::new(encoder), seal: Xxh3::new(), totals: Totals::default() };
        writer.line(format!("{HEAD}\n").as_bytes())?;
        Ok(writer)
    }

    fn line(&mut self, line: &[u8]) -> std::io::Result<()> {
        self.seal.update(line);
        self.out.write_all(line)
    }

    /// Adds an object.
    ///
    /// # Errors
    /// As write(2).
    pub fn add(&mut self, path: &[u8], line: &Line) -> std::io::Result<()> {
        let (letter, first, second, target) = match &line.what {
            What::File(size, hash) => ('f', *size, *hash, None),
            What::Dir { opaque, implicit } => ('d', u64::from(*opaque), u64::from(*implicit), None),
            What::Symlink(hash) => ('l', 0, *hash, None),
            What::Device(Kind::Block, major, minor) => ('b', u64::from(*major), u64::from(*minor), None),
            What::Device(_, major, minor) => ('c', u64::from(*major), u64::from(*minor), None),
            What::Fifo => ('p', 0, 0, None),
            What::Hardlink(target) => ('h', 0, 0, Some(target)),
            What::Whiteout => ('w', 0, 0, None),
        };
        self.totals.objects += 1;
        match line.what {
            What::File(size, _) => self.totals.bytes = self.totals.bytes.saturating_add(size),
            What::Dir { implicit, .. } => self.totals.implicit += u64::from(implicit),
            _ => {}
        }
        let mut text = format!(
            "{letter} {:o} {} {} {}.{:09} {first:x} {second:x} {:x} {}",
            line.mode,
            line.uid,
            line.gid,
            line.mtime.secs,
            line.mtime.nanos,
            line.xattrs,
            path.escape_ascii()
        );
        if let Some(target) = target {
            text.push('\t');
            text.push_str(&target.escape_ascii().to_string());
        }
        text.push('\n');
        self.line(text.as_bytes())
    }

    /// Seals it.
    ///
    /// # Errors
    /// As write(2).
    pub fn finish(mut self) -> std::io::Result<Totals> {
        let totals = self.totals;
        let Totals { objects, bytes, implicit } = totals;
        let end = format!("end {objects} {bytes} {implicit} {:x}\n", self.seal.digest());
        self.out.write_all(end.as_bytes())?;
        self.out.into_inner().map_err(std::io::IntoInnerError::into_error)?.finish()?;
        Ok(totals)
    }
}

/// Reads a record, each line in order.
///
/// # Errors
/// It is missing, damaged, or not whole.
pub fn read(path: &Path, mut each: impl FnMut(Vec<u8>, Line)) -> Result<Totals> {
    let file = File::open(path).map_err(|e| Refusal::new(format!("its record cannot be read: {e}")))?;
    let damaged = || Refusal::new("its record is damaged");
    let decoder = zstd::stream::read::Decoder::new(file).map_err(|_| damaged())?;
    let mut reader = BufReader::new(decoder);
    let mut seal = Xxh3::new();
    let mut line = Vec::new();
    let mut first = true;
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(|_| damaged())? == 0 {
            return Err(damaged());
        }
        let text =
            std::str::from_utf8(&line).map_err(|_| damaged())?.strip_suffix('\n').ok_or_else(damaged)?;
        if let Some(end) = text.strip_prefix("end ") {
            let words: Vec<&str> = end.split(' ').collect();
            let [objects, bytes, implicit, sum] = words.as_slice() else { return Err(damaged()) };
            let number = |word: &str| word.parse().map_err(|_| damaged());
            if u64::from_str_radix(sum, 16).ok() != Some(seal.digest()) {
                return Err(damaged());
            }
            return Ok(Totals {
                objects: number(objects)?,
                bytes: number(bytes)?,
                implicit: number(implicit)?,
            });
        }
        seal.update(&line);
        if std::mem::take(&mut first) {
            if text != HEAD {
                return Err(damaged());
            }
            continue;
        }
        let (path, line) = parse(text).ok_or_else(damaged)?;
        each(path, line);
    }
}

fn parse(text: &str) -> Option<(Vec<u8>, Line)> {
    let mut words = text.splitn(9, ' ');
    let letter = words.next()?;
    let mode = u32::from_str_radix(words.next()?, 8).ok()?;
    let (uid, gid) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let (secs, nanos) = words.next()?.split_once('.')?;
    let mtime = Time { secs: secs.parse().ok()?, nanos: nanos.parse().ok()? };
    let mut hex = || u64::from_str_radix(words.next()?, 16).ok();
    let (first, second, xattrs) = (hex()?, hex()?, hex()?);
    let rest = words.next()?;
    let (path, target) = match rest.split_once('\t') {
        Some((path, target)) => (unescape(path)?, Some(unescape(target)?)),
        None => (unescape(rest)?, None),
    };
    let numbers = || Some((u32::try_from(first).ok()?, u32::try_from(second).ok()?));
    let what = match letter {
        "f" => What::File(first, second),
        "d" => What::Dir { opaque: first != 0, implicit: second != 0 },
        "l" => What::Symlink(second),
        "c" => numbers().map(|(major, minor)| What::Device(Kind::Char, major, minor))?,
        "b" => numbers().map(|(major, minor)| What::Device(Kind::Block, major, minor))?,
        "p" => What::Fifo,
        "h" => What::Hardlink(target?),
        "w" => What::Whiteout,
        _ => return None,
    };
    Some((path, Line { what, mode, uid, gid, mtime, xattrs }))
}

/// Undoes `escape_ascii`.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'\\' => match bytes.next()? {
                b't' => b'\t',
                b'n' => b'\n',
                b'r' => b'\r',
                b'x' => {
                    let digits = [bytes.next()?, bytes.next()?];
                    u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
                }
                other => other,
            },
            byte => byte,
        });
    }
    Some(out)
}

/// The data of a file as the record keeps it.
pub fn hash(data: &[u8]) -> u64 {
    xxh3_64(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(what: What) -> Line {
        Line { what, mode: 0o4755, uid: 3, gid: 4_000_000_000, mtime: Time { secs: -5, nanos: 7 }, xattrs: 9 }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("contents");
        let lines = [
            (b"a b\n\xff\\x\t".to_vec(), line(What::File(12, u64::MAX))),
            (b"".to_vec(), line(What::Dir { opaque: true, implicit: false })),
            (b"h".to_vec(), line(What::Hardlink(b"a b\n\xff\\x\t".to_vec()))),
            (b"c".to_vec(), line(What::Device(Kind::Block, 8, 1))),
            (b"w".to_vec(), line(What::Whiteout)),
        ];
        let mut writer = Writer::create(&path).unwrap();
        lines.iter().for_each(|(path, line)| writer.add(path, line).unwrap());
        let totals = writer.finish().unwrap();
        let mut found = Vec::new();
        assert_eq!(read(&path, |path, line| found.push((path, line))).unwrap(), totals);
        assert_eq!(found, lines);
        assert_eq!((totals.objects, totals.bytes), (5, 12));
    }

    #[test]
    fn a_record_that_is_not_whole_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("contents");
        let mut writer = Writer::create(&path).unwrap();
        writer.add(b"a", &line(What::Fifo)).unwrap();
        writer.finish().unwrap();
        let whole = std::fs::read(&path).unwrap();
        for end in 0..whole.len() {
            std::fs::write(&path, whole.get(..end).unwrap()).unwrap();
            assert!(read(&path, |_, _| ()).is_err(), "{end}");
        }
    }
}
