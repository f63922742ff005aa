//! A layer holds what the upper changed, and unpacks to what the mount showed.

use std::path::Path;

use crate::support::backing::Fs;
use crate::support::rng::Rng;
use crate::world::{World, assert_same, has, shuffle};

const OPTIONS: [&str; 4] =
    ["redirect_dir=off", "redirect_dir=on", "redirect_dir=on,metacopy=on", "redirect_dir=on,index=on"];

#[test]
fn random_trees_unpack_by_umoci_to_what_the_kernel_shows() {
    if !has("umoci") {
        return;
    }
    for seed in 0..24u64 {
        let rng = &mut Rng::new(seed);
        let options = OPTIONS[seed as usize % OPTIONS.len()];
        let fs = if seed % 3 == 0 { Fs::Btrfs } else { Fs::Ext4 };
        let Some(world) = World::new(fs, options) else { return };
        shuffle(&world.path("lower"), rng, 80);
        shuffle(&world.path("middle"), rng, 20);
        world.change(|root| shuffle(root, rng, 60));
        let truth = world.truth();
        let before = world.fingerprint();
        world.image();
        assert_eq!(before.changes(), [""; 0], "seed {seed}");
        assert_same(&format!("seed {seed}, {options}"), &truth, &world.unpacked("images:all"));
    }
}

#[test]
fn a_renamed_lower_directory_is_written_whole_and_deleted_under_its_old_name() {
    let Some(world) = World::new(Fs::Ext4, "redirect_dir=on") else { return };
    world.build("lower", 0, |l| {
        l.file("old/sub/deep", "x")
            .file("old/gone", "y")
            .file("new/hidden", "z")
            .link("old/sub/deep", "old/twin");
    });
    world.build("middle", 1, |l| {
        l.file("old/sub/more", "m");
    });
    world.change(|root| {
        std::fs::remove_dir_all(root.join("new")).unwrap();
        std::fs::rename(root.join("old"), root.join("new")).unwrap();
        std::fs::remove_file(root.join("new/gone")).unwrap();
        std::fs::rename(root.join("new/sub"), root.join("new/moved")).unwrap();
    });
    world.must(&["commit", "upper", "--lower", "middle", "--lower", "lower", "-o", "layer.tar"]);
    let expected = [
        "./",
        ".wh.old",
        "new/",
        "new/.wh..wh..opq",
        "new/moved/",
        "new/moved/deep",
        "new/moved/more",
        "new/twin",
    ];
    assert_eq!(names(&world.path("layer.tar")), expected);
    let refused = world.refused(&["commit", "upper", "-o", "other.tar"]);
    assert!(refused.contains("upper/new") && refused.contains("--lower"), "{refused}");
    assert!(!world.path("other.tar").exists());
}

#[test]
fn the_same_tree_gives_the_same_bytes_wherever_it_lies() {
    let Some(world) = World::new(Fs::Ext4, "redirect_dir=on") else { return };
    let rng = &mut Rng::new(7);
    shuffle(&world.path("lower"), rng, 80);
    world.change(|root| shuffle(root, rng, 80));
    let copied =
        std::process::Command::new("cp").args(["-a", "upper", "copy"]).current_dir(&world.base).status();
    assert!(copied.unwrap().success());
    for end in ["tar", "tar.gz", "tar.zst"] {
        let one = format!("one.{end}");
        let two = format!("two.{end}");
        for (upper, name) in [("upper", &one), ("copy", &two)] {
            world.must(&["commit", upper, "--lower", "middle", "--lower", "lower", "-o", name]);
        }
        let read = |name: &str| std::fs::read(world.path(name)).unwrap();
        assert!(read(&one) == read(&two), "{end}");
    }
}

#[test]
fn an_archive_of_an_upper_reads_with_tar() {
    let Some(world) = World::new(Fs::Ext4, "") else { return };
    world.build("upper", 0, |l| {
        l.sparse("sparse", 1 << 30, &[(5 << 20, b"data"), ((1 << 30) - 5, b"tail")]);
        l.file("f", "x").link("f", "g").xattr("f", "user.a", "b").times("f", (0, 0), (-1, 999_999_999));
        l.dir("d").chown("d", 3_000_000, 4_000_000).chmod("d", 0o1777);
        l.symlink("s", "t".repeat(200)).file("n".repeat(255), "long");
    });
    world.must(&["commit", "upper", "-o", "layer.tar"]);
    assert!(std::fs::metadata(world.path("layer.tar")).unwrap().len() < 64 << 10);
    std::fs::create_dir(world.path("out")).unwrap();
    let status = std::process::Command::new("tar")
        .args(["-x", "-p", "--xattrs", "--xattrs-include=*", "-f", "layer.tar", "-C", "out"])
        .current_dir(&world.base)
        .status()
        .unwrap();
    assert!(status.success());
    let (upper, out) = (crate::world::lines(&world.path("upper")), crate::world::lines(&world.path("out")));
    assert_same("tar", &upper, &out);
    use std::os::unix::fs::MetadataExt;
    assert!(world.path("out/sparse").metadata().unwrap().blocks() < 1000);
}

/// The names in an archive, in their order.
pub fn names(archive: &Path) -> Vec<String> {
    let mut archive = tar::Archive::new(std::fs::File::open(archive).unwrap());
    let entries = archive.entries().unwrap();
    entries.map(|entry| String::from_utf8(entry.unwrap().path_bytes().into_owned()).unwrap()).collect()
}
