//! Redirects met in lookup (section 1.3). Those made by rename are in `rename`.

use super::prelude::*;

/// L-19
#[test]
fn a_relative_redirect_replaces_the_last_component_below() {
    scenario()
        .lower(|l| drop(l.file("p/new/a", "").redirect("p/new", "old").whiteout("p/old")))
        .lower(|l| drop(l.file("p/old/b", "").file("p/new/not", "")))
        .options("redirect_dir=on")
        .run(|o| {
            o.ls("p/new").lines(". 4 .. 4 a 8 b 8");
            o.stat("p/old").fails(ENOENT);
            o.append("p/new/b", "x").ok();
            o.unlink("p/new/a").ok();
        });
}

/// L-19
#[test]
fn an_absolute_redirect_starts_again_at_the_roots_of_all_layers_below() {
    scenario()
        .lower(|l| drop(l.file("here/a", "").redirect("here", "/x/y").whiteout("x")))
        .lower(|l| drop(l.file("x/y/b", "")))
        .lower(|l| drop(l.file("x/y/c", "").file("here/no", "")))
        .run(|o| {
            o.ls("here").lines(". 4 .. 4 a 8 b 8 c 8");
            o.put("here/b", "w").ok();
            o.rename("here/c", "here/d").ok();
        });
}

/// L-19
#[test]
fn an_opaque_ancestor_does_not_block_an_absolute_redirect() {
    scenario()
        .lower(|l| drop(l.file("top/in/a", "").opaque("top").redirect("top/in", "/old/place")))
        .lower(|l| drop(l.file("old/place/b", "").file("top/hidden", "")))
        .run(|o| {
            o.ls("top").lines(". 4 .. 4 in 4");
            o.ls("top/in").lines(". 4 .. 4 a 8 b 8");
        });
}

/// L-20
#[test]
fn redirects_of_several_layers_compose() {
    scenario()
        .lower(|l| drop(l.file("one/a", "").redirect("one", "two").whiteout("two")))
        .lower(|l| drop(l.file("two/b", "").redirect("two", "/deep/three").whiteout("deep")))
        .lower(|l| drop(l.file("deep/three/c", "").file("two/wrong", "").file("one/wrong", "")))
        .run(|o| {
            o.ls("one").lines(". 4 .. 4 a 8 b 8 c 8");
            o.stat("two").fails(ENOENT);
            o.put("one/c", "mine").ok();
        });
}

/// L-20
#[test]
fn a_whiteout_at_the_old_name_does_not_affect_the_redirected_directory() {
    scenario()
        .lower(|l| drop(l.file("d/old/x", "")))
        .upper(|l| drop(l.dir("d/new").redirect("d/new", "old").whiteout("d/old")))
        .options("redirect_dir=on")
        .run(|o| {
            o.ls("d").lines(". 4 .. 4 new 4");
            o.ls("d/new").lines(". 4 .. 4 x 8");
            o.append("d/new/x", "1").ok();
            o.mkdir("d/old").ok();
            o.ls("d/old").lines(". 4 .. 4");
        });
}

/// L-19
#[test]
fn a_redirect_to_nothing_leaves_the_directory_alone() {
    scenario()
        .lower(|l| drop(l.file("a/x", "").redirect("a", "/no/such").file("b/x", "").redirect("b", "gone")))
        .lower(|l| drop(l.file("a/hidden", "").file("b/hidden", "")))
        .run(|o| {
            o.ls("a").lines(". 4 .. 4 x 8");
            o.ls("b").lines(". 4 .. 4 x 8");
        });
}

/// L-21
#[test]
fn malformed_redirects_make_the_name_inaccessible() {
    for value in ["a/b", "", "/a//b", "/a/", "/"] {
        scenario()
            .lower(move |l| {
                drop(l.file("d/x", "").xattr("d", "trusted.overlay.redirect", value).file("ok", ""))
            })
            .lower(|l| drop(l.file("a/b/secret", "").file("d/y", "")))
            .run(|o| {
                o.stat("d");
                o.stat("d/x");
                o.stat("ok").ok();
                o.mkdir("d");
            });
    }
}

/// L-21
#[test]
fn a_redirect_never_leads_out_of_its_layer() {
    for value in ["/../../escape", "..", "/..", ".", "/a/../../u"] {
        scenario()
            .lower(move |l| drop(l.file("d/x", "").xattr("d", "trusted.overlay.redirect", value)))
            .lower(|l| drop(l.file("a/b", "").file("d/y", "")))
            .run(|o| {
                o.stat("d");
                o.stat("d/x");
                o.stat("d/a");
                o.stat("d/y");
            });
    }
}

/// L-22
#[test]
fn nofollow_makes_a_redirected_directory_inaccessible() {
    scenario()
        .lower(|l| drop(l.file("d/x", "").redirect("d", "/e").file("ok", "")))
        .lower(|l| drop(l.file("e/y", "")))
        .options("redirect_dir=nofollow")
        .run(|o| {
            o.stat("d").fails(EPERM);
            o.ls("d").fails(EPERM);
            o.mkdir("d").fails(EPERM);
            o.unlink("d").fails(EPERM);
            o.rename("ok", "d").fails(EPERM);
            o.stat("ok").ok();
        });
}

/// L-22, D-9
#[test]
fn follow_obeys_redirects_and_makes_none() {
    scenario()
        .lower(|l| drop(l.file("d/x", "").redirect("d", "/e")))
        .lower(|l| drop(l.file("e/y", "").file("e2/z", "")))
        .options("redirect_dir=follow")
        .run(|o| {
            o.ls("d").lines(". 4 .. 4 x 8 y 8");
            o.rename("e2", "e3").fails(EXDEV);
        });
}

/// L-22
#[test]
fn off_means_what_the_module_says() {
    scenario()
        .lower(|l| drop(l.file("d/x", "").redirect("d", "/e")))
        .lower(|l| drop(l.file("e/y", "").file("e2/z", "")))
        .options("redirect_dir=off")
        .run(|o| {
            o.ls("d");
            o.rename("e2", "e3").fails(EXDEV);
        });
}

/// L-22
#[test]
fn without_the_option_redirects_are_followed_as_the_module_says() {
    scenario()
        .lower(|l| drop(l.file("d/x", "").redirect("d", "/e")))
        .lower(|l| drop(l.file("e/y", "")))
        .run(|o| drop(o.ls("d")));
}

/// L-22
#[test]
fn a_redirect_in_the_upper_is_refused_with_nofollow_too() {
    scenario()
        .lower(|l| drop(l.file("e/y", "")))
        .upper(|l| drop(l.file("d/x", "").redirect("d", "e")))
        .options("redirect_dir=nofollow")
        .run(|o| {
            o.stat("d").fails(EPERM);
            o.ls("").ok();
        });
}

/// L-23
#[test]
fn a_metacopy_file_is_refused_when_metacopy_is_off() {
    scenario()
        .lower(|l| drop(l.file("f", "").metacopy("f").file("ok", "")))
        .lower(|l| drop(l.file("f", "data").file("g", "data")))
        .upper(|l| drop(l.sparse("g", 4, &[]).metacopy("g")))
        .options("metacopy=off")
        .run(|o| {
            o.stat("f").fails(EPERM);
            o.cat("g").fails(EPERM);
            o.unlink("f").fails(EPERM);
            o.ls("").ok();
        });
}

/// L-23
#[test]
fn a_metacopy_file_finds_its_data_by_name_or_by_redirect() {
    scenario()
        .lower(|l| {
            l.sparse("same", 4, &[]).metacopy("same").chmod("same", 0o600);
            l.sparse("d/moved", 5, &[]).metacopy("d/moved").redirect("d/moved", "/x/orig");
            l.sparse("d/near", 6, &[]).metacopy("d/near").redirect("d/near", "other");
        })
        .lower(|l| drop(l.file("same", "data").file("x/orig", "where").file("d/other", "nearby")))
        .options("metacopy=on")
        .run(|o| {
            o.cat("same").gives("data");
            o.stat("same").shows("mode=100600 size=4");
            o.cat("d/moved").gives("where");
            o.cat("d/near").gives("nearby");
            o.append("d/moved", "!").ok();
            o.cat("d/moved").gives("where!");
        });
}
