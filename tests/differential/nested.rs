//! Unions that lie on unions (L-26): kernel overlayfs below the mount under test, and above it.

use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;

use crate::support::backing::{self, Fs, Unavailable};
use crate::support::layer::{Layer, literal, remove_tree};
use crate::support::mounts::{Mounted, Mounter};
use crate::support::{sys, tree, watchdog};

/// Directories for a nest of mounts; removed in the end.
struct Nest(PathBuf);

impl Nest {
    fn new() -> Result<Self, Unavailable> {
        let root = backing::backing(Fs::Ext4)?.plain.join(format!("nest{}", backing::serial()));
        std::fs::create_dir(&root).unwrap();
        Ok(Self(root))
    }

    fn layer(&self, name: &str, build: impl FnOnce(&Layer)) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir(&path).unwrap();
        let layer = Layer::new(&path, 1);
        build(&layer);
        layer.finish();
        path
    }

    fn options(lowers: &[&Path], upper: &Path, work: &Path) -> Vec<u8> {
        let lowers: Vec<&[u8]> = lowers.iter().map(|path| path.as_os_str().as_bytes()).collect();
        let lowers = lowers.join(&b':');
        let parts: [&[u8]; 6] = [
            b"lowerdir=",
            &lowers,
            b",upperdir=",
            upper.as_os_str().as_bytes(),
            b",workdir=",
            work.as_os_str().as_bytes(),
        ];
        parts.concat()
    }
}

impl Drop for Nest {
    fn drop(&mut self) {
        remove_tree(self.0.as_os_str().as_bytes());
    }
}

fn at(root: &Path, name: &str) -> Vec<u8> {
    root.join(name).as_os_str().as_bytes().to_vec()
}

/// The tree in words, without inode numbers and times.
fn seen(root: &Path) -> Vec<String> {
    let tree = tree::read(root);
    let entries = tree.entries.values().map(|entry| {
        let content = entry.content.as_ref().map(|content| literal(content));
        let xattrs: Vec<String> = entry
            .xattrs
            .iter()
            .flatten()
            .map(|(name, value)| format!("{}={}", name.escape_ascii(), literal(value)))
            .collect();
        format!(
            "{} {:o} {} {:?} {content:?} {xattrs:?}",
            literal(&entry.path),
            entry.mode,
            entry.links,
            entry.device
        )
    });
    entries.chain(tree.problems.iter().filter(|problem| !problem.contains("d_ino")).cloned()).collect()
}

fn compared(what: &str, observe: fn(Mounter) -> Result<Vec<String>, Unavailable>) {
    let observed = watchdog::within(Duration::from_secs(60), move || -> Result<_, Unavailable> {
        Ok((observe(Mounter::Kernel)?, observe(Mounter::candidate())?))
    });
    match observed.and_then(|inner| inner) {
        Ok((wanted, got)) => assert_eq!(wanted, got, "{what} (reference, candidate)"),
        Err(why) => watchdog::skipped(what, &why),
    }
}

/// L-26, F-39
#[test]
fn a_kernel_overlay_works_as_a_lower_layer_and_marks_set_through_it_count() {
    compared("over a kernel overlay", |mounter| {
        let nest = Nest::new()?;
        let below = nest.layer("below", |l| drop(l.file("d/hidden", "").file("f", "data").file("gone", "")));
        let base = nest.layer("base", |l| drop(l.file("d/a", "").file("x", "").file("gone", "")));
        let [up, work, inner, up2, work2, outer] =
            ["up", "work", "inner", "up2", "work2", "outer"].map(|name| nest.layer(name, |_| {}));
        let lower =
            Mounter::Kernel.mount(&Nest::options(&[&below, &base], &up, &work), &inner, None).unwrap();
        sys::setxattr(&at(&inner, "d"), b"trusted.overlay.opaque", b"y", 0).unwrap();
        sys::unlink(&at(&inner, "x")).unwrap();
        let mounted = mounter.mount(&Nest::options(&[&inner, &base], &up2, &work2), &outer, None).unwrap();
        sys::chmod(&at(&outer, "f"), 0o600).unwrap();
        sys::unlink(&at(&outer, "gone")).unwrap();
        let mut words = seen(&outer);
        words.push(format!("x: {:?}", sys::stat(&at(&outer, "x")).err()));
        mounted.unmount().unwrap();
        words.extend(seen(&inner));
        lower.unmount().unwrap();
        Ok(words)
    });
}

/// L-26, F-39G0, G1
#[test]
fn a_kernel_overlay_can_be_mounted_on_top() {
    compared("under a kernel overlay", |mounter| {
        let nest = Nest::new()?;
        let below = nest.layer("below", |l| drop(l.file("d/a", "1").file("f", "data").file("gone", "")));
        let more = nest.layer("more", |l| drop(l.file("d/b", "2").file("gone", "")));
        let [up, work, middle, up2, work2, top] =
            ["up", "work", "middle", "up2", "work2", "top"].map(|name| nest.layer(name, |_| {}));
        let mounted = mounter.mount(&Nest::options(&[&below, &more], &up, &work), &middle, None).unwrap();
        sys::unlink(&at(&middle, "gone")).unwrap();
        sys::setxattr(&at(&middle, "d"), b"trusted.overlay.opaque", b"y", 0).unwrap();
        sys::unlink(&at(&middle, "d/b")).unwrap();
        let upper =
            Mounter::Kernel.mount(&Nest::options(&[&middle, &more], &up2, &work2), &top, None).unwrap();
        sys::chmod(&at(&top, "d/a"), 0o600).unwrap();
        sys::symlink(b"x", &at(&top, "s")).unwrap();
        let mut words = seen(&top);
        words.push(format!("gone: {:?}", sys::stat(&at(&top, "gone")).err()));
        words.push(format!(
            "whiteout: {:?}",
            sys::mknod(&at(&middle, "w"), libc::S_IFCHR, 0) == Err(Errno::EPERM)
        ));
        upper.unmount().unwrap();
        words.extend(seen(&middle));
        mounted.unmount().unwrap();
        Ok(words)
    });
}

/// undefined, but no crash, no loop
#[test]
fn a_lower_layer_changed_behind_the_mount_breaks_nothing_else() {
    compared("changing a lower layer", |mounter| {
        let nest = Nest::new()?;
        let below = nest
            .layer("below", |l| drop(l.file("d/a", "1").file("f", "data").file("e/x", "").file("ok", "")));
        let [up, work, point] = ["up", "work", "point"].map(|name| nest.layer(name, |_| {}));
        let mounted = mounter.mount(&Nest::options(&[&below], &up, &work), &point, None).unwrap();
        seen(&point);
        sys::rename(&at(&below, "d"), &at(&below, "d2"), 0).unwrap();
        sys::unlink(&at(&below, "f")).unwrap();
        std::fs::remove_dir_all(below.join("e")).unwrap();
        std::fs::write(below.join("e"), "now a file").unwrap();
        for name in ["d/a", "f", "e/x", "d/new"] {
            drop(std::fs::read(point.join(name)));
            drop(std::fs::write(point.join(name), "1"));
            drop(std::fs::remove_file(point.join(name)));
        }
        let works = std::fs::write(point.join("ok"), "yes").and_then(|()| std::fs::read(point.join("ok")));
        mounted.unmount().unwrap();
        Ok(vec![format!("{works:?}")])
    });
}

/// O-3
#[test]
fn with_an_index_no_layer_may_lie_in_what_another_mount_changes() {
    compared("beside another mount", |mounter| {
        let nest = Nest::new()?;
        let lower = nest.layer("lower", |l| drop(l.file("f", "")));
        let [up, work, up2, work2, first, second] =
            ["up", "work", "up2", "work2", "first", "second"].map(|name| nest.layer(name, |_| {}));
        std::fs::create_dir_all(up.join("in/side")).unwrap();
        std::fs::create_dir_all(up.join("in/work")).unwrap();
        let live = mounter.mount(&Nest::options(&[&lower], &up, &work), &first, None).unwrap();
        let inside = up.join("in/side");
        let mut words = Vec::new();
        let stacks: [(&str, &[&Path], &Path, &Path); 6] = [
            ("lower in upper", &[&inside], &up2, &work2),
            ("second lower in upper", &[&lower, &inside], &up2, &work2),
            ("lower is upper", &[&up], &up2, &work2),
            ("lower in work", &[&work.join("work")], &up2, &work2),
            ("lower is work", &[&work], &up2, &work2),
            ("upper in upper", &[&lower], &inside, &up.join("in/work")),
        ];
        for (what, lowers, upper, work) in stacks {
            for index in ["on", "off"] {
                let mut options = Nest::options(lowers, upper, work);
                options.extend(format!(",index={index}").bytes());
                let outcome = mounter.mount(&options, &second, None);
                words.push(format!("{what}, index={index}: {}", outcome.is_ok()));
                // An upper that had an index belongs to its lower.
                drop(outcome.map(|mounted| mounted.unmount().unwrap()));
                for used in [upper, work] {
                    clear(used);
                }
            }
        }
        live.unmount().unwrap();
        let mut options = Nest::options(&[&inside], &up2, &work2);
        options.extend(b",index=on");
        mounter.mount(&options, &second, None).unwrap().unmount().unwrap();
        Ok(words)
    });
}

/// Makes a directory new.
fn clear(path: &Path) {
    remove_tree(path.as_os_str().as_bytes());
    std::fs::create_dir(path).unwrap();
}

/// I-9, F-13
#[test]
fn handles_of_a_union_on_a_union_outlast_both() {
    compared("handles of a union on a union", |mounter| {
        let nest = Nest::new()?;
        let base =
            nest.layer("base", |l| drop(l.file("low/f", "below").file("low/sub/g", "deep").file("gone", "")));
        let [up, work, middle, up2, work2, outer] =
            ["up", "work", "middle", "up2", "work2", "outer"].map(|name| nest.layer(name, |_| {}));
        let mount = || {
            let with = |mut options: Vec<u8>| {
                options.extend(b",index=on,nfs_export=on,redirect_dir=on");
                options
            };
            let one = mounter.mount(&with(Nest::options(&[&base], &up, &work)), &middle, None).unwrap();
            let two = mounter.mount(&with(Nest::options(&[&middle], &up2, &work2)), &outer, None).unwrap();
            (one, two)
        };
        let unmount = |(one, two): (Mounted, Mounted)| {
            two.unmount().unwrap();
            one.unmount().unwrap();
        };
        let mounts = mount();
        for (path, content) in [("mid", "written between"), ("low/mid", "written there too")] {
            std::fs::write(middle.join(path), content).unwrap();
        }
        std::fs::write(outer.join("top"), "written above").unwrap();
        let names = ["mid", "low/mid", "top", "low/f", "low/sub/g", "gone", "low", "low/sub", ""];
        let handles: Vec<_> =
            names.iter().map(|name| (name, sys::file_handle(&at(&outer, name)).unwrap())).collect();
        unmount(mounts);
        let mut words = Vec::new();
        let mut look = |when: &str| {
            let anchor = std::fs::File::open(&outer).unwrap();
            for (name, handle) in &handles {
                let opened = sys::open_handle(std::os::fd::AsFd::as_fd(&anchor), handle, libc::O_RDONLY);
                let seen = opened.map(|fd| {
                    let stat = sys::fstat(fd.as_raw_fd()).unwrap();
                    let is_dir = u32::from(stat.stx_mode) & libc::S_IFMT == libc::S_IFDIR;
                    if is_dir { None } else { Some(sys::pread(fd.as_raw_fd(), 0, 100).unwrap()) }
                });
                words.push(format!("{when} {name}: {seen:?}"));
            }
        };
        let mounts = mount();
        look("mounted again");
        std::fs::write(outer.join("low/f"), "copied up").unwrap();
        sys::chmod(&at(&outer, "mid"), 0o600).unwrap();
        sys::rename(&at(&outer, "low/sub"), &at(&outer, "moved"), 0).unwrap();
        sys::unlink(&at(&outer, "gone")).unwrap();
        look("changed");
        unmount(mounts);
        let mounts = mount();
        look("changed, mounted again");
        unmount(mounts);
        Ok(words)
    });
}
