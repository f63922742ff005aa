//! Mounting and unmounting through fusermount3, the set-user-id helper of libfuse, for callers who may not mount.
//!
//! The helper opens the device, mounts it, and sends the descriptor over the socket named in its environment.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::session::Options;
use crate::error::SetupError;
use crate::sys::{Errno, fusedev};

const HELPER: &str = "fusermount3";
const SOCKET: &str = "_FUSE_COMMFD";

/// Mounts at `mountpoint` and returns the device.
pub(super) fn mount(options: &Options, mountpoint: &Path) -> Result<OwnedFd, SetupError> {
    let failed = |why: String| SetupError::new("mount", why).at(mountpoint);
    let (ours, theirs) = pair().map_err(|errno| failed(errno.to_string()))?;
    let mut child = Command::new(HELPER)
        .args(["-o", &words(options), "--"])
        .arg(mountpoint)
        .env(SOCKET, theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| not_started(mountpoint, &error))?;
    drop(theirs);
    let mut complaint = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut complaint).map_err(|error| failed(error.to_string()))?;
    }
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        return Err(explain(mountpoint, &complaint));
    }
    match fusedev::receive_fd(ours.as_fd()) {
        Ok(Some(device)) => Ok(device),
        Ok(None) => Err(failed(format!("{HELPER} sent no device"))),
        Err(errno) => Err(failed(format!("{HELPER} sent no device: {errno}"))),
    }
}

/// Detaches the mount at `mountpoint`. Errors: ENOENT without the helper, EPERM when it refuses.
pub(super) fn unmount(mountpoint: &Path) -> Result<(), Errno> {
    let output = Command::new(HELPER).args(["-u", "-z", "--"]).arg(mountpoint).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            log::error!("{HELPER}: {}", String::from_utf8_lossy(&output.stderr).trim());
            Err(Errno::EPERM)
        }
        Err(error) => Err(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)),
    }
}

/// Our end, and the end the helper inherits.
fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok((ours, theirs))
}

fn words(options: &Options) -> String {
    let choices = [
        (options.nodev, "nodev"),
        (options.nosuid, "nosuid"),
        (options.noexec, "noexec"),
        (options.noatime, "noatime"),
        (options.allow_other, "allow_other"),
    ];
    let mut words = vec![if options.read_only { "ro" } else { "rw" }.to_string()];
    words.extend(choices.iter().filter(|(chosen, _)| *chosen).map(|(_, word)| (*word).to_string()));
    words.push("default_permissions".into());
    words.push("subtype=acetate".into());
    words.push(format!("fsname={}", escape(&options.source)));
    words.join(",")
}

/// The helper splits at commas and takes a backslash as quoting.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace(',', "\\,")
}

fn not_started(mountpoint: &Path, error: &std::io::Error) -> SetupError {
    let failed = SetupError::new("mount", format!("{HELPER} cannot be started: {error}")).at(mountpoint);
    match error.kind() {
        ErrorKind::NotFound => failed.hint("install the package fuse3, or mount as root"),
        _ => failed,
    }
}

/// The helper's own words, and what to do about the ones that are known.
fn explain(mountpoint: &Path, complaint: &str) -> SetupError {
    let complaint = complaint.trim().trim_start_matches(HELPER).trim_start_matches([':', ' ']);
    let failed = SetupError::new("mount", complaint).at(mountpoint);
    if complaint.contains("user_allow_other") {
        return failed.hint("add the line user_allow_other to /etc/fuse.conf, or mount without allow_other");
    }
    if complaint.contains("Operation not permitted") {
        return failed.hint(
            "is fusermount3 set-user-id root? inside a container, give it /dev/fuse and CAP_SYS_ADMIN",
        );
    }
    if complaint.contains("/dev/fuse") {
        return failed.hint("users may open /dev/fuse when its mode is 0666, as udev sets it");
    }
    if complaint.contains("username") {
        return failed.hint("fusermount3 serves only users that have a line in /etc/passwd");
    }
    if complaint.contains("failed to access mountpoint") {
        return failed.hint("a mount that only its owner may enter is there already: unmount it first");
    }
    if complaint.contains("no write access") {
        return failed.hint("the mountpoint must be yours");
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_with_commas_stays_one_word() {
        assert_eq!(escape("a,b\\c"), "a\\,b\\\\c");
    }

    #[test]
    fn a_missing_user_allow_other_is_explained() {
        let raw =
            "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf\n";
        let text = explain(Path::new("/mnt"), raw).to_string();
        assert!(text.starts_with("cannot mount /mnt: option allow_other"), "{text}");
        assert!(text.contains("add the line user_allow_other"), "{text}");
    }
}
