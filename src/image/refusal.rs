//! Why something that came from outside is not taken.

use std::fmt;

use crate::sys::Errno;

/// Half a sentence: who catches it says what was being done.
#[derive(Clone, Debug)]
pub struct Refusal {
    why: String,
    hint: Option<String>,
}

/// The result of whatever reads what came from outside.
pub type Result<T> = std::result::Result<T, Refusal>;

impl Refusal {
    /// Because of `why`.
    pub fn new(why: impl fmt::Display) -> Refusal {
        Refusal { why: why.to_string(), hint: None }
    }

    /// What the person can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Refusal {
        self.hint = Some(hint.into());
        self
    }

    /// Because of what is the matter with the entry `path` of an archive.
    #[must_use]
    pub fn entry(self, path: &[u8]) -> Refusal {
        Refusal { why: format!("entry '{}': {}", path.escape_ascii(), self.why), hint: self.hint }
    }

    /// The whole sentence: `what` was being done.
    pub fn during(self, what: impl Into<String>) -> crate::error::SetupError {
        let e = crate::error::SetupError::new(what, self.why);
        match self.hint {
            Some(hint) => e.hint(hint),
            None => e,
        }
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Refusal {
        let refusal = Refusal::new(errno.desc());
        match errno {
            Errno::ENOSPC | Errno::EDQUOT => {
                refusal.hint("free some space, or name another store with --store DIR")
            }
            _ => refusal,
        }
    }
}
