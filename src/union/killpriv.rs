//! Which bits a write takes away.

/// The mode after a write by someone without CAP_FSETID: suid goes, sgid goes when the group may execute (otherwise
/// it marks mandatory locking and stays).
pub(super) fn mode_after_write(mode: u32) -> u32 {
    let mut left = mode & !libc::S_ISUID;
    if mode & libc::S_IXGRP != 0 {
        left &= !libc::S_ISGID;
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suid_goes_always_and_sgid_with_group_execution_a3() {
        assert_eq!(mode_after_write(0o6777), 0o777);
        assert_eq!(mode_after_write(0o6767), 0o2767);
        assert_eq!(mode_after_write(0o2755), 0o755);
        assert_eq!(mode_after_write(0o2745), 0o2745);
        assert_eq!(mode_after_write(0o1644), 0o1644);
    }
}
