use std::fs;
use std::os::unix::fs::symlink;

use super::*;

fn dir(path: &std::path::Path) -> Dir {
    Dir::open_path(path).unwrap()
}

fn name(n: &str) -> NameBuf {
    NameBuf::new(n.as_bytes()).unwrap()
}

fn plain() -> Reader {
    Reader { prefix: Prefix::User, oci: false, overrides: false }
}

fn oci() -> Reader {
    Reader { prefix: Prefix::User, oci: true, overrides: false }
}

#[test]
fn markers_are_ordinary_names_unless_asked_for_l13() {
    let t = tempfile::tempdir().unwrap();
    fs::write(t.path().join(".wh.gone"), "").unwrap();
    let d = dir(t.path());
    assert!(matches!(plain().probe(&d, &name("gone"), Below::Some).unwrap(), Probe::Absent));
    assert!(matches!(plain().probe(&d, &name(".wh.gone"), Below::Some).unwrap(), Probe::Entry(_)));
    assert!(matches!(oci().probe(&d, &name("gone"), Below::Some).unwrap(), Probe::Whiteout));
    assert!(matches!(oci().probe(&d, &name(".wh.gone"), Below::Some).unwrap(), Probe::Absent));
}

#[test]
fn an_oci_marker_never_hides_a_name_of_its_own_layer_l14() {
    let t = tempfile::tempdir().unwrap();
    fs::write(t.path().join(".wh.d"), "").unwrap();
    fs::create_dir(t.path().join("d")).unwrap();
    let Probe::Entry(found) = oci().probe(&dir(t.path()), &name("d"), Below::Some).unwrap() else { panic!() };
    assert!(found.cut);
    let listed = oci().list(&dir(t.path())).unwrap();
    assert!(listed.iter().any(|l| l.kind == Some(Kind::Dir) && *l.name == *name("d")));
}

#[test]
fn only_regular_files_are_oci_markers_and_invalid_ones_are_not_obeyed_l14_l15() {
    let t = tempfile::tempdir().unwrap();
    symlink("x", t.path().join(".wh.a")).unwrap();
    for bad in [".wh.", ".wh..", ".wh...", ".wh..wh.plnk", ".wh..wh.aufs", ".wh..wh.orph"] {
        fs::write(t.path().join(bad), "").unwrap();
    }
    assert!(oci().list(&dir(t.path())).unwrap().is_empty());
    assert!(matches!(oci().probe(&dir(t.path()), &name("a"), Below::Some).unwrap(), Probe::Absent));
}

#[test]
fn an_opaque_marker_cuts_whatever_its_place_in_the_directory_l14() {
    let t = tempfile::tempdir().unwrap();
    fs::create_dir(t.path().join("d")).unwrap();
    fs::write(t.path().join("d/.wh..wh..opq"), "").unwrap();
    let Probe::Entry(found) = oci().probe(&dir(t.path()), &name("d"), Below::Some).unwrap() else { panic!() };
    assert!(found.cut);
}

#[test]
fn any_depth_can_be_opened_again_after_its_descriptors_were_dropped() {
    let t = tempfile::tempdir().unwrap();
    let cache = DirCache::new(16);
    let root = Object::root(1, std::sync::Arc::new(dir(t.path())), 1);
    let mut at = std::sync::Arc::clone(&root);
    let long = name(&"n".repeat(200));
    for _ in 0..60 {
        let d = at.open(&cache).unwrap();
        d.mkdir(&long, 0o755).unwrap();
        at = Object::within(&at, long.clone(), &d.stat(&long).unwrap());
    }
    let fresh = DirCache::new(16);
    assert_eq!(at.open(&fresh).unwrap().this().stat().unwrap().ino, at.ino);
    assert!(fresh.len() <= 16);
    assert_eq!(at.path().unwrap().len(), 60);
}

#[test]
fn the_descriptor_of_a_forgotten_object_is_closed() {
    let t = tempfile::tempdir().unwrap();
    fs::create_dir_all(t.path().join("a/b")).unwrap();
    let cache = DirCache::new(64);
    let root = Object::root(1, std::sync::Arc::new(dir(t.path())), 1);
    let stat = dir(t.path()).stat(&name("a")).unwrap();
    let a = Object::within(&root, name("a"), &stat);
    let b = Object::within(&a, name("b"), &stat);
    b.open(&cache).unwrap();
    assert_eq!(cache.len(), 2);
    drop(a);
    assert_eq!(cache.len(), 2, "b is still reached through a");
    drop(b);
    assert!(cache.is_empty());
}
