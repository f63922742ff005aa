//! The data path: what readers, writers and mappings see of each other, whichever way the bytes go.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::Command;

use crate::support::sys::{self, Mapping};
use crate::world::{Ground, as_user, on_both_paths, skipped, under, write_over};

fn page(byte: u8) -> Vec<u8> {
    vec![byte; 4096]
}

#[test]
fn a_writer_beside_a_reader_of_a_lower_file_never_writes_the_layer_f9_c19() {
    on_both_paths(60, |path| {
        let w = Ground::new(|l| fs::write(l.join("f"), b"lower").unwrap()).mount(path);
        let mut reader = fs::File::open(w.at("f")).unwrap();
        let before = reader.metadata().unwrap();
        let mut seen = String::new();
        reader.read_to_string(&mut seen).unwrap();
        assert_eq!(seen, "lower");
        let writer = OpenOptions::new().read(true).write(true).open(w.at("f")).unwrap();
        writer.write_all_at(b"UPPER and longer", 0).unwrap();
        let mut buffer = [0; 16];
        reader.read_exact_at(&mut buffer, 0).unwrap();
        assert_eq!(&buffer, b"UPPER and longer");
        let after = reader.metadata().unwrap();
        assert_eq!((after.ino(), after.dev(), after.len()), (before.ino(), before.dev(), 16));
        reader.set_permissions(fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(fs::metadata(w.at("f")).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(fs::read(w.ground.lower.join("f")).unwrap(), b"lower");
        drop((reader, writer));
        w.end();
    });
}

#[test]
fn cached_bytes_do_not_outlive_a_passthrough_write_f41() {
    on_both_paths(60, |path| {
        let w = Ground::new(|l| fs::write(l.join("f"), page(b'a')).unwrap()).mount(path);
        assert_eq!(fs::read(w.at("f")).unwrap(), page(b'a'));
        for round in b'b'..b'h' {
            // A cached reader of the lower file in the first round, of the upper file in the others.
            let reader = fs::File::open(w.at("f")).unwrap();
            drop(reader);
            write_over(&w.at("f"), &page(round));
            let held = fs::File::open(w.at("f")).unwrap();
            assert_eq!(fs::read(w.at("f")).unwrap(), page(round));
            write_over(&w.at("f"), &[round, b'!']);
            let mut start = [0; 2];
            held.read_exact_at(&mut start, 0).unwrap();
            assert_eq!(start, [round, b'!']);
        }
        w.end();
    });
}

#[test]
fn cached_opens_after_passthrough_writes_read_the_new_bytes_although_pages_were_kept_f41() {
    under(60, || {
        let w = Ground::new(|l| fs::write(l.join("f"), page(b'a')).unwrap()).mount("passthrough=auto");
        // Fills the page cache, lets go, and writes past it.
        assert_eq!(fs::read(w.at("f")).unwrap(), page(b'a'));
        let pin = fs::File::open(w.at("f")).unwrap();
        let _map = Mapping::new(pin.as_raw_fd(), 4096, false, true).unwrap();
        drop(pin);
        let cached = OpenOptions::new().write(true).open(w.at("f")).unwrap();
        cached.write_all_at(b"b", 0).unwrap();
        drop((cached, _map));
        for byte in b"cdefgh" {
            std::thread::sleep(std::time::Duration::from_millis(5));
            write_over(&w.at("f"), &[*byte]);
            assert_eq!(fs::read(w.at("f")).unwrap()[0], *byte);
        }
        w.end();
    });
}

/// Mode after an append by root or by a stranger.
fn after_append(path: &str, mode: u32, by_user: bool, in_upper: bool) -> u32 {
    let w = Ground::new(|l| fs::write(l.join("f"), b"x").unwrap());
    for dir in [&w.lower, &w.upper] {
        if dir == &w.upper && !in_upper {
            continue;
        }
        fs::write(dir.join("f"), b"x").unwrap();
        fs::set_permissions(dir.join("f"), fs::Permissions::from_mode(mode)).unwrap();
    }
    let w = w.mount(path);
    let at = w.at("f");
    let append = move || OpenOptions::new().append(true).open(&at).unwrap().write_all(b"more").unwrap();
    if by_user {
        as_user(append)
    } else {
        append()
    }
    let seen = fs::metadata(w.at("f")).unwrap().mode() & 0o7777;
    assert_eq!(fs::metadata(w.in_upper("f")).unwrap().mode() & 0o7777, seen);
    w.end();
    seen
}

#[test]
fn a_strangers_write_takes_suid_and_sgid_away_and_roots_does_not_f42_a3() {
    on_both_paths(60, |path| {
        for in_upper in [false, true] {
            assert_eq!(after_append(path, 0o6777, true, in_upper), 0o777, "{path}");
            assert_eq!(after_append(path, 0o6777, false, in_upper), 0o6777, "{path}");
            // Without group execution it goes too, for the user is not in the group.
            assert_eq!(after_append(path, 0o2767, true, in_upper), 0o767, "{path}");
        }
    });
}

#[test]
fn shared_mappings_agree_with_reads_and_writes_a15() {
    on_both_paths(60, |path| {
        let w = Ground::new(|l| fs::write(l.join("f"), page(b'a')).unwrap()).mount(path);
        let fd = w.open("f", libc::O_RDWR);
        let map = Mapping::new(fd.as_raw_fd(), 4096, true, true).unwrap();
        map.write(10, b"by store").unwrap();
        assert_eq!(sys::pread(fd.as_raw_fd(), 10, 8).unwrap(), b"by store");
        sys::pwrite(fd.as_raw_fd(), 100, b"by write").unwrap();
        assert_eq!(map.read(100, 8).unwrap(), b"by write");
        let other = w.open("f", libc::O_RDONLY);
        assert_eq!(sys::pread(other.as_raw_fd(), 10, 8).unwrap(), b"by store");
        let second = Mapping::new(other.as_raw_fd(), 4096, false, true).unwrap();
        assert_eq!(second.read(100, 8).unwrap(), b"by write");
        map.sync().unwrap();
        assert_eq!(&fs::read(w.in_upper("f")).unwrap()[10..18], b"by store");
        drop((map, second, fd, other));
        w.end();
    });
}

#[test]
fn a_mapping_made_before_the_copy_up_shows_what_is_written_after_it_c20() {
    on_both_paths(60, |path| {
        let w = Ground::new(|l| fs::write(l.join("f"), page(b'a')).unwrap()).mount(path);
        let reader = w.open("f", libc::O_RDONLY);
        let map = Mapping::new(reader.as_raw_fd(), 4096, false, true).unwrap();
        assert_eq!(map.read(0, 3).unwrap(), b"aaa");
        drop(reader);
        write_over(&w.at("f"), b"new");
        assert_eq!(map.read(0, 3).unwrap(), b"new");
        assert_eq!(&fs::read(w.at("f")).unwrap()[..3], b"new");
        drop(map);
        w.end();
    });
}

#[test]
fn a_store_through_a_mapping_changes_the_mtime_that_stat_shows_h2b_f38() {
    on_both_paths(60, |path| {
        let w = Ground::new(|l| fs::write(l.join("f"), page(b'a')).unwrap()).mount(path);
        // Twice: the first time the open copies up, the second time it finds cached attributes.
        for round in 0..2 {
            sys::utimens(&w.raw("f"), sys::Stamp::Omit, sys::Stamp::At(1000, 0)).unwrap();
            assert_eq!(fs::metadata(w.at("f")).unwrap().mtime(), 1000);
            let fd = w.open("f", libc::O_RDWR);
            let map = Mapping::new(fd.as_raw_fd(), 4096, true, true).unwrap();
            drop(fd);
            map.write(0, b"store").unwrap();
            map.sync().unwrap();
            assert_ne!(fs::metadata(w.at("f")).unwrap().mtime(), 1000, "{path}, round {round}, mapped");
            drop(map);
            assert_ne!(fs::metadata(w.at("f")).unwrap().mtime(), 1000, "{path}, round {round}, unmapped");
        }
        w.end();
    });
}

#[test]
fn a_store_and_an_unmapping_without_a_stat_between_leave_no_stale_mtime_f38() {
    on_both_paths(60, |path| {
        let w = Ground::new(|l| fs::write(l.join("f"), page(b'a')).unwrap()).mount(path);
        write_over(&w.at("f"), b"up");
        sys::utimens(&w.raw("f"), sys::Stamp::Omit, sys::Stamp::At(1000, 0)).unwrap();
        assert_eq!(fs::metadata(w.at("f")).unwrap().mtime(), 1000);
        let fd = w.open("f", libc::O_RDWR);
        let map = Mapping::new(fd.as_raw_fd(), 4096, true, true).unwrap();
        drop(fd);
        map.write(0, b"store").unwrap();
        map.sync().unwrap();
        drop(map);
        let shown = fs::metadata(w.at("f")).unwrap().mtime();
        assert_eq!(shown, fs::metadata(w.in_upper("f")).unwrap().mtime(), "{path}");
        w.end();
    });
}

/// stat(1) asks for what it prints and nothing else, which a cached answer may serve.
#[test]
fn a_store_without_a_sync_changes_the_mtime_that_is_asked_for_alone_f38() {
    on_both_paths(60, |path| {
        let w = Ground::new(|_| ()).mount(path);
        fs::write(w.at("f"), page(b'a')).unwrap();
        sys::utimens(&w.raw("f"), sys::Stamp::Omit, sys::Stamp::At(1000, 0)).unwrap();
        let shown = || {
            let stat = Command::new("stat").args(["-c", "%Y"]).arg(w.at("f")).output().unwrap();
            String::from_utf8(stat.stdout).unwrap().trim().parse::<i64>().unwrap()
        };
        assert_eq!(shown(), 1000);
        let fd = w.open("f", libc::O_RDWR);
        sys::fstat(fd.as_raw_fd()).unwrap();
        let map = Mapping::new(fd.as_raw_fd(), 4096, true, true).unwrap();
        drop(fd);
        map.write(0, b"store").unwrap();
        drop(map);
        assert_ne!(shown(), 1000, "{path}");
        w.end();
    });
}

#[test]
fn a_file_created_and_mapped_shows_the_mtime_of_the_last_store_f38() {
    on_both_paths(60, |path| {
        let w = Ground::new(|_| ()).mount(path);
        let fd = w.open("f", libc::O_RDWR | libc::O_CREAT);
        sys::pwrite(fd.as_raw_fd(), 0, &page(b'a')).unwrap();
        let map = Mapping::new(fd.as_raw_fd(), 4096, true, true).unwrap();
        sys::futimens(fd.as_raw_fd(), sys::Stamp::Omit, sys::Stamp::At(1000, 0)).unwrap();
        assert_eq!(fs::metadata(w.at("f")).unwrap().mtime(), 1000);
        map.write(0, b"store").unwrap();
        map.sync().unwrap();
        assert_ne!(fs::metadata(w.at("f")).unwrap().mtime(), 1000, "{path}");
        drop((map, fd));
        w.end();
    });
}

fn sqlite(db: &std::path::Path, script: &str) -> String {
    let out = Command::new("sqlite3").arg(db).arg(script).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn a_database_of_the_layer_survives_being_written_in_wal_mode_f9() {
    on_both_paths(60, |path| {
        if Command::new("sqlite3").arg("--version").output().is_err() {
            return skipped("no sqlite3");
        }
        let w = Ground::new(|l| {
            sqlite(
                &l.join("db"),
                "create table t(n integer, s text);
                with recursive c(n) as (select 1 union all select n+1 from c where n<5000)
                insert into t select n, hex(randomblob(40)) from c;",
            );
        })
        .mount(path);
        // A reader on the lower file throughout.
        let held = fs::File::open(w.at("db")).unwrap();
        assert_eq!(sqlite(&w.at("db"), "select count(*) from t;"), "5000\n");
        sqlite(
            &w.at("db"),
            "pragma journal_mode=wal; update t set s='x'||s where n%3=0; delete from t where n%7=0;
            pragma wal_checkpoint(truncate); insert into t select n+10000, s from t limit 900;",
        );
        assert_eq!(sqlite(&w.at("db"), "pragma integrity_check;"), "ok\n");
        assert_eq!(sqlite(&w.at("db"), "select count(*) from t where n>10000;"), "900\n");
        drop(held);
        assert_eq!(sqlite(&w.at("db"), "pragma integrity_check;"), "ok\n");
        assert_eq!(
            sqlite(&w.ground.lower.join("db"), "select count(*), sum(s like 'x%') from t;"),
            "5000|0\n"
        );
        w.end();
    });
}

#[test]
fn a_program_just_written_runs_and_cannot_be_written_while_it_runs_a15() {
    on_both_paths(60, |path| {
        let w = Ground::new(|l| {
            fs::copy("/bin/sleep", l.join("lower-sleep")).unwrap();
        })
        .mount(path);
        for name in ["lower-sleep", "sleep"] {
            if name == "sleep" {
                fs::copy("/bin/sleep", w.at("sleep")).unwrap();
            } else {
                fs::set_permissions(w.at(name), fs::Permissions::from_mode(0o755)).unwrap();
            }
            let mut spawned = None;
            crate::world::eventually("the program starts", || {
                spawned = Command::new(w.at(name)).arg("20").spawn().ok();
                spawned.is_some()
            });
            let mut child = spawned.unwrap();
            crate::world::eventually("exec", || {
                fs::read_link(format!("/proc/{}/exe", child.id())).is_ok_and(|exe| exe == w.at(name))
            });
            let busy = OpenOptions::new().write(true).open(w.at(name)).unwrap_err();
            assert_eq!(busy.raw_os_error(), Some(libc::ETXTBSY), "{path} {name}");
            child.kill().unwrap();
            child.wait().unwrap();
            drop(OpenOptions::new().write(true).open(w.at(name)).unwrap());
            let writer = OpenOptions::new().write(true).open(w.at(name)).unwrap();
            let refused = Command::new(w.at(name)).arg("0").spawn().unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::ETXTBSY), "{path} {name}");
            drop(writer);
            // A child that another test forked may hold a copy of the writer until it runs its own program.
            crate::world::eventually("the program runs again", || {
                Command::new(w.at(name)).arg("0").status().is_ok_and(|status| status.success())
            });
        }
        w.end();
    });
}

#[test]
fn appending_goes_to_the_end_whoever_wrote_before_a15() {
    on_both_paths(60, |path| {
        let w = Ground::new(|l| fs::write(l.join("f"), b"0").unwrap()).mount(path);
        let mut one = OpenOptions::new().append(true).open(w.at("f")).unwrap();
        let mut two = OpenOptions::new().append(true).read(true).open(w.at("f")).unwrap();
        for _ in 0..50 {
            one.write_all(b"1").unwrap();
            two.write_all(b"2").unwrap();
        }
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let at = w.at("f");
                std::thread::spawn(move || {
                    let mut file = OpenOptions::new().append(true).open(at).unwrap();
                    (0..100).for_each(|_| file.write_all(b"t").unwrap());
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(fs::metadata(w.at("f")).unwrap().len(), 501);
        assert_eq!(&fs::read(w.at("f")).unwrap()[..5], b"01212");
        drop((one, two));
        w.end();
    });
}

#[test]
fn direct_io_works_on_lower_and_upper_files_beside_other_opens_a14() {
    on_both_paths(60, |path| {
        let w = Ground::new(|l| fs::write(l.join("f"), page(b'a')).unwrap()).mount(path);
        let lower = w.open("f", libc::O_RDONLY | libc::O_DIRECT);
        assert_eq!(sys::pread_aligned(lower.as_raw_fd(), 0, 4096).unwrap(), page(b'a'));
        let upper = w.open("f", libc::O_RDWR | libc::O_DIRECT);
        assert_eq!(sys::pwrite_aligned(upper.as_raw_fd(), 0, &page(b'b')).unwrap(), 4096);
        assert_eq!(sys::pread_aligned(lower.as_raw_fd(), 0, 4096).unwrap(), page(b'b'));
        assert_eq!(fs::read(w.at("f")).unwrap(), page(b'b'));
        let plain = w.open("f", libc::O_RDWR);
        sys::pwrite(plain.as_raw_fd(), 0, &page(b'c')).unwrap();
        assert_eq!(sys::pread_aligned(upper.as_raw_fd(), 0, 4096).unwrap(), page(b'c'));
        drop((lower, upper, plain));
        w.end();
    });
}

#[test]
fn an_upper_that_cannot_back_passthrough_is_served_from_the_page_cache_f3_f10() {
    under(60, || {
        use crate::support::mounts::Mounter;
        use std::os::unix::ffi::OsStrExt;
        // The lower layer is a kernel overlay: a stacked filesystem.
        let g = Ground::new(|l| fs::write(l.join("f"), page(b'a')).unwrap());
        let (stacked, under) = (crate::support::backing::scratch("stacked"), g.plain("lower"));
        let empty = crate::support::backing::scratch("empty");
        let options = format!("lowerdir={}:{}", under.display(), empty.display());
        let kernel = match Mounter::Kernel.mount(options.as_bytes(), &stacked, None) {
            Ok(kernel) => kernel,
            Err(why) => return skipped(&format!("no kernel overlayfs: {why:?}")),
        };
        let (upper, work) = (g.plain("upper"), g.plain("work"));
        let options =
            format!("lowerdir={},upperdir={},workdir={}", stacked.display(), upper.display(), work.display());
        let w = g.mount_with(&options);
        assert_eq!(fs::read(w.at("f")).unwrap(), page(b'a'));
        let held = fs::File::open(w.at("f")).unwrap();
        write_over(&w.at("f"), b"new");
        assert_eq!(&fs::read(w.at("f")).unwrap()[..3], b"new");
        drop(held);
        write_over(&w.at("f"), b"NEW");
        assert_eq!(&fs::read(w.at("f")).unwrap()[..3], b"NEW");
        w.end();
        // Read-only, where lower files themselves would be passed through.
        let options = format!("lowerdir={}:{}", stacked.display(), empty.display());
        let top = crate::support::backing::scratch("top");
        let read_only = Mounter::Acetate.mount(options.as_bytes(), &top, None).unwrap();
        assert_eq!(
            sys::open(top.join("g").as_os_str().as_bytes(), 0, 0).unwrap_err(),
            nix::errno::Errno::ENOENT
        );
        read_only.unmount().unwrap();
        kernel.unmount().unwrap();
    });
}
