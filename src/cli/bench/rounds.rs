//! Interleaved rounds: every workload on every contender, again and again, in rotating order.
//!
//! Nothing a contender does may stop the others. So each workload runs in a process of its own with a deadline, each
//! failure is kept as the reason why a figure is missing, and whatever hangs is killed with its server.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::contender::{Contender, Stack, kill_all, unmount};
use super::fixture::{Fixture, Layers};
use super::work::{Figures, Scale, Stage, Workload};
use crate::sys::Dir;
use crate::sys::process::{Side, fork};

/// After this a workload is given up.
const DEADLINE: Duration = Duration::from_secs(180);

/// What was measured: for each row of each workload and each contender the figures of the rounds.
#[derive(Debug)]
pub struct Measured {
    /// `[workload][row][contender][round]`.
    pub figures: Vec<Vec<Vec<Vec<Option<f64>>>>>,
    /// `[workload][contender]`: why there are none.
    pub failures: Vec<Vec<Option<String>>>,
}

/// A run that is about to begin.
#[derive(Debug)]
pub struct Rounds<'a> {
    /// The working directory of the run.
    pub base: &'a Path,
    /// The layers.
    pub fixture: &'a Fixture,
    /// Who takes part.
    pub contenders: &'a [Contender],
    /// What is done.
    pub workloads: &'a [Workload],
    /// How often.
    pub rounds: usize,
    /// How much.
    pub scale: Scale,
    /// With `volatile` where it is known.
    pub volatile: bool,
}

impl Rounds<'_> {
    /// Measures everything. Shows progress on a terminal.
    pub fn run(&self) -> Measured {
        let (workloads, contenders) = (self.workloads.len(), self.contenders.len());
        let bar = progress(workloads * contenders * self.rounds);
        let empty = |w: &Workload| vec![vec![Vec::new(); contenders]; w.rows.len()];
        let mut measured = Measured {
            figures: self.workloads.iter().map(empty).collect(),
            failures: vec![vec![None; contenders]; workloads],
        };
        for round in 0..self.rounds {
            for (w, workload) in self.workloads.iter().enumerate() {
                for turn in 0..contenders {
                    self.turn(&mut measured, &bar, round, (w, workload), (round + turn) % contenders);
                }
            }
        }
        bar.finish_and_clear();
        measured
    }

    /// One workload on one contender.
    fn turn(
        &self,
        measured: &mut Measured,
        bar: &ProgressBar,
        round: usize,
        (w, workload): (usize, &Workload),
        c: usize,
    ) {
        let Some(contender) = self.contenders.get(c) else { return };
        let first = workload.rows.first().map_or("", |row| row.name.as_str());
        bar.set_message(format!("round {} of {}: {first}, {}", round + 1, self.rounds, contender.name));
        let Some(failure) = measured.failures.get_mut(w).and_then(|f| f.get_mut(c)) else { return };
        // Nobody else knows these indexes.
        let foreign = matches!(workload.layers, Layers::Indexed(_)) && !contender.is_acetate();
        let outcome = match failure {
            _ if foreign => None,
            Some(_) => None,
            None => Some(self.sample(workload, contender)),
        };
        let figures = match outcome {
            Some(Ok(figures)) => figures,
            Some(Err(why)) => {
                *failure = Some(why);
                Vec::new()
            }
            None => Vec::new(),
        };
        for (row, of_row) in measured.figures.get_mut(w).into_iter().flatten().enumerate() {
            if let Some(of_contender) = of_row.get_mut(c) {
                of_contender.push(figures.get(row).copied());
            }
        }
        bar.inc(1);
    }

    /// Mounts on fresh directories, runs the workload, takes everything away again.
    fn sample(&self, workload: &Workload, contender: &Contender) -> Figures {
        let lower = self.fixture.layers(workload.layers)?;
        for name in ["upper", "work", "mnt"] {
            std::fs::create_dir(self.base.join(name)).map_err(|e| format!("cannot make {name}: {e}"))?;
        }
        let outcome = self.mounted(workload, contender, &lower);
        let gone = ["upper", "work", "mnt"].map(|name| std::fs::remove_dir_all(self.base.join(name)));
        let figures = outcome?;
        gone.into_iter().collect::<Result<Vec<()>, _>>().map_err(|e| format!("cannot clean up: {e}"))?;
        match figures.len() == workload.rows.len() && figures.iter().all(|f| f.is_finite()) {
            true => Ok(figures),
            false => Err("the workload gave no usable figures".into()),
        }
    }

    fn mounted(&self, workload: &Workload, contender: &Contender, lower: &[String]) -> Figures {
        let stack = Stack {
            base: self.base,
            lower,
            writable: workload.writable,
            volatile: self.volatile,
            mountpoint: "mnt",
        };
        // What others left to be written is not this one's business.
        Dir::open_path(self.base).and_then(|dir| dir.syncfs()).map_err(|e| e.desc().to_string())?;
        let mnt = self.base.join("mnt");
        let began = Instant::now();
        contender.mount(&stack)?;
        let mounting = began.elapsed().as_secs_f64();
        let stage = Stage { mnt: mnt.clone(), base: self.base.to_path_buf(), scale: self.scale };
        let figures = in_process(workload.run, &stage);
        let gone = unmount(&mnt);
        let mut figures = figures?;
        gone?;
        if workload.times_mount {
            figures.insert(0, mounting);
        }
        Ok(figures)
    }
}

/// Runs a workload in a process of its own, so that no open file or directory of it outlives it.
fn in_process(run: fn(&Stage) -> Figures, stage: &Stage) -> Figures {
    let (mut reader, mut writer) = std::io::pipe().map_err(|e| format!("cannot make a pipe: {e}"))?;
    match fork().map_err(|e| format!("cannot start a process: {}", e.desc()))? {
        Side::Child => {
            drop(reader);
            let said = serde_json::to_vec(&run(stage)).unwrap_or_default();
            let status = i32::from(writer.write_all(&said).is_err());
            std::process::exit(status)
        }
        Side::Parent(child) => {
            drop(writer);
            let mut said = Vec::new();
            if !ready(reader.as_fd(), DEADLINE) {
                kill_all()?;
                return Err(format!("it was not done after {} s", DEADLINE.as_secs()));
            }
            reader.read_to_end(&mut said).map_err(|e| format!("the workload was not heard: {e}"))?;
            let end = child.wait().unwrap_or_else(|errno| errno.to_string());
            serde_json::from_slice(&said).unwrap_or_else(|_| Err(format!("the workload {end}")))
        }
    }
}

/// Whether there is something to read before the patience ends.
fn ready(fd: std::os::fd::BorrowedFd<'_>, patience: Duration) -> bool {
    let until = Instant::now() + patience;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left.min(Duration::from_secs(60))).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout) {
            Ok(n) if n > 0 => return true,
            _ if left.is_zero() => return false,
            _ => {}
        }
    }
}

/// On a terminal; elsewhere nothing.
fn progress(steps: usize) -> ProgressBar {
    let bar = ProgressBar::new(steps as u64);
    // The template is a constant; were it wrong, the plain style would serve.
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len}  {eta} left  {wide_msg}") {
        bar.set_style(style);
    }
    bar
}

/// The directory of a run. Dropped: removed, with whatever a killed run left in it.
#[derive(Debug)]
pub struct Base(PathBuf);

impl Base {
    /// A new one in `dir`. Errors: as mkdir(2).
    pub fn create(dir: &Path) -> std::io::Result<Base> {
        let made = tempfile::Builder::new().prefix("acetate-bench-").tempdir_in(dir)?;
        Ok(Base(made.keep().canonicalize()?))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            log::error!("cannot remove {}: {e}", self.0.display());
        }
    }
}
