//! Mount options: what they mean, and which combinations are refused (section 6).

use super::prelude::*;

fn stack() -> super::scenario::Scenario {
    scenario()
        .lower(|l| drop(l.file("a", "1").file("d/x", "")))
        .lower(|l| drop(l.file("b", "2").file("d/y", "")))
}

/// O-1
#[test]
fn unknown_options_and_bad_values_are_refused() {
    stack().run_unmounted(|o| {
        for options in
            ["nonsense", "index=maybe", "redirect_dir=1", "xino=yes", "metacopy=", "uuid=x", "verity=no"]
        {
            o.refuse_to_mount(options);
        }
        o.accept_to_mount("");
    });
}

/// O-1
#[test]
fn contradictions_are_refused() {
    stack().run_unmounted(|o| {
        for options in [
            "metacopy=on,redirect_dir=off",
            "metacopy=on,redirect_dir=follow",
            "metacopy=on,redirect_dir=nofollow",
            "nfs_export=on,index=off",
            "nfs_export=on,metacopy=on",
            "userxattr,redirect_dir=on",
            "userxattr,metacopy=on",
        ] {
            o.refuse_to_mount(options);
        }
    });
}

/// O-2
#[test]
fn a_default_yields_to_an_explicit_option() {
    stack().options("metacopy=on").run(|o| {
        o.rename("d", "e").ok();
        o.in_upper("e").shows("trusted.overlay.redirect=\"d\"");
    });
    stack().options("nfs_export=on").run(|o| {
        o.append("a", "x").ok();
        o.in_work("index").lines("handle");
    });
}

/// The table of section 6
#[test]
fn every_option_of_the_kernel_is_accepted_and_gives_the_same_tree() {
    for options in [
        "default_permissions",
        "redirect_dir=on",
        "redirect_dir=follow",
        "redirect_dir=off",
        "redirect_dir=nofollow",
        "index=on",
        "index=off",
        "nfs_export=on",
        "nfs_export=off",
        "xino=on",
        "xino=auto",
        "xino=off",
        "metacopy=on",
        "metacopy=off",
        "uuid=on",
        "uuid=off",
        "uuid=null",
        "uuid=auto",
        "override_creds",
        "nooverride_creds",
        "verity=off",
        "index=on,redirect_dir=on,metacopy=on,xino=on",
        "nfs_export=on,redirect_dir=on,xino=on",
    ] {
        stack().options(options).run(|o| {
            o.append("a", "x").ok();
            o.unlink("b").ok();
            o.mkdir("new").ok();
            o.rename("new", "b").ok();
            o.unlink("d/y").ok();
            o.chmod("d", 0o700).ok();
            o.rename("d", "e");
            o.remount().ok();
            o.link("a", "c").ok();
        });
    }
}

/// O-1
#[test]
fn layers_that_are_missing_or_no_directories_are_refused() {
    stack().run_unmounted(|o| {
        o.refuse_raw("lowerdir={l1}:{l2}/missing,upperdir={u},workdir={w}");
        o.refuse_raw("lowerdir={l1}/a:{l2},upperdir={u},workdir={w}");
        o.refuse_raw("lowerdir={l1}:{l2},upperdir={u}/missing,workdir={w}");
        o.refuse_raw("lowerdir={l1}:{l2},upperdir={l1}/a,workdir={w}");
        o.refuse_raw("lowerdir={l1}:{l2},upperdir={u},workdir={l1}/a");
        o.accept_to_mount("");
    });
}

/// O-1
#[test]
fn an_upper_needs_a_work_directory_beside_it() {
    stack().run_unmounted(|o| {
        o.refuse_raw("lowerdir={l1}:{l2},upperdir={u}");
        o.accept_raw("lowerdir={l1}:{l2},workdir={w}");
        o.refuse_raw("lowerdir={l1}:{l2},upperdir={u},workdir={u}");
        o.refuse_raw("lowerdir={l1}:{l2},upperdir={u},workdir={u}/inside");
        o.refuse_raw("lowerdir={l1}:{l2},upperdir={w}/inside,workdir={w}");
        o.refuse_raw("lowerdir={l1}:{l2},upperdir={u},workdir={u}/../missing");
        o.refuse_raw("lowerdir={l1}:{l1},upperdir={u},workdir={w}");
        o.refuse_raw("lowerdir=,upperdir={u},workdir={w}");
        o.refuse_raw("upperdir={u},workdir={w}");
        o.refuse_raw("lowerdir={l1}::{l2}:{l1},upperdir={u},workdir={w}");
        o.accept_raw("lowerdir={l1}:{l2},upperdir={u},workdir={w}");
    });
}

/// O-1
#[test]
fn work_on_another_filesystem_is_refused() {
    scenario()
        .on(Fs::Ext4)
        .lower_on(Fs::Tmpfs, |l| drop(l.dir("work")))
        .lower(|l| drop(l.file("a", "")))
        .run_unmounted(|o| {
            o.refuse_raw("lowerdir={l2},upperdir={u},workdir={l1}/work");
        });
}

/// L-8
#[test]
fn relative_and_escaped_layer_paths_are_understood() {
    scenario()
        .lower(|l| drop(l.file("od:d/x", "1").file("com,ma/y", "2").file("back\\slash/z", "3")))
        .run_unmounted(|o| {
            o.accept_raw("lowerdir={l1}/od\\:d:{l1}/back\\\\slash,upperdir={u},workdir={w}");
            o.accept_raw("lowerdir={l1}/com\\,ma:{l1}/od\\:d,upperdir={u},workdir={w}");
        });
}

/// The table of section 6
#[test]
fn lowerdir_can_be_given_one_layer_at_a_time() {
    stack().run_unmounted(|o| {
        o.accept_raw("lowerdir+={l1},lowerdir+={l2},upperdir={u},workdir={w}");
        o.accept_raw("lowerdir+={l1},datadir+={l2},upperdir={u},workdir={w},metacopy=on");
        o.refuse_raw("datadir+={l2},lowerdir+={l1},upperdir={u},workdir={w}");
        o.refuse_raw("lowerdir={l1},lowerdir+={l2},upperdir={u},workdir={w}");
    });
}

/// The table of section 6: volatile
#[test]
fn a_volatile_upper_is_refused_until_its_marker_is_removed() {
    stack().options("volatile").without_swap().run(|o| {
        o.append("a", "x").ok();
        o.in_work("work/incompat/volatile").lines("dirty");
        o.refuse_to_mount("volatile");
        o.refuse_to_mount("");
        o.pair().spoil(|set| std::fs::remove_dir_all(set.work.as_ref().unwrap().join("work/incompat")));
        o.accept_to_mount("");
    });
}

/// O-1
#[test]
fn an_unknown_incompatible_feature_is_refused() {
    stack().run_unmounted(|o| {
        o.pair()
            .spoil(|set| std::fs::create_dir_all(set.work.as_ref().unwrap().join("work/incompat/future")));
        o.refuse_to_mount("");
    });
}

/// The table of section 6: index
#[test]
fn an_indexed_upper_belongs_to_its_lower() {
    stack().options("index=on").without_swap().run(|o| {
        o.append("a", "x").ok();
        o.refuse_raw("lowerdir={l2}:{l1},upperdir={u},workdir={w},index=on");
        o.accept_raw("lowerdir={l1}:{l2},upperdir={u},workdir={w},index=on");
    });
}

/// O-1
#[test]
fn a_lower_that_contains_the_upper_is_allowed() {
    scenario().lower(|l| drop(l.file("x", "").dir("upper").dir("work"))).run_unmounted(|o| {
        o.pair().spoil(|set| {
            let upper = set.upper.as_ref().unwrap();
            std::fs::create_dir(upper.join("up")).and_then(|()| std::fs::create_dir(upper.join("wk")))
        });
        o.accept_raw("lowerdir={u},upperdir={u}/up,workdir={u}/wk");
    });
}

/// The table of section 6: uuid
#[test]
fn handles_carry_the_uuid_or_zeroes_as_told() {
    for options in ["uuid=off", "uuid=null", "uuid=on", "uuid=auto"] {
        stack().options(options).run(|o| {
            o.append("a", "x").ok();
            o.chmod("d", 0o700).ok();
            o.in_upper("a").ok();
            o.in_upper("").ok();
        });
    }
}

/// The table of section 6: changing options between mounts
#[test]
fn an_upper_written_with_one_set_of_options_is_read_with_another() {
    scenario()
        .lower(|l| drop(l.file("a", "1").link("a", "a2").file("d/x", "").file("f", "data")))
        .options("redirect_dir=on,metacopy=on,index=on")
        .run(|o| {
            o.rename("d", "e").ok();
            o.chmod("f", 0o600).ok();
            o.append("a", "x").ok();
            o.remount_with("redirect_dir=on,metacopy=on");
            o.cat("a2");
            o.ls("e").lines(". 4 .. 4 x 8");
            o.cat("f").gives("data");
            o.remount_with("metacopy=off");
            o.ls("e").lines(". 4 .. 4 x 8");
            o.cat("f").fails(EPERM);
            o.remount_with("redirect_dir=nofollow");
            o.ls("e").fails(EPERM);
            o.remount_with("redirect_dir=on,metacopy=on,index=on");
            o.compare();
        });
}

/// L-24, L-25: everything with the other prefix
#[test]
fn userxattr_writes_the_user_prefix() {
    scenario()
        .lower(|l| {
            drop(l.file("a", "1").file("d/x", "").symlink("s", "t").chmod("", 0o777).chmod("d", 0o777))
        })
        .options("userxattr")
        .run(|o| {
            o.append("a", "x").ok();
            o.in_upper("a").shows("user.overlay.origin=v0");
            o.unlink("d/x").ok();
            o.rmdir("d").ok();
            o.mkdir("d").ok();
            o.in_upper("d").shows("user.overlay.opaque=\"y\"");
            o.chown("s", 1, 1).ok();
            o.rename("a", "b").ok();
            o.remount().ok();
            o.ls("d").lines(". 4 .. 4");
        });
}
