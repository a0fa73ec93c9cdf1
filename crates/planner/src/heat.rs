//! How busy each edge was lately, against what the time of day lets expect: a holiday, a storm or a sale shows in all
//! functions at once, sooner than in any one of them.

use borsh::{BorshDeserialize, BorshSerialize};

/// Sums of outcomes and of expectations per edge, both fading.
#[derive(Clone, Debug, Default, BorshDeserialize, BorshSerialize)]
pub(crate) struct Heat {
    edges: Vec<(f32, f32)>,
    as_of: i64,
}

/// Minutes in which the sums fade to half.
const HALF_LIFE: f32 = 60.0;
/// Expected calls that count for nothing out of the ordinary.
const PRIOR: f32 = 3.0;

impl Heat {
    /// Fades the sums up to `minute`.
    pub(crate) fn cool(&mut self, minute: i64) {
        let passed = minute.saturating_sub(self.as_of);
        if passed > 0 {
            let keep = (-(passed as f32) / HALF_LIFE).exp2();
            self.edges.iter_mut().for_each(|e| *e = (e.0 * keep, e.1 * keep));
            self.as_of = minute;
        }
    }

    /// Adds one outcome that was expected with probability `p`.
    pub(crate) fn add(&mut self, edge: u32, positive: bool, p: f32) {
        let edge = edge as usize;
        if edge >= self.edges.len() {
            self.edges.resize(edge + 1, (0.0, 0.0));
        }
        self.edges[edge].0 += f32::from(u8::from(positive));
        self.edges[edge].1 += p;
    }

    /// Logarithm of actual to expected at an edge, 0 when all is as usual.
    pub(crate) fn of(&self, edge: u32) -> f32 {
        self.edges.get(edge as usize).map_or(0.0, |&(y, p)| ((y + PRIOR) / (p + PRIOR)).ln().clamp(-2.0, 2.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unusual_hour_shows_and_fades() {
        let mut h = Heat::default();
        assert_eq!(h.of(7), 0.0);
        h.cool(100);
        (0..40).for_each(|i| h.add(1, i % 2 == 0, 0.1));
        assert!(h.of(1) > 1.0);
        assert_eq!(h.of(0), 0.0);
        h.cool(100 + 600);
        assert!(h.of(1).abs() < 0.01);
    }
}
