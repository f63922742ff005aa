//! The harness itself: a side that behaves differently must be noticed.

use super::pair::Sides;
use super::prelude::*;
use super::scenario::Scenario;
use super::script::Script;
use crate::support::mounts::Mounter;

/// The kernel against itself, with other options on the second side.
fn sabotaged(stack: Scenario, options: &str) -> Scenario {
    let sides =
        Sides { reference: Mounter::Kernel, candidate: Mounter::Kernel, sabotage: options.to_owned() };
    stack.sides(sides)
}

#[track_caller]
fn must_be_noticed(stack: Scenario, word: &str, script: impl FnOnce(&mut Script) + Send + 'static) {
    if !crate::support::sys::is_root() {
        return stack.run(script);
    }
    let story = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| stack.run(script)))
        .expect_err("a difference went unnoticed");
    let story = story.downcast_ref::<String>().map_or("", String::as_str);
    assert!(story.contains(word), "noticed for another reason than {word:?}: {story}");
}

fn stack() -> Scenario {
    scenario().lower(|l| drop(l.file("d/f", "x").file("h", "").link("h", "h2")))
}

#[test]
fn a_different_errno_is_noticed() {
    must_be_noticed(sabotaged(stack(), "redirect_dir=on"), "EXDEV", |o| drop(o.rename("d", "e")));
}

#[test]
fn a_different_tree_is_noticed() {
    must_be_noticed(sabotaged(stack(), "index=on"), "merged trees differ", |o| drop(o.append("h", "y")));
}

#[test]
fn a_different_upper_is_noticed() {
    must_be_noticed(sabotaged(stack(), "metacopy=on"), "uppers on disk differ", |o| {
        drop(o.chmod("d/f", 0o600))
    });
}

#[test]
fn a_modified_lower_layer_is_noticed() {
    must_be_noticed(sabotaged(stack(), ""), "a lower layer was modified", |o| {
        o.pair().spoil(|set| std::fs::write(set.lowers[0].place.plain.join("d/f"), "changed"));
    });
}

#[test]
fn a_read_lower_file_is_noticed_by_its_access_time() {
    must_be_noticed(sabotaged(stack(), ""), "atime", |o| {
        o.pair().spoil(|set| std::fs::read(set.lowers[0].place.plain.join("d/f")).map(drop));
    });
}

#[test]
fn a_kernel_that_does_not_do_what_the_scenario_says_is_noticed() {
    must_be_noticed(sabotaged(stack(), ""), "the scenario wants", |o| o.stat("d").fails(ENOENT));
}

/// Two equal sides are equal, whatever is done to them.
#[test]
fn equal_sides_pass() {
    sabotaged(stack(), "").run(|o| {
        o.rename("d/f", "g").ok();
        o.unlink("h").ok();
    });
}

#[test]
fn a_side_that_cannot_be_mounted_is_noticed() {
    must_be_noticed(sabotaged(stack(), "nonsense=1"), "refused", |_| {});
}
