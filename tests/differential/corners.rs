//! Metadata-only files, redirects, the index, exported handles and set-id bits where they meet (sections 1.3, 2.5,
//! 4.1 and 5.1): the corners that were found by comparing.

use libc::O_RDONLY;
use nix::errno::Errno::*;

use super::scenario::scenario;
use crate::support::layer::{Layer, capability};

const DATA: &str = "some data";

/// A file without data of its own that leads to `/data` of a layer below.
fn pointer(l: &Layer, name: &str, to: &str) {
    l.sparse(name, DATA.len() as i64, &[]).metacopy(name).redirect(name, to);
}

/// C-5, C-25
#[test]
fn a_metadata_only_copy_keeps_the_file_capability() {
    scenario()
        .lower(|l| {
            l.file("f", DATA).xattr("f", "security.capability", capability()).file("empty", "");
        })
        .options("metacopy=on,redirect_dir=on")
        .run(|o| {
            o.chmod("f", 0o755).ok();
            o.chmod("empty", 0o600).ok();
            o.xattrs("f");
            o.get("f", "security.capability").gives(capability());
            o.in_upper("f").shows("trusted.overlay.metacopy=\"\"");
            o.in_upper("empty").shows("trusted.overlay.metacopy=\"\"");
        });
}

/// C-26, C-27
#[test]
fn a_renamed_copy_of_a_pointer_leads_to_the_pointer_and_not_to_its_data() {
    scenario()
        .lower(|l| pointer(l, "f", "/data"))
        .data(|l| {
            l.file("data", DATA);
        })
        .options("metacopy=on,redirect_dir=on")
        .run(|o| {
            o.cat("f").gives(DATA);
            o.chmod("f", 0o600).ok();
            o.in_upper("f").lacks("redirect");
            o.rename("f", "g").ok();
            o.cat("g").gives(DATA);
            o.remount();
            o.append("g", "!").ok();
            o.cat("g").gives(format!("{DATA}!"));
        });
}

/// C-27
#[test]
fn data_only_layers_are_followed_from_the_lowest_pointer_whatever_the_options_say() {
    for options in ["metacopy=off", "redirect_dir=nofollow"] {
        scenario()
            .lower(|l| pointer(l, "high", "/data"))
            .lower(|l| pointer(l, "low", "/data"))
            .data(|l| {
                l.file("data", DATA);
            })
            .options(options)
            .run(|o| {
                o.cat("high").fails(EPERM);
                o.cat("low").gives(DATA);
                o.chmod("low", 0o600).ok();
                o.in_upper("low").lacks("metacopy");
            });
    }
}

/// C-27
#[test]
fn missing_data_is_noticed_when_it_is_needed() {
    scenario()
        .lower(|l| pointer(l, "f", "/nowhere"))
        .data(|l| {
            l.file("data", DATA);
        })
        .options("metacopy=on,redirect_dir=on")
        .run(|o| {
            o.stat("f");
            o.cat("f").fails(ENOENT);
            o.chmod("f", 0o600).fails(ENOENT);
            o.rename("f", "g").fails(ENOENT);
        });
}

/// L-23
#[test]
fn only_the_length_of_a_metacopy_value_counts() {
    scenario()
        .lower(|l| {
            for (name, value) in
                [("short", &[0u8, 4][..]), ("version", &[1, 4, 0, 0]), ("length", &[0, 9, 0, 0])]
            {
                l.sparse(name, DATA.len() as i64, &[]).xattr(name, "trusted.overlay.metacopy", value);
            }
        })
        .lower(|l| {
            l.file("short", DATA).file("version", DATA).file("length", DATA);
        })
        .options("metacopy=on,redirect_dir=on")
        .run(|o| {
            o.cat("short").fails(EIO);
            o.cat("version").gives(DATA);
            o.cat("length").gives(DATA);
        });
}

/// L-21
#[test]
fn a_redirect_that_would_climb_is_eacces_and_a_malformed_one_einval() {
    scenario()
        .lower(|l| {
            l.dir("t").file("t/f", "1");
        })
        .upper(|l| {
            for (name, to) in
                [("dot", "/./t"), ("up", "/t/../t"), ("out", ".."), ("slash", "t/f"), ("two", "//t")]
            {
                l.dir(name).redirect(name, to);
            }
        })
        .options("redirect_dir=on")
        .without_swap()
        .run(|o| {
            for name in ["dot", "up", "out"] {
                o.stat(name).fails(EACCES);
            }
            for name in ["slash", "two"] {
                o.stat(name).fails(EINVAL);
            }
            o.cat("t/f").gives("1");
        });
}

/// I-6
#[test]
fn removing_names_of_an_indexed_file_that_were_never_in_the_upper_counts_down() {
    scenario()
        .lower(|l| {
            l.dir("d").file("a", "1").link("a", "b").link("a", "d/c");
        })
        .options("index=on,redirect_dir=on")
        .run(|o| {
            o.append("a", "2").ok();
            o.unlink("d/c").ok();
            o.stat("b").shows("links=2");
            o.rename("a", "d/e").ok();
            o.remount();
            o.stat("b").shows("links=2");
            o.unlink("d/e").ok();
            o.stat("b").shows("links=1");
            o.cat("b").gives("12");
        });
}

/// I-9, L-30
#[test]
fn with_nfs_export_everything_copied_up_is_indexed_and_everything_deleted_leaves_a_whiteout() {
    scenario()
        .lower(|l| {
            l.dir("d").dir("p").dir("p/q").file("a", "1").link("a", "a2").file("x", "2").file("p/q/z", "3");
        })
        .options("nfs_export=on")
        .run(|o| {
            o.chmod("d", 0o700).ok();
            o.append("a", "!").ok();
            o.in_work("index");
            o.unlink("x").ok();
            o.unlink("p/q/z").ok();
            o.rmdir("p/q").ok();
            o.rmdir("p").ok();
            o.mkdir("p").ok();
            o.put("pure", "4").ok();
            o.remount();
            o.cat("a").gives("1!");
            o.chmod("d", 0o711).ok();
        });
}

/// A-3, F-16: every kind of caller, every change of data or owner.
#[test]
fn set_id_bits_go_as_the_caller_s_groups_demand() {
    const MODES: [u32; 6] = [0o6777, 0o6767, 0o2767, 0o4777, 0o2777, 0o6666];
    let who: [(u32, u32, &[u32]); 6] = [
        (1000, 1000, &[]),
        (1000, 2000, &[]),
        (1000, 2000, &[1000]),
        (3000, 1000, &[]),
        (3000, 3000, &[]),
        (3000, 3000, &[1000]),
    ];
    for (uid, gid, groups) in who {
        scenario()
            .lower(|l| {
                l.file("source", "abcdef").chmod("source", 0o644);
                for way in ["append", "truncate", "allocate", "copy", "chown", "nobody", "chmod"] {
                    for mode in MODES {
                        let name = format!("{way}{mode:o}");
                        l.file(&name, "hello").chown(&name, 1000, 1000).chmod(&name, mode);
                    }
                }
            })
            .run(move |o| {
                for mode in MODES {
                    let of = |way: &str| format!("{way}{mode:o}");
                    o.become_who(uid, gid, groups);
                    o.append(of("append").as_str(), "x").ok();
                    o.truncate(of("truncate").as_str(), 2).ok();
                    o.chown(of("chown").as_str(), u32::MAX, gid);
                    o.chown(of("nobody").as_str(), u32::MAX, u32::MAX);
                    o.chmod(of("chmod").as_str(), 0o2767);
                    o.become_root();
                    for way in ["append", "truncate", "chown", "nobody", "chmod"] {
                        o.stat(of(way).as_str());
                    }
                }
            });
    }
}

/// I-1: both would have the number of the one lower file.
#[test]
fn of_two_uppers_that_were_copied_up_from_one_file_the_second_is_refused() {
    scenario().lower(|l| drop(l.file("f", "x").file("d/g", ""))).options("redirect_dir=on").run(|o| {
        o.append("f", "y").ok();
        o.rename("d", "e").ok();
        o.meanwhile(|set| {
            let upper = set.upper.as_ref().unwrap();
            for (old, new) in [("f", "f2"), ("e", "e2")] {
                let copied = std::process::Command::new("cp")
                    .arg("-a")
                    .args([upper.join(old), upper.join(new)])
                    .status();
                assert!(copied.unwrap().success());
            }
        });
        // Open, so that it is remembered.
        o.open(1, "f", O_RDONLY).ok();
        o.open(2, "e", O_RDONLY).ok();
        o.stat("f2").fails(ESTALE);
        o.stat("e2").fails(ESTALE);
        o.stat("f").ok();
        o.close(1).ok();
        o.close(2).ok();
        o.meanwhile(|set| {
            let upper = set.upper.as_ref().unwrap();
            std::fs::remove_file(upper.join("f2")).unwrap();
            std::fs::remove_dir_all(upper.join("e2")).unwrap();
        });
        o.stat("f").ok();
    });
}

/// C-15: with an index, nothing is ever put into `work/work`, not even the whiteout that others are links of (L-18).
#[test]
fn with_an_index_the_work_directory_itself_is_not_needed() {
    scenario().lower(|l| drop(l.dir("d").file("f", "").file("g", "").file("h", ""))).options("index=on").run(
        |o| {
            o.rmdir("d").ok();
            o.unlink("f").ok();
            o.append("g", "x").ok();
            o.unlink("g").ok();
            o.put("h", "new").ok();
            o.in_work("work").lines("");
            for name in ["d", "f", "g"] {
                o.in_upper(name).lines("whiteout");
            }
        },
    );
}
