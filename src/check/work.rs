//! What an interrupted mount left in its work directory.

use std::path::Path;

use super::{Finding, Place, Repair};
use crate::error::SetupError;
use crate::layer::origin;
use crate::sys::{Dir, Errno, NameBuf, Result};

/// What is left in the work directory `base`. Must not be asked while a mount uses it.
///
/// # Errors
/// What cannot be read.
pub fn stale(base: &Path) -> std::result::Result<Vec<Finding>, SetupError> {
    let failed = |e: Errno| SetupError::new("check the work directory", e.desc()).at(base);
    let dir = Dir::open_path(base).map_err(failed)?;
    let mut found = Vec::new();
    leftovers(&dir, base, &mut found).map_err(failed)?;
    index(&dir, base, &mut found).map_err(failed)?;
    Ok(found)
}

fn find(dir: &Dir, name: &str) -> Result<Option<Dir>> {
    match dir.open_dir(&NameBuf::new(name.as_bytes())?) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(e) => Err(e),
    }
}

fn leftovers(base: &Dir, path: &Path, found: &mut Vec<Finding>) -> Result<()> {
    let Some(work) = find(base, "work")? else { return Ok(()) };
    for entry in work.entries()? {
        let place = Place::Work(path.join("work").join(entry.name.to_string()));
        if entry.name.as_bytes() == b"incompat" {
            let volatile = find(&work, "incompat")?.map(|dir| find(&dir, "volatile")).transpose()?.flatten();
            let (problem, why) = match volatile {
                Some(_) => {
                    ("volatile", "a volatile mount used this upper, and what it wrote may be lost since")
                }
                None => ("unknown-feature", "a mount used this upper with a feature that is not known here"),
            };
            let advice = "discard the upper, or remove this directory to trust it";
            found.push(Finding { place, problem, why: why.into(), advice, repair: None });
            continue;
        }
        let why = "an interrupted mount left it; nothing refers to it".to_string();
        let repair = Some(Repair::RemoveLeftover);
        found.push(Finding {
            place,
            problem: "stale-work",
            why,
            advice: "remove it; the next mount does too",
            repair,
        });
    }
    Ok(())
}

fn index(base: &Dir, path: &Path, found: &mut Vec<Finding>) -> Result<()> {
    let Some(index) = find(base, "index")? else { return Ok(()) };
    for entry in index.entries()? {
        if origin::of_index_name(entry.name.as_bytes()).is_none() {
            let place = Place::Work(path.join("index").join(entry.name.to_string()));
            let why = "its name is no record of a file, so the index cannot be used".to_string();
            let advice = "use a fresh work directory";
            found.push(Finding { place, problem: "bad-index", why, advice, repair: None });
        }
    }
    Ok(())
}
