//! Descriptors, mappings, locks and watches that are older than the copy-up (section 2.4).

use super::prelude::*;

/// C-19
#[test]
fn a_descriptor_opened_before_the_copy_up_sees_the_new_content() {
    scenario().lower(|l| drop(l.file("f", "old content"))).run(|o| {
        o.open(1, "f", O_RDONLY).ok();
        o.read(1, 3).gives("old");
        o.open(2, "f", O_RDWR).ok();
        o.pwrite(2, 0, "NEW").counts(3);
        o.pread(1, 0, 20).gives("NEW content");
        o.read(1, 20).gives(" content");
        o.append("f", " and more").ok();
        o.read(1, 20).gives(" and more");
        o.stat(1).shows("size=20 ino=L1:f");
        o.same(1, "f").counts(1);
        o.same(1, 2).counts(1);
    });
}

/// C-19
#[test]
fn attributes_through_an_old_descriptor_are_those_of_the_copy() {
    scenario().lower(|l| drop(l.file("f", "x"))).run(|o| {
        o.open(1, "f", O_RDONLY).ok();
        o.fsync(1).ok();
        o.chmod(1, 0o600).ok();
        o.stat("f").shows("mode=100600 ino=L1:f");
        o.chown(1, 3, 4).ok();
        o.utimens(1, Stamp::At(1, 2), Stamp::At(3, 4)).ok();
        o.stat(1).shows("owner=3:4 mtime=3.000000004");
        o.set(1, "user.a", "b").ok();
        o.get("f", "user.a").gives("b");
        o.truncate(1, 0).fails(EINVAL);
        o.write(1, "x").fails(EBADF);
    });
}

/// C-19, failure 1 of the peers
#[test]
fn a_writer_that_comes_after_a_reader_never_reaches_the_lower_file() {
    scenario().lower(|l| drop(l.file("db", vec![b'a'; 8192]))).run(|o| {
        o.open(1, "db", O_RDONLY).ok();
        o.read(1, 4096).ok();
        o.map(1, 1, 8192, false).ok();
        o.map_read(1, 0, 10).ok();
        o.open(2, "db", O_RDWR).ok();
        o.pwrite(2, 0, vec![b'b'; 4096]).counts(4096);
        o.map(2, 2, 8192, true).ok();
        o.map_write(2, 5000, "mapped").counts(6);
        o.map_sync(2).ok();
        o.fsync(2).ok();
        o.pread(1, 0, 2).gives("bb");
        o.pread(1, 5000, 6).gives("mapped");
        o.open(3, "db", O_RDONLY).ok();
        o.pread(3, 4999, 2).gives("am");
        o.close(1).ok();
        o.open(1, "db", O_RDWR | O_APPEND).ok();
        o.write(1, "end").counts(3);
        o.stat("db").shows("size=8195");
    });
}

/// C-20
#[test]
fn a_mapping_made_before_the_copy_up_shows_old_or_new_data() {
    scenario().lower(|l| drop(l.file("f", "old"))).run(|o| {
        o.open(1, "f", O_RDONLY).ok();
        o.map(1, 1, 4096, false).ok();
        o.map_read(1, 0, 3).gives("old");
        o.open(2, "f", O_WRONLY).ok();
        o.pwrite(2, 0, "new").counts(3);
        let new = [Ok(Value::Bytes(b"new".to_vec()))];
        o.either(Op::MapRead { map: 1, offset: 0, len: 3 }, &new).gives("old");
        o.map(2, 1, 4096, false).ok();
        o.either(Op::MapRead { map: 2, offset: 0, len: 3 }, &new).gives("old");
        o.open(3, "f", O_RDONLY).ok();
        o.map(3, 3, 4096, false).ok();
        o.map_read(3, 0, 3).gives("new");
    });
}

/// C-21
#[test]
fn locks_taken_before_the_copy_up_conflict_with_those_taken_after() {
    scenario().lower(|l| drop(l.file("f", "x").file("g", "x"))).run(|o| {
        o.open(1, "f", O_RDONLY).ok();
        o.flock(1, LOCK_EX).ok();
        o.open(2, "f", O_RDWR).ok();
        o.flock(2, LOCK_EX).fails(EAGAIN);
        o.flock(2, LOCK_SH).fails(EAGAIN);
        o.close(1).ok();
        o.flock(2, LOCK_EX).ok();
        o.open(3, "g", O_RDONLY).ok();
        o.ofd_lock(3, libc::F_RDLCK).ok();
        o.append("g", "y").ok();
        o.open(4, "g", O_RDWR).ok();
        o.ofd_lock(4, libc::F_WRLCK).fails(EAGAIN);
        o.ofd_lock(3, libc::F_UNLCK).ok();
        o.ofd_lock(4, libc::F_WRLCK).ok();
    });
}

/// C-22
#[test]
fn watches_placed_before_the_copy_up_report_what_happens_after() {
    scenario().lower(|l| drop(l.file("d/f", "x").file("d/g", "y"))).run(|o| {
        o.watch("d/f", libc::IN_MODIFY | libc::IN_ATTRIB | libc::IN_DELETE_SELF | libc::IN_CLOSE_WRITE).ok();
        o.watch("d", libc::IN_CREATE | libc::IN_DELETE | libc::IN_MOVED_FROM | libc::IN_MOVED_TO).ok();
        o.append("d/f", "z").ok();
        o.events().ok();
        o.chmod("d/f", 0o600).ok();
        o.events().ok();
        o.put("d/new", "").ok();
        o.rename("d/g", "d/h").ok();
        o.unlink("d/f").ok();
        o.events().ok();
    });
}

/// C-24
#[test]
fn an_open_lower_file_can_be_read_after_its_name_is_gone() {
    scenario().lower(|l| drop(l.file("f", "still here"))).run(|o| {
        o.open(1, "f", O_RDONLY).ok();
        o.unlink("f").ok();
        o.read(1, 100).gives("still here");
        o.put("f", "another").ok();
        o.pread(1, 0, 100).gives("still here");
        o.same(1, "f").counts(0);
        o.stat(1).ok();
        o.open(1, "f", O_RDONLY).ok();
        o.read(1, 100).gives("another");
    });
}

/// C-24
#[test]
fn attributes_of_an_unlinked_lower_file_are_refused_or_right() {
    scenario().lower(|l| drop(l.file("f", "x").file("g", "y"))).run(|o| {
        o.open(1, "f", O_RDONLY).ok();
        o.open(2, "g", O_RDONLY).ok();
        o.unlink("f").ok();
        o.unlink("g").ok();
        o.chmod(1, 0o600).fails(EEXIST);
        o.set(2, "user.a", "1").fails(EEXIST);
    });
}

/// C-24
#[test]
fn an_open_copied_up_file_behaves_normally_after_unlink() {
    scenario().lower(|l| drop(l.file("f", "data"))).run(|o| {
        o.open(1, "f", O_RDWR).ok();
        o.unlink("f").ok();
        o.stat(1).shows("links=0 size=4");
        o.chmod(1, 0o600).ok();
        o.truncate(1, 2).ok();
        o.pwrite(1, 1, "zzz").counts(3);
        o.pread(1, 0, 10).gives("dzzz");
        o.set(1, "user.a", "1").ok();
        o.get(1, "user.a").gives("1");
        o.utimens(1, Stamp::At(1, 1), Stamp::At(2, 2)).ok();
        o.fsync(1).ok();
        o.stat(1).shows("mode=100600 mtime=2.000000002 links=0");
        o.link_slot(1, "back").fails(ENOENT);
    });
}

/// failure 7 of the peers
#[test]
fn an_open_new_file_behaves_normally_after_unlink_and_after_being_replaced() {
    scenario().lower(|l| drop(l.dir("d"))).run(|o| {
        o.open(1, "d/f", O_RDWR | O_CREAT).ok();
        o.write(1, "one").ok();
        o.put("d/g", "two").ok();
        o.rename("d/g", "d/f").ok();
        o.pread(1, 0, 9).gives("one");
        o.stat(1).shows("links=0");
        o.truncate(1, 1).ok();
        o.cat("d/f").gives("two");
        o.open(2, "d/f", O_RDONLY).ok();
        o.unlink("d/f").ok();
        o.rmdir("d").ok();
        o.read(2, 9).gives("two");
        o.chmod(2, 0o400).ok();
        o.stat(2).shows("mode=100400 links=0");
    });
}

/// C-19
#[test]
fn a_descriptor_follows_its_file_through_renames() {
    scenario().lower(|l| drop(l.file("f", "x").dir("d"))).run(|o| {
        o.open(1, "f", O_RDONLY).ok();
        o.rename("f", "d/g").ok();
        o.append("d/g", "y").ok();
        o.pread(1, 0, 9).gives("xy");
        o.rename("d/g", "h").ok();
        o.chmod(1, 0o611).ok();
        o.stat("h").shows("mode=100611 ino=L1:f");
        o.same(1, "h").counts(1);
    });
}

/// C-17
#[test]
fn several_descriptors_write_to_one_copy() {
    scenario().lower(|l| drop(l.file("f", "....."))).run(|o| {
        for slot in 1..5 {
            o.open(slot, "f", O_RDWR).ok();
        }
        for slot in 1..5 {
            o.pwrite(slot, i64::from(slot), [b'0' + slot]).counts(1);
        }
        for slot in 1..5 {
            o.pread(slot, 0, 9).gives(".1234");
        }
    });
}

/// D-15
#[test]
fn a_directory_removed_while_open_is_empty_and_takes_nothing_new() {
    scenario().lower(|l| drop(l.file("d/x", "").dir("low"))).run(|o| {
        o.mkdir("new").ok();
        for (slot, name) in [(1, "d"), (2, "low"), (3, "new")] {
            o.open(slot, name, O_RDONLY | O_DIRECTORY).ok();
        }
        o.unlink("d/x").ok();
        for (slot, name) in [(1_u8, "d"), (2, "low"), (3, "new")] {
            o.rmdir(name).ok();
            o.put(format!("@{slot}/f"), "").fails(ENOENT);
            o.mkdir(format!("@{slot}/e")).fails(ENOENT);
            o.stat(&format!("@{slot}/x")).fails(ENOENT);
            o.list_slot(slot, 4096);
        }
    });
}
