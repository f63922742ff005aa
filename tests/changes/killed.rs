//! Killed at any system call, `apply` is finished by the next call.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use acetate::apply::{Request, run};
use acetate::diff::Stack;

use crate::apply::{EDITS, build};
use crate::support::watchdog;
use crate::tracer::{self, End};
use crate::world::{World, copy, difference, direct, now, picture};

fn request(upper: &Path, lower: &Path, dest: &Path) -> Request {
    let stack = Stack { upper: upper.into(), lower: vec![lower.into()], ..Stack::default() };
    Request { stack, dest: dest.into(), force: false }
}

fn apply(upper: &Path, lower: &Path, dest: &Path) -> Result<(), String> {
    run(&request(upper, lower, dest), &mut |_, _| ()).map(drop).map_err(|e| e.to_string())
}

#[test]
fn the_process_to_be_killed_does_nothing_unless_it_is_told_to() {
    let Ok(paths) = std::env::var("ACETATE_APPLY") else { return };
    let paths: Vec<PathBuf> = paths.split(':').map(PathBuf::from).collect();
    println!("\ntid {}", nix::unistd::gettid());
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).expect("the tracer's word");
    nix::unistd::getppid();
    let done = apply(&paths[0], &paths[1], &paths[2]);
    nix::unistd::getppid();
    done.expect("applying");
}

fn child(upper: &Path, lower: &Path, dest: &Path, at: usize) -> End {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "killed::the_process_to_be_killed_does_nothing_unless_it_is_told_to",
        "--nocapture",
    ]);
    command.env("ACETATE_APPLY", format!("{}:{}:{}", upper.display(), lower.display(), dest.display()));
    tracer::run(&mut command, at).unwrap()
}

/// Which tree the changes go to.
#[derive(Clone, Copy, Debug)]
enum To {
    /// The lower they were made on.
    Lower,
    /// Another like it.
    Copy,
}

fn try_every_kill(to: To) {
    let Some(world) = World::new() else { return };
    let tmpfs = world.path("m");
    nix::mount::mount(Some("tmpfs"), &tmpfs, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>)
        .unwrap();
    let path = |name: &str| tmpfs.join(name);
    copy(&world.path("d"), &path("pristine"));
    build(&path("pristine"));
    copy(&path("pristine"), &path("direct"));
    let since = now();
    direct(&path("direct"), EDITS);
    let expected = picture(&path("direct"), since);
    // Without an index, whose entries are for one tree alone.
    std::fs::create_dir(path("upper")).unwrap();
    let (lower, upper) = (path("pristine"), path("upper"));
    let words = ["mount", "--lower", lower.to_str().unwrap(), "--upper", upper.to_str().unwrap()];
    std::fs::create_dir(path("mnt")).unwrap();
    let mnt = path("mnt");
    world.must(&[&words[..], &["-o", "redirect_dir=on", mnt.to_str().unwrap()]].concat());
    direct(&mnt, &EDITS.replace("echo more >> f", "ln -f f sub/f-again; echo more >> f"));
    world.must(&["umount", mnt.to_str().unwrap()]);
    std::fs::remove_dir_all(path(".upper.work")).unwrap();
    let mut calls = 0;
    // What differs on a copy is not the steps, so every third will do.
    let pace = if matches!(to, To::Copy) { 3 } else { 1 };
    for at in (1..).step_by(pace) {
        for name in ["dest", "upper-copy"] {
            let cleared = Command::new("rm").arg("-rf").arg(path(name)).status();
            assert!(cleared.unwrap().success());
        }
        copy(&path("pristine"), &path("dest"));
        copy(&path("upper"), &path("upper-copy"));
        let lower = match to {
            To::Lower => path("dest"),
            To::Copy => path("pristine"),
        };
        let end = child(&path("upper-copy"), &lower, &path("dest"), at);
        for _ in 0..2 {
            apply(&path("upper-copy"), &lower, &path("dest"))
                .unwrap_or_else(|e| panic!("call {at} {end:?}: {e}"));
        }
        let found = picture(&path("dest"), since);
        assert!(expected == found, "call {at} {end:?}:\n{}", difference(&expected, &found));
        if end == End::Completed {
            calls = at - 1;
            break;
        }
    }
    println!("{calls} system calls, each the last one once");
    nix::mount::umount(&tmpfs).unwrap();
    assert!(calls > 100, "{calls}");
}

fn patiently(to: To) {
    if let Err(unavailable) = watchdog::within(Duration::from_secs(900), move || try_every_kill(to)) {
        println!("skipped: {}", unavailable.0);
    }
}

#[test]
fn killed_at_any_system_call_the_next_call_finishes_it() {
    patiently(To::Lower);
}

#[test]
fn killed_at_every_third_system_call_on_a_copy_the_next_call_finishes_it() {
    patiently(To::Copy);
}
