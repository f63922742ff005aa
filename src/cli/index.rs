//! `acetate index`: writes down what the directories of a layer hold, beside the layer.

use std::path::PathBuf;

use serde::Serialize;

use super::layers::{Purpose, find};
use super::output::table;
use super::{Outcome, Output};
use crate::error::SetupError;
use crate::layer::index::{LayerIndex, beside};
use crate::union::control::Text;

/// Arguments of `index`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Layers.
    #[arg(value_name = "DIR", required = true)]
    pub layers: Vec<PathBuf>,
}

/// One layer as `index --json` prints it.
#[derive(Debug, Serialize)]
struct Written {
    layer: Text,
    file: Text,
    directories: usize,
    names: usize,
}

/// Makes the index of each layer; the layers themselves are only read.
///
/// # Errors
/// When a layer cannot be read, or the directory it is in cannot be written.
pub fn run(args: &Args, output: Output) -> Outcome {
    let index = |layer: &PathBuf| -> Result<Written, SetupError> {
        let found = find(layer, Purpose::Lower)?;
        let file = beside(&found.path).ok_or_else(|| {
            SetupError::new("index the layer", "nothing is beside the root directory").at(layer)
        })?;
        let index = LayerIndex::build(&found.path)?;
        index.save(&file)?;
        let (directories, names) = index.counts();
        Ok(Written {
            layer: Text::from(found.path.as_path()),
            file: Text::from(file.as_path()),
            directories,
            names,
        })
    };
    let written: Vec<Written> = args.layers.iter().map(index).collect::<Result<_, _>>()?;
    output.give(&written, |written| {
        let line = |w: &Written| {
            vec![w.file.to_string(), format!("{} directories", w.directories), format!("{} names", w.names)]
        };
        table(&written.iter().map(line).collect::<Vec<_>>())
    })
}
