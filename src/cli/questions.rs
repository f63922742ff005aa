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

use super::output::{aligned, table};
use super::umount::Place;
use super::{Failure, Outcome, Output};
use crate::error::SetupError;
use crate::fuse::control;
use crate::sys::{Errno, mountinfo};
use crate::union::control::{InLayer, LayerInfo, Mark, Question, Role, Status, Synced, Text, Which};

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
    output.give(&answers, |answers| which_text(answers))
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
    say("transport", format!("{}, {} threads", status.transport, status.threads));
    say("data path", status.data_path.clone());
    say("requests", with_failures(status.requests, status.panics));
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

fn with_failures(requests: u64, panics: u64) -> String {
    match panics {
        0 => requests.to_string(),
        _ => format!("{requests}, {panics} of them ended in an internal error"),
    }
}

const LEGEND: &str = "# shown  + merged  o covered  x deleted  = replaced whole";
/// More columns than this do not fit a screen; then only layers that know one of the names get one.
const COLUMNS: usize = 8;

/// One grid for each run of answers over the same layers.
fn which_text(answers: &[Which]) -> String {
    let same = |a: &Which, b: &Which| a.layers.iter().map(|l| &l.layer).eq(b.layers.iter().map(|l| &l.layer));
    answers.chunk_by(same).map(grid).collect::<Vec<_>>().join("\n")
}

fn grid(answers: &[Which]) -> String {
    let Some(first) = answers.first() else { return String::new() };
    let names = labels(&first.layers);
    let many = first.layers.len() > COLUMNS;
    let knows = |column: usize| {
        answers.iter().any(|a| a.layers.get(column).is_some_and(|layer| layer.mark != Mark::Absent))
    };
    let columns: Vec<usize> = (0..first.layers.len()).filter(|column| !many || knows(*column)).collect();
    let row = |path: String, seen: String, cells: Vec<String>, note: String| {
        let mut row = vec![path, seen];
        row.extend(cells.into_iter().map(|cell| format!("| {cell}")));
        row.push(format!("| {note}"));
        row
    };
    let header = columns.iter().map(|column| names[*column].clone()).collect();
    let mut rows = vec![row("PATH".into(), "YOU SEE".into(), header, LEGEND.into())];
    rows.extend(answers.iter().map(|answer| {
        let seen = answer.shown.and_then(|at| names.get(at).cloned()).unwrap_or_else(|| "(absent)".into());
        let cell = |column: &usize| {
            let mark = answer.layers.get(*column).map_or(Mark::Absent, |layer| layer.mark);
            format!("{:^width$}", sign(mark), width = names[*column].chars().count()).trim_end().to_string()
        };
        row(path_text(answer), seen, columns.iter().map(cell).collect(), note(answer, &names))
    }));
    aligned(&rows, " ")
}

fn path_text(answer: &Which) -> String {
    let directory = answer.shown.and_then(|at| answer.layers.get(at)?.kind.as_deref()) == Some("directory");
    match (answer.path.as_bytes(), directory) {
        (b"", _) => "/".into(),
        (_, true) => format!("{}/", answer.path),
        (_, false) => answer.path.to_string(),
    }
}

fn sign(mark: Mark) -> &'static str {
    match mark {
        Mark::Absent => ".",
        Mark::Shown => "#",
        Mark::Merged => "+",
        Mark::Covered => "o",
        Mark::Deleted => "x",
        Mark::Replaces => "=",
    }
}

/// Why one sees what one sees, if it is not plain.
fn note(answer: &Which, names: &[String]) -> String {
    let name = |at: usize| names.get(at).cloned().unwrap_or_default();
    let kind = |at: usize| {
        answer.layers.get(at).and_then(|layer| layer.kind.clone()).unwrap_or_else(|| "object".into())
    };
    let deleted = answer.layers.iter().position(|layer| layer.mark == Mark::Deleted);
    let covered = |below: usize| {
        answer
            .layers
            .iter()
            .enumerate()
            .skip(below + 1)
            .find(|(_, l)| l.mark == Mark::Covered)
            .map(|(at, _)| at)
    };
    match (answer.shown, &answer.copied_from, deleted) {
        (Some(_), Some(from), _) if from.path == answer.path => {
            let contents = if answer.metadata_only { ", contents still there" } else { "" };
            format!("copied up from {}{contents}", name(from.layer))
        }
        (Some(_), Some(from), _) => format!("came from {}: {}", name(from.layer), from.path),
        (Some(at), None, _) if answer.layers.get(at).is_some_and(|layer| layer.mark == Mark::Replaces) => {
            format!("{} replaces the directory", name(at))
        }
        (Some(_), None, _) => String::new(),
        (None, _, Some(at)) => match covered(at) {
            Some(hidden) if answer.layers[at].layer.role == Role::Upper => {
                format!("still in {}, under the mark", name(hidden))
            }
            Some(hidden) => format!("{} deletes {}'s {}", name(at), name(hidden), kind(hidden)),
            None => format!("{} deletes the name", name(at)),
        },
        (None, _, None) => "in no layer".into(),
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
    fn the_grid_shows_what_each_layer_says_and_why() {
        let mut copied = answer("etc/motd", "#.o.");
        copied.copied_from = Some(InStack { layer: 2, path: copied.path.clone() });
        let mut moved = answer("bin/hi", "#...");
        moved.copied_from = Some(InStack { layer: 1, path: Text::from(&b"bin/hello"[..]) });
        let answers = [
            answer("bin/hello", ".#.o"),
            answer("etc/old", ".x.o"),
            answer("gone", "x..o"),
            copied,
            moved,
            answer("no", "...."),
        ];
        let expected = "\
PATH      YOU SEE  | upper | app | tools | base | # shown  + merged  o covered  x deleted  = replaced whole
bin/hello app      |   .   |  #  |   .   |  o   |
etc/old   (absent) |   .   |  x  |   .   |  o   | app deletes base's file
gone      (absent) |   x   |  .  |   .   |  o   | still in base, under the mark
etc/motd  upper    |   #   |  .  |   o   |  .   | copied up from tools
bin/hi    upper    |   #   |  .  |   .   |  .   | came from app: bin/hello
no        (absent) |   .   |  .  |   .   |  .   | in no layer
";
        assert_eq!(which_text(&answers), expected);
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
