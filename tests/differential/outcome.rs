//! What an operation answers, made comparable between two mounts.

use std::collections::HashMap;
use std::fmt;

use nix::errno::Errno;

use crate::support::layer::literal;
use crate::support::tree::Tree;

/// What an operation answers.
pub type Outcome = Result<Value, Errno>;

/// A comparable result.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// It worked.
    Nothing,
    /// A count, an offset, a truth.
    Number(i64),
    /// Data.
    Bytes(Vec<u8>),
    /// Words, already in an order that does not depend on the filesystem.
    Lines(Vec<String>),
}

impl fmt::Debug for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => write!(out, "done"),
            Self::Number(number) => write!(out, "{number}"),
            Self::Bytes(bytes) if bytes.len() > 200 => {
                write!(out, "{} bytes beginning {}", bytes.len(), literal(&bytes[..200]))
            }
            Self::Bytes(bytes) => write!(out, "{}", literal(bytes)),
            Self::Lines(lines) => write!(out, "{lines:?}"),
        }
    }
}

/// Inode numbers as names: an object that shows the number of a lower object is called by that object's place.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    names: HashMap<u64, String>,
    known: bool,
}

impl Labels {
    /// Learns the numbers of the lower layers; they mean something only when all lie on one filesystem.
    pub fn learn<'a>(layers: impl IntoIterator<Item = &'a Tree>, one_filesystem: bool) -> Self {
        let mut names = HashMap::new();
        for (number, tree) in layers.into_iter().enumerate() {
            for (path, entry) in &tree.entries {
                names.entry(entry.id.2).or_insert_with(|| format!("L{}:{}", number + 1, path.escape_ascii()));
            }
        }
        Self { names, known: one_filesystem }
    }

    /// The name of an inode number.
    pub fn name(&self, ino: u64) -> &str {
        match self.names.get(&ino) {
            Some(name) if self.known => name,
            None if self.known => "new",
            _ => "?",
        }
    }

    /// Whether inode numbers can be compared at all.
    pub fn known(&self) -> bool {
        self.known
    }
}

/// Times as they can be compared: exact when somebody set them, "now" when the clock did.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: i64,
}

impl Clock {
    /// Everything from now on is "now".
    pub fn start() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self { started: since.map_or(0, |since| since.as_secs() as i64) - 2 }
    }

    /// Names a moment.
    pub fn name(self, (seconds, nanoseconds): (i64, u32)) -> String {
        if (self.started..self.started + 3600).contains(&seconds) {
            "now".into()
        } else {
            format!("{seconds}.{nanoseconds:09}")
        }
    }
}
