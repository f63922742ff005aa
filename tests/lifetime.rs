//! From `acetate mount` to the end of the server: what callers and supervisors rely on.

#![allow(clippy::unwrap_used, missing_docs)]

use std::io::Read;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[path = "support/stage.rs"]
mod stage;

use stage::{Stage, mounted_on};

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
fn a_bind_mount_of_a_part_is_unmounted_without_waiting_for_the_server() {
    let Some(stage) = Stage::new() else { return };
    std::fs::create_dir_all(stage.path("part")).unwrap();
    std::fs::create_dir_all(stage.path("a/sub")).unwrap();
    stage.must(&["mount", "--lower", "a", "m"]);
    let server = stage.server();
    let bind = Command::new("mount").arg("--bind").args([stage.path("m/sub"), stage.path("part")]).status();
    if bind.unwrap().success() {
        stage.must(&["umount", "part"]);
    } else {
        println!("skipped: an ordinary user makes no bind mounts");
    }
    assert!(is_alive(server) && stage.is_mounted());
    stage.must(&["umount", "m"]);
    assert!(!is_alive(server));
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
    eventually("the mount is listed as dead", || stage.listed()[0]["state"] == "dead");
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
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
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

/// O-3: whoever unmounts and mounts again at once gets the mount, although the old server may still be syncing.
#[test]
fn a_hundred_mounts_of_one_upper_follow_each_other_without_a_pause() {
    let Some(stage) = Stage::new() else { return };
    for round in 0..100 {
        stage.must(&["mount", "--lower", "a", "--lower", "b", "--upper", "u", "m"]);
        assert_eq!(std::fs::read_dir(stage.path("m")).unwrap().count(), 2 + round);
        std::fs::write(stage.path(&format!("m/{round}")), "x").unwrap();
        // Every second time by somebody who does not wait for the server.
        // A process that another test is just starting may hold a copy of a descriptor for a moment.
        eventually("nobody uses the mount", || match round % 2 {
            0 => stage.run(&["umount", "m"]).status.success(),
            _ => nix::mount::umount(&stage.path("m")).is_ok(),
        });
    }
    eventually("all servers end", || stage.listed().is_empty() && !stage.is_mounted());
}

/// Two processors' worth of work until it is dropped.
struct Load(std::sync::Arc<std::sync::atomic::AtomicBool>);

impl Load {
    fn new() -> Load {
        let wanted = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        for _ in 0..2 {
            let wanted = wanted.clone();
            std::thread::spawn(move || {
                while wanted.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Load(wanted)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(false, std::sync::atomic::Ordering::Relaxed);
    }
}

/// O-3: an engine mounts again at once, whatever ended the mount before, and never waits for its server.
#[test]
fn a_hundred_mounts_end_by_signal_by_fusermount_and_lazily_under_load_and_nothing_is_left() {
    let Some(stage) = Stage::new() else { return };
    let has_fusermount = Path::new("/usr/bin/fusermount3").exists() || Path::new("/bin/fusermount3").exists();
    let here = stage.path("m");
    let load = Load::new();
    let mut servers = Vec::new();
    for round in 0..102_usize {
        stage.must(&["-o", "lowerdir=a:b,upperdir=u,workdir=w", "m"]);
        assert_eq!(std::fs::read_dir(&here).unwrap().count(), 2 + round);
        std::fs::write(here.join(format!("{round}")), vec![7; 100_000]).unwrap();
        assert_eq!(std::fs::metadata(stage.path(&format!("u/{round}"))).unwrap().len(), 100_000);
        let server = stage.server();
        match round % 3 {
            0 => {
                kill(server, Signal::SIGTERM).unwrap();
                eventually("the mount is gone", || !stage.is_mounted());
            }
            1 if has_fusermount => {
                // A process that another test is just starting may hold a copy of a descriptor for a moment.
                let mut helper = Command::new("fusermount3");
                helper.arg("-u").arg(&here).stderr(Stdio::null());
                eventually("nobody uses the mount", || helper.status().unwrap().success());
            }
            _ => assert!(Command::new("umount").arg("-l").arg(&here).status().unwrap().success()),
        }
        servers.push(server);
    }
    drop(load);
    eventually("all servers end", || !servers.iter().any(|server| is_alive(*server)));
    assert!(stage.listed().is_empty() && !stage.is_mounted());
    let lock = nix::fcntl::Flock::lock(
        std::fs::File::open(stage.path("w")).unwrap(),
        nix::fcntl::FlockArg::LockExclusiveNonblock,
    );
    assert!(lock.is_ok(), "{lock:?}");
    for round in 0..102 {
        assert_eq!(std::fs::metadata(stage.path(&format!("u/{round}"))).unwrap().len(), 100_000);
    }
    assert_eq!(std::fs::read_dir(stage.path("w/work")).unwrap().count(), 0);
}

#[test]
fn an_upper_in_use_is_refused_and_the_server_is_named() {
    let Some(stage) = Stage::new() else { return };
    std::fs::create_dir(stage.path("m2")).unwrap();
    stage.must(&["mount", "--lower", "a", "--upper", "u", "m"]);
    let refused = stage.run(&["mount", "--lower", "b", "--upper", "u", "m2"]);
    assert_eq!(refused.status.code(), Some(1));
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(message.contains(&format!("in use by the daemon with pid {}", stage.server())), "{message}");
    assert_eq!(mounted_on(&stage.path("m2")), 0);
    stage.must(&["umount", "m"]);
}

/// What is said of a mount does not depend on the name by which its directory is known now.
#[test]
fn a_mount_that_was_moved_is_unmounted_where_it_is_now() {
    let Some(stage) = Stage::new() else { return };
    std::fs::create_dir(stage.path("outer")).unwrap();
    std::fs::create_dir(stage.path("outer/m")).unwrap();
    stage.must(&["mount", "--lower", "a", "outer/m"]);
    std::fs::rename(stage.path("outer"), stage.path("moved")).unwrap();
    assert!(stage.path("moved/m/from-a").exists());
    stage.must(&["umount", "moved/m"]);
    assert_eq!(mounted_on(&stage.path("moved/m")), 0);
}

#[test]
fn messages_go_to_the_log_that_was_named() {
    let Some(stage) = Stage::new() else { return };
    stage.must(&["mount", "--lower", "a", "--log", "log", "m"]);
    stage.must(&["umount", "m"]);
    let log = std::fs::read_to_string(stage.path("log")).unwrap();
    assert!(log.contains("INFO: mounted on") && log.contains("is unmounted after"), "{log}");
}
