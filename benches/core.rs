//! The union without a mount: what lookups and listings cost, over more and more layers.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use acetate::sys::NameBuf;
use acetate::union::{Caller, Config, NoTransport, Owner, ROOT, Union};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

const FILES: usize = 200;

fn caller() -> Caller {
    Caller { owner: Owner { uid: 0, gid: 0 }, pid: std::process::id(), request: 0 }
}

/// A fixed set of files spread over `layers` directories.
fn stack(at: &Path, layers: usize) -> Union {
    let lower: Vec<_> = (0..layers).map(|i| at.join(format!("l{i}"))).collect();
    lower.iter().for_each(|dir| fs::create_dir(dir).unwrap());
    for n in 0..FILES {
        fs::write(lower[n % layers].join(format!("f{n}")), b"x").unwrap();
    }
    Union::open(&Config { lower, ..Config::default() }, Arc::new(NoTransport)).unwrap()
}

fn layers(c: &mut Criterion) {
    for count in [1, 10, 100] {
        let dir = tempfile::tempdir().unwrap();
        let union = stack(dir.path(), count);
        let names: Vec<_> = (0..FILES).map(|n| NameBuf::new(format!("f{n}").as_bytes()).unwrap()).collect();
        c.bench_with_input(BenchmarkId::new("look up and forget", count), &count, |b, _| {
            let mut next = names.iter().cycle();
            b.iter(|| {
                let entry = union.lookup(&caller(), ROOT, next.next().unwrap()).unwrap().unwrap();
                union.forget(entry.node, 1);
            });
        });
        let absent = NameBuf::new(b"absent").unwrap();
        c.bench_with_input(BenchmarkId::new("absent name", count), &count, |b, _| {
            b.iter(|| assert!(union.lookup(&caller(), ROOT, &absent).unwrap().is_none()));
        });
        c.bench_with_input(BenchmarkId::new("list", count), &count, |b, _| {
            b.iter(|| {
                let mut seen = 0;
                union
                    .readdir(ROOT, 0, &mut |_| {
                        seen += 1;
                        true
                    })
                    .unwrap();
                assert_eq!(seen, FILES + 2);
            });
        });
    }
}

criterion_group!(benches, layers);
criterion_main!(benches);
