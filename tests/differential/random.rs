//! Random stacks and operation sequences. A failure is reduced to the fewest operations that still show it, and
//! printed with the command that repeats it.

use std::time::{Duration, Instant};

use super::generate::{self, Setting};
use super::op::Op;
use super::pair::{Mismatch, Obstacle, Pair, Sides, Swap};
use super::stack::Recipe;
use crate::support::backing::{Fs, Unavailable};
use crate::support::watchdog;

const OPERATIONS: usize = 40;
const LIMIT: Duration = Duration::from_secs(60);

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value}: a number is wanted")))
}

/// One failing run, with the lines that build its layers.
struct Failure {
    story: String,
    layers: String,
}

/// Runs one case from its beginning to its end.
fn attempt(recipe: &Recipe, ops: &[Op]) -> Result<Option<Failure>, Unavailable> {
    let (recipe, ops) = (recipe.clone(), ops.to_vec());
    let run = move || -> Result<Option<Failure>, Unavailable> {
        let mut pair = match Pair::mount(&recipe, Sides::standard()) {
            Ok(pair) => pair,
            Err(Obstacle::Unavailable(why)) => return Err(why),
            Err(Obstacle::Mismatch(Mismatch(story))) => {
                return Ok(Some(Failure { story, layers: String::new() }));
            }
        };
        if pair.names_can_lag() {
            pair.accept_lagging_names();
        }
        let layers = pair.layers().to_owned();
        for op in &ops {
            if pair.would_resurrect(op) {
                continue;
            }
            if let Err(Mismatch(story)) = pair.perform(op) {
                return Ok(Some(Failure { story, layers }));
            }
        }
        Ok(pair.finish(Swap::Uppers).err().map(|Mismatch(story)| Failure { story, layers }))
    };
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| watchdog::within(LIMIT, run))) {
        Ok(outcome) => outcome?,
        Err(panic) => {
            let words = panic.downcast_ref::<String>().cloned();
            let words = words.or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()));
            Ok(Some(Failure { story: words.unwrap_or_else(|| "panicked".into()), layers: String::new() }))
        }
    }
}

/// Leaves out layers and operations as long as it still fails.
fn shrink(mut recipe: Recipe, mut ops: Vec<Op>, mut failure: Failure) -> (Recipe, Vec<Op>, Failure) {
    let start = Instant::now();
    let still_fails = |recipe: &Recipe, ops: &[Op]| {
        let patient = start.elapsed() < Duration::from_secs(60);
        patient.then(|| attempt(recipe, ops)).and_then(Result::ok).flatten()
    };
    let mut chunk = ops.len().div_ceil(2);
    while chunk > 0 {
        let mut at = 0;
        while at < ops.len() {
            let mut fewer = ops.clone();
            fewer.drain(at..(at + chunk).min(ops.len()));
            match still_fails(&recipe, &fewer) {
                Some(other) => (ops, failure) = (fewer, other),
                None => at += chunk,
            }
        }
        chunk /= 2;
    }
    for index in (0..recipe.lowers.len()).rev() {
        let mut fewer = recipe.clone();
        fewer.lowers.remove(index);
        if !fewer.lowers.is_empty()
            && let Some(other) = still_fails(&fewer, &ops)
        {
            (recipe, failure) = (fewer, other);
        }
    }
    (recipe, ops, failure)
}

fn sequences(name: &str, default_seed: u64, default_cases: u64, setting: Setting) {
    let first = number("ACETATE_SEED").unwrap_or(default_seed);
    let cases = number("ACETATE_CASES").unwrap_or(default_cases);
    for seed in first..first + cases {
        let recipe = generate::recipe(seed, setting);
        let ops = generate::operations(seed, setting, OPERATIONS);
        match attempt(&recipe, &ops) {
            Ok(None) => {}
            Ok(Some(failure)) => report(name, seed, recipe, ops, failure),
            Err(why) => return watchdog::skipped(name, &why),
        }
    }
}

fn report(name: &str, seed: u64, recipe: Recipe, ops: Vec<Op>, failure: Failure) -> ! {
    let first = failure.story.lines().next().unwrap_or_default().to_owned();
    let (recipe, ops, failure) = shrink(recipe, ops, failure);
    panic!(
        "seed {seed} fails: {first}\nrepeat it: ACETATE_SEED={seed} ACETATE_CASES=1 cargo test --test differential \
         random::{name} -- --exact\nreduced to {} operations on {:?} with options {:?}\n{}\n{}",
        ops.len(),
        recipe.fs,
        recipe.options,
        failure.layers,
        failure.story,
    );
}

macro_rules! settings {
    ($($name:ident: $seed:literal, $cases:literal, $fs:ident, mixed $mixed:literal, ordinary $ordinary:literal;)*) => {
        $(#[test]
        fn $name() {
            let setting = Setting { fs: Fs::$fs, mixed: $mixed, ordinary: $ordinary };
            sequences(stringify!($name), $seed, $cases, setting);
        })*
    };
}

settings! {
    sequences_on_ext4_are_equal: 1_000, 150, Ext4, mixed false, ordinary false;
    sequences_of_several_callers_on_ext4_are_equal: 2_000, 150, Ext4, mixed false, ordinary true;
    sequences_on_xfs_are_equal: 3_000, 60, Xfs, mixed false, ordinary true;
    sequences_on_btrfs_are_equal: 4_000, 60, Btrfs, mixed false, ordinary true;
    sequences_on_tmpfs_are_equal: 5_000, 100, Tmpfs, mixed false, ordinary true;
    sequences_over_several_filesystems_are_equal: 6_000, 80, Ext4, mixed true, ordinary true;
}
