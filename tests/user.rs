//! An ordinary user without a user namespace: mounting through fusermount3 (overlay-spec O-1, userxattr by itself).

#![allow(clippy::unwrap_used, missing_docs)]

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::{Command, Output, Stdio};

#[path = "support/stage.rs"]
mod stage;

use stage::Stage;

/// A user with a line in /etc/passwd, which fusermount3 insists on.
const USER: u32 = 65534;

/// In a mount namespace of its own, with a device that everybody may open, as the user.
const AS_USER: &str = "mount --make-rprivate / && mount -t tmpfs none /mnt && mknod -m 666 /mnt/fuse c 10 229 \
    && mount --bind /mnt/fuse /dev/fuse && exec setpriv --reuid 65534 --regid 65534 --clear-groups bash -ec \"$0\"";

/// A stage that belongs to the user.
fn stage() -> Option<Stage> {
    let stage = Stage::new()?;
    let has = |program: &str| {
        let found =
            Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        found.is_ok_and(|status| status.success())
    };
    if !has("fusermount3")
        || !has("setpriv")
        || nix::unistd::User::from_uid(USER.into()).ok().flatten().is_none()
    {
        println!("skipped: needs fusermount3, setpriv and the user nobody");
        return None;
    }
    std::fs::set_permissions(stage.0.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_acetate"), stage.path("acetate")).unwrap();
    for name in ["", "a", "a/from-a", "b", "b/from-b", "u", "w", "m"] {
        chown(stage.path(name), Some(USER), Some(USER)).unwrap();
    }
    Some(stage)
}

/// Runs a script as the user, in the stage. The mounts end with the namespace.
fn run(stage: &Stage, script: &str) -> Output {
    let mut command = Command::new("timeout");
    command.args(["60", "unshare", "--mount", "bash", "-c", AS_USER, script]);
    command.current_dir(stage.0.path()).env("HOME", "/").stdin(Stdio::null()).output().unwrap()
}

fn must(stage: &Stage, script: &str) -> String {
    let output = run(stage, script);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// F-37
#[test]
fn a_user_mounts_changes_asks_and_unmounts() {
    let Some(stage) = stage() else { return };
    let said = must(
        &stage,
        "./acetate mount --lower a --lower b --upper u m
         ./acetate status m
         echo more >> m/from-a; rm m/from-b; mkdir m/dir
         ./acetate which --grid m/from-a m/from-b
         ./acetate diff m
         ./acetate sync m
         chown 1 m/from-a 2>/dev/null && echo CHOWNED
         ./acetate umount m
         ./acetate list
         test ! -e m/from-a",
    );
    assert!(said.contains("userxattr"), "{said}");
    assert!(said.contains("copied up from a"), "{said}");
    assert!(said.contains("upper deletes b's file"), "{said}");
    assert!(said.contains("A dir\nC from-a (content, mtime)\nD from-b\n"), "{said}");
    assert!(!said.contains("CHOWNED"), "{said}");
    assert_eq!(std::fs::read_to_string(stage.path("a/from-a")).unwrap(), "a");
    assert_eq!(stage.path("u/from-a").metadata().unwrap().uid(), USER);
}

#[test]
fn a_user_mounts_the_same_upper_again_at_once() {
    let Some(stage) = stage() else { return };
    let said = must(
        &stage,
        "for i in $(seq 1 20); do
             ./acetate mount --lower a --upper u m; echo $i > m/file; fusermount3 -u m
         done
         ./acetate mount --lower a --upper u m; cat m/file; ./acetate umount m",
    );
    assert_eq!(said, "20\n");
}

#[test]
fn a_signal_from_the_user_unmounts() {
    let Some(stage) = stage() else { return };
    must(
        &stage,
        "./acetate mount --lower a m
         pid=$(./acetate list --json | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p')
         kill -TERM $pid
         for i in $(seq 1 100); do test -e m/from-a || exit 0; sleep 0.05; done
         exit 1",
    );
}

#[test]
fn a_user_without_the_right_is_told_which_setting_is_missing() {
    let Some(stage) = stage() else { return };
    let complaint = |script: &str| {
        let output = run(&stage, script);
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    if !std::fs::read_to_string("/etc/fuse.conf").unwrap_or_default().lines().any(|l| l == "user_allow_other")
    {
        let message = complaint("./acetate mount --lower a -o allow_other m");
        assert!(message.contains("add the line user_allow_other to /etc/fuse.conf"), "{message}");
    }
    let mine = complaint("./acetate mount --lower a /var");
    assert!(mine.contains("yours") || mine.contains("permission") || mine.contains("access"), "{mine}");
}
