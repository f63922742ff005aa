//! What a command prints: text for people or JSON for programs on stdout, sentences on stderr.

use std::io::Write;

use serde::Serialize;

use super::{Failure, Outcome};
use crate::error::SetupError;

/// Who reads stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// People.
    Text,
    /// Programs.
    Json,
}

/// How a command speaks.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    format: Format,
    quiet: bool,
}

impl Output {
    /// `quiet`: nothing for people; JSON is still printed, since it was asked for.
    pub fn new(format: Format, quiet: bool) -> Output {
        Output { format, quiet }
    }

    /// Who reads stdout.
    pub fn format(self) -> Format {
        self.format
    }

    /// Whether remarks for people are left out.
    pub fn is_quiet(self) -> bool {
        self.quiet
    }

    /// Prints the result: `value` as JSON, or what `text` makes of it.
    ///
    /// # Errors
    /// When stdout cannot be written; a reader that went away is no error.
    pub fn give<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> Outcome {
        match self.format {
            Format::Json => {
                let json =
                    serde_json::to_string_pretty(value).map_err(|e| SetupError::new("write JSON", e))?;
                print(&json)
            }
            Format::Text if self.quiet => Ok(()),
            Format::Text => print(text(value).trim_end_matches('\n')),
        }
    }
}

/// Prints `text` and a newline; nothing for the empty text.
pub fn print(text: &str) -> Outcome {
    if text.is_empty() {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Failed(SetupError::new("write the output", e)))
        }
        _ => Ok(()),
    }
}

/// One sentence on stderr. Where that cannot be written there is nobody to tell.
pub fn complain(sentence: &SetupError) {
    drop(writeln!(std::io::stderr(), "acetate: {sentence}"));
}

/// A remark for people on stderr.
pub fn remark(text: &str) {
    drop(writeln!(std::io::stderr(), "acetate: {text}"));
}

/// Columns aligned with two blanks between them, and none at the end of a line.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}", width = *width)).collect();
        cells.join("  ").trim_end().to_string() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_has_no_blanks_at_the_end() {
        let rows = [vec!["A".to_string(), "B".into()], vec!["long".into(), "x".into()], vec!["ü".into()]];
        assert_eq!(table(&rows), "A     B\nlong  x\nü\n");
    }
}
