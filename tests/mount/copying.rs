//! Copy-ups that take long, are interrupted, or are wanted by many at once.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::support::backing::Fs;
use crate::world::{Ground, eventually, on_both_paths, under};

/// A file without holes whose copying takes a while.
fn big(path: &Path, mebibytes: usize) {
    let mut file = File::create(path).unwrap();
    let chunk = vec![0x5a; 4 << 20];
    (0..mebibytes / 4).for_each(|_| file.write_all(&chunk).unwrap());
    file.seek(SeekFrom::Start(0)).unwrap();
}

#[test]
fn many_openers_at_once_copy_once_and_all_their_writes_land_c17() {
    on_both_paths(60, |path| {
        let w = Ground::new(|l| {
            fs::create_dir_all(l.join("a/b/c")).unwrap();
            fs::write(l.join("a/b/c/f"), vec![0; 1 << 20]).unwrap();
        })
        .mount(path);
        let start = Barrier::new(16);
        std::thread::scope(|scope| {
            for i in 0..16_u64 {
                let (w, start) = (&w, &start);
                scope.spawn(move || {
                    start.wait();
                    let file = OpenOptions::new().read(true).write(true).open(w.at("a/b/c/f")).unwrap();
                    file.write_all_at(&[i as u8 + 1; 100], i * 1000).unwrap();
                });
            }
        });
        let got = fs::read(w.at("a/b/c/f")).unwrap();
        for i in 0..16 {
            assert_eq!(&got[i * 1000..i * 1000 + 100], &[i as u8 + 1; 100], "writer {i}");
        }
        // Three directories and the file.
        assert_eq!(w.number("copy_ups"), 4);
        w.end();
    });
}

#[test]
fn a_fatal_signal_ends_a_long_copy_up_and_leaves_nothing_c18() {
    under(100, || {
        let w = Ground::on(Fs::Tmpfs, |l| big(&l.join("big"), 2048)).unprinted().mount("");
        let before = w.descriptors();
        let mut writer = Command::new("sh")
            .args(["-c", "exec 3<>\"$0\"", w.at("big").to_str().unwrap()])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Killed as soon as the copy has begun: a file without a name that grows in the upper.
        eventually("the copy-up", || w.number("copy_ups") == 1);
        writer.kill().unwrap();
        let status = writer.wait().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL), "the copy-up was over before the signal");
        eventually("the end of the copy", || w.left_in_work().is_empty() && w.descriptors() <= before);
        assert!(!w.in_upper("big").exists());
        let file = fs::metadata(w.at("big")).unwrap();
        assert_eq!(file.size(), 2 << 30);
        // The object is whole and can be changed.
        fs::set_permissions(w.at("big"), fs::Permissions::from_mode(0o600)).unwrap();
        w.end();
    });
}

#[test]
fn work_beside_a_long_copy_up_in_the_same_directory_is_done_before_it_p10() {
    under(100, || {
        let w = Ground::on(Fs::Tmpfs, |l| {
            big(&l.join("big"), 2048);
            (0..20).for_each(|i| fs::write(l.join(format!("{i}")), b"x").unwrap());
        })
        .unprinted()
        .mount("");
        let took = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let start = Instant::now();
                drop(OpenOptions::new().write(true).open(w.at("big")).unwrap());
                (start.elapsed(), Instant::now())
            });
            eventually("the copy-up", || w.number("copy_ups") >= 1);
            for i in 0..20 {
                fs::metadata(w.at(&format!("{i}"))).unwrap();
                fs::write(w.at(&format!("new{i}")), b"").unwrap();
                fs::write(w.at(&format!("{i}")), b"y").unwrap();
                fs::remove_file(w.at(&format!("{i}"))).unwrap();
            }
            assert_eq!(fs::read_dir(w.at("")).unwrap().count(), 21);
            assert_eq!(fs::metadata(w.at("big")).unwrap().len(), 2 << 30);
            let done = Instant::now();
            let (took, end) = writer.join().unwrap();
            assert!(done < end, "the work waited for the copy-up, which took {took:?}");
            took
        });
        assert!(took > Duration::from_millis(1));
        w.end();
    });
}

#[test]
fn a_file_removed_while_it_is_copied_up_stays_removed_and_its_writer_keeps_it_c24() {
    under(100, || {
        let w = Ground::on(Fs::Tmpfs, |l| big(&l.join("big"), 1024)).unprinted().mount("");
        let writer = std::thread::scope(|scope| {
            let writer = scope.spawn(|| OpenOptions::new().read(true).write(true).open(w.at("big")));
            eventually("the copy-up", || w.number("copy_ups") == 1);
            fs::remove_file(w.at("big")).unwrap();
            writer.join().unwrap()
        });
        assert!(!w.at("big").exists());
        // Either the open was first, and has the file, or the removal was.
        match writer {
            Ok(file) => {
                file.write_all_at(b"still", 0).unwrap();
                let mut start = [0; 6];
                file.read_exact_at(&mut start, 0).unwrap();
                assert_eq!(&start, b"still\x5a");
                assert_eq!(file.metadata().unwrap().nlink(), 0);
            }
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOENT)),
        }
        w.end();
    });
}

/// F-30
#[test]
fn whoever_waits_for_the_copy_up_of_another_can_be_killed_meanwhile_c17_c18() {
    under(100, || {
        let w = Ground::on(Fs::Tmpfs, |l| big(&l.join("big"), 2048)).unprinted().mount("");
        let open = || {
            Command::new("sh").args(["-c", "exec 3<>\"$0\"", w.at("big").to_str().unwrap()]).spawn().unwrap()
        };
        let mut first = open();
        eventually("the copy-up", || w.number("copy_ups") == 1);
        let mut second = open();
        let wchan = format!("/proc/{}/wchan", second.id());
        eventually("the second one waits", || {
            fs::read_to_string(&wchan).is_ok_and(|at| at.contains("fuse") || at.contains("request_wait"))
        });
        second.kill().unwrap();
        assert_eq!(second.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert!(!w.in_upper("big").exists(), "the copy-up was over before the one who waited ended");
        assert!(first.wait().unwrap().success());
        assert_eq!((w.number("copy_ups"), fs::metadata(w.in_upper("big")).unwrap().len()), (1, 2 << 30));
        w.end();
    });
}
