//! FUSE.
#![allow(missing_docs, clippy::todo, unused_variables)]

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::SetupError;
use crate::sys::Errno;
use crate::union::{Transport, Union};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub mountpoint: PathBuf,
    pub read_only: bool,
    pub allow_other: bool,
    pub nodev: bool,
    pub nosuid: bool,
    pub noexec: bool,
    pub noatime: bool,
    pub acl: bool,
    pub export: bool,
    pub passthrough: bool,
    pub stacked: bool,
    pub threads: Option<usize>,
    pub source: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    pub aborted: bool,
    pub error: Option<Errno>,
    pub requests: u64,
    pub panics: u64,
}

#[derive(Debug)]
pub struct Stats;

#[derive(Clone, Debug)]
pub struct Unmounter;

impl Unmounter {
    pub fn unmount(&self) -> Result<bool, Errno> {
        todo!()
    }
}

pub struct Mounted;

impl Mounted {
    pub fn mount_id(&self) -> u64 {
        todo!()
    }
    pub fn unmount(&self) -> Result<bool, Errno> {
        todo!()
    }
    pub fn unmounter(&self) -> Unmounter {
        todo!()
    }
    pub fn wait(self) -> Summary {
        todo!()
    }
    pub fn union(&self) -> &Arc<Union> {
        todo!()
    }
    pub fn stats(&self) -> Arc<Stats> {
        todo!()
    }
    pub fn connection(&self) -> u32 {
        todo!()
    }
}

pub fn mount(
    options: &Options,
    build: impl FnOnce(Arc<dyn Transport>) -> Result<Union, SetupError>,
) -> Result<Mounted, SetupError> {
    build(Arc::new(crate::union::NoTransport))?;
    todo!()
}

pub mod control {
    use std::os::fd::BorrowedFd;

    pub fn ask(dir: BorrowedFd<'_>, question: &[u8]) -> crate::sys::Result<Vec<u8>> {
        Err(crate::sys::Errno::ENOTTY)
    }
}
