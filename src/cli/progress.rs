//! How far an import is, on a terminal; nothing in a pipe.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Output;
use crate::image::import::Progress;

/// A bar on stderr.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    layers: ProgressBar,
}

impl Bar {
    /// Hidden unless a person looks at it.
    pub fn new(output: Output) -> Bar {
        let shown = !output.is_quiet() && std::io::stderr().is_terminal();
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Bar { bar: ProgressBar::with_draw_target(Some(0), target), layers: ProgressBar::hidden() }
    }

    /// Takes it from the screen.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }

    fn count(&self) {
        let (done, all) = (self.layers.position(), self.layers.length().unwrap_or(0));
        self.bar.set_message(format!("{done} of {all} layers"));
    }
}

impl Progress for Bar {
    fn begin(&self, layers: usize, bytes: u64) {
        let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec}  {msg}");
        self.bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        self.bar.set_length(bytes);
        self.layers.set_length(layers as u64);
        self.count();
        self.bar.enable_steady_tick(Duration::from_millis(200));
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn layer(&self) {
        self.layers.inc(1);
        self.count();
    }

    fn syncing(&self) {
        self.bar.set_message("writing to the disk");
    }

    fn waiting(&self) {
        self.bar.set_message("waiting for another import of the same layers");
        self.bar.tick();
    }
}
