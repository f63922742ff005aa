//! The layers everybody is measured on: generated, always the same, built when a row first needs them.
//!
//! One *tree* of a few thousand files in four layers, with overrides, deletions and replaced directories, is what an
//! image looks like. A *wide* set holds one fixed set of files dealt out to 1, 10, 100 or 1,000 layers, so that
//! nothing but the number of layers differs. The rest are single layers with what a program needs.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::stat::{Mode, SFlag, mknod};

use super::contender::{in_path, run};
use super::work::Scale;
use crate::layer::index::{LayerIndex, beside};

/// Longer than an index distrusts what it has just seen change.
const SETTLING: Duration = Duration::from_secs(4);

/// What a row is mounted over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layers {
    /// Four layers of an image.
    Tree,
    /// The tree, and a large file beneath it.
    Big,
    /// One set of files in this many layers.
    Wide(usize),
    /// The same, each layer with its index.
    Indexed(usize),
    /// A layer with a program in Python.
    Python,
    /// A layer with a program in C.
    C,
    /// A Debian root given by the user.
    Debian,
}

/// A source of numbers that are the same in every run.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// `seed` decides everything.
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit.max(1)
    }
}

/// The layers built so far.
#[derive(Debug)]
pub struct Fixture {
    base: PathBuf,
    scale: Scale,
    debian: Option<PathBuf>,
}

impl Fixture {
    /// In the empty directory `base`.
    pub fn new(base: &Path, scale: Scale, debian: Option<PathBuf>) -> Fixture {
        Fixture { base: base.to_path_buf(), scale, debian }
    }

    /// Names of the layers in the base, top first; builds them the first time. Errors: why they cannot be had.
    pub fn layers(&self, which: Layers) -> Result<Vec<String>, String> {
        let built = match which {
            Layers::Tree => self.tree(),
            Layers::Big => self.big(),
            Layers::Wide(count) => self.wide(count),
            Layers::Indexed(count) => return self.indexed(count),
            Layers::Python => self.python(),
            Layers::C => self.c(),
            Layers::Debian => return self.debian_root(),
        };
        built.map_err(|e| format!("cannot build the layers: {e}"))
    }

    fn is_built(&self, name: &str) -> bool {
        self.base.join(name).is_dir()
    }

    /// Builds a layer beside its place and moves it there when it is whole.
    fn build(&self, name: &str, fill: impl FnOnce(&Path) -> std::io::Result<()>) -> std::io::Result<()> {
        if self.is_built(name) {
            return Ok(());
        }
        let parts = self.base.join("unfinished");
        fs::create_dir(&parts)?;
        let filled = fill(&parts);
        if filled.is_err() {
            fs::remove_dir_all(&parts)?;
        }
        filled.and_then(|()| fs::rename(&parts, self.base.join(name)))
    }

    fn tree(&self) -> std::io::Result<Vec<String>> {
        let scale = self.scale;
        self.build("t3", |dir| {
            let mut dice = Dice::new(1);
            for file in tree_files(scale) {
                write_file(&dir.join(file), &mut dice)?;
            }
            Ok(())
        })?;
        // Each upper layer changes some files, deletes some, and adds a directory of its own.
        for (layer, step) in [(2usize, 7usize), (1, 11), (0, 13)] {
            self.build(&format!("t{layer}"), |dir| {
                let mut dice = Dice::new(layer as u64 + 10);
                for (n, file) in tree_files(scale).iter().enumerate().skip(layer).step_by(step * 3) {
                    match n % 5 {
                        0 => whiteout(&dir.join(file))?,
                        _ => write_file(&dir.join(file), &mut dice)?,
                    }
                }
                (0..20).try_for_each(|n| write_file(&dir.join(format!("added-{layer}/f{n}")), &mut dice))
            })?;
        }
        Ok((0..4).map(|n| format!("t{n}")).collect())
    }

    fn big(&self) -> std::io::Result<Vec<String>> {
        let mut layers = self.tree()?;
        let mib = self.scale.big_mib;
        self.build("big", |dir| {
            let mut file = fs::File::create(dir.join("big.bin"))?;
            let mut dice = Dice::new(3);
            for _ in 0..mib {
                file.write_all(&noise(1 << 20, &mut dice))?;
            }
            file.sync_all()
        })?;
        layers.push("big".into());
        Ok(layers)
    }

    fn wide(&self, count: usize) -> std::io::Result<Vec<String>> {
        self.dealt(&format!("w{count}"), count)
    }

    /// A set of its own, so that the plain one has no index.
    fn indexed(&self, count: usize) -> Result<Vec<String>, String> {
        let top = format!("i{count}");
        let fresh = !self.is_built(&top);
        let layers = self.dealt(&top, count).map_err(|e| format!("cannot build the layers: {e}"))?;
        if fresh {
            // What has only just changed is not believed.
            std::thread::sleep(SETTLING);
            for layer in &layers {
                let layer = self.base.join(layer);
                let file = beside(&layer).ok_or("a layer has no name")?;
                LayerIndex::build(&layer).and_then(|index| index.save(&file)).map_err(|e| e.to_string())?;
            }
        }
        Ok(layers)
    }

    /// File `n` of the set is in layer `n % count`.
    fn dealt(&self, top: &str, count: usize) -> std::io::Result<Vec<String>> {
        let scale = self.scale;
        self.build(top, |dir| {
            for layer in 0..count {
                fs::create_dir(dir.join(layer.to_string()))?;
            }
            for n in 0..scale.wide_files {
                let file = dir.join((n % count).to_string()).join(wide_file(n));
                if let Some(parent) = file.parent() {
                    fs::create_dir_all(parent)?;
                }
                fs::write(file, b"one file of a set\n")?;
            }
            Ok(())
        })?;
        Ok((0..count).map(|layer| format!("{top}/{layer}")).collect())
    }

    /// A copy of the standard library, which is what starting a Python program reads.
    fn python(&self) -> std::io::Result<Vec<String>> {
        self.build("python", |dir| {
            let asked = Command::new("python3")
                .args(["-I", "-c", "import sysconfig; print(sysconfig.get_paths()['stdlib'])"])
                .output()?;
            let lib = PathBuf::from(String::from_utf8_lossy(&asked.stdout).trim());
            if !lib.is_dir() {
                return Err(std::io::Error::other("python3 does not tell where its library is"));
            }
            copy_tree(&lib, &dir.join("lib"), &|name| {
                !matches!(name, "test" | "tests" | "site-packages" | "dist-packages" | "idlelib")
            })
        })?;
        Ok(vec!["python".into()])
    }

    fn c(&self) -> std::io::Result<Vec<String>> {
        let units = self.scale.c_units;
        self.build("c", |dir| {
            for n in 0..20 {
                let name = format!("h{n}.h");
                fs::write(
                    dir.join(name),
                    format!("static inline int add{n}(int a) {{ return a + {n}; }}\n"),
                )?;
            }
            for n in 0..units {
                let head: String = (0..20).map(|h| format!("#include \"h{h}.h\"\n")).collect();
                let body = format!("#include <stdio.h>\nint unit{n}(int a) {{ return add{}(a); }}\n", n % 20);
                fs::write(dir.join(format!("u{n}.c")), head + &body)?;
            }
            fs::write(dir.join("main.c"), "int main(void) { return 0; }\n")
        })?;
        Ok(vec!["c".into()])
    }

    /// The root, and above it a layer with the packages, downloaded once.
    fn debian_root(&self) -> Result<Vec<String>, String> {
        let root = self.debian.as_ref().ok_or("say --debian ROOT, a directory with a Debian system")?;
        let link = self.base.join("debian");
        if !self.is_built("debian") {
            std::os::unix::fs::symlink(root, &link)
                .map_err(|e| format!("cannot use {}: {e}", root.display()))?;
        }
        if !self.is_built("packages") {
            self.download_packages()?;
        }
        Ok(vec!["packages".into(), "debian".into()])
    }

    fn download_packages(&self) -> Result<(), String> {
        let say = |e: std::io::Error| format!("cannot prepare the packages: {e}");
        for name in ["download", "download-work", "root"] {
            fs::create_dir_all(self.base.join(name)).map_err(say)?;
        }
        let options = "lowerdir=debian,upperdir=download,workdir=download-work";
        run(Command::new("mount")
            .args(["-t", "overlay", "overlay", "-o", options, "root"])
            .current_dir(&self.base))?;
        let root = self.base.join("root");
        let fetched =
            in_chroot(&root, "apt-get -q update && apt-get -q -y --no-install-recommends -d install")
                .and_then(|mut command| run(&mut command));
        nix::mount::umount2(&root, nix::mount::MntFlags::MNT_DETACH).map_err(|e| e.desc().to_string())?;
        fetched?;
        fs::rename(self.base.join("download"), self.base.join("packages")).map_err(say)
    }
}

/// A package with enough files to be worth installing and few dependencies.
const PACKAGE: &str = "git";

/// A command line inside a system; the package is its last word.
pub fn in_chroot(root: &Path, line: &str) -> Result<Command, String> {
    let resolver = root.join("etc/resolv.conf");
    if let Ok(text) = fs::read("/etc/resolv.conf") {
        // A root may have none, or a link that leads nowhere; apt then says what it misses.
        drop(fs::remove_file(&resolver).and_then(|()| fs::write(&resolver, text)));
    }
    let chroot = in_path("chroot").ok_or("chroot is not installed")?;
    let mut command = Command::new(chroot);
    command.arg(root).args(["/bin/sh", "-c", &format!("{line} {PACKAGE}")]);
    command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
    Ok(command)
}

/// The names of the tree's lowest layer, directory by directory.
pub fn tree_files(scale: Scale) -> Vec<String> {
    let per_dir = 20;
    let dirs = scale.tree_files / per_dir;
    let name = |n: usize| {
        let (dir, file) = (n / per_dir, n % per_dir);
        format!("d{}/s{}/f{file}.txt", dir % (dirs / 4).max(1), dir)
    };
    (0..dirs * per_dir).map(name).collect()
}

/// Where file `n` of a wide set is.
pub fn wide_file(n: usize) -> String {
    format!("d{}/f{n}", n / 100)
}

/// Names of the tree that no layer deletes; for rows that open or change lower files.
pub fn steady_files(scale: Scale) -> Vec<String> {
    let deleted: std::collections::HashSet<usize> = [(2usize, 7usize), (1, 11), (0, 13)]
        .into_iter()
        .flat_map(|(layer, step)| (layer..scale.tree_files).step_by(step * 3).filter(|n| n % 5 == 0))
        .collect();
    let all = tree_files(scale).into_iter().enumerate();
    all.filter(|(n, _)| !deleted.contains(n)).map(|(_, name)| name).collect()
}

fn write_file(path: &Path, dice: &mut Dice) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    // Mostly small, some larger, as in any system.
    let size = match dice.below(10) {
        0 => dice.below(64 << 10),
        1..4 => dice.below(16 << 10),
        _ => dice.below(4 << 10),
    };
    fs::write(path, noise(size as usize + 1, dice))
}

/// Text that does not compress to nothing.
fn noise(len: usize, dice: &mut Dice) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 \n";
    let mut text = Vec::with_capacity(len + 8);
    while text.len() < len {
        let mut bits = dice.below(1 << 48);
        for _ in 0..8 {
            text.push(LETTERS.get(bits as usize % 64).copied().unwrap_or(b' '));
            bits >>= 6;
        }
    }
    text.truncate(len);
    text
}

fn whiteout(path: &Path) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    mknod(path, SFlag::S_IFCHR, Mode::empty(), 0).map_err(Into::into)
}

/// Copies directories and files whose names `wanted` accepts.
fn copy_tree(from: &Path, to: &Path, wanted: &dyn Fn(&str) -> bool) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if !wanted(&name.to_string_lossy()) {
            continue;
        }
        let kind = fs::metadata(entry.path())?.file_type();
        let target = to.join(&name);
        if kind.is_dir() {
            copy_tree(&entry.path(), &target, wanted)?;
        } else if !kind.is_socket() && !kind.is_fifo() {
            // With its time, or Python would not believe the compiled files.
            let modified = fs::metadata(entry.path())?.modified()?;
            fs::copy(entry.path(), &target)?;
            fs::File::options().write(true).open(&target)?.set_modified(modified)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wide_set_holds_the_same_files() {
        let dir = tempfile::tempdir().unwrap();
        let fixture = Fixture::new(dir.path(), Scale { wide_files: 300, ..Scale::quick() }, None);
        let names = |count: usize| {
            let mut found = std::collections::BTreeSet::new();
            for layer in fixture.layers(Layers::Wide(count)).unwrap() {
                for sub in fs::read_dir(dir.path().join(layer)).unwrap().flatten() {
                    for file in fs::read_dir(sub.path()).unwrap().flatten() {
                        found.insert(file.path().strip_prefix(sub.path()).unwrap().to_path_buf());
                    }
                }
            }
            found
        };
        assert_eq!(names(1).len(), 300);
        assert_eq!(names(1), names(10));
    }

    #[test]
    fn the_same_seed_gives_the_same_text() {
        assert_eq!(noise(100, &mut Dice::new(5)), noise(100, &mut Dice::new(5)));
        assert_ne!(noise(100, &mut Dice::new(5)), noise(100, &mut Dice::new(6)));
        assert_eq!(noise(3, &mut Dice::new(5)).len(), 3);
    }

    #[test]
    fn steady_files_are_deleted_by_no_layer() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: whiteouts are made by root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let scale = Scale { tree_files: 400, ..Scale::quick() };
        Fixture::new(dir.path(), scale, None).layers(Layers::Tree).unwrap();
        for name in steady_files(scale) {
            for layer in ["t0", "t1", "t2"] {
                let kind = fs::symlink_metadata(dir.path().join(layer).join(&name)).map(|m| m.file_type());
                assert!(!kind.is_ok_and(|k| k.is_char_device()), "{layer}/{name}");
            }
        }
    }
}
