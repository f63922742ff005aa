//! `acetate list`: every mount of ours that is visible from here, with what is known of its server.

use std::os::fd::AsFd;

use serde::Serialize;

use super::output::table;
use super::registry::{self, Record, State};
use super::umount::FILESYSTEM;
use super::{Outcome, Output};
use crate::error::SetupError;
use crate::sys::mountinfo::{self, MountEntry};
use crate::union::control::{LayerInfo, Role, Text};

/// A mount as `list --json` prints it.
#[derive(Debug, Serialize)]
struct Listed {
    /// Where it is mounted.
    mountpoint: Text,
    /// The source that mount(8) shows.
    source: Text,
    /// `live`; `dead`: its server is gone, `acetate umount` removes it.
    state: &'static str,
    /// The server, where it can be seen from here.
    pid: Option<u32>,
    /// The upper, the lowers, the data-only layers; empty where the server cannot be seen.
    layers: Vec<LayerInfo>,
    /// The settled options; empty where the server cannot be seen.
    options: Vec<String>,
    /// When it was mounted, in seconds since 1970.
    since: Option<u64>,
}

/// Lists.
///
/// # Errors
/// When /proc cannot be read.
pub fn run(output: Output) -> Outcome {
    let mounts = mountinfo::mounts().map_err(|e| SetupError::new("list the mounts", e.desc()))?;
    let ours: Vec<Listed> = mounts.into_iter().filter(|entry| entry.kind == FILESYSTEM).map(listed).collect();
    output.give(&ours, |ours| text(ours))
}

fn listed(entry: MountEntry) -> Listed {
    let uid = entry.user().unwrap_or_else(|| nix::unistd::geteuid().as_raw());
    let record = registry::find(uid, entry.device.1);
    let state = match &record {
        Some(Record { state: State::Mounted | State::Finishing, .. }) => "live",
        None if is_dead(&entry) => "dead",
        None => "live",
    };
    let (pid, since) = (record.as_ref().map(|r| r.pid), record.as_ref().map(|r| r.since));
    let (layers, options) = record.map(|r| (r.layers, r.options)).unwrap_or_default();
    let mountpoint = Text::from(entry.mountpoint.as_path());
    let source = Text::from(std::os::unix::ffi::OsStrExt::as_bytes(entry.source.as_os_str()));
    Listed { mountpoint, source, state, pid, layers, options, since }
}

/// Asks the mount itself, which only a mount without a visible server needs.
fn is_dead(entry: &MountEntry) -> bool {
    mountinfo::locate_dir(&entry.mountpoint).is_ok_and(|dir| mountinfo::is_dead(dir.as_fd()))
}

fn text(ours: &[Listed]) -> String {
    if ours.is_empty() {
        return String::new();
    }
    let mut rows = vec![["MOUNTED ON", "STATE", "PID", "UPPER", "LOWERS"].map(String::from).to_vec()];
    rows.extend(ours.iter().map(|mount| {
        let upper = mount.layers.iter().find(|layer| layer.role == Role::Upper);
        let lowers: Vec<String> =
            mount.layers.iter().filter(|l| l.role == Role::Lower).map(|l| l.path.to_string()).collect();
        vec![
            mount.mountpoint.to_string(),
            mount.state.to_string(),
            mount.pid.map_or_else(|| "?".into(), |pid| pid.to_string()),
            upper.map_or_else(|| "-".into(), |upper| upper.path.to_string()),
            shortened(&lowers),
        ]
    }));
    table(&rows)
}

/// The topmost few.
fn shortened(lowers: &[String]) -> String {
    const SHOWN: usize = 3;
    match lowers {
        [] => "?".into(),
        _ if lowers.len() <= SHOWN => lowers.join(":"),
        _ => format!("{}:… ({} in all)", lowers[..SHOWN].join(":"), lowers.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_stacks_are_shortened() {
        let names: Vec<String> = (0..5).map(|i| format!("/{i}")).collect();
        assert_eq!(shortened(&names[..2]), "/0:/1");
        assert_eq!(shortened(&names), "/0:/1:/2:… (5 in all)");
    }
}
