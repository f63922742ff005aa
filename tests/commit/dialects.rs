//! `convert` changes the spelling of marks and nothing else; `check` finds what is wrong and repairs marks alone.

use std::collections::BTreeMap;

use crate::support::backing::Fs;
use crate::support::mounts::Mounter;
use crate::support::rng::Rng;
use crate::world::{World, assert_same, lines, shuffle};

/// What the kernel shows of a layer on top of the others.
fn shown(world: &World, layer: &str) -> BTreeMap<String, String> {
    let mounted = world.mount(Mounter::Kernel, &[layer, "middle", "lower"], false);
    let lines = lines(world.target());
    mounted.unmount().unwrap();
    lines
}

#[test]
fn a_layer_converted_there_and_back_shows_the_same_tree() {
    for seed in 0..6u64 {
        let rng = &mut Rng::new(seed + 100);
        let Some(world) = World::new(Fs::Ext4, "redirect_dir=off,metacopy=off") else { return };
        shuffle(&world.path("lower"), rng, 80);
        world.change(|root| shuffle(root, rng, 80));
        let truth = shown(&world, "upper");
        let before = world.fingerprint();
        for (between, back) in [("userxattr", "back-1"), ("oci", "back-2")] {
            world.must(&["convert", "--to", between, "upper", between]);
            world.must(&["convert", "--from", between, "--to", "kernel", between, back]);
            assert_same(&format!("seed {seed}, {between}"), &truth, &shown(&world, back));
        }
        assert_eq!(before.changes(), [""; 0], "seed {seed}");
    }
}

#[test]
fn a_mark_without_a_form_in_the_other_dialect_is_refused_and_nothing_appears() {
    let Some(world) = World::new(Fs::Ext4, "") else { return };
    world.build("upper", 0, |l| {
        l.dir("d/new").redirect("d/new", "/d/old");
    });
    for to in ["oci", "userxattr"] {
        let refused = world.refused(&["convert", "--to", to, "upper", "copy"]);
        assert!(refused.contains("upper/d/new: it was renamed"), "{refused}");
    }
    world.must(&["convert", "--to", "kernel", "upper", "copy"]);
    assert!(world.refused(&["convert", "--to", "kernel", "upper", "copy"]).contains("there already"));
    let left: Vec<_> = std::fs::read_dir(&world.base).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 5, "{left:?}");
}

#[test]
fn check_says_what_fsck_would_and_repairs_nothing_that_is_in_use() {
    let Some(world) = World::new(Fs::Ext4, "") else { return };
    let status = |words: &[&str]| {
        let output = world.run(words);
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    };
    world.build("lower", 0, |l| {
        l.file("d/f", "x");
    });
    let check = ["check", "upper", "--lower", "lower"];
    let fix = [&check[..], &["--fix"]].concat();
    assert_eq!(status(&check), (0, "clean\n".into()));
    world.build("upper", 0, |l| {
        l.dir("d").whiteout("d/f").whiteout("d/never");
    });
    let (code, text) = status(&check);
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("d/never: it deletes a name that no layer below has"), "{text}");
    for mounter in [Mounter::Kernel, Mounter::Acetate] {
        let mounted = world.mount(mounter, &["lower"], true);
        let (code, text) = status(&[&fix[..], &["--work", "work"]].concat());
        assert_eq!(code, 8, "{text}");
        assert!(text.contains("in use"), "{text}");
        mounted.unmount().unwrap();
    }
    let (code, text) = status(&fix);
    assert_eq!(code, 1, "{text}");
    assert!(!world.path("upper/d/never").exists());
    assert_eq!(status(&check).0, 0);
    assert_eq!(status(&["check", "nowhere"]).0, 8);
    assert_eq!(status(&["check", "--nonsense"]).0, 16);
    assert_eq!(status(&["check", "--help"]).0, 0);
}
