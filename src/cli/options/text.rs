//! The texts that options are made of: escapes, lists, directories, and what messages show of them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::{Refusal, Taken};

/// A directory in which `\:`, `\,` and `\\` stand for the character itself (as any escaped character does).
pub(super) fn directory(value: &[u8]) -> Result<PathBuf, Refusal> {
    match value {
        [] => Err(Refusal::new("no directory is named").hint("write the directory after the equals sign")),
        _ => Ok(to_path(&unescape(value))),
    }
}

pub(super) fn to_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

pub(super) fn unescape(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' => out.extend(bytes.next()),
            _ => out.push(byte),
        }
    }
    out
}

/// Cuts `raw` at every comma that no backslash protects. Escapes stay in the pieces: what they mean depends on the
/// option.
pub(super) fn split(raw: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut at = 0;
    while at < raw.len() {
        match raw[at] {
            b'\\' => at += 1,
            b',' => {
                pieces.push(&raw[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    pieces.push(&raw[start..]);
    pieces
}

/// As [`split`], but commas inside of double quotes, which begin right behind an equals sign, are none.
pub(super) fn split_quoted(raw: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    let (mut start, mut at, mut quoted) = (0, 0, false);
    while at < raw.len() {
        match raw[at] {
            b'\\' => at += 1,
            b'"' if quoted => quoted = false,
            b'"' if at > start && raw[at - 1] == b'=' => quoted = true,
            b',' if !quoted => {
                pieces.push(&raw[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    pieces.push(&raw[start..]);
    pieces
}

/// A value without the quotes around it.
pub(super) fn unquote(value: &[u8]) -> Vec<u8> {
    match value {
        [b'"', inner @ .., b'"'] => unescape(inner),
        _ => unescape(value),
    }
}

/// Cuts a list at every colon that no backslash protects; empty pieces say nothing.
pub(super) fn split_list(list: &[u8]) -> Vec<&[u8]> {
    let (mut pieces, mut start, mut at) = (Vec::new(), 0, 0);
    while at < list.len() {
        match list[at] {
            b'\\' => at += 1,
            b':' => {
                pieces.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    pieces.push(&list[start..]);
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

/// A word and its value, at the first equals sign.
pub(super) fn key_and_value(piece: &[u8]) -> (&[u8], Option<&[u8]>) {
    match piece.iter().position(|b| *b == b'=') {
        Some(at) => (&piece[..at], Some(&piece[at + 1..])),
        None => (piece, None),
    }
}

/// Cuts a `lowerdir=` list: layers at single colons, data-only layers after `::` (C-27).
pub(super) fn split_lowers(list: &[u8]) -> Result<(Vec<PathBuf>, Vec<PathBuf>), Refusal> {
    let (mut lower, mut data) = (Vec::new(), Vec::new());
    let mut colons = 0;
    let mut from = 0;
    let mut at = 0;
    let mut take =
        |piece: &[u8], colons: usize| match (piece, colons) {
            ([], _) => Err(Refusal::new("a layer in the list has no name")
                .hint("write A:B or A:B::DATA; \\: is a colon in a name")),
            (_, 2) => set_push(&mut data, to_path(&unescape(piece))),
            (_, _) if !data.is_empty() => Err(Refusal::new("a normal layer cannot follow a data-only one")
                .hint("put the layers after :: last")),
            _ => set_push(&mut lower, to_path(&unescape(piece))),
        };
    while at < list.len() {
        match list[at] {
            b'\\' => at += 2,
            b':' => {
                take(&list[from..at], colons)?;
                colons = list[at..].iter().take_while(|b| **b == b':').count();
                if colons > 2 {
                    return Err(Refusal::new("more than two colons in a row")
                        .hint("use : or ::, and \\: for a colon in a name"));
                }
                at += colons;
                from = at;
            }
            _ => at += 1,
        }
    }
    take(&list[from..], colons)?;
    Ok((lower, data))
}

pub(super) fn set_push<T>(list: &mut Vec<T>, value: T) -> Taken {
    list.push(value);
    Ok(())
}

/// A word as a message shows it: never more than a line of it, never a raw control byte.
pub(super) fn shown(piece: &[u8]) -> String {
    let text: String =
        String::from_utf8_lossy(piece).chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    match text.char_indices().nth(120) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// The candidate that `word` is a likely slip of: at most two edits away, and fewer than half of its letters.
pub fn nearest<'a>(word: &[u8], candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (distance(word, candidate.as_bytes()), candidate))
        .filter(|(d, candidate)| *d <= 2 && d * 2 < candidate.len().max(word.len()))
        .min_by_key(|(d, _)| *d)
        .map(|(_, candidate)| candidate)
}

/// Edits (insert, delete, replace, swap of neighbours) between two words.
fn distance(a: &[u8], b: &[u8]) -> usize {
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX / 4;
    }
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = match (i, j) {
                (0, _) => j,
                (_, 0) => i,
                _ => {
                    let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                    let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                    if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                        best = best.min(rows[i - 2][j - 2] + 1);
                    }
                    best
                }
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_protect_commas_only_where_a_value_begins() {
        let pieces = |text: &str| {
            split_quoted(text.as_bytes())
                .iter()
                .map(|p| String::from_utf8_lossy(p).into_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(pieces(r#"a="x,y",b"#), [r#"a="x,y""#, "b"]);
        assert_eq!(pieces(r#"lowerdir=/a"b,c"#), [r#"lowerdir=/a"b"#, "c"]);
        assert_eq!(pieces(r#"a="x"#), [r#"a="x"#]);
        assert_eq!(pieces(r"a\,b,,"), [r"a\,b", "", ""]);
        assert_eq!(unquote(br#""x,y""#), b"x,y");
        assert_eq!(split_list(br":a\:b::c:"), [&br"a\:b"[..], b"c"]);
    }
}
