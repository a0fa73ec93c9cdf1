//! A cache that keeps what was called for ten minutes, and prefetches what is probable enough.

use super::grid::Grid;

/// Minutes that a copy stays after it was fetched or last used.
pub const RESIDENCY: i64 = 10;

/// What became of a replay. All copies are of one size, so that counts are bytes too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Residency {
    /// Calls that would have missed without prefetching.
    pub misses: u64,
    /// Prefetches issued.
    pub prefetched: u64,
    /// Prefetches that were called in time.
    pub used: u64,
    /// Calls that missed all the same.
    pub missed: u64,
}

impl Residency {
    /// Share of the misses that prefetching removed.
    pub fn removed(&self) -> f64 {
        (self.misses as f64 - self.missed as f64) / self.misses.max(1) as f64
    }

    /// Bytes prefetched and not used, over the bytes that misses move without prefetching.
    pub fn overhead(&self) -> f64 {
        self.prefetched.saturating_sub(self.used) as f64 / self.misses.max(1) as f64
    }

    /// What was saved, over what one who knows the future saves, when a prefetch costs `ratio` times what a miss costs.
    ///
    /// One who knows the future prefetches each miss, and nothing else.
    pub fn savings(&self, ratio: f64) -> f64 {
        let saved = self.misses as f64 - self.missed as f64 - ratio * self.prefetched as f64;
        saved / (self.misses.max(1) as f64 * (1.0 - ratio)).max(1e-9)
    }
}

/// Replays every pair: at each decision, what is not held and at least `threshold` probable (or urgent) is prefetched.
///
/// `calls[pair]` are its minutes with a call, ascending, known up to and including `known`. Misses count from the first decision
/// on, up to a step after the last one that is [`RESIDENCY`] minutes or more before `known`: of what is prefetched later, it isn't
/// known whether it was in vain.
pub fn reside(grid: &Grid, calls: &[Vec<i64>], known: i64, threshold: f32) -> Residency {
    let mut sum = Residency::default();
    let Some((first, last)) = grid.span() else { return sum };
    let ripe = (known - RESIDENCY - first).div_euclid(grid.step());
    let end = last.min(first + ripe * grid.step()) + grid.step();
    for (pair, calls) in calls.iter().enumerate().take(grid.pairs()) {
        let mut next = calls.partition_point(|&m| m <= first);
        // The last minute through which a copy is held, with and without prefetching.
        let mut plain = next.checked_sub(1).map_or(i64::MIN, |i| calls[i] + RESIDENCY);
        let mut held = plain;
        let mut unused = false;
        let mut column = 0;
        let mut minute = first;
        while minute < end {
            if held <= minute {
                unused = false;
                if grid.at(pair, column).is_some_and(|p| p >= threshold) {
                    sum.prefetched += 1;
                    held = minute + RESIDENCY;
                    unused = true;
                }
            }
            let until = minute + grid.step();
            while let Some(&call) = calls.get(next).filter(|&&m| m <= until) {
                sum.misses += u64::from(call > plain);
                if call > held {
                    sum.missed += 1;
                } else if std::mem::take(&mut unused) {
                    sum.used += 1;
                }
                // Past the end of a copy a prefetch for it has been in vain.
                unused = false;
                plain = call + RESIDENCY;
                held = plain;
                next += 1;
            }
            minute = until;
            column += 1;
        }
        // What is still held unused may yet be called.
        sum.used += u64::from(unused && calls.get(next).is_some_and(|&m| m <= held));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One pair called every 20 minutes; the grid says `sure` in the minute before each call, else `else_`.
    fn replay(sure: f32, otherwise: f32, threshold: f32) -> Residency {
        let calls: Vec<i64> = (0..50).map(|i| i * 20).collect();
        let mut grid = Grid::new(1, 100, 1, 900);
        for m in 100..=900 {
            grid.set(0, m, if m % 20 == 19 { sure } else { otherwise });
        }
        reside(&grid, &[calls], 910, threshold)
    }

    #[test]
    fn knowing_removes_every_miss_for_nothing() {
        let r = replay(1.0, 0.0, 0.5);
        assert_eq!((r.misses, r.missed, r.prefetched, r.used), (40, 0, 40, 40));
        assert_eq!((r.removed(), r.overhead()), (1.0, 0.0));
        assert!((r.savings(0.1) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn doing_nothing_saves_nothing() {
        let r = replay(0.4, 0.0, 0.5);
        assert_eq!((r.removed(), r.overhead(), r.savings(0.05)), (0.0, 0.0, 0.0));
        assert_eq!(r.misses, 40);
    }

    #[test]
    fn prefetching_always_wastes() {
        // A copy for the ten minutes of rest after each call's own ten: used at once, so that one is always in time.
        let r = replay(1.0, 1.0, 0.5);
        assert_eq!((r.missed, r.used), (0, 40));
        assert!(r.prefetched >= r.used && r.savings(0.1) <= 1.0, "{r:?}");
    }

    #[test]
    fn a_prefetch_that_comes_too_early_is_waste() {
        let mut grid = Grid::new(1, 0, 1, 40);
        grid.set(0, 5, 1.0);
        let r = reside(&grid, &[vec![30]], 50, 0.5);
        assert_eq!((r.misses, r.missed, r.prefetched, r.used), (1, 1, 1, 0));
        assert!((r.overhead() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_prefetched_at_the_end_is_judged_by_what_came_of_it() {
        let mut grid = Grid::new(2, 0, 1, 40);
        (0..2).for_each(|pair| grid.set(pair, 30, 1.0));
        (0..2).for_each(|pair| grid.set(pair, 31, 1.0));
        let calls = [vec![38], vec![]];
        let r = |known| reside(&grid, &calls, known, 0.5);
        // At minute 30 both are prefetched. One is called, after the last miss that counts.
        assert_eq!(r(40), Residency { misses: 0, prefetched: 2, used: 1, missed: 0 });
        assert_eq!(r(39), Residency::default(), "what came of it is not known yet");
        assert_eq!(r(60), Residency { misses: 1, prefetched: 2, used: 1, missed: 0 });
        assert_eq!(r(-5), Residency::default());
    }
}
