//! Container engines: the same steps with acetate and with kernel overlayfs give the same lines.
//!
//! An engine runs in namespaces of its own: its mounts, its processes and its files (on a tmpfs) end with them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::stage::Stage;

/// The scripts beside this file.
fn tool(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/callers").join(name)
}

/// Whether everything is there; says what is not.
pub fn has(programs: &[&str]) -> bool {
    let found = |program: &&str| {
        ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].iter().any(|dir| Path::new(dir).join(program).exists())
    };
    let missing: Vec<&&str> = programs.iter().filter(|program| !found(program)).collect();
    if !missing.is_empty() {
        println!("skipped: needs {missing:?}");
    }
    missing.is_empty()
}

/// Copies of the program and of the tools where an ordinary user can get at them too.
pub fn place(stage: &Stage) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::copy(env!("CARGO_BIN_EXE_acetate"), stage.path("acetate")).unwrap();
    std::fs::set_permissions(stage.0.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["kernel.sh", "dump.py", "snapshotter.py"] {
        std::fs::copy(tool(name), stage.path(name)).unwrap();
    }
}

/// Starts `script` with its arguments in namespaces of their own.
pub fn start(stage: &Stage, script: &str, arguments: &[&str]) -> Child {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", "900"]);
    command.args(["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash"]);
    command.arg(tool(script)).args(arguments).env("TOOLS", stage.0.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

pub fn lines(running: Child) -> String {
    let output = running.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// Runs `steps` as `who` with each of two settings of the store, at the same time, and compares what they say.
fn compare(stage: &Stage, steps: &str, who: &str, [oracle, ours]: [&str; 2]) {
    let script = tool(steps);
    let mut runs = Vec::new();
    for (name, storage) in [("oracle", oracle), ("ours", ours)] {
        let dir = stage.path(&format!("{who}-{name}"));
        std::fs::create_dir(&dir).unwrap();
        runs.push(start(
            stage,
            "engine.sh",
            &[dir.to_str().unwrap(), script.to_str().unwrap(), storage, who],
        ));
    }
    let mut said = runs.into_iter().map(lines);
    let (expected, found) = (said.next().unwrap(), said.next().unwrap());
    assert!(expected.lines().count() > 10, "{expected}");
    for (expected, found) in expected.lines().zip(found.lines()) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.lines().count(), expected.lines().count(), "{found}");
}

fn program(stage: &Stage, name: &str) -> String {
    format!("mount_program = \"{}\"", stage.path(name).display())
}

fn podman_stage() -> Option<Stage> {
    let stage = Stage::new()?;
    let needed =
        ["podman", "conmon", "crun", "busybox", "setcap", "setfattr", "python3", "newuidmap", "setpriv"];
    if !has(&needed) {
        return None;
    }
    place(&stage);
    Some(stage)
}

#[test]
fn podman_imports_builds_runs_compares_and_commits_as_over_kernel_overlayfs() {
    let Some(stage) = podman_stage() else { return };
    if has(&["dpkg", "dpkg-deb"]) {
        compare(&stage, "steps.sh", "root", [&program(&stage, "kernel.sh"), &program(&stage, "acetate")]);
    }
}

#[test]
fn podman_runs_containers_with_ids_of_their_own() {
    let Some(stage) = podman_stage() else { return };
    compare(&stage, "users.sh", "root", ["", &program(&stage, "acetate")]);
}

#[test]
fn podman_of_an_ordinary_user_builds_and_runs_with_every_user_namespace() {
    let Some(stage) = podman_stage() else { return };
    compare(&stage, "rootless.sh", "user", ["", &program(&stage, "acetate")]);
}

/// The engine keeps owner, mode and type of what it unpacks in attributes then, and says so to the mount program.
#[test]
fn a_store_that_others_share_shows_the_same_containers() {
    let Some(stage) = podman_stage() else { return };
    let shared = format!("{}\nforce_mask = \"shared\"", program(&stage, "acetate"));
    compare(&stage, "masked.sh", "root", ["", &shared]);
}

#[test]
fn buildah_alone_builds_runs_and_commits_as_root_and_as_an_ordinary_user() {
    let Some(stage) = podman_stage() else { return };
    if has(&["buildah"]) {
        for who in ["root", "user"] {
            compare(&stage, "buildah.sh", who, ["", &program(&stage, "acetate")]);
        }
    }
}

#[test]
fn images_of_a_store_that_fuse_overlayfs_mounted_are_the_same_afterwards() {
    let Some(stage) = podman_stage() else { return };
    if !has(&["fuse-overlayfs"]) {
        return;
    }
    let script = tool("switch.sh");
    let runs: Vec<Child> = ["root", "user"]
        .map(|who| {
            let dir = stage.path(who);
            std::fs::create_dir(&dir).unwrap();
            let storage = "mount_program = \"/usr/bin/fuse-overlayfs\"";
            start(&stage, "engine.sh", &[dir.to_str().unwrap(), script.to_str().unwrap(), storage, who])
        })
        .into();
    for said in runs.into_iter().map(lines) {
        let (before, after) = said.split_once("switched\n").unwrap();
        let kept = before.split_once("== kept:1\n").unwrap().1;
        assert!(kept.contains("opt/file4 0o100644 5:7") && !kept.contains("usr/old/file1"), "{before}");
        for (before, after) in before.lines().zip(after.lines()) {
            assert_eq!(after, before);
        }
        assert_eq!(after.lines().count(), before.lines().count(), "{said}");
    }
}

/// Runs `script` with each of two drivers, kernel overlayfs first, at the same time; what both say.
fn compare_drivers(stage: &Stage, script: &str, drivers: [&str; 2]) -> String {
    let program = stage.path("acetate");
    let mut runs = Vec::new();
    for driver in drivers {
        let dir = stage.path(&format!("with-{driver}"));
        std::fs::create_dir(&dir).unwrap();
        runs.push(start(stage, script, &[dir.to_str().unwrap(), program.to_str().unwrap(), driver]));
    }
    let mut said = runs.into_iter().map(lines);
    let (expected, found) = (said.next().unwrap(), said.next().unwrap());
    assert_eq!(found, expected);
    expected
}

#[test]
fn docker_engine_builds_runs_compares_and_commits_as_with_overlay2() {
    let Some(stage) = Stage::new() else { return };
    if !has(&["dockerd", "docker", "containerd", "runc", "busybox"]) {
        return;
    }
    place(&stage);
    let said = compare_drivers(&stage, "docker.sh", ["overlay2", "fuse-overlayfs"]);
    assert!(said.contains("D /data/file3"), "{said}");
}

#[test]
fn containerd_runs_containers_on_a_snapshotter_that_mounts_through_mount_fuse3() {
    let Some(stage) = Stage::new() else { return };
    if !has(&["containerd", "ctr", "runc", "mount.fuse3", "busybox"]) {
        return;
    }
    if !Path::new("/usr/lib/python3/dist-packages/grpc").exists() {
        println!("skipped: needs gRPC for Python");
        return;
    }
    place(&stage);
    let said = compare_drivers(&stage, "containerd.sh", ["overlayfs", "acetate"]);
    assert!(said.contains("hrw-r--r-- 0/0 0 data/moved link to data/again"), "{said}");
}
