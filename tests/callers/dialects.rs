//! The words of fuse-overlayfs, as container engines write them.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::stage::Stage;

/// The program under another name, in the stage.
pub fn named(stage: &Stage, name: &str) -> PathBuf {
    let path = stage.path(name);
    if !path.exists() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_acetate"), &path).unwrap();
    }
    path
}

/// Runs it as engines do: nothing on stdin and stdout, and a pipe on stderr that is read until its end.
fn call(stage: &Stage, name: &str, words: &[&str]) -> Output {
    let mut command = Command::new(named(stage, name));
    command.args(words).current_dir(stage.0.path()).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap()
}

fn said(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stderr).lines().map(str::to_string).collect()
}

fn read(stage: &Stage, name: &str) -> Option<String> {
    std::fs::read_to_string(stage.path(name)).ok()
}

#[test]
fn a_line_as_podman_writes_it_mounts_and_only_what_is_unknown_is_remarked() {
    let Some(stage) = Stage::new() else { return };
    std::fs::create_dir(stage.path("a/sub")).unwrap();
    std::os::unix::fs::symlink("a/sub", stage.path("link")).unwrap();
    std::fs::write(stage.path("a/.wh.from-b"), "").unwrap();
    let options = concat!(
        r#"lowerdir=link/..:b:,upperdir=u,workdir=w,,volatile,uidmapping=:0:1:1024,gidmapping=0:1:1024,"#,
        r#"context="system_u:object_r:container_file_t:s0:c1,c2",private,frobnicate,"#
    );
    let output = call(&stage, "fuse-overlayfs", &["-o", options, "m"]);
    assert!(output.status.success(), "{:?}", said(&output));
    let lines = said(&output);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines.iter().any(|line| line.contains("SELinux"))
            && lines.iter().any(|line| line.contains("frobnicate"))
    );
    assert_eq!(read(&stage, "m/from-a").as_deref(), Some("a"));
    assert_eq!((read(&stage, "m/from-b"), read(&stage, "m/.wh.from-b")), (None, None));
    let owner = std::fs::metadata(stage.path("m/from-a")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&owner), 1);
    stage.must(&["umount", "m"]);
    // An engine mounts the same upper again, volatile or not.
    for options in ["lowerdir=a,upperdir=u,workdir=w,volatile", "lowerdir=a,upperdir=u,workdir=w"] {
        let output = call(&stage, "fuse-overlayfs", &["-o", options, "m"]);
        assert!(output.status.success() && output.stderr.is_empty(), "{:?}", said(&output));
        stage.must(&["umount", "m"]);
    }
}

#[test]
fn an_engine_that_runs_acetate_itself_is_recognised_and_a_person_is_not() {
    let Some(stage) = Stage::new() else { return };
    std::fs::write(stage.path("a/.wh.from-b"), "").unwrap();
    let output = call(&stage, "acetate", &["-o", "lowerdir=a:b,frobnicate", "m"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output)[0].contains("no such option") && !stage.is_mounted());
    stage.must(&["-o", "lowerdir=a:b", "m"]);
    assert_eq!(read(&stage, "m/from-b").as_deref(), Some("b"));
    stage.must(&["umount", "m"]);
    // The store of an engine: the mount point is called `merged`, and `link` and `diff` lie beside it.
    for dir in ["store/merged", "store/diff", "store/work"] {
        std::fs::create_dir_all(stage.path(dir)).unwrap();
    }
    std::fs::write(stage.path("store/link"), "ABC").unwrap();
    let merged = stage.path("store/merged");
    let options = "lowerdir=a:b,upperdir=store/diff,workdir=store/work,frobnicate";
    let output = call(&stage, "acetate", &["-o", options, merged.to_str().unwrap()]);
    assert!(output.status.success(), "{:?}", said(&output));
    assert_eq!((said(&output).len(), read(&stage, "store/merged/from-b")), (1, None));
    stage.must(&["umount", merged.to_str().unwrap()]);
}

#[test]
fn lower_layers_alone_are_a_read_only_mount_and_a_mount_of_ours_may_be_one() {
    let Some(stage) = Stage::new() else { return };
    std::fs::create_dir(stage.path("second")).unwrap();
    assert!(call(&stage, "fuse-overlayfs", &["-olowerdir=a", "-o", "", "m"]).status.success());
    let refused = std::fs::write(stage.path("m/new"), "").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    let above = call(&stage, "fuse-overlayfs", &["-o", "lowerdir=m:b,upperdir=u,workdir=w", "second"]);
    assert!(above.status.success(), "{:?}", said(&above));
    assert_eq!(read(&stage, "second/from-a").as_deref(), Some("a"));
    std::fs::write(stage.path("second/from-a"), "changed").unwrap();
    assert_eq!(
        (read(&stage, "second/from-a").as_deref(), read(&stage, "a/from-a").as_deref()),
        (Some("changed"), Some("a"))
    );
    stage.must(&["umount", "second"]);
    stage.must(&["umount", "m"]);
}

#[test]
fn a_mount_that_fails_says_why_on_stderr_and_leaves_nothing() {
    let Some(stage) = Stage::new() else { return };
    for (options, why) in [
        ("lowerdir=nowhere,upperdir=u,workdir=w", "nowhere"),
        ("lowerdir=a,upperdir=u,workdir=w,uidmapping=0:1", "threes"),
        ("upperdir=u,workdir=w", "lower"),
    ] {
        let output = call(&stage, "fuse-overlayfs", &["-o", options, "m"]);
        assert!(
            !output.status.success() && said(&output).join(" ").contains(why),
            "{options}: {:?}",
            said(&output)
        );
        assert!(!stage.is_mounted());
    }
}

#[test]
fn foreground_and_debug_keep_the_process_and_the_version_is_one_line() {
    let Some(stage) = Stage::new() else { return };
    // The flags apptainer uses, then those of somebody who looks for a fault.
    for flags in [&["-f", "-o", "allow_other,lowerdir=a:b,noacl"][..], &["-d", "-o", "lowerdir=a:b"]] {
        let mut command = Command::new(named(&stage, "fuse-overlayfs"));
        command.args(flags).arg("m").current_dir(stage.0.path()).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut server = command.spawn().unwrap();
        let began = Instant::now();
        while !stage.is_mounted() {
            assert!(
                began.elapsed() < Duration::from_secs(30) && server.try_wait().unwrap().is_none(),
                "{flags:?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(read(&stage, "m/from-b").as_deref(), Some("b"));
        let unmounted = Command::new("umount").arg(stage.path("m")).status().unwrap();
        assert!(unmounted.success());
        let mut text = String::new();
        server.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(server.wait().unwrap().success(), "{text}");
        assert_eq!(text.contains("agreed on"), flags[0] == "-d", "{text}");
    }
    for flag in ["--version", "-V"] {
        let output = Command::new(named(&stage, "fuse-overlayfs")).arg(flag).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text, concat!("acetate ", env!("CARGO_PKG_VERSION"), "\n"));
    }
    for flag in ["--help", "-h"] {
        let output = Command::new(named(&stage, "fuse-overlayfs")).arg(flag).output().unwrap();
        assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("Usage"));
    }
}

#[test]
fn fixed_link_counts_narrow_numbers_and_no_attributes_are_honoured() {
    use std::os::unix::fs::{DirEntryExt, MetadataExt};
    let Some(stage) = Stage::new() else { return };
    std::fs::create_dir_all(stage.path("a/one/two")).unwrap();
    let output = call(&stage, "fuse-overlayfs", &["-o", "lowerdir=a,static_nlink,ino32_t,noxattrs=1", "m"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{:?}", said(&output));
    let found = std::fs::metadata(stage.path("m/one")).unwrap();
    assert_eq!(found.nlink(), 1);
    assert!(found.ino() <= u64::from(u32::MAX));
    for entry in std::fs::read_dir(stage.path("m")).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.ino(), entry.metadata().unwrap().ino());
    }
    let listed = nix_listxattr(&stage.path("m/one"));
    assert_eq!(listed, Err(libc::EOPNOTSUPP));
    stage.must(&["umount", "m"]);
}

fn nix_listxattr(path: &std::path::Path) -> Result<String, i32> {
    let output = Command::new("getfattr").args(["-d", "-m", "-"]).arg(path).output().unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(if String::from_utf8_lossy(&output.stderr).contains("not supported") {
            libc::EOPNOTSUPP
        } else {
            0
        }),
    }
}
