//! The program as others run it: forms, refusals, exit statuses.

#![allow(clippy::unwrap_used, missing_docs)]

use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn acetate(dir: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_acetate"))
        .args(words)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Exit status and stderr.
fn refused(dir: &Path, words: &[&str]) -> (i32, String) {
    let output = acetate(dir, words);
    assert!(output.stdout.is_empty(), "{words:?} printed {}", String::from_utf8_lossy(&output.stdout));
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// A scratch directory with two layers, an upper, a work directory and a mount point.
fn stage() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b", "u", "w", "m"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    dir
}

/// Everything below `dir`, to see that a refusal touched nothing.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .flatten()
        .flat_map(|entry| {
            let below = if entry.file_type().unwrap().is_dir() { names(&entry.path()) } else { Vec::new() };
            below.into_iter().chain([entry.path().display().to_string()])
        })
        .collect();
    names.sort();
    names
}

#[test]
fn version_and_help_are_given_in_every_form() {
    let dir = stage();
    for words in [&["--version"][..], &["-V"], &["-o", "x", "--version"]] {
        let output = acetate(dir.path(), words);
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("acetate "), "{words:?}");
    }
    for words in [&["--help"][..], &["mount", "--help"], &["umount", "--help"], &["which", "--help"]] {
        let output = acetate(dir.path(), words);
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains("Example: acetate "), "{words:?}");
    }
    assert_eq!(refused(dir.path(), &[]).0, 2);
}

#[test]
fn wrong_usage_is_status_2_and_says_what_to_do() {
    let dir = stage();
    for (words, hint) in [
        (&["monut", "--lower", "a", "m"][..], "did you mean: acetate mount?"),
        (&["mount", "--lower", "a"], "MNT"),
        (&["mount", "--lowr", "a", "m"], "--lower"),
        (&["mount", "m"], "--lower DIR"),
        (&["mount", "--lower", "a", "--upper", "u", "--ephemeral", "m"], "--ephemeral"),
        (&["mount", "--lower", "a", "-o", "lowerdir=b", "m"], "say it once"),
        (&["-o", "lowerdir=a,uperdir=u,workdir=w", "m"], "did you mean upperdir?"),
        (&["-o", "lowerdir=a,upperdir=u", "m"], "add workdir=DIR"),
        (
            &["-o", "lowerdir=a,metacopy=on,redirect_dir=off", "m", "-o", "upperdir=u,workdir=w"],
            "leave one of them out",
        ),
        (&["-o", "lowerdir=a,verity=on", "m"], "fs-verity"),
        (&["-o", "lowerdir=a"], "one mount point"),
        (&["a", "b", "c", "-o", "lowerdir=a"], "one mount point"),
        (&["-x", "m"], "flag"),
    ] {
        let before = names(dir.path());
        let (status, message) = refused(dir.path(), words);
        assert_eq!(status, 2, "{words:?}: {message}");
        assert!(message.contains(hint), "{words:?}: {message}");
        assert_eq!(names(dir.path()), before);
    }
}

#[test]
fn what_is_missing_is_refused_before_anything_is_touched() {
    let dir = stage();
    std::fs::write(dir.path().join("file"), "").unwrap();
    for (words, reason) in [
        (
            &["mount", "--lower", "nope", "--upper", "u", "m"][..],
            "cannot use the lower layer nope: there is no such",
        ),
        (
            &["mount", "--lower", "a", "--lower", "file", "--upper", "u", "m"],
            "the lower layer file: it is not a directory",
        ),
        (&["mount", "--lower", "a", "--upper", "nope", "m"], "the upper directory nope: there is no such"),
        (&["mount", "--lower", "a", "--upper", "u", "--work", "nope", "m"], "the work directory nope"),
        (&["mount", "--lower", "a", "--upper", "u", "nope"], "create it: mkdir nope"),
        (&["mount", "--lower", "a", "--upper", "u", "file"], "the mount point file: it is not a directory"),
        (&["mount", "--lower", "@nope", "m"], "the list of lower layers"),
        (&["mount", "--lower", "a", "--log", "nope/log", "m"], "the log file"),
        (&["-o", "lowerdir=a:b::nope,upperdir=u,workdir=w", "m"], "the data-only layer nope"),
    ] {
        let before = names(dir.path());
        let (status, message) = refused(dir.path(), words);
        assert_eq!(status, 1, "{words:?}: {message}");
        assert!(message.starts_with("acetate: cannot ") && message.contains(reason), "{words:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert_eq!(names(dir.path()), before);
    }
}

#[test]
fn questions_to_what_is_no_mount_of_ours_are_refused() {
    let dir = stage();
    for words in [
        &["umount", "m"][..],
        &["umount", "--lazy", "/proc"],
        &["status", "m"],
        &["sync", "m"],
        &["which", "m/x"],
    ] {
        let (status, message) = refused(dir.path(), words);
        assert_eq!(status, 1, "{words:?}");
        assert!(message.contains("not a mount of acetate"), "{words:?}: {message}");
    }
}

#[test]
fn list_prints_json_for_programs() {
    let dir = stage();
    let output = acetate(dir.path(), &["list", "--json"]);
    assert!(output.status.success());
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(list.is_array());
}

/// A server that dies before its mount is live is a failure with a reason, and the pipe on stderr ends.
#[test]
fn a_mount_that_fails_is_reported_and_leaves_nothing() {
    let dir = stage();
    let before = names(dir.path());
    // A lower that contains the work directory's own upper is refused by the union at the latest.
    let mut child = Command::new(env!("CARGO_BIN_EXE_acetate"))
        .args(["-o", "lowerdir=u,upperdir=u,workdir=w", "m"])
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut message = String::new();
    child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{message}");
    assert!(message.contains("acetate: cannot "), "{message}");
    assert_eq!(names(dir.path()), before);
}
