//! Locks and watches that were there before a copy-up.

use std::fs;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

use crate::support::sys;
use crate::world::{Ground, eventually, on_both_paths, write_over};

const UNLOCK: i16 = libc::F_UNLCK as i16;

#[test]
fn flock_and_ofd_locks_taken_before_a_copy_up_conflict_with_later_ones_c21() {
    on_both_paths(60, |path| {
        let w = Ground::new(|l| fs::write(l.join("f"), b"abc").unwrap()).mount(path);
        let early = w.open("f", libc::O_RDONLY);
        sys::flock(early.as_raw_fd(), libc::LOCK_EX).unwrap();
        sys::ofd_lock(early.as_raw_fd(), libc::F_RDLCK as i16).unwrap();
        let late = w.open("f", libc::O_RDWR);
        sys::pwrite(late.as_raw_fd(), 0, b"ABC").unwrap();
        assert_eq!(sys::flock(late.as_raw_fd(), libc::LOCK_EX), Err(Errno::EAGAIN));
        assert_eq!(sys::ofd_lock(late.as_raw_fd(), libc::F_WRLCK as i16), Err(Errno::EAGAIN));
        sys::ofd_lock(early.as_raw_fd(), UNLOCK).unwrap();
        sys::ofd_lock(late.as_raw_fd(), libc::F_WRLCK as i16).unwrap();
        assert_eq!(sys::flock(late.as_raw_fd(), libc::LOCK_EX), Err(Errno::EAGAIN));
        drop(early);
        // A process that another test is just starting may hold the closed one for a moment.
        eventually("the lock is free", || sys::flock(late.as_raw_fd(), libc::LOCK_EX).is_ok());
        drop(late);
        w.end();
    });
}

#[test]
fn posix_locks_of_another_process_hold_across_a_copy_up_c21() {
    on_both_paths(60, |path| {
        let w = Ground::new(|l| fs::write(l.join("f"), b"abc").unwrap()).mount(path);
        let script = "import fcntl,sys\nf=open(sys.argv[1])\nfcntl.lockf(f,fcntl.LOCK_SH)\nprint('x',flush=True)\nsys.stdin.read()";
        let child = std::process::Command::new("python3")
            .args(["-c", script, w.at("f").to_str().unwrap()])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) => return crate::world::skipped(&format!("python3: {error}")),
        };
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let late = w.open("f", libc::O_RDWR);
        sys::pwrite(late.as_raw_fd(), 0, b"ABC").unwrap();
        assert_eq!(sys::ofd_lock(late.as_raw_fd(), libc::F_WRLCK as i16), Err(Errno::EAGAIN));
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
        sys::ofd_lock(late.as_raw_fd(), libc::F_WRLCK as i16).unwrap();
        drop(late);
        w.end();
    });
}

/// The masks of all events that wait.
fn events(fd: i32) -> u32 {
    let mut mask = 0;
    while let Ok(bytes) = sys::read(fd, 4096) {
        let mut rest = bytes.as_slice();
        while rest.len() >= 16 {
            mask |= u32::from_ne_bytes(rest[4..8].try_into().unwrap());
            let name = u32::from_ne_bytes(rest[12..16].try_into().unwrap()) as usize;
            rest = &rest[16 + name..];
        }
    }
    mask
}

#[test]
fn a_watch_placed_before_a_copy_up_reports_what_happens_after_it_c22() {
    on_both_paths(60, |path| {
        let w = Ground::new(|l| fs::write(l.join("f"), b"abc").unwrap()).mount(path);
        let watch = sys::inotify_init().unwrap();
        sys::inotify_add(watch.as_raw_fd(), &w.raw("f"), libc::IN_ALL_EVENTS).unwrap();
        write_over(&w.at("f"), b"ABC");
        assert_ne!(events(watch.as_raw_fd()) & libc::IN_MODIFY, 0, "modify");
        sys::chmod(&w.raw("f"), 0o600).unwrap();
        assert_ne!(events(watch.as_raw_fd()) & libc::IN_ATTRIB, 0, "attrib");
        fs::remove_file(w.at("f")).unwrap();
        assert_ne!(events(watch.as_raw_fd()) & libc::IN_DELETE_SELF, 0, "delete_self");
        w.end();
    });
}
