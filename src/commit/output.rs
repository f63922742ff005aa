//! Where a layer goes: through two digests and a compressor into a file that nobody sees until it is whole.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::SetupError;
use crate::sys::{At, Dir, Errno, NameBuf, RenameFlag, errno_of};

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, level 6.
    #[default]
    Gzip,
    /// Zstandard, level 3.
    Zstd,
}

impl Compression {
    /// What OCI calls a layer that is compressed so.
    pub fn media_type(self) -> &'static str {
        match self {
            Compression::None => "application/vnd.oci.image.layer.v1.tar",
            Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    /// What a file name says: `.tar`, `.tar.gz`, `.tgz`, `.tar.zst`.
    pub fn of_name(path: &Path) -> Option<Compression> {
        let name = path.file_name()?.as_bytes().to_ascii_lowercase();
        let ends = |end: &str| name.ends_with(end.as_bytes());
        Some(match () {
            () if ends(".tar") => Compression::None,
            () if ends(".tar.gz") || ends(".tgz") => Compression::Gzip,
            () if ends(".tar.zst") || ends(".tar.zstd") || ends(".tzst") => Compression::Zstd,
            () => return None,
        })
    }
}

/// Where a layer goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A file of this name, replaced when there is one.
    File(PathBuf),
    /// A file in this directory whose name is known only at the end.
    Directory(PathBuf),
    /// Standard output, which cannot be staged.
    Stdout,
}

/// A file without a name, or under a temporary one. Dropped: it is gone.
#[derive(Debug)]
pub struct Staged {
    dir: Dir,
    path: PathBuf,
    file: OwnedFd,
    temporary: Option<NameBuf>,
}

impl Staged {
    /// An empty file in the directory `path`, readable by those whom the umask lets.
    ///
    /// # Errors
    /// The directory is missing or not writable.
    pub fn in_dir(path: &Path) -> Result<Staged, SetupError> {
        let failed = |e: Errno| {
            let e = SetupError::new("write into the directory", e.desc()).at(path);
            e.hint("name an existing directory that you may write to")
        };
        let dir = Dir::open_path(path).map_err(failed)?;
        let (file, temporary) = match dir.tmpfile(0o644) {
            Ok(file) => (file, None),
            Err(Errno::EOPNOTSUPP) => {
                let name = temporary_name().map_err(failed)?;
                (dir.create(&name, libc::O_RDWR, 0o644).map_err(failed)?, Some(name))
            }
            Err(e) => return Err(failed(e)),
        };
        Ok(Staged { dir, path: path.to_path_buf(), file, temporary })
    }

    /// The file.
    pub fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// Brings the file to disk and makes it appear as `name` in one step, in the place of whatever had that name.
    ///
    /// # Errors
    /// Writing failed, or the name cannot be taken.
    pub fn publish(mut self, name: &OsStr) -> Result<(), SetupError> {
        let path = self.path.join(name);
        self.place(name).map_err(|e| SetupError::new("write", e.desc()).at(path))
    }

    fn place(&mut self, name: &OsStr) -> crate::sys::Result<()> {
        crate::sys::file::sync(self.file.as_fd(), false)?;
        let name = NameBuf::new(name.as_bytes())?;
        if self.temporary.is_none() {
            match self.dir.link(At::Fd(self.file.as_fd()), &name) {
                Err(Errno::EEXIST) => {}
                done => return done.and_then(|()| self.dir.sync()),
            }
            let temporary = temporary_name()?;
            self.dir.link(At::Fd(self.file.as_fd()), &temporary)?;
            self.temporary = Some(temporary);
        }
        if let Some(temporary) = &self.temporary {
            self.dir.rename(temporary, &self.dir, &name, RenameFlag::Replace)?;
        }
        self.temporary = None;
        self.dir.sync()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(name) = &self.temporary
            && let Err(e) = self.dir.unlink(name)
        {
            log::warn!("{}/{name} is left over: {}", self.path.display(), e.desc());
        }
    }
}

fn temporary_name() -> crate::sys::Result<NameBuf> {
    let mut bytes = [0; 8];
    crate::sys::random(&mut bytes)?;
    NameBuf::new(format!(".acetate-{:016x}", u64::from_ne_bytes(bytes)).as_bytes())
}

/// What is behind the compressor.
struct Counted {
    out: BufWriter<File>,
    hash: Sha256,
    size: u64,
}

impl Write for Counted {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = self.out.write(data)?;
        self.hash.update(data.get(..n).unwrap_or_default());
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

enum Encoder {
    Plain(Counted),
    Gzip(flate2::write::GzEncoder<Counted>),
    Zstd(zstd::stream::write::Encoder<'static, Counted>),
}

impl Encoder {
    fn new(out: Counted, compression: Compression) -> io::Result<Encoder> {
        Ok(match compression {
            Compression::None => Encoder::Plain(out),
            // No name and no time: the same layer, the same bytes.
            Compression::Gzip => {
                let builder = flate2::GzBuilder::new().operating_system(255);
                Encoder::Gzip(builder.write(out, flate2::Compression::new(6)))
            }
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(out, 3)?;
                encoder.include_checksum(true)?;
                Encoder::Zstd(encoder)
            }
        })
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Encoder::Plain(w) => w,
            Encoder::Gzip(w) => w,
            Encoder::Zstd(w) => w,
        }
    }

    fn finish(self) -> io::Result<Counted> {
        match self {
            Encoder::Plain(w) => Ok(w),
            Encoder::Gzip(w) => w.finish(),
            Encoder::Zstd(w) => w.finish(),
        }
    }
}

/// A layer under construction.
pub(super) struct LayerWriter {
    encoder: Encoder,
    hash: Sha256,
    uncompressed: u64,
    staged: Option<Staged>,
    name: Option<PathBuf>,
}

/// A layer that is whole, and on its way to its name.
#[derive(Debug)]
pub struct Finished {
    staged: Option<Staged>,
    name: Option<PathBuf>,
    /// `sha256:…` of the file.
    pub digest: String,
    /// `sha256:…` before compression.
    pub diff_id: String,
    /// Bytes of the file.
    pub size: u64,
    /// Bytes before compression.
    pub uncompressed: u64,
}

impl Finished {
    /// Publishes the layer under the name it was asked for.
    ///
    /// # Errors
    /// Writing failed, or the name cannot be taken.
    pub fn publish(self) -> Result<(), SetupError> {
        match (self.staged, self.name.as_deref().and_then(Path::file_name)) {
            (Some(staged), Some(name)) => staged.publish(name),
            _ => Ok(()),
        }
    }

    /// Publishes the layer under a name that depends on what is in it.
    ///
    /// # Errors
    /// Writing failed, or the name cannot be taken.
    pub fn publish_as(self, name: &OsStr) -> Result<(), SetupError> {
        self.staged.map_or(Ok(()), |staged| staged.publish(name))
    }
}

fn hex(hash: Sha256) -> String {
    let digits: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

fn failed(e: io::Error) -> SetupError {
    let hint = matches!(errno_of_ref(&e), Some(libc::ENOSPC | libc::EDQUOT));
    let e = SetupError::new("write the layer", errno_of(e).desc());
    if hint { e.hint("free some space") } else { e }
}

fn errno_of_ref(e: &io::Error) -> Option<i32> {
    e.raw_os_error()
}

impl LayerWriter {
    pub(super) fn new(
        destination: &Destination,
        compression: Compression,
    ) -> Result<LayerWriter, SetupError> {
        let (staged, name) = match destination {
            Destination::File(path) => {
                let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
                (Some(Staged::in_dir(parent.unwrap_or(Path::new(".")))?), Some(path.clone()))
            }
            Destination::Directory(path) => (Some(Staged::in_dir(path)?), None),
            Destination::Stdout => (None, None),
        };
        let stdout = io::stdout();
        let fd = match &staged {
            Some(staged) => staged.file().try_clone(),
            None => stdout.as_fd().try_clone_to_owned(),
        };
        let out = BufWriter::with_capacity(1 << 20, File::from(fd.map_err(failed)?));
        let counted = Counted { out, hash: Sha256::new(), size: 0 };
        let encoder = Encoder::new(counted, compression).map_err(failed)?;
        Ok(LayerWriter { encoder, hash: Sha256::new(), uncompressed: 0, staged, name })
    }

    /// Whether what was written can be thrown away.
    pub(super) fn is_staged(&self) -> bool {
        self.staged.is_some()
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<(), SetupError> {
        self.hash.update(bytes);
        self.uncompressed += bytes.len() as u64;
        self.encoder.writer().write_all(bytes).map_err(failed)
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> Result<Finished, SetupError> {
        self.put(&[0; 1024])?;
        let mut counted = self.encoder.finish().map_err(failed)?;
        counted.flush().map_err(failed)?;
        Ok(Finished {
            staged: self.staged,
            name: self.name,
            digest: hex(counted.hash),
            diff_id: hex(self.hash),
            size: counted.size,
            uncompressed: self.uncompressed,
        })
    }
}
