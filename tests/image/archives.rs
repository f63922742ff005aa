//! What images are imported from.

use crate::tarball::{Layer, Layout, Tar, hex};
use crate::world::{World, text};

fn layer(name: &str) -> Layer {
    Layer::gzip(Tar::default().file(name, name.as_bytes()).end())
}

/// Packs a directory as `tar -C DIR -cf FILE .` does.
fn pack(world: &World, dir: &str, file: &str) {
    let status = std::process::Command::new("tar")
        .args(["-C", dir, "-cf", file, "."])
        .current_dir(world.0.path())
        .status()
        .unwrap();
    assert!(status.success());
}

fn known(world: &World) -> Vec<String> {
    let listed = world.json(&["ls"]);
    listed.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_string()).collect()
}

#[test]
fn a_layout_is_imported_whole_or_by_tag_or_by_digest() {
    let world = World::new();
    let layout = Layout::new(&world.path("lay"));
    let images = [layout.image("one", &[layer("1")]), layout.image("two", &[layer("1"), layer("2")])];
    layout.index(&images);
    world.must(&["import", "lay:two"]);
    assert_eq!(known(&world), ["lay:two"]);
    world.must(&["import", "oci:lay:one", "--name", "other:name"]);
    assert_eq!(known(&world), ["lay:two", "other:name"]);
    let digest = images[0]["digest"].as_str().unwrap();
    world.must(&["import", &format!("lay@{digest}")]);
    assert_eq!(known(&world), ["lay:one", "lay:two", "other:name"]);
    let again = world.json(&["import", "lay"]);
    assert_eq!(again[0]["unpacked"], 0);
    assert!(world.refused(&["import", "lay:three"]).contains("lay:one, lay:two"));
    assert!(world.refused(&["import", "lay", "--name", "x"]).contains("several images"));
}

#[test]
fn a_layout_may_be_a_tar_archive() {
    let world = World::new();
    let layout = Layout::new(&world.path("lay"));
    layout.index(&[layout.image("one", &[layer("1")]), layout.image("reg.example/a/b:2", &[layer("2")])]);
    pack(&world, "lay", "packed.tar");
    world.must(&["import", "packed.tar:one"]);
    world.must(&["import", "oci-archive:packed.tar:reg.example/a/b:2"]);
    assert_eq!(known(&world), ["packed:one", "reg.example/a/b:2"]);
}

#[test]
fn an_index_gives_the_image_for_this_machine_or_the_one_that_is_asked_for() {
    let world = World::new();
    let layout = Layout::new(&world.path("lay"));
    let mut entries = Vec::new();
    for arch in ["amd64", "arm64", "riscv64"] {
        let mut image = layout.image("ignored", &[layer(arch)]);
        image["platform"] = serde_json::json!({"os": "linux", "architecture": arch});
        entries.push(image);
    }
    let index = serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": entries})).unwrap();
    layout.index(&[serde_json::json!({
        "mediaType": "application/vnd.oci.image.index.v1+json", "digest": layout.blob(&index), "size": index.len(),
        "annotations": {"org.opencontainers.image.ref.name": "multi"},
    })]);
    let imported = world.json(&["import", "lay:multi", "--platform", "linux/riscv64"]);
    assert_eq!(imported.as_array().unwrap().len(), 1);
    let tree = world.json(&["ls"])[0]["layers"][0].as_str().unwrap().to_string();
    assert_eq!(text(format!("{tree}/riscv64")), "riscv64");
    assert!(world.refused(&["import", "lay:multi", "--platform", "linux/s390x"]).contains("no image"));
}

#[test]
fn archives_of_docker_save_are_imported_also_when_layers_are_links() {
    let world = World::new();
    let layers = [layer("1"), layer("2")];
    let config = Layout::config(&layers);
    let manifest = serde_json::json!([{
        "Config": format!("{}.json", hex(&config)),
        "RepoTags": ["app:1", "app:latest"],
        "Layers": ["aa/layer.tar", "bb/layer.tar"],
    }]);
    let archive = Tar::default()
        .dir("cc/")
        .file("cc/layer.tar", &layers[0].tar)
        .symlink("aa/layer.tar", "../cc/layer.tar")
        .file("bb/layer.tar", &layers[1].blob)
        .file(&format!("{}.json", hex(&config)), &config)
        .file("manifest.json", &serde_json::to_vec(&manifest).unwrap())
        .end();
    std::fs::write(world.path("saved.tar"), &archive).unwrap();
    world.must(&["import", "docker-archive:saved.tar"]);
    assert_eq!(known(&world), ["app:1", "app:latest"]);
    world.must(&["verify"]);
    std::fs::write(world.path("cut.tar"), &archive[..2000]).unwrap();
    assert!(world.refused(&["import", "cut.tar"]).contains("truncated"));
    let bad = Tar::default().symlink("aa/layer.tar", "../../etc/passwd").end();
    std::fs::write(world.path("bad.tar"), bad).unwrap();
    assert!(world.refused(&["import", "bad.tar"]).contains("leads out of the archive"));
}

#[test]
fn what_is_no_image_is_refused_with_a_word_what_would_be_one() {
    let world = World::new();
    std::fs::write(world.path("text"), "no image").unwrap();
    std::fs::create_dir(world.path("dir")).unwrap();
    assert!(world.refused(&["import", "nothing"]).contains("name an OCI layout"));
    assert!(world.refused(&["import", "dir"]).contains("index.json"));
    world.refused(&["import", "text"]);
    assert!(!world.store().exists());
}
