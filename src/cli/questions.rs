//! `status`, `sync` and `which`: questions that only the mount itself can answer.
//!
//! They are put through a directory of the mount, so they reach the right server from any namespace and no visible
//! file is needed for them.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use serde::de::DeserializeOwned;

use super::grid::{self, Found, Heading, Row, Source, Style};
use super::output::table;
use super::umount::Place;
use super::{Failure, Outcome, Output};
use crate::error::SetupError;
use crate::fuse::control;
use crate::sys::{Errno, mountinfo};
use crate::union::control::{
    InLayer, LayerInfo, Mark, Question, Role, Status, Synced, Text, TransportStatus, Which,
};

/// `acetate status`.
///
/// # Errors
/// Not a mount of ours, or its server does not answer.
pub fn status(path: &Path, output: Output) -> Outcome {
    let place = Place::find(path, "ask for the status of")?;
    let status: Status = ask(&readable(path, &place)?, &Question::Status, path)?;
    output.give(&status, |status| status_text(&place.entry.mountpoint, status))
}

/// `acetate sync`.
///
/// # Errors
/// Not a mount of ours, or the upper could not be synced.
pub fn sync(path: &Path, output: Output) -> Outcome {
    let place = Place::find(path, "sync")?;
    let synced: Synced = ask(&readable(path, &place)?, &Question::Sync, path)?;
    output.give(&synced, |_| String::new())
}

/// `acetate which`.
///
/// # Errors
/// A path that is in no mount of ours.
pub fn which(paths: &[PathBuf], output: Output) -> Outcome {
    let answers = paths.iter().map(|path| which_one(path)).collect::<Result<Vec<Which>, Failure>>()?;
    output.give(&answers, |answers| which_text(answers, Style::of_stdout()))
}

fn which_one(path: &Path) -> Result<Which, Failure> {
    let (dir, name) = asked(path);
    let place = Place::find(&dir, "look through the layers for")?;
    let name = name.map(|name| Text::from(name.as_slice()));
    Ok(ask(&readable(&dir, &place)?, &Question::Which { name }, path)?)
}

/// The directory to ask about `path`, and the name in it; no name when `path` itself is to be asked, because it has
/// no last name or is the root of a mount, whose parent is elsewhere.
fn asked(path: &Path) -> (PathBuf, Option<Vec<u8>>) {
    let raw = path.as_os_str().as_bytes();
    let end = raw.iter().rposition(|b| *b != b'/').map_or(0, |at| at + 1);
    let start = raw[..end].iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
    let (parent, name) = (&raw[..start], &raw[start..end]);
    let itself = matches!(name, b"" | b"." | b"..") || is_root_of_a_mount(path);
    match (itself, parent) {
        (true, _) => (path.to_path_buf(), None),
        (false, b"") => (PathBuf::from("."), Some(name.to_vec())),
        (false, parent) => (PathBuf::from(std::ffi::OsStr::from_bytes(parent)), Some(name.to_vec())),
    }
}

/// A symlink to a root is a name like any other.
fn is_root_of_a_mount(path: &Path) -> bool {
    !path.is_symlink() && Place::find(path, "look at").is_ok_and(|place| place.is_root)
}

/// The same directory, open for an ioctl.
fn readable(path: &Path, place: &Place) -> Result<OwnedFd, SetupError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(&mountinfo::proc_path(place.dir.as_fd()), flags, Mode::empty()).map_err(|errno| refused(path, errno))
}

fn ask<A: DeserializeOwned>(dir: &OwnedFd, question: &Question, path: &Path) -> Result<A, SetupError> {
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
        format!("{}, {} threads (at most {})", counts.transport, counts.threads, counts.threads_peak),
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

/// More columns than this do not fit a screen; then only layers that know one of the names get one.
const COLUMNS: usize = 8;

/// One picture for each run of answers over the same layers.
fn which_text(answers: &[Which], style: Style) -> String {
    let same = |a: &Which, b: &Which| a.layers.iter().map(|l| &l.layer).eq(b.layers.iter().map(|l| &l.layer));
    answers.chunk_by(same).map(|run| picture(run, style)).collect::<Vec<_>>().join("\n")
}

fn picture(answers: &[Which], style: Style) -> String {
    let Some(first) = answers.first() else { return String::new() };
    let names = labels(&first.layers);
    let knows = |column: usize| {
        answers.iter().any(|answer| {
            let marked = answer.layers.get(column).is_some_and(|layer| layer.mark != Mark::Absent);
            marked || answer.copied_from.as_ref().is_some_and(|from| from.layer == column)
        })
    };
    let all = first.layers.len() <= COLUMNS;
    let columns: Vec<usize> = (0..first.layers.len()).filter(|column| all || knows(*column)).collect();
    let rows: Vec<Row> = answers.iter().map(|answer| row(answer, &columns)).collect();
    let names: Vec<String> = columns.iter().filter_map(|column| names.get(*column).cloned()).collect();
    grid::render(&names, &rows, Heading::Shown, style)
}

fn row(answer: &Which, columns: &[usize]) -> Row {
    let found =
        columns.iter().map(|column| answer.layers.get(*column).map_or(Found::Nothing, found)).collect();
    let source = answer.copied_from.as_ref().and_then(|from| {
        let layer = columns.iter().position(|column| *column == from.layer)?;
        let path = (from.path != answer.path).then(|| from.path.as_bytes().to_vec());
        Some(Source { layer, path })
    });
    Row { path: answer.path.as_bytes().to_vec(), found, source }
}

fn found(layer: &InLayer) -> Found {
    match (layer.mark, layer.kind.as_deref()) {
        (Mark::Absent, _) => Found::Nothing,
        (Mark::Deleted, _) => Found::Whiteout,
        (Mark::Replaces, _) => Found::OpaqueDir,
        (Mark::Merged, _) | (_, Some("directory")) => Found::Dir,
        (Mark::Shown | Mark::Covered, _) => Found::Leaf,
    }
}

/// Short names of the layers: the last name of each directory where that tells them apart, else their numbers.
fn labels(layers: &[InLayer]) -> Vec<String> {
    let last = |layer: &LayerInfo| match layer.role {
        Role::Upper => "upper".to_string(),
        _ => {
            layer.path.to_path().file_name().map(|n| Text::from(n.as_bytes()).to_string()).unwrap_or_default()
        }
    };
    let names: Vec<String> = layers.iter().map(|layer| last(&layer.layer)).collect();
    let mut distinct: Vec<&String> = names.iter().collect();
    distinct.sort_unstable();
    distinct.dedup();
    let short = names.iter().all(|name| (1..=16).contains(&name.chars().count()));
    if short && distinct.len() == names.len() {
        return names;
    }
    let uppers = layers.iter().filter(|layer| layer.layer.role == Role::Upper).count();
    let number = |(at, layer): (usize, &InLayer)| match layer.layer.role {
        Role::Upper => "upper".to_string(),
        Role::Lower => format!("lower{}", at + 1 - uppers),
        Role::Data => format!("data{}", at + 1 - uppers),
    };
    layers.iter().enumerate().map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::union::control::Place as InStack;

    fn answer(path: &str, marks: &str) -> Which {
        let roles = [Role::Upper, Role::Lower, Role::Lower, Role::Lower];
        let layers = ["/s/up", "/s/app", "/s/tools", "/s/base"];
        let layers: Vec<InLayer> = marks
            .bytes()
            .zip(roles.into_iter().zip(layers))
            .map(|(mark, (role, path))| InLayer {
                layer: LayerInfo { role, path: Text::from(Path::new(path)) },
                mark: match mark {
                    b'#' => Mark::Shown,
                    b'+' => Mark::Merged,
                    b'o' => Mark::Covered,
                    b'x' => Mark::Deleted,
                    b'=' => Mark::Replaces,
                    _ => Mark::Absent,
                },
                kind: matches!(mark, b'#' | b'o').then(|| "file".to_string()),
                at: None,
            })
            .collect();
        let shown = layers.iter().position(|l| matches!(l.mark, Mark::Shown | Mark::Replaces));
        Which { path: Text::from(path.as_bytes()), shown, layers, copied_from: None, metadata_only: false }
    }

    #[test]
    fn an_answer_is_drawn_as_the_layers_gave_it() {
        let mut copied = answer("etc/motd", "#.o.");
        copied.copied_from = Some(InStack { layer: 2, path: copied.path.clone() });
        let mut moved = answer("bin/hi", "#...");
        moved.copied_from = Some(InStack { layer: 1, path: Text::from(&b"bin/hello"[..]) });
        let answers = [answer("etc/old", ".x.o"), copied, moved, answer("no", "....")];
        let text = which_text(&answers, Style::Plain);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].ends_with("| upper | app | tools | base |"), "{text}");
        assert!(
            lines[2].contains("|   .   |  x  |   .   |  o   |  app deletes it, base still has it"),
            "{text}"
        );
        assert!(lines[3].ends_with("copied up from tools"), "{text}");
        assert!(lines[4].ends_with("was bin/hello in app"), "{text}");
        assert!(lines[5].ends_with("in no layer"), "{text}");
    }

    #[test]
    fn of_many_layers_only_those_that_know_a_name_get_a_column() {
        let mut deep = answer("x", "#o..");
        let path =
            |n: usize| LayerInfo { role: Role::Lower, path: Text::from(format!("/s/l{n}").as_bytes()) };
        deep.layers.extend((0..20).map(|n| InLayer { layer: path(n), ..InLayer::default() }));
        deep.layers[15].mark = Mark::Covered;
        let text = which_text(&[deep], Style::Plain);
        assert!(text.contains("| upper | app | l11 |"), "{text}");
    }

    #[test]
    fn the_most_frequent_requests_are_named_first() {
        let requests = (1..=8u64).map(|n| (format!("op{n}"), n)).collect();
        let counts = TransportStatus { requests, panics: 2, ..TransportStatus::default() };
        let expected = "36: 8 op8, 7 op7, 6 op6, 5 op5, 4 op4, 3 op3, …; 2 internal errors";
        assert_eq!(requests_text(&counts), expected);
        assert_eq!(requests_text(&TransportStatus::default()), "0");
    }

    #[test]
    fn layers_with_the_same_last_name_are_numbered() {
        let mut a = answer("x", "#...");
        for layer in &mut a.layers {
            layer.layer.path = Text::from(&b"/l/ab12/diff"[..]);
        }
        assert_eq!(labels(&a.layers), ["upper", "lower1", "lower2", "lower3"]);
    }

    #[test]
    fn the_directory_that_is_asked_is_the_parent_unless_there_is_no_name() {
        let name = |n: &str| Some(n.as_bytes().to_vec());
        assert_eq!(asked(Path::new("a/b")), (PathBuf::from("a/"), name("b")));
        assert_eq!(asked(Path::new("a/b//")), (PathBuf::from("a/"), name("b")));
        assert_eq!(asked(Path::new("b")), (PathBuf::from("."), name("b")));
        assert_eq!(asked(Path::new("/b")), (PathBuf::from("/"), name("b")));
        assert_eq!(asked(Path::new("a/..")), (PathBuf::from("a/.."), None));
        assert_eq!(asked(Path::new("/")), (PathBuf::from("/"), None));
    }
}
