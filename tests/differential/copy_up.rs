//! Copy-up: what triggers it, what it preserves, how it is published (sections 2.1 to 2.3).

use super::prelude::*;

fn files(names: &'static [&'static str]) -> impl Fn(&Layer) + Send + Sync + 'static {
    move |l| names.iter().for_each(|name| drop(l.file(name, "data").xattr(name, "user.a", "1")))
}

/// C-1
#[test]
fn opening_for_writing_in_any_form_copies_up() {
    scenario().lower(files(&["rw", "w", "a", "t", "rt", "c"])).run(|o| {
        for (name, flags) in [
            ("rw", O_RDWR),
            ("w", O_WRONLY),
            ("a", O_WRONLY | O_APPEND),
            ("t", O_WRONLY | O_TRUNC),
            ("rt", O_RDONLY | O_TRUNC),
            ("c", O_RDWR | O_CREAT),
        ] {
            o.open(1, name, flags).ok();
            o.in_upper(name).shows("f0644");
            o.stat(name).shows(&format!("ino=L1:{name}"));
        }
    });
}

/// C-1
#[test]
fn every_change_of_attributes_copies_up_even_without_effect() {
    scenario().lower(files(&["mode", "owner", "time", "same", "grow", "set", "unset", "link", "move"])).run(
        |o| {
            o.chmod("mode", 0o644).ok();
            o.chown("owner", 0, 0).ok();
            o.utimens("time", Stamp::At(5, 6), Stamp::Omit).ok();
            o.truncate("same", 4).ok();
            o.truncate("grow", 9).ok();
            o.set("set", "user.b", "2").ok();
            o.unset("unset", "user.a").ok();
            o.link("link", "link2").ok();
            o.rename("move", "moved").ok();
            for name in ["mode", "owner", "time", "same", "grow", "set", "unset", "link", "link2", "moved"] {
                o.in_upper(name).shows("f0644");
            }
        },
    );
}

/// C-1, A-8
#[test]
fn fallocate_and_file_flags_copy_up() {
    scenario().lower(files(&["alloc", "flags"])).run(|o| {
        o.open(1, "alloc", O_RDWR).ok();
        o.fallocate(1, 0, 0, 100).ok();
        o.set_flags("flags", NO_ATIME).ok();
        o.in_upper("alloc").shows("size=100");
        o.in_upper("flags").shows("size=4");
    });
}

/// C-2
#[test]
fn looking_reading_and_locking_do_not_copy_up() {
    scenario()
        .lower(|l| {
            drop(l.file("f", "data").xattr("f", "user.a", "1").dir("d").symlink("s", "f").chmod("f", 0o666))
        })
        .run(|o| {
            o.open(1, "f", O_RDONLY).ok();
            o.read(1, 10).gives("data");
            o.access("f", W_OK).ok();
            o.get("f", "user.a").gives("1");
            o.xattrs("f").ok();
            o.fsync(1).ok();
            o.flock(1, LOCK_EX).ok();
            o.ofd_lock(1, libc::F_RDLCK).ok();
            o.map_private(1, 1, 4096, true).ok();
            o.map_write(1, 0, "private").counts(7);
            o.utimens("f", Stamp::Omit, Stamp::Omit).ok();
            o.get_flags("f").ok();
            o.readlink("s").gives("f");
            o.ls("d").ok();
            o.open(2, "d", O_RDONLY).ok();
            o.fsync(2).ok();
            for name in ["f", "d", "s"] {
                o.in_upper(name).fails(ENOENT);
            }
        });
}

/// C-2, A-24
#[test]
fn opening_fifos_and_devices_for_writing_does_not_copy_up() {
    scenario().lower(|l| drop(l.fifo("p").node("null", S_IFCHR | 0o666, 1, 3))).run(|o| {
        o.open(1, "p", O_RDWR | O_NONBLOCK).ok();
        o.write(1, "through").counts(7);
        o.read(1, 20).gives("through");
        o.open(2, "null", O_RDWR).ok();
        o.write(2, "away").counts(4);
        o.open(3, "null", O_WRONLY | O_TRUNC).ok();
        o.in_upper("p").fails(ENOENT);
        o.in_upper("null").fails(ENOENT);
    });
}

/// C-3
#[test]
fn a_denied_request_leaves_no_trace() {
    scenario().lower(|l| drop(l.file("d/f", "x").chmod("d/f", 0o644).file("p/f", "").chmod("p", 0o700))).run(
        |o| {
            o.become_user(1000);
            o.append("d/f", "y").fails(EACCES);
            o.chmod("d/f", 0o777).fails(EPERM);
            o.chown("d/f", 1000, 1000).fails(EPERM);
            o.set("d/f", "user.x", "1").fails(EACCES);
            o.truncate("d/f", 0).fails(EACCES);
            o.utimens("d/f", Stamp::Now, Stamp::Now).fails(EACCES);
            o.utimens("d/f", Stamp::At(1, 1), Stamp::At(1, 1)).fails(EPERM);
            o.unlink("d/f").fails(EACCES);
            o.put("d/new", "").fails(EACCES);
            o.rename("d/f", "d/g").fails(EACCES);
            o.link("d/f", "d/h").fails(EPERM);
            o.append("p/f", "y").fails(EACCES);
            o.become_root();
            o.in_upper("d").fails(ENOENT);
            o.in_upper("p").fails(ENOENT);
        },
    );
}

/// C-4, C-12
#[test]
fn directories_are_copied_up_with_their_ancestors_and_without_their_content() {
    scenario()
        .lower(|l| {
            l.file("a/b/c/f", "").file("a/b/other", "").file("a/x", "").chmod("a", 0o2750).chown("a/b", 7, 8);
            l.chmod("a/b", 0o1777).xattr("a/b", "user.k", "v").chmod("a/b/c", 0o700);
        })
        .run(|o| {
            o.mkdir("a/b/c/new").ok();
            o.in_upper("a").shows("d2750 trusted.overlay.impure=\"y\"");
            o.in_upper("a/b").shows("d1777 owner=7:8 user.k=\"v\"");
            o.in_upper("a/b/c").shows("d0700 mtime=now");
            o.in_upper("a/b/other").fails(ENOENT);
            o.in_upper("a/x").fails(ENOENT);
            o.times("a").shows("mtime=1001000100.123456789");
            o.ls("a/b").lines(". 4 .. 4 c 4 other 8");
        });
}

/// C-4
#[test]
fn a_change_of_a_directory_itself_copies_up_that_directory() {
    scenario().lower(|l| drop(l.file("d/e/f", "").file("d/g", ""))).run(|o| {
        o.chmod("d/e", 0o711).ok();
        o.in_upper("d/e").shows("d0711 trusted.overlay.origin=v0");
        o.in_upper("d/e/f").fails(ENOENT);
        o.utimens("d", Stamp::At(9, 9), Stamp::At(9, 9)).ok();
        o.times("d").lines("atime=9.000000009 mtime=9.000000009");
        o.ls("d/e").lines(". 4 .. 4 f 8");
    });
}

/// C-5
#[test]
fn mode_owner_times_and_attributes_survive() {
    scenario()
        .lower(|l| {
            l.file("f", "content").chown("f", 3_000_000_000, 4_000_000_000).chmod("f", 0o6751);
            l.xattr("f", "user.a", b"\0binary\xff").xattr("f", "trusted.t", "2").xattr("f", "user.empty", "");
            l.times("f", (100, 1), (200, 999_999_999));
        })
        .run(|o| {
            o.set("f", "user.new", "1").ok();
            o.stat("f").shows("mode=106751 owner=3000000000:4000000000 size=7 mtime=200.999999999");
            o.times("f").lines("atime=100.000000001 mtime=200.999999999");
            o.get("f", "user.a").gives(b"\0binary\xff");
            o.in_upper("f").shows("f6751 owner=3000000000:4000000000 mtime=200.999999999");
        });
}

/// C-5, failure 3 of the peers
#[test]
fn times_before_1970_and_after_2038_survive() {
    scenario()
        .lower(|l| {
            l.file("old", "").times("old", (-1, 500_000_000), (-2_000_000_000, 1));
            l.file("new", "").times("new", (5_000_000_000, 7), (6_000_000_000, 8));
            l.dir("d").times("d", (-5, 0), (-6, 999_999_999)).symlink("s", "x").times("s", (-7, 3), (-8, 4));
        })
        .run(|o| {
            for name in ["old", "new", "d", "s"] {
                o.times(name).ok();
                o.chown(name, 5, 5).ok();
                o.times(name).ok();
                o.in_upper(name).ok();
            }
            o.times("old").lines("atime=-1.500000000 mtime=-2000000000.000000001");
            o.utimens("new", Stamp::At(-3, 999), Stamp::At(-1, 999_999_999)).ok();
            o.times("new").lines("atime=-3.000000999 mtime=-1.999999999");
        });
}

/// C-5
#[test]
fn symlinks_devices_fifos_and_sockets_are_copied_up_as_they_are() {
    scenario()
        .lower(|l| {
            l.symlink("s", "to/somewhere").chown("s", 11, 12).node("c", S_IFCHR | 0o640, 10, 200);
            l.node("b", libc::S_IFBLK | 0o600, 7, 99).fifo("p").node("k", S_IFSOCK | 0o755, 0, 0);
        })
        .run(|o| {
            for name in ["s", "c", "b", "p", "k"] {
                o.chown(name, 20, 21).ok();
                o.in_upper(name).shows("owner=20:21");
                o.stat(name).shows(&format!("ino=L1:{name}"));
            }
            o.readlink("s").gives("to/somewhere");
            o.stat("c").shows("device=10,200");
        });
}

/// C-5, A-4
#[test]
fn access_lists_survive() {
    scenario()
        .lower(|l| {
            l.file("f", "").xattr("f", "system.posix_acl_access", acl_for_user(0o640, 1000, 6));
            l.dir("d").xattr("d", "system.posix_acl_default", acl_for_user(0o750, 1001, 7));
            l.xattr("d", "system.posix_acl_access", acl_for_user(0o770, 1002, 5));
        })
        .run(|o| {
            o.utimens("f", Stamp::Now, Stamp::Now).ok();
            o.put("d/new", "").ok();
            o.mkdir("d/sub").ok();
            o.xattrs("d").lines("system.posix_acl_access system.posix_acl_default");
            o.xattrs("d/sub").lines("system.posix_acl_access system.posix_acl_default");
            o.become_user(1000);
            o.append("f", "by the list").ok();
        });
}

/// C-5, C-6
#[test]
fn a_capability_survives_a_copy_up_that_is_not_a_write() {
    scenario()
        .lower(|l| {
            drop(l.file("f", "program").chmod("f", 0o755).xattr("f", "security.capability", capability()))
        })
        .run(|o| {
            o.chmod("f", 0o711).ok();
            o.get("f", "security.capability").gives(capability());
            o.in_upper("f").shows("f0711");
            o.utimens("f", Stamp::Now, Stamp::Now).ok();
            o.rename("f", "g").ok();
            o.get("g", "security.capability").gives(capability());
        });
}

/// C-8, A-7
#[test]
fn append_only_and_immutable_are_recorded_and_not_set_on_the_upper() {
    scenario()
        .lower(|l| {
            drop(l.file("log", "line\n").flags("log", APPEND_ONLY).file("s", "").flags("s", SYNC | NO_ATIME))
        })
        .run(|o| {
            o.append("log", "more\n").ok();
            o.in_upper("log").shows("trusted.overlay.protattr=\"a\"");
            o.put("log", "").fails(EPERM);
            o.unlink("log").fails(EPERM);
            o.get_flags("log").counts(i64::from(APPEND_ONLY));
            o.append("s", "1").ok();
            o.get_flags("s").counts(i64::from(SYNC | NO_ATIME));
            o.remount().ok();
            o.unlink("log").fails(EPERM);
            o.append("log", "again\n").ok();
        });
}

/// C-9
#[test]
fn holes_survive() {
    scenario()
        .lower(|l| {
            l.sparse("s", 64 << 20, &[(0, b"head"), (40 << 20, b"middle"), ((64 << 20) - 4, b"tail")]);
            l.sparse("hole", 16 << 20, &[]);
        })
        .run(|o| {
            o.open(1, "s", O_RDWR).ok();
            o.seek(1, 8 << 20, SEEK_DATA).counts(40 << 20);
            o.seek(1, 8 << 20, SEEK_HOLE).counts(8 << 20);
            o.pread(1, 40 << 20, 6).gives("middle");
            o.chmod("hole", 0o600).ok();
            o.open(2, "hole", O_RDONLY).ok();
            o.seek(2, 0, SEEK_DATA).fails(ENXIO);
            o.stat("hole").shows("size=16777216");
            o.blocks("hole").counts(0);
        });
}

/// C-10
#[test]
fn large_files_are_copied_whole_on_every_filesystem() {
    for fs in [Fs::Ext4, Fs::Xfs, Fs::Btrfs, Fs::Tmpfs] {
        scenario()
            .on(fs)
            .lower(|l| {
                let block: Vec<u8> =
                    (0..3_000_001_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
                l.file("big", &block);
            })
            .run(|o| {
                o.open(1, "big", O_RDWR).ok();
                o.pwrite(1, 1_000_000, "changed").counts(7);
                o.stat("big").shows("size=3000001");
            });
    }
}

/// C-11
#[test]
fn truncating_at_open_keeps_everything_else() {
    scenario()
        .lower(|l| {
            drop(l.file("f", "long content").chown("f", 5, 6).chmod("f", 0o640).xattr("f", "user.a", "1"))
        })
        .run(|o| {
            o.remember("f").ok();
            o.open(1, "f", O_WRONLY | O_TRUNC).ok();
            o.stat("f").shows("size=0 owner=5:6 mode=100640 ino=L1:f");
            o.get("f", "user.a").gives("1");
            o.changed("f").shows("size mtime ctime").lacks("ino");
            o.write(1, "new").ok();
            o.cat("f").gives("new");
        });
}

/// C-12
#[test]
fn the_times_of_the_parent_are_those_from_before_the_copy_up() {
    scenario().lower(|l| drop(l.file("d/f", "x").file("d/e/g", "y"))).run(|o| {
        o.chmod("d", 0o755).ok();
        o.utimens("d", Stamp::At(77, 7), Stamp::At(88, 8)).ok();
        o.append("d/f", "z").ok();
        o.chmod("d/e", 0o700).ok();
        o.times("d").shows("mtime=88.000000008");
        o.in_upper("d").shows("mtime=88.000000008 trusted.overlay.impure=\"y\"");
    });
}

/// C-13
#[test]
fn every_copied_object_has_an_origin_except_a_broken_hard_link() {
    scenario()
        .lower(|l| drop(l.file("f", "").symlink("s", "x").fifo("p").dir("d").file("h", "").link("h", "h2")))
        .run(|o| {
            for name in ["f", "s", "p", "d"] {
                o.chown(name, 1, 1).ok();
                o.in_upper(name).shows("trusted.overlay.origin=v0").shows(&format!("L1:{name}"));
            }
            o.chown("h", 1, 1).ok();
            o.in_upper("h").lacks("trusted.overlay.origin");
        });
}

/// C-13
#[test]
fn origins_name_the_file_on_every_filesystem() {
    for fs in [Fs::Xfs, Fs::Btrfs, Fs::Tmpfs] {
        scenario().on(fs).lower(|l| drop(l.file("d/f", ""))).run(|o| {
            o.append("d/f", "x").ok();
            o.in_upper("d/f").shows("L1:d/f");
            o.in_upper("d").shows("L1:d");
        });
    }
}

/// C-13
#[test]
fn a_lower_on_another_filesystem_gives_an_origin_too() {
    for below in [Fs::Xfs, Fs::Btrfs, Fs::Tmpfs] {
        scenario().lower_on(below, |l| drop(l.file("d/f", "").symlink("s", "t"))).run(|o| {
            o.append("d/f", "x").ok();
            o.chown("s", 3, 3).ok();
            o.in_upper("d/f").ok();
            o.in_upper("d").ok();
            o.in_upper("s").ok();
        });
    }
}

/// C-14, C-15, failure 4 of the peers
#[test]
fn leftovers_in_the_work_directory_vanish_at_mount_and_are_never_used() {
    scenario().lower(|l| drop(l.file("f", "right").file("g", ""))).run(|o| {
        o.append("g", "1").ok();
        o.meanwhile(|set| {
            let work = set.work.as_ref().unwrap().join("work");
            for name in ["#1", "#2", "#a", "1", "junk"] {
                std::fs::write(work.join(name), "another file's data").unwrap();
            }
            std::fs::create_dir_all(work.join("#3/deep")).unwrap();
            std::fs::write(work.join("#3/file"), "x").unwrap();
        });
        o.in_work("work").lines("");
        o.append("f", "!").ok();
        o.cat("f").gives("right!");
    });
}

/// C-15
#[test]
fn the_work_directory_is_closed_to_everybody_and_empty_after_use() {
    scenario().lower(|l| drop(l.file("d/f", "").file("e", ""))).run(|o| {
        o.append("d/f", "x").ok();
        o.unlink("e").ok();
        o.unlink("d/f").ok();
        o.rmdir("d").ok();
        o.mkdir("d").ok();
        o.symlink("x", "s").ok();
        o.put("e", "").ok();
    });
}

/// C-16
#[test]
fn all_settings_of_fsync_give_the_same_tree() {
    for options in ["fsync=auto", "fsync=strict", "fsync=volatile", "volatile"] {
        scenario().lower(|l| drop(l.file("d/f", "x"))).options(options).without_swap().run(|o| {
            o.append("d/f", "y").ok();
            o.open(1, "d/f", O_RDWR).ok();
            o.fsync(1).ok();
            o.fdatasync(1).ok();
            o.syncfs(1).ok();
            o.cat("d/f").gives("xy");
        });
    }
}

/// C-23, A-22
#[test]
fn no_access_changes_the_access_times_of_a_lower_layer() {
    scenario().lower(|l| drop(l.file("d/f", "x").symlink("d/s", "f"))).run(|o| {
        for _ in 0..2 {
            o.cat("d/f").gives("x");
            o.ls("d").ok();
            o.readlink("d/s").gives("f");
            o.cat("d/s").gives("x");
            o.open(1, "d/f", O_RDONLY).ok();
            o.map(1, 1, 4096, false).ok();
            o.map_read(1, 0, 1).gives("x");
            o.copy_range(1, 0, 1, 0, 0);
            o.remount().ok();
        }
        o.append("d/f", "y").ok();
    });
}
