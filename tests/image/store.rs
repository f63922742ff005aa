//! Keeping images: names, gc, verify, several at once.

use std::path::Path;

use crate::tarball::{Layer, Tar, layout};
use crate::world::{World, names, root_or_skip, tree};

fn layer(name: &str) -> Layer {
    Layer::gzip(Tar::default().file(name, &name.as_bytes().repeat(50_000)).end())
}

fn count(path: &Path) -> usize {
    std::fs::read_dir(path).unwrap().count()
}

#[test]
fn gc_removes_what_no_name_needs_and_shares_what_several_need() {
    let world = World::new();
    world.image("a", &[layer("base"), layer("a")]);
    world.image("b", &[layer("base"), layer("b")]);
    assert_eq!(count(&world.path("store/layers")), 3);
    let freed = world.json(&["gc"]);
    assert_eq!(
        (freed["images"].as_array().unwrap().len(), freed["layers"].as_array().unwrap().len()),
        (0, 0)
    );
    world.must(&["rm", "a:t"]);
    assert!(world.refused(&["rm", "a:t"]).contains("there is none"));
    let freed = world.json(&["gc"]);
    assert_eq!(
        (freed["images"].as_array().unwrap().len(), freed["layers"].as_array().unwrap().len()),
        (1, 1)
    );
    assert_eq!(count(&world.path("store/layers")), 2);
    world.must(&["verify"]);
    world.must(&["rm", "b:t"]);
    world.must(&["gc"]);
    for part in ["layers", "images", "names", "staging", "locks"] {
        assert_eq!(count(&world.path("store").join(part)), 0, "{part}");
    }
}

#[test]
fn gc_leaves_what_somebody_holds() {
    let world = World::new();
    let tree = world.layer("held", layer("x"));
    world.must(&["rm", "held:t"]);
    let dir = std::fs::File::open(tree.parent().unwrap()).unwrap();
    let lock = nix::fcntl::Flock::lock(dir, nix::fcntl::FlockArg::LockShared).unwrap();
    let freed = world.json(&["gc"]);
    assert_eq!(freed["in_use"].as_array().unwrap().len(), 1);
    assert!(tree.exists());
    drop(lock);
    world.must(&["gc"]);
    assert!(!tree.exists());
}

#[test]
fn verify_names_everything_that_is_not_as_it_was_unpacked() {
    if !root_or_skip() {
        return;
    }
    let world = World::new();
    let tar = Tar::default()
        .dir("./")
        .file("changed", b"as it was")
        .file("gone", b"")
        .dir("d/")
        .file("mode", b"")
        .symlink("link", "a")
        .file("one", b"")
        .hardlink("two", "one")
        .file(".wh.w", b"")
        .end();
    let tree = world.layer("v", Layer::plain(tar));
    world.must(&["verify"]);
    let times = |path: &Path| {
        let status =
            std::process::Command::new("touch").args(["-hd", "@1600000000"]).arg(path).status().unwrap();
        assert!(status.success());
    };
    std::fs::write(tree.join("changed"), "as it isn").unwrap();
    times(&tree.join("changed"));
    std::fs::remove_file(tree.join("gone")).unwrap();
    std::fs::write(tree.join("d/more"), "").unwrap();
    times(&tree.join("d"));
    std::fs::set_permissions(tree.join("mode"), std::os::unix::fs::PermissionsExt::from_mode(0o4755))
        .unwrap();
    std::fs::remove_file(tree.join("two")).unwrap();
    std::fs::write(tree.join("two"), "").unwrap();
    std::fs::remove_file(tree.join("w")).unwrap();
    std::fs::write(tree.join("w"), "").unwrap();
    times(&tree);
    let output = world.run(&["verify", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let verified: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut found: Vec<String> = verified["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| format!("{} {}", p["path"].as_str().unwrap(), p["what"].as_str().unwrap()))
        .collect();
    found.sort();
    let expected = [
        "/changed changed: contents",
        "/d/more it was not unpacked",
        "/gone it is missing",
        "/mode changed: mode",
        "/two it is no other name of what it was linked to",
        "/w it is no whiteout any more",
    ];
    assert_eq!(found, expected);
}

#[test]
fn imports_of_the_same_image_at_once_unpack_it_once() {
    let world = World::new();
    let layers: Vec<Layer> = (0..4).map(|n| layer(&format!("layer{n}"))).collect();
    layout(&world.path("lay"), "t", &layers);
    let children: Vec<_> = (0..4)
        .map(|_| {
            let mut command = world.command(&["import", "lay", "--json"]);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut unpacked = 0;
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let imported: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        unpacked += imported[0]["unpacked"].as_u64().unwrap();
    }
    assert_eq!(unpacked, 4);
    world.must(&["verify"]);
    assert_eq!(count(&world.path("store/staging")) + count(&world.path("store/locks")), 0);
}

#[test]
fn imports_and_gc_at_once_leave_every_named_image_whole() {
    let world = World::new();
    for n in 0..3 {
        layout(&world.path(&format!("lay{n}")), "t", &[layer("base"), layer(&format!("own{n}"))]);
    }
    std::thread::scope(|scope| {
        for n in 0..3 {
            let world = &world;
            scope.spawn(move || {
                for _ in 0..4 {
                    world.must(&["import", &format!("lay{n}")]);
                    world.must(&["verify", &format!("lay{n}:t")]);
                    world.must(&["rm", &format!("lay{n}:t")]);
                }
                world.must(&["import", &format!("lay{n}")]);
            });
        }
        scope.spawn(|| {
            for _ in 0..20 {
                world.must(&["gc"]);
            }
        });
    });
    world.must(&["verify"]);
    assert_eq!(count(&world.path("store/names")), 3);
}

#[test]
fn an_import_is_the_same_whether_layers_are_unpacked_alone_or_at_once() {
    let world = World::new();
    let layers: Vec<Layer> = (0..6).map(|n| layer(&format!("layer{n}"))).collect();
    let at_once = world.image("at-once", &layers);
    let other = World::new();
    for (n, alone) in layers.iter().enumerate() {
        let path = other.layer(&format!("alone{n}"), alone.clone());
        assert_eq!(tree(&path), tree(&at_once[5 - n]));
    }
}

#[test]
fn a_directory_with_something_else_in_it_does_not_become_a_store() {
    let world = World::new();
    layout(&world.path("lay"), "t", &[layer("x")]);
    std::fs::create_dir(world.store()).unwrap();
    std::fs::write(world.path("store/mine"), "").unwrap();
    assert!(world.refused(&["import", "lay"]).contains("something else"));
    assert_eq!(names(&world.store()).len(), 2);
}

#[test]
fn every_layer_has_its_index_and_verify_names_a_wrong_one() {
    let world = World::new();
    let tree = world.layer("lay", Layer::plain(Tar::default().file("d/f", b"x").dir("d/e").end()));
    let place = tree.parent().unwrap();
    let index = place.join(".tree.index");
    let whole = std::fs::read(&index).unwrap();
    world.must(&["verify"]);
    let broken = |what: &str| {
        let output = world.run(&["verify", "--json"]);
        assert_eq!(output.status.code(), Some(1), "{what}");
        let verified: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let told = verified["problems"][0]["what"].as_str().unwrap().to_string();
        assert!(told.contains("index"), "{what}: {told}");
    };
    std::fs::write(&index, &whole[..whole.len() - 1]).unwrap();
    broken("cut off");
    // One of another layer, which is whole.
    let other = world.layer("other", Layer::plain(Tar::default().file("d/g", b"x").end()));
    std::fs::copy(other.with_file_name(".tree.index"), &index).unwrap();
    broken("another layer's");
    // None is no fault, only slower; nor is one that nobody would believe.
    std::fs::remove_file(&index).unwrap();
    world.must(&["verify"]);
    std::fs::write(&index, "anything").unwrap();
    std::fs::write(place.join("indexed"), "1 2.3\n").unwrap();
    world.must(&["verify"]);
}
