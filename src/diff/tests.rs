use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::sys::{Dev, Dir, NameBuf};

/// `user.overlay.` marks, so that no test needs to be root.
struct Layers(TempDir);

impl Layers {
    fn new(names: &[&str]) -> Layers {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        Layers(dir)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn dir(&self, path: &str) {
        fs::create_dir_all(self.path(path)).unwrap();
    }

    fn file(&self, path: &str, content: &str) {
        self.dir(Path::new(path).parent().unwrap().to_str().unwrap());
        fs::write(self.path(path), content).unwrap();
        self.settle(path);
    }

    /// Files that mean to be the same must not differ in their times.
    fn settle(&self, path: &str) {
        let then = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        fs::File::open(self.path(path)).unwrap().set_modified(then).unwrap();
    }

    fn whiteout(&self, path: &str) {
        let path = self.path(path);
        let dir = Dir::open_path(path.parent().unwrap()).unwrap();
        let name = NameBuf::new(path.file_name().unwrap().as_encoded_bytes()).unwrap();
        dir.mknod(&name, libc::S_IFCHR, Dev::default()).unwrap();
    }

    fn mark(&self, path: &str, mark: &str, value: &str) {
        let attr = std::ffi::CString::new(format!("user.overlay.{mark}")).unwrap();
        Dir::open_path(&self.path(path)).unwrap().this().setxattr(&attr, value.as_bytes(), 0).unwrap();
    }

    /// The changes of `upper` above the lowers named, one in a line.
    fn diff(&self, lower: &[&str]) -> String {
        let stack = Stack {
            upper: self.path("upper"),
            lower: lower.iter().map(|l| self.path(l)).collect(),
            userxattr: true,
            ..Stack::default()
        };
        let line = |c: &Change| {
            let path = String::from_utf8_lossy(&c.path).into_owned();
            match &c.what {
                What::Renamed { from } => format!("R {} -> {path}", String::from_utf8_lossy(from)),
                What::Changed(facets) => format!("C {path} ({})", facets.names().join(", ")),
                what => format!("{} {path}", what.letter()),
            }
        };
        changes(&stack).unwrap().iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

#[test]
fn without_lowers_only_marks_are_believed() {
    let l = Layers::new(&["upper"]);
    l.file("upper/etc/motd", "hi");
    l.whiteout("upper/etc/gone");
    l.dir("upper/new/sub2");
    l.mark("upper/new", "redirect", "old");
    l.mark("upper/new/sub2", "redirect", "/old/sub");
    l.whiteout("upper/old");
    l.whiteout("upper/new/sub");
    assert_eq!(l.diff(&[]), "? etc\nD etc/gone\n? etc/motd\nR old -> new\nR old/sub -> new/sub2");
}

#[test]
fn an_untouched_copy_is_no_change() {
    let l = Layers::new(&["upper", "a"]);
    l.file("a/etc/motd", "hi");
    l.file("upper/etc/motd", "hi");
    l.settle("a/etc");
    l.settle("upper/etc");
    assert_eq!(l.diff(&["a"]), "");
}

#[test]
fn each_difference_is_named() {
    let l = Layers::new(&["upper", "a"]);
    for name in ["content", "mode", "mtime", "xattr", "length"] {
        l.file(&format!("a/{name}"), "one");
        l.file(&format!("upper/{name}"), "one");
    }
    l.file("upper/content", "two");
    l.file("upper/length", "three");
    fs::set_permissions(l.path("upper/mode"), fs::Permissions::from_mode(0o600)).unwrap();
    let now = fs::File::open(l.path("upper/mtime")).unwrap();
    now.set_modified(std::time::SystemTime::now()).unwrap();
    let dir = Dir::open_path(&l.path("upper")).unwrap();
    let name = NameBuf::new(b"xattr").unwrap();
    dir.at(&name).setxattr(c"user.colour", b"green", 0).unwrap();
    let expected = "C content (content)\nC length (content)\nC mode (mode)\nC mtime (mtime)\nC xattr (xattr)";
    assert_eq!(l.diff(&["a"]), expected);
}

#[test]
fn private_attributes_are_no_difference_and_escaped_ones_are_l24() {
    let l = Layers::new(&["upper", "a"]);
    l.file("a/d/f", "x");
    l.file("upper/d/f", "x");
    l.mark("upper/d", "impure", "y");
    l.settle("a/d");
    l.settle("upper/d");
    assert_eq!(l.diff(&["a"]), "");
    l.mark("upper/d", "overlay.origin", "mine");
    assert_eq!(l.diff(&["a"]), "C d (xattr)");
}

#[test]
fn a_whiteout_is_a_deletion_only_of_what_was_there() {
    let l = Layers::new(&["upper", "a"]);
    l.file("a/etc/old", "x");
    l.dir("upper/etc");
    l.whiteout("upper/etc/old");
    l.whiteout("upper/etc/never");
    assert_eq!(l.diff(&["a"]), "D etc/old");
}

#[test]
fn a_directory_whose_names_changed_is_not_listed_for_its_time() {
    let l = Layers::new(&["upper", "a"]);
    l.dir("a/d");
    l.settle("a/d");
    l.file("upper/d/new", "x");
    assert_eq!(l.diff(&["a"]), "A d/new");
}

#[test]
fn a_replaced_directory_deletes_the_names_it_lacks() {
    let l = Layers::new(&["upper", "a", "b"]);
    l.file("b/doc/one", "1");
    l.file("a/doc/two", "2");
    l.file("b/doc/sub/deep", "3");
    l.file("b/doc/kept/four", "4");
    l.file("b/doc/kept/five", "5");
    l.file("upper/doc/two", "2");
    l.file("upper/doc/three", "3");
    l.file("upper/doc/kept/five", "5");
    l.mark("upper/doc", "opaque", "y");
    assert_eq!(l.diff(&["a", "b"]), "D doc/kept/four\nD doc/one\nD doc/sub\nA doc/three");
}

#[test]
fn a_new_kind_of_object_is_a_deletion_and_an_addition() {
    let l = Layers::new(&["upper", "a"]);
    l.file("a/thing/inside", "x");
    symlink("elsewhere", l.path("upper/thing")).unwrap();
    l.file("a/target", "x");
    l.dir("upper/target");
    assert_eq!(l.diff(&["a"]), "D target\nA target\nD thing\nA thing");
}

#[test]
fn middle_layers_delete_and_replace_before_the_upper_is_compared() {
    let l = Layers::new(&["upper", "a", "b"]);
    l.file("b/gone", "x");
    l.whiteout("a/gone");
    l.file("upper/gone", "x");
    l.file("b/d/hidden", "x");
    l.dir("a/d");
    l.mark("a/d", "opaque", "y");
    l.dir("upper/d");
    l.whiteout("upper/d/hidden");
    l.settle("a/d");
    l.settle("upper/d");
    assert_eq!(l.diff(&["a", "b"]), "A gone");
}

#[test]
fn a_renamed_directory_is_one_line_and_its_old_place_none_d10() {
    let l = Layers::new(&["upper", "a"]);
    l.file("a/old/kept", "x");
    l.file("a/old/gone", "x");
    l.file("a/old/sub/f", "x");
    l.dir("upper/new");
    l.mark("upper/new", "redirect", "old");
    l.whiteout("upper/old");
    l.whiteout("upper/new/gone");
    l.dir("upper/moved");
    l.mark("upper/moved", "redirect", "/old/sub");
    l.whiteout("upper/new/sub");
    assert_eq!(l.diff(&["a"]), "R old/sub -> moved\nR old -> new\nD new/gone");
}

#[test]
fn what_is_made_at_the_old_place_of_a_renamed_directory_is_new() {
    let l = Layers::new(&["upper", "a"]);
    l.file("a/old/f", "x");
    l.dir("upper/new");
    l.mark("upper/new", "redirect", "old");
    l.file("upper/old/f", "x");
    l.mark("upper/old", "opaque", "y");
    l.settle("a/old");
    l.settle("upper/new");
    assert_eq!(l.diff(&["a"]), "R old -> new\nA old\nA old/f");
}

#[test]
fn a_directory_renamed_over_another_deletes_that_one() {
    let l = Layers::new(&["upper", "a"]);
    l.dir("a/from");
    l.dir("a/to");
    l.dir("upper/to");
    l.mark("upper/to", "redirect", "from");
    l.whiteout("upper/from");
    l.settle("a/from");
    l.settle("upper/to");
    assert_eq!(l.diff(&["a"]), "D to\nR from -> to");
}

#[test]
fn a_directory_renamed_away_and_back_did_not_move() {
    let l = Layers::new(&["upper", "a"]);
    l.file("a/d/f", "x");
    l.dir("upper/d");
    l.mark("upper/d", "redirect", "/d");
    l.settle("a/d");
    l.settle("upper/d");
    assert_eq!(l.diff(&["a"]), "");
}

#[test]
fn names_are_bytes_and_depth_is_not_limited_by_path_max() {
    let l = Layers::new(&["upper", "a"]);
    let mut dir = Dir::open_path(&l.path("upper")).unwrap();
    let name = NameBuf::new(&[b'\xff'; 200]).unwrap();
    for _ in 0..40 {
        dir.mkdir(&name, 0o755).unwrap();
        dir = dir.open_dir(&name).unwrap();
    }
    let stack =
        Stack { upper: l.path("upper"), lower: vec![l.path("a")], userxattr: true, ..Stack::default() };
    let changes = changes(&stack).unwrap();
    assert_eq!(changes.len(), 40);
    assert_eq!(changes.last().unwrap().path.len(), 40 * 201 - 1);
}
