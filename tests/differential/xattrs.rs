//! Private attributes, escaping, and attributes in general (sections 1.4 and 5.2).

use super::prelude::*;

/// L-24
#[test]
fn private_attributes_are_never_seen() {
    scenario()
        .lower(|l| {
            l.file("d/x", "").opaque("d").xattr("d/x", "trusted.overlay.anything", "1");
            l.xattr("d/x", "user.seen", "2").xattr("d/x", "trusted.other", "3");
        })
        .run(|o| {
            o.xattrs("d").lines("");
            o.xattrs("d/x").lines("trusted.other user.seen");
            o.get("d", "trusted.overlay.opaque").fails(ENODATA);
            o.get("d/x", "trusted.overlay.anything").fails(ENODATA);
            o.unset("d", "trusted.overlay.opaque").fails(ENODATA);
            o.put("d/x", "1").ok();
            o.xattrs("d/x").lines("trusted.other user.seen");
            o.get("d/x", "trusted.overlay.origin").fails(ENODATA);
        });
}

/// L-24
#[test]
fn a_private_name_written_through_the_mount_is_stored_escaped() {
    scenario()
        .lower(|l| drop(l.file("f", "").file("d/x", "").xattr("f", "trusted.overlay.overlay.opaque", "y")))
        .run(|o| {
            o.xattrs("f").lines("trusted.overlay.opaque");
            o.get("f", "trusted.overlay.opaque").gives("y");
            o.set("d", "trusted.overlay.opaque", "y").ok();
            o.in_upper("d").shows("trusted.overlay.overlay.opaque=\"y\"");
            o.ls("d").lines(". 4 .. 4 x 8");
            o.get("d", "trusted.overlay.opaque").gives("y");
            o.set("d", "trusted.overlay.overlay.deep", "z").ok();
            o.xattrs("d").lines("trusted.overlay.opaque trusted.overlay.overlay.deep");
            o.chmod("f", 0o600).ok();
            o.in_upper("f").shows("trusted.overlay.overlay.opaque=\"y\"");
            o.unset("f", "trusted.overlay.opaque").ok();
            o.get("f", "trusted.overlay.opaque").fails(ENODATA);
            o.remount().ok();
            o.ls("d").lines(". 4 .. 4 x 8");
        });
}

/// L-25
#[test]
fn the_other_prefix_is_an_ordinary_attribute() {
    scenario()
        .lower(|l| drop(l.file("d/x", "").xattr("d", "user.overlay.opaque", "y")))
        .lower(|l| drop(l.file("d/y", "")))
        .run(|o| {
            o.ls("d").lines(". 4 .. 4 x 8 y 8");
            o.xattrs("d").lines("user.overlay.opaque");
            o.set("d", "user.overlay.redirect", "/e").ok();
            o.get("d", "user.overlay.redirect").gives("/e");
            o.in_upper("d").shows("user.overlay.redirect=\"/e\"");
        });
}

/// L-25
#[test]
fn with_userxattr_the_user_prefix_is_private_and_the_trusted_one_is_not() {
    scenario()
        .lower(|l| {
            l.file("d/x", "").xattr("d", "user.overlay.opaque", "y");
            l.file("e/x", "").xattr("e", "trusted.overlay.opaque", "y");
            l.file("gone", "");
        })
        .lower(|l| drop(l.file("d/y", "").file("e/y", "")))
        .options("userxattr")
        .run(|o| {
            o.ls("d").lines(". 4 .. 4 x 8");
            o.ls("e").lines(". 4 .. 4 x 8 y 8");
            o.xattrs("d").lines("");
            o.xattrs("e").lines("trusted.overlay.opaque");
            o.set("d", "user.overlay.opaque", "y").ok();
            o.in_upper("d").shows("user.overlay.overlay.opaque=\"y\"");
            o.append("e/y", "1").ok();
            o.in_upper("e").shows("trusted.overlay.opaque=\"y\" user.overlay.impure=\"y\"");
            o.in_upper("e/y").lacks("trusted.overlay");
        });
}

/// L-27
#[test]
fn trusted_attributes_are_listed_to_the_privileged_only() {
    scenario()
        .lower(|l| {
            l.file("f", "").chmod("f", 0o666).xattr("f", "trusted.secret", "1").xattr("f", "user.open", "2");
            l.xattr("f", "security.mine", "3");
        })
        .run(|o| {
            o.xattrs("f").lines("security.mine trusted.secret user.open");
            o.become_user(1000);
            o.xattrs("f").lines("security.mine user.open");
            o.get("f", "trusted.secret").fails(ENODATA);
            o.set("f", "trusted.secret", "2").fails(EPERM);
            o.unset("f", "trusted.secret").fails(EPERM);
            o.set("f", "user.mine", "2").ok();
            o.xattrs("f").lines("security.mine user.mine user.open");
        });
}

///
#[test]
fn create_and_replace_flags_are_obeyed() {
    scenario().lower(|l| drop(l.file("f", "").xattr("f", "user.a", "1"))).run(|o| {
        o.set_with("f", "user.a", "2", libc::XATTR_CREATE).fails(EEXIST);
        o.set_with("f", "user.b", "2", libc::XATTR_REPLACE).fails(ENODATA);
        o.set_with("f", "user.a", "2", libc::XATTR_REPLACE).ok();
        o.set_with("f", "user.b", "2", libc::XATTR_CREATE).ok();
        o.set("f", "user.empty", "").ok();
        o.get("f", "user.empty").gives("");
        o.get("f", "user.none").fails(ENODATA);
        o.unset("f", "user.none").fails(ENODATA);
        o.set("f", &format!("user.{}", "n".repeat(250)), "1").ok();
        o.set("f", &format!("user.{}", "n".repeat(251)), "1").fails(ERANGE);
    });
}

///
#[test]
fn attributes_that_cannot_be_are_refused_like_on_the_backing_filesystem() {
    scenario()
        .lower(|l| drop(l.symlink("s", "f").file("f", "").fifo("p").node("c", S_IFCHR | 0o666, 1, 3)))
        .run(|o| {
            o.set("s", "user.a", "1").fails(EPERM);
            o.set("p", "user.a", "1").fails(EPERM);
            o.set("c", "user.a", "1").fails(EPERM);
            o.get("s", "user.a").fails(ENODATA);
            o.set("s", "trusted.a", "1").ok();
            o.xattrs("s").lines("trusted.a");
            o.set("f", "nonsense.a", "1").fails(EOPNOTSUPP);
            o.set("f", "user.", "1").fails(EINVAL);
            o.set("f", "plain", "1").fails(EOPNOTSUPP);
            o.set("f", "user.big", vec![b'x'; 65536]);
            o.set("f", "user.big", vec![b'x'; 65537]).fails(E2BIG);
            o.get("f", "nonsense.a").fails(EOPNOTSUPP);
            o.set("f", "system.other", "1").fails(EOPNOTSUPP);
        });
}

/// C-2
#[test]
fn removing_a_missing_attribute_leaves_no_trace_in_the_upper() {
    scenario().lower(|l| drop(l.file("f", "").dir("d"))).run(|o| {
        o.unset("f", "user.none").fails(ENODATA);
        o.unset("d", "user.none").fails(ENODATA);
        o.get("f", "user.none").fails(ENODATA);
        o.in_upper("f").fails(ENOENT);
        o.in_upper("d").fails(ENOENT);
    });
}

///
#[test]
fn an_attribute_set_on_a_merged_directory_keeps_it_merged() {
    scenario().lower(|l| drop(l.file("d/a", ""))).lower(|l| drop(l.file("d/b", ""))).run(|o| {
        o.set("d", "user.x", "1").ok();
        o.ls("d").lines(". 4 .. 4 a 8 b 8");
        o.in_upper("d").shows("user.x=\"1\"");
        o.unset("d", "user.x").ok();
        o.xattrs("d").lines("");
    });
}

///
#[test]
fn attributes_through_a_descriptor_are_those_of_the_file() {
    scenario().lower(|l| drop(l.file("f", "x").xattr("f", "user.a", "1"))).run(|o| {
        o.open(1, "f", O_RDONLY).ok();
        o.get(1, "user.a").gives("1");
        o.set(1, "user.b", "2").ok();
        o.xattrs(1).lines("user.a user.b");
        o.xattrs("f").lines("user.a user.b");
        o.unset(1, "user.a").ok();
        o.get("f", "user.a").fails(ENODATA);
        o.unlink("f").ok();
        o.xattrs(1).lines("user.b");
        o.set(1, "user.c", "3").ok();
        o.get(1, "user.c").gives("3");
    });
}

/// L-26
#[test]
fn the_union_of_an_overlay_inside_an_overlay_keeps_their_marks_apart() {
    scenario()
        .lower(|l| {
            l.file("d/x", "").xattr("d", "trusted.overlay.overlay.opaque", "y");
            l.file("w", "").xattr("w", "trusted.overlay.overlay.whiteout", "y");
            l.xattr("", "trusted.overlay.overlay.opaque", "x");
        })
        .lower(|l| drop(l.file("d/y", "")))
        .run(|o| {
            o.ls("d").lines(". 4 .. 4 x 8 y 8");
            o.stat("w").ok();
            o.get("", "trusted.overlay.opaque");
            o.get("d", "trusted.overlay.opaque").gives("y");
            o.rename("w", "v").ok();
            o.get("v", "trusted.overlay.whiteout").gives("y");
        });
}
