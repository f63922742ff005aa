//! The native dialect: the words of kernel overlayfs, of mount(8) and fstab, and our own. What is not among them is
//! refused, since a word that is not understood may be the one that mattered.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::ids::SQUASHED_TO_ROOT;
use super::ids::{number, one_id, ranges};
use super::text::{directory, key_and_value, nearest, shown, split, unescape};
use super::{Known, RedirectWord, Refusal, Taken, Takes, Words, ignore, known, one_of, set};
use crate::error::SetupError;
use crate::fuse::TransportWanted;
use crate::union::ids::Rule;
use crate::union::{Atime, Fsync, Overrides, Passthrough, Uuid, Writeback, Xino};

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
    known("atime", Takes::Nothing, |w, _| set(&mut w.flags.atime, Atime::Relative)),
    known("noatime", Takes::Nothing, |w, _| set(&mut w.flags.atime, Atime::Never)),
    known("relatime", Takes::Nothing, |w, _| set(&mut w.flags.atime, Atime::Relative)),
    known("norelatime", Takes::Nothing, ignore),
    known("strictatime", Takes::Nothing, |w, _| set(&mut w.flags.atime, Atime::Strict)),
    known("nostrictatime", Takes::Nothing, ignore),
    known("diratime", Takes::Nothing, |w, _| set(&mut w.flags.nodiratime, false)),
    known("nodiratime", Takes::Nothing, |w, _| set(&mut w.flags.nodiratime, true)),
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
    known("writeback_cache", Takes::Value, |w, v| {
        let words = [("off", Writeback::Off), ("auto", Writeback::Auto), ("on", Writeback::On)];
        one_of(v, &words).map(|c| w.writeback = Some(c))
    }),
    known("passthrough", Takes::Value, |w, v| {
        let words = [("off", Passthrough::Off), ("auto", Passthrough::Auto)];
        one_of(v, &words).map(|p| w.passthrough = Some(p))
    }),
    known("noacl", Takes::Nothing, |w, _| set(&mut w.noacl, true)),
    known("acl", Takes::Nothing, |w, _| set(&mut w.noacl, false)),
    known("allow_other", Takes::Nothing, |w, _| set(&mut w.flags.allow_other, true)),
    known("transport", Takes::Value, |w, v| {
        let words = [
            ("auto", TransportWanted::Auto),
            ("uring", TransportWanted::Uring),
            ("dev", TransportWanted::Dev),
        ];
        one_of(v, &words).map(|t| w.flags.transport = t)
    }),
    known("threads", Takes::Value, |w, v| match number(v) {
        Some(n @ 1..=1024) => set(&mut w.flags.threads, Some(n as usize)),
        _ => Err(Refusal::new("that is not a number of threads").hint("say threads=N, N from 1 to 1024")),
    }),
    known("uidmapping", Takes::Value, |w, v| ranges(v).map(|r| w.ids.uid = Rule::Ranges(r))),
    known("gidmapping", Takes::Value, |w, v| ranges(v).map(|r| w.ids.gid = Rule::Ranges(r))),
    known("squash_to_root", Takes::Nothing, |w, _| set(&mut w.ids, SQUASHED_TO_ROOT)),
    known("squash_to_uid", Takes::Value, |w, v| one_id(v).map(|rule| w.ids.uid = rule)),
    known("squash_to_gid", Takes::Value, |w, v| one_id(v).map(|rule| w.ids.gid = rule)),
    known("xattr_permissions", Takes::Value, |w, v| {
        let words = [("0", w.overrides), ("1", Overrides::Believed), ("2", Overrides::Believed)];
        one_of(v, &words).map(|o| w.overrides = o)
    }),
    known("static_nlink", Takes::Nothing, |w, _| set(&mut w.static_nlink, true)),
    known("ino32_t", Takes::Nothing, |w, _| set(&mut w.ino32, true)),
    known("noxattrs", Takes::Nothing, |w, _| set(&mut w.noxattrs, true)),
    known("max_write", Takes::Value, |w, v| match number(v) {
        Some(bytes) if bytes > 0 => set(&mut w.flags.max_write, Some(bytes)),
        _ => {
            Err(Refusal::new("that is not a number of bytes").hint("say max_write=N, N from 4096 to 1048576"))
        }
    }),
    known("fsname", Takes::Value, |w, v| {
        set(&mut w.flags.fsname, Some(String::from_utf8_lossy(&unescape(v)).into_owned()))
    }),
];

fn on_off(value: &[u8]) -> Result<bool, Refusal> {
    one_of(value, &[("on", true), ("off", false)])
}

impl Words {
    /// Reads a whole option string, as after `-o`. May be called again for another `-o`.
    ///
    /// # Errors
    /// An unknown word, or a value that its word does not have.
    pub fn read(&mut self, options: &OsStr) -> Result<(), SetupError> {
        split(options.as_bytes()).into_iter().try_for_each(|piece| self.read_one(piece))
    }

    pub(super) fn read_one(&mut self, piece: &[u8]) -> Result<(), SetupError> {
        let (key, value) = key_and_value(piece);
        // As the kernel: an empty word, even with a value, says nothing.
        if key.is_empty() {
            return Ok(());
        }
        if key.starts_with(b"x-") || key.starts_with(b"X-") {
            return Ok(());
        }
        let Some(known) = KNOWN.iter().find(|known| known.word.as_bytes() == key) else {
            return Err(unknown(piece, key));
        };
        known.apply(self, value).map_err(|refusal| refusal.about(piece))
    }
}

fn unknown(piece: &[u8], key: &[u8]) -> SetupError {
    let e = SetupError::new(format!("use the option {}", shown(piece)), "there is no such option");
    match nearest(key, KNOWN.iter().map(|known| known.word)) {
        Some(word) => e.hint(format!("did you mean {word}?")),
        None => e.hint("acetate --help lists the options; a comma in a directory's name is written \\,"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_likely_slip_is_found_and_a_stranger_is_not() {
        let words = || KNOWN.iter().map(|known| known.word);
        assert_eq!(nearest(b"lowerdri", words()), Some("lowerdir"));
        assert_eq!(nearest(b"uperdir", words()), Some("upperdir"));
        assert_eq!(nearest(b"frobnicate", words()), None);
        assert_eq!(nearest(b"zz", words()), None);
    }
}
