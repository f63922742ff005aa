//! `acetate image bundle`: a directory that an OCI runtime runs.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use clap::Args;
use nix::unistd::{getegid, geteuid};
use serde::Serialize;

use super::super::args::UmountArgs;
use super::super::mount::{self, Request, Writable};
use super::super::{Format, Outcome, Output, scratch, umount};
use crate::error::SetupError;
use crate::image::digest::Digest;
use crate::image::manifest::RunConfig;
use crate::image::runtime::{self, Mapping, Process, Runner};
use crate::image::store::{Stack, Store};
use crate::image::users::{self, User};
use crate::sys::process;
use crate::union::control::Text;

/// Arguments of `image bundle`.
#[derive(Debug, Args)]
pub struct BundleArgs {
    /// NAME:TAG or id of an image in the store.
    #[arg(value_name = "REF")]
    pub image: String,
    /// A new or empty directory: it gets config.json, rootfs (the mount) and upper (the changes).
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Changes are thrown away when rootfs is unmounted.
    #[arg(long)]
    pub ephemeral: bool,
    /// Run as this user, in place of the image's.
    #[arg(long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Give the process a terminal.
    #[arg(long)]
    pub tty: bool,
    /// Share the network of the host; without this there is only a loopback.
    #[arg(long)]
    pub host_network: bool,
    /// What to run, in place of the image's command.
    #[arg(value_name = "CMD", last = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Made {
    bundle: Text,
    rootfs: Text,
    upper: Option<Text>,
    image: Digest,
}

/// Runs it.
///
/// # Errors
/// Why there is no bundle; nothing is mounted then.
pub fn run(args: &BundleArgs, root: &Path, output: Output) -> Outcome {
    let stack = super::stack(Some(root), &args.image)?;
    let config = config(root, &stack)?;
    let words = runtime::arguments(&config, &args.command);
    if words.is_empty() {
        return Err(SetupError::new("make the bundle", "the image does not say what to run")
            .hint("say it behind --, as in: acetate image bundle REF DIR -- /bin/sh")
            .into());
    }
    let place = Place::make(&args.dir, &stack, args.ephemeral)?;
    let runner = runner();
    place.mount(&stack, &runner, output)?;
    let written = place.write(args, &config, words, &runner);
    if let Err(e) = written {
        let args = UmountArgs { lazy: false, mountpoint: place.rootfs };
        if let Err(failure) = umount::run(&args, Output::new(Format::Text, true)) {
            log::warn!("{}", failure.sentence());
        }
        return Err(e.into());
    }
    let made = Made {
        bundle: Text::from(place.dir.as_path()),
        rootfs: Text::from(place.rootfs.as_path()),
        upper: place.upper.as_deref().map(Text::from),
        image: stack.image,
    };
    output.give(&made, |_| String::new())
}

fn config(root: &Path, stack: &Stack) -> Result<RunConfig, SetupError> {
    let store = Store::open(root)?.ok_or_else(|| SetupError::new("open the store", "it is gone").at(root))?;
    Ok(store.config(&stack.image)?.config.unwrap_or_default())
}

/// The directories of a bundle.
struct Place {
    dir: PathBuf,
    rootfs: PathBuf,
    upper: Option<PathBuf>,
}

impl Place {
    fn make(dir: &Path, stack: &Stack, ephemeral: bool) -> Result<Place, SetupError> {
        let failed = |e: std::io::Error| SetupError::new("make the bundle", e).at(dir);
        if dir.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(SetupError::new("make the bundle", "there is something in this directory")
                .at(dir)
                .hint("name one that is new or empty"));
        }
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(failed)?;
        let dir = dir.canonicalize().map_err(failed)?;
        let (rootfs, upper) = (dir.join("rootfs"), dir.join("upper"));
        std::fs::create_dir(&rootfs).map_err(failed)?;
        let upper = if ephemeral { None } else { Some(upper) };
        if let Some(upper) = &upper {
            std::fs::create_dir(upper).map_err(failed)?;
            let top = stack.layers.first().map(PathBuf::as_path).unwrap_or(upper);
            scratch::dress_as(top, upper).map_err(|errno| failed(errno.into()))?;
        }
        Ok(Place { dir, rootfs, upper })
    }

    fn mount(&self, stack: &Stack, runner: &Runner, output: Output) -> Outcome {
        let writable = match &self.upper {
            Some(upper) => Writable::Upper { upper: upper.clone(), work: None },
            None => Writable::Ephemeral,
        };
        // The bundle is the result and not the mount.
        let quiet = Output::new(Format::Text, output.is_quiet());
        let mut request = Request::of_image(stack, writable, self.rootfs.clone(), quiet);
        if let Runner::User(mapping) = runner {
            request.options.push(shifted(mapping).into());
        } else {
            request.options.push("dev,suid".into());
        }
        mount::run(&request)
    }

    fn write(
        &self,
        args: &BundleArgs,
        config: &RunConfig,
        words: Vec<String>,
        runner: &Runner,
    ) -> Result<(), SetupError> {
        let mut user = users::find(&self.rootfs, args.user.as_deref().unwrap_or(&config.user))?;
        if let Runner::User(mapping) = runner
            && !is_mapped(&mapping.users, user.uid)
        {
            log::warn!(
                "it runs as root of its namespace and not as user {}, since you have no other ids (see /etc/subuid)",
                user.uid
            );
            user = User { uid: 0, gid: 0, ..user };
        }
        let hostname = self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let process = Process {
            user,
            args: words,
            terminal: args.tty,
            host_network: args.host_network,
            hostname,
            root: "rootfs".into(),
        };
        let document = runtime::document(config, &process, runner);
        let path = self.dir.join("config.json");
        let failed = |e: std::io::Error| SetupError::new("write", e).at(&path);
        let json = serde_json::to_vec_pretty(&document).map_err(|e| failed(e.into()))?;
        std::fs::write(&path, json).map_err(failed)
    }
}

fn is_mapped(ranges: &[(u32, u32, u32)], id: u32) -> bool {
    ranges.iter().any(|(inside, _, count)| id.checked_sub(*inside).is_some_and(|distance| distance < *count))
}

/// The options by which the files of a layer belong to the ids of the namespace. With a single id they all do.
fn shifted(mapping: &Mapping) -> String {
    let triples = |ranges: &[(u32, u32, u32)]| {
        let one = |(inside, outside, count): &(u32, u32, u32)| format!("{inside}:{outside}:{count}");
        ranges.iter().map(one).collect::<Vec<_>>().join(":")
    };
    match (mapping.users.as_slice(), mapping.groups.as_slice()) {
        ([(_, uid, 1)], [(_, gid, 1)]) => format!("squash_to_uid={uid}:0,squash_to_gid={gid}:0"),
        (users, groups) => {
            format!("allow_other,uidmapping={},gidmapping={}", triples(users), triples(groups))
        }
    }
}

/// Root runs it as it is; others in a user namespace, with the further ids they have been given if there are any.
fn runner() -> Runner {
    if process::may_use_trusted_xattrs() {
        return Runner::Root;
    }
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let name = nix::unistd::User::from_uid(geteuid()).ok().flatten().map(|user| user.name);
    let further = |file: &str, id: u32| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        subordinate(&text, name.as_deref(), id)
    };
    let helpers = ["/usr/bin/newuidmap", "/usr/bin/newgidmap"]
        .iter()
        .all(|path| Path::new(path).metadata().is_ok_and(|found| found.mode() & 0o111 != 0));
    let shared = std::fs::read_to_string("/etc/fuse.conf")
        .is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"));
    let mapping = match (further("/etc/subuid", uid), further("/etc/subgid", gid)) {
        (Some(users), Some(groups)) if helpers && shared => Mapping {
            users: vec![(0, uid, 1), (1, users.0, users.1)],
            groups: vec![(0, gid, 1), (1, groups.0, groups.1)],
        },
        _ => Mapping { users: vec![(0, uid, 1)], groups: vec![(0, gid, 1)] },
    };
    Runner::User(mapping)
}

/// The first range of a user in /etc/subuid.
fn subordinate(text: &str, name: Option<&str>, id: u32) -> Option<(u32, u32)> {
    let id = id.to_string();
    text.lines().find_map(|line| {
        let mut words = line.trim().split(':');
        let owner = words.next()?;
        let range = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        (Some(owner) == name || owner == id).then_some(range).filter(|range: &(u32, u32)| range.1 > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_further_ids_of_a_user_go_by_name_or_number() {
        let text = "root:1:2\nann:100000:65536\n1001:200000:10\n";
        assert_eq!(subordinate(text, Some("ann"), 1000), Some((100_000, 65_536)));
        assert_eq!(subordinate(text, Some("bob"), 1001), Some((200_000, 10)));
        assert_eq!(subordinate(text, None, 1002), None);
    }

    #[test]
    fn one_id_owns_everything_and_several_are_shifted() {
        let one = Mapping { users: vec![(0, 1000, 1)], groups: vec![(0, 100, 1)] };
        assert_eq!(shifted(&one), "squash_to_uid=1000:0,squash_to_gid=100:0");
        let more = Mapping { users: vec![(0, 7, 1), (1, 50, 9)], groups: vec![(0, 8, 1)] };
        assert_eq!(shifted(&more), "allow_other,uidmapping=0:7:1:1:50:9,gidmapping=0:8:1");
    }
}
