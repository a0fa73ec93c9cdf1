//! Which function tends to follow which: onset after onset, with the lag, per edge.
//!
//! Plain co-occurrence says little (busy functions occur with everything). Counted here is that function B *started*,
//! after a pause, some minutes after A started; only lags of at least one minute help to be there in time.

use std::collections::VecDeque;

use crate::numeric::bin;

/// Successors remembered per function.
const LINKS: usize = 8;
/// Starts still running per function.
const ACTIVE: usize = 3;
/// Onsets remembered per edge.
const RECENT: usize = 64;
/// Upper ends of the lag bins, minutes.
const LAGS: [i64; 4] = [2, 6, 16, 61];

/// A slot number and the generation of its occupant: stays harmless when the slot is given to another function.
pub(crate) type PairRef = (u32, u32);

#[derive(Clone, Debug)]
struct Link {
    to: PairRef,
    lags: [f32; LAGS.len()],
}

impl Link {
    fn total(&self) -> f32 {
        self.lags.iter().sum()
    }
}

/// A predecessor started at `minute`; `lags[i]` is the probability that this function follows in lag bin `i`.
#[derive(Clone, Copy, Debug)]
struct Start {
    minute: i64,
    lags: [f32; LAGS.len()],
}

/// What one function knows about its successors, and what its predecessors have announced.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chain {
    onsets: f32,
    links: Vec<Link>,
    active: Vec<Start>,
}

impl Chain {
    /// Memory behind its pointers.
    pub(crate) fn bytes(&self) -> usize {
        self.links.capacity() * size_of::<Link>() + self.active.capacity() * size_of::<Start>()
    }

    /// This function started at `minute`: whatever was announced has come true.
    pub(crate) fn started(&mut self) {
        self.active.clear();
        self.onsets += 1.0;
        if self.onsets > 200.0 {
            self.onsets *= 0.5;
            self.links.iter_mut().for_each(|l| l.lags.iter_mut().for_each(|x| *x *= 0.5));
        }
    }

    /// `to` started `lag` minutes after this function did.
    fn followed(&mut self, to: PairRef, lag: i64) {
        let at = bin(lag, &LAGS);
        if at >= LAGS.len() {
            return;
        }
        if let Some(link) = self.links.iter_mut().find(|l| l.to == to) {
            link.lags[at] += 1.0;
        } else if self.links.len() < LINKS {
            let mut lags = [0.0; LAGS.len()];
            lags[at] = 1.0;
            self.links.push(Link { to, lags });
        } else {
            // As in the Misra-Gries summary: a newcomer wears all others down until a place is free.
            self.links.iter_mut().for_each(|l| {
                let total = l.total();
                l.lags.iter_mut().for_each(|x| *x *= ((total - 0.25) / total).max(0.0));
            });
            self.links.retain(|l| l.total() > 0.3);
        }
    }

    /// The functions that this one announces when it starts, with the probability per lag bin.
    fn announcements(&self) -> impl Iterator<Item = (PairRef, [f32; LAGS.len()])> + '_ {
        self.links.iter().filter(|l| l.total() >= 2.0 && l.total() > 0.1 * self.onsets).map(|l| {
            let n = self.onsets.max(l.total()) + 2.0;
            (l.to, l.lags.map(|x| x / n))
        })
    }

    fn announce(&mut self, start: Start) {
        if self.active.len() >= ACTIVE {
            self.active.remove(0);
        }
        self.active.push(start);
    }

    /// Probability that this function starts in `(now + after, now + until]`, from the starts of others; `None` when nothing
    /// was announced in the last hour.
    pub(crate) fn probability(&self, now: i64, after: i64, until: i64) -> Option<f32> {
        let mut none = 1.0f32;
        let mut any = false;
        for start in &self.active {
            let passed = now - start.minute;
            if !(0..LAGS[LAGS.len() - 1]).contains(&passed) {
                continue;
            }
            any = true;
            let (mut before, mut within) = (0.0f32, 0.0f32);
            let mut low = 1;
            for (&high, &p) in LAGS.iter().zip(&start.lags) {
                // This bin spreads p over the lags low..high.
                let share = |a: i64, b: i64| (b.min(high) - a.max(low)).max(0) as f32 / (high - low) as f32;
                before += p * share(low, passed + 1);
                within += p * share(passed + 1 + after, passed + 1 + until);
                low = high;
            }
            none *= 1.0 - (within / (1.0 - before).max(0.05)).clamp(0.0, 0.98);
        }
        any.then_some(1.0 - none)
    }
}

/// The latest onsets at one edge.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecentOnsets(VecDeque<(i64, PairRef)>);

impl RecentOnsets {
    /// `who` started in `minute`: strengthens the links of those that started before it, and announces it to its own
    /// successors. `chain` gives access to a function's chain while it still is the one referred to.
    pub(crate) fn onset<'a>(
        &mut self,
        minute: i64,
        who: PairRef,
        mut with_chain: impl FnMut(PairRef, &mut dyn FnMut(&mut Chain)) + 'a,
    ) {
        for &(at, other) in &self.0 {
            let lag = minute - at;
            if lag >= 1 && lag < LAGS[LAGS.len() - 1] && other != who {
                with_chain(other, &mut |chain| chain.followed(who, lag));
            }
        }
        let mut announced = Vec::new();
        with_chain(who, &mut |chain| {
            chain.started();
            announced.extend(chain.announcements());
        });
        for (to, lags) in announced {
            with_chain(to, &mut |chain| chain.announce(Start { minute, lags }));
        }
        self.0.retain(|&(at, other)| other != who && minute - at < LAGS[LAGS.len() - 1]);
        if self.0.len() >= RECENT {
            self.0.pop_front();
        }
        self.0.push_back((minute, who));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(rounds: i64, lag: i64) -> Vec<Chain> {
        let mut chains = vec![Chain::default(); 2];
        let mut recent = RecentOnsets::default();
        for round in 0..rounds {
            for (who, at) in [(0u32, 0), (1, lag)] {
                recent.onset(round * 100 + at, (who, 0), |(i, _), f| f(&mut chains[i as usize]));
            }
        }
        chains
    }

    #[test]
    fn a_successor_is_expected_after_its_predecessor() {
        let mut chains = drive(30, 4);
        let mut recent = RecentOnsets::default();
        recent.onset(5000, (0, 0), |(i, _), f| f(&mut chains[i as usize]));
        let soon = chains[1].probability(5000, 0, 5).unwrap();
        assert!(soon > 0.8, "{soon}");
        assert!(chains[1].probability(5000 + 20, 0, 5).unwrap_or(0.0) < 0.2);
        assert_eq!(chains[1].probability(5000 + 200, 0, 5), None);
    }

    #[test]
    fn simultaneous_starts_predict_nothing() {
        let chains = drive(30, 0);
        assert_eq!(chains[1].probability(2901, 0, 5), None);
    }

    #[test]
    fn a_flood_of_successors_stays_bounded() {
        let mut chain = Chain::default();
        for i in 0..100_000 {
            chain.started();
            chain.followed((i, 0), 3);
        }
        assert!(chain.links.len() <= LINKS);
    }
}
