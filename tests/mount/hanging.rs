//! Requests that hang for long, because what is below hangs.

use std::fs::{self, File, OpenOptions};
use std::process::Command;
use std::sync::mpsc::channel;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::backing;
use crate::support::mounts::Mounter;
use crate::world::{Ground, eventually, under};

/// More than a queue begins with, and fewer than it may get.
const HANGING: usize = 40;

/// Lets a stopped server go on, whatever happens.
struct Stopped(Pid);

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Err(errno) = kill(self.0, Signal::SIGCONT) {
            eprintln!("a stopped server stays stopped: {errno}");
        }
    }
}

#[test]
fn forty_hanging_copy_ups_hold_up_nobody() {
    under(120, || {
        // The lower layer of the union is a union itself, whose server is stopped for a while.
        let below = Ground::new(|l| {
            (0..HANGING).for_each(|i| fs::write(l.join(format!("slow{i}")), b"slow").unwrap());
        })
        .unprinted()
        .mount("");
        let server = Pid::from_raw(i32::try_from(below.number("pid")).unwrap());
        let quick = backing::scratch("quick");
        (0..200).for_each(|i| fs::write(quick.join(format!("quick{i}")), b"quick").unwrap());
        let (upper, work, mnt) = (backing::scratch("u"), backing::scratch("w"), backing::scratch("m"));
        let options = format!(
            "lowerdir={}:{},upperdir={},workdir={}",
            below.at("").display(),
            quick.display(),
            upper.display(),
            work.display()
        );
        let mounted = Mounter::Acetate.mount(options.as_bytes(), &mnt, None).unwrap();
        // Known names: looking for an unknown one would ask the layer that hangs, and rightly wait.
        let known =
            fs::read_dir(&mnt).unwrap().filter(|entry| entry.as_ref().unwrap().metadata().is_ok()).count();
        assert_eq!(known, HANGING + 200);

        let stopped = Stopped(server);
        kill(server, Signal::SIGSTOP).unwrap();
        // A thread on another CPU goes on for a moment.
        eventually("the server stands still", || {
            let mut threads = fs::read_dir(format!("/proc/{server}/task")).unwrap();
            threads.all(|thread| {
                let stat = fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
                stat.rsplit_once(") ").unwrap().1.starts_with('T')
            })
        });
        let (done, finished) = channel();
        let slow: Vec<_> = (0..HANGING)
            .map(|i| {
                let (path, done) = (mnt.join(format!("slow{i}")), done.clone());
                std::thread::spawn(move || {
                    OpenOptions::new().write(true).open(path).unwrap();
                    done.send(()).unwrap();
                })
            })
            .collect();
        // Every one of these is a request that somebody must be free for, on whichever CPU it is made.
        for i in 0..200 {
            let name = mnt.join(format!("quick{i}"));
            let read = Command::new("timeout").args(["60", "cat"]).arg(&name).output().unwrap();
            assert_eq!(read.stdout, b"quick");
        }
        assert!(finished.try_recv().is_err(), "nothing hung");
        drop(stopped);
        slow.into_iter().for_each(|thread| thread.join().unwrap());
        eventually("all are copied up", || fs::read_dir(&upper).unwrap().count() == HANGING);
        drop(File::open(&mnt).unwrap());
        mounted.unmount().unwrap();
        below.end();
    });
}
