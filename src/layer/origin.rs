//! The handle record that says which lower object an upper one was copied up from (L-28 to L-30).

use crate::sys::handle::FileHandle;

const MAGIC: u8 = 0xfb;
const HEAD: usize = 21;
const BIG_ENDIAN: u8 = 1;
const ANY_ENDIAN: u8 = 2;
const UPPER: u8 = 4;

/// A decoded record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What the filesystem calls the object.
    pub handle: FileHandle,
    /// Which filesystem; zeros when unknown.
    pub uuid: [u8; 16],
    /// It names an object of the upper.
    pub upper: bool,
}

/// The bytes to store. `None` for a handle that a record cannot hold (L-28): its type has one byte there.
pub fn encode(record: &Record) -> Option<Vec<u8>> {
    let kind = u8::try_from(record.handle.kind).ok()?;
    let flags =
        if cfg!(target_endian = "big") { BIG_ENDIAN } else { 0 } | if record.upper { UPPER } else { 0 };
    let len = u8::try_from(HEAD + record.handle.bytes.len()).ok()?;
    let mut out = vec![0, MAGIC, len, flags, kind];
    out.extend_from_slice(&record.uuid);
    out.extend_from_slice(&record.handle.bytes);
    Some(out)
}

/// Reads a record. `None` for an empty, corrupt or foreign one, which counts as no origin (L-29).
pub fn decode(value: &[u8]) -> Option<Record> {
    let [0, MAGIC, len, flags, kind, rest @ ..] = value else { return None };
    let foreign = if cfg!(target_endian = "big") { 0 } else { BIG_ENDIAN };
    let right_endian = flags & ANY_ENDIAN != 0 || flags & BIG_ENDIAN != foreign;
    if usize::from(*len) > value.len() || usize::from(*len) <= HEAD || !right_endian || *flags > 7 {
        return None;
    }
    let (uuid, bytes) = rest.split_at_checked(16)?;
    let bytes = bytes.get(..usize::from(*len) - HEAD)?.to_vec();
    Some(Record {
        handle: FileHandle { kind: i32::from(*kind), bytes },
        uuid: uuid.try_into().ok()?,
        upper: flags & UPPER != 0,
    })
}

/// The name of the index entry of the object a record names (L-30).
pub fn index_name(record: &[u8]) -> String {
    record.iter().map(|b| format!("{b:02x}")).collect()
}

/// The record that an index entry is named after. `None` for a name that is none.
pub fn of_index_name(name: &[u8]) -> Option<Vec<u8>> {
    let (pairs, rest) = name.as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let bytes: Option<Vec<u8>> =
        pairs.iter().map(|&[high, low]| u8::try_from(digit(high)? << 4 | digit(low)?).ok()).collect();
    bytes.filter(|record| rest.is_empty() && decode(record).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            handle: FileHandle { kind: 1, bytes: vec![1, 2, 3, 4, 5, 6, 7, 8] },
            uuid: [0; 16],
            upper: false,
        }
    }

    #[test]
    fn the_bytes_are_those_the_kernel_writes_for_ext4_l28() {
        let bytes = encode(&record()).unwrap();
        assert_eq!(&bytes[..5], &[0x00, 0xfb, 0x1d, 0x00, 0x01]);
        assert_eq!(bytes.len(), 29);
        assert_eq!(decode(&bytes), Some(record()));
        assert_eq!(index_name(&bytes[..5]), "00fb1d0001");
    }

    #[test]
    fn an_index_name_is_the_record_in_hexadecimal_l30() {
        let bytes = encode(&record()).unwrap();
        assert_eq!(of_index_name(index_name(&bytes).as_bytes()), Some(bytes));
        for bad in [&b""[..], b"#1", b"00fb", b"zz", b"00fb1d0001f"] {
            assert_eq!(of_index_name(bad), None);
        }
    }

    #[test]
    fn corrupt_records_count_as_none_l29() {
        let good = encode(&record()).unwrap();
        assert_eq!(decode(&[]), None);
        for cut in 0..good.len() {
            assert_eq!(decode(&good[..cut]), None, "{cut}");
        }
        let mut big = good.clone();
        big[3] = BIG_ENDIAN;
        assert_eq!(decode(&big), None);
        big[3] = BIG_ENDIAN | ANY_ENDIAN;
        assert!(decode(&big).is_some());
        let mut version = good;
        version[0] = 1;
        assert_eq!(decode(&version), None);
    }

    #[test]
    fn a_handle_type_of_more_than_a_byte_is_not_recorded_l28() {
        for kind in [-1, 256, 0x1_0001] {
            let handle = FileHandle { kind, bytes: vec![1; 8] };
            assert_eq!(encode(&Record { handle, ..record() }), None);
        }
        let handle = FileHandle { kind: 255, bytes: vec![1; 8] };
        assert!(encode(&Record { handle, ..record() }).is_some());
    }
}
