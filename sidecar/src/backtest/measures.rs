//! What each method is worth: how well it ranks and how honest its probabilities are, and what a cache gains from it.

use foreshard_planner::measure::{Grid, Point, RESIDENCY, curve, refresh, removed_at, reside};
use foreshard_planner::{Score, score};
use serde::Serialize;

use super::replay::{Method, Outcome, Plan};
use super::trace::Trace;

/// Byte overheads at which the misses removed are reported.
pub(super) const OVERHEADS: [f64; 3] = [0.05, 0.25, 1.0];
/// What a prefetch costs over what a miss costs.
pub(super) const COST_RATIOS: [f64; 3] = [0.02, 0.05, 0.1];
/// Minutes between two changes of a pair's rows.
pub(super) const STALE_EVERY: [u32; 3] = [5, 30, 120];
/// Byte overhead at which the misses removed after changes are reported.
pub(super) const REFRESH_OVERHEAD: f64 = 0.05;
/// Longest step at which a residency of ten minutes can be replayed.
const LONGEST_STEP: i64 = 5;
const CURVE_POINTS: usize = 60;
/// Minutes.
const HOUR: i64 = 60;
/// What is prefetched first is what is probable within the residency, and sooner rather than later: the shorter horizon
/// (minutes) that tells, and its weight.
const SOONER: (u32, f32) = (5, 0.4);

/// Scores of one horizon.
#[derive(Debug, Serialize)]
pub(super) struct Windows {
    /// Minutes.
    pub(super) horizon: u32,
    /// Windows without a call in the ten minutes before; absent when none of them came true.
    pub(super) cold: Option<Score>,
    /// All windows.
    pub(super) all: Option<Score>,
}

/// What a cache with a residency of ten minutes gains.
#[derive(Debug, Serialize)]
pub(super) struct Gains {
    /// Share of the misses removed at each of [`OVERHEADS`].
    pub(super) removed: [f64; 3],
    /// Savings over those of one who knows the future, at each of [`COST_RATIOS`].
    pub(super) savings: [f64; 3],
    /// Savings in each whole hour by itself, nothing fetched before it, at the middle one of [`COST_RATIOS`]. Below nothing where
    /// prefetching cost more than it saved.
    pub(super) by_hour: Vec<f64>,
    /// Misses removed over byte overhead.
    pub(super) curve: Vec<Point>,
}

/// What fetching again after changes gains.
#[derive(Debug, Serialize)]
pub(super) struct AfterChange {
    /// Minutes between two changes.
    pub(super) every: u32,
    /// Share of the misses removed at [`REFRESH_OVERHEAD`].
    pub(super) removed: f64,
    /// Overhead of fetching everything again.
    pub(super) eager_overhead: f64,
}

/// All measures of one method.
#[derive(Debug, Serialize)]
pub(super) struct Measures {
    pub(super) method: &'static str,
    pub(super) horizons: Vec<Windows>,
    /// Absent when decisions are more than five minutes apart.
    pub(super) cache: Option<Gains>,
    pub(super) after_change: Vec<AfterChange>,
}

/// Horizons that the replays need besides those asked for, as far as there is room for them.
pub(super) fn further_horizons(asked: &[u32], step: i64) -> Vec<u32> {
    if step > LONGEST_STEP {
        return Vec::new();
    }
    let wanted = std::iter::once(RESIDENCY as u32).chain(STALE_EVERY);
    wanted.filter(|h| !asked.contains(h)).take(8usize.saturating_sub(asked.len())).collect()
}

/// A window that was cold or not, what was said, and what came true.
pub(super) struct Said {
    pub(super) pair: usize,
    pub(super) minute: i64,
    pub(super) cold: bool,
    pub(super) p: f32,
    pub(super) positive: bool,
}

/// Everything that a grid says about windows whose outcome the trace still shows.
pub(super) fn said<'a>(trace: &'a Trace, grid: &'a Grid, horizon: u32) -> impl Iterator<Item = Said> + 'a {
    let last = trace.span().1;
    let horizon = i64::from(horizon);
    (0..trace.pairs.len()).flat_map(move |pair| {
        grid.row(pair).filter(move |(minute, _)| minute + horizon <= last).map(move |(minute, p)| Said {
            pair,
            minute,
            cold: !trace.called(pair as u32, minute - RESIDENCY, minute),
            p,
            positive: trace.called(pair as u32, minute, minute + horizon),
        })
    })
}

/// Measures every method.
pub(super) fn measure(trace: &Trace, plan: &Plan, outcome: &Outcome) -> Vec<Measures> {
    outcome.methods.iter().map(|m| of_method(trace, plan, m)).collect()
}

fn of_method(trace: &Trace, plan: &Plan, method: &Method) -> Measures {
    let lengths = plan.all_horizons();
    let at = |minutes: u32| lengths.iter().position(|&h| h == minutes).map(|i| &method.grids[i]);
    let windows = |(&horizon, grid): (&u32, &Grid)| {
        let mut all: Vec<(f32, bool)> = Vec::new();
        let mut cold: Vec<(f32, bool)> = Vec::new();
        for s in said(trace, grid, horizon) {
            all.push((s.p, s.positive));
            if s.cold {
                cold.push((s.p, s.positive));
            }
        }
        Windows { horizon, cold: score(&mut cold), all: score(&mut all) }
    };
    let calls = trace.calls();
    let resident = at(RESIDENCY as u32).filter(|_| plan.step <= LONGEST_STEP);
    let known = trace.span().1;
    let cache = resident.map(|grid| {
        let urgency = at(SOONER.0).map(|sooner| grid.urgency(sooner, SOONER.1));
        let replay = |threshold| {
            let r = reside(urgency.as_ref().unwrap_or(grid), calls, known, threshold);
            (r.overhead(), r.removed())
        };
        Gains {
            removed: OVERHEADS.map(|target| removed_at(target, replay)),
            savings: COST_RATIOS.map(|ratio| reside(grid, calls, known, ratio as f32).savings(ratio)),
            by_hour: by_hour(grid, calls, known),
            curve: curve(CURVE_POINTS, replay),
        }
    });
    let after_change = STALE_EVERY.into_iter().filter_map(|every| {
        let grid = at(every).filter(|_| plan.step <= LONGEST_STEP)?;
        let replay = |threshold| {
            let r = refresh(grid, calls, known, i64::from(every), threshold);
            (r.overhead(), r.removed())
        };
        let removed = removed_at(REFRESH_OVERHEAD, replay);
        Some(AfterChange { every, removed, eager_overhead: replay(0.0).0 })
    });
    Measures {
        method: method.name,
        horizons: plan.horizons.iter().zip(&method.grids).map(windows).collect(),
        after_change: after_change.collect(),
        cache,
    }
}

fn by_hour(grid: &Grid, calls: &[Vec<i64>], known: i64) -> Vec<f64> {
    let Some((first, last)) = grid.span() else { return Vec::new() };
    let ratio = COST_RATIOS[1];
    let hours = (first..=last + grid.step() - HOUR).step_by(HOUR as usize);
    let savings =
        |hour| reside(&grid.during(hour, hour + HOUR - 1), calls, known, ratio as f32).savings(ratio);
    hours.map(savings).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_more_than_eight_horizons() {
        assert_eq!(further_horizons(&[1, 5, 15], 1), [10, 30, 120]);
        assert_eq!(further_horizons(&[1, 2, 3, 4, 6, 7, 8], 1), [10]);
        assert!(further_horizons(&[15], 30).is_empty());
    }
}
