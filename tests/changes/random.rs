//! Random trees and random edits: applied after a run, they give the tree of a direct run.

use std::fmt::Write;

use crate::support::rng::Rng;
use crate::world::{World, age, copy, difference, direct, now, picture, text};

fn path(rng: &mut Rng) -> String {
    let depth = 1 + rng.below(3);
    (0..depth).map(|_| *rng.pick(&["a", "b", "c", "d"])).collect::<Vec<_>>().join("/")
}

/// A few lines that make a tree.
pub fn tree(rng: &mut Rng) -> String {
    let mut script = String::new();
    for _ in 0..25 {
        let (p, q) = (path(rng), path(rng));
        let line = match rng.below(10) {
            0..4 => format!("mkdir -p {p}"),
            4..7 => format!("mkdir -p $(dirname {p}); echo {q} > {p}"),
            7 => format!("ln {p} {q}"),
            8 => format!("ln -s {q} {p}"),
            _ => format!("setfattr -n user.x -v {} {p}; truncate -s 9000 {q}", rng.below(9)),
        };
        writeln!(script, "{line}").unwrap();
    }
    script
}

/// A few lines that change it.
pub fn edits(rng: &mut Rng) -> String {
    let mut script = String::new();
    for _ in 0..20 {
        let (p, q, n) = (path(rng), path(rng), rng.below(1000));
        let line = match rng.below(22) {
            0 | 1 => format!("echo {n} > {p}"),
            2 => format!("echo {n} >> {p}"),
            3 => format!("truncate -c -s {n} {p}"),
            4 | 5 => format!("mkdir -p {p}"),
            6 => format!("rm -f {p}"),
            7 => format!("rm -rf {p}"),
            8..12 => format!("mv -T {p} {q}"),
            12 => format!("mv {p} {q}"),
            13 => format!("ln {p} {q}"),
            14 => format!("ln -f {p} {q}"),
            15 => format!("ln -sfn {q} {p}"),
            16 => format!("chmod {} {p}", rng.pick(&["700", "755", "2750", "1777", "640", "0"])),
            17 => format!("setfattr -n user.x -v {n} {p}; setfattr -x user.x {q}"),
            18 => format!("setfacl -m u:{n}:rw {p}; setfacl -d -m u:{n}:r {q}"),
            19 => format!("mkfifo {p}"),
            20 => format!("touch -h -d '2010-01-01 00:00:{:02}' {p}", n % 60),
            _ => format!("cp -a {p} {q}"),
        };
        writeln!(script, "{line}").unwrap();
    }
    script
}

pub fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("ACETATE_CHANGES_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (1..=count).collect(),
    }
}

#[test]
fn random_edits_applied_after_a_run_give_the_tree_of_a_direct_run() {
    let Some(world) = World::new() else { return };
    for seed in seeds(12) {
        let mut rng = Rng::new(seed);
        let (base, edits) = (tree(&mut rng), edits(&mut rng));
        let (direct_run, run) = (world.path(&format!("direct-{seed}")), world.path(&format!("run-{seed}")));
        std::fs::create_dir(&direct_run).unwrap();
        direct(&direct_run, &base);
        age(&direct_run);
        copy(&direct_run, &run);
        let since = now();
        direct(&direct_run, &edits);
        let mut command =
            world.acetate(&["run", "--apply", "--", "bash", "-c", &format!("exec 2>/dev/null; {edits}")]);
        let output = command.current_dir(&run).output().unwrap();
        let said = text(&output.stderr);
        assert!(!said.contains("cannot"), "seed {seed}: {said}\n{base}--\n{edits}");
        let (expected, found) = (picture(&direct_run, since), picture(&run, since));
        assert!(
            expected == found,
            "seed {seed}:\n{}\n{said}\n{base}--\n{edits}",
            difference(&expected, &found)
        );
    }
    assert_eq!(world.left(), [""; 0]);
}

#[test]
fn random_edits_of_a_user_kept_and_applied_later_give_the_tree_of_a_direct_run() {
    let Some(world) = World::of_user() else { return };
    for seed in seeds(6) {
        let mut rng = Rng::new(seed + 1000);
        // In a user namespace there are no other users, so no ACL can name one.
        let (base, edits) = (tree(&mut rng), edits(&mut rng).replace("setfacl", "true"));
        std::fs::write(world.path("base"), &base).unwrap();
        std::fs::write(world.path("edits"), &edits).unwrap();
        let output = world.as_user(
            "chmod -R u+rwx direct run kept .kept.work 2>/dev/null || true; rm -rf direct run kept .kept.work; mkdir direct
             (cd direct; bash ../base 2>/dev/null) || true
             find direct -depth -exec touch -h -d '2001-02-03 04:05:06.7' {} +
             cp -a direct run 2>&1",
        );
        assert!(output.status.success(), "seed {seed}: {}", text(&output.stdout));
        let since = now();
        let output = world.as_user(
            "(cd direct; bash ../edits 2>/dev/null) || true
             ./acetate run --on run --keep kept -- bash -c 'cd run; bash ../edits 2>/dev/null' || true
             ./acetate apply kept run",
        );
        let said = text(&output.stderr);
        assert!(output.status.success(), "seed {seed}: {said}\n{base}--\n{edits}");
        let (expected, found) = (picture(&world.path("direct"), since), picture(&world.path("run"), since));
        assert!(
            expected == found,
            "seed {seed}:\n{}\n{said}\n{base}--\n{edits}",
            difference(&expected, &found)
        );
    }
}
