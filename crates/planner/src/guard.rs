//! Drift guard: compares the mixed prediction with the plain hazard expert on what came true lately, and falls back to
//! the latter while it is clearly the better of the two.

use borsh::{BorshDeserialize, BorshSerialize};

/// Exponentially averaged log-losses of both.
#[derive(Clone, Copy, Debug, Default, BorshDeserialize, BorshSerialize)]
pub(crate) struct Guard {
    mixed: f32,
    hazard: f32,
    n: f32,
}

/// Outcomes that the averages reach back over.
const MEMORY: f32 = 600.0;
/// The hazard must be better by this factor before it takes over.
const MARGIN: f32 = 1.02;

impl Guard {
    /// Adds one outcome, predicted as `mixed` and as `hazard`.
    #[inline]
    pub(crate) fn learn(&mut self, mixed: f32, hazard: f32, positive: bool) {
        let loss = |p: f32| {
            let p = p.clamp(1e-4, 1.0 - 1e-4);
            -(if positive { p } else { 1.0 - p }).ln()
        };
        self.n = (self.n + 1.0).min(MEMORY);
        self.mixed += (loss(mixed) - self.mixed) / self.n;
        self.hazard += (loss(hazard) - self.hazard) / self.n;
    }

    /// Whether the mixture has been doing worse than the hazard alone.
    #[inline]
    pub(crate) fn fallen_back(&self) -> bool {
        self.n >= 500.0 && self.mixed > self.hazard * MARGIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn falls_back_while_the_mixture_is_wrong_and_returns_when_it_is_right_again() {
        let mut g = Guard::default();
        (0..1000).for_each(|_| g.learn(0.9, 0.5, true));
        assert!(!g.fallen_back());
        (0..4000).for_each(|_| g.learn(0.99, 0.3, false));
        assert!(g.fallen_back());
        (0..30_000).for_each(|_| g.learn(0.05, 0.3, false));
        assert!(!g.fallen_back());
    }
}
