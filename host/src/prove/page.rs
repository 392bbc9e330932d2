//! The report as one page: nothing beside it, no script, and every text escaped.

use maud::{DOCTYPE, Markup, html};

use super::report::{Outcome, Report, Status};
use cloister_prober::wire::GROUPS;

const STYLE: &str = "\
body{font:15px/1.45 system-ui,sans-serif;color:#1b1f24;background:#fff;max-width:76rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.6rem;margin:0 0 .3rem}h2{font-size:1.15rem;margin:2.2rem 0 .5rem}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.35rem .6rem;\
border-bottom:1px solid #d8dee4}th{background:#f6f8fa;font-weight:600}td.n,th.n{text-align:right}\
code{font:13px/1.4 ui-monospace,monospace}ul{margin:0;padding-left:1.1rem}\
.held{color:#116329}.not-run{color:#7d4e00}.unexpected,.succeeded{color:#a40e26;font-weight:700}\
.verdict{padding:.7rem 1rem;border-radius:6px;background:#dafbe1;font-weight:600}.verdict.bad{background:#ffebe9}\
@media print{body{max-width:none;margin:0}tr{break-inside:avoid}}";

/// The page.
#[must_use]
pub fn page(report: &Report) -> String {
    let host = &report.host;
    let verdict = if report.ok { "verdict" } else { "verdict bad" };
    let seconds = report.duration_ms / 1000;
    let whole = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Cloister: attacks on " (host.host_name) ", " (host.date) }
                style { (STYLE) }
            }
            body {
                h1 { "Attacks on Cloister" }
                p { (host.date) " on " (host.host_name) ", as " (host.user) ", in " (seconds) " s" }
                p class=(verdict) { (report.verdict()) }
                (summary(report))
                h2 { "Host" }
                (facts(report))
                @for group in GROUPS {
                    @let cases: Vec<&Outcome> =
                        report.cases.iter().filter(|one| one.group == group).collect();
                    @if !cases.is_empty() {
                        h2 { (group.title()) }
                        (outcomes(&cases))
                    }
                }
            }
        }
    };
    whole.into_string()
}

fn summary(report: &Report) -> Markup {
    html! {
        table {
            tr {
                th { "Attacks" }
                @for head in ["tried", "held", "succeeded", "unexpected", "not run"] {
                    th.n { (head) }
                }
            }
            @for sum in &report.summary {
                tr {
                    td { (sum.group.title()) }
                    @for number in [sum.cases, sum.held, sum.succeeded, sum.unexpected, sum.not_run] {
                        td.n { (number) }
                    }
                }
            }
        }
    }
}

fn facts(report: &Report) -> Markup {
    let host = &report.host;
    let landlock = format!("version {}", host.landlock_abi);
    let rows = [
        ("Cloister", &host.version),
        ("Kernel", &host.kernel),
        ("Processor", &host.processor),
        ("Run as", &host.user),
        ("Landlock", &landlock),
    ];
    let lists = [
        ("Programs that were attacked", &host.programs),
        ("Weaknesses of the processor, as the kernel has them", &host.weaknesses),
        ("What cloister doctor finds not in order", &host.doctor),
    ];
    html! {
        table {
            @for (name, value) in rows {
                tr { th { (name) } td { (value) } }
            }
            @for (name, values) in lists {
                tr { th { (name) } td { @if values.is_empty() { "nothing" } @else { (items(values)) } } }
            }
        }
    }
}

fn items(values: &[String]) -> Markup {
    html! { ul { @for value in values { li { (value) } } } }
}

fn outcomes(cases: &[&Outcome]) -> Markup {
    html! {
        table {
            tr { th { "" } th { "Attack" } th { "What it tries" } th { "Why it must fail" } th { "What was seen" } }
            @for one in cases {
                tr {
                    td class=(class(one.status)) { (one.status.word()) }
                    td { code { (one.name) } }
                    td { (one.tries) }
                    td { (one.why) }
                    td { (items(&one.seen)) }
                }
            }
        }
    }
}

const fn class(status: Status) -> &'static str {
    match status {
        Status::Held => "held",
        Status::NotRun => "not-run",
        Status::Unexpected => "unexpected",
        Status::Succeeded => "succeeded",
    }
}
