//! Every dialect of uppers, and what no layer can hold.

use crate::layer::names;
use crate::support::backing::Fs;
use crate::world::World;

#[test]
fn marks_of_either_spelling_are_read_and_left_out() {
    for prefix in ["trusted", "user"] {
        let Some(world) = World::new(Fs::Ext4, "") else { return };
        world.build("upper", 0, |l| {
            l.dir("d/opaque").xattr("d/opaque", &format!("{prefix}.overlay.opaque"), "y");
            l.xattr("d", &format!("{prefix}.overlay.impure"), "y");
            l.file("d/f", "x").xattr("d/f", &format!("{prefix}.overlay.origin"), "");
            l.xattr("d/f", &format!("{prefix}.overlay.overlay.opaque"), "y").whiteout("d/gone");
            l.file("d/form-b/w", "").xattr("d/form-b", &format!("{prefix}.overlay.opaque"), "x");
            l.xattr("d/form-b/w", &format!("{prefix}.overlay.whiteout"), "y");
        });
        world.must(&["commit", "upper", "-o", "layer.tar"]);
        let expected = [
            "./",
            "d/",
            "d/.wh.gone",
            "d/f",
            "d/form-b/",
            "d/form-b/.wh.w",
            "d/opaque/",
            "d/opaque/.wh..wh..opq",
        ];
        assert_eq!(names(&world.path("layer.tar")), expected);
        let mut archive = tar::Archive::new(std::fs::File::open(world.path("layer.tar")).unwrap());
        let mut records = Vec::new();
        for entry in archive.entries().unwrap() {
            if let Some(pax) = entry.unwrap().pax_extensions().unwrap() {
                records.extend(pax.map(|record| record.unwrap().key().unwrap().to_string()));
            }
        }
        records.retain(|key| key != "mtime");
        assert_eq!(records, [format!("SCHILY.xattr.{prefix}.overlay.opaque")]);
    }
}

#[test]
fn owners_and_kinds_kept_in_attributes_become_those_of_the_entries() {
    let Some(world) = World::new(Fs::Ext4, "") else { return };
    const NAME: &str = "user.containers.override_stat";
    world.build("upper", 0, |l| {
        l.dir("d").xattr("d", NAME, "5:6:01755:dir");
        l.file("d/f", "x").xattr("d/f", NAME, "1000:100:4711");
        l.file("d/tty", "").xattr("d/tty", NAME, "0:5:620:char-5-0");
        l.file("d/link", "target").xattr("d/link", NAME, "1:1:777:symlink");
    });
    world.must(&["commit", "upper", "-o", "layer.tar"]);
    let mut archive = tar::Archive::new(std::fs::File::open(world.path("layer.tar")).unwrap());
    let all: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let h = entry.header();
            let (uid, gid, mode) = (h.uid().unwrap(), h.gid().unwrap(), h.mode().unwrap());
            let device = h.device_major().unwrap().unwrap_or(0);
            let target = entry.link_name().unwrap().map(|t| t.display().to_string()).unwrap_or_default();
            format!("{} {uid}:{gid} {mode:o} {device} {target}", entry.path().unwrap().display())
        })
        .collect();
    let expected = ["d/ 5:6 1755 0 ", "d/f 1000:100 4711 0 ", "d/link 1:1 777 0 target", "d/tty 0:5 620 5 "];
    assert_eq!(all[1..], expected);
    // One attribute among objects without is somebody's own.
    world.build("upper", 0, |l| {
        l.file("other", "");
    });
    world.must(&["commit", "upper", "-o", "layer.tar"]);
    let mut archive = tar::Archive::new(std::fs::File::open(world.path("layer.tar")).unwrap());
    let owners = archive.entries().unwrap().map(|e| e.unwrap().header().uid().unwrap()).max();
    assert_eq!(owners, Some(0));
}

#[test]
fn names_and_attributes_that_no_layer_can_hold_are_refused_by_name() {
    let Some(world) = World::new(Fs::Ext4, "") else { return };
    world.build("upper", 0, |l| {
        l.file("d/.wh.x", "");
    });
    let refused = world.refused(&["commit", "upper", "-o", "layer.tar"]);
    assert!(refused.contains("upper/d/.wh.x") && refused.contains("--markers"), "{refused}");
    world.must(&["commit", "upper", "--markers", "-o", "layer.tar"]);
    assert_eq!(names(&world.path("layer.tar")), ["./", "d/", "d/.wh.x"]);
    std::fs::remove_file(world.path("layer.tar")).unwrap();
    world.build("upper", 0, |l| {
        l.file("odd", "").xattr("odd", "user.a=b", "");
    });
    let refused = world.refused(&["commit", "upper", "--markers", "-o", "layer.tar"]);
    assert!(refused.contains("user.a=b"), "{refused}");
    assert!(!world.path("layer.tar").exists());
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_read() {
    let Some(world) = World::new(Fs::Ext4, "") else { return };
    for (words, status, says) in [
        (&["commit", "upper"][..], 2, "--output"),
        (&["commit", "upper", "-o", "x"], 2, ".tar.gz"),
        (&["commit", "upper", "-o", "x.tar", "--compress", "gzip"], 2, "another compression"),
        (&["commit", "upper", "-o", "x.tar", "--oci", "l:t"], 2, "--oci"),
        (&["commit", "upper", "--oci", "l"], 2, "LAYOUT:TAG"),
        (&["commit", "nope", "-o", "x.tar"], 1, "no such"),
        (&["commit", "upper", "-o", "upper/x.tar"], 1, "in the upper"),
        (&["commit", "upper", "-o", "none/x.tar"], 1, "none"),
        (&["commit", "upper", "--oci", "none:t"], 1, "oci-layout"),
    ] {
        let output = world.run(words);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{words:?}: {message}");
        assert!(message.contains(says), "{words:?}: {message}");
    }
    let left: Vec<_> = std::fs::read_dir(&world.base).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 4, "{left:?}");
}
