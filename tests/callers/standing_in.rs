//! `xattr_permissions`: owner, mode and type in an attribute; and whiteouts where devices are refused.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::process::Command;

use crate::stage::Stage;

fn attribute(stage: &Stage, name: &str) -> Option<String> {
    let mut command = Command::new("getfattr");
    command.args(["--only-values", "-n", "user.containers.override_stat"]).arg(stage.path(name));
    let output = command.output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

fn sh(stage: &Stage, script: &str) -> String {
    let mut command = Command::new("timeout");
    command.args(["120", "bash", "-c", script]).current_dir(stage.0.path()).env("LC_ALL", "C");
    let output = command.output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

const OPTIONS: &str = "lowerdir=a:b,upperdir=u,workdir=w,xattr_permissions=2";

#[test]
fn every_change_of_owner_mode_and_type_is_written_in_the_attribute_and_shown_from_it() {
    let Some(stage) = Stage::new() else { return };
    assert_eq!(
        sh(&stage, "cd a; chown 5:6 from-a; chmod 4755 from-a; mknod null c 1 3; mkfifo fifo; ln -s x link"),
        ""
    );
    stage.must(&["-o", OPTIONS, "m"]);
    let made = sh(
        &stage,
        "cd m; umask 022; touch new; mkdir -m 2750 dir; chown 1000:1000 new; chmod 6711 new; mknod dev b 8 1; mkfifo pipe
        ln -s y symlink; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")'
        chmod 666 null; chown -h 7:7 fifo; chmod 751 .; ln new hard; mv dev moved; touch -a from-a; chown 5:7 from-a",
    );
    assert_eq!(made, "");
    for (name, expected) in [
        ("u/new", "1000:1000:06711"),
        ("u/hard", "1000:1000:06711"),
        ("u/dir", "0:0:02750"),
        ("u/moved", "0:0:0644:block-8-1"),
        ("u/pipe", "0:0:0644:pipe"),
        ("u/sock", "0:0:0755:socket"),
        ("u/null", "0:0:0666:char-1-3"),
        ("u/fifo", "7:7:0644:pipe"),
        ("u/from-a", "5:7:0755"),
        ("u", "0:0:0751"),
    ] {
        assert_eq!(attribute(&stage, name).as_deref(), Some(expected), "{name}");
        let found = std::fs::metadata(stage.path(name)).unwrap();
        assert!(found.is_file() || found.is_dir(), "{name}");
        assert_eq!((found.uid(), found.mode() & 0o6000), (0, 0), "{name}");
    }
    // The same after mounting again, when all there is are the attributes.
    for again in [false, true] {
        if again {
            stage.must(&["umount", "m"]);
            stage.must(&["-o", OPTIONS, "m"]);
        }
        let found = std::fs::symlink_metadata(stage.path("m/moved")).unwrap();
        assert!(found.file_type().is_block_device() && found.rdev() == nix::sys::stat::makedev(8, 1));
        assert!(std::fs::symlink_metadata(stage.path("m/sock")).unwrap().file_type().is_socket());
        assert!(std::fs::symlink_metadata(stage.path("m/pipe")).unwrap().file_type().is_fifo());
        let found = std::fs::metadata(stage.path("m/hard")).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777, found.nlink()), (1000, 1000, 0o6711, 2));
        assert_eq!(std::fs::metadata(stage.path("m")).unwrap().permissions().mode() & 0o7777, 0o751);
        for entry in std::fs::read_dir(stage.path("m")).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.file_type().unwrap(), entry.path().symlink_metadata().unwrap().file_type());
        }
    }
    stage.must(&["umount", "m"]);
}

#[test]
fn nobody_sees_or_forges_the_attribute_through_the_mount() {
    let Some(stage) = Stage::new() else { return };
    assert_eq!(sh(&stage, "setfattr -n user.fuseoverlayfs.override_stat -v 3:4:640 b/from-b"), "");
    for options in [OPTIONS, "lowerdir=a:b,upperdir=u,workdir=w,private"] {
        let output = stage.run(&["-o", options, "m"]);
        assert!(output.status.success());
        assert_eq!(attribute(&stage, "m/from-a"), None);
        for name in ["user.containers.override_stat", "user.fuseoverlayfs.override_stat"] {
            let said =
                sh(&stage, &format!("setfattr -n {name} -v 0:0:4755 m/from-a; setfattr -x {name} m/from-b"));
            assert_eq!(said.matches("Operation not permitted").count(), 2, "{said}");
            assert_eq!(sh(&stage, "getfattr -d -m- m/from-b"), "");
        }
        let believed = std::fs::metadata(stage.path("m/from-b")).unwrap().uid() == 3;
        assert_eq!(believed, options == OPTIONS);
        stage.must(&["umount", "m"]);
    }
}

/// Deletes, replaces and moves what comes from below, looks, mounts again, and looks again.
fn deletes_and_replaces(run: impl Fn(&str) -> String, upper: &str, options: &str) {
    let (umount, mount) = (
        "./acetate umount m",
        format!("./acetate -o lowerdir=a:b,upperdir={upper}/u,workdir={upper}/w{options} m"),
    );
    let script = format!(
        "set -e; {mount}; cd m; rm from-a; rm -r gone; rm -r replaced; mkdir replaced; echo new >replaced/new
        mv file moved; mv -T other target; echo x >from-b; mkdir kept; rmdir kept; cd ..
        list() {{ (cd m; find . | sort; cat from-b moved target replaced/new); }}; list >one; {umount}; {mount}; list >two
        cmp one two; cat two; rm m/moved; echo again >m/from-a; cat m/from-a; {umount}; ls a"
    );
    let said = run(&script);
    let expected = ". ./from-b ./moved ./replaced ./replaced/new ./target x file other new again file from-a gone other replaced target";
    assert_eq!(said.split_whitespace().collect::<Vec<_>>().join(" "), expected, "{upper}: {said}");
}

#[test]
fn uppers_on_overlays_and_on_file_systems_of_every_kind_take_deletions() {
    let Some(stage) = Stage::new() else { return };
    let made = sh(
        &stage,
        "set -e; mkdir -p a/gone/deep a/replaced; echo file >a/file; echo other >a/other; echo target >a/target
        echo old >a/replaced/old; mkdir -p over/l over/u over/w over/m fuse/u fuse/w fuse/m tmpfs ext4 xfs btrfs; rm b/from-b
        mount -t overlay o -o lowerdir=over/l,upperdir=over/u,workdir=over/w over/m
        mount -t tmpfs t tmpfs
        for kind in ext4 xfs btrfs; do
            truncate -s 512M $kind.image; mkfs.$kind -q $kind.image >/dev/null 2>&1; mount -o loop $kind.image $kind
        done",
    );
    assert_eq!(made, "");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_acetate"), stage.path("acetate")).unwrap();
    stage.must(&["-o", "lowerdir=over/l,upperdir=fuse/u,workdir=fuse/w", "fuse/m"]);
    for upper in ["over/m", "fuse/m", "tmpfs", "ext4", "xfs", "btrfs"] {
        assert_eq!(sh(&stage, &format!("mkdir {upper}/u {upper}/w")), "");
        deletes_and_replaces(|script| sh(&stage, script), upper, "");
    }
    // Nobody needs privileges for it.
    let home = stage.path("home");
    std::fs::create_dir(&home).unwrap();
    assert_eq!(sh(&stage, "mkdir over/m/x over/m/x/u over/m/x/w"), "");
    deletes_and_replaces(|script| sh(&stage, script), "over/m/x", ",userxattr");
    stage.must(&["umount", "fuse/m"]);
    sh(&stage, "umount over/m tmpfs ext4 xfs btrfs");
}

/// Runs a script as root of a user namespace that an ordinary user made, in the stage. What it mounts ends with it.
fn as_root_of_a_namespace(stage: &Stage, script: &str) -> String {
    let device = "mount --make-rprivate / && mount -t tmpfs none /mnt && mknod -m 666 /mnt/fuse c 10 229 \
        && mount --bind /mnt/fuse /dev/fuse && exec setpriv --reuid 65534 --regid 65534 --clear-groups \
        unshare --user --map-root-user --mount bash -c \"$0\"";
    let mut command = Command::new("timeout");
    command.args(["120", "unshare", "--mount", "bash", "-c", device, script]);
    let output = command.current_dir(stage.0.path()).env("LC_ALL", "C").env("HOME", "/").output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn in_a_user_namespace_uppers_of_every_kind_take_deletions_without_trusted_attributes() {
    let Some(stage) = Stage::new() else { return };
    assert_eq!(
        sh(
            &stage,
            "mkdir -p a/gone/deep a/replaced disk; echo file >a/file; echo other >a/other; echo target >a/target
            echo old >a/replaced/old; rm b/from-b; mkdir over over/l over/u over/w over/m tmpfs fuse fuse/u fuse/w fuse/m
            chmod 755 .; chown -R 65534:65534 ."
        ),
        ""
    );
    std::fs::copy(env!("CARGO_BIN_EXE_acetate"), stage.path("acetate")).unwrap();
    let lacks = as_root_of_a_namespace(
        &stage,
        "id -u; setfattr -n trusted.x -v y disk; mknod disk/null c 1 3; mount -t overlay o -o lowerdir=a,upperdir=over/u,workdir=over/w,userxattr over/m && echo over",
    );
    if !lacks.starts_with("0\n") || !lacks.contains("over\n") {
        println!("skipped: a user may make no namespaces, or mount no overlays in them: {lacks}");
        return;
    }
    assert_eq!(lacks.matches("not permitted").count(), 2, "{lacks}");
    // A server keeps its namespace: it is to end with the script.
    for (upper, prepare) in [
        ("disk", "true"),
        ("tmpfs", "mount -t tmpfs t tmpfs"),
        ("over/m", "mount -t overlay o -o lowerdir=over/l,upperdir=over/u,workdir=over/w,userxattr over/m"),
        (
            "fuse/m",
            "trap './acetate umount fuse/m' EXIT; ./acetate -o lowerdir=over/l,upperdir=fuse/u,workdir=fuse/w fuse/m",
        ),
    ] {
        for options in ["", ",xattr_permissions=2"] {
            let run = |script: &str| {
                as_root_of_a_namespace(
                    &stage,
                    &format!(
                        "set -e; {prepare}; rm -rf {upper}/u {upper}/w; mkdir {upper}/u {upper}/w; {script}"
                    ),
                )
            };
            deletes_and_replaces(run, upper, options);
        }
    }
}
