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
    fn nothing_to_decide_is_no_panic() {
        let g = Grid::new(3, 10, 1, 9);
        assert_eq!((g.pairs(), g.span(), g.row(0).count()), (0, None, 0));
    }
}
