use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::sys::{Dev, Dir};

/// `user.overlay.` marks, so that no test needs to be root.
struct Layers(tempfile::TempDir);

impl Layers {
    fn new() -> Layers {
        let dir = tempfile::tempdir().unwrap();
        for name in ["upper", "lower"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Layers(dir)
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn mark(&self, path: &str, mark: &str, value: &[u8]) {
        let path = self.0.path().join(path);
        let dir = Dir::open_path(path.parent().unwrap()).unwrap();
        let name = NameBuf::new(path.file_name().unwrap().as_encoded_bytes()).unwrap();
        let attr = CString::new(mark).unwrap();
        dir.at(&name).setxattr(&attr, value, 0).unwrap();
    }

    fn whiteout(&self, path: &str) {
        let path = self.0.path().join(path);
        let dir = Dir::open_path(path.parent().unwrap()).unwrap();
        let name = NameBuf::new(path.file_name().unwrap().as_encoded_bytes()).unwrap();
        dir.mknod(&name, libc::S_IFCHR, Dev::default()).unwrap();
    }

    fn subject(&self, lower: bool) -> Subject {
        Subject {
            upper: self.0.path().join("upper"),
            lower: lower.then(|| self.0.path().join("lower")).into_iter().collect(),
            data_only: Vec::new(),
            lower_markers: false,
            prefix: Prefix::User,
            overridden: false,
            other_spelling: None,
            mixed_whiteouts: false,
        }
    }

    fn problems(&self, lower: bool) -> Vec<String> {
        let path = |f: &Finding| match &f.place {
            Place::Upper(path) => path.iter().map(|n| n.to_string()).collect::<Vec<_>>().join("/"),
            Place::Work(path) => path.display().to_string(),
        };
        findings(&self.subject(lower)).unwrap().iter().map(|f| format!("{} {}", path(f), f.problem)).collect()
    }

    fn fix(&self, lower: bool) {
        let subject = self.subject(lower);
        for finding in findings(&subject).unwrap() {
            apply(&subject.upper, &finding).unwrap();
        }
    }
}

#[test]
fn an_upper_without_faults_has_no_findings() {
    let l = Layers::new();
    l.file("lower/d/f", "x");
    l.file("lower/old/f", "x");
    l.file("upper/d/new", "x");
    l.whiteout("upper/d/f");
    l.whiteout("upper/old");
    l.file("upper/moved/more", "x");
    l.mark("upper/moved", "user.overlay.redirect", b"/old");
    l.file("upper/whole/x", "x");
    l.mark("upper/whole", "user.overlay.opaque", b"y");
    assert_eq!(l.problems(true), [""; 0]);
    assert_eq!(l.problems(false), [""; 0]);
}

#[test]
fn each_fault_is_found_at_its_place_and_the_safe_ones_are_repaired() {
    let l = Layers::new();
    l.file("lower/d/f", "x");
    l.file("upper/a/f", "text");
    l.mark("upper/a", "user.overlay.opaque", b"n");
    l.mark("upper/a/f", "user.overlay.whiteout", b"y");
    l.file("upper/b/g", "text");
    l.mark("upper/b/g", "user.overlay.origin", b"damaged");
    l.file("upper/c/h", "");
    l.mark("upper/c/h", "user.overlay.metacopy", b"");
    l.mark("upper/c", "user.overlay.redirect", b"/../etc");
    l.file("upper/d/new", "");
    l.whiteout("upper/d/never");
    l.file("upper/e/x", "");
    l.mark("upper/e", "user.overlay.redirect", b"/gone");
    l.file("upper/f/w", "");
    l.mark("upper/f/w", "user.overlay.whiteout", b"y");
    l.file("upper/g", "");
    l.mark("upper/g", "user.containers.override_stat", b"0:0:4755");
    let expected = [
        "a bad-opaque",
        "a/f bad-whiteout",
        "b missing-impure",
        "b/g bad-origin",
        "c bad-redirect",
        "c/h dangling-metacopy",
        "d/never needless-whiteout",
        "e dangling-redirect",
        "f unannounced-whiteout",
        "f/w needless-whiteout",
        "g forged-override",
    ];
    assert_eq!(l.problems(true), expected);
    let before = fs::metadata(l.0.path().join("upper/d")).unwrap().modified().unwrap();
    l.fix(true);
    assert_eq!(fs::metadata(l.0.path().join("upper/d")).unwrap().modified().unwrap(), before);
    let left = ["c bad-redirect", "c/h dangling-metacopy", "e dangling-redirect", "g forged-override"];
    assert_eq!(l.problems(true), left);
    assert_eq!(fs::read(l.0.path().join("upper/a/f")).unwrap(), b"text");
    assert_eq!(fs::read(l.0.path().join("upper/b/g")).unwrap(), b"text");
}

#[test]
fn two_directories_with_one_source_are_a_copy_made_outside() {
    let l = Layers::new();
    l.file("lower/old/f", "x");
    for name in ["one", "two"] {
        fs::create_dir(l.0.path().join("upper").join(name)).unwrap();
        l.mark(&format!("upper/{name}"), "user.overlay.redirect", b"old");
    }
    assert_eq!(l.problems(true).len(), 1);
    assert!(l.problems(true)[0].ends_with("double-redirect"));
}

#[test]
fn leftovers_of_a_mount_are_found_in_its_work_directory() {
    let t = tempfile::tempdir().unwrap();
    let make = |path: &str| fs::create_dir_all(t.path().join(path)).unwrap();
    make("work");
    assert_eq!(stale(t.path()).unwrap(), []);
    make("work/#12/inside");
    fs::set_permissions(t.path().join("work/#12"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(t.path().join("work/#13"), "x").unwrap();
    make("work/incompat/volatile");
    make("index");
    fs::write(t.path().join("index/nonsense"), "").unwrap();
    let found = stale(t.path()).unwrap();
    let mut problems: Vec<_> = found.iter().map(|f| f.problem).collect();
    problems.sort_unstable();
    assert_eq!(problems, ["bad-index", "stale-work", "stale-work", "volatile"]);
    for finding in &found {
        apply(Path::new("/nowhere"), finding).unwrap();
    }
    assert_eq!(stale(t.path()).unwrap().len(), 2);
}
