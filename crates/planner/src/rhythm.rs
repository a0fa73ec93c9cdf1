//! A function's own period: the lag at which its past best repeats.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::minutes::{MinuteBits, SPAN};

const WORDS: usize = (SPAN / 64) as usize;
/// Longest period looked for, minutes.
const LONGEST: usize = 1500;

/// A lag in minutes and how well the past repeats at it (0..=1: the share of onsets that had a call one lag before,
/// above what chance would give).
#[derive(Clone, Copy, Debug, Default, PartialEq, BorshDeserialize, BorshSerialize)]
pub(crate) struct Rhythm {
    pub(crate) lag: u16,
    pub(crate) score: f32,
}

type Bits = [u64; WORDS];

/// `b` moved `by` minutes towards the future (the oldest `by` minutes become empty).
fn later(b: &Bits, by: usize) -> Bits {
    let (words, bits) = (by / 64, by % 64);
    let mut out = [0u64; WORDS];
    for i in words..WORDS {
        let low = b[i - words] << bits;
        let carry = if bits > 0 && i > words { b[i - words - 1] >> (64 - bits) } else { 0 };
        out[i] = low | carry;
    }
    out
}

/// The two best lags of a history that is known for `age` minutes, the better first.
pub(crate) fn find(minutes: &MinuteBits, now: i64, age: i64) -> [Rhythm; 2] {
    let calls = minutes.unrolled(now);
    // An onset: a call with none in the nine minutes before.
    let mut recent = later(&calls, 1);
    for by in [1usize, 2, 4, 1] {
        let more = later(&recent, by);
        recent.iter_mut().zip(more).for_each(|(r, m)| *r |= m);
    }
    let mut onsets = calls;
    onsets.iter_mut().zip(recent).for_each(|(o, r)| *o &= !r);
    let total: u32 = onsets.iter().map(|w| w.count_ones()).sum();
    if total < 4 {
        return [Rhythm::default(); 2];
    }
    let active: u32 = calls.iter().map(|w| w.count_ones()).sum();
    let chance = active as f32 / age.clamp(1, SPAN) as f32;
    let mut best = [Rhythm::default(); 2];
    let first_word = ((SPAN - age.min(SPAN)) / 64) as usize;
    for lag in 10..LONGEST.min((age / 2).max(0) as usize) {
        let (words, bits) = (lag / 64, lag % 64);
        let mut hits = 0;
        let mut trials = 0;
        for i in (words + first_word).max(words)..WORDS {
            if onsets[i] == 0 {
                continue;
            }
            let low = calls[i - words] << bits;
            let carry = if bits > 0 && i > words { calls[i - words - 1] >> (64 - bits) } else { 0 };
            hits += ((low | carry) & onsets[i]).count_ones();
            trials += onsets[i].count_ones();
        }
        if trials < 3 {
            continue;
        }
        let score = (hits as f32 - chance * trials as f32) / (trials as f32 + 3.0);
        // A multiple of a period scores as well as the period: a longer lag must be clearly better.
        let better = |r: &Rhythm| score > r.score * 1.1 + 0.02;
        if better(&best[0]) {
            best[1] = best[0];
            best[0] = Rhythm { lag: lag as u16, score };
        } else if better(&best[1]) && lag % (best[0].lag.max(1) as usize) != 0 {
            best[1] = Rhythm { lag: lag as u16, score };
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_an_odd_period() {
        let mut m = MinuteBits::new(0);
        (0..60).for_each(|i| {
            m.set(i * 37);
        });
        let r = find(&m, 60 * 37, 60 * 37)[0];
        assert_eq!(r.lag, 37);
        assert!(r.score > 0.8);
    }

    #[test]
    fn chance_is_no_rhythm() {
        let mut m = MinuteBits::new(0);
        let mut x = 7u64;
        for i in 0..4000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if x >> 60 == 0 {
                m.set(i);
            }
        }
        assert!(find(&m, 4000, 4000)[0].score < 0.25, "{:?}", find(&m, 4000, 4000));
    }
}
