//! The tree a stack of layers should be: a plain file tree in memory, and what each operation does to it.

use std::collections::{BTreeMap, HashMap};

use acetate::sys::Errno;

/// A path: names from the root.
pub type Path = Vec<&'static str>;

/// An object of a layer before it is mounted.
#[derive(Clone, Debug)]
pub enum Spec {
    File {
        content: &'static str,
        mode: u32,
        attr: Option<&'static str>,
    },
    /// A file that all entries of its layer with the same number are names of.
    Hard(u8),
    Dir {
        mode: u32,
        opaque: bool,
        children: Vec<(&'static str, Spec)>,
    },
    Symlink(&'static str),
    Fifo,
    Whiteout,
}

/// What the contents of hard-linked files are.
pub fn hard_content(group: u8) -> Vec<u8> {
    format!("linked {group}").into_bytes()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameFlag {
    Replace,
    NoReplace,
    Exchange,
}

#[derive(Clone, Debug)]
pub enum Op {
    Create(Path, u32),
    Mkdir(Path, u32),
    Symlink(Path),
    Fifo(Path),
    Link(Path, Path),
    Unlink(Path),
    Rmdir(Path),
    Rename(Path, Path, RenameFlag),
    Write(Path, u64, &'static str),
    Truncate(Path, u64),
    OpenTruncate(Path),
    Chmod(Path, u32),
    SetXattr(Path, &'static str),
    RemoveXattr(Path),
    /// Opens for reading and keeps it open.
    Hold(Path),
    /// Reads everything that is held open.
    ReadHeld,
    /// Writes through everything held open for it.
    HoldWritable(Path),
    WriteHeld(&'static str),
    Release,
    List(Path),
    Forget,
    Remount,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    File(Vec<u8>),
    Dir { children: BTreeMap<&'static str, usize>, has_lower: bool },
    Symlink(Vec<u8>),
    Fifo,
}

/// An object of the merged tree.
#[derive(Clone, Debug)]
pub struct Inode {
    pub body: Body,
    pub mode: u32,
    pub attr: Option<Vec<u8>>,
    pub nlink: u32,
    /// Its copy-up breaks a group of lower links (I-5).
    breaks: bool,
    /// The number it was seen with; it must keep it (I-1).
    pub ino: Option<u64>,
}

/// What an operation may answer. Several errors: whichever is looked for first.
pub type Answer = Result<(), Vec<Errno>>;

#[derive(Clone, Debug)]
pub struct Model {
    pub inodes: Vec<Inode>,
    redirect: bool,
}

pub const ROOT: usize = 0;

struct Merge<'a> {
    model: &'a mut Model,
    index: bool,
    /// Inodes of hard-linked groups by layer and number.
    groups: HashMap<(usize, u8), usize>,
    links: HashMap<(usize, u8), u32>,
}

fn count_links(layer: usize, children: &[(&'static str, Spec)], links: &mut HashMap<(usize, u8), u32>) {
    for (_, spec) in children {
        match spec {
            Spec::Hard(group) => *links.entry((layer, *group)).or_default() += 1,
            Spec::Dir { children, .. } => count_links(layer, children, links),
            _ => {}
        }
    }
}

type Contributor<'a> = (usize, u32, &'a [(&'static str, Spec)]);

impl Merge<'_> {
    fn add(&mut self, body: Body, mode: u32, attr: Option<&str>, nlink: u32) -> usize {
        let attr = attr.map(|a| a.as_bytes().to_vec());
        self.model.inodes.push(Inode {
            body,
            mode,
            attr,
            nlink,
            breaks: nlink > 1 && !self.index,
            ino: None,
        });
        self.model.inodes.len() - 1
    }

    fn dir(&mut self, parts: &[Contributor<'_>]) -> usize {
        let id = self.add(Body::Fifo, parts[0].1, None, 1);
        let mut children = BTreeMap::new();
        let mut decided: Vec<&'static str> = Vec::new();
        for (at, (layer, _, list)) in parts.iter().enumerate() {
            for (name, spec) in *list {
                if decided.contains(name) {
                    continue;
                }
                decided.push(name);
                if let Some(child) = self.child(*layer, name, spec, &parts[at + 1..]) {
                    children.insert(*name, child);
                }
            }
        }
        self.model.inodes[id].body = Body::Dir { children, has_lower: true };
        id
    }

    fn child(&mut self, layer: usize, name: &str, spec: &Spec, below: &[Contributor<'_>]) -> Option<usize> {
        Some(match spec {
            Spec::Whiteout => return None,
            Spec::File { content, mode, attr } => {
                self.add(Body::File(content.as_bytes().to_vec()), *mode, *attr, 1)
            }
            Spec::Symlink(target) => self.add(Body::Symlink(target.as_bytes().to_vec()), 0o777, None, 1),
            Spec::Fifo => self.add(Body::Fifo, 0o644, None, 1),
            Spec::Hard(group) => {
                let key = (layer, *group);
                if self.index
                    && let Some(known) = self.groups.get(&key)
                {
                    return Some(*known);
                }
                let id = self.add(Body::File(hard_content(*group)), 0o644, None, self.links[&key]);
                self.groups.insert(key, id);
                id
            }
            Spec::Dir { mode, opaque, children } => {
                let mut parts: Vec<Contributor<'_>> = vec![(layer, *mode, children)];
                let mut cut = *opaque;
                for (layer, _, list) in below {
                    if cut {
                        break;
                    }
                    match list.iter().find(|(n, _)| *n == name) {
                        None => {}
                        Some((_, Spec::Dir { mode, opaque, children })) => {
                            parts.push((*layer, *mode, children));
                            cut = *opaque;
                        }
                        Some(_) => cut = true,
                    }
                }
                self.dir(&parts)
            }
        })
    }
}

impl Model {
    /// Merges layers, top first.
    pub fn new(layers: &[Vec<(&'static str, Spec)>], index: bool, redirect: bool) -> Model {
        let mut model = Model { inodes: Vec::new(), redirect };
        let mut links = HashMap::new();
        for (at, layer) in layers.iter().enumerate() {
            count_links(at, layer, &mut links);
        }
        let parts: Vec<Contributor<'_>> =
            layers.iter().enumerate().map(|(i, l)| (i, 0o755, l.as_slice())).collect();
        Merge { model: &mut model, index, groups: HashMap::new(), links }.dir(&parts);
        model
    }

    pub fn find(&self, path: &[&'static str]) -> Result<usize, Errno> {
        let mut at = ROOT;
        for name in path {
            match &self.inodes[at].body {
                Body::Dir { children, .. } => at = *children.get(name).ok_or(Errno::ENOENT)?,
                _ => return Err(Errno::ENOTDIR),
            }
        }
        Ok(at)
    }

    fn children(&mut self, dir: usize) -> &mut BTreeMap<&'static str, usize> {
        match &mut self.inodes[dir].body {
            Body::Dir { children, .. } => children,
            other => panic!("{other:?} is no directory"),
        }
    }

    pub fn is_dir(&self, id: usize) -> bool {
        matches!(self.inodes[id].body, Body::Dir { .. })
    }

    fn is_empty(&self, id: usize) -> bool {
        matches!(&self.inodes[id].body, Body::Dir { children, .. } if children.is_empty())
    }

    fn has_lower(&self, id: usize) -> bool {
        matches!(&self.inodes[id].body, Body::Dir { has_lower: true, .. })
    }

    /// Splits a path and resolves its directory.
    fn place(&self, path: &Path) -> Result<(usize, &'static str), Vec<Errno>> {
        let (name, dir) = path.split_last().expect("no operation is on the root");
        let dir = self.find(dir).map_err(|e| vec![e])?;
        if self.is_dir(dir) { Ok((dir, name)) } else { Err(vec![Errno::ENOTDIR]) }
    }

    fn add(&mut self, path: &Path, body: Body, mode: u32) -> Answer {
        let (dir, name) = self.place(path)?;
        if self.children(dir).contains_key(name) {
            return Err(vec![Errno::EEXIST]);
        }
        self.inodes.push(Inode { body, mode, attr: None, nlink: 1, breaks: false, ino: None });
        let id = self.inodes.len() - 1;
        self.children(dir).insert(name, id);
        Ok(())
    }

    /// Whether `id` is `top` or in it.
    fn beneath(&self, id: usize, top: usize) -> bool {
        match &self.inodes[top].body {
            _ if id == top => true,
            Body::Dir { children, .. } => children.values().any(|c| self.beneath(id, *c)),
            _ => false,
        }
    }

    fn copy_up(&mut self, id: usize) {
        let inode = &mut self.inodes[id];
        if std::mem::take(&mut inode.breaks) {
            inode.nlink = 1;
            inode.ino = None;
        }
    }

    /// The file a change of contents is about.
    fn file(&mut self, path: &Path) -> Result<(usize, &mut Vec<u8>), Vec<Errno>> {
        let id = self.find(path).map_err(|e| vec![e])?;
        if !matches!(self.inodes[id].body, Body::File(_)) {
            return Err(vec![Errno::EISDIR, Errno::ENOTSUP]);
        }
        self.copy_up(id);
        match &mut self.inodes[id].body {
            Body::File(content) => Ok((id, content)),
            _ => unreachable!("looked at above"),
        }
    }

    pub fn write(&mut self, id: usize, offset: u64, data: &[u8]) {
        self.copy_up(id);
        let Body::File(content) = &mut self.inodes[id].body else { return };
        let (from, to) = (offset as usize, offset as usize + data.len());
        if content.len() < to {
            content.resize(to, 0);
        }
        content[from..to].copy_from_slice(data);
    }

    /// Whether the driver can carry an operation out at all: the kernel never sends the others.
    pub fn is_sensible(&self, op: &Op) -> bool {
        let is = |path: &Path, wanted: fn(&Body) -> bool| {
            self.find(path).map_or(true, |id| wanted(&self.inodes[id].body))
        };
        match op {
            Op::Write(p, ..)
            | Op::Truncate(p, _)
            | Op::OpenTruncate(p)
            | Op::Hold(p)
            | Op::HoldWritable(p) => is(p, |b| matches!(b, Body::File(_))),
            Op::Chmod(p, _) => is(p, |b| !matches!(b, Body::Symlink(_))),
            Op::List(p) => is(p, |b| matches!(b, Body::Dir { .. })),
            _ => true,
        }
    }

    pub fn apply(&mut self, op: &Op) -> Answer {
        match op {
            Op::Create(path, mode) => self.add(path, Body::File(Vec::new()), *mode),
            Op::Mkdir(path, mode) => {
                self.add(path, Body::Dir { children: BTreeMap::new(), has_lower: false }, *mode)
            }
            Op::Symlink(path) => self.add(path, Body::Symlink(b"a/b".to_vec()), 0o777),
            Op::Fifo(path) => self.add(path, Body::Fifo, 0o640),
            Op::Link(from, to) => self.link(from, to),
            Op::Unlink(path) => self.remove(path, false),
            Op::Rmdir(path) => self.remove(path, true),
            Op::Rename(from, to, flag) => self.rename(from, to, *flag),
            Op::Write(path, offset, data) => {
                let (id, _) = self.file(path)?;
                self.write(id, *offset, data.as_bytes());
                Ok(())
            }
            Op::Truncate(path, size) => self.file(path).map(|(_, content)| content.resize(*size as usize, 0)),
            Op::OpenTruncate(path) => self.file(path).map(|(_, content)| content.clear()),
            Op::HoldWritable(path) => self.file(path).map(drop),
            Op::Chmod(path, mode) => {
                let id = self.find(path).map_err(|e| vec![e])?;
                self.copy_up(id);
                self.inodes[id].mode = *mode;
                Ok(())
            }
            Op::SetXattr(path, value) => {
                let id = self.may_have_attr(path)?;
                self.copy_up(id);
                self.inodes[id].attr = Some(value.as_bytes().to_vec());
                Ok(())
            }
            Op::RemoveXattr(path) => {
                let id = self.may_have_attr(path)?;
                if self.inodes[id].attr.is_none() {
                    return Err(vec![Errno::ENODATA]);
                }
                self.copy_up(id);
                self.inodes[id].attr = None;
                Ok(())
            }
            Op::Hold(path) | Op::List(path) => self.find(path).map(drop).map_err(|e| vec![e]),
            Op::ReadHeld | Op::WriteHeld(_) | Op::Release | Op::Forget | Op::Remount => Ok(()),
        }
    }

    fn may_have_attr(&self, path: &Path) -> Result<usize, Vec<Errno>> {
        let id = self.find(path).map_err(|e| vec![e])?;
        match self.inodes[id].body {
            Body::File(_) | Body::Dir { .. } => Ok(id),
            _ => Err(vec![Errno::EPERM, Errno::ENODATA]),
        }
    }

    fn link(&mut self, from: &Path, to: &Path) -> Answer {
        let id = self.find(from).map_err(|e| vec![e])?;
        let place = self.place(to);
        let mut errors = Vec::new();
        if self.is_dir(id) {
            errors.push(Errno::EPERM);
        }
        match place {
            Err(e) => errors.extend(e),
            Ok((dir, name)) if self.children(dir).contains_key(name) => errors.push(Errno::EEXIST),
            Ok((dir, name)) if errors.is_empty() => {
                self.copy_up(id);
                self.inodes[id].nlink += 1;
                self.children(dir).insert(name, id);
                return Ok(());
            }
            Ok(_) => {}
        }
        if errors == [Errno::EEXIST] {
            // The source was copied up before the target was looked at.
            self.copy_up(id);
        }
        Err(errors)
    }

    fn remove(&mut self, path: &Path, dir_wanted: bool) -> Answer {
        let (dir, name) = self.place(path)?;
        let id = *self.children(dir).get(name).ok_or(vec![Errno::ENOENT])?;
        match (self.is_dir(id), dir_wanted) {
            (true, false) => return Err(vec![Errno::EISDIR]),
            (false, true) => return Err(vec![Errno::ENOTDIR]),
            (true, true) if !self.is_empty(id) => return Err(vec![Errno::ENOTEMPTY]),
            _ => {}
        }
        self.children(dir).remove(name);
        self.inodes[id].nlink -= 1;
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path, flag: RenameFlag) -> Answer {
        let (old, old_name) = self.place(from)?;
        let missing = !self.children(old).contains_key(old_name);
        let (new, new_name) = self.place(to).map_err(|mut errors| {
            errors.extend(missing.then_some(Errno::ENOENT));
            errors
        })?;
        let source = *self.children(old).get(old_name).ok_or(vec![Errno::ENOENT])?;
        let target = self.children(new).get(new_name).copied();
        let mut errors = Vec::new();
        let fixed = |id| !self.redirect && self.has_lower(id);
        if self.beneath(new, source) {
            errors.push(Errno::EINVAL);
        }
        if fixed(source) {
            errors.push(Errno::EXDEV);
        }
        match (target, flag) {
            (Some(_), RenameFlag::NoReplace) => errors.push(Errno::EEXIST),
            (Some(t), RenameFlag::Replace) if t == source => return Ok(()),
            (Some(t), RenameFlag::Replace) => match (self.is_dir(t), self.is_dir(source)) {
                (true, false) => errors.extend([Errno::EISDIR, Errno::ENOTEMPTY]),
                (false, true) => errors.push(Errno::ENOTDIR),
                (true, true) if !self.is_empty(t) => errors.push(Errno::ENOTEMPTY),
                _ => {}
            },
            (Some(t), RenameFlag::Exchange) => {
                if self.beneath(old, t) {
                    errors.push(Errno::EINVAL);
                }
                if fixed(t) {
                    errors.push(Errno::EXDEV);
                }
            }
            (None, RenameFlag::Exchange) => errors.push(Errno::ENOENT),
            (None, _) => {}
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        self.copy_up(source);
        self.children(old).remove(old_name);
        match (target, flag) {
            (Some(t), RenameFlag::Exchange) => {
                self.copy_up(t);
                self.children(old).insert(old_name, t);
            }
            (Some(t), _) => self.inodes[t].nlink -= 1,
            (None, _) => {}
        }
        self.children(new).insert(new_name, source);
        Ok(())
    }
}
