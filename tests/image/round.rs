//! An image goes round: what is committed after changes under crun and runc is the same tree for everybody who unpacks it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::mounting::can_mount;
use crate::world::{World, difference, text};

type Lines = BTreeMap<String, String>;

/// Whether all of these are there; says which are not.
fn has_all(programs: &[&str]) -> bool {
    let there =
        |name: &&str| ["/usr/bin", "/usr/sbin", "/bin"].iter().any(|dir| Path::new(dir).join(name).exists());
    let missing: Vec<&&str> = programs.iter().filter(|name| !there(name)).collect();
    if !missing.is_empty() {
        println!("skipped: needs {missing:?}");
    }
    missing.is_empty()
}

/// Goes round; `None` where that is not possible here.
fn round(who: &str, programs: &[&str]) -> Option<World> {
    const EVERYBODY: [&str; 7] = ["umoci", "crun", "runc", "busybox", "python3", "setfattr", "setpriv"];
    if !can_mount() || !has_all(&[&EVERYBODY, programs].concat()) {
        return None;
    }
    let world = World::new();
    let file = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name);
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", "150", "unshare", "--mount", "--pid", "--fork", "--kill-child"]);
    command.args(["--mount-proc", "bash"]).arg(file("image/round.sh")).arg(who);
    command.env("ACETATE", env!("CARGO_BIN_EXE_acetate")).env("DUMP", file("callers/dump.py"));
    command.env_remove("XDG_DATA_HOME").env_remove("XDG_RUNTIME_DIR");
    let output = command.current_dir(world.0.path()).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    Some(world)
}

/// A tree that the script printed.
fn lines(world: &World, name: &str) -> Lines {
    let split = |line: &str| line.split_once(' ').map(|(path, rest)| (path.to_string(), rest.to_string()));
    let lines: Lines = text(world.path(name)).lines().filter_map(split).collect();
    assert!(lines.len() > 30, "{name}: {lines:#?}");
    lines
}

/// Each line with its words changed: the second is `uid:gid`.
fn map(lines: Lines, change: impl Fn(&str, Vec<String>) -> Vec<String>) -> Lines {
    let words = |line: &str| line.split(' ').map(str::to_string).collect::<Vec<_>>();
    lines
        .into_iter()
        .map(|(path, line)| {
            let line = change(&path, words(&line)).join(" ");
            (path, line)
        })
        .collect()
}

/// Without owners, and without what umoci notes about them for a user.
fn without_owners(lines: Lines) -> Lines {
    map(lines, |_, mut words| {
        words.remove(1);
        words.retain(|word| !word.starts_with("user.rootlesscontainers="));
        words
    })
}

fn assert_same(left: &Lines, right: &Lines) {
    let differs = difference(left, right);
    assert!(differs.is_empty(), "{differs:#?}");
}

/// What every round has in common.
fn assert_changed(lines: &Lines) {
    for path in ["work/new/sub", "work/keep/mine", "work/deep/er/f", "work/pipe", "work/one", "work/link"] {
        assert!(lines.contains_key(path), "{path}");
    }
    for path in ["work/old", "work/keep/kept", "work/replaced/new", "work/replaced/below", "work/new/one"] {
        assert!(!lines.contains_key(path), "{path}");
    }
    assert!(lines["work/suid"].starts_with("0o106755 0:0 5 "), "{}", lines["work/suid"]);
    assert!(lines["work/suid-2"].contains(" links 2 first work/suid"), "{}", lines["work/suid-2"]);
    for path in ["work/replaced/z", "work/pipe", "work/link", "work/deep/er"] {
        assert_eq!(lines[path].split(' ').nth(1), Some("0:0"), "{path}: {}", lines[path]);
    }
}

#[test]
fn an_image_changed_under_crun_and_runc_is_the_same_tree_wherever_it_is_unpacked() {
    let Some(world) = round("root", &["skopeo", "buildah", "podman", "setcap"]) else { return };
    let live = lines(&world, "live");
    assert_changed(&live);
    assert!(live["work/capable"].contains("security.capability="), "{}", live["work/capable"]);
    assert!(live["work/dangling"].contains(" 5:6 ") && live.contains_key("work/added"));
    assert!(live["work/device"].starts_with("0o100644 "), "{}", live["work/device"]);
    assert_same(&live, &lines(&world, "home/again"));
    assert_same(&live, &lines(&world, "imported"));
    assert_same(&live, &lines(&world, "unpacked.tree"));
    // podman makes files of its own in these two when it unpacks, and takes them away again.
    let timeless = |lines: Lines| {
        map(lines, |path, mut words| {
            words.retain(|word| !(matches!(path, "." | "etc") && word.starts_with('@')));
            words
        })
    };
    assert_same(&timeless(live), &timeless(lines(&world, "podman")));
}

#[test]
fn a_user_of_one_id_goes_round_and_what_he_made_is_roots() {
    let Some(world) = round("alone", &["fusermount3"]) else { return };
    let (live, unpacked) = (lines(&world, "live"), lines(&world, "unpacked.tree"));
    assert_changed(&unpacked);
    // To him everything is his, and the image knows better.
    assert!(live.values().all(|line| line.contains(" 54321:54321 ")), "{live:#?}");
    assert_eq!(unpacked["work/keep"].split(' ').nth(1), Some("70:71"));
    assert_same(&live, &lines(&world, "home/again"));
    assert_same(&unpacked, &lines(&world, "imported"));
    assert_same(&without_owners(live.clone()), &without_owners(unpacked));
    assert_same(&without_owners(live), &without_owners(lines(&world, "home/umoci")));
}

#[test]
fn a_user_with_subordinate_ids_goes_round_and_every_owner_is_kept() {
    let Some(world) = round("ranges", &["fusermount3", "newuidmap"]) else { return };
    let inside = |id: &str| match id.parse::<u32>().unwrap() {
        54321 => 0,
        id => id.checked_sub(200_000).map_or(u32::MAX, |distance| distance + 1),
    };
    let live = map(lines(&world, "live"), |_, mut words| {
        let (uid, gid) = words[1].split_once(':').unwrap();
        words[1] = format!("{}:{}", inside(uid), inside(gid));
        words
    });
    assert_changed(&live);
    assert_eq!(live["work/empty"].split(' ').nth(1), Some("3:4"));
    assert_same(&live, &lines(&world, "imported"));
    assert_same(&live, &lines(&world, "unpacked.tree"));
    assert_same(&without_owners(lines(&world, "home/again")), &without_owners(live.clone()));
    assert_same(&without_owners(live), &without_owners(lines(&world, "home/umoci")));
}
