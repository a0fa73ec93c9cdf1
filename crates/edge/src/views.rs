//! What can be asked of the core without changing it.

use std::sync::Arc;

use foreshard_protocol::{Lsn, Schedule};

use crate::cache::Cache;
use crate::core::EdgeCore;
use crate::definitions::Definitions;
use crate::now::Now;
use crate::requests::ServedFrom;
use crate::stats::Stats;

impl EdgeCore {
    /// Whether copies may be served: the stream is proved to be at most `max_staleness` behind.
    pub fn is_fresh(&self, now: Now) -> bool {
        !self.doubted
            && self
                .stream
                .fresh_as_of()
                .is_some_and(|at| now.mono.saturating_sub(at) <= self.config.max_staleness)
    }

    /// Whether requests can be answered from copies: definitions loaded, stream followed and fresh.
    pub fn is_ready(&self, now: Now) -> bool {
        self.definitions.ready() && self.is_fresh(now)
    }

    /// The position up to which the stream is applied; answers are stamped with one byte less, see `Stream::stamp`.
    pub fn applied(&self) -> Lsn {
        self.stream.position()
    }

    /// The position up to which the origin may forget; see `Stream::acknowledged`.
    pub fn acknowledged(&self) -> Lsn {
        if self.definitions.ready() {
            self.stream.acknowledged().min(self.durable_up_to())
        } else {
            Lsn::ZERO
        }
    }

    /// Counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Definitions.
    pub fn definitions(&self) -> &Definitions {
        &self.definitions
    }

    /// The schedule in force.
    pub fn schedule_in_force(&self, now: Now) -> Option<&Schedule> {
        self.agenda.in_force(now.trace)
    }

    /// Gauges by metric name: sizes, queue lengths, limits.
    pub fn gauges(&self, now: Now) -> Vec<(&'static str, f64)> {
        let (ahead, demand) = self.flights.counts();
        let behind =
            self.stream.fresh_as_of().map_or(f64::NAN, |at| now.mono.saturating_sub(at) as f64 / 1e6);
        vec![
            ("prefetch_cache_bytes", self.prefetch.bytes() as f64),
            ("prefetch_cache_copies", self.prefetch.len() as f64),
            ("prefetch_cache_unused_bytes", self.prefetch.unused_bytes() as f64),
            ("reactive_cache_bytes", self.reactive.bytes() as f64),
            ("reactive_cache_copies", self.reactive.len() as f64),
            ("fetches_under_way_prefetch", ahead as f64),
            ("fetches_under_way_demand", demand as f64),
            ("fetches_waiting_demand", self.flights.waiting() as f64),
            ("prefetch_fetch_limit", self.agent.limit(now.mono, demand + self.flights.waiting()) as f64),
            ("schedule_trust", self.agenda.trust()),
            ("prefetch_queue", self.agenda.waiting() as f64),
            ("requests_waiting", self.requests.pending.len() as f64),
            ("unseen_transactions", self.stream.unseen_len() as f64),
            ("delta_buffer_bytes", self.stream.delta_bytes() as f64),
            ("unseen_bytes", self.stream.unseen_bytes() as f64),
            ("refetches_paused", self.refetch.waiting() as f64),
            ("applied_lsn", self.stream.position().0 as f64),
            ("staleness_bound_seconds", behind),
        ]
    }

    /// Instances of a shard held here that `shows` lets through: id, cache, bytes, microseconds since it was fetched.
    pub fn held(
        &self,
        now: Now,
        shard: &str,
        most: usize,
        shows: impl Fn(&str) -> bool,
    ) -> Vec<(Arc<str>, ServedFrom, usize, u64)> {
        let of = |cache: &'_ Cache, from: ServedFrom| -> Vec<_> {
            let visible = cache.instances_of(shard).into_iter().filter(|instance| shows(instance));
            let found = visible.filter_map(|instance| {
                let copy = cache.peek(&instance)?;
                Some((instance, from, copy.bytes(), now.mono.saturating_sub(copy.fetched_at)))
            });
            found.take(most).collect()
        };
        let mut held = of(&self.prefetch, ServedFrom::Prefetch);
        held.extend(of(&self.reactive, ServedFrom::Reactive));
        held.truncate(most);
        held
    }
}
