//! `--report`: what a backtest found as a page with plots, in one file that needs nothing else.

mod findings;
mod plot;
mod tables;

use std::fmt::Write;

use foreshard_planner::measure::Grid;

use super::measures::{Said, said};
use super::replay::{Outcome, Plan};
use super::table::Report;
use super::trace::Trace;
use findings::{drift, precision_recall, reliability, worst};
use plot::{Line, Plot, escaped};

const STRETCHES: i64 = 24;
const WORST: usize = 15;
const UNIT: (f64, f64) = (0.0, 1.0);

/// The page.
pub(super) fn page(name: &str, report: &Report, trace: &Trace, plan: &Plan, outcome: &Outcome) -> String {
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Backtest of {name}</title><style>{style}</style></head><body><h1>Backtest</h1>\
         <p class=\"sub\">{name}: {functions} functions at edges, scored from minute {from} to {until}, a decision every {step} min. \
         Nothing after a minute is known to a prediction made in it. A window is <em>cold</em> when the function was not called \
         at that edge in the ten minutes before.</p>",
        name = escaped(name),
        style = include_str!("style.css"),
        functions = report.functions,
        from = report.score_from,
        until = report.score_until,
        step = report.step
    );
    html += &tables::tiles(report);
    html += &gains(report);
    for (i, &horizon) in plan.horizons.iter().enumerate() {
        let _ = write!(html, "<h2>Within {horizon} min</h2>");
        html += &tables::scores(report, i);
        html += "<div class=\"plots\">";
        html += &ranking(trace, outcome, horizon, i);
        let cold = cold(trace, &outcome.methods[0].grids[i], horizon);
        html += &honesty(trace, outcome, horizon, i, &cold);
        html += &over_time(&cold, plan, trace);
        html += "</div>";
        if i == 0 {
            html += &tables::worst(&worst(&cold, WORST), trace);
        }
    }
    html + "</body></html>\n"
}

fn cold(trace: &Trace, grid: &Grid, horizon: u32) -> Vec<Said> {
    said(trace, grid, horizon).filter(|s| s.cold).collect()
}

fn pairs(rows: &[Said]) -> Vec<(f32, bool)> {
    rows.iter().map(|s| (s.p, s.positive)).collect()
}

/// What a cache gains, as curves and as a table.
fn gains(report: &Report) -> String {
    let mut lines: Vec<Line> = Vec::new();
    for (class, m) in report.methods.iter().enumerate() {
        if let Some(gains) = &m.cache {
            let mut points = vec![(0.0, 0.0)];
            let within = gains.curve.iter().filter(|p| p.overhead <= UNIT.1);
            points.extend(within.map(|p| (p.overhead, p.removed)));
            if gains.curve.iter().any(|p| p.overhead > UNIT.1) {
                points.push((UNIT.1, gains.removed[2]));
            }
            lines.push(Line { name: m.method.to_owned(), class, points });
        }
    }
    if lines.is_empty() {
        return String::new();
    }
    lines.push(Line {
        name: "one who knows the future".to_owned(),
        class: 8,
        points: vec![(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)],
    });
    let plot = Plot {
        title: "Misses removed over byte overhead",
        x: "bytes prefetched in vain / bytes that misses move",
        y: "share of the misses removed",
        x_range: UNIT,
        y_range: UNIT,
        diagonal: false,
        lines,
        caption: "A cache that keeps a copy for ten minutes prefetches what is more probable to be called in them, and more so the sooner, than a threshold; each point is one threshold.",
    };
    format!(
        "<h2>What a cache gains</h2><div class=\"plots\">{}<figure>{}</figure></div>",
        plot.html(),
        tables::gains(report)
    )
}

fn ranking(trace: &Trace, outcome: &Outcome, horizon: u32, i: usize) -> String {
    let lines = outcome.methods.iter().enumerate().map(|(class, m)| Line {
        name: m.name.to_owned(),
        class,
        points: precision_recall(&mut pairs(&cold(trace, &m.grids[i], horizon))),
    });
    let plot = Plot {
        title: "Precision and recall, cold windows",
        x: "recall",
        y: "precision",
        x_range: UNIT,
        y_range: UNIT,
        diagonal: false,
        lines: lines.collect(),
        caption: "Up and to the right is better.",
    };
    plot.html()
}

fn honesty(trace: &Trace, outcome: &Outcome, horizon: u32, i: usize, cold: &[Said]) -> String {
    let all: Vec<(f32, bool)> =
        said(trace, &outcome.methods[0].grids[i], horizon).map(|s| (s.p, s.positive)).collect();
    let line = |name: &str, class, points| Line { name: name.to_owned(), class, points };
    let plot = Plot {
        title: "Reliability",
        x: "probability said",
        y: "share that came true",
        x_range: UNIT,
        y_range: UNIT,
        diagonal: true,
        lines: vec![
            line("cold windows", 0, reliability(&pairs(cold))),
            line("all windows", 1, reliability(&all)),
        ],
        caption: "On the dashed line, what is said comes true as often as it is said. Bins with fewer than 50 windows are left out.",
    };
    plot.html()
}

fn over_time(cold: &[Said], plan: &Plan, trace: &Trace) -> String {
    let span = (plan.score_from, trace.span().1);
    let stretches = drift(cold, span, STRETCHES);
    let line = |name: &str, class, of: &dyn Fn(&findings::Stretch) -> f64| Line {
        name: name.to_owned(),
        class,
        points: stretches.iter().map(|s| (s.from as f64, of(s))).collect(),
    };
    let plot = |title, y, lines: Vec<Line>, caption| {
        let highest = lines.iter().flat_map(|l| &l.points).map(|p| p.1).fold(0.0, f64::max);
        let (x_range, y_range) = ((span.0 as f64, span.1 as f64), (0.0, round_above(highest)));
        Plot { title, x: "minute", y, x_range, y_range, diagonal: false, lines, caption }.html()
    };
    let calls = plot(
        "Drift: what is said and what comes true",
        "share of cold windows",
        vec![line("said, mean", 1, &|s| s.said), line("came true", 2, &|s| s.true_share)],
        "Where the two part, the trace changed faster than the model follows.",
    );
    let ranking = plot(
        "Drift: how well it ranks",
        "average precision, cold windows",
        vec![line("average precision", 0, &|s| s.ap)],
        "Where it falls, past and present have less in common.",
    );
    calls + &ranking
}

/// The least of 1, 2, 5, 10, 20, … (or tenths, hundredths, … of it) that is not below `value`.
fn round_above(value: f64) -> f64 {
    let decade = 10f64.powf(value.clamp(1e-6, 1e6).log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|step| step * decade).into_iter().find(|&r| r >= value * 0.999).unwrap_or(1.0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backtest::replay::replay;

    #[test]
    fn axes_end_at_round_numbers() {
        let ends = [0.03, 0.4, 0.05, 1.0, 0.0].map(round_above);
        for (end, round) in ends.into_iter().zip([0.05, 0.5, 0.05, 1.0, 1e-6]) {
            assert!((end - round).abs() < round * 1e-6, "{end} for {round}");
        }
    }

    #[test]
    fn the_page_shows_every_measure_and_nothing_unescaped() {
        let mut csv = "minute,function_id,count\n".to_owned();
        for minute in 0..900 {
            for (every, name) in [(15, "<timer>"), (40, "slow"), (3, "busy")] {
                if minute % every == 2 {
                    csv += &format!("{minute},{name},1\n");
                }
            }
        }
        let trace = Trace::parse(csv.as_bytes()).unwrap();
        let plan = Plan { score_from: 600, step: 1, horizons: vec![5], further: vec![10, 30] };
        let outcome = replay(&trace, &plan, None).unwrap();
        let report = Report::new(&trace, &plan, &outcome, Duration::from_secs(1));
        let html = page("a & b", &report, &trace, &plan, &outcome);
        for part in [
            "Misses removed over byte overhead",
            "Reliability",
            "Drift",
            "Worst functions",
            "Markov-1",
            "a &amp; b",
        ] {
            assert!(html.contains(part), "{part}");
        }
        assert!(html.contains("&lt;timer&gt;") && !html.contains("<timer>") && !html.contains("NaN"));
        // A timer is no secret: the page says so.
        let ours = report.methods[0].cache.as_ref().unwrap();
        assert!(ours.removed[1] > 0.9, "{:?}", ours.removed);
    }
}
