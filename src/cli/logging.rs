//! Where messages go: to stderr while somebody waits for the mount, afterwards to the system log or a file.
//!
//! A server that runs for months must neither fill a disk because one layer fails, nor fall silent for good because
//! it once said too much. So once it is on its own a window lets so many messages through, and the first message
//! after it says how many were left out.

use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter, Log, Metadata, Record};

/// Messages let through per window.
const BURST: u32 = 50;
/// How long a window lasts.
const WINDOW: Duration = Duration::from_secs(10);
/// Where the system log listens; the journal does too.
const SYSTEM_LOG: &str = "/dev/log";

/// What takes messages.
#[derive(Debug)]
enum Sink {
    Stderr,
    System(Option<UnixDatagram>),
    File(File),
}

/// What a message is told to do.
#[derive(Debug, PartialEq, Eq)]
enum Admission {
    /// Go, after a note that this many were left out.
    Pass {
        /// Messages left out since the last one that passed.
        suppressed: u64,
    },
    /// Be left out.
    Drop,
}

/// So many messages per window.
#[derive(Debug, Default)]
struct RateLimit {
    window: Option<Instant>,
    passed: u32,
    suppressed: u64,
}

impl RateLimit {
    fn admit(&mut self, now: Instant) -> Admission {
        let fresh = self.window.is_none_or(|began| now.saturating_duration_since(began) >= WINDOW);
        if fresh {
            (self.window, self.passed) = (Some(now), 0);
        }
        if self.passed >= BURST {
            self.suppressed += 1;
            return Admission::Drop;
        }
        self.passed += 1;
        Admission::Pass { suppressed: std::mem::take(&mut self.suppressed) }
    }
}

/// The state of the logger; one lock, held only while a message is written.
#[derive(Debug)]
struct State {
    sink: Sink,
    /// None while messages go to somebody who waits: he gets them all.
    limit: Option<RateLimit>,
}

struct Logger(Mutex<State>);

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Sends messages to stderr, up to `level` (or as `ACETATE_LOG=error|warn|info|debug|trace` says), and panics too.
pub fn install(level: LevelFilter) {
    let logger = LOGGER.get_or_init(|| Logger(Mutex::new(State { sink: Sink::Stderr, limit: None })));
    let level = std::env::var("ACETATE_LOG").ok().and_then(|word| word.parse().ok()).unwrap_or(level);
    log::set_max_level(level);
    if log::set_logger(logger).is_ok() {
        std::panic::set_hook(Box::new(|panic| log::error!("internal error: {panic}")));
    }
}

/// Lets every message through from now on, whatever was said before.
pub fn say_everything() {
    log::set_max_level(LevelFilter::Debug);
}

/// Sends messages to `file` from now on, or to the system log, and begins to count them.
pub fn leave_stderr(file: Option<File>) {
    switch(file.map_or(Sink::System(None), Sink::File));
}

/// Sends messages to `file` from now on, or still to stderr, and begins to count them.
pub fn stay_in_foreground(file: Option<File>) {
    switch(file.map_or(Sink::Stderr, Sink::File));
}

fn switch(sink: Sink) {
    if let Some(logger) = LOGGER.get() {
        let mut state = logger.0.lock().unwrap_or_else(PoisonError::into_inner);
        (state.sink, state.limit) = (sink, Some(RateLimit::default()));
        if log::max_level() == LevelFilter::Warn {
            log::set_max_level(LevelFilter::Info);
        }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let admission = match &mut state.limit {
            Some(limit) => limit.admit(Instant::now()),
            None => Admission::Pass { suppressed: 0 },
        };
        if let Admission::Pass { suppressed } = admission {
            if suppressed > 0 {
                state.sink.write(Level::Warn, &format!("{suppressed} messages left out"));
            }
            state.sink.write(record.level(), &record.args().to_string());
        }
    }

    fn flush(&self) {}
}

impl Sink {
    /// Writes one message. A message that cannot be written has nowhere to be reported and is lost.
    fn write(&mut self, level: Level, message: &str) {
        let written = match self {
            Sink::Stderr => std::io::stderr().write_all(format!("acetate: {message}\n").as_bytes()),
            Sink::File(file) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let line = format!("{} acetate[{}] {level}: {message}\n", timestamp(now), std::process::id());
                file.write_all(line.as_bytes())
            }
            Sink::System(socket) => send(socket, &system_line(level, std::process::id(), message)),
        };
        drop(written);
    }
}

/// The system log may be restarted at any time: a socket that fails is replaced once.
fn send(socket: &mut Option<UnixDatagram>, line: &str) -> std::io::Result<()> {
    if let Some(open) = socket
        && open.send(line.as_bytes()).is_ok()
    {
        return Ok(());
    }
    let fresh = UnixDatagram::unbound()?;
    fresh.connect(SYSTEM_LOG)?;
    // A log that does not keep up must not hold up the file system.
    fresh.set_nonblocking(true)?;
    fresh.send(line.as_bytes())?;
    *socket = Some(fresh);
    Ok(())
}

/// `<priority>tag[pid]: message`, the form that every /dev/log understands; one line, since some cut there.
fn system_line(level: Level, pid: u32, message: &str) -> String {
    const DAEMON: u8 = 3 << 3;
    let severity = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    format!("<{}>acetate[{pid}]: {}", DAEMON | severity, message.replace('\n', " | "))
}

/// RFC 3339, UTC, whole seconds.
fn timestamp(since_epoch: Duration) -> String {
    let (days, second) = (since_epoch.as_secs() / 86_400, since_epoch.as_secs() % 86_400);
    // Days are counted in eras of 400 years that begin on 1 March, so that the leap day is the last of its year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted_and_the_next_window_says_so() {
        let mut limit = RateLimit::default();
        let start = Instant::now();
        for _ in 0..BURST {
            assert_eq!(limit.admit(start), Admission::Pass { suppressed: 0 });
        }
        for _ in 0..7 {
            assert_eq!(limit.admit(start + Duration::from_secs(9)), Admission::Drop);
        }
        assert_eq!(limit.admit(start + WINDOW), Admission::Pass { suppressed: 7 });
        assert_eq!(limit.admit(start + WINDOW), Admission::Pass { suppressed: 0 });
    }

    #[test]
    fn a_line_for_the_system_log_carries_facility_severity_and_tag() {
        assert_eq!(system_line(Level::Error, 7, "a\nb"), "<27>acetate[7]: a | b");
        assert_eq!(system_line(Level::Info, 7, "x"), "<30>acetate[7]: x");
    }

    #[test]
    fn timestamps_are_right_around_leap_days() {
        let at = |secs| timestamp(Duration::from_secs(secs));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(at(1_709_251_199), "2024-02-29T23:59:59Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
    }
}
