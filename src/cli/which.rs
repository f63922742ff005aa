//! `acetate which`: which layer shows a path, what it covers, and why a path is absent.
//!
//! Three forms of one answer: for people who ask about a path (with the real paths to look at), for people who
//! compare paths (`--grid`), and for programs.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::args::WhichArgs;
use super::grid::{self, Found, Heading, Row, Source, Style, escape};
use super::output::{self, table};
use super::questions::ask_about;
use super::umount::Place;
use super::{Format, Outcome, Output};
use crate::error::SetupError;
use crate::union::control::{InLayer, LayerInfo, Mark, Question, Role, Text, Which};

/// Runs `which`.
///
/// # Errors
/// A path that is in no mount of ours.
pub fn run(args: &WhichArgs, output: Output) -> Outcome {
    let answers = args.paths.iter().map(|path| which(path)).collect::<Result<Vec<Which>, SetupError>>()?;
    match (output.format(), args.grid) {
        (Format::Text, true) if !output.is_quiet() => {
            let heading = if args.no_heading { Heading::Omitted } else { Heading::Shown };
            output::print(grids(&answers, heading, Style::of_stdout()).trim_end_matches('\n'))
        }
        _ => output.give(&answers, |answers| sheets(&args.paths, answers)),
    }
}

fn which(path: &Path) -> Result<Which, SetupError> {
    let (dir, name) = asked(path);
    let name = name.map(|name| Text::from(name.as_slice()));
    ask_about(&dir, "look through the layers for", &Question::Which { name }, path)
}

/// The directory to ask about `path`, and the name in it; no name when `path` itself is to be asked, because it has
/// no last name or is the root of a mount, whose parent is elsewhere.
fn asked(path: &Path) -> (PathBuf, Option<Vec<u8>>) {
    let raw = path.as_os_str().as_bytes();
    let end = raw.iter().rposition(|b| *b != b'/').map_or(0, |at| at + 1);
    let start = raw[..end].iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
    let (parent, name) = (&raw[..start], &raw[start..end]);
    let itself = matches!(name, b"" | b"." | b"..") || is_root_of_a_mount(path);
    match (itself, parent) {
        (true, _) => (path.to_path_buf(), None),
        (false, b"") => (PathBuf::from("."), Some(name.to_vec())),
        (false, parent) => (PathBuf::from(std::ffi::OsStr::from_bytes(parent)), Some(name.to_vec())),
    }
}

/// A symlink to a root is a name like any other.
fn is_root_of_a_mount(path: &Path) -> bool {
    !path.is_symlink() && Place::find(path, "look at").is_ok_and(|place| place.is_root)
}

/// More columns than this do not fit a screen; then only layers that know one of the names get one.
const COLUMNS: usize = 8;

/// One grid for each run of answers over the same layers.
fn grids(answers: &[Which], heading: Heading, style: Style) -> String {
    let same = |a: &Which, b: &Which| a.layers.iter().map(|l| &l.layer).eq(b.layers.iter().map(|l| &l.layer));
    answers.chunk_by(same).map(|run| picture(run, heading, style)).collect::<Vec<_>>().join("\n")
}

fn picture(answers: &[Which], heading: Heading, style: Style) -> String {
    let Some(first) = answers.first() else { return String::new() };
    let names = labels(&first.layers);
    let knows = |at: usize| {
        answers.iter().any(|answer| {
            let marked = answer.layers.get(at).is_some_and(|layer| layer.mark != Mark::Absent);
            marked || answer.copied_from.as_ref().is_some_and(|from| from.layer == at)
        })
    };
    let columns: Vec<usize> = (0..names.len()).filter(|at| names.len() <= COLUMNS || knows(*at)).collect();
    let shown: Vec<String> = columns.iter().filter_map(|at| names.get(*at).cloned()).collect();
    let rows: Vec<Row> = answers.iter().map(|answer| row(answer, &columns)).collect();
    grid::render(&shown, &rows, heading, style)
}

fn row(answer: &Which, columns: &[usize]) -> Row {
    let path = match answer.path.as_bytes() {
        b"" => b".".to_vec(),
        path => path.to_vec(),
    };
    let found = columns.iter().filter_map(|at| answer.layers.get(*at)).map(found).collect();
    let source = answer.copied_from.as_ref().and_then(|from| {
        let elsewhere = from.path != answer.path;
        let layer = columns.iter().position(|at| *at == from.layer)?;
        Some(Source { layer, path: elsewhere.then(|| from.path.as_bytes().to_vec()) })
    });
    Row { path, found, source }
}

fn found(layer: &InLayer) -> Found {
    let directory = layer.kind.as_deref() == Some("directory");
    match layer.mark {
        Mark::Absent => Found::Nothing,
        Mark::Deleted => Found::Whiteout,
        Mark::Replaces => Found::OpaqueDir,
        Mark::Shown | Mark::Merged | Mark::Covered if directory => Found::Dir,
        Mark::Shown | Mark::Merged | Mark::Covered => Found::Leaf,
    }
}

/// A paragraph for each path: what one sees, and what every layer that knows the name has.
fn sheets(paths: &[PathBuf], answers: &[Which]) -> String {
    paths.iter().zip(answers).map(|(path, answer)| sheet(path, answer)).collect::<Vec<_>>().join("\n")
}

fn sheet(path: &Path, answer: &Which) -> String {
    let names = labels(&answer.layers);
    let name = |at: usize| names.get(at).cloned().unwrap_or_default();
    let seen = match answer.shown {
        Some(at) => format!("from {}", name(at)),
        None => "absent".to_string(),
    };
    let mut text = format!("{}: {seen}{}\n", escape(path.as_os_str().as_bytes()), reason(answer, &names));
    let known = answer.layers.iter().zip(&names).filter(|(layer, _)| layer.mark != Mark::Absent);
    let lines: Vec<Vec<String>> = known
        .map(|(layer, name)| {
            let inside = layer.at.as_ref().unwrap_or(&answer.path);
            let place = layer.layer.path.to_path().join(inside.to_path());
            let place = escape(place.as_os_str().as_bytes());
            let kind = layer.kind.clone().unwrap_or_default();
            vec![String::new(), name.clone(), word(layer.mark).into(), kind, place]
        })
        .collect();
    text.push_str(&table(&lines));
    text
}

fn word(mark: Mark) -> &'static str {
    match mark {
        Mark::Absent => "absent",
        Mark::Shown => "shown",
        Mark::Merged => "merged",
        Mark::Covered => "covered",
        Mark::Deleted => "deletes it",
        Mark::Replaces => "replaces all below",
    }
}

/// Why one sees what one sees, if it is not plain.
fn reason(answer: &Which, names: &[String]) -> String {
    let name = |at: usize| names.get(at).cloned().unwrap_or_default();
    let deleted = answer.layers.iter().position(|layer| layer.mark == Mark::Deleted);
    match (answer.shown, &answer.copied_from, deleted) {
        (Some(_), Some(from), _) if answer.metadata_only => {
            format!(", its contents from {}: {}", name(from.layer), from.path)
        }
        (Some(_), Some(from), _) if from.path == answer.path => {
            format!(", copied up from {}", name(from.layer))
        }
        (Some(_), Some(from), _) => format!(", came from {}: {}", name(from.layer), from.path),
        (Some(_), None, _) => String::new(),
        (None, _, Some(at)) => format!(", {} deletes it", name(at)),
        (None, _, None) => ", in no layer".into(),
    }
}

/// Short names of the layers: the last name of each directory where that tells them apart, else their numbers.
fn labels(layers: &[InLayer]) -> Vec<String> {
    let last = |layer: &LayerInfo| match layer.role {
        Role::Upper => "upper".to_string(),
        _ => layer.path.to_path().file_name().map(|n| escape(n.as_bytes())).unwrap_or_default(),
    };
    let names: Vec<String> = layers.iter().map(|layer| last(&layer.layer)).collect();
    let mut distinct: Vec<&String> = names.iter().collect();
    distinct.sort_unstable();
    distinct.dedup();
    let short = names.iter().all(|name| (1..=16).contains(&name.chars().count()));
    if short && distinct.len() == names.len() {
        return names;
    }
    let uppers = layers.iter().filter(|layer| layer.layer.role == Role::Upper).count();
    let number = |(at, layer): (usize, &InLayer)| match layer.layer.role {
        Role::Upper => "upper".to_string(),
        Role::Lower => format!("lower{}", at + 1 - uppers),
        Role::Data => format!("data{}", at + 1 - uppers),
    };
    layers.iter().enumerate().map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::union::control::Place as InStack;

    fn answer(path: &str, marks: &str) -> Which {
        let roles = [Role::Upper, Role::Lower, Role::Lower, Role::Lower];
        let layers = ["/s/up", "/s/app", "/s/tools", "/s/base"];
        let layers: Vec<InLayer> = marks
            .bytes()
            .zip(roles.into_iter().zip(layers))
            .map(|(mark, (role, path))| InLayer {
                layer: LayerInfo { role, path: Text::from(Path::new(path)) },
                mark: match mark {
                    b'#' => Mark::Shown,
                    b'+' => Mark::Merged,
                    b'o' => Mark::Covered,
                    b'x' => Mark::Deleted,
                    b'=' => Mark::Replaces,
                    _ => Mark::Absent,
                },
                kind: matches!(mark, b'#' | b'o').then(|| "file".to_string()),
                at: None,
            })
            .collect();
        let shown = layers.iter().position(|l| matches!(l.mark, Mark::Shown | Mark::Replaces));
        Which { path: Text::from(path.as_bytes()), shown, layers, copied_from: None, metadata_only: false }
    }

    #[test]
    fn the_grid_shows_what_each_layer_says_and_why() {
        let mut copied = answer("etc/motd", "#.o.");
        copied.copied_from = Some(InStack { layer: 2, path: copied.path.clone() });
        let mut moved = answer("bin/hi", "#...");
        moved.copied_from = Some(InStack { layer: 1, path: Text::from(&b"bin/hello"[..]) });
        let answers =
            [answer("etc/old", ".x.o"), answer("gone", "x..o"), copied, moved, answer("no", "....")];
        let expected = "\
etc/old           (absent)  |   .   |  x  |   .   |  o   |  app deletes base's file
gone              (absent)  |   x   |  .  |   .   |  o   |  upper deletes base's file
etc/motd          upper     |   #   |  .  |   o   |  .   |  copied up from tools
bin/hi            upper     |   #   |  .  |   .   |  .   |  came from app: bin/hello
no                (absent)  |   .   |  .  |   .   |  .   |  in no layer
";
        assert_eq!(grids(&answers, Heading::Omitted, Style::Plain), expected);
    }

    #[test]
    fn a_sheet_names_the_real_places() {
        let mut copied = answer("etc/motd", "#.o.");
        copied.copied_from = Some(InStack { layer: 2, path: copied.path.clone() });
        let expected = "\
m/etc/motd: from upper, copied up from tools
  upper  shown    file  /s/up/etc/motd
  tools  covered  file  /s/tools/etc/motd
";
        assert_eq!(sheet(Path::new("m/etc/motd"), &copied), expected);
        assert_eq!(sheet(Path::new("m/no"), &answer("no", "....")), "m/no: absent, in no layer\n");
    }

    #[test]
    fn of_many_layers_only_those_that_know_a_name_get_a_column() {
        let mut deep = answer("x", "#o..");
        let path =
            |n: usize| LayerInfo { role: Role::Lower, path: Text::from(format!("/s/l{n}").as_bytes()) };
        deep.layers.extend((0..20).map(|n| InLayer { layer: path(n), ..InLayer::default() }));
        deep.layers[15].mark = Mark::Covered;
        let text = grids(&[deep], Heading::Shown, Style::Plain);
        assert!(text.contains("| upper | app | l11 |"), "{text}");
    }

    #[test]
    fn layers_with_the_same_last_name_are_numbered() {
        let mut a = answer("x", "#...");
        for layer in &mut a.layers {
            layer.layer.path = Text::from(&b"/l/ab12/diff"[..]);
        }
        assert_eq!(labels(&a.layers), ["upper", "lower1", "lower2", "lower3"]);
    }

    #[test]
    fn the_directory_that_is_asked_is_the_parent_unless_there_is_no_name() {
        let name = |n: &str| Some(n.as_bytes().to_vec());
        assert_eq!(asked(Path::new("a/b")), (PathBuf::from("a/"), name("b")));
        assert_eq!(asked(Path::new("a/b//")), (PathBuf::from("a/"), name("b")));
        assert_eq!(asked(Path::new("b")), (PathBuf::from("."), name("b")));
        assert_eq!(asked(Path::new("/b")), (PathBuf::from("/"), name("b")));
        assert_eq!(asked(Path::new("a/..")), (PathBuf::from("a/.."), None));
        assert_eq!(asked(Path::new("/")), (PathBuf::from("/"), None));
    }
}
