//! Comparing what is in the store with what was unpacked.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::sync::Arc;

use serde::Serialize;

use super::super::digest::Digest;
use super::super::refusal::Result as Taken;
use super::super::unpack::contents::{self, Line, What};
use super::super::unpack::dialect::{Attributes, Dialect, OVERRIDE};
use super::super::unpack::hash_of_file;
use super::Store;
use crate::error::SetupError;
use crate::layer::marks::{Mark, Prefix};
use crate::sys::{At, Dev, Dir, Kind, NameBuf};

/// Something that is not as it was unpacked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// In which layer or image.
    pub of: Digest,
    /// Which file, if it is one.
    pub path: Option<String>,
    /// What is the matter.
    pub what: String,
}

/// What was compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Images.
    pub images: u64,
    /// Layers.
    pub layers: u64,
    /// Objects in them.
    pub objects: u64,
    /// Bytes read.
    pub bytes: u64,
    /// What is not as it should be.
    pub problems: Vec<Problem>,
}

impl Store {
    /// Reads these images and their layers whole, each layer once.
    ///
    /// # Errors
    /// The store itself cannot be read; what is wrong in it is no error but a problem.
    pub fn verify(
        &self,
        images: &[Digest],
        tell: &dyn Fn(&Digest),
    ) -> std::result::Result<Verified, SetupError> {
        let mut verified = Verified::default();
        let mut layers = BTreeMap::new();
        for id in images {
            let Some(_held) = self.hold_image(id)? else { continue };
            verified.images += 1;
            match self.image(id) {
                Ok(image) => layers.extend(image.layers.into_iter().map(|layer| (layer.diff_id, *id))),
                Err(e) => verified.problems.push(Problem { of: *id, path: None, what: e.to_string() }),
            }
            let config = std::fs::read(self.image_path(id).join("config.json"));
            if config.map(|config| Digest::of(&config)).ok() != Some(*id) {
                let what = "its configuration is missing or has another digest".to_string();
                verified.problems.push(Problem { of: *id, path: None, what });
            }
        }
        for layer in layers.keys() {
            tell(layer);
            let Some(_held) = self.hold_layer(layer)? else {
                let what = "it is missing".to_string();
                verified.problems.push(Problem { of: *layer, path: None, what });
                continue;
            };
            verified.layers += 1;
            if let Err(refusal) = self.verify_layer(layer, &mut verified) {
                let what = refusal.during(format!("read the layer {layer}")).to_string();
                verified.problems.push(Problem { of: *layer, path: None, what });
            }
        }
        Ok(verified)
    }

    fn verify_layer(&self, layer: &Digest, verified: &mut Verified) -> Taken<()> {
        let place = self.layer_path(layer);
        let mut expected = BTreeMap::new();
        let totals = contents::read(&place.join("contents"), |path, line| {
            if let Some(before) = expected.insert(path.clone(), line) {
                outlive(&mut expected, &path, before);
            }
        })?;
        verified.bytes += totals.bytes;
        let mut walk = Walk { dialect: self.dialect, expected, seen: 0, problems: Vec::new() };
        walk.tree(Dir::open_path(&place.join("tree"))?)?;
        verified.objects += walk.seen;
        if let Some(what) = self.wrong_index(layer)? {
            verified.problems.push(Problem { of: *layer, path: None, what });
        }
        let missing = std::mem::take(&mut walk.expected);
        walk.problems.extend(missing.into_keys().map(|path| (path, "it is missing".to_string())));
        verified.problems.extend(walk.problems.into_iter().map(|(path, what)| Problem {
            of: *layer,
            path: Some(format!("/{}", path.escape_ascii())),
            what,
        }));
        Ok(())
    }
}

/// `path` was replaced; the other names of what it was before are names of one another now.
fn outlive(expected: &mut BTreeMap<Vec<u8>, Line>, path: &[u8], before: Line) {
    let mut heir = match before.what {
        What::Dir { .. } | What::Whiteout => return,
        What::Hardlink(ref target) => Some(target.clone()),
        _ => None,
    };
    for (name, line) in expected.iter_mut() {
        match &mut line.what {
            What::Hardlink(target) if target == path => match &heir {
                Some(heir) => target.clone_from(heir),
                None => {
                    heir = Some(name.clone());
                    *line = before.clone();
                }
            },
            _ => {}
        }
    }
}

struct Walk {
    dialect: Dialect,
    expected: BTreeMap<Vec<u8>, Line>,
    seen: u64,
    problems: Vec<(Vec<u8>, String)>,
}

impl Walk {
    /// Compares a tree; each directory is held only while it is on the way.
    fn tree(&mut self, root: Dir) -> Taken<()> {
        let root = Arc::new(root);
        // Hard links are described by the path they were linked to, which may come later.
        let mut links: Vec<(Vec<u8>, Vec<u8>, u64)> = Vec::new();
        let mut numbers: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        let targets: std::collections::BTreeSet<Vec<u8>> = self
            .expected
            .values()
            .filter_map(|line| match &line.what {
                What::Hardlink(target) => Some(target.clone()),
                _ => None,
            })
            .collect();
        self.object(root.this(), None, b"")?;
        let mut waiting: Vec<(Arc<Dir>, Vec<u8>)> = vec![(root, Vec::new())];
        while let Some((dir, path)) = waiting.pop() {
            let mut below = Vec::new();
            for entry in dir.entries()? {
                let at = if path.is_empty() {
                    entry.name.as_bytes().to_vec()
                } else {
                    [&path, entry.name.as_bytes()].join(&b'/')
                };
                let stat = dir.stat(&entry.name)?;
                if targets.contains(&at) {
                    numbers.insert(at.clone(), stat.ino);
                }
                if let Some(Line { what: What::Hardlink(target), .. }) = self.expected.get(&at) {
                    links.push((at.clone(), target.clone(), stat.ino));
                    self.expected.remove(&at);
                    self.seen += 1;
                    continue;
                }
                self.object(dir.at(&entry.name), Some((&dir, &entry.name)), &at)?;
                if Kind::of_mode(stat.mode) == Kind::Dir {
                    below.push((entry.name, at));
                }
            }
            // One descriptor for each directory that waits; a layer's directories have few of them at a time.
            for (name, at) in below {
                waiting.push((Arc::new(dir.open_dir(&name)?), at));
            }
        }
        for (path, target, number) in links {
            if numbers.get(&target) != Some(&number) {
                self.problems.push((path, "it is no other name of what it was linked to".into()));
            }
        }
        Ok(())
    }

    fn object(&mut self, at: At<'_>, name: Option<(&Dir, &NameBuf)>, path: &[u8]) -> Taken<()> {
        self.seen += 1;
        let Some(line) = self.expected.remove(path) else {
            self.problems.push((path.to_vec(), "it was not unpacked".into()));
            return Ok(());
        };
        if let Some(what) = self.differs(at, name, &line)? {
            self.problems.push((path.to_vec(), what));
        }
        Ok(())
    }

    /// What is not as it should be.
    fn differs(&self, at: At<'_>, name: Option<(&Dir, &NameBuf)>, line: &Line) -> Taken<Option<String>> {
        let stat = at.stat()?;
        let kind = match &line.what {
            What::File(..) => Kind::File,
            What::Dir { .. } => Kind::Dir,
            What::Symlink(_) => Kind::Symlink,
            What::Device(kind, ..) => *kind,
            What::Fifo => Kind::Fifo,
            What::Whiteout => {
                let is_whiteout = Kind::of_mode(stat.mode) == Kind::Char && stat.rdev == Dev::default();
                return Ok((!is_whiteout).then(|| "it is no whiteout any more".into()));
            }
            What::Hardlink(_) => return Ok(None),
        };
        let real = self.dialect.real_kind(kind);
        if Kind::of_mode(stat.mode) != real {
            return Ok(Some("it is of another type".into()));
        }
        let mut found = Vec::new();
        if kind != Kind::Symlink && stat.mode & 0o7777 != self.dialect.real_mode(kind, line.mode) {
            found.push("mode");
        }
        if self.dialect != Dialect::User && (stat.uid, stat.gid) != (line.uid, line.gid) {
            found.push("owner");
        }
        if stat.mtime != line.mtime {
            found.push("time");
        }
        let attributes =
            Attributes { mode: line.mode, uid: line.uid, gid: line.gid, ..Attributes::implicit() };
        let attributes = match line.what {
            What::Device(_, major, minor) => Attributes { device: (major, minor), ..attributes },
            _ => attributes,
        };
        let (xattrs, override_stat, opaque) = self.xattrs(at)?;
        if override_stat != self.dialect.override_stat(kind, &attributes).map(String::into_bytes) {
            found.push("owner or mode (user.containers.override_stat)");
        }
        // What could not be kept was told at the import; it is not missed now.
        if contents::hash_of(&xattrs) != line.xattrs && self.dialect == Dialect::Root {
            found.push("attributes");
        }
        match &line.what {
            What::Dir { opaque: expected, .. } if *expected != opaque => {
                found.push("whether it replaces what is below")
            }
            What::Symlink(hash) if contents::hash(&at.readlink()?) != *hash => found.push("target"),
            What::Device(_, major, minor)
                if real != Kind::File && stat.rdev != (Dev { major: *major, minor: *minor }) =>
            {
                found.push("device number");
            }
            What::File(size, _) if stat.size != *size => found.push("size"),
            What::File(size, hash) => {
                let (dir, name) = name.ok_or_else(|| super::super::refusal::Refusal::new("it is no file"))?;
                let file: File = dir.at(name).open(libc::O_RDONLY | libc::O_NOFOLLOW)?.into();
                if hash_of_file(&file, *size)? != *hash {
                    found.push("contents");
                }
            }
            _ => {}
        }
        Ok((!found.is_empty()).then(|| format!("changed: {}", found.join(", "))))
    }

    /// Plain attributes; `override_stat`; whether it is opaque.
    #[allow(clippy::type_complexity)]
    fn xattrs(&self, at: At<'_>) -> Taken<(Vec<(CString, Vec<u8>)>, Option<Vec<u8>>, bool)> {
        let (mut plain, mut override_stat, mut opaque) = (Vec::new(), None, false);
        let prefix: Prefix = self.dialect.prefix();
        for name in at.listxattr()?.split_inclusive(|b| *b == 0) {
            let Ok(name) = std::ffi::CStr::from_bytes_with_nul(name) else { continue };
            let value = at.getxattr(name)?;
            if name == prefix.attr(Mark::Opaque) {
                opaque = value == b"y";
            } else if name == OVERRIDE {
                override_stat = Some(value);
            } else {
                plain.push((name.to_owned(), value));
            }
        }
        Ok((plain, override_stat, opaque))
    }
}
