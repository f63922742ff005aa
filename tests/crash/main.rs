//! Killed at every changing system call of an operation, the union comes back with the tree from before or after it.
//!
//! A child process opens the stack and performs one operation; its tracer kills it before the k-th system call that
//! changes anything, for every k. Then the stack is opened again, looked at, and mounted by the kernel.

mod faults;
mod power;
#[path = "../support/mod.rs"]
mod support;
mod tracer;
mod view;

use std::collections::BTreeSet;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use acetate::sys::{Dev, Errno, Kind};
use acetate::union::{
    Config, NewNode, NoTransport, NodeId, ROOT, Redirect, RenameMode, SetAttr, SetXattrMode, Union,
};
use support::backing::{self, Fs};
use support::fingerprint::Fingerprint;
use support::layer::Layer;
use support::mounts::Mounter;
use support::watchdog;
use tracer::End;
use view::{View, caller, name};

type Done = Result<(), Errno>;

/// What is prepared, then done and interrupted.
struct Scenario {
    title: &'static str,
    redirect: bool,
    index: bool,
    metacopy: bool,
    /// In between, as in the kernel, an own time or number may show: an emptied directory is exchanged for a fresh
    /// one, data arrives in a file that exists already.
    loose: bool,
    before: fn(&Union) -> Done,
    act: fn(&Union) -> Done,
}

const PLAIN: Scenario = Scenario {
    title: "",
    redirect: false,
    index: false,
    metacopy: false,
    loose: false,
    before: |_| Ok(()),
    act: |_| Ok(()),
};

fn find(u: &Union, path: &str) -> Result<NodeId, Errno> {
    let mut at = ROOT;
    for part in path.split('/').filter(|p| !p.is_empty()) {
        at = u.lookup(&caller(), at, &name(part))?.ok_or(Errno::ENOENT)?.node;
    }
    Ok(at)
}

fn new(mode: u32) -> NewNode {
    NewNode { mode, umask: 0, security: Vec::new() }
}

fn place(u: &Union, path: &str) -> Result<(NodeId, acetate::sys::NameBuf), Errno> {
    let (dir, last) = path.rsplit_once('/').unwrap_or(("", path));
    Ok((find(u, dir)?, name(last)))
}

fn unlink(u: &Union, path: &str) -> Done {
    let (dir, last) = place(u, path)?;
    u.unlink(&caller(), dir, &last)
}

fn rmdir(u: &Union, path: &str) -> Done {
    let (dir, last) = place(u, path)?;
    u.rmdir(&caller(), dir, &last)
}

fn mkdir(u: &Union, path: &str) -> Done {
    let (dir, last) = place(u, path)?;
    u.mkdir(&caller(), dir, &last, &new(0o750)).map(drop)
}

fn create(u: &Union, path: &str) -> Done {
    let (dir, last) = place(u, path)?;
    u.create(&caller(), dir, &last, libc::O_RDWR, &new(0o640)).map(|(_, o)| u.release(o.handle))
}

fn open_write(u: &Union, path: &str) -> Done {
    let handle = u.open_file(&caller(), find(u, path)?, libc::O_RDWR)?.handle;
    u.release(handle);
    Ok(())
}

fn rename(u: &Union, from: &str, to: &str, mode: RenameMode) -> Done {
    let (from, to) = (place(u, from)?, place(u, to)?);
    u.rename(&caller(), (from.0, &from.1), (to.0, &to.1), mode)
}

fn link(u: &Union, from: &str, to: &str) -> Done {
    let (dir, last) = place(u, to)?;
    u.link(&caller(), find(u, from)?, dir, &last).map(drop)
}

fn chmod(u: &Union, path: &str, mode: u32) -> Done {
    let change = SetAttr { mode: Some(mode), ..SetAttr::default() };
    u.setattr(&caller(), find(u, path)?, None, &change).map(drop)
}

fn set_xattr(u: &Union, path: &str) -> Done {
    u.setxattr(&caller(), find(u, path)?, c"user.b", b"new", SetXattrMode::Any, false)
}

const REPLACE: RenameMode = RenameMode::Replace;
const EXCHANGE: RenameMode = RenameMode::Exchange;

#[rustfmt::skip]
const SCENARIOS: &[Scenario] = &[
    Scenario { title: "create", act: |u| create(u, "new"), ..PLAIN },
    Scenario { title: "create in a lower directory", act: |u| create(u, "d/sub/new"), ..PLAIN },
    Scenario { title: "create over a whiteout", before: |u| unlink(u, "f"), act: |u| create(u, "f"), ..PLAIN },
    Scenario { title: "symlink over a whiteout", before: |u| unlink(u, "f"), act: |u| u.symlink(&caller(), ROOT, &name("f"), c"d", &new(0o777)).map(drop), ..PLAIN },
    Scenario { title: "fifo over a whiteout", before: |u| unlink(u, "f"), act: |u| {
        u.mknod(&caller(), ROOT, &name("f"), Kind::Fifo, Dev::default(), &new(0o600)).map(drop) }, ..PLAIN },
    Scenario { title: "mkdir over a whiteout", before: |u| unlink(u, "f"), act: |u| mkdir(u, "f"), ..PLAIN },
    Scenario { title: "mkdir over a removed directory", before: |u| rmdir(u, "e"), act: |u| mkdir(u, "e"), ..PLAIN },
    Scenario { title: "copy-up of a file", act: |u| open_write(u, "f"), ..PLAIN },
    Scenario { title: "copy-up of a large file in a directory", act: |u| open_write(u, "d/big"), ..PLAIN },
    Scenario { title: "copy-up of a directory", act: |u| chmod(u, "d/sub", 0o711), ..PLAIN },
    Scenario { title: "copy-up of one of two links", act: |u| open_write(u, "h1"), ..PLAIN },
    Scenario { title: "copy-up of a linked file with an index", index: true, act: |u| open_write(u, "h1"), ..PLAIN },
    Scenario { title: "second name of an indexed file", index: true, before: |u| open_write(u, "h1"), act: |u| rename(u, "d/h2", "d/h3", REPLACE), ..PLAIN },
    Scenario { title: "unlink of an indexed name", index: true, act: |u| unlink(u, "h1"), ..PLAIN },
    Scenario { title: "unlink of the last indexed name", index: true, before: |u| unlink(u, "h1"), act: |u| unlink(u, "d/h2"), ..PLAIN },
    Scenario { title: "link of an indexed file", index: true, act: |u| link(u, "h1", "d/new"), ..PLAIN },
    Scenario { title: "link of a lower file", act: |u| link(u, "f", "d/new"), ..PLAIN },
    Scenario { title: "link over a whiteout", before: |u| unlink(u, "d/x"), act: |u| link(u, "f", "d/x"), ..PLAIN },
    Scenario { title: "unlink of a lower file", act: |u| unlink(u, "d/x"), ..PLAIN },
    Scenario { title: "unlink of a copied-up file", before: |u| open_write(u, "f"), act: |u| unlink(u, "f"), ..PLAIN },
    Scenario { title: "rmdir of a lower directory", act: |u| rmdir(u, "e"), ..PLAIN },
    Scenario { title: "rmdir of a merged directory", before: |u| chmod(u, "e", 0o711), act: |u| rmdir(u, "e"), ..PLAIN },
    Scenario { title: "rmdir of a directory full of whiteouts", before: |u| { unlink(u, "d/sub/z")?; unlink(u, "d/sub/y") }, act: |u| rmdir(u, "d/sub"), ..PLAIN },
    Scenario { title: "rename of a lower file", act: |u| rename(u, "f", "d/f", REPLACE), ..PLAIN },
    Scenario { title: "rename over a lower file", act: |u| rename(u, "f", "d/x", REPLACE), ..PLAIN },
    Scenario { title: "rename over a whiteout", before: |u| unlink(u, "d/x"), act: |u| rename(u, "f", "d/x", REPLACE), ..PLAIN },
    Scenario { title: "rename of a new file over a whiteout", before: |u| { unlink(u, "d/x")?; create(u, "n") }, act: |u| rename(u, "n", "d/x", REPLACE), ..PLAIN },
    Scenario { title: "rename of a new directory over a whiteout", before: |u| { rmdir(u, "e")?; mkdir(u, "n")?; create(u, "n/in") }, act: |u| rename(u, "n", "e", REPLACE), ..PLAIN },
    Scenario { title: "rename of a new directory over a directory of whiteouts", loose: true, before: |u| { unlink(u, "d/sub/z")?; unlink(u, "d/sub/y")?; mkdir(u, "n")?; create(u, "n/in") }, act: |u| rename(u, "n", "d/sub", REPLACE), ..PLAIN },
    Scenario { title: "rename of a new directory into a merged one", before: |u| { mkdir(u, "n")?; create(u, "n/in") }, act: |u| rename(u, "n", "d/n", REPLACE), ..PLAIN },
    Scenario { title: "rename of a lower directory", redirect: true, act: |u| rename(u, "d", "d2", REPLACE), ..PLAIN },
    Scenario { title: "rename of a lower directory elsewhere", redirect: true, act: |u| rename(u, "d/sub", "e/sub", REPLACE), ..PLAIN },
    Scenario { title: "rename of a lower directory over a whiteout", redirect: true, before: |u| rmdir(u, "e"), act: |u| rename(u, "d/sub", "e", REPLACE), ..PLAIN },
    Scenario { title: "second rename of a directory", redirect: true, before: |u| rename(u, "d/sub", "d/s2", REPLACE), act: |u| rename(u, "d/s2", "e/s3", REPLACE), ..PLAIN },
    Scenario { title: "exchange of lower files", act: |u| rename(u, "f", "d/x", EXCHANGE), ..PLAIN },
    Scenario { title: "exchange of lower directories", redirect: true, act: |u| rename(u, "d/sub", "e", EXCHANGE), ..PLAIN },
    Scenario { title: "exchange of a file and a new directory", before: |u| mkdir(u, "n"), act: |u| rename(u, "n", "d/x", EXCHANGE), ..PLAIN },
    Scenario { title: "metadata-only copy-up", redirect: true, metacopy: true, act: |u| chmod(u, "d/big", 0o600), ..PLAIN },
    Scenario { title: "rename of a file with a metadata-only copy", redirect: true, metacopy: true, act: |u| rename(u, "d/big", "big", REPLACE), ..PLAIN },
    Scenario { title: "data of a metadata-only copy", loose: true, redirect: true, metacopy: true, before: |u| chmod(u, "d/big", 0o600), act: |u| open_write(u, "d/big"), ..PLAIN },
    Scenario { title: "data of a renamed metadata-only copy", loose: true, redirect: true, metacopy: true, before: |u| rename(u, "d/big", "big", REPLACE), act: |u| open_write(u, "big"), ..PLAIN },
    Scenario { title: "truncation of a metadata-only copy", loose: true, redirect: true, metacopy: true, before: |u| chmod(u, "d/big", 0o600), act: |u| {
        let handle = u.open_file(&caller(), find(u, "d/big")?, libc::O_WRONLY | libc::O_TRUNC)?.handle; u.release(handle); Ok(()) }, ..PLAIN },
    Scenario { title: "truncation of a lower file", loose: true, act: |u| {
        let handle = u.open_file(&caller(), find(u, "d/big")?, libc::O_WRONLY | libc::O_TRUNC)?.handle; u.release(handle); Ok(()) }, ..PLAIN },
    Scenario { title: "attribute of a lower file", act: |u| set_xattr(u, "d/x"), ..PLAIN },
    Scenario { title: "attribute of a lower directory", act: |u| set_xattr(u, "d/sub"), ..PLAIN },
    Scenario { title: "copy-up of a symlink", act: |u| rename(u, "l", "l2", REPLACE), ..PLAIN },
];

fn config(base: &Path, s: &Scenario) -> Config {
    Config {
        lower: lowers(base),
        upper: Some(base.join("upper")),
        work: Some(base.join("work")),
        redirect: if s.redirect { Redirect::On } else { Redirect::Follow },
        index: s.index,
        metacopy: s.metacopy,
        ..Config::default()
    }
}

fn lowers(base: &Path) -> Vec<PathBuf> {
    vec![base.join("lower1"), base.join("lower2")]
}

fn build_lowers(base: &Path) {
    for dir in lowers(base) {
        std::fs::create_dir(&dir).expect("a fresh directory");
    }
    let l = Layer::new(&base.join("lower1"), 1);
    l.file("f", "lower content").chmod("f", 0o640).xattr("f", "user.a", "kept").chown("f", 12, 34);
    l.dir("d").chmod("d", 0o750).xattr("d", "user.a", "of d").file("d/x", "x");
    let block = vec![b'z'; 70_000];
    l.sparse("d/big", 400_000, &[(0, &block), (300_000, &block)]);
    l.dir("d/sub").file("d/sub/z", "zed").symlink("l", "d/x").file("h1", "linked").link("h1", "d/h2");
    l.finish();
    let l = Layer::new(&base.join("lower2"), 2);
    l.dir("d/sub").file("d/sub/y", "why").file("d/w", "below").dir("e").chmod("e", 0o700);
    l.finish();
}

fn fresh_upper(base: &Path, s: &Scenario) {
    for dir in ["upper", "work"] {
        let dir = base.join(dir);
        if dir.exists() {
            std::fs::remove_dir_all(&dir).expect("removing what the last run left");
        }
        std::fs::create_dir(&dir).expect("a fresh directory");
    }
    let union = open(base, s).expect("opening the fresh stack");
    (s.before)(&union).unwrap_or_else(|e| panic!("{}: preparing: {e}", s.title));
}

fn open(base: &Path, s: &Scenario) -> Result<Union, String> {
    Union::open(&config(base, s), Arc::new(NoTransport)).map_err(|e| e.to_string())
}

/// Opens again, looks through the union and through the kernel, and at what must not be left.
fn look(base: &Path, s: &Scenario, numbers: &BTreeSet<u64>) -> Result<View, String> {
    let union = open(base, s)?;
    let ours = view::through_union(&union, numbers)?;
    drop(union);
    if std::fs::read_dir(base.join("work/work")).map_err(|e| e.to_string())?.count() > 0 {
        return Err("the work directory is not empty after a mount that did nothing".into());
    }
    let switch = |on| if on { "on" } else { "off" };
    let options = format!(
        "lowerdir={0}/lower1:{0}/lower2,upperdir={0}/upper,workdir={0}/work,redirect_dir={1},index={2},metacopy={3}",
        base.display(),
        if s.redirect { "on" } else { "follow" },
        switch(s.index),
        switch(s.metacopy)
    );
    let target = base.join("mnt");
    let mounted =
        Mounter::Kernel.mount(options.as_bytes(), &target, None).map_err(|e| format!("kernel: {e:?}"))?;
    let kernel = view::through_kernel(&target, numbers);
    mounted.unmount()?;
    let kernel = kernel?;
    if kernel == ours { Ok(ours) } else { Err(format!("the kernel sees {}", difference(&ours, &kernel))) }
}

fn difference(a: &View, b: &View) -> String {
    support::tree::difference(a, b).join("\n    ")
}

fn child(base: &Path, s: &Scenario, at: usize) -> Result<End, String> {
    let mut command = Command::new(std::env::current_exe().map_err(|e| e.to_string())?);
    command
        .args(["--exact", "the_process_to_be_killed_does_nothing_unless_it_is_told_to", "--nocapture"])
        .env("ACETATE_CRASH_SCENARIO", s.title)
        .env("ACETATE_CRASH_STACK", base);
    tracer::run(&mut command, at)
}

#[test]
fn the_process_to_be_killed_does_nothing_unless_it_is_told_to() {
    let (Ok(title), Ok(base)) =
        (std::env::var("ACETATE_CRASH_SCENARIO"), std::env::var("ACETATE_CRASH_STACK"))
    else {
        return;
    };
    let scenario = SCENARIOS.iter().find(|s| s.title == title).expect("a scenario of that title");
    let union = open(Path::new(&base), scenario).expect("opening the stack");
    println!("\ntid {}", nix::unistd::gettid());
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).expect("the tracer's word");
    nix::unistd::getppid();
    let done = (scenario.act)(&union);
    nix::unistd::getppid();
    done.expect("the operation");
}

/// Whether two views are the same, but for times and numbers if `loose`.
fn same(a: &View, b: &View, loose: bool) -> bool {
    let plain = |line: &String| -> String {
        let words: Vec<&str> = line.split(' ').collect();
        let label = |at: usize| at > 0 && ["at", "number"].contains(&words[at - 1]);
        let kept = words.iter().enumerate().filter(|(at, w)| !label(*at) && !["at", "number"].contains(w));
        kept.map(|(_, w)| *w).collect::<Vec<_>>().join(" ")
    };
    a == b
        || (loose
            && a.len() == b.len()
            && a.iter().zip(b).all(|((p, l), (q, m))| p == q && plain(l) == plain(m)))
}

fn try_every_kill(base: &Path, s: &Scenario) -> Result<usize, Vec<String>> {
    let numbers = view::numbers(&lowers(base));
    let fail = |e: String| vec![format!("{}: {e}", s.title)];
    fresh_upper(base, s);
    let before = look(base, s, &numbers).map_err(|e| fail(format!("before: {e}")))?;
    fresh_upper(base, s);
    {
        let union = open(base, s).map_err(fail)?;
        (s.act)(&union).map_err(|e| fail(format!("undisturbed: {e}")))?;
    }
    let after = look(base, s, &numbers).map_err(|e| fail(format!("undisturbed: {e}")))?;
    let mut problems = Vec::new();
    for at in 1..200 {
        fresh_upper(base, s);
        let end = child(base, s, at).map_err(fail)?;
        match look(base, s, &numbers) {
            Err(e) => problems.push(format!("{}: call {at} {end:?}: {e}", s.title)),
            Ok(now) if !same(&now, &before, s.loose) && !same(&now, &after, s.loose) => {
                problems.push(format!(
                    "{}: call {at} {end:?}: neither before nor after:\n    {}\n  and\n    {}",
                    s.title,
                    difference(&before, &now),
                    difference(&after, &now)
                ))
            }
            Ok(_) => {}
        }
        if end == End::Completed {
            return if problems.is_empty() { Ok(at - 1) } else { Err(problems) };
        }
    }
    Err(vec![format!("{}: never ends", s.title)])
}

#[test]
fn killed_at_any_system_call_the_tree_is_that_before_or_after_the_operation_d2_c14() {
    let outcome = watchdog::within(Duration::from_secs(300), || {
        let only = std::env::var("ACETATE_CRASH_ONLY").ok();
        let base =
            backing::backing(Fs::Tmpfs).expect("a tmpfs").quiet.join(format!("crash{}", backing::serial()));
        std::fs::create_dir(&base).expect("a fresh directory");
        std::fs::create_dir(base.join("mnt")).expect("a fresh directory");
        build_lowers(&base);
        let fingerprint = Fingerprint::take(lowers(&base).iter().map(PathBuf::as_path));
        let (mut problems, mut calls) = (Vec::new(), 0);
        for s in SCENARIOS.iter().filter(|s| only.as_deref().is_none_or(|o| s.title.contains(o))) {
            match try_every_kill(&base, s) {
                Ok(n) => calls += n,
                Err(more) => problems.extend(more),
            }
        }
        let touched: Vec<String> =
            fingerprint.changes().into_iter().filter(|c| !c.contains(": atime was ")).collect();
        assert!(touched.is_empty(), "a lower layer changed: {touched:?}");
        println!("{calls} system calls, each the last one once");
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    });
    if let Err(unavailable) = outcome {
        println!("skipped: {}", unavailable.0);
    }
}
