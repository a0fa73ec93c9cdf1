//! Probabilities of windows that do not begin now: interpolated between horizons, then calibrated by what came true.
//!
//! A schedule is for a window that begins after the rows can be there, and the log lags behind the present, so a window
//! is rarely (now, now + horizon]. What interpolation gets wrong (calls are not independent between its parts) is
//! learned from windows of the same shape, as they pass.

use std::collections::VecDeque;

use crate::calibration::Calibration;
use crate::numeric::logit;

/// Starts of the windows that are learned from, as shares of their length.
const STARTS: [f64; 5] = [0.0, 0.2, 0.45, 0.9, 1.8];
/// A window is of the kind whose start is nearest: these are the limits between them.
const LIMITS: [f64; 4] = [0.1, 0.32, 0.65, 1.3];
/// Windows that wait for their outcome, at most.
const MOST_WAITING: usize = 200_000;

#[derive(Clone, Debug)]
struct Waiting {
    after: i64,
    until: i64,
    pair: u32,
    generation: u32,
    logit: f32,
    context: u8,
}

/// Interpolates and calibrates.
#[derive(Clone, Debug)]
pub(crate) struct Windows {
    horizons: Vec<u32>,
    map: Calibration,
    calibrate: bool,
    /// For each of [`STARTS`], in order of time.
    waiting: [VecDeque<Waiting>; STARTS.len()],
}

/// Probability of at least one call in `(from, to]` minutes from now, given those for growing horizons: interpolated in
/// the cumulative hazard, which a probability over (0, h] determines.
fn interpolated(horizons: &[u32], p: &[f32], from: f64, to: f64) -> f64 {
    let cumulative = |at: f64| {
        let (mut h0, mut l0) = (0.0, 0.0f64);
        let mut slope = 0.0;
        for (&h, &p) in horizons.iter().zip(p) {
            let (h1, l1) = (f64::from(h), (-(1.0 - f64::from(p).clamp(0.0, 0.999_99)).ln()).max(l0));
            slope = (l1 - l0) / (h1 - h0);
            if at <= h1 {
                return l0 + slope * (at - h0);
            }
            (h0, l0) = (h1, l1);
        }
        l0 + slope * (at - h0)
    };
    (1.0 - (cumulative(from.max(0.0)) - cumulative(to.max(0.0))).exp()).clamp(0.0, 1.0)
}

fn context(start: usize, key: bool) -> usize {
    start * 2 + usize::from(key)
}

impl Windows {
    pub(crate) fn new(horizons: &[u32], calibrate: bool) -> Self {
        Windows {
            horizons: horizons.to_vec(),
            map: Calibration::new(STARTS.len() * 2),
            calibrate,
            waiting: Default::default(),
        }
    }

    /// Calibrated probability of at least one call in `(from, to]` minutes from now, given `p` for each horizon; `key`
    /// tells whether it is about a shard instance rather than a function.
    pub(crate) fn probability(&self, p: &[f32], from: f64, to: f64, key: bool) -> f64 {
        let from = from.max(0.0);
        let raw = interpolated(&self.horizons, p, from, to);
        if !self.calibrate || raw <= 0.0 {
            return raw;
        }
        let share = from / (to - from).max(1.0);
        let start = LIMITS.iter().take_while(|&&l| share >= l).count();
        f64::from(self.map.predict(logit(raw as f32), context(start, key)))
    }

    /// Remembers what would be said now of a window as long as the first horizon, with one of the starts in turn.
    pub(crate) fn await_outcome(
        &mut self,
        now: i64,
        turn: i64,
        pair: u32,
        generation: u32,
        key: bool,
        p: &[f32],
    ) {
        let start = turn.rem_euclid(STARTS.len() as i64) as usize;
        let length = f64::from(self.horizons[0]);
        let from = (STARTS[start] * length).round();
        let raw = interpolated(&self.horizons, p, from, from + length);
        if self.waiting[start].len() < MOST_WAITING / STARTS.len() {
            self.waiting[start].push_back(Waiting {
                after: now + from as i64,
                until: now + (from + length) as i64,
                pair,
                generation,
                logit: logit(raw as f32),
                context: context(start, key) as u8,
            });
        }
    }

    /// Learns from every window that has passed at the end of minute `known`; `outcome` as for the models.
    pub(crate) fn settle(&mut self, known: i64, outcome: impl Fn(u32, u32, i64, i64) -> Option<bool>) {
        for queue in &mut self.waiting {
            while queue.front().is_some_and(|w| w.until <= known) {
                let Some(w) = queue.pop_front() else { break };
                if let Some(y) = outcome(w.pair, w.generation, w.after, w.until) {
                    self.map.learn(w.logit, w.context as usize, y);
                }
            }
        }
    }

    /// Drops everything that waits, for a jump of the clock.
    pub(crate) fn forget_waiting(&mut self) {
        self.waiting.iter_mut().for_each(VecDeque::clear);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_between_horizons_are_interpolated() {
        let p = [0.1f32, 0.4, 0.7];
        let at = |from, to| interpolated(&[1, 5, 15], &p, from, to);
        assert!((at(0.0, 5.0) - 0.4).abs() < 1e-6);
        assert!((at(0.0, 15.0) - 0.7).abs() < 1e-6);
        assert!(at(0.0, 10.0) > 0.4 && at(0.0, 10.0) < 0.7);
        assert!(at(0.0, 60.0) > 0.7);
        // What may come before the window does not count for it: 1 - 0.3/0.6.
        assert!((at(5.0, 15.0) - 0.5).abs() < 1e-6);
        assert_eq!(at(5.0, 5.0), 0.0);
        assert_eq!(at(9.0, 3.0), 0.0);
    }

    #[test]
    fn inconsistent_horizons_stay_probabilities() {
        let p = interpolated(&[1, 5], &[0.9, 0.2], 0.0, 5.0);
        assert!((0.0..=1.0).contains(&p));
    }

    #[test]
    fn later_windows_are_corrected_by_what_came_true() {
        let mut w = Windows::new(&[15, 30], true);
        let p = [0.5f32, 0.75];
        let before = w.probability(&p, 15.0, 30.0, false);
        for turn in 0..20_000 {
            w.await_outcome(turn, turn, 0, 0, false, &p);
            // Calls come at the start or not at all: later windows are always empty.
            w.settle(turn, |_, _, _, _| Some(false));
        }
        assert!(before > 0.4);
        assert!(w.probability(&p, 15.0, 30.0, false) < 0.05);
        assert!(w.probability(&p, 15.0, 30.0, true) > 0.4, "keys are another context");
    }
}
