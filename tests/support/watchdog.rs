//! A time limit around a piece of work that may hang in the kernel.
//!
//! The work runs in a thread of its own inside the private namespace. A thread that waits for a FUSE server
//! cannot be killed, but its connection can be aborted: mounts register the abort file of their connection.

use std::any::Any;
use std::cell::RefCell;
use std::fs::File;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::backing::{self, Unavailable};

type Aborts = Arc<Mutex<Vec<File>>>;

thread_local! {
    static ABORTS: RefCell<Option<Aborts>> = const { RefCell::new(None) };
}

/// Registers an open `/sys/fs/fuse/connections/N/abort` of a mount made by this thread.
pub fn abort_on_hang(file: File) {
    ABORTS.with_borrow(|aborts| {
        if let Some(aborts) = aborts {
            aborts.lock().unwrap_or_else(PoisonError::into_inner).push(file);
        }
    });
}

/// Runs `work` in the private namespace; a panic in it is passed on, and so is a run longer than `limit`.
pub fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unavailable> {
    let aborts = Aborts::default();
    let registered = Arc::clone(&aborts);
    let (sender, receiver) = channel::<Result<Result<T, Unavailable>, Box<dyn Any + Send>>>();
    std::thread::spawn(move || {
        ABORTS.set(Some(registered));
        let result = catch_unwind(AssertUnwindSafe(|| backing::enter().map(|()| work())));
        if sender.send(result).is_err() {
            eprintln!("finished after its time limit");
        }
    });
    match receiver.recv_timeout(limit) {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => resume_unwind(panic),
        Err(RecvTimeoutError::Disconnected) => panic!("the test's thread is gone"),
        Err(RecvTimeoutError::Timeout) => {
            for mut abort in aborts.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
                if let Err(error) = abort.write_all(b"1") {
                    eprintln!("aborting the connection: {error}");
                }
            }
            match receiver.recv_timeout(Duration::from_secs(20)) {
                Ok(Err(panic)) => resume_unwind(panic),
                Ok(Ok(_)) => panic!("hung for {limit:?}; it went on after its connection was aborted"),
                Err(_) => panic!("hung for {limit:?}, and aborting its connection did not help"),
            }
        }
    }
}

/// Says on the real standard error, past the capture of the test runner, that something was skipped.
pub fn skipped(what: &str, why: &Unavailable) {
    let line = format!("skipped: {what}: {}\n", why.0);
    if std::io::stderr().write_all(line.as_bytes()).is_err() {
        println!("{line}");
    }
}
