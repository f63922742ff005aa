//! One request in, one call of the union, one reply out.
//!
//! What makes this floor delicate is not any single request but what surrounds it: a panic must cost one answer and
//! not the mount; a reply the kernel no longer wants has already handed out references and handles, which must come
//! back; and nothing of a reply may be copied twice. So the channel gives the buffer the reply's body is built in, and
//! everything handed out is noted in [`Handed`] until the kernel has taken the reply.

mod attributes;
mod data;
mod ioctl;
mod listing;
mod names;
mod view;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use zerocopy::{Immutable, IntoBytes};

use super::control::Pages;
use super::nodes::{self, Shape, Target};
use super::stats::Stats;
use super::wire::{
    self, Dialect, INVALID_ID, OPCODES, Operation, Request, Undecodable, Wanted, abi, attr_out, entry_out,
    negative_entry, opcode, statx_out,
};
use crate::sys::{Errno, Result};
use crate::union::ids::NO_ID;
use crate::union::{self, Caller, HandleId, NodeId, Open, Owner, ROOT, Union};
use view::View;

/// What to send back for one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The request's number.
    pub unique: u64,
    /// The reply itself.
    pub reply: Reply,
}

/// A reply without its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The request has no reply.
    Nothing,
    /// It failed.
    Failed(Errno),
    /// So many bytes of the body buffer.
    Body(usize),
}

/// What a reply hands out before the kernel has taken it.
#[derive(Debug, Default)]
pub struct Handed {
    nodes: Vec<NodeId>,
    file: Option<HandleId>,
}

impl Handed {
    /// The kernel has taken the reply: what it handed out is the kernel's.
    pub fn confirm(&mut self) {
        self.nodes.clear();
        self.file = None;
    }
}

/// The handle that requests carry for what was opened without asking; the union's begin at 1.
const UNASKED: u64 = 0;

/// What the kernel opens by itself once it was told that nobody serves the request to open (F-7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unasked {
    /// Regular files.
    pub files: bool,
    /// Directories.
    pub dirs: bool,
}

/// The union behind the protocol.
pub struct Server {
    union: Arc<Union>,
    shape: Shape,
    dialect: Dialect,
    unasked: Unasked,
    stats: Arc<Stats>,
    pages: Pages,
}

impl Server {
    /// Serves `union` with node ids as `shape` says.
    pub fn new(
        union: Arc<Union>,
        shape: Shape,
        dialect: Dialect,
        unasked: Unasked,
        stats: Arc<Stats>,
    ) -> Server {
        Server { union, shape, dialect, unasked, stats, pages: Pages::default() }
    }

    /// The counters.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Serves one message. The reply's body is built at the start of `body`, which must hold the largest reply
    /// negotiated. `None`: the message had no header, so there is nobody to answer.
    pub fn serve(&self, message: &[u8], body: &mut [u8], handed: &mut Handed) -> Option<Answer> {
        match wire::decode(message, self.dialect) {
            Ok(request) => Some(self.answer(&request, body, handed)),
            Err(undecodable) => self.undecodable(undecodable),
        }
    }

    /// Takes back what a reply handed out that the kernel did not take.
    pub fn take_back(&self, handed: &mut Handed) {
        self.stats.unwanted.fetch_add(1, Relaxed);
        self.give_back(handed);
    }

    fn give_back(&self, handed: &mut Handed) {
        let returned = catch_unwind(AssertUnwindSafe(|| {
            for node in handed.nodes.drain(..) {
                self.union.forget(node, 1);
            }
            if let Some(handle) = handed.file.take() {
                self.union.release(handle);
            }
        }));
        if returned.is_err() {
            self.stats.panics.fetch_add(1, Relaxed);
            log::error!("taking back an unwanted reply panicked; some references stay until unmount");
        }
        handed.confirm();
    }

    fn undecodable(&self, undecodable: Undecodable) -> Option<Answer> {
        let (header, errno) = match undecodable {
            Undecodable::NoHeader => {
                self.malformed(undecodable);
                return None;
            }
            Undecodable::Malformed(header, _) => {
                self.malformed(undecodable);
                (header, Errno::EIO)
            }
            Undecodable::Refused(header, errno) => (header, errno),
        };
        let place = opcode(header.opcode).map(|(place, _)| place);
        self.stats.request(place);
        self.stats.error(place);
        let reply = if has_no_reply(header.opcode) { Reply::Nothing } else { Reply::Failed(errno) };
        Some(Answer { unique: header.unique, reply })
    }

    fn malformed(&self, undecodable: Undecodable) {
        self.stats.malformed.fetch_add(1, Relaxed);
        log::error!("the kernel sent {undecodable}");
    }

    fn answer(&self, request: &Request<'_>, body: &mut [u8], handed: &mut Handed) -> Answer {
        let header = request.header;
        let place = opcode(header.opcode).map(|(place, _)| place);
        self.stats.request(place);
        let mut turn = Turn { server: self, union: &self.union, header, body, handed: &mut *handed };
        let outcome = catch_unwind(AssertUnwindSafe(|| turn.dispatch(&request.operation)));
        let result = outcome.unwrap_or_else(|_| {
            self.stats.panics.fetch_add(1, Relaxed);
            let name = place.and_then(|place| OPCODES.get(place)).map_or("unknown", |line| line.name);
            log::error!(
                "{name} (request {}, node {}) panicked and was answered EIO",
                header.unique,
                header.nodeid
            );
            Err(Errno::EIO)
        });
        let reply = result.unwrap_or_else(|errno| {
            self.stats.error(place);
            self.give_back(handed);
            if has_no_reply(header.opcode) { Reply::Nothing } else { Reply::Failed(errno) }
        });
        Answer { unique: header.unique, reply }
    }
}

/// Requests the kernel expects no reply to, whatever happens. (Answering INTERRUPT means "ask again" or "not offered".)
fn has_no_reply(number: u32) -> bool {
    matches!(number, wire::FORGET | wire::BATCH_FORGET | wire::INTERRUPT)
}

/// One request being served.
struct Turn<'s> {
    server: &'s Server,
    union: &'s Union,
    header: abi::InHeader,
    body: &'s mut [u8],
    handed: &'s mut Handed,
}

impl Turn<'_> {
    fn dispatch(&mut self, operation: &Operation<'_>) -> Result<Reply> {
        match operation {
            Operation::Forget { references } => return self.forget(*references),
            Operation::BatchForget(list) => return self.batch_forget(list),
            Operation::Interrupt { unique } => {
                self.union.interrupt(*unique);
                return Ok(Reply::Nothing);
            }
            Operation::Destroy => return Ok(Reply::Body(0)),
            Operation::Statfs => return self.statfs(),
            Operation::Syncfs => return self.union.sync().map(|()| Reply::Body(0)),
            Operation::Unserved => return Err(Errno::ENOSYS),
            _ => {}
        }
        match self.server.shape.target_of(self.header.nodeid) {
            Target::Unseen => self.unseen(operation),
            Target::Node(node) => self.on_node(node, operation),
        }
    }

    fn on_node(&mut self, node: NodeId, operation: &Operation<'_>) -> Result<Reply> {
        match operation {
            Operation::Lookup(wanted) => self.lookup(node, *wanted),
            Operation::Getattr(args) => self.getattr(node, args),
            Operation::Statx(args) => self.statx(node, args),
            Operation::Setattr(args) => self.setattr(node, args),
            Operation::Readlink => self.readlink(node),
            Operation::Symlink { name, target, extensions } => self.symlink(node, name, target, extensions),
            Operation::Mknod { args, name, extensions } => self.mknod(node, args, name, extensions),
            Operation::Mkdir { args, name, extensions } => self.mkdir(node, args, name, extensions),
            Operation::Unlink(name) => self.union.unlink(&self.caller(), node, name).map(|()| Reply::Body(0)),
            Operation::Rmdir(name) => self.union.rmdir(&self.caller(), node, name).map(|()| Reply::Body(0)),
            Operation::Rename { newdir, flags, from, to } => self.rename((node, from), (*newdir, to), *flags),
            Operation::Link { oldnodeid, name } => self.link(*oldnodeid, node, name),
            Operation::Open(args) => self.open(node, args),
            Operation::Create { args, name, extensions } => self.create(node, args, name, extensions),
            Operation::Tmpfile { args, extensions } => self.tmpfile(node, args, extensions),
            Operation::Opendir(_) => self.opendir(),
            Operation::Readdir(args) => self.readdir(node, args),
            Operation::Readdirplus(args) => self.readdirplus(node, args),
            Operation::Fsyncdir(args) => self.union.fsyncdir(node, data_only(args)).map(|()| Reply::Body(0)),
            Operation::Read(args) => self.read(node, args),
            Operation::Lseek(args) => self.lseek(node, args),
            Operation::Fsync(args) => {
                self.union.fsync(opened(node, args.fh), data_only(args)).map(|()| Reply::Body(0))
            }
            Operation::Setxattr { args, name, value } => self.setxattr(node, args, name, value),
            Operation::Getxattr { size, name } => self.getxattr(node, *size, name),
            Operation::Listxattr { size } => self.listxattr(node, *size),
            Operation::Removexattr(name) => self.removexattr(node, name),
            Operation::Ioctl { args, data } => self.ioctl(node, args, data),
            _ => self.on_handle(operation),
        }
    }

    fn on_handle(&mut self, operation: &Operation<'_>) -> Result<Reply> {
        match operation {
            Operation::Write { args, data } => self.write(args, data),
            Operation::Release(args) => {
                self.union.release(HandleId(args.fh));
                Ok(Reply::Body(0))
            }
            Operation::Fallocate(args) => self.fallocate(args),
            Operation::CopyFileRange { args, wide } => self.copy_file_range(args, *wide),
            // Nothing was opened for it.
            Operation::Releasedir(_) => Ok(Reply::Body(0)),
            _ => Err(Errno::ENOSYS),
        }
    }

    /// The directory above the union's root: it has one child and offers nothing else.
    fn unseen(&mut self, operation: &Operation<'_>) -> Result<Reply> {
        match operation {
            Operation::Lookup(Wanted::Child(name)) if name.as_cstr() == nodes::CHILD => {
                let attr = self.view().attr(self.union.getattr(ROOT, None)?);
                self.put(&entry_out(
                    self.server.shape.to_wire(ROOT),
                    &union::Entry { node: ROOT, generation: 0, attr, name: union::Valid::Unlimited },
                ))
            }
            Operation::Lookup(Wanted::Child(_)) => self.put(&negative_entry()),
            Operation::Lookup(_) => self.put_unseen(),
            Operation::Getattr(_) => self.put(&attr_out(&nodes::unseen())),
            Operation::Statx(_) => self.put(&statx_out(&nodes::unseen())),
            Operation::Getxattr { .. } => Err(Errno::ENODATA),
            _ => Err(Errno::EACCES),
        }
    }

    fn put_unseen(&mut self) -> Result<Reply> {
        let mut entry = negative_entry();
        let attributes = attr_out(&nodes::unseen());
        entry.nodeid = abi::ROOT_ID;
        entry.attr = attributes.attr;
        entry.attr_valid = attributes.attr_valid;
        self.put(&entry)
    }

    fn caller(&self) -> Caller {
        let abi::InHeader { uid, gid, pid, unique, .. } = self.header;
        Caller { owner: self.union.ids().stored(Owner { uid, gid }), pid, request: unique }
    }

    /// The caller of a request that makes an object, whose owner must be representable in our user namespace and in the
    /// layers.
    fn creator(&self) -> Result<Caller> {
        let abi::InHeader { uid, gid, .. } = self.header;
        if uid == INVALID_ID || gid == INVALID_ID {
            return Err(Errno::EOVERFLOW);
        }
        let mut caller = self.caller();
        if uid == 0 && self.union.config().root_stands_in {
            let Owner { uid, gid } = &mut caller.owner;
            [uid, gid].into_iter().filter(|id| **id == NO_ID).for_each(|id| *id = 0);
        }
        match caller.owner {
            Owner { uid: NO_ID, .. } | Owner { gid: NO_ID, .. } => Err(Errno::EOVERFLOW),
            _ => Ok(caller),
        }
    }

    fn view(&self) -> View<'_> {
        View::of(self.union.config())
    }

    fn put<T: IntoBytes + Immutable>(&mut self, value: &T) -> Result<Reply> {
        value.write_to_prefix(self.body).map_err(|_| Errno::EIO)?;
        Ok(Reply::Body(size_of::<T>()))
    }

    fn put_bytes(&mut self, bytes: &[u8]) -> Result<Reply> {
        self.body.get_mut(..bytes.len()).ok_or(Errno::EIO)?.copy_from_slice(bytes);
        Ok(Reply::Body(bytes.len()))
    }

    /// An entry whose reference the kernel gets with this reply.
    fn put_entry(&mut self, entry: &union::Entry) -> Result<Reply> {
        self.handed.nodes.push(entry.node);
        let out = entry_out(self.server.shape.to_wire(entry.node), &self.view().entry(*entry));
        self.put(&out)
    }

    /// The body, cut to the `size` the kernel asked for.
    fn window(&mut self, size: u32) -> &mut [u8] {
        let size = self.body.len().min(size as usize);
        self.body.get_mut(..size).unwrap_or_default()
    }
}

/// The open file that handle `fh` of a request about `node` stands for.
fn opened(node: NodeId, fh: u64) -> Open {
    if fh == UNASKED { Open::Unasked(node) } else { Open::Handle(HandleId(fh)) }
}

fn data_only(args: &abi::FsyncIn) -> bool {
    args.fsync_flags & abi::FSYNC_FDATASYNC != 0
}

#[cfg(test)]
mod tests;
