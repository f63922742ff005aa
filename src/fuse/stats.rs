//! What the transport counts, for `acetate status` and for whoever looks for the cost of an operation.

use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};

use serde_json::{Map, Value, json};

use super::wire::OPCODES;

/// Counters of one connection. Each is exact; together they are no snapshot of one instant.
#[derive(Debug)]
pub struct Stats {
    requests: [AtomicU64; OPCODES.len()],
    errors: [AtomicU64; OPCODES.len()],
    /// Requests with an opcode later than 7.45.
    pub unknown: AtomicU64,
    /// Messages that made no sense.
    pub malformed: AtomicU64,
    /// Requests during which the server panicked; each was answered EIO.
    pub panics: AtomicU64,
    /// Replies the kernel no longer wanted, whose results were taken back.
    pub unwanted: AtomicU64,
    /// Threads that take requests now.
    threads: AtomicUsize,
    /// The most there have been.
    threads_peak: AtomicUsize,
    way: OnceLock<Way>,
}

/// The way requests come, and why it is that one.
#[derive(Clone, Debug, Default)]
pub(super) struct Way {
    /// Over io_uring.
    pub uring: bool,
    /// Why it is not io_uring, if that was asked for or could have been.
    pub why: Option<String>,
}

impl Default for Stats {
    fn default() -> Stats {
        Stats {
            requests: [const { AtomicU64::new(0) }; OPCODES.len()],
            errors: [const { AtomicU64::new(0) }; OPCODES.len()],
            unknown: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            unwanted: AtomicU64::new(0),
            threads: AtomicUsize::new(0),
            threads_peak: AtomicUsize::new(0),
            way: OnceLock::new(),
        }
    }
}

impl Stats {
    /// Counts a request; `place` is its line in [`OPCODES`].
    pub(super) fn request(&self, place: Option<usize>) {
        match place.and_then(|place| self.requests.get(place)) {
            Some(counter) => counter.fetch_add(1, Relaxed),
            None => self.unknown.fetch_add(1, Relaxed),
        };
    }

    /// Counts a request that was answered with an error.
    pub(super) fn error(&self, place: Option<usize>) {
        if let Some(counter) = place.and_then(|place| self.errors.get(place)) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// Notes the way requests come; it is chosen once.
    pub(super) fn chosen(&self, way: Way) {
        if self.way.set(way).is_err() {
            log::error!("the transport was chosen twice; the first choice stays");
        }
    }

    /// Counts a thread that takes requests.
    pub(super) fn thread_started(&self) {
        let now = self.threads.fetch_add(1, SeqCst) + 1;
        self.threads_peak.fetch_max(now, SeqCst);
    }

    /// Counts one that no longer does.
    pub(super) fn thread_ended(&self) {
        self.threads.fetch_sub(1, SeqCst);
    }

    /// Requests of the operation called `name` in [`OPCODES`].
    pub fn requests_of(&self, name: &str) -> u64 {
        let lines = OPCODES.iter().zip(&self.requests);
        lines.filter(|(line, _)| line.name == name).map(|(_, counter)| counter.load(Relaxed)).sum()
    }

    /// All requests.
    pub fn requests(&self) -> u64 {
        self.requests.iter().map(|counter| counter.load(Relaxed)).sum::<u64>() + self.unknown.load(Relaxed)
    }

    /// The counters as JSON; operations never asked for are left out.
    pub fn to_json(&self) -> Value {
        let way = self.way.get().cloned().unwrap_or_default();
        json!({
            "transport": if way.uring { "uring" } else { "dev" },
            "why": way.why,
            "threads": self.threads.load(Relaxed),
            "threads_peak": self.threads_peak.load(Relaxed),
            "requests": named(&self.requests),
            "errors": named(&self.errors),
            "unknown": self.unknown.load(Relaxed),
            "malformed": self.malformed.load(Relaxed),
            "panics": self.panics.load(Relaxed),
            "unwanted": self.unwanted.load(Relaxed),
        })
    }
}

fn named(counters: &[AtomicU64]) -> Map<String, Value> {
    let counts =
        OPCODES.iter().zip(counters).map(|(line, counter)| (line.name.to_string(), counter.load(Relaxed)));
    counts.filter(|(_, count)| *count > 0).map(|(name, count)| (name, Value::from(count))).collect()
}
