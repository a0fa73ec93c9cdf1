use std::collections::HashMap;

use foreshard_protocol::ShardName;

use super::budget::Expected;
use super::extreme::Extreme;

/// What fetches cost and copies save, learned from the fetches that were made.
///
/// A fetch takes a round trip plus the time its bytes need on the link. Both are taken from the best fetches seen lately,
/// because only those show the link and the origin rather than their queues.
pub(crate) struct Costs {
    shards: HashMap<ShardName, Size>,
    all: Size,
    /// Text that an instance brings over the link, by shard, and of all.
    texts: HashMap<ShardName, Most>,
    all_texts: Most,
    round_trip: Extreme,
    /// Bytes per microsecond.
    bandwidth: Extreme,
}

/// Bytes of a copy: a forgetting mean and mean deviation.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    mean: f64,
    deviation: f64,
    seen: u64,
}

/// The most that was seen, slowly forgotten.
#[derive(Clone, Copy, Debug, Default)]
struct Most {
    bytes: u64,
    /// The newest was more than was expected.
    surprised: bool,
}

impl Most {
    fn add(&mut self, bytes: u64) {
        let expected = self.expected();
        self.surprised = self.bytes > 0 && bytes > expected;
        self.bytes = bytes.max(self.bytes - self.bytes.saturating_sub(bytes) / 64);
    }

    /// Copies grow: a little more than the most there was.
    fn expected(&self) -> u64 {
        self.bytes + self.bytes / 4 + 16
    }
}

/// Share of the newest value in a mean, once there are enough of them.
const FORGET: f64 = 0.05;
/// A smaller fetch says little about bandwidth.
const TELLS_BANDWIDTH: u64 = 16 << 10;
/// Bytes of a copy of which nothing is known yet.
const UNKNOWN_BYTES: u64 = 4 << 10;
/// Shards of which sizes are kept; beyond it the mean of all counts.
const MAX_SHARDS: usize = 10_000;

impl Size {
    fn add(&mut self, bytes: f64) {
        self.seen += 1;
        if self.seen == 1 {
            self.mean = bytes;
        }
        let share = FORGET.max(1.0 / self.seen as f64);
        self.deviation += share * ((bytes - self.mean).abs() - self.deviation);
        self.mean += share * (bytes - self.mean);
    }
}

impl Costs {
    pub(crate) fn new() -> Self {
        Costs {
            shards: HashMap::new(),
            all: Size::default(),
            texts: HashMap::new(),
            all_texts: Most::default(),
            round_trip: Extreme::smallest(),
            bandwidth: Extreme::largest(),
        }
    }

    /// A copy of a shard came in.
    pub(crate) fn copy(&mut self, shard: &str, bytes: usize) {
        self.all.add(bytes as f64);
        if let Some(size) = self.shards.get_mut(shard) {
            size.add(bytes as f64);
        } else if self.shards.len() < MAX_SHARDS {
            self.shards.entry(shard.to_owned()).or_default().add(bytes as f64);
        }
    }

    /// An instance of a shard came in with this much text.
    pub(crate) fn text(&mut self, shard: &str, bytes: u64) {
        self.all_texts.add(bytes);
        if let Some(most) = self.texts.get_mut(shard) {
            most.add(bytes);
        } else if self.texts.len() < MAX_SHARDS {
            self.texts.entry(shard.to_owned()).or_default().add(bytes);
        }
    }

    /// The text that an instance of this shard will bring. That is not sure before one was seen, nor after one brought more.
    pub(crate) fn expected_text(&self, shard: &str) -> Expected {
        match self.texts.get(shard) {
            Some(most) => Expected { bytes: most.expected(), sure: !most.surprised },
            None => Expected { bytes: self.all_texts.expected().max(UNKNOWN_BYTES), sure: false },
        }
    }

    /// A fetch of `bytes` took `took` microseconds.
    pub(crate) fn fetch(&mut self, now: u64, bytes: u64, took: u64) {
        let took = took.max(1) as f64;
        self.round_trip.add(now, took);
        if bytes >= TELLS_BANDWIDTH {
            // Where the round trip is nearly all of it, the rest is noise and would look like an endless bandwidth.
            let moving = (took - self.round_trip.get().unwrap_or(0.0)).max(took * 0.1);
            self.bandwidth.add(now, bytes as f64 / moving);
        }
    }

    /// Bytes that a copy of this shard probably has.
    pub(crate) fn bytes(&self, shard: &str) -> u64 {
        self.size(shard).map_or(UNKNOWN_BYTES, |size| size.mean as u64)
    }

    /// Bytes that a copy of this shard hardly exceeds; `None` if none was seen.
    pub(crate) fn bytes_at_most(&self, shard: &str) -> Option<u64> {
        self.shards.get(shard).map(|size| (size.mean + 4.0 * size.deviation) as u64)
    }

    fn size(&self, shard: &str) -> Option<&Size> {
        self.shards.get(shard).or(Some(&self.all).filter(|all| all.seen > 0))
    }

    /// Microseconds that a fetch of so many bytes takes when nothing is in its way; `None` before the first one.
    pub(crate) fn fetch_time(&self, bytes: u64) -> Option<u64> {
        Some((self.round_trip.get()? + self.moving_time(bytes)) as u64)
    }

    fn moving_time(&self, bytes: u64) -> f64 {
        self.bandwidth.get().map_or(0.0, |bandwidth| bytes as f64 / bandwidth)
    }

    /// Microseconds of waiting that a copy saves the function that finds it, per byte that it costs.
    pub(crate) fn density(&self, shard: &str, confidence: f64) -> f64 {
        let bytes = self.bytes(shard);
        let saved = self.fetch_time(bytes).unwrap_or(1).max(1) as f64;
        // What a copy costs besides its rows: a place in line, a statement, an entry.
        confidence * saved / (bytes as f64 + 512.0)
    }

    /// The probability of use above which fetching ahead pays: the share of the saved wait for which the link is kept busy,
    /// halved, since ahead of demand the link is mostly idle.
    pub(crate) fn worth_it_above(&self, shard: &str) -> f64 {
        let bytes = self.bytes(shard);
        match self.fetch_time(bytes) {
            Some(time) if time > 0 => 0.5 * self.moving_time(bytes) / time as f64,
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Costs {
        let mut costs = Costs::new();
        for _ in 0..20 {
            costs.copy("card", 1_000);
            costs.copy("board", 2_000_000);
            costs.fetch(0, 1_000, 80_000);
            // 10 bytes per microsecond behind a round trip of 80 ms.
            costs.fetch(0, 2_000_000, 280_000);
        }
        costs
    }

    #[test]
    fn sizes_and_times_are_learned() {
        let costs = known();
        assert_eq!((costs.bytes("card"), costs.bytes("board")), (1_000, 2_000_000));
        assert_eq!(costs.bytes_at_most("card"), Some(1_000));
        assert_eq!(costs.bytes_at_most("never"), None);
        assert_eq!(costs.fetch_time(1_000), Some(80_100));
        assert_eq!(costs.fetch_time(2_000_000), Some(280_000));
        assert!((900_000..1_100_000).contains(&costs.bytes("never")), "the mean of all");
    }

    #[test]
    fn a_size_is_sure_once_it_was_seen_and_until_it_is_exceeded() {
        let mut costs = Costs::new();
        assert_eq!(costs.expected_text("s"), Expected { bytes: UNKNOWN_BYTES, sure: false });
        costs.text("s", 1_000);
        assert_eq!(costs.expected_text("s"), Expected { bytes: 1_266, sure: true });
        costs.text("s", 2_000);
        assert_eq!(costs.expected_text("s"), Expected { bytes: 2_516, sure: false });
        costs.text("s", 1_900);
        assert!(costs.expected_text("s").sure);
        (0..1_000).for_each(|_| costs.text("s", 100));
        assert!(costs.expected_text("s").bytes < 300, "what was large once is forgotten");
    }

    #[test]
    fn a_small_copy_is_worth_more_per_byte_and_pays_sooner() {
        let costs = known();
        assert!(costs.density("card", 0.3) > 100.0 * costs.density("board", 0.9));
        assert!(costs.worth_it_above("card") < 0.01);
        assert!((0.3..0.5).contains(&costs.worth_it_above("board")));
    }

    #[test]
    fn knowing_nothing_everything_is_worth_its_confidence() {
        let costs = Costs::new();
        assert_eq!(costs.worth_it_above("card"), 0.0);
        assert!(costs.density("card", 0.9) > costs.density("card", 0.3));
        assert_eq!(costs.fetch_time(10), None);
    }
}
