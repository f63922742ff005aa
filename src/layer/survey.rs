//! In which dialect a layer is written.
//!
//! Nothing in a layer says how its marks are spelled, so all of it is looked at once. A file system without marks of
//! either spelling can be read either way.

use std::ffi::CStr;
use std::sync::Arc;

use super::marks::{self, Prefix};
use super::{DirCache, Object, override_stat};
use crate::sys::{Dir, Errno, Kind, NameBuf, Result};

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Objects, the root not counted.
    pub objects: u64,
    /// Bytes of regular files.
    pub bytes: u64,
    /// Where the first mark of the form `trusted.overlay.` is.
    pub trusted: Option<Vec<NameBuf>>,
    /// Where the first mark of the form `user.overlay.` is.
    pub user: Option<Vec<NameBuf>>,
    /// The root carries an `override_stat` attribute.
    pub root_overridden: bool,
    /// Files and directories beneath the root that carry one.
    pub overridden: u64,
    /// Files and directories beneath the root that do not.
    pub plain: u64,
    /// Where the first regular file called `.wh.…` is.
    pub marker: Option<Vec<NameBuf>>,
    /// Where the first character device 0:0 is.
    pub device: Option<Vec<NameBuf>>,
}

impl Survey {
    /// How marks are spelled. Where both spellings occur, the trusted one is the layer's own: nobody but root can write
    /// it, and the other may be the marks of a layer kept inside.
    pub fn prefix(&self, may_use_trusted: bool) -> Prefix {
        match (&self.trusted, &self.user) {
            (Some(_), _) => Prefix::Trusted,
            (None, Some(_)) => Prefix::User,
            (None, None) if may_use_trusted => Prefix::Trusted,
            (None, None) => Prefix::User,
        }
    }

    /// Whether owners and modes are those of the `override_stat` attributes. An attribute here and there proves nothing:
    /// whoever owns a file can set it. So either the root carries one, or everything does.
    pub fn is_overridden(&self) -> bool {
        self.root_overridden || self.overridden > 0 && self.plain == 0
    }
}

/// Looks at all of the layer `root`. What vanishes meanwhile is not counted.
///
/// # Errors
/// What cannot be read, with its place.
pub fn survey(root: &Arc<Dir>) -> std::result::Result<Survey, (Vec<NameBuf>, Errno)> {
    let mut survey = Survey::default();
    let here = |e| (Vec::new(), e);
    let ino = root.this().stat().map_err(here)?.ino;
    let seen = marks_of(&root.this().listxattr().map_err(here)?);
    survey.root_overridden = seen.overridden;
    survey.trusted = seen.trusted.then(Vec::new);
    survey.user = seen.user.then(Vec::new);
    let cache = DirCache::new(256);
    let mut todo = vec![Object::root(0, Arc::clone(root), ino)];
    while let Some(object) = todo.pop() {
        match directory(&mut survey, &object, &cache, &mut todo) {
            Ok(()) | Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(e) => return Err((object.path().unwrap_or_default(), e)),
        }
    }
    Ok(survey)
}

fn directory(
    survey: &mut Survey,
    object: &Arc<Object>,
    cache: &DirCache,
    todo: &mut Vec<Arc<Object>>,
) -> Result<()> {
    let dir = object.open(cache)?;
    for raw in dir.entries()? {
        let Some(stat) = dir.find(&raw.name)? else { continue };
        survey.objects += 1;
        let child = Object::within(object, raw.name.clone(), &stat);
        let place = || child.path().unwrap_or_default();
        match stat.kind() {
            Kind::File if raw.name.as_bytes().starts_with(b".wh.") => {
                survey.marker.get_or_insert_with(place);
            }
            Kind::Char if stat.is_whiteout_device() => {
                survey.device.get_or_insert_with(place);
            }
            _ => {}
        }
        let holds_attributes = matches!(stat.kind(), Kind::File | Kind::Dir);
        if stat.kind() == Kind::File {
            survey.bytes += stat.size;
        }
        let listed = match dir.at(&raw.name).listxattr() {
            Err(Errno::ENOENT) => continue,
            listed => listed?,
        };
        let seen = marks_of(&listed);
        if seen.trusted {
            survey.trusted.get_or_insert_with(place);
        }
        if seen.user {
            survey.user.get_or_insert_with(place);
        }
        match (seen.overridden, holds_attributes) {
            (true, _) => survey.overridden += 1,
            (false, true) => survey.plain += 1,
            (false, false) => {}
        }
        if stat.kind() == Kind::Dir {
            todo.push(child);
        }
    }
    Ok(())
}

#[derive(Default)]
struct Seen {
    trusted: bool,
    user: bool,
    overridden: bool,
}

fn marks_of(listed: &[u8]) -> Seen {
    let mut seen = Seen::default();
    for name in listed.split_inclusive(|b| *b == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        seen.trusted |= marks::is_mark(Prefix::Trusted, name);
        seen.user |= marks::is_mark(Prefix::User, name);
        seen.overridden |= override_stat::is_name(name);
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(path: &std::path::Path, name: &CStr) {
        Dir::open_path(path).unwrap().this().setxattr(name, b"y", 0).unwrap();
    }

    #[test]
    fn marks_anywhere_tell_the_spelling() {
        let t = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(t.path().join("a/b")).unwrap();
        let look = || survey(&Arc::new(Dir::open_path(t.path()).unwrap())).unwrap();
        assert_eq!((look().prefix(true), look().prefix(false)), (Prefix::Trusted, Prefix::User));
        set(&t.path().join("a"), c"user.overlay.unknown");
        assert_eq!(look().user, None);
        set(&t.path().join("a/b"), c"user.overlay.opaque");
        assert_eq!(look().prefix(true), Prefix::User);
        assert_eq!(look().user.unwrap().len(), 2);
        assert_eq!(look().objects, 2);
    }

    #[test]
    fn one_override_among_others_is_not_believed() {
        let t = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(t.path().join("a/b")).unwrap();
        let look = || survey(&Arc::new(Dir::open_path(t.path()).unwrap())).unwrap();
        set(&t.path().join("a/b"), c"user.containers.override_stat");
        assert!(!look().is_overridden());
        set(&t.path().join("a"), c"user.containers.override_stat");
        assert!(look().is_overridden());
        std::fs::create_dir(t.path().join("c")).unwrap();
        assert!(!look().is_overridden());
        set(t.path(), c"user.containers.override_stat");
        assert!(look().is_overridden());
    }
}
