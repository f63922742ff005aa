//! Reading directories (section 4.2).

use std::path::Path;

use super::prelude::*;

fn many(count: usize, prefix: &'static str) -> impl Fn(&Layer) + Send + Sync + 'static {
    move |l| (0..count).for_each(|number| drop(l.file(format!("d/{prefix}{number:03}"), "")))
}

fn removed(path: &Path) -> Vec<String> {
    vec![format!("{:?}", std::fs::remove_dir_all(path))]
}

/// I-12
#[test]
fn a_merged_listing_has_every_name_once_with_its_type() {
    scenario()
        .lower(|l| {
            l.file("d/both", "")
                .symlink("d/s", "x")
                .fifo("d/p")
                .node("d/c", S_IFCHR, 1, 3)
                .whiteout("d/gone");
            l.node("d/k", S_IFSOCK, 0, 0).node("d/b", libc::S_IFBLK, 1, 1);
        })
        .lower(|l| drop(l.file("d/both", "").dir("d/sub").file("d/gone", "").file("d/s", "")))
        .run(|o| {
            let all = ". 4 .. 4 b 6 both 8 c 2 k 12 p 1 s 10 sub 4";
            o.ls("d").lines(all);
            o.put("d/both", "").ok();
            o.ls("d").lines(all);
            o.open(1, "d", O_RDONLY).ok();
            o.list_slot(1, 64).lines(all);
        });
}

/// I-12
#[test]
fn d_ino_is_st_ino_in_every_state_of_an_entry() {
    scenario()
        .lower(|l| {
            drop(l.file("d/low", "").file("d/copied", "").file("d/moved", "").dir("d/sub").file("x", ""))
        })
        .lower(|l| drop(l.file("d/second", "").dir("d/sub/deep")))
        .run(|o| {
            o.append("d/copied", "1").ok();
            o.rename("d/moved", "d/there").ok();
            o.rename("x", "d/x").ok();
            o.put("d/new", "").ok();
            o.mkdir("d/sub/new").ok();
            o.mkdir("pure").ok();
            o.rename("d/low", "pure/low").ok();
            for dir in ["", "d", "d/sub", "pure"] {
                o.ls(dir).ok();
            }
            o.compare();
            o.remount().ok();
            o.compare();
        });
}

/// I-13
#[test]
fn a_position_can_be_returned_to() {
    scenario().lower(many(40, "a")).lower(many(40, "b")).run(|o| {
        o.open(1, "d", O_RDONLY).ok();
        o.list_some(1, 30).counts(30);
        o.list_rest(1, 200).lines("");
        for keep in [25, 11, 1, 0] {
            o.seek_entry(1, keep).ok();
            o.list_rest(1, 120).lines("");
        }
    });
}

/// I-13
#[test]
fn survivors_are_returned_once_although_others_come_and_go() {
    scenario().lower(many(60, "a")).lower(many(60, "b")).run(|o| {
        o.open(1, "d", O_RDONLY).ok();
        o.list_some(1, 40).counts(40);
        o.remove_listed(1, 10, true).counts(10);
        o.remove_listed(1, 10, false).counts(10);
        (0..20).for_each(|number| drop(o.put(format!("d/new{number}"), "")));
        o.list_rest(1, 300).lines("");
        o.seek_entry(1, 20).ok();
        o.list_rest(1, 300).lines("");
        // Which names are left depends on the order of the listing.
        o.each(|mount| removed(&mount.join("d"))).lines("Ok(())");
    });
}

/// I-13
#[test]
fn positions_work_in_directories_of_one_layer_too() {
    scenario().lower(many(60, "a")).run(|o| {
        o.mkdir("new").ok();
        (0..60).for_each(|number| drop(o.put(format!("new/{number}"), "")));
        for (slot, dir) in [(1, "d"), (2, "new")] {
            o.open(slot, dir, O_RDONLY).ok();
            o.list_some(slot, 25).counts(25);
            o.remove_listed(slot, 5, true).counts(5);
            o.list_rest(slot, 100).lines("");
            o.seek_entry(slot, 7).ok();
            o.list_rest(slot, 100).lines("");
            o.each(|mount| removed(&mount.join(dir))).lines("Ok(())");
        }
    });
}

/// I-14
#[test]
fn removing_each_entry_right_after_reading_it_visits_all_of_them() {
    scenario().lower(many(150, "a")).lower(many(150, "b")).run(|o| {
        (0..50).for_each(|number| drop(o.put(format!("d/c{number:03}"), "")));
        o.open(1, "d", O_RDONLY).ok();
        o.drain(1, 100).shows("a000 1 a149 1 b000 1 b149 1 c000 1 c049 1");
        o.rmdir("d").ok();
        o.in_upper("d").lines("whiteout");
    });
}

/// I-15, failure 7 of the peers
#[test]
fn going_back_to_the_beginning_shows_changes() {
    scenario().lower(|l| drop(l.file("d/a", "").file("d/b", ""))).lower(|l| drop(l.file("d/c", ""))).run(
        |o| {
            o.open(1, "d", O_RDONLY).ok();
            o.list_slot(1, 4096).lines(". 4 .. 4 a 8 b 8 c 8");
            o.unlink("d/a").ok();
            o.put("d/new", "").ok();
            o.rename("d/c", "d/e").ok();
            o.seek(1, 0, SEEK_SET).counts(0);
            o.list_slot(1, 4096).lines(". 4 .. 4 b 8 e 8 new 8");
            o.unlink("@1/b").ok();
            o.seek(1, 0, SEEK_SET).counts(0);
            o.list_slot(1, 4096).lines(". 4 .. 4 e 8 new 8");
        },
    );
}

/// I-15
#[test]
fn two_descriptors_of_a_directory_read_independently() {
    scenario().lower(many(20, "a")).lower(many(20, "b")).run(|o| {
        o.open(1, "d", O_RDONLY).ok();
        o.open(2, "d", O_RDONLY).ok();
        o.list_some(1, 10).counts(10);
        o.list_some(2, 30).counts(30);
        o.put("d/new", "").ok();
        o.list_rest(1, 100).lines("");
        o.list_rest(2, 100).lines("");
    });
}

/// I-12
#[test]
fn reading_a_directory_needs_the_right_to() {
    scenario().lower(|l| drop(l.file("x/f", "").chmod("x", 0o711).file("r/f", "").chmod("r", 0o744))).run(
        |o| {
            o.become_user(1000);
            o.ls("x").fails(EACCES);
            o.stat("x/f").ok();
            o.stat("r/f").fails(EACCES);
            o.open(1, "r", O_RDONLY).ok();
        },
    );
}

/// I-12
#[test]
fn a_buffer_too_small_for_one_entry_is_refused() {
    scenario().lower(|l| drop(l.file(format!("d/{}", "n".repeat(200)), ""))).lower(|l| drop(l.dir("d"))).run(
        |o| {
            o.open(1, "d", O_RDONLY).ok();
            o.list_slot(1, 60).fails(EINVAL);
            o.open(2, "d", O_RDONLY).ok();
            o.list_slot(2, 300).ok();
            o.read(2, 10).fails(EISDIR);
        },
    );
}

/// I-12, I-17
#[test]
fn large_directories_are_listed_completely() {
    scenario().lower(many(900, "a")).lower(many(900, "b")).run(|o| {
        (0..900).step_by(3).for_each(|number| o.unlink(format!("d/a{number:03}")).ok());
        o.ls("d").ok();
        o.open(1, "d", O_RDONLY).ok();
        o.list_slot(1, 512).ok();
    });
}

/// I-12
#[test]
fn listings_are_right_on_every_filesystem() {
    for fs in [Fs::Xfs, Fs::Btrfs, Fs::Tmpfs] {
        scenario().on(fs).lower(many(30, "a")).lower(many(30, "b")).run(|o| {
            o.unlink("d/a001").ok();
            o.rename("d/b001", "d/b2").ok();
            o.open(1, "d", O_RDONLY).ok();
            o.list_some(1, 20).counts(20);
            o.put("d/new", "").ok();
            o.list_rest(1, 100).lines("");
            o.seek_entry(1, 3).ok();
            o.list_rest(1, 100).lines("");
            o.seek(1, 0, SEEK_SET).ok();
            o.drain(1, 80).ok();
            o.rmdir("d").ok();
        });
    }
}

/// A-22
#[test]
fn listing_a_directory_of_the_upper_advances_its_access_time() {
    scenario().lower(|l| drop(l.file("m/f", "").file("low/f", ""))).run(|o| {
        o.mkdir("d").ok();
        o.put("d/f", "").ok();
        o.put("m/new", "").ok();
        for name in ["d", "m"] {
            o.ls(name).ok();
            for _ in 0..2 {
                o.utimens(name, Stamp::At(10, 1), Stamp::At(20, 2)).ok();
                o.times(name).lines("atime=10.000000001 mtime=20.000000002");
                o.ls(name).ok();
                o.times(name).lines("atime=now mtime=20.000000002");
            }
        }
        o.remember("low").ok();
        o.ls("low").ok();
        o.changed("low").lacks("atime");
    });
}

/// I-12: the mark goes when the directory is listed and nothing in it needs it any more.
#[test]
fn a_directory_whose_last_copied_up_child_has_gone_is_pure_again() {
    scenario().lower(|l| drop(l.file("f", "").file("g", ""))).run(|o| {
        o.mkdir("d").ok();
        o.put("d/own", "").ok();
        o.rename("f", "d/f").ok();
        o.rename("g", "d/g").ok();
        for gone in ["d/f", "d/g"] {
            o.ls("d").ok();
            o.in_upper("d").shows("trusted.overlay.impure=\"y\"");
            o.unlink(gone).ok();
        }
        o.ls("d").ok();
        o.in_upper("d").lacks("impure");
        o.put("h", "").ok();
        o.rename("h", "d/h").ok();
        o.in_upper("d").lacks("impure");
    });
}
