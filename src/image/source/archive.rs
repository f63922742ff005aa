//! A tar archive of files that are read where they lie, without unpacking it.

use std::collections::HashMap;

use super::super::blob::{Blob, SeekingInput};
use super::super::refusal::{Refusal, Result};
use super::super::tar::{EntryKind, Reader};

/// The most files an archive of images has.
const FILE_LIMIT: usize = 100_000;
/// How many links may lead to a file.
const LINK_LIMIT: usize = 8;

#[derive(Debug)]
enum Found {
    File { offset: u64, size: u64 },
    Link(String),
}

/// A tar archive and where its files lie in it.
#[derive(Debug)]
pub struct Archive {
    blob: Blob,
    files: HashMap<String, Found>,
}

impl Archive {
    /// Reads all headers.
    ///
    /// # Errors
    /// It is no tar archive, or a damaged one.
    pub fn read(blob: Blob) -> Result<Archive> {
        let magic =
            blob.part(0, blob.size().min(4)).map(|start| start.bytes(4)).transpose()?.unwrap_or_default();
        if magic.starts_with(&[0x1f, 0x8b]) || magic == [0x28, 0xb5, 0x2f, 0xfd] {
            return Err(Refusal::new("the archive is compressed as a whole")
                .hint("uncompress it first: gunzip or unzstd"));
        }
        let mut reader = Reader::new(SeekingInput::new(&blob));
        let mut files = HashMap::new();
        while let Some(entry) = reader.next_entry()? {
            let Some(path) = std::str::from_utf8(&entry.path).ok().and_then(|path| normal("", path)) else {
                return Err(Refusal::new("its name leads out of the archive").entry(&entry.path));
            };
            let found = match &entry.kind {
                EntryKind::File if entry.sparse.is_none() => {
                    Found::File { offset: entry.offset, size: entry.size }
                }
                EntryKind::Symlink(to) | EntryKind::Hardlink(to) => {
                    let base = match entry.kind {
                        EntryKind::Symlink(_) => path.rsplit_once('/').map_or("", |(dir, _)| dir),
                        _ => "",
                    };
                    match std::str::from_utf8(to).ok().and_then(|to| normal(base, to)) {
                        Some(to) => Found::Link(to),
                        None => {
                            return Err(
                                Refusal::new("its target leads out of the archive").entry(&entry.path)
                            );
                        }
                    }
                }
                EntryKind::Dir => continue,
                _ => return Err(Refusal::new("images have no such files").entry(&entry.path)),
            };
            files.insert(path, found);
            if files.len() > FILE_LIMIT {
                return Err(Refusal::new(format!("it has more than {FILE_LIMIT} files")));
            }
        }
        Ok(Archive { blob, files })
    }

    /// Whether there is such a file.
    pub fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// A file.
    ///
    /// # Errors
    /// There is none, or the archive ends within it.
    pub fn open(&self, name: &str) -> Result<Blob> {
        let missing = || Refusal::new(format!("there is no file '{}' in the archive", name.escape_default()));
        let mut at = normal("", name).ok_or_else(missing)?;
        for _ in 0..LINK_LIMIT {
            match self.files.get(&at).ok_or_else(missing)? {
                Found::Link(to) => at.clone_from(to),
                Found::File { offset, size } => {
                    return self.blob.part(*offset, *size).ok_or_else(|| {
                        Refusal::new(format!("the archive ends within '{}'", name.escape_default()))
                            .hint("it is truncated: fetch it again")
                    });
                }
            }
        }
        Err(Refusal::new(format!("the links to '{}' lead in a circle", name.escape_default())))
    }
}

/// `path` as seen from `base`, without `.` and `..`. `None` when it leads out.
fn normal(base: &str, path: &str) -> Option<String> {
    if path.starts_with('/') {
        return None;
    }
    let mut words: Vec<&str> = Vec::new();
    for word in base.split('/').chain(path.split('/')) {
        match word {
            "" | "." => {}
            ".." => drop(words.pop()?),
            word => words.push(word),
        }
    }
    Some(words.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_lead_out() {
        assert_eq!(normal("", "./a//b"), Some("a/b".into()));
        assert_eq!(normal("a/b", "../c/layer.tar"), Some("a/c/layer.tar".into()));
        assert_eq!(normal("a", "../../c"), None);
        assert_eq!(normal("", "/etc/passwd"), None);
    }
}
