/// Limits and thresholds of the core. Times in microseconds, sizes in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct EdgeConfig {
    /// Byte budget of the prefetch cache; 0 turns prefetching off.
    pub prefetch_bytes: usize,
    /// Byte budget of the reactive cache; 0 turns it off.
    pub reactive_bytes: usize,
    /// Schedule entries at or below this confidence are dropped.
    pub min_confidence: f64,
    /// How long before its window starts a schedule is acted on, in time of the schedule's clock.
    pub lead: i64,
    /// Without proof that the stream is at most this far behind, no copy is served as if it were fresh.
    pub max_staleness: u64,
    /// How long an answer over several shards waits for the stream to settle them before they are all fetched again
    /// in one snapshot.
    pub cut_wait: u64,
    /// A request that has no answer by then is refused.
    pub request_timeout: u64,
    /// A request waits at most this long for the stream to reach the position it asks for.
    pub min_lsn_wait: u64,
    /// Most prefetch fetches under way at once.
    pub prefetch_concurrency: usize,
    /// Bytes that prefetches may bring in any second; 0: no limit.
    pub prefetch_bytes_per_second: u64,
    /// Most fetches on demand under way at once; further ones wait for their turn.
    pub fetch_concurrency: usize,
    /// Most instances asked for in one prefetch fetch.
    pub prefetch_batch: usize,
    /// Most requests waiting at once; beyond it they are refused.
    pub max_waiting: usize,
    /// Most transactions remembered as streamed but not yet known to be visible; beyond it the oldest are merged into
    /// one entry that touches everything.
    pub max_unseen: usize,
    /// The same in bytes of what they touched and changed.
    pub unseen_bytes: usize,
    /// Byte budget of row changes kept for fetches whose snapshot lacks them; without a change, such a fetch is repeated.
    pub delta_buffer: usize,
}

impl Default for EdgeConfig {
    fn default() -> Self {
        EdgeConfig {
            prefetch_bytes: 256 << 20,
            reactive_bytes: 64 << 20,
            min_confidence: 0.2,
            lead: 60_000_000,
            max_staleness: 5_000_000,
            cut_wait: 30_000,
            request_timeout: 15_000_000,
            min_lsn_wait: 2_000_000,
            prefetch_concurrency: 4,
            prefetch_bytes_per_second: 0,
            fetch_concurrency: 256,
            prefetch_batch: 16,
            max_waiting: 10_000,
            max_unseen: 100_000,
            unseen_bytes: 64 << 20,
            delta_buffer: 16 << 20,
        }
    }
}
