//! The option dialect against the running kernel: what it accepts we accept, what it refuses we refuse (O-1, O-2).

#![allow(clippy::unwrap_used, missing_docs)]

use std::ffi::{CString, OsStr};
use std::path::Path;

use acetate::cli::options::{Rights, parse};
use acetate::union::{Fsync, Redirect};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// What the kernel shows of a mount it accepted.
struct Shown(String);

impl Shown {
    fn has(&self, word: &str) -> bool {
        self.0.split(',').any(|shown| shown == word)
    }
}

/// Asks the kernel with fresh directories; `None`: refused. Runs in the scratch directory.
fn kernel(options: &str) -> Option<Shown> {
    for dir in ["l1", "l2", "d1", "a:b", "c,d", "e\\f", "u", "w", "U:u", "U,u", "m"] {
        std::fs::create_dir_all(dir).unwrap();
    }
    let data = CString::new(options).unwrap();
    let mounted = mount(Some("overlay"), "m", Some("overlay"), MsFlags::empty(), Some(data.as_c_str()));
    let shown = match mounted {
        Ok(()) => {
            let here = std::env::current_dir().unwrap().join("m");
            let line = std::fs::read_to_string("/proc/thread-self/mounts").unwrap();
            let line = line.lines().rfind(|l| l.split(' ').nth(1) == here.to_str()).unwrap().to_string();
            umount2("m", MntFlags::MNT_DETACH).unwrap();
            Some(Shown(line.split(' ').nth(3).unwrap().to_string()))
        }
        Err(Errno::EPERM | Errno::ENODEV) => panic!("the kernel has no overlay for us"),
        Err(_) => None,
    };
    for dir in ["u", "w", "U:u", "U,u"] {
        std::fs::remove_dir_all(dir).unwrap();
    }
    shown
}

/// Runs `test` in a scratch directory on a tmpfs of its own; skips where the kernel does not let us mount.
fn with_kernel(test: impl FnOnce() + Send) {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let outcome = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                let none = None::<&str>;
                let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
                let ready = unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS)
                    .and_then(|()| mount(none, "/", none, private, none))
                    .and_then(|()| mount(Some("scratch"), "/mnt", Some("tmpfs"), MsFlags::empty(), none))
                    .and_then(|()| nix::unistd::chdir(Path::new("/mnt")));
                let overlay =
                    std::fs::read_to_string("/proc/filesystems").unwrap_or_default().contains("\toverlay\n");
                match (ready, overlay) {
                    (Ok(()), true) => test(),
                    (ready, overlay) => {
                        println!("skipped: mounting gives {ready:?}, overlay known: {overlay}")
                    }
                }
            })
            .join()
    });
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Words that settle something; each set is combined with each other one.
const WORDS: [&[&str]; 6] = [
    &["", "redirect_dir=on", "redirect_dir=follow", "redirect_dir=nofollow", "redirect_dir=off"],
    &["", "metacopy=on", "metacopy=off"],
    &["", "index=on", "index=off"],
    &["", "nfs_export=on", "nfs_export=off"],
    &["", "userxattr"],
    &["", "volatile", "fsync=strict"],
];

const STACKS: [&str; 3] =
    ["lowerdir=l1,upperdir=u,workdir=w", "lowerdir=l1:l2", "lowerdir=l1::d1,upperdir=u,workdir=w"];

fn combinations() -> Vec<String> {
    let mut out: Vec<String> = STACKS.iter().map(ToString::to_string).collect();
    for words in WORDS {
        let longer = |so_far: &String| -> Vec<String> {
            words
                .iter()
                .map(|word| if word.is_empty() { so_far.clone() } else { format!("{so_far},{word}") })
                .collect()
        };
        out = out.iter().flat_map(longer).collect();
    }
    out
}

/// O-1, O-2: conflicts between words, and defaults that yield, over every combination that matters.
#[test]
fn every_combination_is_accepted_or_refused_as_the_kernel_does_and_settles_to_the_same() {
    with_kernel(|| {
        let mut compared = 0;
        for options in combinations() {
            let ours = parse(OsStr::new(&options), Rights::Trusted);
            let theirs = kernel(&options);
            assert_eq!(ours.is_ok(), theirs.is_some(), "{options}: ours {:?}", ours.map(|s| s.config));
            compared += 1;
            let (Ok(ours), Some(theirs)) = (ours, theirs) else { continue };
            let config = ours.config;
            let same = |ours: bool, word: &str| {
                assert_eq!(ours, theirs.has(word), "{options}: {word} in {}", theirs.0)
            };
            same(config.redirect == Redirect::On, "redirect_dir=on");
            same(config.redirect == Redirect::NoFollow, "redirect_dir=nofollow");
            same(config.metacopy, "metacopy=on");
            same(config.index, "index=on");
            same(config.nfs_export, "nfs_export=on");
            same(config.userxattr, "userxattr");
            same(config.fsync == Fsync::Volatile, "fsync=volatile");
            same(config.fsync == Fsync::Strict, "fsync=strict");
        }
        assert_eq!(compared, 3 * 5 * 3 * 3 * 3 * 2 * 3);
    });
}

/// The list syntax, escapes, repetition and bad values, one by one.
#[test]
fn lists_escapes_and_bad_values_are_read_as_the_kernel_reads_them() {
    const UPPER: &str = "upperdir=u,workdir=w";
    let with_upper = [
        "lowerdir=l1",
        "lowerdir=:l1",
        "lowerdir=l1:",
        "lowerdir=l1::d1",
        "lowerdir=l1::d1:l2",
        "lowerdir=l1:::d1",
        "lowerdir=::d1",
        "lowerdir=l1::",
        "lowerdir=a\\:b",
        "lowerdir=c\\,d",
        "lowerdir=e\\\\f",
        "lowerdir=l\\1",
        "lowerdir+=l1",
        "lowerdir+=l1,lowerdir+=l2",
        "lowerdir=l1,lowerdir+=l2",
        "lowerdir+=l1,lowerdir=l2",
        "lowerdir+=l1,datadir+=d1",
        "datadir+=d1",
        "lowerdir+=l1,datadir+=d1,lowerdir+=l2",
        "lowerdir=l1,datadir+=d1",
        "lowerdir+=a:b",
        "lowerdir=l1,lowerdir=l2",
        "lowerdir=",
        "lowerdir",
        "lowerdir=l1,lowerdir=",
        "lowerdir+=",
        "lowerdir=l1,lowerdir=,lowerdir+=l2",
        "lowerdir=l1,upperdir=U\\:u",
        "lowerdir=l1,upperdir=U:u",
        "lowerdir=l1,upperdir=U\\,u",
        "lowerdir=l1,xino",
        "lowerdir=l1,index",
        "lowerdir=l1,index=",
        "lowerdir=l1,index=ON",
        "lowerdir=l1,index=1",
        "lowerdir=l1,default_permissions",
        "lowerdir=l1,default_permissions=1",
        "lowerdir=l1,override_creds",
        "lowerdir=l1,nooverride_creds",
        "lowerdir=l1,override_creds=on",
        "lowerdir=l1,volatile=1",
        "lowerdir=l1,userxattr=on",
        "lowerdir=l1,fsync=",
        "lowerdir=l1,fsync=ordered",
        "lowerdir=l1,fsync=strict,volatile",
        "lowerdir=l1,volatile,fsync=auto",
        "lowerdir=l1,index=on,index=off",
        "lowerdir=l1,redirect_dir=on,redirect_dir=foo",
        "lowerdir=l1,bogus",
        "lowerdir=l1,bogus=1",
        "lowerdir=l1,",
        "lowerdir=l1,,volatile",
        ",lowerdir=l1",
        "lowerdir=l1,=x",
        "lowerdir=l1,xino=on",
        "lowerdir=l1,xino=auto",
        "lowerdir=l1,xino=off",
        "lowerdir=l1,uuid=auto",
        "lowerdir=l1,uuid=off",
        "lowerdir=l1,uuid=maybe",
        "lowerdir=l1,verity=off",
        "lowerdir=l1,verity=maybe",
        "lowerdir=l1,ro",
        "lowerdir=l1,rw",
        "lowerdir=l1,ro=1",
        "lowerdir=l1,sync",
        "lowerdir=l1,dirsync",
        "lowerdir=l1,lazytime",
        "lowerdir=l1,mand",
    ];
    with_kernel(|| {
        for words in with_upper {
            // The last upper wins, so those words that name one come last.
            let options = format!("{UPPER},{words}");
            let theirs = kernel(&options).is_some();
            let ours = parse(OsStr::new(&options), Rights::Trusted);
            assert_eq!(ours.is_ok(), theirs, "{options}: ours {:?}", ours.map(|s| s.config));
        }
        for options in [
            "lowerdir=l1:l2,workdir=w",
            "lowerdir=l1:l2,uuid=on",
            "upperdir=u,workdir=w",
            "lowerdir=l1,upperdir=u",
            "lowerdir=l1,upperdir=,workdir=w",
            "",
        ] {
            let ours = parse(OsStr::new(options), Rights::Trusted);
            assert_eq!(ours.is_ok(), kernel(options).is_some(), "{options}");
        }
    });
}

/// The two places where acetate is meant to differ: what it cannot do is refused, and one layer alone is a mount.
#[test]
fn digests_are_refused_and_a_single_lower_is_accepted() {
    with_kernel(|| {
        for options in ["lowerdir=l1:l2,verity=on", "lowerdir=l1:l2,verity=require"] {
            assert!(kernel(options).is_some(), "{options}");
            assert!(parse(OsStr::new(options), Rights::Trusted).is_err(), "{options}");
        }
        assert!(kernel("lowerdir=l1").is_none());
        assert!(parse(OsStr::new("lowerdir=l1"), Rights::Trusted).is_ok());
    });
}
