//! Scripted scenarios: a stack, options, and a script that both sides perform.
//!
//! `scenario().lower(|l| …).options("…").run(|o| …)`. Every operation in the script is compared between the two
//! sides; what it returns also says what the *kernel* must have answered, so that a scenario cannot quietly stop
//! doing what its name says. At its end trees, uppers, swapped uppers and lower layers are compared.

use std::sync::Arc;
use std::time::Duration;

use super::pair::{Mismatch, Obstacle, Pair, Sides, Swap};
use super::script::Script;
use super::stack::{LowerRecipe, Recipe};
use crate::support::backing::Fs;
use crate::support::layer::Layer;
use crate::support::watchdog;

/// A scenario under construction.
pub struct Scenario {
    recipe: Recipe,
    sides: Sides,
    swap: Swap,
    limit: Duration,
    lagging_names: bool,
}

/// Starts with an empty upper on ext4 and no lower.
pub fn scenario() -> Scenario {
    let recipe =
        Recipe { fs: Fs::Ext4, lowers: Vec::new(), writable: true, upper: None, options: String::new() };
    let limit = Duration::from_secs(60);
    Scenario { recipe, sides: Sides::standard(), swap: Swap::Uppers, limit, lagging_names: false }
}

impl Scenario {
    /// Puts everything on another filesystem.
    pub fn on(mut self, fs: Fs) -> Self {
        self.recipe.fs = fs;
        self
    }

    /// Adds a layer below those already there.
    pub fn lower(self, build: impl Fn(&Layer) + Send + Sync + 'static) -> Self {
        self.add(None, false, build)
    }

    /// Adds a layer on another filesystem.
    pub fn lower_on(self, fs: Fs, build: impl Fn(&Layer) + Send + Sync + 'static) -> Self {
        self.add(Some(fs), false, build)
    }

    /// Adds a data-only layer.
    pub fn data(self, build: impl Fn(&Layer) + Send + Sync + 'static) -> Self {
        self.add(None, true, build)
    }

    fn add(
        mut self,
        fs: Option<Fs>,
        data_only: bool,
        build: impl Fn(&Layer) + Send + Sync + 'static,
    ) -> Self {
        self.recipe.lowers.push(LowerRecipe { fs, data_only, build: Arc::new(build) });
        self
    }

    /// Fills the upper before the first mount.
    pub fn upper(mut self, build: impl Fn(&Layer) + Send + Sync + 'static) -> Self {
        self.recipe.upper = Some(Arc::new(build));
        self
    }

    /// Mounts without an upper.
    pub fn without_upper(mut self) -> Self {
        self.recipe.writable = false;
        self
    }

    /// Mounts with these options.
    pub fn options(mut self, options: &str) -> Self {
        self.recipe.options = options.to_owned();
        self
    }

    /// Leaves out the last step, for scenarios after which the other side could not mount.
    pub fn without_swap(mut self) -> Self {
        self.swap = Swap::Nothing;
        self
    }

    /// Accepts that names of indexed files are copied up later than the kernel does: for scenarios that change one
    /// file through several names (see `accepted::lagging_names`).
    pub fn names_may_lag(mut self) -> Self {
        self.lagging_names = true;
        self
    }

    /// Replaces who is compared with whom.
    pub fn sides(mut self, sides: Sides) -> Self {
        self.sides = sides;
        self
    }

    /// Runs the script on both mounts.
    pub fn run(self, script: impl FnOnce(&mut Script) + Send + 'static) {
        self.start(true, script);
    }

    /// Runs the script on two sets of layers that are not mounted yet.
    pub fn run_unmounted(self, script: impl FnOnce(&mut Script) + Send + 'static) {
        self.start(false, script);
    }

    fn start(self, mounted: bool, script: impl FnOnce(&mut Script) + Send + 'static) {
        let name = std::thread::current().name().unwrap_or("a scenario").to_owned();
        let Self { recipe, sides, swap, limit, lagging_names } = self;
        let outcome = watchdog::within(limit, move || -> Result<(), Obstacle> {
            let mut pair = if mounted { Pair::mount(&recipe, sides)? } else { Pair::build(&recipe, sides)? };
            if lagging_names {
                assert!(pair.names_can_lag(), "there are no names that could lag");
                pair.accept_lagging_names();
            }
            let mut script_side = Script::new(pair);
            script(&mut script_side);
            script_side.into_pair().finish(swap)?;
            Ok(())
        });
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(Obstacle::Unavailable(why))) | Err(why) => watchdog::skipped(&name, &why),
            Ok(Err(Obstacle::Mismatch(Mismatch(story)))) => panic!("{story}"),
        }
    }
}
