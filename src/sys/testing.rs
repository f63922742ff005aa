//! What the unit tests of every floor share: politely skipping, and mounts that nobody else sees.

use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Whether this process has the rights of root; prints why a test does nothing otherwise.
pub(crate) fn root_or_skip() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    root
}

/// Runs `test` on a thread with a mount namespace of its own, so that its mounts vanish with it. Prints why it does
/// nothing where that is not allowed. A panic of `test` is passed on.
pub(crate) fn with_private_mounts(test: impl FnOnce() + Send) {
    if !root_or_skip() {
        return;
    }
    let outcome = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                let none = None::<&str>;
                let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
                let alone =
                    unshare(CloneFlags::CLONE_NEWNS).and_then(|()| mount(none, "/", none, private, none));
                match alone {
                    Ok(()) => test(),
                    Err(errno) => println!("skipped: no mount namespace of our own: {errno}"),
                }
            })
            .join()
    });
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Makes `target` and mounts a fresh tmpfs there.
pub(crate) fn mount_tmpfs(target: &Path) {
    std::fs::create_dir_all(target).unwrap();
    mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
}

/// Makes an ext4 image `image` with file system UUID `uuid` and mounts it on `target`. False, with the reason printed,
/// where mkfs or loop devices are missing.
pub(crate) fn mount_ext4(image: &Path, uuid: &str, target: &Path) -> bool {
    std::fs::create_dir_all(target).unwrap();
    std::fs::File::create(image).unwrap().set_len(16 << 20).unwrap();
    let run = |program: &str, args: &[&std::ffi::OsStr]| {
        std::process::Command::new(program).args(args).output().is_ok_and(|out| out.status.success())
    };
    let made = run("mkfs.ext4", &["-q".as_ref(), "-U".as_ref(), uuid.as_ref(), image.as_ref()])
        && run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_ref(), target.as_ref()]);
    if !made {
        println!("skipped: cannot make or mount an ext4 image");
    }
    made
}

/// Mounts the kernel's overlayfs with `options` on `target`.
pub(crate) fn mount_overlay(target: &Path, options: &str) -> super::Result<()> {
    std::fs::create_dir_all(target).unwrap();
    mount(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(options))
}
