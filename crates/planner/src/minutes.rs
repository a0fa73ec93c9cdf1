//! Which of the last 4,096 minutes had an invocation: one bit each.

use borsh::{BorshDeserialize, BorshSerialize};

const WORDS: usize = 64;
/// Number of minutes kept, a little under three days.
pub(crate) const SPAN: i64 = (WORDS * 64) as i64;

/// A ring of one bit per minute. Minutes after [`MinuteBits::head`] hold nothing; minutes more than [`SPAN`]
/// before it are forgotten.
#[derive(Clone, Debug, BorshDeserialize, BorshSerialize)]
pub(crate) struct MinuteBits {
    words: [u64; WORDS],
    head: i64,
}

impl MinuteBits {
    /// An empty ring whose newest minute is `head`.
    pub(crate) fn new(head: i64) -> Self {
        MinuteBits { words: [0; WORDS], head }
    }

    #[inline(always)]
    fn place(minute: i64) -> (usize, u32) {
        let i = (minute & (SPAN - 1)) as usize;
        (i / 64, (i % 64) as u32)
    }

    /// Marks `minute`; false when it was marked already or is too old to be kept.
    pub(crate) fn set(&mut self, minute: i64) -> bool {
        if minute > self.head {
            self.clear_between(self.head, minute);
            self.head = minute;
        } else if minute <= self.head - SPAN {
            return false;
        }
        let (w, b) = Self::place(minute);
        let new = self.words[w] >> b & 1 == 0;
        self.words[w] |= 1 << b;
        new
    }

    fn clear_between(&mut self, after: i64, until: i64) {
        if until - after >= SPAN {
            self.words = [0; WORDS];
            return;
        }
        for m in after + 1..=until {
            let (w, b) = Self::place(m);
            self.words[w] &= !(1 << b);
        }
    }

    /// Up to 64 bits, beginning with `first` in the lowest.
    #[inline(always)]
    fn chunk(&self, first: i64) -> u64 {
        let (w, b) = Self::place(first);
        let low = self.words[w] >> b;
        if b == 0 { low } else { low | self.words[(w + 1) % WORDS] << (64 - b) }
    }

    /// All bits up to `now` in order of time: the last bit of the last word is `now`.
    pub(crate) fn unrolled(&self, now: i64) -> [u64; WORDS] {
        let mut out = [0; WORDS];
        let behind = now - self.head;
        if !(0..SPAN).contains(&behind) {
            return out;
        }
        for (i, w) in out.iter_mut().enumerate() {
            let first = now - SPAN + 1 + i as i64 * 64;
            *w = self.chunk(first);
            // Minutes after the head would read as those a span earlier.
            let past_head = first + 63 - self.head;
            if past_head > 0 {
                *w &= if past_head >= 64 { 0 } else { u64::MAX >> past_head };
            }
        }
        out
    }

    /// Whether any minute in `(after, until]` is marked.
    #[inline]
    pub(crate) fn any(&self, after: i64, until: i64) -> bool {
        let mut first = (after + 1).max(self.head - SPAN + 1);
        let last = until.min(self.head);
        while first <= last {
            let n = (last - first + 1).min(64);
            if self.chunk(first) & (u64::MAX >> (64 - n)) != 0 {
                return true;
            }
            first += n;
        }
        false
    }

    /// How many minutes in `(after, until]` are marked.
    #[inline]
    pub(crate) fn count(&self, after: i64, until: i64) -> u32 {
        let mut first = (after + 1).max(self.head - SPAN + 1);
        let last = until.min(self.head);
        let mut sum = 0;
        while first <= last {
            let n = (last - first + 1).min(64);
            sum += (self.chunk(first) & (u64::MAX >> (64 - n))).count_ones();
            first += n;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn agrees_with_a_set_of_minutes(
            steps in prop::collection::vec(-50i64..700, 1..60),
            queries in prop::collection::vec((0i64..9000, 0i64..300), 1..40),
        ) {
            let mut bits = MinuteBits::new(0);
            let mut model = BTreeSet::new();
            let mut t = 0;
            for s in steps {
                t = (t + s).max(0);
                bits.set(t);
                model.insert(t);
            }
            let head = *model.iter().next_back().unwrap();
            model.retain(|&m| m > head - SPAN);
            for (after, len) in queries {
                let n = model.iter().filter(|&&m| m > after && m <= after + len).count();
                prop_assert_eq!(bits.count(after, after + len) as usize, n);
                prop_assert_eq!(bits.any(after, after + len), n > 0);
            }
        }
    }

    #[test]
    fn a_jump_of_years_forgets_everything_at_once() {
        let mut bits = MinuteBits::new(0);
        bits.set(5);
        assert!(bits.set(1 << 40));
        assert_eq!(bits.count(i64::MIN / 2, 1 << 40), 1);
        assert!(!bits.set(5), "too old to keep");
    }
}
