//! The upper that a person means, and the layers beneath it: a mount of ours knows them; otherwise they are named.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::diff;
use super::layers::{self, Purpose, find};
use super::umount::Place;
use crate::error::SetupError;
use crate::layer::survey::{Survey, survey};
use crate::sys::clone::{Access, private_clone};
use crate::sys::{Dir, process};

/// An upper and what is known of it.
#[derive(Debug)]
pub struct Upper {
    /// Its directory.
    pub path: PathBuf,
    /// The layers beneath it, top first.
    pub lower: Vec<PathBuf>,
    /// Data-only layers, top first.
    pub data_only: Vec<PathBuf>,
    /// The mount says that its lowers hold `.wh.` markers.
    pub lower_markers: bool,
    /// The mount says how marks are spelled: with `userxattr`, or not.
    pub userxattr: Option<bool>,
    /// What is in it.
    pub survey: Survey,
}

impl Upper {
    /// Finds the upper that `stack` names, and looks through it.
    ///
    /// # Errors
    /// It cannot be found or read; a mount without an upper; a mount together with `lower`.
    pub fn find(stack: &Path, lower: &[OsString], what: &str) -> Result<Upper, SetupError> {
        let found = find(stack, Purpose::Upper)?;
        // Only a mount itself is meant as one; a directory in a mount can be an upper like any other.
        if let Ok(place) = Place::find(stack, what)
            && place.is_root
        {
            if !lower.is_empty() {
                return Err(SetupError::new(
                    format!("{what} a mount with --lower"),
                    "a mount knows its layers",
                )
                .at(stack)
                .hint("leave --lower out"));
            }
            let known = diff::of_mount(&place, stack)?;
            let flushed = Dir::open_path(stack).and_then(|dir| dir.syncfs());
            flushed
                .map_err(|e| SetupError::new(format!("bring the mount to disk to {what} it"), e.desc()))?;
            let survey = look_through(&known.upper)?;
            return Ok(Upper {
                path: known.upper,
                lower: known.lower,
                data_only: known.data_only,
                lower_markers: known.oci_whiteouts,
                userxattr: Some(known.userxattr),
                survey,
            });
        }
        let lower = layers::expand(lower)?;
        let lower = lower.iter().map(|path| Ok(find(path, Purpose::Lower)?.path));
        let lower = lower.collect::<Result<Vec<_>, SetupError>>()?;
        let survey = look_through(&found.path)?;
        Ok(Upper {
            path: found.path,
            lower,
            data_only: Vec::new(),
            lower_markers: false,
            userxattr: None,
            survey,
        })
    }

    /// How its marks are spelled.
    pub fn prefix(&self) -> crate::layer::marks::Prefix {
        use crate::layer::marks::Prefix;
        match self.userxattr {
            Some(true) => Prefix::User,
            Some(false) => Prefix::Trusted,
            None => self.survey.prefix(process::may_use_trusted_xattrs()),
        }
    }
}

/// Looks through the layer `path` and leaves no trace in it.
///
/// # Errors
/// What cannot be read.
pub fn look_through(path: &Path) -> Result<Survey, SetupError> {
    let failed = |at: PathBuf, e: crate::sys::Errno| SetupError::new("read", e.desc()).at(at);
    let clone = private_clone(path, Access::ReadOnly).map_err(|e| failed(path.to_path_buf(), e))?;
    survey(&Arc::new(Dir::from(clone.tree))).map_err(|(at, e)| {
        use std::os::unix::ffi::OsStrExt;
        let mut place = path.to_path_buf();
        place.extend(at.iter().map(|name| std::ffi::OsStr::from_bytes(name.as_bytes())));
        failed(place, e)
    })
}
