//! Differences from the kernel that are accepted, each with its reason, and no others. Where one applies, what is
//! compared is both sides with exactly this difference taken out. Those of a single call are in `Pair::excuse`, and
//! the limits of FUSE stand in the scenarios that use `Script::either`.

use std::collections::BTreeMap;

/// Lines by path.
pub type Lines = BTreeMap<String, String>;

fn is_named(word: &str, attribute: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        name.strip_prefix("trusted.overlay.").or_else(|| name.strip_prefix("user.overlay."))
            == Some(attribute)
    })
}

fn has(line: &str, attribute: &str) -> bool {
    line.split(' ').any(|word| is_named(word, attribute))
}

fn without(line: &str, unwanted: impl Fn(&str) -> bool) -> String {
    line.split(' ').filter(|word| !unwanted(word)).collect::<Vec<_>>().join(" ")
}

fn is_dir(line: &str) -> bool {
    line.starts_with('d')
}

/// Requests of FUSE name an inode, not one of its names. So with an index, and hard links in a lower layer, a change
/// through FUSE makes the name in the upper that was looked up last; the kernel makes the one that is used. They are
/// others when a change goes through a descriptor after another name was looked up, and when several programs use
/// several names at once. In the uppers on disk that concerns the names themselves, the counts of links, and the
/// directories that are there (or impure) only to hold a name.
pub fn lagging_names(wanted: &mut Lines, got: &mut Lines) {
    let hidden = |wanted: &Lines, got: &Lines| -> Vec<String> {
        let only = |path: &String| path.starts_with("upper/") && !got.contains_key(path);
        let mut hidden: Vec<String> = Vec::new();
        // Deepest first: what is in a directory comes before it.
        for (path, line) in wanted.iter().rev().filter(|(path, _)| only(path)) {
            let inside = format!("{path}/");
            let mut below = wanted.keys().filter(|other| other.starts_with(&inside));
            let copy = has(line, "origin") && !has(line, "opaque") && !has(line, "redirect");
            if (has(line, "nlink") && !is_dir(line))
                || (is_dir(line) && copy && below.all(|other| hidden.contains(other)))
            {
                hidden.push(path.clone());
            }
        }
        hidden
    };
    let (ours, theirs) = (hidden(wanted, got), hidden(got, wanted));
    for (lines, hidden) in [(wanted, ours), (got, theirs)] {
        lines.retain(|path, _| !hidden.contains(path));
        lines.values_mut().for_each(|line| *line = without_traces_of_names(line));
    }
}

fn without_traces_of_names(line: &str) -> String {
    if is_dir(line) {
        without(line, |word| is_named(word, "impure"))
    } else if has(line, "nlink") {
        without(line, |word| word.starts_with("links=") || is_named(word, "nlink"))
    } else {
        line.to_owned()
    }
}

/// As [`lagging_names`], for one object of the upper: absent where the other side has a name of an indexed file or
/// a directory.
pub fn lagging_object(wanted: Option<&[String]>, got: Option<&[String]>) -> bool {
    let joined = |words: &[String]| words.join(" ");
    match (wanted.map(joined), got.map(joined)) {
        (Some(wanted), Some(got)) => without_traces_of_names(&wanted) == without_traces_of_names(&got),
        (Some(line), None) | (None, Some(line)) => is_dir(&line) || has(&line, "nlink"),
        (None, None) => true,
    }
}

/// What [`lagging_names`] does to the merged tree: a directory that was copied up has one link (I-8), one that was not
/// has its own number of them.
pub fn lagging_directories(wanted: &mut Lines, got: &mut Lines) {
    for (path, line) in wanted {
        if let Some(other) = got.get_mut(path)
            && is_dir(line)
            && is_dir(other)
            && [&*line, &*other].iter().any(|line| line.split(' ').any(|word| word == "links=1"))
        {
            for line in [line, other] {
                *line = without(line, |word| word.starts_with("links="));
            }
        }
    }
}

/// ext4 undoes its half-done work when a rename that is to leave a whiteout fails because the target is not empty,
/// and with that sets the time of the directory the source is in. The candidate does not begin such a rename.
pub fn touched_sources(wanted: &mut Lines, got: &mut Lines) {
    for (path, line) in wanted {
        if let Some(other) = got.get_mut(path)
            && is_dir(line)
            && is_dir(other)
            && line.split(' ').any(|word| word == "mtime=now")
        {
            for line in [line, other] {
                *line = without(line, |word| word.starts_with("mtime="));
            }
        }
    }
}

/// Only files and directories can have `user.` attributes, so with userxattr the origin of others is not recorded:
/// their numbers are others after a remount, and already before it the kernel gives a new name of such a file
/// another number than the name it was copied up under. The candidate gives both the same.
pub fn without_numbers_of_special_files(lines: Lines, which: impl Fn(&str) -> bool) -> Lines {
    let strip = |line: String| {
        if line.starts_with(['f', 'd']) || !which(&line) {
            return line;
        }
        let line = match line.split_once(" same as ") {
            Some((before, after)) => {
                format!("{before} {}", after.split_once(' ').map_or("", |(_, rest)| rest))
            }
            None => line,
        };
        let words: Vec<&str> = line.split_whitespace().filter(|word| !word.starts_with("ino=")).collect();
        words.join(" ")
    };
    lines.into_iter().map(|(path, line)| (path, strip(line))).collect()
}

/// Whether a line tells of an object with several names.
pub fn has_many_names(line: &str) -> bool {
    !line.split(' ').any(|word| word == "links=1")
}

/// With nfs_export every file is indexed, and after a remount the kernel counts the index entry among the links of a
/// file that had one, and goes on from that number. Not counting it is right, and accepted.
pub fn counted_index_links(lines: &mut Lines) {
    for line in lines.values_mut() {
        *line = without(line, |word| word.starts_with("links=") || is_named(word, "nlink"));
    }
}
