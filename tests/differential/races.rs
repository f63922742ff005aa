//! What several programs at once may and may not see (C-14, C-17, C-18, D-2). Each side is checked for itself;
//! what is compared is that nothing forbidden was seen.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::prelude::*;

/// C-17
#[test]
fn concurrent_writers_share_one_copy() {
    scenario().lower(|l| drop(l.file("f", vec![b'.'; 1 << 20]))).run(|o| {
        o.each(|mount| {
            std::thread::scope(|scope| {
                for thread in 0..8_u8 {
                    scope.spawn(move || {
                        let file = OpenOptions::new().write(true).open(mount.join("f")).unwrap();
                        file.write_all_at(&[b'0' + thread], u64::from(thread) * 1000).unwrap();
                    });
                }
            });
            let content = std::fs::read(mount.join("f")).unwrap();
            (0..8).map(|thread| (content[thread * 1000] as char).to_string()).collect()
        })
        .lines("0 1 2 3 4 5 6 7");
    });
}

/// C-17, I-6
#[test]
fn concurrent_writers_to_names_of_one_inode_share_one_copy() {
    scenario()
        .lower(|l| drop(l.file("a", vec![b'.'; 100_000]).link("a", "b").link("a", "c")))
        .options("index=on")
        .names_may_lag()
        .run(|o| {
            o.each(|mount| {
                std::thread::scope(|scope| {
                    for (at, name) in [(1_u64, "a"), (2, "b"), (3, "c")] {
                        scope.spawn(move || {
                            let file = OpenOptions::new().write(true).open(mount.join(name)).unwrap();
                            file.write_all_at(b"x", at).unwrap();
                        });
                    }
                });
                let read = |name| {
                    String::from_utf8_lossy(&std::fs::read(mount.join(name)).unwrap()[..5]).into_owned()
                };
                ["a", "b", "c"].map(read).to_vec()
            })
            .lines(".xxx. .xxx. .xxx.");
        });
}

/// C-14
#[test]
fn a_reader_never_sees_a_partial_copy() {
    let content = vec![b'z'; 4 << 20];
    scenario().lower(move |l| (0..5).for_each(|n| drop(l.file(format!("f{n}"), &content)))).run(|o| {
        o.each(|mount| {
            let (mut seen, wanted) = (Vec::new(), vec![b'z'; 4 << 20]);
            for number in 0..5 {
                let path = mount.join(format!("f{number}"));
                let done = AtomicBool::new(false);
                std::thread::scope(|scope| {
                    let reader = scope.spawn(|| {
                        let mut whole = true;
                        while !done.load(Ordering::Relaxed) {
                            let content = std::fs::read(&path).unwrap();
                            whole &= content == wanted;
                        }
                        whole
                    });
                    drop(OpenOptions::new().write(true).open(&path).unwrap());
                    done.store(true, Ordering::Relaxed);
                    seen.push(format!("whole:{}", reader.join().unwrap()));
                });
            }
            seen
        })
        .lines("whole:true whole:true whole:true whole:true whole:true");
    });
}

/// C-18
#[test]
fn a_killed_copy_up_leaves_nothing_behind() {
    scenario().on(Fs::Tmpfs).lower(|l| drop(l.file("big", vec![b'x'; 32 << 20]))).run(|o| {
        o.each(|mount| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", ": >> big"]).current_dir(mount).stdin(Stdio::null());
            let mut child = command.spawn().unwrap();
            std::thread::sleep(Duration::from_millis(2));
            child.kill().unwrap();
            child.wait().unwrap();
            let content = std::fs::read(mount.join("big")).unwrap();
            // Whatever happened, the file is whole; a second trigger finishes what the first did not.
            drop(OpenOptions::new().append(true).open(mount.join("big")).unwrap());
            vec![format!("{}", content == vec![b'x'; 32 << 20])]
        })
        .lines("true");
        o.in_work("work").lines("");
    });
}

/// D-2
#[test]
fn a_removed_name_never_comes_back_in_between() {
    scenario().lower(|l| (0..40).for_each(|n| drop(l.file(format!("f{n}"), "lower")))).run(|o| {
        o.each(|mount| {
            watched(
                mount,
                |path| std::fs::write(path, "upper").unwrap(),
                |path| {
                    std::fs::remove_file(path).unwrap();
                },
            )
        })
        .lines("");
    });
}

/// D-2
#[test]
fn a_replaced_file_is_there_all_the_time() {
    scenario().lower(|l| (0..40).for_each(|n| drop(l.file(format!("f{n}"), "old")))).run(|o| {
        o.each(|mount| {
            let mut strange = Vec::new();
            for number in 0..40 {
                let path = mount.join(format!("f{number}"));
                let done = AtomicBool::new(false);
                std::thread::scope(|scope| {
                    let reader = scope.spawn(|| {
                        let mut strange = Vec::new();
                        while !done.load(Ordering::Relaxed) {
                            match std::fs::read(&path).as_deref() {
                                Ok(b"old" | b"new") => {}
                                other => strange.push(format!("{other:?}")),
                            }
                        }
                        strange
                    });
                    let fresh = mount.join("fresh");
                    std::fs::write(&fresh, "new").unwrap();
                    std::fs::rename(&fresh, &path).unwrap();
                    done.store(true, Ordering::Relaxed);
                    strange.extend(reader.join().unwrap());
                });
            }
            strange
        })
        .lines("");
    });
}

/// Prepares and removes each file while another thread looks; answers what it saw after an absence.
fn watched(mount: &Path, prepare: fn(&Path), remove: fn(&Path)) -> Vec<String> {
    let mut strange = Vec::new();
    for number in 0..40 {
        let path = mount.join(format!("f{number}"));
        prepare(&path);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let (mut absent, mut strange) = (false, Vec::new());
                while !done.load(Ordering::Relaxed) {
                    match std::fs::read(&path) {
                        Ok(content) if content == b"upper" && !absent => {}
                        Err(error) if error.kind() == ErrorKind::NotFound => absent = true,
                        Ok(content) => {
                            strange.push(format!("{} after absence={absent}", content.escape_ascii()))
                        }
                        Err(error) => strange.push(error.to_string()),
                    }
                }
                strange
            });
            remove(&path);
            done.store(true, Ordering::Relaxed);
            strange.extend(reader.join().unwrap());
        });
    }
    strange
}

/// D-1, C-17, F-14
#[test]
fn creating_and_removing_one_name_by_many_threads_ends_in_one_state() {
    scenario().lower(|l| drop(l.file("d/f", "low").file("d/g", ""))).run(|o| {
        // From here on the lower file plays no part, so that the end does not depend on who comes first.
        o.rename("d/f", "d/h").ok();
        o.unlink("d/h").ok();
        o.each(|mount| {
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    scope.spawn(move || {
                        for round in 0..50 {
                            let path = mount.join("d/f");
                            if (thread + round) % 2 == 0 {
                                drop(std::fs::write(&path, "new"));
                            } else {
                                drop(std::fs::remove_file(&path));
                            }
                            drop(std::fs::rename(&path, mount.join("d/h")));
                        }
                    });
                }
            });
            drop(std::fs::remove_file(mount.join("d/h")));
            std::fs::write(mount.join("d/f"), "end").unwrap();
            vec![String::from_utf8(std::fs::read(mount.join("d/f")).unwrap()).unwrap()]
        })
        .lines("end");
        o.ls("d").lines(". 4 .. 4 f 8 g 8");
    });
}
