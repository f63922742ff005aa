//! One path component, checked once at the door.
//!
//! A name that has passed [`Name::new`] needs no further check anywhere below: it is not empty, holds no `/`
//! and no NUL, is neither `.` nor `..`, and is at most 255 bytes long (L-6). Names are bytes, never text.
//! Both forms keep their terminating NUL, so a system call costs no copy.

use std::borrow::Borrow;
use std::ffi::{CStr, CString};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::{Errno, Result};

/// The longest name, in bytes, that every supported filesystem and the VFS accept (NAME_MAX).
pub const NAME_MAX: usize = 255;

/// A borrowed path component. See the module text for what it guarantees.
#[derive(PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Name(CStr);

impl Name {
    /// Checks `raw`. Errors: ENOENT for the empty name, ENAMETOOLONG above 255 bytes, EINVAL for `.`, `..` and
    /// anything holding `/`.
    pub fn new(raw: &CStr) -> Result<&Name> {
        let bytes = raw.to_bytes();
        match bytes {
            [] => return Err(Errno::ENOENT),
            b"." | b".." => return Err(Errno::EINVAL),
            _ => {}
        }
        if bytes.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if bytes.contains(&b'/') {
            return Err(Errno::EINVAL);
        }
        // SAFETY: `Name` is a transparent wrapper of `CStr`, so both references have the same layout and lifetime.
        Ok(unsafe { &*(std::ptr::from_ref::<CStr>(raw) as *const Name) })
    }

    /// The name as a C string, for system calls.
    pub fn as_cstr(&self) -> &CStr {
        &self.0
    }

    /// The name without its NUL.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.to_bytes()
    }

    /// A shared copy.
    pub fn to_owned(&self) -> NameBuf {
        NameBuf(Arc::from(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.as_bytes()))
    }
}

/// A shared, owned path component; cloning it copies a pointer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameBuf(Arc<CStr>);

impl NameBuf {
    /// Checks and copies `raw`, which has no terminating NUL. Errors as [`Name::new`], and EINVAL for a NUL inside.
    pub fn new(raw: &[u8]) -> Result<NameBuf> {
        if raw.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let c = CString::new(raw).map_err(|_| Errno::EINVAL)?;
        Ok(Name::new(&c)?.to_owned())
    }
}

impl Deref for NameBuf {
    type Target = Name;
    fn deref(&self) -> &Name {
        // SAFETY: as in `Name::new`; the value was checked when this was made.
        unsafe { &*(std::ptr::from_ref::<CStr>(&self.0) as *const Name) }
    }
}

impl Borrow<Name> for NameBuf {
    fn borrow(&self) -> &Name {
        self
    }
}

impl fmt::Debug for NameBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl fmt::Display for NameBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_255_bytes_is_taken_and_256_is_enametoolong() {
        assert!(NameBuf::new(&[b'x'; 255]).is_ok());
        assert_eq!(NameBuf::new(&[b'x'; 256]), Err(Errno::ENAMETOOLONG));
    }

    #[test]
    fn dots_slashes_nul_and_the_empty_name_are_refused() {
        assert_eq!(NameBuf::new(b""), Err(Errno::ENOENT));
        for bad in [&b"."[..], b"..", b"a/b", b"/", b"a\0b"] {
            assert_eq!(NameBuf::new(bad), Err(Errno::EINVAL), "{bad:?}");
        }
        assert!(NameBuf::new(b"...").is_ok());
        assert!(NameBuf::new(b"\xff\xfe").is_ok());
    }
}
