//! Rows about names: walking, missing, making, renaming, removing.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::super::fixture::steady_files;
use super::{Figures, Stage, each, seconds, walk as walk_tree};

/// How often the warm walk is repeated.
const WARM_ROUNDS: usize = 5;

/// First and warm.
pub fn walk(stage: &Stage) -> Figures {
    let mut entries = 0;
    let first = seconds(|| {
        entries = walk_tree(&stage.mnt)?;
        Ok(())
    })?;
    // The second walk may still bring something into the kernel's caches.
    walk_tree(&stage.mnt).map_err(|e| e.to_string())?;
    let warm =
        each(WARM_ROUNDS * entries, || (0..WARM_ROUNDS).try_for_each(|_| walk_tree(&stage.mnt).map(drop)))?;
    Ok(vec![first / entries.max(1) as f64, warm])
}

/// First and again.
pub fn missing(stage: &Stage) -> Figures {
    let files = steady_files(stage.scale);
    let dirs = files.iter().step_by(17).filter_map(|f| Path::new(f).parent()).cycle();
    let names: Vec<_> = dirs
        .take(stage.scale.calls)
        .enumerate()
        .map(|(n, d)| stage.mnt.join(d).join(format!("absent{n}")))
        .collect();
    // The directories themselves are known to any program that looks for something in them.
    walk_tree(&stage.mnt).map_err(|e| e.to_string())?;
    let look = || {
        names.iter().try_for_each(|name| match fs::symlink_metadata(name) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
            Ok(_) => Err(std::io::Error::other("a name that nobody made is there")),
        })
    };
    Ok(vec![each(names.len(), look)?, each(names.len(), look)?])
}

/// Create, rename, unlink, mkdir, rmdir.
pub fn changes(stage: &Stage) -> Figures {
    let dir = stage.mnt.join("changes");
    fs::create_dir(&dir).map_err(|e| e.to_string())?;
    let count = stage.scale.names;
    let path = |kind: &str, n: usize| dir.join(format!("{kind}{n}"));
    let all = |work: &dyn Fn(usize) -> std::io::Result<()>| each(count, || (0..count).try_for_each(work));
    let figures = vec![
        all(&|n| fs::File::create_new(path("f", n)).map(drop))?,
        all(&|n| fs::rename(path("f", n), path("g", n)))?,
        all(&|n| fs::remove_file(path("g", n)))?,
        all(&|n| fs::create_dir(path("d", n)))?,
        all(&|n| fs::remove_dir(path("d", n)))?,
    ];
    fs::remove_dir(&dir).map_err(|e| e.to_string())?;
    Ok(figures)
}

/// Each walks everything.
pub fn two_walkers(stage: &Stage) -> Figures {
    let mut seen = 0;
    let took = seconds(|| {
        seen = both(|_| walk_tree(&stage.mnt))?;
        Ok(())
    })?;
    Ok(vec![took / seen.max(1) as f64])
}

/// Each in a directory of its own.
pub fn two_creators(stage: &Stage) -> Figures {
    let dirs = [stage.mnt.join("one"), stage.mnt.join("two")];
    dirs.iter().try_for_each(fs::create_dir).map_err(|e| e.to_string())?;
    let count = stage.scale.names / 2;
    let took = each(2 * count, || {
        let create = |which: usize| {
            let dir = dirs.get(which).ok_or(ErrorKind::NotFound)?;
            (0..count).try_for_each(|n| fs::File::create_new(dir.join(format!("f{n}"))).map(drop))?;
            Ok(count)
        };
        both(create).map(drop)
    })?;
    Ok(vec![took])
}

/// Runs `work` in two threads and adds what they count.
fn both(work: impl Fn(usize) -> std::io::Result<usize> + Sync) -> std::io::Result<usize> {
    std::thread::scope(|scope| {
        let other = scope.spawn(|| work(1));
        let first = work(0);
        let second = other.join().unwrap_or_else(|_| Err(std::io::Error::other("a thread failed")));
        Ok(first? + second?)
    })
}
