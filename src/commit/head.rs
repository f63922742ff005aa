//! The headers of one entry of a tar archive.
//!
//! The plain header holds what fits; what does not (long names, large numbers, fractions of a second, attributes) goes
//! into a PAX header before it. Holes are described in GNU's PAX form 1.0, whose entries are regular files: the older
//! form has a type of its own, which container engines refuse.

use crate::sys::{Dev, Time};

/// The unit of a tar archive, in bytes.
pub(super) const BLOCK: u64 = 512;

/// What every entry has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Meta {
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    /// Names and values, sorted.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Dir,
    File(Shape),
    Symlink(Vec<u8>),
    /// One more name of the entry with this path.
    Link(Vec<u8>),
    Char(Dev),
    Block(Dev),
    Fifo,
}

/// Where a file has data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    pub size: u64,
    /// Start and length of each stretch of data, in order; `None`: there are no holes.
    pub map: Option<Vec<(u64, u64)>>,
}

impl Shape {
    /// Bytes of data in the archive.
    pub fn stored(&self) -> u64 {
        self.map.as_ref().map_or(self.size, |map| map.iter().map(|(_, length)| length).sum())
    }
}

/// Why an entry has no form in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// An attribute whose name holds `=` (or is no name at all).
    Attribute(Vec<u8>),
    /// A device number.
    Device(Dev),
}

/// All blocks before the data of an entry.
pub(super) fn blocks(path: &[u8], meta: &Meta, body: &Body) -> Result<Vec<u8>, Unfit> {
    let mut pax = Records::default();
    let mut header = tar::Header::new_ustar();
    header.set_mode(meta.mode & 0o7777);
    match body {
        Body::File(Shape { map: Some(_), .. }) => sparse_name(&mut header, path, &mut pax),
        _ => name_field(&mut header, path, &mut pax),
    }
    set_number(meta.uid, &mut pax, b"uid", |n| header.set_uid(n.into()));
    set_number(meta.gid, &mut pax, b"gid", |n| header.set_gid(n.into()));
    set_mtime(&mut header, meta.mtime, &mut pax);
    header.set_size(0);
    set_device(&mut header, Dev::default())?;
    let mut map_blocks = Vec::new();
    match body {
        Body::Dir => header.set_entry_type(tar::EntryType::Directory),
        Body::File(shape) => {
            header.set_entry_type(tar::EntryType::Regular);
            if let Some(map) = &shape.map {
                map_blocks = sparse_map(shape, map, &mut pax);
            }
            set_size(&mut header, map_blocks.len() as u64 + shape.stored(), &mut pax);
        }
        Body::Symlink(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            link_field(&mut header, target, &mut pax);
        }
        Body::Link(target) => {
            header.set_entry_type(tar::EntryType::Link);
            link_field(&mut header, target, &mut pax);
        }
        Body::Char(dev) => {
            header.set_entry_type(tar::EntryType::Char);
            set_device(&mut header, *dev)?;
        }
        Body::Block(dev) => {
            header.set_entry_type(tar::EntryType::Block);
            set_device(&mut header, *dev)?;
        }
        Body::Fifo => header.set_entry_type(tar::EntryType::Fifo),
    }
    header.set_cksum();
    for (name, value) in &meta.xattrs {
        if name.is_empty() || name.iter().any(|b| matches!(b, b'=' | 0)) {
            return Err(Unfit::Attribute(name.clone()));
        }
        pax.add(&[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    let mut out = pax.blocks();
    out.extend_from_slice(header.as_bytes());
    out.extend(map_blocks);
    Ok(out)
}

/// Zeros after `length` bytes of data.
pub(super) fn padding(length: u64) -> usize {
    (length.next_multiple_of(BLOCK) - length) as usize
}

const LARGEST_OCTAL_7: u32 = 0o7_777_777;
const LARGEST_OCTAL_11: u64 = 0o77_777_777_777;

fn set_number(n: u32, pax: &mut Records, key: &[u8], set: impl FnOnce(u32)) {
    if n <= LARGEST_OCTAL_7 {
        set(n);
    } else {
        set(0);
        pax.add(key, n.to_string().as_bytes());
    }
}

fn set_size(header: &mut tar::Header, size: u64, pax: &mut Records) {
    if size <= LARGEST_OCTAL_11 {
        header.set_size(size);
    } else {
        pax.add(b"size", size.to_string().as_bytes());
    }
}

fn set_mtime(header: &mut tar::Header, time: Time, pax: &mut Records) {
    let whole = u64::try_from(time.secs).ok().filter(|s| *s <= LARGEST_OCTAL_11);
    header.set_mtime(whole.unwrap_or(0));
    if time.nanos != 0 || whole.is_none() {
        pax.add(b"mtime", decimal(time).as_bytes());
    }
}

/// Seconds as a decimal number, without zeros at the end.
fn decimal(time: Time) -> String {
    let (negative, secs, nanos) = match (time.secs, time.nanos) {
        (secs, 0) => (secs < 0, secs.unsigned_abs(), 0),
        (secs, nanos) if secs >= 0 => (false, secs.unsigned_abs(), nanos),
        (secs, nanos) => (true, (secs + 1).unsigned_abs(), 1_000_000_000 - nanos),
    };
    let sign = if negative { "-" } else { "" };
    let text = format!("{sign}{secs}.{nanos:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

fn name_field(header: &mut tar::Header, path: &[u8], pax: &mut Records) {
    put(&mut header.as_old_mut().name, path, pax, b"path");
}

fn link_field(header: &mut tar::Header, target: &[u8], pax: &mut Records) {
    put(&mut header.as_old_mut().linkname, target, pax, b"linkpath");
}

/// The name, or as much of it as there is room for and all of it in the PAX header.
fn put(field: &mut [u8; 100], text: &[u8], pax: &mut Records, key: &[u8]) {
    let fits = text.len().min(field.len());
    if let (Some(to), Some(from)) = (field.get_mut(..fits), text.get(..fits)) {
        to.copy_from_slice(from);
    }
    if fits < text.len() {
        pax.add(key, text);
    }
}

fn set_device(header: &mut tar::Header, dev: Dev) -> Result<(), Unfit> {
    if dev.major > LARGEST_OCTAL_7 || dev.minor > LARGEST_OCTAL_7 {
        return Err(Unfit::Device(dev));
    }
    let unfit = |_| Unfit::Device(dev);
    header.set_device_major(dev.major).map_err(unfit)?;
    header.set_device_minor(dev.minor).map_err(unfit)
}

/// The name that readers see who do not know of holes.
fn sparse_name(header: &mut tar::Header, path: &[u8], pax: &mut Records) {
    pax.add(b"GNU.sparse.major", b"1");
    pax.add(b"GNU.sparse.minor", b"0");
    pax.add(b"GNU.sparse.name", path);
    let last = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
    let shown = [b"GNUSparseFile.0/", last].concat();
    let shown = shown.get(..shown.len().min(100)).unwrap_or_default();
    name_field(header, shown, pax);
}

/// The map that stands before the data, padded.
fn sparse_map(shape: &Shape, map: &[(u64, u64)], pax: &mut Records) -> Vec<u8> {
    pax.add(b"GNU.sparse.realsize", shape.size.to_string().as_bytes());
    let mut all = map.to_vec();
    // The end of the file is told by an empty stretch there, unless data reaches it.
    if all.last().is_none_or(|(start, length)| start + length < shape.size) {
        all.push((shape.size, 0));
    }
    let mut text = format!("{}\n", all.len());
    for (start, length) in &all {
        text.push_str(&format!("{start}\n{length}\n"));
    }
    let mut out = text.into_bytes();
    out.resize(out.len().next_multiple_of(BLOCK as usize), 0);
    out
}

/// The records of a PAX header.
#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    /// `LENGTH KEY=VALUE\n`, where the length counts itself.
    fn add(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut digits = 1;
        while (rest + digits).to_string().len() > digits {
            digits += 1;
        }
        self.0.extend_from_slice(format!("{} ", rest + digits).as_bytes());
        self.0.extend_from_slice(key);
        self.0.push(b'=');
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }

    /// The header with its records; nothing when there are none.
    fn blocks(self) -> Vec<u8> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(self.0.len() as u64);
        if let Some(name) = header.as_old_mut().name.get_mut(..10) {
            name.copy_from_slice(b"PaxHeaders");
        }
        header.set_cksum();
        let mut out = header.as_bytes().to_vec();
        let pad = padding(self.0.len() as u64);
        out.extend(self.0);
        out.resize(out.len() + pad, 0);
        out
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    type Pax = Vec<(String, Vec<u8>)>;

    /// One entry through the tar crate: name, records, contents.
    fn read(path: &[u8], meta: &Meta, body: &Body, data: &[u8]) -> (Vec<u8>, Pax, Vec<u8>) {
        let mut bytes = blocks(path, meta, body).unwrap();
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len() + padding(data.len() as u64) + 1024, 0);
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        let pax = entry.pax_extensions().unwrap().map_or(Vec::new(), |records| {
            let own = |r: tar::PaxExtension<'_>| (r.key().unwrap().to_string(), r.value_bytes().to_vec());
            records.map(|r| own(r.unwrap())).collect()
        });
        let mut content = Vec::new();
        let name = entry.path_bytes().into_owned();
        entry.read_to_end(&mut content).unwrap();
        (name, pax, content)
    }

    #[test]
    fn a_plain_entry_needs_no_pax_header() {
        let meta = Meta { mode: 0o4755, uid: 1, gid: 2, mtime: Time { secs: 7, nanos: 0 }, xattrs: vec![] };
        let (name, pax, content) = read(b"a/b", &meta, &Body::File(Shape { size: 3, map: None }), b"abc");
        assert_eq!((name.as_slice(), pax.len(), content.as_slice()), (&b"a/b"[..], 0, &b"abc"[..]));
    }

    #[test]
    fn what_does_not_fit_goes_into_pax_records() {
        let meta = Meta {
            mode: 0o644,
            uid: 3_000_000,
            gid: u32::MAX - 1,
            mtime: Time { secs: -2, nanos: 500_000_000 },
            xattrs: vec![(b"user.x".to_vec(), b"\0=".to_vec())],
        };
        let path = [b'p'; 300];
        let (name, pax, _) = read(&path, &meta, &Body::Symlink(vec![b't'; 101]), b"");
        assert_eq!(name, path);
        let value = |key: &str| pax.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone()).unwrap();
        assert_eq!(value("uid"), b"3000000");
        assert_eq!(value("gid"), b"4294967294");
        assert_eq!(value("mtime"), b"-1.5");
        assert_eq!(value("linkpath"), vec![b't'; 101]);
        assert_eq!(value("SCHILY.xattr.user.x"), b"\0=");
    }

    #[test]
    fn holes_are_described_before_the_data() {
        let shape = Shape { size: 100_000, map: Some(vec![(4096, 4096), (50_000, 10)]) };
        let data = vec![b'd'; 4106];
        let mut body = blocks(b"dir/s", &Meta::default(), &Body::File(shape.clone())).unwrap();
        let text = body.split_off(body.len() - 512);
        assert_eq!(text[..34], *b"3\n4096\n4096\n50000\n10\n100000\n0\n\0\0\0\0");
        let map = [text, data].concat();
        let (name, pax, content) = read(b"dir/s", &Meta::default(), &Body::File(shape), &map[512..]);
        assert_eq!((name.as_slice(), content), (&b"GNUSparseFile.0/s"[..], map));
        let value = |key: &str| pax.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone()).unwrap();
        assert_eq!(value("GNU.sparse.name"), b"dir/s");
        assert_eq!(value("GNU.sparse.realsize"), b"100000");
    }

    #[test]
    fn times_are_decimal_numbers() {
        let text = |secs, nanos| decimal(Time { secs, nanos });
        assert_eq!(text(1, 500_000_000), "1.5");
        assert_eq!(text(0, 1), "0.000000001");
        assert_eq!(text(-1, 0), "-1");
        assert_eq!(text(-1, 999_999_999), "-0.000000001");
        assert_eq!(text(10, 0), "10");
    }

    #[test]
    fn the_length_of_a_record_counts_itself() {
        for length in 0..300 {
            let mut records = Records::default();
            records.add(b"k", &vec![b'v'; length]);
            let text = String::from_utf8(records.0.clone()).unwrap();
            assert_eq!(text.split(' ').next().unwrap().parse::<usize>().unwrap(), text.len());
        }
    }

    #[test]
    fn an_attribute_name_that_no_record_can_hold_is_refused() {
        let meta = Meta { xattrs: vec![(b"user.a=b".to_vec(), vec![])], ..Meta::default() };
        assert_eq!(blocks(b"f", &meta, &Body::Fifo), Err(Unfit::Attribute(b"user.a=b".to_vec())));
    }
}
