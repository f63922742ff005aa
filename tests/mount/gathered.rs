//! Writes that the kernel gathers before it sends them (F-36).

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::support::mounts::binary;
use crate::world::{Ground, as_user, under};

fn gathering() -> crate::world::World {
    let w = Ground::new(|l| {
        fs::write(l.join("f"), vec![b'l'; 10_000]).unwrap();
        fs::create_dir(l.join("d")).unwrap();
        fs::set_permissions(l.join("d"), fs::Permissions::from_mode(0o777)).unwrap();
    })
    .mount("writeback_cache=on");
    assert_eq!(w.status()["data_path"], "writeback");
    w
}

#[test]
fn two_thousand_small_writes_of_a_user_cost_a_handful_of_requests_f36() {
    under(60, || {
        let w = gathering();
        let cost = w.cost(|| {
            as_user(|| {
                let mut file = File::create(w.at("d/log")).unwrap();
                (0..2000).for_each(|_| file.write_all(b"x").unwrap());
            });
        });
        let all: u64 = cost.values().sum();
        assert!(all <= 12, "{cost:?}");
        assert_eq!(fs::read(w.in_upper("d/log")).unwrap(), vec![b'x'; 2000]);
        w.end();
    });
}

#[test]
fn what_a_closed_or_synced_file_holds_is_in_the_upper() {
    under(60, || {
        let w = gathering();
        let mut file = OpenOptions::new().append(true).open(w.at("f")).unwrap();
        file.write_all(b"appended").unwrap();
        file.sync_data().unwrap();
        let upper = fs::read(w.in_upper("f")).unwrap();
        assert!(upper.len() == 10_008 && upper.ends_with(b"lappended"));
        file.write_all(b" more").unwrap();
        drop(file);
        assert!(fs::read(w.in_upper("f")).unwrap().ends_with(b"lappended more"));
        w.end();
    });
}

#[test]
fn sync_and_diff_see_what_was_written_to_files_that_are_still_open() {
    under(120, || {
        let w = gathering();
        let told = |verb: &str| {
            let told = Command::new(binary()).args([verb, "--json"]).arg(w.at("")).output().unwrap();
            assert!(told.status.success(), "{verb}: {}", String::from_utf8_lossy(&told.stderr));
        };
        for (round, verb) in ["sync", "diff"].iter().cycle().take(6).enumerate() {
            let open: Vec<File> = (0..20)
                .map(|i| {
                    let file = File::create(w.at(&format!("d/{round}-{i}"))).unwrap();
                    file.write_all_at(&vec![7; 1 + i * 5000], 0).unwrap();
                    file
                })
                .collect();
            told(verb);
            for i in 0..20 {
                let length = fs::metadata(w.in_upper(&format!("d/{round}-{i}"))).unwrap().len();
                assert_eq!(length, 1 + i * 5000, "{verb}, round {round}");
            }
            drop(open);
        }
        w.end();
    });
}

#[test]
fn times_that_were_set_stay_and_times_of_writes_reach_the_upper() {
    under(60, || {
        let w = gathering();
        let early = SystemTime::UNIX_EPOCH + Duration::new(1_000_000, 5);
        let mut file = OpenOptions::new().write(true).open(w.at("f")).unwrap();
        file.write_all(b"new").unwrap();
        file.set_modified(early).unwrap();
        drop(file);
        for path in [w.at("f"), w.in_upper("f")] {
            assert_eq!(fs::metadata(path).unwrap().modified().unwrap(), early);
        }
        let mut file = OpenOptions::new().write(true).open(w.at("f")).unwrap();
        file.seek(SeekFrom::End(0)).unwrap();
        file.write_all(b"newer").unwrap();
        file.sync_all().unwrap();
        let (here, there) = (fs::metadata(w.at("f")).unwrap(), fs::metadata(w.in_upper("f")).unwrap());
        assert_eq!((here.len(), there.len()), (10_005, 10_005));
        assert!(here.modified().unwrap() > early);
        drop(file);
        let (here, there) = (fs::metadata(w.at("f")).unwrap(), fs::metadata(w.in_upper("f")).unwrap());
        assert_eq!((here.mtime(), here.mtime_nsec()), (there.mtime(), there.mtime_nsec()));
        w.end();
    });
}
