//! One ring entry: how a request lies in its memory, and how the reply is put there.
//!
//! The kernel writes a request in three pieces: its header, its fixed arguments, and everything else as the payload.
//! The codec reads one contiguous message. So the two small pieces are copied to the end of the head, right before the
//! payload, and the message is whole without a byte of data being moved; as on `/dev/fuse`, the data of a WRITE starts
//! on a page. A reply's body is the payload. Where the request has no payload the body is built in place; else (names,
//! attributes: never much) beside it, since the request is still being read.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use zerocopy::{FromBytes, IntoBytes};

use crate::fuse::channel::header;
use crate::fuse::handshake::MAX_WRITE;
use crate::fuse::serve::{Answer, Handed, Reply, Server};
use crate::fuse::wire::abi::{InHeader, OutHeader, RingCommand, RingEntry, ring};
use crate::sys::memory::Mapping;
use crate::sys::ring::{COMMAND, Exchange, Limit, Tells};
use crate::sys::{Errno, Result};

/// The head: three pieces at its start, the message's beginning at its end.
const HEAD: usize = 4096;
/// As much as the largest READ or WRITE.
const PAYLOAD: usize = MAX_WRITE as usize;
/// The largest reply to a request that has a payload itself: an attribute's value, or an ioctl.
const BESIDE: usize = 80 << 10;
/// An entry that touched more than this gives its memory back when it has nothing to do.
const KEPT: usize = 64 << 10;
/// How long it waits before that.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the kernel said to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// A request is in the entry.
    Request,
    /// The connection is over.
    Ended,
    /// It did not take the command.
    Refused(Errno),
}

/// An entry, for the thread that made it.
pub(super) struct Entry {
    exchange: Exchange,
    beside: Mapping,
    queue: u16,
    commit: u64,
    /// Memory that was used since it was last given back.
    touched: usize,
}

impl Entry {
    /// An entry that the kernel does not know yet. Errors: as [`Exchange::new`].
    pub fn new(queue: u16) -> Result<Entry> {
        let exchange = Exchange::new(HEAD, PAYLOAD)?;
        Ok(Entry { exchange, beside: Mapping::new(BESIDE)?, queue, commit: 0, touched: 0 })
    }

    /// Offers the entry to the kernel. Returns at once.
    ///
    /// # Errors
    /// What the kernel says: EINVAL, ENOMEM; EOPNOTSUPP when `enable_uring` is off meanwhile.
    pub fn register(&mut self, device: BorrowedFd<'_>) -> Result<()> {
        let command = self.command();
        match self.exchange.send(device, ring::REGISTER, command, Tells::Memory, Limit::Now)? {
            Some(said) if said < 0 => Err(Errno::from_raw(-said)),
            // A request cannot be there: before every queue has an entry the kernel sends none.
            Some(_) => Err(Errno::EPROTO),
            None => Ok(()),
        }
    }

    /// Offers the entry to a kernel that sends requests already, and waits for one.
    pub fn join(&mut self, device: BorrowedFd<'_>) -> Result<Said> {
        let command = self.command();
        let said = self.exchange.send(device, ring::REGISTER, command, Tells::Memory, Limit::None)?;
        said.map_or_else(|| self.next(), |said| Ok(meaning(said)))
    }

    /// Waits for a request, after [`Entry::register`].
    pub fn next(&mut self) -> Result<Said> {
        loop {
            let limit = if self.touched > KEPT { Limit::After(PATIENCE) } else { Limit::None };
            match self.exchange.wait(limit)? {
                Some(said) => return Ok(meaning(said)),
                None => self.give_back(),
            }
        }
    }

    /// Sends the reply and waits for the next request.
    pub fn commit(&mut self, device: BorrowedFd<'_>) -> Result<Said> {
        let command = self.command();
        let limit = if self.touched > KEPT { Limit::After(PATIENCE) } else { Limit::None };
        match self.exchange.send(device, ring::COMMIT_AND_FETCH, command, Tells::Nothing, limit)? {
            Some(said) => Ok(meaning(said)),
            None => {
                self.give_back();
                self.next()
            }
        }
    }

    fn command(&self) -> [u8; COMMAND] {
        let mut command = [0; COMMAND];
        let wanted = RingCommand { flags: 0, commit_id: self.commit, qid: self.queue, padding: [0; 6] };
        if wanted.write_to_prefix(&mut command).is_err() {
            log::error!("a command of the ring does not fit its place");
        }
        command
    }

    /// Nobody waits for anything of this thread: its memory may serve others.
    fn give_back(&mut self) {
        self.touched = 0;
        for memory in [self.exchange.memory(), &mut self.beside] {
            if let Err(errno) = memory.give_back() {
                log::warn!("an idle thread keeps its memory: {errno}");
            }
        }
    }

    /// Has the request served and puts the reply into the entry; only the commit is left.
    pub fn serve(&mut self, server: &Server, handed: &mut Handed) {
        let whole = self.exchange.memory().bytes();
        let Some(request) = Lying::find(whole) else {
            log::error!("the kernel put a request into a ring that makes no sense; it is answered EIO");
            self.commit = refuse(whole);
            return;
        };
        self.commit = request.commit;
        let reply = if request.payload == 0 {
            let (head, body) = whole.split_at_mut(HEAD);
            server.serve(head.get(request.start..).unwrap_or_default(), body, handed)
        } else {
            let message = whole.get(request.start..HEAD + request.payload).unwrap_or_default();
            let beside = self.beside.bytes();
            let answer = server.serve(message, beside, handed);
            move_body(answer, beside, whole)
        };
        // A request that wants no reply does not come this way; if one does, it is ended all the same.
        let answer = reply.filter(|answer| answer.reply != Reply::Nothing);
        let answer = answer.unwrap_or(Answer { unique: request.unique, reply: Reply::Failed(Errno::EIO) });
        let length = put_reply(answer, request.commit, whole);
        self.touched = self.touched.max(request.payload).max(length);
    }
}

/// Where the pieces of a request are, once it is contiguous.
struct Lying {
    unique: u64,
    commit: u64,
    /// Where the message starts; it ends with the payload.
    start: usize,
    payload: usize,
}

impl Lying {
    /// Puts the pieces together. `None`: what the kernel wrote contradicts itself.
    fn find(whole: &mut [u8]) -> Option<Lying> {
        let (header, _) = InHeader::read_from_prefix(whole).ok()?;
        let (entry, _) = RingEntry::read_from_prefix(whole.get(ring::ENTRY..)?).ok()?;
        let payload = entry.payload_sz as usize;
        let fixed = (header.len as usize).checked_sub(size_of::<InHeader>())?.checked_sub(payload)?;
        if fixed > ring::ARGUMENTS_MAX || payload > PAYLOAD {
            return None;
        }
        let start = HEAD - fixed - size_of::<InHeader>();
        whole.copy_within(..size_of::<InHeader>(), start);
        whole.copy_within(ring::ARGUMENTS..ring::ARGUMENTS + fixed, HEAD - fixed);
        Some(Lying { unique: header.unique, commit: entry.commit_id, start, payload })
    }
}

/// Answers a request of which only the ends can be read; returns what commits it.
fn refuse(whole: &mut [u8]) -> u64 {
    let unique = InHeader::read_from_prefix(whole).map_or(0, |(header, _)| header.unique);
    let entry = whole.get(ring::ENTRY..).and_then(|rest| RingEntry::read_from_prefix(rest).ok());
    let commit = entry.map_or(0, |(entry, _)| entry.commit_id);
    put_reply(Answer { unique, reply: Reply::Failed(Errno::EIO) }, commit, whole);
    commit
}

/// Copies a body that was built beside the request over it.
fn move_body(answer: Option<Answer>, beside: &[u8], whole: &mut [u8]) -> Option<Answer> {
    let answer = answer?;
    let Reply::Body(length) = answer.reply else { return Some(answer) };
    let to = whole.get_mut(HEAD..).and_then(|payload| payload.get_mut(..length));
    match (to, beside.get(..length)) {
        (Some(to), Some(from)) => to.copy_from_slice(from),
        _ => return Some(Answer { reply: Reply::Failed(Errno::EIO), ..answer }),
    }
    Some(answer)
}

/// Writes what belongs to a reply besides its body; returns the body's length.
fn put_reply(answer: Answer, commit: u64, whole: &mut [u8]) -> usize {
    let header = header(answer).unwrap_or(OutHeader {
        len: size_of::<OutHeader>() as u32,
        error: -libc::EIO,
        unique: answer.unique,
    });
    let payload_sz = header.len.saturating_sub(size_of::<OutHeader>() as u32);
    let entry = RingEntry { commit_id: commit, payload_sz, ..RingEntry::default() };
    let put = header.write_to_prefix(whole).is_ok()
        && whole.get_mut(ring::ENTRY..).is_some_and(|place| entry.write_to_prefix(place).is_ok());
    if !put {
        log::error!("the reply's header does not fit its place");
    }
    payload_sz as usize
}

fn meaning(said: i32) -> Said {
    match said {
        0.. => Said::Request,
        _ => match Errno::from_raw(said.saturating_neg()) {
            Errno::ENOTCONN | Errno::ECONNABORTED | Errno::ECANCELED | Errno::ENODEV => Said::Ended,
            errno => Said::Refused(errno),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lay(fixed: usize, payload: usize, len: usize) -> Vec<u8> {
        let mut whole = vec![0u8; HEAD + PAYLOAD];
        let header = InHeader { len: len as u32, unique: 7, ..InHeader::default() };
        header.write_to_prefix(&mut whole).unwrap();
        whole[ring::ARGUMENTS..ring::ARGUMENTS + fixed].fill(b'a');
        let entry = RingEntry { commit_id: 9, payload_sz: payload as u32, ..RingEntry::default() };
        entry.write_to_prefix(&mut whole[ring::ENTRY..]).unwrap();
        whole[HEAD..HEAD + payload].fill(b'p');
        whole
    }

    #[test]
    fn the_pieces_of_a_request_become_one_message_in_place() {
        for (fixed, payload) in [(0, 0), (0, 5), (8, 0), (16, 300), (128, PAYLOAD)] {
            let mut whole = lay(fixed, payload, 40 + fixed + payload);
            let lying = Lying::find(&mut whole).unwrap();
            assert_eq!((lying.unique, lying.commit, lying.payload), (7, 9, payload));
            let message = &whole[lying.start..HEAD + payload];
            assert_eq!(message.len(), 40 + fixed + payload);
            assert_eq!(InHeader::read_from_prefix(message).unwrap().0.unique, 7);
            assert!(message[40..40 + fixed].iter().all(|b| *b == b'a'));
            assert!(message[40 + fixed..].iter().all(|b| *b == b'p'));
        }
    }

    #[test]
    fn a_request_that_contradicts_itself_is_not_served() {
        for (fixed, payload, len) in
            [(0, 0, 39), (0, 10, 45), (0, 0, 40 + 129), (0, PAYLOAD + 1, 41 + PAYLOAD)]
        {
            let mut whole = lay(fixed, payload.min(PAYLOAD), len);
            if payload > PAYLOAD {
                let entry = RingEntry { payload_sz: payload as u32, ..RingEntry::default() };
                entry.write_to_prefix(&mut whole[ring::ENTRY..]).unwrap();
            }
            assert!(Lying::find(&mut whole).is_none(), "{fixed} {payload} {len}");
        }
    }

    #[test]
    fn a_reply_is_header_entry_and_body() {
        let mut whole = vec![0u8; HEAD + PAYLOAD];
        let answer = Answer { unique: 3, reply: Reply::Body(128) };
        let answer = move_body(Some(answer), &[5; 200], &mut whole).unwrap();
        assert_eq!(put_reply(answer, 11, &mut whole), 128);
        let header = OutHeader::read_from_prefix(&whole).unwrap().0;
        assert_eq!((header.len, header.error, header.unique), (144, 0, 3));
        let entry = RingEntry::read_from_prefix(&whole[ring::ENTRY..]).unwrap().0;
        assert_eq!((entry.commit_id, entry.payload_sz), (11, 128));
        assert!(whole[HEAD..HEAD + 128].iter().all(|b| *b == 5));
        let failed = Answer { unique: 3, reply: Reply::Failed(Errno::ENOENT) };
        assert_eq!(put_reply(failed, 11, &mut whole), 0);
        assert_eq!(OutHeader::read_from_prefix(&whole).unwrap().0.error, -libc::ENOENT);
    }

    #[test]
    fn what_the_kernel_says_is_told_apart() {
        assert_eq!(meaning(0), Said::Request);
        assert_eq!(meaning(-libc::ENOTCONN), Said::Ended);
        assert_eq!(meaning(-libc::EINVAL), Said::Refused(Errno::EINVAL));
    }
}
