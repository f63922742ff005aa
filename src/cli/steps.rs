//! How far a long piece of work has come: one line on a terminal, rewritten in place, nothing anywhere else.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::{Format, Output};

/// The line.
#[derive(Debug)]
pub struct Progress {
    what: &'static str,
    /// When it was written last; `None`: nobody watches.
    last: Option<Instant>,
    written: bool,
}

/// The work is shown only if it takes longer than this, and not more often.
const PAUSE: Duration = Duration::from_millis(200);

impl Progress {
    /// A line that begins with `what`.
    pub fn new(what: &'static str, output: Output) -> Progress {
        let watched =
            output.format() == Format::Text && !output.is_quiet() && std::io::stderr().is_terminal();
        Progress { what, last: watched.then(Instant::now), written: false }
    }

    /// `done` things are done, of nobody knows how many.
    pub fn count(&mut self, done: u64) {
        self.write(format_args!("{done}"));
    }

    /// `done` of `all` steps are done.
    pub fn set(&mut self, done: usize, all: usize) {
        self.write(format_args!("{done} of {all}"));
    }

    fn write(&mut self, how_far: std::fmt::Arguments<'_>) {
        if self.last.is_some_and(|last| last.elapsed() >= PAUSE) {
            // A line that cannot be written is no reason to stop the work.
            drop(write!(std::io::stderr(), "\r{} {how_far}\x1b[K", self.what));
            (self.last, self.written) = (Some(Instant::now()), true);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.written {
            drop(write!(std::io::stderr(), "\r\x1b[K"));
        }
    }
}
