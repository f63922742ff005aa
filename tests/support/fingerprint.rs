//! Everything about a lower layer that must never change: taken before and after every scenario.

use std::path::{Path, PathBuf};

use super::layer::literal;
use super::tree::{self, Entry, Tree};

/// The state of some directories at one moment.
#[derive(Debug)]
pub struct Fingerprint(Vec<(PathBuf, Tree)>);

impl Fingerprint {
    /// Takes it. The paths must lead through a mount that does not change access times.
    pub fn take<'a>(roots: impl IntoIterator<Item = &'a Path>) -> Self {
        Self(roots.into_iter().map(|root| (root.to_path_buf(), tree::read(root))).collect())
    }

    /// What is different now, a sentence each.
    pub fn changes(&self) -> Vec<String> {
        self.0.iter().flat_map(|(root, before)| compare(root, before, &tree::read(root))).collect()
    }
}

fn compare(root: &Path, before: &Tree, now: &Tree) -> Vec<String> {
    let place = root.display();
    let mut changes = Vec::new();
    for (path, entry) in &before.entries {
        match now.entries.get(path) {
            None => changes.push(format!("{place}: {} is gone", literal(path))),
            Some(other) => changes.extend(
                fields(entry).into_iter().zip(fields(other)).filter(|(old, new)| old != new).map(
                    |(old, new)| format!("{place}: {}: {} was {}, is {}", literal(path), old.0, old.1, new.1),
                ),
            ),
        }
    }
    let added = now.entries.keys().filter(|path| !before.entries.contains_key(*path));
    changes.extend(added.map(|path| format!("{place}: {} is new", literal(path))));
    changes
}

fn fields(entry: &Entry) -> Vec<(&'static str, String)> {
    vec![
        ("mode", format!("{:o}", entry.mode)),
        ("owner", format!("{}:{}", entry.uid, entry.gid)),
        ("device", format!("{:?}", entry.device)),
        ("size", entry.size.to_string()),
        ("link count", entry.links.to_string()),
        ("inode", entry.id.2.to_string()),
        ("flags", entry.flags.to_string()),
        ("atime", format!("{:?}", entry.times[0])),
        ("mtime", format!("{:?}", entry.times[1])),
        ("ctime", format!("{:?}", entry.times[2])),
        ("content", format!("{:?}", entry.content)),
        ("attributes", format!("{:?}", entry.xattrs)),
    ]
}
