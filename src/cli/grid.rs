//! The picture `which` draws: one row for a path, one column for a layer.
//!
//! A stack is looked at from the left, and the first mark wins. What one layer holds under a name ([`Found`]) says
//! little by itself: whether it is shown depends on everything to its left. [`marks`] is that decision, pure; the
//! rest is columns.

use std::fmt::Write as _;

/// What one layer holds at a path, with nothing considered above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// No entry.
    Nothing,
    /// A file, symlink, device, FIFO or socket.
    Leaf,
    /// A directory that merges with what is below.
    Dir,
    /// A directory that cuts off what is below (L-5).
    OpaqueDir,
    /// A whiteout in any form (L-9, L-10, L-14).
    Whiteout,
}

/// What a column shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The layer has nothing there.
    Nothing,
    /// This is what you see.
    Shown,
    /// A directory that adds names to the one you see.
    Merged,
    /// Hidden by a layer to the left.
    Covered,
    /// This layer deletes what is to its right.
    Deleted,
    /// This layer's directory replaces everything to its right.
    Replaced,
}

impl Mark {
    /// The one character of the picture.
    pub fn glyph(self) -> char {
        match self {
            Mark::Nothing => '.',
            Mark::Shown => '#',
            Mark::Merged => '+',
            Mark::Covered => 'o',
            Mark::Deleted => 'x',
            Mark::Replaced => '=',
        }
    }
}

/// Every character of the picture and its meaning.
const LEGEND: &str = "# shown   + adds names   o covered   x deletes   = replaces all below";

/// The marks of one row, top first (L-1, L-4, L-5, L-9).
pub fn marks(found: &[Found]) -> Vec<Mark> {
    let mut open = true;
    let mut shown = false;
    let mut row = Vec::with_capacity(found.len());
    for &layer in found {
        let mark = match (open, layer) {
            (_, Found::Nothing) => Mark::Nothing,
            (false, Found::Whiteout) => Mark::Deleted,
            (false, _) => Mark::Covered,
            (true, Found::Whiteout) => Mark::Deleted,
            (true, Found::Leaf) if shown => Mark::Covered,
            (true, Found::Leaf) => Mark::Shown,
            (true, Found::Dir) if shown => Mark::Merged,
            (true, Found::Dir) => Mark::Shown,
            (true, Found::OpaqueDir) => Mark::Replaced,
        };
        open &= matches!(layer, Found::Nothing | Found::Dir);
        shown |= mark == Mark::Shown;
        row.push(mark);
    }
    row
}

/// Where a renamed or copied-up object came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Column of the layer that has the original.
    pub layer: usize,
    /// The original's path, when it is not the row's own.
    pub path: Option<Vec<u8>>,
}

/// One path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// From the root of the mount, without a leading slash.
    pub path: Vec<u8>,
    /// One for each column, top first.
    pub found: Vec<Found>,
    /// Known when the topmost object is a copy of a lower one.
    pub source: Option<Source>,
}

impl Row {
    fn is_dir(&self) -> bool {
        let top = self.found.iter().find(|f| **f != Found::Nothing);
        matches!(top, Some(Found::Dir | Found::OpaqueDir))
    }

    /// The column of the layer that decides the path; `None` when no layer has anything there.
    fn decided_by(&self) -> Option<usize> {
        self.found.iter().position(|f| *f != Found::Nothing)
    }

    /// The path as it is printed: escaped, a directory with a slash behind it.
    fn label(&self) -> String {
        let mut label = escape(&self.path);
        if self.is_dir() {
            label.push('/');
        }
        label
    }

    fn seen(&self, columns: &[String]) -> String {
        match self.decided_by() {
            Some(at) if self.found.get(at) != Some(&Found::Whiteout) => {
                columns.get(at).cloned().unwrap_or_default()
            }
            _ => "(absent)".to_owned(),
        }
    }

    /// What a layer holds there, in a word.
    fn noun(&self, layer: usize) -> &'static str {
        match self.found.get(layer) {
            Some(Found::Dir | Found::OpaqueDir) => "directory",
            _ => "file",
        }
    }

    /// A remark in words, where the marks alone leave a question.
    fn remark(&self, columns: &[String]) -> String {
        let marks = marks(&self.found);
        let name = |at: usize| columns.get(at).map_or("?", String::as_str);
        let Some(at) = self.decided_by() else { return "in no layer".to_owned() };
        let hidden = marks.iter().position(|m| *m == Mark::Covered);
        match (marks.get(at), &self.source, hidden) {
            (Some(Mark::Deleted), _, Some(below)) => {
                format!("{} deletes {}'s {}", name(at), name(below), self.noun(below))
            }
            (Some(Mark::Deleted), _, None) => format!("{} deletes it", name(at)),
            (Some(Mark::Replaced), _, Some(_)) => format!("{} replaces the directory", name(at)),
            (_, Some(Source { layer, path: Some(path) }), _) => {
                format!("came from {}: {}", name(*layer), escape(path))
            }
            (Some(Mark::Shown), Some(Source { layer, path: None }), _) if *layer > at && !self.is_dir() => {
                format!("copied up from {}", name(*layer))
            }
            (Some(Mark::Shown), _, _) if marks.contains(&Mark::Merged) => {
                format!("{} layers merged", 1 + marks.iter().filter(|m| **m == Mark::Merged).count())
            }
            _ => String::new(),
        }
    }
}

/// Bytes as text that survives a terminal: what does not print is escaped.
pub fn escape(raw: &[u8]) -> String {
    let mut out = String::with_capacity(raw.len());
    for chunk in raw.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                c if c.is_control() => {
                    let mut raw = [0; 4];
                    for byte in c.encode_utf8(&mut raw).bytes() {
                        let _infallible = write!(out, "\\x{byte:02x}");
                    }
                }
                c => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _infallible = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// Whether marks are coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Plain text.
    Plain,
    /// With terminal colours.
    Colour,
}

impl Style {
    /// Colour only on a terminal or under CLICOLOR_FORCE, and never under NO_COLOR.
    pub fn of_stdout() -> Style {
        Style::of(&std::io::stdout())
    }

    /// The same for another stream.
    pub fn of(stream: &impl std::io::IsTerminal) -> Style {
        let set = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        let wanted = stream.is_terminal() || set("CLICOLOR_FORCE");
        if wanted && !set("NO_COLOR") { Style::Colour } else { Style::Plain }
    }

    fn paint(self, mark: Mark, text: &str) -> String {
        let code = match mark {
            Mark::Nothing => "2",
            Mark::Shown | Mark::Merged => "32",
            Mark::Covered => "33",
            Mark::Deleted | Mark::Replaced => "31",
        };
        match self {
            Style::Plain => text.to_owned(),
            Style::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

/// Whether the legend and the column names stand above the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heading {
    /// Both.
    Shown,
    /// Rows alone, laid out as if the names stood there.
    Omitted,
}

/// Draws the rows. Columns are as wide as their names, so that parts drawn separately line up.
pub fn render(columns: &[String], rows: &[Row], heading: Heading, style: Style) -> String {
    let path_width = rows.iter().map(|r| r.label().chars().count()).max().unwrap_or(0).max(16);
    let seen_width = columns.iter().map(|c| c.chars().count()).max().unwrap_or(0).max("(absent)".len());
    let mut out = String::new();
    if heading == Heading::Shown {
        let names: String = columns.iter().map(|c| format!(" {c} |")).collect();
        out.push_str(&format!("{LEGEND}\n{:path_width$}  {:seen_width$}  |{names}\n", "PATH", "YOU SEE"));
    }
    for row in rows {
        let mut line = format!("{:path_width$}  {:seen_width$}  |", row.label(), row.seen(columns));
        for (column, mark) in columns.iter().zip(marks(&row.found)) {
            let cell = format!("{:^width$}", mark.glyph(), width = column.chars().count() + 2);
            line.push_str(&style.paint(mark, &cell));
            line.push('|');
        }
        let remark = row.remark(columns);
        if !remark.is_empty() {
            line.push_str("  ");
            line.push_str(&remark);
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::Found::*;
    use super::*;

    fn picture(found: &[Found]) -> String {
        marks(found).into_iter().map(Mark::glyph).collect()
    }

    #[test]
    fn the_first_object_is_shown_and_covers_the_rest() {
        assert_eq!(picture(&[Nothing, Leaf, Nothing, Leaf]), ".#.o");
        assert_eq!(picture(&[Leaf, Dir]), "#o");
        assert_eq!(picture(&[Nothing, Nothing]), "..");
    }

    #[test]
    fn a_whiteout_covers_everything_below() {
        assert_eq!(picture(&[Nothing, Whiteout, Leaf, Dir]), ".xoo");
        assert_eq!(picture(&[Leaf, Whiteout, Leaf]), "#xo");
    }

    #[test]
    fn directories_merge_until_something_stops_them() {
        assert_eq!(picture(&[Dir, Dir, Nothing, Dir]), "#+.+");
        assert_eq!(picture(&[Dir, Leaf, Dir]), "#oo", "a file ends the merge (L-4)");
        assert_eq!(picture(&[Dir, Whiteout, Dir]), "#xo");
        assert_eq!(picture(&[OpaqueDir, Dir, Dir]), "=oo");
        assert_eq!(picture(&[Dir, OpaqueDir, Dir]), "#=o");
    }

    #[test]
    fn at_most_one_mark_is_shown_whatever_the_layers_hold() {
        let all = [Nothing, Leaf, Dir, OpaqueDir, Whiteout];
        for a in all {
            for b in all {
                for c in all {
                    let row = marks(&[a, b, c]);
                    assert!(row.iter().filter(|m| **m == Mark::Shown).count() <= 1, "{a:?} {b:?} {c:?}");
                    let merged = row.iter().position(|m| *m == Mark::Merged);
                    let shown = row.iter().position(|m| *m == Mark::Shown);
                    assert!(merged.is_none() || shown < merged, "{a:?} {b:?} {c:?}");
                }
            }
        }
    }

    #[test]
    fn a_row_lines_up_with_its_heading_and_says_what_the_marks_cannot() {
        let columns: Vec<String> = ["upper", "app", "base"].map(String::from).to_vec();
        let row =
            |path: &str, found: [Found; 3], source| Row { path: path.into(), found: found.to_vec(), source };
        let copied = Some(Source { layer: 2, path: None });
        let moved = Some(Source { layer: 1, path: Some(b"bin/a".to_vec()) });
        let rows = [
            row("etc/motd", [Leaf, Nothing, Leaf], copied),
            row("etc/old", [Nothing, Whiteout, Leaf], None),
            row("bin/\nb", [Leaf, Nothing, Nothing], moved),
            row("doc", [Nothing, OpaqueDir, Dir], None),
            row("lib", [Dir, Nothing, Dir], None),
        ];
        let text = render(&columns, &rows, Heading::Shown, Style::Plain);
        let expected = "\
# shown   + adds names   o covered   x deletes   = replaces all below
PATH              YOU SEE   | upper | app | base |
etc/motd          upper     |   #   |  .  |  o   |  copied up from base
etc/old           (absent)  |   .   |  x  |  o   |  app deletes base's file
bin/\\x0ab         upper     |   #   |  .  |  .   |  came from app: bin/a
doc/              app       |   .   |  =  |  o   |  app replaces the directory
lib/              upper     |   #   |  .  |  +   |  2 layers merged
";
        assert_eq!(text, expected);
    }

    #[test]
    fn names_that_do_not_print_are_escaped_and_others_are_left_alone() {
        assert_eq!(escape("grün\t".as_bytes()), "grün\\x09");
        assert_eq!(escape(b"a\xff\\b"), "a\\xff\\\\b");
    }
}
