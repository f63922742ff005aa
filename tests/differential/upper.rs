//! Upper and work directories as comparable lines. File handles are compared by the object they lead to, not by
//! their bytes; whiteouts by being whiteouts.

use std::collections::BTreeMap;

use super::outcome::Clock;
use super::stack::Set;
use crate::support::layer::literal;
use crate::support::sys::FileHandle;
use crate::support::tree::{self, Entry, Tree, kind_letter};

const PREFIXES: [&str; 2] = ["trusted.overlay.", "user.overlay."];

/// One object of an upper layer in words.
pub fn describe(entry: &Entry, set: &Set, clock: Clock) -> Vec<String> {
    if entry.is_whiteout() {
        return vec!["whiteout".into()];
    }
    let mut words = vec![
        format!("{}{:04o}", kind_letter(entry.mode), entry.mode & 0o7777),
        format!("owner={}:{}", entry.uid, entry.gid),
        format!("mtime={}", clock.name(entry.times[1])),
    ];
    if !entry.is_dir() {
        words.push(format!("links={}", entry.links));
        words.push(format!("size={}", entry.size));
        words.push(format!("device={:?}", entry.device));
        words.push(match &entry.content {
            Ok(content) => format!("content={}", literal(content)),
            Err(errno) => format!("content: {errno:?}"),
        });
    }
    if entry.flags != 0 {
        words.push(format!("flags={:#x}", entry.flags));
    }
    match &entry.xattrs {
        Ok(xattrs) => words.extend(xattrs.iter().map(|(name, value)| attribute(name, value, set))),
        Err(errno) => words.push(format!("xattrs: {errno:?}")),
    }
    if private(entry, "metacopy").is_some() && entry.size > 0 {
        words.push(format!("data={}", if entry.has_data { "some" } else { "none" }));
    }
    words
}

fn private<'a>(entry: &'a Entry, name: &str) -> Option<&'a [u8]> {
    let xattrs = entry.xattrs.as_ref().ok()?;
    PREFIXES.iter().find_map(|prefix| xattrs.get(format!("{prefix}{name}").as_bytes())).map(Vec::as_slice)
}

fn attribute(name: &[u8], value: &[u8], set: &Set) -> String {
    let shown = String::from_utf8_lossy(name);
    let meaning = PREFIXES.iter().find_map(|prefix| match shown.strip_prefix(prefix)? {
        "origin" | "upper" => Some(record(value, set)),
        "uuid" => Some(format!("{} bytes", value.len())),
        _ => None,
    });
    format!("{shown}={}", meaning.unwrap_or_else(|| literal(value)))
}

/// A file handle record (L-28) in words.
fn record(bytes: &[u8], set: &Set) -> String {
    let [version, magic, len, flags, kind, rest @ ..] = bytes else {
        return format!("{} bytes", bytes.len());
    };
    if rest.len() < 16 || usize::from(*len) != bytes.len() {
        return format!("malformed {}", literal(bytes));
    }
    let (uuid, handle) = rest.split_at(16);
    let handle = FileHandle { kind: i32::from(*kind), bytes: handle.to_vec() };
    let target = if flags & 4 == 0 { set.resolve(&handle) } else { set.resolve_upper(&handle) };
    let target = target.unwrap_or_else(|| "stale".into());
    format!("v{version} {magic:#x} flags {flags:#x} type {kind:#x} uuid {} -> {target}", literal(uuid))
}

/// The whole upper and the work directory, by path.
pub fn lines(set: &Set, clock: Clock) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    let (Some(upper), Some(work)) = (&set.upper, &set.work) else { return lines };
    let tree = tree::read(upper);
    for (path, entry) in &tree.entries {
        let mut words = describe(entry, set, clock);
        if entry.is_dir() && !contributes_below(path, &tree, set) {
            // D-6: on a directory with nothing below, the attribute says nothing.
            words.retain(|word| !PREFIXES.iter().any(|prefix| *word == format!("{prefix}opaque=\"y\"")));
        }
        lines.insert(format!("upper/{}", path.escape_ascii()), words.join(" "));
    }
    for problem in tree.problems {
        lines.insert(format!("upper: {problem}"), String::new());
    }
    work_lines(work, set, &mut lines);
    lines
}

/// Whether a lower layer has something to give to this upper directory, apart from its own opaqueness.
fn contributes_below(path: &[u8], upper: &Tree, set: &Set) -> bool {
    let mut below: Vec<u8> = Vec::new();
    let mut open = true;
    let mut at = 0;
    while at < path.len() {
        let end = path[at..].iter().position(|byte| *byte == b'/').map_or(path.len(), |len| at + len);
        let (prefix, component) = (&path[..end], &path[at..end]);
        let entry = upper.entries.get(prefix);
        match entry.and_then(|entry| private(entry, "redirect")) {
            Some([b'/', absolute @ ..]) => {
                below = absolute.to_vec();
                open = true;
            }
            other => {
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend(other.unwrap_or(component));
            }
        }
        let last = end == path.len();
        if !last && entry.and_then(|entry| private(entry, "opaque")) == Some(b"y") {
            open = false;
        }
        at = end + 1;
    }
    // The topmost decides: where it has anything but a directory, nothing is merged with the upper one.
    open && set.lowers.iter().find_map(|lower| lower.tree.entries.get(&below)).is_some_and(Entry::is_dir)
}

fn work_lines(work: &std::path::Path, set: &Set, lines: &mut BTreeMap<String, String>) {
    let tree = tree::read(work);
    let mut spare_whiteouts = 0;
    for (path, entry) in &tree.entries {
        let scratch = path.starts_with(b"work/#") || path.starts_with(b"index/#");
        if scratch && entry.is_whiteout() && spare_whiteouts == 0 {
            // C-15: one cached whiteout may stay, in the index if there is one.
            spare_whiteouts += 1;
        } else if let Some(name) = path.strip_prefix(b"index/") {
            let mut words = describe(entry, set, Clock::start());
            // What an index entry shares with the upper inode is compared there.
            words.retain(|word| !word.starts_with("mtime=") && !word.starts_with("content="));
            let key = hex(name).map_or_else(|| literal(name), |bytes| record(&bytes, set));
            lines.insert(format!("index/{key}"), words.join(" "));
        } else if !path.is_empty() {
            let kind = kind_letter(entry.mode);
            lines.insert(
                format!("work/{}", path.escape_ascii()),
                format!("{kind}{:04o}", entry.mode & 0o7777),
            );
        }
    }
}

fn hex(name: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    name.chunks(2).map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

/// A merged tree as comparable lines.
pub fn merged_lines(tree: &Tree, labels: &super::outcome::Labels, clock: Clock) -> BTreeMap<String, String> {
    let mut first_names: BTreeMap<u64, &[u8]> = BTreeMap::new();
    let mut lines = BTreeMap::new();
    for (path, entry) in &tree.entries {
        let mut words = vec![
            format!("{}{:04o}", kind_letter(entry.mode), entry.mode & 0o7777),
            format!("owner={}:{}", entry.uid, entry.gid),
            format!("links={}", entry.links),
            format!("ino={}", labels.name(entry.id.2)),
            format!("mtime={}", clock.name(entry.times[1])),
        ];
        if !entry.is_dir() {
            words.push(format!("size={} device={:?}", entry.size, entry.device));
            words.push(match &entry.content {
                Ok(content) => format!("content={}", literal(content)),
                Err(errno) => format!("content: {errno:?}"),
            });
            let first = first_names.entry(entry.id.2).or_insert(path);
            if labels.known() && *first != path.as_slice() {
                words.push(format!("same as {}", literal(first)));
            }
        }
        match &entry.xattrs {
            Ok(xattrs) => words.extend(
                xattrs.iter().map(|(name, value)| format!("{}={}", name.escape_ascii(), literal(value))),
            ),
            Err(errno) => words.push(format!("xattrs: {errno:?}")),
        }
        lines.insert(format!("/{}", path.escape_ascii()), words.join(" "));
    }
    lines
}

/// The inode numbers of a merged tree by path, to be compared with the same layers mounted by somebody else.
pub fn inode_lines(tree: &Tree) -> BTreeMap<String, String> {
    let number = |entry: &Entry| format!("ino {}", entry.id.2);
    tree.entries.values().map(|entry| (entry.path.escape_ascii().to_string(), number(entry))).collect()
}
