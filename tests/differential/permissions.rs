//! Who may do what, and what is cleared when it is done (section 5.1, and D-7).

use super::prelude::*;

///
#[test]
fn a_caller_is_judged_by_the_merged_attributes_before_and_after_copy_up() {
    scenario()
        .lower(|l| {
            l.file("own", "x").chown("own", 1000, 1000).chmod("own", 0o600);
            l.file("group", "x").chown("group", 0, 2000).chmod("group", 0o660);
            l.file("other", "x").chmod("other", 0o604).file("none", "x").chmod("none", 0o000);
        })
        .run(|o| {
            for _ in 0..2 {
                o.become_who(1000, 1000, &[2000]);
                o.cat("own").gives("x");
                o.cat("group").gives("x");
                o.cat("other").gives("x");
                o.cat("none").fails(EACCES);
                o.access("group", R_OK | W_OK).ok();
                o.access("other", W_OK).fails(EACCES);
                o.open(1, "other", O_RDWR).fails(EACCES);
                o.become_user(3000);
                o.cat("own").fails(EACCES);
                o.cat("group").fails(EACCES);
                o.become_root();
                for name in ["own", "group", "other", "none"] {
                    o.utimens(name, Stamp::Now, Stamp::Now).ok();
                }
            }
            o.become_user(1000);
            o.append("own", "y").ok();
            o.chmod("own", 0o644).ok();
            o.chown("own", 2000, u32::MAX).fails(EPERM);
        });
}

///
#[test]
fn sticky_directories_protect_what_belongs_to_others() {
    scenario()
        .lower(|l| {
            l.dir("tmp").chmod("tmp", 0o1777).file("tmp/theirs", "").chown("tmp/theirs", 2000, 2000);
            l.file("tmp/mine", "").chown("tmp/mine", 1000, 1000).chmod("tmp/theirs", 0o666);
        })
        .run(|o| {
            o.become_user(1000);
            o.unlink("tmp/theirs").fails(EPERM);
            o.rename("tmp/theirs", "tmp/x").fails(EPERM);
            o.put("tmp/new", "").ok();
            o.rename("tmp/new", "tmp/theirs").fails(EPERM);
            o.unlink("tmp/mine").ok();
            o.become_user(2000);
            o.unlink("tmp/new").fails(EPERM);
            o.unlink("tmp/theirs").ok();
        });
}

///
#[test]
fn ownership_decides_about_chmod_chown_and_times() {
    scenario().lower(|l| drop(l.file("f", "").chown("f", 1000, 1000).file("w", "").chmod("w", 0o666))).run(
        |o| {
            o.become_who(1000, 1000, &[1001]);
            o.chmod("f", 0o4755).ok();
            o.chown("f", u32::MAX, 1001).ok();
            o.stat("f").shows("owner=1000:1001 mode=100755");
            o.chown("f", u32::MAX, 3000).fails(EPERM);
            o.chown("f", 0, u32::MAX).fails(EPERM);
            o.utimens("f", Stamp::At(1, 1), Stamp::At(2, 2)).ok();
            o.utimens("w", Stamp::Now, Stamp::Now).ok();
            o.utimens("w", Stamp::At(1, 1), Stamp::At(2, 2)).fails(EPERM);
            o.utimens("w", Stamp::Now, Stamp::Omit).fails(EPERM);
            o.chmod("w", 0o644).fails(EPERM);
            o.become_who(1000, 1000, &[]);
            o.chmod("f", 0o2755).ok();
            o.stat("f").shows("mode=100755");
        },
    );
}

/// D-7
#[test]
fn new_objects_belong_to_the_caller() {
    scenario().lower(|l| drop(l.dir("d").chmod("d", 0o777).file("d/gone", "").chown("d/gone", 9, 9))).run(
        |o| {
            o.become_user(1000);
            o.put("d/f", "").ok();
            o.mkdir("d/e").ok();
            o.symlink("x", "d/s").ok();
            o.mknod("d/p", S_IFIFO | 0o644, 0, 0).ok();
            o.unlink("d/gone").ok();
            o.put("d/gone", "").ok();
            for name in ["d/f", "d/e", "d/s", "d/p", "d/gone"] {
                o.stat(name).shows("owner=1000:1000");
                o.in_upper(name).shows("owner=1000:1000");
            }
            o.become_who(0, 50, &[]);
            o.put("d/g", "").ok();
            o.stat("d/g").shows("owner=0:50");
        },
    );
}

/// D-7, failure 6 of the peers
#[test]
fn a_set_gid_directory_gives_its_group_and_its_bit() {
    scenario().lower(|l| drop(l.file("d/x", "").chown("d", 0, 3000).chmod("d", 0o2777).dir("d/sub"))).run(
        |o| {
            o.become_user(1000);
            o.put("d/f", "").ok();
            o.mkdir("d/e").ok();
            o.mkdir("d/e/deep").ok();
            o.symlink("x", "d/s").ok();
            o.mknod("d/p", S_IFIFO | 0o644, 0, 0).ok();
            o.stat("d/f").shows("owner=1000:3000 mode=100644");
            o.stat("d/e").shows("owner=1000:3000 mode=42755");
            o.stat("d/e/deep").shows("owner=1000:3000 mode=42755");
            o.stat("d/s").shows("owner=1000:3000");
            o.open_mode(1, "d/sgid", O_CREAT | O_RDWR, 0o2775).ok();
            o.stat("d/sgid").shows("mode=100755");
            o.become_root();
            o.unlink("d/x").ok();
            o.stat("d").shows("mode=42777 owner=0:3000");
        },
    );
}

/// A-3, F-42, failure 6 of the peers
#[test]
fn writing_by_a_stranger_clears_set_id_bits() {
    scenario()
        .lower(|l| {
            for name in ["write", "trunc", "alloc", "map", "copy", "otrunc"] {
                l.file(name, "data").chmod(name, 0o6777);
            }
            l.file("nox", "data").chmod("nox", 0o2666).file("from", "data").chmod("from", 0o644);
        })
        .run(|o| {
            o.become_user(1000);
            for (slot, name) in [(1, "write"), (2, "trunc"), (3, "alloc"), (4, "copy"), (5, "nox")] {
                o.open(slot, name, O_RDWR).ok();
            }
            o.open(6, "from", O_RDONLY).ok();
            o.stat("write").shows("mode=106777");
            o.write(1, "x").ok();
            o.stat("write").shows("mode=100777");
            o.truncate(2, 1).ok();
            o.stat("trunc").shows("mode=100777");
            o.fallocate(3, 0, 0, 100).ok();
            o.stat("alloc").ok();
            o.copy_range(6, 0, 4, 0, 4).counts(4);
            o.stat("copy").ok();
            o.write(5, "x").ok();
            o.stat("nox").ok();
            o.open(7, "otrunc", O_WRONLY | O_TRUNC).ok();
            o.stat("otrunc").ok();
        });
}

///
#[test]
fn writing_by_root_keeps_set_id_bits_and_clears_capabilities() {
    scenario()
        .lower(|l| {
            l.file("suid", "data").chmod("suid", 0o6777);
            for name in ["write", "trunc", "alloc", "owner"] {
                l.file(name, "data").chmod(name, 0o755).xattr(name, "security.capability", capability());
            }
        })
        .run(|o| {
            o.append("suid", "x").ok();
            o.stat("suid").shows("mode=106777");
            o.append("write", "x").ok();
            o.get("write", "security.capability").fails(ENODATA);
            o.truncate("trunc", 1).ok();
            o.get("trunc", "security.capability").fails(ENODATA);
            o.chown("owner", 5, 5).ok();
            o.get("owner", "security.capability").fails(ENODATA);
            o.open(1, "alloc", O_RDWR).ok();
            o.get("alloc", "security.capability").gives(capability());
            o.fallocate(1, 0, 0, 100).ok();
            o.get("alloc", "security.capability");
            o.chown("suid", 5, 5).ok();
            o.stat("suid").shows("mode=100777");
        });
}

///
#[test]
fn writing_through_a_descriptor_to_a_file_that_is_already_in_the_upper_clears_too() {
    scenario().lower(|l| drop(l.dir("d"))).run(|o| {
        o.put("f", "data").ok();
        o.chmod("f", 0o6777).ok();
        o.set("f", "security.capability", capability()).ok();
        o.become_user(1000);
        o.open(1, "f", O_RDWR).ok();
        o.pwrite(1, 0, "x").ok();
        o.stat(1).shows("mode=100777");
        o.get("f", "security.capability").fails(ENODATA);
        o.become_root();
        o.chmod("f", 0o6777).ok();
        o.pwrite(1, 0, "y").ok();
        o.stat("f").shows("mode=106777");
        o.become_user(1000);
        o.pwrite(1, 0, "z").ok();
        o.stat("f").shows("mode=100777");
    });
}

/// A-4, F-12failure 6 of the peers
#[test]
fn the_umask_applies_without_a_default_acl_and_not_with_one() {
    scenario()
        .lower(|l| {
            l.dir("plain").chmod("plain", 0o777).dir("acl").chmod("acl", 0o777);
            l.xattr("acl", "system.posix_acl_default", acl_for_user(0o775, 1000, 7));
        })
        .run(|o| {
            for mask in [0o077, 0o027, 0] {
                o.umask(mask);
                for (dir, n) in [("plain", mask), ("acl", mask)] {
                    o.open_mode(1, format!("{dir}/f{n}"), O_CREAT | O_RDWR, 0o666).ok();
                    o.mkdir_mode(format!("{dir}/d{n}"), 0o777).ok();
                    o.mkdir_mode(format!("{dir}/s{n}"), 0o1750).ok();
                    o.mknod(format!("{dir}/p{n}"), S_IFIFO | 0o666, 0, 0).ok();
                    for kind in ["f", "d", "s", "p"] {
                        let name = format!("{dir}/{kind}{n}");
                        o.stat(&name).ok();
                        o.xattrs(&name).ok();
                        o.get(&name, "system.posix_acl_access");
                        o.get(&name, "system.posix_acl_default");
                    }
                }
            }
            o.stat("plain/f63").shows("mode=100600");
            o.stat("acl/f63").shows("mode=100664");
        });
}

///
#[test]
fn access_lists_grant_deny_and_follow_chmod() {
    scenario()
        .lower(|l| {
            l.file("f", "x").xattr("f", "system.posix_acl_access", acl_for_user(0o640, 1000, 6));
            l.file("deny", "x").chmod("deny", 0o644);
            l.xattr("deny", "system.posix_acl_access", acl_for_user(0o644, 1000, 0));
        })
        .run(|o| {
            o.become_user(1000);
            o.append("f", "y").ok();
            o.cat("deny").fails(EACCES);
            o.become_user(1001);
            o.cat("f").fails(EACCES);
            o.cat("deny").gives("x");
            o.become_root();
            o.chmod("f", 0o600).ok();
            o.become_user(1000);
            o.cat("f").fails(EACCES);
            o.set("f", "system.posix_acl_access", acl_for_user(0o666, 1000, 7)).fails(EPERM);
            o.become_root();
            o.get("f", "system.posix_acl_access").ok();
            o.set("f", "system.posix_acl_access", acl_for_user(0o664, 1001, 4)).ok();
            o.stat("f").shows("mode=100664");
            o.unset("f", "system.posix_acl_access").ok();
            o.set("f", "system.posix_acl_default", acl_for_user(0o664, 1001, 4)).fails(EACCES);
            o.set("f", "system.posix_acl_access", "nonsense").fails(EOPNOTSUPP);
            // An ACL that says no more than the mode is stored as the mode.
            let plain = acl(&[(1, 6, u32::MAX), (4, 4, u32::MAX), (0x20, 0, u32::MAX)]);
            o.set("deny", "system.posix_acl_access", plain).ok();
            o.stat("deny").shows("mode=100640");
            o.xattrs("deny").lines("");
        });
}

///
#[test]
fn setting_an_access_list_by_a_stranger_to_the_group_clears_set_gid() {
    scenario().lower(|l| drop(l.file("f", "x").chown("f", 1000, 3000).chmod("f", 0o2755))).run(|o| {
        o.become_user(1000);
        o.set("f", "system.posix_acl_access", acl_for_user(0o755, 1001, 7)).ok();
        o.stat("f").ok();
    });
}

///
#[test]
fn modes_given_at_creation_are_kept_as_given() {
    scenario().lower(|l| drop(l.file("gone", "").dir("d"))).run(|o| {
        o.umask(0);
        o.unlink("gone").ok();
        o.open_mode(1, "gone", O_CREAT | O_WRONLY | O_EXCL, 0o000).ok();
        o.write(1, "written all the same").ok();
        o.open_mode(2, "f", O_CREAT | O_RDWR, 0o6711).ok();
        o.mkdir_mode("s", 0o3777).ok();
        o.open_mode(3, "d", O_TMPFILE | O_RDWR, 0o604).ok();
        o.link_slot(3, "d/t").ok();
        o.stat("gone").shows("mode=100000");
        o.stat("f").shows("mode=106711");
        o.stat("s").shows("mode=41777");
        o.stat("d/t").shows("mode=100604");
    });
}

///
#[test]
fn immutable_lower_files_and_directories_are_protected() {
    scenario()
        .lower(|l| {
            drop(l.file("f", "x").flags("f", IMMUTABLE).file("d/x", "").flags("d", IMMUTABLE).file("g", ""))
        })
        .run(|o| {
            o.append("f", "y").fails(EPERM);
            o.open(1, "f", O_RDWR).fails(EPERM);
            o.truncate("f", 0).fails(EPERM);
            o.unlink("f").fails(EPERM);
            o.rename("f", "h").fails(EPERM);
            o.rename("g", "f").fails(EPERM);
            o.link("f", "h").fails(EPERM);
            o.chmod("f", 0o600).fails(EPERM);
            o.set("f", "user.a", "1").fails(EPERM);
            o.utimens("f", Stamp::Now, Stamp::Now).fails(EPERM);
            o.put("d/new", "").fails(EPERM);
            o.unlink("d/x").fails(EPERM);
            o.rmdir("d").fails(EPERM);
            o.chmod("d", 0o700).fails(EPERM);
            o.append("d/x", "1");
            o.cat("f").gives("x");
            o.get_flags("f").counts(i64::from(IMMUTABLE));
            o.in_upper("f").fails(ENOENT);
        });
}

///
#[test]
fn flags_set_through_the_mount_protect_and_last() {
    scenario().lower(|l| drop(l.file("f", "x").file("d/x", ""))).run(|o| {
        o.put("n", "y").ok();
        for name in ["f", "n", "d"] {
            o.set_flags(name, IMMUTABLE).ok();
            o.get_flags(name).counts(i64::from(IMMUTABLE));
        }
        o.append("f", "z").fails(EPERM);
        o.unlink("n").fails(EPERM);
        o.put("d/y", "").fails(EPERM);
        o.in_upper("f").shows("trusted.overlay.protattr=\"i\"");
        o.remount().ok();
        o.append("f", "z").fails(EPERM);
        o.become_user(1000);
        o.set_flags("f", 0).fails(EPERM);
        o.become_root();
        for name in ["f", "n", "d"] {
            o.set_flags(name, 0).ok();
        }
        o.append("f", "z").ok();
        o.put("d/y", "").ok();
        o.in_upper("f").lacks("protattr");
    });
}

///
#[test]
fn what_was_open_before_a_file_was_protected_can_be_written_and_nothing_else() {
    for (flag, grows) in [(IMMUTABLE, false), (APPEND_ONLY, true)] {
        scenario().lower(|l| drop(l.file("f", "lower").file("from", "data"))).run(move |o| {
            o.open(1, "f", O_RDWR).ok();
            o.open(2, "from", O_RDONLY).ok();
            o.set_flags("f", flag).ok();
            o.pwrite(1, 0, "still").ok();
            for mode in [0, libc::FALLOC_FL_KEEP_SIZE] {
                let done = o.fallocate(1, mode, 0, 8192);
                if grows {
                    done.ok();
                } else {
                    done.fails(EPERM);
                }
            }
            o.fallocate(1, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 0, 4096).fails(EPERM);
            let cut = o.truncate(1, 5);
            if grows {
                cut.fails(EPERM);
            } else {
                cut.ok();
            }
            o.copy_range(2, 0, 1, 0, 4);
            o.set_flags("f", 0).ok();
            o.truncate(1, 5).ok();
            o.copy_range(2, 0, 1, 0, 4).counts(4);
            o.cat("f").gives("datal");
        });
    }
}

/// A-8, F-28
#[test]
fn file_flags_work_on_files_and_directories_through_both_interfaces() {
    scenario().lower(|l| drop(l.file("f", "x").dir("d").flags("d", NO_ATIME))).run(|o| {
        o.get_flags("d").counts(i64::from(NO_ATIME));
        o.get_fsx("d").ok();
        o.set_flags("f", SYNC | NO_ATIME).ok();
        o.get_flags("f").counts(i64::from(SYNC | NO_ATIME));
        o.get_fsx("f").ok();
        o.set_fsx("f", 0x40, 0).ok();
        o.get_flags("f").ok();
        o.set_flags("d", 0).ok();
        o.in_upper("d").ok();
        o.set_flags("f", APPEND_ONLY | IMMUTABLE).ok();
        o.in_upper("f").ok();
        o.get_fsx("f").ok();
        o.set_flags("f", 0).ok();
        o.ioctl("f", 0x1234_5678).fails(ENOTTY);
        o.ioctl("d", 0x5401).fails(ENOTTY);
        o.become_user(1000);
        o.set_flags("f", SYNC).fails(EPERM);
    });
}

///
#[test]
fn a_program_can_be_executed_before_and_after_its_copy_up() {
    let program = std::fs::read("/bin/true").unwrap_or_default();
    scenario().lower(move |l| drop(l.file("bin/true", &program).chmod("bin/true", 0o755))).run(|o| {
        o.execute("bin/true").counts(0);
        o.chmod("bin/true", 0o711).ok();
        o.execute("bin/true").counts(0);
        o.become_user(1000);
        o.execute("bin/true").counts(0);
        o.become_root();
        o.chmod("bin/true", 0o644).ok();
        o.execute("bin/true").fails(EACCES);
        o.open(1, "bin/true", O_RDWR).ok();
        o.chmod("bin/true", 0o755).ok();
        o.execute("bin/true").fails(ETXTBSY);
    });
}

///
#[test]
fn devices_and_sockets_in_lower_layers_are_usable() {
    scenario()
        .lower(|l| drop(l.node("null", S_IFCHR | 0o666, 1, 3).node("zero", S_IFCHR | 0o444, 1, 5).fifo("p")))
        .run(|o| {
            o.open(1, "zero", O_RDONLY).ok();
            o.read(1, 4).gives([0, 0, 0, 0]);
            o.mknod("new", S_IFCHR | 0o600, 1, 5).ok();
            o.open(2, "new", O_RDONLY).ok();
            o.read(2, 2).gives([0, 0]);
            o.become_user(1000);
            o.open(3, "null", O_WRONLY).ok();
            o.open(3, "new", O_RDONLY).fails(EACCES);
        });
}
