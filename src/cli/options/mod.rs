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
use std::path::PathBuf;

mod dialect;
mod fuse_overlayfs;
mod ids;
mod native;
mod settle;
mod text;

pub use dialect::{Dialect, is_in_a_store};
pub use text::nearest;
use text::{directory, set_push, shown, split_lowers, to_path};

use crate::error::SetupError;
use crate::fuse::TransportWanted;
use crate::union::ids::Ids;
use crate::union::{Atime, Config, Fsync, Overrides, Passthrough, Redirect, Uuid, Writeback, Xino};

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
    /// `relatime`, `noatime`, `strictatime`.
    pub atime: Atime,
    /// `nodiratime`.
    pub nodiratime: bool,
    /// `allow_other`.
    pub allow_other: bool,
    /// `transport=`.
    pub transport: TransportWanted,
    /// `threads=`.
    pub threads: Option<usize>,
    /// `fsname=`: the source that `mount` shows.
    pub fsname: Option<String>,
    /// `context=`: the SELinux label of every file.
    pub context: Option<String>,
    /// `private`: nothing is propagated to or from the mount.
    pub private: bool,
    /// `max_write=`, in bytes.
    pub max_write: Option<u32>,
    /// `debug`: messages for those who look for a fault.
    pub debug: bool,
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
    writeback: Option<Writeback>,
    noacl: bool,
    ids: Ids,
    overrides: Overrides,
    static_nlink: bool,
    ino32: bool,
    noxattrs: bool,
    unmarked_volatile: bool,
    /// What cannot be had is left out with a remark instead of refused.
    yielding: bool,
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

    /// The sentence about the word `piece`.
    fn about(self, piece: &[u8]) -> SetupError {
        let e = SetupError::new(format!("use the option {}", shown(piece)), self.why);
        match self.hint {
            Some(hint) => e.hint(hint),
            None => e,
        }
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

fn one_of<T: Copy>(value: &[u8], words: &[(&str, T)]) -> Result<T, Refusal> {
    match words.iter().find(|(word, _)| word.as_bytes() == value) {
        Some((_, meaning)) => Ok(*meaning),
        None => {
            let list: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            Err(Refusal::new("no such value").hint(format!("one of: {}", list.join(", "))))
        }
    }
}

impl Known {
    /// Does what the word says.
    fn apply(&self, words: &mut Words, value: Option<&[u8]>) -> Taken {
        match (self.takes, value) {
            (Takes::Nothing, Some(_)) => {
                Err(Refusal::new("it takes no value").hint(format!("say {}", self.word)))
            }
            (Takes::Value, None) => {
                Err(Refusal::new("it needs a value").hint(format!("say {}=…", self.word)))
            }
            (_, value) => (self.take)(words, value.unwrap_or_default()),
        }
    }
}

fn set<T>(place: &mut T, value: T) -> Taken {
    *place = value;
    Ok(())
}

impl Words {
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
    say(flags.atime == Atime::Never, "noatime");
    say(flags.atime == Atime::Strict, "strictatime");
    say(flags.nodiratime, "nodiratime");
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
    say(config.writeback == Writeback::Off, "writeback_cache=off");
    say(config.writeback == Writeback::On, "writeback_cache=on");
    say(config.noacl, "noacl");
    say(config.overrides == Overrides::Believed, "xattr_permissions=2");
    say(config.static_nlink, "static_nlink");
    say(config.ino32, "ino32_t");
    say(config.noxattrs, "noxattrs");
    match flags.transport {
        TransportWanted::Auto => {}
        TransportWanted::Uring => out.push("transport=uring".to_string()),
        TransportWanted::Dev => out.push("transport=dev".to_string()),
    }
    if let Some(threads) = flags.threads {
        out.push(format!("threads={threads}"));
    }
    out.extend(config.ids.words());
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
        assert!(!flags.read_only && !flags.nosuid && flags.nodev && flags.atime == Atime::Never);
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
}
