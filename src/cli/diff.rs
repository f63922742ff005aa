//! `acetate diff`: what an upper changed.

use std::io::{BufWriter, Write};

use serde::Serialize;

use super::grid::{Style, escape};
use super::stack::StackArgs;
use crate::diff::{Change, Stack, What, changes};
use crate::error::SetupError;

/// Arguments of `diff`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to compare.
    #[command(flatten)]
    pub stack: StackArgs,
    /// Only count.
    #[arg(long)]
    pub stat: bool,
}

/// Runs `diff`.
///
/// # Errors
/// When a layer cannot be read.
pub fn run(args: &Args, output: super::Output) -> super::Outcome {
    let stack = args.stack.find(&[])?.stack;
    let format = match output.format() {
        super::Format::Json => Format::Json,
        super::Format::Text if output.is_quiet() => Format::Nothing,
        super::Format::Text if args.stat => Format::Stat,
        super::Format::Text => Format::Lines,
    };
    Ok(print(&stack, format)?)
}

/// How the answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One line for each change.
    Lines,
    /// Numbers only (`--stat`).
    Stat,
    /// JSON with stable field names (`--json`).
    Json,
    /// Nothing (`--quiet`).
    Nothing,
}

/// Compares and prints.
fn print(stack: &Stack, format: Format) -> Result<(), SetupError> {
    let found = changes(stack)?;
    let out = BufWriter::new(std::io::stdout().lock());
    let written = match format {
        Format::Lines => lines(&found, Style::of_stdout(), out),
        Format::Stat => stat(&found, out),
        Format::Json => json(&found, out),
        Format::Nothing => Ok(()),
    };
    match written {
        // Whoever reads has seen enough.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => done.map_err(|e| SetupError::new("write the changes", e)),
    }
}

/// One line for each change.
///
/// # Errors
/// As writing to `out`.
pub(super) fn lines(found: &[Change], style: Style, mut out: impl Write) -> std::io::Result<()> {
    for change in found {
        let path = escape(&change.path);
        let line = match &change.what {
            What::Renamed { from } => format!("R {} -> {path}", escape(from)),
            What::Changed(facets) => format!("C {path} ({})", facets.names().join(", ")),
            what => format!("{} {path}", what.letter()),
        };
        match (style, colour(&change.what)) {
            (Style::Colour, Some(code)) => writeln!(out, "\x1b[{code}m{line}\x1b[0m")?,
            _ => writeln!(out, "{line}")?,
        }
    }
    out.flush()
}

fn colour(what: &What) -> Option<&'static str> {
    match what {
        What::Deleted => Some("31"),
        What::Added => Some("32"),
        What::Changed(_) | What::Renamed { .. } => Some("33"),
        What::Undecided => None,
    }
}

/// How many changes of each sort there are, and the bytes that a copy of them would carry.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Counts {
    added: u64,
    changed: u64,
    deleted: u64,
    renamed: u64,
    undecided: u64,
    bytes: u64,
}

fn count(found: &[Change]) -> Counts {
    let mut counts = Counts::default();
    for change in found {
        let number = match change.what {
            What::Added => &mut counts.added,
            What::Changed(_) => &mut counts.changed,
            What::Deleted => &mut counts.deleted,
            What::Renamed { .. } => &mut counts.renamed,
            What::Undecided => &mut counts.undecided,
        };
        *number += 1;
        counts.bytes += change.bytes;
    }
    counts
}

fn stat(found: &[Change], mut out: impl Write) -> std::io::Result<()> {
    let counts = count(found);
    write!(
        out,
        "{} added, {} changed, {} deleted, {} renamed",
        counts.added, counts.changed, counts.deleted, counts.renamed
    )?;
    if counts.undecided > 0 {
        write!(out, ", {} undecided", counts.undecided)?;
    }
    writeln!(out, "; {} bytes", counts.bytes)?;
    out.flush()
}

/// A change as `--json` gives it. Field names are stable.
#[derive(Serialize)]
pub(super) struct JsonChange<'a> {
    change: &'static str,
    #[serde(flatten)]
    path: JsonPath<'a>,
    #[serde(flatten)]
    from: Option<JsonFrom<'a>>,
    /// `directory`, `file`, `symlink` …; null when it is not known what was deleted.
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    differs: Option<Vec<&'static str>>,
    bytes: u64,
}

/// A path. JSON has no bytes: a name that is not UTF-8 comes readable, and once more in hexadecimal.
#[derive(Serialize)]
struct JsonPath<'a> {
    path: std::borrow::Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
}

/// The path before a rename.
#[derive(Serialize)]
struct JsonFrom<'a> {
    from: std::borrow::Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_hex: Option<String>,
}

impl<'a> JsonPath<'a> {
    fn new(raw: &'a [u8]) -> JsonPath<'a> {
        let path = String::from_utf8_lossy(raw);
        let exact = path.as_bytes() == raw;
        let path_hex = (!exact).then(|| raw.iter().map(|b| format!("{b:02x}")).collect());
        JsonPath { path, path_hex }
    }
}

impl<'a> From<JsonPath<'a>> for JsonFrom<'a> {
    fn from(p: JsonPath<'a>) -> JsonFrom<'a> {
        JsonFrom { from: p.path, from_hex: p.path_hex }
    }
}

impl<'a> JsonChange<'a> {
    /// The change in the form that is printed.
    pub(super) fn new(change: &'a Change) -> JsonChange<'a> {
        let (word, from, differs) = match &change.what {
            What::Deleted => ("deleted", None, None),
            What::Added => ("added", None, None),
            What::Renamed { from } => ("renamed", Some(JsonPath::new(from).into()), None),
            What::Changed(facets) => ("changed", None, Some(facets.names())),
            What::Undecided => ("undecided", None, None),
        };
        let kind = change.kind.map(|k| k.to_string());
        JsonChange {
            change: word,
            path: JsonPath::new(&change.path),
            from,
            kind,
            differs,
            bytes: change.bytes,
        }
    }
}

fn json(found: &[Change], mut out: impl Write) -> std::io::Result<()> {
    #[derive(Serialize)]
    struct Answer<'a> {
        changes: Vec<JsonChange<'a>>,
        stat: Counts,
    }
    let answer = Answer { changes: found.iter().map(JsonChange::new).collect(), stat: count(found) };
    serde_json::to_writer_pretty(&mut out, &answer)?;
    writeln!(out)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::Facets;
    use crate::sys::Kind;

    fn sample() -> Vec<Change> {
        let change = |path: &[u8], what, kind, bytes| Change { path: path.to_vec(), what, kind, bytes };
        let facets = Facets { content: true, mtime: true, ..Facets::default() };
        vec![
            change(b"bin/h\xff", What::Added, Some(Kind::File), 7),
            change(b"etc/motd", What::Changed(facets), Some(Kind::File), 5),
            change(b"new\n", What::Renamed { from: b"old".to_vec() }, Some(Kind::Dir), 0),
            change(b"x", What::Deleted, None, 0),
            change(b"y", What::Undecided, Some(Kind::Symlink), 0),
        ]
    }

    fn text(write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_for_each_change_with_nothing_that_upsets_a_terminal() {
        let expected = "A bin/h\\xff\nC etc/motd (content, mtime)\nR old -> new\\x0a\nD x\n? y\n";
        assert_eq!(text(|out| lines(&sample(), Style::Plain, out)), expected);
    }

    #[test]
    fn the_summary_counts_and_adds_up() {
        let expected = "1 added, 1 changed, 1 deleted, 1 renamed, 1 undecided; 12 bytes\n";
        assert_eq!(text(|out| stat(&sample(), out)), expected);
    }

    #[test]
    fn json_keeps_its_field_names_and_every_byte_of_a_name() {
        let answer: serde_json::Value = serde_json::from_str(&text(|out| json(&sample(), out))).unwrap();
        let expected = serde_json::json!({
            "changes": [
                {"change": "added", "path": "bin/h\u{fffd}", "path_hex": "62696e2f68ff", "type": "file", "bytes": 7},
                {"change": "changed", "path": "etc/motd", "type": "file", "differs": ["content", "mtime"], "bytes": 5},
                {"change": "renamed", "path": "new\n", "from": "old", "type": "directory", "bytes": 0},
                {"change": "deleted", "path": "x", "type": null, "bytes": 0},
                {"change": "undecided", "path": "y", "type": "symlink", "bytes": 0},
            ],
            "stat": {"added": 1, "changed": 1, "deleted": 1, "renamed": 1, "undecided": 1, "bytes": 12},
        });
        assert_eq!(answer, expected);
    }
}
