//! Replays a trace: feeds the engine minute by minute and collects what it predicted with what then happened.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use foreshard_planner::{Engine, EngineConfig, Horizon, Invocation, Prediction};

use super::predictions::PredictionsFile;
use super::trace::Trace;

/// A window is cold when the function was not called at that edge in this many minutes before: then keeping what was
/// used last does not help, and prediction has to.
pub(super) const COLD: i64 = 10;

/// What to replay and score.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) score_from: i64,
    pub(super) step: i64,
    pub(super) horizons: Vec<u32>,
}

/// Predictions of one horizon with their outcomes.
#[derive(Clone, Debug, Default)]
pub(super) struct Collected {
    pub(super) cold: Vec<(f32, bool)>,
    pub(super) warm: Vec<(f32, bool)>,
}

/// Everything that a replay yields.
#[derive(Debug)]
pub(super) struct Outcome {
    /// One for each horizon.
    pub(super) collected: Vec<Collected>,
    /// Functions at edges times ticks, before the scored part.
    pub(super) decisions: u64,
    /// Time that the engine took for those.
    pub(super) engine: Duration,
}

/// Minutes between ticks: the largest divisor of the step up to five.
fn tick_for(step: i64) -> i64 {
    (1..=5).rev().find(|t| step % t == 0).unwrap_or(1)
}

/// Runs the whole trace through a fresh engine.
pub(super) fn replay(
    trace: &Trace,
    plan: &Plan,
    mut file: Option<&mut PredictionsFile>,
) -> anyhow::Result<Outcome> {
    let tick = tick_for(plan.step);
    let mut engine = Engine::new(EngineConfig {
        horizons: plan.horizons.iter().map(|&h| Horizon::within(h)).collect(),
        tick_minutes: tick as u32,
        max_histories: trace.pairs.len() * 4 + 1024,
        max_edges: trace.pairs.len(),
        ..EngineConfig::default()
    })?;
    let (first, last) = trace.span();
    let mut outcome = Outcome {
        collected: vec![Collected::default(); plan.horizons.len()],
        decisions: 0,
        engine: Duration::ZERO,
    };
    let mut rows = trace.rows.iter().peekable();
    let mut progress = Progress::new(first, last);
    for minute in first..=last {
        let begun = std::time::Instant::now();
        while let Some(row) = rows.next_if(|r| r.minute == minute) {
            let (function, edge) = &trace.pairs[row.pair as usize];
            engine.observe::<&str>(&Invocation { edge, function, minute, calls: row.count, instances: &[] });
        }
        if (minute - plan.score_from).rem_euclid(tick) != 0 {
            continue;
        }
        let scored = minute >= plan.score_from && (minute - plan.score_from) % plan.step == 0;
        if !scored {
            // Only these are timed: the others also look up what happened and write files.
            engine.tick(minute, 1, None);
            outcome.engine += begun.elapsed();
            outcome.decisions += engine.histories() as u64;
            progress.at(minute);
            continue;
        }
        let mut failed = Ok(());
        let collected = &mut outcome.collected;
        engine.tick(
            minute,
            1,
            Some(&mut |prediction: Prediction<'_>| {
                if failed.is_ok() {
                    failed = collect(trace, plan, minute, last, &prediction, collected, file.as_deref_mut());
                }
            }),
        );
        failed?;
        progress.at(minute);
    }
    progress.done();
    Ok(outcome)
}

fn collect(
    trace: &Trace,
    plan: &Plan,
    minute: i64,
    last: i64,
    prediction: &Prediction<'_>,
    collected: &mut [Collected],
    mut file: Option<&mut PredictionsFile>,
) -> anyhow::Result<()> {
    let pair = trace.pair(prediction.function, prediction.edge);
    let warm = pair.is_some_and(|p| trace.called(p, minute - COLD, minute));
    for ((&horizon, &p), into) in plan.horizons.iter().zip(prediction.p).zip(collected) {
        if let Some(file) = file.as_deref_mut() {
            file.write(minute, prediction.function, prediction.edge, horizon, p)?;
        }
        let until = minute + i64::from(horizon);
        if until > last {
            // The trace ends before the outcome is known.
            continue;
        }
        let outcome = pair.is_some_and(|p| trace.called(p, minute, until));
        if warm { &mut into.warm } else { &mut into.cold }.push((p, outcome));
    }
    Ok(())
}

/// A line on the terminal that says how far the replay is; silent when nobody watches.
struct Progress {
    first: i64,
    length: i64,
    shown: i64,
}

impl Progress {
    fn new(first: i64, last: i64) -> Self {
        let watched = std::io::stderr().is_terminal();
        Progress { first, length: (last - first).max(1), shown: if watched { -1 } else { i64::MAX } }
    }

    fn at(&mut self, minute: i64) {
        let percent = (minute - self.first) * 100 / self.length;
        if percent > self.shown {
            self.shown = percent;
            let bar = "#".repeat(percent as usize / 2);
            eprint!("\rreplaying [{bar:<50}] {percent:>3} %");
            let _ = std::io::stderr().flush();
        }
    }

    fn done(&self) {
        if self.shown != i64::MAX {
            eprintln!();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_divide_the_step() {
        assert_eq!([1, 2, 5, 7, 12, 15, 30].map(tick_for), [1, 2, 5, 1, 4, 5, 5]);
    }
}
