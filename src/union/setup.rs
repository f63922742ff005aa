//! Opening a stack: everything is examined and refused before anything is touched (O-1).

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::handles;
use super::ids::NO_ID;
use super::kept::Kept;
use super::node::{Node, State, Table, UpperPart};
use super::types::{Owner, ROOT, Transport};
use super::xino::{FsId, InodeNumbers, LayerFs, UPPER_FS};
use super::{Atime, Config, Fsync, LayerInfo, Overrides, SyncState, Union, Uuid, copy_up, export, io, sweep};
use crate::error::SetupError;
use crate::layer::index::Trust;
use crate::layer::marks::{self, Mark, Prefix};
use crate::layer::{DirCache, Object, Reader, origin, stand_in};
use crate::sys::clone::{Access, AccessTimes, ClonedPair, MountKind, When, private_clone, private_pair};
use crate::sys::lock::{self, Held, WorkLock};
use crate::sys::mountinfo::Idmapped;
use crate::sys::{At, Dir, Errno, Kind, Result, Stat, cap, handle, own_capabilities};
use crate::upper::{self, OpenUpper, Upper};

type Setup<T> = std::result::Result<T, SetupError>;

/// How long a mount waits for a daemon that is on its way out to let go of the upper, which it syncs first.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);

/// How long a daemon may take to notice a signal, or that its mount is gone, on a machine with much else to do.
const NOTICE: Duration = Duration::from_secs(2);

/// An examined directory.
struct Examined {
    dir: Arc<Dir>,
    stat: Stat,
}

fn examine(what: &str, path: &Path) -> Setup<Examined> {
    let fail = |e: Errno| {
        let hint = match e {
            Errno::ENOENT => "create it, or check the spelling",
            Errno::ENOTDIR => "a layer must be a directory",
            Errno::EACCES => "you need search permission on every directory of the path",
            _ => "see the reason",
        };
        SetupError::new(format!("use the {what}"), e.desc()).at(path).hint(hint)
    };
    let dir = Dir::open_path(path).map_err(fail)?;
    let stat = dir.this().stat().map_err(fail)?;
    Ok(Examined { dir: Arc::new(dir), stat })
}

/// Whether `inner` is `outer` or beneath it, by walking up from `inner`.
fn is_inside(inner: &Examined, outer: &Examined) -> Result<bool> {
    let same = |s: &Stat| (s.dev, s.ino) == (outer.stat.dev, outer.stat.ino);
    let mut at = Arc::clone(&inner.dir);
    let mut stat = inner.stat;
    loop {
        if same(&stat) {
            return Ok(true);
        }
        let above = at.parent()?;
        let up = above.this().stat()?;
        if (up.dev, up.ino) == (stat.dev, stat.ino) {
            return Ok(false);
        }
        stat = up;
        at = Arc::new(above);
    }
}

fn inside(inner: &Examined, outer: &Examined) -> Setup<bool> {
    is_inside(inner, outer).map_err(|e| SetupError::new("compare the layers' places", e.desc()))
}

/// Everything a stack is made of, examined.
struct Parts {
    lower: Vec<Examined>,
    data: Vec<Examined>,
    upper: Option<(Examined, Examined)>,
}

fn examine_all(config: &Config) -> Setup<Parts> {
    if config.lower.is_empty() {
        return Err(SetupError::new("mount a stack without a lower layer", "there is nothing to show")
            .hint("name at least one with --lower or lowerdir="));
    }
    let lower: Vec<Examined> =
        config.lower.iter().map(|p| examine("lower layer", p)).collect::<Setup<_>>()?;
    let data = config.data_only.iter().map(|p| examine("data-only layer", p)).collect::<Setup<_>>()?;
    let upper = match (&config.upper, &config.work) {
        (Some(upper), Some(work)) => {
            let pair = (examine("upper", upper)?, examine("work directory", work)?);
            if !config.frozen {
                check_pair(config, &pair, upper, work)?;
            }
            Some(pair)
        }
        (Some(upper), None) if config.frozen => Some((examine("upper", upper)?, examine("upper", upper)?)),
        (None, None) => None,
        _ => {
            return Err(SetupError::new("mount", "an upper needs a work directory, and the reverse")
                .hint("give both upperdir= and workdir=, or neither"));
        }
    };
    check_lowers(config, &lower, upper.as_ref())?;
    Ok(Parts { lower, data, upper })
}

fn check_pair(_config: &Config, pair: &(Examined, Examined), upper: &Path, work: &Path) -> Setup<()> {
    let refuse = |why: &str, hint: &str| {
        Err(SetupError::new(format!("use the work directory {} with the upper", work.display()), why)
            .at(upper)
            .hint(hint))
    };
    if pair.0.stat.dev != pair.1.stat.dev {
        return refuse("they are on different filesystems", "put the work directory beside the upper");
    }
    if inside(&pair.1, &pair.0)? || inside(&pair.0, &pair.1)? {
        return refuse("one contains the other", "use two separate directories of one filesystem");
    }
    Ok(())
}

/// A lower may contain the upper, but not lie inside the upper, the work directory or another lower (O-1).
fn check_lowers(config: &Config, lower: &[Examined], upper: Option<&(Examined, Examined)>) -> Setup<()> {
    use std::collections::HashMap;
    let path_of = |i: usize| config.lower.get(i).cloned().unwrap_or_default();
    let mut seen: HashMap<(u64, u64), usize> = HashMap::new();
    for (i, layer) in lower.iter().enumerate() {
        if seen.insert((layer.stat.dev, layer.stat.ino), i).is_some() {
            return Err(
                SetupError::new("use the lower layer", "the same directory is given twice").at(path_of(i))
            );
        }
    }
    let mut fences: HashMap<(u64, u64), String> = HashMap::new();
    for (i, layer) in lower.iter().enumerate() {
        fences.insert((layer.stat.dev, layer.stat.ino), format!("the lower layer {}", path_of(i).display()));
    }
    if let Some((up, work)) = upper {
        fences.insert((up.stat.dev, up.stat.ino), "the upper".into());
        fences.insert((work.stat.dev, work.stat.ino), "the work directory".into());
    }
    for (i, layer) in lower.iter().enumerate() {
        if let Some(fence) = first_fence(layer, &fences, upper)? {
            return Err(SetupError::new("use the lower layer", format!("it lies inside {fence}"))
                .at(path_of(i))
                .hint("layers must not overlap"));
        }
    }
    Ok(())
}

/// The first other layer that `layer` lies in, or is (for the upper and the work directory).
fn first_fence(
    layer: &Examined,
    fences: &std::collections::HashMap<(u64, u64), String>,
    upper: Option<&(Examined, Examined)>,
) -> Setup<Option<String>> {
    let fail = |e: Errno| SetupError::new("compare the layers' places", e.desc());
    let own = (layer.stat.dev, layer.stat.ino);
    let is_upper = |key: (u64, u64)| {
        upper.is_some_and(|(u, w)| key == (u.stat.dev, u.stat.ino) || key == (w.stat.dev, w.stat.ino))
    };
    if is_upper(own) {
        return Ok(fences.get(&own).cloned());
    }
    let mut at = Arc::clone(&layer.dir);
    let mut key = own;
    loop {
        let above = at.parent().map_err(fail)?;
        let up = above.this().stat().map_err(fail)?;
        if (up.dev, up.ino) == key {
            return Ok(None);
        }
        key = (up.dev, up.ino);
        if let Some(fence) = fences.get(&key) {
            return Ok(Some(fence.clone()));
        }
        at = Arc::new(above);
    }
}

impl Parts {
    fn roots(&self) -> HashSet<(u64, u64)> {
        let writable = self.upper.iter().flat_map(|(upper, work)| [upper, work]);
        writable.chain(&self.lower).chain(&self.data).map(|l| (l.stat.dev, l.stat.ino)).collect()
    }

    fn filesystems(&self) -> handles::Filesystems {
        let facts = |layer: &Examined| handles::LayerHandles {
            dev: layer.stat.dev,
            uuid: handle::filesystem_uuid(&layer.dir),
            encodes: handle::of(layer.dir.this()).is_ok(),
        };
        handles::Filesystems {
            upper: self.upper.as_ref().map(|(upper, _)| facts(upper)),
            lower: self.lower.iter().chain(&self.data).map(facts).collect(),
        }
    }
}

/// What the numbering of inodes needs to know of the filesystem a layer is on (I-3).
fn layer_fs(examined: &Examined) -> LayerFs {
    let opens_handles = own_capabilities().is_ok_and(|c| c.has(cap::DAC_READ_SEARCH));
    let ino32 = opens_handles
        && handle::of(examined.dir.this()).is_ok_and(|handle| handle.is_ino32(examined.stat.ino));
    LayerFs { dev: examined.stat.dev, ino32 }
}

fn open_layer(
    path: &Path,
    examined: &Examined,
    index: u32,
    reader: Reader,
    (fsid, decodes): (FsId, bool),
    idmapped: &Idmapped,
) -> Setup<LayerInfo> {
    let fail = |e: Errno| SetupError::new("open the lower layer", e.desc()).at(path);
    let clone = private_clone(path, Access::ReadOnly).map_err(fail)?;
    if let MountKind::Plain(why) = clone.kind {
        if nix::unistd::geteuid().is_root() && why == Errno::EPERM {
            log::info!(
                "{}: no private mount clone ({}); using the directory itself",
                path.display(),
                why.desc()
            );
        } else {
            log::info!("{}: read without a private mount clone ({})", path.display(), why.desc());
        }
    }
    let dir = Arc::new(Dir::from(clone.root.try_clone().map_err(crate::sys::errno_of).map_err(fail)?));
    let uuid = handle::filesystem_uuid(&dir);
    // Once the ids are shifted by the layer's own mount, they are not shifted again.
    let shifted = idmapped.has(examined.dir.as_fd());
    Ok(LayerInfo {
        shifted,
        path: path.to_path_buf(),
        root: Object::root(index, dir, examined.stat.ino),
        reader,
        fsid,
        dev: examined.stat.dev,
        uuid,
        decodes,
        clone,
        trust: Trust::Validate,
        index: OnceLock::new(),
    })
}

/// Whether handle records carry the UUIDs of filesystems. `uuid=off` leaves them out only where a single filesystem holds
/// all layers and needs no name; elsewhere it means `uuid=null`.
fn keeps_uuids(config: &Config, parts: &Parts) -> bool {
    let devs = parts.lower.iter().chain(&parts.data).chain(parts.upper.iter().map(|(upper, _)| upper));
    let mut devs = devs.map(|layer| layer.stat.dev);
    let first = devs.next();
    config.uuid != Uuid::Off || devs.any(|dev| Some(dev) != first)
}

/// Takes the lock on the upper or the work directory.
fn take_lock(what: &str, dir: &Examined, path: &Path) -> Setup<WorkLock> {
    let lock = patiently(|| WorkLock::try_take(dir.dir.as_fd())).map_err(|held| match held {
        Held::Error(e) => SetupError::new(format!("lock the {what}"), e.desc()).at(path),
        Held::By(pid) => {
            SetupError::new(format!("use the {what}"), format!("it is in use by {}", owner(pid)))
                .at(path)
                .hint("unmount that one first, or use another upper and work directory")
        }
    })?;
    if let Err(e) = lock.claim() {
        log::info!("{}: other mounts cannot see that the {what} is in use ({})", path.display(), e.desc());
    }
    Ok(lock)
}

/// Tries again while a daemon whose mount is gone has not let go; it names itself so, but whoever mounts again at once can
/// be faster than that.
fn patiently<T>(mut attempt: impl FnMut() -> std::result::Result<T, Held>) -> std::result::Result<T, Held> {
    let began = Instant::now();
    loop {
        let pid = match attempt() {
            Err(Held::By(pid)) => pid,
            done => return done,
        };
        let leaving = pid.is_some_and(crate::sys::is_leaving);
        if began.elapsed() > if leaving { LOCK_PATIENCE } else { NOTICE } {
            return Err(Held::By(pid));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn owner(pid: Option<i32>) -> String {
    pid.map_or("another mount".into(), |pid| format!("the daemon with pid {pid}"))
}

/// No layer may be, or lie in, the upper or the work directory of another mount, which changes them (O-3). As in the
/// kernel it is refused with an index, which would go wrong by it, and a warning otherwise.
fn check_neighbours(config: &Config, parts: &Parts) -> Setup<()> {
    let lower = config.lower.iter().zip(&parts.lower).map(|(path, layer)| ("lower layer", path, layer, true));
    let data =
        config.data_only.iter().zip(&parts.data).map(|(path, layer)| ("data-only layer", path, layer, true));
    let own = parts.upper.iter().flat_map(|(upper, work)| {
        let upper = config.upper.iter().map(move |path| ("upper", path, upper, false));
        upper.chain(config.work.iter().map(move |path| ("work directory", path, work, false)))
    });
    let mut free = HashSet::new();
    for (what, path, layer, itself) in own.chain(lower).chain(data) {
        let Err((held, whole)) = claimed(layer, itself, config.index, &mut free) else { continue };
        match held {
            Held::Error(e) => log::debug!("{}: who uses what is above it: {}", path.display(), e.desc()),
            Held::By(pid) => {
                let place = if whole { "is" } else { "lies inside" };
                let why =
                    format!("it {place} the upper or work directory of a mount, in use by {}", owner(pid));
                if config.index {
                    return Err(SetupError::new(format!("use the {what}"), why)
                        .at(path)
                        .hint("unmount that one first, or mount with index=off"));
                }
                log::warn!(
                    "the {what} {}: {why}; what happens when that one changes it is undefined",
                    path.display()
                );
            }
        }
    }
    Ok(())
}

/// Whether another mount has the directory (`itself`), or one above it; true in the error: the directory itself.
/// `free` are those that nobody has.
fn claimed(
    layer: &Examined,
    itself: bool,
    wait: bool,
    free: &mut HashSet<(u64, u64)>,
) -> std::result::Result<(), (Held, bool)> {
    let failed = |e| (Held::Error(e), false);
    let mut at = Arc::clone(&layer.dir);
    let mut key = (layer.stat.dev, layer.stat.ino);
    let mut asked = itself;
    loop {
        if asked {
            if !free.insert(key) {
                return Ok(());
            }
            let attempt = || lock::is_unclaimed(at.as_fd());
            match if wait { patiently(attempt) } else { attempt() } {
                // A directory that may not be read is nobody's upper of ours.
                Ok(()) | Err(Held::Error(Errno::EACCES)) => {}
                Err(held) => return Err((held, key == (layer.stat.dev, layer.stat.ino))),
            }
        }
        asked = true;
        let above = at.parent().map_err(failed)?;
        let stat = above.this().stat().map_err(failed)?;
        if (stat.dev, stat.ino) == key {
            return Ok(());
        }
        key = (stat.dev, stat.ino);
        at = Arc::new(above);
    }
}

impl Union {
    /// Opens the layers, checks them (O-1), takes the upper's lock and sweeps its work directory. Nothing is changed
    /// when it is refused.
    pub fn open(config: &Config, transport: Arc<dyn Transport>) -> Setup<Union> {
        let parts = examine_all(config)?;
        if !config.frozen {
            check_neighbours(config, &parts)?;
        }
        let ambiguous = handles::ambiguous(config, &parts.filesystems());
        let config = &handles::settle(config, &parts.filesystems(), &ambiguous);
        let prefix = if config.userxattr { Prefix::User } else { Prefix::Trusted };
        let all: Vec<LayerFs> = parts.lower.iter().chain(&parts.data).map(layer_fs).collect();
        let keeps_uuids = keeps_uuids(config, &parts);
        let numbers = InodeNumbers::new(parts.upper.as_ref().map(|(upper, _)| layer_fs(upper)), &all);
        let place = |index: usize, examined: &Examined| {
            let decodes = !ambiguous.contains(&examined.stat.dev);
            (numbers.of_lower(index).unwrap_or(UPPER_FS), decodes)
        };
        let reader =
            Reader { prefix, oci: config.oci_whiteouts, overrides: config.overrides == Overrides::Believed };
        let idmapped = Idmapped::now();
        let mut layers = Vec::new();
        for (i, (path, examined)) in config.lower.iter().zip(&parts.lower).enumerate() {
            let mut layer = open_layer(path, examined, i as u32 + 1, reader, place(i, examined), &idmapped)?;
            if config.immutable.contains(path) {
                layer.trust = Trust::Immutable;
            }
            layers.push(layer);
        }
        let mut data_layers = Vec::new();
        for (i, (path, examined)) in config.data_only.iter().zip(&parts.data).enumerate() {
            data_layers.push(open_layer(
                path,
                examined,
                0,
                reader,
                place(layers.len() + i, examined),
                &idmapped,
            )?);
        }
        if !keeps_uuids {
            layers.iter_mut().for_each(|l| l.uuid = [0; 16]);
        }
        let roots = parts.roots();
        let upper = match parts.upper {
            Some(pair) => Some(open_upper(config, prefix, pair, &layers, keeps_uuids)?),
            None => None,
        };
        let root = root_node(upper.as_ref(), &layers, &reader)
            .map_err(|e| SetupError::new("read the layers' roots", e.desc()))?;
        let exports = export::Exports::new(config.nfs_export, upper.as_ref(), &layers)
            .map_err(|e| SetupError::new("read the handles of the layers' roots", e.desc()))?;
        let union = Union {
            keeper: nix::unistd::geteuid().as_raw(),
            exports,
            roots,
            config: config.clone(),
            prefix,
            layers,
            data_layers,
            upper,
            keeps_uuids,
            generation: generation(config)?,
            numbers,
            root,
            nodes: Table::new(),
            handles: io::Handles::new(),
            kept_files: Kept::new(KEPT_DESCRIPTORS),
            kept_backings: Kept::new(KEPT_BACKINGS),
            kept_dirs: Kept::new(KEPT_DESCRIPTORS),
            cache: DirCache::new(descriptor_budget()),
            transport,
            interrupts: copy_up::Interrupts::default(),
            sync_state: SyncState::default(),
            copies: 0.into(),
            copied_bytes: 0.into(),
            forgotten: 0.into(),
            renames: Mutex::new(()),
        };
        union.nodes.insert_root(&union.root);
        union.describe_root().map_err(|e| {
            SetupError::new("record the owner of the upper's root in an attribute", e.desc())
                .hint("xattr_permissions needs an upper whose file system has user.* attributes")
        })?;
        let first = union.layers.first().map(|l| Arc::clone(&l.root));
        let ino = match (&union.upper, first) {
            (Some(upper), _) => upper.root().this().stat().map(|s| union.encode_ino(0, s.ino)),
            (None, Some(root)) => Ok(union.encode_ino(1, root.ino)),
            (None, None) => Err(Errno::EIO),
        };
        union.root.state().ino = ino.map_err(|e| SetupError::new("read the root", e.desc()))?;
        Ok(union)
    }
}

impl Union {
    /// With `xattr_permissions`, a root whose attribute is missing gets one that says what its inode says.
    fn describe_root(&self) -> Result<()> {
        let Some(upper) = self.upper.as_ref().filter(|_| self.overrides()) else { return Ok(()) };
        let at = upper.root().this();
        if stand_in::is_there(at)? {
            return Ok(());
        }
        let mut stat = at.stat()?;
        // What an ordinary user has belongs to him as callers see it; in the layers that may be somebody else.
        if self.keeper != 0 && stat.uid == self.keeper {
            let owner = self.config.ids.stored(Owner { uid: stat.uid, gid: stat.gid });
            if owner.uid != NO_ID && owner.gid != NO_ID {
                (stat.uid, stat.gid) = (owner.uid, owner.gid);
            }
        }
        stand_in::write(at, Kind::Dir, &stat)
    }
}

fn generation(config: &Config) -> Setup<u64> {
    let mut bytes = [0; 4];
    if config.nfs_export {
        crate::sys::random(&mut bytes).map_err(|e| SetupError::new("choose a generation", e.desc()))?;
    }
    Ok(u64::from(u32::from_ne_bytes(bytes)))
}

/// How many files, and how many directories being listed, are kept open that no program has open.
const KEPT_DESCRIPTORS: usize = 256;
/// How many backing files are. They cost the kernel a little memory, and this process no descriptor.
const KEPT_BACKINGS: usize = 1024;

/// How many directories are kept open: a quarter of what the process may have.
fn descriptor_budget() -> usize {
    let soft =
        nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).map_or(1024, |l| l.0);
    usize::try_from(soft / 4).unwrap_or(4096).clamp(64, 4096)
}

fn root_node(upper: Option<&Upper>, layers: &[LayerInfo], reader: &Reader) -> Result<Arc<Node>> {
    let mut lower = Vec::new();
    for layer in layers {
        lower.push(Arc::clone(&layer.root));
        if reader.root_is_cut(&*layer.root.open(&DirCache::new(16))?)? {
            break;
        }
    }
    let part = upper.map(|_| UpperPart { origin: true, ..UpperPart::default() });
    let mut root = Node::new(ROOT, Kind::Dir, lower, State { upper: part, ..State::default() });
    root.lasting = true;
    Ok(Arc::new(root))
}

fn open_upper(
    config: &Config,
    prefix: Prefix,
    (upper, work): (Examined, Examined),
    layers: &[LayerInfo],
    keeps_uuids: bool,
) -> Setup<Upper> {
    let (upper_path, work_path) =
        (config.upper.clone().unwrap_or_default(), config.work.clone().unwrap_or_default());
    let reader = Reader { prefix, oci: false, overrides: config.overrides == Overrides::Believed };
    if config.frozen {
        let clone = private_clone(&upper_path, Access::ReadOnly)
            .map_err(|e| SetupError::new("open the upper", e.desc()).at(&upper_path))?;
        let index = config.index.then_some(&work.dir);
        return upper::open_frozen(Arc::new(Dir::from(clone.root)), index, reader)
            .map_err(|e| SetupError::new("read the upper", e.desc()).at(&upper_path));
    }
    let locks = [take_lock("upper", &upper, &upper_path)?, take_lock("work directory", &work, &work_path)?];
    if config.index {
        bind_root(&upper, layers, prefix, &upper_path)?;
    }
    let what = OpenUpper {
        upper: &upper_path,
        work: &work_path,
        reader,
        volatile: config.fsync == Fsync::Volatile,
        marked: !config.unmarked_volatile,
        index: config.index,
    };
    let (root, base, clone) = beneath_own_mount(config, &upper, &work);
    let opened = upper::open(&what, root, &base, (locks, clone))?;
    if let Some(index) = opened.index() {
        bind_index(keeps_uuids, index, &upper, prefix).map_err(|e| {
            SetupError::new("use the index in the work directory", e.desc())
                .at(&work_path)
                .hint("it belongs to another upper; use a fresh work directory")
        })?;
    }
    let sweep = sweep::Sweep { layers, upper: &opened, prefix, nfs_export: config.nfs_export };
    sweep.run().map_err(|e| {
        SetupError::new("sweep the index in the work directory", e.desc())
            .at(&work_path)
            .hint("it has an entry that is not understood; use a fresh work directory")
    })?;
    if matches!(config.uuid, Uuid::On | Uuid::Auto) {
        store_uuid(config, &opened)
            .map_err(|e| SetupError::new("store the uuid on the upper", e.desc()).at(&upper_path))?;
    }
    Ok(opened)
}

/// The upper and its work directory beneath a mount of our own, where one can be had: as in the kernel, the flags of the
/// union's mount alone say when reading advances access times, not those of the mount that the upper is in.
fn beneath_own_mount(
    config: &Config,
    upper: &Examined,
    work: &Examined,
) -> (Arc<Dir>, Arc<Dir>, Option<OwnedFd>) {
    let when = match config.atime {
        Atime::Relative => When::Due,
        Atime::Never => When::Never,
        Atime::Strict => When::Always,
    };
    let times = AccessTimes { when, directories: !config.nodiratime };
    match private_pair([&upper.dir, &work.dir], times) {
        Ok(ClonedPair { tree, dirs: [root, base] }) => (Arc::new(root), Arc::new(base), Some(tree)),
        Err(e) => {
            log::info!("the upper is used without a private mount clone ({})", e.desc());
            (Arc::clone(&upper.dir), Arc::clone(&work.dir), None)
        }
    }
}

/// With an index, an upper belongs to one lower root: the record of it is checked, or written the first time.
fn bind_root(upper: &Examined, layers: &[LayerInfo], prefix: Prefix, path: &Path) -> Setup<()> {
    let Some(first) = layers.first() else { return Ok(()) };
    let fail = |e: Errno| SetupError::new("bind the upper to its lower layer", e.desc()).at(path);
    let uuid = first.uuid;
    let handle = match handle::of(At::Fd(first.clone.root.as_fd())) {
        Ok(h) => h,
        Err(Errno::EOPNOTSUPP) => return Ok(()),
        Err(e) => return Err(fail(e)),
    };
    let Some(record) = origin::encode(&origin::Record { handle, uuid, upper: false }) else { return Ok(()) };
    verify_or_set(upper.dir.this(), prefix.attr(Mark::Origin), &record).map_err(|e| {
        fail(e).hint("with index=on an upper can only be used with the lower layer it was first mounted with")
    })
}

fn bind_index(keeps_uuids: bool, index: &Dir, upper: &Examined, prefix: Prefix) -> Result<()> {
    let uuid = if keeps_uuids { handle::filesystem_uuid(&upper.dir) } else { [0; 16] };
    let handle = match handle::of(upper.dir.this()) {
        Ok(h) => h,
        Err(Errno::EOPNOTSUPP) => return Ok(()),
        Err(e) => return Err(e),
    };
    let Some(record) = origin::encode(&origin::Record { handle, uuid, upper: true }) else { return Ok(()) };
    verify_or_set(index.this(), prefix.attr(Mark::Upper), &record)
}

/// Errors: ESTALE when another value is stored.
fn verify_or_set(at: At<'_>, attr: &std::ffi::CStr, record: &[u8]) -> Result<()> {
    match at.find_xattr(attr)? {
        Some(stored) if stored == record => Ok(()),
        Some(_) => Err(Errno::ESTALE),
        None => at.setxattr(attr, record, 0),
    }
}

/// `P.uuid` on the upper root: kept when there is one, made for a fresh upper or on demand.
fn store_uuid(config: &Config, upper: &Upper) -> Result<()> {
    let prefix = upper.reader().prefix;
    let at = upper.root().this();
    let set = marks::present(at, prefix)?;
    if set.has(Mark::Uuid) || (config.uuid == Uuid::Auto && set.has(Mark::Impure)) {
        return Ok(());
    }
    let mut uuid = [0u8; 16];
    crate::sys::random(&mut uuid)?;
    // RFC 9562, version 4.
    uuid[6] = (uuid[6] & 0x0f) | 0x40;
    uuid[8] = (uuid[8] & 0x3f) | 0x80;
    upper.mark_if_possible(at, Mark::Uuid, &uuid)
}
