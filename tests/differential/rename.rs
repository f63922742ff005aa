//! Renames of every kind with every flag (section 3).

use super::prelude::*;

/// D-8
#[test]
fn a_renamed_lower_file_is_copied_up_and_leaves_a_whiteout() {
    scenario()
        .lower(|l| drop(l.file("f", "x").dir("d").symlink("s", "t").fifo("p").node("c", S_IFCHR, 1, 5)))
        .run(|o| {
            for name in ["f", "s", "p", "c"] {
                o.rename(name, format!("d/{name}2")).ok();
                o.in_upper(name).lines("whiteout");
                o.stat(&format!("d/{name}2")).shows(&format!("ino=L1:{name}"));
            }
            o.remount().ok();
            o.stat("d/f2").shows("ino=L1:f");
            o.cat("d/f2").gives("x");
            o.rename("d/f2", "f").ok();
            o.in_upper("d/f2").fails(ENOENT);
        });
}

/// D-8
#[test]
fn a_renamed_new_file_leaves_nothing() {
    scenario().lower(|l| drop(l.file("target", "low").dir("d"))).run(|o| {
        o.put("n", "1").ok();
        o.rename("n", "m").ok();
        o.in_upper("n").fails(ENOENT);
        o.rename("m", "target").ok();
        o.cat("target").gives("1");
        o.in_upper("target").lacks("origin");
        o.rename("target", "d/t").ok();
        o.in_upper("target").lines("whiteout");
        o.remount().ok();
        o.stat("target").fails(ENOENT);
    });
}

/// D-9
#[test]
fn a_directory_with_a_lower_part_cannot_be_renamed_without_redirects() {
    scenario().lower(|l| drop(l.file("low/a", "").file("merged/b", "").file("f", "").dir("empty"))).run(
        |o| {
            o.put("merged/c", "").ok();
            o.mkdir("pure").ok();
            o.rename("low", "x").fails(EXDEV);
            o.rename("merged", "x").fails(EXDEV);
            o.rename("empty", "x").fails(EXDEV);
            o.exchange("low", "pure").fails(EXDEV);
            o.exchange("f", "merged").fails(EXDEV);
            o.rename("pure", "x").ok();
            o.rename("x", "low/x").ok();
            o.in_upper("merged").lacks("redirect");
        },
    );
}

/// D-10
#[test]
fn a_directory_renamed_in_its_parent_is_redirected_to_its_old_name() {
    scenario().lower(|l| drop(l.file("p/old/f", "x").file("p/old/g", ""))).options("redirect_dir=on").run(
        |o| {
            o.rename("p/old", "p/new").ok();
            o.in_upper("p/new").shows("trusted.overlay.redirect=\"old\"");
            o.in_upper("p/old").lines("whiteout");
            o.rename("p/new", "p/newer").ok();
            o.in_upper("p/newer").shows("trusted.overlay.redirect=\"old\"");
            o.ls("p/newer").lines(". 4 .. 4 f 8 g 8");
            o.stat("p/newer").shows("ino=L1:p/old");
            o.append("p/newer/f", "y").ok();
            o.mkdir("p/old").ok();
            o.remount().ok();
            o.cat("p/newer/f").gives("xy");
            o.ls("p/old").lines(". 4 .. 4");
        },
    );
}

/// D-10
#[test]
fn a_directory_moved_elsewhere_records_its_absolute_origin() {
    scenario()
        .lower(|l| drop(l.file("a/sub/f", "").file("b/x", "").file("a/g", "")))
        .options("redirect_dir=on")
        .run(|o| {
            o.rename("a", "a2").ok();
            o.rename("a2/sub", "b/sub2").ok();
            o.in_upper("b/sub2").shows("trusted.overlay.redirect=\"/a/sub\"");
            o.in_upper("a2").shows("trusted.overlay.redirect=\"a\"");
            o.rename("b/sub2", "b/sub3").ok();
            o.in_upper("b/sub3").shows("trusted.overlay.redirect=\"/a/sub\"");
            o.rename("a2", "b/a3").ok();
            o.in_upper("b/a3").shows("trusted.overlay.redirect=\"/a\"");
            o.remount().ok();
            o.ls("b/sub3").lines(". 4 .. 4 f 8");
            o.ls("b/a3").lines(". 4 .. 4 g 8");
            o.stat("b/a3").shows("ino=L1:a");
        });
}

/// D-10
#[test]
fn a_relative_redirect_becomes_absolute_when_it_leaves_its_directory() {
    scenario().lower(|l| drop(l.file("p/d/f", "").dir("q"))).options("redirect_dir=on").run(|o| {
        o.rename("p/d", "p/e").ok();
        o.rename("p/e", "q/e").ok();
        o.in_upper("q/e").shows("trusted.overlay.redirect=\"/p/d\"");
        o.rename("q/e", "p/d").ok();
        o.in_upper("p/d").ok();
        o.remount().ok();
        o.ls("p/d").lines(". 4 .. 4 f 8");
    });
}

/// D-10
#[test]
fn an_absolute_redirect_that_would_be_too_long_is_refused() {
    let name = "n".repeat(100);
    let deep = format!("{name}/{name}/{name}/dir");
    let (below, short) = (format!("{deep}/f"), format!("{name}/{name}/dir2"));
    let under = format!("{short}/f");
    scenario().lower(move |l| drop(l.file(&below, "").file(&under, ""))).options("redirect_dir=on").run(
        move |o| {
            o.rename(&deep, "moved").fails(EXDEV);
            o.rename(&short, "moved").ok();
            o.ls("moved").lines(". 4 .. 4 f 8");
        },
    );
}

/// D-10
#[test]
fn directories_merged_from_several_layers_are_renamed_whole() {
    scenario()
        .lower(|l| drop(l.file("d/a", "").whiteout("d/x").file("t", "")))
        .lower(|l| drop(l.file("d/b", "").file("d/x", "")))
        .lower(|l| drop(l.file("d/c", "").file("e/y", "")))
        .options("redirect_dir=on")
        .run(|o| {
            o.rename("d", "e/d").ok();
            o.ls("e/d").lines(". 4 .. 4 a 8 b 8 c 8");
            o.rename("e", "f").ok();
            o.ls("f/d").lines(". 4 .. 4 a 8 b 8 c 8");
            o.remount().ok();
            o.ls("f/d").lines(". 4 .. 4 a 8 b 8 c 8");
            o.stat("f/d/x").fails(ENOENT);
            o.stat("f/y").ok();
            o.append("f/d/c", "1").ok();
        });
}

/// D-11
#[test]
fn a_new_directory_moved_onto_a_whiteout_becomes_opaque() {
    scenario().lower(|l| drop(l.file("d/low", "").file("p/e/low", ""))).run(|o| {
        o.unlink("d/low").ok();
        o.rmdir("d").ok();
        o.mkdir("n").ok();
        o.put("n/mine", "").ok();
        o.rename("n", "d").ok();
        o.in_upper("d").shows("trusted.overlay.opaque=\"y\"");
        o.unlink("p/e/low").ok();
        o.rmdir("p/e").ok();
        o.mkdir("m").ok();
        o.rename("m", "p/e").ok();
        o.remount().ok();
        o.ls("d").lines(". 4 .. 4 mine 8");
        o.ls("p/e").lines(". 4 .. 4");
    });
}

/// D-11, D-12
#[test]
fn a_new_directory_moved_onto_an_emptied_merged_directory_hides_everything_below() {
    scenario().lower(|l| drop(l.file("d/a", "").file("d/b", "").dir("hollow"))).run(|o| {
        o.mkdir("n").ok();
        o.put("n/f", "").ok();
        o.rename("n", "d").fails(ENOTEMPTY);
        o.unlink("d/a").ok();
        o.unlink("d/b").ok();
        o.rename("n", "d").ok();
        o.in_upper("d").shows("trusted.overlay.opaque=\"y\"");
        o.mkdir("m").ok();
        o.rename("m", "hollow").ok();
        o.remount().ok();
        o.ls("d").lines(". 4 .. 4 f 8");
        o.ls("hollow").lines(". 4 .. 4");
    });
}

/// D-12
#[test]
fn what_may_replace_what_is_as_on_a_local_filesystem() {
    scenario()
        .lower(|l| drop(l.file("f", "1").file("g", "2").dir("empty").file("full/x", "").symlink("s", "f")))
        .options("redirect_dir=on")
        .run(|o| {
            o.rename("f", "empty").fails(EISDIR);
            o.rename("f", "full").fails(EISDIR);
            o.rename("empty", "f").fails(ENOTDIR);
            o.rename("empty", "full").fails(ENOTEMPTY);
            o.rename("empty", "s").fails(ENOTDIR);
            o.rename("gone", "f").fails(ENOENT);
            o.rename("f", "no/where").fails(ENOENT);
            o.rename("s", "g").ok();
            o.readlink("g").gives("f");
            o.rename("full", "empty").ok();
            o.ls("empty").lines(". 4 .. 4 x 8");
            o.rename("f", "f").ok();
            o.link("f", "f2").ok();
            o.rename("f", "f2").ok();
            o.stat("f").ok();
        });
}

/// D-12
#[test]
fn a_file_replaced_by_rename_is_gone_for_good() {
    scenario().lower(|l| drop(l.file("a", "A").file("b", "B").file("d/c", "C"))).run(|o| {
        o.open(1, "b", O_RDONLY).ok();
        o.rename("a", "b").ok();
        o.cat("b").gives("A");
        o.pread(1, 0, 9).gives("B");
        o.rename("b", "d/c").ok();
        o.remount().ok();
        o.cat("d/c").gives("A");
        o.stat("d/c").shows("ino=L1:a");
        o.unlink("d/c").ok();
        o.ls("").lines(". 4 .. 4 d 4");
    });
}

/// D-13
#[test]
fn noreplace_considers_merged_names() {
    scenario().lower(|l| drop(l.file("a", "").file("low", "").file("gone", "").dir("d"))).run(|o| {
        o.rename_flags("a", "low", RENAME_NOREPLACE).fails(EEXIST);
        o.rename_flags("a", "d", RENAME_NOREPLACE).fails(EEXIST);
        o.unlink("gone").ok();
        o.rename_flags("a", "gone", RENAME_NOREPLACE).ok();
        o.rename_flags("gone", "fresh", RENAME_NOREPLACE).ok();
        o.in_upper("gone").lines("whiteout");
    });
}

/// D-13
#[test]
fn exchange_swaps_lower_and_upper_files() {
    scenario().lower(|l| drop(l.file("a", "A").file("b", "B").file("d/c", "C"))).run(|o| {
        o.put("n", "N").ok();
        o.exchange("a", "n").ok();
        o.cat("a").gives("N");
        o.cat("n").gives("A");
        o.exchange("b", "d/c").ok();
        o.cat("b").gives("C");
        o.stat("b").shows("ino=L1:d/c");
        o.exchange("b", "gone").fails(ENOENT);
        o.exchange("gone", "b").fails(ENOENT);
        o.remount().ok();
        o.cat("n").gives("A");
        o.unlink("a").ok();
        o.unlink("n").ok();
        o.remount().ok();
        o.stat("a").fails(ENOENT);
    });
}

/// D-13
#[test]
fn exchange_of_a_file_with_a_new_directory_makes_the_directory_opaque() {
    scenario().lower(|l| drop(l.file("f", "x"))).lower(|l| drop(l.file("f/hidden", "").file("p/g", ""))).run(
        |o| {
            o.mkdir("n").ok();
            o.put("n/a", "").ok();
            o.exchange("f", "n").ok();
            o.in_upper("f").shows("trusted.overlay.opaque=\"y\"");
            o.exchange("f", "p/g").ok();
            o.remount().ok();
            o.ls("p/g").lines(". 4 .. 4 a 8");
        },
    );
}

/// D-13
#[test]
fn exchange_of_directories_with_redirects() {
    scenario()
        .lower(|l| drop(l.file("a/x", "").file("b/y", "").file("p/c/z", "")))
        .options("redirect_dir=on")
        .run(|o| {
            o.exchange("a", "b").ok();
            o.ls("a").lines(". 4 .. 4 y 8");
            o.in_upper("a").shows("trusted.overlay.redirect=\"b\"");
            o.exchange("a", "p/c").ok();
            o.mkdir("n").ok();
            o.exchange("n", "b").ok();
            o.remount().ok();
            o.ls("n").lines(". 4 .. 4 x 8");
            o.ls("p/c").lines(". 4 .. 4 y 8");
            o.ls("b").lines(". 4 .. 4");
        });
}

/// D-13
#[test]
fn whiteout_and_unknown_flags_are_refused() {
    scenario().lower(|l| drop(l.file("a", "").file("b", ""))).run(|o| {
        o.rename_flags("a", "c", RENAME_WHITEOUT).fails(EINVAL);
        o.rename_flags("a", "b", RENAME_NOREPLACE | RENAME_EXCHANGE).fails(EINVAL);
        o.rename_flags("a", "b", 0x80).fails(EINVAL);
        o.in_upper("a").fails(ENOENT);
    });
}

/// D-14
#[test]
fn a_directory_cannot_move_into_itself_and_the_root_not_at_all() {
    scenario().lower(|l| drop(l.file("d/e/f", ""))).options("redirect_dir=on").run(|o| {
        o.rename("d", "d/e/d").fails(EINVAL);
        o.rename("d/e", "d").fails(ENOTEMPTY);
        o.exchange("d", "d/e").fails(EINVAL);
        o.rename("d/.", "x").fails(EBUSY);
    });
}

/// D-10, D-16
#[test]
fn a_renamed_directory_can_come_back_and_its_name_be_taken() {
    scenario().lower(|l| drop(l.file("d/f", "x").file("e/g", "y"))).options("redirect_dir=on").run(|o| {
        o.rename("d", "t").ok();
        o.rename("e", "d").ok();
        o.rename("t", "e").ok();
        o.remount().ok();
        o.cat("d/g").gives("y");
        o.cat("e/f").gives("x");
        o.rename("d", "t").ok();
        o.rename("e", "d").ok();
        o.rename("t", "e").ok();
        o.in_upper("d").ok();
        o.remount().ok();
        o.cat("d/f").gives("x");
        o.unlink("d/f").ok();
        o.rmdir("d").ok();
        o.in_upper("d").ok();
    });
}

/// D-11
#[test]
fn a_new_directory_moved_into_a_merged_one_does_not_pick_up_lower_names() {
    scenario().lower(|l| drop(l.file("p/n/low", "").file("q/x", ""))).run(|o| {
        o.mkdir("n").ok();
        o.mkdir("n/sub").ok();
        o.rename("n", "q/n").ok();
        o.ls("q/n").lines(". 4 .. 4 sub 4");
        o.rename("q/n", "p/m").ok();
        o.unlink("p/n/low").ok();
        o.rmdir("p/n").ok();
        o.rename("p/m", "p/n").ok();
        o.remount().ok();
        o.ls("p/n").lines(". 4 .. 4 sub 4");
    });
}
