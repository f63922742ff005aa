//! Does to a real `Union`, without a mount, what the model is told, and looks at the result.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CStr;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use acetate::sys::{Dev, Errno, Kind, NameBuf};
use acetate::union::{
    Attr, Caller, Config, HandleId, NewNode, NoTransport, NodeId, Owner, ROOT, RenameMode, SetAttr,
    SetXattrMode, Union,
};

use crate::reference::{Body, Model, Op, Path, RenameFlag, Spec, hard_content};
use crate::support::layer::Layer;

pub const ATTR: &CStr = c"user.a";

pub fn caller() -> Caller {
    let owner = Owner { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() };
    Caller { owner, pid: std::process::id(), request: 0 }
}

pub fn name(name: &str) -> NameBuf {
    NameBuf::new(name.as_bytes()).expect("a valid name")
}

pub fn new_node(mode: u32) -> NewNode {
    NewNode { mode, umask: 0, security: Vec::new() }
}

/// Directories of one stack.
pub struct Stack {
    _base: tempfile::TempDir,
    pub config: Config,
}

impl Stack {
    /// Builds the layers in a temporary directory, on a filesystem in memory where there is one.
    pub fn build(layers: &[Vec<(&'static str, Spec)>], config: &Config) -> Stack {
        let shm = FsPath::new("/dev/shm");
        let base = tempfile::tempdir_in(shm).or_else(|_| tempfile::tempdir()).expect("a temporary directory");
        let mut config = config.clone();
        let private = if config.userxattr { "user.overlay" } else { "trusted.overlay" };
        for (at, spec) in layers.iter().enumerate() {
            let root = make_dir(base.path(), &format!("lower{at}"));
            let layer = Layer::new(&root, at);
            let mut first = HashMap::new();
            build(&layer, "", spec, private, &mut first);
            layer.finish();
            config.lower.push(root);
        }
        config.upper = Some(make_dir(base.path(), "upper"));
        config.work = Some(make_dir(base.path(), "work"));
        Stack { _base: base, config }
    }

    pub fn open(&self) -> Union {
        match Union::open(&self.config, Arc::new(NoTransport)) {
            Ok(union) => union,
            Err(e) => panic!("opening the stack: {e}"),
        }
    }

    /// The names in the scratch directory, but for one spare whiteout.
    pub fn litter(&self) -> Vec<String> {
        use std::os::unix::fs::FileTypeExt;
        let work = self.config.work.as_ref().expect("an upper").join("work");
        let mut litter = Vec::new();
        let mut spares = 0;
        for entry in std::fs::read_dir(work).expect("the scratch directory") {
            let entry = entry.expect("an entry");
            spares += usize::from(entry.file_type().expect("a type").is_char_device());
            if spares != 1 || !entry.file_type().expect("a type").is_char_device() {
                litter.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        litter
    }
}

fn make_dir(base: &FsPath, name: &str) -> PathBuf {
    let path = base.join(name);
    std::fs::create_dir(&path).expect("a fresh directory");
    path
}

fn build(
    layer: &Layer,
    at: &str,
    children: &[(&'static str, Spec)],
    private: &str,
    first: &mut HashMap<u8, String>,
) {
    for (name, spec) in children {
        let path = if at.is_empty() { (*name).to_owned() } else { format!("{at}/{name}") };
        match spec {
            Spec::File { content, mode, attr } => {
                layer.file(&path, content).chmod(&path, *mode);
                if let Some(value) = attr {
                    layer.xattr(&path, "user.a", value);
                }
            }
            Spec::Hard(group) => match first.get(group) {
                Some(known) => drop(layer.link(known, &path)),
                None => {
                    layer.file(&path, hard_content(*group)).chmod(&path, 0o644);
                    first.insert(*group, path);
                }
            },
            Spec::Dir { mode, opaque, children } => {
                layer.dir(&path);
                build(layer, &path, children, private, first);
                if *opaque {
                    layer.xattr(&path, &format!("{private}.opaque"), "y");
                }
                layer.chmod(&path, *mode);
            }
            Spec::Symlink(target) => drop(layer.symlink(&path, target)),
            Spec::Fifo => drop(layer.fifo(&path).chmod(&path, 0o644)),
            Spec::Whiteout => drop(layer.whiteout(&path)),
        }
    }
}

/// A file that is kept open.
struct Held {
    handle: HandleId,
    inode: usize,
    writable: bool,
}

pub struct Driver {
    stack: Stack,
    union: Option<Union>,
    /// References the kernel would hold.
    references: HashMap<NodeId, u64>,
    held: Vec<Held>,
}

/// One object as seen through the union.
#[derive(Debug)]
struct Seen {
    attr: Attr,
    body: Body,
    attrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Driver {
    pub fn new(stack: Stack) -> Driver {
        let union = Some(stack.open());
        Driver { stack, union, references: HashMap::new(), held: Vec::new() }
    }

    fn union(&self) -> &Union {
        self.union.as_ref().expect("open between operations")
    }

    fn note(&mut self, node: NodeId) {
        *self.references.entry(node).or_default() += 1;
    }

    fn walk(&mut self, path: &[&'static str]) -> Result<(NodeId, Kind), Errno> {
        let mut at = (ROOT, Kind::Dir);
        for part in path {
            if at.1 != Kind::Dir {
                return Err(Errno::ENOTDIR);
            }
            let entry = self.union().lookup(&caller(), at.0, &name(part))?.ok_or(Errno::ENOENT)?;
            self.note(entry.node);
            at = (entry.node, entry.attr.attr.kind());
        }
        Ok(at)
    }

    fn place(&mut self, path: &Path) -> Result<(NodeId, NameBuf), Errno> {
        let (last, dir) = path.split_last().expect("no operation is on the root");
        match self.walk(dir)? {
            (dir, Kind::Dir) => Ok((dir, name(last))),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn hold(&mut self, path: &Path, model: &Model, writable: bool) -> Result<(), Errno> {
        let (node, _) = self.walk(path)?;
        let flags = if writable { libc::O_RDWR } else { libc::O_RDONLY };
        let handle = self.union().open_file(&caller(), node, flags)?.handle;
        let inode = model.find(path).map_err(|_| Errno::ENOENT)?;
        self.held.push(Held { handle, inode, writable });
        Ok(())
    }

    fn release(&mut self) {
        for held in std::mem::take(&mut self.held) {
            self.union().release(held.handle);
        }
    }

    /// Gives all references back, as when the kernel drops its caches.
    fn forget(&mut self) -> Result<(), String> {
        for (node, count) in std::mem::take(&mut self.references) {
            self.union().forget(node, count);
        }
        match self.union().node_count() {
            1 => Ok(()),
            n => Err(format!("{n} nodes are left after everything was forgotten")),
        }
    }

    fn remount(&mut self, model: &mut Model) -> Result<(), String> {
        self.release();
        self.forget()?;
        self.union = None;
        let litter = self.stack.litter();
        if !litter.is_empty() {
            return Err(format!("left in the work directory: {litter:?}"));
        }
        self.union = Some(self.stack.open());
        self.forget_numbers(model);
        Ok(())
    }

    /// Without a remembered node, some numbers come from the upper.
    fn forget_numbers(&self, model: &mut Model) {
        if !nix::unistd::geteuid().is_root() {
            // Nobody else may open a file by its handle, so numbers do not survive (I-4).
            model.inodes.iter_mut().for_each(|i| i.ino = None);
        }
        if self.stack.config.userxattr {
            // Special files and symlinks take no attributes of users, so their origin is not recorded (C-13).
            let bare = |i: &&mut crate::reference::Inode| matches!(i.body, Body::Fifo | Body::Symlink(_));
            model.inodes.iter_mut().filter(bare).for_each(|i| i.ino = None);
        }
    }

    /// Carries `op` out. `Ok(answer)`: what the union said; `Err`: something that must never happen.
    pub fn apply(&mut self, op: &Op, model: &mut Model) -> Result<Result<(), Errno>, String> {
        match op {
            Op::Remount => self.remount(model)?,
            Op::Forget if self.held.is_empty() => {
                self.forget()?;
                self.forget_numbers(model);
            }
            Op::Forget => {}
            Op::Release => self.release(),
            Op::ReadHeld => self.read_held(model)?,
            Op::WriteHeld(data) => self.write_held(data, model)?,
            Op::Hold(path) => return Ok(self.hold(path, model, false)),
            Op::HoldWritable(path) => return Ok(self.hold(path, model, true)),
            other => return Ok(self.change(other)),
        }
        Ok(Ok(()))
    }

    fn read_held(&self, model: &Model) -> Result<(), String> {
        for held in &self.held {
            let content = self.read_all(held.handle).map_err(|e| format!("reading a held file: {e}"))?;
            let Body::File(wanted) = &model.inodes[held.inode].body else { continue };
            if content != *wanted {
                return Err(format!(
                    "a file held open reads {:?} instead of {:?}",
                    String::from_utf8_lossy(&content),
                    String::from_utf8_lossy(wanted)
                ));
            }
        }
        Ok(())
    }

    fn write_held(&self, data: &str, model: &mut Model) -> Result<(), String> {
        for held in self.held.iter().filter(|h| h.writable) {
            let wrote = self.union().write(&caller(), held.handle, 1, data.as_bytes(), false);
            if wrote != Ok(data.len()) {
                return Err(format!("writing a held file: {wrote:?}"));
            }
            model.write(held.inode, 1, data.as_bytes());
        }
        Ok(())
    }

    fn read_all(&self, handle: HandleId) -> Result<Vec<u8>, Errno> {
        let mut content = vec![0; 4096];
        let got = self.union().read(handle, 0, &mut content)?;
        content.truncate(got);
        Ok(content)
    }

    fn change(&mut self, op: &Op) -> Result<(), Errno> {
        let who = caller();
        match op {
            Op::Create(path, mode) => {
                let (dir, name) = self.place(path)?;
                let (entry, opened) =
                    self.union().create(&who, dir, &name, libc::O_RDWR, &new_node(*mode))?;
                self.note(entry.node);
                self.union().release(opened.handle);
            }
            Op::Mkdir(path, mode) => {
                let (dir, name) = self.place(path)?;
                let entry = self.union().mkdir(&who, dir, &name, &new_node(*mode))?;
                self.note(entry.node);
            }
            Op::Symlink(path) => {
                let (dir, name) = self.place(path)?;
                let entry = self.union().symlink(&who, dir, &name, c"a/b", &new_node(0o777))?;
                self.note(entry.node);
            }
            Op::Fifo(path) => {
                let (dir, name) = self.place(path)?;
                let new = new_node(0o640);
                let entry = self.union().mknod(&who, dir, &name, Kind::Fifo, Dev::default(), &new)?;
                self.note(entry.node);
            }
            Op::Link(from, to) => {
                let (node, _) = self.walk(from)?;
                let (dir, name) = self.place(to)?;
                let entry = self.union().link(&who, node, dir, &name)?;
                self.note(entry.node);
            }
            Op::Unlink(path) => {
                let (dir, name) = self.place(path)?;
                self.union().unlink(&who, dir, &name)?;
            }
            Op::Rmdir(path) => {
                let (dir, name) = self.place(path)?;
                self.union().rmdir(&who, dir, &name)?;
            }
            Op::Rename(from, to, flag) => {
                let (from, to) = (self.place(from)?, self.place(to)?);
                let mode = match flag {
                    RenameFlag::Replace => RenameMode::Replace,
                    RenameFlag::NoReplace => RenameMode::NoReplace,
                    RenameFlag::Exchange => RenameMode::Exchange,
                };
                self.union().rename(&who, (from.0, &from.1), (to.0, &to.1), mode)?;
            }
            Op::Write(path, offset, data) => {
                let (node, _) = self.walk(path)?;
                let handle = self.union().open_file(&who, node, libc::O_WRONLY)?.handle;
                let wrote = self.union().write(&who, handle, *offset, data.as_bytes(), false);
                self.union().release(handle);
                wrote?;
            }
            Op::OpenTruncate(path) => {
                let (node, _) = self.walk(path)?;
                let handle = self.union().open_file(&who, node, libc::O_WRONLY | libc::O_TRUNC)?.handle;
                self.union().release(handle);
            }
            Op::Truncate(path, size) => {
                self.set(path, &SetAttr { size: Some(*size), ..SetAttr::default() })?;
            }
            Op::Chmod(path, mode) => {
                self.set(path, &SetAttr { mode: Some(*mode), ..SetAttr::default() })?;
            }
            Op::SetXattr(path, value) => {
                let (node, _) = self.walk(path)?;
                self.union().setxattr(&who, node, ATTR, value.as_bytes(), SetXattrMode::Any, false)?;
            }
            Op::RemoveXattr(path) => {
                let (node, _) = self.walk(path)?;
                self.union().removexattr(&who, node, ATTR)?;
            }
            Op::List(path) => {
                let (node, _) = self.walk(path)?;
                self.list(node)?;
            }
            other => unreachable!("{other:?} is no change"),
        }
        Ok(())
    }

    fn set(&mut self, path: &Path, change: &SetAttr) -> Result<(), Errno> {
        let (node, _) = self.walk(path)?;
        self.union().setattr(&caller(), node, None, change).map(drop)
    }

    fn list(&self, node: NodeId) -> Result<Vec<(String, u64, Kind)>, Errno> {
        let mut found = Vec::new();
        let done = self.union().readdir(node, 0, &mut |entry| {
            found.push((String::from_utf8_lossy(entry.name).into_owned(), entry.ino, entry.kind));
            true
        });
        done.map(|()| found.into_iter().filter(|(n, ..)| n != "." && n != "..").collect())
    }

    /// Compares the whole tree with the model's.
    pub fn compare(&mut self, model: &mut Model) -> Result<(), String> {
        self.compare_dir(ROOT, 0, "", model)
    }

    fn compare_dir(&mut self, node: NodeId, id: usize, at: &str, model: &mut Model) -> Result<(), String> {
        let listed = self.list(node).map_err(|e| format!("listing /{at}: {e}"))?;
        let Body::Dir { children, .. } = model.inodes[id].body.clone() else {
            return Err(format!("/{at} is no directory"));
        };
        let mut names: Vec<&str> = listed.iter().map(|(n, ..)| n.as_str()).collect();
        names.sort_unstable();
        let wanted: Vec<&str> = children.keys().copied().collect();
        if names != wanted {
            return Err(format!("/{at} lists {names:?} instead of {wanted:?}"));
        }
        for (child, d_ino, kind) in &listed {
            let path = format!("{at}/{child}");
            let id = children[child.as_str()];
            let entry = match self.union().lookup(&caller(), node, &name(child)) {
                Ok(Some(entry)) => entry,
                other => return Err(format!("{path} is listed, but a lookup says {other:?}")),
            };
            self.note(entry.node);
            let attr = entry.attr.attr;
            if attr.kind() != *kind || attr.ino != *d_ino {
                return Err(format!("{path}: listed as {kind:?} {d_ino}, is {:?} {}", attr.kind(), attr.ino));
            }
            let seen = self.see(entry.node, attr).map_err(|e| format!("looking at {path}: {e}"))?;
            compare_object(&path, &seen, id, model)?;
            if *kind == Kind::Dir {
                self.compare_dir(entry.node, id, &path, model)?;
            }
        }
        Ok(())
    }

    fn see(&self, node: NodeId, attr: Attr) -> Result<Seen, Errno> {
        let union = self.union();
        let body = match attr.kind() {
            Kind::File => {
                let handle = union.open_file(&caller(), node, libc::O_RDONLY)?.handle;
                let content = self.read_all(handle);
                union.release(handle);
                Body::File(content?)
            }
            Kind::Dir => Body::Dir { children: BTreeMap::new(), has_lower: false },
            Kind::Symlink => Body::Symlink(union.readlink(node)?),
            _ => Body::Fifo,
        };
        let mut attrs = BTreeMap::new();
        for name in union.listxattr(&caller(), node)?.split(|b| *b == 0).filter(|n| !n.is_empty()) {
            let c = std::ffi::CString::new(name).expect("split at NUL");
            attrs.insert(name.to_vec(), union.getxattr(&caller(), node, &c)?);
        }
        Ok(Seen { attr, body, attrs })
    }

    /// Ends the case; gives the stack back for looking at it from outside.
    pub fn finish(mut self, model: &mut Model) -> Result<Stack, String> {
        self.remount(model)?;
        self.compare(model)?;
        self.remount(model)?;
        self.union = None;
        Ok(self.stack)
    }
}

fn compare_object(path: &str, seen: &Seen, id: usize, model: &mut Model) -> Result<(), String> {
    let inode = &mut model.inodes[id];
    let same = match (&seen.body, &inode.body) {
        (Body::Dir { .. }, Body::Dir { .. }) => true,
        (a, b) => a == b,
    };
    let attrs: BTreeMap<Vec<u8>, Vec<u8>> =
        inode.attr.iter().map(|v| (ATTR.to_bytes().to_vec(), v.clone())).collect();
    let is_dir = matches!(inode.body, Body::Dir { .. });
    let size = match &inode.body {
        Body::File(content) => content.len() as u64,
        _ => seen.attr.size,
    };
    if !same
        || seen.attr.mode & 0o7777 != inode.mode
        || seen.attrs != attrs
        || seen.attr.size != size
        || (!is_dir && seen.attr.nlink != inode.nlink)
    {
        return Err(format!("{path} is {seen:?}, should be {inode:?}"));
    }
    if *inode.ino.get_or_insert(seen.attr.ino) != seen.attr.ino {
        return Err(format!("{path} has number {} and had {:?} before", seen.attr.ino, inode.ino));
    }
    Ok(())
}
