//! What kind of world a seed gets: speeds, faults, sizes.

use foreshard_edge::EdgeConfig;
use foreshard_protocol::Xid;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Probabilities, and durations in microseconds.
#[derive(Debug)]
pub(crate) struct Profile {
    pub(crate) config: EdgeConfig,
    pub(crate) first_xid: Xid,
    /// One way between edge and origin.
    pub(crate) link: u64,
    /// Until a commit that is not delayed becomes visible.
    pub(crate) visibility: u64,
    /// A commit becomes visible much later, as without its synchronous standby.
    pub(crate) hang: f64,
    pub(crate) asynchronous_commit: f64,
    pub(crate) fetch_error: f64,
    /// Between two transactions, and between two requests.
    pub(crate) write_pause: u64,
    pub(crate) request_pause: u64,
    pub(crate) stream_pause: u64,
    /// A pause of the stream that is much longer.
    pub(crate) stall: f64,
    /// Of one fault draw, made every 20 ms.
    pub(crate) disconnect: f64,
    /// How long the stream is away at most after it was cut.
    pub(crate) outage: u64,
    pub(crate) kill_edge: f64,
    pub(crate) crash_origin: f64,
    pub(crate) lose_slot: f64,
    pub(crate) restore: f64,
    pub(crate) catalog_change: f64,
    /// The edge asks for changes of rows.
    pub(crate) deltas: bool,
    pub(crate) busy_until: u64,
}

impl Profile {
    pub(crate) fn draw(rng: &mut ChaCha8Rng) -> Self {
        let tiny = rng.random_bool(0.25);
        let budget = |rng: &mut ChaCha8Rng| match tiny {
            true => [0, 900, 4_000][rng.random_range(0..3)],
            false => 1 << 20,
        };
        let faulty = rng.random_bool(0.7);
        let fault = |rng: &mut ChaCha8Rng, most: f64| match faulty && rng.random_bool(0.6) {
            true => rng.random_range(0.0..most),
            false => 0.0,
        };
        Profile {
            config: EdgeConfig {
                prefetch_bytes: budget(rng),
                reactive_bytes: budget(rng),
                min_confidence: 0.2,
                lead: 20_000,
                max_staleness: rng.random_range(150_000..400_000),
                cut_wait: [0, 2_000, 20_000][rng.random_range(0..3)],
                request_timeout: rng.random_range(100_000..400_000),
                min_lsn_wait: [1_000, 15_000, rng.random_range(50_000..400_000)][rng.random_range(0..3)],
                prefetch_concurrency: rng.random_range(1..5),
                prefetch_bytes_per_second: [0, 0, 2_000, 200_000][rng.random_range(0..4)],
                fetch_concurrency: [1, 3, 1_000, 1_000][rng.random_range(0..4)],
                prefetch_batch: rng.random_range(1..6),
                max_waiting: if tiny { 5 } else { 1_000 },
                max_unseen: [1, 4, 1_000, 1_000][rng.random_range(0..4)],
                unseen_bytes: [500, 3_000, 1 << 20, 1 << 20][rng.random_range(0..4)],
                delta_buffer: [0, 600, 1 << 20, 1 << 20][rng.random_range(0..4)],
            },
            // Around the wrap of the 32-bit counter in some worlds.
            first_xid: [1_000, (1 << 32) - 30, 5 << 32][rng.random_range(0..3)],
            link: [100, 1_000, 10_000][rng.random_range(0..3)],
            visibility: [50, 1_000, 8_000][rng.random_range(0..3)],
            hang: [0.0, 0.02, 0.15][rng.random_range(0..3)],
            asynchronous_commit: [0.0, 0.3][rng.random_range(0..2)],
            fetch_error: fault(rng, 0.2),
            write_pause: [500, 2_000, 8_000][rng.random_range(0..3)],
            request_pause: [500, 2_000, 6_000][rng.random_range(0..3)],
            stream_pause: [100, 1_000, 6_000][rng.random_range(0..3)],
            stall: [0.0, 0.0, 0.01][rng.random_range(0..3)],
            disconnect: fault(rng, 0.3),
            outage: [60_000, 60_000, 600_000][rng.random_range(0..3)],
            kill_edge: fault(rng, 0.2),
            crash_origin: fault(rng, 0.2),
            lose_slot: fault(rng, 0.15),
            restore: fault(rng, 0.15),
            catalog_change: [0.0, 0.05, 0.3][rng.random_range(0..3)],
            deltas: rng.random_bool(0.8),
            busy_until: rng.random_range(250_000..600_000),
        }
    }
}
