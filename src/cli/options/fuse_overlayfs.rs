//! The dialect of fuse-overlayfs, as container engines write it.
//!
//! They build the string by joining pieces that may be empty, quote SELinux labels because those hold commas, and pass
//! on words that were meant for others. So nothing here refuses but what would mount another tree than was meant: a
//! word that is not understood costs one line of warning. Deletions in lower layers may be files named `.wh.NAME`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::ids::{SQUASHED_TO_ROOT, number};
use super::text::{key_and_value, shown, split_list, split_quoted, to_path, unescape, unquote};
use super::{Known, Refusal, Taken, Takes, Words, known, one_of, set};
use crate::error::SetupError;
use crate::union::{Fsync, Overrides, Writeback};

/// What fuse-overlayfs means by its words, where that is not what the kernel means by them.
const KNOWN: &[Known] = &[
    known("lowerdir", Takes::Value, |w, v| {
        set(&mut w.lower, split_list(v).into_iter().map(|piece| to_path(&unescape(piece))).collect())
    }),
    known("volatile", Takes::Anything, |w, _| set(&mut w.fsync, Some(Fsync::Volatile))),
    known("fsync", Takes::Value, |w, v| {
        let words = [
            ("0", Fsync::Volatile),
            ("1", Fsync::Auto),
            ("volatile", Fsync::Volatile),
            ("auto", Fsync::Auto),
            ("strict", Fsync::Strict),
        ];
        one_of(v, &words).map(|f| w.fsync = Some(f))
    }),
    known("context", Takes::Value, |w, v| w.label(&unquote(v))),
    known("private", Takes::Anything, |w, _| set(&mut w.flags.private, true)),
    known("debug", Takes::Anything, |w, _| set(&mut w.flags.debug, true)),
    known("threaded", Takes::Value, |w, v| {
        one_of(v, &[("0", Some(1)), ("1", None)]).map(|threads| w.flags.threads = threads)
    }),
    known("noxattrs", Takes::Anything, |w, v| set(&mut w.noxattrs, v != b"0")),
    known("noacl", Takes::Anything, |w, v| set(&mut w.noacl, v != b"0")),
    known("static_nlink", Takes::Anything, |w, v| set(&mut w.static_nlink, v != b"0")),
    known("ino32_t", Takes::Anything, |w, v| set(&mut w.ino32, v != b"0")),
    known("squash_to_root", Takes::Anything, |w, v| match v {
        b"0" => Ok(()),
        _ => set(&mut w.ids, SQUASHED_TO_ROOT),
    }),
    // It is their default; where writes can pass the daemon by, that is better still, and excludes it.
    known("writeback", Takes::Anything, |w, v| match v {
        b"0" => set(&mut w.writeback, Some(Writeback::Off)),
        _ => Ok(()),
    }),
    known("timeout", Takes::Anything, |w, _| {
        w.remark("timeout= has no effect: what is cached stays right, since layers belong to their mount")
    }),
    known("fast_ino", Takes::Anything, |w, _| {
        w.remark("fast_ino= has no effect: inode numbers are those of kernel overlayfs, and cost nothing")
    }),
    known("plugins", Takes::Anything, |w, _| {
        w.remark("plugins= has no effect: there are no plugins; every lower layer is a directory")
    }),
    known("allow_root", Takes::Anything, |w, _| {
        set(&mut w.flags.allow_other, true)?;
        w.remark("allow_root is taken as allow_other")
    }),
    known("max_write", Takes::Value, |w, v| match number(v) {
        Some(0) => Ok(()),
        Some(bytes) => set(&mut w.flags.max_write, Some(bytes)),
        None => Err(Refusal::new("that is not a number of bytes")),
    }),
];

/// Words whose mistakes would show another tree, or show it as somebody else's.
const VITAL: &[&str] = &[
    "gidmapping",
    "lowerdir",
    "squash_to_gid",
    "squash_to_uid",
    "uidmapping",
    "upperdir",
    "workdir",
    "xattr_permissions",
];

impl Words {
    /// Reads a whole option string of this dialect. May be called again for another `-o`.
    ///
    /// # Errors
    /// A value without which nobody can tell which tree was meant.
    pub(super) fn read_as_fuse_overlayfs(&mut self, options: &OsStr) -> Result<(), SetupError> {
        (self.oci_whiteouts, self.unmarked_volatile, self.yielding) = (true, true, true);
        if self.overrides == Overrides::Plain {
            self.overrides = Overrides::Hidden;
        }
        split_quoted(options.as_bytes()).into_iter().try_for_each(|piece| self.read_leniently(piece))
    }

    fn read_leniently(&mut self, piece: &[u8]) -> Result<(), SetupError> {
        let (key, value) = key_and_value(piece);
        let taken = match KNOWN.iter().find(|known| known.word.as_bytes() == key) {
            Some(known) => known.apply(self, value).map_err(|refusal| refusal.about(piece)),
            None => self.read_one(piece),
        };
        match taken {
            Err(e) if VITAL.iter().any(|word| word.as_bytes() == key) => Err(e),
            Err(_) => self.remark(&format!("the option {} is unknown and ignored", shown(piece))).or(Ok(())),
            Ok(()) => Ok(()),
        }
    }

    /// Labels mean something only where SELinux runs.
    fn label(&mut self, label: &[u8]) -> Taken {
        match (std::str::from_utf8(label), Path::new("/sys/fs/selinux/enforce").exists()) {
            (Ok(label), true) => set(&mut self.flags.context, Some(label.to_string())),
            (Ok(_), false) => self.remark("context= has no effect: SELinux does not run here"),
            (Err(_), _) => Err(Refusal::new("that is no label")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Dialect, Rights, Settled};
    use super::*;
    use crate::union::ids::{Ids, Range, Rule};
    use crate::union::{Overrides, Redirect};

    fn settle(options: &str, rights: Rights) -> Settled {
        let mut words = Words::default();
        Dialect::FuseOverlayfs.read(&mut words, OsStr::new(options)).unwrap();
        words.settle(rights).unwrap()
    }

    fn settled(options: &str) -> Settled {
        settle(options, Rights::Trusted)
    }

    #[test]
    fn a_string_as_podman_writes_it_is_understood() {
        let s = settled(concat!(
            r#"lowerdir=/s/l/A:/s/l/B:,upperdir=/s/1/diff,workdir=/s/1/work,,volatile,uidmapping=:0:1:1024,"#,
            r#"gidmapping=0:5:10:10:0:5,context="system_u:object_r:container_file_t:s0:c1,c2",private,"#
        ));
        assert_eq!(s.config.lower, ["/s/l/A", "/s/l/B"].map(std::path::PathBuf::from));
        assert_eq!(s.config.fsync, Fsync::Volatile);
        assert!(s.config.oci_whiteouts && s.config.unmarked_volatile && s.flags.private);
        assert_eq!(s.config.ids.uid, Rule::Ranges(vec![Range { stored: 0, shown: 1, count: 1024 }]));
        assert!(matches!(&s.config.ids.gid, Rule::Ranges(two) if two.len() == 2));
        // The label is one word, comma and all.
        assert!(s.remarks.iter().all(|remark| remark.contains("SELinux")), "{:?}", s.remarks);
    }

    #[test]
    fn every_word_of_fuse_overlayfs_is_honoured_or_answered_by_one_line() {
        for silent in [
            "squash_to_uid=0",
            "squash_to_gid=0",
            "squash_to_root",
            "xattr_permissions=2",
            "xattr_permissions=1",
            "volatile",
            "fsync=0",
            "fsync=1",
            "noxattrs",
            "noxattrs=1",
            "private",
            "static_nlink",
            "noacl",
            "xino=off",
            "ino32_t",
            "threaded=0",
            "threaded=1",
            "writeback=0",
            "writeback=1",
            "redirect_dir=off",
            "debug",
            "ro",
            "rw",
            "dev",
            "nodev",
            "suid",
            "nosuid",
            "exec",
            "noexec",
            "atime",
            "noatime",
            "diratime",
            "nodiratime",
            "allow_other",
            "default_permissions",
            "max_write=131072",
            "fsname=x",
            "metacopy=on",
            "index=off",
            "",
        ] {
            let s = settled(&format!("lowerdir=a,{silent}"));
            assert!(s.remarks.is_empty(), "{silent}: {:?}", s.remarks);
        }
        for told in [
            "timeout=1.0",
            "fast_ino=1",
            "plugins=x.so",
            "allow_root",
            "frobnicate",
            "auto_unmount",
            "verity=on",
        ] {
            let s = settled(&format!("lowerdir=a,{told}"));
            assert_eq!(s.remarks.len(), 1, "{told}: {:?}", s.remarks);
        }
    }

    #[test]
    fn what_would_mount_another_tree_is_refused() {
        for bad in [
            "uidmapping=0:1",
            "gidmapping=x",
            "squash_to_uid=me",
            "xattr_permissions=7",
            "upperdir=",
            "workdir",
        ] {
            let mut words = Words::default();
            assert!(words.read_as_fuse_overlayfs(OsStr::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn words_reach_the_config_and_the_mount() {
        let s = settled("lowerdir=a,static_nlink,ino32_t,noxattrs,threaded=0,max_write=8192,fsync=0,debug");
        assert!(
            s.config.static_nlink && s.config.ino32 && s.config.noxattrs && s.config.noacl && s.flags.debug
        );
        assert_eq!((s.flags.threads, s.flags.max_write), (Some(1), Some(8192)));
        assert_eq!(settled("lowerdir=a,writeback=0").config.writeback, Writeback::Off);
        assert_eq!(settled("lowerdir=a,writeback=1").config.writeback, Writeback::Auto);
        let s = settled("lowerdir=a,xattr_permissions=2");
        assert_eq!((s.config.overrides, s.config.noacl), (Overrides::Believed, true));
        assert_eq!(settled("lowerdir=a").config.overrides, Overrides::Hidden);
        let s = settled("lowerdir=a,squash_to_uid=3,squash_to_gid=4");
        assert_eq!(s.config.ids, Ids { uid: Rule::squash(3), gid: Rule::squash(4) });
    }

    #[test]
    fn what_a_user_namespace_lacks_is_left_out_with_a_line() {
        let s = settle("lowerdir=a,upperdir=u,workdir=w,metacopy=on,redirect_dir=on", Rights::UserOnly);
        assert_eq!((s.config.userxattr, s.config.metacopy), (true, false));
        assert_eq!((s.config.redirect, s.remarks.len()), (Redirect::NoFollow, 2));
    }
}
