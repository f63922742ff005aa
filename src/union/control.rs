//! What can be asked of a mounted union, and the form of the answers: JSON both ways.
//!
//! Paths are bytes and JSON is text, so every path is a [`Text`]: a string where it can be one, and a list of byte
//! values where it cannot. Field names are stable: `acetate status --json` and `which --json` print these types.
//! Fields that a reader does not know are to be ignored; new ones may be added.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Bytes that usually are text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Text {
    /// They are UTF-8.
    Str(String),
    /// They are not.
    Bytes(Vec<u8>),
}

impl Default for Text {
    fn default() -> Text {
        Text::Str(String::new())
    }
}

impl Text {
    /// The bytes themselves.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Text::Str(text) => text.as_bytes(),
            Text::Bytes(bytes) => bytes,
        }
    }

    /// As a path.
    pub fn to_path(&self) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        PathBuf::from(std::ffi::OsStr::from_bytes(self.as_bytes()))
    }
}

impl From<&[u8]> for Text {
    fn from(bytes: &[u8]) -> Text {
        match std::str::from_utf8(bytes) {
            Ok(text) => Text::Str(text.to_string()),
            Err(_) => Text::Bytes(bytes.to_vec()),
        }
    }
}

impl From<&Path> for Text {
    fn from(path: &Path) -> Text {
        use std::os::unix::ffi::OsStrExt;
        Text::from(path.as_os_str().as_bytes())
    }
}

/// For people: bytes that are no text are replaced, control characters (a newline in a name) are shown as `?`.
impl std::fmt::Display for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        String::from_utf8_lossy(self.as_bytes())
            .chars()
            .try_for_each(|c| std::fmt::Write::write_char(f, if c.is_control() { '?' } else { c }))
    }
}

/// A question, put to a directory of the mount: `{"ask":"which","name":"motd"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Question {
    /// How the mount is made and what it has done: answered by [`Status`].
    Status,
    /// Bring everything written so far to the upper's disk: answered by [`Synced`].
    Sync,
    /// Which layers know a name: answered by [`Which`].
    Which {
        /// The name in the directory that is asked; without it, the directory itself is meant.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<Text>,
    },
}

/// The answer to [`Question::Sync`]; a failure is the errno of the call itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Synced {
    /// False: nothing was to be done (no upper, or a volatile one).
    pub synced: bool,
}

/// What a layer is to the stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The writable layer.
    Upper,
    /// A layer that is only read.
    #[default]
    Lower,
    /// A layer of contents without names (C-27).
    Data,
}

/// One layer of the stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerInfo {
    /// What it is to the stack.
    pub role: Role,
    /// Its directory.
    pub path: Text,
}

/// How a mount is made and what it has done since. Numbers are since it was mounted, or now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Version of the server.
    pub version: String,
    /// Its process id, as it sees itself.
    pub pid: u32,
    /// The upper (if any), the lowers top first, the data-only layers.
    pub layers: Vec<LayerInfo>,
    /// The upper's work directory.
    pub work: Option<Text>,
    /// The settled options that differ from the defaults, one word each.
    pub options: Vec<String>,
    /// What the transport counts; filled in by the transport itself.
    pub transport: TransportStatus,
    /// How file contents flow: `cached`, `writeback` or `passthrough`.
    pub data_path: String,
    /// Objects brought from a lower layer to the upper.
    pub copy_ups: u64,
    /// Bytes of contents copied for that (cloned ones count too).
    pub copied_bytes: u64,
    /// Objects that the kernel remembers.
    pub nodes: u64,
    /// Open files and directories.
    pub handles: u64,
    /// File descriptors that the server holds.
    pub descriptors: u64,
}

/// How requests arrive, and how many did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TransportStatus {
    /// `uring`: requests through rings of io_uring. `dev`: messages over /dev/fuse.
    pub transport: String,
    /// Why it is not `uring`, where that was not ruled out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Threads that read requests now.
    pub threads: u64,
    /// The most there have been.
    pub threads_peak: u64,
    /// Requests by operation.
    pub requests: BTreeMap<String, u64>,
    /// Those that were answered with an error.
    pub errors: BTreeMap<String, u64>,
    /// Requests of an operation that the protocol did not have when this was written.
    pub unknown: u64,
    /// Messages that made no sense.
    pub malformed: u64,
    /// Requests that ended in a panic, each answered with EIO.
    pub panics: u64,
    /// Replies that the kernel no longer wanted.
    pub unwanted: u64,
}

/// What one layer has to say about a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mark {
    /// It does not know the name, or is not asked (a layer above cut it off in a parent directory).
    #[default]
    Absent,
    /// What one sees comes from here.
    Shown,
    /// A directory whose names appear in the one that is shown.
    Merged,
    /// Something is here, and something above hides it.
    Covered,
    /// A mark here deletes the name from the layers below.
    Deleted,
    /// A directory that is shown or merged, and replaces whatever is below it as a whole.
    Replaces,
}

/// A name as one layer has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InLayer {
    /// The layer.
    #[serde(flatten)]
    pub layer: LayerInfo,
    /// What it says about the name.
    pub mark: Mark,
    /// `file`, `directory`, `symlink`, `FIFO`, `socket`, `character device` or `block device`; none for a name that
    /// is absent or deleted here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The path inside the layer, where it differs from the path in the mount (a redirect leads there).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Text>,
}

/// A place in the stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Index into [`Which::layers`].
    pub layer: usize,
    /// The path inside that layer.
    pub path: Text,
}

/// Which layers know a name, and which of them is seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Which {
    /// The path inside the mount, without a leading slash; empty for the root.
    pub path: Text,
    /// Index into `layers` of what is seen; none: the name is absent from the mount.
    pub shown: Option<usize>,
    /// Every layer, the upper first.
    pub layers: Vec<InLayer>,
    /// Where the object shown by the upper was copied up from, or was called before it was renamed.
    pub copied_from: Option<Place>,
    /// The object shown has only its attributes in the upper; its contents are still in `copied_from`.
    pub metadata_only: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_reads_as_the_words_that_asked_it() {
        let name = Some(Text::from(&b"motd"[..]));
        let text = serde_json::to_string(&Question::Which { name }).unwrap();
        assert_eq!(text, r#"{"ask":"which","name":"motd"}"#);
        assert_eq!(serde_json::from_str::<Question>(r#"{"ask":"status"}"#).unwrap(), Question::Status);
        assert_eq!(
            serde_json::from_str::<Question>(r#"{"ask":"which"}"#).unwrap(),
            Question::Which { name: None }
        );
    }

    #[test]
    fn bytes_that_are_no_text_survive_json() {
        for bytes in [&b"plain"[..], b"", b"a\nb", b"\xff\xfe", "ü".as_bytes()] {
            let text = Text::from(bytes);
            let there = serde_json::to_string(&text).unwrap();
            let back: Text = serde_json::from_str(&there).unwrap();
            assert_eq!(back.as_bytes(), bytes, "{there}");
        }
        assert_eq!(Text::from(&b"a\nb"[..]).to_string(), "a?b");
    }

    #[test]
    fn an_answer_with_unknown_and_missing_fields_is_read() {
        let status: Status = serde_json::from_str(r#"{"version":"9","pid":3,"later":[1]}"#).unwrap();
        assert_eq!((status.pid, status.layers.len()), (3, 0));
    }
}
