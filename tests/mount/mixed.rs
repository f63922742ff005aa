//! Opens of every kind on one file in random order: none fails with EIO (B1, B3), and all show what a plain file
//! shows.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::support::rng::Rng;
use crate::support::sys::{self, Mapping};
use crate::world::{Ground, World, on_both_paths};

const SIZE: usize = 8192;

/// The same descriptor or mapping on the union and on a plain file.
enum Held {
    Fd { ours: OwnedFd, flags: i32 },
    Map { ours: Mapping, writable: bool },
}

struct Run {
    w: World,
    plain: Vec<u8>,
    held: Vec<Held>,
    rng: Rng,
    log: Vec<String>,
}

impl Run {
    fn step(&mut self) {
        match self.rng.below(10) {
            0..=2 => self.open(),
            3 => self.map(),
            4..=5 => self.write(),
            6..=7 => self.read(),
            8 if !self.held.is_empty() => {
                let at = self.rng.below(self.held.len());
                self.log.push(format!("close {at}"));
                drop(self.held.swap_remove(at));
            }
            _ => self.whole(),
        }
    }

    fn open(&mut self) {
        if self.held.len() > 6 {
            return;
        }
        let kinds = [
            libc::O_RDONLY,
            libc::O_RDONLY,
            libc::O_RDWR,
            libc::O_WRONLY,
            libc::O_RDONLY | libc::O_DIRECT,
            libc::O_RDWR | libc::O_DIRECT,
        ];
        let flags = *self.rng.pick(&kinds);
        self.log.push(format!("open {flags:#o}"));
        let ours = sys::open(&self.w.raw("f"), flags, 0).unwrap_or_else(|e| panic!("{e}: {:#?}", self.log));
        self.held.push(Held::Fd { ours, flags });
    }

    fn map(&mut self) {
        let fds: Vec<(i32, i32)> = self
            .held
            .iter()
            .filter_map(|h| match h {
                Held::Fd { ours, flags } if flags & libc::O_ACCMODE != libc::O_WRONLY => {
                    Some((ours.as_raw_fd(), *flags))
                }
                _ => None,
            })
            .collect();
        if fds.is_empty() {
            return;
        }
        let (fd, flags) = *self.rng.pick(&fds);
        let writable = flags & libc::O_ACCMODE == libc::O_RDWR;
        self.log.push(format!("map writable={writable}"));
        let ours = Mapping::new(fd, SIZE, writable, true).unwrap_or_else(|e| panic!("{e}: {:#?}", self.log));
        self.held.push(Held::Map { ours, writable });
    }

    fn write(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let byte = self.rng.below(256) as u8;
        let at = self.rng.below(self.held.len());
        let page = self.rng.below(SIZE / 4096) * 4096;
        let small = (self.rng.below(SIZE - 64), 1 + self.rng.below(64));
        let (start, len) = match &self.held[at] {
            Held::Fd { flags, .. } if flags & libc::O_ACCMODE == libc::O_RDONLY => return,
            Held::Fd { ours, flags } if flags & libc::O_DIRECT != 0 => {
                self.log.push(format!("direct write {at} at {page}: {byte}"));
                let wrote = sys::pwrite_aligned(ours.as_raw_fd(), page as i64, &vec![byte; 4096]);
                assert_eq!(wrote, Ok(4096), "{:#?}", self.log);
                (page, 4096)
            }
            Held::Fd { ours, .. } => {
                self.log.push(format!("write {at} at {}: {byte} x {}", small.0, small.1));
                let wrote = sys::pwrite(ours.as_raw_fd(), small.0 as i64, &vec![byte; small.1]);
                assert_eq!(wrote, Ok(small.1 as i64), "{:#?}", self.log);
                small
            }
            Held::Map { writable: false, .. } => return,
            Held::Map { ours, .. } => {
                self.log.push(format!("store {at} at {}: {byte} x {}", small.0, small.1));
                assert_eq!(ours.write(small.0, &vec![byte; small.1]), Ok(small.1 as i64), "{:#?}", self.log);
                // Direct I/O and a mapping meet on disk.
                assert_eq!(ours.sync(), Ok(()), "{:#?}", self.log);
                small
            }
        };
        self.plain[start..start + len].fill(byte);
    }

    fn read(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let at = self.rng.below(self.held.len());
        let got = match &self.held[at] {
            Held::Fd { flags, .. } if flags & libc::O_ACCMODE == libc::O_WRONLY => return,
            Held::Fd { ours, flags } if flags & libc::O_DIRECT != 0 => {
                sys::pread_aligned(ours.as_raw_fd(), 0, SIZE)
            }
            Held::Fd { ours, .. } => sys::pread(ours.as_raw_fd(), 0, SIZE),
            Held::Map { ours, .. } => ours.read(0, SIZE),
        };
        self.log.push(format!("read {at}"));
        self.same(&got.unwrap_or_else(|e| panic!("{e}: {:#?}", self.log)));
    }

    fn whole(&mut self) {
        self.log.push("read whole".into());
        let got = fs::read(self.w.at("f")).unwrap_or_else(|e| panic!("{e}: {:#?}", self.log));
        self.same(&got);
    }

    fn same(&self, got: &[u8]) {
        assert_eq!(got.len(), SIZE, "{:#?}", self.log);
        let wrong = got.iter().zip(&self.plain).position(|(a, b)| a != b);
        assert_eq!(wrong, None, "{:#?}", self.log);
    }
}

#[test]
fn mixed_opens_mappings_and_writes_in_any_order_behave_as_on_a_plain_file_b1_b3() {
    on_both_paths(120, |path| {
        let first = std::env::var("ACETATE_SEED").ok().and_then(|s| s.parse().ok());
        let seeds = first.map_or(0..40, |seed: u64| seed..seed + 1);
        for seed in seeds {
            let plain: Vec<u8> = (0..SIZE).map(|i| i as u8).collect();
            let w = Ground::new(|l| fs::write(l.join("f"), &plain).unwrap()).mount(path);
            let log = vec![format!("{path} ACETATE_SEED={seed}")];
            let mut run = Run { w, plain, held: Vec::new(), rng: Rng::new(seed), log };
            for _ in 0..120 {
                run.step();
            }
            run.held.clear();
            run.whole();
            run.w.end();
        }
    });
}

#[test]
fn readers_and_writers_that_open_a_lower_file_at_the_same_moment_all_succeed_b1_a4() {
    on_both_paths(30, |path| {
        const FILES: usize = 300;
        let w =
            Ground::new(|l| (0..FILES).for_each(|i| fs::write(l.join(format!("{i}")), b"lower").unwrap()))
                .mount(path);
        let start = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for role in 0..4 {
                let (w, start) = (&w, &start);
                scope.spawn(move || {
                    for i in 0..FILES {
                        start.wait();
                        let flags = if role == 0 { libc::O_RDWR } else { libc::O_RDONLY };
                        for _ in 0..3 {
                            let fd = sys::open(&w.raw(&format!("{i}")), flags, 0);
                            let fd =
                                fd.unwrap_or_else(|errno| panic!("{path}: file {i}, {flags:#o}: {errno}"));
                            let got = sys::pread(fd.as_raw_fd(), 0, 5);
                            assert!(got == Ok(b"lower".to_vec()) || got == Ok(b"UPPER".to_vec()), "{got:?}");
                            if role == 0 {
                                assert_eq!(sys::pwrite(fd.as_raw_fd(), 0, b"UPPER"), Ok(5));
                            }
                        }
                    }
                });
            }
        });
        for i in 0..FILES {
            assert_eq!(fs::read(w.at(&format!("{i}"))).unwrap(), b"UPPER", "file {i}");
        }
        w.end();
    });
}
