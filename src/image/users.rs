//! Who `user[:group]` is in an image, by its own /etc/passwd and /etc/group.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::error::SetupError;
use crate::sys::Errno;

/// The largest file that is read, in bytes.
const LIMIT: u64 = 4 << 20;

/// A user of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Number.
    pub uid: u32,
    /// Number of the group.
    pub gid: u32,
    /// Numbers of further groups.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

/// Opens a file of an image as the image sees it: links lead to what they name inside, never out.
///
/// # Errors
/// As openat2(2).
pub fn open_inside(root: &Path, path: &str) -> Result<File, Errno> {
    let dir = File::open(root).map_err(|e| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let fd: OwnedFd = openat2(dir.as_fd(), path, how)?;
    Ok(File::from(fd))
}

fn lines(root: &Path, path: &str) -> Vec<String> {
    let mut text = Vec::new();
    let read = open_inside(root, path).map(|file| match file.metadata() {
        Ok(found) if found.is_file() => file.take(LIMIT).read_to_end(&mut text),
        _ => Ok(0),
    });
    if let Ok(Err(e)) = read {
        log::debug!("{path} of the image: {e}");
    }
    String::from_utf8_lossy(&text).lines().map(str::to_string).collect()
}

/// Finds the user `words` (`user[:group]`, each a name or a number; empty: root) of the image mounted at `root`.
///
/// # Errors
/// A name that the image does not have.
pub fn find(root: &Path, words: &str) -> Result<User, SetupError> {
    let passwd = lines(root, "etc/passwd");
    let group = lines(root, "etc/group");
    resolve(words, &passwd, &group)
}

fn resolve(words: &str, passwd: &[String], group: &[String]) -> Result<User, SetupError> {
    let (user, of_group) = match words.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (words, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let unknown = |what: &str, name: &str, file: &str| {
        SetupError::new(
            format!("find the {what} '{}'", name.escape_default()),
            format!("{file} of the image does not have it"),
        )
        .hint("say another one with --user UID[:GID]")
    };
    let fields = |line: &String| line.split(':').map(str::to_string).collect::<Vec<_>>();
    let entry = passwd.iter().map(fields).find(|f| {
        f.len() >= 6 && (f.first().is_some_and(|n| n == user) || f.get(2).is_some_and(|n| n == user))
    });
    let number = |text: Option<&String>| text.and_then(|text| text.parse::<u32>().ok());
    let (uid, gid, home, name) = match entry {
        Some(f) => (
            number(f.get(2)).ok_or_else(|| unknown("user", user, "/etc/passwd"))?,
            number(f.get(3)).unwrap_or(0),
            f.get(5).cloned().unwrap_or_default(),
            f.first().cloned(),
        ),
        None => (user.parse().map_err(|_| unknown("user", user, "/etc/passwd"))?, 0, "/".to_string(), None),
    };
    let home = if home.is_empty() { "/".to_string() } else { home };
    if let Some(wanted) = of_group {
        let known = group.iter().map(fields).find(|f| f.first().is_some_and(|n| n == wanted));
        let gid = match known {
            Some(f) => number(f.get(2)),
            None => wanted.parse().ok(),
        };
        let gid = gid.ok_or_else(|| unknown("group", wanted, "/etc/group"))?;
        return Ok(User { uid, gid, groups: Vec::new(), home });
    }
    let member =
        |f: &Vec<String>| f.get(3).is_some_and(|all| all.split(',').any(|one| Some(one) == name.as_deref()));
    let mut groups: Vec<u32> =
        group.iter().map(fields).filter(member).filter_map(|f| number(f.get(2))).collect();
    groups.sort_unstable();
    groups.dedup();
    Ok(User { uid, gid, groups, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(words: &str) -> Result<User, SetupError> {
        let lines = |text: &str| text.lines().map(str::to_string).collect::<Vec<_>>();
        let passwd =
            lines("root:x:0:0:root:/root:/bin/sh\npostgres:x:70:71:p:/var/lib/postgresql:/bin/sh\nbroken");
        let group = lines("root:x:0:\npostgres:x:71:\ntape:x:26:postgres,x\nssl:x:101:postgres\n");
        resolve(words, &passwd, &group)
    }

    #[test]
    fn names_are_those_of_the_image_and_numbers_need_none() {
        let postgres = User { uid: 70, gid: 71, groups: vec![26, 101], home: "/var/lib/postgresql".into() };
        assert_eq!(who("postgres").unwrap(), postgres);
        assert_eq!(who("70").unwrap(), postgres);
        let root = User { uid: 0, gid: 0, groups: vec![], home: "/root".into() };
        assert_eq!(who("").unwrap(), root);
        let other = User { uid: 1234, gid: 0, groups: vec![], home: "/".into() };
        assert_eq!(who("1234").unwrap(), other);
        assert_eq!(who("postgres:tape").unwrap(), User { gid: 26, groups: vec![], ..postgres });
        assert_eq!(who("1234:5").unwrap().gid, 5);
        assert!(who("nobody").is_err());
        assert!(who("root:nogroup").is_err());
    }
}
