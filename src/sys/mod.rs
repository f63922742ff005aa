//! Linux, and the only `unsafe` code of the crate. Errors are errnos.

mod at;
pub mod clone;
pub mod copy;
pub mod cred;
mod dir;
pub mod file;
pub mod fileattr;
pub mod fusedev;
pub mod handle;
pub mod lock;
pub mod memory;
pub mod mountapi;
pub mod mountinfo;
mod name;
pub mod namespace;
pub mod process;
pub mod ring;
mod stat;
#[cfg(test)]
pub(crate) mod testing;
pub mod thread;
mod tree;

pub use at::{At, SetTime};
pub use cred::{
    act_as, caller_has_cap_sys_admin, caller_has_group, caller_ids, caller_keeps_set_ids,
    caller_may_set_immutable, caller_owns_any_file, cap, own_capabilities,
};
pub use dir::{Dir, RawEntry, RenameFlag, read_entries, seek_entries, with_entry_buffer};
pub use lock::WorkLock;
pub use name::{NAME_MAX, Name, NameBuf};
pub use nix::errno::Errno;
pub use stat::{Dev, Kind, Stat, Time};
pub use tree::remove_tree;

/// The result of everything below the command line: the error is an errno.
pub type Result<T> = std::result::Result<T, Errno>;

/// The errno inside an I/O error of the standard library; EIO when it carries none.
pub fn errno_of(e: std::io::Error) -> Errno {
    e.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// Fills `buf` with random bytes.
pub fn random(buf: &mut [u8]) -> Result<()> {
    // SAFETY: `buf` is writable for its length.
    let got = at::check(unsafe { libc::getrandom(buf.as_mut_ptr().cast(), buf.len(), 0) } as libc::c_long)?;
    if got == buf.len() { Ok(()) } else { Err(Errno::EIO) }
}

/// The name a daemon of ours gives its main thread once its mount is gone.
pub const LEAVING: &str = "acetate-leaving";

/// Gives the main thread that name. Without /proc a new mount cannot know that it is worth waiting, and refuses.
pub fn say_leaving() {
    if let Err(e) = std::fs::write("/proc/self/comm", LEAVING) {
        log::debug!("this process cannot be renamed: {e}");
    }
}

/// Whether a process is a daemon of ours whose mount is gone.
pub fn is_leaving(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim_end() == LEAVING)
}
