//! PAX extended headers: records `LENGTH KEY=VALUE\n`, the length counting itself. Values are bytes, newlines included.

use std::collections::BTreeMap;

use super::super::refusal::{Refusal, Result};
use crate::sys::Time;

const XATTR: &[u8] = b"SCHILY.xattr.";

/// The records of one header, or of all headers that apply to an entry.
#[derive(Clone, Debug, Default)]
pub struct Pax {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    /// `GNU.sparse.offset` and `GNU.sparse.numbytes` come once for each extent, in order.
    extents: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Pax {
    /// Reads a header.
    ///
    /// # Errors
    /// Records that are not of this form.
    pub fn parse(mut bytes: &[u8]) -> Result<Pax> {
        let damaged = || Refusal::new("an extended header is damaged");
        let mut pax = Pax::default();
        while !bytes.is_empty() {
            // Some writers fill the block.
            if bytes.iter().all(|b| *b == 0) {
                break;
            }
            let blank = bytes.iter().position(|b| *b == b' ').ok_or_else(damaged)?;
            let length = bytes.get(..blank).and_then(decimal).ok_or_else(damaged)?;
            let length = usize::try_from(length).map_err(|_| damaged())?;
            let record = bytes.get(blank + 1..length).ok_or_else(damaged)?;
            let (newline, record) = record.split_last().ok_or_else(damaged)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(damaged)?;
            let (key, value) = record.split_at_checked(equals).ok_or_else(damaged)?;
            let value = value.get(1..).unwrap_or_default();
            if *newline != b'\n' || key.is_empty() {
                return Err(damaged());
            }
            if matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes") {
                pax.extents.push((key.to_vec(), value.to_vec()));
            } else {
                pax.values.insert(key.to_vec(), value.to_vec());
            }
            bytes = bytes.get(length..).unwrap_or_default();
        }
        Ok(pax)
    }

    /// Lets the records of `over` count before these. An empty value takes one away.
    pub fn merge(&mut self, over: Pax) {
        for (key, value) in over.values {
            // An attribute may be empty.
            if value.is_empty() && !key.starts_with(XATTR) {
                self.values.remove(&key);
            } else {
                self.values.insert(key, value);
            }
        }
        if !over.extents.is_empty() {
            self.extents = over.extents;
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.values.get(key.as_bytes()).map(Vec::as_slice)
    }

    fn without_nul(&self, key: &str) -> Result<Option<Vec<u8>>> {
        match self.get(key) {
            Some(value) if value.contains(&0) => Err(Refusal::new("a name contains a NUL").entry(value)),
            value => Ok(value.map(<[u8]>::to_vec)),
        }
    }

    /// The name. Errors: a NUL in it.
    pub fn path(&self) -> Result<Option<Vec<u8>>> {
        self.without_nul("path")
    }

    /// The target of a link. Errors: a NUL in it.
    pub fn link(&self) -> Result<Option<Vec<u8>>> {
        self.without_nul("linkpath")
    }

    /// The name of a sparse file. Errors: a NUL in it.
    pub fn sparse_name(&self) -> Result<Option<Vec<u8>>> {
        self.without_nul("GNU.sparse.name")
    }

    /// The number of bytes of data. Errors: no number, or a negative one.
    pub fn size(&self) -> Result<Option<u64>> {
        self.number("size")
    }

    /// A number. Errors: it is none, or negative.
    pub fn number(&self, key: &str) -> Result<Option<u64>> {
        self.get(key)
            .map(|value| {
                decimal(value).ok_or_else(|| {
                    Refusal::new(format!("its {key} '{}' is negative or no number", value.escape_ascii()))
                })
            })
            .transpose()
    }

    /// A time in seconds, with a fraction. Errors: it is none.
    pub fn time(&self, key: &str) -> Result<Option<Time>> {
        self.get(key)
            .map(|value| {
                time(value)
                    .ok_or_else(|| Refusal::new(format!("its {key} '{}' is no time", value.escape_ascii())))
            })
            .transpose()
    }

    /// The extended attributes.
    pub fn xattrs(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let named =
            |(key, value): (&Vec<u8>, &Vec<u8>)| Some((key.strip_prefix(XATTR)?.to_vec(), value.clone()));
        self.values.iter().filter_map(named).collect()
    }

    /// The extents of the oldest form: an offset and a length, alternating.
    pub fn sparse_pairs(&self) -> Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for (at, (key, value)) in self.extents.iter().enumerate() {
            let expected: &[u8] = if at % 2 == 0 { b"GNU.sparse.offset" } else { b"GNU.sparse.numbytes" };
            match decimal(value) {
                Some(number) if key == expected => numbers.push(number),
                _ => return Err(Refusal::new("its map of holes is damaged")),
            }
        }
        Ok(numbers)
    }
}

/// Digits alone.
pub fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// `[-]SECONDS[.FRACTION]`, as nanoseconds counted upwards from whole seconds.
fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut halves = text.splitn(2, |b| *b == b'.');
    let secs = i64::try_from(decimal(halves.next()?)?).ok()?;
    let fraction = halves.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = fraction
        .iter()
        .chain(std::iter::repeat(&b'0'))
        .take(9)
        .fold(0u32, |nanos, digit| nanos * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanos) {
        (false, nanos) => Time { secs, nanos },
        (true, 0) => Time { secs: -secs, nanos: 0 },
        (true, nanos) => Time { secs: -secs - 1, nanos: 1_000_000_000 - nanos },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_hold_newlines_and_nul() {
        let pax = Pax::parse(b"27 SCHILY.xattr.user.a=\n\0=\n12 path=a/b\n").unwrap();
        assert_eq!(pax.xattrs(), [(b"user.a".to_vec(), b"\n\0=".to_vec())]);
        assert_eq!(pax.path().unwrap().unwrap(), b"a/b");
    }

    #[test]
    fn a_record_with_a_wrong_length_is_refused() {
        for bad in [
            &b"5 a=b\n"[..],
            b"99 a=b\n",
            b"-6 a=b\n",
            b"6a=b\n\n",
            b"6 a=bc",
            b"4 =\n",
            b"18446744073709551616 a=b\n",
        ] {
            assert!(Pax::parse(bad).is_err(), "{}", bad.escape_ascii());
        }
        assert!(Pax::parse(b"12 path=a\0b\n").unwrap().path().is_err());
        assert!(Pax::parse(b"11 size=-1\n").unwrap().size().is_err());
    }

    #[test]
    fn times_have_fractions_and_may_be_before_1970() {
        assert_eq!(time(b"12.5"), Some(Time { secs: 12, nanos: 500_000_000 }));
        assert_eq!(time(b"1.0000000019"), Some(Time { secs: 1, nanos: 1 }));
        assert_eq!(time(b"-1.25"), Some(Time { secs: -2, nanos: 750_000_000 }));
        assert_eq!(time(b"-3"), Some(Time { secs: -3, nanos: 0 }));
        assert_eq!(time(b"1.x"), None);
        assert_eq!(time(b"99999999999999999999"), None);
    }
}
