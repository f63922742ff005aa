//! Reading, writing, holes, copies, temporary files, space (section 5.3).

use super::prelude::*;

const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

///
#[test]
fn data_and_holes_are_found_in_the_file_that_has_the_data() {
    scenario()
        .lower(|l| {
            drop(l.sparse("f", 1 << 20, &[(0, b"a"), (1 << 19, b"b")]).file("empty", "").file("full", "x"))
        })
        .run(|o| {
            o.open(1, "f", O_RDONLY).ok();
            o.seek(1, 0, SEEK_HOLE).counts(4096);
            o.seek(1, 4096, SEEK_DATA).counts(1 << 19);
            o.seek(1, (1 << 19) + 4096, SEEK_DATA).fails(ENXIO);
            o.seek(1, 1 << 20, SEEK_HOLE).fails(ENXIO);
            o.seek(1, -1, SEEK_SET).fails(EINVAL);
            o.seek(1, -1, SEEK_DATA).fails(ENXIO);
            o.seek(1, i64::MIN, SEEK_HOLE).fails(ENXIO);
            o.seek(1, -1, SEEK_END).counts((1 << 20) - 1);
            o.chmod("f", 0o600).ok();
            // C-9: the kernel copies the whole first MiB; keeping the holes is better.
            o.either(Op::Seek { slot: 1, offset: 0, whence: SEEK_HOLE }, &[Ok(Value::Number(4096))]).ok();
            o.open(2, "full", O_RDONLY).ok();
            o.seek(2, 0, SEEK_HOLE).counts(1);
            o.open(3, "empty", O_RDONLY).ok();
            o.seek(3, 0, SEEK_DATA).fails(ENXIO);
        });
}

///
#[test]
fn space_can_be_allocated_and_punched() {
    scenario().lower(|l| drop(l.file("f", vec![b'x'; 20000]))).run(|o| {
        o.open(1, "f", O_RDWR).ok();
        o.fallocate(1, PUNCH, 4096, 8192).ok();
        o.pread(1, 4095, 3).gives(b"x\0\0");
        o.seek(1, 0, SEEK_HOLE).counts(4096);
        o.fallocate(1, libc::FALLOC_FL_KEEP_SIZE, 0, 1 << 20).ok();
        o.stat("f").shows("size=20000");
        o.fallocate(1, libc::FALLOC_FL_ZERO_RANGE, 0, 10).ok();
        o.fallocate(1, 0, 0, 30000).ok();
        o.stat("f").shows("size=30000");
        o.fallocate(1, 0, 0, 0).fails(EINVAL);
        o.open(2, "f", O_RDONLY).ok();
        o.fallocate(2, 0, 0, 10).fails(EBADF);
    });
}

/// A limit: the FUSE client of the kernel passes nothing on but allocation, punching and zeroing.
#[test]
fn ranges_are_collapsed_and_inserted_or_that_is_refused_as_unsupported() {
    scenario().lower(|l| drop(l.dir("d"))).run(|o| {
        for mode in [libc::FALLOC_FL_COLLAPSE_RANGE, libc::FALLOC_FL_INSERT_RANGE] {
            o.put("f", vec![b'x'; 20000]).ok();
            o.open(1, "f", O_RDWR).ok();
            o.either(Op::Fallocate { slot: 1, mode, offset: 4096, len: 4096 }, &[Err(EOPNOTSUPP)]).ok();
            // It differs now.
            o.unlink("f").ok();
        }
    });
}

///
#[test]
fn ranges_are_copied_from_lower_and_upper_files() {
    scenario().lower(|l| drop(l.file("from", "0123456789").file("to", "abcdefghij"))).run(|o| {
        o.open(1, "from", O_RDONLY).ok();
        o.open(2, "to", O_RDWR).ok();
        o.copy_range(1, 2, 2, 4, 3).counts(3);
        o.cat("to").gives("abcd234hij");
        o.copy_range(1, 8, 2, 9, 100).counts(2);
        o.cat("to").gives("abcd234hi89");
        o.copy_range(2, 0, 2, 20, 5).counts(5);
        o.copy_range(2, 0, 2, 2, 5).fails(EINVAL);
        o.copy_range(2, 0, 1, 0, 5).fails(EBADF);
        o.copy_range(1, 50, 2, 0, 5).counts(0);
    });
}

///
#[test]
fn direct_io_works_on_lower_and_upper_files() {
    scenario().lower(|l| drop(l.file("f", vec![b'l'; 8192]))).run(|o| {
        o.open(1, "f", O_RDONLY | O_DIRECT).ok();
        o.direct_read(1, 4096, 4096).gives(vec![b'l'; 4096]);
        o.open(2, "f", O_RDWR | O_DIRECT).ok();
        o.direct_write(2, 0, vec![b'd'; 4096]).counts(4096);
        o.pread(1, 0, 0).ok();
        o.direct_read(1, 0, 4096).gives(vec![b'd'; 4096]);
        o.open(3, "f", O_RDWR).ok();
        o.pread(3, 4095, 2).gives("dl");
        o.map(1, 3, 8192, true).ok();
        o.map_write(1, 4096, "mapped").counts(6);
        o.direct_read(2, 4096, 4096).ok();
        o.stat("f").shows("size=8192");
    });
}

///
#[test]
fn mappings_and_descriptors_are_coherent_and_reach_the_upper() {
    scenario().lower(|l| drop(l.file("f", "0123456789"))).run(|o| {
        o.open(1, "f", O_RDWR).ok();
        o.open(2, "f", O_RDONLY).ok();
        o.map(1, 1, 4096, true).ok();
        o.map(2, 2, 4096, false).ok();
        o.map_write(1, 0, "map").counts(3);
        o.pread(2, 0, 5).gives("map34");
        o.map_read(2, 0, 5).gives("map34");
        o.pwrite(1, 5, "write").counts(5);
        o.map_read(1, 4, 6).gives("4write");
        o.map_read(2, 4, 6).gives("4write");
        o.map_sync(1).ok();
        o.truncate("f", 4).ok();
        o.map_read(2, 0, 4).gives("map3");
        o.append("f", "!").ok();
        o.map_read(2, 0, 5).gives("map3!");
        o.unmap(1).ok();
        o.close(1).ok();
        o.in_upper("f").shows("size=5");
    });
}

/// A-15, F-9
#[test]
fn a_private_mapping_changes_nothing() {
    scenario().lower(|l| drop(l.file("f", "lower"))).run(|o| {
        o.open(1, "f", O_RDONLY).ok();
        o.map_private(1, 1, 4096, true).ok();
        o.map_write(1, 0, "mine!").counts(5);
        o.map_read(1, 0, 5).gives("mine!");
        o.cat("f").gives("lower");
        o.map(2, 1, 4096, true).fails(EACCES);
    });
}

/// F-41
#[test]
fn a_cached_reader_sees_what_another_descriptor_wrote() {
    scenario().lower(|l| drop(l.file("f", vec![b'o'; 5000]))).run(|o| {
        for round in 0..3_u8 {
            o.open(1, "f", O_RDONLY).ok();
            o.pread(1, 0, 5000).ok();
            o.close(1).ok();
            o.open(2, "f", O_RDWR).ok();
            o.pwrite(2, i64::from(round) * 1000, [b'0' + round; 1000]).counts(1000);
            o.close(2).ok();
            o.open(1, "f", O_RDONLY).ok();
            o.pread(1, 0, 5000).ok();
            o.close(1).ok();
        }
    });
}

///
#[test]
fn appending_descriptors_write_at_the_end_always() {
    scenario().lower(|l| drop(l.file("f", "start"))).run(|o| {
        o.open(1, "f", O_RDWR | O_APPEND).ok();
        o.open(2, "f", O_WRONLY | O_APPEND).ok();
        o.write(1, "1").ok();
        o.write(2, "22").ok();
        o.pwrite(1, 0, "3").ok();
        o.seek(1, 0, SEEK_CUR).ok();
        o.truncate("f", 3).ok();
        o.write(2, "4").ok();
        o.cat("f").gives("sta4");
    });
}

///
#[test]
fn a_temporary_file_has_no_name_until_it_is_linked() {
    scenario().lower(|l| drop(l.file("d/x", "").file("d/gone", ""))).run(|o| {
        o.open_mode(1, "d", O_TMPFILE | O_RDWR, 0o640).ok();
        o.write(1, "content").ok();
        o.stat(1).shows("links=0 size=7 mode=100640");
        o.set(1, "user.a", "1").ok();
        o.ls("d").lines(". 4 .. 4 gone 8 x 8");
        o.link_slot(1, "d/x").fails(EEXIST);
        o.unlink("d/gone").ok();
        o.link_slot(1, "d/gone").ok();
        o.stat(1).shows("links=1");
        o.cat("d/gone").gives("content");
        o.same(1, "d/gone").counts(1);
        o.link_slot(1, "second").ok();
        o.open(2, "d", O_TMPFILE | O_RDWR | O_EXCL).ok();
        o.link_slot(2, "d/never").fails(ENOENT);
        o.open(3, "d", O_TMPFILE | O_RDONLY).fails(EINVAL);
        o.open(3, "d/x", O_TMPFILE | O_RDWR).fails(ENOTDIR);
    });
}

///
#[test]
fn a_temporary_file_belongs_to_its_caller() {
    scenario().lower(|l| drop(l.dir("d").chown("d", 0, 3000).chmod("d", 0o2777))).run(|o| {
        o.become_user(1000);
        o.umask(0o027);
        o.open_mode(1, "d", O_TMPFILE | O_RDWR, 0o666).ok();
        o.stat(1).shows("owner=1000:3000 mode=100640");
        o.become_root();
        o.link_slot(1, "d/t").ok();
    });
}

///
#[test]
fn locks_are_kept_per_open_file() {
    scenario().lower(|l| drop(l.file("f", "x"))).run(|o| {
        o.open(1, "f", O_RDWR).ok();
        o.open(2, "f", O_RDWR).ok();
        o.flock(1, LOCK_SH).ok();
        o.flock(2, LOCK_SH).ok();
        o.flock(1, LOCK_EX).fails(EAGAIN);
        o.flock(2, LOCK_UN).ok();
        o.flock(1, LOCK_EX).ok();
        o.ofd_lock(1, libc::F_WRLCK).ok();
        o.ofd_lock(2, libc::F_RDLCK).fails(EAGAIN);
        o.close(1).ok();
        o.ofd_lock(2, libc::F_RDLCK).ok();
        o.flock(2, LOCK_EX).ok();
    });
}

///
#[test]
fn syncing_works_on_everything() {
    scenario().lower(|l| drop(l.file("d/f", "x").file("g", "y"))).run(|o| {
        o.open(1, "d/f", O_RDWR).ok();
        o.write(1, "z").ok();
        o.fsync(1).ok();
        o.fdatasync(1).ok();
        o.open(2, "g", O_RDONLY).ok();
        o.fsync(2).ok();
        o.open(3, "d", O_RDONLY).ok();
        o.fsync(3).ok();
        o.fdatasync(3).ok();
        o.syncfs(3).ok();
        o.open(4, "", O_RDONLY).ok();
        o.fsync(4).ok();
        o.open(5, "g", O_PATH).ok();
        o.fsync(5).fails(EBADF);
    });
}

///
#[test]
fn statfs_tells_about_the_filesystem_of_the_upper() {
    for fs in [Fs::Ext4, Fs::Xfs, Fs::Btrfs, Fs::Tmpfs] {
        scenario().on(fs).lower_on(Fs::Tmpfs, |l| drop(l.file("f", ""))).run(|o| {
            o.statfs("").shows("namelen=255 readonly=0");
            o.statfs("f").shows("namelen=255");
        });
    }
}

///
#[test]
fn times_of_upper_files_follow_what_happens() {
    scenario().lower(|l| drop(l.file("f", "x").dir("d"))).run(|o| {
        o.put("n", "data").ok();
        o.utimens("n", Stamp::At(10, 1), Stamp::At(20, 2)).ok();
        o.times("n").lines("atime=10.000000001 mtime=20.000000002");
        o.chmod("n", 0o600).ok();
        o.times("n").lines("atime=10.000000001 mtime=20.000000002");
        o.append("n", "y").ok();
        o.times("n").lines("atime=10.000000001 mtime=now");
        o.utimens("f", Stamp::Omit, Stamp::At(30, 3)).ok();
        o.times("f").shows("mtime=30.000000003");
        o.truncate("f", 1).ok();
        o.times("f").ok();
        o.truncate("f", 0).ok();
        o.times("f").shows("mtime=now");
    });
}

/// the flags of the union's mount decide, whatever those of the mount that the upper is in
#[test]
fn access_times_of_the_upper_move_as_the_flags_of_the_mount_say() {
    for options in ["relatime", "noatime", "strictatime", "nodiratime"] {
        scenario().lower(|l| drop(l.file("low", "x").dir("m"))).options(options).run(move |o| {
            for dir in ["due", "fresh"] {
                o.mkdir(dir).ok();
            }
            let long_ago = Stamp::At(10, 1);
            let to_come = Stamp::At(4_000_000_000, 1);
            for (name, atime) in [("due", long_ago), ("fresh", to_come)] {
                let file = format!("{name}/f");
                o.put(&file, "data").ok();
                o.utimens(&file, atime, Stamp::At(20, 2)).ok();
                o.utimens(name, atime, Stamp::At(20, 2)).ok();
            }
            o.chmod("low", 0o600).ok();
            o.utimens("low", long_ago, Stamp::At(20, 2)).ok();
            // What the kernel still has in memory is read without asking anybody.
            o.remount().ok();
            for name in ["due/f", "fresh/f", "low"] {
                o.cat(name).ok();
                o.times(name).ok();
            }
            for name in ["due", "fresh"] {
                o.ls(name).ok();
                o.times(name).ok();
            }
            let seen = if options == "noatime" { "atime=10.000000001" } else { "atime=now" };
            o.times("due/f").shows(seen);
        });
    }
}

///
#[test]
fn change_times_move_when_they_should() {
    scenario().lower(|l| drop(l.file("f", "x").file("d/g", "y").dir("e"))).run(|o| {
        o.chmod("f", 0o600).ok();
        o.chmod("d/g", 0o600).ok();
        o.chmod("e", 0o700).ok();
        o.remember("f").ok();
        o.link("f", "f2").ok();
        o.changed("f").lines("ctime links");
        o.remember("f").ok();
        o.rename("f", "f3").ok();
        o.changed_since("f3", "f").lines("ctime");
        o.remember("d").ok();
        o.rename("d/g", "e/g").ok();
        o.changed("d").shows("ctime mtime");
        o.remember("e").ok();
        o.put("e/new", "").ok();
        o.changed("e").shows("ctime mtime");
        o.remember("e").ok();
        o.unlink("e/new").ok();
        o.changed("e").shows("ctime mtime");
        o.remember("e/g").ok();
        o.set("e/g", "user.a", "1").ok();
        o.changed("e/g").lines("ctime");
        o.remember("e/g").ok();
        o.append("e/g", "1").ok();
        o.changed("e/g").shows("ctime mtime size");
        o.remember("f3").ok();
        o.unlink("f2").ok();
        o.changed("f3").lines("ctime links");
    });
}

///
#[test]
fn without_an_upper_every_change_is_refused() {
    scenario()
        .lower(|l| drop(l.file("f", "x").dir("d").xattr("f", "user.a", "1").chmod("f", 0o666)))
        .lower(|l| drop(l.file("d/g", "y").file("gone", "")))
        .without_upper()
        .run(|o| {
            o.cat("f").gives("x");
            o.cat("d/g").gives("y");
            o.ls("").lines(". 4 .. 4 d 4 f 8 gone 8");
            o.open(1, "f", O_RDWR).fails(EROFS);
            o.open(1, "f", O_RDONLY | O_TRUNC).fails(EROFS);
            o.open(1, "f", O_RDONLY | O_CREAT).ok();
            o.open(1, "new", O_RDONLY | O_CREAT).fails(EROFS);
            o.open(1, "d", O_TMPFILE | O_RDWR).fails(EROFS);
            o.chmod("f", 0o600).fails(EROFS);
            o.chown("f", 1, 1).fails(EROFS);
            o.utimens("f", Stamp::Now, Stamp::Now).fails(EROFS);
            o.truncate("f", 0).fails(EROFS);
            o.set("f", "user.b", "1").fails(EROFS);
            o.unset("f", "user.a").fails(EROFS);
            o.unlink("f").fails(EROFS);
            o.rmdir("d").fails(EROFS);
            o.mkdir("n").fails(EROFS);
            o.mkdir("d").fails(EEXIST);
            o.symlink("x", "n").fails(EROFS);
            o.link("f", "n").fails(EROFS);
            o.rename("f", "n").fails(EROFS);
            o.mknod("n", S_IFIFO, 0, 0).fails(EROFS);
            o.access("f", W_OK).fails(EROFS);
            o.access("f", R_OK).ok();
            o.set_flags("f", SYNC).fails(EROFS);
            o.statfs("").shows("readonly=1");
            o.become_user(1000);
            o.access("f", W_OK).fails(EROFS);
            o.open(1, "f", O_WRONLY).fails(EROFS);
        });
}

///
#[test]
fn a_mount_with_an_upper_can_be_read_only_too() {
    scenario().lower(|l| drop(l.file("f", "x"))).upper(|l| drop(l.file("u", "y"))).options("ro").run(|o| {
        o.cat("u").gives("y");
        o.append("u", "z").fails(EROFS);
        o.unlink("f").fails(EROFS);
        o.access("u", W_OK).fails(EROFS);
    });
}

///
#[test]
fn sparse_writes_and_truncations_leave_zeroes() {
    scenario().lower(|l| drop(l.file("f", "0123456789"))).run(|o| {
        o.truncate("f", 3).ok();
        o.truncate("f", 6).ok();
        o.cat("f").gives(b"012\0\0\0");
        o.open(1, "f", O_RDWR).ok();
        o.pwrite(1, 10_000, "far").ok();
        o.pread(1, 5, 10).gives([0; 10]);
        o.truncate(1, 1 << 40).ok();
        o.stat("f").shows("size=1099511627776");
        o.pwrite(1, (1 << 40) - 1, "e").ok();
        o.pread(1, (1 << 40) - 2, 10).gives(b"\0e");
        o.truncate("f", -1).fails(EINVAL);
    });
}

/// FUSE has no FICLONE
#[test]
fn cloning_a_file_works_or_is_refused_as_unsupported() {
    for fs in [Fs::Ext4, Fs::Xfs, Fs::Btrfs] {
        scenario().on(fs).lower(|l| drop(l.file("f", vec![b'x'; 8192]))).run(|o| {
            o.open(1, "f", O_RDONLY).ok();
            o.open(2, "to", O_RDWR | O_CREAT).ok();
            o.either(Op::Clone { from: 1, to: 2 }, &[Err(EOPNOTSUPP), Err(ENOTTY)]);
            o.unlink("to").ok();
        });
    }
}
