//! Whether anybody waits for a neighbour: other calls while a large file is copied up.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::super::fixture::steady_files;
use super::super::stats::quantile;
use super::{Figures, Stage};

/// Fewer would make the last percentile a single call.
const FEWEST: usize = 1000;

/// The 99th and the 99.9th percentile of lstat, half of it on names that nobody has asked for before.
pub fn stats_during_copy_up(stage: &Stage) -> Figures {
    let files = steady_files(stage.scale);
    let big = stage.mnt.join("big.bin");
    fs::metadata(&big).map_err(|e| e.to_string())?;
    let done = AtomicBool::new(false);
    let (copied, mut times) = std::thread::scope(|scope| {
        let copy = scope.spawn(|| {
            let outcome = File::options().append(true).open(&big).and_then(|mut f| f.write_all(b"x"));
            done.store(true, Ordering::Relaxed);
            outcome
        });
        let mut times = Vec::new();
        let names = files.iter().cycle().enumerate();
        for (n, name) in names {
            if done.load(Ordering::Relaxed) {
                break;
            }
            let path = match n % 2 {
                0 => stage.mnt.join(name),
                _ => stage.mnt.join(format!("{name}.absent{n}")),
            };
            let began = Instant::now();
            let found = fs::symlink_metadata(&path);
            times.push(began.elapsed().as_secs_f64());
            if found.is_err_and(|e| e.kind() != ErrorKind::NotFound) {
                break;
            }
        }
        (copy.join(), times)
    });
    copied.map_err(|_| "the copying thread failed".to_string())?.map_err(|e| e.to_string())?;
    if times.len() < FEWEST {
        return Err(format!("only {} calls during the copy-up: too few to tell", times.len()));
    }
    times.sort_by(f64::total_cmp);
    let at = |part| quantile(&times, part).ok_or("nothing was measured".to_string());
    Ok(vec![at(0.99)?, at(0.999)?])
}
