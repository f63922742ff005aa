//! An image that is mounted is the tree that others unpack.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::tarball::{Header, Layer, Tar, layout};
use crate::world::{World, difference, has, is_root, text, tree};

/// Whether images can be mounted here; says why not.
pub fn can_mount() -> bool {
    let can = is_root() && Path::new("/dev/fuse").exists();
    if !can {
        println!("skipped: needs root and /dev/fuse");
    }
    can
}

/// A mount that is taken away at the end.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let output = Command::new(env!("CARGO_BIN_EXE_acetate")).arg("umount").arg(&self.0).output();
        let output = output.unwrap();
        if !output.status.success() && !std::thread::panicking() {
            panic!("{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

fn mount(world: &World, words: &[&str]) -> Mount {
    let at = world.path("mnt");
    std::fs::create_dir_all(&at).unwrap();
    world.must(&[&["mount"], words, &[at.to_str().unwrap()]].concat());
    Mount(at)
}

/// An entry with attributes of its own.
fn described(name: &str, kind: u8, mode: u64, uid: u64, time: u64) -> Header {
    let mut header = Header::new(name.as_bytes(), kind, 0);
    header.octal(100, 8, mode).octal(108, 8, uid).octal(136, 12, time);
    header
}

/// Layers that delete, replace, link, and leave directories without entries.
fn layers() -> Vec<Layer> {
    let base = Tar::default()
        .entry(&described("./", b'5', 0o755, 0, 1_500_000_000), b"")
        .entry(&described("etc/", b'5', 0o750, 7, 1_500_000_001), b"")
        .file("etc/kept", b"kept")
        .file("etc/gone", b"gone")
        .entry(&described("var/", b'5', 0o1777, 0, 1_500_000_002), b"")
        .entry(&described("var/lib/", b'5', 0o700, 9, 1_500_000_003), b"")
        .file("var/lib/old", b"old")
        .dir("replaced/")
        .file("replaced/below", b"hidden")
        .dir("opaque/")
        .file("opaque/below", b"hidden")
        .file("links/a", b"linked")
        .hardlink("links/b", "links/a")
        .symlink("links/s", "a")
        .end();
    let second = Tar::default()
        .file("etc/.wh.gone", b"")
        .file("var/lib/new", b"new")
        .file(".wh.replaced", b"")
        .dir("replaced/")
        .file("replaced/mine", b"mine")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/mine", b"mine")
        .file("deep/er/file", b"x")
        .end();
    let third = Tar::default().file("var/lib/third", b"3").file("deep/er/other", b"y").end();
    vec![Layer::gzip(base), Layer::gzip(second), Layer::plain(third)]
}

/// Of a directory that nothing describes, everybody decides the owner, mode and time alone.
fn without(mut lines: BTreeMap<String, String>, paths: &[&str]) -> BTreeMap<String, String> {
    for (path, line) in &mut lines {
        if paths.contains(&path.as_str()) {
            *line = "dir".to_string();
        }
    }
    lines
}

#[test]
fn a_mounted_image_is_what_umoci_unpacks() {
    if !can_mount() || !has("umoci") {
        return;
    }
    let world = World::new();
    let dir = layout(&world.path("lay"), "t", &layers());
    let image = format!("{}:t", dir.display());
    let unpacked =
        Command::new("umoci").args(["unpack", "--image", &image]).arg(world.path("bundle")).output();
    let unpacked = unpacked.unwrap();
    assert!(unpacked.status.success(), "{}", String::from_utf8_lossy(&unpacked.stderr));
    world.must(&["import", "lay"]);
    let mounted = mount(&world, &["lay:t"]);
    // No entry describes these anywhere, and in these umoci's own work changed the time.
    let undescribed = ["links", "deep", "deep/er"];
    let ours = without(tree(&mounted.0), &undescribed);
    let theirs = without(tree(&world.path("bundle/rootfs")), &undescribed);
    // umoci leaves the times of directories in which it deleted or made something.
    let timeless = |lines: BTreeMap<String, String>| -> BTreeMap<String, String> {
        let touched = ["", "etc", "var/lib", "opaque", "replaced"];
        let cut = |(path, line): (String, String)| match touched.contains(&path.as_str()) {
            true => {
                let words: Vec<&str> = line.split(' ').take(3).collect();
                let words = words.join(" ");
                (path, words)
            }
            false => (path, line),
        };
        lines.into_iter().map(cut).collect()
    };
    let differs = difference(&timeless(ours), &timeless(theirs));
    assert!(differs.is_empty(), "{differs:#?}");
}

#[test]
fn directories_without_an_entry_are_what_the_layers_below_say() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    world.image("lay", &layers());
    let mounted = mount(&world, &["lay:t"]);
    let lines = tree(&mounted.0);
    for (path, begins) in [
        ("", "dir 755 0:0 1500000000."),
        ("etc", "dir 750 7:0 1500000001."),
        ("var", "dir 1777 0:0 1500000002."),
        ("var/lib", "dir 700 9:0 1500000003."),
        ("deep/er", "dir 755 0:0 0."),
    ] {
        assert!(lines[path].starts_with(begins), "{path}: {}", lines[path]);
    }
    for path in ["var/lib/old", "var/lib/new", "var/lib/third", "opaque/mine", "replaced/mine"] {
        assert!(lines.contains_key(path), "{path}");
    }
    for path in ["etc/gone", "opaque/below", "replaced/below"] {
        assert!(!lines.contains_key(path), "{path}");
    }
}

#[test]
fn kernel_overlayfs_shows_the_layers_of_an_image_as_we_do() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let paths = world.image("lay", &layers());
    let lower: Vec<&str> = paths.iter().map(|path| path.to_str().unwrap()).collect();
    std::fs::create_dir(world.path("kernel")).unwrap();
    let options = format!("lowerdir={}", lower.join(":"));
    let mut command = Command::new("unshare");
    // In a namespace of its own, and copied out of it.
    command.args([
        "--mount",
        "sh",
        "-ec",
        "mount -t overlay overlay -o \"$0\" kernel && cp -a kernel copied",
    ]);
    let output = command.arg(options).current_dir(world.0.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mounted = mount(&world, &["lay:t"]);
    let differs = difference(&tree(&mounted.0), &tree(&world.path("copied")));
    assert!(differs.is_empty(), "{differs:#?}");
}

#[test]
fn layers_of_a_store_are_listed_from_their_indexes_unless_the_store_was_copied() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let one = |n: u32| Layer::plain(Tar::default().dir("d/").file(&format!("d/f{n}"), b"x").end());
    let layers = world.image("lay", &(0..20).map(one).collect::<Vec<_>>());
    // What nobody may do shows whether the layer was looked at.
    std::fs::write(layers[7].join("d/late"), "late").unwrap();
    let copied = Command::new("cp").args(["-a", "store", "copy"]).current_dir(world.0.path()).status();
    assert!(copied.unwrap().success());
    let listed = |store: &str| {
        let at = world.path("mnt");
        std::fs::create_dir_all(&at).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_acetate"));
        command.args(["image", "mount", "--store", store, "lay:t"]).arg(&at).current_dir(world.0.path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mounted = Mount(at);
        std::fs::read_dir(mounted.0.join("d")).unwrap().count()
    };
    assert_eq!((listed("store"), listed("copy")), (20, 21));
}

#[test]
fn what_a_mount_uses_survives_rm_and_gc_and_goes_afterwards() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    world.image("lay", &layers());
    let mounted = mount(&world, &["lay:t", "--ephemeral"]);
    world.must(&["rm", "lay:t"]);
    let freed = world.json(&["gc"]);
    assert_eq!(freed["in_use"].as_array().unwrap().len(), 1, "{freed}");
    assert_eq!(text(mounted.0.join("var/lib/third")), "3");
    std::fs::write(mounted.0.join("var/lib/third"), "changed").unwrap();
    world.must(&["gc"]);
    assert_eq!(text(mounted.0.join("etc/kept")), "kept");
    drop(mounted);
    world.must(&["gc"]);
    assert_eq!(std::fs::read_dir(world.path("store/layers")).unwrap().count(), 0);
}

#[test]
fn mount_takes_images_beside_directories() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    world.image("lay", &layers());
    for name in ["over", "mnt", "upper"] {
        std::fs::create_dir(world.path(name)).unwrap();
    }
    std::fs::write(world.path("over/top"), "top").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_acetate"));
    command.args([
        "mount", "--lower", "over", "--image", "lay:t", "--store", "store", "--upper", "upper", "mnt",
    ]);
    let output = command.current_dir(world.0.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mounted = Mount(world.path("mnt"));
    assert_eq!(text(mounted.0.join("top")), "top");
    assert_eq!(text(mounted.0.join("etc/kept")), "kept");
    std::fs::remove_file(mounted.0.join("etc/kept")).unwrap();
}

/// Runs a script as an ordinary user with a `/dev/fuse` he may open, in a directory of his.
pub fn as_user(world: &World, script: &str) -> Output {
    const AS_USER: &str = "mount --make-rprivate / && mount -t tmpfs none /mnt && mknod -m 666 /mnt/fuse c 10 229 \
        && mount --bind /mnt/fuse /dev/fuse \
        && { umount /sys/fs/cgroup/unified 2>/dev/null || true; } \
        && exec setpriv --reuid 65534 --regid 65534 --clear-groups bash -ec \"$0\"";
    std::fs::set_permissions(world.0.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let home = world.path("home");
    if !home.exists() {
        std::fs::create_dir(&home).unwrap();
        chown(&home, Some(65534), Some(65534)).unwrap();
        std::fs::copy(env!("CARGO_BIN_EXE_acetate"), world.path("acetate")).unwrap();
    }
    let mut command = Command::new("timeout");
    command.args(["120", "unshare", "--mount", "bash", "-c", AS_USER, script]);
    command.current_dir(&home).env("HOME", &home).env_remove("XDG_DATA_HOME").env_remove("XDG_RUNTIME_DIR");
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn an_ordinary_user_imports_verifies_and_mounts() {
    if !can_mount() || !has("fusermount3") || !has("setpriv") {
        return;
    }
    let world = World::new();
    layout(&world.path("lay"), "t", &layers());
    let output = as_user(
        &world,
        "../acetate image import ../lay
         ../acetate image verify
         mkdir mnt
         ../acetate image mount lay:t --ephemeral mnt
         cat mnt/etc/kept mnt/var/lib/third mnt/links/b
         test ! -e mnt/etc/gone; test ! -e mnt/opaque/below; test ! -e mnt/replaced/below
         echo new > mnt/etc/new; rm mnt/var/lib/old
         ../acetate umount mnt
         ../acetate image rm lay:t; ../acetate image gc
         ls .local/share/acetate/layers | wc -l",
    );
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("kept3linked"), "{said}");
    assert!(said.ends_with("\n0\n"), "{said}");
}
