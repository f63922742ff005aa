//! Images that run: under crun and runc, and by `acetate run --image`.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::mounting::{as_user, can_mount};
use crate::tarball::{Header, Layer, Layout, Tar};
use crate::world::{World, has, text};

/// Whether there is a shell that needs nothing else; says so otherwise.
fn shell() -> Option<Vec<u8>> {
    let shell = std::fs::read("/bin/busybox").ok();
    if shell.is_none() {
        println!("skipped: needs /bin/busybox (package busybox-static)");
    }
    shell
}

/// A layout with an image of a shell, and users of its own.
fn layout(world: &World, shell: &[u8], user: &str) {
    let mut tar = Tar::default();
    for dir in ["./", "bin/", "etc/", "proc/", "sys/", "dev/", "tmp/", "work/"] {
        tar = tar.dir(dir);
    }
    let mut program = Header::new(b"bin/busybox", b'0', shell.len() as u64);
    program.octal(100, 8, 0o755);
    tar = tar.entry(&program, shell);
    for name in ["sh", "id", "cat", "ls", "rm", "touch", "pwd", "env", "mkdir", "grep"] {
        tar = tar.symlink(&format!("bin/{name}"), "busybox");
    }
    let mut theirs = Header::new(b"work/theirs", b'0', 6);
    theirs.octal(108, 8, 70).octal(116, 8, 71);
    let base = tar
        .file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nworker:x:70:71:w:/work:/bin/sh\n")
        .file("etc/group", b"root:x:0:\nworkers:x:71:\nextra:x:26:worker\n")
        .file("etc/gone", b"gone")
        .end();
    let mut dir = Header::new(b"work/", b'5', 0);
    dir.octal(108, 8, 70).octal(116, 8, 71);
    let top = Tar::default().entry(&dir, b"").entry(&theirs, b"theirs").file("etc/.wh.gone", b"").end();
    let layers = [Layer::gzip(base), Layer::gzip(top)];
    let layout = Layout::new(&world.path("lay"));
    let mut config: serde_json::Value = serde_json::from_slice(&Layout::config(&layers)).unwrap();
    config["config"] = serde_json::json!({
        "User": user, "Env": ["PATH=/bin", "COLOUR=blue"], "WorkingDir": "/work", "Cmd": ["/bin/sh", "-c", "id"],
    });
    let image = layout.image_with("t", &layers, &serde_json::to_vec(&config).unwrap());
    layout.index(&[image]);
}

/// Runs a script in a mount namespace in which crun accepts the control groups.
fn script(world: &World, script: &str) -> Output {
    const ALONE: &str =
        "mount --make-rprivate /; umount /sys/fs/cgroup/unified 2>/dev/null || true; eval \"$0\"";
    let mut command = Command::new("timeout");
    command.args(["120", "unshare", "--mount", "bash", "-ec", ALONE, script]);
    command.current_dir(world.0.path()).env("XDG_RUNTIME_DIR", world.path("run")).stdin(Stdio::null());
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{out}{}", String::from_utf8_lossy(&output.stderr));
    out
}

/// A container's name of this test alone.
fn name(of: &str) -> String {
    format!("acetate-test-{of}-{}", std::process::id())
}

fn bundle_runs_under(runtime: &str) {
    if !can_mount() || !has(runtime) {
        return;
    }
    let Some(shell) = shell() else { return };
    let world = World::new();
    layout(&world, &shell, "worker");
    world.must(&["import", "lay"]);
    let id = name(runtime);
    let acetate = env!("CARGO_BIN_EXE_acetate");
    let words = "id; pwd; echo $COLOUR $HOME; ls /etc; cat theirs; echo new > mine; rm theirs";
    let output = script(
        &world,
        &format!(
            "{acetate} image --store store bundle lay:t box -- /bin/sh -c '{words}'
             {runtime} --root run run --bundle box {id}
             {acetate} diff box/rootfs
             {acetate} umount box/rootfs"
        ),
    );
    let out = said(&output);
    for expected in
        ["uid=70(worker) gid=71(workers)", "26(extra)", "/work\n", "blue /work", "theirs", "A work/mine"]
    {
        assert!(out.contains(expected), "{expected} is not in: {out}");
    }
    assert!(out.contains("D work/theirs") && !out.contains("gone"), "{out}");
    assert_eq!(text(world.path("box/upper/work/mine")), "new\n");
}

#[test]
fn a_bundle_runs_under_crun_as_the_image_says() {
    bundle_runs_under("crun");
}

#[test]
fn a_bundle_runs_under_runc_as_the_image_says() {
    bundle_runs_under("runc");
}

#[test]
fn a_user_that_the_image_does_not_have_is_refused_and_nothing_stays_mounted() {
    if !can_mount() {
        return;
    }
    let Some(shell) = shell() else { return };
    let world = World::new();
    layout(&world, &shell, "nobody-here");
    world.must(&["import", "lay"]);
    let sentence = world.refused(&["bundle", "lay:t", "box"]);
    assert!(sentence.contains("nobody-here"), "{sentence}");
    assert_eq!(std::fs::read_dir(world.path("box/rootfs")).unwrap().count(), 0);
    let again = world.refused(&["bundle", "lay:t", "box"]);
    assert!(again.contains("new or empty"), "{again}");
}

#[test]
fn run_lives_in_the_image_and_shows_what_changed() {
    if !can_mount() {
        return;
    }
    let Some(shell) = shell() else { return };
    let world = World::new();
    layout(&world, &shell, "worker");
    world.must(&["import", "lay"]);
    let run = |words: &[&str]| {
        let mut command = Command::new("timeout");
        command.args(["60", env!("CARGO_BIN_EXE_acetate"), "run", "--store", "store", "--image", "lay:t"]);
        command.args(words).current_dir(world.0.path()).stdin(Stdio::null()).output().unwrap()
    };
    let output = run(&[
        "--discard",
        "--",
        "sh",
        "-c",
        "id -u; pwd; echo $COLOUR; ls /etc; grep -c . /proc/mounts; exit 7",
    ]);
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(7), "{out}{}", String::from_utf8_lossy(&output.stderr));
    assert!(out.starts_with("70\n/work\nblue\ngroup\npasswd\n"), "{out}");
    let output = run(&["--keep", "changes", "--", "sh", "-c", "echo x > /etc/mine"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    // /etc belongs to root and the image's user is another.
    assert!(!output.status.success(), "{told}");
    let output = run(&["--keep", "kept", "--", "sh", "-c", "echo more >> theirs"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    assert!(told.contains("C work/theirs"), "{told}");
    assert_eq!(text(world.path("kept/work/theirs")), "theirsmore\n");
    world.must(&["verify"]);
}

#[test]
fn an_ordinary_user_runs_an_image_and_a_bundle() {
    if !can_mount() || !has("fusermount3") || !has("setpriv") || !has("crun") {
        return;
    }
    let Some(shell) = shell() else { return };
    let world = World::new();
    layout(&world, &shell, "");
    let id = name("user");
    let output = as_user(
        &world,
        &format!(
            "../acetate image import ../lay
             ../acetate run --image lay:t --discard -- sh -c 'id -u; cat /work/theirs; echo; echo x > /work/new; rm /work/theirs'
             mkdir run; export XDG_RUNTIME_DIR=$PWD/run
             ../acetate image bundle lay:t box -- /bin/sh -c 'id -u; cat theirs; echo; echo y > mine; mkdir dir; rm theirs'
             crun --root run/crun run --bundle box {id}
             ../acetate diff box/rootfs
             ../acetate umount box/rootfs
             test -e box/upper/work/mine"
        ),
    );
    let out = said(&output);
    assert!(out.contains("\n0\ntheirs\n0\ntheirs\n"), "{out}");
    assert!(out.contains("A work/mine") && out.contains("D work/theirs"), "{out}");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("A work/new"), "{told}");
    assert!(Path::new(&world.path("home/box/config.json")).exists());
}
