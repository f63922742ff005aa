//! What a repeated question costs: nothing, for root and for an ordinary user.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::support::{layer, sys};
use crate::world::{Ground, USER, World, as_user, under};

fn fill(l: &std::path::Path) {
    fs::create_dir_all(l.join("d/sub")).unwrap();
    fs::write(l.join("d/f"), b"content").unwrap();
    symlink("f", l.join("d/link")).unwrap();
    (0..50).for_each(|i| fs::write(l.join(format!("d/sub/{i}")), b"").unwrap());
}

fn no_requests() -> BTreeMap<String, u64> {
    BTreeMap::new()
}

/// Asks once to warm up, then counts twenty repetitions, first as root, then as a user.
fn costs_nothing(w: &World, what: &str, ask: impl Fn() + Send + Sync) {
    ask();
    ask();
    assert_eq!(w.cost(|| (0..20).for_each(|_| ask())), no_requests(), "{what}, root");
    as_user(&ask);
    assert_eq!(w.cost(|| as_user(|| (0..20).for_each(|_| ask()))), no_requests(), "{what}, user");
}

#[test]
fn looking_again_costs_no_request_f38() {
    under(60, || {
        for (name, prepare) in [("lower", false), ("copied up", true)] {
            let w = Ground::new(fill).mount("");
            if prepare {
                fs::set_permissions(w.at("d/f"), fs::Permissions::from_mode(0o644)).unwrap();
                fs::write(w.at("d/new"), b"").unwrap();
            }
            let (f, d, link, missing) = (w.raw("d/f"), w.raw("d"), w.raw("d/link"), w.raw("d/missing"));
            costs_nothing(&w, &format!("stat, {name}"), || {
                fs::metadata(w.at("d/f")).unwrap();
                fs::metadata(w.at("")).unwrap();
                fs::metadata(w.at("d/sub")).unwrap();
            });
            costs_nothing(&w, &format!("statx of the directory, {name}"), || assert!(sys::stat(&d).is_ok()));
            costs_nothing(&w, &format!("statx, {name}"), || assert!(sys::stat(&f).is_ok()));
            costs_nothing(&w, &format!("readlink, {name}"), || drop(sys::readlink(&link).unwrap()));
            costs_nothing(&w, &format!("missing name, {name}"), || assert!(sys::stat(&missing).is_err()));
            costs_nothing(&w, &format!("access, {name}"), || sys::access(&f, libc::R_OK).unwrap());
            w.end();
        }
    });
}

#[test]
fn checking_an_acl_again_costs_no_request_below_the_root_and_at_it_f11_f43() {
    under(60, || {
        let w = Ground::new(|l| {
            fill(l);
            let acl = layer::acl_for_user(0o750, USER, 5);
            for at in [l.join("d"), l.to_path_buf()] {
                let at = std::os::unix::ffi::OsStrExt::as_bytes(at.as_os_str()).to_vec();
                sys::setxattr(&at, b"system.posix_acl_access", &acl, 0).unwrap();
            }
        })
        .mount("");
        let f = w.raw("d/f");
        costs_nothing(&w, "walk through an ACL", || sys::access(&f, libc::R_OK).unwrap());
        w.end();
    });
}

/// Requests per repetition of opening, asking for the size and reading to the end.
fn cost_of_reading(options: &str, upper: bool, user: bool) -> BTreeMap<String, u64> {
    let w = Ground::new(fill).mount(options);
    if upper {
        crate::world::write_over(&w.at("d/f"), b"CONTENT");
    }
    let read = || drop(fs::read(w.at("d/f")).unwrap());
    let ask = || if user { as_user(read) } else { read() };
    // The first fills the page cache, which costs the access time; the second asks for that, the third for the ACL.
    (0..3).for_each(|_| ask());
    let cost = w.cost(|| (0..10).for_each(|_| ask()));
    w.end();
    cost.into_iter().map(|(name, count)| (name, count.div_ceil(10))).collect()
}

#[test]
fn opening_and_reading_again_costs_the_open_and_nothing_else_f38() {
    under(60, || {
        for (options, upper) in
            [("passthrough=off", false), ("passthrough=off", true), ("passthrough=auto", false)]
        {
            for user in [false, true] {
                let cost = cost_of_reading(options, upper, user);
                assert_eq!(cost, BTreeMap::from([("open".into(), 1)]), "{options} upper={upper} user={user}");
            }
        }
    });
}

#[test]
fn without_an_upper_opening_reading_and_listing_again_costs_no_request_f7() {
    under(60, || {
        let w = Ground::new(fill).mount_read_only("");
        costs_nothing(&w, "read", || assert_eq!(fs::read(w.at("d/f")).unwrap(), b"content"));
        costs_nothing(&w, "list", || assert_eq!(fs::read_dir(w.at("d/sub")).unwrap().count(), 50));
        // The first of all opens is what tells the kernel not to ask; a file never seen before costs no more than its data.
        fs::read(w.at("d/sub/1")).unwrap();
        let first = w.cost(|| drop(fs::read(w.at("d/sub/2")).unwrap()));
        assert!(!first.contains_key("open"), "{first:?}");
        w.end();
    });
}

#[test]
fn a_passthrough_read_makes_the_kernel_ask_for_the_access_time_again_and_no_more_than_that_h1() {
    under(60, || {
        let root = cost_of_reading("passthrough=auto", true, false);
        assert!(
            root.values().all(|&n| n == 1) && root.keys().all(|n| n == "open" || n == "statx"),
            "{root:?}"
        );
        // With the attributes the kernel forgets the ACL, which it needs for anybody but the owner.
        let user = cost_of_reading("passthrough=auto", true, true);
        let known = ["open", "statx", "getxattr"];
        assert!(
            user.values().all(|&n| n == 1) && user.keys().all(|n| known.contains(&n.as_str())),
            "{user:?}"
        );
    });
}

#[test]
fn an_attribute_asked_for_again_costs_exactly_one_request_f38() {
    under(60, || {
        let w = Ground::new(fill).mount("");
        let f = w.raw("d/f");
        sys::setxattr(&f, b"user.a", b"value", 0).unwrap();
        sys::getxattr(&f, b"user.a").unwrap();
        let get = w.cost(|| (0..10).for_each(|_| drop(sys::getxattr(&f, b"user.a").unwrap())));
        assert!(get["getxattr"] <= 20 && get.len() == 1, "{get:?}");
        let missing = w.cost(|| (0..10).for_each(|_| assert!(sys::getxattr(&f, b"user.b").is_err())));
        assert_eq!(missing, BTreeMap::from([("getxattr".to_string(), 10)]));
        w.end();
    });
}

#[test]
fn a_listing_read_again_costs_no_request_and_shows_changes_made_through_the_mount_f6_f7_i15() {
    under(60, || {
        let w = Ground::new(fill).mount("");
        for user in [false, true] {
            let list = || fs::read_dir(w.at("d/sub")).unwrap().count();
            let ask = || if user { as_user(list) } else { list() };
            let before = ask();
            ask();
            let cost = w.cost(|| (0..10).for_each(|_| assert_eq!(ask(), before)));
            assert_eq!(cost, no_requests(), "user={user}");
            fs::write(w.at("d/sub/new"), b"").unwrap();
            assert_eq!(ask(), before + 1, "a new name");
            fs::rename(w.at("d/sub/new"), w.at("d/sub/newer")).unwrap();
            let names = layer::names(&w.raw("d/sub"));
            assert!(names.contains(&b"newer".to_vec()) && !names.contains(&b"new".to_vec()), "a renamed one");
            fs::remove_file(w.at("d/sub/newer")).unwrap();
            assert_eq!(ask(), before, "a removed one");
            fs::remove_file(w.at(&format!("d/sub/{}", usize::from(user)))).unwrap();
            assert_eq!(ask(), before - 1, "a whiteout");
        }
        w.end();
    });
}

#[test]
fn writing_costs_no_attribute_request_per_write_f8_f11() {
    under(60, || {
        let w = Ground::new(fill).mount("passthrough=off,writeback_cache=off");
        let file = fs::OpenOptions::new().write(true).open(w.at("d/f")).unwrap();
        let write = || std::os::unix::fs::FileExt::write_all_at(&file, &[7; 100], 0).unwrap();
        write();
        let cost = w.cost(|| (0..20).for_each(|_| write()));
        assert_eq!(cost, BTreeMap::from([("write".to_string(), 20)]));
        drop(file);
        w.end();
        let w = Ground::new(fill).mount("passthrough=auto");
        let file = fs::OpenOptions::new().write(true).open(w.at("d/f")).unwrap();
        let write = || std::os::unix::fs::FileExt::write_all_at(&file, &[7; 100], 0).unwrap();
        write();
        assert_eq!(w.cost(|| (0..20).for_each(|_| write())), no_requests());
        drop(file);
        w.end();
    });
}
