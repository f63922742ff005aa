//! `acetate generate`: what a package of acetate contains besides the program, made from the definition of the
//! arguments itself so that it cannot differ from it.

use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::{Shell, generate_to};

use super::args::Cli;
use super::{Outcome, Output};
use crate::error::SetupError;
use crate::union::control::Text;

/// Arguments of `generate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory to write to; `completions` and `man` are made in it.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// Runs `generate`.
///
/// # Errors
/// A file that cannot be written.
pub fn run(args: &Args, output: Output) -> Outcome {
    let (completions, man) = (args.dir.join("completions"), args.dir.join("man"));
    let failed = |e: std::io::Error, path: &Path| SetupError::new("write to", e).at(path);
    for dir in [&completions, &man] {
        std::fs::create_dir_all(dir).map_err(|e| failed(e, dir))?;
    }
    let mut files = Vec::new();
    let mut command = Cli::command();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let file =
            generate_to(shell, &mut command, "acetate", &completions).map_err(|e| failed(e, &completions))?;
        files.push(Text::from(file.as_path()));
    }
    command.build();
    let mut pages = vec![(String::from("acetate"), command.clone())];
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        pages.push((format!("acetate-{}", verb.get_name()), verb.clone().version(env!("CARGO_PKG_VERSION"))));
    }
    for (name, command) in pages {
        let path = man.join(format!("{name}.1"));
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page).map_err(|e| failed(e, &path))?;
        std::fs::write(&path, page).map_err(|e| failed(e, &path))?;
        files.push(Text::from(path.as_path()));
    }
    output.give(&files, |files| files.iter().map(|file| format!("{file}\n")).collect())
}
