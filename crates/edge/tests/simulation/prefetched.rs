//! What one process of the edge has fetched ahead of demand.

use std::collections::{BTreeSet, VecDeque};

use foreshard_edge::{Fetched, FetchedInstance, FlightId};

#[derive(Default)]
pub(crate) struct Prefetched {
    under_way: BTreeSet<FlightId>,
    /// When and how many bytes.
    arrived: VecDeque<(u64, u64)>,
    /// The largest instance so far.
    largest: u64,
}

const SECOND: u64 = 1_000_000;

impl Prefetched {
    pub(crate) fn started(&mut self, flight: FlightId) {
        self.under_way.insert(flight);
    }

    /// No second brings more than `limit` (0: none) and one instance.
    pub(crate) fn landed(
        &mut self,
        now: u64,
        flight: FlightId,
        fetched: Option<&Fetched>,
        limit: u64,
    ) -> Result<(), String> {
        if !self.under_way.remove(&flight) || limit == 0 {
            return Ok(());
        }
        let sizes: Vec<u64> =
            fetched.iter().flat_map(|fetched| fetched.instances.iter().flatten()).map(text).collect();
        self.largest = sizes.iter().copied().fold(self.largest, u64::max);
        self.arrived.push_back((now, sizes.iter().sum()));
        self.arrived.retain(|(at, _)| at + SECOND > now);
        let second: u64 = self.arrived.iter().map(|(_, bytes)| bytes).sum();
        if second > limit + self.largest {
            return Err(format!("prefetches brought {second} bytes in a second, of {limit} at most"));
        }
        Ok(())
    }
}

/// Bytes of the text of its rows.
fn text(instance: &FetchedInstance) -> u64 {
    instance.rows.iter().flatten().flatten().map(|text| text.len() as u64 + 1).sum()
}
