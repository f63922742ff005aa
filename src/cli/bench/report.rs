//! What came out: a table for people, JSON for programs, and the plain values that the HTML page is drawn from.

use serde::Serialize;

use super::contender::{Contender, Described};
use super::facts::Facts;
use super::rounds::Measured;
use super::stats::{Spread, geometric_mean, ratios};
use super::work::{Row, Scale, Workload};
use crate::cli::output::table;

/// One contender in one row.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// The contender's name.
    pub contender: String,
    /// Seconds for one unit, round by round; null where there is none.
    pub rounds: Vec<Option<f64>>,
    /// Their median and quartiles, in seconds.
    pub seconds: Option<Spread>,
    /// Time in relation to the baseline's in the same round: 2 is twice as slow.
    pub ratio: Option<Spread>,
    /// Why there are no figures.
    pub failure: Option<String>,
}

/// One row.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Its name and what is done.
    #[serde(flatten)]
    pub row: Row,
    /// A cell for each contender, in their order.
    pub cells: Vec<Cell>,
}

/// The geometric mean of a contender's ratios.
#[derive(Clone, Debug, Serialize)]
pub struct Mean {
    /// The contender's name.
    pub contender: String,
    /// The mean; null without a row in common with the baseline.
    pub ratio: Option<f64>,
    /// Over how many rows.
    pub rows: usize,
    /// The row with the largest ratio, and that ratio.
    pub worst: Option<(String, f64)>,
}

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The program's version.
    pub version: &'static str,
    /// The machine.
    pub facts: Facts,
    /// How much was done.
    pub scale: Scale,
    /// How many rounds were made.
    pub rounds: usize,
    /// Whether nothing was synced.
    pub volatile: bool,
    /// With whom everybody is compared: the first.
    pub contenders: Vec<Described>,
    /// All rows.
    pub rows: Vec<Line>,
    /// A mean for each contender but the first.
    pub means: Vec<Mean>,
}

/// Makes the lines of what was measured.
pub fn lines(workloads: &[Workload], contenders: &[Contender], measured: &Measured) -> Vec<Line> {
    let mut lines = Vec::new();
    let parts = workloads.iter().zip(&measured.figures).zip(&measured.failures);
    for ((workload, figures), failures) in parts {
        for (row, of_row) in workload.rows.iter().zip(figures) {
            let base = of_row.first().map(Vec::as_slice).unwrap_or_default();
            let cell =
                |((contender, rounds), failure): ((&Contender, &Vec<Option<f64>>), &Option<String>)| Cell {
                    contender: contender.name.clone(),
                    seconds: Spread::of(&rounds.iter().flatten().copied().collect::<Vec<_>>()),
                    ratio: Spread::of(&ratios(rounds, base)),
                    rounds: rounds.clone(),
                    failure: failure.clone(),
                };
            let cells = contenders.iter().zip(of_row).zip(failures).map(cell).collect();
            lines.push(Line { row: row.clone(), cells });
        }
    }
    lines
}

/// The mean of every contender but the first.
pub fn means(lines: &[Line], contenders: &[Contender]) -> Vec<Mean> {
    let mean = |(c, contender): (usize, &Contender)| {
        let of_row = |line: &Line| Some((line.row.name.clone(), line.cells.get(c)?.ratio?.median));
        let all: Vec<(String, f64)> = lines.iter().filter_map(of_row).collect();
        let values: Vec<f64> = all.iter().map(|(_, ratio)| *ratio).collect();
        Mean {
            contender: contender.name.clone(),
            ratio: geometric_mean(&values),
            rows: values.len(),
            worst: all.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)),
        }
    };
    contenders.iter().enumerate().skip(1).map(mean).collect()
}

/// A time with three digits and a unit that fits.
pub fn duration(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s < 1e-6 => (s * 1e9, "ns"),
        s if s < 1e-3 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    format!("{} {unit}", digits(value))
}

/// Three digits.
pub fn digits(value: f64) -> String {
    match value {
        v if v < 10.0 => format!("{v:.2}"),
        v if v < 100.0 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

impl Report {
    /// The table for people.
    pub fn text(&self) -> String {
        let mut rows = vec![self.heading()];
        rows.extend(self.rows.iter().map(line_text));
        let mut text = table(&rows);
        if let [base, _, ..] = self.contenders.as_slice() {
            text += &format!("\nGeometric mean of the ratios to {}:\n", base.name);
            let means: Vec<Vec<String>> = self.means.iter().map(mean_text).collect();
            text += &table(&means);
        }
        let failures = self.failures();
        if !failures.is_empty() {
            text += "\nWithout figures:\n";
            text += &table(&failures);
        }
        let load = self.facts.load;
        if load > 0.5 {
            text += &format!(
                "\nThe load average was {load} when the run began: these are figures of a busy machine.\n"
            );
        }
        text
    }

    fn heading(&self) -> Vec<String> {
        let mut heading = vec!["ROW".to_string(), "UNIT".into()];
        heading.extend(self.contenders.iter().map(|c| c.name.to_uppercase()));
        heading
    }

    /// Row, contender and reason of every missing figure; rows that fail for one reason share a line.
    pub fn failures(&self) -> Vec<Vec<String>> {
        let mut all: Vec<Vec<String>> = Vec::new();
        for line in &self.rows {
            for cell in &line.cells {
                let Some(why) = &cell.failure else { continue };
                let entry = vec![line.row.name.clone(), cell.contender.clone(), why.clone()];
                match all.last_mut().map(Vec::as_mut_slice) {
                    Some([name, who, known]) if *who == cell.contender && known == why => {
                        *name = format!("{name}; {}", line.row.name);
                    }
                    _ => all.push(entry),
                }
            }
        }
        all
    }
}

fn line_text(line: &Line) -> Vec<String> {
    let cell = |(c, cell): (usize, &Cell)| match (cell.seconds, cell.ratio) {
        (Some(seconds), Some(ratio)) if c > 0 => {
            format!(
                "{}  {}x ±{:.0}%",
                duration(seconds.median),
                digits(ratio.median),
                ratio.relative() * 100.0
            )
        }
        (Some(seconds), _) => format!("{} ±{:.0}%", duration(seconds.median), seconds.relative() * 100.0),
        (None, _) => "-".into(),
    };
    let mut words = vec![line.row.name.clone(), line.row.unit.to_string()];
    words.extend(line.cells.iter().enumerate().map(cell));
    words
}

fn mean_text(mean: &Mean) -> Vec<String> {
    let ratio = mean.ratio.map_or_else(|| "-".into(), |r| format!("{}x", digits(r)));
    let worst = mean.worst.as_ref().map(|(name, ratio)| format!("worst {}x: {name}", digits(*ratio)));
    vec![mean.contender.clone(), ratio, format!("over {} rows", mean.rows), worst.unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::work;

    fn measured() -> (Vec<Workload>, Vec<Contender>, Measured) {
        let workloads: Vec<Workload> = work::table().into_iter().take(1).collect();
        let contenders = vec![Contender::kernel(), Contender::acetate("acetate", "a test", &[])];
        let figures = vec![vec![
            vec![vec![Some(1e-3)], vec![Some(2e-3)]],
            vec![vec![Some(1e-6)], vec![Some(0.5e-6)]],
            vec![vec![Some(1e-6)], vec![None]],
        ]];
        (workloads, contenders, Measured { figures, failures: vec![vec![None, Some("it broke".into())]] })
    }

    #[test]
    fn a_row_without_figures_says_why_and_the_others_are_compared() {
        let (workloads, contenders, measured) = measured();
        let rows = lines(&workloads, &contenders, &measured);
        let means = means(&rows, &contenders);
        assert_eq!((means[0].rows, means[0].ratio), (2, Some(1.0)));
        assert_eq!(means[0].worst.as_ref().map(|w| w.1), Some(2.0));
        let report = Report {
            version: "0",
            facts: Facts::gather(std::path::Path::new("/"), String::new()),
            scale: Scale::quick(),
            rounds: 1,
            volatile: false,
            contenders: contenders.iter().map(Contender::described).collect(),
            rows,
            means,
        };
        let text = report.text();
        assert!(text.contains("2.00 ms  2.00x ±0%") && text.contains("it broke"), "{text}");
        let page = super::super::html::page(&report);
        assert!(page.contains("it broke") && page.contains("<svg") && !page.contains("http"), "{page}");
    }

    #[test]
    fn times_have_three_digits_and_a_unit_that_fits() {
        let said: Vec<String> = [2.5e-9, 1.234e-6, 0.0125, 3.0, 125.0].map(duration).into();
        assert_eq!(said, ["2.50 ns", "1.23 µs", "12.5 ms", "3.00 s", "125 s"]);
    }
}
