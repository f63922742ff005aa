//! Inode numbers, link counts and handles (section 4.1).

use super::prelude::*;

/// I-1
#[test]
fn an_object_keeps_the_inode_number_of_the_lower_one_for_ever() {
    scenario().lower(|l| drop(l.file("f", "").symlink("s", "x").fifo("p").file("d/g", ""))).run(|o| {
        for name in ["f", "s", "p", "d", "d/g"] {
            o.stat(name).shows(&format!("ino=L1:{name}"));
            o.remember(name).ok();
            o.chown(name, 1, 1).ok();
            o.changed(name).lacks("ino").lacks("otherdev");
        }
        o.rename("f", "d/f").ok();
        o.changed_since("d/f", "f").lacks("ino");
        o.remount().ok();
        o.changed_since("d/f", "f").lacks("ino").lacks("otherdev");
        for name in ["s", "p", "d", "d/g"] {
            o.changed(name).lacks("ino").lacks("otherdev");
        }
    });
}

/// I-1
#[test]
fn the_number_is_that_of_the_topmost_directory_or_of_the_only_file() {
    scenario()
        .lower(|l| drop(l.dir("d/e").file("f", "")))
        .lower(|l| drop(l.file("d/e/g", "").file("f", "")))
        .run(|o| {
            o.stat("f").shows("ino=L1:f");
            o.stat("d").ok();
            o.stat("d/e").ok();
            o.stat("d/e/g").shows("ino=L2:d/e/g");
            o.remember("d").ok();
            o.put("d/new", "").ok();
            o.changed("d").lacks("ino");
            o.remount().ok();
            o.changed("d").lacks("ino");
        });
}

/// I-1
#[test]
fn new_objects_keep_their_number_over_a_remount() {
    scenario().lower(|l| drop(l.dir("d"))).run(|o| {
        o.put("d/f", "").ok();
        o.mkdir("d/e").ok();
        o.symlink("x", "s").ok();
        for name in ["d/f", "d/e", "s"] {
            o.stat(name).shows("ino=new");
            o.remember(name).ok();
        }
        o.rename("d/e", "e").ok();
        o.remount().ok();
        o.changed("d/f").lines("");
        o.changed("s").lines("");
        o.changed_since("e", "d/e").lacks("ino");
    });
}

/// I-2
#[test]
fn layers_on_several_filesystems_give_numbers_that_stay() {
    scenario()
        .lower_on(Fs::Xfs, |l| drop(l.file("x", "").file("d/x", "").symlink("sx", "t")))
        .lower_on(Fs::Tmpfs, |l| drop(l.file("t", "").file("d/t", "")))
        .lower(|l| drop(l.file("e", "").file("d/e", "")))
        .run(|o| {
            // The kernel gives a directory another number once it has forgotten it.
            o.open(1, "d", O_RDONLY).ok();
            for name in ["x", "t", "e", "d", "d/x", "d/t", "sx"] {
                o.remember(name).ok();
                o.chown(name, 1, 1).ok();
                o.changed(name).lacks("ino");
            }
            o.ls("d").lines(". 4 .. 4 e 8 t 8 x 8");
        });
}

/// I-3
#[test]
fn with_xino_numbers_of_several_filesystems_are_unique_and_stay() {
    scenario()
        .lower_on(Fs::Btrfs, |l| drop(l.file("x", "").file("d/x", "").symlink("s", "t")))
        .lower(|l| drop(l.file("e", "").file("d/e", "")))
        .options("xino=on")
        .run(|o| {
            for name in ["x", "e", "d", "d/x", "d/e", "s"] {
                o.remember(name).ok();
            }
            for name in ["x", "e", "d", "d/x", "d/e", "s"] {
                o.chown(name, 1, 1).ok();
            }
            o.remount().ok();
            for name in ["x", "e", "d", "d/x", "d/e", "s"] {
                o.changed(name).lacks("ino").lacks("otherdev");
            }
        });
}

/// I-4, L-29
#[test]
fn an_origin_that_means_nothing_is_ignored() {
    scenario()
        .lower(|l| drop(l.file("f", "").file("g", "").file("h", "")))
        .upper(|l| {
            l.file("f", "1").xattr("f", "trusted.overlay.origin", "garbage");
            l.file("g", "2").xattr("g", "trusted.overlay.origin", "");
            l.file("h", "3").xattr("h", "trusted.overlay.origin", [0, 0xfb, 29, 0, 1].repeat(6));
            l.dir("d").xattr("d", "trusted.overlay.origin", [0, 0xfb, 29, 0, 1].repeat(6));
        })
        .run(|o| {
            for name in ["f", "g", "h", "d"] {
                o.stat(name).shows("ino=new");
            }
            o.chmod("f", 0o600).ok();
            o.put("d/x", "").ok();
        });
}

/// I-5
#[test]
fn untouched_lower_hard_links_are_one_inode() {
    scenario().lower(|l| drop(l.file("a", "x").link("a", "b").link("a", "d/c"))).run(|o| {
        o.same("a", "b").counts(1);
        o.same("a", "d/c").counts(1);
        o.stat("a").shows("links=3 ino=L1:a");
    });
}

/// I-5, failure 5 of the peers
#[test]
fn copy_up_breaks_a_hard_link_without_an_index() {
    scenario().lower(|l| drop(l.file("a", "x").link("a", "b").link("a", "d/c"))).run(|o| {
        o.append("a", "y").ok();
        o.cat("b").gives("x");
        o.stat("a").shows("links=1 ino=new");
        o.stat("b").shows("links=3");
        o.same("b", "d/c").counts(1);
        o.chown("d/c", 5, 5).ok();
        o.stat("b").shows("owner=0:0");
        o.remount().ok();
        o.cat("a").gives("xy");
        o.same("a", "b").counts(0);
    });
}

/// I-5, C-13
#[test]
fn a_descriptor_of_a_broken_hard_link_goes_with_the_name_it_was_opened_by() {
    scenario().lower(|l| drop(l.file("a", "x").link("a", "b"))).run(|o| {
        o.open(1, "a", O_RDONLY).ok();
        o.open(2, "b", O_RDONLY).ok();
        o.append("a", "y").ok();
        o.pread(1, 0, 9).ok();
        o.pread(2, 0, 9).gives("x");
        o.chmod(1, 0o600).ok();
        o.stat("b").shows("mode=100644");
    });
}

/// I-6
#[test]
fn with_an_index_all_names_stay_one_inode() {
    scenario()
        .lower(|l| drop(l.file("a", "x").link("a", "b").link("a", "d/c").link("a", "e")))
        .options("index=on")
        .run(|o| {
            o.append("a", "y").ok();
            o.cat("b").gives("xy");
            o.stat("d/c").shows("links=4 ino=L1:a");
            o.in_upper("b").fails(ENOENT);
            o.unlink("b").ok();
            o.stat("a").shows("links=3");
            o.append("d/c", "z").ok();
            o.link("e", "new").ok();
            o.stat("new").shows("links=4");
            o.remount().ok();
            o.same("a", "d/c").counts(1);
            o.same("a", "new").counts(1);
            o.same("a", "e").counts(1);
            o.cat("e").gives("xyz");
            o.stat("e").shows("links=4");
        });
}

/// I-6
#[test]
fn removing_lower_links_without_copy_up_counts_too() {
    scenario().lower(|l| drop(l.file("a", "x").link("a", "b").link("a", "c"))).options("index=on").run(|o| {
        o.unlink("a").ok();
        o.stat("b").shows("links=2");
        o.rename("b", "b2").ok();
        o.stat("c").shows("links=2");
        o.remount().ok();
        o.same("b2", "c").counts(1);
        o.stat("c").shows("links=2");
        o.unlink("c").ok();
        o.unlink("b2").ok();
        o.ls("").lines(". 4 .. 4");
        o.remount().ok();
    });
}

/// I-6
#[test]
fn an_open_indexed_file_survives_all_its_names() {
    scenario().lower(|l| drop(l.file("a", "x").link("a", "b"))).options("index=on").run(|o| {
        o.open(1, "a", O_RDWR).ok();
        o.unlink("a").ok();
        o.unlink("b").ok();
        o.stat(1).shows("links=0");
        o.write(1, "1").ok();
        o.pread(1, 0, 2).gives("1");
    });
}

/// I-6
#[test]
fn lower_links_in_different_layers_are_different_inodes() {
    scenario()
        .lower(|l| drop(l.file("a", "1").link("a", "b")))
        .lower(|l| drop(l.file("c", "2").link("c", "d").file("b", "hidden")))
        .options("index=on")
        .run(|o| {
            o.append("b", "x").ok();
            o.append("d", "y").ok();
            o.cat("a").gives("1x");
            o.cat("c").gives("2y");
            o.same("a", "c").counts(0);
            o.rename("c", "a").ok();
            o.stat("b").shows("links=1");
            o.stat("d").shows("links=2");
        });
}

/// I-7, failure 5 of the peers
#[test]
fn link_of_a_lower_file_makes_one_inode_with_two_names() {
    scenario().lower(|l| drop(l.file("f", "x").symlink("s", "t").fifo("p"))).run(|o| {
        for name in ["f", "s", "p"] {
            let second = format!("{name}2");
            o.link(name, &second).ok();
            o.same(name, &second).counts(1);
            o.stat(&second).shows(&format!("links=2 ino=L1:{name}"));
        }
        o.append("f2", "y").ok();
        o.cat("f").gives("xy");
        o.remount().ok();
        o.same("f", "f2").counts(1);
        o.unlink("f").ok();
        o.stat("f2").shows("links=1");
    });
}

/// I-8
#[test]
fn a_merged_directory_has_one_link_and_others_their_own_count() {
    scenario()
        .lower(|l| drop(l.dir("m/a").dir("m/b").dir("low/a").dir("low/b")))
        .lower(|l| drop(l.dir("m/c")))
        .run(|o| {
            o.stat("m").shows("links=1");
            o.stat("low").shows("links=4");
            o.mkdir("low/c").ok();
            o.stat("low").shows("links=1");
            o.mkdir("new").ok();
            o.mkdir("new/x").ok();
            o.stat("new").shows("links=3");
            o.rmdir("new/x").ok();
            o.stat("new").shows("links=2");
        });
}

/// I-9, F-13
#[test]
fn a_handle_outlives_the_copy_up_and_dies_with_the_object() {
    scenario()
        .lower(|l| drop(l.file("f", "x").file("d/g", "y").dir("e")))
        .options("nfs_export=on,index=on")
        .run(|o| {
            o.handle(1, "f").ok();
            o.handle(2, "d").ok();
            o.open_handle(1, 1, O_RDONLY).ok();
            o.read(1, 9).gives("x");
            o.append("f", "y").ok();
            o.open_handle(1, 1, O_RDWR).ok();
            o.pread(1, 0, 9).gives("xy");
            o.same(1, "f").counts(1);
            o.put("d/new", "").ok();
            o.open_handle(2, 2, O_RDONLY).ok();
            o.same(2, "d").counts(1);
            o.list_slot(2, 4096).lines(". 4 .. 4 g 8 new 8");
            o.put("n", "new").ok();
            o.handle(3, "n").ok();
            o.open_handle(3, 3, O_RDONLY).ok();
            o.read(3, 9).gives("new");
            o.close(1).ok();
            o.close(3).ok();
            o.unlink("f").ok();
            o.unlink("n").ok();
            o.open_handle(1, 1, O_RDONLY).fails(ESTALE);
            o.open_handle(3, 3, O_RDONLY).fails(ESTALE);
        });
}

/// I-9, F-13
#[test]
fn a_handle_outlives_a_remount() {
    scenario()
        .lower(|l| {
            drop(l.file("f", "x").file("d/e/g", "y").file("gone", "").file("l1", "l").link("l1", "l2"))
        })
        .options("nfs_export=on,index=on")
        .run(|o| {
            o.append("d/e/g", "z").ok();
            o.mkdir("d/new").ok();
            o.put("d/new/n", "n").ok();
            let names = ["f", "d", "d/e/g", "d/e", "d/new", "d/new/n", "l2"];
            for (slot, name) in (1_u8..).zip(names) {
                o.handle(slot, name).ok();
            }
            o.handle(9, "gone").ok();
            o.append("f", "more").ok();
            for round in 0..2 {
                o.remount().ok();
                // Without any name having been looked up.
                for (slot, name) in (1_u8..).zip(names) {
                    o.open_handle(slot, slot, O_RDONLY).ok();
                    o.same(slot, name).counts(1);
                    o.close(slot).ok();
                }
                if round == 0 {
                    o.unlink("gone").ok();
                }
                o.open_handle(9, 9, O_RDONLY).fails(ESTALE);
            }
        });
}

/// I-9: also without an upper, and in a layer that is not the topmost one of its filesystem.
#[test]
fn a_handle_of_a_read_only_stack_outlives_a_remount() {
    scenario()
        .lower(|l| drop(l.file("top", "t")))
        .lower(|l| drop(l.file("d/e/f", "x").file("g", "y")))
        .without_upper()
        .options("nfs_export=on,redirect_dir=nofollow")
        .run(|o| {
            let names = ["top", "g", "d", "d/e", "d/e/f"];
            for (slot, name) in (1_u8..).zip(names) {
                o.handle(slot, name).ok();
            }
            o.remount().ok();
            for (slot, name) in (1_u8..).zip(names) {
                o.open_handle(slot, slot, O_RDONLY).ok();
                o.same(slot, name).counts(1);
                o.close(slot).ok();
            }
        });
}

/// I-9: a file that is reached by its handle alone is copied up under its index entry, and its name follows.
#[test]
fn a_file_reached_by_its_handle_is_changed_and_its_names_show_it() {
    scenario()
        .lower(|l| drop(l.file("d/f", "x").file("d/g", "y").file("l1", "l").link("l1", "l2")))
        .options("nfs_export=on,index=on")
        .run(|o| {
            o.handle(1, "d/f").ok();
            o.handle(2, "l1").ok();
            o.handle(3, "d").ok();
            o.remount().ok();
            for (slot, size) in [(1_u8, 1), (2, 1)] {
                o.open_handle(slot, slot, O_RDWR).ok();
                o.pwrite(slot, size, "more").ok();
                o.close(slot).ok();
            }
            o.cat("d/f").gives("xmore");
            o.cat("l2").gives("lmore");
            o.append("d/f", "!").ok();
            o.rename("d/f", "d/h").ok();
            o.remount().ok();
            o.open_handle(1, 1, O_RDONLY).ok();
            o.same(1, "d/h").counts(1);
            o.unlink("d/g").ok();
        });
}

/// I-9
#[test]
fn handles_of_renamed_and_removed_directories() {
    scenario().lower(|l| drop(l.file("d/g", "y").dir("e"))).options("nfs_export=on,redirect_dir=on").run(
        |o| {
            o.handle(1, "d").ok();
            o.handle(2, "e").ok();
            o.rename("d", "d2").ok();
            o.open_handle(1, 1, O_RDONLY).ok();
            o.same(1, "d2").counts(1);
            o.rmdir("e").ok();
            o.open_handle(2, 2, O_RDONLY).fails(ESTALE);
            o.close(1).ok();
            o.remount().ok();
            o.open_handle(1, 1, O_RDONLY).ok();
            o.same(1, "d2").counts(1);
        },
    );
}
