//! Mounting: which way is open to us, in which order things come to life, and how they end.
//!
//! A mount that appears must be served, so the order is: union, device, handshake, threads, and last the mountpoint.
//! And a mountpoint is a name that others use too: what is unmounted must be our mount and not one that was put there
//! since, so the mount is known by its unique id, and taken away through a descriptor on exactly that mount.
//!
//! Three ways, tried in this order: by descriptors (fsopen), which needs CAP_SYS_ADMIN in the mount namespace's owner;
//! by mount(2), where the kernel knows no fsopen; by fusermount3, where we may not mount.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use fuser::InitFlags;

use super::channel::{End, Serving, Wanted};
use super::dev::{Channel, Threads};
use super::fusermount;
use super::handshake::{MAX_WRITE, SMALLEST_WRITE, Wishes, negotiate};
use super::nodes::{CHILD, Shape};
use super::ring::{self, Obstacle, Prepared};
use super::serve::{Server, Unasked};
use super::stats::{Stats, Way as Transported};
use super::transport::{Connection, Live};
use super::wire::Dialect;
use crate::error::SetupError;
use crate::sys::mountapi::{self, FsContext, MountAttr};
use crate::sys::{Errno, fusedev};
use crate::union::{Transport, Union};

/// How to mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The directory to mount on.
    pub mountpoint: PathBuf,
    /// Every change is EROFS.
    pub read_only: bool,
    /// Other users may use the mount too.
    pub allow_other: bool,
    /// Devices cannot be opened.
    pub nodev: bool,
    /// Set-user-id bits have no effect.
    pub nosuid: bool,
    /// No programs.
    pub noexec: bool,
    /// No access times.
    pub noatime: bool,
    /// POSIX ACLs.
    pub acl: bool,
    /// File handles survive (`nfs_export`).
    pub export: bool,
    /// Files may be served from their backing files by the kernel.
    pub passthrough: bool,
    /// The kernel may gather writes, where files are not served from their backing files.
    pub writeback: bool,
    /// Some layer's filesystem is itself stacked (F-39).
    pub stacked: bool,
    /// SELinux labels every file of the mount with this.
    pub context: Option<String>,
    /// The mount is not propagated to other mount namespaces.
    pub private: bool,
    /// At most so many bytes in one WRITE; `None`: as many as is good.
    pub max_write: Option<u32>,
    /// Threads; `None`: as many as needed.
    pub threads: Option<usize>,
    /// Which way requests come.
    pub transport: Wanted,
    /// The name in the first column of /proc/mounts.
    pub source: String,
}

impl Options {
    fn attr(&self) -> MountAttr {
        MountAttr {
            read_only: self.read_only,
            nosuid: self.nosuid,
            nodev: self.nodev,
            noexec: self.noexec,
            noatime: self.noatime,
        }
    }
}

/// How a mount ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The connection was aborted instead of unmounted.
    pub aborted: bool,
    /// Requests could not be read any more.
    pub error: Option<Errno>,
    /// Requests served.
    pub requests: u64,
    /// Requests that panicked.
    pub panics: u64,
}

/// A live mount. Dropping it leaves the mount and its threads alone.
pub struct Mounted {
    union: Arc<Union>,
    serving: Serving,
    stats: Arc<Stats>,
    unmounter: Unmounter,
    connection: u32,
}

/// Takes one particular mount away, from any thread.
#[derive(Clone, Debug)]
pub struct Unmounter {
    mountpoint: PathBuf,
    id: u64,
}

impl Unmounter {
    /// Detaches the mount: it leaves its mountpoint at once, and ends when nobody uses it. False: something else is
    /// there now, or nothing, and nothing was touched. Errors: EPERM when neither we nor fusermount3 may.
    pub fn unmount(&self) -> Result<bool, Errno> {
        let there = match mountapi::locate(&self.mountpoint) {
            Ok(there) => there,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(false),
            Err(errno) => return Err(errno),
        };
        if mountapi::mount_of(there.as_fd())?.id != self.id {
            return Ok(false);
        }
        match mountapi::detach(there.as_fd()) {
            Ok(()) => Ok(true),
            Err(Errno::EPERM) => {
                drop(there);
                fusermount::unmount(&self.mountpoint).map(|()| true)
            }
            Err(errno) => Err(errno),
        }
    }
}

impl Mounted {
    /// STATX_MNT_ID_UNIQUE of the mount (before kernel 6.8 its ordinary id).
    pub fn mount_id(&self) -> u64 {
        self.unmounter.id
    }

    /// See [`Unmounter::unmount`].
    pub fn unmount(&self) -> Result<bool, Errno> {
        self.unmounter.unmount()
    }

    /// What unmounts while another thread is in [`Mounted::wait`].
    pub fn unmounter(&self) -> Unmounter {
        self.unmounter.clone()
    }

    /// Waits until the connection has ended and every thread is gone. Never unmounts.
    pub fn wait(self) -> Summary {
        let End { aborted, failed } = self.serving.join();
        Summary {
            aborted,
            error: failed,
            requests: self.stats.requests(),
            panics: self.stats.panics.load(Relaxed),
        }
    }

    /// The filesystem that is mounted.
    pub fn union(&self) -> &Arc<Union> {
        &self.union
    }

    /// What the transport counts.
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    /// The connection's directory below /sys/fs/fuse/connections.
    pub fn connection(&self) -> u32 {
        self.connection
    }
}

/// Mounts the union that `build` makes. Whatever fails, nothing is left mounted.
pub fn mount(
    options: &Options,
    build: impl FnOnce(Arc<dyn Transport>) -> Result<Union, SetupError>,
) -> Result<Mounted, SetupError> {
    let way = Way::find(&Mountpoint::open(&options.mountpoint)?)?;
    let rings = rings(options)?;
    let connection = Arc::new(Connection::default());
    let transport: Arc<dyn Transport> = Arc::clone(&connection) as Arc<dyn Transport>;
    let union = Arc::new(build(transport)?);
    // Not before: it could be a mount of the same upper on its way out, which would not end while we hold it.
    let mountpoint = Mountpoint::open(&options.mountpoint)?;
    let start = Start { options, mountpoint: &mountpoint, union, connection, rings };
    match way {
        Way::Descriptors(context, device) => start.by_descriptors(&context, device),
        Way::Path(device) => start.by_path(device),
        Way::Helper => start.by_helper(),
    }
}

/// The rings that are to serve, or what is in their way; nothing is, if they are not wanted.
fn rings(options: &Options) -> Result<std::result::Result<Prepared, Option<Obstacle>>, SetupError> {
    if options.transport == Wanted::Dev {
        return Ok(Err(None));
    }
    if let Some(obstacle) = ring::obstacle() {
        return without(options.transport, obstacle).map(Err);
    }
    match Prepared::new(options.threads) {
        Ok(prepared) => Ok(Ok(prepared)),
        Err(errno) => without(options.transport, ring::no_rings(errno)).map(Err),
    }
}

/// Goes on without rings, and says so; unless they were demanded.
fn without(wanted: Wanted, obstacle: Obstacle) -> Result<Option<Obstacle>, SetupError> {
    if wanted == Wanted::Uring {
        return Err(SetupError::new("serve the mount over io_uring", obstacle.why).hint(obstacle.hint));
    }
    let level = if obstacle.ordinary { log::Level::Info } else { log::Level::Warn };
    log::log!(level, "requests come over /dev/fuse: {} ({})", obstacle.why, obstacle.hint);
    Ok(Some(obstacle))
}

/// The directory to mount on, held by a descriptor until something is mounted there.
struct Mountpoint {
    path: PathBuf,
    fd: OwnedFd,
}

impl Mountpoint {
    fn open(path: &Path) -> Result<Mountpoint, SetupError> {
        let failed = |error: std::io::Error| {
            let failed = SetupError::new("use the mountpoint", &error).at(path);
            match error.raw_os_error() {
                Some(libc::ENOENT) => failed.hint("create the directory first"),
                Some(libc::ENOTCONN) => failed.hint("a dead mount is there: run umount on it first"),
                _ => failed,
            }
        };
        let path = path.canonicalize().map_err(failed)?;
        if !path.metadata().map_err(failed)?.is_dir() {
            return Err(SetupError::new("use the mountpoint", "Not a directory")
                .at(path)
                .hint("name a directory"));
        }
        let fd = mountapi::locate(&path).map_err(|errno| failed(errno.into()))?;
        Ok(Mountpoint { path, fd })
    }
}

/// How we may mount.
enum Way {
    Descriptors(FsContext, OwnedFd),
    Path(OwnedFd),
    Helper,
}

impl Way {
    fn find(mountpoint: &Mountpoint) -> Result<Way, SetupError> {
        match FsContext::open(c"fuse") {
            Ok(context) => Ok(Way::Descriptors(context, device()?)),
            Err(Errno::ENOSYS) if nix::unistd::geteuid().is_root() => Ok(Way::Path(device()?)),
            Err(Errno::EPERM | Errno::ENOSYS) => {
                log::debug!("mounting {} through fusermount3", mountpoint.path.display());
                Ok(Way::Helper)
            }
            Err(Errno::ENODEV) => Err(SetupError::new("mount", "this kernel offers no FUSE")
                .at(&mountpoint.path)
                .hint("run modprobe fuse, or use a kernel that has it")),
            Err(errno) => Err(SetupError::new("mount", errno).at(&mountpoint.path)),
        }
    }
}

/// Whether the kernel will take backing files from us: it wants CAP_SYS_ADMIN in the initial user namespace (F-2),
/// the one whose map covers every id. Without that the capability is better not negotiated, since it makes the mount
/// count as stacked.
fn may_register_backings() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let initial = map.split_whitespace().eq(["0", "0", "4294967295"]);
    initial && nix::unistd::geteuid().is_root()
}

fn device() -> Result<OwnedFd, SetupError> {
    fusedev::open_fuse_device().map_err(|errno| {
        let failed = SetupError::new("open the device", errno).at(fusedev::FUSE_DEVICE);
        match errno {
            Errno::ENOENT => failed.hint("run modprobe fuse; in a container, pass the device to it"),
            Errno::EPERM | Errno::EACCES => {
                failed.hint("in a container, allow it the device, for instance --device /dev/fuse")
            }
            Errno::ENODEV | Errno::ENXIO => failed.hint("run modprobe fuse"),
            _ => failed,
        }
    })
}

/// Everything that is ready when the mount begins.
struct Start<'o> {
    options: &'o Options,
    mountpoint: &'o Mountpoint,
    union: Arc<Union>,
    connection: Arc<Connection>,
    rings: std::result::Result<Prepared, Option<Obstacle>>,
}

impl Start<'_> {
    fn failed(&self, errno: Errno, complaint: String) -> SetupError {
        let why = if complaint.is_empty() { errno.to_string() } else { format!("{errno}: {complaint}") };
        SetupError::new("mount", why).at(&self.mountpoint.path)
    }

    fn by_descriptors(mut self, context: &FsContext, device: OwnedFd) -> Result<Mounted, SetupError> {
        let shape = if mountapi::clones_detached_trees() { Shape::Beneath } else { Shape::Plain };
        self.configure(context, device.as_fd()).map_err(|errno| self.failed(errno, context.complaint()))?;
        let (serving, stats) = self.serve(device, shape)?;
        let attached = self.attach(context, shape);
        let facts = attached.map_err(|errno| self.failed(errno, context.complaint()))?;
        Ok(self.finish(serving, stats, facts))
    }

    fn configure(&self, context: &FsContext, device: BorrowedFd<'_>) -> Result<(), Errno> {
        use std::os::fd::AsRawFd;
        context.set(c"source", &self.options.source)?;
        context.set(c"subtype", "acetate")?;
        context.set(c"fd", &device.as_raw_fd().to_string())?;
        context.set(c"rootmode", "40000")?;
        context.set(c"user_id", &nix::unistd::geteuid().to_string())?;
        context.set(c"group_id", &nix::unistd::getegid().to_string())?;
        context.set_flag(c"default_permissions")?;
        if self.options.allow_other {
            context.set_flag(c"allow_other")?;
        }
        if self.options.read_only {
            context.set_flag(c"ro")?;
        }
        if let Some(label) = &self.options.context {
            context.set(c"context", label)?;
        }
        context.create()
    }

    /// Puts the mount onto its mountpoint. Requests are served already: finding the child is one.
    fn attach(&self, context: &FsContext, shape: Shape) -> Result<mountapi::MountFacts, Errno> {
        let whole = context.mount(self.options.attr())?;
        let tree = match shape {
            Shape::Plain => whole,
            Shape::Beneath => mountapi::clone_tree(whole.as_fd(), CHILD)?,
        };
        mountapi::attach(tree.as_fd(), self.mountpoint.fd.as_fd())?;
        if self.options.private {
            mountapi::make_private(tree.as_fd())?;
        }
        mountapi::mount_of(tree.as_fd())
    }

    fn by_path(self, device: OwnedFd) -> Result<Mounted, SetupError> {
        use std::os::fd::AsRawFd;
        let others = if self.options.allow_other { ",allow_other" } else { "" };
        let data = format!(
            "fd={},rootmode=40000,user_id={},group_id={},default_permissions{others}",
            device.as_raw_fd(),
            nix::unistd::geteuid(),
            nix::unistd::getegid(),
        );
        let target = &self.mountpoint.path;
        mountapi::mount_by_path(&self.options.source, target, "fuse.acetate", self.options.attr(), &data)
            .map_err(|errno| self.failed(errno, String::new()))?;
        self.serve_mounted(device)
    }

    fn by_helper(self) -> Result<Mounted, SetupError> {
        let device = fusermount::mount(self.options, &self.mountpoint.path)?;
        self.serve_mounted(device)
    }

    /// Serves what is on the mountpoint already; if that fails the mount is taken away again.
    fn serve_mounted(mut self, device: OwnedFd) -> Result<Mounted, SetupError> {
        let facts = mountapi::locate(&self.mountpoint.path)
            .and_then(|root| mountapi::mount_of(root.as_fd()))
            .map_err(|errno| self.failed(errno, String::new()))?;
        match self.serve(device, Shape::Plain) {
            Ok((serving, stats)) => Ok(self.finish(serving, stats, facts)),
            Err(error) => {
                let ours = Unmounter { mountpoint: self.mountpoint.path.clone(), id: facts.id };
                if let Err(errno) = ours.unmount() {
                    log::error!("the unserved mount on {} stays: {errno}", ours.mountpoint.display());
                }
                Err(error)
            }
        }
    }

    fn wishes(&self) -> Wishes {
        let Options { acl, export, passthrough, writeback, stacked, max_write, .. } = *self.options;
        let unasked = self.union.opens_unasked();
        let writeback = writeback && !unasked;
        let passthrough = passthrough && !unasked && may_register_backings();
        let max_write = max_write.map_or(MAX_WRITE, |bytes| bytes.clamp(SMALLEST_WRITE, MAX_WRITE));
        Wishes { acl, export, passthrough, writeback, stacked, max_write, rings: self.rings.is_ok(), unasked }
    }

    /// Answers INIT and starts the threads.
    fn serve(&mut self, device: OwnedFd, shape: Shape) -> Result<(Serving, Arc<Stats>), SetupError> {
        let agreed = negotiate(device.as_fd(), self.wishes())?;
        let passthrough = agreed.has(InitFlags::FUSE_PASSTHROUGH);
        let fd = Arc::new(device);
        let writeback = agreed.has(InitFlags::FUSE_WRITEBACK_CACHE);
        self.connection.open(Live { fd: Arc::clone(&fd), shape, passthrough, writeback });
        let stats = Arc::new(Stats::default());
        let dialect = Dialect { setxattr_ext: agreed.has(InitFlags::FUSE_SETXATTR_EXT) };
        let unasked = Unasked {
            files: agreed.has(InitFlags::FUSE_NO_OPEN_SUPPORT),
            dirs: agreed.has(InitFlags::FUSE_NO_OPENDIR_SUPPORT),
        };
        let server = Server::new(Arc::clone(&self.union), shape, dialect, unasked, Arc::clone(&stats));
        let server = Arc::new(server);
        let prepared = self.prepared(agreed.has(InitFlags::FUSE_OVER_IO_URING))?;
        let threads = match (&prepared, self.options.threads) {
            (Ok(_), _) => Threads::BesideRings,
            (Err(_), Some(number)) => Threads::Exactly(number),
            (Err(_), None) => Threads::AsNeeded,
        };
        let device = Channel::start(Arc::clone(&server), Arc::clone(&fd), threads)
            .map_err(|error| SetupError::new("start the threads that serve the mount", error))?;
        let (rings, way) = match prepared {
            Ok(prepared) => {
                let rings = prepared.serve(server, fd).map_err(|errno| {
                    SetupError::new("serve the mount over io_uring", errno.desc())
                        .hint("mount with transport=dev")
                })?;
                (Some(rings), Transported { uring: true, why: None })
            }
            Err(obstacle) => (None, Transported { uring: false, why: obstacle.map(|obstacle| obstacle.why) }),
        };
        stats.chosen(way);
        Ok((Serving { device, rings }, stats))
    }

    /// The rings, if the kernel `agreed` to them.
    fn prepared(
        &mut self,
        agreed: bool,
    ) -> Result<std::result::Result<Prepared, Option<Obstacle>>, SetupError> {
        match std::mem::replace(&mut self.rings, Err(None)) {
            Ok(prepared) if agreed => Ok(Ok(prepared)),
            Ok(prepared) => {
                drop(prepared);
                without(self.options.transport, ring::not_agreed()).map(Err)
            }
            Err(obstacle) => Ok(Err(obstacle)),
        }
    }

    fn finish(self, serving: Serving, stats: Arc<Stats>, facts: mountapi::MountFacts) -> Mounted {
        let unmounter = Unmounter { mountpoint: self.mountpoint.path.clone(), id: facts.id };
        if let Some(rings) = &serving.rings {
            rings.mounted_as(facts.minor);
        }
        Mounted { union: self.union, serving, stats, unmounter, connection: facts.minor }
    }
}
