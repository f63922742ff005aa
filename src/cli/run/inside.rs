//! A command that lives in an image: its root is the mounted image, and who it is, where it starts and its environment
//! are what the image says.
//!
//! This is chroot(2) in a mount namespace of its own, and no container: processes, network and host name are those
//! outside, and /proc, /dev and /sys are those of the host. A runtime and `acetate image bundle` give more.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::unistd::{Gid, Uid, chroot, setgid, setgroups, setuid};

use super::super::image;
use crate::error::SetupError;
use crate::image::manifest::RunConfig;
use crate::image::store::{Stack, Store};
use crate::image::unpack::dialect::Dialect;
use crate::image::{runtime, users};
use crate::sys::{Dir, Errno, NameBuf, mountinfo, process};
use crate::union::ids::{Ids, Rule};
use crate::union::{Config, Overrides};

/// An image, and what runs in it.
#[derive(Debug)]
pub struct Inside {
    /// Its layers, held.
    pub stack: Stack,
    /// Where it is mounted: its own directory in the store, seen by nobody else.
    pub place: PathBuf,
    config: RunConfig,
    words: Vec<OsString>,
    /// It runs in a user namespace of one user and one group.
    alone: bool,
}

impl Inside {
    /// Finds the image `word`; `words` are run in place of its own.
    ///
    /// # Errors
    /// There is no such image, or nothing says what to run.
    pub fn find(word: &str, store: Option<&Path>, words: &[OsString]) -> Result<Inside, SetupError> {
        let root = image::root_of(store)?;
        let stack = image::stack(Some(&root), word)?;
        let store =
            Store::open(&root)?.ok_or_else(|| SetupError::new("open the store", "it is gone").at(&root))?;
        let config = store.config(&stack.image)?.config.unwrap_or_default();
        let given: Vec<OsString> = match words {
            [] => runtime::arguments(&config, &[]).into_iter().map(OsString::from).collect(),
            // As a shell would: the entry point is for who runs the image as it is.
            words => words.to_vec(),
        };
        if given.is_empty() {
            return Err(SetupError::new("run the image", "it does not say what to run")
                .hint("say it behind --, as in: acetate run --image REF -- /bin/sh"));
        }
        let place = store.image_path(&stack.image);
        let alone = !process::may_use_trusted_xattrs() && stack.dialect == Dialect::User;
        Ok(Inside { stack, place, config, words: given, alone })
    }

    /// How such layers are mounted.
    pub fn config(&self) -> Config {
        let root = Rule::squash(0);
        let kept = self.stack.dialect == Dialect::Root;
        Config {
            overrides: if kept { Overrides::Plain } else { Overrides::Believed },
            noacl: !kept,
            immutable: self.stack.immutable.clone(),
            ids: if self.alone { Ids { uid: root.clone(), gid: root } } else { Ids::default() },
            ..Config::default()
        }
    }

    /// Shows /proc, /sys and /dev in the mounted image, where it has directories for them.
    ///
    /// # Errors
    /// As mount(2).
    pub fn furnish(&self) -> Result<(), SetupError> {
        let root = Dir::open_path(&self.place)
            .map_err(|errno| SetupError::new("enter the image", errno.desc()).at(&self.place))?;
        for name in ["proc", "sys", "dev"] {
            let failed =
                |errno: Errno| SetupError::new(format!("show /{name} in"), errno.desc()).at("the image");
            // Not through a link of the image: that would be somewhere else.
            let dir = match NameBuf::new(name.as_bytes()).and_then(|name| root.open_dir(&name)) {
                Ok(dir) => dir,
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {
                    log::warn!("the image has no directory /{name}; the command runs without it");
                    continue;
                }
                Err(errno) => return Err(failed(errno)),
            };
            let (from, none) = (format!("/{name}"), None::<&str>);
            let to = mountinfo::proc_path(dir.as_fd());
            mount(Some(from.as_str()), &to, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
                .map_err(failed)?;
        }
        Ok(())
    }

    /// Never returns but with an error, and the exit status that says it.
    pub fn become_command(&self) -> (SetupError, i32) {
        match self.enter() {
            Ok(env) => {
                let Some((program, arguments)) = self.words.split_first() else {
                    return (SetupError::new("run a command", "none was given"), super::FAILED.into());
                };
                let mut command = Command::new(program);
                command.args(arguments).env_clear();
                command.envs(env.iter().filter_map(|word| word.split_once('=')));
                let error = command.exec();
                let status = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
                (SetupError::new("run the command", error).at(program), status)
            }
            Err(e) => (e, super::FAILED.into()),
        }
    }

    /// Into the image, as who it says; returns the environment.
    fn enter(&self) -> Result<Vec<String>, SetupError> {
        let failed = |what: &str, errno: Errno| SetupError::new(what, errno.desc()).at(&self.place);
        let user = users::find(&self.place, &self.config.user)?;
        chroot(&self.place).map_err(|errno| failed("enter the image", errno))?;
        let directory = runtime::directory(&self.config);
        std::env::set_current_dir(&directory)
            .or_else(|_| std::env::set_current_dir("/"))
            .map_err(|e| SetupError::new("enter the directory", e).at(&directory))?;
        if !self.alone {
            let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
            setgroups(&groups).map_err(|errno| failed("take the groups of the image's user", errno))?;
            setgid(Gid::from_raw(user.gid))
                .map_err(|errno| failed("take the group of the image's user", errno))?;
            setuid(Uid::from_raw(user.uid)).map_err(|errno| failed("become the image's user", errno))?;
        }
        let mut env = runtime::environment(&self.config, &user, false);
        if let Ok(term) = std::env::var("TERM") {
            env.push(format!("TERM={term}"));
        }
        Ok(env)
    }
}
