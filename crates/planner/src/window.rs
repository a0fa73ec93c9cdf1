//! Windows that are none of the horizons: derived from the two most like them.

use crate::config::Horizon;
use crate::numeric::{logit, sigmoid};

/// Probability of at least one call in `(from, to]` minutes from now, given that of every horizon.
///
/// Each of the two nearest horizons is stretched to the window's length as if calls came evenly; their logits are
/// averaged, the nearer counting more. A horizon that is the window itself is all that counts.
pub(crate) fn probability(horizons: &[Horizon], p: &[f32], from: f64, to: f64) -> f64 {
    let from = from.max(0.0);
    let length = to - from;
    if length <= 0.0 {
        return 0.0;
    }
    let mut nearest = [(f64::INFINITY, 0.0f64); 2];
    for (h, &p) in horizons.iter().zip(p) {
        let distance = (f64::from(h.after) - from).abs() + (f64::from(h.until) - to).abs();
        let none = (1.0 - f64::from(p)).clamp(1e-6, 1.0).powf(length / f64::from(h.length()));
        let new = (distance, 1.0 - none);
        if distance < nearest[0].0 {
            nearest = [new, nearest[0]];
        } else if distance < nearest[1].0 {
            nearest[1] = new;
        }
    }
    let [(near, p), (far, q)] = nearest;
    if near < 1e-9 || !far.is_finite() {
        return p.clamp(0.0, 1.0);
    }
    let weight = far / (near + far);
    let mixed = logit(p as f32) as f64 * weight + logit(q as f32) as f64 * (1.0 - weight);
    f64::from(sigmoid(mixed as f32))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HORIZONS: [Horizon; 3] =
        [Horizon::within(30), Horizon { after: 15, until: 45 }, Horizon { after: 30, until: 60 }];

    fn at(from: f64, to: f64) -> f64 {
        probability(&HORIZONS, &[0.2, 0.5, 0.8], from, to)
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
        let p = probability(&[Horizon::within(15)], &[0.5], 5.0, 20.0);
        assert!((p - 0.5).abs() < 1e-6);
    }
}
