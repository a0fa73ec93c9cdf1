//! What becomes of a copy when the origin changes under it: kept by applying the change, fetched again, or let go.
//!
//! Applying a change costs next to nothing and is always right where it can be done: the copy stays, and whether it is worth its
//! memory is the cache's to say. Where it can't, the copy is gone, and a fetch pays only if somebody reads it before the next
//! change makes it void again. How likely that is, is learned for each instance from what became of it so far.

use super::fading::Fading;

/// What the agent decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// Fetch it again.
    Refresh,
    /// Let it go until a function asks for it or a new schedule wants it.
    Drop,
}

/// How often an instance was read between two changes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Prospect(Fading);

/// How many changes what was expected beforehand counts for.
const PRIOR: f64 = 1.0;
/// What remains of the past with each change: some twenty of them count.
const KEEP: f64 = 0.95;
/// What a fetch costs the origin, as a share of the wait that it saves whoever finds it done: a read less likely than that is not
/// worth a query. Beside it stands the time for which the bytes keep the link busy.
const QUERY: f64 = 0.05;
/// How likely a copy is read again that nobody scheduled, but that was served from the cache while it was there.
pub(crate) const IN_USE: f64 = 0.9;

impl Prospect {
    /// A change made a copy void that had been read, or not.
    pub(crate) fn voided(&mut self, read: bool) {
        self.0.add(KEEP, 1.0, f64::from(u8::from(read)));
    }

    /// By value against cost, both as shares of the wait that a copy saves: how likely it is read before the next change,
    /// `expected` beforehand, against the query and `link`, the likelihood above which the bytes alone would be worth moving.
    pub(crate) fn decide(&self, expected: f64, link: f64) -> Renewal {
        if self.0.share(PRIOR, expected) > QUERY + link { Renewal::Refresh } else { Renewal::Drop }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many changes in a row, without a read, until it is let go; at most a thousand.
    fn patience(expected: f64, link: f64) -> usize {
        let mut prospect = Prospect::default();
        (0..1_000)
            .find(|_| {
                prospect.voided(false);
                prospect.decide(expected, link) == Renewal::Drop
            })
            .unwrap_or(1_000)
    }

    #[test]
    fn what_nobody_reads_between_changes_is_let_go_and_sooner_where_it_costs_more() {
        let (sure, doubtful) = (patience(0.9, 0.0), patience(0.2, 0.0));
        assert!((10..100).contains(&sure) && doubtful < sure / 2 && doubtful >= 3, "{sure} {doubtful}");
        assert!(patience(0.9, 0.4) < 4, "a large copy, of which the link has much to carry");
        assert_eq!(patience(0.2, 0.4), 0);
    }

    #[test]
    fn what_is_read_between_changes_is_fetched_again_whatever_was_expected() {
        let mut prospect = Prospect::default();
        for _ in 0..10 {
            prospect.voided(true);
        }
        assert_eq!(prospect.decide(0.05, 0.45), Renewal::Refresh);
    }

    #[test]
    fn one_read_brings_back_what_was_given_up() {
        let mut prospect = Prospect::default();
        for _ in 0..100 {
            prospect.voided(false);
        }
        assert_eq!(prospect.decide(0.3, 0.0), Renewal::Drop);
        prospect.voided(true);
        assert_eq!(prospect.decide(0.3, 0.0), Renewal::Refresh);
    }

    #[test]
    fn one_read_in_four_pays_for_small_copies_and_not_for_large_ones() {
        let mut prospect = Prospect::default();
        for change in 0..100 {
            prospect.voided(change % 4 == 0);
        }
        assert_eq!(prospect.decide(0.5, 0.01), Renewal::Refresh);
        assert_eq!(prospect.decide(0.5, 0.4), Renewal::Drop);
    }
}
