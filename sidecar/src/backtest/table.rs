//! The scores of a backtest, as a table and as JSON.

use std::fmt;
use std::time::Duration;

use foreshard_planner::{Score, score};
use serde::Serialize;

use super::replay::{Outcome, Plan};
use super::trace::Trace;

/// Scores of one horizon.
#[derive(Debug, Serialize)]
struct Row {
    /// Minutes.
    horizon: u32,
    /// Windows without a call in the ten minutes before; absent when none of them came true.
    cold: Option<Score>,
    /// All windows.
    all: Option<Score>,
}

/// What a backtest found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    functions: usize,
    score_from: i64,
    score_until: i64,
    step: i64,
    horizons: Vec<Row>,
    /// Seconds for the whole replay.
    seconds: f64,
    /// Engine time to learn and predict all horizons of one function at one edge at one tick, microseconds; 0 when
    /// every tick was scored.
    microseconds_per_decision: f64,
}

impl Report {
    pub(super) fn new(trace: &Trace, plan: &Plan, outcome: &Outcome, elapsed: Duration) -> Self {
        let horizons = plan.horizons.iter().zip(&outcome.collected).map(|(&horizon, rows)| {
            let mut all = rows.cold.clone();
            let cold = score(&mut all);
            all.extend(&rows.warm);
            Row { horizon, cold, all: score(&mut all) }
        });
        Report {
            functions: trace.pairs.len(),
            score_from: plan.score_from,
            score_until: trace.span().1,
            step: plan.step,
            horizons: horizons.collect(),
            seconds: elapsed.as_secs_f64(),
            microseconds_per_decision: outcome.engine.as_secs_f64() * 1e6 / outcome.decisions.max(1) as f64,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} functions at edges, scored from minute {} to {} every {} min; {:.1} s, {:.2} µs per function and tick",
            self.functions,
            self.score_from,
            self.score_until,
            self.step,
            self.seconds,
            self.microseconds_per_decision
        )?;
        writeln!(
            f,
            "{:>7}  {:<7} {:>10} {:>9} {:>7} {:>6} {:>8} {:>8}",
            "horizon", "windows", "count", "positive", "AP", "R@1", "Brier", "ECE"
        )?;
        for row in &self.horizons {
            for (kind, score) in [("cold", &row.cold), ("all", &row.all)] {
                match score {
                    Some(s) => writeln!(
                        f,
                        "{:>3} min  {kind:<7} {:>10} {:>9} {:>7.4} {:>6.3} {:>8.5} {:>8.5}",
                        row.horizon, s.windows, s.positives, s.ap, s.recall_at_1, s.brier, s.ece
                    )?,
                    None => writeln!(f, "{:>3} min  {kind:<7} no window to score came true", row.horizon)?,
                }
            }
        }
        Ok(())
    }
}
