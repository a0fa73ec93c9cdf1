//! Time of day and day of week, in the edge's local time: which of the last 64 days had an invocation in each
//! five-minute slot of the day.
//!
//! One 64-bit word per slot, one bit per day, so that a question about all past days at once ("on how many of the
//! last four same weekdays was it called in these slots?") is a few word operations.

use std::io::{self, Read};

use borsh::{BorshDeserialize, BorshSerialize};

use crate::state::sound;

/// Length of a slot in minutes.
pub(crate) const SLOT: i64 = 5;
const SLOTS: i64 = 1440 / SLOT;
const DAYS: i64 = 64;

/// Bit of the day `k` days ago in the words that [`Seasons::days`] returns.
#[inline(always)]
pub(crate) const fn day(k: u32) -> u64 {
    1 << (63 - k)
}

/// Days 1..=n ago.
pub(crate) const fn last_days(n: u32) -> u64 {
    // n is at most 63: bits 62 down to 63 - n.
    ((1u64 << n) - 1) << (63 - n)
}

/// Days 7, 14, … 7·n ago.
pub(crate) const fn same_weekday(n: u32) -> u64 {
    let mut mask = 0;
    let mut k = 1;
    while k <= n {
        mask |= day(7 * k);
        k += 1;
    }
    mask
}

/// The days of the last 56 that are of the same kind (working day or weekend) as the day number `today`.
///
/// Day 0 is 1970-01-01, a Thursday. Traces with another origin of time get a wrong split at worst, never a wrong
/// probability: the mixer then learns to ignore it.
pub(crate) fn same_kind(today: i64) -> u64 {
    let weekend = |d: i64| (d + 3).rem_euclid(7) >= 5;
    (1..=56u32).filter(|&k| weekend(today) == weekend(today - k as i64)).fold(0, |m, k| m | day(k))
}

/// The slot history of one function at one edge.
///
/// Words are as wide as the days to remember need (8, 16, 32 or 64 bits): most functions are young, or never get old.
#[derive(Clone, Debug, BorshSerialize)]
pub(crate) struct Seasons {
    /// `SLOTS` words of `width` bytes, little-endian; bit `d mod (8 · width)` is day `d`.
    bytes: Box<[u8]>,
    width: u8,
    /// The oldest and the newest local day written.
    oldest: i64,
    newest: i64,
}

/// The slot that a local minute falls in. Slots are `(5j, 5j+5]`, so that a decision made on a multiple of five
/// minutes looks ahead over whole slots.
#[inline(always)]
fn slot_of(local_minute: i64) -> i64 {
    (local_minute - 1).div_euclid(SLOT)
}

impl Seasons {
    pub(crate) fn new(local_minute: i64) -> Self {
        let day = slot_of(local_minute).div_euclid(SLOTS);
        Seasons { bytes: vec![0; SLOTS as usize].into(), width: 1, oldest: day, newest: day }
    }

    /// Memory behind the pointer.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Notes an invocation in the local minute.
    pub(crate) fn record(&mut self, local_minute: i64) {
        let slot = slot_of(local_minute);
        let d = slot.div_euclid(SLOTS);
        if d <= self.newest - DAYS {
            return;
        }
        if d > self.newest + DAYS {
            self.oldest = d;
        }
        let (oldest, newest) = (self.oldest.min(d).max(d.max(self.newest) - DAYS + 1), self.newest.max(d));
        while newest - oldest >= self.days_kept() && self.width < 8 {
            self.widen();
        }
        if newest > self.newest {
            let kept = self.days_kept();
            let mut stale = 0u64;
            for k in 0..(newest - self.newest).min(kept) {
                stale |= 1 << ((newest - k) & (kept - 1));
            }
            for slot in 0..SLOTS as usize {
                let word = self.read(slot) & !stale;
                self.write(slot, word);
            }
        }
        (self.oldest, self.newest) = (oldest, newest);
        let slot = slot.rem_euclid(SLOTS) as usize;
        let word = self.read(slot) | 1 << (d & (self.days_kept() - 1));
        self.write(slot, word);
    }

    fn days_kept(&self) -> i64 {
        i64::from(self.width) * 8
    }

    /// Twice as many days.
    fn widen(&mut self) {
        let mut wider =
            Seasons { bytes: vec![0; self.bytes.len() * 2].into(), width: self.width * 2, ..*self };
        for slot in 0..SLOTS as usize {
            // Aligned to the newest day, then placed where the wider ring has it.
            let aligned = self.aligned(slot);
            let kept = wider.days_kept();
            let mut word = 0u64;
            for k in 0..self.days_kept() {
                word |= (aligned >> (63 - k) & 1) << ((self.newest - k) & (kept - 1));
            }
            wider.write(slot, word);
        }
        *self = wider;
    }

    #[inline(always)]
    fn read(&self, slot: usize) -> u64 {
        let at = |i: usize, n: usize| &self.bytes[i * n..i * n + n];
        match self.width {
            1 => u64::from(self.bytes[slot]),
            2 => at(slot, 2).try_into().map_or(0, |b| u64::from(u16::from_le_bytes(b))),
            4 => at(slot, 4).try_into().map_or(0, |b| u64::from(u32::from_le_bytes(b))),
            _ => at(slot, 8).try_into().map_or(0, u64::from_le_bytes),
        }
    }

    fn write(&mut self, slot: usize, word: u64) {
        let n = self.width as usize;
        self.bytes[slot * n..slot * n + n].copy_from_slice(&word.to_le_bytes()[..n]);
    }

    /// The days' word of a place, the newest day in bit 63.
    #[inline(always)]
    fn aligned(&self, place: usize) -> u64 {
        let word = self.read(place);
        let kept = self.days_kept() as u32;
        let by = ((self.newest + 1) & (self.days_kept() - 1)) as u32;
        match kept {
            64 => word.rotate_right(by),
            _ => (word >> by | word << (kept - by)) << (64 - kept),
        }
    }

    /// The days' word of one slot, bit 63 − k for the day k days before that slot's own.
    #[inline(always)]
    fn word(&self, slot: i64) -> u64 {
        let behind = slot.div_euclid(SLOTS) - self.newest;
        let aligned = self.aligned(slot.rem_euclid(SLOTS) as usize);
        match behind {
            0 => aligned,
            // Later than anything written.
            1..DAYS => aligned >> behind,
            // A slot of the past: what came after it is not among the days before it.
            -2..0 => aligned << -behind,
            _ => 0,
        }
    }

    /// For the slots that overlap local minutes `(after, until]`, widened by `wider` slots on both sides: the days on
    /// which any of them had an invocation.
    #[inline]
    pub(crate) fn days(&self, after: i64, until: i64, wider: i64) -> u64 {
        let (a, b) = (slot_of(after + 1) - wider, slot_of(until) + wider);
        (a..=b.min(a + SLOTS)).fold(0, |m, s| m | self.word(s))
    }

    /// For the same slots: how many (slot, day) combinations among `mask`'s days had an invocation.
    #[inline]
    pub(crate) fn count(&self, after: i64, until: i64, wider: i64, mask: u64) -> u32 {
        let (a, b) = (slot_of(after + 1) - wider, slot_of(until) + wider);
        (a..=b.min(a + SLOTS)).map(|s| (self.word(s) & mask).count_ones()).sum()
    }

    /// Number of slots that the local minutes `(after, until]` overlap.
    pub(crate) fn slots(after: i64, until: i64) -> i64 {
        slot_of(until) - slot_of(after + 1) + 1
    }
}

impl BorshDeserialize for Seasons {
    fn deserialize_reader<R: Read>(from: &mut R) -> io::Result<Self> {
        let (bytes, width, oldest, newest): (Box<[u8]>, u8, i64, i64) =
            BorshDeserialize::deserialize_reader(from)?;
        sound([1, 2, 4, 8].contains(&width) && bytes.len() == SLOTS as usize * width as usize)?;
        Ok(Seasons { bytes, width, oldest, newest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daily(days: i64, minute: i64) -> Seasons {
        let mut s = Seasons::new(minute);
        (0..days).for_each(|d| s.record(d * 1440 + minute));
        s
    }

    #[test]
    fn a_daily_call_is_seen_on_every_past_day() {
        let s = daily(10, 600);
        let before = 10 * 1440 + 595;
        assert_eq!(s.days(before, before + 15, 0) & last_days(10), last_days(10));
        assert_eq!(s.days(before + 30, before + 45, 0), 0);
        assert_eq!(s.count(before, before + 15, 2, last_days(5)), 5);
    }

    #[test]
    fn windows_across_midnight_look_at_the_right_days() {
        let s = daily(8, 3);
        let eve = 7 * 1440 + 1438;
        assert_eq!(s.days(eve, eve + 10, 0) & last_days(7), last_days(7));
    }

    #[test]
    fn long_silence_reads_as_silence() {
        let s = daily(3, 600);
        let much_later = 70 * 1440 + 595;
        assert_eq!(s.days(much_later, much_later + 15, 0), 0);
        let later = 60 * 1440 + 595;
        assert_eq!(s.days(later, later + 15, 0).count_ones(), 3);
    }

    #[test]
    fn widening_keeps_what_is_known() {
        for days in [1, 7, 8, 9, 16, 17, 32, 33, 63] {
            let s = daily(days, 600);
            let before = days * 1440 + 595;
            assert_eq!(s.days(before, before + 15, 0).count_ones() as i64, days, "{days} days");
            assert_eq!(s.days(before, before + 15, 0) & last_days(days as u32), last_days(days as u32));
        }
        assert_eq!(daily(5, 600).bytes(), 288);
    }

    #[test]
    fn a_young_history_is_not_forgotten_after_a_pause() {
        let s = daily(8, 600);
        let later = 40 * 1440 + 595;
        assert_eq!(s.days(later, later + 15, 0).count_ones(), 8);
        let mut late = daily(2, 600);
        late.record(-20 * 1440 + 600);
        assert_eq!(late.days(2 * 1440 + 595, 2 * 1440 + 610, 0).count_ones(), 3, "a log that arrives late");
    }

    #[test]
    fn old_days_are_overwritten() {
        let mut s = daily(1, 600);
        s.record(64 * 1440 + 600);
        assert_eq!(s.days(65 * 1440 + 595, 65 * 1440 + 605, 0), day(1));
        s.record(600);
        assert_eq!(s.days(65 * 1440 + 595, 65 * 1440 + 605, 0), day(1), "too old to be written");
    }

    #[test]
    fn masks() {
        assert_eq!(last_days(2), day(1) | day(2));
        assert_eq!(same_weekday(2), day(7) | day(14));
        // 1970-01-05 was a Monday: the two days before are the weekend.
        assert_eq!(same_kind(4) & last_days(3), day(3));
    }
}
