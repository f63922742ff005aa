//! What one object's marks say, and whether that makes sense by itself.

use std::collections::BTreeMap;
use std::ffi::CStr;

use super::Repair;
use crate::layer::marks::{ALL, Mark, Prefix, RedirectTo};
use crate::layer::{origin, override_stat};
use crate::sys::{At, Errno, Kind, Result, Stat};

/// The marks of an object, with their values.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    pub values: BTreeMap<u16, Vec<u8>>,
    /// An `override_stat` attribute.
    pub over: Option<Vec<u8>>,
}

impl Marks {
    pub(super) fn read(at: At<'_>, prefix: Prefix) -> Result<Marks> {
        let mut marks = Marks::default();
        for name in at.listxattr()?.split_inclusive(|b| *b == 0) {
            let name = CStr::from_bytes_with_nul(name).map_err(|_| Errno::EIO)?;
            if override_stat::is_name(name) {
                marks.over = at.find_xattr(name)?;
            }
            if let Some(mark) = ALL.iter().find(|mark| prefix.attr(**mark) == name)
                && let Some(value) = at.find_xattr(name)?
            {
                marks.values.insert(*mark as u16, value);
            }
        }
        Ok(marks)
    }

    pub(super) fn get(&self, mark: Mark) -> Option<&[u8]> {
        self.values.get(&(mark as u16)).map(Vec::as_slice)
    }
}

/// Something wrong with one mark: problem, why, advice, repair.
pub(super) type Wrong = (&'static str, String, &'static str, Option<Repair>);

/// What is wrong with the marks of an object, without looking at anything else.
pub(super) fn by_itself(marks: &Marks, stat: &Stat, prefix: Prefix, is_root: bool) -> Vec<Wrong> {
    let mut wrong = Vec::new();
    let kind = stat.kind();
    let remove = |mark| Some(Repair::RemoveAttr(prefix.attr(mark).to_owned()));
    let shown = |value: &[u8]| format!("'{}'", value.escape_ascii());
    if let Some(value) = marks.get(Mark::Opaque)
        && (kind != Kind::Dir || !matches!(value, b"y" | b"x"))
    {
        let why = match kind {
            Kind::Dir => {
                format!("its opaque mark is {}, which is neither y nor x and means nothing", shown(value))
            }
            kind => format!("it carries an opaque mark, which means nothing on a {kind}"),
        };
        wrong.push(("bad-opaque", why, "remove the mark", remove(Mark::Opaque)));
    }
    if marks.get(Mark::Whiteout).is_some() && (kind != Kind::File || stat.size > 0) {
        let why = format!("it carries a whiteout mark, which means nothing on a {kind} with contents");
        wrong.push(("bad-whiteout", why, "remove the mark", remove(Mark::Whiteout)));
    }
    if let Some(value) = marks.get(Mark::Redirect) {
        let advice = "find out what it was called in the layers below, or copy what is wanted into the upper";
        if let Err(errno) = RedirectTo::parse(value) {
            let why = match errno {
                Errno::EACCES => format!("its redirect {} leads out of the layer", shown(value)),
                _ => format!("its redirect {} is neither one name nor a clean absolute path", shown(value)),
            };
            wrong.push(("bad-redirect", why, advice, None));
        } else if !matches!(kind, Kind::Dir | Kind::File) {
            let why = format!("it carries a redirect, which means nothing on a {kind}");
            wrong.push(("bad-redirect", why, "remove the mark", remove(Mark::Redirect)));
        }
    }
    if let Some(value) = marks.get(Mark::Metacopy) {
        if kind != Kind::File {
            let why = format!("it carries a metacopy mark, which means nothing on a {kind}");
            wrong.push(("bad-metacopy", why, "remove the mark", remove(Mark::Metacopy)));
        } else if matches!(value.len(), 1..4) || value.first().is_some_and(|version| *version != 0) {
            let why = "its metacopy mark is damaged, so it cannot be opened".to_string();
            wrong.push(("bad-metacopy", why, "restore the file from the layers below", None));
        }
    }
    if let Some(value) = marks.get(Mark::Origin)
        && !value.is_empty()
        && origin::decode(value).is_none()
    {
        let why = "the record of where it was copied from is damaged, and ignored".to_string();
        wrong.push(("bad-origin", why, "remove the mark", remove(Mark::Origin)));
    }
    if let Some(value) = marks.get(Mark::Impure)
        && (kind != Kind::Dir || value != b"y")
    {
        let why = "its impure mark has a value or a place that means nothing".to_string();
        wrong.push(("bad-impure", why, "remove the mark", remove(Mark::Impure)));
    }
    if let Some(value) = marks.get(Mark::Nlink)
        && !is_nlink(value)
    {
        let why = format!("its link count mark {} makes no sense", shown(value));
        wrong.push(("bad-nlink", why, "use a fresh index: another work directory", None));
    }
    if let Some(value) = marks.get(Mark::Uuid)
        && (!is_root || value.len() != 16)
    {
        let why = "its uuid mark has a length or a place that means nothing".to_string();
        wrong.push(("bad-uuid", why, "remove the mark", remove(Mark::Uuid)));
    }
    wrong
}

/// `U+n`, `U-n`, `L+n` or `L-n`.
fn is_nlink(value: &[u8]) -> bool {
    match value {
        [b'U' | b'L', b'+' | b'-', digits @ ..] => {
            !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
        }
        _ => false,
    }
}

/// What is wrong with an `override_stat` attribute.
pub(super) fn overrides(marks: &Marks, stat: &Stat, believed: bool) -> Option<Wrong> {
    let value = marks.over.as_deref()?;
    let advice = "find out who wrote it; it is not removed, since it may be somebody's own";
    let shown = value.escape_ascii();
    if !believed {
        let why = format!(
            "it claims to be {shown} in an override_stat attribute, in an upper that does not keep owners so; a mount \
             with xattr_permissions would believe it"
        );
        return Some(("forged-override", why, advice, None));
    }
    match override_stat::parse(value) {
        None => Some((
            "bad-override",
            format!("its override_stat attribute {shown} makes no sense"),
            advice,
            None,
        )),
        Some(over) => {
            let is_dir = stat.kind() == Kind::Dir;
            let contradicts = over.kind.is_some_and(|kind| (kind == Kind::Dir) != is_dir);
            let why =
                format!("its override_stat attribute {shown} contradicts what it is, a {}", stat.kind());
            contradicts.then_some(("forged-override", why, advice, None))
        }
    }
}
