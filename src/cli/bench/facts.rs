//! The machine's facts: numbers without them say nothing.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// What the numbers depend on.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// Seconds since 1970 when the run began.
    pub since: u64,
    /// Kernel release.
    pub kernel: String,
    /// Processor model.
    pub processor: String,
    /// Processors that can be used.
    pub processors: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Filesystem type of the layers.
    pub filesystem: String,
    /// Whether FUSE over io_uring is enabled in the kernel.
    pub fuse_uring: bool,
    /// Load average of the last minute when the run began: a busy machine measures its neighbours.
    pub load: f64,
    /// What was asked for.
    pub command: String,
    /// Versions of programs that take part.
    pub programs: Vec<String>,
}

/// The release of the running kernel.
pub fn kernel_release() -> String {
    read("/proc/sys/kernel/osrelease")
}

/// Whether the kernel offers FUSE over io_uring.
pub fn fuse_uring() -> bool {
    read("/sys/module/fuse/parameters/enable_uring") == "Y"
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_string()).unwrap_or_default()
}

/// The value of the first line `KEY : VALUE`.
fn field(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

impl Facts {
    /// Of this machine, for layers in `base`.
    pub fn gather(base: &Path, command: String) -> Facts {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let memory = memory.and_then(|m| m.split_whitespace().next()?.parse::<u64>().ok());
        Facts {
            since: since.unwrap_or_default().as_secs(),
            kernel: kernel_release(),
            processor: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".into()),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory.unwrap_or(0) / 1024,
            filesystem: filesystem_of(base),
            fuse_uring: fuse_uring(),
            load: load(),
            command,
            programs: programs(),
        }
    }
}

/// The load average of the last minute.
pub fn load() -> f64 {
    read("/proc/loadavg").split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

/// The type of the filesystem of `path`, from the longest mount point above it.
fn filesystem_of(path: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (place, kind) = (words.nth(1)?, words.next()?);
        path.starts_with(place).then(|| (place.len(), kind.to_string()))
    });
    mounts.max_by_key(|(len, _)| *len).map_or_else(|| "unknown".into(), |(_, kind)| kind)
}

fn programs() -> Vec<String> {
    let asked = [("git", "--version"), ("python3", "--version"), ("tar", "--version"), ("fio", "--version")];
    let ask = |(program, flag): (&str, &str)| {
        let said = std::process::Command::new(program).arg(flag).output().ok()?.stdout;
        String::from_utf8_lossy(&said).lines().next().map(str::to_string)
    };
    asked.into_iter().filter_map(ask).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_key() {
        assert_eq!(field("a: 1\nmodel name\t: X Y\n", "model name").as_deref(), Some("X Y"));
        assert_eq!(field("a: 1\n", "b"), None);
    }

    #[test]
    fn the_machine_has_facts() {
        let facts = Facts::gather(Path::new("/"), "acetate bench".into());
        assert!(facts.processors > 0 && facts.memory_mib > 0 && !facts.kernel.is_empty());
        assert_ne!(facts.filesystem, "unknown");
    }
}
