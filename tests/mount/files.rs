//! What programs do with files besides reading and writing, and names and paths at their limits.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use nix::errno::Errno;

use crate::support::{layer, sys};
use crate::world::{Ground, on_both_paths, under, write_over};

/// F-21
#[test]
fn a_file_without_a_name_gets_one_by_linkat_a16() {
    on_both_paths(60, |path| {
        let w = Ground::new(|l| fs::create_dir(l.join("d")).unwrap()).mount(path);
        let fd = w.open("d", libc::O_TMPFILE | libc::O_RDWR);
        sys::pwrite(fd.as_raw_fd(), 0, b"content").unwrap();
        assert_eq!(sys::fstat(fd.as_raw_fd()).unwrap().stx_nlink, 0);
        assert_eq!(fs::read_dir(w.at("d")).unwrap().count(), 0);
        let named = format!("/proc/self/fd/{}", fd.as_raw_fd());
        sys::link(named.as_bytes(), &w.raw("d/f"), libc::AT_SYMLINK_FOLLOW).unwrap();
        assert_eq!(sys::fstat(fd.as_raw_fd()).unwrap().stx_nlink, 1);
        assert_eq!(fs::read(w.at("d/f")).unwrap(), b"content");
        assert_eq!(sys::fstat(fd.as_raw_fd()).unwrap().stx_ino, fs::metadata(w.at("d/f")).unwrap().ino());
        drop(fd);
        let exclusive = w.open("d", libc::O_TMPFILE | libc::O_RDWR | libc::O_EXCL);
        let named = format!("/proc/self/fd/{}", exclusive.as_raw_fd());
        assert_eq!(sys::link(named.as_bytes(), &w.raw("d/g"), libc::AT_SYMLINK_FOLLOW), Err(Errno::ENOENT));
        drop(exclusive);
        w.end();
    });
}

/// F-29
#[test]
fn space_is_allocated_punched_and_found_again_a12_a13() {
    on_both_paths(60, |path| {
        let w = Ground::new(|l| {
            let file = fs::File::create(l.join("sparse")).unwrap();
            file.set_len(4 << 20).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &[1; 4096], 1 << 20).unwrap();
        })
        .mount(path);
        let holes = |fd: i32| (sys::lseek(fd, 0, libc::SEEK_DATA), sys::lseek(fd, 1 << 20, libc::SEEK_HOLE));
        let expected = (Ok(1 << 20), Ok((1 << 20) + 4096));
        let lower = w.open("sparse", libc::O_RDONLY);
        assert_eq!(holes(lower.as_raw_fd()), expected);
        let upper = w.open("sparse", libc::O_RDWR);
        assert_eq!(holes(upper.as_raw_fd()), expected, "holes are copied as holes (C-9)");
        assert_eq!(holes(lower.as_raw_fd()), expected);
        let fd = upper.as_raw_fd();
        assert_eq!(sys::lseek(fd, 5 << 20, libc::SEEK_DATA), Err(Errno::ENXIO));
        sys::fallocate(fd, 0, 0, 8 << 20).unwrap();
        assert_eq!(sys::fstat(fd).unwrap().stx_size, 8 << 20);
        sys::fallocate(fd, libc::FALLOC_FL_KEEP_SIZE, 8 << 20, 1 << 20).unwrap();
        assert_eq!(sys::fstat(fd).unwrap().stx_size, 8 << 20);
        assert_eq!(sys::pread(fd, 1 << 20, 1).unwrap(), [1]);
        sys::fallocate(fd, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 1 << 20, 4096).unwrap();
        assert_eq!(sys::pread(fd, 1 << 20, 1).unwrap(), [0], "cached pages go with the hole");
        assert_eq!(sys::pread(lower.as_raw_fd(), 1 << 20, 1).unwrap(), [0]);
        drop((lower, upper));
        w.end();
    });
}

/// F-29
#[test]
fn copies_between_files_of_the_mount_have_the_right_bytes_a13() {
    on_both_paths(60, |path| {
        let w = Ground::new(|l| fs::write(l.join("from"), vec![7; 100_000]).unwrap()).mount(path);
        fs::write(w.at("to"), vec![1; 50_000]).unwrap();
        assert_eq!(fs::read(w.at("to")).unwrap()[20_000], 1);
        let (from, to) = (w.open("from", libc::O_RDONLY), w.open("to", libc::O_RDWR));
        let copied = sys::copy_file_range(from.as_raw_fd(), 10, to.as_raw_fd(), 20_000, 60_000).unwrap();
        assert!(copied > 0);
        let got = fs::read(w.at("to")).unwrap();
        assert_eq!(got.len(), 50_000.max(20_000 + copied as usize));
        assert!(
            got[..20_000].iter().all(|&b| b == 1)
                && got[20_000..20_000 + copied as usize].iter().all(|&b| b == 7)
        );
        drop((from, to));
        w.end();
    });
}

#[test]
fn file_flags_are_read_and_set_through_the_mount_a8() {
    under(60, || {
        let w = Ground::new(|l| {
            fs::write(l.join("f"), b"x").unwrap();
            fs::create_dir(l.join("d")).unwrap();
        })
        .mount("");
        for name in ["f", "d"] {
            let fd = w.open(name, libc::O_RDONLY);
            let flags = layer::flags_of(fd.as_raw_fd()).unwrap();
            layer::set_flags_of(fd.as_raw_fd(), flags | layer::NO_ATIME).unwrap();
            assert_eq!(layer::flags_of(fd.as_raw_fd()).unwrap() & layer::NO_ATIME, layer::NO_ATIME, "{name}");
            assert!(w.in_upper(name).exists());
            assert_eq!(sys::ioctl(fd.as_raw_fd(), 0x1234, &mut [0; 8]), Err(Errno::ENOTTY));
        }
        let fd = w.open("f", libc::O_RDONLY);
        layer::set_flags_of(fd.as_raw_fd(), layer::IMMUTABLE).unwrap();
        let open = fs::OpenOptions::new().write(true).open(w.at("f")).unwrap_err();
        assert_eq!(open.raw_os_error(), Some(libc::EPERM), "A-7");
        assert_eq!(sys::chmod(&w.raw("f"), 0o600), Err(Errno::EPERM));
        assert_eq!(sys::unlink(&w.raw("f")), Err(Errno::EPERM));
        assert_eq!(sys::rename(&w.raw("f"), &w.raw("g"), 0), Err(Errno::EPERM));
        layer::set_flags_of(fd.as_raw_fd(), layer::APPEND_ONLY).unwrap();
        let mut append = fs::OpenOptions::new().append(true).open(w.at("f")).unwrap();
        std::io::Write::write_all(&mut append, b"more").unwrap();
        assert_eq!(sys::truncate(&w.raw("f"), 0), Err(Errno::EPERM));
        layer::set_flags_of(fd.as_raw_fd(), 0).unwrap();
        fs::remove_file(w.at("f")).unwrap();
        drop((fd, append));
        w.end();
    });
}

#[test]
fn the_numbers_of_the_filesystem_are_those_of_the_upper_a20() {
    under(60, || {
        let w = Ground::new(|_| ()).mount("");
        let ours = sys::statfs(&w.raw("")).unwrap();
        let upper = sys::statfs(w.ground.upper.as_os_str().as_bytes()).unwrap();
        assert_eq!((ours.f_blocks, ours.f_files), (upper.f_blocks, upper.f_files));
        assert_eq!((ours.f_bsize, ours.f_frsize, ours.f_namelen), (upper.f_bsize, upper.f_frsize, 255));
        w.end();
    });
}

#[test]
fn a_mount_without_an_upper_refuses_every_change_and_reads_everything_o1() {
    on_both_paths(60, |path| {
        let w = Ground::new(|l| {
            fs::create_dir(l.join("d")).unwrap();
            fs::write(l.join("f"), vec![3; 10_000]).unwrap();
        })
        .mount_read_only(path);
        assert_eq!(fs::read(w.at("f")).unwrap(), vec![3; 10_000]);
        let fd = w.open("f", libc::O_RDONLY);
        let map = sys::Mapping::new(fd.as_raw_fd(), 4096, false, true).unwrap();
        assert_eq!(map.read(0, 2).unwrap(), [3, 3]);
        let direct = w.open("f", libc::O_RDONLY | libc::O_DIRECT);
        assert_eq!(sys::pread_aligned(direct.as_raw_fd(), 0, 4096).unwrap(), vec![3; 4096]);
        let flags =
            [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC, libc::O_CREAT | libc::O_EXCL];
        for (flags, name) in flags.into_iter().zip(["f", "f", "f", "new"]) {
            assert_eq!(sys::open(&w.raw(name), flags, 0o644).unwrap_err(), Errno::EROFS, "{flags:#o}");
        }
        assert_eq!(sys::chmod(&w.raw("f"), 0o600), Err(Errno::EROFS));
        assert_eq!(sys::unlink(&w.raw("f")), Err(Errno::EROFS));
        assert_eq!(sys::mkdir(&w.raw("new"), 0o755), Err(Errno::EROFS));
        assert_eq!(sys::rename(&w.raw("f"), &w.raw("g"), 0), Err(Errno::EROFS));
        assert_eq!(sys::setxattr(&w.raw("f"), b"user.a", b"", 0), Err(Errno::EROFS));
        assert_eq!(sys::access(&w.raw("f"), libc::W_OK), Err(Errno::EROFS));
        drop((map, fd, direct));
        w.end();
    });
}

#[test]
fn names_of_255_bytes_work_everywhere_and_256_are_too_many_l6() {
    under(60, || {
        let long = |c: char| c.to_string().repeat(255);
        let w = Ground::new(|l| {
            fs::write(l.join(long('f')), b"x").unwrap();
            fs::create_dir(l.join(long('d'))).unwrap();
            fs::write(l.join(long('d')).join(long('e')), b"x").unwrap();
        })
        .mount("redirect_dir=on,index=on");
        write_over(&w.at(&long('f')), b"y");
        assert_eq!(fs::read(w.at(&long('f'))).unwrap(), b"y");
        fs::rename(w.at(&long('f')), w.at(&long('g'))).unwrap();
        fs::rename(w.at(&long('d')), w.at(&long('h'))).unwrap();
        assert_eq!(fs::read(w.at(&long('h')).join(long('e'))).unwrap(), b"x");
        fs::remove_file(w.at(&long('h')).join(long('e'))).unwrap();
        fs::remove_dir(w.at(&long('h'))).unwrap();
        fs::create_dir(w.at(&long('d'))).unwrap();
        assert_eq!(fs::read_dir(w.at(&long('d'))).unwrap().count(), 0);
        let names: Vec<_> = fs::read_dir(w.at("")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        let longer = "x".repeat(256);
        assert_eq!(sys::mkdir(&w.raw(&longer), 0o755), Err(Errno::ENAMETOOLONG));
        assert_eq!(sys::stat(&w.raw(&longer)).unwrap_err(), Errno::ENAMETOOLONG);
        w.end();
    });
}

/// Makes `depth` directories of 100 bytes below `root`, enters them, and leaves the thread in the deepest.
fn descend(root: &std::path::Path, depth: usize, make: bool) {
    let name = vec![b'p'; 100];
    sys::chdir(root.as_os_str().as_bytes()).unwrap();
    for level in 0..depth {
        if make {
            sys::mkdir(&name, 0o755).unwrap_or_else(|errno| panic!("level {level}: {errno}"));
        }
        sys::chdir(&name).unwrap_or_else(|errno| panic!("level {level}: {errno}"));
    }
}

#[test]
fn files_deeper_than_path_max_are_read_and_copied_up_c4() {
    under(60, || {
        const DEPTH: usize = 60;
        let w = Ground::new(|l| {
            descend(l, DEPTH, true);
            fs::write("f", b"deep").unwrap();
            sys::chdir(b"/").unwrap();
        })
        .mount("");
        descend(&w.at(""), DEPTH, false);
        assert_eq!(fs::read("f").unwrap(), b"deep");
        fs::set_permissions("f", fs::Permissions::from_mode(0o600)).unwrap();
        fs::write("f", b"DEEP").unwrap();
        fs::write("new", b"").unwrap();
        fs::rename("f", "g").unwrap();
        assert_eq!(fs::read("g").unwrap(), b"DEEP");
        assert_eq!(fs::read_dir(".").unwrap().count(), 2);
        sys::chdir(b"/").unwrap();
        descend(&w.ground.upper, DEPTH, false);
        assert_eq!(fs::read("g").unwrap(), b"DEEP");
        assert!(fs::symlink_metadata("f").unwrap().mode() & libc::S_IFMT == libc::S_IFCHR);
        sys::chdir(b"/").unwrap();
        w.end_without_lower();
    });
}

#[test]
fn a_copy_up_takes_all_ancestors_along_as_they_are_c12() {
    under(60, || {
        let w = Ground::new(|l| {
            fs::create_dir_all(l.join("a/b/c/d")).unwrap();
            fs::write(l.join("a/b/c/d/f"), b"x").unwrap();
            fs::set_permissions(l.join("a/b"), fs::Permissions::from_mode(0o2711)).unwrap();
            fs::set_permissions(l.join("a/b/c"), fs::Permissions::from_mode(0o1777)).unwrap();
            sys::setxattr(l.join("a").as_os_str().as_bytes(), b"user.k", b"v", 0).unwrap();
        })
        .mount("");
        let look = |name: &str| {
            let m = fs::metadata(w.at(name)).unwrap();
            (m.mode(), m.uid(), m.mtime(), m.mtime_nsec(), m.ino())
        };
        let names = ["a", "a/b", "a/b/c", "a/b/c/d"];
        let before: Vec<_> = names.map(look).to_vec();
        write_over(&w.at("a/b/c/d/f"), b"y");
        assert_eq!(names.map(look).to_vec(), before);
        for (name, seen) in names.into_iter().zip(before) {
            let m = fs::metadata(w.in_upper(name)).unwrap();
            assert_eq!((m.mode(), m.mtime(), m.mtime_nsec()), (seen.0, seen.2, seen.3), "{name}");
        }
        assert_eq!(sys::getxattr(w.in_upper("a").as_os_str().as_bytes(), b"user.k").unwrap(), b"v");
        w.end();
    });
}
