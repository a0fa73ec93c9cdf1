//! At which minutes of the hour a function starts after a pause, and what that says of its next start.
//!
//! Work that a clock starts, but that there isn't always something to do for, has no steady pauses: they are multiples of the clock's
//! period. What stays is that all its starts leave the same remainder.

use borsh::{BorshDeserialize, BorshSerialize};

const HOUR: usize = 60;
/// Periods (minutes) whose remainders are looked at; all divide an hour.
pub(crate) const CLOCKS: [usize; 6] = [5, 10, 15, 20, 30, 60];
/// Starts after which all counts are halved.
const MOST: u32 = 200;

/// Starts counted by the minute of the hour.
#[derive(Clone, Debug, BorshSerialize, BorshDeserialize)]
pub(crate) struct Residues {
    starts: [u8; HOUR],
    total: u8,
}

impl Residues {
    pub(crate) fn new() -> Self {
        Residues { starts: [0; HOUR], total: 0 }
    }

    /// Notes a start in `minute`.
    pub(crate) fn record(&mut self, minute: i64) {
        let n = &mut self.starts[minute.rem_euclid(HOUR as i64) as usize];
        *n += 1;
        self.total += 1;
        if u32::from(self.total) >= MOST {
            self.starts.iter_mut().for_each(|n| *n /= 2);
            self.total = self.starts.iter().sum();
        }
    }

    /// For each of [`CLOCKS`]: how many times as often as by chance starts fell on the remainders that the minutes `(after,
    /// until]` have; 1 where these are all there are, and where nothing is known.
    pub(crate) fn lifts(&self, after: i64, until: i64) -> [f32; CLOCKS.len()] {
        let mut lifts = [1.0; CLOCKS.len()];
        if self.total == 0 {
            return lifts;
        }
        let window = (until - after).max(0) as usize;
        let first = (after + 1).rem_euclid(HOUR as i64) as usize;
        for (lift, clock) in lifts.iter_mut().zip(CLOCKS) {
            if window >= clock {
                continue;
            }
            let mut n = 0u32;
            for minute in first..first + window {
                n += self.starts[minute % clock..].iter().step_by(clock).map(|&n| u32::from(n)).sum::<u32>();
            }
            let by_chance = f32::from(self.total) * window as f32 / clock as f32;
            *lift = (n as f32 + 1.0) / (by_chance + 1.0);
        }
        lifts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_on_the_tens_are_expected_on_the_tens() {
        let mut r = Residues::new();
        assert_eq!(r.lifts(7, 8), [1.0; CLOCKS.len()]);
        for k in [1, 3, 4, 9, 11, 18, 20, 29] {
            r.record(k * 10);
        }
        let (on, off) = (r.lifts(999, 1000), r.lifts(1000, 1001));
        assert_eq!(on[1], 9.0 / 1.8);
        assert!(on[0] > 3.0 && off[0] < 0.5 && off[1] < 0.6, "{on:?} {off:?}");
        let wide = r.lifts(996, 1006);
        assert_eq!(&wide[..2], [1.0, 1.0], "ten minutes have all remainders of five and ten");
        assert!(wide[5] < 1.0, "one of eight, where chance has more");
    }

    #[test]
    fn many_starts_stay_bounded_and_a_change_is_followed() {
        let mut r = Residues::new();
        (0..100_000).for_each(|i| r.record(i * 60 - 3_000_000));
        assert!(r.lifts(59, 60)[5] > 20.0);
        (0..400).for_each(|i| r.record(i * 60 + 30));
        assert!(r.lifts(29, 30)[5] > 20.0 && r.lifts(59, 60)[5] < 10.0);
    }
}
