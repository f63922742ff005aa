//! `acetate squash`: one layer that stands for several, by the judgement of the kernel.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::apply::{EDITS, build};
use crate::random::{edits, seeds, tree};
use crate::support::rng::Rng;
use crate::world::{World, age, difference, direct, now, picture, text};

/// A kernel overlay on `m`, as long as `act` runs.
fn overlay<T>(world: &World, options: &str, act: impl FnOnce(&Path) -> T) -> T {
    let m = world.path("m");
    mount(Some("overlay"), &m, Some("overlay"), MsFlags::empty(), Some(options))
        .unwrap_or_else(|e| panic!("{options}: {e}"));
    let done = act(&m);
    umount2(&m, MntFlags::MNT_DETACH).unwrap();
    done
}

fn lowerdir(layers: &[PathBuf]) -> String {
    let layers: Vec<&str> = layers.iter().map(|layer| layer.to_str().unwrap()).collect();
    format!("lowerdir={}", layers.join(":"))
}

/// What the kernel shows of layers, top first; a single one as it is.
fn shown(world: &World, layers: &[PathBuf]) -> BTreeMap<String, String> {
    match layers {
        [only] => picture(only, i64::MAX),
        layers => overlay(world, &format!("{},redirect_dir=on,metacopy=on", lowerdir(layers)), |m| {
            picture(m, i64::MAX)
        }),
    }
}

/// Layers made by the kernel, each by a script on top of the ones before; top first.
fn layers(world: &World, name: &str, base: &str, scripts: &[String]) -> Vec<PathBuf> {
    let bottom = world.path(&format!("{name}-0"));
    std::fs::create_dir(&bottom).unwrap();
    direct(&bottom, base);
    age(&bottom);
    let mut layers = vec![bottom];
    for (number, script) in scripts.iter().enumerate() {
        let (upper, work) = (
            world.path(&format!("{name}-{}", number + 1)),
            world.path(&format!("{name}-work-{}", number + 1)),
        );
        std::fs::create_dir(&upper).unwrap();
        std::fs::create_dir(&work).unwrap();
        let options = format!(
            "{},upperdir={},workdir={},redirect_dir=on,metacopy=on",
            lowerdir(&layers),
            upper.display(),
            work.display()
        );
        overlay(world, &options, |m| direct(m, script));
        layers.insert(0, upper);
    }
    layers
}

fn squash(world: &World, layers: &[PathBuf], output: &str, more: &[&str]) -> Result<PathBuf, String> {
    let mut words = vec!["squash", "-o", output];
    words.extend(layers.iter().flat_map(|layer| ["--lower", layer.to_str().unwrap()]));
    words.extend(more);
    let done = world.run(&words);
    if done.status.success() { Ok(world.path(output)) } else { Err(text(&done.stderr)) }
}

/// All but the counts of links must be the same.
fn same(what: &str, expected: &BTreeMap<String, String>, found: &BTreeMap<String, String>) {
    let plain = |all: &BTreeMap<String, String>| -> BTreeMap<String, String> {
        all.iter().map(|(path, line)| (path.clone(), without_links(line))).collect()
    };
    let (expected, found) = (plain(expected), plain(found));
    assert!(expected == found, "{what}:\n{}", difference(&expected, &found));
}

/// A name that a layer above hides still counts as a link of a lower file.
fn without_links(line: &str) -> String {
    match line.split_once(" links ") {
        Some((head, tail)) => format!("{head} {}", tail.split_once(' ').map_or("", |(_, rest)| rest)),
        None => line.into(),
    }
}

fn squashed_like(world: &World, name: &str, layers: &[PathBuf]) {
    // The upper two, above the rest; all but the bottom; and everything.
    let whole = shown(world, layers);
    for top in 2..layers.len() {
        let one = squash(world, &layers[..top], &format!("{name}-top-{top}"), &[]).unwrap();
        let stack = [&[one], &layers[top..]].concat();
        same(&format!("{name}: the upper {top}"), &whole, &shown(world, &stack));
    }
    let middle = squash(world, &layers[1..layers.len() - 1], &format!("{name}-middle"), &[]).unwrap();
    let stack = [layers[0].clone(), middle, layers[layers.len() - 1].clone()];
    same(&format!("{name}: the middle"), &whole, &shown(world, &stack));
    let all = squash(world, layers, &format!("{name}-all"), &["--base"]).unwrap();
    same(&format!("{name}: all"), &whole, &shown(world, &[all]));
}

#[test]
fn one_layer_in_place_of_several_shows_the_same_tree_to_the_kernel() {
    let Some(world) = World::new() else { return };
    build(&world.path("d"));
    let base = format!("cp -a {}/. .", world.path("d").display());
    let second = "rm one/x; mv moved/new moved/newer; chmod 600 single; rm -r a; mkdir a; echo > a/fresh; mv opaque o2;
        echo > opaque; mv two/1 uno; rm -rf full; mv deep/est e";
    let third =
        "mv moved m2; rm o2/other; mkdir -p o2/old; echo > o2/old/z; ln uno duo; rm opaque; mkdir opaque;
        mv m2/newer .; touch -d 2005-05-05 sub; setfattr -n user.third -v 3 m2";
    let layers = layers(&world, "l", &base, &[EDITS.into(), second.into(), third.into()]);
    squashed_like(&world, "l", &layers);
}

#[test]
fn random_layers_are_squashed_to_what_the_kernel_shows_of_them() {
    let Some(world) = World::new() else { return };
    for seed in seeds(6) {
        let mut rng = Rng::new(seed + 5000);
        let base = tree(&mut rng);
        let scripts: Vec<String> = (0..3).map(|_| edits(&mut rng)).collect();
        let name = format!("seed-{seed}");
        let layers = layers(&world, &name, &base, &scripts);
        println!("{name}:\n{base}--\n{}", scripts.join("--\n"));
        squashed_like(&world, &name, &layers);
    }
}

#[test]
fn a_squashed_layer_keeps_only_the_marks_that_are_needed() {
    let Some(world) = World::new() else { return };
    let scripts = ["rm -r x; rm y", "mkdir x; echo > x/new; echo > z; rm z", "rm w"].map(String::from);
    let layers = layers(&world, "n", "mkdir x; echo > x/old; echo > y; echo > w", &scripts);
    let json = [
        "squash",
        "--json",
        "--lower",
        layers[1].to_str().unwrap(),
        "--lower",
        layers[2].to_str().unwrap(),
        "-o",
        "s",
    ];
    let answer: serde_json::Value = serde_json::from_str(&world.must(&json).0).unwrap();
    // x replaces what was deleted, y is deleted, and nothing is left of z.
    assert_eq!(
        (&answer["whiteouts"], &answer["opaque"], &answer["objects"]),
        (&1.into(), &1.into(), &2.into()),
        "{answer}"
    );
    let base = [
        "squash",
        "--json",
        "--base",
        "--lower",
        layers[0].to_str().unwrap(),
        "--lower",
        layers[1].to_str().unwrap(),
        "-o",
        "t",
    ];
    let answer: serde_json::Value = serde_json::from_str(&world.must(&base).0).unwrap();
    assert_eq!((&answer["whiteouts"], &answer["opaque"]), (&0.into(), &0.into()), "{answer}");
}

#[test]
fn an_output_that_is_in_the_way_is_refused_and_nothing_is_left() {
    let Some(world) = World::new() else { return };
    let before = picture(&world.path("d"), now());
    let (d, a) = (world.path("d"), world.path("a"));
    let refused = squash(&world, &[a.clone(), d.clone()], "d", &[]).unwrap_err();
    assert!(refused.contains("not empty"), "{refused}");
    let refused = squash(&world, &[a.clone(), world.path("nowhere")], "s", &[]).unwrap_err();
    assert!(refused.contains("no such directory"), "{refused}");
    assert!(!world.path("s").exists() && !world.path(".s.squash").exists());
    // What a killed call left is taken away by the next.
    std::fs::create_dir_all(world.path(".s.squash/left")).unwrap();
    std::fs::create_dir(world.path("s")).unwrap();
    squash(&world, &[a, d.clone()], "s", &[]).unwrap();
    assert!(world.path("s/from-a").exists() && !world.path(".s.squash").exists());
    assert_eq!(difference(&before, &picture(&d, now())), "");
}

#[test]
fn an_ordinary_user_squashes_what_he_changed() {
    let Some(world) = World::of_user() else { return };
    let script = "./acetate run --on d --keep one -- sh -c 'cd d; rm f; mv full f2; echo > n; chmod 0 n'
        ./acetate run --lower one --lower d --keep two -- sh -c 'cd one; rm n; echo > sub/n'
        ./acetate squash --lower two --lower one -o merged
        ./acetate diff merged --lower d";
    let output = world.as_user(script);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    for line in ["D f\n", "R full -> f2\n", "A sub/n\n"] {
        assert!(out.contains(line), "{out}{err}");
    }
    assert!(!out.contains("A n\n"), "{out}");
}
