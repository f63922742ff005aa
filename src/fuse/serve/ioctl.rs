//! ioctls: the flags of files, and our own question to a mount. Everything else is ENOTTY.

use serde_json::Value;
use zerocopy::{FromBytes, IntoBytes};

use super::{Reply, Turn};
use crate::fuse::control;
use crate::fuse::wire::INVALID_ID;
use crate::fuse::wire::abi::{self, Fsxattr, IoctlIn, IoctlOut};
use crate::sys::{Errno, Result};
use crate::union::{FileAttr, NodeId};

/// The kernel's numbers; those of the flags encode a `long`, yet carry four bytes (probe D7).
const GETFLAGS: u32 = 0x8008_6601;
const SETFLAGS: u32 = 0x4008_6602;
const FSGETXATTR: u32 = 0x801c_581f;
const FSSETXATTR: u32 = 0x401c_5820;

impl Turn<'_> {
    pub(super) fn ioctl(&mut self, node: NodeId, args: &IoctlIn, data: &[u8]) -> Result<Reply> {
        match args.cmd {
            GETFLAGS => {
                let flags = self.union.fileattr(node)?.flags;
                self.put_ioctl(args, flags.as_bytes())
            }
            SETFLAGS => {
                let (flags, _) = u32::read_from_prefix(data).map_err(|_| Errno::EINVAL)?;
                self.union.set_flags(&self.caller(), node, flags)?;
                self.put_ioctl(args, &[])
            }
            FSGETXATTR => {
                let attr = to_wire(&self.union.fileattr(node)?);
                self.put_ioctl(args, attr.as_bytes())
            }
            FSSETXATTR => {
                let (attr, _) = Fsxattr::read_from_prefix(data).map_err(|_| Errno::EINVAL)?;
                self.union.set_fsxattr(&self.caller(), node, &from_wire(&attr))?;
                self.put_ioctl(args, &[])
            }
            control::COMMAND if args.flags & abi::IOCTL_DIR != 0 => self.control(node, args, data),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn control(&mut self, node: NodeId, args: &IoctlIn, data: &[u8]) -> Result<Reply> {
        // Its own user, whatever ids are shifted in this mount.
        let (uid, _) = match self.header.uid {
            INVALID_ID => crate::sys::caller_ids(self.header.pid).ok_or(Errno::EPERM)?,
            uid => (uid, 0),
        };
        if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
            return Err(Errno::EPERM);
        }
        let page = match control::request(data)? {
            control::Asked::Question(question) => {
                let answer = self.union.control(node, question)?;
                let answer = self.with_transport(question, answer);
                self.server.pages.first(uid, answer)
            }
            control::Asked::More { answer, offset } => self.server.pages.more(uid, answer, offset)?,
        };
        self.put_ioctl(args, &page)
    }

    /// Adds the transport's facts to the answer to `status`; any other answer passes unchanged.
    fn with_transport(&self, question: &[u8], answer: Vec<u8>) -> Vec<u8> {
        let asked: Option<Value> = serde_json::from_slice(question).ok();
        if asked.as_ref().and_then(|q| q.get("ask")).and_then(Value::as_str) != Some("status") {
            return answer;
        }
        match serde_json::from_slice(&answer) {
            Ok(Value::Object(mut facts)) => {
                facts.insert("transport".into(), self.server.stats.to_json());
                Value::Object(facts).to_string().into_bytes()
            }
            _ => answer,
        }
    }

    /// An ioctl that succeeded; at most as much data as the kernel has room for.
    fn put_ioctl(&mut self, args: &IoctlIn, data: &[u8]) -> Result<Reply> {
        self.put(&IoctlOut::default())?;
        let start = size_of::<IoctlOut>();
        let length = data.len().min(args.out_size as usize);
        let (room, data) = (self.body.get_mut(start..start + length), data.get(..length));
        room.zip(data).ok_or(Errno::EIO).map(|(room, data)| room.copy_from_slice(data))?;
        Ok(Reply::Body(start + length))
    }
}

fn to_wire(a: &FileAttr) -> Fsxattr {
    Fsxattr {
        xflags: a.xflags,
        extsize: a.extsize,
        nextents: a.nextents,
        projid: a.projid,
        cowextsize: a.cowextsize,
        pad: [0; 8],
    }
}

/// `flags` stays 0: this call carries the other form of them.
fn from_wire(a: &Fsxattr) -> FileAttr {
    FileAttr {
        flags: 0,
        xflags: a.xflags,
        extsize: a.extsize,
        nextents: a.nextents,
        projid: a.projid,
        cowextsize: a.cowextsize,
    }
}
