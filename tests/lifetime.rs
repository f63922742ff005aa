//! From `acetate mount` to the end of the server: what callers and supervisors rely on.

use std::io::Read;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A scratch directory with layers `a` and `b`, `u`, `w`, `m`; unmounted and removed at the end.
struct Stage(tempfile::TempDir);

impl Stage {
    /// `None`, with a word why, where nothing can be mounted.
    fn new() -> Option<Stage> {
        if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
            println!("skipped: needs root and /dev/fuse");
            return None;
        }
        let stage = Stage(tempfile::tempdir().unwrap());
        for name in ["a", "b", "u", "w", "m"] {
            std::fs::create_dir(stage.path(name)).unwrap();
        }
        std::fs::write(stage.path("a/from-a"), "a").unwrap();
        std::fs::write(stage.path("b/from-b"), "b").unwrap();
        Some(stage)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_acetate"));
        command.args(words).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Runs a command that is to succeed and say nothing on stderr.
    fn must(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && stderr.is_empty(), "{words:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What `list` says of the mounts here, the topmost last.
    fn listed(&self) -> Vec<serde_json::Value> {
        let all: Vec<serde_json::Value> = serde_json::from_str(&self.must(&["list", "--json"])).unwrap();
        let here = self.path("m");
        all.into_iter().filter(|mount| mount["mountpoint"].as_str() == here.to_str()).collect()
    }

    fn server(&self) -> Pid {
        let pid = self.listed().last().unwrap()["pid"].as_i64().unwrap();
        Pid::from_raw(i32::try_from(pid).unwrap())
    }

    fn is_mounted(&self) -> bool {
        mounted_on(&self.path("m")) > 0
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        while nix::mount::umount2(&self.path("m"), nix::mount::MntFlags::MNT_DETACH).is_ok() {}
    }
}

fn mounted_on(path: &Path) -> usize {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines().filter(|line| line.split(' ').nth(4) == path.to_str()).count()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(10), "still not: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A process that has ended but was not yet fetched by its parent is not alive.
fn is_alive(server: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{server}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[test]
fn the_command_returns_when_the_mount_is_live_and_the_server_lets_go_of_the_caller() {
    let Some(stage) = Stage::new() else { return };
    let mut command = stage.command(&["-o", "lowerdir=a:b,upperdir=u,workdir=w,", "m"]);
    let mut child: Child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Both pipes end although the server lives: a caller that reads them until their end goes on.
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert!(child.wait().unwrap().success(), "{err}");
    assert_eq!((out.as_str(), err.as_str()), ("", ""));
    assert_eq!(std::fs::read_to_string(stage.path("m/from-b")).unwrap(), "b");

    let server = stage.server();
    assert_eq!(std::fs::read_link(format!("/proc/{server}/cwd")).unwrap(), Path::new("/"));
    assert_eq!(nix::unistd::getsid(Some(server)).unwrap(), server);
    for stream in 0..3 {
        let open = std::fs::read_link(format!("/proc/{server}/fd/{stream}")).unwrap();
        assert_eq!(open, Path::new("/dev/null"));
    }
    stage.must(&["umount", "m"]);
    assert!(!is_alive(server) && !stage.is_mounted());
}

#[test]
fn a_descriptor_that_the_caller_left_open_is_not_kept_by_the_server() {
    let Some(stage) = Stage::new() else { return };
    let (mut reader, writer) = std::io::pipe().unwrap();
    // A shell passes the pipe on as descriptor 7.
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 7>&1 >/dev/null; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_acetate")]);
    shell.args(["mount", "--lower", "a", "m"]).current_dir(stage.0.path()).stdout(writer);
    assert!(shell.status().unwrap().success());
    drop(shell);
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert!(stage.is_mounted());
    stage.must(&["umount", "m"]);
}

#[test]
fn layers_are_found_by_the_kernel_before_the_server_leaves_the_directory() {
    let Some(stage) = Stage::new() else { return };
    std::fs::create_dir(stage.path("a/sub")).unwrap();
    std::os::unix::fs::symlink("a/sub", stage.path("link")).unwrap();
    stage.must(&["mount", "--lower", "link/..", "--lower", "./b", "--upper", "u", "m"]);
    assert_eq!(std::fs::read_to_string(stage.path("m/from-a")).unwrap(), "a");
    let layers = stage.listed()[0]["layers"].clone();
    assert_eq!(layers[1]["path"].as_str(), stage.path("a").to_str());
    stage.must(&["umount", "m"]);
    assert!(stage.path(".u.work").is_dir());
}

#[test]
fn each_ending_signal_unmounts_and_ends_the_server() {
    let Some(stage) = Stage::new() else { return };
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        stage.must(&["mount", "--lower", "a", "--upper", "u", "m"]);
        let server = stage.server();
        kill(server, signal).unwrap();
        eventually("the server ends", || !is_alive(server));
        assert!(!stage.is_mounted(), "{signal}");
    }
}

#[test]
fn an_unmount_by_anybody_ends_the_server() {
    let Some(stage) = Stage::new() else { return };
    stage.must(&["mount", "--lower", "a", "m"]);
    let server = stage.server();
    assert!(Command::new("umount").arg(stage.path("m")).status().unwrap().success());
    eventually("the server ends", || !is_alive(server));
}

#[test]
fn a_signal_does_not_unmount_what_somebody_else_mounted_on_top() {
    let Some(stage) = Stage::new() else { return };
    stage.must(&["mount", "--lower", "a", "m"]);
    let server = stage.server();
    let none = None::<&str>;
    nix::mount::mount(Some("stranger"), &stage.path("m"), Some("tmpfs"), nix::mount::MsFlags::empty(), none)
        .unwrap();
    kill(server, Signal::SIGTERM).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(mounted_on(&stage.path("m")), 2);
    assert!(!stage.run(&["umount", "m"]).status.success());
    nix::mount::umount(&stage.path("m")).unwrap();
    stage.must(&["umount", "m"]);
    assert!(!is_alive(server));
}

#[test]
fn a_mount_in_use_is_refused_and_can_be_taken_from_sight() {
    let Some(stage) = Stage::new() else { return };
    stage.must(&["mount", "--lower", "a", "m"]);
    let server = stage.server();
    let open = std::fs::File::open(stage.path("m/from-a")).unwrap();
    let refused = stage.run(&["umount", "m"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("it is in use"));
    stage.must(&["umount", "--lazy", "m"]);
    assert!(!stage.is_mounted() && is_alive(server));
    drop(open);
    eventually("the server ends", || !is_alive(server));
}

#[test]
fn a_dead_mount_of_ours_is_replaced_and_a_strangers_is_refused() {
    let Some(stage) = Stage::new() else { return };
    stage.must(&["mount", "--lower", "a", "m"]);
    kill(stage.server(), Signal::SIGKILL).unwrap();
    eventually("the mount is dead", || std::fs::read_dir(stage.path("m")).is_err());
    assert_eq!(stage.listed()[0]["state"], "dead");
    let replaced = stage.run(&["mount", "--lower", "b", "m"]);
    assert!(replaced.status.success(), "{}", String::from_utf8_lossy(&replaced.stderr));
    assert_eq!(mounted_on(&stage.path("m")), 1);
    assert!(stage.path("m/from-b").exists());
    kill(stage.server(), Signal::SIGKILL).unwrap();
    eventually("the mount is dead", || std::fs::read_dir(stage.path("m")).is_err());
    let removed = stage.run(&["umount", "m"]);
    assert!(removed.status.success() && !stage.is_mounted());

    // A mount of FUSE whose device is closed at once is dead from the start.
    let device = std::fs::File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&device);
    let data = format!("fd={fd},rootmode=40000,user_id=0,group_id=0");
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("x"), &stage.path("m"), Some("fuse.stranger"), flags, Some(data.as_str()))
        .unwrap();
    drop(device);
    let refused = stage.run(&["mount", "--lower", "b", "m"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("a dead fuse.stranger mount is there"));
    assert!(stage.is_mounted());
}

#[test]
fn a_supervisor_is_told_when_the_mount_is_live_and_when_it_ends() {
    let Some(stage) = Stage::new() else { return };
    let name = format!("acetate-test-{}", std::process::id());
    let heard = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    heard.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let hear = || {
        let mut buf = [0; 256];
        let n = heard.recv(&mut buf).unwrap();
        String::from_utf8_lossy(&buf[..n]).into_owned()
    };
    let mut command = stage.command(&["mount", "--foreground", "--lower", "a", "m"]);
    let mut server = command.env("NOTIFY_SOCKET", format!("@{name}")).stderr(Stdio::null()).spawn().unwrap();
    assert!(hear().starts_with("READY=1"));
    assert!(stage.path("m/from-a").exists());
    kill(Pid::from_raw(server.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(hear(), "STOPPING=1");
    assert!(server.wait().unwrap().success());
    assert!(!stage.is_mounted());
}

#[test]
fn an_ephemeral_upper_takes_changes_and_is_gone_afterwards() {
    let Some(stage) = Stage::new() else { return };
    let mount = |stage: &Stage| {
        let output = stage
            .command(&["mount", "--lower", "a", "--ephemeral", "m"])
            .env("TMPDIR", stage.path(""))
            .output();
        assert!(output.unwrap().status.success());
    };
    let left = |stage: &Stage| {
        let names = std::fs::read_dir(stage.path("")).unwrap().flatten().map(|e| e.file_name());
        names.filter(|name| name.to_string_lossy().starts_with("acetate-ephemeral")).count()
    };
    mount(&stage);
    std::fs::write(stage.path("m/new"), "x").unwrap();
    std::fs::remove_file(stage.path("m/from-a")).unwrap();
    assert_eq!(left(&stage), 1);
    stage.must(&["umount", "m"]);
    assert_eq!(left(&stage), 0);
    assert!(stage.path("a/from-a").exists() && !stage.path("a/new").exists());
    mount(&stage);
    kill(stage.server(), Signal::SIGKILL).unwrap();
    eventually("the mount is dead", || std::fs::read_dir(stage.path("m")).is_err());
    assert_eq!(left(&stage), 1);
    mount(&stage);
    assert_eq!(left(&stage), 1);
    stage.must(&["umount", "m"]);
    assert_eq!(left(&stage), 0);
}

#[test]
fn mount_8_and_its_helper_form_work() {
    let Some(stage) = Stage::new() else { return };
    let helper = stage.path("mount.acetate");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_acetate"), &helper).unwrap();
    let words = ["overlay", "m", "-o", "rw,nodev,lowerdir=a:b"];
    assert!(
        Command::new(&helper).args(words).arg("-f").current_dir(stage.0.path()).status().unwrap().success()
    );
    assert!(!stage.is_mounted());
    assert!(Command::new(&helper).args(words).current_dir(stage.0.path()).status().unwrap().success());
    assert_eq!(stage.listed()[0]["source"], "overlay");
    stage.must(&["umount", "m"]);
}

#[test]
fn more_than_a_thousand_layers_mount() {
    let Some(stage) = Stage::new() else { return };
    let mut list = String::new();
    for n in 0..1200 {
        let layer = stage.path(&format!("layer-{n}"));
        std::fs::create_dir(&layer).unwrap();
        std::fs::write(layer.join(format!("file-{n}")), "").unwrap();
        list.push_str(&format!("layer-{n}\n"));
    }
    std::fs::write(stage.path("list"), list).unwrap();
    stage.must(&["mount", "--lower", "@list", "m"]);
    assert_eq!(std::fs::read_dir(stage.path("m")).unwrap().count(), 1200);
    stage.must(&["umount", "m"]);
}
