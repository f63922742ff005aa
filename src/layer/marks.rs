//! The marks that overlayfs keeps in extended attributes, read and written in one place (overlay-spec 1.5).
//!
//! A mark's full name is a prefix (`trusted.overlay.` or, with `userxattr`, `user.overlay.`) and a word. Only the
//! active prefix is private; the other is a plain attribute (L-25). Names beneath the active prefix are hidden from
//! the mount's users, who see and write them one `overlay.` deeper (L-24), so that overlays nest.

use std::ffi::{CStr, CString};

use crate::sys::{At, Errno, NameBuf, Result};

/// Which attributes are private.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// `trusted.overlay.`
    Trusted,
    /// `user.overlay.`
    User,
}

/// A private attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// `y`: nothing below counts; `x`: holds form-B whiteouts.
    Opaque,
    /// Form-B whiteout.
    Whiteout,
    /// The path to continue with in the layers below.
    Redirect,
    /// Metadata only; the data is further down.
    Metacopy,
    /// Handle record of the lower object this was copied up from.
    Origin,
    /// Some child has an origin.
    Impure,
    /// Link count arithmetic of an indexed file.
    Nlink,
    /// Handle record of the upper directory an index entry stands for.
    Upper,
    /// 16 bytes of identity of the upper.
    Uuid,
    /// Immutable and append-only flags.
    Protattr,
}

macro_rules! mark_names {
    ($($mark:ident = $word:literal),*) => {
        impl Prefix {
            /// The full name of `mark`.
            pub fn attr(self, mark: Mark) -> &'static CStr {
                match (self, mark) {
                    $(
                        (Prefix::Trusted, Mark::$mark) => {
                            const N: &CStr = match CStr::from_bytes_with_nul(concat!("trusted.overlay.", $word, "\0").as_bytes()) { Ok(n) => n, Err(_) => panic!() };
                            N
                        }
                        (Prefix::User, Mark::$mark) => {
                            const N: &CStr = match CStr::from_bytes_with_nul(concat!("user.overlay.", $word, "\0").as_bytes()) { Ok(n) => n, Err(_) => panic!() };
                            N
                        }
                    )*
                }
            }
        }
    };
}

mark_names! {
    Opaque = "opaque", Whiteout = "whiteout", Redirect = "redirect", Metacopy = "metacopy", Origin = "origin",
    Impure = "impure", Nlink = "nlink", Upper = "upper", Uuid = "uuid", Protattr = "protattr"
}

const ESCAPE: &[u8] = b"overlay.";

impl Prefix {
    fn text(self) -> &'static [u8] {
        match self {
            Prefix::Trusted => b"trusted.overlay.",
            Prefix::User => b"user.overlay.",
        }
    }

    /// Whether users of the mount must not see `attr` as it is stored (private, or escaped).
    pub fn owns(self, attr: &[u8]) -> bool {
        // The prefix without its final dot is private too, as the kernel compares it.
        attr.starts_with(self.text())
    }

    /// The name users see for a stored attribute; `None` for a private one (L-24).
    pub fn shown(self, stored: &[u8]) -> Option<Vec<u8>> {
        let Some(rest) = stored.strip_prefix(self.text()) else {
            return Some(stored.to_vec());
        };
        let inner = rest.strip_prefix(ESCAPE)?;
        Some([self.text(), inner].concat())
    }

    /// The name under which what users call `shown` is stored. Errors: ERANGE beyond 255 bytes.
    pub fn stored(self, shown: &CStr) -> Result<CString> {
        let bytes = shown.to_bytes();
        let stored = match bytes.strip_prefix(self.text()) {
            None => bytes.to_vec(),
            Some(rest) => [self.text(), ESCAPE, rest].concat(),
        };
        if stored.len() > 255 {
            return Err(Errno::EOPNOTSUPP);
        }
        CString::new(stored).map_err(|_| Errno::EINVAL)
    }
}

/// Which marks an object carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MarkSet(u16);

impl MarkSet {
    /// Whether `mark` is among them.
    pub fn has(self, mark: Mark) -> bool {
        self.0 & (1 << mark as u16) != 0
    }

    fn add(&mut self, mark: Mark) {
        self.0 |= 1 << mark as u16;
    }
}

/// Every mark.
pub const ALL: [Mark; 10] = [
    Mark::Opaque,
    Mark::Whiteout,
    Mark::Redirect,
    Mark::Metacopy,
    Mark::Origin,
    Mark::Impure,
    Mark::Nlink,
    Mark::Upper,
    Mark::Uuid,
    Mark::Protattr,
];

/// Whether an attribute is a mark, in this spelling.
pub fn is_mark(prefix: Prefix, attr: &CStr) -> bool {
    prefix.owns(attr.to_bytes()) && ALL.iter().any(|mark| prefix.attr(*mark) == attr)
}

/// Reads which marks an object carries: one system call where each single mark would cost one.
pub fn present(at: At<'_>, prefix: Prefix) -> Result<MarkSet> {
    let mut set = MarkSet::default();
    for name in at.listxattr()?.split(|&b| b == 0) {
        if prefix.owns(name) {
            ALL.iter().filter(|&&m| prefix.attr(m).to_bytes() == name).for_each(|&m| set.add(m));
        }
    }
    Ok(set)
}

/// The value of `P.opaque` on a directory (L-5, L-10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Opaque {
    /// Not set, or a value without meaning.
    #[default]
    No,
    /// `y`.
    Yes,
    /// `x`: form-B whiteouts inside.
    Xwhiteouts,
}

/// Reads `P.opaque`.
pub fn opaque(at: At<'_>, prefix: Prefix) -> Result<Opaque> {
    Ok(match at.find_xattr(prefix.attr(Mark::Opaque))?.as_deref() {
        Some(b"y") => Opaque::Yes,
        Some(b"x") => Opaque::Xwhiteouts,
        _ => Opaque::No,
    })
}

/// Where the layers below continue (L-19).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedirectTo {
    /// Another name in the parent's own lower directories.
    Sibling(NameBuf),
    /// A path from the root of each layer below.
    Absolute(Vec<NameBuf>),
}

impl RedirectTo {
    /// Parses a stored value. Errors: EINVAL when it is malformed, EACCES for a component `.` or `..` (L-21).
    pub fn parse(value: &[u8]) -> Result<RedirectTo> {
        match value.strip_prefix(b"/") {
            None => redirect_name(value).map(RedirectTo::Sibling),
            Some(path) if path.split(|&b| b == b'/').any(<[u8]>::is_empty) => Err(Errno::EINVAL),
            Some(path) => {
                let names = path.split(|&b| b == b'/').map(redirect_name).collect::<Result<Vec<_>>>();
                names.map(RedirectTo::Absolute)
            }
        }
    }

    /// The stored form.
    pub fn to_value(&self) -> Vec<u8> {
        match self {
            RedirectTo::Sibling(name) => name.as_bytes().to_vec(),
            RedirectTo::Absolute(path) => path.iter().flat_map(|n| [b"/", n.as_bytes()].concat()).collect(),
        }
    }
}

fn redirect_name(name: &[u8]) -> Result<NameBuf> {
    match name {
        b"." | b".." => Err(Errno::EACCES),
        name => NameBuf::new(name).map_err(|_| Errno::EINVAL),
    }
}

/// Reads `P.redirect`. Errors: those of [`RedirectTo::parse`].
pub fn redirect(at: At<'_>, prefix: Prefix) -> Result<Option<RedirectTo>> {
    at.find_xattr(prefix.attr(Mark::Redirect))?.map(|v| RedirectTo::parse(&v)).transpose()
}

/// Whether `P.metacopy` says that a regular file is metadata only. What a digest in it says counts for `verity=` alone,
/// so only the length is looked at, as by the kernel. Errors: EIO for a value too short to be one.
pub fn metacopy(at: At<'_>, prefix: Prefix) -> Result<bool> {
    match at.find_xattr(prefix.attr(Mark::Metacopy))? {
        None => Ok(false),
        Some(value) => is_metacopy(&value),
    }
}

/// A value is empty or {version, length, flags, digest algorithm, digest}.
fn is_metacopy(value: &[u8]) -> Result<bool> {
    if matches!(value.len(), 1..4) { Err(Errno::EIO) } else { Ok(true) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_names_are_hidden_and_escaped_ones_lose_one_level() {
        let p = Prefix::Trusted;
        assert_eq!(p.shown(b"trusted.overlay.opaque"), None);
        assert_eq!(
            p.shown(b"trusted.overlay.overlay.opaque").as_deref(),
            Some(&b"trusted.overlay.opaque"[..])
        );
        assert_eq!(
            p.shown(b"trusted.overlay.overlay.overlay.x").as_deref(),
            Some(&b"trusted.overlay.overlay.x"[..])
        );
        assert_eq!(p.shown(b"user.overlay.opaque").as_deref(), Some(&b"user.overlay.opaque"[..]));
        assert_eq!(
            p.stored(c"trusted.overlay.opaque").unwrap().to_bytes(),
            b"trusted.overlay.overlay.opaque"
        );
        assert_eq!(p.stored(c"user.overlay.opaque").unwrap().to_bytes(), b"user.overlay.opaque");
    }

    #[test]
    fn what_is_stored_is_shown_under_the_name_it_was_given() {
        for prefix in [Prefix::Trusted, Prefix::User] {
            for name in [c"trusted.overlay.a", c"user.overlay.b", c"user.x", c"security.capability"] {
                assert_eq!(prefix.shown(prefix.stored(name).unwrap().to_bytes()).unwrap(), name.to_bytes());
            }
        }
    }

    #[test]
    fn redirects_are_one_name_or_a_clean_absolute_path() {
        assert!(matches!(RedirectTo::parse(b"old"), Ok(RedirectTo::Sibling(_))));
        let RedirectTo::Absolute(path) = RedirectTo::parse(b"/a/sub").unwrap() else { panic!() };
        assert_eq!(path.len(), 2);
        for bad in [&b""[..], b"a/b", b"/", b"/a/", b"//a", b"/a//b"] {
            assert_eq!(RedirectTo::parse(bad), Err(Errno::EINVAL), "{}", bad.escape_ascii());
        }
        for escaping in [&b"/a/../b"[..], b"..", b"/.", b"."] {
            assert_eq!(RedirectTo::parse(escaping), Err(Errno::EACCES), "{}", escaping.escape_ascii());
        }
        for good in [&b"old"[..], b"/a/sub"] {
            assert_eq!(RedirectTo::parse(good).unwrap().to_value(), good);
        }
    }

    #[test]
    fn a_metacopy_value_is_empty_or_has_a_whole_head_l23() {
        for good in [&[][..], &[0, 4, 0, 0], &[1, 4, 0, 0], &[0, 5, 0, 0]] {
            assert_eq!(is_metacopy(good), Ok(true), "{good:?}");
        }
        for bad in [&[0][..], &[0, 0], &[0, 3, 0]] {
            assert_eq!(is_metacopy(bad), Err(Errno::EIO), "{bad:?}");
        }
    }
}
