//! Killed at any moment, an import or a gc leaves a store in which everything that has a name is whole.
//!
//! A few rounds by default; `ACETATE_IMAGE_KILLS=200` for many.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::tarball::{Layer, Tar, layout};
use crate::world::World;

#[allow(dead_code)]
#[path = "../support/rng.rs"]
mod rng;

/// A layer of many small files and a large one.
fn layer(n: usize) -> Layer {
    let mut tar = Tar::default();
    for file in 0..150 {
        tar = tar.file(&format!("d{}/{n}-{file}", file % 7), &vec![file as u8; file * 37]);
    }
    Layer::gzip(
        tar.file("large", &(0..600_000u32).flat_map(|i| (i * n as u32).to_le_bytes()).collect::<Vec<u8>>())
            .end(),
    )
}

#[test]
fn a_store_is_never_broken_by_kill() {
    let rounds = std::env::var("ACETATE_IMAGE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    let seed = std::env::var("ACETATE_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(42);
    println!("seed {seed}, {rounds} rounds");
    let mut rng = rng::Rng::new(seed);
    let world = World::new();
    let layers: Vec<Layer> = (1..5).map(layer).collect();
    layout(&world.path("lay"), "t", &layers);
    layout(&world.path("other"), "t", &layers[1..3]);
    // How long it takes here, to kill within that.
    let begun = Instant::now();
    world.must(&["import", "other"]);
    world.must(&["import", "lay"]);
    let whole = begun.elapsed();
    for round in 0..rounds {
        let words: &[&str] = if rng.chance(30) {
            world.run(&["rm", "lay:t"]);
            &["gc"]
        } else {
            world.run(&["rm", "lay:t"]);
            world.must(&["gc"]);
            &["import", "lay"]
        };
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_acetate"));
        command.arg("image").args(words).arg("--store").arg(world.store());
        command.current_dir(world.0.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let limit = whole.as_micros() as usize;
        std::thread::sleep(Duration::from_micros(rng.below(limit.max(1)) as u64));
        child.kill().unwrap();
        child.wait().unwrap();
        // Absent or complete, and everything with a name is whole.
        let verified = world.run(&["verify", "--json"]);
        assert!(verified.status.success(), "round {round}: {}", String::from_utf8_lossy(&verified.stdout));
        let listed = world.json(&["ls"]);
        let is_named = |name: &str| listed.as_array().unwrap().iter().any(|row| row["name"] == name);
        assert!(is_named("other:t"), "round {round}");
        // And it can be done again.
        world.must(&["import", "lay"]);
        world.must(&["verify"]);
        for part in ["staging", "locks"] {
            let left = std::fs::read_dir(world.store().join(part)).unwrap().count();
            assert_eq!(left, 0, "round {round}: {part}");
        }
    }
}
