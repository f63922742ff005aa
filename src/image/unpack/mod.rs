//! Unpacking one layer into a directory, in the form kernel overlayfs has.
//!
//! Names in an archive may be anything, so they never become paths: every component is looked up in the open
//! directory before it, and a component that is no directory ends the import. Whiteouts and replaced directories of
//! OCI (`.wh.NAME`, `.wh..wh..opq`) speak of the layers below only, wherever they stand in the archive; so does what
//! they become here. Directories are closed to others until the end, when they get what their entries say: what is
//! made in them would change their times.

pub mod contents;
pub mod dialect;
mod places;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

use super::refusal::{Refusal, Result};
use super::tar::{Entry, EntryKind, Input, Reader};
use crate::layer::marks::Mark;
use crate::sys::{At, Dev, Dir, Errno, Kind, NameBuf, file};
use contents::{Line, Totals, What};
use dialect::{Attributes, Dialect, Lost};
use places::{Parent, Places};

const MARK: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// From which size on a file is sent to the disk at once, in bytes, so that the disk works while we do.
const LARGE: u64 = 1 << 20;

/// What became of a layer.
#[derive(Clone, Debug, Default)]
pub struct Unpacked {
    /// How much it is.
    pub totals: Totals,
    /// What could not be kept.
    pub lost: Lost,
}

/// Unpacks the archive `from` into the empty directory `root` and writes its record to `record`. The umask must be 0.
/// Gives back what it read from. `limit`: the most bytes that files may pretend to have.
///
/// # Errors
/// An entry that is refused, or that cannot be made; what was made until then is still there.
pub fn unpack<I: Input>(
    from: I,
    root: &Path,
    record: &Path,
    dialect: Dialect,
    limit: u64,
) -> Result<(Unpacked, I)> {
    let made = |e: std::io::Error| Refusal::new(format!("its record cannot be written: {e}"));
    let mut unpacking = Unpacking {
        places: Places::new(Dir::open_path(root)?),
        record: contents::Writer::create(record).map_err(made)?,
        dialect,
        own: (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()),
        lost: Lost::default(),
        left: limit,
        limit,
    };
    let mut reader = Reader::new(from);
    while let Some(entry) = reader.next_entry()? {
        unpacking.entry(&entry, &mut reader).map_err(|e| e.entry(&entry.path))?;
    }
    unpacking.directories()?;
    let totals = unpacking.record.finish().map_err(made)?;
    Ok((Unpacked { totals, lost: unpacking.lost }, reader.into_input()))
}

/// The components of a name, none of which is `.` or empty. Empty for the root itself.
fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    if path.is_empty() {
        return Err(Refusal::new("it has no name"));
    }
    let all: Vec<&[u8]> =
        path.split(|b| *b == b'/').filter(|word| !word.is_empty() && *word != b".").collect();
    if all.contains(&&b".."[..]) {
        return Err(Refusal::new("its name leads out of the layer"));
    }
    if path.first() == Some(&b'/') && !all.is_empty() {
        return Err(Refusal::new("its name is absolute"));
    }
    Ok(all)
}

fn checked(name: &[u8]) -> Result<NameBuf> {
    NameBuf::new(name).map_err(|errno| match errno {
        Errno::ENAMETOOLONG => Refusal::new("a part of its name is longer than 255 bytes"),
        _ => Refusal::new("a part of its name is none that a file can have"),
    })
}

struct Unpacking {
    places: Places,
    record: contents::Writer,
    dialect: Dialect,
    /// Who owns what is made here.
    own: (u32, u32),
    lost: Lost,
    /// How many bytes files may still pretend to have.
    left: u64,
    limit: u64,
}

impl Unpacking {
    fn entry<I: Input>(&mut self, entry: &Entry, reader: &mut Reader<I>) -> Result<()> {
        let words = components(&entry.path)?;
        let Some((last, parent)) = words.split_last() else {
            return match entry.kind {
                EntryKind::Dir => self.directory(&[], entry),
                _ => Err(Refusal::new("the layer itself is no directory")),
            };
        };
        if last.starts_with(MARK) {
            return self.mark(last, parent);
        }
        if let Some(word) = parent.iter().find(|word| word.starts_with(MARK)) {
            return Err(Refusal::new(format!("'{}' is a mark and no directory", word.escape_ascii())));
        }
        match &entry.kind {
            EntryKind::Dir => self.directory(&words, entry),
            EntryKind::Hardlink(target) => self.hardlink(last, parent, target),
            _ => self.object(last, parent, entry, reader),
        }
    }

    /// The directory `parent`, made if need be.
    fn parent(&mut self, parent: &[&[u8]]) -> Result<std::sync::Arc<Dir>> {
        match self.places.find(parent)? {
            Parent::Dir(dir) => Ok(dir),
            Parent::Blocked(Kind::Symlink) => Err(Refusal::new("its name leads through a symbolic link")),
            Parent::Blocked(_) => Err(Refusal::new("its name leads through something that is no directory")),
        }
    }

    /// `.wh.NAME` and `.wh..wh..opq`.
    fn mark(&mut self, last: &[u8], parent: &[&[u8]]) -> Result<()> {
        let name = last.strip_prefix(MARK).unwrap_or_default();
        if matches!(name, b"" | b"." | b"..") {
            return Err(Refusal::new("it deletes no name that there is"));
        }
        if last != OPAQUE && name.starts_with(MARK) {
            // AUFS kept its own files under such names.
            return Ok(());
        }
        let name = checked(name)?;
        let dir = match self.places.find(parent)? {
            Parent::Dir(dir) => dir,
            Parent::Blocked(Kind::Symlink) => {
                return Err(Refusal::new("its name leads through a symbolic link"));
            }
            // Below a file there is nothing left to delete; umoci writes such marks.
            Parent::Blocked(_) => return Ok(()),
        };
        if last == OPAQUE {
            self.places.set_opaque(parent);
            return Ok(());
        }
        match dir.mknod(&name, libc::S_IFCHR, Dev::default()) {
            Ok(()) => {}
            Err(Errno::EEXIST) => {
                let words: Vec<&[u8]> = parent.iter().copied().chain([name.as_bytes()]).collect();
                if Kind::of_mode(dir.stat(&name)?.mode) == Kind::Dir {
                    self.places.set_opaque(&words);
                }
                return Ok(());
            }
            Err(errno @ (Errno::EPERM | Errno::EOPNOTSUPP)) => {
                return Err(Refusal::new(format!("a whiteout cannot be made: {}", errno.desc()))
                    .hint("name a store on another file system with --store DIR"));
            }
            Err(errno) => return Err(errno.into()),
        }
        let path = [parent, &[name.as_bytes()]].concat().join(&b'/');
        let blank = Attributes::implicit();
        self.write(&path, What::Whiteout, &Attributes { mode: 0, ..blank })
    }

    fn directory(&mut self, words: &[&[u8]], entry: &Entry) -> Result<()> {
        let attributes = Attributes::of(entry, self.dialect, &mut self.lost)?;
        match self.places.find(words)? {
            Parent::Dir(_) => {
                self.places.describe(words, attributes);
                Ok(())
            }
            Parent::Blocked(Kind::Symlink) => {
                Err(Refusal::new("a symbolic link of that name is there already"))
            }
            Parent::Blocked(_) => {
                Err(Refusal::new("something of that name is there already and no directory"))
            }
        }
    }

    fn hardlink(&mut self, last: &[u8], parent: &[&[u8]], target: &[u8]) -> Result<()> {
        let named = |why: &str| Refusal::new(format!("its target '{}' {why}", target.escape_ascii()));
        let words = components(target).map_err(|_| named("is not within the layer"))?;
        let (target_name, target_parent) = words.split_last().ok_or_else(|| named("is the layer itself"))?;
        let (name, target_name) = (checked(last)?, checked(target_name)?);
        let from = match self.places.look(target_parent)? {
            Some(Parent::Dir(dir)) => dir,
            Some(Parent::Blocked(Kind::Symlink)) => return Err(named("leads through a symbolic link")),
            _ => return Err(named("is not in this layer before it")),
        };
        let stat = from.find(&target_name)?.ok_or_else(|| named("is not in this layer before it"))?;
        match Kind::of_mode(stat.mode) {
            Kind::Dir => return Err(named("is a directory")),
            Kind::Char if stat.rdev == Dev::default() => return Err(named("is not in this layer before it")),
            _ => {}
        }
        let to = self.parent(parent)?;
        if std::ptr::eq(&*from, &*to) && name == target_name {
            return Err(named("is itself"));
        }
        match to.link(from.at(&target_name), &name) {
            Err(Errno::EEXIST) => {
                self.clear(&to, &name)?;
                to.link(from.at(&target_name), &name)?;
            }
            done => done?,
        }
        let path = [parent, &[last]].concat().join(&b'/');
        let what = What::Hardlink(words.join(&b'/'));
        self.write(&path, what, &Attributes::implicit())
    }

    /// Makes room for an entry: what comes later in an archive counts, but a directory is never replaced.
    fn clear(&mut self, dir: &Dir, name: &NameBuf) -> Result<()> {
        if Kind::of_mode(dir.stat(name)?.mode) == Kind::Dir {
            return Err(Refusal::new("a directory of that name is there already"));
        }
        Ok(dir.unlink(name)?)
    }

    /// Makes something under a name that may be taken.
    fn make<T>(&mut self, dir: &Dir, name: &NameBuf, make: impl Fn() -> crate::sys::Result<T>) -> Result<T> {
        match make() {
            Err(Errno::EEXIST) => {
                self.clear(dir, name)?;
                Ok(make()?)
            }
            done => Ok(done?),
        }
    }

    fn object<I: Input>(
        &mut self,
        last: &[u8],
        parent: &[&[u8]],
        entry: &Entry,
        reader: &mut Reader<I>,
    ) -> Result<()> {
        let name = checked(last)?;
        let dir = self.parent(parent)?;
        let attributes = Attributes::of(entry, self.dialect, &mut self.lost)?;
        let path = [parent, &[last]].concat().join(&b'/');
        let (kind, what) = match &entry.kind {
            EntryKind::File => {
                self.left = self.left.checked_sub(entry.size).ok_or_else(|| {
                    Refusal::new(format!("its {} bytes are more than the {} allowed", entry.size, self.limit))
                        .hint("if it is meant to be that large, allow it with --max-size")
                })?;
                let mode = self.dialect.real_mode(Kind::File, attributes.mode);
                let fd = self.make(&dir, &name, || dir.create(&name, libc::O_RDWR, mode))?;
                let hash = write_data(&fd, entry, reader)?;
                (Kind::File, What::File(entry.size, hash))
            }
            EntryKind::Symlink(target) => {
                let c = std::ffi::CString::new(target.as_slice())
                    .map_err(|_| Refusal::new("its target contains a NUL"))?;
                self.make(&dir, &name, || dir.symlink(&name, &c))?;
                (Kind::Symlink, What::Symlink(contents::hash(target)))
            }
            EntryKind::Char(0, 0) => {
                return Err(Refusal::new("a character device 0:0 is the mark of a deletion, and no device")
                    .hint("was it packed from a layer of overlayfs? OCI layers have .wh. files instead"));
            }
            EntryKind::Char(major, minor) => {
                self.node(&dir, &name, Kind::Char, (*major, *minor), attributes.mode)?;
                (Kind::Char, What::Device(Kind::Char, *major, *minor))
            }
            EntryKind::Block(major, minor) => {
                self.node(&dir, &name, Kind::Block, (*major, *minor), attributes.mode)?;
                (Kind::Block, What::Device(Kind::Block, *major, *minor))
            }
            EntryKind::Fifo => {
                self.node(&dir, &name, Kind::Fifo, (0, 0), attributes.mode)?;
                (Kind::Fifo, What::Fifo)
            }
            EntryKind::Dir | EntryKind::Hardlink(_) => {
                return Err(Refusal::new("it is of an unexpected type"));
            }
        };
        attributes.give(dir.at(&name), kind, self.dialect, self.own, &mut self.lost)?;
        self.write(&path, what, &attributes)
    }

    /// A node of the kind this store really has for it.
    fn node(&mut self, dir: &Dir, name: &NameBuf, kind: Kind, device: (u32, u32), mode: u32) -> Result<()> {
        let mode = self.dialect.real_mode(kind, mode);
        let real = self.dialect.real_kind(kind);
        if real == Kind::File {
            return self.make(dir, name, || dir.create(name, libc::O_WRONLY, mode)).map(drop);
        }
        let dev = Dev { major: device.0, minor: device.1 };
        self.make(dir, name, || dir.mknod(name, real.mode_bits() | mode, dev))
    }

    fn write(&mut self, path: &[u8], what: What, attributes: &Attributes) -> Result<()> {
        let line = Line {
            what,
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime: attributes.mtime,
            xattrs: contents::hash_of(&attributes.xattrs),
        };
        self.record.add(path, &line).map_err(|e| Refusal::new(format!("its record cannot be written: {e}")))
    }

    /// Gives every directory what it should have.
    fn directories(&mut self) -> Result<()> {
        for (path, found) in self.places.take_all() {
            let words: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|word| !word.is_empty()).collect();
            let Some(Parent::Dir(dir)) = self.places.look(&words)? else {
                return Err(Refusal::new("it changed while it was unpacked").entry(&path));
            };
            // Attributes want a descriptor that is more than a place.
            let fd: OwnedFd = dir.open_readable()?;
            let to = At::Fd(fd.as_fd());
            if found.opaque {
                to.setxattr(self.dialect.prefix().attr(Mark::Opaque), b"y", 0).map_err(|errno| {
                    Refusal::new(format!("a directory cannot be marked as replaced: {}", errno.desc()))
                        .hint("name a store on a file system with extended attributes, with --store DIR")
                })?;
            }
            let implicit = found.attributes.is_none();
            let attributes = found.attributes.unwrap_or_else(Attributes::implicit);
            attributes
                .give(to, Kind::Dir, self.dialect, self.own, &mut self.lost)
                .map_err(|e| e.entry(&path))?;
            self.write(&path, What::Dir { opaque: found.opaque, implicit }, &attributes)?;
        }
        Ok(())
    }
}

/// Writes the data of an entry and returns its hash, holes counted as zeros are not: only what is stored is hashed.
fn write_data<I: Input>(fd: &OwnedFd, entry: &Entry, reader: &mut Reader<I>) -> Result<u64> {
    let mut hasher = Xxh3::new();
    match &entry.sparse {
        None => {
            let mut offset = 0;
            loop {
                let piece = reader.data()?;
                let len = piece.len();
                if len == 0 {
                    break;
                }
                write_all(fd, offset, piece)?;
                hasher.update(piece);
                reader.consume(len);
                offset += len as u64;
            }
        }
        Some(extents) => {
            file::truncate(fd.as_fd(), entry.size)?;
            for extent in extents {
                let mut done = 0;
                while done < extent.length {
                    let piece = reader.data()?;
                    let step = usize::try_from(extent.length - done).unwrap_or(usize::MAX).min(piece.len());
                    let piece = piece.get(..step).filter(|piece| !piece.is_empty());
                    let piece = piece.ok_or_else(|| Refusal::new("its data ends too early"))?;
                    write_all(fd, extent.offset + done, piece)?;
                    reader.consume(step);
                    done += step as u64;
                }
            }
            return hash_file(fd, entry.size);
        }
    }
    if entry.size >= LARGE {
        // Only a head start: whether the data arrived is asked at the end, for all of it.
        if let Err(errno) = file::start_writing(fd.as_fd()) {
            log::debug!("no head start for the disk: {}", errno.desc());
        }
    }
    Ok(hasher.digest())
}

fn write_all(fd: &OwnedFd, offset: u64, piece: &[u8]) -> Result<()> {
    let mut done = 0;
    while let Some(rest) = piece.get(done..).filter(|rest| !rest.is_empty()) {
        done += file::write_at(fd.as_fd(), offset + done as u64, rest)?;
    }
    Ok(())
}

/// The hash of a file's data; for one with holes, of where its data is and of that.
///
/// # Errors
/// As lseek(2) and read(2).
pub fn hash_of_file(file: &File, size: u64) -> Result<u64> {
    hash_file(file, size)
}

fn hash_file(file: &impl AsFd, size: u64) -> Result<u64> {
    let mut hasher = Xxh3::new();
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    while at < size {
        let data = match file::seek(file.as_fd(), at, libc::SEEK_DATA) {
            Ok(data) => data,
            Err(Errno::ENXIO) => size,
            Err(errno) => return Err(errno.into()),
        };
        zeros(&mut hasher, data.min(size) - at);
        at = data.min(size);
        let end = match file::seek(file.as_fd(), at, libc::SEEK_HOLE) {
            Ok(end) => end.min(size),
            Err(Errno::ENXIO) => size,
            Err(errno) => return Err(errno.into()),
        };
        while at < end {
            let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let piece = buffer.get_mut(..wanted).unwrap_or_default();
            let got = file::read_at(file.as_fd(), at, piece)?;
            if got == 0 {
                return Err(Refusal::new("it is shorter than it says"));
            }
            hasher.update(piece.get(..got).unwrap_or_default());
            at += got as u64;
        }
    }
    Ok(hasher.digest())
}

/// Hashes zeros without reading them; more than anybody's patience counts as their number.
fn zeros(hasher: &mut Xxh3, mut count: u64) {
    static BLOCK: [u8; 64 << 10] = [0; 64 << 10];
    const MANY: u64 = 1 << 30;
    if count > MANY {
        hasher.update(&count.to_le_bytes());
        return;
    }
    while count > 0 {
        let step = count.min(BLOCK.len() as u64);
        hasher.update(BLOCK.get(..step as usize).unwrap_or_default());
        count -= step;
    }
}
