//! Deletion, and creation over what was deleted (section 3).

use super::prelude::*;

/// D-1
#[test]
fn unlink_leaves_a_whiteout_only_where_something_would_show_through() {
    scenario()
        .lower(|l| drop(l.file("f", "").file("d/g", "").file("copied", "").symlink("s", "x").fifo("p")))
        .run(|o| {
            o.unlink("f").ok();
            o.in_upper("f").lines("whiteout");
            o.append("copied", "x").ok();
            o.unlink("copied").ok();
            o.in_upper("copied").lines("whiteout");
            o.put("new", "").ok();
            o.unlink("new").ok();
            o.in_upper("new").fails(ENOENT);
            o.put("d/new", "").ok();
            o.unlink("d/new").ok();
            o.in_upper("d/new").fails(ENOENT);
            o.unlink("s").ok();
            o.unlink("p").ok();
        });
}

/// D-1
#[test]
fn nothing_below_an_opaque_directory_needs_a_whiteout() {
    scenario().lower(|l| drop(l.file("d/a", "").file("d/sub/b", ""))).run(|o| {
        o.unlink("d/a").ok();
        o.unlink("d/sub/b").ok();
        o.rmdir("d/sub").ok();
        o.rmdir("d").ok();
        o.mkdir("d").ok();
        o.put("d/a", "").ok();
        o.mkdir("d/sub").ok();
        o.unlink("d/a").ok();
        o.rmdir("d/sub").ok();
        o.in_upper("d/a").fails(ENOENT);
        o.in_upper("d/sub").fails(ENOENT);
    });
}

/// D-1, failure 10 of the peers
#[test]
fn unlink_of_a_lower_file_copies_nothing() {
    scenario().lower(|l| drop(l.sparse("big", 1 << 33, &[(0, b"x")]))).run(|o| {
        o.unlink("big").ok();
        o.in_upper("big").lines("whiteout");
    });
}

/// D-2, failure 2 of the peers
#[test]
fn deleted_names_stay_deleted_through_every_way_of_coming_back() {
    scenario()
        .lower(|l| ["a", "b", "c", "x.bak", "d/in"].iter().for_each(|name| drop(l.file(name, "lower"))))
        .run(|o| {
            o.unlink("a").ok();
            o.put("a", "1").ok();
            o.unlink("a").ok();
            o.unlink("b").ok();
            o.put("b", "1").ok();
            o.rename("b", "b2").ok();
            o.put("tmp", "new").ok();
            o.rename("tmp", "c").ok();
            o.rename("c", "c.bak").ok();
            o.unlink("d/in").ok();
            o.rmdir("d").ok();
            o.mkdir("d").ok();
            o.remount().ok();
            for name in ["a", "b", "c", "d/in"] {
                o.stat(name).fails(ENOENT);
            }
        });
}

/// D-3
#[test]
fn rmdir_looks_at_the_merged_listing() {
    scenario().lower(|l| drop(l.file("d/a", ""))).lower(|l| drop(l.file("d/b", "").file("e/x", ""))).run(
        |o| {
            o.rmdir("d").fails(ENOTEMPTY);
            o.unlink("d/a").ok();
            o.rmdir("d").fails(ENOTEMPTY);
            o.unlink("d/b").ok();
            o.rmdir("d").ok();
            o.in_upper("d").lines("whiteout");
            o.rmdir("e").fails(ENOTEMPTY);
            o.in_upper("e").fails(ENOENT);
        },
    );
}

/// D-3
#[test]
fn a_directory_whose_entries_are_hidden_by_middle_layers_can_be_removed() {
    scenario()
        .lower(|l| drop(l.whiteout("d/a").whiteout("d/b")))
        .lower(|l| drop(l.file("d/a", "")))
        .lower(|l| drop(l.file("d/b", "")))
        .run(|o| {
            o.ls("d").lines(". 4 .. 4");
            o.rmdir("d").ok();
            o.stat("d").fails(ENOENT);
        });
}

/// D-3
#[test]
fn a_new_directory_goes_without_a_whiteout() {
    scenario().lower(|l| drop(l.dir("p"))).run(|o| {
        o.mkdir("p/n").ok();
        o.put("p/n/f", "").ok();
        o.rmdir("p/n").fails(ENOTEMPTY);
        o.unlink("p/n/f").ok();
        o.rmdir("p/n").ok();
        o.in_upper("p/n").fails(ENOENT);
    });
}

/// D-4
#[test]
fn a_file_created_over_a_whiteout_inherits_nothing() {
    scenario()
        .lower(|l| drop(l.file("f", "old").chown("f", 7, 7).chmod("f", 0o4755).xattr("f", "user.a", "1")))
        .run(|o| {
            o.unlink("f").ok();
            o.put("f", "new").ok();
            o.stat("f").shows("mode=100644 owner=0:0 ino=new");
            o.xattrs("f").lines("");
            o.in_upper("f").lacks("origin");
        });
}

/// D-4
#[test]
fn everything_can_be_created_over_a_whiteout() {
    scenario()
        .lower(|l| ["f", "s", "p", "k", "h", "d", "t"].iter().for_each(|name| drop(l.file(name, "low"))))
        .run(|o| {
            for name in ["f", "s", "p", "k", "h", "d", "t"] {
                o.unlink(name).ok();
            }
            o.open(1, "f", O_RDWR | O_CREAT | O_EXCL).ok();
            o.symlink("there", "s").ok();
            o.mknod("p", S_IFIFO | 0o640, 0, 0).ok();
            o.mknod("k", S_IFSOCK | 0o750, 0, 0).ok();
            o.link("f", "h").ok();
            o.mkdir("d").ok();
            o.open(2, "", O_TMPFILE | O_RDWR).ok();
            o.link_slot(2, "t").ok();
            o.ls("").lines(". 4 .. 4 d 4 f 8 h 8 k 12 p 1 s 10 t 8");
        });
}

/// D-5
#[test]
fn a_directory_made_over_a_whiteout_is_opaque_whatever_was_deleted() {
    scenario()
        .lower(|l| drop(l.file("f", "").dir("d").symlink("s", "x")))
        .lower(|l| drop(l.file("f/deep", "").file("d/x", "")))
        .run(|o| {
            o.unlink("f").ok();
            o.mkdir("f").ok();
            o.in_upper("f").shows("trusted.overlay.opaque=\"y\"");
            o.unlink("d/x").ok();
            o.rmdir("d").ok();
            o.mkdir("d").ok();
            o.in_upper("d").shows("trusted.overlay.opaque=\"y\"");
            o.unlink("s").ok();
            o.mkdir("s").ok();
            o.in_upper("s").shows("trusted.overlay.opaque=\"y\"");
            o.remount().ok();
            o.ls("f").lines(". 4 .. 4");
            o.ls("d").lines(". 4 .. 4");
        });
}

/// D-6
#[test]
fn a_directory_made_where_nothing_was_may_or_may_not_be_opaque() {
    for options in ["", "index=on", "redirect_dir=on", "metacopy=on", "xino=on"] {
        scenario().lower(|l| drop(l.dir("d"))).options(options).run(|o| {
            o.mkdir("n").ok();
            o.mkdir("d/n").ok();
            o.put("d/n/f", "").ok();
            o.remount().ok();
            o.ls("d/n").lines(". 4 .. 4 f 8");
        });
    }
}

/// D-14
#[test]
fn wrong_kinds_are_refused_as_everywhere() {
    scenario().lower(|l| drop(l.file("f", "").file("d/x", "").dir("e").symlink("s", "d"))).run(|o| {
        o.unlink("d").fails(EISDIR);
        o.rmdir("f").fails(ENOTDIR);
        o.rmdir("s").fails(ENOTDIR);
        o.link("d", "d2").fails(EPERM);
        o.mkdir("f").fails(EEXIST);
        o.mkdir("d").fails(EEXIST);
        o.symlink("x", "f").fails(EEXIST);
        o.link("f", "d").fails(EEXIST);
        o.link("gone", "y").fails(ENOENT);
        o.mknod("e", S_IFIFO, 0, 0).fails(EEXIST);
        o.open(1, "f", O_CREAT | O_EXCL | O_RDWR).fails(EEXIST);
        o.open(1, "d", O_RDWR).fails(EISDIR);
        o.open(1, "f", O_RDONLY | O_DIRECTORY).fails(ENOTDIR);
        o.open(1, "s", O_RDONLY | O_NOFOLLOW).fails(ELOOP);
        o.unlink("gone").fails(ENOENT);
        o.rmdir("gone").fails(ENOENT);
        o.unlink("f/x").fails(ENOTDIR);
        o.rmdir("").fails(EBUSY);
        o.link("s", "s2").ok();
        o.readlink("s2").gives("d");
    });
}

/// D-16
#[test]
fn a_name_deleted_recreated_and_renamed_away_and_back_is_the_same_after_a_remount() {
    scenario().lower(|l| drop(l.file("f", "low").file("d/g", "low"))).run(|o| {
        o.unlink("f").ok();
        o.put("f", "new").ok();
        o.rename("f", "away").ok();
        o.rename("away", "f").ok();
        o.rename("d/g", "g").ok();
        o.rename("g", "d/g").ok();
        o.remount().ok();
        o.cat("f").gives("new");
        o.cat("d/g").gives("low");
        o.stat("d/g").shows("ino=L1:d/g");
        o.unlink("f").ok();
        o.unlink("d/g").ok();
        o.remount().ok();
        o.ls("").lines(". 4 .. 4 d 4");
    });
}

/// D-3, failure 2 of the peers
#[test]
fn a_whole_tree_removed_and_made_again_shows_nothing_of_the_old_one() {
    scenario().lower(|l| drop(l.file("t/a/b/f", "").file("t/a/g", "").file("t/h", ""))).run(|o| {
        for name in ["t/a/b/f", "t/a/g", "t/h"] {
            o.unlink(name).ok();
        }
        for name in ["t/a/b", "t/a", "t"] {
            o.rmdir(name).ok();
        }
        o.in_upper("t").lines("whiteout");
        o.mkdir("t").ok();
        o.mkdir("t/a").ok();
        o.remount().ok();
        o.mkdir("t/a/b").ok();
        o.ls("t/a/b").lines(". 4 .. 4");
        o.ls("t").lines(". 4 .. 4 a 4");
    });
}

/// D-1
#[test]
fn unlink_works_on_every_filesystem() {
    for fs in [Fs::Xfs, Fs::Btrfs, Fs::Tmpfs] {
        scenario().on(fs).lower(|l| drop(l.file("f", "").file("d/g", ""))).run(|o| {
            o.unlink("f").ok();
            o.unlink("d/g").ok();
            o.rmdir("d").ok();
            o.mkdir("d").ok();
            o.in_upper("d").shows("trusted.overlay.opaque=\"y\"");
            o.put("f", "1").ok();
            o.unlink("f").ok();
            o.in_upper("f").lines("whiteout");
        });
    }
}
