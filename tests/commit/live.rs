//! A mount is committed while programs write to it.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::backing::Fs;
use crate::support::mounts::Mounter;
use crate::world::World;

/// Files whose parts are all equal at any moment that counts: a writer changes one part after the other.
const SIZES: [usize; 3] = [64 << 10, 1 << 20, 6 << 20];

fn committed(world: &World, name: &str) -> Option<Vec<u8>> {
    let mut archive = tar::Archive::new(File::open(world.path("layer.tar")).unwrap());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path_bytes().as_ref() == name.as_bytes() {
            let mut data = Vec::new();
            entry.read_to_end(&mut data).unwrap();
            return Some(data);
        }
    }
    None
}

#[test]
fn a_file_in_the_layer_is_as_it_was_at_one_moment() {
    for fs in [Fs::Ext4, Fs::Btrfs] {
        let Some(world) = World::new(fs, "") else { return };
        world.build("lower", 0, |l| {
            l.file("below", "x");
        });
        let mounted = world.mount(Mounter::Acetate, &["middle", "lower"], true);
        let target = world.target().to_path_buf();
        let stop = AtomicBool::new(false);
        for size in SIZES {
            std::fs::write(target.join(size.to_string()), vec![0; size]).unwrap();
        }
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for round in 1..=255u8 {
                    for size in SIZES {
                        let file = File::options().write(true).open(target.join(size.to_string())).unwrap();
                        for part in 0..4 {
                            file.write_all_at(&vec![round; size / 4], (part * size / 4) as u64).unwrap();
                        }
                    }
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    // There must be moments in which nobody writes.
                    std::thread::sleep(std::time::Duration::from_millis(150));
                }
            });
            for _ in 0..6 {
                let output = world.run(&["commit", target.to_str().unwrap(), "-o", "layer.tar"]);
                if !output.status.success() {
                    let message = String::from_utf8_lossy(&output.stderr);
                    assert!(message.contains("changed during each of 3 readings"), "{message}");
                    assert!(!world.path("layer.tar").exists());
                    continue;
                }
                for size in SIZES {
                    let data = committed(&world, &size.to_string()).unwrap();
                    assert_eq!(data.len(), size);
                    // A writer goes from the front to the back, so a moment has at most two values, one step apart.
                    let (first, last) = (data[0], data[size - 1]);
                    assert!(
                        first == last || first == last.wrapping_add(1),
                        "{fs:?} {size}: {first} and {last}"
                    );
                    let change = data.iter().position(|b| *b != first).unwrap_or(size);
                    assert!(data[change..].iter().all(|b| *b == last), "{fs:?} {size}: not one moment");
                }
                std::fs::remove_file(world.path("layer.tar")).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
            writer.join().unwrap();
        });
        mounted.unmount().unwrap();
    }
}

#[test]
fn a_file_that_never_holds_still_fails_the_commit_by_name_where_it_cannot_be_cloned() {
    let Some(world) = World::new(Fs::Ext4, "") else { return };
    std::fs::write(world.path("upper/busy"), vec![0; 64 << 20]).unwrap();
    std::fs::write(world.path("upper/still"), "x").unwrap();
    let stop = AtomicBool::new(false);
    let write = || {
        let file = File::options().write(true).open(world.path("upper/busy")).unwrap();
        let mut round = 0u64;
        while !stop.load(Ordering::Relaxed) {
            file.write_all_at(&[round as u8; 512], round % 6000 * 512).unwrap();
            round += 1;
        }
    };
    let refused = std::thread::scope(|scope| {
        let writers = [scope.spawn(write), scope.spawn(write)];
        // A machine can be so busy that the writers are not let in during one of three readings.
        let refused = (0..50).find_map(|_| {
            let output = world.run(&["commit", "upper", "-o", "layer.tar"]);
            if output.status.success() {
                std::fs::remove_file(world.path("layer.tar")).unwrap();
                return None;
            }
            Some(String::from_utf8_lossy(&output.stderr).into_owned())
        });
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        refused.unwrap()
    });
    assert!(refused.contains("upper/busy: it changed during each of 3 readings"), "{refused}");
    assert!(!world.path("layer.tar").exists());
    world.must(&["commit", "upper", "-o", "layer.tar"]);
}

#[test]
fn a_mount_knows_its_layers_and_goes_on() {
    let Some(world) = World::new(Fs::Ext4, "redirect_dir=on,metacopy=on") else { return };
    world.build("lower", 0, |l| {
        l.file("old/f", "x").file("data", "contents");
    });
    let mounted = world.mount(Mounter::Acetate, &["middle", "lower"], true);
    let target = world.target().to_path_buf();
    std::fs::rename(target.join("old"), target.join("new")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(target.join("data"), mode).unwrap();
    world.must(&["commit", target.to_str().unwrap(), "-o", "layer.tar"]);
    assert_eq!(committed(&world, "data").unwrap(), b"contents");
    assert_eq!(committed(&world, "new/f").unwrap(), b"x");
    std::fs::write(target.join("new/f"), "more").unwrap();
    world.must(&["commit", target.to_str().unwrap(), "-o", "layer.tar"]);
    assert_eq!(committed(&world, "new/f").unwrap(), b"more");
    let words = ["commit", target.to_str().unwrap(), "--lower", "lower", "-o", "layer.tar"];
    assert!(world.refused(&words).contains("leave --lower out"));
    mounted.unmount().unwrap();
}
