//! How the protocol is used: what the kernel is made to know, to keep, and to do by itself.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};

use nix::errno::Errno;

use crate::support::sys;
use crate::world::{Ground, under};

/// F-5
#[test]
fn a_listing_brings_the_attributes_of_what_it_lists() {
    under(60, || {
        let w = Ground::new(|l| {
            fs::create_dir(l.join("d")).unwrap();
            (0..30).for_each(|i| fs::write(l.join(format!("d/{i}")), b"x").unwrap());
        })
        .mount("");
        let cost = w.cost(|| {
            for entry in fs::read_dir(w.at("d")).unwrap() {
                // Not std's metadata, which asks for the birth time: that is never in an answer to a listing.
                assert_eq!(nix::sys::stat::lstat(&entry.unwrap().path()).unwrap().st_size, 1);
            }
        });
        assert!(cost.contains_key("readdirplus"), "{cost:?}");
        // The directory itself is looked up; its entries are not.
        assert!(cost.get("lookup").is_none_or(|&n| n <= 1), "{cost:?}");
        // The directory may be asked for its new access time; its thirty entries are not asked for anything.
        let asked = |what| cost.get(what).copied().unwrap_or(0);
        assert!(asked("getattr") + asked("statx") <= 1, "{cost:?}");
        w.end();
    });
}

/// F-7, F-26, C-11: truncation comes with the request to open, and is not lost.
#[test]
fn opening_with_truncation_is_one_request_and_copies_no_data() {
    under(60, || {
        let w = Ground::new(|l| fs::write(l.join("big"), vec![7; 8 << 20]).unwrap()).mount("");
        let number = fs::metadata(w.at("big")).unwrap().ino();
        let cost = w.cost(|| drop(w.open("big", libc::O_WRONLY | libc::O_TRUNC)));
        assert_eq!(cost.get("open"), Some(&1), "{cost:?}");
        assert!(!cost.contains_key("setattr"), "{cost:?}");
        assert_eq!((w.number("copy_ups"), w.number("copied_bytes")), (1, 0));
        let after = fs::metadata(w.at("big")).unwrap();
        assert_eq!((after.len(), after.ino()), (0, number));
        w.end();
    });
}

/// A-17, F-35
#[test]
fn locks_are_the_kernels_own_and_cost_no_request() {
    under(60, || {
        let w = Ground::new(|l| fs::write(l.join("f"), b"x").unwrap()).mount("");
        let (a, b) = (w.open("f", libc::O_RDWR), w.open("f", libc::O_RDWR));
        let cost = w.cost(|| {
            sys::flock(a.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB).unwrap();
            assert_eq!(sys::flock(b.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB), Err(Errno::EWOULDBLOCK));
            sys::ofd_lock(a.as_raw_fd(), libc::F_WRLCK as i16).unwrap();
            assert_eq!(sys::ofd_lock(b.as_raw_fd(), libc::F_WRLCK as i16), Err(Errno::EAGAIN));
            sys::flock(a.as_raw_fd(), libc::LOCK_UN).unwrap();
            sys::flock(b.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB).unwrap();
        });
        assert!(cost.keys().all(|name| !name.contains("lk") && !name.contains("lock")), "{cost:?}");
        drop((a, b));
        w.end();
    });
}

/// A-14, F-34
#[test]
fn a_descriptor_for_direct_io_can_be_mapped() {
    crate::world::on_both_paths(60, |path| {
        let w = Ground::new(|l| fs::write(l.join("f"), vec![b'a'; 8192]).unwrap()).mount(path);
        let direct = w.open("f", libc::O_RDWR | libc::O_DIRECT);
        let map = sys::Mapping::new(direct.as_raw_fd(), 4096, true, true).unwrap();
        assert_eq!(map.read(0, 4).unwrap(), b"aaaa");
        map.write(0, b"mapped").unwrap();
        map.sync().unwrap();
        assert_eq!(&sys::pread_aligned(direct.as_raw_fd(), 0, 4096).unwrap()[..6], b"mapped");
        assert_eq!(&fs::read(w.in_upper("f")).unwrap()[..6], b"mapped");
        drop((map, direct));
        w.end();
    });
}

/// F-32
#[test]
fn each_thread_that_serves_has_a_queue_of_its_own() {
    under(60, || {
        let w = Ground::new(|_| {}).mount("");
        let status = w.status();
        if status["transport"]["transport"] != "dev" {
            return crate::world::skipped("requests do not come over /dev/fuse here");
        }
        let fds = fs::read_dir(format!("/proc/{}/fd", w.number("pid"))).unwrap();
        let devices = fds.filter(|fd| {
            fs::read_link(fd.as_ref().unwrap().path()).is_ok_and(|target| target.ends_with("dev/fuse"))
        });
        let (devices, threads) = (devices.count() as u64, status["transport"]["threads"].as_u64().unwrap());
        assert!(devices > threads, "{devices} descriptors of the device for {threads} threads");
        w.end();
    });
}

/// F-2, F-15: passthrough is one of the bits that only the long form of the handshake carries.
#[test]
fn reads_and_writes_of_upper_files_bypass_the_server() {
    under(60, || {
        let w = Ground::new(|_| {}).mount("");
        assert_eq!(w.status()["data_path"], "passthrough");
        let fd = w.open("f", libc::O_RDWR | libc::O_CREAT);
        let cost = w.cost(|| {
            (0..20).for_each(|i| assert_eq!(sys::pwrite(fd.as_raw_fd(), i * 4096, &[1; 4096]), Ok(4096)));
            (0..20).for_each(|i| assert_eq!(sys::pread(fd.as_raw_fd(), i * 4096, 4096).unwrap(), [1; 4096]));
        });
        assert!(!cost.contains_key("read") && !cost.contains_key("write"), "{cost:?}");
        drop(fd);
        let w2 = Ground::new(|_| {}).mount("passthrough=off");
        assert_eq!(w2.status()["data_path"], "cached");
        w2.end();
        w.end();
    });
}

/// Names and where each of them ends, read in small pieces.
fn entries(fd: &impl AsRawFd) -> Vec<(Vec<u8>, i64)> {
    let mut all = Vec::new();
    loop {
        let some = sys::getdents(fd.as_raw_fd(), 200).unwrap();
        if some.is_empty() {
            return all;
        }
        all.extend(some.into_iter().map(|entry| (entry.name, entry.next)));
    }
}

/// I-16: better than the kernel, whose offsets of merged directories end with the descriptor.
#[test]
fn an_offset_still_leads_to_the_same_entry_after_reopening() {
    under(60, || {
        let w = Ground::new(|l| {
            fs::create_dir(l.join("d")).unwrap();
            (0..40).for_each(|i| fs::write(l.join(format!("d/low{i}")), b"").unwrap());
        })
        .mount("");
        // From here on the directory is merged.
        (0..40).for_each(|i| fs::write(w.at(&format!("d/up{i}")), b"").unwrap());
        let first = w.open("d", libc::O_RDONLY | libc::O_DIRECTORY);
        let before = entries(&first);
        assert_eq!(before.len(), 82);
        drop(first);
        for at in [0, 1, 20, 50, 80, 81] {
            let again = w.open("d", libc::O_RDONLY | libc::O_DIRECTORY);
            sys::lseek(again.as_raw_fd(), before[at].1, libc::SEEK_SET).unwrap();
            let rest: Vec<_> = entries(&again).into_iter().map(|(name, _)| name).collect();
            let wanted: Vec<_> = before[at + 1..].iter().map(|(name, _)| name.clone()).collect();
            assert_eq!(rest, wanted, "after entry {at}");
        }
        w.end();
    });
}

/// O-4: as in the kernel, whose old mount call ignores every option but read-only.
#[test]
fn remounting_changes_whether_it_is_read_only_and_nothing_else() {
    use crate::support::mounts::Mounter;
    under(60, || {
        for mounter in [Mounter::Kernel, Mounter::Acetate] {
            let g = Ground::new(|l| fs::write(l.join("f"), b"x").unwrap());
            let (lower, upper, work) = (g.plain("lower"), g.plain("upper"), g.plain("work"));
            let options = format!(
                "lowerdir={},upperdir={},workdir={}",
                lower.display(),
                upper.display(),
                work.display()
            );
            let mounted = mounter.mount(options.as_bytes(), &g.mnt, None).unwrap();
            let remount = |flags, data: &[u8]| {
                sys::mount(b"", g.mnt.as_os_str().as_bytes(), b"", libc::MS_REMOUNT | flags, data)
            };
            remount(libc::MS_RDONLY, b"").unwrap();
            assert_eq!(fs::write(g.mnt.join("f"), b"y").unwrap_err().raw_os_error(), Some(libc::EROFS));
            remount(0, b"metacopy=on,redirect_dir=on").unwrap();
            fs::write(g.mnt.join("f"), b"y").unwrap();
            fs::create_dir(g.mnt.join("d")).unwrap();
            assert_eq!(fs::read(g.mnt.join("f")).unwrap(), b"y", "{mounter:?}");
            mounted.unmount().unwrap();
            assert_eq!(fs::read(g.upper.join("f")).unwrap(), b"y", "{mounter:?}");
        }
    });
}

/// F-7: the kernel opens without asking, and O_TRUNC must not be lost on the way.
#[test]
fn what_has_no_upper_cannot_be_written_after_a_remount_either() {
    under(60, || {
        let w = Ground::new(|l| fs::write(l.join("f"), b"content").unwrap()).mount_read_only("");
        fs::read(w.at("f")).unwrap();
        let target = w.raw("");
        sys::mount(b"", &target, b"", libc::MS_REMOUNT, b"").unwrap();
        let refused = |error: std::io::Error| error.raw_os_error() == Some(libc::EROFS);
        assert!(fs::write(w.at("f"), b"other").is_err_and(refused));
        let file = fs::OpenOptions::new().append(true).open(w.at("f"));
        assert!(file.and_then(|mut file| std::io::Write::write_all(&mut file, b"more")).is_err_and(refused));
        assert!(fs::write(w.at("new"), b"x").is_err_and(refused));
        assert_eq!(fs::read(w.at("f")).unwrap(), b"content");
        w.end();
    });
}

/// F-1, I-1, I-10: a name that goes and comes back is another object, whatever number it has.
#[test]
fn what_is_known_of_a_removed_object_does_not_live_on_in_its_number() {
    under(60, || {
        let w = Ground::new(|_| {}).mount("");
        let held = w.open("f", libc::O_RDWR | libc::O_CREAT);
        sys::pwrite(held.as_raw_fd(), 0, b"first").unwrap();
        for round in 0..50 {
            fs::remove_file(w.at("f")).unwrap();
            symlink(format!("target{round}"), w.at("f")).unwrap();
            assert_eq!(fs::read_link(w.at("f")).unwrap().to_str().unwrap(), format!("target{round}"));
            fs::remove_file(w.at("f")).unwrap();
            fs::write(w.at("f"), format!("{round}")).unwrap();
            assert_eq!(fs::read_to_string(w.at("f")).unwrap(), format!("{round}"));
            let (here, upper) = (fs::metadata(w.at("f")).unwrap(), fs::metadata(w.in_upper("f")).unwrap());
            assert_eq!(here.ino(), upper.ino());
        }
        assert_eq!(sys::pread(held.as_raw_fd(), 0, 9).unwrap(), b"first");
        assert!(nix::sys::stat::fstat(held.as_fd()).is_ok_and(|stat| stat.st_nlink == 0));
        drop(held);
        w.end();
    });
}

/// O-5
#[test]
fn options_that_the_kernel_does_not_have_are_obeyed() {
    under(60, || {
        let w = Ground::new(|l| fs::write(l.join("f"), b"x").unwrap())
            .mount("threads=1,passthrough=off,noacl,fsname=a-name");
        let status = w.status();
        if status["transport"]["transport"] == "dev" {
            assert_eq!(status["transport"]["threads"], 1);
        }
        assert_eq!(status["data_path"], "cached");
        let acl = crate::support::layer::acl_for_user(0o640, 7, 6);
        let set = sys::setxattr(&w.raw("f"), b"system.posix_acl_access", &acl, 0);
        assert_eq!(set, Err(Errno::EOPNOTSUPP));
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let line = table.lines().find(|line| line.split(' ').nth(4) == w.ground.mnt.to_str()).unwrap();
        assert!(line.contains(" a-name "), "{line}");
        w.end();
    });
}
