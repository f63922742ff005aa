//! Ids that are shifted by an idmapped mount of ours, and squashed ones.

use std::path::Path;
use std::process::Command;

use crate::stage::Stage;

/// Runs a script in the stage; what it prints, errors included.
fn sh(stage: &Stage, script: &str) -> String {
    let idmount = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/callers/idmount.py");
    let mut command = Command::new("timeout");
    command.args(["120", "bash", "-c", script]).current_dir(stage.0.path()).env("IDMOUNT", idmount);
    let output = command.env("LC_ALL", "C").output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn prepare(stage: &Stage) {
    let made = sh(
        stage,
        "set -e; cd a; for f in plain mine foreign listed capable; do echo $f >$f; done
        chown 1000:1000 mine; chown 50000:50000 foreign; mkdir -m 2777 shared; chown 0:7 shared
        setfacl -m u:5:rw listed; setcap cap_net_raw+ep capable; chmod 755 . ..; rm from-a; cp -a ../a ../b/copy; cd ..
        mkdir low",
    );
    assert_eq!(made, "");
}

/// F-18
#[test]
fn a_mount_of_ours_can_be_idmapped() {
    let Some(stage) = Stage::new() else { return };
    prepare(&stage);
    stage.must(&["-o", "lowerdir=a,upperdir=u,workdir=w", "m"]);
    let mapped = sh(&stage, "python3 $IDMOUNT m low 0 100000 10000");
    assert_eq!(mapped, "");
    let said = sh(
        &stage,
        "cd low; stat -c '%n %u:%g' plain mine foreign; setpriv --reuid 100005 --regid 100005 --clear-groups touch shared/new
        stat -c '%u:%g' shared/new ../m/shared/new; touch by-stranger; chown 100001 plain; stat -c %u plain ../m/plain",
    );
    let expected = "plain 100000:100000\nmine 101000:101000\nforeign 65534:65534\n100005:100007\n5:7\n100001\n1\n\
        touch: cannot touch 'by-stranger': Value too large for defined data type\n";
    assert_eq!(said, expected);
    sh(&stage, "umount low");
    stage.must(&["umount", "m"]);
}

/// What [`ids.sh`](ids.sh) prints of layers that are mounted in the way `how`.
fn shifted(stage: &Stage, how: &str) -> String {
    let callers = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/callers");
    let script = format!(
        "export TOOLS={0}; mkdir {how}; mount -t tmpfs {how} {how}; chmod 755 . {how}; cd {how}
        bash {0}/ids.sh {how} {1} || echo status $?; cd ..; umount -l {how}",
        callers.display(),
        env!("CARGO_BIN_EXE_acetate")
    );
    sh(stage, &script)
}

/// Layers on idmapped mounts are how the kernel says the same.
#[test]
fn shifted_ids_are_those_of_kernel_overlayfs_over_idmapped_layers() {
    let Some(stage) = Stage::new() else { return };
    let kernel = shifted(&stage, "kernel");
    if kernel.contains("mount_setattr") || kernel.contains("system call 442") {
        println!("skipped: needs idmapped mounts: {kernel}");
        return;
    }
    for sign in ["rootid=100000", "foreign 0o100644 65534:65534", "shared/dir 0o42755 5:7", "user:100005:rw-"]
    {
        assert!(kernel.contains(sign), "{sign}: {kernel}");
    }
    for how in ["plain", "mixed"] {
        let ours = shifted(&stage, how);
        for (ours, kernel) in ours.lines().zip(kernel.lines()) {
            assert_eq!(ours, kernel, "{how}");
        }
        assert_eq!(ours.lines().count(), kernel.lines().count(), "{how}: {ours}");
    }
}

/// The kernel shows such an entry as that of user 4294967295, which no FUSE server can, and can neither change nor copy
/// up the object.
#[test]
fn an_acl_entry_of_somebody_without_a_counterpart_is_not_shown_and_not_lost() {
    let Some(stage) = Stage::new() else { return };
    assert_eq!(sh(&stage, "chmod 755 .; echo x >a/strange; setfacl -m u:60000:r,u:5:r a/strange"), "");
    stage.must(&[
        "-o",
        "lowerdir=a,upperdir=u,workdir=w,uidmapping=0:100000:10000,gidmapping=0:0:65536",
        "m",
    ]);
    let said = sh(
        &stage,
        "exec 2>&1; getfacl -cn m/strange; setfacl -m u:100006:r m/strange; chown 100001 m/strange; getfacl -cn u/strange",
    );
    let expected = "user::rw-\nuser:100005:r--\ngroup::r--\nmask::r--\nother::r--\n\nsetfacl: m/strange: \
        Value too large for defined data type\nuser::rw-\nuser:5:r--\nuser:60000:r--\ngroup::r--\nmask::r--\n\
        other::r--\n\n";
    assert_eq!(said, expected);
    stage.must(&["umount", "m"]);
}

#[test]
fn squashed_ids_are_one_id_in_both_directions() {
    use std::os::unix::fs::MetadataExt;
    let Some(stage) = Stage::new() else { return };
    prepare(&stage);
    stage.must(&["-o", "lowerdir=a,upperdir=u,workdir=w,squash_to_uid=7,squash_to_gid=8", "m"]);
    let owner =
        |name: &str| std::fs::metadata(stage.path(name)).map(|found| (found.uid(), found.gid())).unwrap();
    assert_eq!((owner("m/plain"), owner("m/mine"), owner("m/foreign")), ((7, 8), (7, 8), (7, 8)));
    std::fs::write(stage.path("m/new"), "").unwrap();
    std::os::unix::fs::chown(stage.path("m/new"), Some(3), Some(4)).unwrap();
    assert_eq!((owner("m/new"), owner("u/new")), ((7, 8), (7, 8)));
    stage.must(&["umount", "m"]);
    stage.must(&["-o", "lowerdir=a,squash_to_root", "m"]);
    assert_eq!((owner("m/mine"), owner("m/foreign")), ((0, 0), (0, 0)));
    stage.must(&["umount", "m"]);
}
