//! An image of a layout grows by a layer, and is never broken on the way.

use std::process::{Command, Stdio};

use crate::support::backing::Fs;
use crate::support::rng::Rng;
use crate::world::{World, has};

fn inspect(world: &World, image: &str) -> serde_json::Value {
    let output = Command::new("skopeo")
        .args(["inspect", "--config", &format!("oci:{image}")])
        .current_dir(&world.base)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn history_and_configuration_are_kept_and_added_to() {
    if !has("umoci") || !has("skopeo") {
        return;
    }
    let Some(world) = World::new(Fs::Ext4, "") else { return };
    let umoci = |words: &[&str]| {
        let output = Command::new("umoci").args(words).current_dir(&world.base).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    umoci(&["init", "--layout", "images"]);
    umoci(&["new", "--image", "images:t"]);
    umoci(&["config", "--image", "images:t", "--config.entrypoint", "/bin/x", "--config.env", "A=b"]);
    world.build("upper", 0, |l| {
        l.file("bin/x", "x");
    });
    let note = ["--message", "why", "--author", "me", "--compress", "gzip"];
    world.must(&[&["commit", "upper", "--oci", "images:t"][..], &note].concat());
    let config = inspect(&world, "images:t");
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/bin/x"]));
    assert_eq!(config["config"]["Env"], serde_json::json!(["A=b"]));
    assert_eq!(config["author"], "me");
    let history = config["history"].as_array().unwrap();
    assert_eq!(history[history.len() - 1]["comment"], "why");
    assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 1);
    umoci(&["stat", "--image", "images:t"]);
    assert!(world.unpacked("images:t").contains_key("\"bin/x\""));
}

#[test]
fn the_date_is_the_newest_time_or_the_one_that_was_given() {
    let Some(world) = World::new(Fs::Ext4, "") else { return };
    world.build("upper", 0, |l| {
        l.file("f", "x").times("f", (0, 0), (1_700_000_000, 5));
    });
    let commit = |epoch: Option<&str>, tag: &str| {
        let mut command = Command::new(crate::support::mounts::binary());
        command.args(["commit", "upper", "--oci", &format!("images:{tag}"), "--base", "scratch", "--json"]);
        match epoch {
            Some(epoch) => command.env("SOURCE_DATE_EPOCH", epoch),
            None => command.env_remove("SOURCE_DATE_EPOCH"),
        };
        let output = command.current_dir(&world.base).stdin(Stdio::null()).output().unwrap();
        (
            output.status.code(),
            serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap_or_default(),
        )
    };
    let (_, one) = commit(None, "one");
    let (_, again) = commit(None, "again");
    assert_eq!(one["manifest"], again["manifest"]);
    assert_eq!(one["newest"], 1_700_000_000);
    let (_, given) = commit(Some("5"), "given");
    assert_ne!(one["manifest"], given["manifest"]);
    assert_eq!(commit(Some("soon"), "bad").0, Some(1));
    if has("skopeo") {
        assert_eq!(inspect(&world, "images:one")["created"], "2023-11-14T22:13:20Z");
        assert_eq!(inspect(&world, "images:given")["created"], "1970-01-01T00:00:05Z");
    }
}

#[test]
fn killed_at_any_moment_the_layout_is_the_old_or_the_new_one() {
    if !has("skopeo") {
        return;
    }
    let Some(world) = World::new(Fs::Ext4, "") else { return };
    let rng = &mut Rng::new(3);
    crate::world::shuffle(&world.path("upper"), rng, 200);
    world.must(&["commit", "upper", "--oci", "images:t", "--base", "scratch"]);
    let mut layers = 1;
    for round in 0..40u64 {
        let mut child = Command::new(crate::support::mounts::binary())
            .args(["commit", "upper", "--oci", "images:t", "--message", &round.to_string()])
            .current_dir(&world.base)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_micros(rng.below(40_000) as u64));
        child.kill().unwrap();
        child.wait().unwrap();
        let now = inspect(&world, "images:t")["rootfs"]["diff_ids"].as_array().unwrap().len();
        assert!(now == layers || now == layers + 1, "{now} after {layers}");
        layers = now;
        for entry in std::fs::read_dir(world.path("images/blobs/sha256")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert_eq!(name.len(), 64, "{name}");
        }
    }
    world.must(&["commit", "upper", "--oci", "images:t"]);
    assert_eq!(inspect(&world, "images:t")["rootfs"]["diff_ids"].as_array().unwrap().len(), layers + 1);
}

#[test]
fn commits_at_the_same_time_lose_no_tag() {
    let Some(world) = World::new(Fs::Ext4, "") else { return };
    world.build("upper", 0, |l| {
        l.file("f", "x");
    });
    world.must(&["commit", "upper", "--oci", "images:t0", "--base", "scratch"]);
    let children: Vec<_> = (1..9)
        .map(|n| {
            Command::new(crate::support::mounts::binary())
                .args(["commit", "upper", "--oci", &format!("images:t{n}"), "--base", "t0"])
                .current_dir(&world.base)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(world.path("images/index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 9);
}
