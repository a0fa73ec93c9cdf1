//! Which function tends to follow which: onset after onset, with the lag, per edge.
//!
//! Plain co-occurrence says little (busy functions occur with everything). Counted here is that function B *started*,
//! after a pause, some minutes after A started; only lags of at least one minute help to be there in time.

use std::collections::VecDeque;

use borsh::{BorshDeserialize, BorshSerialize};

use crate::numeric::bin;

/// Successors remembered per function.
const LINKS: usize = 8;
/// Starts still running per function.
const ACTIVE: usize = 3;
/// How many times more often than by chance a function has to start in some lag after another to be announced by it.
const LIFT: f32 = 2.0;
/// Onsets remembered per edge.
const RECENT: usize = 64;
/// Upper ends of the lag bins, minutes.
const LAGS: [i64; 4] = [2, 6, 16, 61];

/// A slot number and the generation of its occupant: stays harmless when the slot is given to another function.
pub(crate) type PairRef = (u32, u32);

#[derive(Clone, Debug, BorshDeserialize, BorshSerialize)]
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
#[derive(Clone, Copy, Debug, BorshDeserialize, BorshSerialize)]
struct Start {
    from: PairRef,
    minute: i64,
    lags: [f32; LAGS.len()],
}

/// What one function knows about its successors, and what its predecessors have announced.
#[derive(Clone, Debug, Default, BorshDeserialize, BorshSerialize)]
pub(crate) struct Chain {
    onsets: f32,
    /// Minutes from onset to onset, exponentially averaged; 0 before the second.
    pause: f32,
    latest: i64,
    /// What decides whether a newcomer takes a place: looks random, and is the same in every run.
    dice: u32,
    links: Vec<Link>,
    active: Vec<Start>,
}

impl Chain {
    /// Memory behind its pointers.
    pub(crate) fn bytes(&self) -> usize {
        self.links.capacity() * size_of::<Link>() + self.active.capacity() * size_of::<Start>()
    }

    /// This function started at `minute`: whatever was announced has come true.
    fn started(&mut self, minute: i64) {
        self.active.clear();
        if self.onsets > 0.0 {
            let pause = (minute - self.latest).clamp(1, 100_000) as f32;
            self.pause += (pause - self.pause) * (1.0 / self.onsets).max(0.05);
        }
        self.latest = minute;
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
        } else if let Some(rarest) = self.links.iter_mut().min_by(|a, b| a.total().total_cmp(&b.total())) {
            // A newcomer takes the place of the rarest the less likely the more often that was seen: where much goes on
            // besides, those that really follow are met again and again and get in, and then stay.
            self.dice = self.dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if (self.dice >> 8) as f32 / (1u32 << 24) as f32 * (rarest.total() + 1.0) < 1.0 {
                let mut lags = [0.0; LAGS.len()];
                lags[at] = 1.0;
                *rarest = Link { to, lags };
            }
        }
    }

    /// The functions that this one announces when it starts, with the probability per lag bin.
    fn announcements(&self) -> impl Iterator<Item = (PairRef, [f32; LAGS.len()])> + '_ {
        self.links.iter().filter(|l| l.total() >= 2.0 && l.total() > 0.1 * self.onsets).map(|l| {
            let n = self.onsets.max(l.total()) + 2.0;
            (l.to, l.lags.map(|x| x / n))
        })
    }

    /// Takes note of a predecessor's start, if this function follows it clearly more often than it starts anyway.
    fn announce(&mut self, start: Start) {
        let mut low = 1;
        let lift = LAGS.iter().zip(start.lags).fold(0.0f32, |lift, (&high, p)| {
            let by_chance = ((high - low) as f32 / self.pause.max(1.0)).min(1.0);
            low = high;
            lift.max(p / by_chance)
        });
        if lift < LIFT {
            return;
        }
        self.active.retain(|s| start.minute - s.minute < LAGS[LAGS.len() - 1]);
        let strength = |s: &Start| s.lags.iter().sum::<f32>();
        if self.active.len() < ACTIVE {
            self.active.push(start);
        } else if let Some(weakest) =
            self.active.iter_mut().min_by(|a, b| strength(a).total_cmp(&strength(b)))
            && strength(weakest) < strength(&start)
        {
            *weakest = start;
        }
    }

    /// Probability that this function starts in `(now + after, now + until]`, from the starts of others; `None` when nothing
    /// was announced in the last hour.
    pub(crate) fn probability(&self, now: i64, after: i64, until: i64) -> Option<f32> {
        let (mut none, mut any) = (1.0f32, false);
        for start in self.active.iter().filter(|s| s.counts(now)) {
            any = true;
            none *= 1.0 - start.probability(now, after, until);
        }
        any.then_some(1.0 - none)
    }

    /// Who announced this function within the last hour, how many minutes ago, and with which probability it follows in
    /// `(now + after, now + until]`.
    pub(crate) fn announced(
        &self,
        now: i64,
        after: i64,
        until: i64,
    ) -> impl Iterator<Item = (PairRef, i64, f32)> + '_ {
        let counting = self.active.iter().filter(move |s| s.counts(now));
        counting.map(move |s| (s.from, now - s.minute, s.probability(now, after, until)))
    }
}

impl Start {
    /// Whether what it announced may still come.
    fn counts(&self, now: i64) -> bool {
        (0..LAGS[LAGS.len() - 1]).contains(&(now - self.minute))
    }

    fn probability(&self, now: i64, after: i64, until: i64) -> f32 {
        let passed = now - self.minute;
        let (mut before, mut within) = (0.0f32, 0.0f32);
        let mut low = 1;
        for (&high, &p) in LAGS.iter().zip(&self.lags) {
            // This bin spreads p over the lags low..high.
            let share = |a: i64, b: i64| (b.min(high) - a.max(low)).max(0) as f32 / (high - low) as f32;
            before += p * share(low, passed + 1);
            within += p * share(passed + 1 + after, passed + 1 + until);
            low = high;
        }
        (within / (1.0 - before).max(0.05)).clamp(0.0, 0.98)
    }
}

/// The latest onsets at one edge.
#[derive(Clone, Debug, Default, BorshDeserialize, BorshSerialize)]
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
            chain.started(minute);
            announced.extend(chain.announcements());
        });
        for (to, lags) in announced {
            with_chain(to, &mut |chain| chain.announce(Start { from: who, minute, lags }));
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
    fn a_successor_is_found_among_many_that_start_anyway() {
        // Function 1 starts 4 minutes after function 0; functions 2 to 39 start now and then all the time.
        let mut chains = vec![Chain::default(); 40];
        let mut recent = RecentOnsets::default();
        let mut onset = |chains: &mut Vec<Chain>, minute, who: u32| {
            recent.onset(minute, (who, 0), |(i, _), f| f(&mut chains[i as usize]));
        };
        for minute in 0..20_000i64 {
            match minute % 200 {
                0 => onset(&mut chains, minute, 0),
                4 => onset(&mut chains, minute, 1),
                _ => {}
            }
            onset(&mut chains, minute, 2 + (minute * 7 % 38) as u32);
        }
        onset(&mut chains, 20_000, 0);
        let soon = chains[1].probability(20_000, 0, 5).unwrap_or(0.0);
        assert!(soon > 0.7, "{soon}");
    }

    #[test]
    fn a_flood_of_successors_stays_bounded() {
        let mut chain = Chain::default();
        for i in 0..100_000 {
            chain.started(i64::from(i));
            chain.followed((i, 0), 3);
        }
        assert!(chain.links.len() <= LINKS);
    }
}
