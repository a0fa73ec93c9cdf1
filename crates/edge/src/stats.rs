use std::collections::BTreeMap;

use crate::deltas::Refused;

/// What happened so far. Every field only grows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Shard copies served from the prefetch cache.
    pub served_prefetch: u64,
    /// Shard copies served from the reactive cache.
    pub served_reactive: u64,
    /// Shard copies that had to come from the origin while the request waited.
    pub served_origin: u64,
    /// Requests answered of a position that the stream had not reached.
    pub served_beyond: u64,
    /// Requests refused after they were accepted for waiting (time-out, origin out of reach).
    pub refused: u64,
    /// Stream frames applied.
    pub frames: u64,
    /// Frames that the stream sent again and that were already applied.
    pub frames_repeated: u64,
    /// Copies dropped because the origin changed.
    pub invalidated: u64,
    /// Of these, wanted ones that were fetched again, since a read before the next change was likely enough to pay for it.
    pub refreshed: u64,
    /// Of these, wanted ones that were let go, since it was not.
    pub let_go: u64,
    /// Copies kept current in place by row changes from the stream.
    pub deltas_applied: u64,
    /// Fetched instances completed with row changes that their snapshot lacked.
    pub deltas_completed: u64,
    /// Copies dropped because they could not take row changes, by reason.
    pub deltas_refused: BTreeMap<Refused, u64>,
    /// Copies on demand that a schedule turned out to want and that moved to the prefetch cache.
    pub promoted: u64,
    /// Fetched instances thrown away because their snapshot lacked a transaction that the stream had delivered.
    pub rejected_by_snapshot: u64,
    /// Bytes of copies fetched ahead of demand.
    pub prefetch_bytes: u64,
    /// Copies fetched ahead of demand.
    pub prefetch_copies: u64,
    /// Of these, tried although their schedule was not believed enough.
    pub explored: u64,
    /// Of the latter, served while they were wanted.
    pub explored_used: u64,
    /// Of all prefetched, bytes that left the cache without ever being served.
    pub prefetch_unused_bytes: u64,
    /// Bytes of copies fetched on demand.
    pub demand_bytes: u64,
    /// Fetches started ahead of demand, and on demand.
    pub prefetch_fetches: u64,
    /// Fetches started because a request waited.
    pub demand_fetches: u64,
    /// Fetches that failed as a whole (origin out of reach, time-out).
    pub fetch_errors: u64,
    /// Copies dropped to stay within a byte budget.
    pub evicted: u64,
    /// Schedules received.
    pub schedules: u64,
    /// Schedule entries dropped for low confidence, an unknown function or a malformed or unmapped shard.
    pub schedule_entries_dropped: u64,
    /// Times the origin that answered was not the one that was streamed.
    pub doubts: u64,
    /// Copies taken over from a predecessor.
    pub warm_copies: u64,
    /// Times all copies were dropped because the stream lost its past.
    pub resets: u64,
}
