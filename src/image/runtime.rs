//! The configuration of an OCI runtime (`config.json` of a bundle) for a process of an image.

use serde_json::{Value, json};

use super::manifest::RunConfig;
use super::users::User;

/// Who runs the bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Runner {
    /// Root.
    Root,
    /// An ordinary user, in a user namespace with these ids.
    User(Mapping),
}

/// Which ids of the container are which of the host: ranges of container id, host id, count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Users.
    pub users: Vec<(u32, u32, u32)>,
    /// Groups.
    pub groups: Vec<(u32, u32, u32)>,
}

/// What the process is.
#[derive(Clone, Debug)]
pub struct Process {
    /// Who it is.
    pub user: User,
    /// The words.
    pub args: Vec<String>,
    /// It has a terminal.
    pub terminal: bool,
    /// It shares the network of the host.
    pub host_network: bool,
    /// The name of its machine.
    pub hostname: String,
    /// Where the root file system lies, seen from the bundle.
    pub root: String,
}

/// What containers may do as root unless somebody says otherwise, as Docker and podman have it.
const CAPABILITIES: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Parts of /proc and /sys that tell about the host.
const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
];

/// Parts of /proc that change the host.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What is run, in the image's words: its entry point, then `words` or what it has in their place.
pub fn arguments(config: &RunConfig, words: &[String]) -> Vec<String> {
    let given = if words.is_empty() { &config.cmd } else { words };
    config.entrypoint.iter().chain(given).cloned().collect()
}

/// The environment: the image's, with a PATH, and HOME if it has none.
pub fn environment(config: &RunConfig, user: &User, terminal: bool) -> Vec<String> {
    let mut env = config.env.clone();
    let has = |env: &[String], name: &str| env.iter().any(|word| word.starts_with(&format!("{name}=")));
    if !has(&env, "PATH") {
        env.push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    }
    if !has(&env, "HOME") {
        env.push(format!("HOME={}", user.home));
    }
    if terminal && !has(&env, "TERM") {
        env.push("TERM=xterm".into());
    }
    env
}

/// Where it starts.
pub fn directory(config: &RunConfig) -> String {
    if config.working_dir.starts_with('/') { config.working_dir.clone() } else { "/".to_string() }
}

/// The whole document.
pub fn document(config: &RunConfig, process: &Process, runner: &Runner) -> Value {
    let user = &process.user;
    let capabilities = json!(CAPABILITIES);
    let mut kinds = vec!["pid", "ipc", "uts", "mount"];
    if !process.host_network {
        kinds.push("network");
    }
    if matches!(runner, Runner::User(_)) {
        kinds.push("user");
    }
    let namespaces: Vec<Value> = kinds.iter().map(|kind| json!({"type": kind})).collect();
    let mut linux = json!({
        "namespaces": namespaces, "maskedPaths": MASKED, "readonlyPaths": READ_ONLY,
    });
    if let (Runner::User(mapping), Some(linux)) = (runner, linux.as_object_mut()) {
        let ranges = |ranges: &[(u32, u32, u32)]| -> Vec<Value> {
            let one = |(inside, outside, size): &(u32, u32, u32)| json!({"containerID": inside, "hostID": outside, "size": size});
            ranges.iter().map(one).collect()
        };
        linux.insert("uidMappings".into(), ranges(&mapping.users).into());
        linux.insert("gidMappings".into(), ranges(&mapping.groups).into());
    }
    let mut who = json!({"uid": user.uid, "gid": user.gid, "umask": 0o22});
    // A user namespace of one group knows no others.
    if !user.groups.is_empty()
        && *runner == Runner::Root
        && let Some(who) = who.as_object_mut()
    {
        who.insert("additionalGids".into(), json!(user.groups));
    }
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": process.terminal,
            "user": who,
            "args": process.args,
            "env": environment(config, user, process.terminal),
            "cwd": directory(config),
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
            "noNewPrivileges": false,
        },
        "root": {"path": process.root, "readonly": false},
        "hostname": process.hostname,
        "mounts": mounts(process, runner),
        "linux": linux,
    })
}

fn mounts(process: &Process, runner: &Runner) -> Vec<Value> {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    let mut pts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    // The group tty is no id of a small user namespace.
    if *runner == Runner::Root {
        pts.push("gid=5");
    }
    let system = if process.host_network && *runner != Runner::Root {
        // Only who owns the network may mount a new one.
        json!({"destination": "/sys", "type": "none", "source": "/sys",
               "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]})
    } else {
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"])
    };
    vec![
        mount("/proc", "proc", &[]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", &pts),
        json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
               "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]}),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        system,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> RunConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn words_take_the_place_of_cmd_and_follow_the_entry_point() {
        let config = config(r#"{"Entrypoint": ["/run"], "Cmd": ["a", "b"], "Env": null}"#);
        assert_eq!(arguments(&config, &[]), ["/run", "a", "b"]);
        assert_eq!(arguments(&config, &["c".into()]), ["/run", "c"]);
    }

    #[test]
    fn the_environment_is_the_images_with_what_is_always_there() {
        let user = User { uid: 5, gid: 5, groups: vec![], home: "/home/x".into() };
        let env = environment(&config(r#"{"Env": ["PATH=/p", "A=b"]}"#), &user, false);
        assert_eq!(env, ["PATH=/p", "A=b", "HOME=/home/x"]);
        assert!(environment(&RunConfig::default(), &user, true).contains(&"TERM=xterm".to_string()));
    }

    #[test]
    fn a_user_gets_a_namespace_and_no_group_tty() {
        let user = User { uid: 0, gid: 0, groups: vec![4], home: "/root".into() };
        let process = Process {
            user,
            args: vec!["sh".into()],
            terminal: false,
            host_network: true,
            hostname: "h".into(),
            root: "rootfs".into(),
        };
        let mapping = Mapping { users: vec![(0, 1000, 1)], groups: vec![(0, 1000, 1)] };
        let document = document(&RunConfig::default(), &process, &Runner::User(mapping));
        assert_eq!(document["linux"]["uidMappings"][0]["hostID"], 1000);
        assert!(!document.to_string().contains("gid=5"));
        assert!(document["process"]["user"]["additionalGids"].is_null());
    }
}
