//! Predictions for every pair at every decision, beside what was called when.

/// Probabilities of one method for one horizon: one row per pair, one column per decision.
///
/// A pair that the method did not know yet has no probability there.
#[derive(Clone, Debug)]
pub struct Grid {
    first: i64,
    step: i64,
    decisions: usize,
    p: Vec<f32>,
}

impl Grid {
    /// For decisions at the end of the minutes `first`, `first + step`, … up to and including `last`.
    pub fn new(pairs: usize, first: i64, step: i64, last: i64) -> Self {
        let step = step.max(1);
        let decisions = if last < first { 0 } else { ((last - first) / step + 1) as usize };
        Grid { first, step, decisions, p: vec![f32::NAN; pairs * decisions] }
    }

    /// Number of rows.
    pub fn pairs(&self) -> usize {
        self.p.len().checked_div(self.decisions).unwrap_or(0)
    }

    /// Minutes between two decisions.
    pub fn step(&self) -> i64 {
        self.step
    }

    /// Minutes of the first and of the last decision, if there is one.
    pub fn span(&self) -> Option<(i64, i64)> {
        let last = self.decisions.checked_sub(1)?;
        Some((self.first, self.first + last as i64 * self.step))
    }

    /// Column of the decision at the end of `minute`, if there is one.
    pub fn column(&self, minute: i64) -> Option<usize> {
        let since = minute - self.first;
        let column = usize::try_from(since / self.step).ok()?;
        (since >= 0 && since % self.step == 0 && column < self.decisions).then_some(column)
    }

    /// Notes a probability. A minute without decision, or a pair out of range, is left alone.
    pub fn set(&mut self, pair: usize, minute: i64, p: f32) {
        if let Some(column) = self.column(minute)
            && let Some(cell) = self.p.get_mut(pair * self.decisions + column)
        {
            *cell = p;
        }
    }

    /// What was said about the pair at each decision, with its minute; decisions before it was known are left out.
    pub fn row(&self, pair: usize) -> impl Iterator<Item = (i64, f32)> + '_ {
        let from = pair * self.decisions;
        let row = self.p.get(from..from + self.decisions).unwrap_or_default();
        row.iter()
            .enumerate()
            .filter(|(_, p)| !p.is_nan())
            .map(|(i, &p)| (self.first + i as i64 * self.step, p))
    }

    /// How soon what `self` expects will be of use: a weighted geometric mean of its probabilities, now and one decision ago, and those of
    /// a shorter horizon, for the same pairs and decisions. `share` (0..=1) is the weight of the shorter one.
    ///
    /// Of what is equally probable within the long horizon, the call that comes first ranks first: it can't be fetched later. What
    /// has just become probable ranks a little lower than what stays so.
    pub fn urgency(&self, sooner: &Grid, share: f32) -> Grid {
        let place = |(i, (&p, &q)): (usize, (&f32, &f32))| {
            let first = i % self.decisions == 0;
            let before = if first { p } else { self.p[i - 1] };
            let before = if before.is_nan() { p } else { before };
            (p * before).powf((1.0 - share) / 2.0) * q.powf(share)
        };
        Grid { p: self.p.iter().zip(&sooner.p).enumerate().map(place).collect(), ..*self }
    }

    /// The decisions from minute `from` up to and including `until` only.
    pub fn during(&self, from: i64, until: i64) -> Grid {
        let mut part = Grid::new(self.pairs(), from.max(self.first), self.step, until);
        // Only these columns are looked at: one asks for many short parts of a long grid.
        let (Some((first, _)), Some((_, end))) = (part.span(), self.span()) else { return part };
        let column = |minute: i64| (minute - self.first).max(0) as usize / self.step as usize;
        for pair in 0..self.pairs() {
            for at in column(first)..=column(until.min(end)) {
                if let Some(p) = self.at(pair, at) {
                    part.set(pair, self.first + at as i64 * self.step, p);
                }
            }
        }
        part
    }

    /// What was said at the decision in this column, if the pair was known.
    pub(super) fn at(&self, pair: usize, column: usize) -> Option<f32> {
        self.p.get(pair * self.decisions + column).copied().filter(|p| !p.is_nan())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_hold_what_was_set_and_nothing_else() {
        let mut g = Grid::new(2, 100, 5, 112);
        assert_eq!((g.pairs(), g.span()), (2, Some((100, 110))));
        g.set(1, 105, 0.5);
        g.set(1, 106, 0.9);
        g.set(1, 115, 0.9);
        g.set(7, 100, 0.9);
        assert_eq!(g.row(1).collect::<Vec<_>>(), [(105, 0.5)]);
        assert_eq!(g.row(0).count(), 0);
        assert_eq!((g.at(1, 1), g.at(0, 0)), (Some(0.5), None));
    }

    #[test]
    fn a_part_says_what_the_whole_says_then() {
        let mut g = Grid::new(2, 100, 5, 200);
        (100..=200).step_by(5).for_each(|m| g.set(1, m, m as f32 / 1000.0));
        let part = g.during(160, 219);
        assert_eq!((part.span(), part.pairs(), part.row(0).count()), (Some((160, 215)), 2, 0));
        assert!(part.row(1).eq((160..=200).step_by(5).map(|m| (m, m as f32 / 1000.0))));
    }

    #[test]
    fn what_comes_sooner_is_more_urgent() {
        let (mut ten, mut five) = (Grid::new(3, 0, 1, 2), Grid::new(3, 0, 1, 2));
        for (pair, minute, p, q) in [(0, 1, 0.5, 0.4), (1, 1, 0.5, 0.1), (2, 1, 0.1, 0.1), (2, 2, 0.9, 0.3)] {
            ten.set(pair, minute, p);
            five.set(pair, minute, q);
        }
        let urgency = ten.urgency(&five, 0.5);
        let at = |pair, minute| urgency.at(pair, minute).unwrap();
        assert!(
            (at(0, 1) / at(1, 1) - 2.0).abs() < 1e-3 && (at(0, 1) - 0.2f32.sqrt()).abs() < 1e-3,
            "{urgency:?}"
        );
        assert!(
            (at(2, 2) - (0.3 * 0.3f32).sqrt()).abs() < 1e-3,
            "between what is said and what was: {urgency:?}"
        );
        assert_eq!((urgency.at(0, 0), urgency.at(0, 2), urgency.span()), (None, None, ten.span()));
        let without = ten.urgency(&five, 0.0);
        assert!((without.at(0, 1).unwrap() - 0.5).abs() < 1e-6);
    }

    #[test]
    fn nothing_to_decide_is_no_panic() {
        let g = Grid::new(3, 10, 1, 9);
        assert_eq!((g.pairs(), g.span(), g.row(0).count()), (0, None, 0));
    }
}
