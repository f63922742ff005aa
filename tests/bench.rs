//! `acetate bench`: what it writes, what it refuses, and that it leaves nothing behind. No time is asserted.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn bench(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_acetate"));
    command.arg("bench").args(words).arg("--dir").arg(dir).current_dir(dir).stdin(Stdio::null());
    command
}

fn run(dir: &Path, words: &[&str]) -> Output {
    bench(dir, words).output().unwrap()
}

fn root_or_skip() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: kernel overlayfs is mounted by root only");
    }
    root
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries.flatten().map(|e| e.file_name().into_string().unwrap()).collect()
}

/// Command lines of processes that name `dir`.
fn processes_of(dir: &Path) -> Vec<String> {
    let word = dir.to_str().unwrap();
    let lines = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(word).then_some(line)
    });
    lines.collect()
}

#[test]
fn a_run_gives_a_table_json_and_one_page_and_leaves_nothing_else() {
    if !root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let words = ["--quick", "--rounds", "2", "--rows", "missing", "--only", "kernel", "--only", "acetate"];
    let done = run(dir.path(), &[&words[..], &["--json", "figures.json"]].concat());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let table = String::from_utf8(done.stdout).unwrap();
    assert!(table.contains("missing names, first") && table.contains("Geometric mean"), "{table}");

    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("figures.json")).unwrap()).unwrap();
    let cells = json.pointer("/rows/0/cells").unwrap().as_array().unwrap();
    assert_eq!(cells.len(), 2);
    for cell in cells {
        assert_eq!(cell["failure"], serde_json::Value::Null);
        assert_eq!(cell["rounds"].as_array().unwrap().len(), 2);
    }
    let page = std::fs::read_to_string(dir.path().join("acetate-bench.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("missing names, first"));
    for foreign in ["http:", "https:", "<script", "src=", "@import"] {
        assert!(!page.contains(foreign), "the page asks for {foreign}");
    }
    let mut left = names(dir.path());
    left.sort();
    assert_eq!(left, ["acetate-bench.html", "figures.json"]);
}

#[test]
fn a_row_that_fails_says_why_and_the_others_go_on() {
    if !root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let words = ["--quick", "--rounds", "1", "--rows", "grep", "--only", "kernel", "--only", "broken"];
    let done = run(dir.path(), &[&words[..], &["--rival", "broken=/bin/false", "--json"]].concat());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let json: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    let cell = |n: usize| json.pointer(&format!("/rows/0/cells/{n}")).unwrap();
    assert!(cell(0)["seconds"]["median"].as_f64().unwrap() > 0.0);
    assert!(cell(1)["failure"].as_str().unwrap().contains("/bin/false"), "{}", cell(1));
}

#[test]
fn an_interrupted_run_leaves_no_process_no_mount_and_no_directory() {
    if !root_or_skip() {
        return;
    }
    for signal in [nix::sys::signal::Signal::SIGINT, nix::sys::signal::Signal::SIGTERM] {
        let dir = tempfile::tempdir().unwrap();
        let mut child =
            bench(dir.path(), &["--quick", "--rows", "missing", "--only", "acetate", "--rounds", "1000"])
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
        wait_until(&mut child, || has_come_to_its_first_mount(dir.path()));
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        let done = child.wait_with_output().unwrap();
        assert_eq!(done.status.code(), Some(1));
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(said.contains(signal.as_str()) && said.contains("cleaned up"), "{said}");
        assert_eq!(names(dir.path()), Vec::<String>::new());
        assert_eq!(processes_of(dir.path()), Vec::<String>::new());
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(dir.path().to_str().unwrap()));
    }
}

/// Whether a run in `dir` has come to its first mount point.
fn has_come_to_its_first_mount(dir: &Path) -> bool {
    names(dir).iter().any(|run| dir.join(run).join("mnt").is_dir())
}

fn wait_until(child: &mut Child, mut there: impl FnMut() -> bool) {
    let began = Instant::now();
    while !there() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended by itself");
        assert!(began.elapsed() < Duration::from_secs(600), "the run did not come to its first mount");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn rows_and_contenders_are_named_without_measuring_anything() {
    let dir = tempfile::tempdir().unwrap();
    let done = run(dir.path(), &["--list"]);
    assert!(done.status.success());
    let said = String::from_utf8(done.stdout).unwrap();
    for word in ["kernel", "acetate", "walk, first", "rm -rf, lower", "1000 layers"] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
    assert_eq!(names(dir.path()), Vec::<String>::new());
}
