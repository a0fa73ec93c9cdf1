//! A cache whose copies all go stale from time to time: after each change it decides anew what to fetch again.

use super::grid::Grid;

/// What became of a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refreshed {
    /// First calls after a change: those that miss when nothing is fetched again.
    pub misses: u64,
    /// Copies fetched again.
    pub refetched: u64,
    /// Those that were called before they went stale again.
    pub used: u64,
}

impl Refreshed {
    /// Share of those misses that refetching removed.
    pub fn removed(&self) -> f64 {
        self.used as f64 / self.misses.max(1) as f64
    }

    /// Copies fetched again and not used, over those misses.
    pub fn overhead(&self) -> f64 {
        self.refetched.saturating_sub(self.used) as f64 / self.misses.max(1) as f64
    }
}

/// Replays every pair: its rows change every `period` minutes (each pair at its own phase), and its copy is then fetched
/// again when at least `threshold` probable to be called. A copy stays until it is stale.
///
/// The grid should say how probable a call is until the next change. A pair that was not known yet has no copy. Periods
/// whose end is after `last`, the last minute of `calls`, are left out.
pub fn refresh(grid: &Grid, calls: &[Vec<i64>], last: i64, period: i64, threshold: f32) -> Refreshed {
    let mut sum = Refreshed::default();
    let Some((first, until)) = grid.span() else { return sum };
    // A change is answered at the next decision.
    let period = (period.max(1) as u64).next_multiple_of(grid.step() as u64) as i64;
    for (pair, calls) in calls.iter().enumerate().take(grid.pairs()) {
        // Spread over the period, the same in every run.
        let phase = (pair as i64).wrapping_mul(2_654_435_761).rem_euclid(period / grid.step()) * grid.step();
        let mut change = first + phase;
        while change <= until && change + period <= last {
            if let Some(p) = grid.column(change).and_then(|column| grid.at(pair, column)) {
                let next = calls.get(calls.partition_point(|&m| m <= change));
                let called = next.is_some_and(|&m| m <= change + period);
                sum.misses += u64::from(called);
                if p >= threshold {
                    sum.refetched += 1;
                    sum.used += u64::from(called);
                }
            }
            change += period;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refetching_pays_where_a_call_follows() {
        // Called every 4 minutes until 500, never after.
        let calls = vec![(0..=125).map(|i| i * 4).collect::<Vec<i64>>()];
        let mut grid = Grid::new(1, 100, 1, 895);
        (100..=895).for_each(|m| grid.set(0, m, if m < 500 { 0.9 } else { 0.1 }));
        let wise = refresh(&grid, &calls, 900, 5, 0.5);
        assert_eq!((wise.misses, wise.refetched), (80, 80));
        assert_eq!((wise.removed(), wise.overhead()), (1.0, 0.0));
        let eager = refresh(&grid, &calls, 900, 5, 0.0);
        assert_eq!((eager.removed(), eager.overhead()), (1.0, 1.0), "{eager:?}");
    }

    #[test]
    fn what_was_never_called_has_no_copy() {
        let grid = Grid::new(1, 100, 1, 900);
        assert_eq!(refresh(&grid, &[vec![50, 2000]], 2000, 5, 0.0), Refreshed::default());
    }

    #[test]
    fn changes_between_decisions_wait_for_the_next() {
        let mut grid = Grid::new(1, 100, 5, 195);
        (100..=195).for_each(|m| grid.set(0, m, 1.0));
        let calls = vec![(100..=200).collect::<Vec<i64>>()];
        let every = refresh(&grid, &calls, 200, 7, 0.5);
        assert_eq!((every.misses, every.used), (10, 10));
    }
}
