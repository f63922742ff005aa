//! `acetate run`.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::{World, listing, text};

const EDIT: &str = "echo more >> f; rm full/x; mv sub moved; mkdir new; echo hi > new/file; chmod 700 full";
const SHOWN: &str = "C f (content, mtime)\nC full (mode)\nD full/x\nR sub -> moved\n\
    C moved/f-again (content, mtime)\nA new\nA new/file\n";

/// The lines of a report without the remarks.
fn report(stderr: &str) -> String {
    stderr.lines().filter(|line| !line.starts_with("acetate: ")).map(|line| format!("{line}\n")).collect()
}

fn sorted(report: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = report.lines().collect();
    lines.sort_unstable();
    lines
}

fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_command_sees_its_directory_changed_and_nothing_else_does() {
    let Some(world) = World::new() else { return };
    let before = listing(&world.path("d"));
    let script = format!("pwd; {EDIT}; cat sub/f moved/f-again; ls full");
    let mut command = world.acetate(&["run", "--discard", "--", "sh", "-c", &script]);
    let output = command.current_dir(world.path("d")).output().unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(out, format!("{}\none\nmore\ny\n", world.path("d").display()), "{err}");
    let err: Vec<&str> = err.lines().filter(|line| !line.contains("sub/f")).collect();
    assert_eq!(sorted(&err.join("\n")), sorted(SHOWN));
    assert_eq!(listing(&world.path("d")), before);
    assert_eq!(world.left(), [""; 0]);
}

#[test]
fn an_ordinary_user_runs_a_command_the_same_way() {
    let Some(world) = World::of_user() else { return };
    let before = listing(&world.path("d"));
    let output = world.as_user(&format!(
        "cd d; ../acetate run --discard -- sh -c 'pwd; id -u; grep CapEff /proc/self/status; {EDIT}; chmod 0 f'"
    ));
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    let expected = format!("{}\n54321\nCapEff:\t0000000000000000\n", world.path("d").display());
    assert_eq!(out, expected, "{err}");
    let shown = SHOWN.replace("(content, mtime)", "(content, mode, mtime)");
    assert_eq!(sorted(&err), sorted(&shown));
    assert_eq!(listing(&world.path("d")), before);
    assert_eq!(world.left(), [""; 0]);
}

#[test]
fn the_exit_status_is_the_commands_own() {
    let Some(world) = World::new() else { return };
    let status =
        |words: &[&str]| world.run(&[&["run", "--on", "d", "--discard"], words].concat()).status.code();
    assert_eq!(status(&["--", "true"]), Some(0));
    assert_eq!(status(&["sh", "-c", "exit 37"]), Some(37));
    assert_eq!(status(&["--", "sh", "-c", "kill -KILL $$"]), Some(137));
    assert_eq!(status(&["--", "/nowhere/at/all"]), Some(127));
    assert_eq!(status(&["--", "/etc/passwd"]), Some(126));
    assert_eq!(world.run(&["run", "--on", "nowhere", "--", "true"]).status.code(), Some(125));
    assert_eq!(world.run(&["run", "--keep", "k", "--apply", "--", "true"]).status.code(), Some(2));
    assert_eq!(world.run(&["run", "--on", "/", "--", "true"]).status.code(), Some(125));
}

#[test]
fn without_a_flag_changes_are_kept_and_it_is_told_where() {
    let Some(world) = World::new() else { return };
    let (_, err) = world.must(&["run", "--on", "d", "--", "sh", "-c", "cd d; echo new > n"]);
    assert_eq!(report(&err), "A n\n");
    let left = world.left();
    let upper = world.path("tmp").join(&left[0]).join("upper");
    assert!(err.contains(&format!("kept in {}\n", upper.display())), "{err}");
    assert_eq!(std::fs::read_to_string(upper.join("n")).unwrap(), "new\n");
    assert!(!world.path("d/n").exists());
    let (_, err) = world.must(&["run", "--on", "d", "--", "cat", "d/f"]);
    assert_eq!((err.as_str(), world.left()), ("no changes\n", left));
}

#[test]
fn a_named_directory_keeps_the_changes_and_takes_more() {
    let Some(world) = World::new() else { return };
    world.must(&["run", "--on", "d", "--keep", "k", "--", "sh", "-c", "echo 1 > d/n; mv d/full d/f2"]);
    assert_eq!(std::fs::read_to_string(world.path("k/n")).unwrap(), "1\n");
    let again = world.run(&["run", "--on", "d", "--keep", "k", "--", "true"]);
    assert!(text(&again.stderr).contains("not empty"));
    let words = ["run", "--on", "d", "--upper", "k", "--", "sh", "-c", "cat d/n d/f2/x; echo 2 > d/m"];
    let (out, err) = world.must(&words);
    assert_eq!((out.as_str(), report(&err).as_str()), ("1\nx\n", "R full -> f2\nA m\nA n\n"));
    let (out, _) = world.must(&["diff", "k", "--lower", "d"]);
    assert_eq!(out, "R full -> f2\nA m\nA n\n");
}

#[test]
fn json_is_alone_on_stdout() {
    let Some(world) = World::new() else { return };
    let words = ["--json", "run", "--on", "d", "--keep", "k", "--", "sh", "-c", "echo said; rm d/f"];
    let (out, err) = world.must(&[&["run", "--json"], &words[2..]].concat());
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report[0]["outcome"], "kept");
    assert_eq!(report[0]["upper"].as_str(), world.path("k").to_str());
    assert_eq!(report[0]["changes"][0]["change"], "deleted");
    assert_eq!(err, "said\n");
}

#[test]
fn several_directories_are_covered_and_reported_by_name() {
    let Some(world) = World::new() else { return };
    let words = ["run", "--on", "d", "--on", "a", "--discard", "--", "sh", "-c", "echo > a/1; echo > d/2"];
    let (_, err) = world.must(&words);
    let (a, d) = (world.path("a"), world.path("d"));
    assert_eq!(err, format!("{}:\nA 1\n{}:\nA 2\n", a.display(), d.display()));
    assert!(!a.join("1").exists() && !d.join("2").exists());
}

#[test]
fn a_stack_of_layers_is_shown_over_the_topmost() {
    let Some(world) = World::new() else { return };
    let script = "ls a; echo x >> a/from-b";
    let words = ["run", "--lower", "a", "--lower", "b", "--discard", "--", "sh", "-c", script];
    let (out, err) = world.must(&words);
    assert_eq!((out.as_str(), err.as_str()), ("from-a\nfrom-b\n", "C from-b (content, mtime)\n"));
    let on = ["run", "--lower", "a", "--lower", "b", "--on", "m", "--discard", "--", "ls", "m", "a"];
    assert_eq!(world.must(&on).0, "a:\nfrom-a\n\nm:\nfrom-a\nfrom-b\n");
    let apply = world.run(&["run", "--lower", "a", "--apply", "--", "true"]);
    assert_eq!(apply.status.code(), Some(2));
}

#[test]
fn a_mount_inside_the_directory_is_seen_and_not_changed() {
    let Some(world) = World::new() else { return };
    let inner = world.path("d/full");
    nix::mount::mount(Some("tmpfs"), &inner, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>)
        .unwrap();
    std::fs::write(inner.join("there"), "yes\n").unwrap();
    let script = "cat d/full/there; echo no > d/full/there || echo refused; echo > d/n";
    let (out, err) = world.must(&["run", "--on", "d", "--discard", "--", "sh", "-c", script]);
    assert_eq!(out, "yes\nrefused\n");
    assert!(err.ends_with("A n\n"), "{err}");
    let words =
        ["run", "--on", "d", "--on", "d/full", "--discard", "--", "sh", "-c", "echo 2 > d/full/there"];
    let (_, err) = world.must(&words);
    assert!(err.contains("C there (content, mtime)"), "{err}");
    assert_eq!(std::fs::read_to_string(inner.join("there")).unwrap(), "yes\n");
    nix::mount::umount(&inner).unwrap();
}

/// A run that waits until it is let go, and what it has told.
fn start(world: &World, words: &[&str], script: &str) -> Child {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_acetate"));
    command.arg("run").args(words).args(["--", "sh", "-c", script]).current_dir(world.0.0.path());
    command
        .env("TMPDIR", world.path("tmp"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// The process that serves a run: a child of it that is not the command.
fn server(run: &Child) -> Pid {
    let path = format!("/proc/{0}/task/{0}/children", run.id());
    let children = std::fs::read_to_string(path).unwrap();
    let server = children.split_whitespace().find(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("acetate"))
    });
    Pid::from_raw(server.unwrap().parse().unwrap())
}

fn pid(run: &Child) -> Pid {
    Pid::from_raw(i32::try_from(run.id()).unwrap())
}

/// Reads one line that the command says.
fn line(run: &mut Child) -> String {
    let mut byte = [0];
    let mut line = String::new();
    let stdout = run.stdout.as_mut().unwrap();
    while stdout.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
        line.push(char::from(byte[0]));
    }
    line
}

const PATIENT: &str =
    "echo kept > d/n; trap 'echo term; exit 9' TERM; echo ready; while :; do sleep 0.05; done";

#[test]
fn a_signal_is_passed_on_once_and_the_changes_are_reported() {
    let Some(world) = World::new() else { return };
    let mut run = start(&world, &["--on", "d", "--keep", "k"], PATIENT);
    assert_eq!(line(&mut run), "ready");
    kill(pid(&run), Signal::SIGTERM).unwrap();
    let output = run.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(9), "term\n"));
    assert!(text(&output.stderr).starts_with("A n\n"));
}

#[test]
fn whoever_is_killed_no_mount_stays_and_the_changes_do() {
    let Some(world) = World::new() else { return };
    let kept = |world: &World| {
        let left = world.left();
        std::fs::read_to_string(world.path("tmp").join(&left[0]).join("upper/n")).unwrap()
    };
    // The one that the user started: the command dies with it, as it would without us.
    let mut run = start(&world, &["--on", "d"], &format!("echo $$; {PATIENT}"));
    let command = line(&mut run);
    assert_eq!(line(&mut run), "ready");
    let server_before = server(&run);
    kill(pid(&run), Signal::SIGKILL).unwrap();
    run.wait().unwrap();
    await_that("the command ends", || !Path::new(&format!("/proc/{command}")).exists());
    await_that("the server ends", || kill(server_before, None).is_err());
    assert_eq!(kept(&world), "kept\n");
    std::fs::remove_dir_all(world.path("tmp").join(&world.left()[0])).unwrap();
    // The server: the command finds its directory dead, and the run says so.
    let script = "echo kept > d/n; echo ready; while ls d >/dev/null 2>&1; do sleep 0.05; done; exit 5";
    let mut run = start(&world, &["--on", "d", "--discard"], script);
    assert_eq!(line(&mut run), "ready");
    kill(server(&run), Signal::SIGKILL).unwrap();
    let output = run.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("what was written until then is in"), "{}", text(&output.stderr));
    assert_eq!(kept(&world), "kept\n");
    std::fs::remove_dir_all(world.path("tmp").join(&world.left()[0])).unwrap();
    // The command.
    let mut run = start(&world, &["--on", "d"], &format!("echo $$; {PATIENT}"));
    let command = line(&mut run).parse().unwrap();
    assert_eq!(line(&mut run), "ready");
    kill(Pid::from_raw(command), Signal::SIGKILL).unwrap();
    let output = run.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(137));
    assert_eq!(kept(&world), "kept\n");
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    assert!(!mounts.contains(world.path("d").to_str().unwrap()), "{mounts}");
}

#[test]
fn a_process_that_stays_behind_holds_up_nothing() {
    let Some(world) = World::new() else { return };
    let script = "(exec > d/log; echo $$ > d/pid; exec sleep 1000) 2>/dev/null & while ! test -s d/pid; do :; done; echo $!";
    let mut command = world.acetate(&["run", "--on", "d", "--keep", "k", "--", "sh", "-c", script]);
    let output = command.output().unwrap();
    assert!(output.status.success());
    let left: i32 = text(&output.stdout).trim().parse().unwrap();
    assert_eq!(report(&text(&output.stderr)), "A log\nA pid\n");
    kill(Pid::from_raw(left), Signal::SIGKILL).unwrap();
}

/// Runs `words` on a terminal of its own, types `typed` once it asks, and gives everything that was shown.
fn on_a_terminal(world: &World, words: &[&str], typed: &[(&str, &str)]) -> (Option<i32>, String) {
    let pty = nix::pty::openpty(None, None).unwrap();
    let end = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
    let mut command = std::process::Command::new("timeout");
    command.args(["--foreground", "--signal=KILL", "120", "setsid", "--ctty", "--wait"]);
    command.arg(env!("CARGO_BIN_EXE_acetate")).args(words).current_dir(world.0.0.path());
    command.env("TMPDIR", world.path("tmp"));
    let slave = pty.slave;
    command.stdin(end(&slave)).stdout(end(&slave)).stderr(end(&slave));
    let mut child = command.spawn().unwrap();
    drop((command, slave));
    let mut master = std::fs::File::from(pty.master);
    let mut shown = Vec::new();
    let mut typed = typed.iter();
    let mut next = typed.next();
    let mut buffer = [0; 4096];
    // At the end of the terminal reading is EIO.
    while let Ok(n @ 1..) = master.read(&mut buffer) {
        shown.extend_from_slice(&buffer[..n]);
        if let Some((prompt, answer)) = next
            && text(&shown).contains(prompt)
        {
            master.write_all(answer.as_bytes()).unwrap();
            next = typed.next();
        }
    }
    (child.wait().unwrap().code(), text(&shown).replace('\r', ""))
}

#[test]
fn on_a_terminal_the_command_has_it_and_then_it_is_asked() {
    let Some(world) = World::new() else { return };
    let words =
        ["run", "--on", "d", "--", "bash", "-c", "read -p 'name? ' n; test -t 1 && echo $n > d/n; exit 3"];
    let (status, shown) = on_a_terminal(&world, &words, &[("name? ", "me\n"), ("[d]iscard", "what\nd\n")]);
    assert_eq!(status, Some(3), "{shown}");
    assert!(shown.contains("A n"), "{shown}");
    assert_eq!(world.left(), [""; 0]);
    let (status, shown) = on_a_terminal(&world, &words, &[("name? ", "me\n"), ("[d]iscard", "k\n")]);
    assert_eq!(status, Some(3), "{shown}");
    assert!(shown.contains("the changes are kept in"), "{shown}");
    let upper = world.path("tmp").join(&world.left()[0]).join("upper");
    assert_eq!(std::fs::read_to_string(upper.join("n")).unwrap(), "me\n");
}

#[test]
fn a_key_that_interrupts_reaches_the_command_once() {
    let Some(world) = World::new() else { return };
    let script = "trap 'echo caught; n=1' INT; echo ready; while test -z \"$n\"; do sleep 0.05; done; echo > d/n; exit 4";
    let words = ["run", "--on", "d", "--discard", "--", "bash", "-c", script];
    let (status, shown) = on_a_terminal(&world, &words, &[("ready", "\x03")]);
    assert_eq!(status, Some(4), "{shown}");
    assert_eq!(shown.matches("caught").count(), 1, "{shown}");
    assert!(shown.contains("A n"), "{shown}");
}
