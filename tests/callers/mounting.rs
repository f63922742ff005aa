//! mount(8) with its helpers and fstab, and mount.fuse3 as containerd runs it.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::mount::{MsFlags, mount};

use crate::dialects::named;
use crate::stage::Stage;

/// A stage in whose mount namespace /usr/sbin has `names` for the program.
fn stage_with(names: &[&str]) -> Option<Stage> {
    let stage = Stage::new()?;
    let has = |program: &str| Path::new("/usr/sbin").join(program).exists();
    if !has("mount.fuse3") {
        println!("skipped: needs mount.fuse3");
        return None;
    }
    for dir in ["sbin", "sbin-work"] {
        std::fs::create_dir(stage.path(dir)).unwrap();
    }
    for name in names {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_acetate"), stage.path("sbin").join(name)).unwrap();
    }
    let options = format!("lowerdir={}:/usr/sbin", stage.path("sbin").display());
    mount(Some("sbin"), "/usr/sbin", Some("overlay"), MsFlags::empty(), Some(options.as_str())).unwrap();
    Some(stage)
}

fn run(stage: &Stage, words: &[&str]) -> Output {
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", stage.0.path().display());
    let mut command = Command::new("timeout");
    command.arg("60").args(words).env("PATH", path).current_dir(stage.0.path());
    command.stdin(Stdio::null()).output().unwrap()
}

/// Runs it, looks at the mount, and takes it away.
fn mounts(stage: &Stage, words: &[&str]) {
    let output = run(stage, words);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words:?}: {text}");
    assert!(stage.is_mounted(), "{words:?}: {text}");
    assert_eq!(std::fs::read_to_string(stage.path("m/from-b")).unwrap(), "b");
    std::fs::write(stage.path("m/new"), "new").unwrap();
    assert!(stage.path("u/new").exists());
    stage.must(&["umount", "m"]);
}

#[test]
fn mount_8_finds_the_program_by_the_type() {
    let Some(stage) = stage_with(&["mount.acetate", "mount.fuse.acetate"]) else { return };
    let options = format!(
        "lowerdir={0}/a:{0}/b,upperdir={0}/u,workdir={0}/w,noatime",
        stage.0.path().canonicalize().unwrap().display()
    );
    mounts(&stage, &["mount", "-t", "acetate", "layers", "m", "-o", &options]);
    mounts(&stage, &["mount", "-t", "fuse.acetate", "acetate", "m", "-o", &options]);
    let refused =
        run(&stage, &["mount", "-t", "acetate", "layers", "m", "-o", &format!("{options},frobnicate")]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("frobnicate"));
    assert!(!stage.is_mounted());
    // A rehearsal mounts nothing.
    assert!(run(&stage, &["mount", "-f", "-t", "acetate", "layers", "m", "-o", &options]).status.success());
    assert!(!stage.is_mounted());
}

#[test]
fn lines_of_fstab_are_mounted() {
    let Some(stage) = stage_with(&["mount.acetate", "mount.fuse.acetate"]) else { return };
    let here = stage.0.path().canonicalize().unwrap().display().to_string();
    for kind in ["acetate", "fuse.acetate"] {
        let line = format!(
            "{kind} {here}/m {kind} rw,nofail,_netdev,x-systemd.requires=/a,lowerdir={here}/a:{here}/b,\
             upperdir={here}/u,workdir={here}/w 0 0\n"
        );
        std::fs::write(stage.path("fstab"), line).unwrap();
        let mountpoint = format!("{here}/m");
        mounts(&stage, &["mount", "--fstab", "fstab", &mountpoint]);
        mounts(&stage, &["mount", "--fstab", "fstab", "-a"]);
    }
}

#[test]
fn mount_fuse3_runs_the_program_as_containerd_asks() {
    let Some(stage) = stage_with(&["acetate"]) else { return };
    for name in ["acetate", "fuse-overlayfs"] {
        named(&stage, name);
        let options = "workdir=w,upperdir=u,lowerdir=a:b";
        mounts(&stage, &["mount.fuse3", "overlay", "m", "-o", options, "-t", name]);
        let layers = stage.path(name);
        mounts(&stage, &["mount.fuse3", "overlay", "m", "-o", options, "-t", layers.to_str().unwrap()]);
    }
    // Without helpers of our own, mount(8) goes the same way.
    let here = stage.0.path().canonicalize().unwrap().display().to_string();
    let options = format!("lowerdir={here}/a:{here}/b,upperdir={here}/u,workdir={here}/w");
    mounts(&stage, &["mount", "-t", "fuse.acetate", "acetate", "m", "-o", &options]);
}
