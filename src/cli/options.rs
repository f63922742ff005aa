//! The words of `-o`, in the dialect of kernel overlayfs.
//!
//! What makes it hard: callers hand over one string that the kernel reads by rules of its own (three escapes that
//! mean different things in different options, a list syntax with one and two colons, words that undo earlier
//! ones), and a wrong guess here mounts a different tree. So the work is cut in three, each pure and each tested
//! against the running kernel: `split` finds the words, [`Words::read`] gives each its meaning, and
//! [`Words::settle`] resolves conflicts and defaults (O-1, O-2) into a [`Config`] that holds no question any more.
//!
//! Another caller's dialect is another way to fill [`Words`]; what follows does not know who spoke.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::SetupError;
use crate::union::{Config, Fsync, Passthrough, Redirect, Uuid, Xino};

/// Which private attributes the process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// `trusted.*`: CAP_SYS_ADMIN in the initial user namespace.
    Trusted,
    /// `user.*` alone.
    UserOnly,
}

/// How the mount itself behaves, whatever is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountFlags {
    /// `ro`.
    pub read_only: bool,
    /// `nodev`.
    pub nodev: bool,
    /// `nosuid`.
    pub nosuid: bool,
    /// `noexec`.
    pub noexec: bool,
    /// `noatime`.
    pub noatime: bool,
    /// `allow_other`.
    pub allow_other: bool,
    /// `threads=`.
    pub threads: Option<usize>,
    /// `fsname=`: the source that `mount` shows.
    pub fsname: Option<String>,
}

/// What an option string said, before defaults and conflicts.
#[derive(Clone, Debug, Default)]
pub struct Words {
    /// Lower directories, top first.
    pub lower: Vec<PathBuf>,
    /// Data-only layers, top first.
    pub data_only: Vec<PathBuf>,
    /// The upper directory.
    pub upper: Option<PathBuf>,
    /// The work directory.
    pub work: Option<PathBuf>,
    /// What concerns the mount and not the stack.
    pub flags: MountFlags,
    /// What was accepted but does nothing here: one sentence each.
    pub remarks: Vec<String>,
    /// `fsync=` or `volatile`.
    pub fsync: Option<Fsync>,
    /// `lowerdir=` was the last word about lower layers, so `lowerdir+=` may not follow.
    listed: bool,
    redirect: Option<RedirectWord>,
    index: Option<bool>,
    nfs_export: Option<bool>,
    metacopy: Option<bool>,
    xino: Option<Xino>,
    uuid: Option<Uuid>,
    userxattr: bool,
    oci_whiteouts: bool,
    passthrough: Option<Passthrough>,
    noacl: bool,
}

/// `redirect_dir=` as it was written: `off` and `follow` settle to the same behaviour, since
/// `redirect_always_follow` is the kernel's default, but messages repeat what was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RedirectWord {
    On,
    Follow,
    NoFollow,
    Off,
}

impl RedirectWord {
    fn mode(self) -> Redirect {
        match self {
            RedirectWord::On => Redirect::On,
            RedirectWord::Follow | RedirectWord::Off => Redirect::Follow,
            RedirectWord::NoFollow => Redirect::NoFollow,
        }
    }

    fn word(self) -> &'static str {
        match self {
            RedirectWord::On => "on",
            RedirectWord::Follow => "follow",
            RedirectWord::NoFollow => "nofollow",
            RedirectWord::Off => "off",
        }
    }
}

/// A stack and the flags of its mount, with nothing left to decide.
#[derive(Clone, Debug)]
pub struct Settled {
    /// The stack.
    pub config: Config,
    /// The mount.
    pub flags: MountFlags,
    /// What was accepted but does nothing here.
    pub remarks: Vec<String>,
}

/// Why a word was not taken; becomes a sentence that also names the word.
#[derive(Debug)]
struct Refusal {
    why: String,
    hint: Option<String>,
}

impl Refusal {
    fn new(why: impl Into<String>) -> Refusal {
        Refusal { why: why.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Refusal {
        self.hint = Some(hint.into());
        self
    }
}

type Taken = Result<(), Refusal>;

/// Whether a word has a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    /// `word`
    Nothing,
    /// `word=value`
    Value,
    /// Either; the value means nothing (the kernel's superblock flags).
    Anything,
}

/// One word of the dialect.
struct Known {
    word: &'static str,
    takes: Takes,
    take: fn(&mut Words, &[u8]) -> Taken,
}

const fn known(word: &'static str, takes: Takes, take: fn(&mut Words, &[u8]) -> Taken) -> Known {
    Known { word, takes, take }
}

fn ignore(_: &mut Words, _: &[u8]) -> Taken {
    Ok(())
}

fn remount(_: &mut Words, _: &[u8]) -> Taken {
    Err(Refusal::new("a mount of acetate cannot be changed while it is mounted")
        .hint("unmount it and mount it again with the new options"))
}

fn another_kind_of_mount(_: &mut Words, _: &[u8]) -> Taken {
    Err(Refusal::new("that is another kind of mount").hint("use mount(8) for it"))
}

fn labels(_: &mut Words, _: &[u8]) -> Taken {
    Err(Refusal::new("SELinux labels of the whole mount are not supported").hint("leave it out"))
}

/// Every word that is understood. The first block is the kernel's, the second what mount(8) and fstab add, the
/// third is our own.
const KNOWN: &[Known] = &[
    known("lowerdir", Takes::Value, |w, v| w.list_lowers(v)),
    known("lowerdir+", Takes::Value, |w, v| w.append_lower(v)),
    known("datadir+", Takes::Value, |w, v| w.append_data(v)),
    known("upperdir", Takes::Value, |w, v| directory(v).map(|d| w.upper = Some(d))),
    known("workdir", Takes::Value, |w, v| directory(v).map(|d| w.work = Some(d))),
    known("default_permissions", Takes::Nothing, ignore),
    known("redirect_dir", Takes::Value, |w, v| {
        let words = [
            ("on", RedirectWord::On),
            ("follow", RedirectWord::Follow),
            ("nofollow", RedirectWord::NoFollow),
            ("off", RedirectWord::Off),
        ];
        one_of(v, &words).map(|r| w.redirect = Some(r))
    }),
    known("index", Takes::Value, |w, v| on_off(v).map(|b| w.index = Some(b))),
    known("nfs_export", Takes::Value, |w, v| on_off(v).map(|b| w.nfs_export = Some(b))),
    known("metacopy", Takes::Value, |w, v| on_off(v).map(|b| w.metacopy = Some(b))),
    known("xino", Takes::Value, |w, v| {
        one_of(v, &[("on", Xino::On), ("auto", Xino::Auto), ("off", Xino::Off)]).map(|x| w.xino = Some(x))
    }),
    known("uuid", Takes::Value, |w, v| {
        let words = [("on", Uuid::On), ("off", Uuid::Off), ("null", Uuid::Null), ("auto", Uuid::Auto)];
        one_of(v, &words).map(|u| w.uuid = Some(u))
    }),
    known("verity", Takes::Value, |_, v| {
        match one_of(v, &[("off", false), ("on", true), ("require", true)])? {
            false => Ok(()),
            true => Err(Refusal::new("acetate does not check fs-verity digests")
                .hint("leave it out, or mount this stack with kernel overlayfs")),
        }
    }),
    known("userxattr", Takes::Nothing, |w, _| set(&mut w.userxattr, true)),
    known("volatile", Takes::Nothing, |w, _| set(&mut w.fsync, Some(Fsync::Volatile))),
    known("fsync", Takes::Value, |w, v| {
        let words = [("volatile", Fsync::Volatile), ("auto", Fsync::Auto), ("strict", Fsync::Strict)];
        one_of(v, &words).map(|f| w.fsync = Some(f))
    }),
    known("override_creds", Takes::Nothing, ignore),
    known("nooverride_creds", Takes::Nothing, |w, _| {
        w.remark(
            "nooverride_creds changes nothing here: layers are always reached with the server's credentials",
        )
    }),
    known("ro", Takes::Anything, |w, _| set(&mut w.flags.read_only, true)),
    known("rw", Takes::Anything, |w, _| set(&mut w.flags.read_only, false)),
    known("sync", Takes::Anything, |w, _| {
        w.remark("sync has no effect on a FUSE mount; programs may call fsync")
    }),
    known("async", Takes::Anything, ignore),
    known("dirsync", Takes::Anything, |w, _| {
        w.remark("dirsync has no effect on a FUSE mount; programs may call fsync")
    }),
    known("lazytime", Takes::Anything, ignore),
    known("nolazytime", Takes::Anything, ignore),
    known("mand", Takes::Anything, ignore),
    known("nomand", Takes::Anything, ignore),
    //
    known("defaults", Takes::Nothing, ignore),
    known("dev", Takes::Nothing, |w, _| set(&mut w.flags.nodev, false)),
    known("nodev", Takes::Nothing, |w, _| set(&mut w.flags.nodev, true)),
    known("suid", Takes::Nothing, |w, _| set(&mut w.flags.nosuid, false)),
    known("nosuid", Takes::Nothing, |w, _| set(&mut w.flags.nosuid, true)),
    known("exec", Takes::Nothing, |w, _| set(&mut w.flags.noexec, false)),
    known("noexec", Takes::Nothing, |w, _| set(&mut w.flags.noexec, true)),
    known("atime", Takes::Nothing, |w, _| set(&mut w.flags.noatime, false)),
    known("noatime", Takes::Nothing, |w, _| set(&mut w.flags.noatime, true)),
    known("relatime", Takes::Nothing, |w, _| set(&mut w.flags.noatime, false)),
    known("norelatime", Takes::Nothing, ignore),
    known("strictatime", Takes::Nothing, |w, _| set(&mut w.flags.noatime, false)),
    known("nostrictatime", Takes::Nothing, ignore),
    known("diratime", Takes::Nothing, ignore),
    known("nodiratime", Takes::Nothing, ignore),
    known("iversion", Takes::Nothing, ignore),
    known("noiversion", Takes::Nothing, ignore),
    known("silent", Takes::Nothing, ignore),
    known("loud", Takes::Nothing, ignore),
    known("symfollow", Takes::Nothing, ignore),
    known("nosymfollow", Takes::Nothing, |_, _| {
        Err(Refusal::new("acetate cannot set it")
            .hint("mount without it, then: mount -o bind,remount,nosymfollow MNT"))
    }),
    known("auto", Takes::Nothing, ignore),
    known("noauto", Takes::Nothing, ignore),
    known("user", Takes::Anything, |w, _| w.for_users()),
    known("users", Takes::Nothing, |w, _| w.for_users()),
    known("owner", Takes::Nothing, ignore),
    known("group", Takes::Nothing, ignore),
    known("nouser", Takes::Nothing, ignore),
    known("nousers", Takes::Nothing, ignore),
    known("noowner", Takes::Nothing, ignore),
    known("nogroup", Takes::Nothing, ignore),
    known("nofail", Takes::Nothing, ignore),
    known("_netdev", Takes::Nothing, ignore),
    known("comment", Takes::Value, ignore),
    known("remount", Takes::Nothing, remount),
    known("bind", Takes::Nothing, another_kind_of_mount),
    known("rbind", Takes::Nothing, another_kind_of_mount),
    known("move", Takes::Nothing, another_kind_of_mount),
    known("context", Takes::Value, labels),
    known("fscontext", Takes::Value, labels),
    known("defcontext", Takes::Value, labels),
    known("rootcontext", Takes::Value, labels),
    //
    known("whiteout", Takes::Value, |w, v| {
        one_of(v, &[("oci", true), ("kernel", false)]).map(|oci| w.oci_whiteouts = oci)
    }),
    known("passthrough", Takes::Value, |w, v| {
        let words = [("off", Passthrough::Off), ("auto", Passthrough::Auto)];
        one_of(v, &words).map(|p| w.passthrough = Some(p))
    }),
    known("noacl", Takes::Nothing, |w, _| set(&mut w.noacl, true)),
    known("acl", Takes::Nothing, |w, _| set(&mut w.noacl, false)),
    known("allow_other", Takes::Nothing, |w, _| set(&mut w.flags.allow_other, true)),
    known("threads", Takes::Value, |w, v| {
        let n = std::str::from_utf8(v).ok().and_then(|s| s.parse::<usize>().ok());
        match n {
            Some(n) if (1..=1024).contains(&n) => set(&mut w.flags.threads, Some(n)),
            _ => Err(Refusal::new("that is not a number of threads").hint("say threads=N, N from 1 to 1024")),
        }
    }),
    known("fsname", Takes::Value, |w, v| {
        set(&mut w.flags.fsname, Some(String::from_utf8_lossy(&unescape(v)).into_owned()))
    }),
];

fn set<T>(place: &mut T, value: T) -> Taken {
    *place = value;
    Ok(())
}

fn one_of<T: Copy>(value: &[u8], words: &[(&str, T)]) -> Result<T, Refusal> {
    match words.iter().find(|(word, _)| word.as_bytes() == value) {
        Some((_, meaning)) => Ok(*meaning),
        None => {
            let list: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            Err(Refusal::new("no such value").hint(format!("one of: {}", list.join(", "))))
        }
    }
}

fn on_off(value: &[u8]) -> Result<bool, Refusal> {
    one_of(value, &[("on", true), ("off", false)])
}

/// A directory in which `\:`, `\,` and `\\` stand for the character itself (as any escaped character does).
fn directory(value: &[u8]) -> Result<PathBuf, Refusal> {
    match value {
        [] => Err(Refusal::new("no directory is named").hint("write the directory after the equals sign")),
        _ => Ok(to_path(&unescape(value))),
    }
}

fn to_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

fn unescape(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' => out.extend(bytes.next()),
            _ => out.push(byte),
        }
    }
    out
}

/// Cuts `raw` at every comma that no backslash protects. Escapes stay in the pieces: what they mean depends on the
/// option.
fn split(raw: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut at = 0;
    while at < raw.len() {
        match raw[at] {
            b'\\' => at += 1,
            b',' => {
                pieces.push(&raw[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    pieces.push(&raw[start..]);
    pieces
}

/// Cuts a `lowerdir=` list: layers at single colons, data-only layers after `::` (C-27).
fn split_lowers(list: &[u8]) -> Result<(Vec<PathBuf>, Vec<PathBuf>), Refusal> {
    let (mut lower, mut data) = (Vec::new(), Vec::new());
    let mut colons = 0;
    let mut from = 0;
    let mut at = 0;
    let mut take =
        |piece: &[u8], colons: usize| match (piece, colons) {
            ([], _) => Err(Refusal::new("a layer in the list has no name")
                .hint("write A:B or A:B::DATA; \\: is a colon in a name")),
            (_, 2) => set_push(&mut data, to_path(&unescape(piece))),
            (_, _) if !data.is_empty() => Err(Refusal::new("a normal layer cannot follow a data-only one")
                .hint("put the layers after :: last")),
            _ => set_push(&mut lower, to_path(&unescape(piece))),
        };
    while at < list.len() {
        match list[at] {
            b'\\' => at += 2,
            b':' => {
                take(&list[from..at], colons)?;
                colons = list[at..].iter().take_while(|b| **b == b':').count();
                if colons > 2 {
                    return Err(Refusal::new("more than two colons in a row")
                        .hint("use : or ::, and \\: for a colon in a name"));
                }
                at += colons;
                from = at;
            }
            _ => at += 1,
        }
    }
    take(&list[from..], colons)?;
    Ok((lower, data))
}

fn set_push<T>(list: &mut Vec<T>, value: T) -> Taken {
    list.push(value);
    Ok(())
}

impl Words {
    /// Reads a whole option string, as after `-o`. May be called again for another `-o`.
    ///
    /// # Errors
    /// An unknown word, or a value that its word does not have.
    pub fn read(&mut self, options: &OsStr) -> Result<(), SetupError> {
        split(options.as_bytes()).into_iter().try_for_each(|piece| self.read_one(piece))
    }

    fn read_one(&mut self, piece: &[u8]) -> Result<(), SetupError> {
        let (key, value) = match piece.iter().position(|b| *b == b'=') {
            // As the kernel: an empty word, even with a value, says nothing.
            Some(0) => return Ok(()),
            Some(at) => (&piece[..at], Some(&piece[at + 1..])),
            None if piece.is_empty() => return Ok(()),
            None => (piece, None),
        };
        if key.starts_with(b"x-") || key.starts_with(b"X-") {
            return Ok(());
        }
        let Some(known) = KNOWN.iter().find(|known| known.word.as_bytes() == key) else {
            return Err(unknown(piece, key));
        };
        let taken = match (known.takes, value) {
            (Takes::Nothing, Some(_)) => {
                Err(Refusal::new("it takes no value").hint(format!("say {}", known.word)))
            }
            (Takes::Value, None) => {
                Err(Refusal::new("it needs a value").hint(format!("say {}=…", known.word)))
            }
            (_, value) => (known.take)(self, value.unwrap_or_default()),
        };
        taken.map_err(|refusal| {
            let e = SetupError::new(format!("use the option {}", shown(piece)), refusal.why);
            match refusal.hint {
                Some(hint) => e.hint(hint),
                None => e,
            }
        })
    }

    fn list_lowers(&mut self, list: &[u8]) -> Taken {
        let (lower, data) = match list {
            [] => (Vec::new(), Vec::new()),
            _ => split_lowers(list)?,
        };
        (self.lower, self.data_only, self.listed) = (lower, data, !list.is_empty());
        Ok(())
    }

    /// One layer whose name is taken literally, as the kernel does.
    fn append_lower(&mut self, name: &[u8]) -> Taken {
        self.may_append(name)?;
        if !self.data_only.is_empty() {
            return Err(
                Refusal::new("a normal layer cannot follow a data-only one").hint("put datadir+= last")
            );
        }
        set_push(&mut self.lower, to_path(name))
    }

    fn append_data(&mut self, name: &[u8]) -> Taken {
        self.may_append(name)?;
        if self.lower.is_empty() {
            return Err(Refusal::new("a data-only layer needs a normal layer above it")
                .hint("put lowerdir+=DIR before it"));
        }
        set_push(&mut self.data_only, to_path(name))
    }

    fn may_append(&self, name: &[u8]) -> Taken {
        match (self.listed, name) {
            (true, _) => {
                Err(Refusal::new("it cannot follow lowerdir=")
                    .hint("use one of the two spellings throughout"))
            }
            (_, []) => directory(name).map(|_| ()),
            _ => Ok(()),
        }
    }

    fn for_users(&mut self) -> Taken {
        self.flags.nosuid = true;
        self.flags.nodev = true;
        self.flags.noexec = true;
        Ok(())
    }

    fn remark(&mut self, sentence: &str) -> Taken {
        set_push(&mut self.remarks, sentence.to_string())
    }

    /// Settles conflicts and defaults as the kernel does (O-1, O-2): of two words that cannot both hold, both said
    /// is refused, and one that is only a default yields.
    ///
    /// # Errors
    /// A combination that cannot hold; no layer at all; an upper without a work directory.
    pub fn settle(mut self, rights: Rights) -> Result<Settled, SetupError> {
        if self.lower.is_empty() {
            return Err(SetupError::new("mount", "no lower layer is named")
                .hint("say --lower DIR, or -o lowerdir=TOP:BOTTOM"));
        }
        let upper = self.upper.take();
        let work = self.settle_work(upper.as_deref())?;
        if upper.is_none() {
            self.without_upper();
        }
        let (redirect, metacopy) = self.settle_redirect(upper.is_some())?;
        let (nfs_export, index) = self.settle_index(upper.is_some(), redirect)?;
        let metacopy = self.settle_metacopy(metacopy, nfs_export)?;
        let (userxattr, redirect, metacopy) = self.settle_prefix(rights, redirect, metacopy)?;
        let default = Config::default();
        let config = Config {
            lower: self.lower,
            data_only: self.data_only,
            userxattr,
            redirect,
            metacopy: metacopy.on,
            // Indexes live in the work directory.
            index: index && upper.is_some(),
            nfs_export,
            xino: self.xino.unwrap_or(default.xino),
            uuid: self.uuid.unwrap_or(default.uuid),
            fsync: self.fsync.unwrap_or(default.fsync),
            oci_whiteouts: self.oci_whiteouts,
            passthrough: self.passthrough.unwrap_or(default.passthrough),
            noacl: self.noacl,
            words: Vec::new(),
            upper,
            work,
        };
        Ok(Settled { config, flags: self.flags, remarks: self.remarks })
    }

    fn settle_work(&mut self, upper: Option<&Path>) -> Result<Option<PathBuf>, SetupError> {
        match (upper, self.work.take()) {
            (Some(upper), None) => {
                Err(SetupError::new("use the upper directory", "it has no work directory")
                    .at(upper)
                    .hint("add workdir=DIR, an empty directory on the same file system"))
            }
            (None, Some(work)) => {
                self.remarks
                    .push(format!("workdir={} is not needed without an upper directory", work.display()));
                Ok(None)
            }
            (_, work) => Ok(work),
        }
    }

    /// What only makes sense with an upper falls away silently.
    fn without_upper(&mut self) {
        if self.index == Some(true) {
            self.index = None;
        }
        if self.fsync == Some(Fsync::Volatile) {
            self.fsync = None;
        }
        if self.uuid == Some(Uuid::On) {
            self.uuid = Some(Uuid::Null);
        }
    }

    /// metacopy needs redirect_dir=on. Without an upper nothing is created, so following is enough.
    fn settle_redirect(&self, has_upper: bool) -> Result<(Redirect, bool), SetupError> {
        let metacopy = self.metacopy == Some(true);
        let mut redirect = self.redirect.map_or(Redirect::Follow, RedirectWord::mode);
        if !has_upper && redirect == Redirect::Follow {
            redirect = Redirect::On;
        }
        match self.redirect {
            Some(word) if metacopy && redirect != Redirect::On => {
                Err(conflict("metacopy=on", &format!("redirect_dir={}", word.word())))
            }
            None if metacopy => Ok((Redirect::On, metacopy)),
            _ => Ok((redirect, metacopy)),
        }
    }

    /// nfs_export needs the index; without an upper it needs that no redirect is followed.
    fn settle_index(&self, has_upper: bool, redirect: Redirect) -> Result<(bool, bool), SetupError> {
        let (nfs_export, index) = (self.nfs_export == Some(true), self.index == Some(true));
        match self.index {
            _ if !nfs_export || index => Ok((nfs_export, index)),
            _ if !has_upper && redirect != Redirect::NoFollow => Ok((false, index)),
            Some(false) => Err(conflict("nfs_export=on", "index=off")),
            _ => Ok((nfs_export, true)),
        }
    }

    fn settle_metacopy(&self, metacopy: bool, nfs_export: bool) -> Result<Metacopy, SetupError> {
        match nfs_export && metacopy {
            true => Err(conflict("nfs_export=on", "metacopy=on")),
            false => Ok(Metacopy { on: metacopy }),
        }
    }

    /// `user.*` attributes can be forged by whoever owns a file, so nothing that sends a reader elsewhere in the
    /// layers is followed or written with them.
    fn settle_prefix(
        &self,
        rights: Rights,
        redirect: Redirect,
        metacopy: Metacopy,
    ) -> Result<(bool, Redirect, Metacopy), SetupError> {
        if !self.userxattr && rights == Rights::Trusted {
            return Ok((false, redirect, metacopy));
        }
        let said = match self.redirect {
            Some(word) if redirect != Redirect::NoFollow => Some(format!("redirect_dir={}", word.word())),
            _ if metacopy.on => Some("metacopy=on".to_string()),
            _ => None,
        };
        match said {
            None => Ok((true, Redirect::NoFollow, Metacopy { on: false })),
            Some(said) if self.userxattr => Err(conflict("userxattr", &said)),
            Some(said) => Err(SetupError::new(
                format!("use the option {said}"),
                "it needs trusted.* attributes, which only root in the initial user namespace may use",
            )
            .hint(format!("leave {said} out, or mount as root"))),
        }
    }
}

/// Whether metadata-only copies are made; a type of its own so that it is not mistaken for another switch.
#[derive(Clone, Copy, Debug)]
struct Metacopy {
    on: bool,
}

fn conflict(one: &str, other: &str) -> SetupError {
    SetupError::new(format!("use the options {one} and {other}"), "they exclude each other")
        .hint("leave one of them out")
}

fn unknown(piece: &[u8], key: &[u8]) -> SetupError {
    let e = SetupError::new(format!("use the option {}", shown(piece)), "there is no such option");
    match nearest(key, KNOWN.iter().map(|known| known.word)) {
        Some(word) => e.hint(format!("did you mean {word}?")),
        None => e.hint("acetate --help lists the options; a comma in a directory's name is written \\,"),
    }
}

/// A word as a message shows it: never more than a line of it, never a raw control byte.
fn shown(piece: &[u8]) -> String {
    let text: String =
        String::from_utf8_lossy(piece).chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    match text.char_indices().nth(120) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// The candidate that `word` is a likely slip of: at most two edits away, and fewer than half of its letters.
pub fn nearest<'a>(word: &[u8], candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (distance(word, candidate.as_bytes()), candidate))
        .filter(|(d, candidate)| *d <= 2 && d * 2 < candidate.len().max(word.len()))
        .min_by_key(|(d, _)| *d)
        .map(|(_, candidate)| candidate)
}

/// Edits (insert, delete, replace, swap of neighbours) between two words.
fn distance(a: &[u8], b: &[u8]) -> usize {
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX / 4;
    }
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = match (i, j) {
                (0, _) => j,
                (_, 0) => i,
                _ => {
                    let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                    let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                    if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                        best = best.min(rows[i - 2][j - 2] + 1);
                    }
                    best
                }
            };
        }
    }
    rows[a.len()][b.len()]
}

/// Reads one option string and settles it: what a mount with just these words would be.
///
/// # Errors
/// As [`Words::read`] and [`Words::settle`].
pub fn parse(options: &OsStr, rights: Rights) -> Result<Settled, SetupError> {
    let mut words = Words::default();
    words.read(options)?;
    words.settle(rights)
}

/// The settled options as the kernel would show them, without the directories: what differs from the defaults.
pub fn describe(config: &Config, flags: &MountFlags) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut say = |condition: bool, word: &str| {
        if condition {
            out.push(word.to_string());
        }
    };
    say(flags.read_only || config.upper.is_none(), "ro");
    say(flags.nodev, "nodev");
    say(flags.nosuid, "nosuid");
    say(flags.noexec, "noexec");
    say(flags.noatime, "noatime");
    say(flags.allow_other, "allow_other");
    say(config.redirect == Redirect::On, "redirect_dir=on");
    say(config.redirect == Redirect::NoFollow, "redirect_dir=nofollow");
    say(config.index, "index=on");
    say(config.nfs_export, "nfs_export=on");
    say(config.metacopy, "metacopy=on");
    say(config.xino == Xino::On, "xino=on");
    say(config.xino == Xino::Off, "xino=off");
    say(config.uuid == Uuid::On, "uuid=on");
    say(config.uuid == Uuid::Off, "uuid=off");
    say(config.uuid == Uuid::Null, "uuid=null");
    say(config.userxattr, "userxattr");
    say(config.fsync == Fsync::Volatile, "fsync=volatile");
    say(config.fsync == Fsync::Strict, "fsync=strict");
    say(config.oci_whiteouts, "whiteout=oci");
    say(config.passthrough == Passthrough::Off, "passthrough=off");
    say(config.noacl, "noacl");
    if let Some(threads) = flags.threads {
        out.push(format!("threads={threads}"));
    }
    out
}

/// One `lowerdir=` word for `layers`, escaped so that [`Words::read`] gives the same list back.
pub fn lowerdir(layers: &[PathBuf], data_only: &[PathBuf]) -> OsString {
    let mut out = b"lowerdir=".to_vec();
    let normal = layers.iter().enumerate().map(|(i, layer)| (if i == 0 { "" } else { ":" }, layer));
    for (separator, layer) in normal.chain(data_only.iter().map(|layer| ("::", layer))) {
        out.extend(separator.as_bytes());
        for byte in layer.as_os_str().as_bytes() {
            if matches!(byte, b':' | b',' | b'\\') {
                out.push(b'\\');
            }
            out.push(*byte);
        }
    }
    OsStr::from_bytes(&out).to_os_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const U: &str = "upperdir=u,workdir=w";

    fn settled(options: &str) -> Settled {
        parse(OsStr::new(options), Rights::Trusted).unwrap_or_else(|e| panic!("{options}: {e}"))
    }

    fn config(options: &str) -> Config {
        settled(options).config
    }

    fn refused(options: &str) -> String {
        match parse(OsStr::new(options), Rights::Trusted) {
            Ok(_) => panic!("{options} was accepted"),
            Err(e) => e.to_string(),
        }
    }

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn lowerdir_lists_layers_top_first_and_data_only_ones_after_two_colons() {
        let c = config("lowerdir=a:b::c::d");
        assert_eq!((c.lower, c.data_only), (paths(&["a", "b"]), paths(&["c", "d"])));
        for bad in [
            "lowerdir=:a",
            "lowerdir=a:",
            "lowerdir=a::b:c",
            "lowerdir=a:::b",
            "lowerdir=::a",
            "lowerdir=a::",
        ] {
            refused(bad);
        }
    }

    #[test]
    fn escapes_protect_colons_commas_and_backslashes() {
        let c = config(r"lowerdir=a\:b:c\,d:e\\f:l\1,upperdir=u\:\,,workdir=w:w");
        assert_eq!(c.lower, paths(&["a:b", "c,d", r"e\f", "l1"]));
        assert_eq!((c.upper, c.work), (Some(PathBuf::from("u:,")), Some(PathBuf::from("w:w"))));
    }

    #[test]
    fn appended_layers_are_taken_literally_and_cannot_follow_a_list() {
        let c = config(r"lowerdir+=a:b,lowerdir+=c\\d,datadir+=e");
        assert_eq!((c.lower, c.data_only), (paths(&["a:b", r"c\\d"]), paths(&["e"])));
        refused("lowerdir=a,lowerdir+=b");
        refused("lowerdir=a,datadir+=b");
        refused("datadir+=a");
        refused("lowerdir+=a,datadir+=b,lowerdir+=c");
        assert_eq!(config("lowerdir+=a,lowerdir=b").lower, paths(&["b"]));
        assert_eq!(config("lowerdir=a:b,lowerdir=c").lower, paths(&["c"]));
    }

    #[test]
    fn an_escaped_list_reads_back_as_it_was() {
        let layers = paths(&["a:b", "c,d", r"e\f", "g"]);
        let data = paths(&["h:", ",i"]);
        let words = lowerdir(&layers, &data);
        let c = parse(&words, Rights::Trusted).unwrap().config;
        assert_eq!((c.lower, c.data_only), (layers, data));
    }

    #[test]
    fn more_layers_than_the_kernel_takes_are_accepted() {
        let list: Vec<String> = (0..5000).map(|i| format!("/layers/number-{i}")).collect();
        assert_eq!(config(&format!("lowerdir={}", list.join(":"))).lower.len(), 5000);
    }

    #[test]
    fn a_default_yields_to_the_word_that_needs_it_otherwise() {
        let c = config(&format!("lowerdir=a,{U},metacopy=on"));
        assert_eq!((c.redirect, c.metacopy), (Redirect::On, true));
        let c = config(&format!("lowerdir=a,{U},nfs_export=on"));
        assert_eq!((c.index, c.nfs_export), (true, true));
        let c = config(&format!("lowerdir=a,{U},userxattr"));
        assert_eq!((c.userxattr, c.redirect, c.metacopy), (true, Redirect::NoFollow, false));
        assert_eq!(config(&format!("lowerdir=a,{U},redirect_dir=off")).redirect, Redirect::Follow);
        assert_eq!(config(&format!("lowerdir=a,{U}")).redirect, Redirect::Follow);
    }

    #[test]
    fn two_words_that_exclude_each_other_are_refused_together() {
        for bad in [
            "metacopy=on,redirect_dir=follow",
            "metacopy=on,redirect_dir=nofollow",
            "metacopy=on,redirect_dir=off",
            "nfs_export=on,index=off",
            "nfs_export=on,metacopy=on",
            "userxattr,redirect_dir=on",
            "userxattr,redirect_dir=follow",
            "userxattr,redirect_dir=off",
            "userxattr,metacopy=on",
        ] {
            let message = refused(&format!("lowerdir=a,{U},{bad}"));
            assert!(message.contains("exclude each other"), "{message}");
        }
    }

    #[test]
    fn without_an_upper_what_needs_one_falls_away() {
        let c = config("lowerdir=a:b,volatile,index=on,uuid=on,workdir=w");
        assert_eq!((c.fsync, c.index, c.uuid, c.work), (Fsync::Auto, false, Uuid::Null, None));
        assert!(!config("lowerdir=a:b,nfs_export=on").nfs_export);
        assert!(!config("lowerdir=a:b,nfs_export=on,index=off").nfs_export);
        assert!(config("lowerdir=a:b,nfs_export=on,redirect_dir=nofollow").nfs_export);
        refused("lowerdir=a:b,nfs_export=on,redirect_dir=nofollow,index=off");
        assert!(config("lowerdir=a:b,metacopy=on,redirect_dir=follow").metacopy);
    }

    #[test]
    fn a_single_lower_without_an_upper_is_mounted_read_only() {
        assert_eq!(config("lowerdir=a").lower, paths(&["a"]));
    }

    #[test]
    fn the_last_word_wins() {
        let c = config(&format!("lowerdir=a,{U},volatile,fsync=strict,xino=on,xino=off,index=on,index=off"));
        assert_eq!((c.fsync, c.xino, c.index), (Fsync::Strict, Xino::Off, false));
        let flags = settled("lowerdir=a,ro,rw,nosuid,suid,dev,nodev,noatime").flags;
        assert!(!flags.read_only && !flags.nosuid && flags.nodev && flags.noatime);
    }

    #[test]
    fn refusals_say_what_why_and_what_to_do() {
        assert_eq!(
            refused("lowerdir=a,metcopy=on"),
            "cannot use the option metcopy=on: there is no such option (did you mean metacopy?)"
        );
        assert_eq!(
            refused("lowerdir=a,xino=maybe"),
            "cannot use the option xino=maybe: no such value (one of: on, auto, off)"
        );
        assert!(refused("lowerdir=a,verity=on").contains("fs-verity"));
        assert!(refused("lowerdir=a,upperdir=u").contains("add workdir=DIR"));
        assert!(refused("index").contains("index=…"));
        assert!(refused("volatile=1").contains("takes no value"));
        assert!(refused("upperdir=u,workdir=w").contains("no lower layer"));
        assert!(refused("lowerdir=a,remount").contains("unmount it"));
        assert!(refused("lowerdir=a,threads=0").contains("threads=N"));
    }

    #[test]
    fn empty_words_and_comments_for_other_tools_say_nothing() {
        let s = settled(",,lowerdir=a,,=x,x-systemd.automount,X-foo=1,comment=hello,defaults,");
        assert_eq!(s.config.lower, paths(&["a"]));
        assert!(s.remarks.is_empty());
    }

    #[test]
    fn our_own_words_reach_the_config() {
        let s = settled(r"lowerdir=a,whiteout=oci,passthrough=off,noacl,allow_other,threads=3,fsname=a\,b");
        assert!(s.config.oci_whiteouts && s.config.noacl && s.flags.allow_other);
        assert_eq!((s.config.passthrough, s.flags.threads), (Passthrough::Off, Some(3)));
        assert_eq!(s.flags.fsname.as_deref(), Some("a,b"));
    }

    #[test]
    fn an_ordinary_user_gets_user_attributes_by_itself() {
        let user = |o: &str| parse(OsStr::new(&format!("lowerdir=a,{U}{o}")), Rights::UserOnly);
        let c = user("").unwrap().config;
        assert_eq!((c.userxattr, c.redirect), (true, Redirect::NoFollow));
        assert!(user(",redirect_dir=on").unwrap_err().to_string().contains("trusted"));
        assert!(user(",metacopy=on").unwrap_err().to_string().contains("trusted"));
        assert!(user(",redirect_dir=nofollow").is_ok());
    }

    #[test]
    fn a_likely_slip_is_found_and_a_stranger_is_not() {
        let words = || KNOWN.iter().map(|known| known.word);
        assert_eq!(nearest(b"lowerdri", words()), Some("lowerdir"));
        assert_eq!(nearest(b"uperdir", words()), Some("upperdir"));
        assert_eq!(nearest(b"frobnicate", words()), None);
        assert_eq!(nearest(b"zz", words()), None);
    }
}
