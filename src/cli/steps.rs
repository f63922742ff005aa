//! How far a long task is: a line on a terminal, nothing anywhere else.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::{Format, Output};

/// A line on stderr that goes away at the end.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    bytes: std::cell::Cell<u64>,
}

impl Bar {
    /// `what` is being done to so many objects.
    pub fn new(what: &'static str, objects: u64, output: Output) -> Bar {
        let shown = std::io::stderr().is_terminal() && !output.is_quiet() && output.format() == Format::Text;
        let bar = if shown { ProgressBar::new(objects) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len}  {msg}  {eta} left") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(what);
        if shown {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Bar { bar, bytes: std::cell::Cell::new(0) }
    }
}

impl crate::commit::Progress for Bar {
    fn step(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() + bytes);
        self.bar.inc(1);
        self.bar.set_message(HumanBytes(self.bytes.get()).to_string());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
