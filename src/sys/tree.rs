//! Removing a tree, whatever is in it.
//!
//! It must not fail on the depth of the tree or on its modes: directories are opened up and moved to the top before
//! they are emptied, so no path is ever longer than two names.

use std::path::Path;

use super::{Dir, Errno, Name, NameBuf, RenameFlag, Result, errno_of};

/// Removes the directory `path` and everything in it. Errors: what stopped it; the rest is still there.
pub fn remove_tree(path: &Path) -> Result<()> {
    empty(&Dir::open_path(path)?)?;
    std::fs::remove_dir(path).map_err(errno_of)
}

fn empty(top: &Dir) -> Result<()> {
    let mut directories = Vec::new();
    remove_files(top, &mut directories)?;
    let mut moved = 0u64;
    while let Some(name) = directories.pop() {
        open_up(top, &name)?;
        let dir = top.open_dir(&name)?;
        let mut below = Vec::new();
        remove_files(&dir, &mut below)?;
        for child in below {
            open_up(&dir, &child)?;
            directories.push(move_up(&dir, &child, top, &mut moved)?);
        }
        top.rmdir(&name)?;
    }
    Ok(())
}

/// Unlinks all but directories, which are put into `directories`.
fn remove_files(dir: &Dir, directories: &mut Vec<NameBuf>) -> Result<()> {
    for entry in dir.entries()? {
        match dir.unlink(&entry.name) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(Errno::EISDIR | Errno::EPERM) => directories.push(entry.name),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// A directory that its owner may not enter cannot be emptied or moved.
fn open_up(dir: &Dir, name: &Name) -> Result<()> {
    dir.at(name).chmod(0o700)
}

fn move_up(dir: &Dir, child: &Name, top: &Dir, moved: &mut u64) -> Result<NameBuf> {
    loop {
        *moved += 1;
        let name = NameBuf::new(format!("removed-{moved}").as_bytes())?;
        match dir.rename(child, top, &name, RenameFlag::NoReplace) {
            Ok(()) => return Ok(name),
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_of_any_depth_and_mode_is_removed() {
        let base = tempfile::tempdir().unwrap();
        let top = base.path().join("tree");
        std::fs::create_dir(&top).unwrap();
        let mut dir = Dir::open_path(&top).unwrap();
        let name = NameBuf::new(&[b'd'; 250]).unwrap();
        for _ in 0..40 {
            dir.mkdir(&name, 0o700).unwrap();
            let child = dir.open_dir(&name).unwrap();
            child.create(&NameBuf::new(b"removed-1").unwrap(), libc::O_WRONLY, 0o000).unwrap();
            dir.at(&name).chmod(0o000).unwrap();
            dir = child;
        }
        std::os::unix::fs::symlink("/", top.join("link")).unwrap();
        remove_tree(&top).unwrap();
        assert!(top.symlink_metadata().is_err());
    }
}
