//! The times between a function's invocations, and the hazard they imply: given that it has been idle for so long,
//! how likely is it to be called next?

use std::io::{self, Read};

use borsh::{BorshDeserialize, BorshSerialize};

use crate::state::sound;

/// A gap of this many minutes or more separates two bursts; the first call after one is an *onset*.
pub(crate) const COLD: i64 = 10;
const RING: usize = 48;

/// The last 48 values of something measured in minutes (saturating at 65,535).
#[derive(Clone, Debug, BorshSerialize)]
pub(crate) struct GapRing {
    values: [u16; RING],
    len: u8,
    next: u8,
}

/// What a [`GapRing`] says about the next value, given that it is above `idle`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Hazard {
    /// Weighted number of past values within the window asked for.
    pub(crate) hits: f32,
    /// Weighted number of past values above `idle`.
    pub(crate) at_risk: f32,
    /// As `hits`, of values whose predecessor resembled the latest value.
    pub(crate) like_hits: f32,
    /// As `at_risk`, of values whose predecessor resembled the latest value.
    pub(crate) like_at_risk: f32,
}

impl GapRing {
    pub(crate) fn new() -> Self {
        GapRing { values: [0; RING], len: 0, next: 0 }
    }

    pub(crate) fn push(&mut self, minutes: i64) {
        self.values[self.next as usize] = minutes.clamp(0, u16::MAX as i64) as u16;
        self.next = (self.next + 1) % RING as u8;
        self.len = (self.len + 1).min(RING as u8);
    }

    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    /// The value `back` places before the newest (0 = the newest), or 0.
    pub(crate) fn recent(&self, back: usize) -> i64 {
        if back >= self.len() {
            return 0;
        }
        self.values[(self.next as usize + RING - 1 - back) % RING] as i64
    }

    /// Counts the values above `idle` and those in `(idle + after, idle + until]`.
    pub(crate) fn hazard(&self, idle: i64, after: i64, until: i64) -> Hazard {
        let n = self.len();
        if n == 0 {
            return Hazard::default();
        }
        let low = idle.clamp(0, u16::MAX as i64) as u16;
        let from = (idle + after).clamp(0, u16::MAX as i64) as u16;
        let high = (idle + until).clamp(0, u16::MAX as i64) as u16;
        let last = self.recent(0);
        let (like_low, like_high) = similar(last);
        let (mut hits, mut risk, mut like_hits, mut like_risk) = (0u32, 0u32, 0u32, 0u32);
        // In place order rather than age order: only each value's predecessor matters.
        let mut before = self.values[if n == RING { RING - 1 } else { 0 }];
        for (i, &g) in self.values[..n].iter().enumerate() {
            let above = u32::from(g > low);
            let inside = u32::from(g > from) & u32::from(g <= high);
            // The oldest value has no known predecessor.
            let first = if n == RING { i == self.next as usize } else { i == 0 };
            let like = u32::from(before >= like_low) & u32::from(before <= like_high) & u32::from(!first);
            hits += inside;
            risk += above;
            like_hits += inside & like;
            like_risk += above & like;
            before = g;
        }
        Hazard {
            hits: hits as f32,
            at_risk: risk as f32,
            like_hits: like_hits as f32,
            like_at_risk: like_risk as f32,
        }
    }

    /// Counts among the latest `newest` values those in `(idle + after, idle + until]` and those above `idle`, all
    /// bounds widened by `slack`.
    pub(crate) fn recent_hazard(
        &self,
        idle: i64,
        after: i64,
        until: i64,
        newest: usize,
        slack: i64,
    ) -> (f32, f32) {
        let (mut hits, mut risk) = (0.0, 0.0);
        for back in 0..newest.min(self.len()) {
            let g = self.recent(back);
            if g > idle - slack {
                risk += 1.0;
                if g > idle + after - slack && g <= idle + until + slack {
                    hits += 1.0;
                }
            }
        }
        (hits, risk)
    }

    /// As [`GapRing::hazard`] over values whose two predecessors resemble the two latest.
    pub(crate) fn second_order(&self, idle: i64, after: i64, until: i64) -> (f32, f32) {
        let (mut hits, mut risk) = (0.0, 0.0);
        let near = |a: i64, b: i64| (a - b).abs() <= 1 + b / 8;
        let (a, b) = (self.recent(0), self.recent(1));
        for back in 0..self.len().saturating_sub(2) {
            if near(self.recent(back + 1), a) && near(self.recent(back + 2), b) {
                let g = self.recent(back);
                if g > idle {
                    risk += 1.0;
                    if g > idle + after && g <= idle + until {
                        hits += 1.0;
                    }
                }
            }
        }
        (hits, risk)
    }

    /// Share of the last eight values within a tenth (or one minute) of the one before, in 0..=8.
    pub(crate) fn agreement(&self) -> u8 {
        let n = self.len().min(9);
        (1..n)
            .filter(|&i| {
                let (low, high) = similar(self.recent(i));
                (low as i64..=high as i64).contains(&self.recent(i - 1))
            })
            .count() as u8
    }
}

fn similar(gap: i64) -> (u16, u16) {
    let tolerance = (gap / 8).max(1);
    ((gap - tolerance).clamp(0, u16::MAX as i64) as u16, (gap + tolerance).clamp(0, u16::MAX as i64) as u16)
}

/// All gaps of one function at one edge: short ones as counts, long ones (≥ [`COLD`]) one by one, and the times from
/// onset to onset, which stay regular when the length of the bursts does not.
#[derive(Clone, Debug, BorshDeserialize, BorshSerialize)]
pub(crate) struct Gaps {
    /// `short[g]` counts gaps of `g` minutes, 1 ≤ g < COLD; `short[0]` counts the long ones.
    short: [u16; COLD as usize],
    pub(crate) long: GapRing,
    pub(crate) onset: GapRing,
}

impl Gaps {
    pub(crate) fn new() -> Self {
        Gaps { short: [0; COLD as usize], long: GapRing::new(), onset: GapRing::new() }
    }

    pub(crate) fn record(&mut self, gap: i64) {
        let slot = if gap >= COLD {
            self.long.push(gap);
            0
        } else {
            gap.max(1) as usize
        };
        if self.short[slot] >= 512 {
            // Halving keeps the counts small and forgets the past at a rate of 512 gaps.
            self.short.iter_mut().for_each(|c| *c /= 2);
        }
        self.short[slot] += 1;
    }

    /// Hazard over all gaps, given `idle` minutes since the last call.
    pub(crate) fn hazard(&self, idle: i64, after: i64, until: i64) -> Hazard {
        let mut h = self.long.hazard(idle, after, until);
        if idle < COLD - 1 {
            // The ring holds only the latest long gaps; weigh it as all the long gaps that were counted.
            let scale = self.short[0] as f32 / (self.long.len().max(1)) as f32;
            let inside = idle + after + 1..=idle + until;
            h.hits *= scale;
            h.at_risk *= scale;
            for g in idle.max(0) + 1..COLD {
                let n = self.short[g as usize] as f32;
                h.at_risk += n;
                if inside.contains(&g) {
                    h.hits += n;
                }
            }
        }
        h
    }
}

impl BorshDeserialize for GapRing {
    fn deserialize_reader<R: Read>(from: &mut R) -> io::Result<Self> {
        let (values, len, next): ([u16; RING], u8, u8) = BorshDeserialize::deserialize_reader(from)?;
        sound(len as usize <= RING && (next as usize) < RING)?;
        Ok(GapRing { values, len, next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_is_certain_when_its_time_comes() {
        let mut gaps = Gaps::new();
        (0..20).for_each(|_| gaps.record(30));
        let due = gaps.hazard(29, 0, 1);
        assert_eq!((due.hits, due.at_risk), (20.0, 20.0));
        assert_eq!(gaps.hazard(12, 0, 5).hits, 0.0);
        assert_eq!(gaps.hazard(12, 15, 20).hits, 20.0, "a window that begins later");
        assert_eq!(gaps.long.agreement(), 8);
    }

    #[test]
    fn the_previous_gap_tells_an_alternation_apart() {
        let mut gaps = Gaps::new();
        (0..60).for_each(|i| gaps.record(if i % 2 == 0 { 15 } else { 40 }));
        // The latest gap was 40, so 15 comes next, and never did after 15.
        let h = gaps.hazard(14, 0, 1);
        assert_eq!(h.like_hits, h.like_at_risk);
        assert!(h.hits < h.at_risk);
    }

    #[test]
    fn short_gaps_are_counted_when_the_function_is_busy() {
        let mut gaps = Gaps::new();
        (0..30).for_each(|_| gaps.record(2));
        let h = gaps.hazard(1, 0, 1);
        assert_eq!((h.hits, h.at_risk), (30.0, 30.0));
        (0..2000).for_each(|_| gaps.record(1));
        assert!(gaps.hazard(0, 0, 1).at_risk <= 520.0);
    }

    #[test]
    fn absurd_gaps_saturate() {
        let mut gaps = Gaps::new();
        gaps.record(i64::MAX);
        assert_eq!(gaps.long.recent(0), u16::MAX as i64);
        assert_eq!(gaps.hazard(i64::MAX / 2, 0, 5).at_risk, 0.0);
    }
}
