//! Conflicts and defaults.

use std::path::{Path, PathBuf};

use super::{RedirectWord, Rights, Settled, Words};
use crate::error::SetupError;
use crate::union::{Atime, Config, Fsync, Overrides, Redirect, Uuid};

impl Words {
    /// Settles conflicts and defaults as the kernel does (O-1, O-2): of two words that cannot both hold, both said
    /// is refused, and one that is only a default yields.
    ///
    /// # Errors
    /// A combination that cannot hold; no layer at all; an upper without a work directory.
    pub fn settle(mut self, rights: Rights) -> Result<Settled, SetupError> {
        if self.yielding && rights == Rights::UserOnly {
            self.yield_to_user_attributes();
        }
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
            frozen: false,
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
            writeback: self.writeback.unwrap_or(default.writeback),
            noacl: self.noacl || self.noxattrs || self.overrides == Overrides::Believed,
            ids: self.ids,
            root_stands_in: false,
            overrides: self.overrides,
            static_nlink: self.static_nlink,
            ino32: self.ino32,
            noxattrs: self.noxattrs,
            unmarked_volatile: self.unmarked_volatile,
            immutable: Vec::new(),
            // What cannot be written has no access times to advance.
            atime: if self.flags.read_only { Atime::Never } else { self.flags.atime },
            nodiratime: self.flags.nodiratime,
            words: Vec::new(),
            upper,
            work,
        };
        Ok(Settled { config, flags: self.flags, remarks: self.remarks })
    }

    /// Of the words that `user.*` attributes exclude, those remain that have them.
    fn yield_to_user_attributes(&mut self) {
        let redirect = self.redirect.filter(|word| *word != RedirectWord::NoFollow);
        let metacopy = self.metacopy.filter(|on| *on).map(|_| "metacopy=on".to_string());
        for word in redirect.map(|word| format!("redirect_dir={}", word.word())).into_iter().chain(metacopy) {
            self.remarks.push(format!("{word} has no effect here: it needs trusted.* attributes"));
        }
        (self.redirect, self.metacopy) = (None, None);
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
