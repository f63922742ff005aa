//! Files with holes: GNU's own header with further blocks of it, and the three forms GNU tar has had in PAX.

use tar::Header;

use super::super::refusal::{Refusal, Result};
use super::pax::{Pax, decimal};
use super::{BLOCK, Input, Reader, truncated};

/// The most extents of one file.
const EXTENT_LIMIT: usize = 1 << 18;

/// A part of a sparse file that has data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where in the file.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// A sparse file.
#[derive(Debug)]
pub struct Map {
    pub extents: Vec<Extent>,
    pub real_size: u64,
    /// PAX gives the entry a made-up name and says the real one here.
    pub name: Option<Vec<u8>>,
}

fn damaged() -> Refusal {
    Refusal::new("its map of holes is damaged")
}

impl<I: Input> Reader<I> {
    /// Reads the map if the file has one, and expects the data that is then left of `stored` bytes.
    pub(super) fn sparse_map(&mut self, header: &Header, pax: &Pax, stored: u64) -> Result<Option<Map>> {
        let (mut numbers, real_size) = if header.entry_type().is_gnu_sparse() {
            let gnu = header.as_gnu().ok_or_else(damaged)?;
            let real_size = gnu.real_size().map_err(|_| damaged())?;
            let mut numbers = Vec::new();
            let mut read = |slots: &[tar::GnuSparseHeader]| -> Result<()> {
                for slot in slots.iter().filter(|slot| !slot.is_empty()) {
                    numbers.push(slot.offset().map_err(|_| damaged())?);
                    numbers.push(slot.length().map_err(|_| damaged())?);
                }
                if numbers.len() / 2 > EXTENT_LIMIT { Err(damaged()) } else { Ok(()) }
            };
            read(&gnu.sparse)?;
            let mut more = gnu.is_extended();
            while more {
                let block = self.block()?.ok_or_else(truncated)?;
                let mut further = tar::GnuExtSparseHeader::new();
                further.as_mut_bytes().copy_from_slice(&block);
                read(&further.sparse)?;
                more = further.is_extended();
            }
            self.expect(stored)?;
            (numbers, real_size)
        } else if let (Some(b"1"), Some(b"0")) = (pax.get("GNU.sparse.major"), pax.get("GNU.sparse.minor")) {
            let real_size = pax.number("GNU.sparse.realsize")?.ok_or_else(damaged)?;
            self.expect(stored)?;
            (self.map_in_data()?, real_size)
        } else if let Some(real_size) = pax.number("GNU.sparse.size")? {
            self.expect(stored)?;
            let numbers = match pax.get("GNU.sparse.map") {
                Some(map) => map
                    .split(|b| *b == b',')
                    .map(|n| decimal(n).ok_or_else(damaged))
                    .collect::<Result<_>>()?,
                None => pax.sparse_pairs()?,
            };
            (numbers, real_size)
        } else {
            self.expect(stored)?;
            return Ok(None);
        };
        if numbers.len() % 2 != 0 {
            numbers.clear();
            return Err(damaged());
        }
        let extents: Vec<Extent> = numbers
            .chunks_exact(2)
            .filter_map(|pair| match pair {
                [offset, length] => Some(Extent { offset: *offset, length: *length }),
                _ => None,
            })
            .filter(|extent| extent.length > 0)
            .collect();
        check(&extents, real_size, self.left)?;
        Ok(Some(Map { extents, real_size, name: pax.sparse_name()? }))
    }

    /// Form 1.0: decimal numbers, a line each, at the beginning of the data, filled up to a block.
    fn map_in_data(&mut self) -> Result<Vec<u64>> {
        let mut lines = Lines { used: 0 };
        let count =
            usize::try_from(lines.number(self)?).ok().filter(|n| *n <= EXTENT_LIMIT).ok_or_else(damaged)?;
        let mut numbers = Vec::new();
        for _ in 0..count * 2 {
            numbers.push(lines.number(self)?);
        }
        let fill = lines.used.wrapping_neg() % BLOCK as u64;
        for _ in 0..fill {
            self.byte()?;
        }
        Ok(numbers)
    }

    fn byte(&mut self) -> Result<u8> {
        let byte = *self.data()?.first().ok_or_else(damaged)?;
        self.consume(1);
        Ok(byte)
    }
}

struct Lines {
    used: u64,
}

impl Lines {
    fn number<I: Input>(&mut self, reader: &mut Reader<I>) -> Result<u64> {
        let mut digits = Vec::new();
        loop {
            let byte = reader.byte()?;
            self.used += 1;
            match byte {
                b'\n' => return decimal(&digits).ok_or_else(damaged),
                digit if digits.len() < 20 => digits.push(digit),
                _ => return Err(damaged()),
            }
        }
    }
}

/// The extents follow one another within the file, and the data is exactly theirs.
fn check(extents: &[Extent], real_size: u64, stored: u64) -> Result<()> {
    if real_size > i64::MAX as u64 {
        return Err(Refusal::new("its size is negative or larger than any file"));
    }
    let (mut end, mut sum) = (0u64, 0u64);
    for extent in extents {
        if extent.offset < end {
            return Err(damaged());
        }
        end = extent.offset.checked_add(extent.length).filter(|end| *end <= real_size).ok_or_else(damaged)?;
        sum += extent.length;
    }
    if sum == stored { Ok(()) } else { Err(damaged()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_that_does_not_fit_its_file_is_refused() {
        let extent = |offset, length| Extent { offset, length };
        check(&[extent(0, 10), extent(20, 5)], 30, 15).unwrap();
        check(&[], 30, 0).unwrap();
        for (extents, size, stored) in [
            (vec![extent(10, 10), extent(15, 5)], 30, 15),
            (vec![extent(20, 20)], 30, 20),
            (vec![extent(u64::MAX, 2)], 30, 2),
            (vec![extent(0, 10)], 30, 11),
            (vec![], u64::MAX, 0),
        ] {
            assert!(check(&extents, size, stored).is_err(), "{extents:?}");
        }
    }
}
