//! Windows that are none of the horizons: derived from the two most like them.

use crate::config::Horizon;
use crate::numeric::{logit, sigmoid};

/// The horizons that a window is derived from: their places in the list and how much each counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Derivation {
    /// Minutes.
    pub(crate) length: f64,
    near: (usize, f64),
    far: Option<(usize, f64)>,
}

impl Derivation {
    /// For the window `(from, to]` minutes from now: the two nearest horizons, or only the one that is the window itself.
    pub(crate) fn of(horizons: &[Horizon], from: f64, to: f64) -> Option<Self> {
        let from = from.max(0.0);
        if to <= from {
            return None;
        }
        let distance = |h: &Horizon| (f64::from(h.after) - from).abs() + (f64::from(h.until) - to).abs();
        let mut order: Vec<(usize, f64)> = horizons.iter().map(distance).enumerate().collect();
        order.sort_by(|a, b| a.1.total_cmp(&b.1));
        let &(near, d) = order.first()?;
        let length = to - from;
        Some(match order.get(1) {
            Some(&(far, e)) if d > 1e-9 => {
                Derivation { length, near: (near, e / (d + e)), far: Some((far, d / (d + e))) }
            }
            _ => Derivation { length, near: (near, 1.0), far: None },
        })
    }

    /// Place of the nearest horizon.
    pub(crate) fn nearest(&self) -> usize {
        self.near.0
    }

    /// Probability of at least one call in the window, given that of each horizon, by its place in the list.
    ///
    /// Each horizon is stretched to the window's length as if calls came evenly; then their logits are averaged.
    pub(crate) fn probability(&self, horizons: &[Horizon], p: impl Fn(usize) -> f32) -> f64 {
        let stretched = |at: usize| {
            let none = (1.0 - f64::from(p(at)))
                .clamp(1e-6, 1.0)
                .powf(self.length / f64::from(horizons[at].length()));
            1.0 - none
        };
        let near = stretched(self.near.0);
        let Some((far, weight)) = self.far else { return near.clamp(0.0, 1.0) };
        let mixed = logit(near as f32) * self.near.1 as f32 + logit(stretched(far) as f32) * weight as f32;
        f64::from(sigmoid(mixed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HORIZONS: [Horizon; 3] =
        [Horizon::within(30), Horizon { after: 15, until: 45 }, Horizon { after: 30, until: 60 }];

    fn at(from: f64, to: f64) -> f64 {
        let p = [0.2f32, 0.5, 0.8];
        Derivation::of(&HORIZONS, from, to).map_or(0.0, |d| d.probability(&HORIZONS, |i| p[i]))
    }

    #[test]
    fn a_horizon_is_taken_as_it_is() {
        assert!((at(0.0, 30.0) - 0.2).abs() < 1e-6);
        assert!((at(30.0, 60.0) - 0.8).abs() < 1e-6);
    }

    #[test]
    fn between_horizons_lies_between() {
        assert!(at(7.0, 37.0) > 0.25 && at(7.0, 37.0) < 0.45, "{}", at(7.0, 37.0));
        assert!(at(14.0, 44.0) > 0.45 && at(14.0, 44.0) < 0.5);
    }

    #[test]
    fn shorter_windows_are_less_likely() {
        assert!(at(0.0, 15.0) < 0.2);
        assert_eq!(at(9.0, 3.0), 0.0);
        assert!((0.0..=1.0).contains(&at(1e6, 2e6)));
    }

    #[test]
    fn one_horizon_is_enough() {
        let one = [Horizon::within(15)];
        let derivation = Derivation::of(&one, 5.0, 20.0).unwrap();
        assert!((derivation.probability(&one, |_| 0.5) - 0.5).abs() < 1e-6);
    }
}
