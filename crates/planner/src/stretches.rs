//! Which stretches of the clock (half-hours, hours, …) a function was called in, wherever within them.
//!
//! Work that is due once in every half-hour, at no fixed minute of it, has no steady pauses and no phase: it comes soon after it came in the
//! last one, or an hour later. What tells is whether it came in this one, and how much of this one is left.

use crate::minutes::MinuteBits;

/// Lengths of the stretches that are looked at, minutes. Each begins at a multiple of its length.
pub(crate) const STRETCHES: [i64; 4] = [10, 20, 30, 60];
/// How many past ones of a length are looked at.
const PAST: i64 = 12;
/// Steps of the share of past stretches with a call, and of the place within this one.
const SHARES: usize = 5;
const PLACES: usize = 5;
/// Steps of all three together: that share, whether there was a call in this one, and the place within it.
pub(crate) const STEPS: usize = SHARES * 2 * PLACES;

/// What the stretches of `length` minutes of a history that begins with `first` say of the minute after `now`.
pub(crate) fn step(calls: &MinuteBits, first: i64, now: i64, length: i64) -> usize {
    let next = now + 1;
    let begin = next.div_euclid(length) * length;
    let known = ((begin - first) / length).clamp(0, PAST);
    let called = (1..=known).map(|k| begin - k * length).filter(|b| calls.any(b - 1, b + length - 1)).count();
    let share = (called as f32 + 0.2) / (known as f32 + 1.0);
    let share = ((share * SHARES as f32) as usize).min(SHARES - 1);
    let place = ((next - begin) as usize * PLACES) / length as usize;
    (share * 2 + usize::from(calls.any(begin - 1, now))) * PLACES + place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_whether_this_one_has_had_its_call() {
        let mut calls = MinuteBits::new(0);
        for (i, at) in [3, 21, 14, 7, 28, 1, 17, 9, 25, 12].into_iter().enumerate() {
            calls.set(i as i64 * 30 + at);
        }
        let at = |now, length| {
            let step = step(&calls, 3, now, length);
            (step / PLACES / 2, step / PLACES % 2, step % PLACES)
        };
        assert_eq!(at(299, 30), (4, 0, 0), "a new half-hour after ten with a call each");
        assert_eq!(at(317, 30), (4, 0, 3), "eighteen minutes of it have passed");
        assert_eq!(at(288, 30), (4, 1, 3), "the last one had its call");
        assert_eq!(at(299, 10), (1, 0, 0), "one of three");
        assert_eq!(at(3, 60), (1, 1, 0), "little is believed of past hours that nothing is known of");
    }

    #[test]
    fn every_moment_has_a_step() {
        let calls = MinuteBits::new(i64::MIN / 4);
        for now in [-61, -1, 0, 59, 1 << 40] {
            assert!(STRETCHES.iter().all(|&length| step(&calls, now - 5000, now, length) < STEPS));
            assert!(STRETCHES.iter().all(|&length| step(&calls, now, now, length) < STEPS));
        }
    }
}
