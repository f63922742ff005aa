//! The life of a server: from the request's plan to the last byte on disk.
//!
//! Who runs `acetate mount` in a script expects a live mount when it returns, a reason when there is none, and a
//! pipe on stderr that ends. So the server is a child from before its first thread, the command waits on a pipe for
//! its word, and the server lets go of the caller (session, directory, streams) before it gives that word. Whatever
//! goes wrong before then is undone; a caller that is gone by then undoes the mount as well.
//!
//! Afterwards three things can end it, a signal, an unmount, an abort, and all take the same way: the mount goes,
//! the transport returns, the upper is synced, the record disappears, the process ends.

use std::io::{PipeWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::mount::{Plan, make_work};
use super::notify::Supervisor;
use super::registry::{Entry, Record, State};
use super::scratch::{Ephemeral, MadeWork};
use super::{Failure, Format, Outcome, Output, logging};
use crate::error::SetupError;
use crate::sys::process::{self, Child, EndingSignals, Side};
use crate::union::control::{LayerInfo, Role, Text};
use crate::union::{Config, Union};
use crate::{fuse, sys};

/// First byte of the server's word to the command that started it.
const LIVE: u8 = b'+';
/// The mount failed; a sentence follows.
const FAILED: u8 = b'-';

/// Carries out `plan`: in a child that stays, or here with `--foreground`.
///
/// # Errors
/// Why there is no mount.
pub fn start(plan: Plan, output: Output) -> Outcome {
    if plan.foreground {
        return serve(plan, Waiter::Supervisor(Supervisor::find())).map_err(Failure::Failed);
    }
    let failed = |e: &dyn std::fmt::Display| SetupError::new("start the server", e);
    let (reader, writer) = std::io::pipe().map_err(|e| failed(&e))?;
    match process::fork().map_err(|e| failed(&e))? {
        Side::Parent(child) => {
            drop(writer);
            let mountpoint = plan.mount.mountpoint.clone();
            await_word(reader, &child)?;
            let live = Live { mountpoint: Text::from(mountpoint.as_path()), pid: child.pid() };
            match output.format() {
                Format::Json => output.give(&live, |_| String::new()),
                Format::Text => Ok(()),
            }
        }
        Side::Child => {
            drop(reader);
            process::close_inherited();
            let status = match serve(plan, Waiter::Command(writer)) {
                Ok(()) => 0,
                Err(e) => {
                    log::error!("{e}");
                    1
                }
            };
            std::process::exit(status)
        }
    }
}

/// What `mount --json` prints.
#[derive(serde::Serialize)]
struct Live {
    mountpoint: Text,
    pid: u32,
}

/// The command's side: waits for the word.
fn await_word(mut reader: impl Read, child: &Child) -> Result<(), Failure> {
    let mut word = Vec::new();
    reader.read_to_end(&mut word).map_err(|e| SetupError::new("hear from the server", e))?;
    match word.split_first() {
        Some((&LIVE, _)) => Ok(()),
        Some((&FAILED, sentence)) => {
            Err(Failure::Failed(SetupError::quoted(String::from_utf8_lossy(sentence))))
        }
        _ => {
            let end = child.wait().unwrap_or_else(|errno| errno.to_string());
            Err(Failure::Failed(
                SetupError::new("mount", format!("the server {end} before the mount was live"))
                    .hint("acetate mount --foreground shows its messages"),
            ))
        }
    }
}

/// Who waits for the mount.
enum Waiter {
    /// The command, at the other end of this pipe.
    Command(PipeWriter),
    /// Nobody, or systemd.
    Supervisor(Supervisor),
}

/// The server's side, from before the mount to after its end.
fn serve(mut plan: Plan, mut waiter: Waiter) -> Result<(), SetupError> {
    match go_live(&mut plan) {
        Ok(live) => {
            let lived = live.announce(&mut plan, &mut waiter);
            let supervisor = match waiter {
                Waiter::Supervisor(supervisor) => supervisor,
                Waiter::Command(pipe) => {
                    // The command reads until the end of the pipe.
                    drop(pipe);
                    Supervisor::none()
                }
            };
            lived.and_then(|live| live.run(&supervisor))
        }
        Err(e) => match &mut waiter {
            Waiter::Command(pipe) => {
                let word = [&[FAILED], e.to_string().as_bytes()].concat();
                // If nobody listens any more, nobody is left to tell.
                drop(pipe.write_all(&word));
                std::process::exit(1)
            }
            Waiter::Supervisor(_) => Err(e),
        },
    }
}

/// A live mount and everything that ends with it. Fields end in this order.
struct LiveMount {
    mounted: fuse::Mounted,
    signals: EndingSignals,
    entry: Option<Entry>,
    ephemeral: Option<Ephemeral>,
    /// Layers of an image stay in their store until here.
    _used: Vec<std::sync::Arc<crate::image::store::Held>>,
    has_upper: bool,
    mountpoint: std::path::PathBuf,
}

/// Everything up to the live mount. Whatever fails, its guards undo what was done.
fn go_live(plan: &mut Plan) -> Result<LiveMount, SetupError> {
    let signals = EndingSignals::block().map_err(|e| SetupError::new("hold back signals", e))?;
    protect();
    // Sweeps the records of dead servers.
    drop(super::registry::records(nix::unistd::geteuid().as_raw()));
    let top = plan.config.lower.first().cloned().unwrap_or_default();
    let ephemeral = match plan.ephemeral {
        true => Some(Ephemeral::create(&top)?),
        false => None,
    };
    if let Some(ephemeral) = &ephemeral {
        (plan.config.upper, plan.config.work) = (Some(ephemeral.upper()), Some(ephemeral.work()));
    }
    let mut made = None;
    if let Some(work) = plan.config.work.as_ref().filter(|_| plan.make_work)
        && make_work(work)?
    {
        made = Some(MadeWork::new(work.clone()));
    }
    let config = &plan.config;
    // Three for each layer, and what serving needs.
    let descriptors = 3 * (config.lower.len() + config.data_only.len()) + SERVING;
    if let Err(errno) = process::make_room_for_descriptors(descriptors) {
        log::debug!("no room for {descriptors} descriptors was made: {errno}");
    }
    let mounted = fuse::mount(&plan.mount, |transport| Union::open(config, transport))?;
    if let Some(made) = made {
        made.keep();
    }
    let entry = publish(plan, &mounted);
    Ok(LiveMount {
        mounted,
        signals,
        entry,
        ephemeral,
        _used: std::mem::take(&mut plan.used),
        has_upper: plan.config.upper.is_some(),
        mountpoint: plan.mount.mountpoint.clone(),
    })
}

/// Descriptors that a server without layers uses when it is busy.
const SERVING: usize = 1024;

/// What a server asks of the kernel. None of it is needed to serve; refusals are normal for ordinary users.
fn protect() {
    process::clear_umask();
    if !process::give_freed_memory_back() {
        log::debug!("the allocator keeps freed memory");
    }
    for (what, done) in [
        ("out-of-memory protection", process::refuse_oom_kill()),
        ("writeback exemption", process::become_io_flusher()),
    ] {
        if let Err(errno) = done {
            log::debug!("no {what}: {errno}");
        }
    }
}

fn publish(plan: &Plan, mounted: &fuse::Mounted) -> Option<Entry> {
    let (pid, start, pid_namespace) = Record::identity()?;
    let record = Record {
        state: State::Mounted,
        pid,
        start,
        pid_namespace,
        connection: mounted.connection(),
        mount_id: mounted.mount_id(),
        mountpoint: Text::from(plan.mount.mountpoint.as_path()),
        layers: layers(&plan.config),
        work: plan.config.work.as_deref().map(Text::from),
        options: plan.words.clone(),
        since: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
    };
    Entry::publish(record).map_err(|e| log::warn!("{e}")).ok()
}

/// The layers of a stack as `list` and `status` show them.
pub fn layers(config: &Config) -> Vec<LayerInfo> {
    let info = |role, path: &Path| LayerInfo { role, path: Text::from(path) };
    let upper = config.upper.iter().map(|path| info(Role::Upper, path));
    let lower = config.lower.iter().map(|path| info(Role::Lower, path));
    upper.chain(lower).chain(config.data_only.iter().map(|path| info(Role::Data, path))).collect()
}

impl LiveMount {
    /// Lets go of the caller and says that the mount is live; takes it away again if that cannot be done.
    fn announce(self, plan: &mut Plan, waiter: &mut Waiter) -> Result<LiveMount, SetupError> {
        let log = plan.log.take();
        plan.held.clear();
        let told = match waiter {
            Waiter::Command(pipe) => {
                logging::leave_stderr(log);
                process::detach().map_err(|e| SetupError::new("leave the terminal", e)).and_then(|()| {
                    pipe.write_all(&[LIVE]).map_err(|_| {
                        SetupError::new("keep the mount", "the command that asked for it is gone")
                            .at(&self.mountpoint)
                    })
                })
            }
            Waiter::Supervisor(supervisor) => {
                logging::stay_in_foreground(log);
                let left =
                    nix::unistd::chdir("/").map_err(|e| SetupError::new("leave the current directory", e));
                supervisor.tell(&format!("READY=1\nSTATUS=mounted on {}", self.mountpoint.display()));
                left
            }
        };
        match told {
            Ok(()) => Ok(self),
            Err(e) => {
                take_away(&self.mounted.unmounter(), &self.mountpoint);
                self.run(&Supervisor::none())?;
                Err(e)
            }
        }
    }

    /// Serves until the mount is gone, then brings everything to disk.
    fn run(self, supervisor: &Supervisor) -> Result<(), SetupError> {
        let LiveMount { mounted, signals, mut entry, ephemeral, has_upper, mountpoint, _used } = self;
        log::info!("mounted on {}", mountpoint.display());
        let unmounter = mounted.unmounter();
        spawn_signal_thread(signals, unmounter.clone(), mountpoint.clone())?;
        let union = Arc::clone(mounted.union());
        let summary = mounted.wait();
        supervisor.tell("STOPPING=1");
        if let Some(entry) = &mut entry {
            entry.finishing();
        }
        if summary.aborted || summary.error.is_some() {
            // A mount that nobody serves is worse than none.
            take_away(&unmounter, &mountpoint);
        }
        let synced = match has_upper {
            true => union.sync(),
            false => Ok(()),
        };
        drop(union);
        drop(ephemeral);
        drop(entry);
        log::info!("{} is unmounted after {} requests", mountpoint.display(), summary.requests);
        let failed = |what: &str, errno: sys::Errno| Err(SetupError::new(what, errno.desc()).at(&mountpoint));
        match (synced, summary.error) {
            (Err(errno), _) => failed("bring to disk everything that was written on", errno),
            (Ok(()), Some(errno)) => failed("go on serving", errno),
            (Ok(()), None) => Ok(()),
        }
    }
}

fn spawn_signal_thread(
    signals: EndingSignals,
    unmounter: fuse::Unmounter,
    mountpoint: std::path::PathBuf,
) -> Result<(), SetupError> {
    let work = move || {
        while let Ok(name) = signals.wait() {
            log::info!("{name}: unmounting {}", mountpoint.display());
            take_away(&unmounter, &mountpoint);
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(work)
        .map(drop)
        .map_err(|e| SetupError::new("start a thread", e))
}

/// Unmounts exactly our mount; programs that use it keep it until they are done.
fn take_away(unmounter: &fuse::Unmounter, mountpoint: &Path) {
    match unmounter.unmount() {
        // Whoever mounts again at once is to wait for us, also before the connection has ended.
        Ok(true) => sys::say_leaving(),
        Ok(false) => log::warn!(
            "{} shows another mount or none; waiting for whoever still uses ours",
            mountpoint.display()
        ),
        Err(errno) => log::error!("cannot unmount {}: {errno}", mountpoint.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_told_upper_first_and_data_only_last() {
        let config = Config {
            lower: vec!["/a".into(), "/b".into()],
            data_only: vec!["/d".into()],
            upper: Some("/u".into()),
            ..Config::default()
        };
        let told: Vec<(Role, String)> =
            layers(&config).into_iter().map(|l| (l.role, l.path.to_string())).collect();
        let expected = [(Role::Upper, "/u"), (Role::Lower, "/a"), (Role::Lower, "/b"), (Role::Data, "/d")];
        assert_eq!(told, expected.map(|(role, path)| (role, path.to_string())));
    }
}
