//! `acetate check`: what is wrong with an upper or a layer.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::source::Upper;
use super::{Failure, Output, layers, output, registry};
use crate::check::{Finding, Place, Subject, apply, findings, stale};
use crate::error::SetupError;
use crate::layer::marks::Prefix;
use crate::sys::lock::{Held, WorkLock};
use crate::sys::{Dir, mountinfo};
use crate::union::control::Text;

/// Exit statuses, as those of fsck(8); their sum is returned.
const FIXED: u8 = 1;
const LEFT: u8 = 4;
const FAILED: u8 = 8;
/// Wrong usage.
pub const USAGE: u8 = 16;

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// An upper or layer, or a mount of ours.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Repair what is safe: marks, never data.
    #[arg(long)]
    pub fix: bool,
    /// A layer below; repeat it, top first. @FILE: one directory per line. Without any, what marks lead to is not
    /// checked.
    #[arg(long, value_name = "DIR|@FILE")]
    pub lower: Vec<OsString>,
    /// The work directory of the upper [default: .NAME.work beside it, if there is one].
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,
}

/// A finding as `--json` gives it.
#[derive(Debug, Serialize)]
struct Said {
    path: Text,
    problem: &'static str,
    why: String,
    advice: &'static str,
    /// Whether `--fix` can repair it.
    fixable: bool,
    fixed: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Checked {
    findings: Vec<Said>,
    fixed: usize,
    left: usize,
}

/// Checks, and says what fsck(8) would by its exit status.
pub fn run(args: &Args, output: Output) -> ExitCode {
    match check(args, output) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            output::complain(failure.sentence());
            ExitCode::from(match failure {
                Failure::Usage(_) => USAGE,
                Failure::Failed(_) => FAILED,
            })
        }
    }
}

fn check(args: &Args, output: Output) -> Result<u8, Failure> {
    let upper = Upper::find(&args.dir, &args.lower, "check")?;
    let work = match &args.work {
        Some(work) => Some(work.clone()),
        None => layers::default_work(&upper.path).ok().filter(|work| work.is_dir()),
    };
    let in_use = in_use(&upper.path, work.as_deref())?;
    if let (true, Some(who)) = (args.fix, &in_use) {
        let error = SetupError::new("repair", format!("it is in use by {who}")).at(&upper.path);
        return Err(Failure::Failed(error.hint("unmount that first; without --fix nothing is changed")));
    }
    let mut found = findings(&subject(&upper))?;
    // What a mount is about to publish is no leftover.
    if let (Some(work), None) = (&work, &in_use) {
        found.extend(stale(work)?);
    }
    let mut said = Vec::new();
    for finding in &found {
        let fixed = args.fix && repaired(&upper.path, finding)?;
        said.push(Said {
            path: path(&finding.place),
            problem: finding.problem,
            why: finding.why.clone(),
            advice: finding.advice,
            fixable: finding.repair.is_some(),
            fixed,
        });
    }
    let fixed = said.iter().filter(|s| s.fixed).count();
    let checked = Checked { fixed, left: said.len() - fixed, findings: said };
    let status = if checked.fixed > 0 { FIXED } else { 0 } + if checked.left > 0 { LEFT } else { 0 };
    output.give(&checked, text)?;
    Ok(status)
}

fn repaired(upper: &Path, finding: &Finding) -> Result<bool, SetupError> {
    let at = path(&finding.place).to_path();
    apply(upper, finding).map_err(|e| SetupError::new("repair", e.desc()).at(upper.join(at)))
}

fn subject(upper: &Upper) -> Subject {
    let prefix = upper.prefix();
    let survey = &upper.survey;
    let other = survey.trusted.is_some().then(|| survey.user.clone()).flatten();
    Subject {
        upper: upper.path.clone(),
        lower: upper.lower.clone(),
        data_only: upper.data_only.clone(),
        lower_markers: upper.lower_markers,
        prefix,
        overridden: survey.is_overridden(),
        other_spelling: other.filter(|_| prefix == Prefix::Trusted),
        mixed_whiteouts: survey.marker.is_some() && survey.device.is_some(),
    }
}

fn path(place: &Place) -> Text {
    match place {
        Place::Upper(path) if path.is_empty() => Text::from(&b"."[..]),
        Place::Upper(path) => {
            Text::from(path.iter().map(|n| n.as_bytes()).collect::<Vec<_>>().join(&b'/').as_slice())
        }
        Place::Work(path) => Text::from(path.as_path()),
    }
}

fn text(checked: &Checked) -> String {
    let mut text = String::new();
    for said in &checked.findings {
        let done = if said.fixed { "repaired" } else { said.advice };
        text.push_str(&format!("{}: {} ({done})\n", said.path, said.why));
    }
    let can = checked.findings.iter().filter(|s| s.fixable && !s.fixed).count();
    text + &match (checked.fixed, checked.left) {
        (0, 0) => "clean".to_string(),
        (0, left) if can > 0 => format!("{left} found, {can} of them can be repaired with --fix"),
        (0, left) => format!("{left} found"),
        (fixed, left) => format!("{fixed} repaired, {left} left"),
    }
}

/// Who uses the upper, or a layer, if anybody does that can be seen.
fn in_use(upper: &Path, work: Option<&Path>) -> Result<Option<String>, SetupError> {
    if let Some(work) = work {
        let dir = Dir::open_path(work)
            .map_err(|e| SetupError::new("open the work directory", e.desc()).at(work))?;
        match WorkLock::try_take(dir.as_fd()) {
            Ok(_) => {}
            Err(Held::By(pid)) => {
                return Ok(Some(pid.map_or("a mount".into(), |pid| format!("the server with pid {pid}"))));
            }
            Err(Held::Error(e)) => log::debug!("{}: {}", work.display(), e.desc()),
        }
    }
    let own = nix::unistd::geteuid().as_raw();
    for record in registry::records(own) {
        let uses = record.layers.iter().any(|layer| layer.path.to_path() == upper);
        if uses && record.server().is_some() {
            return Ok(Some(format!("the mount on {}", record.mountpoint)));
        }
    }
    // Only the kernel's own mounts list their layers here.
    for entry in mountinfo::mounts().unwrap_or_default() {
        if entry.kind == "overlay" && lists(&entry.options, upper) {
            return Ok(Some(format!("kernel overlayfs on {}", entry.mountpoint.display())));
        }
    }
    Ok(None)
}

/// Whether the options of a kernel mount name the directory as a layer.
fn lists(options: &str, dir: &Path) -> bool {
    let keys = ["upperdir=", "lowerdir=", "lowerdir+=", "datadir+="];
    let values = options.split(',').filter_map(|word| keys.iter().find_map(|key| word.strip_prefix(key)));
    values.flat_map(|value| value.split(':')).any(|path| path.as_bytes() == dir.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_found_among_the_options_of_a_kernel_mount() {
        let options = "rw,lowerdir=/a:/b,upperdir=/c d,workdir=/w";
        for (dir, named) in [("/a", true), ("/b", true), ("/c d", true), ("/w", false), ("/", false)] {
            assert_eq!(lists(options, Path::new(dir)), named, "{dir}");
        }
    }
}
