//! A scratch directory with a tree in it, and two users: root, and one without any right.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::stage::Stage;

/// Has no rights, and needs no line in /etc/passwd.
pub const USER: u32 = 54321;

/// In a mount namespace of its own, with a device that everybody may open, as the user.
const AS_USER: &str = "mount --make-rprivate / && mount -t tmpfs none /mnt && mknod -m 666 /mnt/fuse c 10 229 \
    && mount --bind /mnt/fuse /dev/fuse && exec setpriv --reuid 54321 --regid 54321 --clear-groups bash -ec \"$0\"";

/// A scratch directory; `d` is the tree that is worked on, `tmp` is where private uppers go.
pub struct World(pub Stage);

impl World {
    /// `None`, with a word why, where nothing can be mounted.
    pub fn new() -> Option<World> {
        let stage = Stage::new()?;
        let world = World(stage);
        for dir in ["d/sub/deep", "d/full", "tmp"] {
            std::fs::create_dir_all(world.path(dir)).unwrap();
        }
        for (file, text) in [("d/f", "one\n"), ("d/sub/g", "two\n"), ("d/full/x", "x\n"), ("d/full/y", "y\n")]
        {
            std::fs::write(world.path(file), text).unwrap();
        }
        std::fs::hard_link(world.path("d/f"), world.path("d/sub/f-again")).unwrap();
        std::os::unix::fs::symlink("f", world.path("d/link")).unwrap();
        Some(world)
    }

    /// The same, where everything is the user's. `None` where a user may make no namespaces.
    pub fn of_user() -> Option<World> {
        let world = World::new()?;
        std::fs::set_permissions(world.0.0.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::copy(env!("CARGO_BIN_EXE_acetate"), world.path("acetate")).unwrap();
        let every = Command::new("chown").args(["-R", "-h", "54321:54321"]).arg(world.0.0.path()).status();
        assert!(every.unwrap().success());
        let output = world.as_user("unshare --user --mount true");
        if !output.status.success() {
            println!("skipped: a user may make no namespaces: {}", text(&output.stderr));
            return None;
        }
        chown(world.0.0.path(), Some(USER), Some(USER)).unwrap();
        Some(world)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    /// A command of acetate in the scratch directory, killed when it takes too long.
    pub fn acetate(&self, words: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", "120"]).arg(env!("CARGO_BIN_EXE_acetate")).args(words);
        command.current_dir(self.0.0.path()).env("TMPDIR", self.path("tmp")).stdin(Stdio::null());
        command
    }

    pub fn run(&self, words: &[&str]) -> Output {
        self.acetate(words).output().unwrap()
    }

    /// As `run`, and it must succeed. What it said on stdout and on stderr.
    pub fn must(&self, words: &[&str]) -> (String, String) {
        let output = self.run(words);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{words:?}: {}: {out}{err}", output.status);
        (out, err)
    }

    /// Runs a script as the user, in the scratch directory.
    pub fn as_user(&self, script: &str) -> Output {
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", "120", "unshare", "--mount", "bash", "-c", AS_USER, script]);
        command.current_dir(self.0.0.path()).env("TMPDIR", self.path("tmp")).env("HOME", "/");
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// What lies in the directory for private uppers.
    pub fn left(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("tmp")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A line for each object below `root`: type, mode, owner, links, size, times, target or content.
pub fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(path) = todo.pop() {
        let meta = path.symlink_metadata().unwrap();
        let content = if meta.is_file() {
            text(&std::fs::read(&path).unwrap_or_default())
        } else if meta.is_symlink() {
            std::fs::read_link(&path).unwrap().display().to_string()
        } else {
            String::new()
        };
        let line = format!(
            "{:o} {}:{} links {} size {} mtime {}.{:09} {content:?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.nlink(),
            if meta.is_dir() { 0 } else { meta.size() },
            meta.mtime(),
            meta.mtime_nsec(),
        );
        all.insert(path.strip_prefix(root).unwrap().display().to_string(), line);
        if meta.is_dir() {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    all
}

/// Moments from here on count as new.
pub fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

/// A line for each object below `root` with everything that two runs of the same commands have in common: times only
/// if they are from before `since`, and for each name of a file with several, the first of them.
pub fn picture(root: &Path, since: i64) -> BTreeMap<String, String> {
    let tree = crate::support::tree::read(root);
    let mut problems: Vec<&String> = tree.problems.iter().collect();
    // A directory that nobody may read is nothing to complain about for root.
    problems.retain(|problem| !problem.contains("EACCES"));
    assert!(problems.is_empty(), "{}: {problems:?}", root.display());
    let mut first = BTreeMap::new();
    let mut all = BTreeMap::new();
    for (path, entry) in &tree.entries {
        let name = text(path);
        let time = entry.times[1];
        let time = if time.0 < since { format!("{}.{:09}", time.0, time.1) } else { "new".into() };
        let link = first.entry(entry.id).or_insert_with(|| name.clone()).clone();
        let links = if entry.is_dir() { 0 } else { entry.links };
        let size = if entry.is_dir() { 0 } else { entry.size };
        let line = format!(
            "{:o} {}:{} {:?} size {size} links {links} with {link:?} data {} at {time} {:?} {:?}",
            entry.mode,
            entry.uid,
            entry.gid,
            entry.device,
            entry.has_data,
            entry.content.as_ref().map(|content| text(content)),
            entry.xattrs.as_ref().map(|all| all.iter().map(|(k, v)| (text(k), text(v))).collect::<Vec<_>>()),
        );
        all.insert(name, line);
    }
    all
}

/// The lines that differ, for a person to read.
pub fn difference(left: &BTreeMap<String, String>, right: &BTreeMap<String, String>) -> String {
    crate::support::tree::difference(left, right).join("\n")
}

/// Runs a script with `bash` in `dir`; what it cannot do it leaves.
pub fn direct(dir: &Path, script: &str) {
    let mut command = Command::new("bash");
    command.args(["-c", script]).current_dir(dir).stdin(Stdio::null()).stderr(Stdio::null());
    command.status().unwrap();
}

/// A copy of a tree with everything in it.
pub fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["-a", "--"]).arg(from).arg(to).status();
    assert!(copied.unwrap().success());
}

/// Gives every object of a tree a time long past.
pub fn age(root: &Path) {
    let mut find = Command::new("find");
    find.arg(root).args(["-depth", "-exec", "touch", "-h", "-d", "2001-02-03 04:05:06.7", "{}", "+"]);
    assert!(find.status().unwrap().success());
}
