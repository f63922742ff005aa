//! Permission bits that go away by themselves.
//!
//! Where the kernel leaves it to the server to clear suid and sgid (HANDLE_KILLPRIV_V2), it only says *that* they are to
//! be cleared; which ones depends on the mode. `security.capability` goes with them and is the caller's concern.

use crate::sys::Kind;

const SUID: u32 = libc::S_ISUID;
const SGID: u32 = libc::S_ISGID;
const GROUP_EXECUTE: u32 = libc::S_IXGRP;

/// Whether the caller belongs to the file's group (fsgid or supplementary), or has CAP_FSETID, which counts as much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Member {
    /// It does.
    Yes,
    /// It does not, and has not.
    No,
}

/// Whether [`Member`] makes a difference for a file of this mode: it is then worth finding out.
pub fn membership_matters(mode: u32) -> bool {
    mode & (SGID | GROUP_EXECUTE) == SGID
}

/// The mode (type bits included) after a write, truncation or allocation that clears privileges. Of a regular file suid
/// goes, and sgid where the group may execute; sgid without group execution goes too unless the caller is a member (as
/// local file systems on kernel 6.18 do). Everything else is unchanged.
pub fn after_write(mode: u32, caller: Member) -> u32 {
    match Kind::of_mode(mode) {
        Kind::File => without_privileges(mode, caller),
        _ => mode,
    }
}

/// The mode (type bits included) after a change of owner or group: as [`after_write`], for everything but directories,
/// which keep theirs, and symbolic links, which have none. The group in question is the one before the change.
pub fn after_chown(mode: u32, caller: Member) -> u32 {
    match Kind::of_mode(mode) {
        Kind::Dir | Kind::Symlink => mode,
        _ => without_privileges(mode, caller),
    }
}

/// The mode after a change of the access ACL by someone who is not in the owning group (FUSE_SETXATTR_ACL_KILL_SGID):
/// sgid goes, whatever the group may do.
pub fn after_acl(mode: u32) -> u32 {
    mode & !SGID
}

fn without_privileges(mode: u32, caller: Member) -> u32 {
    let keeps_sgid = membership_matters(mode) && caller == Member::Yes;
    mode & !if keeps_sgid { SUID } else { SUID | SGID }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

    use super::*;
    use crate::sys::testing::root_or_skip;

    const FILE: u32 = libc::S_IFREG;
    const DIR: u32 = libc::S_IFDIR;

    #[test]
    fn every_mode_loses_suid_and_members_keep_sgid_where_the_group_may_not_execute() {
        for mode in 0..0o10000 {
            for caller in [Member::Yes, Member::No] {
                let keeps = mode & 0o010 == 0 && caller == Member::Yes;
                let expected = mode & if keeps { 0o3777 } else { 0o1777 };
                assert_eq!(after_write(FILE | mode, caller), FILE | expected);
                assert_eq!(after_chown(FILE | mode, caller), FILE | expected);
                assert_eq!(after_chown(libc::S_IFIFO | mode, caller), libc::S_IFIFO | expected);
                assert_eq!(after_write(DIR | mode, caller), DIR | mode);
                assert_eq!(after_chown(DIR | mode, caller), DIR | mode);
                assert_eq!(after_chown(libc::S_IFLNK | mode, caller), libc::S_IFLNK | mode);
                if !membership_matters(mode) {
                    assert_eq!(after_write(FILE | mode, Member::Yes), after_write(FILE | mode, Member::No));
                }
            }
            assert_eq!(after_acl(FILE | mode), FILE | mode & 0o5777);
        }
    }

    #[test]
    fn a_local_file_system_does_the_same() {
        if !root_or_skip() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = std::fs::File::create(&path).unwrap();
        let set = |mode: u32| file.set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
        let now = || file.metadata().unwrap().mode();
        for group in [0, 4242] {
            // Root has CAP_FSETID: chown clears for it too, writing does not.
            std::os::unix::fs::chown(&path, Some(0), Some(group)).unwrap();
            for mode in (0..0o10000).filter(|mode| mode & 0o6000 != 0) {
                set(mode);
                std::os::unix::fs::chown(&path, Some(0), Some(group)).unwrap();
                assert_eq!(now(), after_chown(FILE | mode, Member::Yes), "chown {mode:o}");
            }
            set(0o6755);
            file.write_all_at(b"x", 0).unwrap();
            assert_eq!(now(), FILE | 0o6755);
        }
        for (group, caller) in [(0, Member::Yes), (4242, Member::No)] {
            std::os::unix::fs::chown(&path, Some(0), Some(group)).unwrap();
            for mode in (0..0o10000).filter(|mode| mode & 0o6000 != 0) {
                set(mode);
                std::thread::scope(|scope| {
                    let ordinary = || {
                        crate::sys::cred::without(crate::sys::cred::cap::FSETID).unwrap();
                        file.write_all_at(b"x", 0).unwrap();
                    };
                    scope.spawn(ordinary).join().unwrap();
                });
                assert_eq!(now(), after_write(FILE | mode, caller), "write {mode:o} {caller:?}");
            }
        }
    }
}
