//! `acetate bench`: kernel overlayfs, acetate and its rivals over the same layers, side by side.
//!
//! What makes it hard is leaving nothing behind. Every mount, server and program lives in a pid namespace and a mount
//! namespace of one worker; when the worker ends, however it ends, the kernel ends all of it, and this process, which
//! stayed outside and holds nothing open, removes the directory. So an interrupt is: kill the worker, clean up, say so.

mod contender;
mod facts;
mod fixture;
mod html;
mod plot;
mod report;
mod rounds;
mod stats;
mod work;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::{Failure, Format, Outcome, Output, output};
use crate::error::SetupError;
use crate::sys::process::{self, Side};
use contender::{Contender, in_path};
use facts::Facts;
use fixture::Fixture;
use report::Report;
use rounds::{Base, Rounds};
use work::{Scale, Workload};

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many rounds are made.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: u16,
    /// A fraction of the work: shows that everything runs, and a rough order.
    #[arg(long)]
    pub quick: bool,
    /// Take part: the contenders with this name (repeat it); `kernel` is the baseline.
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// Only the rows whose name contains WORD (repeat it).
    #[arg(long, value_name = "WORD")]
    pub rows: Vec<String>,
    /// A rival that takes the options of fuse-overlayfs; the one in PATH takes part by itself.
    #[arg(long, value_name = "NAME=PROGRAM")]
    pub rival: Vec<String>,
    /// A directory with a Debian system, for the apt-get row.
    #[arg(long, value_name = "ROOT")]
    pub debian: Option<PathBuf>,
    /// Mount with `volatile` where it is known: a fair comparison with rivals that sync nothing.
    #[arg(long)]
    pub volatile: bool,
    /// Where layers and uppers are made; the disk of it is what is measured.
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    pub dir: PathBuf,
    /// The HTML report.
    #[arg(long, value_name = "FILE", default_value = "acetate-bench.html")]
    pub html: PathBuf,
    /// Name the rows and the contenders, and measure nothing.
    #[arg(long)]
    pub list: bool,
    /// With --json: write the JSON here instead of printing it.
    #[arg(value_name = "FILE")]
    pub json_file: Option<PathBuf>,
}

/// A run with nothing left to refuse.
#[derive(Debug)]
struct Plan {
    contenders: Vec<Contender>,
    workloads: Vec<Workload>,
    rounds: usize,
    scale: Scale,
    volatile: bool,
    debian: Option<PathBuf>,
    html: PathBuf,
    json: Option<PathBuf>,
    command: String,
}

/// Measures, prints the table and writes the report.
///
/// # Errors
/// Usage: words that name nothing. Failed: not root, no room, interrupted.
pub fn run(args: &Args, output: Output) -> Outcome {
    let plan = plan(args, output)?;
    if args.list {
        return list(&plan, output);
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(SetupError::new("measure", "kernel overlayfs is mounted by root only")
            .hint("run it with sudo")
            .into());
    }
    let base = Base::create(&args.dir).map_err(|e| {
        SetupError::new("make a directory for the run in", e).at(&args.dir).hint("choose another with --dir")
    })?;
    supervise(&plan, &base, output)
}

fn usage(what: &str, why: impl std::fmt::Display, hint: &str) -> Failure {
    Failure::Usage(SetupError::new(what, why).hint(hint))
}

fn plan(args: &Args, output: Output) -> Result<Plan, Failure> {
    if args.json_file.is_some() && output.format() != Format::Json {
        return Err(usage("use the file", "it is for JSON", "say --json FILE; --html FILE names the report"));
    }
    if let Some(root) = args.debian.as_ref().filter(|root| !root.join("usr/bin/apt-get").exists()) {
        return Err(Failure::Usage(
            SetupError::new("use the Debian system", "there is no usr/bin/apt-get in it")
                .at(root)
                .hint("make one with: mmdebstrap bookworm ROOT"),
        ));
    }
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let words: Vec<_> = words.iter().map(|w| w.to_string_lossy()).collect();
    Ok(Plan {
        contenders: contenders(args)?,
        workloads: workloads(args)?,
        rounds: usize::from(args.rounds),
        scale: if args.quick { Scale::quick() } else { Scale::full() },
        volatile: args.volatile,
        debian: args.debian.as_deref().map(absolute).transpose()?,
        html: absolute(&args.html)?,
        json: args.json_file.as_deref().map(absolute).transpose()?,
        command: format!("acetate {}", words.join(" ")),
    })
}

fn absolute(path: &Path) -> Result<PathBuf, SetupError> {
    std::path::absolute(path).map_err(|e| SetupError::new("use the path", e).at(path))
}

/// Everybody who can take part, the baseline first.
fn contenders(args: &Args) -> Result<Vec<Contender>, Failure> {
    let mut all = vec![Contender::kernel()];
    all.push(Contender::acetate("acetate", "as it chooses by itself", &[]));
    if facts::fuse_uring() {
        // By itself it chose the ring.
        all.push(Contender::acetate("dev", "over /dev/fuse", &["transport=dev"]));
    }
    all.push(Contender::acetate(
        "cached",
        "all data through the page cache of the mount",
        &["passthrough=off"],
    ));
    if let Some(found) = in_path("fuse-overlayfs") {
        all.push(Contender::rival("fuse-overlayfs", &found)?);
    }
    for rival in &args.rival {
        let Some((name, program)) = rival.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(usage("understand the rival", rival, "say --rival NAME=PROGRAM"));
        };
        if all.iter().any(|known| known.name == name) {
            return Err(usage("add the rival", format!("there is a {name} already"), "give it another name"));
        }
        all.push(Contender::rival(name, Path::new(program))?);
    }
    if let Some(unknown) = args.only.iter().find(|name| !all.iter().any(|c| c.name == **name)) {
        let names: Vec<&str> = all.iter().map(|c| c.name.as_str()).collect();
        return Err(usage("choose the contender", format!("there is no {unknown}"), &names.join(", ")));
    }
    all.retain(|c| args.only.is_empty() || args.only.contains(&c.name));
    Ok(all)
}

/// The workloads with a row that was asked for; rows that are measured together stay together.
fn workloads(args: &Args) -> Result<Vec<Workload>, Failure> {
    let mut all = work::table();
    if args.debian.is_none() && args.rows.is_empty() {
        all.retain(|workload| workload.layers != fixture::Layers::Debian);
    }
    let asked =
        |name: &str| args.rows.is_empty() || args.rows.iter().any(|word| name.contains(word.as_str()));
    all.retain(|workload| workload.rows.iter().any(|row| asked(&row.name)));
    if all.is_empty() {
        return Err(usage("choose the rows", "no row has such a name", "acetate bench --list names them"));
    }
    Ok(all)
}

fn list(plan: &Plan, output: Output) -> Outcome {
    #[derive(serde::Serialize)]
    struct Listed<'a> {
        contenders: Vec<contender::Described>,
        rows: Vec<&'a work::Row>,
    }
    let listed = Listed {
        contenders: plan.contenders.iter().map(Contender::described).collect(),
        rows: plan.workloads.iter().flat_map(|w| &w.rows).collect(),
    };
    output.give(&listed, |listed| {
        let rows = listed.rows.iter().map(|row| vec![row.name.clone(), row.about.clone()]);
        let contenders = listed.contenders.iter().map(|c| vec![c.name.clone(), c.about.clone()]);
        output::table(&contenders.collect::<Vec<_>>()) + "\n" + &output::table(&rows.collect::<Vec<_>>())
    })
}

/// Starts the worker and stays outside, to end it on a signal and to clean up.
fn supervise(plan: &Plan, base: &Base, output: Output) -> Outcome {
    let fail = |what: &'static str| move |e: nix::Error| SetupError::new(what, e.desc());
    let ending: SigSet =
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD].into_iter().collect();
    let mut before = SigSet::empty();
    nix::sys::signal::pthread_sigmask(
        nix::sys::signal::SigmaskHow::SIG_BLOCK,
        Some(&ending),
        Some(&mut before),
    )
    .map_err(fail("hold back signals"))?;
    unshare(CloneFlags::CLONE_NEWPID).map_err(fail("make a pid namespace"))?;
    let child = match process::fork().map_err(fail("start the worker"))? {
        Side::Child => {
            let outcome = before
                .thread_set_mask()
                .map_err(fail("let signals through"))
                .map_err(Failure::from)
                .and_then(|()| worker(plan, base.path(), output));
            let status = match outcome {
                Ok(()) => 0,
                Err(failure) => {
                    output::complain(failure.sentence());
                    1
                }
            };
            // Not by returning: the directory is removed by the one who made it.
            std::process::exit(status)
        }
        Side::Parent(child) => nix::unistd::Pid::from_raw(child.pid().cast_signed()),
    };
    loop {
        let signal = ending.wait().map_err(fail("wait for the worker"))?;
        if signal != Signal::SIGCHLD {
            kill(child, Signal::SIGKILL).map_err(fail("end the worker"))?;
            waitpid(child, None).map_err(fail("wait for the worker"))?;
            return Err(SetupError::new(
                "finish the run",
                format!("{signal} was received; everything was cleaned up"),
            )
            .into());
        }
        match waitpid(child, Some(WaitPidFlag::WNOHANG)).map_err(fail("wait for the worker"))? {
            WaitStatus::StillAlive | WaitStatus::Stopped(..) | WaitStatus::Continued(_) => {}
            WaitStatus::Exited(_, 0) => return Ok(()),
            WaitStatus::Exited(..) => return Err(SetupError::quoted("the run ended early").into()),
            other => {
                return Err(SetupError::new("finish the run", format!("the worker ended: {other:?}")).into());
            }
        }
    }
}

/// The first process of its pid namespace, in a mount namespace of its own.
fn worker(plan: &Plan, base: &Path, output: Output) -> Outcome {
    isolate().map_err(|e| SetupError::new("make a mount namespace", e.desc()))?;
    let facts = Facts::gather(base, plan.command.clone());
    let fixture = Fixture::new(base, plan.scale, plan.debian.clone());
    let rounds = Rounds {
        base,
        fixture: &fixture,
        contenders: &plan.contenders,
        workloads: &plan.workloads,
        rounds: plan.rounds,
        scale: plan.scale,
        volatile: plan.volatile,
    };
    let measured = rounds.run();
    let rows = report::lines(&plan.workloads, &plan.contenders, &measured);
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        facts,
        scale: plan.scale,
        rounds: plan.rounds,
        volatile: plan.volatile,
        contenders: plan.contenders.iter().map(Contender::described).collect(),
        means: report::means(&rows, &plan.contenders),
        rows,
    };
    give(plan, &report, output)
}

fn isolate() -> nix::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none)
}

fn give(plan: &Plan, report: &Report, output: Output) -> Outcome {
    let write = |path: &Path, text: &[u8]| {
        std::fs::write(path, text).map_err(|e| SetupError::new("write the report", e).at(path))
    };
    write(&plan.html, html::page(report).as_bytes())?;
    if let Some(path) = &plan.json {
        let json = serde_json::to_vec_pretty(report).map_err(|e| SetupError::new("write JSON", e))?;
        write(path, &json)?;
        if !output.is_quiet() {
            output::print(&report.text())?;
        }
    } else {
        output.give(report, Report::text)?;
    }
    if output.format() == Format::Text && !output.is_quiet() {
        output::print(&format!("\nThe report: {}", plan.html.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn refused(words: &[&str]) -> String {
        let args = Line::parse_from([&["bench"], words].concat()).args;
        match plan(&args, Output::new(Format::Text, true)) {
            Err(Failure::Usage(e)) => e.to_string(),
            other => panic!("{words:?}: {other:?}"),
        }
    }

    #[test]
    fn words_that_name_nothing_are_refused_before_anything_is_made() {
        assert!(refused(&["--only", "nobody"]).contains("kernel, acetate"));
        assert!(refused(&["--rows", "no such row"]).contains("--list"));
        assert!(refused(&["--rival", "nameless"]).contains("NAME=PROGRAM"));
        assert!(refused(&["--debian", "/nowhere"]).contains("apt-get"));
        assert!(refused(&["out.json"]).contains("--json FILE"));
    }

    #[test]
    fn rows_that_are_measured_together_stay_together() {
        let args = Line::parse_from(["bench", "--rows", "rename"]).args;
        let chosen = workloads(&args).unwrap();
        assert_eq!(chosen.len(), 1);
        assert!(chosen[0].rows.iter().any(|row| row.name == "create"));
    }
}
