//! `diff` without a mount, in every dialect of marks, and on a live mount.

use crate::world::World;

#[test]
fn markers_of_images_are_read_when_asked_for() {
    let Some(world) = World::new() else { return };
    for (file, text) in
        [("a/.wh.f", ""), ("a/full/.wh..wh..opq", ""), ("a/full/z", "z"), ("u/f", "new"), ("u/full/x", "x")]
    {
        std::fs::create_dir_all(world.path(file).parent().unwrap()).unwrap();
        std::fs::write(world.path(file), text).unwrap();
    }
    let words = ["diff", "u", "--lower", "a", "--lower", "d"];
    let (plain, _) = world.must(&words);
    let (oci, _) = world.must(&[&words[..], &["-o", "whiteout=oci"]].concat());
    // Without it the markers are files, and what they delete is still there.
    assert!(plain.contains("C f (") && plain.contains("C full/x ("), "{plain}");
    assert!(oci.contains("A f\n") && oci.contains("A full/x\n"), "{oci}");
    let list = format!("lowerdir={}:{},whiteout=oci", world.path("a").display(), world.path("d").display());
    assert_eq!(world.must(&["diff", "u", "-o", &list]).0, oci);
    world.must(&["mount", "--lower", "a", "--lower", "d", "--upper", "u", "-o", "whiteout=oci", "m"]);
    assert_eq!(world.must(&["diff", "m"]).0, oci);
    world.must(&["umount", "m"]);
}

#[test]
fn data_only_layers_are_named_after_two_colons() {
    let Some(world) = World::new() else { return };
    std::fs::write(world.path("b/data"), "0123456789").unwrap();
    // A file of the lower whose data is in the data-only layer; the upper has the same with other data.
    for (file, size) in [("a/big", 10)] {
        let made = std::fs::File::create(world.path(file)).unwrap();
        made.set_len(size).unwrap();
        for (name, value) in [("metacopy", ""), ("redirect", "/data")] {
            let attr = format!("trusted.overlay.{name}");
            let mut set = std::process::Command::new("setfattr");
            assert!(set.args(["-n", &attr, "-v", value]).arg(world.path(file)).status().unwrap().success());
        }
    }
    std::fs::write(world.path("u/big"), "0123456789").unwrap();
    let times = std::process::Command::new("touch")
        .arg("-r")
        .arg(world.path("a/big"))
        .arg(world.path("u/big"))
        .status();
    assert!(times.unwrap().success());
    assert_eq!(world.must(&["diff", "u", "--lower", "a", "--lower", "::b"]).0, "");
    std::fs::write(world.path("u/big"), "012345678X").unwrap();
    let (changed, _) = world.must(&["diff", "u", "--lower", "a", "--lower", "::b"]);
    assert!(changed.starts_with("C big (content"), "{changed}");
    let list = format!("lowerdir={}::{}", world.path("a").display(), world.path("b").display());
    assert_eq!(world.must(&["diff", "u", "-o", &list]).0, changed);
}

#[test]
fn marks_for_users_are_recognised_and_the_live_mount_agrees() {
    let Some(world) = World::new() else { return };
    world.must(&["mount", "--lower", "d", "--upper", "u", "-o", "userxattr,index=on", "m"]);
    let script = "cd m; rm -r full; mkdir full; echo >> f; rm link";
    assert!(
        std::process::Command::new("sh")
            .args(["-c", script])
            .current_dir(world.path(""))
            .status()
            .unwrap()
            .success()
    );
    let live = world.must(&["diff", "m"]).0;
    world.must(&["umount", "m"]);
    let still = world.must(&["diff", "u", "--lower", "d", "--work", ".u.work"]).0;
    assert_eq!(live, still);
    assert_eq!(live, "C f (content, mtime)\nD full/x\nD full/y\nD link\nC sub/f-again (content, mtime)\n");
}
