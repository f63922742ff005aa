//! Rows that run programs, as people do.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::super::contender::{in_path, run};
use super::super::fixture::in_chroot;
use super::{Figures, Stage, seconds};

/// Seconds a program takes. Errors: what it said last.
fn timed(command: &mut Command) -> Result<f64, String> {
    let mut outcome = Ok(());
    let took = seconds(|| {
        outcome = run(command);
        Ok(())
    })?;
    outcome.map(|()| took)
}

/// What a program prints. Errors: what it said last.
fn output(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let done = command.stdin(Stdio::null()).output().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => format!("{program} is not installed"),
        _ => format!("{program}: {e}"),
    })?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    Err(said.lines().next_back().map_or_else(|| format!("{program}: {}", done.status), str::to_string))
}

fn for_each_file(stage: &Stage, took: f64) -> Figures {
    Ok(vec![took / stage.scale.tree_files as f64])
}

pub fn grep(stage: &Stage) -> Figures {
    let mut command = Command::new("grep");
    // "Nothing found" is exit status 1.
    let mut found = Ok(None);
    let took = seconds(|| {
        found = command.args(["-r", "-q", "no such word"]).arg(&stage.mnt).status().map(|s| s.code());
        Ok(())
    })?;
    match found.map_err(|e| format!("grep: {e}"))? {
        Some(1) => for_each_file(stage, took),
        status => Err(format!("grep ended with status {status:?}")),
    }
}

pub fn untar(stage: &Stage) -> Figures {
    let archive = stage.base.join("tree.tar");
    if !archive.exists() {
        run(Command::new("tar").arg("cf").arg(&archive).arg("-C").arg(stage.base.join("t3")).arg("."))?;
    }
    let target = stage.mnt.join("untarred");
    fs::create_dir(&target).map_err(|e| e.to_string())?;
    for_each_file(stage, timed(Command::new("tar").arg("xf").arg(&archive).arg("-C").arg(&target))?)
}

pub fn remove_upper(stage: &Stage) -> Figures {
    let target = stage.mnt.join("removed");
    run(Command::new("cp").arg("-r").arg(stage.base.join("t3")).arg(&target))?;
    for_each_file(stage, timed(Command::new("rm").arg("-rf").arg(&target))?)
}

pub fn remove_lower(stage: &Stage) -> Figures {
    let took = timed(Command::new("rm").arg("-rf").args(top_directories(stage)?))?;
    match top_directories(stage)?.as_slice() {
        [] => for_each_file(stage, took),
        left => Err(format!("{} directories are left", left.len())),
    }
}

pub fn chmod(stage: &Stage) -> Figures {
    let took = timed(Command::new("chmod").args(["-R", "u=rwX,go="]).args(top_directories(stage)?))?;
    for_each_file(stage, took)
}

fn top_directories(stage: &Stage) -> Result<Vec<std::path::PathBuf>, String> {
    let entries = fs::read_dir(&stage.mnt).map_err(|e| e.to_string())?;
    Ok(entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect())
}

pub fn git(stage: &Stage) -> Figures {
    let git = |words: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "safe.directory=*", "-c", "gc.auto=0"]).args(words).current_dir(&stage.mnt);
        command.env("HOME", &stage.mnt).env("GIT_CONFIG_NOSYSTEM", "1");
        command
    };
    let add = timed(&mut git(&["init", "-q", "."]))? + timed(&mut git(&["add", "-A"]))?;
    Ok(vec![add, timed(&mut git(&["status", "--porcelain"]))?])
}

pub fn python(stage: &Stage) -> Figures {
    // Not a shell script that only finds the real one.
    let program = output(Command::new("python3").args(["-I", "-c", "import sys; print(sys.executable)"]))?;
    let lib = stage.mnt.join("lib");
    let start = format!(
        "import sys; sys.path[:] = ['{0}', '{0}/lib-dynload']\n\
         import argparse, asyncio, decimal, email.mime.text, html.parser, http.client, json, logging, unittest\n\
         assert json.__file__.startswith('{0}')",
        lib.display()
    );
    let once = || run(Command::new(program.trim()).args(["-I", "-S", "-B", "-c", &start]));
    let mut outcome = Ok(());
    let took = seconds(|| {
        outcome = (0..20).try_for_each(|_| once());
        Ok(())
    })?;
    outcome.map(|()| vec![took / 20.0])
}

pub fn c_build(stage: &Stage) -> Figures {
    let units = stage.scale.c_units;
    let compile = |source: &str, object: &str| {
        run(Command::new("cc").args(["-O1", "-c", source, "-o", object]).current_dir(&stage.mnt))
    };
    let mut outcome = Ok(());
    let took = seconds(|| {
        outcome = (0..units)
            .try_for_each(|n| compile(&format!("u{n}.c"), &format!("u{n}.o")))
            .and_then(|()| compile("main.c", "main.o"))
            .and_then(|()| {
                let objects = (0..units).map(|n| format!("u{n}.o"));
                let mut link = Command::new("cc");
                run(link.args(["main.o", "-o", "program"]).args(objects).current_dir(&stage.mnt))
            });
        Ok(())
    })?;
    outcome.map(|()| vec![took / (units + 1) as f64])
}

pub fn sqlite(stage: &Stage) -> Figures {
    let script = "import sqlite3, sys, time\n\
        db = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
        db.execute('create table t (a integer primary key, b text)')\n\
        n = int(sys.argv[2])\n\
        began = time.monotonic()\n\
        for i in range(n): db.execute('insert into t (b) values (?)', ('x' * 100,))\n\
        print((time.monotonic() - began) / n)";
    let mut command = Command::new("python3");
    command.args(["-I", "-c", script]).arg(stage.mnt.join("t.db")).arg(stage.scale.commits.to_string());
    number(&output(&mut command)?)
}

fn number(text: &str) -> Figures {
    let word = text.trim();
    word.parse().map(|n| vec![n]).map_err(|_| format!("a number was expected, not {word:?}"))
}

pub fn fio(stage: &Stage) -> Figures {
    if in_path("fio").is_none() {
        return Err("fio is not installed".into());
    }
    let size = stage.scale.data_mib;
    let mut command = Command::new("fio");
    command.args(["--name=mix", "--rw=randrw", "--rwmixread=70", "--bs=4k", "--ioengine=psync"]);
    command.args(["--output-format=json", "--randseed=7", &format!("--size={size}m")]);
    command.args([&format!("--io_size={}m", 2 * size), &format!("--directory={}", stage.mnt.display())]);
    let said = output(&mut command)?;
    let start = said.find('{').unwrap_or(0);
    let report: serde_json::Value = serde_json::from_str(said.get(start..).unwrap_or_default())
        .map_err(|e| format!("fio's report cannot be read: {e}"))?;
    let job = report.pointer("/jobs/0").ok_or("fio's report names no job")?;
    let of = |path: &str| job.pointer(path).and_then(serde_json::Value::as_f64).unwrap_or(0.0);
    let calls = of("/read/total_ios") + of("/write/total_ios");
    let milliseconds = of("/read/runtime").max(of("/write/runtime"));
    if calls == 0.0 || milliseconds == 0.0 {
        return Err("fio did too little to be timed".into());
    }
    Ok(vec![milliseconds / 1000.0 / calls])
}

pub fn apt(stage: &Stage) -> Figures {
    let line = "apt-get -q -y --no-install-recommends --no-download install";
    mounted_for_chroot(&stage.mnt)?;
    let took = timed(&mut in_chroot(&stage.mnt, line)?);
    for place in ["dev", "proc"] {
        nix::mount::umount2(&stage.mnt.join(place), nix::mount::MntFlags::MNT_DETACH)
            .map_err(|e| format!("cannot unmount {place}: {}", e.desc()))?;
    }
    took.map(|t| vec![t])
}

fn mounted_for_chroot(root: &Path) -> Result<(), String> {
    use nix::mount::{MsFlags, mount};
    let none: Option<&str> = None;
    mount(Some("proc"), &root.join("proc"), Some("proc"), MsFlags::empty(), none)
        .and_then(|()| mount(Some("/dev"), &root.join("dev"), none, MsFlags::MS_BIND, none))
        .map_err(|e| format!("cannot mount proc and dev for the chroot: {}", e.desc()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_missing_is_named_and_numbers_are_read() {
        assert_eq!(
            output(&mut Command::new("no-such-program")),
            Err("no-such-program is not installed".into())
        );
        assert_eq!(number("0.25\n"), Ok(vec![0.25]));
        assert!(number("abc").is_err());
    }
}
