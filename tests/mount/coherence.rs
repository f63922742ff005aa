//! What the kernel was told before a change must not be believed after it.

use std::fs::{self, Metadata};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use crate::support::sys::{self, Stamp};
use crate::world::{Ground, World, on_both_paths, under, write_over};

fn stat(w: &World, path: &str) -> Metadata {
    fs::symlink_metadata(w.at(path)).unwrap()
}

/// Past the granularity of the kernel's clock for times.
fn tick() {
    std::thread::sleep(Duration::from_millis(12));
}

#[test]
fn attributes_after_a_copy_up_are_those_of_the_upper_c5() {
    on_both_paths(60, |path| {
        let w = Ground::new(|l| fs::write(l.join("f"), vec![1; 10_000]).unwrap()).mount(path);
        let before = stat(&w, "f");
        tick();
        let fd = w.open("f", libc::O_WRONLY);
        let (after, real) = (stat(&w, "f"), fs::metadata(w.in_upper("f")).unwrap());
        assert_eq!(after.ino(), before.ino());
        assert_eq!((after.mtime(), after.mtime_nsec()), (before.mtime(), before.mtime_nsec()));
        assert_ne!((after.ctime(), after.ctime_nsec()), (before.ctime(), before.ctime_nsec()));
        assert_eq!((after.ctime(), after.ctime_nsec()), (real.ctime(), real.ctime_nsec()));
        assert_eq!(after.blocks(), real.blocks());
        sys::pwrite(fd.as_raw_fd(), 100_000, b"x").unwrap();
        sys::fsync(fd.as_raw_fd()).unwrap();
        let (after, real) = (stat(&w, "f"), fs::metadata(w.in_upper("f")).unwrap());
        assert_eq!((after.len(), after.blocks()), (100_001, real.blocks()));
        assert_eq!((after.mtime(), after.mtime_nsec()), (real.mtime(), real.mtime_nsec()));
        drop(fd);
        w.end();
    });
}

/// F-25
#[test]
fn hard_links_share_what_is_known_of_them_i7() {
    under(60, || {
        let w = Ground::new(|l| fs::write(l.join("lower"), b"abc").unwrap()).mount("");
        for name in ["lower", "new"] {
            if name == "new" {
                fs::write(w.at(name), b"abc").unwrap();
            }
            let second = format!("{name}-link");
            let before = stat(&w, name);
            tick();
            fs::hard_link(w.at(name), w.at(&second)).unwrap();
            let (one, two) = (stat(&w, name), stat(&w, &second));
            assert_eq!((one.nlink(), two.nlink()), (2, 2), "{name}");
            assert_eq!(one.ino(), two.ino());
            assert_ne!((one.ctime(), one.ctime_nsec()), (before.ctime(), before.ctime_nsec()));
            fs::set_permissions(w.at(name), fs::Permissions::from_mode(0o600)).unwrap();
            assert_eq!(stat(&w, &second).mode() & 0o7777, 0o600);
            write_over(&w.at(&second), b"longer than before");
            assert_eq!(stat(&w, name).len(), 18);
            assert_eq!(fs::read(w.at(name)).unwrap(), b"longer than before");
            tick();
            let before = stat(&w, name);
            fs::remove_file(w.at(&second)).unwrap();
            let after = stat(&w, name);
            assert_eq!(after.nlink(), 1, "{name}");
            assert_ne!((after.ctime(), after.ctime_nsec()), (before.ctime(), before.ctime_nsec()));
        }
        w.end();
    });
}

#[test]
fn hard_links_of_the_layer_stay_one_file_with_an_index_i6() {
    under(60, || {
        let w = Ground::new(|l| {
            fs::write(l.join("a"), b"abc").unwrap();
            fs::hard_link(l.join("a"), l.join("b")).unwrap();
        })
        .mount("index=on");
        assert_eq!((stat(&w, "a").nlink(), stat(&w, "b").nlink()), (2, 2));
        write_over(&w.at("a"), b"ABCDE");
        assert_eq!(fs::read(w.at("b")).unwrap(), b"ABCDE");
        assert_eq!((stat(&w, "b").len(), stat(&w, "b").ino()), (5, stat(&w, "a").ino()));
        fs::hard_link(w.at("b"), w.at("c")).unwrap();
        assert_eq!((stat(&w, "a").nlink(), stat(&w, "b").nlink(), stat(&w, "c").nlink()), (3, 3, 3));
        fs::remove_file(w.at("b")).unwrap();
        assert_eq!((stat(&w, "a").nlink(), stat(&w, "c").nlink()), (2, 2));
        fs::remove_file(w.at("a")).unwrap();
        assert_eq!(stat(&w, "c").nlink(), 1);
        w.end();
    });
}

/// mtime and ctime of `d` change by `act`, and are the real directory's.
fn changes_the_directory(w: &World, what: &str, act: impl FnOnce()) {
    let before = stat(w, "d");
    tick();
    act();
    let (after, real) = (stat(w, "d"), fs::metadata(w.in_upper("d")).unwrap());
    assert_ne!((after.mtime(), after.mtime_nsec()), (before.mtime(), before.mtime_nsec()), "{what}");
    assert_eq!((after.mtime(), after.mtime_nsec()), (real.mtime(), real.mtime_nsec()), "{what}");
    assert_eq!((after.ctime(), after.ctime_nsec()), (real.ctime(), real.ctime_nsec()), "{what}");
}

#[test]
fn a_directorys_times_follow_every_change_of_its_names_c12() {
    under(60, || {
        let w = Ground::new(|l| {
            fs::create_dir(l.join("d")).unwrap();
            (0..5).for_each(|i| fs::write(l.join(format!("d/{i}")), b"").unwrap());
        })
        .mount("");
        let at = |name: &str| w.at(&format!("d/{name}"));
        changes_the_directory(&w, "create", || fs::write(at("new"), b"").unwrap());
        changes_the_directory(&w, "whiteout", || fs::remove_file(at("0")).unwrap());
        changes_the_directory(&w, "unlink", || fs::remove_file(at("new")).unwrap());
        changes_the_directory(&w, "create over a whiteout", || fs::write(at("0"), b"").unwrap());
        changes_the_directory(&w, "mkdir", || fs::create_dir(at("sub")).unwrap());
        changes_the_directory(&w, "rename", || fs::rename(at("sub"), at("sub2")).unwrap());
        changes_the_directory(&w, "rename of a lower file", || fs::rename(at("1"), at("1b")).unwrap());
        changes_the_directory(&w, "rename over", || fs::rename(at("2"), at("3")).unwrap());
        changes_the_directory(&w, "rename out", || fs::rename(at("3"), w.at("out")).unwrap());
        changes_the_directory(&w, "rename in", || fs::rename(w.at("out"), at("in")).unwrap());
        changes_the_directory(&w, "link", || fs::hard_link(at("in"), at("in2")).unwrap());
        changes_the_directory(&w, "symlink", || std::os::unix::fs::symlink("x", at("s")).unwrap());
        changes_the_directory(&w, "rmdir", || fs::remove_dir(at("sub2")).unwrap());
        let before = stat(&w, "d");
        tick();
        fs::set_permissions(at("4"), fs::Permissions::from_mode(0o600)).unwrap();
        let after = stat(&w, "d");
        assert_eq!(
            (after.mtime(), after.mtime_nsec()),
            (before.mtime(), before.mtime_nsec()),
            "a copy-up is none"
        );
        w.end();
    });
}

#[test]
fn link_counts_of_directories_follow_their_subdirectories_i8() {
    under(60, || {
        let w = Ground::new(|l| fs::create_dir_all(l.join("merged/a")).unwrap()).mount("");
        fs::write(w.at("merged/x"), b"").unwrap();
        assert_eq!(stat(&w, "merged").nlink(), 1);
        fs::create_dir(w.at("pure")).unwrap();
        assert_eq!(stat(&w, "pure").nlink(), 2);
        fs::create_dir(w.at("pure/1")).unwrap();
        fs::create_dir(w.at("pure/2")).unwrap();
        assert_eq!(stat(&w, "pure").nlink(), 4);
        fs::remove_dir(w.at("pure/1")).unwrap();
        assert_eq!(stat(&w, "pure").nlink(), 3);
        fs::create_dir(w.at("other")).unwrap();
        assert_eq!(stat(&w, "other").nlink(), 2);
        fs::rename(w.at("pure/2"), w.at("other/2")).unwrap();
        assert_eq!((stat(&w, "pure").nlink(), stat(&w, "other").nlink()), (2, 3));
        let held = w.open("pure", libc::O_RDONLY | libc::O_DIRECTORY);
        fs::remove_dir(w.at("pure")).unwrap();
        assert_eq!(sys::fstat(held.as_raw_fd()).unwrap().stx_nlink, 0);
        drop(held);
        w.end();
    });
}

#[test]
fn an_unlinked_open_file_has_no_links_left_and_works_on_c24() {
    on_both_paths(60, |path| {
        let w = Ground::new(|l| fs::write(l.join("lower"), b"abc").unwrap()).mount(path);
        fs::write(w.at("upper"), b"abc").unwrap();
        for name in ["lower", "upper"] {
            let fd = w.open(name, libc::O_RDONLY);
            fs::remove_file(w.at(name)).unwrap();
            assert_eq!(sys::fstat(fd.as_raw_fd()).unwrap().stx_nlink, 0, "{name}");
            assert_eq!(sys::pread(fd.as_raw_fd(), 0, 3).unwrap(), b"abc");
            sys::fchmod(fd.as_raw_fd(), 0o611).unwrap();
            sys::fsetxattr(fd.as_raw_fd(), b"user.x", b"y", 0).unwrap();
            let now = sys::fstat(fd.as_raw_fd()).unwrap();
            assert_eq!((u32::from(now.stx_mode) & 0o7777, now.stx_nlink), (0o611, 0), "{name}");
            assert_eq!(sys::fgetxattr(fd.as_raw_fd(), b"user.x").unwrap(), b"y");
            assert_eq!(sys::pread(fd.as_raw_fd(), 0, 3).unwrap(), b"abc");
            let again = format!("/proc/self/fd/{}", fd.as_raw_fd());
            let writer = sys::open(again.as_bytes(), libc::O_RDWR, 0).unwrap();
            sys::pwrite(writer.as_raw_fd(), 0, b"ABCDE").unwrap();
            assert_eq!(sys::pread(fd.as_raw_fd(), 0, 5).unwrap(), b"ABCDE", "{name}");
            assert_eq!(sys::fstat(fd.as_raw_fd()).unwrap().stx_size, 5);
            assert!(!w.at(name).exists());
            drop((fd, writer));
        }
        w.end();
    });
}

#[test]
fn times_that_were_set_are_shown_to_the_nanosecond_also_before_1970() {
    under(60, || {
        let w = Ground::new(|l| fs::write(l.join("f"), b"abc").unwrap()).mount("");
        for (secs, nanos) in [(-5, 999_999_999), (0, 1), (1 << 33, 123_456_789)] {
            sys::utimens(&w.raw("f"), Stamp::At(secs, nanos), Stamp::At(secs + 1, nanos)).unwrap();
            let seen = stat(&w, "f");
            assert_eq!((seen.atime(), seen.atime_nsec()), (secs, nanos));
            assert_eq!((seen.mtime(), seen.mtime_nsec()), (secs + 1, nanos));
        }
        sys::utimens(&w.raw("f"), Stamp::Omit, Stamp::Now).unwrap();
        assert!(stat(&w, "f").mtime() < 1 << 33);
        assert_eq!(stat(&w, "f").atime(), 1 << 33);
        w.end();
    });
}

#[test]
fn statx_tells_the_birth_time_of_the_real_object_f22_i11() {
    under(60, || {
        let w = Ground::new(|l| fs::write(l.join("f"), b"abc").unwrap()).mount("");
        let birth = |path: &std::path::Path| {
            let path = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
            let s = sys::stat(path).unwrap();
            assert_ne!(s.stx_mask & libc::STATX_BTIME, 0, "no birth time");
            (s.stx_btime.tv_sec, s.stx_btime.tv_nsec)
        };
        assert_eq!(birth(&w.at("f")), birth(&w.ground.lower.join("f")));
        tick();
        write_over(&w.at("f"), b"ABC");
        assert_eq!(birth(&w.at("f")), birth(&w.in_upper("f")));
        w.end();
    });
}
