//! Quotas on the upper: the caller is told, and nothing is lost.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::panic::panic_any;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;

use crate::support::backing::{Fs, Unavailable};
use crate::world::{Ground, on_both_paths};

const BIG: usize = 6 << 20;

fn btrfs(words: &[&str], at: &Path) {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    match Command::new("btrfs").args(words).arg(at).env("PATH", path).output() {
        Err(e) => panic_any(Unavailable(format!("btrfs: {e}"))),
        Ok(done) => assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr)),
    }
}

fn errno<T>(done: std::io::Result<T>) -> Option<i32> {
    done.err().and_then(|e| e.raw_os_error())
}

fn write_until_it_fails(file: &mut File) -> Option<i32> {
    let block = vec![7; 64 << 10];
    (0..BIG / block.len()).find_map(|_| errno(file.write_all(&block)))
}

#[test]
fn a_quota_of_the_upper_is_edquot_for_the_caller_and_nothing_is_lost() {
    on_both_paths(120, |path| {
        let ground = Ground::on(Fs::Btrfs, |l| fs::write(l.join("big"), vec![1; BIG]).unwrap());
        let place = ground.plain("limited");
        btrfs(&["quota", "enable"], place.parent().unwrap());
        btrfs(&["subvolume", "create"], &place);
        let dirs = ["upper", "work"].map(|name| place.join(name));
        dirs.iter().for_each(|dir| fs::create_dir(dir).unwrap());
        btrfs(&["qgroup", "limit", "3M"], &place);
        let [upper, work] = dirs.each_ref().map(|dir| dir.display());
        let lower = ground.plain("lower");
        let options = format!("{path},lowerdir={},upperdir={upper},workdir={work}", lower.display());
        let w = ground.mount_with(&options);

        let mut own = File::create(w.at("own")).unwrap();
        assert_eq!(write_until_it_fails(&mut own), Some(Errno::EDQUOT as i32));
        let written = own.metadata().unwrap().len();
        assert!(written < BIG as u64);
        assert!(fs::read(w.at("own")).unwrap().iter().all(|&b| b == 7));

        let append = || OpenOptions::new().append(true).open(w.at("big"));
        assert_eq!(errno(append()), Some(Errno::EDQUOT as i32));
        assert!(!dirs[0].join("big").exists(), "half a copy");
        assert_eq!(fs::read_dir(dirs[1].join("work")).unwrap().count(), 0, "left in work");
        assert_eq!(fs::read(w.at("big")).unwrap(), vec![1; BIG]);

        btrfs(&["qgroup", "limit", "none"], &place);
        append().unwrap().write_all(b"more").unwrap();
        let all = fs::read(w.at("big")).unwrap();
        assert!(all.ends_with(b"\x01more") && all.len() == BIG + 4);
        assert_eq!(fs::metadata(w.at("own")).unwrap().len(), written);
        drop(own);
        w.end();
    });
}
