//! Memory and descriptors are bounded by what the kernel remembers.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::support::backing::Fs;
use crate::world::{Ground, World, eventually, under};

const DESCRIPTORS: usize = 5_000;

fn drop_caches() {
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
}

fn tree(root: &Path, files: usize) {
    for d in 0..files / 500 {
        let dir = root.join(format!("{:02}/{d}", d % 20));
        fs::create_dir_all(&dir).unwrap();
        (0..500).for_each(|f| drop(File::create(dir.join(format!("file{f}"))).unwrap()));
    }
}

fn walk(at: &Path) -> usize {
    let mut seen = 1;
    for entry in fs::read_dir(at).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            seen += walk(&entry.path());
        } else {
            entry.metadata().unwrap();
            seen += 1;
        }
    }
    seen
}

#[test]
fn a_large_tree_walked_costs_few_descriptors_and_is_forgotten_with_the_kernels_caches() {
    let big = std::env::var_os("ACETATE_BIG").is_some();
    let files = if big { 1_000_000 } else { 100_000 };
    under(if big { 900 } else { 110 }, move || {
        let w = Ground::on(Fs::Tmpfs, |l| tree(l, files)).unprinted().mount("");
        assert!(walk(&w.at("")) > files);
        let (nodes, descriptors) = (w.number("nodes"), w.descriptors());
        assert!(nodes > files as u64 / 100, "the walk was remembered: {nodes}");
        assert!(descriptors < DESCRIPTORS, "{descriptors}");
        eventually("the nodes are forgotten", || {
            drop_caches();
            w.number("nodes") < files as u64 / 100
        });
        assert!(w.descriptors() < DESCRIPTORS);
        w.is_sound();
        w.end_without_lower();
    });
}

fn settled(w: &World) -> usize {
    // Releases and forgets arrive after the calls that caused them.
    eventually("all handles are released", || w.number("handles") <= 1);
    w.descriptors()
}

#[test]
fn removing_many_hard_links_leaks_no_descriptor() {
    under(60, || {
        let w = Ground::new(|l| {
            fs::create_dir(l.join("d")).unwrap();
            for i in 0..500 {
                fs::write(l.join(format!("d/{i}")), b"x").unwrap();
                fs::hard_link(l.join(format!("d/{i}")), l.join(format!("d/{i}-b"))).unwrap();
            }
        })
        .mount("index=on");
        for i in 0..500 {
            fs::write(w.at(&format!("d/new{i}")), b"x").unwrap();
            fs::hard_link(w.at(&format!("d/new{i}")), w.at(&format!("d/new{i}-b"))).unwrap();
        }
        walk(&w.at(""));
        let before = settled(&w);
        fs::remove_dir_all(w.at("d")).unwrap();
        let after = settled(&w);
        assert!(after < before + 50, "{before} descriptors became {after}");
        eventually("the nodes are forgotten", || {
            drop_caches();
            w.number("nodes") < 20
        });
        w.end();
    });
}

#[test]
fn two_thousand_unlinked_files_stay_usable_and_their_descriptors_go_with_them() {
    under(60, || {
        let w = Ground::new(|l| {
            fs::create_dir(l.join("d")).unwrap();
            (0..1000).for_each(|i| fs::write(l.join(format!("d/{i}")), format!("{i}")).unwrap());
        })
        .mount("");
        let before = settled(&w);
        let open: Vec<_> = (0..2000)
            .map(|i| {
                let at = w.at(&format!("d/{i}"));
                let new = i >= 1000;
                let file = File::options().read(true).write(new || i % 2 == 0).create(new).open(&at).unwrap();
                if new {
                    file.write_all_at(format!("{i}").as_bytes(), 0).unwrap();
                }
                fs::remove_file(&at).unwrap();
                file
            })
            .collect();
        for (i, file) in open.iter().enumerate() {
            let mut content = vec![0; i.to_string().len()];
            file.read_exact_at(&mut content, 0).unwrap();
            assert_eq!(content, i.to_string().as_bytes());
            assert_eq!(std::os::unix::fs::MetadataExt::nlink(&file.metadata().unwrap()), 0, "{i}");
        }
        assert!(w.descriptors() < DESCRIPTORS, "{}", w.descriptors());
        drop(open);
        eventually("descriptors are given back", || {
            drop_caches();
            settled(&w) < before + 50
        });
        assert_eq!(fs::read_dir(w.at("d")).unwrap().count(), 0);
        w.end();
    });
}
