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
