//! Layers that cannot do what is asked of them: full, broken, without attributes, without descriptors. The caller is
//! told which errno, nothing that was there is lost, and nothing is left behind. Where kernel overlayfs can be asked,
//! the answers are its answers.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;

use crate::support::backing::{self, Fs, Unavailable};
use crate::support::fingerprint::Fingerprint;
use crate::support::mounts::{Mounted, Mounter};
use crate::support::{layer, sys};
use crate::world::{Ground, on_both_paths, under};

fn raw(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn or_skip<T>(outcome: Result<T, Unavailable>) -> T {
    outcome.unwrap_or_else(|unavailable| std::panic::panic_any(unavailable))
}

/// Mounts `lower` with an upper and a work directory made in `place`, which may be a filesystem of its own.
fn stack(mounter: Mounter, lower: &Path, place: &Path, options: &str) -> (Mounted, PathBuf) {
    let mnt = backing::scratch("mnt");
    let name = format!("{mounter:?}");
    let [upper, work] = ["upper", "work"].map(|kind| place.join(format!("{name}-{kind}")));
    for dir in [&upper, &work] {
        fs::create_dir(dir).unwrap();
    }
    let mut words =
        format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    if mounter == Mounter::Acetate {
        words += options;
    }
    let mounted =
        mounter.mount(words.as_bytes(), &mnt, None).unwrap_or_else(|why| panic!("{words}: {why:?}"));
    (mounted, mnt)
}

fn attributes_copied_to(place: &Path) {
    let ext4 = or_skip(backing::backing(Fs::Ext4));
    let lower = ext4.quiet.join(format!("unable{}", backing::serial()));
    fs::create_dir(&lower).unwrap();
    let cases: [(&str, &[u8], Vec<u8>); 5] = [
        ("user", b"user.a", b"1".to_vec()),
        ("trusted", b"trusted.a", b"1".to_vec()),
        ("security", b"security.selinux", b"a:b:c:d".to_vec()),
        ("capability", b"security.capability", layer::capability()),
        ("acl", b"system.posix_acl_access", layer::acl_for_user(0o640, 7, 6)),
    ];
    for (name, attribute, value) in &cases {
        fs::write(lower.join(name), "content").unwrap();
        sys::setxattr(raw(&lower.join(name)), attribute, value, 0).unwrap();
    }
    let print = Fingerprint::take([lower.as_path()]);
    let answers = [Mounter::Kernel, Mounter::Acetate].map(|mounter| {
        let (mounted, mnt) = stack(mounter, &lower, place, "");
        let answers: Vec<_> = cases
            .iter()
            .map(|(name, attribute, _)| {
                let at = mnt.join(name);
                let done = sys::chmod(raw(&at), 0o600);
                let kept = sys::getxattr(raw(&at), attribute);
                (*name, done, kept, fs::read_to_string(&at).unwrap(), layer::names(raw(&mnt)).len())
            })
            .collect();
        mounted.unmount().unwrap();
        let left = fs::read_dir(place.join(format!("{mounter:?}-work/work"))).unwrap().count();
        (answers, left)
    });
    assert_eq!(answers[0], answers[1], "on the left the kernel's");
    assert_eq!(print.changes(), Vec::<String>::new());
    layer::remove_tree(raw(&lower));
}

/// C-7
#[test]
fn an_upper_without_acls_fails_a_copy_up_that_would_lose_one_and_no_other() {
    under(120, || attributes_copied_to(&or_skip(backing::btrfs_with("noacl"))));
}

/// C-7
#[test]
fn an_upper_without_any_attributes_takes_copies_without_them() {
    under(120, || {
        let place = backing::scratch("ramfs");
        sys::mount(b"ramfs", raw(&place), b"ramfs", 0, b"").unwrap();
        attributes_copied_to(&place);
    });
}

///
#[test]
fn security_labels_are_copied_up() {
    under(120, || {
        attributes_copied_to(&or_skip(backing::backing(Fs::Xfs)).quiet);
    });
}

/// What happens when the disk of the upper fills up, in words that do not depend on how much fits.
fn filled(mnt: &Path) -> Vec<String> {
    let mut story = Vec::new();
    let mut say = |what: &str, done: Result<(), Errno>| story.push(format!("{what}: {done:?}"));
    fs::write(mnt.join("kept"), "written before").unwrap();
    let file = File::create(mnt.join("large")).unwrap();
    let mut offset = 0;
    let full = loop {
        match sys::pwrite(file.as_raw_fd(), offset, &[7; 65536]) {
            Ok(count) => offset += count,
            Err(errno) => break errno,
        }
    };
    // To the last block.
    while let Ok(count) = sys::pwrite(file.as_raw_fd(), offset, &[7; 512]) {
        offset += count;
    }
    say("write", Err(full));
    say("allocate", sys::fallocate(file.as_raw_fd(), 0, offset, 1 << 20));
    say("copy up", sys::open(raw(&mnt.join("lower")), libc::O_RDWR, 0).map(drop));
    let data = fs::read(mnt.join("lower")).unwrap();
    say("the lower file is read as ever", if data == vec![3; 200_000] { Ok(()) } else { Err(Errno::EIO) });
    let length = fs::metadata(mnt.join("large")).unwrap().len();
    say("the length is what was written", if length == offset as u64 { Ok(()) } else { Err(Errno::EIO) });
    let written = fs::read(mnt.join("large")).unwrap();
    say("and so is the content", if written.iter().all(|&b| b == 7) { Ok(()) } else { Err(Errno::EIO) });
    drop(file);
    say("make room", sys::unlink(raw(&mnt.join("large"))));
    // Over FUSE a close is told to the server after close(2) has returned: the room is there a moment later.
    let roomy = || {
        nix::sys::statvfs::statvfs(mnt).is_ok_and(|fs| fs.blocks_available() * fs.fragment_size() > 500_000)
    };
    let patience = std::time::Instant::now();
    while !roomy() && patience.elapsed().as_secs() < 30 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    say("copy up", sys::open(raw(&mnt.join("lower")), libc::O_RDWR, 0).map(drop));
    fs::write(mnt.join("after"), vec![1; 65536]).unwrap();
    story.push(fs::read_to_string(mnt.join("kept")).unwrap());
    story
}

#[test]
fn a_full_upper_is_told_to_the_writer_and_everything_goes_on_when_there_is_room() {
    on_both_paths(120, |path| {
        let ext4 = or_skip(backing::backing(Fs::Ext4));
        let lower = ext4.quiet.join(format!("unable{}", backing::serial()));
        fs::create_dir(&lower).unwrap();
        fs::write(lower.join("lower"), vec![3; 200_000]).unwrap();
        let print = Fingerprint::take([lower.as_path()]);
        let stories = [Mounter::Kernel, Mounter::Acetate].map(|mounter| {
            let place = backing::scratch("small");
            sys::mount(b"tmpfs", raw(&place), b"tmpfs", 0, b"size=1m").unwrap();
            let (mounted, mnt) = stack(mounter, &lower, &place, &format!(",{path}"));
            let story = filled(&mnt);
            mounted.unmount().unwrap();
            assert_eq!(fs::read_dir(place.join(format!("{mounter:?}-work/work"))).unwrap().count(), 0);
            story
        });
        assert!(stories[0].contains(&"write: Err(ENOSPC)".to_string()), "{:?}", stories[0]);
        assert_eq!(stories[0], stories[1], "on the left the kernel's");
        assert_eq!(print.changes(), Vec::<String>::new());
        layer::remove_tree(raw(&lower));
    });
}

/// A btrfs whose file `broken` has content that its checksums contradict: reading it is EIO, all else works.
fn damaged() -> PathBuf {
    const MARK: &[u8] = b"this block is going to be damaged";
    or_skip(backing::btrfs_damaged(
        |at| {
            let mut file = File::create(at.join("broken")).unwrap();
            file.write_all(&vec![5; 300_000]).unwrap();
            file.seek(SeekFrom::Start(8192)).unwrap();
            file.write_all(MARK).unwrap();
            fs::set_permissions(at.join("broken"), PermissionsExt::from_mode(0o644)).unwrap();
            fs::write(at.join("whole"), "content").unwrap();
        },
        MARK,
    ))
}

fn with_a_broken_file(mnt: &Path) -> Vec<String> {
    let mut story = Vec::new();
    let broken = mnt.join("broken");
    let mut say = |what: &str, done: Result<(), Errno>| story.push(format!("{what}: {done:?}"));
    let read = || {
        let mut all = Vec::new();
        let outcome = File::open(&broken).unwrap().read_to_end(&mut all);
        outcome.map(drop).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
    };
    say("read", read());
    for _ in 0..3 {
        say("open for writing", sys::open(raw(&broken), libc::O_RDWR, 0).map(drop));
        say("chmod", sys::chmod(raw(&broken), 0o600));
        say("rename", sys::rename(raw(&broken), raw(&mnt.join("moved")), 0));
        say("link", sys::link(raw(&broken), raw(&mnt.join("second")), 0));
    }
    say("read again", read());
    say("the other file", sys::open(raw(&mnt.join("whole")), libc::O_RDWR, 0).map(drop));
    let mut names = layer::names(raw(mnt));
    names.sort();
    story.push(format!("{names:?}"));
    let mut say = |what: &str, done: Result<(), Errno>| story.push(format!("{what}: {done:?}"));
    say("replace", sys::rename(raw(&mnt.join("whole")), raw(&broken), 0));
    say("remove", sys::unlink(raw(&broken)));
    story
}

#[test]
fn a_lower_file_that_cannot_be_read_is_eio_and_is_never_half_copied() {
    on_both_paths(120, |path| {
        let lower = damaged();
        let ext4 = or_skip(backing::backing(Fs::Ext4));
        let stories = [Mounter::Kernel, Mounter::Acetate].map(|mounter| {
            let place = ext4.quiet.join(format!("unable{}", backing::serial()));
            fs::create_dir(&place).unwrap();
            let (mounted, mnt) = stack(mounter, &lower, &place, &format!(",{path}"));
            let story = with_a_broken_file(&mnt);
            mounted.unmount().unwrap();
            let left = fs::read_dir(place.join(format!("{mounter:?}-work/work"))).unwrap();
            let left = left.filter(|e| !e.as_ref().unwrap().file_name().as_bytes().starts_with(b"#")).count();
            assert_eq!(left, 0);
            layer::remove_tree(raw(&place));
            story
        });
        assert!(stories[0].contains(&"open for writing: Err(EIO)".to_string()), "{:?}", stories[0]);
        assert_eq!(stories[0], stories[1], "on the left the kernel's");
    });
}

#[test]
fn without_descriptors_opening_fails_and_works_again_when_some_are_free() {
    under(120, || {
        let w = Ground::new(|l| (0..200).for_each(|i| fs::write(l.join(format!("{i}")), "x").unwrap()))
            .mount("passthrough=off");
        let limit = |soft: usize| {
            let done = Command::new("prlimit")
                .args(["--pid", &w.number("pid").to_string(), &format!("--nofile={soft}:")])
                .status();
            assert!(done.unwrap().success());
        };
        fs::metadata(w.at("0")).unwrap();
        let before = w.descriptors();
        limit(before + 20);
        let mut held = Vec::new();
        let refusal = loop {
            match sys::open(&w.raw(&held.len().to_string()), libc::O_RDWR, 0) {
                Ok(fd) => held.push(fd),
                Err(errno) => break errno,
            }
        };
        assert_eq!(refusal, Errno::EMFILE);
        assert!(held.len() > 5, "{} could be opened", held.len());
        // What is open works on, and what needs no descriptor does.
        for fd in &held {
            sys::pwrite(fd.as_raw_fd(), 0, b"y").unwrap();
        }
        assert_eq!(fs::metadata(w.at("150")).unwrap().len(), 1);
        let count = held.len();
        drop(held);
        crate::world::eventually("the descriptors are free", || w.descriptors() <= before + 4);
        let again: Vec<_> = (0..count / 2).map(|i| w.open(&i.to_string(), libc::O_RDWR)).collect();
        drop(again);
        limit(4096);
        for i in 0..200 {
            assert_eq!(fs::read(w.at(&i.to_string())).unwrap(), if i < count { b"y" } else { b"x" });
        }
        crate::world::eventually("no descriptor leaks", || w.descriptors() <= before + 4);
        w.end();
    });
}
