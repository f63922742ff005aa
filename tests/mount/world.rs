//! One union on disk and mounted, with the questions that tests ask of it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use serde_json::Value;

use crate::support::backing::{self, Fs, Unavailable};
use crate::support::fingerprint::Fingerprint;
use crate::support::mounts::{Mounted, Mounter};
use crate::support::{layer, sys, watchdog};

/// An ordinary caller.
pub const USER: u32 = 4242;

/// Runs a test body under a time limit, on each of the two data paths; says so when it cannot run here.
pub fn on_both_paths(limit: u64, body: fn(&str)) {
    for path in ["passthrough=auto", "passthrough=off"] {
        under(limit, move || body(path));
    }
}

/// Runs a test body under a time limit of so many seconds.
pub fn under(limit: u64, body: impl FnOnce() + Send + 'static) {
    let limit = Duration::from_secs(limit);
    match catch_unwind(AssertUnwindSafe(|| watchdog::within(limit, body))) {
        Ok(Ok(())) => {}
        Ok(Err(Unavailable(why))) => skipped(&why),
        // A test may find out in its middle that it cannot go on.
        Err(panic) => match panic.downcast::<Unavailable>() {
            Ok(unavailable) => skipped(&unavailable.0),
            Err(panic) => resume_unwind(panic),
        },
    }
}

/// Says on the real standard output, past the capture of the test runner, that something was skipped.
pub fn skipped(why: &str) {
    std::io::stdout().write_all(format!("skipped: {why}\n").as_bytes()).unwrap();
}

/// Directories of a union to be.
pub struct Ground {
    base: PathBuf,
    pub lower: PathBuf,
    pub upper: PathBuf,
    pub work: PathBuf,
    pub mnt: PathBuf,
    plain: PathBuf,
    printed: bool,
}

impl Ground {
    /// On ext4, the lower filled by `fill`.
    pub fn new(fill: impl FnOnce(&Path)) -> Ground {
        Ground::on(Fs::Ext4, fill)
    }

    pub fn on(fs: Fs, fill: impl FnOnce(&Path)) -> Ground {
        let backing = backing::backing(fs).unwrap_or_else(|why| panic!("{}", why.0));
        let name = format!("m{}", backing::serial());
        let (base, plain) = (backing.quiet.join(&name), backing.plain.join(&name));
        fs::create_dir(&base).unwrap();
        let place = |dir: &str| {
            let path = base.join(dir);
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let (lower, upper, work) = (place("lower"), place("upper"), place("work"));
        fill(&lower);
        Ground { lower, upper, work, mnt: backing::scratch("mnt"), base, plain, printed: true }
    }

    /// Without a fingerprint of the lower layer, which is too large to be read by every test.
    pub fn unprinted(self) -> Ground {
        let mut ground = self;
        ground.printed = false;
        ground
    }

    /// A directory as the program is told of it: through the mount with strict access times.
    pub fn plain(&self, dir: &str) -> PathBuf {
        self.plain.join(dir)
    }

    pub fn mount(self, options: &str) -> World {
        let (lower, upper, work) = (self.plain("lower"), self.plain("upper"), self.plain("work"));
        let dirs =
            format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        self.mount_with(&join(&dirs, options))
    }

    pub fn mount_read_only(self, options: &str) -> World {
        let dirs = format!("lowerdir={}", self.plain("lower").display());
        self.mount_with(&join(&dirs, options))
    }

    pub fn mount_with(self, options: &str) -> World {
        let print = self.printed.then(|| Fingerprint::take([self.lower.as_path()]));
        let mounted = Mounter::Acetate
            .mount(options.as_bytes(), &self.mnt, None)
            .unwrap_or_else(|refusal| panic!("{options}: {refusal:?}"));
        let control = File::open(&self.mnt).unwrap();
        World { ground: self, mounted: Some(mounted), control: Some(control), print }
    }
}

fn join(dirs: &str, options: &str) -> String {
    if options.is_empty() { dirs.to_string() } else { format!("{dirs},{options}") }
}

impl Drop for Ground {
    fn drop(&mut self) {
        layer::remove_tree(self.base.as_os_str().as_bytes());
    }
}

/// A live union.
pub struct World {
    pub ground: Ground,
    mounted: Option<Mounted>,
    control: Option<File>,
    print: Option<Fingerprint>,
}

impl World {
    /// A path in the union.
    pub fn at(&self, path: &str) -> PathBuf {
        self.ground.mnt.join(path)
    }

    pub fn raw(&self, path: &str) -> Vec<u8> {
        self.at(path).as_os_str().as_bytes().to_vec()
    }

    pub fn in_upper(&self, path: &str) -> PathBuf {
        self.ground.upper.join(path)
    }

    pub fn open(&self, path: &str, flags: i32) -> std::os::fd::OwnedFd {
        sys::open(&self.raw(path), flags, 0o644).unwrap_or_else(|errno| panic!("{path}: {flags:#o}: {errno}"))
    }

    pub fn status(&self) -> Value {
        let control = self.control.as_ref().unwrap().as_fd();
        match acetate::fuse::control::ask(control, br#"{"ask":"status"}"#) {
            Ok(answer) => serde_json::from_slice(&answer).unwrap(),
            Err(Errno::ENOTTY) => panic_any(Unavailable("the server answers no questions".into())),
            Err(errno) => panic!("status: {errno}"),
        }
    }

    pub fn number(&self, field: &str) -> u64 {
        self.status()[field].as_u64().unwrap()
    }

    /// Requests by name that `work` costs. Not counted is what the kernel sends later than it returns, and the
    /// question itself.
    pub fn cost(&self, work: impl FnOnce()) -> BTreeMap<String, u64> {
        let before = self.requests();
        work();
        let after = self.requests();
        let uncounted = ["ioctl", "forget", "batch_forget", "release", "releasedir", "interrupt"];
        after
            .into_iter()
            .map(|(name, count)| (name.clone(), count - before.get(&name).copied().unwrap_or(0)))
            .filter(|(name, count)| *count > 0 && !uncounted.contains(&name.as_str()))
            .collect()
    }

    fn requests(&self) -> BTreeMap<String, u64> {
        let status = self.status();
        let named = status["transport"]["requests"].as_object().unwrap();
        named.iter().map(|(name, count)| (name.clone(), count.as_u64().unwrap())).collect()
    }

    /// Descriptors of the server, as the system sees them.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.number("pid"))).unwrap().count()
    }

    /// No panic so far.
    pub fn is_sound(&self) {
        let transport = &self.status()["transport"];
        assert_eq!((&transport["panics"], &transport["malformed"]), (&Value::from(0), &Value::from(0)));
    }

    /// Unmounts, and proves the lower layer untouched and the work directory swept.
    pub fn end(mut self) {
        self.is_sound();
        self.control = None;
        self.mounted.take().unwrap().unmount().unwrap();
        let changes = self.print.take().map(|print| print.changes()).unwrap_or_default();
        assert_eq!(changes, Vec::<String>::new(), "the lower layer changed (C-23)");
        assert_eq!(self.left_in_work(), Vec::<String>::new(), "left in work (C-15)");
    }

    /// What is in the work directory, but for the one whiteout that may be kept there (C-15, L-18).
    pub fn left_in_work(&self) -> Vec<String> {
        // There is none without an upper.
        let Ok(dir) = fs::read_dir(self.ground.work.join("work")) else { return Vec::new() };
        let mut left: Vec<_> = dir.map(|entry| entry.unwrap()).collect();
        let spare = |entry: &fs::DirEntry| {
            let meta = entry.metadata().unwrap();
            meta.file_type().is_char_device() && meta.rdev() == 0
        };
        if let Some(at) = left.iter().position(spare) {
            left.remove(at);
        }
        left.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// As [`World::end`], for a test that changed the layer behind the union's back.
    pub fn end_without_lower(mut self) {
        self.is_sound();
        self.control = None;
        self.mounted.take().unwrap().unmount().unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.control = None;
    }
}

/// Runs `work` in a thread that is an ordinary user.
pub fn as_user<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            sys::become_user(USER, USER, &[]).unwrap();
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Waits until `done`, for at most ten seconds.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn write_over(path: &Path, content: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all(content).unwrap();
}
