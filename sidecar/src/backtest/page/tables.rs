//! The page's numbers.

use std::fmt::Write;

use super::findings::Worst;
use super::plot::escaped;
use crate::backtest::measures::{COST_RATIOS, Measures, OVERHEADS};
use crate::backtest::table::Report;
use crate::backtest::trace::Trace;

/// The few numbers that matter most.
pub(super) fn tiles(report: &Report) -> String {
    let Some(ours) = report.methods.first() else { return String::new() };
    let mut html = String::from("<div class=\"tiles\">");
    let mut tile = |number: String, what: &str| {
        let _ = write!(html, "<div class=\"tile\"><b>{number}</b><span>{}</span></div>", escaped(what));
    };
    for w in ours.horizons.iter().take(2) {
        if let Some(s) = &w.cold {
            tile(format!("{:.3}", s.ap), &format!("average precision, cold, {} min", w.horizon));
            tile(format!("{:.4}", s.ece), &format!("calibration error, cold, {} min", w.horizon));
        }
    }
    if let Some(gains) = &ours.cache {
        tile(format!("{:.0} %", gains.removed[1] * 100.0), "of the misses removed at 25 % byte overhead");
        tile(format!("{:.0} %", gains.savings[1] * 100.0), "of a clairvoyant's savings at cost ratio .05");
    }
    tile(format!("{:.2} µs", report.microseconds_per_window), "to learn and predict one window");
    tile(format!("{:.1} KiB", report.bytes_per_function as f64 / 1024.0), "kept per function at an edge");
    html + "</div>"
}

fn rows(html: &mut String, report: &Report, cells: impl Fn(&Measures) -> Option<String>) {
    for (i, m) in report.methods.iter().enumerate() {
        if let Some(cells) = cells(m) {
            let class = if i == 0 { " class=\"ours\"" } else { "" };
            let _ = write!(html, "<tr{class}><td>{}</td>{cells}</tr>", escaped(m.method));
        }
    }
}

/// Scores of all methods at one horizon.
pub(super) fn scores(report: &Report, horizon: usize) -> String {
    let mut html = String::from(
        "<div class=\"scroll\"><table><tr><th></th><th>cold AP</th><th>R@1</th><th>Brier</th><th>ECE</th><th>windows</th>\
         <th>positive</th><th>all AP</th><th>R@1</th><th>Brier</th><th>ECE</th></tr>",
    );
    rows(&mut html, report, |m| {
        let row = m.horizons.get(horizon)?;
        let (c, a) = (row.cold.as_ref()?, row.all.as_ref()?);
        Some(format!(
            "<td>{:.4}</td><td>{:.3}</td><td>{:.5}</td><td>{:.5}</td><td>{}</td><td>{}</td><td>{:.4}</td><td>{:.3}</td><td>{:.5}</td><td>{:.5}</td>",
            c.ap, c.recall_at_1, c.brier, c.ece, c.windows, c.positives, a.ap, a.recall_at_1, a.brier, a.ece
        ))
    });
    html + "</table></div>"
}

/// What a cache gains from each method.
pub(super) fn gains(report: &Report) -> String {
    let mut html = String::from(
        "<div class=\"scroll\"><table><tr><th></th><th colspan=\"3\">misses removed at</th><th colspan=\"3\">savings at</th></tr><tr><th></th>",
    );
    for overhead in OVERHEADS {
        let _ = write!(html, "<th>{:.0} %</th>", overhead * 100.0);
    }
    for ratio in COST_RATIOS {
        let _ = write!(html, "<th>{ratio}</th>");
    }
    html += "</tr>";
    rows(&mut html, report, |m| {
        let g = m.cache.as_ref()?;
        Some(g.removed.iter().chain(&g.savings).map(|v| format!("<td>{v:.3}</td>")).collect())
    });
    html += "</table></div><figcaption>Misses removed at a byte overhead; savings, as a share of a clairvoyant's, of prefetching what is \
             more probable than the cost ratio of a prefetch to a miss.";
    if let Some(hours) = report.hours() {
        let _ = write!(html, " {hours}.");
    }
    html += "</figcaption><br><div class=\"scroll\"><table><tr><th>rows change every</th>";
    if let Some(ours) = report.methods.first() {
        for a in &ours.after_change {
            let _ = write!(html, "<th>{} min</th>", a.every);
        }
        html += "</tr>";
        rows(&mut html, report, |m| {
            Some(m.after_change.iter().map(|a| format!("<td>{:.3}</td>", a.removed)).collect())
        });
        html += "<tr><td class=\"l\"><em>overhead of fetching all</em></td>";
        for a in &ours.after_change {
            let _ = write!(html, "<td>{:.2}</td>", a.eager_overhead);
        }
        html += "</tr>";
    }
    html + "</table></div><figcaption>Misses after a change removed at 5 % overhead.</figcaption>"
}

/// The functions whose predictions were worst.
pub(super) fn worst(found: &[Worst], trace: &Trace) -> String {
    let mut html = String::from(
        "<h2>Worst functions</h2><p class=\"note\">By their share of the squared error over cold windows of the shortest horizon: where a \
         declared hint (a cron line, a DBA's schedule) would help most.</p><div class=\"scroll\"><table><tr><th>function</th><th class=\"l\">edge</th>\
         <th>share of error</th><th>cold windows</th><th>came true</th><th>said, mean</th></tr>",
    );
    for w in found {
        let (function, edge) = &trace.pairs[w.pair];
        let _ = write!(
            html,
            "<tr><td>{}</td><td class=\"l\">{}</td><td>{:.1} %</td><td>{}</td><td>{}</td><td>{:.4}</td></tr>",
            escaped(function),
            escaped(edge),
            w.share * 100.0,
            w.windows,
            w.positives,
            w.said
        );
    }
    html + "</table></div>"
}
