//! Plots as SVG text: ratios on a logarithmic scale, and times over the number of layers.

use super::html::escape;
use super::report::{Line, Report, digits, duration};

const WIDTH: f64 = 1000.0;

/// The colour of a contender.
pub fn colour(contender: usize) -> String {
    format!("var(--c{})", contender % 6)
}

/// Where values are on a logarithmic axis.
#[derive(Clone, Copy, Debug)]
struct Axis {
    /// Logarithms of the ends.
    from: f64,
    to: f64,
    /// Places of the ends.
    start: f64,
    end: f64,
}

impl Axis {
    /// Holds all values, and `1` if `with_one`.
    fn over(values: &[f64], start: f64, end: f64) -> Option<Axis> {
        let logs = || values.iter().filter(|v| v.is_finite() && **v > 0.0).map(|v| v.ln());
        let (from, to) = (logs().reduce(f64::min)?, logs().reduce(f64::max)?);
        Some(Axis { from: from - 0.1, to: to + 0.1, start, end })
    }

    fn at(&self, value: f64) -> f64 {
        let part = (value.max(1e-12).ln() - self.from) / (self.to - self.from);
        self.start + part * (self.end - self.start)
    }

    /// Round values within it.
    fn ticks(&self) -> Vec<f64> {
        let decades = (-10..7).map(|e| 10f64.powi(e));
        let all = decades.flat_map(|d| [1.0, 2.0, 5.0].map(|m| m * d));
        let inside = |v: &f64| (self.from..=self.to).contains(&v.ln());
        let ticks: Vec<f64> = all.filter(inside).collect();
        let keep = ticks.len().div_ceil(12).max(1);
        ticks.into_iter().step_by(keep).collect()
    }
}

/// One row of marks for each line of the report.
pub fn ratios(report: &Report) -> String {
    let (left, right) = (250.0, WIDTH - 20.0);
    let all = || report.rows.iter().flat_map(|line| line.cells.iter().skip(1)).filter_map(|cell| cell.ratio);
    let mut values: Vec<f64> = all().flat_map(|r| [r.low, r.high]).collect();
    values.push(1.0);
    let Some(axis) = Axis::over(&values, left, right).filter(|_| values.len() > 1) else {
        return "<p>There is nothing to compare.</p>\n".into();
    };
    let others = report.contenders.len().saturating_sub(1).max(1);
    let (gap, lane) = (10.0, 9.0);
    let row_height = lane * others as f64 + gap;
    let height = 46.0 + row_height * report.rows.len() as f64;
    let mut svg = open(height);
    for tick in axis.ticks() {
        let x = axis.at(tick);
        svg += &format!("<line class=\"rule\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"26\" y2=\"{height}\"/>");
        svg += &format!(
            "<text class=\"dim\" x=\"{x:.1}\" y=\"18\" text-anchor=\"middle\">{}×</text>\n",
            short(tick)
        );
    }
    let one = axis.at(1.0);
    svg += &format!(
        "<line class=\"base\" x1=\"{one:.1}\" x2=\"{one:.1}\" y1=\"26\" y2=\"{height}\" stroke-width=\"2\"/>\n"
    );
    for (n, line) in report.rows.iter().enumerate() {
        let top = 32.0 + row_height * n as f64;
        svg += &row(line, &axis, top, lane);
    }
    svg + "</svg>\n"
}

fn row(line: &Line, axis: &Axis, top: f64, lane: f64) -> String {
    let lanes = line.cells.len().saturating_sub(1) as f64;
    let middle = top + lanes * lane / 2.0 + 4.0;
    let mut text = format!("<text x=\"0\" y=\"{middle:.1}\">{}</text>\n", escape(&line.row.name));
    for (c, cell) in line.cells.iter().enumerate().skip(1) {
        let Some(ratio) = cell.ratio else { continue };
        let y = top + lane * (c as f64 - 0.5);
        let (low, high, at) = (axis.at(ratio.low), axis.at(ratio.high), axis.at(ratio.median));
        let paint = colour(c);
        text += &format!(
            "<g><title>{}: {}× ({}–{})</title><line x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" \
             stroke=\"{paint}\" stroke-width=\"3\" opacity=\".5\"/><circle cx=\"{at:.1}\" cy=\"{y:.1}\" r=\"4\" \
             fill=\"{paint}\"/></g>\n",
            escape(&cell.contender),
            digits(ratio.median),
            digits(ratio.low),
            digits(ratio.high)
        );
    }
    text
}

/// Times of one series over the number of layers.
pub fn by_layers(report: &Report, series: &str) -> String {
    let lines: Vec<(usize, &Line)> = report
        .rows
        .iter()
        .filter_map(|line| line.row.series.filter(|(name, _)| *name == series).map(|(_, n)| (n, line)))
        .collect();
    let points = |c: usize| {
        let point = |(n, line): &(usize, &Line)| Some((*n as f64, line.cells.get(c)?.seconds?.median));
        lines.iter().filter_map(point).collect::<Vec<_>>()
    };
    let all: Vec<(f64, f64)> = (0..report.contenders.len()).flat_map(points).collect();
    let (xs, ys): (Vec<f64>, Vec<f64>) = all.into_iter().unzip();
    let height = 300.0;
    let (Some(x), Some(y)) = (Axis::over(&xs, 90.0, WIDTH - 180.0), Axis::over(&ys, height - 40.0, 20.0))
    else {
        return String::new();
    };
    let unit = lines.first().map_or("", |(_, line)| line.row.unit);
    let mut svg = format!("<h2>{}: seconds for one {unit} over the number of layers</h2>\n", escape(series));
    svg += &open(height);
    for tick in y.ticks() {
        let at = y.at(tick);
        svg += &format!(
            "<line class=\"rule\" x1=\"90\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>",
            WIDTH - 180.0
        );
        svg += &format!(
            "<text class=\"dim\" x=\"80\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
            at + 4.0,
            duration(tick)
        );
    }
    for (n, _) in &lines {
        let at = x.at(*n as f64);
        svg += &format!(
            "<text class=\"dim\" x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{n}</text>\n",
            height - 14.0
        );
    }
    for (c, contender) in report.contenders.iter().enumerate() {
        let points = points(c);
        let Some((last_x, last_y)) = points.last().copied() else { continue };
        let places: Vec<String> =
            points.iter().map(|(n, s)| format!("{:.1},{:.1}", x.at(*n), y.at(*s))).collect();
        let paint = colour(c);
        svg += &format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{paint}\" stroke-width=\"2\"/>",
            places.join(" ")
        );
        for (n, s) in &points {
            svg += &format!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{paint}\"><title>{}</title></circle>",
                x.at(*n),
                y.at(*s),
                duration(*s)
            );
        }
        svg += &format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" style=\"fill:{paint}\">{}</text>\n",
            x.at(last_x) + 10.0,
            y.at(last_y) + 4.0,
            escape(&contender.name)
        );
    }
    svg + "</svg>\n"
}

fn open(height: f64) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n")
}

/// A tick's value without needless zeros.
fn short(value: f64) -> String {
    if value >= 1.0 { format!("{value:.0}") } else { format!("{value}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_keeps_every_value_between_its_ends() {
        let axis = Axis::over(&[0.25, 1.0, 18.0], 100.0, 900.0).unwrap();
        for value in [0.25, 1.0, 18.0] {
            assert!((100.0..=900.0).contains(&axis.at(value)));
        }
        assert!(axis.ticks().contains(&1.0) && axis.ticks().len() <= 12);
        assert!(Axis::over(&[], 0.0, 1.0).is_none());
    }
}
