//! Thresholds: how much is gained at which overhead.

use crate::numeric::sigmoid;

/// One threshold of a replay.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Point {
    /// From which probability (or urgency) on it acts.
    pub threshold: f32,
    /// Wasted bytes over the bytes that misses move without acting.
    pub overhead: f64,
    /// Share of the misses that are removed.
    pub removed: f64,
}

/// Steps of the search for a threshold.
const STEPS: usize = 24;

/// Share of the misses that are removed at an overhead of `target`, between the two thresholds nearest to it.
///
/// `replay(threshold)` gives `(overhead, removed)`; overhead grows as the threshold falls.
pub fn removed_at(target: f64, replay: impl Fn(f32) -> (f64, f64)) -> f64 {
    // Logits: probabilities crowd near 0 and 1.
    let at = |x: f32| replay(sigmoid(x));
    let everything = replay(0.0);
    if everything.0 <= target {
        return everything.1;
    }
    let (mut low, mut high) = (-16.0f32, 16.0f32);
    let (mut above, mut below) = (everything, (0.0, 0.0));
    for _ in 0..STEPS {
        let middle = (low + high) / 2.0;
        let found = at(middle);
        if found.0 > target {
            (low, above) = (middle, found);
        } else {
            (high, below) = (middle, found);
        }
    }
    // Acting on some of the ties at random lies on the line between both.
    let between = (target - below.0) / (above.0 - below.0).max(1e-12);
    below.1 + (above.1 - below.1) * between.clamp(0.0, 1.0)
}

/// `replay` at `points` thresholds between .999 and .001, evenly spread over their logits, the strictest first.
pub fn curve(points: usize, replay: impl Fn(f32) -> (f64, f64)) -> Vec<Point> {
    let last = points.saturating_sub(1).max(1) as f32;
    let measured = (0..points).map(|i| {
        let threshold = sigmoid(7.0 - 14.0 * i as f32 / last);
        let (overhead, removed) = replay(threshold);
        Point { threshold, overhead, removed }
    });
    measured.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overhead_is_met_between_two_thresholds() {
        // Nothing above a half, everything below.
        let step = |t: f32| if t > 0.5 { (0.0, 0.0) } else { (0.5, 0.8) };
        assert!((removed_at(0.25, step) - 0.4).abs() < 1e-6);
        assert!((removed_at(0.6, step) - 0.8).abs() < 1e-6);
        let smooth = |t: f32| (1.0 - f64::from(t), 1.0 - f64::from(t));
        assert!((removed_at(0.25, smooth) - 0.25).abs() < 1e-3);
    }

    #[test]
    fn a_curve_goes_from_strict_to_lax() {
        let points = curve(20, |t| (1.0 - f64::from(t), 1.0));
        assert!(points.len() == 20 && points.is_sorted_by(|a, b| a.overhead < b.overhead), "{points:?}");
        assert!(points[0].overhead < 0.01 && points[19].overhead > 0.99);
    }
}
