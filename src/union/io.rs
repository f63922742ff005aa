//! Open files and their data.
//!
//! Which way the data of a file flows is decided per node, for the kernel refuses to mix: while a passthrough open
//! exists all opens must share its backing, while a cached one exists none may pass through. So the first open
//! decides, the others follow, and a lower file never passes through on a mount with an upper: a writer that came
//! later would write into the layer (F-9, F-10).

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::copy_up::{Data, open_lower};
use super::node::{Backing, Node};
use super::types::{Caller, DataPath, HandleId, NodeId, Open, Opened};
use super::{Passthrough, Union};
use crate::sys::{At, Errno, Kind, Result, file};

/// Which real object a descriptor is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Lower,
    Upper,
}

/// An open file.
#[derive(Debug)]
pub(super) struct FileHandle {
    pub node: Arc<Node>,
    pub writable: bool,
    path: DataPath,
    mappable: bool,
    /// A reader's descriptor moves to the upper once the file was copied up (C-19). Leaf lock.
    real: Mutex<(Side, Arc<OwnedFd>)>,
}

const SHARDS: usize = 16;

/// All files the kernel asked to open. The shards are leaf locks.
#[derive(Debug)]
pub(super) struct Handles {
    next: AtomicU64,
    files: Vec<Mutex<HashMap<HandleId, Arc<FileHandle>>>>,
}

impl Handles {
    pub(super) fn new() -> Handles {
        Handles { next: AtomicU64::new(1), files: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    fn fresh(&self) -> HandleId {
        HandleId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    // The remainder keeps the index below SHARDS.
    #[allow(clippy::indexing_slicing)]
    fn shard(&self, id: HandleId) -> MutexGuard<'_, HashMap<HandleId, Arc<FileHandle>>> {
        self.files[id.0 as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add_file(&self, handle: FileHandle) -> HandleId {
        let id = self.fresh();
        self.shard(id).insert(id, Arc::new(handle));
        id
    }

    /// Errors: EBADF.
    pub(super) fn file(&self, id: HandleId) -> Result<Arc<FileHandle>> {
        self.shard(id).get(&id).cloned().ok_or(Errno::EBADF)
    }

    fn drop_file(&self, id: HandleId) -> Option<Arc<FileHandle>> {
        self.shard(id).remove(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.files.iter().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
}

fn writes(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0
}

impl Union {
    /// Opens a regular file; any form of writing copies it up (C-1). Errors: EPERM for flags that forbid it,
    /// EROFS without an upper, EISDIR and EINVAL for anything else.
    pub fn open_file(&self, caller: &Caller, node: NodeId, flags: i32) -> Result<Opened> {
        let node = self.node(node)?;
        match node.kind {
            Kind::File => {}
            Kind::Dir => return Err(Errno::EISDIR),
            // Nobody asks for that; and a pipe would be waited for, with its directory locked.
            _ => return Err(Errno::EINVAL),
        }
        if writes(flags) {
            check_write_flags(&node, flags)?;
            let data = if flags & libc::O_TRUNC != 0 { Data::UpTo(0) } else { Data::Full };
            self.copy_up(caller, &node, data)?;
            return self.open_upper(&node, None, flags);
        }
        if node.has_upper_data.load(Ordering::Acquire) {
            return self.open_upper(&node, None, flags);
        }
        let fd = self.open_lower_data(&node)?;
        let through = self.upper.is_none() && self.config.passthrough == Passthrough::Auto;
        Ok(self.add_handle(&node, Side::Lower, fd, flags, through))
    }

    /// Whether the kernel opens files without asking: nothing can be copied up, and data that never changes is best kept
    /// in the page cache of the mount (F-7).
    pub fn opens_unasked(&self) -> bool {
        self.upper.is_none()
    }

    /// The file a request is about. Errors: EBADF for a handle that is not open, and for none where files are opened;
    /// what the layer's filesystem says.
    fn opened(&self, open: Open) -> Result<Arc<FileHandle>> {
        match open {
            Open::Handle(handle) => self.handles.file(handle),
            Open::Unasked(_) if !self.opens_unasked() => Err(Errno::EBADF),
            Open::Unasked(node) => self.kept_files.get_or(node, || {
                let node = self.node(node)?;
                if node.kind != Kind::File {
                    return Err(Errno::EBADF);
                }
                let real = Mutex::new((Side::Lower, Arc::new(self.open_lower_data(&node)?)));
                let path = DataPath::Cached { keep: true };
                Ok(FileHandle { node, writable: false, path, mappable: false, real })
            }),
        }
    }

    /// Opens the lower file that has the data of a node.
    fn open_lower_data(&self, node: &Arc<Node>) -> Result<OwnedFd> {
        // An orphan that never had an upper is reached by the descriptor it kept; a metadata-only one has its data below.
        let orphan = {
            let state = node.state();
            if state.upper.is_none() { state.orphan.clone() } else { None }
        };
        match orphan {
            Some(fd) if node.data_path.is_none() && node.lower.len() <= 1 => open_lower(fd.this()),
            _ => open_lower(self.lower_data(node)?.at()),
        }
    }

    /// Opens the upper file of a node, or takes `fd`, which is on it.
    pub(super) fn open_upper(&self, node: &Arc<Node>, fd: Option<OwnedFd>, flags: i32) -> Result<Opened> {
        let created = fd.is_some();
        let fd = match fd {
            Some(fd) => fd,
            None => self.open_upper_fd(node, flags)?,
        };
        let opened =
            self.add_handle(node, Side::Upper, fd, flags, self.config.passthrough == Passthrough::Auto);
        // What the kernel was told before a file could be mapped in passthrough, it was told for good (F-38).
        let first_mappable = may_be_mapped(opened.data, flags) && node.state().data.mappable == 1;
        if flags & libc::O_TRUNC != 0 || (first_mappable && !created) {
            self.transport.forget_attributes(node.id);
        }
        Ok(opened)
    }

    /// The kernel does the appending and the direct I/O; the daemon's own descriptor must take any offset and size.
    fn open_upper_fd(&self, node: &Arc<Node>, flags: i32) -> Result<OwnedFd> {
        let keep = flags & (libc::O_TRUNC | libc::O_NOATIME);
        let open = |at: At<'_>| {
            if flags & libc::O_ACCMODE == libc::O_RDONLY {
                let keep = keep & !libc::O_NOATIME;
                return match at.open(libc::O_RDONLY | keep | (flags & libc::O_NOATIME)) {
                    Err(Errno::EPERM) => at.open(libc::O_RDONLY | keep),
                    done => done,
                };
            }
            match at.open(libc::O_RDWR | keep) {
                // An append-only file takes no other kind of open.
                Err(Errno::EPERM) if flags & libc::O_APPEND != 0 => at.open(libc::O_RDWR | libc::O_APPEND),
                Err(Errno::EACCES) => at.open((flags & libc::O_ACCMODE) | keep),
                done => done,
            }
        };
        // Giving up the blocks of a large file takes long, and nobody is to wait for that.
        if flags & libc::O_TRUNC != 0 { open(self.steady(node)?.at()) } else { self.steadily(node, open) }
    }

    /// Registers an open file and decides the way of its data.
    fn add_handle(&self, node: &Arc<Node>, side: Side, fd: OwnedFd, flags: i32, through: bool) -> Opened {
        let writable = flags & libc::O_ACCMODE != libc::O_RDONLY;
        let path =
            if writable && self.transport.gathers_writes() && !file::reads_and_writes_anywhere(fd.as_fd()) {
                DataPath::Direct
            } else {
                self.choose_path(node, &fd, writable, through)
            };
        let mappable = may_be_mapped(path, flags);
        {
            let mut state = node.state();
            state.data.mappable += u32::from(mappable);
            state.data.writers += u32::from(writable);
        }
        let real = Mutex::new((side, Arc::new(fd)));
        let handle =
            self.handles.add_file(FileHandle { node: Arc::clone(node), writable, path, mappable, real });
        Opened { handle, data: path }
    }

    fn choose_path(&self, node: &Node, fd: &OwnedFd, writable: bool, through: bool) -> DataPath {
        let mut state = node.state();
        let data = &mut state.data;
        // A reader that found the file below joins the writer that copied it up meanwhile, or the kernel says EIO (A4).
        if data.cached == 0 && (through || data.through > 0) {
            let backing = match data.backing.take().or_else(|| self.kept_backings.take(node.id)) {
                Some(backing) => Ok(backing),
                None => self.register(fd.as_fd()).map(Arc::new),
            };
            // Without passthrough, or for a file that cannot back it, the page cache serves.
            if let Ok(backing) = backing {
                let id = backing.id;
                data.backing = Some(backing);
                data.through += 1;
                data.bypassed |= writable;
                return DataPath::Passthrough(id);
            }
        }
        data.cached += 1;
        let keep = !std::mem::take(&mut data.bypassed);
        DataPath::Cached { keep }
    }

    fn register(&self, fd: BorrowedFd<'_>) -> Result<Backing> {
        let id = self.transport.open_backing(fd)?;
        Ok(Backing { id, transport: Arc::clone(&self.transport) })
    }

    /// Closes a file.
    pub fn release(&self, handle: HandleId) {
        let Some(handle) = self.handles.drop_file(handle) else { return };
        let unused = {
            let mut state = handle.node.state();
            let data = &mut state.data;
            data.mappable = data.mappable.saturating_sub(u32::from(handle.mappable));
            data.writers = data.writers.saturating_sub(u32::from(handle.writable));
            match handle.path {
                DataPath::Direct => None,
                DataPath::Cached { .. } => {
                    data.cached = data.cached.saturating_sub(1);
                    None
                }
                DataPath::Passthrough(_) => {
                    data.through = data.through.saturating_sub(1);
                    if data.through == 0 {
                        data.backing.take().filter(|_| state.orphan.is_none())
                    } else {
                        None
                    }
                }
            }
        };
        // The next open of the file wants the same. Without a name there is none.
        if let Some(backing) = unused {
            self.kept_backings.put(handle.node.id, backing);
        }
    }

    /// The descriptor the data of a handle is on now: the upper's once there is one (C-19).
    pub(super) fn data_fd(&self, handle: &FileHandle) -> Result<Arc<OwnedFd>> {
        let mut real = handle.real.lock().unwrap_or_else(PoisonError::into_inner);
        if real.0 == Side::Lower && handle.node.has_upper_data.load(Ordering::Acquire) {
            let upper = self.steady(&handle.node)?;
            *real = (Side::Upper, Arc::new(upper.at().open(libc::O_RDONLY)?));
        }
        Ok(Arc::clone(&real.1))
    }

    /// The real file that an open file's data is in, for copying it whole. Its offset belongs to the handle.
    pub fn data_file(&self, handle: HandleId) -> Result<Arc<OwnedFd>> {
        self.data_fd(&*self.handles.file(handle)?)
    }

    /// Reads until `buf` is full or the file ends.
    pub fn read(&self, open: impl Into<Open>, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let handle = self.opened(open.into())?;
        file::read_at(self.data_fd(&handle)?.as_fd(), offset, buf)
    }

    /// Writes. `kill_priv`: clear suid and sgid with it.
    pub fn write(
        &self,
        caller: &Caller,
        handle: HandleId,
        offset: u64,
        data: &[u8],
        kill_priv: bool,
    ) -> Result<usize> {
        let handle = self.handles.file(handle)?;
        if !handle.writable {
            return Err(Errno::EBADF);
        }
        if kill_priv {
            self.kill_privileges(caller, &handle.node)?;
        }
        file::write_at(self.data_fd(&handle)?.as_fd(), offset, data)
    }

    /// Makes a file durable; one that has no upper is so already.
    pub fn fsync(&self, open: impl Into<Open>, data_only: bool) -> Result<()> {
        let handle = self.opened(open.into())?;
        self.sync_state.check()?;
        match &self.upper {
            Some(upper) if upper.syncs() && handle.node.has_upper() => {
                file::sync(self.data_fd(&handle)?.as_fd(), data_only)
            }
            // Volatile: nothing is written, but what the kernel already failed to write must be told.
            Some(_) if handle.node.has_upper_data.load(Ordering::Acquire) => {
                self.sync_state.observe(file::writeback_error(self.data_fd(&handle)?.as_fd()))
            }
            _ => Ok(()),
        }
    }

    /// Allocates, punches or zeroes. Any of it takes privileges away as a write does. Errors: EPERM for a file
    /// that was made immutable or append-only while it was open.
    pub fn fallocate(
        &self,
        caller: &Caller,
        handle: HandleId,
        mode: i32,
        offset: u64,
        length: u64,
    ) -> Result<()> {
        let handle = self.handles.file(handle)?;
        if !handle.writable {
            return Err(Errno::EBADF);
        }
        {
            let state = handle.node.state();
            if state.immutable || (state.append_only && mode & !libc::FALLOC_FL_KEEP_SIZE != 0) {
                return Err(Errno::EPERM);
            }
        }
        file::allocate(self.data_fd(&handle)?.as_fd(), mode, offset, length)?;
        self.kill_privileges(caller, &handle.node)
    }

    /// SEEK_DATA and SEEK_HOLE on the file that has the data.
    pub fn lseek(&self, open: impl Into<Open>, offset: u64, whence: i32) -> Result<u64> {
        let handle = self.opened(open.into())?;
        let fd = self.data_fd(&handle)?;
        // The position is shared between threads; a descriptor of its own keeps them apart.
        let own = crate::sys::At::Fd(fd.as_fd()).open(libc::O_RDONLY | libc::O_NOATIME);
        match own {
            Ok(own) => file::seek(own.as_fd(), offset, whence),
            Err(_) => file::seek(fd.as_fd(), offset, whence),
        }
    }

    /// Copies between two open files. Errors: EPERM when the target was made immutable while it was open.
    pub fn copy_file_range(
        &self,
        caller: &Caller,
        from: (HandleId, u64),
        to: (HandleId, u64),
        length: u64,
    ) -> Result<u64> {
        let (source, target) = (self.handles.file(from.0)?, self.handles.file(to.0)?);
        if !target.writable {
            return Err(Errno::EBADF);
        }
        if target.node.state().immutable {
            return Err(Errno::EPERM);
        }
        self.kill_privileges(caller, &target.node)?;
        let (source, target) = (self.data_fd(&source)?, self.data_fd(&target)?);
        file::copy_range((source.as_fd(), from.1), (target.as_fd(), to.1), length)
    }
}

/// Whether stores can reach the file without a request.
fn may_be_mapped(path: DataPath, flags: i32) -> bool {
    matches!(path, DataPath::Passthrough(_)) && flags & libc::O_ACCMODE == libc::O_RDWR
}

/// Immutable files are never opened for writing, append-only ones only for appending.
fn check_write_flags(node: &Node, flags: i32) -> Result<()> {
    let state = node.state();
    let appends = flags & libc::O_APPEND != 0 && flags & libc::O_TRUNC == 0;
    if state.immutable || (state.append_only && !appends) {
        return Err(Errno::EPERM);
    }
    Ok(())
}
