//! Metadata-only copy-up and data-only layers (section 2.5).

use super::prelude::*;

fn one(l: &Layer) {
    l.file("f", "0123456789").file("d/g", "data").xattr("f", "user.a", "1").chmod("f", 0o755);
    l.xattr("f", "security.capability", capability());
}

/// C-25
#[test]
fn a_change_of_attributes_copies_no_data() {
    scenario().lower(one).options("metacopy=on").run(|o| {
        o.chmod("f", 0o711).ok();
        o.in_upper("f").shows("f0711 size=10 trusted.overlay.metacopy=\"\" data=none");
        o.cat("f").gives("0123456789");
        o.get("f", "security.capability").gives(capability());
        o.chown("d/g", 5, 6).ok();
        o.in_upper("d/g").shows("owner=5:6 trusted.overlay.metacopy=\"\" data=none");
        o.stat("d/g").shows("size=4 ino=L1:d/g");
    });
}

/// C-25
#[test]
fn every_trigger_that_needs_no_data_is_metadata_only() {
    scenario()
        .lower(|l| {
            ["time", "set", "link", "move", "flags"].iter().for_each(|name| drop(l.file(name, "data")))
        })
        .options("metacopy=on")
        .run(|o| {
            o.utimens("time", Stamp::At(1, 1), Stamp::At(2, 2)).ok();
            o.set("set", "user.x", "1").ok();
            o.link("link", "link2").ok();
            o.rename("move", "moved").ok();
            for name in ["time", "set", "link", "moved"] {
                o.in_upper(name).shows("trusted.overlay.metacopy=\"\"");
            }
            o.cat("link2").gives("data");
            o.cat("moved").gives("data");
        });
}

/// C-25
#[test]
fn blocks_are_those_of_the_data() {
    scenario().lower(|l| drop(l.file("f", vec![b'x'; 40960]))).options("metacopy=on").run(|o| {
        o.chmod("f", 0o600).ok();
        o.blocks("f").counts(80);
        o.stat("f").shows("size=40960");
    });
}

/// C-25
#[test]
fn the_first_open_for_writing_brings_the_data() {
    scenario().lower(one).options("metacopy=on").run(|o| {
        o.chmod("f", 0o711).ok();
        o.open(1, "f", O_RDONLY).ok();
        o.open(2, "f", O_RDWR).ok();
        o.in_upper("f").lacks("metacopy").shows("size=10");
        o.get("f", "security.capability").gives(capability());
        o.pwrite(2, 2, "XX").counts(2);
        o.pread(1, 0, 20).gives("01XX456789");
        o.get("f", "security.capability").fails(ENODATA);
    });
}

/// C-25
#[test]
fn truncation_of_a_metacopy_file_brings_only_what_is_needed() {
    scenario().lower(one).options("metacopy=on").run(|o| {
        o.chmod("f", 0o700).ok();
        o.truncate("f", 4).ok();
        o.cat("f").gives("0123");
        o.in_upper("f").lacks("metacopy");
        o.chmod("d/g", 0o600).ok();
        o.open(1, "d/g", O_WRONLY | O_TRUNC).ok();
        o.in_upper("d/g").shows("size=0").lacks("metacopy");
    });
}

/// C-25
#[test]
fn a_metacopy_file_keeps_everything_across_remounts() {
    scenario().lower(one).options("metacopy=on").run(|o| {
        o.chmod("f", 0o700).ok();
        o.set("f", "user.b", "2").ok();
        o.remount().ok();
        o.cat("f").gives("0123456789");
        o.xattrs("f").lines("security.capability user.a user.b");
        o.append("f", "!").ok();
        o.remount().ok();
        o.cat("f").gives("0123456789!");
    });
}

/// C-26
#[test]
fn renaming_a_metacopy_file_records_where_its_data_is() {
    scenario().lower(one).options("metacopy=on").run(|o| {
        o.chmod("f", 0o700).ok();
        o.rename("f", "near").ok();
        o.in_upper("near").shows("trusted.overlay.redirect=\"f\"");
        o.rename("near", "d/far").ok();
        o.in_upper("d/far").shows("trusted.overlay.redirect=\"/f\"");
        o.rename("d/g", "up").ok();
        o.in_upper("up").shows("trusted.overlay.redirect=\"/d/g\"");
        o.cat("d/far").gives("0123456789");
        o.remount().ok();
        o.cat("up").gives("data");
        o.append("d/far", "!").ok();
        o.in_upper("d/far").shows("trusted.overlay.redirect=\"/f\"").lacks("metacopy");
        o.remount().ok();
        o.cat("d/far").gives("0123456789!");
        o.stat("d/far").shows("ino=L1:f");
    });
}

/// C-26
#[test]
fn a_metacopy_file_follows_its_renamed_parents() {
    scenario().lower(|l| drop(l.file("a/b/f", "data"))).options("metacopy=on,redirect_dir=on").run(|o| {
        o.chmod("a/b/f", 0o600).ok();
        o.rename("a/b", "c").ok();
        o.cat("c/f").gives("data");
        o.rename("c/f", "g").ok();
        o.in_upper("g").shows("trusted.overlay.redirect=\"/a/b/f\"");
        o.remount().ok();
        o.cat("g").gives("data");
    });
}

/// C-27
#[test]
fn data_only_layers_show_no_names_and_give_data() {
    scenario()
        .lower(|l| {
            l.sparse("f", 7, &[]).metacopy("f").redirect("f", "/store/a");
            l.sparse("d/g", 6, &[]).metacopy("d/g").redirect("d/g", "/store/b").chmod("d/g", 0o600);
        })
        .data(|l| drop(l.file("store/a", "first!!").file("visible", "")))
        .data(|l| drop(l.file("store/b", "second").file("store/a", "shadowed")))
        .options("metacopy=on")
        .run(|o| {
            o.ls("").lines(". 4 .. 4 d 4 f 8");
            o.stat("store").fails(ENOENT);
            o.cat("f").gives("first!!");
            o.cat("d/g").gives("second");
            o.append("f", "more").ok();
            o.cat("f").gives("first!!more");
            o.chmod("d/g", 0o640).ok();
            o.rename("d/g", "h").ok();
            o.cat("h").gives("second");
            o.put("store", "").ok();
        });
}

/// C-27
#[test]
fn a_relative_redirect_does_not_reach_into_a_data_only_layer() {
    scenario()
        .lower(|l| {
            l.sparse("rel", 4, &[]).metacopy("rel").redirect("rel", "a");
            l.sparse("same", 4, &[]).metacopy("same");
        })
        .data(|l| drop(l.file("a", "data").file("same", "data")))
        .options("metacopy=on")
        .run(|o| {
            o.stat("rel");
            o.cat("rel");
            o.stat("same");
            o.cat("same");
        });
}

/// C-27
#[test]
fn missing_data_is_an_error_and_never_zeroes() {
    scenario()
        .lower(|l| {
            l.sparse("f", 4, &[]).metacopy("f").redirect("f", "/gone");
            l.sparse("g", 4, &[]).metacopy("g");
        })
        .lower(|l| drop(l.file("other", "")))
        .options("metacopy=on")
        .run(|o| {
            o.stat("f");
            o.cat("f");
            o.stat("g");
            o.cat("g");
            o.append("f", "x");
            o.chmod("f", 0o600);
            o.unlink("f");
        });
}

/// C-27
#[test]
fn missing_data_in_a_data_only_layer_is_found_out_when_it_is_needed() {
    scenario()
        .lower(|l| drop(l.sparse("f", 4, &[]).metacopy("f").redirect("f", "/gone")))
        .data(|l| drop(l.file("other", "")))
        .options("metacopy=on")
        .run(|o| {
            o.stat("f").shows("size=4");
            o.cat("f").fails(ENOENT);
            o.open(1, "f", O_RDWR);
            o.chmod("f", 0o600);
            o.unlink("f");
        });
}

/// C-25, I-6
#[test]
fn metacopy_and_index_work_together() {
    scenario().lower(|l| drop(l.file("f", "shared").link("f", "d/f2"))).options("metacopy=on,index=on").run(
        |o| {
            o.chmod("f", 0o600).ok();
            o.stat("d/f2").shows("mode=100600 links=2 ino=L1:d/f2");
            o.append("d/f2", "!").ok();
            o.cat("f").gives("shared!");
            o.remount().ok();
            o.same("f", "d/f2").counts(1);
        },
    );
}

/// C-25
#[test]
fn metacopy_works_on_every_filesystem() {
    for fs in [Fs::Xfs, Fs::Btrfs, Fs::Tmpfs] {
        scenario().on(fs).lower(|l| drop(l.file("f", "data").file("g", "data"))).options("metacopy=on").run(
            |o| {
                o.chmod("f", 0o600).ok();
                o.rename("f", "h").ok();
                o.chown("g", 1, 1).ok();
                o.append("g", "!").ok();
                o.remount().ok();
                o.cat("h").gives("data");
            },
        );
    }
}
