//! Questions that only the mount itself can answer, and two commands that ask them: `status` and `sync`.
//!
//! They are put through a directory of the mount, so they reach the right server from any namespace and no visible
//! file is needed for them.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use serde::de::DeserializeOwned;

use super::output::table;
use super::umount::Place;
use super::{Outcome, Output};
use crate::error::SetupError;
use crate::fuse::control;
use crate::sys::{Errno, mountinfo};
use crate::union::control::{Question, Role, Status, Synced, Text, TransportStatus};

/// `acetate status`.
///
/// # Errors
/// Not a mount of ours, or its server does not answer.
pub fn status(path: &Path, output: Output) -> Outcome {
    let place = Place::find(path, "ask for the status of")?;
    // Must answer whatever else does not, so nothing is written back for it.
    let status: Status = put(&place, &Question::Status, path)?;
    output.give(&status, |status| status_text(&place.entry.mountpoint, status))
}

/// `acetate sync`.
///
/// # Errors
/// Not a mount of ours, or the upper could not be synced.
pub fn sync(path: &Path, output: Output) -> Outcome {
    let synced: Synced = ask_about(path, "sync", &Question::Sync, path)?;
    output.give(&synced, |_| String::new())
}

/// The same directory, open for an ioctl.
fn readable(path: &Path, place: &Place) -> Result<OwnedFd, SetupError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(&mountinfo::proc_path(place.dir.as_fd()), flags, Mode::empty()).map_err(|errno| refused(path, errno))
}

/// Asks the mount of ours that the directory `dir` is in; `what` and `path` are for messages.
///
/// # Errors
/// It is in no mount of ours, or the server does not answer.
pub fn ask_about<A: DeserializeOwned>(
    dir: &Path,
    what: &str,
    question: &Question,
    path: &Path,
) -> Result<A, SetupError> {
    ask(&Place::find(dir, what)?, question, path)
}

/// Asks the mount of ours that `place` is in, after the kernel has brought everything written there to the server: what
/// looks at the upper next sees all that programs were told is written (F-36).
///
/// # Errors
/// The server does not answer.
pub fn ask<A: DeserializeOwned>(place: &Place, question: &Question, path: &Path) -> Result<A, SetupError> {
    nix::unistd::syncfs(readable(path, place)?)
        .map_err(|errno| SetupError::new("bring what was written to", errno.desc()).at(path))?;
    put(place, question, path)
}

fn put<A: DeserializeOwned>(place: &Place, question: &Question, path: &Path) -> Result<A, SetupError> {
    let dir = readable(path, place)?;
    let failed = |e: &dyn std::fmt::Display| SetupError::new("ask the server about", e).at(path);
    let question = serde_json::to_vec(question).map_err(|e| failed(&e))?;
    let answer = control::ask(dir.as_fd(), &question).map_err(|errno| refused(path, errno))?;
    serde_json::from_slice(&answer)
        .map_err(|e| failed(&e).hint("is the server of another version of acetate?"))
}

fn refused(path: &Path, errno: Errno) -> SetupError {
    let e = SetupError::new("ask the server about", errno.desc()).at(path);
    match errno {
        Errno::ENOTCONN => e.hint("it is dead; acetate umount removes its mount"),
        Errno::EACCES => {
            e.hint("only its owner, unless mounted with allow_other, and who may read the directory")
        }
        Errno::EPERM => e.hint("only root and the user who mounted it may ask"),
        Errno::ENOTTY => e.hint("is the server of another version of acetate?"),
        _ => e,
    }
}

fn status_text(mountpoint: &Path, status: &Status) -> String {
    let counts = &status.transport;
    let mut rows = Vec::new();
    let mut say = |what: &str, value: String| {
        if !value.is_empty() {
            rows.push(vec![what.to_string(), value]);
        }
    };
    say("mounted on", mountpoint.display().to_string());
    for layer in &status.layers {
        say(role(layer.role), layer.path.to_string());
    }
    say("work", status.work.as_ref().map(Text::to_string).unwrap_or_default());
    say("options", status.options.join(","));
    say("server", format!("process {}, version {}", status.pid, status.version));
    say(
        "transport",
        format!(
            "{}, {} threads (at most {}){}",
            counts.transport,
            counts.threads,
            counts.threads_peak,
            counts.why.as_ref().map(|why| format!("; {why}")).unwrap_or_default()
        ),
    );
    say("data path", status.data_path.clone());
    say("requests", requests_text(counts));
    say("copy-ups", format!("{} ({} bytes)", status.copy_ups, status.copied_bytes));
    say(
        "in memory",
        format!("{} objects, {} open, {} descriptors", status.nodes, status.handles, status.descriptors),
    );
    table(&rows)
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Upper => "upper",
        Role::Lower => "lower",
        Role::Data => "data-only",
    }
}

/// All, then the most frequent, then what should not be.
fn requests_text(counts: &TransportStatus) -> String {
    const NAMED: usize = 6;
    let mut frequent: Vec<(&String, &u64)> = counts.requests.iter().collect();
    frequent.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), *name));
    let named: Vec<String> =
        frequent.iter().take(NAMED).map(|(name, count)| format!("{count} {name}")).collect();
    let all: u64 = counts.requests.values().sum();
    let mut text = if named.is_empty() { all.to_string() } else { format!("{all}: {}", named.join(", ")) };
    if frequent.len() > NAMED {
        text.push_str(", …");
    }
    for (count, what) in [(counts.panics, "internal errors"), (counts.malformed, "malformed messages")] {
        if count > 0 {
            text.push_str(&format!("; {count} {what}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_requests_are_named_first() {
        let requests = (1..=8u64).map(|n| (format!("op{n}"), n)).collect();
        let counts = TransportStatus { requests, panics: 2, ..TransportStatus::default() };
        let expected = "36: 8 op8, 7 op7, 6 op6, 5 op5, 4 op4, 3 op3, …; 2 internal errors";
        assert_eq!(requests_text(&counts), expected);
        assert_eq!(requests_text(&TransportStatus::default()), "0");
    }
}
