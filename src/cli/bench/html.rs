//! The report as one HTML page: no script, no network, plots as inline SVG, readable in light and dark.

use super::plot;
use super::report::{Cell, Report, digits, duration};

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c1e21; --dim: #6a7079; --rule: #d9dce1; --paper: #fff;
  --c0: #6a7079; --c1: #0b62c4; --c2: #00875a; --c3: #b25600; --c4: #a1268f; --c5: #7a6a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --dim: #9aa1ab; --rule: #3a3f47; --paper: #16181c;
  --c0: #9aa1ab; --c1: #6cb2ff; --c2: #4ccf9d; --c3: #ffab5c; --c4: #ea86dc; --c5: #d9c95a; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 70rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p.lead, .dim { color: var(--dim); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
td.n, th.n { text-align: right; white-space: nowrap; }
.scroll { overflow-x: auto; } svg { max-width: 100%; height: auto; } svg text { fill: var(--ink); font-size: 12px; }
svg text.dim { fill: var(--dim); } svg .rule { stroke: var(--rule); } svg .base { stroke: var(--dim); }
dl { display: grid; grid-template-columns: max-content auto; gap: .1rem 1.2rem; } dt { color: var(--dim); } dd { margin: 0; }
";

/// Text that is safe between tags and in attributes.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The page.
pub fn page(report: &Report) -> String {
    let mut page = String::from("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page += "<meta name=\"viewport\" content=\"width=device-width\">\n<title>acetate bench</title>\n";
    page += &format!("<style>{STYLE}</style>\n</head>\n<body>\n");
    page += &summary(report);
    page += "<h2>Every row, in relation to the baseline</h2>\n";
    page += "<p class=\"dim\">Left of the line is faster. A bar spans the middle half of the rounds; the scale is \
             logarithmic.</p>\n";
    page += &plot::ratios(report);
    for series in ["mount", "walk, first", "walk, warm"] {
        page += &plot::by_layers(report, series);
    }
    page += &figures(report);
    page += &failures(report);
    page += &machine(report);
    page + "</body>\n</html>\n"
}

fn summary(report: &Report) -> String {
    let base = report.contenders.first().map_or("", |c| c.name.as_str());
    let mut text = format!(
        "<h1>acetate {} side by side</h1>\n<p class=\"lead\">{} rows, {} interleaved rounds{}, medians. \
         Times in relation to {}.</p>\n",
        report.version,
        report.rows.len(),
        report.rounds,
        if report.volatile { ", volatile where it is known" } else { "" },
        escape(base)
    );
    text += "<table>\n<tr><th>contender</th><th class=\"n\">geometric mean</th><th>slowest row</th><th></th></tr>\n";
    for (n, contender) in report.contenders.iter().enumerate() {
        let mean = report.means.iter().find(|m| m.contender == contender.name);
        let ratio = mean.and_then(|m| m.ratio).map_or_else(|| "1".into(), digits);
        let worst = mean.and_then(|m| m.worst.as_ref());
        let worst = worst.map_or_else(String::new, |(row, r)| format!("{}× {}", digits(*r), escape(row)));
        text += &format!(
            "<tr><td style=\"color:{}\"><b>{}</b></td><td class=\"n\">{ratio}</td><td>{worst}</td>\
             <td class=\"dim\">{}</td></tr>\n",
            plot::colour(n),
            escape(&contender.name),
            escape(&contender.about)
        );
    }
    text + "</table>\n"
}

fn figures(report: &Report) -> String {
    let mut text =
        String::from("<h2>Figures</h2>\n<div class=\"scroll\"><table>\n<tr><th>row</th><th>one</th>");
    for contender in &report.contenders {
        text += &format!("<th class=\"n\">{}</th>", escape(&contender.name));
    }
    text += "<th>what is done</th></tr>\n";
    for line in &report.rows {
        text += &format!("<tr><td>{}</td><td>{}</td>", escape(&line.row.name), line.row.unit);
        line.cells.iter().enumerate().for_each(|(c, cell)| text += &figure(c, cell));
        text += &format!("<td class=\"dim\">{}</td></tr>\n", escape(&line.row.about));
    }
    text + "</table></div>\n"
}

fn figure(c: usize, cell: &Cell) -> String {
    let Some(seconds) = cell.seconds else { return "<td class=\"n\">–</td>".into() };
    let mut text = format!("<td class=\"n\">{}", duration(seconds.median));
    if let Some(ratio) = cell.ratio.filter(|_| c > 0) {
        text += &format!(
            "<br><b>{}×</b> <span class=\"dim\">{}–{}</span>",
            digits(ratio.median),
            digits(ratio.low),
            digits(ratio.high)
        );
    }
    text + "</td>"
}

fn failures(report: &Report) -> String {
    let failures = report.failures();
    if failures.is_empty() {
        return String::new();
    }
    let mut text = String::from("<h2>Without figures</h2>\n<table>\n");
    for failure in failures {
        let cells: String = failure.iter().map(|word| format!("<td>{}</td>", escape(word))).collect();
        text += &format!("<tr>{cells}</tr>\n");
    }
    text + "</table>\n"
}

fn machine(report: &Report) -> String {
    let facts = &report.facts;
    let entries = [
        ("command", facts.command.clone()),
        ("kernel", facts.kernel.clone()),
        ("processor", format!("{} × {}", facts.processors, facts.processor)),
        ("memory", format!("{} MiB", facts.memory_mib)),
        ("filesystem of the layers", facts.filesystem.clone()),
        ("FUSE over io_uring", if facts.fuse_uring { "enabled" } else { "not enabled" }.to_string()),
        ("load average at the start", facts.load.to_string()),
        ("programs", facts.programs.join("; ")),
        ("began", format!("{} s after 1970", facts.since)),
        (
            "amounts",
            format!(
                "{} files in the tree, {} in the wide sets, {} names, {} calls, {} and {} MiB files",
                report.scale.tree_files,
                report.scale.wide_files,
                report.scale.names,
                report.scale.calls,
                report.scale.data_mib,
                report.scale.big_mib
            ),
        ),
    ];
    let lines: String =
        entries.iter().map(|(key, value)| format!("<dt>{key}</dt><dd>{}</dd>\n", escape(value))).collect();
    format!("<h2>The machine</h2>\n<dl>\n{lines}</dl>\n")
}
