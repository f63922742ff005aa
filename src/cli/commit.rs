//! `acetate commit`: what an upper changed, as a layer.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::bar::Bar;
use super::source::Upper;
use super::{Failure, Outcome, Output};
use crate::commit::layout::{Base, Layer, Layout, Note, Target};
use crate::commit::{self, Compression, Destination, Report, Source};
use crate::error::SetupError;
use crate::union::control::Text;

/// Arguments of `commit`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A mount of ours, or an upper directory.
    #[arg(value_name = "STACK")]
    pub stack: PathBuf,
    /// A lower layer of the upper; repeat it, top first. @FILE: one directory per line. Needed only for renamed
    /// directories (redirect_dir=on) and metadata-only files (metacopy=on). Not with a mount.
    #[arg(long, value_name = "DIR|@FILE")]
    pub lower: Vec<OsString>,
    /// Write the layer to FILE (.tar, .tar.gz, .tar.zst; - is standard output).
    #[arg(
        short = 'o',
        long = "output",
        value_name = "FILE",
        required_unless_present = "oci",
        conflicts_with = "oci"
    )]
    pub file: Option<PathBuf>,
    /// Append the layer to an image of an OCI layout, and give the result this tag.
    #[arg(long, value_name = "LAYOUT:TAG")]
    pub oci: Option<OsString>,
    /// The image that the layer is appended to, by its tag, or scratch for none [default: the one with the tag of --oci].
    #[arg(long, value_name = "TAG", requires = "oci")]
    pub base: Option<String>,
    /// What the history of the image says about it.
    #[arg(long, value_name = "TEXT", requires = "oci")]
    pub message: Option<String>,
    /// Who the image says made it.
    #[arg(long, value_name = "NAME", requires = "oci")]
    pub author: Option<String>,
    /// How the layer is compressed [default: as FILE is called; gzip in a layout].
    #[arg(long, value_name = "METHOD", value_enum)]
    pub compress: Option<Compression>,
    /// Files called .wh.NAME in the upper are deletions too.
    #[arg(long)]
    pub markers: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Committed {
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest: Option<String>,
    #[serde(flatten)]
    layer: Report,
}

/// Commits.
///
/// # Errors
/// The upper cannot be read, changes all the time, or needs layers that were not named; the layer cannot be written.
pub fn run(args: &Args, output: Output) -> Outcome {
    match (&args.oci, &args.file) {
        (Some(oci), _) => to_layout(args, &Target::parse(oci).map_err(Failure::Usage)?, output),
        (None, Some(file)) => to_file(args, file, output),
        (None, None) => {
            Err(usage(SetupError::new("commit", "neither -o FILE nor --oci LAYOUT:TAG was given")))
        }
    }
}

fn to_file(args: &Args, file: &Path, output: Output) -> Outcome {
    let stdout = file.as_os_str() == "-";
    let compression = match (args.compress, Compression::of_name(file)) {
        (Some(chosen), Some(named)) if chosen != named => {
            let why = "its name says another compression than --compress";
            return Err(usage(SetupError::new("write the layer to", why).at(file)));
        }
        (Some(chosen), _) => chosen,
        (None, Some(named)) => named,
        (None, None) if stdout => Compression::None,
        (None, None) => {
            let error = SetupError::new("write the layer to", "its name does not say how it is compressed");
            let hint = "call it .tar, .tar.gz or .tar.zst, or say --compress none, gzip or zstd";
            return Err(usage(error.at(file).hint(hint)));
        }
    };
    if std::fs::metadata(file).is_ok_and(|m| m.is_dir()) {
        let error = SetupError::new("write the layer to", "it is a directory").at(file);
        return Err(Failure::Failed(error.hint("name a file, for instance layer.tar.gz")));
    }
    let upper = Upper::find(&args.stack, &args.lower, "commit")?;
    let destination = if stdout { Destination::Stdout } else { Destination::File(file.to_path_buf()) };
    refuse_inside(&upper.path, &destination)?;
    let source = source(&upper, args);
    let bar = Bar::new("commit", upper.survey.objects, output);
    let (layer, finished) = commit::write(&source, &destination, compression, &bar)?;
    finished.publish()?;
    drop(bar);
    warn_of_sockets(&layer);
    if stdout {
        return Ok(());
    }
    let committed = Committed { file: Some(Text::from(file)), manifest: None, layer };
    output.give(&committed, |c| format!("{}: {}", file.display(), summary(&c.layer)))
}

fn to_layout(args: &Args, target: &Target, output: Output) -> Outcome {
    let base = match args.base.as_deref() {
        Some("scratch") => Base::Scratch,
        Some(tag) => Base::Tag(tag.to_string()),
        None => Base::Tag(target.tag.clone()),
    };
    let given = epoch()?;
    let upper = Upper::find(&args.stack, &args.lower, "commit")?;
    let layout = Layout::open(&target.layout, base == Base::Scratch)?;
    let image = layout.image(&base)?;
    let destination = Destination::Directory(layout.blobs());
    refuse_inside(&upper.path, &destination)?;
    let compression = args.compress.unwrap_or_default();
    let source = source(&upper, args);
    let bar = Bar::new("commit", upper.survey.objects, output);
    let (report, finished) = commit::write(&source, &destination, compression, &bar)?;
    let layer = Layer {
        digest: report.digest.clone(),
        diff_id: report.diff_id.clone(),
        size: report.size,
        media_type: compression.media_type(),
    };
    finished.publish_as(layer.digest.trim_start_matches("sha256:").as_ref())?;
    let note = Note {
        created: given.unwrap_or(report.newest),
        author: args.author.clone(),
        message: args.message.clone(),
    };
    let manifest = layout.append(&target.tag, &image, &layer, &note)?;
    drop(bar);
    warn_of_sockets(&report);
    let committed = Committed { file: None, manifest: Some(manifest), layer: report };
    let name = format!("{}:{}", target.layout.display(), target.tag);
    output.give(&committed, |c| {
        let manifest = c.manifest.as_deref().unwrap_or_default();
        format!("{name}: {}\n{manifest} (manifest)", summary(&c.layer))
    })
}

/// `SOURCE_DATE_EPOCH`, by which builds are made reproducible.
fn epoch() -> Result<Option<i64>, SetupError> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let seconds = text.to_str().and_then(|text| text.parse().ok()).filter(|seconds| *seconds >= 0);
    match seconds {
        Some(seconds) => Ok(Some(seconds)),
        None => Err(SetupError::new("use SOURCE_DATE_EPOCH", "it is not a number of seconds since 1970")
            .hint("unset it, or set it to a number")),
    }
}

fn usage(e: SetupError) -> Failure {
    Failure::Usage(e)
}

/// How the upper is to be read.
fn source(upper: &Upper, args: &Args) -> Source {
    Source {
        upper: upper.path.clone(),
        lower: upper.lower.clone(),
        data_only: upper.data_only.clone(),
        prefix: upper.prefix(),
        overridden: upper.survey.is_overridden(),
        upper_markers: args.markers,
        lower_markers: upper.lower_markers,
        live: true,
    }
}

/// A layer that is written into the upper would be in the next one.
fn refuse_inside(upper: &Path, destination: &Destination) -> Result<(), SetupError> {
    let dir = match destination {
        Destination::File(file) => file.parent().filter(|p| !p.as_os_str().is_empty()),
        Destination::Directory(dir) => Some(dir.as_path()),
        Destination::Stdout => return Ok(()),
    };
    let dir = dir.unwrap_or(Path::new("."));
    match dir.canonicalize() {
        Ok(dir) if dir.starts_with(upper) => {
            let error = SetupError::new("write the layer into", "it is in the upper that is committed");
            Err(error.at(dir).hint("name a place outside"))
        }
        _ => Ok(()),
    }
}

fn warn_of_sockets(layer: &Report) {
    for path in &layer.left_out {
        eprintln!("acetate: {path} is left out: no layer can hold a socket");
    }
}

fn summary(layer: &Report) -> String {
    let mut text = format!("{} objects, {} deletions, {} bytes", layer.entries, layer.whiteouts, layer.size);
    if layer.opaque > 0 {
        text.push_str(&format!(", {} replaced directories", layer.opaque));
    }
    text.push_str(&format!("\n{} (layer)", layer.digest));
    text
}
