//! A power cut: what the disk holds at any moment comes back as a sound stack.
//!
//! Lower, upper and work directory lie on an ext4 image, the image lies on xfs, and while a program works on the union
//! the image is cloned, which xfs does between two writes and never within one. Each clone is what a machine would find
//! that lost power at that moment. On it the filesystem is sound after its journal was replayed, the stack mounts, what
//! was acknowledged by fsync is there and whole, and what was not is there as before or after its operation. The same
//! is asked of kernel overlayfs first: no more is wanted than it gives. (Bytes written in place without fsync may be on
//! disk before names that are older, there as here.)

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::backing::{self, Fs};
use crate::support::fingerprint::Fingerprint;
use crate::support::mounts::{Mounter, binary};
use crate::support::rng::Rng;
use crate::support::{layer, sys, watchdog};

/// Steps of the work, and files of the lower layer.
const STEPS: usize = 120;
const CUTS: usize = 8;

fn raw(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn old(step: usize) -> Vec<u8> {
    vec![step as u8 + 1; 30_000 + 500 * step]
}

fn new(step: usize) -> Vec<u8> {
    format!("the new content of {step}\n").repeat(300).into_bytes()
}

fn sync(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

fn write_durably(path: &Path, content: &[u8]) {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).unwrap();
    file.write_all(content).unwrap();
    file.sync_all().unwrap();
}

/// One step; when it returns, it is on disk, but for the first kind, which asks for nothing.
fn work(d: &Path, step: usize) {
    let at = |name: &str| d.join(format!("{name}{step}"));
    match step % 6 {
        0 => fs::set_permissions(at("low"), PermissionsExt::from_mode(0o600)).unwrap(),
        1 => fs::rename(at("low"), at("moved")).unwrap(),
        2 => fs::remove_file(at("low")).unwrap(),
        3 => write_durably(&at("new"), &new(step)),
        4 => {
            fs::create_dir(at("dir")).unwrap();
            write_durably(&at("dir").join("in"), &new(step));
            sync(&at("dir"));
        }
        _ => {
            write_durably(&at("temporary"), &new(step));
            fs::rename(at("temporary"), at("low")).unwrap();
        }
    }
    sync(d);
}

/// What is wrong with the tree after a cut, when the steps below `done` were acknowledged and no other than the next
/// had begun.
fn faults(d: &Path, done: usize) -> Vec<String> {
    let mut faults = Vec::new();
    let read = |name: String| fs::read(d.join(name)).ok();
    let mut names: Vec<_> = layer::names(raw(d));
    for step in 0..STEPS {
        let (begun, acknowledged) = (step <= done, step < done);
        let [low, moved, temporary] = ["low", "moved", "temporary"].map(|name| read(format!("{name}{step}")));
        let [fresh, inner] = [read(format!("new{step}")), read(format!("dir{step}/in"))];
        let (before, after) = (Some(old(step)), Some(new(step)));
        let untouched = low == before && moved.is_none() && temporary.is_none();
        let fine = match step % 6 {
            _ if !begun => untouched && fresh.is_none() && inner.is_none(),
            0 => untouched,
            1 if acknowledged => low.is_none() && moved == before,
            1 => (low == before) != (moved == before) && (low.is_none() != moved.is_none()),
            2 if acknowledged => low.is_none(),
            2 => low.is_none() || low == before,
            3 if acknowledged => fresh == after && untouched,
            4 if acknowledged => inner == after && untouched,
            3 | 4 => untouched,
            _ if acknowledged => low == after && temporary.is_none(),
            _ => low == before || low == after,
        };
        if !fine {
            faults.push(format!(
                "step {step} of {done}: {:?}",
                [low, moved, fresh].map(|c| c.map(|c| c.len()))
            ));
        }
        for name in ["low", "moved", "temporary", "new", "dir"] {
            names.retain(|listed| listed != format!("{name}{step}").as_bytes());
        }
    }
    faults.extend(names.iter().map(|name| format!("a strange name: {}", layer::literal(name))));
    faults
}

/// The image of a disk, mounted.
struct Disk {
    image: File,
    at: PathBuf,
}

impl Disk {
    /// A filesystem on an image on xfs, which can be cloned.
    fn make(base: &Path) -> Disk {
        let path = base.join("disk");
        let image = OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
        image.set_len(96 << 20).unwrap();
        let disk = Disk { image, at: backing::scratch("disk") };
        disk.tool("mkfs.ext4", &["-q", "-F"], &[0]);
        disk.mount();
        disk
    }

    fn tool(&self, program: &str, arguments: &[&str], fine: &[i32]) {
        let device = format!("/proc/{}/fd/{}", std::process::id(), self.image.as_raw_fd());
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let output = Command::new(program).args(arguments).arg(device).env("PATH", path).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.code().is_some_and(|code| fine.contains(&code)), "{program}: {said}");
    }

    fn mount(&self) {
        let (device, path) = sys::attach_loop(self.image.as_raw_fd()).unwrap();
        sys::mount(path.as_bytes(), raw(&self.at), b"ext4", 0, b"commit=1").unwrap();
        drop(device);
    }

    fn unmount(&self) {
        // The kernel lets go of backing files a moment after the mount that used them is gone.
        let begun = std::time::Instant::now();
        while let Err(errno) = sys::umount(raw(&self.at), 0) {
            assert!(errno == nix::errno::Errno::EBUSY && begun.elapsed().as_secs() < 20, "unmount: {errno}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// What is on the disk now, as another disk.
    fn cut(&self, base: &Path, number: usize) -> Disk {
        let path = base.join(format!("cut{number}"));
        let image = OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
        sys::clone_file(self.image.as_raw_fd(), image.as_raw_fd()).unwrap();
        Disk { image, at: backing::scratch("cut") }
    }

    fn options(&self) -> String {
        let at = self.at.display();
        format!("lowerdir={at}/lower,upperdir={at}/upper,workdir={at}/work")
    }

    fn swept(&self) -> bool {
        let spare = |entry: &fs::DirEntry| entry.file_type().unwrap().is_char_device();
        fs::read_dir(self.at.join("work/work")).unwrap().all(|entry| spare(&entry.unwrap()))
    }
}

fn power_is_cut(mounter: Mounter) {
    let base = backing::backing(Fs::Xfs).unwrap_or_else(|why| panic!("{}", why.0)).quiet;
    let base = base.join(format!("power{}", backing::serial()));
    fs::create_dir(&base).unwrap();
    let disk = Disk::make(&base);
    for dir in ["lower/d", "upper", "work"] {
        fs::create_dir_all(disk.at.join(dir)).unwrap();
    }
    for step in 0..STEPS {
        fs::write(disk.at.join(format!("lower/d/low{step}")), old(step)).unwrap();
    }
    sync(&disk.at);
    sys::syncfs(File::open(&disk.at).unwrap().as_raw_fd()).unwrap();
    let mnt = backing::scratch("mnt");
    let mounted = mounter.mount(disk.options().as_bytes(), &mnt, None).unwrap();

    let done = AtomicUsize::new(0);
    let mut rng = Rng::new(7);
    let mut cuts: Vec<(usize, usize, Disk)> = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for step in 0..STEPS {
                work(&mnt.join("d"), step);
                done.store(step + 1, Ordering::SeqCst);
            }
        });
        while cuts.len() < CUTS && done.load(Ordering::SeqCst) < STEPS {
            // At any place within a step.
            let wanted = cuts.len() * STEPS / CUTS;
            while done.load(Ordering::SeqCst) < wanted {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_micros(rng.below(3000) as u64));
            let acknowledged = done.load(Ordering::SeqCst);
            let cut = disk.cut(&base, cuts.len());
            cuts.push((acknowledged, done.load(Ordering::SeqCst), cut));
        }
    });
    // everything there is, without an fsync.
    fs::write(mnt.join("unsynced"), new(0)).unwrap();
    match mounter {
        Mounter::Kernel => sys::syncfs(File::open(&mnt).unwrap().as_raw_fd()).unwrap(),
        Mounter::Acetate => {
            assert!(Command::new(binary()).arg("sync").arg(&mnt).status().unwrap().success());
        }
    }
    let last = disk.cut(&base, CUTS);
    mounted.unmount().unwrap();
    disk.unmount();

    assert!(!cuts.is_empty());
    cuts.push((STEPS, STEPS, last));
    let synced = cuts.len() - 1;
    for (number, (acknowledged, begun, cut)) in cuts.iter().enumerate() {
        // The first mount replays the journal.
        cut.mount();
        cut.unmount();
        cut.tool("e2fsck", &["-f", "-n"], &[0]);
        cut.mount();
        let quiet = cut.at.join("lower");
        let print = Fingerprint::take([quiet.as_path()]);
        let mounted = mounter.mount(cut.options().as_bytes(), &mnt, None).unwrap();
        // The clone may have been taken a few steps after its number was looked at.
        let found: Vec<_> = (*acknowledged..=*begun).map(|done| faults(&mnt.join("d"), done)).collect();
        assert!(found.iter().any(Vec::is_empty), "{mounter:?}, {acknowledged}..={begun}: {:?}", found[0]);
        if number == synced {
            assert_eq!(fs::read(mnt.join("unsynced")).unwrap(), new(0));
        }
        assert!(cut.swept(), "{mounter:?}: left in the work directory");
        mounted.unmount().unwrap();
        assert_eq!(print.changes(), Vec::<String>::new());
        cut.unmount();
    }
    layer::remove_tree(raw(&base));
}

/// C-14, C-15, C-16, D-2
#[test]
fn after_a_power_cut_what_was_acknowledged_is_there_and_nothing_is_half_done() {
    for mounter in [Mounter::Kernel, Mounter::Acetate] {
        match watchdog::within(Duration::from_secs(240), move || power_is_cut(mounter)) {
            Ok(()) => {}
            Err(unavailable) => return println!("skipped: {}", unavailable.0),
        }
    }
}
