//! The store: layers and images by digest, names that point at images.
//!
//! ```text
//! STORE/store.json            what kind of store this is
//!       layers/DIFF_ID/tree   a layer, in the form kernel overlayfs has      contents   its record
//!                             .tree.index   its layer index                  indexed    what that was made of
//!       images/ID/image.json  an image: its layers, lowest first             config.json, front/
//!       names/NAME.json       which image a name means
//!       staging/…             what is being made       locks/…   who is making it
//! ```
//!
//! Whatever is made is made in `staging`, written to the disk as a whole, and then renamed to its place: a layer or an
//! image that has its name is complete. Layers come before the image that needs them and the image before its name,
//! so an import that is interrupted leaves at most layers that nothing needs, and staged things that nobody holds.
//!
//! What is in use is locked, shared, by whoever uses it (an import, a mount's server): the lock is on the directory
//! itself and ends with the process. Who removes something locks it alone, then looks again whether it is needed.

mod gc;
mod images;
mod indexed;
mod lock;
mod stack;
mod stage;
mod verify;

use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::unpack::dialect::Dialect;
use crate::error::SetupError;
use crate::sys::process;
pub use gc::Freed;
pub use images::{Image, LayerRecord, Named};
pub(super) use indexed::write as write_index;
pub use lock::{Held, Making};
pub use stack::Stack;
pub use stage::Staging;
pub use verify::{Problem, Verified};

const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Kind {
    version: u32,
    dialect: Dialect,
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    dialect: Dialect,
}

/// Where the store is unless somebody says otherwise: `/var/lib/acetate` for root, `$XDG_DATA_HOME/acetate` or
/// `~/.local/share/acetate` for others.
///
/// # Errors
/// Nobody knows where the home directory is.
pub fn default_root() -> Result<PathBuf, SetupError> {
    if process::may_use_trusted_xattrs() {
        return Ok(PathBuf::from("/var/lib/acetate"));
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join("acetate"))
        .ok_or_else(|| {
            SetupError::new("find the store", "neither XDG_DATA_HOME nor HOME is set")
                .hint("name it with --store DIR")
        })
}

/// What this process may do.
fn own_dialect() -> Dialect {
    if process::may_use_trusted_xattrs() {
        return Dialect::Root;
    }
    let mapped = std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
        let ids = |line: &str| line.split_whitespace().nth(2).and_then(|count| count.parse::<u64>().ok());
        map.lines().filter_map(ids).sum::<u64>() > 1
    });
    if nix::unistd::geteuid().is_root() && mapped { Dialect::Namespace } else { Dialect::User }
}

impl Store {
    /// Opens the store `root` to look at it. `None`: there is none yet.
    ///
    /// # Errors
    /// It is no store, one of a later version, or one that this process cannot use.
    pub fn open(root: &Path) -> Result<Option<Store>, SetupError> {
        let file = root.join("store.json");
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(SetupError::new("open the store", e).at(root)),
        };
        let kind: Kind =
            serde_json::from_slice(&bytes).map_err(|e| SetupError::new("open the store", e).at(root))?;
        if kind.version != VERSION {
            return Err(SetupError::new("open the store", format!("it has the version {}", kind.version))
                .at(root)
                .hint("use the acetate that made it, or another store with --store DIR"));
        }
        let refuse = |why: &str, hint: &str| Err(SetupError::new("open the store", why).at(root).hint(hint));
        match (kind.dialect, own_dialect()) {
            (Dialect::Root, Dialect::Namespace | Dialect::User) => {
                refuse("it was made by root", "use your own store: leave --store out")
            }
            (Dialect::Namespace, Dialect::User) => refuse(
                "it was made by root of a user namespace",
                "enter such a namespace, for instance with podman unshare",
            ),
            _ => Ok(Some(Store { root: root.to_path_buf(), dialect: kind.dialect })),
        }
    }

    /// Opens the store `root`, made if need be.
    ///
    /// # Errors
    /// As [`Store::open`], and when it cannot be made.
    pub fn open_or_make(root: &Path) -> Result<Store, SetupError> {
        let root = std::path::absolute(root).map_err(|e| SetupError::new("find the store", e).at(root))?;
        let failed = |e: std::io::Error| {
            SetupError::new("make the store", e).at(&root).hint("name another one with --store DIR")
        };
        if let Some(store) = Store::open(&root)? {
            store.make_directories().map_err(failed)?;
            return Ok(store);
        }
        if root.read_dir().is_ok_and(|mut entries| entries.next().is_some()) && !root.join("layers").is_dir()
        {
            return Err(SetupError::new("make the store", "there is something else in this directory")
                .at(&root)
                .hint("name an empty directory, or one that is not there"));
        }
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&root).map_err(failed)?;
        let store = Store { root: root.clone(), dialect: own_dialect() };
        store.make_directories().map_err(failed)?;
        let kind = Kind { version: VERSION, dialect: store.dialect };
        let json = serde_json::to_vec(&kind).map_err(|e| SetupError::new("make the store", e).at(&root))?;
        // Two may make it at once, and write the same.
        let temporary = root.join(format!("store.json.{}", std::process::id()));
        stage::write_durably(&temporary, &json)
            .and_then(|()| std::fs::rename(&temporary, root.join("store.json")))
            .and_then(|()| stage::sync_dir(&root))
            .map_err(failed)?;
        Ok(store)
    }

    fn make_directories(&self) -> std::io::Result<()> {
        for name in ["layers", "images", "names", "staging", "locks"] {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(self.root.join(name))?;
        }
        Ok(())
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How owners and modes are kept in it.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

/// Opens a directory to lock it.
fn open_dir(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path)
}
