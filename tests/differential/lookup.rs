//! Merging and lookup (section 1.1).

use super::prelude::*;

/// L-1
#[test]
fn the_topmost_layer_that_has_a_file_gives_it() {
    scenario()
        .lower(|l| drop(l.file("a", "top").file("d/x", "1")))
        .lower(|l| drop(l.file("a", "bottom").file("b", "only below")))
        .run(|o| {
            o.cat("a").gives("top");
            o.cat("b").gives("only below");
            o.cat("c").fails(ENOENT);
            o.put("a", "new").ok();
            o.rename("b", "d/b").ok();
            o.in_upper("b").lines("whiteout");
        });
}

/// L-1
#[test]
fn directories_of_five_layers_merge_into_one_listing() {
    let layer =
        |number: u8| move |l: &Layer| drop(l.file(format!("d/only{number}"), "x").file("d/all", [number]));
    scenario().lower(layer(1)).lower(layer(2)).lower(layer(3)).lower(layer(4)).lower(layer(5)).run(|o| {
        o.ls("d").lines(". 4 .. 4 all 8 only1 8 only2 8 only3 8 only4 8 only5 8");
        o.cat("d/all").gives([1]);
        o.unlink("d/all").ok();
        o.cat("d/all").fails(ENOENT);
    });
}

/// L-2
#[test]
fn children_are_not_searched_below_the_layer_where_their_parent_was_cut_off() {
    scenario()
        .lower(|l| drop(l.file("d/sub/a", "1")))
        .lower(|l| drop(l.file("d/sub/b", "2").opaque("d")))
        .lower(|l| drop(l.file("d/sub/c", "3").file("d/c", "3")))
        .run(|o| {
            o.ls("d/sub").lines(". 4 .. 4 a 8 b 8");
            o.stat("d/sub/c").fails(ENOENT);
            o.stat("d/c").fails(ENOENT);
        });
}

/// L-3, A-11
#[test]
fn a_merged_directory_has_the_attributes_of_its_topmost_part_only() {
    scenario()
        .lower(|l| drop(l.file("d/a", "").chmod("d", 0o750).chown("d", 1, 2).xattr("d", "user.top", "1")))
        .lower(|l| {
            l.file("d/b", "").chown("d", 3, 4).chmod("d", 0o777).xattr("d", "user.bottom", "1");
            l.xattr("d", "system.posix_acl_access", acl_for_user(0o777, 55, 7));
        })
        .run(|o| {
            o.stat("d").shows("mode=40750 owner=1:2");
            o.xattrs("d").lines("user.top");
            o.set("d", "user.mine", "2").ok();
            o.get("d", "user.bottom").fails(ENODATA);
            o.get("d", "system.posix_acl_access").fails(ENODATA);
            o.ls("d").lines(". 4 .. 4 a 8 b 8");
        });
}

/// L-4
#[test]
fn a_file_below_a_directory_ends_the_merge_and_hides_what_is_below_it() {
    scenario()
        .lower(|l| drop(l.file("d/a", "1")))
        .lower(|l| drop(l.file("d", "a file")))
        .lower(|l| drop(l.file("d/c", "3")))
        .run(|o| {
            o.ls("d").lines(". 4 .. 4 a 8");
            o.stat("d/c").fails(ENOENT);
            o.unlink("d/a").ok();
            o.rmdir("d").ok();
            o.stat("d").fails(ENOENT);
        });
}

/// L-4
#[test]
fn a_file_above_hides_directories_below() {
    scenario()
        .lower(|l| drop(l.file("d", "file").symlink("e", "d")))
        .lower(|l| drop(l.file("d/x", "1").file("e/y", "")))
        .run(|o| {
            o.cat("d").gives("file");
            o.cat("d/x").fails(ENOTDIR);
            o.readlink("e").gives("d");
            o.unlink("d").ok();
            o.mkdir("d").ok();
            o.ls("d").lines(". 4 .. 4");
        });
}

/// L-1, section on lower symlinks followed inside merged directories
#[test]
fn a_symlink_in_a_layer_is_never_followed_while_merging() {
    scenario()
        .lower(|l| drop(l.file("real/a", "a").dir("d")))
        .lower(|l| drop(l.file("real/b", "b").symlink("d", "real")))
        .run(|o| {
            o.ls("d").lines(". 4 .. 4");
            o.stat("d/b").fails(ENOENT);
            o.cat("real/b").gives("b");
        });
}

/// L-5
#[test]
fn an_opaque_directory_contributes_and_cuts_off_what_is_below() {
    scenario().lower(|l| drop(l.file("d/a", "1").opaque("d"))).lower(|l| drop(l.file("d/b", "2"))).run(|o| {
        o.ls("d").lines(". 4 .. 4 a 8");
        o.put("d/b", "mine").ok();
        o.unlink("d/b").ok();
        o.unlink("d/a").ok();
        o.rmdir("d").ok();
    });
}

/// L-5
#[test]
fn any_other_value_of_opaque_is_ignored() {
    scenario()
        .lower(|l| {
            l.file("n/a", "").xattr("n", "trusted.overlay.opaque", "n");
            l.file("long/a", "").xattr("long", "trusted.overlay.opaque", "yes");
            l.file("empty/a", "").xattr("empty", "trusted.overlay.opaque", "");
        })
        .lower(|l| drop(l.file("n/b", "").file("long/b", "").file("empty/b", "")))
        .run(|o| {
            for dir in ["n", "long", "empty"] {
                o.ls(dir).lines(". 4 .. 4 a 8 b 8");
            }
        });
}

/// L-6
#[test]
fn names_of_255_bytes_work_everywhere_and_256_are_too_long() {
    let long = "n".repeat(255);
    let (one, two) = (long.clone(), format!("d/{long}"));
    scenario()
        .lower(move |l| drop(l.file(&one, "x").file(&two, "y")))
        .lower(|l| drop(l.file("d/b", "")))
        .run(move |o| {
            let in_d = format!("d/{long}");
            o.append(&long, "more").ok();
            o.unlink(&long).ok();
            o.in_upper(&long).lines("whiteout");
            o.mkdir(&long).ok();
            o.rename(&in_d, "moved").ok();
            o.rename("d/b", &in_d).ok();
            o.stat(&format!("{long}n")).fails(ENAMETOOLONG);
            o.put(format!("{long}n"), "").fails(ENAMETOOLONG);
            o.mkdir(format!("d/{long}n")).fails(ENAMETOOLONG);
        });
}

/// L-6
#[test]
fn names_are_bytes_without_normalisation() {
    scenario()
        .lower(|l| {
            drop(l.file(b"\xff\xfe", "raw").file("\u{e9}", "composed").file("A", "").file("x:y,z\\", "p"))
        })
        .run(|o| {
            o.cat(b"\xff\xfe").gives("raw");
            o.cat("e\u{301}").fails(ENOENT);
            o.put("e\u{301}", "decomposed").ok();
            o.cat("\u{e9}").gives("composed");
            o.stat("a").fails(ENOENT);
            o.append("x:y,z\\", "q").ok();
            o.put(b"new\nline \x01", "1").ok();
            o.rename(b"\xff\xfe", b"\x80").ok();
        });
}

/// L-7, I-8
#[test]
fn layer_roots_merge_and_the_root_takes_the_attributes_of_the_upper() {
    scenario()
        .lower(|l| drop(l.file("a", "").chmod("", 0o711).xattr("", "user.low", "1")))
        .lower(|l| drop(l.file("b", "")))
        .upper(|l| drop(l.file("c", "").chmod("", 0o1755).xattr("", "user.up", "1")))
        .run(|o| {
            o.ls("").lines(". 4 .. 4 a 8 b 8 c 8");
            o.stat("").shows("mode=41755 links=1");
            o.xattrs("").lines("user.up");
            o.set("", "user.new", "2").ok();
            o.chmod("", 0o700).ok();
        });
}

/// L-7
#[test]
fn an_opaque_upper_root_hides_the_lower_roots() {
    scenario().lower(|l| drop(l.file("a", ""))).upper(|l| drop(l.file("c", "").opaque(""))).run(|o| {
        o.ls("");
        o.stat("a");
        o.stat("c").ok();
    });
}

/// L-8
#[test]
fn sixty_layers_are_merged() {
    let mut stack = scenario();
    for number in 0..60 {
        stack = stack
            .lower(move |l: &Layer| drop(l.file(format!("d/f{number:02}"), "x").file("d/same", [number])));
    }
    stack.run(|o| {
        o.cat("d/same").gives([0]);
        o.stat("d/f59").ok();
        o.unlink("d/f30").ok();
        o.unlink("d/same").ok();
        o.ls("d");
    });
}

/// L-1
#[test]
fn dot_dot_and_slashes_lead_where_they_do_on_any_filesystem() {
    scenario().lower(|l| drop(l.file("d/e/f", "x"))).run(|o| {
        o.cat("d/e/../e/./f").gives("x");
        o.cat("d//e/f").gives("x");
        o.stat("d/e/f/").fails(ENOTDIR);
        o.mkdir("d/new/").ok();
        o.same("d/e/..", "d").counts(1);
        o.rmdir("d/new/.").fails(EINVAL);
    });
}

/// L-6
#[test]
fn deep_paths_are_copied_up_with_all_their_parents() {
    let deep = vec!["p".repeat(100); 30].join("/");
    let file = format!("{deep}/f");
    let below = file.clone();
    scenario().lower(move |l| drop(l.file(&below, "deep"))).run(move |o| {
        o.append(&file, "er").ok();
        o.cat(&file).gives("deeper");
        o.put(format!("{deep}/new"), "n").ok();
        o.rmdir(&deep).fails(ENOTEMPTY);
    });
}
