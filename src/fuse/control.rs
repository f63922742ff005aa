//! Asking a mounted union a question through any directory in it.
//!
//! The question is an ioctl, so it needs no socket and reaches the right mount from any mount namespace. An ioctl
//! carries the bytes its number encodes and no more, below 16 KiB each way, while an answer can be long and can change
//! between two calls. So the first call puts the question and gets the first page of one answer; the server keeps the
//! rest of that answer, and further calls fetch it by number.
//!
//! Argument, both ways: a header of three little words, then bytes.
//! Question: `answer` 0, `offset` 0, `length` of the JSON. Continuation: `answer` as told, `offset`, `length` 0.
//! Reply: `answer` (0 when this page is the last), `offset` unused, `length` of this page.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, PoisonError};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::sys::{Errno, Result, fusedev};

/// Bytes of the argument, a little less than the 14 bits that encode it allow.
const ARGUMENT: usize = 16_376;
/// Bytes of one page.
const PAGE: usize = ARGUMENT - size_of::<Head>();
/// `_IOWR(0xac, 1, [u8; ARGUMENT])`.
pub const COMMAND: u32 = (3 << 30) | ((ARGUMENT as u32) << 16) | (0xac << 8) | 1;
/// Answers kept for callers that have not fetched all of theirs; the oldest goes first.
const KEPT: usize = 16;

#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Head {
    answer: u64,
    offset: u64,
    length: u64,
}

/// What one ioctl asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked<'a> {
    /// A new question.
    Question(&'a [u8]),
    /// The rest of an answer.
    More {
        /// Which.
        answer: u64,
        /// Bytes already fetched.
        offset: usize,
    },
}

/// Decodes the argument of an ioctl. Errors: EINVAL.
pub(super) fn request(argument: &[u8]) -> Result<Asked<'_>> {
    let (head, rest) = Head::read_from_prefix(argument).map_err(|_| Errno::EINVAL)?;
    let small = |n: u64| usize::try_from(n).map_err(|_| Errno::EINVAL);
    if head.answer != 0 {
        return Ok(Asked::More { answer: head.answer, offset: small(head.offset)? });
    }
    rest.get(..small(head.length)?).map(Asked::Question).ok_or(Errno::EINVAL)
}

/// Long answers between two calls.
#[derive(Debug, Default)]
pub(super) struct Pages(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    last: u64,
    answers: VecDeque<(u64, u32, Vec<u8>)>,
}

impl Pages {
    /// The first page of `answer`, of which the rest is kept for `uid` when there is any.
    pub(super) fn first(&self, uid: u32, answer: Vec<u8>) -> Vec<u8> {
        if answer.len() <= PAGE {
            return page(0, &answer);
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.last += 1;
        let number = kept.last;
        let first = page(number, answer.get(..PAGE).unwrap_or_default());
        if kept.answers.len() == KEPT {
            kept.answers.pop_front();
        }
        kept.answers.push_back((number, uid, answer));
        first
    }

    /// Another page. Errors: ESTALE when `uid` has no such answer, or no longer.
    pub(super) fn more(&self, uid: u32, number: u64, offset: usize) -> Result<Vec<u8>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = |(kept, owner, _): &(u64, u32, Vec<u8>)| *kept == number && *owner == uid;
        let place = kept.answers.iter().position(mine).ok_or(Errno::ESTALE)?;
        let (_, _, answer) = kept.answers.get(place).ok_or(Errno::ESTALE)?;
        let rest = answer.get(offset..).ok_or(Errno::EINVAL)?;
        if let Some(full) = rest.get(..PAGE)
            && rest.len() > PAGE
        {
            return Ok(page(number, full));
        }
        let last = page(0, rest);
        kept.answers.remove(place);
        Ok(last)
    }
}

fn page(answer: u64, bytes: &[u8]) -> Vec<u8> {
    let head = Head { answer, offset: 0, length: bytes.len() as u64 };
    [head.as_bytes(), bytes].concat()
}

/// Puts `question` to the mount that `dir` is in, and returns the whole answer. Errors: ENOTTY when that is no mount
/// of ours, E2BIG for a question of 16 KiB or more, ESTALE when too many others asked at once, what the union answers.
pub fn ask(dir: BorrowedFd<'_>, question: &[u8]) -> Result<Vec<u8>> {
    ask_through(question, |argument| fusedev::ioctl_in_place(dir, COMMAND, argument))
}

fn ask_through(question: &[u8], mut call: impl FnMut(&mut [u8]) -> Result<()>) -> Result<Vec<u8>> {
    let mut argument = vec![0u8; ARGUMENT];
    let place = argument.get_mut(size_of::<Head>()..).and_then(|rest| rest.get_mut(..question.len()));
    place.ok_or(Errno::E2BIG)?.copy_from_slice(question);
    let mut head = Head { answer: 0, offset: 0, length: question.len() as u64 };
    let mut whole = Vec::new();
    loop {
        head.write_to_prefix(&mut argument).map_err(|_| Errno::EINVAL)?;
        call(&mut argument)?;
        let (told, rest) = Head::read_from_prefix(&argument).map_err(|_| Errno::EPROTO)?;
        let length = usize::try_from(told.length).map_err(|_| Errno::EPROTO)?;
        whole.extend_from_slice(rest.get(..length).ok_or(Errno::EPROTO)?);
        if told.answer == 0 {
            return Ok(whole);
        }
        head = Head { answer: told.answer, offset: whole.len() as u64, length: 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The server's half, with `reply` instead of a union.
    fn serve(pages: &Pages, argument: &mut [u8], reply: &dyn Fn(&[u8]) -> Vec<u8>) -> Result<()> {
        let page = match request(argument)? {
            Asked::Question(question) => pages.first(7, reply(question)),
            Asked::More { answer, offset } => pages.more(7, answer, offset)?,
        };
        argument[..page.len()].copy_from_slice(&page);
        Ok(())
    }

    #[test]
    fn an_answer_of_any_length_arrives_whole() {
        let pages = Pages::default();
        for length in [0, 1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 5 * PAGE + 7] {
            let long: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let got = ask_through(b"{\"ask\":\"x\"}", |argument| {
                serve(&pages, argument, &|question| {
                    assert_eq!(question, b"{\"ask\":\"x\"}");
                    long.clone()
                })
            });
            assert_eq!(got.unwrap(), long, "length {length}");
            assert!(pages.0.lock().unwrap().answers.is_empty());
        }
    }

    #[test]
    fn answers_nobody_fetches_are_dropped_oldest_first() {
        let pages = Pages::default();
        for _ in 0..=KEPT {
            pages.first(7, vec![0; PAGE + 1]);
        }
        assert_eq!(pages.more(7, 1, PAGE), Err(Errno::ESTALE));
        assert!(pages.more(7, 2, PAGE).is_ok());
        assert_eq!(pages.more(8, 3, PAGE), Err(Errno::ESTALE));
        assert_eq!(pages.more(7, 3, PAGE + 2), Err(Errno::EINVAL));
    }

    #[test]
    fn a_question_that_is_too_long_or_lies_about_its_length_is_refused() {
        assert_eq!(ask_through(&vec![b'x'; PAGE + 1], |_| Ok(())), Err(Errno::E2BIG));
        let lie = Head { answer: 0, offset: 0, length: 100 };
        assert_eq!(request(lie.as_bytes()), Err(Errno::EINVAL));
        assert_eq!(request(b"short"), Err(Errno::EINVAL));
    }
}
