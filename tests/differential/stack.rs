//! Stacks of layers on disk, built twice in the same way: one set for the kernel, one for the candidate.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::support::backing::{self, Fs, Unavailable};
use crate::support::layer::{Layer, remove_tree};
use crate::support::sys::{self, FileHandle};
use crate::support::tree::{self, Tree};

/// Fills one layer.
pub type Build = Arc<dyn Fn(&Layer) + Send + Sync>;

/// One lower layer of a recipe.
#[derive(Clone)]
pub struct LowerRecipe {
    /// Where it lies, if not with the others.
    pub fs: Option<Fs>,
    /// Whether only redirects lead into it.
    pub data_only: bool,
    /// What is in it.
    pub build: Build,
}

/// What a stack is made of.
#[derive(Clone)]
pub struct Recipe {
    /// The filesystem of the upper, the work directory and, unless they say otherwise, the lowers.
    pub fs: Fs,
    /// Top first.
    pub lowers: Vec<LowerRecipe>,
    /// Whether there is an upper.
    pub writable: bool,
    /// What is in the upper before the first mount.
    pub upper: Option<Build>,
    /// Mount options besides the directories.
    pub options: String,
}

impl Recipe {
    /// Whether inode numbers of all layers live in one space.
    pub fn one_filesystem(&self) -> bool {
        self.lowers.iter().all(|lower| lower.fs.is_none_or(|fs| fs == self.fs))
    }
}

/// A directory, as the mount under test reaches it and as the tests look at it.
#[derive(Clone, Debug)]
pub struct Place {
    /// Through the mount with strict access times.
    pub plain: PathBuf,
    /// Through the mount that leaves access times alone.
    pub quiet: PathBuf,
}

/// One lower layer on disk.
#[derive(Debug)]
pub struct Lower {
    /// Where.
    pub place: Place,
    /// Whether only redirects lead into it.
    pub data_only: bool,
    /// As it was built.
    pub tree: Tree,
    anchor: OwnedFd,
    paths: HashMap<u64, Vec<u8>>,
}

/// A stack on disk. Dropping it removes it.
#[derive(Debug)]
pub struct Set {
    /// Top first.
    pub lowers: Vec<Lower>,
    /// The upper as the tests look at it.
    pub upper: Option<PathBuf>,
    /// The work directory as the tests look at it.
    pub work: Option<PathBuf>,
    /// Whether the upper lies on ext4.
    pub upper_on_ext4: bool,
    /// Where the union appears.
    pub mount_point: PathBuf,
    /// The lines that build the layers.
    pub log: String,
    writable: Option<(PathBuf, PathBuf)>,
    remove: Vec<PathBuf>,
}

impl Set {
    /// Builds it.
    pub fn build(recipe: &Recipe) -> Result<Self, Unavailable> {
        let serial = backing::serial();
        let mut remove = Vec::new();
        let mut place = |fs: Fs, name: &str| -> Result<Place, Unavailable> {
            let backing = backing::backing(fs)?;
            let top = format!("s{serial}");
            let base = backing.quiet.join(&top);
            if !remove.contains(&base) {
                std::fs::create_dir(&base).expect("a fresh directory on a scratch filesystem");
                remove.push(base.clone());
            }
            std::fs::create_dir(base.join(name)).expect("a fresh directory for a layer");
            Ok(Place { plain: backing.plain.join(top).join(name), quiet: base.join(name) })
        };
        let mut log = String::new();
        let mut lowers = Vec::new();
        for (index, lower) in recipe.lowers.iter().enumerate() {
            let place = place(lower.fs.unwrap_or(recipe.fs), &format!("l{}", index + 1))?;
            let layer = Layer::new(&place.quiet, index + 1);
            (lower.build)(&layer);
            log.push_str(&format!("lower {}:\n{}", index + 1, layer.finish()));
            lowers.push(Lower::new(place, lower.data_only));
        }
        let (mut upper, mut work, mut writable) = (None, None, None);
        if recipe.writable {
            let (up, scratch) = (place(recipe.fs, "u")?, place(recipe.fs, "w")?);
            let layer = Layer::new(&up.quiet, 0);
            if let Some(build) = &recipe.upper {
                build(&layer);
            }
            log.push_str(&format!("upper:\n{}", layer.finish()));
            writable = Some((up.plain, scratch.plain));
            (upper, work) = (Some(up.quiet), Some(scratch.quiet));
        }
        let mount_point = backing::scratch("m");
        let upper_on_ext4 = recipe.writable && recipe.fs == Fs::Ext4;
        Ok(Self { lowers, upper, work, upper_on_ext4, mount_point, log, writable, remove })
    }

    /// The option string that mounts it.
    pub fn options(&self, more: &str) -> Vec<u8> {
        let mut words = b"lowerdir=".to_vec();
        for (index, lower) in self.lowers.iter().enumerate() {
            let first_data = lower.data_only && index > 0 && !self.lowers[index - 1].data_only;
            let between: &[u8] = match index {
                0 => b"",
                _ if first_data || lower.data_only => b"::",
                _ => b":",
            };
            words.extend(between);
            words.extend(lower.place.plain.as_os_str().as_bytes());
        }
        if let Some((upper, work)) = &self.writable {
            words.extend(b",upperdir=");
            words.extend(upper.as_os_str().as_bytes());
            words.extend(b",workdir=");
            words.extend(work.as_os_str().as_bytes());
        }
        if !more.is_empty() {
            words.push(b',');
            words.extend(more.as_bytes());
        }
        words
    }

    /// An option string with the directories of this set in the place of `{l1}`, `{l2}`, `{u}` and `{w}`.
    pub fn fill_in(&self, options: &str) -> String {
        let mut filled = options.to_owned();
        for (index, lower) in self.lowers.iter().enumerate() {
            filled = filled.replace(&format!("{{l{}}}", index + 1), &lower.place.plain.to_string_lossy());
        }
        if let Some((upper, work)) = &self.writable {
            filled = filled.replace("{u}", &upper.to_string_lossy()).replace("{w}", &work.to_string_lossy());
        }
        filled
    }

    /// The directories that must never change.
    pub fn lower_roots(&self) -> impl Iterator<Item = &Path> {
        self.lowers.iter().map(|lower| lower.place.quiet.as_path())
    }

    /// The lower object that a handle names.
    pub fn resolve(&self, handle: &FileHandle) -> Option<String> {
        self.lowers.iter().enumerate().find_map(|(index, lower)| {
            let fd = sys::open_handle(lower.anchor.as_fd(), handle, libc::O_PATH).ok()?;
            let stat = sys::fstat(fd.as_raw_fd()).ok()?;
            let root = &lower.tree.entries.get(&b""[..])?.id;
            let path = lower.paths.get(&stat.stx_ino)?;
            ((stat.stx_dev_major, stat.stx_dev_minor) == (root.0, root.1))
                .then(|| format!("L{}:{}", index + 1, path.escape_ascii()))
        })
    }

    /// The upper object that a handle names.
    pub fn resolve_upper(&self, handle: &FileHandle) -> Option<String> {
        let root = self.upper.as_ref()?;
        let anchor = sys::open(root.as_os_str().as_bytes(), libc::O_RDONLY | libc::O_DIRECTORY, 0).ok()?;
        let fd = sys::open_handle(anchor.as_fd(), handle, libc::O_PATH).ok()?;
        let ino = sys::fstat(fd.as_raw_fd()).ok()?.stx_ino;
        let tree = tree::read(root);
        let entry = tree.entries.values().find(|entry| entry.id.2 == ino)?;
        Some(format!("U:{}", entry.path.escape_ascii()))
    }
}

impl Lower {
    fn new(place: Place, data_only: bool) -> Self {
        let tree = tree::read(&place.quiet);
        let mut paths = HashMap::new();
        for (path, entry) in &tree.entries {
            paths.entry(entry.id.2).or_insert_with(|| path.clone());
        }
        let root = place.quiet.as_os_str().as_bytes();
        let anchor = sys::open(root, libc::O_RDONLY | libc::O_DIRECTORY, 0).expect("opening a layer root");
        Self { place, data_only, tree, anchor, paths }
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        for path in &self.remove {
            remove_tree(path.as_os_str().as_bytes());
        }
        if let Err(error) = std::fs::remove_dir(&self.mount_point) {
            eprintln!("{}: {error}", self.mount_point.display());
        }
    }
}
