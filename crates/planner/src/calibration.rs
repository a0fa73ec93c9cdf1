//! An adaptive probability map: turns a mixed logit into the frequency with which such logits came true.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::numeric::{MAX_LOGIT, sigmoid};

const BUCKETS: usize = 33;

/// 33 buckets over the logit, for each of a few contexts, with linear interpolation between neighbours.
#[derive(Clone, Debug, BorshDeserialize, BorshSerialize)]
pub(crate) struct Calibration {
    cells: Vec<[(f32, f32); BUCKETS]>,
}

/// Evidence limit of a cell: how fast the map follows a change.
const LIMIT: f32 = 900.0;
impl Calibration {
    /// `prior` is the evidence that the identity counts for at the start.
    pub(crate) fn new(contexts: usize, prior: f32) -> Self {
        let mut identity = [(0.0, prior); BUCKETS];
        for (i, cell) in identity.iter_mut().enumerate() {
            cell.0 = sigmoid((i as f32 / (BUCKETS - 1) as f32 * 2.0 - 1.0) * MAX_LOGIT);
        }
        Calibration { cells: vec![identity; contexts] }
    }

    /// Number of contexts.
    pub(crate) fn contexts(&self) -> usize {
        self.cells.len()
    }

    #[inline]
    fn place(logit: f32) -> (usize, f32) {
        let x = (logit.clamp(-MAX_LOGIT, MAX_LOGIT) / MAX_LOGIT + 1.0) * 0.5 * (BUCKETS - 1) as f32;
        let i = (x as usize).min(BUCKETS - 2);
        (i, x - i as f32)
    }

    /// The calibrated probability, in 0..=1.
    #[inline]
    pub(crate) fn predict(&self, logit: f32, context: usize) -> f32 {
        let (i, t) = Self::place(logit);
        let row = &self.cells[context];
        (row[i].0 * (1.0 - t) + row[i + 1].0 * t).clamp(0.0, 1.0)
    }

    /// Moves the two buckets around `logit` towards the outcome.
    #[inline]
    pub(crate) fn learn(&mut self, logit: f32, context: usize, positive: bool) {
        let (i, t) = Self::place(logit);
        let y = f32::from(u8::from(positive));
        for (cell, weight) in [(i, 1.0 - t), (i + 1, t)] {
            let (p, n) = &mut self.cells[context][cell];
            *n = (*n + weight).min(LIMIT);
            *p += weight * (y - *p) / *n;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_as_the_identity() {
        let c = Calibration::new(1, 30.0);
        for x in [-8.0, -2.0, 0.0, 1.0, 6.0] {
            assert!((c.predict(x, 0) - sigmoid(x)).abs() < 0.01, "at {x}");
        }
    }

    #[test]
    fn corrects_an_overconfident_logit() {
        let mut c = Calibration::new(2, 30.0);
        for i in 0..5000 {
            c.learn(2.0, 1, i % 4 == 0);
        }
        assert!((c.predict(2.0, 1) - 0.25).abs() < 0.05);
        assert!((c.predict(2.0, 0) - sigmoid(2.0)).abs() < 0.01, "other contexts are untouched");
    }
}
