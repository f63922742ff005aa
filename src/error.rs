//! Errors a person reads: what was being done, to which path, why it failed, what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};

/// A failure at set-up or on the command line. Its Display is one or two sentences.
#[derive(Debug)]
pub struct SetupError {
    what: String,
    path: Option<PathBuf>,
    why: String,
    hint: Option<String>,
}

impl SetupError {
    /// `what` was tried (as in "open the lower layer") and failed because of `why`.
    pub fn new(what: impl Into<String>, why: impl fmt::Display) -> SetupError {
        SetupError { what: what.into(), path: None, why: why.to_string(), hint: None }
    }

    /// A sentence that another process has made of its error, repeated as it is.
    pub fn quoted(sentence: impl Into<String>) -> SetupError {
        SetupError { what: String::new(), path: None, why: sentence.into(), hint: None }
    }

    /// The path concerned.
    #[must_use]
    pub fn at(mut self, path: impl AsRef<Path>) -> SetupError {
        self.path = Some(path.as_ref().to_path_buf());
        self
    }

    /// What the person can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> SetupError {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.what.is_empty() {
            f.write_str(&self.why)?;
        } else {
            write!(f, "cannot {}", self.what)?;
            if let Some(path) = &self.path {
                write!(f, " {}", path.display())?;
            }
            write!(f, ": {}", self.why)?;
        }
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for SetupError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setup_error_reads_as_what_where_why_and_what_to_do() {
        let e = SetupError::new("use the layer", "Not a directory").at("/x").hint("name a directory");
        assert_eq!(e.to_string(), "cannot use the layer /x: Not a directory (name a directory)");
    }
}
