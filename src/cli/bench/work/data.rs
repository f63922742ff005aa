//! Rows about contents: opening, reading, writing, copying up.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::super::fixture::{Dice, steady_files, tree_files};
use super::{Figures, Stage, each};

const BLOCK: usize = 128 << 10;
const PAGE: usize = 4096;

fn text(e: std::io::Error) -> String {
    e.to_string()
}

fn read_whole(path: &Path, buf: &mut [u8]) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    while file.read(buf)? > 0 {}
    Ok(())
}

/// First and warm.
pub fn read_all(stage: &Stage) -> Figures {
    let files: Vec<PathBuf> =
        tree_files(stage.scale).iter().map(|f| stage.mnt.join(f)).filter(|f| f.exists()).collect();
    let mut buf = vec![0; BLOCK];
    let mut pass = || each(files.len(), || files.iter().try_for_each(|f| read_whole(f, &mut buf)));
    Ok(vec![pass()?, pass()?])
}

/// Open and close, and with a read between, of files that were opened before.
pub fn opens(stage: &Stage) -> Figures {
    let files: Vec<PathBuf> =
        steady_files(stage.scale).iter().step_by(4).map(|f| stage.mnt.join(f)).collect();
    opened(stage, &files)
}

/// The same of files of the upper; open and close only.
pub fn upper_opens(stage: &Stage) -> Figures {
    let dir = stage.mnt.join("opened");
    fs::create_dir(&dir).map_err(text)?;
    let files: Vec<PathBuf> = (0..200).map(|n| dir.join(format!("f{n}"))).collect();
    files.iter().try_for_each(|f| fs::write(f, [7; PAGE])).map_err(text)?;
    opened(stage, &files).map(|figures| figures.into_iter().take(1).collect())
}

fn opened(stage: &Stage, files: &[PathBuf]) -> Figures {
    let mut buf = [0; PAGE];
    for file in files {
        read_whole(file, &mut buf).map_err(text)?;
    }
    let calls = || files.iter().cycle().take(stage.scale.calls);
    let open = each(stage.scale.calls, || calls().try_for_each(|f| File::open(f).map(drop)))?;
    let read =
        each(stage.scale.calls, || calls().try_for_each(|f| File::open(f)?.read_at(&mut buf, 0).map(drop)))?;
    Ok(vec![open, read])
}

/// Random, sequential first, sequential warm; the file is large, so only the beginning is read.
pub fn reads(stage: &Stage) -> Figures {
    let file = File::open(stage.mnt.join("big.bin")).map_err(text)?;
    let bytes = (stage.scale.data_mib.min(stage.scale.big_mib) as u64) << 20;
    let mut buf = vec![0; BLOCK];
    let mut sequential = || {
        each(bytes as usize >> 20, || {
            (0..bytes / BLOCK as u64).try_for_each(|n| file.read_exact_at(&mut buf, n * BLOCK as u64))
        })
    };
    let (first, warm) = (sequential()?, sequential()?);
    let mut dice = Dice::new(21);
    let mut page = [0; PAGE];
    let random = each(stage.scale.calls, || {
        (0..stage.scale.calls)
            .try_for_each(|_| file.read_exact_at(&mut page, dice.below(bytes / PAGE as u64) * PAGE as u64))
    })?;
    Ok(vec![random, first, warm])
}

/// Sequential, random, and each followed by fstat.
pub fn writes(stage: &Stage) -> Figures {
    let mut file = File::create_new(stage.mnt.join("written.bin")).map_err(text)?;
    let mib = stage.scale.data_mib;
    let block = vec![42; BLOCK];
    let sequential = each(mib, || (0..mib * 8).try_for_each(|_| file.write_all(&block)))?;
    let pages = (mib as u64) << 8;
    let mut dice = Dice::new(22);
    let mut write = |and: &dyn Fn(&File) -> std::io::Result<()>| {
        each(stage.scale.calls, || {
            (0..stage.scale.calls).try_for_each(|_| {
                file.write_all_at(&block[..PAGE], dice.below(pages) * PAGE as u64)?;
                and(&file)
            })
        })
    };
    let random = write(&|_| Ok(()))?;
    let and_stat = write(&|file| file.metadata().map(drop))?;
    Ok(vec![sequential, random, and_stat])
}

/// One byte: everything is copied up.
pub fn append(stage: &Stage) -> Figures {
    let path = stage.mnt.join("big.bin");
    let took = each(1, || File::options().append(true).open(&path)?.write_all(b"x"))?;
    let expected = ((stage.scale.big_mib as u64) << 20) + 1;
    match fs::metadata(&path).map_err(text)?.len() {
        len if len == expected => Ok(vec![took]),
        len => Err(format!("the file has {len} bytes afterwards, not {expected}")),
    }
}
