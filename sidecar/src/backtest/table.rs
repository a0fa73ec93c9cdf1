//! What a backtest found, as a table and as JSON.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::measures::{COST_RATIOS, Measures, measure};
use super::replay::{HAZARD, OURS, Outcome, Plan};
use super::trace::Trace;

/// What a backtest found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) functions: usize,
    pub(super) score_from: i64,
    pub(super) score_until: i64,
    pub(super) step: i64,
    /// Seconds for the whole replay.
    pub(super) seconds: f64,
    /// Engine time to learn and predict one horizon of one function at one edge at one tick, microseconds; 0 when every
    /// tick was scored.
    pub(super) microseconds_per_window: f64,
    /// Memory of the engine over the functions at edges that it knows.
    pub(super) bytes_per_function: usize,
    /// Calls of functions or edges whose names are longer than 1,024 bytes.
    pub(super) left_out: u64,
    /// foreshard first, then what it is compared with.
    pub(super) methods: Vec<Measures>,
}

impl Report {
    pub(super) fn new(trace: &Trace, plan: &Plan, outcome: &Outcome, elapsed: Duration) -> Self {
        Report {
            functions: trace.pairs.len(),
            score_from: plan.score_from,
            score_until: trace.span().1,
            step: plan.step,
            seconds: elapsed.as_secs_f64(),
            microseconds_per_window: outcome.engine.as_secs_f64() * 1e6 / outcome.windows.max(1) as f64,
            bytes_per_function: outcome.bytes_per_function,
            left_out: outcome.left_out,
            methods: measure(trace, plan, outcome),
        }
    }

    fn scores(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:>7}  {:<5} {:<20} {:>10} {:>9} {:>7} {:>6} {:>8} {:>8}",
            "horizon", "", "", "windows", "positive", "AP", "R@1", "Brier", "ECE"
        )?;
        let Some(ours) = self.methods.first() else { return Ok(()) };
        for (i, windows) in ours.horizons.iter().enumerate() {
            for kind in ["cold", "all"] {
                for m in &self.methods {
                    let row = &m.horizons[i];
                    let score = if kind == "cold" { &row.cold } else { &row.all };
                    let name = m.method;
                    match score {
                        Some(s) => writeln!(
                            f,
                            "{:>3} min  {kind:<5} {name:<20} {:>10} {:>9} {:>7.4} {:>6.3} {:>8.5} {:>8.5}",
                            windows.horizon, s.windows, s.positives, s.ap, s.recall_at_1, s.brier, s.ece
                        )?,
                        None => {
                            writeln!(f, "{:>3} min  {kind:<5} {name:<20} none came true", windows.horizon)?
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn gains(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.methods.iter().all(|m| m.cache.is_none()) {
            return Ok(());
        }
        writeln!(
            f,
            "\na cache that keeps copies for 10 minutes\n{:<20} {:>30} {:>30}",
            "", "misses removed at overhead", "of a clairvoyant's savings at"
        )?;
        writeln!(
            f,
            "{:<20} {:>10} {:>9} {:>9} {:>12} {:>8} {:>8}",
            "", "5 %", "25 %", "100 %", "cost .02", ".05", ".1"
        )?;
        for m in &self.methods {
            let Some(g) = &m.cache else { continue };
            let ([a, b, c], [x, y, z]) = (g.removed, g.savings);
            writeln!(f, "{:<20} {a:>10.3} {b:>9.3} {c:>9.3} {x:>12.3} {y:>8.3} {z:>8.3}", m.method)?;
        }
        if let Some(hours) = self.hours() {
            writeln!(f, "{hours}")?;
        }
        let Some(ours) = self.methods.first() else { return Ok(()) };
        write!(f, "\nmisses after a change removed at 5 % overhead\n{:<20}", "rows change every")?;
        ours.after_change.iter().try_for_each(|a| write!(f, " {:>5} min", a.every))?;
        writeln!(f)?;
        for m in &self.methods {
            write!(f, "{:<20}", m.method)?;
            m.after_change.iter().try_for_each(|a| write!(f, " {:>9.3}", a.removed))?;
            writeln!(f)?;
        }
        write!(f, "{:<20}", "overhead of all")?;
        ours.after_change.iter().try_for_each(|a| write!(f, " {:>9.3}", a.eager_overhead))?;
        writeln!(f)
    }
}

impl Report {
    /// Whether prefetching ever did harm, hour by hour: worse than none, worse than after the idle time alone.
    pub(super) fn hours(&self) -> Option<String> {
        let of = |name: &str| Some(&self.methods.iter().find(|m| m.method == name)?.cache.as_ref()?.by_hour);
        let (ours, hazard) = (of(OURS)?, of(HAZARD)?);
        let worst = |hours: &[f64]| hours.iter().copied().fold(f64::INFINITY, f64::min);
        (!ours.is_empty()).then(|| {
            format!(
                "hour by hour at cost {}: worse than no prefetching in {} of {} hours, than the {HAZARD} in {}; worst hour {:.3}, of the {HAZARD} {:.3}",
                COST_RATIOS[1],
                ours.iter().filter(|s| **s < 0.0).count(),
                ours.len(),
                ours.iter().zip(hazard).filter(|(ours, hazard)| ours < hazard).count(),
                worst(ours),
                worst(hazard)
            )
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} functions at edges, scored from minute {} to {} every {} min; {:.1} s, {:.2} µs per window, {} bytes per function",
            self.functions,
            self.score_from,
            self.score_until,
            self.step,
            self.seconds,
            self.microseconds_per_window,
            self.bytes_per_function
        )?;
        if self.left_out > 0 {
            writeln!(
                f,
                "{} calls are left out of foreshard's predictions: the name of their function or edge is longer than 1024 bytes",
                self.left_out
            )?;
        }
        self.scores(f)?;
        self.gains(f)
    }
}
