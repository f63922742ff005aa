//! The vocabulary of scripted scenarios: one short method for each operation.

use std::path::Path;

use nix::errno::Errno;

use super::op::{At, Op, Rel, Slot, Stamp, Who};
use super::outcome::{Outcome, Value};
use super::pair::{Mismatch, Pair};
use super::stack::Set;

/// Where a script performs its operations.
pub struct Script {
    pair: Pair,
}

/// What the kernel answered, to be checked against what the scenario is about.
#[derive(Debug)]
pub struct Seen {
    op: String,
    outcome: Outcome,
}

impl Seen {
    #[track_caller]
    fn complain(&self, wanted: &str) -> ! {
        panic!("{} answered {:?} on the kernel, the scenario wants {wanted}", self.op, self.outcome)
    }

    /// It worked.
    #[track_caller]
    pub fn ok(&self) {
        if self.outcome.is_err() {
            self.complain("success");
        }
    }

    /// It failed like this.
    #[track_caller]
    pub fn fails(&self, errno: Errno) {
        if self.outcome != Err(errno) {
            self.complain(&format!("{errno:?}"));
        }
    }

    /// It gave these bytes.
    #[track_caller]
    pub fn gives(&self, bytes: impl AsRef<[u8]>) {
        let value = Value::Bytes(bytes.as_ref().to_vec());
        if self.outcome != Ok(value.clone()) {
            self.complain(&format!("{value:?}"));
        }
    }

    /// It counted this.
    #[track_caller]
    pub fn counts(&self, number: i64) {
        if self.outcome != Ok(Value::Number(number)) {
            self.complain(&number.to_string());
        }
    }

    /// Its lines are exactly these words.
    #[track_caller]
    pub fn lines(&self, wanted: &str) {
        let words: Vec<String> = wanted.split_whitespace().map(str::to_owned).collect();
        match &self.outcome {
            Ok(Value::Lines(lines))
                if lines.join(" ").split_whitespace().eq(words.iter().map(String::as_str)) => {}
            _ => self.complain(&format!("{words:?}")),
        }
    }

    /// Among its lines are all of these words.
    #[track_caller]
    pub fn shows(&self, wanted: &str) -> &Self {
        let Ok(Value::Lines(lines)) = &self.outcome else { self.complain(wanted) };
        let shown = lines.join(" ");
        if !wanted.split_whitespace().all(|word| shown.split_whitespace().any(|line| line == word)) {
            self.complain(wanted);
        }
        self
    }

    /// None of its lines contains this.
    #[track_caller]
    pub fn lacks(&self, unwanted: &str) -> &Self {
        match &self.outcome {
            Ok(Value::Lines(lines)) if !lines.iter().any(|line| line.contains(unwanted)) => self,
            _ => self.complain(&format!("lines without {unwanted}")),
        }
    }
}

macro_rules! verbs {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $kind:ty),*) => $op:expr;)*) => {
        impl Script {
            $($(#[$doc])* #[track_caller] pub fn $name(&mut self, $($arg: $kind),*) -> Seen { self.op($op) })*
        }
    };
}

verbs! {
    /// Opens into a slot, mode 0644.
    open(slot: Slot, path: impl Into<Rel>, flags: i32) => Op::Open { slot, path: path.into(), flags, mode: 0o644 };
    /// Opens into a slot with a mode.
    open_mode(slot: Slot, path: impl Into<Rel>, flags: i32, mode: u32) =>
        Op::Open { slot, path: path.into(), flags, mode };
    close(slot: Slot) => Op::Close(slot);
    read(slot: Slot, len: usize) => Op::Read { slot, len };
    pread(slot: Slot, offset: i64, len: usize) => Op::Pread { slot, offset, len };
    write(slot: Slot, data: impl AsRef<[u8]>) => Op::Write { slot, data: data.as_ref().to_vec() };
    pwrite(slot: Slot, offset: i64, data: impl AsRef<[u8]>) =>
        Op::Pwrite { slot, offset, data: data.as_ref().to_vec() };
    direct_read(slot: Slot, offset: i64, len: usize) => Op::DirectRead { slot, offset, len };
    direct_write(slot: Slot, offset: i64, data: impl AsRef<[u8]>) =>
        Op::DirectWrite { slot, offset, data: data.as_ref().to_vec() };
    seek(slot: Slot, offset: i64, whence: i32) => Op::Seek { slot, offset, whence };
    fsync(slot: Slot) => Op::Fsync(slot);
    fdatasync(slot: Slot) => Op::Fdatasync(slot);
    syncfs(slot: Slot) => Op::Syncfs(slot);
    fallocate(slot: Slot, mode: i32, offset: i64, len: i64) => Op::Fallocate { slot, mode, offset, len };
    copy_range(from: Slot, from_at: i64, to: Slot, to_at: i64, len: usize) =>
        Op::CopyRange { from, from_at, to, to_at, len };
    flock(slot: Slot, operation: i32) => Op::Flock { slot, operation };
    ofd_lock(slot: Slot, kind: i32) => Op::OfdLock { slot, kind: kind as i16 };
    /// Maps the beginning of an open file, shared.
    map(map: Slot, slot: Slot, len: usize, writable: bool) => Op::Map { map, slot, len, writable, shared: true };
    /// Maps it privately.
    map_private(map: Slot, slot: Slot, len: usize, writable: bool) =>
        Op::Map { map, slot, len, writable, shared: false };
    map_read(map: Slot, offset: usize, len: usize) => Op::MapRead { map, offset, len };
    map_write(map: Slot, offset: usize, data: impl AsRef<[u8]>) =>
        Op::MapWrite { map, offset, data: data.as_ref().to_vec() };
    map_sync(map: Slot) => Op::MapSync(map);
    unmap(map: Slot) => Op::Unmap(map);
    /// The content of a file.
    cat(path: impl Into<Rel>) => Op::ReadFile(path.into());
    /// Creates or truncates, and writes.
    put(path: impl Into<Rel>, data: impl AsRef<[u8]>) =>
        Op::WriteFile { path: path.into(), data: data.as_ref().to_vec() };
    append(path: impl Into<Rel>, data: impl AsRef<[u8]>) =>
        Op::Append { path: path.into(), data: data.as_ref().to_vec() };
    execute(path: impl Into<Rel>) => Op::Execute(path.into());
    mkdir(path: impl Into<Rel>) => Op::Mkdir { path: path.into(), mode: 0o755 };
    mkdir_mode(path: impl Into<Rel>, mode: u32) => Op::Mkdir { path: path.into(), mode };
    mknod(path: impl Into<Rel>, mode: u32, major: u32, minor: u32) =>
        Op::Mknod { path: path.into(), mode, device: (major, minor) };
    symlink(target: impl Into<Rel>, path: impl Into<Rel>) =>
        Op::Symlink { target: target.into(), path: path.into() };
    link(old: impl Into<Rel>, new: impl Into<Rel>) => Op::Link { old: old.into(), new: new.into() };
    link_slot(slot: Slot, new: impl Into<Rel>) => Op::LinkSlot { slot, new: new.into() };
    unlink(path: impl Into<Rel>) => Op::Unlink(path.into());
    rmdir(path: impl Into<Rel>) => Op::Rmdir(path.into());
    rename(from: impl Into<Rel>, to: impl Into<Rel>) => Op::Rename { from: from.into(), to: to.into(), flags: 0 };
    rename_flags(from: impl Into<Rel>, to: impl Into<Rel>, flags: u32) =>
        Op::Rename { from: from.into(), to: to.into(), flags };
    exchange(from: impl Into<Rel>, to: impl Into<Rel>) =>
        Op::Rename { from: from.into(), to: to.into(), flags: libc::RENAME_EXCHANGE };
    readlink(path: impl Into<Rel>) => Op::Readlink(path.into());
    stat(at: impl Into<At>) => Op::Stat(at.into());
    times(at: impl Into<At>) => Op::Times(at.into());
    /// Whether two things are one inode; counts 1 or 0.
    same(one: impl Into<At>, other: impl Into<At>) => Op::Same(one.into(), other.into());
    remember(path: impl Into<Rel>) => Op::Remember(path.into());
    /// What of a remembered object is different now.
    changed(path: &str) => Op::Changed { path: path.into(), since: path.into() };
    /// What of an object is different from another remembered one.
    changed_since(path: impl Into<Rel>, since: impl Into<Rel>) =>
        Op::Changed { path: path.into(), since: since.into() };
    chmod(at: impl Into<At>, mode: u32) => Op::Chmod { at: at.into(), mode };
    chown(at: impl Into<At>, uid: u32, gid: u32) => Op::Chown { at: at.into(), uid, gid };
    utimens(at: impl Into<At>, atime: Stamp, mtime: Stamp) => Op::Utimens { at: at.into(), atime, mtime };
    truncate(at: impl Into<At>, len: i64) => Op::Truncate { at: at.into(), len };
    access(path: impl Into<Rel>, mode: i32) => Op::Access { path: path.into(), mode };
    statfs(path: impl Into<Rel>) => Op::Statfs(path.into());
    blocks(path: impl Into<Rel>) => Op::Blocks(path.into());
    get_flags(at: impl Into<At>) => Op::GetFlags(at.into());
    set_flags(at: impl Into<At>, flags: u32) => Op::SetFlags { at: at.into(), flags };
    get_fsx(at: impl Into<At>) => Op::GetFsx(at.into());
    set_fsx(at: impl Into<At>, flags: u32, project: u32) => Op::SetFsx { at: at.into(), flags, project };
    ioctl(at: impl Into<At>, request: u64) => Op::Ioctl { at: at.into(), request };
    set(at: impl Into<At>, name: &str, value: impl AsRef<[u8]>) =>
        Op::Setxattr { at: at.into(), name: name.into(), value: value.as_ref().to_vec(), flags: 0 };
    set_with(at: impl Into<At>, name: &str, value: impl AsRef<[u8]>, flags: i32) =>
        Op::Setxattr { at: at.into(), name: name.into(), value: value.as_ref().to_vec(), flags };
    get(at: impl Into<At>, name: &str) => Op::Getxattr { at: at.into(), name: name.into() };
    xattrs(at: impl Into<At>) => Op::Listxattr(at.into());
    unset(at: impl Into<At>, name: &str) => Op::Removexattr { at: at.into(), name: name.into() };
    /// Names and types in a directory: `. 4`, `.. 4`, `name type`.
    ls(path: impl Into<Rel>) => Op::List(path.into());
    list_slot(slot: Slot, buffer: usize) => Op::ListSlot { slot, buffer };
    list_some(slot: Slot, count: usize) => Op::ListSome { slot, count };
    seek_entry(slot: Slot, keep: usize) => Op::SeekEntry { slot, keep };
    remove_listed(slot: Slot, count: usize, given: bool) => Op::RemoveListed { slot, count, given };
    list_rest(slot: Slot, buffer: usize) => Op::ListRest { slot, buffer };
    drain(slot: Slot, buffer: usize) => Op::Drain { slot, buffer };
    watch(path: impl Into<Rel>, mask: u32) => Op::Watch { path: path.into(), mask };
    events() => Op::Events;
    handle(name: Slot, path: impl Into<Rel>) => Op::Handle { name, path: path.into() };
    open_handle(name: Slot, slot: Slot, flags: i32) => Op::OpenHandle { name, slot, flags };
    /// The object in the upper layer.
    in_upper(path: impl Into<Rel>) => Op::Upper(path.into());
    /// The names in a part of the work directory.
    in_work(path: impl Into<Rel>) => Op::Work(path.into());
    umask(mask: u32) => Op::Umask(mask);
    remount() => Op::Remount;
    /// Goes on as an ordinary user with a group of the same number.
    become_user(uid: u32) => Op::Become(Who { uid, gid: uid, groups: Vec::new() });
    /// Goes on with these ids and groups.
    become_who(uid: u32, gid: u32, groups: &[u32]) => Op::Become(Who { uid, gid, groups: groups.to_vec() });
    become_root() => Op::Become(Who { uid: 0, gid: 0, groups: Vec::new() });
}

impl Script {
    /// Starts with a pair of mounts.
    pub fn new(pair: Pair) -> Self {
        Self { pair }
    }

    /// Performs an operation on both sides.
    #[track_caller]
    pub fn op(&mut self, op: Op) -> Seen {
        match self.pair.perform(&op) {
            Ok(outcome) => Seen { op: format!("{op:?}"), outcome },
            Err(Mismatch(story)) => panic!("{story}"),
        }
    }

    /// Performs an operation for which the candidate may have a better answer.
    #[track_caller]
    pub fn either(&mut self, op: Op, better: &[Outcome]) -> Seen {
        match self.pair.perform_either(&op, better) {
            Ok(outcome) => Seen { op: format!("{op:?}"), outcome },
            Err(Mismatch(story)) => panic!("{story}"),
        }
    }

    /// Runs something on each mount by itself; both must see the same.
    #[track_caller]
    pub fn each(&mut self, work: impl Fn(&Path) -> Vec<String>) -> Seen {
        let wanted = work(&self.pair.reference.set.mount_point);
        let got = work(&self.pair.candidate.set.mount_point);
        assert_eq!(wanted, got, "reference, candidate");
        Seen { op: "this".into(), outcome: Ok(Value::Lines(wanted)) }
    }

    /// Compares the merged trees in the middle of the script.
    #[track_caller]
    pub fn compare(&mut self) {
        if let Err(Mismatch(story)) = self.pair.compare_trees() {
            panic!("{story}");
        }
    }

    /// Unmounts both sides, changes something on disk in the same way in both, and mounts them again.
    #[track_caller]
    pub fn meanwhile(&mut self, change: impl Fn(&Set)) {
        let between = self.pair.unmount_both().and_then(|()| {
            change(&self.pair.reference.set);
            change(&self.pair.candidate.set);
            self.pair.mount_both()
        });
        if let Err(Mismatch(story)) = between {
            panic!("{story}");
        }
    }

    /// Mounts both sides again with other options, which both must accept.
    #[track_caller]
    pub fn remount_with(&mut self, options: &str) {
        self.pair.set_options(options);
        self.remount();
    }

    /// Unmounts both sides for good; both must then refuse these options.
    #[track_caller]
    pub fn refuse_to_mount(&mut self, options: &str) {
        let unmounted = self.pair.unmount_both();
        assert!(unmounted.is_ok(), "{unmounted:?}");
        self.pair.set_options(options);
        assert_eq!(
            self.pair.try_mounts(),
            (false, false),
            "{options:?} must be refused (reference, candidate)"
        );
    }

    /// Both must accept these options on unmounted layers.
    #[track_caller]
    pub fn accept_to_mount(&mut self, options: &str) {
        self.pair.set_options(options);
        assert_eq!(
            self.pair.try_mounts(),
            (true, true),
            "{options:?} must be accepted (reference, candidate)"
        );
    }

    /// Both must refuse these options on unmounted layers; `{l1}`, `{l2}`, `{u}` and `{w}` stand for directories.
    #[track_caller]
    pub fn refuse_raw(&mut self, options: &str) {
        let unmounted = self.pair.unmount_both();
        assert!(unmounted.is_ok(), "{unmounted:?}");
        assert_eq!(
            self.pair.try_raw(options),
            (false, false),
            "{options:?} must be refused (reference, candidate)"
        );
    }

    /// Both must accept them.
    #[track_caller]
    pub fn accept_raw(&mut self, options: &str) {
        let unmounted = self.pair.unmount_both();
        assert!(unmounted.is_ok(), "{unmounted:?}");
        assert_eq!(
            self.pair.try_raw(options),
            (true, true),
            "{options:?} must be accepted (reference, candidate)"
        );
    }

    /// The pair, for the final comparison.
    pub fn into_pair(self) -> Pair {
        self.pair
    }

    /// The pair, for what has no verb.
    pub fn pair(&mut self) -> &mut Pair {
        &mut self.pair
    }
}
