//! `acetate image`: what is in the store, and how it gets there and away.

mod bundle;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::mount::{Request, Writable};
use super::output::table;
use super::progress::Bar;
use super::{Failure, Outcome, Output};
use crate::error::SetupError;
use crate::image::digest::Digest;
use crate::image::import::{self, Imported};
use crate::image::manifest::Platform;
use crate::image::name::{ImageName, SourceName};
use crate::image::source;
use crate::image::store::{Freed, Stack, Store, Verified, default_root};
use crate::sys::process;

/// Arguments of `image`.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// Where images are kept [default: /var/lib/acetate for root, ~/.local/share/acetate for others].
    #[arg(long, value_name = "DIR", global = true)]
    pub store: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub verb: ImageVerb,
}

/// What to do with images.
#[derive(Debug, Subcommand)]
pub enum ImageVerb {
    /// Unpack images of an OCI layout or an archive into the store.
    #[command(after_help = "Example: acetate image import layout:1.0 --name app:1.0\n\n\
        SOURCE is an OCI layout, as a directory or a tar archive, with :TAG or @sha256:… behind it to choose one image,\n\
        or an archive of docker save. Layers may be tar, tar+gzip and tar+zstd.")]
    Import(ImportArgs),
    /// List the images of the store.
    #[command(after_help = "Example: acetate image ls --json")]
    Ls,
    /// Take names from images; gc frees what is then not needed.
    #[command(after_help = "Example: acetate image rm app:1.0")]
    Rm(NamesArgs),
    /// Remove images without a name and layers without an image, unless they are in use.
    #[command(after_help = "Example: acetate image gc")]
    Gc,
    /// Read images whole and say what is not as it was unpacked.
    #[command(after_help = "Example: acetate image verify app:1.0")]
    Verify(VerifyArgs),
    /// Mount an image; the same as `acetate mount --image REF`.
    #[command(after_help = "Example: acetate image mount app:1.0 --upper changes mnt")]
    Mount(MountArgs),
    /// Make a bundle that `crun run` and `runc run` take, with the image mounted in it.
    #[command(after_help = "Example: acetate image bundle app:1.0 box && crun run --bundle box app1\n\n\
        acetate umount box/rootfs ends the mount; the changes are in box/upper.")]
    Bundle(bundle::BundleArgs),
}

/// Arguments of `image mount`.
#[derive(Debug, Args)]
pub struct MountArgs {
    /// The layer that takes the changes; without one the mount is read-only.
    #[arg(long, value_name = "DIR")]
    pub upper: Option<PathBuf>,
    /// Changes are thrown away at the end.
    #[arg(long, conflicts_with = "upper")]
    pub ephemeral: bool,
    /// Mount options, as for `acetate mount`.
    #[arg(short = 'o', value_name = "OPTIONS", allow_hyphen_values = true)]
    pub options: Vec<OsString>,
    /// Stay in the foreground.
    #[arg(long)]
    pub foreground: bool,
    /// NAME:TAG or id of an image in the store.
    #[arg(value_name = "REF")]
    pub image: String,
    /// Where to mount.
    #[arg(value_name = "MNT")]
    pub mountpoint: PathBuf,
}

/// Arguments of `image import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// What to call it, in place of what it calls itself.
    #[arg(long, value_name = "NAME[:TAG]")]
    pub name: Option<String>,
    /// For which machine, if it is there for several [default: this one].
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
    /// The most bytes that a layer may have uncompressed [default: 1 GiB, or 100 times the blob if that is more].
    #[arg(long, value_name = "SIZE")]
    pub max_size: Option<String>,
    /// LAYOUT, LAYOUT:TAG, LAYOUT@sha256:… or FILE.
    #[arg(value_name = "SOURCE")]
    pub from: OsString,
}

/// Names of images.
#[derive(Debug, Args)]
pub struct NamesArgs {
    /// NAME:TAG of an image in the store.
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

/// Arguments of `image verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// NAME:TAG or id of an image [default: all].
    #[arg(value_name = "REF")]
    pub images: Vec<String>,
}

/// Runs it.
///
/// # Errors
/// Why not.
pub fn run(args: &ImageArgs, output: Output) -> Outcome {
    super::logging::install(if output.is_quiet() { log::LevelFilter::Error } else { log::LevelFilter::Warn });
    let root = root_of(args.store.as_deref())?;
    match &args.verb {
        ImageVerb::Import(args) => import(&root, args, output),
        ImageVerb::Ls => ls(&root, output),
        ImageVerb::Rm(args) => rm(&root, args, output),
        ImageVerb::Gc => gc(&root, output),
        ImageVerb::Verify(args) => verify(&root, args, output),
        ImageVerb::Mount(args) => mount(args, &root, output),
        ImageVerb::Bundle(args) => bundle::run(args, &root, output),
    }
}

/// The store that `--store` means.
///
/// # Errors
/// Nobody knows where it would be.
pub fn root_of(store: Option<&Path>) -> Result<PathBuf, SetupError> {
    let root = match store {
        Some(root) => root.to_path_buf(),
        None => default_root()?,
    };
    std::path::absolute(&root).map_err(|e| SetupError::new("find the store", e).at(&root))
}

/// The image that `word` means, to be mounted.
///
/// # Errors
/// There is no such image, or no store.
pub fn stack(store: Option<&Path>, word: &str) -> Result<Stack, SetupError> {
    let root = root_of(store)?;
    open(&root)?.ok_or_else(|| missing(word))?.stack(word)
}

fn mount(args: &MountArgs, root: &Path, output: Output) -> Outcome {
    let writable = match (&args.upper, args.ephemeral) {
        (Some(upper), _) => Writable::Upper { upper: upper.clone(), work: None },
        (None, true) => Writable::Ephemeral,
        (None, false) => Writable::AsOptionsSay,
    };
    let stack = stack(Some(root), &args.image)?;
    let mut request = Request::of_image(&stack, writable, args.mountpoint.clone(), output);
    request.options.extend(args.options.iter().cloned());
    request.foreground = args.foreground;
    super::mount::run(&request)
}

fn import(root: &Path, args: &ImportArgs, output: Output) -> Outcome {
    let usage = |e: SetupError| Failure::Usage(e);
    let name = args.name.as_deref().map(ImageName::parse).transpose().map_err(usage)?;
    let platform = match &args.platform {
        None => Platform::here(),
        Some(text) => Platform::parse(text).ok_or_else(|| {
            usage(
                SetupError::new(format!("use the platform '{text}'"), "it is not OS/ARCH")
                    .hint("as in linux/amd64"),
            )
        })?,
    };
    let max_size = args.max_size.as_deref().map(size).transpose().map_err(usage)?;
    let images = source::find(&SourceName::parse(&args.from)?, &platform)?;
    // Modes are those of the archive.
    process::clear_umask();
    if let Err(errno) = process::raise_open_files() {
        log::debug!("the limit of open files stays as it is: {errno}");
    }
    let store = Store::open_or_make(root)?;
    let bar = Bar::new(output);
    let imported = import::import(&store, &images, &import::Options { name, max_size }, &bar);
    bar.end();
    let imported = imported?;
    for (attribute, count) in imported.iter().flat_map(|image| &image.lost) {
        log::warn!("the attribute {attribute} of {count} objects could not be kept");
    }
    output.give(&imported, |imported| imported.iter().map(told).collect())
}

fn told(image: &Imported) -> String {
    let kept = image.layers - image.unpacked;
    format!(
        "{}  {}  {} unpacked{}\n",
        image.names.join(", "),
        image.id.short(),
        layers(image.unpacked),
        if kept > 0 { format!(", {kept} there already") } else { String::new() }
    )
}

fn layers(count: usize) -> String {
    if count == 1 { "1 layer".to_string() } else { format!("{count} layers") }
}

/// `512`, `10M`, `2GiB`.
fn size(text: &str) -> Result<u64, SetupError> {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    let unit = text.get(digits.len()..).unwrap_or_default();
    let shift = match unit.trim_end_matches("iB").trim_end_matches('B') {
        "" => Some(0),
        "K" | "k" => Some(10),
        "M" => Some(20),
        "G" => Some(30),
        "T" => Some(40),
        _ => None,
    };
    let bytes = digits.parse::<u64>().ok().zip(shift).and_then(|(n, shift)| n.checked_mul(1 << shift));
    bytes.ok_or_else(|| SetupError::new(format!("use the size '{text}'"), "it is none").hint("as in 20G"))
}

/// The store, or nothing where there is none yet.
fn open(root: &Path) -> Result<Option<Store>, SetupError> {
    Store::open(root)
}

fn missing(name: &str) -> SetupError {
    SetupError::new(
        format!("find the image '{}'", name.escape_default()),
        "there is none with this name in the store",
    )
    .hint("acetate image ls shows what there is")
}

#[derive(Debug, Serialize)]
struct Row {
    name: Option<String>,
    id: Digest,
    manifest: Option<Digest>,
    created: Option<String>,
    imported: u64,
    layers: Vec<PathBuf>,
    #[serde(skip)]
    count: usize,
    bytes: u64,
}

fn ls(root: &Path, output: Output) -> Outcome {
    let mut rows: Vec<Row> = Vec::new();
    if let Some(store) = open(root)? {
        let names = store.names()?;
        let unnamed =
            store.image_ids()?.into_iter().filter(|id| names.iter().all(|named| named.image != *id));
        let all = names.iter().map(|named| (Some(named.name.clone()), named.image));
        for (name, id) in all.chain(unnamed.map(|id| (None, id))) {
            rows.push(row(&store, name, id)?);
        }
    }
    output.give(&rows, |rows| {
        let heading = ["NAME", "ID", "LAYERS", "SIZE", "CREATED"].map(str::to_string).to_vec();
        let cells = |row: &Row| {
            vec![
                row.name.clone().unwrap_or_else(|| "<none>".into()),
                row.id.short(),
                row.count.to_string(),
                indicatif::HumanBytes(row.bytes).to_string(),
                row.created.clone().unwrap_or_default(),
            ]
        };
        table(&std::iter::once(heading).chain(rows.iter().map(cells)).collect::<Vec<_>>())
    })
}

fn row(store: &Store, name: Option<String>, id: Digest) -> Result<Row, SetupError> {
    let image = store.image(&id)?;
    Ok(Row {
        name,
        id,
        manifest: image.manifest,
        created: store.config(&id)?.created,
        imported: image.imported,
        layers: store.layers(&image),
        count: image.layers.len(),
        bytes: image.layers.iter().map(|layer| layer.bytes).sum(),
    })
}

#[derive(Debug, Serialize)]
struct Removed {
    removed: Vec<String>,
}

fn rm(root: &Path, args: &NamesArgs, output: Output) -> Outcome {
    let store = open(root)?;
    let known = store.as_ref().map(Store::names).transpose()?.unwrap_or_default();
    let mut names = Vec::new();
    for word in &args.names {
        let name = ImageName::parse(word).map_err(Failure::Usage)?.to_string();
        // Nothing is removed where one of them is a mistake.
        if known.iter().all(|named| named.name != name) {
            return Err(missing(word).into());
        }
        names.push(name);
    }
    let Some(store) = store else { return Ok(()) };
    for name in &names {
        store.remove_name(name)?;
    }
    output.give(&Removed { removed: names }, |removed| {
        removed.removed.iter().map(|name| format!("removed {name}\n")).collect()
    })
}

fn gc(root: &Path, output: Output) -> Outcome {
    let freed = open(root)?.as_ref().map(Store::gc).transpose()?.unwrap_or_default();
    output.give(&freed, |freed: &Freed| {
        let mut text = format!(
            "removed {} images and {}, {}",
            freed.images.len(),
            layers(freed.layers.len()),
            indicatif::HumanBytes(freed.bytes)
        );
        if !freed.in_use.is_empty() {
            text.push_str(&format!("; {} are in use and stay", freed.in_use.len()));
        }
        text
    })
}

fn verify(root: &Path, args: &VerifyArgs, output: Output) -> Outcome {
    let Some(store) = open(root)? else {
        return match args.images.first() {
            Some(word) => Err(missing(word).into()),
            None => output.give(&Verified::default(), |_| "there is no store yet".to_string()),
        };
    };
    let images = if args.images.is_empty() {
        store.image_ids()?
    } else {
        args.images.iter().map(|word| store.find(word)).collect::<Result<Vec<_>, _>>()?
    };
    let verified = store.verify(&images, &|layer| log::debug!("reading {layer}"))?;
    output.give(&verified, |verified| {
        let problem = |p: &crate::image::store::Problem| {
            format!("{} {}: {}\n", p.of.short(), p.path.as_deref().unwrap_or("(as a whole)"), p.what)
        };
        let problems: String = verified.problems.iter().map(problem).collect();
        format!(
            "{problems}{} images, {}, {} objects, {}: {}",
            verified.images,
            layers(usize::try_from(verified.layers).unwrap_or(usize::MAX)),
            verified.objects,
            indicatif::HumanBytes(verified.bytes),
            if verified.problems.is_empty() { "as unpacked" } else { "NOT as unpacked" }
        )
    })?;
    if verified.problems.is_empty() {
        return Ok(());
    }
    Err(SetupError::new(
        "find the store as it was unpacked",
        format!("{} things differ", verified.problems.len()),
    )
    .hint("remove the images with acetate image rm, then acetate image gc, and import them again")
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("512").unwrap(), 512);
        assert_eq!(size("10M").unwrap(), 10 << 20);
        assert_eq!(size("2GiB").unwrap(), 2 << 30);
        for bad in ["", "M", "-1", "10X", "99999999999T"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
