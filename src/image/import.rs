//! Bringing images into the store: every layer that is not there is unpacked, several at a time.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::digest::Digest;
use super::front;
use super::name::ImageName;
use super::refusal::Refusal;
use super::source::{SourceImage, SourceLayer};
use super::store::{Held, Image, LayerRecord, Staging, Store, write_index};
use super::stream::{self, Watch};
use super::unpack::{self, Unpacked, contents::Totals, dialect::Lost};
use crate::error::SetupError;

/// How many layers are unpacked at a time, at most; each has threads of its own and some MiB.
const AT_ONCE: usize = 4;
/// What a layer may hold whatever the size of its blob, in bytes.
const ALWAYS_ALLOWED: u64 = 1 << 30;
/// How many times its blob a layer may be, beyond that.
const RATIO: u64 = 100;

/// Who is told how it goes.
pub trait Progress: Sync {
    /// Begins: so many layers are unpacked, from so many bytes.
    fn begin(&self, layers: usize, bytes: u64);
    /// So many more bytes were read.
    fn advance(&self, bytes: u64);
    /// One more layer is unpacked.
    fn layer(&self);
    /// Everything is brought to the disk now.
    fn syncing(&self);
    /// Waits for another import of the same layer.
    fn waiting(&self);
}

/// How to import.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What to call the image, in place of what it calls itself.
    pub name: Option<ImageName>,
    /// The most uncompressed bytes of a layer, in place of a limit that follows the size of its blob.
    pub max_size: Option<u64>,
}

/// An image that was imported.
#[derive(Clone, Debug, Serialize)]
pub struct Imported {
    /// Its names.
    pub names: Vec<String>,
    /// Its id.
    pub id: Digest,
    /// How many layers it has.
    pub layers: usize,
    /// How many of them were unpacked.
    pub unpacked: usize,
    /// How many bytes its files have.
    pub bytes: u64,
    /// Attributes that could not be kept, and of how many objects.
    pub lost: BTreeMap<String, u64>,
}

/// Imports images, all or none. The umask must be 0.
///
/// # Errors
/// What was refused; nothing is in the store then that was not before.
pub fn import(
    store: &Store,
    images: &[SourceImage],
    options: &Options,
    progress: &dyn Progress,
) -> Result<Vec<Imported>, SetupError> {
    let names = names(images, options)?;
    let wanted: BTreeMap<Digest, &SourceLayer> =
        images.iter().flat_map(|image| &image.layers).map(|layer| (layer.diff_id, layer)).collect();
    let _making = store.make_layers(wanted.keys().copied().collect(), &|| progress.waiting())?;
    let mut held = Vec::new();
    let mut missing = Vec::new();
    let mut totals = BTreeMap::new();
    for (diff_id, layer) in &wanted {
        match store.hold_layer(diff_id)? {
            Some(there) => {
                totals.insert(*diff_id, store.layer_totals(diff_id)?);
                held.push(there);
            }
            None => missing.push(*layer),
        }
    }
    let staging = store.stage()?;
    progress.begin(missing.len(), missing.iter().map(|layer| layer.blob.size()).sum());
    let unpacked = Crew { store, staging: &staging, options, progress }.unpack(&missing)?;
    for (diff_id, (_, unpacked)) in &unpacked {
        totals.insert(*diff_id, unpacked.totals);
    }
    let staged = stage_images(store, &staging, images, &totals, &unpacked)?;
    progress.syncing();
    store.sync()?;
    held.extend(publish(store, &staging, &unpacked, &staged)?);
    for (name, image) in &names {
        store.set_name(&staging, name, *image)?;
    }
    drop(held);
    Ok(images.iter().map(|image| report(image, &names, &unpacked, &totals)).collect())
}

fn names(images: &[SourceImage], options: &Options) -> Result<Vec<(ImageName, Digest)>, SetupError> {
    let mut names = Vec::new();
    for image in images {
        let id = Digest::of(&image.config);
        match &options.name {
            Some(_) if images.len() > 1 => {
                return Err(SetupError::new(
                    "give one name to several images",
                    "the source has more than one",
                )
                .hint("say which: LAYOUT:TAG or LAYOUT@sha256:…"));
            }
            Some(name) => names.push((name.clone(), id)),
            None => {
                for name in &image.names {
                    names.push((
                        ImageName::parse(name).map_err(|e| e.hint("give it another one with --name NAME"))?,
                        id,
                    ));
                }
            }
        }
        if names.iter().all(|(_, named)| *named != id) {
            return Err(SetupError::new("import the image", "nothing says what it is called")
                .hint("give it a name with --name NAME"));
        }
    }
    Ok(names)
}

/// Those who unpack.
struct Crew<'a> {
    store: &'a Store,
    staging: &'a Staging,
    options: &'a Options,
    progress: &'a dyn Progress,
}

type Done = BTreeMap<Digest, (PathBuf, Unpacked)>;

impl Crew<'_> {
    /// Unpacks these layers, the largest first, so that none is left for the end.
    fn unpack(&self, layers: &[&SourceLayer]) -> Result<Done, SetupError> {
        let mut queue: Vec<&SourceLayer> = layers.to_vec();
        queue.sort_by_key(|layer| std::cmp::Reverse(layer.blob.size()));
        let queue = Mutex::new(VecDeque::from(queue));
        let (done, failure) = (Mutex::new(Done::new()), Mutex::new(None::<SetupError>));
        let stop = AtomicBool::new(false);
        let work = || {
            while let Some(layer) = lock(&queue).pop_front() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                match self.layer(layer, &stop) {
                    Ok(unpacked) => {
                        lock(&done).insert(layer.diff_id, unpacked);
                        self.progress.layer();
                    }
                    Err(e) => {
                        // The first is the reason; the others only stopped for it.
                        if !stop.swap(true, Ordering::Relaxed) {
                            *lock(&failure) = Some(e);
                        }
                    }
                }
            }
        };
        let crew =
            std::thread::available_parallelism().map_or(1, usize::from).clamp(1, AT_ONCE).min(layers.len());
        std::thread::scope(|scope| {
            for _ in 1..crew {
                // Fewer hands do the same work.
                if let Err(e) =
                    std::thread::Builder::new().name("image-layer".into()).spawn_scoped(scope, work)
                {
                    log::debug!("a thread less: {e}");
                }
            }
            work();
        });
        match lock(&failure).take() {
            Some(failure) => Err(failure),
            None => Ok(std::mem::take(&mut *lock(&done))),
        }
    }

    fn layer(&self, layer: &SourceLayer, stop: &AtomicBool) -> Result<(PathBuf, Unpacked), SetupError> {
        let what = || format!("unpack the layer {}", layer.diff_id);
        let place = self.staging.layer(&layer.diff_id).map_err(|e| SetupError::new(what(), e))?;
        let limit = self
            .options
            .max_size
            .unwrap_or_else(|| layer.blob.size().saturating_mul(RATIO).max(ALWAYS_ALLOWED));
        let watch = Watch { limit, stop, advance: &|bytes| self.progress.advance(bytes) };
        let dialect = self.store.dialect();
        let unpacked = stream::run(layer, &watch, |pieces| {
            unpack::unpack(pieces, &place.join("tree"), &place.join("contents"), dialect, limit)
        });
        let unpacked = unpacked.and_then(|unpacked| write_index(&place).map(|()| unpacked));
        unpacked.map(|unpacked| (place, unpacked)).map_err(|e: Refusal| e.during(what()))
    }
}

/// A thread that panics holds none of these.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn stage_images(
    store: &Store,
    staging: &Staging,
    images: &[SourceImage],
    totals: &BTreeMap<Digest, Totals>,
    unpacked: &Done,
) -> Result<BTreeMap<Digest, PathBuf>, SetupError> {
    let imported = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut staged = BTreeMap::new();
    for image in images {
        let id = Digest::of(&image.config);
        if staged.contains_key(&id) {
            continue;
        }
        let record = |layer: &SourceLayer| {
            let Totals { objects, bytes, .. } = totals.get(&layer.diff_id).copied().unwrap_or_default();
            LayerRecord { diff_id: layer.diff_id, objects, bytes }
        };
        let layers = image.layers.iter().map(record).collect();
        let mut record = Image { id, manifest: image.manifest, layers, front: false, imported };
        let place = store.stage_image(staging, &record, &image.config)?;
        let lies = |layer: &SourceLayer| match unpacked.get(&layer.diff_id) {
            Some((staged, _)) => staged.clone(),
            None => store.layer_path(&layer.diff_id),
        };
        let places: Vec<PathBuf> = image.layers.iter().rev().map(lies).collect();
        let places: Vec<&Path> = places.iter().map(PathBuf::as_path).collect();
        record.front = front::make(&place.join("front"), &places, store.dialect())
            .map_err(|e| e.during(format!("put the layers of {id} together")))?;
        if record.front {
            store.stage_image(staging, &record, &image.config)?;
        }
        staged.insert(id, place);
    }
    Ok(staged)
}

/// Layers first, then images, each durable before what needs it.
fn publish(
    store: &Store,
    staging: &Staging,
    layers: &Done,
    images: &BTreeMap<Digest, PathBuf>,
) -> Result<Vec<Held>, SetupError> {
    let mut held = Vec::new();
    let failed = |e: std::io::Error| SetupError::new("give the layers their place in", e).at(store.root());
    for (diff_id, (staged, _)) in layers {
        held.push(staging.publish(staged, &store.layer_path(diff_id)).map_err(failed)?);
    }
    store.sync_names("layers").map_err(failed)?;
    for (id, staged) in images {
        held.push(staging.publish(staged, &store.image_path(id)).map_err(failed)?);
    }
    store.sync_names("images").map_err(failed)?;
    Ok(held)
}

fn report(
    image: &SourceImage,
    names: &[(ImageName, Digest)],
    unpacked: &Done,
    totals: &BTreeMap<Digest, Totals>,
) -> Imported {
    let id = Digest::of(&image.config);
    let mut lost = Lost::default();
    let (mut fresh, mut bytes) = (0, 0);
    for layer in &image.layers {
        bytes += totals.get(&layer.diff_id).map_or(0, |totals| totals.bytes);
        if let Some((_, unpacked)) = unpacked.get(&layer.diff_id) {
            fresh += 1;
            lost.merge(unpacked.lost.clone());
        }
    }
    let names = names.iter().filter(|(_, named)| *named == id).map(|(name, _)| name.to_string()).collect();
    Imported { names, id, layers: image.layers.len(), unpacked: fresh, bytes, lost: lost.attributes }
}
