//! Time of day and day of week, in the edge's local time: which of the last 64 days had an invocation in each
//! five-minute slot of the day.
//!
//! One 64-bit word per slot, one bit per day, so that a question about all past days at once ("on how many of the
//! last four same weekdays was it called in these slots?") is a few word operations.

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
#[derive(Clone, Debug)]
pub(crate) struct Seasons {
    words: Box<[u64; SLOTS as usize]>,
    /// The newest local day written.
    newest: i64,
}

/// The slot that a local minute falls in. Slots are `(5j, 5j+5]`, so that a decision made on a multiple of five
/// minutes looks ahead over whole slots.
#[inline(always)]
fn slot_of(local_minute: i64) -> i64 {
    (local_minute - 1).div_euclid(SLOT)
}

impl Seasons {
    /// Memory behind the pointer.
    pub(crate) const BYTES: usize = SLOTS as usize * size_of::<u64>();

    pub(crate) fn new(local_minute: i64) -> Self {
        Seasons { words: Box::new([0; SLOTS as usize]), newest: slot_of(local_minute).div_euclid(SLOTS) }
    }

    /// Notes an invocation in the local minute.
    pub(crate) fn record(&mut self, local_minute: i64) {
        let slot = slot_of(local_minute);
        let d = slot.div_euclid(SLOTS);
        if d > self.newest {
            let gone = (d - self.newest).min(DAYS);
            let mut stale = 0u64;
            for k in 0..gone {
                stale |= 1 << ((d - k) & (DAYS - 1));
            }
            self.words.iter_mut().for_each(|w| *w &= !stale);
            self.newest = d;
        } else if d <= self.newest - DAYS {
            return;
        }
        self.words[slot.rem_euclid(SLOTS) as usize] |= 1 << (d & (DAYS - 1));
    }

    /// The days' word of one slot, bit 63 − k for the day k days before that slot's own.
    #[inline(always)]
    fn word(&self, slot: i64) -> u64 {
        let d = slot.div_euclid(SLOTS);
        let behind = d - self.newest;
        if !(0..DAYS).contains(&behind) {
            // Later than anything written by 64 days, or a slot of the past (then today's bits are real).
            return if behind < 0 && behind > -3 { self.rotated(slot, d) } else { 0 };
        }
        self.rotated(slot, d) & (u64::MAX >> behind)
    }

    #[inline(always)]
    fn rotated(&self, slot: i64, d: i64) -> u64 {
        self.words[slot.rem_euclid(SLOTS) as usize].rotate_right(((d + 1) & (DAYS - 1)) as u32)
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
