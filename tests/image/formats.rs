//! What a layer may be made of, and what it becomes.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::tarball::{Header, Layer, Tar};
use crate::world::{World, root_or_skip, text, xattrs};

#[test]
fn layers_are_plain_or_compressed_with_gzip_or_zstd() {
    let world = World::new();
    let tar = |name: &str| Tar::default().dir("d/").file(&format!("d/{name}"), name.as_bytes()).end();
    let layers = [Layer::plain(tar("plain")), Layer::gzip(tar("gzip")), Layer::zstd(tar("zstd"))];
    let paths = world.image("mixed", &layers);
    for (path, name) in paths.iter().zip(["zstd", "gzip", "plain"]) {
        assert_eq!(text(path.join("d").join(name)), name);
    }
}

#[test]
fn a_stream_of_several_gzip_members_or_zstd_frames_is_one() {
    let world = World::new();
    let tar = Tar::default().file("f", &[7; 100_000]).end();
    let (left, right) = tar.split_at(tar.len() / 2);
    for (name, blob) in [
        ("gz", [crate::tarball::gzip(left), crate::tarball::gzip(right)].concat()),
        ("zst", [crate::tarball::zstd(left), crate::tarball::zstd(right)].concat()),
    ] {
        let path = world.layer(name, Layer { blob, tar: tar.clone() });
        assert_eq!(std::fs::read(path.join("f")).unwrap(), [7; 100_000]);
    }
}

#[test]
fn whiteouts_become_devices_and_replaced_directories_opaque_wherever_they_stand() {
    if !root_or_skip() {
        return;
    }
    let world = World::new();
    let layer = Tar::default()
        .dir("before/")
        .file("before/.wh..wh..opq", b"")
        .file("before/x", b"")
        .file("after/x", b"")
        .file("after/.wh..wh..opq", b"")
        .file(".wh.gone", b"")
        .file("dir/.wh.gone", b"")
        // A directory made anew under the name it deletes, in either order.
        .file(".wh.anew", b"")
        .file("anew/x", b"")
        .file("made/x", b"")
        .file(".wh.made", b"")
        .file(".wh.file", b"")
        .file("file", b"new")
        .end();
    let path = world.layer("marks", Layer::plain(layer));
    for gone in ["gone", "dir/gone"] {
        let meta = path.join(gone).symlink_metadata().unwrap();
        assert_eq!((meta.mode() & libc::S_IFMT, meta.rdev()), (libc::S_IFCHR, 0), "{gone}");
    }
    for opaque in ["before", "after", "anew", "made"] {
        assert_eq!(xattrs(&path.join(opaque)), "trusted.overlay.opaque=\"y\"", "{opaque}");
        assert!(path.join(opaque).join("x").exists());
    }
    assert_eq!(xattrs(&path.join("dir")), "");
    assert_eq!(text(path.join("file")), "new");
}

#[test]
fn marks_below_a_file_of_the_same_layer_delete_nothing() {
    let world = World::new();
    let layer = Tar::default().file("old", b"a file now").file("old/.wh.child", b"").end();
    let path = world.layer("umoci", Layer::plain(layer));
    assert_eq!(text(path.join("old")), "a file now");
}

#[test]
fn the_root_directory_may_have_an_entry_under_every_name_it_has() {
    let world = World::new();
    for (at, name) in ["/", "./", "."].into_iter().enumerate() {
        let mut header = Header::new(name.as_bytes(), b'5', 0);
        header.octal(100, 8, 0o711);
        let layer = Tar::default().entry(&header, b"").file("./f", b"").end();
        let path = world.layer(&format!("root{at}"), Layer::plain(layer));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o711, "{name}");
        assert_eq!(path.metadata().unwrap().mtime(), 1_600_000_000);
    }
}

#[test]
fn names_links_times_ids_and_attributes_are_kept_from_pax_and_gnu_headers() {
    if !root_or_skip() {
        return;
    }
    let world = World::new();
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(255));
    let target = "t".repeat(300);
    let mut gnu = Header::new(b"short", b'0', 2);
    gnu.put(257, b"ustar  \0");
    let layer = Tar::default()
        .pax(&[("path", long.as_bytes()), ("mtime", b"1500000000.123456789"), ("uid", b"3000000000")])
        .file("ignored", b"1")
        .long_name(format!("{long}2").replace("2", "").as_bytes())
        .entry(&gnu, b"22")
        .pax(&[("linkpath", target.as_bytes()), ("mtime", b"-1.5")])
        .symlink("link", "x")
        .pax(&[("SCHILY.xattr.user.a", b"\0\n="), ("SCHILY.xattr.trusted.overlay.redirect", b"/etc")])
        .file("attributes", b"")
        .hardlink("other", "attributes")
        .end();
    let path = world.layer("kept", Layer::plain(layer));
    let meta = path.join(&long).metadata().unwrap();
    // The GNU entry has the same long name and came later.
    assert_eq!((meta.len(), meta.mtime()), (2, 1_600_000_000));
    let link = path.join("link");
    assert_eq!(std::fs::read_link(&link).unwrap().as_os_str().len(), 300);
    let meta = link.symlink_metadata().unwrap();
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (-2, 500_000_000));
    // Marks of overlayfs are not obeyed: they are stored one level deeper.
    let expected = "trusted.overlay.overlay.redirect=\"/etc\" user.a=0sAAo9";
    assert_eq!(xattrs(&path.join("attributes")), expected);
    assert_eq!(path.join("other").metadata().unwrap().nlink(), 2);
    let layer = Tar::default().pax(&[("mtime", b"1500000000.123456789"), ("uid", b"3000000000")]);
    let path = world.layer("ids", Layer::plain(layer.file("f", b"1").end()));
    let meta = path.join("f").metadata().unwrap();
    assert_eq!((meta.uid(), meta.mtime(), meta.mtime_nsec()), (3_000_000_000, 1_500_000_000, 123_456_789));
}

#[test]
fn sparse_files_of_every_form_are_the_same_file() {
    let world = World::new();
    const SIZE: u64 = 3 << 20;
    let (first, second) = ([1u8; 1024], [2u8; 512]);
    let data = [&first[..], &second].concat();
    let at = 2u64 << 20;
    let mut old = Header::new(b"old", b'S', data.len() as u64);
    old.put(257, b"ustar  \0").octal(386, 12, 0).octal(398, 12, 1024).octal(410, 12, at).octal(422, 12, 512);
    old.octal(483, 12, SIZE);
    let map = format!("2\n0\n1024\n{at}\n512\n");
    let mut one = map.clone().into_bytes();
    one.resize(512, 0);
    one.extend_from_slice(&data);
    let size = SIZE.to_string();
    let (size, at) = (size.as_bytes(), at.to_string());
    let layer = Tar::default()
        .entry(&old, &data)
        .pax(&[
            ("GNU.sparse.size", size),
            ("GNU.sparse.offset", b"0"),
            ("GNU.sparse.numbytes", b"1024"),
            ("GNU.sparse.offset", at.as_bytes()),
            ("GNU.sparse.numbytes", b"512"),
        ])
        .file("zero", &data)
        .pax(&[
            ("GNU.sparse.size", size),
            ("GNU.sparse.name", b"point-one"),
            ("GNU.sparse.map", format!("0,1024,{at},512").as_bytes()),
        ])
        .file("GNUSparseFile.0/x", &data)
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"one"),
            ("GNU.sparse.realsize", size),
        ])
        .file("GNUSparseFile.0/y", &one)
        .end();
    let path = world.layer("sparse", Layer::plain(layer));
    let mut expected = vec![0; SIZE as usize];
    expected[..1024].copy_from_slice(&first);
    expected[2 << 20..(2 << 20) + 512].copy_from_slice(&second);
    for name in ["old", "zero", "point-one", "one"] {
        assert!(std::fs::read(path.join(name)).unwrap() == expected, "{name}");
        assert!(path.join(name).metadata().unwrap().blocks() < 100, "{name}");
    }
    world.must(&["verify"]);
}

#[test]
fn what_comes_later_in_a_layer_counts_and_directories_are_described_again() {
    let world = World::new();
    let mut closed = Header::new(b"d/", b'5', 0);
    closed.octal(100, 8, 0o700);
    let layer = Tar::default()
        .dir("d/")
        .file("d/f", b"first")
        .hardlink("kept", "d/f")
        .file("d/f", b"second")
        .entry(&closed, b"")
        .symlink("s", "a")
        .file("s", b"no link any more")
        .end();
    let path = world.layer("later", Layer::plain(layer));
    assert_eq!(text(path.join("d/f")), "second");
    assert_eq!(text(path.join("kept")), "first");
    assert_eq!(path.join("d").metadata().unwrap().mode() & 0o777, 0o700);
    assert_eq!(text(path.join("s")), "no link any more");
    assert!(!path.join("a").exists());
    world.must(&["verify"]);
}

#[test]
fn modes_owners_devices_and_times_of_directories_are_those_of_the_entries() {
    if !root_or_skip() {
        return;
    }
    let world = World::new();
    let mut set_id = Header::new(b"d/suid", b'0', 1);
    set_id.octal(100, 8, 0o6755).octal(108, 8, 7).octal(116, 8, 8);
    let mut dir = Header::new(b"d/", b'5', 0);
    dir.octal(100, 8, 0o2751).octal(116, 8, 9);
    let layer = Tar::default()
        .entry(&dir, b"")
        .entry(&set_id, b"x")
        .device("d/null", b'3', 1, 3)
        .device("d/disk", b'4', 8, 1)
        .device("d/pipe", b'6', 0, 0)
        .end();
    let path = world.layer("modes", Layer::plain(layer));
    let meta = path.join("d/suid").metadata().unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o6755, 7, 8));
    let meta = path.join("d").metadata().unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.gid(), meta.mtime()), (0o2751, 9, 1_600_000_000));
    assert_eq!(path.join("d/null").metadata().unwrap().rdev(), libc::makedev(1, 3));
    assert_eq!(path.join("d/disk").metadata().unwrap().mode() & libc::S_IFMT, libc::S_IFBLK);
    assert_eq!(path.join("d/pipe").metadata().unwrap().mode() & libc::S_IFMT, libc::S_IFIFO);
    world.must(&["verify"]);
}
