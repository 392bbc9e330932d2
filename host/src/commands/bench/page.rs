//! The result as one page: nothing beside it, no script, and every text escaped.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::report::{Report, Unit};
use super::statistics::Summary;

const STYLE: &str = "\
body{font:15px/1.45 system-ui,sans-serif;color:#1b1f24;background:#fff;max-width:64rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.6rem;margin:0 0 .3rem}h2{font-size:1.15rem;margin:2.2rem 0 .5rem}svg{max-width:100%;height:auto}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #d8dee4}\
th{background:#f6f8fa;font-weight:600}.n{text-align:right;font-variant-numeric:tabular-nums}\
dl{display:grid;grid-template-columns:max-content auto;gap:.2rem 1rem}dt{font-weight:600}dd{margin:0}\
pre{overflow:auto;background:#f6f8fa;padding:.7rem;font:12px/1.4 ui-monospace,monospace}\
@media print{body{max-width:none;margin:0}details{display:none}}";

/// The page.
#[must_use]
pub(super) fn page(report: &Report) -> String {
    let environment = &report.environment;
    let facts = [
        ("Processor", &environment.processor),
        ("Processors", &environment.processors.to_string()),
        ("Kernel", &environment.kernel),
        ("Cloister", &environment.version),
        ("Machines", &format!("{} vCPU, {} MiB", report.cpus, report.memory_mib)),
    ];
    let whole = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "cloister bench " (report.bench) }
                style { (STYLE) }
            }
            body {
                h1 { "cloister bench " (report.bench) }
                p { (report.measures) }
                @for ratio in &report.ratios { p { b { (format!("{:.3}", ratio.value)) } " " (ratio.name) } }
                @if report.lines.iter().any(|line| line.unit == Unit::Nanoseconds) {
                    (PreEscaped(report.plot().svg()))
                }
                h2 { "Figures" }
                (figures(report))
                h2 { "Method" }
                @for text in &report.method { p { (text) } }
                h2 { "Where" }
                dl { @for (name, value) in facts { dt { (name) } dd { (value) } } }
                h2 { "All measurements" }
                details { summary { "JSON" } pre { (report.json()) } }
            }
        }
    };
    whole.into_string()
}

fn figures(report: &Report) -> Markup {
    html! {
        table {
            tr {
                th { "What" }
                th { "Unit" }
                @for head in ["median", "p90", "p99", "min", "max", "n"] { th.n { (head) } }
            }
            @for line in &report.lines {
                @let Summary { count, min, median, p90, p99, max } = line.summary;
                tr {
                    td { (line.name) }
                    td { (line.unit.word()) }
                    @for value in [median, p90, p99, min, max] { td.n { (line.unit.show(value)) } }
                    td.n { (count) }
                }
            }
        }
    }
}
