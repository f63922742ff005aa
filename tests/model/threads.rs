//! Several threads on the same few names.

use std::sync::mpsc::channel;
use std::time::Duration;

use acetate::union::{Config, ROOT, SetAttr, Union};

use crate::driver::{Stack, caller, name, new_node};
use crate::reference::Spec;
use crate::support::rng::Rng;

fn step(union: &Union, rng: &mut Rng) {
    let names = ["a", "b", "c"];
    let (a, b) = (name(names[rng.below(3)]), name(names[rng.below(3)]));
    let who = caller();
    // Which of the errors of a lost race comes out depends on the race.
    match rng.below(5) {
        0 => {
            if let Ok((entry, opened)) = union.create(&who, ROOT, &a, libc::O_RDWR, &new_node(0o644)) {
                union.release(opened.handle);
                union.forget(entry.node, 1);
            }
        }
        1 => drop(union.unlink(&who, ROOT, &a)),
        2 => drop(union.rename(&who, (ROOT, &a), (ROOT, &b), acetate::union::RenameMode::Replace)),
        _ => {
            if let Ok(Some(entry)) = union.lookup(&who, ROOT, &a) {
                if let Ok(opened) = union.open_file(&who, entry.node, libc::O_RDWR) {
                    any_outcome(union.write(&who, opened.handle, 0, b"w", false));
                    union.release(opened.handle);
                }
                let change = SetAttr { mode: Some(0o600), ..SetAttr::default() };
                any_outcome(union.setattr(&who, entry.node, None, &change));
                union.forget(entry.node, 1);
            }
        }
    }
}

#[test]
fn threads_on_the_same_names_neither_deadlock_nor_leak_nodes() {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let file = |content| Spec::File { content, mode: 0o644, attr: None };
        let layers = vec![vec![("a", file("a")), ("b", file("bb"))], vec![("c", file("ccc"))]];
        let config = Config { userxattr: !nix::unistd::geteuid().is_root(), ..Config::default() };
        let stack = Stack::build(&layers, &config);
        let union = stack.open();
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let union = &union;
                scope.spawn(move || {
                    let mut rng = Rng::new(seed);
                    (0..400).for_each(|_| step(union, &mut rng));
                });
            }
        });
        let left = union.node_count();
        drop(union);
        let litter = stack.litter();
        sender.send((left, litter)).expect("the test is waiting");
    });
    let (left, litter) = receiver.recv_timeout(Duration::from_secs(30)).expect("no deadlock and no panic");
    assert_eq!(left, 1, "nodes left");
    assert!(litter.is_empty(), "left in the work directory: {litter:?}");
}

/// Names come and go under the threads, so either outcome is right; what counts is that none hangs or panics.
fn any_outcome<T>(_: Result<T, acetate::sys::Errno>) {}
