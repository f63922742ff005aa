//! The workload table: what is done on each mount, and what of it is timed.
//!
//! A workload runs in a process of its own on a fresh mount and gives one figure for each of its rows: seconds for
//! one of what the row counts. Whatever it prepares is not part of the figure. "First" means for the first time on
//! this mount, with the layers' own files in memory as they are on a machine that runs containers all day.

mod data;
mod latency;
mod names;
mod programs;

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::fixture::Layers;

/// How much of everything.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Scale {
    /// Files of the lowest layer of the tree.
    pub tree_files: usize,
    /// Files of each wide set.
    pub wide_files: usize,
    /// Names made, renamed and removed.
    pub names: usize,
    /// Calls of rows about single calls.
    pub calls: usize,
    /// Size of the file of the data rows, in MiB.
    pub data_mib: usize,
    /// Size of the file that is copied up, in MiB.
    pub big_mib: usize,
    /// Files of the C program.
    pub c_units: usize,
    /// SQLite transactions.
    pub commits: usize,
}

impl Scale {
    /// Enough for figures that repeat.
    pub fn full() -> Scale {
        Scale {
            tree_files: 4000,
            wide_files: 20_000,
            names: 2000,
            calls: 20_000,
            data_mib: 128,
            big_mib: 1024,
            c_units: 40,
            commits: 200,
        }
    }

    /// Enough to see that everything works, and a rough order.
    pub fn quick() -> Scale {
        Scale {
            tree_files: 800,
            wide_files: 2000,
            names: 300,
            calls: 2000,
            data_mib: 16,
            big_mib: 128,
            c_units: 6,
            commits: 30,
        }
    }
}

/// What a workload gets.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The mount.
    pub mnt: PathBuf,
    /// Where the layers are; for files that are not to be read through the mount.
    pub base: PathBuf,
    /// How much.
    pub scale: Scale,
}

/// The figures of a workload, one for each row, or why there are none.
pub type Figures = Result<Vec<f64>, String>;

/// One row of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// What one unit is: `file`, `call`, `MiB`.
    pub unit: &'static str,
    /// What is done.
    pub about: String,
    /// The name of the plot and the number of layers, for rows that belong to a series.
    pub series: Option<(&'static str, usize)>,
}

fn row(name: &str, unit: &'static str, about: &str) -> Row {
    Row { name: name.into(), unit, about: about.into(), series: None }
}

/// Rows that are measured together on one mount.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Its rows, in the order of the figures.
    pub rows: Vec<Row>,
    /// What it is mounted over.
    pub layers: Layers,
    /// With an upper.
    pub writable: bool,
    /// The first row is the mount itself.
    pub times_mount: bool,
    /// The rest.
    pub run: fn(&Stage) -> Figures,
}

fn on_tree(rows: Vec<Row>, run: fn(&Stage) -> Figures) -> Workload {
    Workload { rows, layers: Layers::Tree, writable: true, times_mount: false, run }
}

/// All of it.
pub fn table() -> Vec<Workload> {
    let mut all = reading();
    all.extend(changing());
    all.extend(programs());
    all.extend([1, 10, 100, 1000].map(wide));
    all.extend([100, 1000].map(indexed));
    all
}

fn reading() -> Vec<Workload> {
    let walk = on_tree(
        vec![
            row("mount", "mount", "four layers and an upper, from the command to the live mount"),
            row("walk, first", "entry", "list every directory and lstat every entry"),
            row("walk, warm", "entry", "the same again, mean of five"),
        ],
        names::walk,
    );
    let opens = vec![
        row("open+close", "call", "lower files, opened before"),
        row("open+read", "call", "lower files: open, read 4 KiB, close"),
    ];
    let closed = vec![row("open+close, no upper", "call", "the same on a mount without an upper")];
    vec![
        Workload { times_mount: true, ..walk },
        on_tree(
            vec![
                row("read all, first", "file", "open, read and close every file"),
                row("read all, warm", "file", "the same again"),
            ],
            data::read_all,
        ),
        on_tree(
            vec![row("grep -r", "file", "grep -r for a word that is in none of the files")],
            programs::grep,
        ),
        on_tree(
            vec![
                row("missing names, first", "call", "lstat of names that are not there"),
                row("missing names, again", "call", "the same names again"),
            ],
            names::missing,
        ),
        on_tree(opens, data::opens),
        Workload {
            writable: false,
            ..on_tree(closed, |s| data::opens(s).map(|f| f.into_iter().take(1).collect()))
        },
        on_tree(
            vec![row("open+close, upper", "call", "files of the upper, opened before")],
            data::upper_opens,
        ),
        Workload {
            layers: Layers::Big,
            ..on_tree(
                vec![
                    row("random read 4 KiB", "call", "of a large lower file, read before"),
                    row("sequential read, first", "MiB", "of a large lower file, 128 KiB at a time"),
                    row("sequential read, warm", "MiB", "the same again"),
                ],
                data::reads,
            )
        },
        on_tree(
            vec![row("two walkers", "entry", "two threads walk the tree for the first time, at once")],
            names::two_walkers,
        ),
    ]
}

fn changing() -> Vec<Workload> {
    vec![
        on_tree(
            vec![
                row("sequential write", "MiB", "a new file, 128 KiB at a time, no fsync"),
                row("random write 4 KiB", "call", "of a file of the upper, no fsync"),
                row("write+fstat", "call", "write 4 KiB, then fstat"),
            ],
            data::writes,
        ),
        on_tree(
            vec![
                row("create", "file", "empty files in one directory"),
                row("rename", "file", "each to another name in the directory"),
                row("unlink", "file", "all of them"),
                row("mkdir", "directory", "in one directory"),
                row("rmdir", "directory", "all of them"),
            ],
            names::changes,
        ),
        on_tree(
            vec![row("two creators", "file", "two threads create files, each in its own directory")],
            names::two_creators,
        ),
        on_tree(vec![row("untar", "file", "tar xf of the tree's lowest layer")], programs::untar),
        on_tree(vec![row("rm -rf, upper", "file", "of a tree that is in the upper")], programs::remove_upper),
        on_tree(vec![row("rm -rf, lower", "file", "of the lower tree")], programs::remove_lower),
        on_tree(vec![row("chmod -R, lower", "file", "every file is copied up")], programs::chmod),
        Workload {
            layers: Layers::Big,
            ..on_tree(
                vec![row(
                    "append to a large file",
                    "file",
                    "one byte to a large lower file: all of it is copied up",
                )],
                data::append,
            )
        },
        Workload {
            layers: Layers::Big,
            ..on_tree(
                vec![
                    row(
                        "stat during copy-up, p99",
                        "call",
                        "99th percentile of lstat while a large file is copied up",
                    ),
                    row("stat during copy-up, p99.9", "call", "99.9th percentile of the same"),
                ],
                latency::stats_during_copy_up,
            )
        },
    ]
}

fn programs() -> Vec<Workload> {
    vec![
        on_tree(
            vec![
                row("git add", "run", "git init and git add of the whole tree"),
                row("git status", "run", "git status after it"),
            ],
            programs::git,
        ),
        Workload {
            layers: Layers::Python,
            ..on_tree(
                vec![row("20 Python starts", "start", "with a dozen modules from the lower layer")],
                programs::python,
            )
        },
        Workload {
            layers: Layers::C,
            ..on_tree(vec![row("C build", "file", "compile and link a small program")], programs::c_build)
        },
        on_tree(
            vec![row("SQLite commits", "commit", "small transactions with synchronous=FULL")],
            programs::sqlite,
        ),
        on_tree(
            vec![row("fio mix", "call", "70 % random reads, 30 % random writes of 4 KiB")],
            programs::fio,
        ),
        Workload {
            layers: Layers::Debian,
            ..on_tree(
                vec![row(
                    "apt-get install",
                    "run",
                    "git from downloaded packages, in a chroot (with --debian)",
                )],
                programs::apt,
            )
        },
    ]
}

fn wide(count: usize) -> Workload {
    let row = |series: &'static str, unit, about: &str| Row {
        name: format!("{series}, {count} layer{}", if count == 1 { "" } else { "s" }),
        unit,
        about: format!("{about}; the same files in {count} layers"),
        series: Some((series, count)),
    };
    Workload {
        rows: vec![
            row("mount", "mount", "from the command to the live mount"),
            row("walk, first", "entry", "list every directory and lstat every entry"),
            row("walk, warm", "entry", "the same again, mean of five"),
        ],
        layers: Layers::Wide(count),
        writable: true,
        times_mount: true,
        run: names::walk,
    }
}

/// The same rows over layers that have an index; acetate alone knows what that is.
fn indexed(count: usize) -> Workload {
    let plain = wide(count);
    let row = |row: Row| Row {
        name: row.name.replace("layers", "indexed layers"),
        about: format!("{}, each with its index; acetate only", row.about),
        series: None,
        ..row
    };
    let rows = plain.rows.into_iter().map(row).collect();
    Workload { rows, layers: Layers::Indexed(count), ..plain }
}

/// Seconds that `work` takes.
fn seconds(work: impl FnOnce() -> std::io::Result<()>) -> Result<f64, String> {
    let began = Instant::now();
    work().map_err(|e| e.to_string())?;
    Ok(began.elapsed().as_secs_f64())
}

/// Seconds for each of `count` things.
fn each(count: usize, work: impl FnOnce() -> std::io::Result<()>) -> Result<f64, String> {
    Ok(seconds(work)? / count.max(1) as f64)
}

/// Lists every directory below `dir` and looks at every entry. Returns how many there are.
fn walk(dir: &Path) -> std::io::Result<usize> {
    let mut pending = vec![dir.to_path_buf()];
    let mut seen = 0;
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            seen += 1;
            if entry.metadata()?.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_rows_have_one_name_and_every_row_says_what_is_done() {
        let mut names = std::collections::HashSet::new();
        for row in table().into_iter().flat_map(|w| w.rows) {
            assert!(!row.about.is_empty() && !row.unit.is_empty());
            assert!(names.insert(row.name.clone()), "{}", row.name);
        }
    }

    #[test]
    fn a_walk_sees_every_entry_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/f"), "x").unwrap();
        assert_eq!(walk(dir.path()).unwrap(), 3);
    }

    #[test]
    fn workloads_give_a_figure_for_each_row_on_a_plain_directory() {
        let base = tempfile::tempdir().unwrap();
        let scale = Scale { calls: 50, names: 20, data_mib: 1, ..Scale::quick() };
        let stage = Stage { mnt: base.path().join("mnt"), base: base.path().into(), scale };
        std::fs::create_dir(&stage.mnt).unwrap();
        for workload in [data::writes, names::changes, names::two_creators, names::walk] {
            let figures = workload(&stage).unwrap();
            assert!(!figures.is_empty() && figures.iter().all(|f| f.is_finite() && *f >= 0.0));
        }
        assert_eq!(names::changes(&stage).unwrap().len(), 5);
    }
}
