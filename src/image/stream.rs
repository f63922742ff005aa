//! From a blob to the bytes of its archive: read, check, uncompress and hash, beside the thread that unpacks.
//!
//! Uncompressing costs as much as writing files, so each has a thread; hashing what was uncompressed has one of its
//! own. The pieces between them are few and of one size, so memory is bounded whatever the layer is. The digests are
//! known only at the end: what was unpacked until then is staged and can be thrown away.

use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::digest::{Digest, Hasher};
use super::refusal::{Refusal, Result};
use super::source::SourceLayer;
use super::tar::Input;

/// The size of a piece, in bytes.
const PIECE: usize = 256 << 10;
/// How many pieces may wait for each reader.
const WAITING: usize = 8;
/// What a blob is read in, in bytes.
const BUFFER: usize = 128 << 10;
/// The largest window of zstd that is given memory, as a power of two: 128 MiB, what `zstd -d` grants.
const WINDOW: u32 = 27;

type Piece = Arc<Vec<u8>>;

/// What limits and watches a layer on its way.
pub struct Watch<'a> {
    /// The most uncompressed bytes.
    pub limit: u64,
    /// Somebody else failed: stop.
    pub stop: &'a AtomicBool,
    /// Told how many bytes of the blob were read since the last time.
    pub advance: &'a (dyn Fn(u64) + Sync),
}

/// Runs `unpack` on the archive in `layer` and checks every digest. Returns what `unpack` did.
///
/// # Errors
/// What `unpack` refused; a damaged or truncated stream, too many bytes, wrong digests.
pub fn run<T>(
    layer: &SourceLayer,
    watch: &Watch<'_>,
    unpack: impl FnOnce(Pieces) -> Result<(T, Pieces)>,
) -> Result<T> {
    std::thread::scope(|scope| {
        let (to_unpack, from_reader) = sync_channel::<Result<Piece>>(WAITING);
        let (to_hash, pieces) = sync_channel::<Piece>(WAITING);
        let hashing = std::thread::Builder::new()
            .name("image-hash".into())
            .spawn_scoped(scope, move || {
                let mut hasher = Hasher::default();
                pieces.iter().for_each(|piece| hasher.update(&piece));
                hasher.finish()
            })
            .map_err(Refusal::new)?;
        let reading = std::thread::Builder::new()
            .name("image-read".into())
            .spawn_scoped(scope, move || read(layer, watch, &to_unpack, &to_hash))
            .map_err(Refusal::new)?;
        let unpacked = unpack(Pieces { source: from_reader, now: Arc::default(), used: 0 }).and_then(
            |(done, mut rest)| {
                // What follows the end of the archive belongs to the digest all the same.
                rest.drain()?;
                Ok(done)
            },
        );
        let read = reading.join().map_err(|_| Refusal::new("reading it failed inside"))?;
        let diff_id = hashing.join().map_err(|_| Refusal::new("hashing it failed inside"))?;
        let done = unpacked?;
        let digest = read.ok_or_else(|| Refusal::new("it was not read to its end"))?;
        if let Some(said) = layer.digest.filter(|said| *said != digest) {
            return Err(wrong("the blob", said, digest));
        }
        if diff_id != layer.diff_id {
            return Err(wrong("what is in it, uncompressed,", layer.diff_id, diff_id));
        }
        Ok(done)
    })
}

fn wrong(what: &str, said: Digest, found: Digest) -> Refusal {
    Refusal::new(format!("{what} should have the digest {said} and has {found}"))
        .hint("it was damaged or changed: fetch it again")
}

/// Reads to the end; the digest of the blob, or `None` when nobody wants to hear any more.
fn read(
    layer: &SourceLayer,
    watch: &Watch<'_>,
    unpack: &SyncSender<Result<Piece>>,
    hash: &SyncSender<Piece>,
) -> Option<Digest> {
    let mut read = 0u64;
    let result = Uncompressed::open(layer, watch).and_then(|mut source| {
        loop {
            if watch.stop.load(Ordering::Relaxed) {
                return Err(Refusal::new("another layer was refused"));
            }
            let piece = Arc::new(source.piece()?);
            if piece.is_empty() {
                return source.digest().map(Some);
            }
            read += piece.len() as u64;
            if read > watch.limit {
                return Err(Refusal::new(format!(
                    "it holds more than {} bytes, from a blob of {}",
                    watch.limit,
                    layer.blob.size()
                ))
                .hint("if it is meant to be that large, allow it with --max-size"));
            }
            // A hasher that ended has panicked, and is asked for that later.
            if hash.send(Arc::clone(&piece)).is_err() || unpack.send(Ok(piece)).is_err() {
                return Ok(None);
            }
        }
    });
    result.unwrap_or_else(|refusal| {
        // Where nobody listens any more there is another refusal already.
        drop(unpack.send(Err(refusal)));
        None
    })
}

/// The blob, hashed on its way.
struct Hashed<'a> {
    from: super::blob::BlobReader,
    hasher: Hasher,
    watch: &'a Watch<'a>,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let got = self.from.read(buf)?;
        if let Some(read) = buf.get(..got) {
            self.hasher.update(read);
        }
        (self.watch.advance)(got as u64);
        Ok(got)
    }
}

type Source<'a> = BufReader<Hashed<'a>>;

enum Uncompressed<'a> {
    Plain(Source<'a>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Source<'a>>>),
    Zstd(zstd::stream::read::Decoder<'static, Source<'a>>),
}

impl<'a> Uncompressed<'a> {
    /// Looks at the first bytes: media types are often wrong.
    fn open(layer: &SourceLayer, watch: &'a Watch<'a>) -> Result<Uncompressed<'a>> {
        let hashed = Hashed { from: layer.blob.reader(), hasher: Hasher::default(), watch };
        let mut source = BufReader::with_capacity(BUFFER, hashed);
        let start = source.fill_buf().map_err(Refusal::new)?;
        if start.is_empty() {
            return Err(Refusal::new("it is empty, and no archive"));
        }
        if start.starts_with(&[0x1f, 0x8b]) {
            return Ok(Uncompressed::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(source))));
        }
        if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || is_skippable_frame(start) {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(source).map_err(Refusal::new)?;
            decoder.window_log_max(WINDOW).map_err(Refusal::new)?;
            return Ok(Uncompressed::Zstd(decoder));
        }
        Ok(Uncompressed::Plain(source))
    }

    /// The next bytes; empty at the end.
    fn piece(&mut self) -> Result<Vec<u8>> {
        let mut piece = Vec::with_capacity(PIECE);
        let read = match self {
            Uncompressed::Plain(source) => source.take(PIECE as u64).read_to_end(&mut piece),
            Uncompressed::Gzip(source) => source.take(PIECE as u64).read_to_end(&mut piece),
            Uncompressed::Zstd(source) => source.take(PIECE as u64).read_to_end(&mut piece),
        };
        match read {
            Ok(_) => Ok(piece),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(Refusal::new("its compressed data ends too early")
                    .hint("it is truncated: fetch it again"))
            }
            Err(e) => {
                Err(Refusal::new(format!("its data cannot be read: {e}"))
                    .hint("it is damaged: fetch it again"))
            }
        }
    }

    /// The digest of the blob, all of it.
    fn digest(self) -> Result<Digest> {
        let mut source = match self {
            Uncompressed::Plain(source) => source,
            Uncompressed::Gzip(decoder) => decoder.into_inner(),
            Uncompressed::Zstd(decoder) => decoder.finish(),
        };
        let mut buffer = vec![0; BUFFER];
        while source.read(&mut buffer).map_err(Refusal::new)? > 0 {}
        Ok(source.into_inner().hasher.finish())
    }
}

fn is_skippable_frame(start: &[u8]) -> bool {
    matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// The uncompressed archive, as it arrives.
#[derive(Debug)]
pub struct Pieces {
    source: Receiver<Result<Piece>>,
    now: Piece,
    used: usize,
}

impl Pieces {
    fn drain(&mut self) -> Result<()> {
        loop {
            let left = self.fill()?.len();
            if left == 0 {
                return Ok(());
            }
            self.consume(left);
        }
    }
}

impl Input for Pieces {
    fn fill(&mut self) -> Result<&[u8]> {
        while self.used >= self.now.len() {
            match self.source.recv() {
                Ok(piece) => (self.now, self.used) = (piece?, 0),
                // The reader has left: this is the end.
                Err(_) => return Ok(&[]),
            }
        }
        Ok(self.now.get(self.used..).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.used += count;
    }
}
