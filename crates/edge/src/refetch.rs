//! When a copy that was dropped is fetched again.
//!
//! Only if it pays (`agent::renewal`). Then at once, with a little jitter so that edges that lost the same copy do not return
//! together; but a copy that was dropped unused, again and again, waits longer each time. The agenda and admission decide how
//! many go at once.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;

use crate::agent::renewal::{Prospect, Renewal};

/// What is remembered of an instance.
#[derive(Clone, Copy, Default)]
struct Known {
    prospect: Prospect,
    pause: Option<u64>,
    /// Times in a row that what was read ahead of demand lacked a delivered transaction.
    refused: u32,
}

/// What a fetch would be worth.
#[derive(Clone, Copy)]
pub(crate) struct Worth {
    /// How likely the copy is read, as far as anybody knew before.
    pub(crate) expected: f64,
    /// The likelihood above which its bytes are worth moving.
    pub(crate) link: f64,
}

pub(crate) struct Refetch {
    due: BTreeSet<(u64, Arc<str>)>,
    known: LruCache<Arc<str>, Known>,
    random: u64,
}

/// Most a first attempt waits, in microseconds.
const JITTER: u64 = 10_000;
/// The pause after a copy was dropped unused, doubled each time, and at most this.
const FIRST_PAUSE: u64 = 20_000;
const LONGEST_PAUSE: u64 = 5_000_000;
/// Instances whose pause is remembered, and that wait at once.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(20_000).unwrap();

impl Refetch {
    pub(crate) fn new(seed: u64) -> Self {
        Refetch { due: BTreeSet::new(), known: LruCache::new(REMEMBERED), random: seed }
    }

    /// A copy that is still wanted was dropped at `now`; `used`: it had been served. Says whether it is fetched again.
    pub(crate) fn dropped(&mut self, now: u64, instance: &Arc<str>, used: bool, worth: Worth) -> Renewal {
        let known = self.known.get_or_insert_mut(instance.clone(), Known::default);
        known.prospect.voided(used);
        let pause = match known.pause {
            _ if used => 0,
            None => FIRST_PAUSE,
            Some(pause) => (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE),
        };
        known.pause = Some(pause);
        let decision = known.prospect.decide(worth.expected, worth.link);
        if decision == Renewal::Refresh && self.due.len() < REMEMBERED.get() {
            let jitter = self.random(JITTER + pause / 2);
            self.due.insert((now + pause + jitter, instance.clone()));
        }
        decision
    }

    /// What was read ahead of demand lacked a delivered transaction: again once that may be visible.
    pub(crate) fn refused(&mut self, now: u64, instance: &Arc<str>) {
        let known = self.known.get_or_insert_mut(instance.clone(), Known::default);
        known.refused += 1;
        let pause = (1_000 << known.refused.min(6)).min(50_000);
        if self.due.len() < REMEMBERED.get() {
            self.due.insert((now + pause, instance.clone()));
        }
    }

    /// And now it did not.
    pub(crate) fn landed(&mut self, instance: &str) {
        if let Some(known) = self.known.get_mut(instance) {
            known.refused = 0;
        }
    }

    /// Instances whose pause is over.
    pub(crate) fn due(&mut self, now: u64) -> Vec<Arc<str>> {
        let mut out = Vec::new();
        while self.due.first().is_some_and(|(at, _)| *at <= now) {
            out.extend(self.due.pop_first().map(|(_, instance)| instance));
        }
        out
    }

    /// How many wait for their pause to end.
    pub(crate) fn waiting(&self) -> usize {
        self.due.len()
    }

    pub(crate) fn clear(&mut self) {
        self.due.clear();
    }

    /// Below `limit`. SplitMix64: evenly spread is all that is asked of it.
    fn random(&mut self, limit: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SURE: Worth = Worth { expected: 1.0, link: 0.0 };

    /// When the instance comes back.
    fn returns(refetch: &mut Refetch, now: u64) -> u64 {
        (now..).find(|at| !refetch.due(*at).is_empty()).unwrap() - now
    }

    #[test]
    fn pauses_grow_while_nobody_uses_it_and_end_with_use() {
        let mut refetch = Refetch::new(7);
        let instance: Arc<str> = "cart?c=1".into();
        let mut before = 0;
        for _ in 0..5 {
            refetch.dropped(1_000, &instance, false, SURE);
            let after = returns(&mut refetch, 1_000);
            assert!(after >= before.max(FIRST_PAUSE), "{after} {before}");
            before = after;
        }
        for _ in 0..50 {
            refetch.dropped(1_000, &instance, false, SURE);
            refetch.due(u64::MAX);
        }
        refetch.dropped(1_000, &instance, true, SURE);
        assert!(returns(&mut refetch, 1_000) <= JITTER);
        assert_eq!(refetch.waiting(), 0);
    }

    #[test]
    fn what_does_not_pay_does_not_come_back() {
        let mut refetch = Refetch::new(7);
        let doubtful = Worth { expected: 0.1, link: 0.4 };
        assert_eq!(refetch.dropped(0, &"s".into(), false, doubtful), Renewal::Drop);
        assert!(refetch.waiting() == 0 && refetch.due(u64::MAX).is_empty());
    }

    #[test]
    fn edges_with_other_seeds_do_not_return_together() {
        let moments: BTreeSet<u64> = (0..20)
            .map(|seed| {
                let mut refetch = Refetch::new(seed);
                refetch.dropped(0, &"s".into(), true, SURE);
                returns(&mut refetch, 0)
            })
            .collect();
        assert!(moments.len() > 15, "{moments:?}");
    }
}
