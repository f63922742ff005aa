//! Every archive that is hostile or damaged is refused with a sentence and leaves nothing behind.

use crate::tarball::{Header, Layer, Layout, Tar, gzip, layout, zstd};
use crate::world::{World, names, root_or_skip};

/// A world with a good image in its store, and a place outside that must stay as it is.
fn world() -> World {
    let world = World::new();
    std::fs::create_dir(world.path("outside")).unwrap();
    std::fs::write(world.path("outside/file"), "untouched").unwrap();
    world.layer("good", Layer::gzip(Tar::default().file("f", b"good").end()));
    world
}

/// Tries to import what `write` makes; `words` must be in the sentence.
fn refuse(world: &World, name: &str, words: &str, write: impl FnOnce(&Layout)) {
    let dir = world.path(&format!("hostile-{name}"));
    write(&Layout::new(&dir));
    let before = (names(&world.store()), names(&world.path("outside")));
    let sentence = world.refused(&["import", dir.to_str().unwrap()]);
    assert!(sentence.contains(words), "{name}: '{words}' is not in: {sentence}");
    // Directories in which something was made and removed again have another time.
    let still = |lines: Vec<String>| -> Vec<String> {
        lines
            .into_iter()
            .filter(|line| !line.starts_with("staging d") && !line.starts_with("locks d"))
            .collect()
    };
    assert_eq!(still(names(&world.store())), still(before.0), "{name}: the store changed");
    assert_eq!(names(&world.path("outside")), before.1, "{name}: something outside changed");
}

fn refuse_layer(world: &World, name: &str, words: &str, layer: Layer) {
    refuse(world, name, words, |layout| {
        let image = layout.image("t", &[layer]);
        layout.index(&[image]);
    });
}

#[test]
fn names_that_lead_out_of_the_layer_are_refused() {
    let world = world();
    let outside = world.path("outside").to_str().unwrap().to_string();
    let short = |name: &'static str| Tar::default().file(name, b"x").end();
    for (name, words, tar) in [
        ("dotdot", "leads out of the layer", short("../evil")),
        ("inner", "leads out of the layer", short("a/../../evil")),
        ("last", "leads out of the layer", short("a/..")),
        (
            "absolute",
            "its name is absolute",
            Tar::default().pax(&[("path", format!("{outside}/evil").as_bytes())]).file("x", b"").end(),
        ),
        ("absolute-dir", "its name is absolute", Tar::default().dir("/etc/").end()),
        ("dir", "leads out of the layer", Tar::default().dir("../").end()),
        ("empty", "it has no name", short("")),
        ("nul", "contains a NUL", Tar::default().pax(&[("path", b"a\0b")]).file("x", b"").end()),
        ("nul-link", "contains a NUL", Tar::default().pax(&[("linkpath", b"a\0b")]).symlink("x", "y").end()),
        ("long", "longer than 255 bytes", Tar::default().pax(&[("path", &[b'n'; 256])]).file("x", b"").end()),
        ("endless", "longer than any path", Tar::default().long_name(&[b'n'; 20_000]).file("x", b"").end()),
        (
            "root-file",
            "the layer itself is no directory",
            short("./")
                .iter()
                .enumerate()
                .map(|(at, b)| if at == 156 { b'0' } else { *b })
                .collect::<Vec<u8>>(),
        ),
    ] {
        let tar = if name == "root-file" { Tar::default().symlink("./", "outside").end() } else { tar };
        refuse_layer(&world, name, words, Layer::plain(tar));
    }
}

#[test]
fn nothing_is_written_through_links() {
    let world = world();
    let outside = world.path("outside").to_str().unwrap().to_string();
    let link = |name: &str| Tar::default().pax(&[("linkpath", outside.as_bytes())]).symlink(name, "x");
    for (name, words, tar) in [
        ("through", "leads through a symbolic link", link("l").file("l/evil", b"x").end()),
        ("deep", "leads through a symbolic link", link("a/l").file("a/l/b/evil", b"x").end()),
        ("dir-over", "a symbolic link of that name", link("l").dir("l/").end()),
        ("mark", "leads through a symbolic link", link("l").file("l/.wh.file", b"").end()),
        ("opaque", "leads through a symbolic link", link("l").file("l/.wh..wh..opq", b"").end()),
        ("hard-through", "leads through a symbolic link", link("l").hardlink("h", "l/file").end()),
        ("hard-out", "is not within the layer", Tar::default().hardlink("h", "../../outside/file").end()),
        ("hard-absolute", "is not within the layer", Tar::default().hardlink("h", "/etc/passwd").end()),
        ("hard-missing", "is not in this layer", Tar::default().hardlink("h", "nowhere").end()),
        ("hard-dir", "is a directory", Tar::default().dir("d").hardlink("h", "d").end()),
        ("hard-self", "is itself", Tar::default().file("f", b"").hardlink("f", "f").end()),
        ("hard-whiteout", "is not in this layer", Tar::default().file(".wh.f", b"").hardlink("h", "f").end()),
        ("no-target", "a link without a target", Tar::default().symlink("l", "").end()),
        ("below-file", "no directory", Tar::default().file("f", b"").file("f/g", b"").end()),
        ("file-over-dir", "a directory of that name", Tar::default().file("d/f", b"").file("d", b"").end()),
        ("dir-over-file", "no directory", Tar::default().file("d", b"").dir("d").end()),
    ] {
        refuse_layer(&world, name, words, Layer::gzip(tar));
    }
}

#[test]
fn marks_that_delete_nothing_or_are_forged_are_refused() {
    let world = world();
    for (name, words, tar) in [
        ("wh-dot", "deletes no name", Tar::default().file(".wh..", b"").end()),
        ("wh-dotdot", "deletes no name", Tar::default().file("a/.wh...", b"").end()),
        ("wh-empty", "deletes no name", Tar::default().file(".wh.", b"").end()),
        ("wh-dir", "is a mark and no directory", Tar::default().file(".wh.a/b", b"").end()),
        ("device", "the mark of a deletion", Tar::default().device("x", b'3', 0, 0).end()),
    ] {
        refuse_layer(&world, name, words, Layer::plain(tar));
    }
}

#[test]
fn numbers_that_nothing_can_have_are_refused() {
    let world = world();
    let sized = |size: u64| Header::new(b"f", b'0', size);
    let mut negative = sized(0);
    negative.put(124, &[0xff; 12]);
    let mut no_number = sized(0);
    no_number.put(124, b"12x45678901\0");
    let mut big_id = sized(0);
    big_id.put(108, &[0x80, 0, 0, 1, 0, 0, 0, 0]);
    let huge = sized(0o77_777_777_777);
    let mut sparse = Header::new(b"f", b'S', 0);
    sparse.put(257, b"ustar  \0").put(483, &[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    let mut crossed = Header::new(b"f", b'S', 1024);
    crossed
        .put(257, b"ustar  \0")
        .octal(386, 12, 512)
        .octal(398, 12, 512)
        .octal(410, 12, 0)
        .octal(422, 12, 512);
    crossed.octal(483, 12, 2048);
    let plain = Tar::default();
    for (name, words, tar) in [
        ("negative", "negative", plain.clone().entry(&negative, b"").end()),
        ("pax-negative", "negative", plain.clone().pax(&[("size", b"-5")]).file("f", b"").end()),
        (
            "pax-huge",
            "larger than any file",
            plain.clone().pax(&[("size", b"18446744073709551615")]).file("f", b"").end(),
        ),
        ("no-number", "no number", plain.clone().entry(&no_number, b"").end()),
        ("huge", "more than the", plain.clone().entry(&huge, b"").end()),
        ("sparse", "more than the", plain.clone().entry(&sparse, b"").end()),
        ("crossed", "map of holes", plain.clone().entry(&crossed, &[0; 1024]).end()),
        ("owner", "owner", plain.clone().entry(&big_id, b"").end()),
        ("owner-none", "owner", plain.clone().pax(&[("uid", b"4294967295")]).file("f", b"").end()),
        (
            "pax-damaged",
            "damaged",
            plain.clone().entry(&Header::new(b"p", b'x', 7), b"99 a=b\n").file("f", b"").end(),
        ),
        (
            "pax-endless",
            "larger than any has to be",
            plain.clone().entry(&Header::new(b"p", b'x', 1 << 40), b"").end(),
        ),
        ("time", "no time", plain.clone().pax(&[("mtime", b"yesterday")]).file("f", b"").end()),
        ("type", "unknown type 'Z'", plain.clone().entry(&Header::new(b"f", b'Z', 0), b"").end()),
    ] {
        refuse_layer(&world, name, words, Layer::plain(tar));
    }
}

#[test]
fn streams_that_are_truncated_damaged_or_bombs_are_refused() {
    let world = world();
    let tar = Tar::default().file("f", &[1; 5000]).end();
    let cut = |blob: Vec<u8>, by: usize| blob[..blob.len() - by].to_vec();
    let mut wrong_sum = tar.clone();
    wrong_sum[3] ^= 1;
    let mut flipped = gzip(&tar);
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x55;
    let mut noise = tar[..512].to_vec();
    noise[..].fill(0);
    noise.extend_from_slice(&[9; 1024]);
    let layers = [
        ("cut-gzip", "truncated", Layer { blob: cut(gzip(&tar), 12), tar: tar.clone() }),
        ("cut-zstd", "truncated", Layer { blob: cut(zstd(&tar), 5), tar: tar.clone() }),
        ("cut-tar", "truncated", Layer::plain(tar[..3000].to_vec())),
        ("cut-header", "truncated", Layer::plain(tar[..300].to_vec())),
        ("cut-pax", "truncated", Layer::plain(Tar::default().pax(&[("path", b"x")]).bytes())),
        ("checksum", "wrong checksum", Layer::plain(wrong_sum)),
        ("noise", "block of zeros", Layer::plain(noise)),
        ("no-archive", "no tar archive", Layer::plain(vec![b'x'; 2000])),
        ("empty", "it is empty", Layer::plain(Vec::new())),
        ("damaged", "damaged", Layer { blob: flipped, tar: tar.clone() }),
        (
            "garbage",
            "fetch it again",
            Layer { blob: [gzip(&tar), b"garbage".to_vec()].concat(), tar: tar.clone() },
        ),
    ];
    for (name, words, layer) in layers {
        refuse_layer(&world, name, words, layer);
    }
}

#[test]
fn a_bomb_is_refused_and_allowed_when_it_is_meant() {
    let world = world();
    // 40 MiB of zeros from 40 KiB: harmless by itself, more than is allowed here.
    let tar = Tar::default().file("zeros", &vec![0; 40 << 20]).end();
    layout(&world.path("bomb"), "t", &[Layer::gzip(tar.clone())]);
    let before = names(&world.path("store/layers"));
    let sentence = world.refused(&["import", "bomb", "--max-size", "10M"]);
    assert!(sentence.contains("--max-size"), "{sentence}");
    assert_eq!(names(&world.path("store/layers")), before);
    // What follows the end of the archive counts as well.
    let tail = [Tar::default().file("f", b"").end(), vec![0; 20 << 20]].concat();
    layout(&world.path("tail"), "t", &[Layer::gzip(tail)]);
    let sentence = world.refused(&["import", "tail", "--max-size", "10M"]);
    assert!(sentence.contains("--max-size"), "{sentence}");
    world.must(&["import", "bomb", "--max-size", "50M"]);
}

#[test]
fn wrong_digests_and_sizes_are_refused() {
    let world = world();
    let tar = Tar::default().file("f", b"x").end();
    let layer = Layer::gzip(tar.clone());
    let hex = crate::tarball::hex(&layer.blob);
    let other = gzip(&Tar::default().file("f", b"y").end());
    refuse(&world, "blob", "should have the digest", |layout| {
        let image = layout.image("t", std::slice::from_ref(&layer));
        layout.index(&[image]);
        // As long, and not the same.
        let mut blob = layer.blob.clone();
        blob[4] ^= 1;
        std::fs::write(layout.dir.join("blobs/sha256").join(&hex), blob).unwrap();
    });
    refuse(&world, "size", "are announced", |layout| {
        let image = layout.image("t", std::slice::from_ref(&layer));
        layout.index(&[image]);
        std::fs::write(layout.dir.join("blobs/sha256").join(&hex), [other.clone(), vec![0; 9]].concat())
            .unwrap();
    });
    refuse_layer(
        &world,
        "diff-id",
        "uncompressed",
        Layer { blob: layer.blob.clone(), tar: b"another".to_vec() },
    );
    refuse(&world, "manifest", "has the digest", |layout| {
        let image = layout.image("t", std::slice::from_ref(&layer));
        let digest = image["digest"].as_str().unwrap().trim_start_matches("sha256:").to_string();
        layout.index(&[image]);
        let path = layout.dir.join("blobs/sha256").join(digest);
        let text =
            std::fs::read_to_string(&path).unwrap().replace("\"schemaVersion\":2", "\"schemaVersion\":3");
        std::fs::write(path, text).unwrap();
    });
    refuse(&world, "negative-size", "index.json", |layout| {
        let mut image = layout.image("t", std::slice::from_ref(&layer));
        image["size"] = serde_json::json!(-1);
        layout.index(&[image]);
    });
    refuse(&world, "path-digest", "digits", |layout| {
        let mut image = layout.image("t", std::slice::from_ref(&layer));
        image["digest"] = serde_json::json!("sha256:../../../outside/file");
        layout.index(&[image]);
    });
    refuse(&world, "count", "layers and its configuration", |layout| {
        let image = layout.image("t", std::slice::from_ref(&layer));
        let digest = image["digest"].as_str().unwrap().trim_start_matches("sha256:").to_string();
        let path = layout.dir.join("blobs/sha256").join(digest);
        let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        manifest["layers"] = serde_json::json!([]);
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let mut image = image;
        image["digest"] = serde_json::json!(layout.blob(&bytes));
        image["size"] = serde_json::json!(bytes.len());
        layout.index(&[image]);
    });
}

#[test]
fn one_bad_layer_keeps_the_whole_image_out() {
    let world = world();
    let good = |n: usize| Layer::gzip(Tar::default().file(&format!("f{n}"), &vec![n as u8; 100_000]).end());
    let bad = Layer::gzip(Tar::default().file("ok", b"").file("../evil", b"").end());
    refuse(&world, "one-bad", "leads out of the layer", |layout| {
        let image = layout.image("t", &[good(1), bad, good(2), good(3)]);
        layout.index(&[image]);
    });
    refuse(&world, "second-image", "leads out of the layer", |layout| {
        let bad = Layer::plain(Tar::default().file("../evil", b"").end());
        let images = [layout.image("a", &[good(4)]), layout.image("b", &[bad])];
        layout.index(&images);
    });
}

#[test]
fn an_ordinary_user_gets_files_in_place_of_device_nodes() {
    if !root_or_skip() {
        return;
    }
    use std::os::unix::fs::{PermissionsExt, chown};
    let world = World::new();
    std::fs::set_permissions(world.0.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let program = world.path("acetate");
    std::fs::copy(env!("CARGO_BIN_EXE_acetate"), &program).unwrap();
    let tar =
        Tar::default().device("null", b'3', 1, 3).device("disk", b'4', 8, 0).file("gone/.wh.x", b"").end();
    layout(&world.path("devices"), "t", &[Layer::plain(tar)]);
    std::fs::create_dir(world.path("mine")).unwrap();
    chown(world.path("mine"), Some(65534), Some(65534)).unwrap();
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&program);
    command.args(["image", "import", "devices", "--store", "mine/store"]).current_dir(world.0.path());
    let Ok(output) = command.output() else {
        println!("skipped: needs setpriv");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let layers: Vec<_> = std::fs::read_dir(world.path("mine/store/layers")).unwrap().collect();
    let tree = layers[0].as_ref().unwrap().path().join("tree");
    for (name, stat) in [("null", "0:0:0644:char-1-3"), ("disk", "0:0:0644:block-8-0")] {
        assert!(tree.join(name).symlink_metadata().unwrap().is_file(), "{name}");
        assert_eq!(
            crate::world::xattrs(&tree.join(name)),
            format!("user.containers.override_stat=\"{stat}\"")
        );
    }
}
