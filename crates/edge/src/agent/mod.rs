//! How much is fetched ahead of demand, and when.
//!
//! `costs` learns what a fetch costs and what a copy saves, `trust` how far schedules are believed, `controller` how many
//! prefetches may be under way, `budget` how many bytes they may bring in a second,
//! `exploration` what is tried although it is not believed enough, `renewal` what becomes of copies when the origin changes.

mod budget;
mod controller;
pub(crate) mod costs;
pub(crate) mod exploration;
mod extreme;
mod fading;
pub(crate) mod renewal;
#[cfg(test)]
mod settling;
pub(crate) mod trust;

pub use controller::Resources;

use crate::now::Now;
use budget::Budget;
pub(crate) use budget::{Admission, Reserved};
use controller::{Controller, Signal};
use costs::Costs;

/// Decides how much is fetched ahead of demand, from what fetches take and what the machine has left.
pub(crate) struct Agent {
    pub(crate) costs: Costs,
    controller: Controller,
    budget: Budget,
    /// The first moment, from which the speed of the clock of schedules is known.
    first: Option<Now>,
}

/// A fetch that is over. Times in microseconds.
pub(crate) struct Ended {
    pub(crate) ahead_of_demand: bool,
    pub(crate) took: u64,
    /// Of its text.
    pub(crate) bytes: u64,
    /// What was set aside for it.
    pub(crate) reserved: Reserved,
    /// Prefetches under way when it ended, itself included.
    pub(crate) under_way: usize,
}

/// While so many requests wait for fetches, none is made ahead of demand.
const RUSH: usize = 32;
/// The clocks are compared over at least this long.
const CLOCKS: u64 = 1_000_000;
/// What a schedule asks for is begun so long before its window, beyond twice what it is expected to take.
const SAFETY: u64 = 1_000_000;

impl Agent {
    /// At most `places` prefetches under way and `bytes_per_second` of them (0: no limit).
    pub(crate) fn new(places: usize, bytes_per_second: u64) -> Self {
        Agent {
            costs: Costs::new(),
            controller: Controller::new(places),
            budget: Budget::new(bytes_per_second),
            first: None,
        }
    }

    /// Prefetches that may be under way now, while requests wait for `demand` fetches.
    pub(crate) fn limit(&self, now: u64, demand: usize) -> usize {
        if demand >= RUSH { 0 } else { self.controller.limit(now) }
    }

    pub(crate) fn on_resources(&mut self, resources: Resources) {
        self.controller.on_resources(resources);
    }

    /// The origin answered a small question after `took` microseconds.
    pub(crate) fn ping(&mut self, now: u64, took: u64) {
        self.controller.heard(now, Signal::Ping { took }, 0);
    }

    /// Whether a prefetch for which so much is set aside may bring an instance of this shard, too; and what is set aside then.
    pub(crate) fn admits(&mut self, now: u64, already: Reserved, shard: &str) -> (Admission, Reserved) {
        let expected = self.costs.expected_text(shard);
        (self.budget.admits(now, already, expected), already.and(expected))
    }

    pub(crate) fn started(&mut self, reserved: Reserved) {
        self.budget.started(reserved);
    }

    pub(crate) fn ended(&mut self, now: u64, fetch: &Ended) {
        let (took, expected) = (fetch.took, self.costs.fetch_time(fetch.bytes));
        let signal = match fetch.ahead_of_demand {
            true => Signal::Prefetch { took, expected },
            false => Signal::Demand { took, expected },
        };
        self.costs.fetch(now, fetch.bytes, took);
        self.controller.heard(now, signal, fetch.under_way);
        if fetch.ahead_of_demand {
            self.budget.ended(now, fetch.reserved, fetch.bytes);
        }
    }

    pub(crate) fn failed(&mut self, now: u64, reserved: Reserved) {
        self.controller.heard(now, Signal::Failed, 0);
        self.budget.ended(now, reserved, 0);
    }

    /// Notes the time.
    pub(crate) fn at(&mut self, now: Now) {
        self.first.get_or_insert(now);
    }

    /// This real time in the time of schedules, in microseconds; `None` while the speed of that clock is not known.
    pub(crate) fn in_trace_time(&self, now: Now, time: u64) -> Option<i64> {
        let first = self.first.filter(|first| now.mono >= first.mono + CLOCKS)?;
        let speed = (now.trace - first.trace).max(0) as f64 / (now.mono - first.mono) as f64;
        Some((time as f64 * speed) as i64)
    }

    /// How long before its window a schedule of so many instances and bytes has to be begun, in the time of schedules, so that
    /// all is there in time and nothing is there earlier than it has to be: what lies about may change, and is fetched twice.
    pub(crate) fn safe_lead(&self, now: Now, instances: u64, bytes: u64, batch: usize, longest: i64) -> i64 {
        let lead = || {
            let fetches = instances.div_ceil(batch.max(1) as u64);
            let round_trips =
                fetches * self.costs.fetch_time(0)? / (self.controller.limit(now.mono).max(1) as u64);
            let moving = self.costs.fetch_time(bytes)?.saturating_sub(self.costs.fetch_time(0)?);
            self.in_trace_time(now, 2 * (round_trips + moving) + SAFETY)
        };
        lead().unwrap_or(longest).min(longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(ahead_of_demand: bool, took: u64, bytes: u64) -> Ended {
        Ended { ahead_of_demand, took, bytes, reserved: Reserved::default(), under_way: 1 }
    }

    #[test]
    fn a_schedule_is_begun_as_late_as_is_safe() {
        let mut agent = Agent::new(4, 0);
        let longest = 60_000_000;
        let start = Now { mono: 0, trace: 1_000 };
        agent.at(start);
        let later = Now { mono: 2_000_000, trace: 20_001_000 };
        assert_eq!(agent.safe_lead(later, 10, 0, 16, longest), longest, "nothing is known of fetches");
        agent.ended(0, &ended(false, 100_000, 1_000));
        assert_eq!(agent.safe_lead(start, 10, 0, 16, longest), longest, "nothing is known of the clock");
        // Ten times as fast as real time: one fetch of 100 ms, twice, and a second.
        assert_eq!(agent.safe_lead(later, 16, 16_000, 16, longest), 12_000_000);
        assert_eq!(agent.safe_lead(later, 160, 160_000, 16, longest), 30_000_000);
        assert_eq!(agent.safe_lead(later, 1_600, 1_600_000, 16, longest), longest);
    }

    #[test]
    fn a_rush_of_demand_goes_first() {
        let agent = Agent::new(4, 0);
        assert_eq!((agent.limit(0, RUSH - 1), agent.limit(0, RUSH)), (1, 0));
    }
}
