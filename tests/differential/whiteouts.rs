//! Whiteouts of both forms, opaque `x`, and marks that are none (section 1.2).

use super::prelude::*;

/// L-9
#[test]
fn a_device_0_0_in_any_layer_hides_the_name_below_and_is_not_seen_itself() {
    scenario()
        .lower(|l| {
            drop(l.whiteout("a").file("d/keep", "").whiteout("d/x").node("d/y", S_IFCHR | 0o777, 0, 0))
        })
        .lower(|l| drop(l.file("a", "").file("d/x", "").file("d/y", "").file("b", "").whiteout("c")))
        .lower(|l| drop(l.file("c", "").file("e", "")))
        .upper(|l| drop(l.whiteout("e")))
        .run(|o| {
            for name in ["a", "c", "e", "d/x", "d/y"] {
                o.stat(name).fails(ENOENT);
            }
            o.ls("").lines(". 4 .. 4 b 8 d 4");
            o.ls("d").lines(". 4 .. 4 keep 8");
        });
}

/// L-9
#[test]
fn a_character_device_with_another_number_is_no_whiteout() {
    scenario()
        .lower(|l| drop(l.node("null", S_IFCHR | 0o666, 1, 3).node("zero", S_IFCHR | 0o600, 0, 1)))
        .lower(|l| drop(l.file("null", "hidden")))
        .run(|o| {
            o.stat("null").shows("mode=20666 device=1,3");
            o.stat("zero").shows("device=0,1");
        });
}

/// L-9, L-10
#[test]
fn a_block_device_0_0_is_no_whiteout() {
    scenario().lower(|l| drop(l.node("b", libc::S_IFBLK | 0o600, 0, 0))).run(|o| {
        o.stat("b").shows("mode=60600 device=0,0");
    });
}

/// L-10
#[test]
fn an_empty_file_with_the_whiteout_attribute_hides_in_a_directory_marked_x() {
    scenario()
        .lower(|l| drop(l.file("d/keep", "").xattr_whiteout("d/gone").xattr_whiteout("d/dir")))
        .lower(|l| drop(l.file("d/gone", "").file("d/dir/x", "").file("d/stay", "")))
        .run(|o| {
            o.stat("d/gone").fails(ENOENT);
            o.stat("d/dir").fails(ENOENT);
            o.ls("d").lines(". 4 .. 4 keep 8 stay 8");
            o.put("d/gone", "back").ok();
            o.mkdir("d/dir").ok();
            o.ls("d/dir").lines(". 4 .. 4");
            o.unlink("d/gone").ok();
        });
}

/// L-10
#[test]
fn opaque_x_does_not_cut_off_the_layers_below() {
    scenario()
        .lower(|l| drop(l.file("d/a", "").xattr("d", "trusted.overlay.opaque", "x")))
        .lower(|l| drop(l.file("d/b", "")))
        .run(|o| {
            o.ls("d").lines(". 4 .. 4 a 8 b 8");
            o.unlink("d/b").ok();
            o.in_upper("d/b").lines("whiteout");
        });
}

/// L-10
#[test]
fn a_file_with_content_and_the_whiteout_attribute_is_an_ordinary_file() {
    scenario()
        .lower(|l| {
            l.file("d/full", "text").xattr("d/full", "trusted.overlay.whiteout", "y");
            l.xattr("d", "trusted.overlay.opaque", "x");
        })
        .lower(|l| drop(l.file("d/full", "below")))
        .run(|o| {
            o.stat("d/full");
            o.cat("d/full");
            o.xattrs("d");
        });
}

/// L-11
#[test]
fn a_form_b_whiteout_without_x_is_absent_to_lookup() {
    scenario()
        .lower(|l| drop(l.file("d/w", "").xattr("d/w", "trusted.overlay.whiteout", "y").file("d/a", "")))
        .lower(|l| drop(l.file("d/w", "below").file("d/b", "")))
        .run(|o| {
            o.stat("d/w").fails(ENOENT);
            o.ls("d").lines(". 4 .. 4 a 8 b 8");
            o.put("d/w", "new").ok();
            o.cat("d/w").gives("new");
        });
}

/// L-12
#[test]
fn something_can_be_created_over_a_stray_whiteout() {
    scenario().lower(|l| drop(l.whiteout("only/w").whiteout("only/v").file("only/a", ""))).run(|o| {
        o.stat("only/w").fails(ENOENT);
        o.ls("only").lines(". 4 .. 4 a 8");
        o.put("only/w", "1").ok();
        o.mkdir("only/v").ok();
        o.ls("only").lines(". 4 .. 4 a 8 v 4 w 8");
        o.unlink("only/w").ok();
    });
}

/// L-12, D-3
#[test]
fn a_lower_directory_holding_only_stray_whiteouts_can_be_removed() {
    scenario().lower(|l| drop(l.whiteout("only/w").whiteout("only/v"))).run(|o| {
        o.rmdir("only").ok();
        o.ls("").lines(". 4 .. 4");
    });
}

/// L-13
#[test]
fn wh_names_are_ordinary_names() {
    scenario()
        .lower(|l| drop(l.file(".wh.a", "1").file("d/.wh..wh..opq", "").file("d/x", "")))
        .lower(|l| drop(l.file("a", "2").file("d/y", "")))
        .run(|o| {
            o.cat("a").gives("2");
            o.cat(".wh.a").gives("1");
            o.ls("d").lines(". 4 .. 4 .wh..wh..opq 8 x 8 y 8");
            o.put(".wh.d", "").ok();
            o.mkdir(".wh..wh.plnk").ok();
            o.unlink(".wh.a").ok();
            o.put(".wh..wh..opq", "").ok();
            o.remount().ok();
            o.stat("d/y").ok();
        });
}

/// L-17
#[test]
fn mknod_of_a_device_0_0_is_refused_to_everybody() {
    scenario().lower(|l| drop(l.file("a", "").dir("d").chmod("d", 0o777).chmod("", 0o777))).run(|o| {
        o.mknod("w", S_IFCHR | 0o600, 0, 0).fails(EPERM);
        o.mknod("a", S_IFCHR | 0o600, 0, 0).fails(EEXIST);
        o.mknod("d/w", S_IFCHR, 0, 0).fails(EPERM);
        o.become_user(1000);
        o.mknod("d/w", S_IFCHR, 0, 0).fails(EPERM);
        o.mknod("d/n", S_IFCHR | 0o600, 1, 3).fails(EPERM);
        o.mknod("d/fifo", S_IFIFO | 0o600, 0, 0).ok();
        o.become_root();
        o.mknod("null", S_IFCHR | 0o600, 1, 3).ok();
    });
}

/// L-18
#[test]
fn whiteouts_may_be_hard_links_of_one_inode() {
    scenario()
        .lower(|l| drop(l.file("a", "").file("b", "").file("c", "").file("d/e", "")))
        .upper(|l| drop(l.whiteout("a").link("a", "b").link("a", "d/e")))
        .run(|o| {
            o.ls("").lines(". 4 .. 4 c 8 d 4");
            o.put("a", "new").ok();
            o.stat("b").fails(ENOENT);
            o.unlink("c").ok();
            o.rmdir("d").ok();
            o.mkdir("b").ok();
        });
}

/// L-9, L-18
#[test]
fn many_deletions_leave_one_whiteout_each() {
    scenario().lower(|l| (0..200).for_each(|n| drop(l.file(format!("d/{n}"), "")))).run(|o| {
        (0..199).for_each(|n| o.unlink(format!("d/{n}")).ok());
        o.ls("d").lines(". 4 .. 4 199 8");
        o.rmdir("d").fails(ENOTEMPTY);
    });
}

/// L-16, L-5
#[test]
fn a_recreated_directory_is_written_with_opaque_y() {
    scenario().lower(|l| drop(l.file("d/a", ""))).run(|o| {
        o.unlink("d/a").ok();
        o.rmdir("d").ok();
        o.in_upper("d").lines("whiteout");
        o.mkdir("d").ok();
        o.in_upper("d").shows("trusted.overlay.opaque=\"y\"");
        o.remount().ok();
        o.ls("d").lines(". 4 .. 4");
    });
}

/// L-9
#[test]
fn a_whiteout_below_a_file_means_nothing() {
    scenario()
        .lower(|l| drop(l.file("a", "above")))
        .lower(|l| drop(l.whiteout("a").file("b", "")))
        .lower(|l| drop(l.file("a", "bottom")))
        .run(|o| {
            o.cat("a").gives("above");
            o.unlink("a").ok();
            o.stat("a").fails(ENOENT);
            o.in_upper("a");
        });
}

/// L-9, L-4
#[test]
fn a_whiteout_between_two_directories_ends_the_merge() {
    scenario()
        .lower(|l| drop(l.file("d/a", "")))
        .lower(|l| drop(l.whiteout("d")))
        .lower(|l| drop(l.file("d/b", "")))
        .run(|o| {
            o.ls("d").lines(". 4 .. 4 a 8");
            o.stat("d/b").fails(ENOENT);
            o.unlink("d/a").ok();
            o.rmdir("d").ok();
        });
}
