//! The log replayed against caches as edges have them: what is found there, under the definitions as they are and as they would
//! be. No prefetching: what a better definition is worth alone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use lru::LruCache;

use super::Access;
use super::origin::{Definitions, Shard};
use super::usage::{is_instance_of, shard_of};

/// One instance that an execution needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Read {
    /// Number of the shard.
    pub(super) shard: u32,
    /// Hash of the instance.
    pub(super) instance: u64,
    /// Bytes of its copy.
    pub(super) bytes: f64,
    /// How often per second changes that can't be applied to copies make an edge drop it.
    pub(super) dropped: f64,
}

/// What another definition makes of a read; `None`: nothing is needed any more.
pub(super) type Remake<'a> = Box<dyn Fn(&Access, Read) -> Option<Read> + 'a>;

/// What came of a replay for the reads concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Outcome {
    pub(super) hit_ratio: f64,
    /// Bytes of all distinct instances read, at the edge where that is most.
    pub(super) bytes_per_edge: f64,
}

/// A log that can be replayed.
pub(super) struct Replay<'a> {
    accesses: Vec<(&'a Access, Vec<Read>)>,
    shards: HashMap<&'a str, u32>,
    edge_bytes: f64,
    hasher: RandomState,
    /// What every proposal so far makes of the reads of these shards.
    proposed: Vec<(Vec<u32>, Remake<'a>)>,
}

impl<'a> Replay<'a> {
    pub(super) fn new(definitions: &'a Definitions, accesses: &'a [Access], edge_bytes: u64) -> Self {
        let shards: HashMap<&str, u32> =
            definitions.shards.iter().zip(0..).map(|(s, i)| (s.name.as_str(), i)).collect();
        let sizes: Vec<(f64, f64)> =
            definitions.shards.iter().map(|s| (definitions.copy_bytes(s), drops(definitions, s))).collect();
        let hasher = RandomState::new();
        let mut replayed: Vec<(&Access, Vec<Read>)> = Vec::with_capacity(accesses.len());
        for access in accesses {
            let mut reads = Vec::new();
            for instance in &access.instances {
                let Some(&shard) = shards.get(&*shard_of(instance)) else { continue };
                let of = &definitions.shards[shard as usize];
                if access.age < of.age && is_instance_of(instance, of) {
                    let (bytes, dropped) = sizes[shard as usize];
                    reads.push(Read { shard, instance: hasher.hash_one(instance), bytes, dropped });
                }
            }
            if !reads.is_empty() {
                replayed.push((access, reads));
            }
        }
        replayed.sort_by_key(|(access, _)| access.at);
        Replay { accesses: replayed, shards, edge_bytes: edge_bytes as f64, hasher, proposed: Vec::new() }
    }

    /// A number for an instance that is told by these texts.
    pub(super) fn hash(&self, of: &[&str]) -> u64 {
        self.hasher.hash_one(of)
    }

    /// As it is, for the reads of these shards.
    pub(super) fn as_is(&self, shards: &[&str]) -> Outcome {
        self.run(&self.numbers(shards), &|_, read| Some(read))
    }

    /// As it would be for the reads of these shards if something became of them.
    pub(super) fn if_remade(&self, shards: &[&str], remake: &Remake<'_>) -> Outcome {
        self.run(&self.numbers(shards), remake)
    }

    /// Takes a change of the reads of these shards into what is proposed.
    pub(super) fn propose(&mut self, shards: &[&str], remake: Remake<'a>) {
        let numbers = self.numbers(shards);
        self.proposed.push((numbers, remake));
    }

    /// The hit ratio of all reads: as it is, and with everything that was proposed.
    pub(super) fn with_everything(&self) -> (f64, f64) {
        let all: Vec<u32> = self.shards.values().copied().collect();
        let as_is = self.run(&all, &|_, read| Some(read));
        let remade = self.run(&all, &|access, read| {
            let of_shard = self.proposed.iter().filter(|(shards, _)| shards.contains(&read.shard));
            of_shard.into_iter().try_fold(read, |read, (_, remake)| remake(access, read))
        });
        (as_is.hit_ratio, remade.hit_ratio)
    }

    fn numbers(&self, shards: &[&str]) -> Vec<u32> {
        shards.iter().filter_map(|s| self.shards.get(s).copied()).collect()
    }

    fn run(&self, concerned: &[u32], remake: &dyn Fn(&Access, Read) -> Option<Read>) -> Outcome {
        let mut edges: BTreeMap<&str, (Cache, HashMap<u64, f64>)> = BTreeMap::new();
        let (mut found, mut asked) = (0u64, 0u64);
        let mut done = HashSet::new();
        for (access, reads) in &self.accesses {
            let (cache, needed) = edges
                .entry(access.edge.as_str())
                .or_insert_with(|| (Cache::new(self.edge_bytes), HashMap::new()));
            let at = access.at as f64 / 1000.0;
            let (mut hit, mut counts) = (true, false);
            done.clear();
            for &read in reads {
                let concerns = concerned.contains(&read.shard);
                let read = if concerns { remake(access, read) } else { Some(read) };
                counts |= concerns;
                // What became one instance is asked for once.
                let Some(read) = read.filter(|r| done.insert(r.instance)) else { continue };
                let there = cache.read(read, at);
                if concerns {
                    hit &= there;
                    needed.insert(read.instance, read.bytes);
                }
            }
            if counts {
                asked += 1;
                found += u64::from(hit);
            }
        }
        let most = edges.values().map(|(_, needed)| needed.values().sum::<f64>()).fold(0.0, f64::max);
        Outcome { hit_ratio: found as f64 / asked.max(1) as f64, bytes_per_edge: most }
    }
}

/// How often per second a shard's copies are dropped because a change can't be applied to them: one whose old row does not
/// tell the instance, or one of a row that nothing tells from others.
pub(super) fn drops(definitions: &Definitions, shard: &Shard) -> f64 {
    let Some(table) = definitions.table_of(shard) else { return 0.0 };
    let covered = |column: &String| table.identity.as_ref().is_none_or(|covered| covered.contains(column));
    if table.primary_key.is_empty() {
        let instances = if shard.key.is_empty() { 1.0 } else { table.combinations(&shard.key) };
        let concerned = if shard.key.iter().all(covered) { instances } else { 1.0 };
        return (table.inserts + table.rewrites) / concerned;
    }
    if shard.key.iter().all(covered) { 0.0 } else { table.rewrites }
}

/// Copies at an edge: as in `foreshard serve`, those never served again go first, the least recently used before others, and
/// those that were have four fifths of the room.
struct Cache {
    fresh: LruCache<u64, Held>,
    proved: LruCache<u64, Held>,
    bytes: f64,
    proved_bytes: f64,
    room: f64,
}

#[derive(Clone, Copy)]
struct Held {
    bytes: f64,
    /// Seconds.
    since: f64,
}

impl Cache {
    fn new(room: f64) -> Self {
        Cache {
            fresh: LruCache::unbounded(),
            proved: LruCache::unbounded(),
            bytes: 0.0,
            proved_bytes: 0.0,
            room,
        }
    }

    /// Whether a copy is there; else it is fetched.
    fn read(&mut self, read: Read, at: f64) -> bool {
        if self.proved.get(&read.instance).is_some() {
            // Copies in use are fetched again as soon as they were dropped.
            return true;
        }
        if let Some(held) = self.fresh.pop(&read.instance) {
            let epoch = |time: f64| (time * read.dropped).floor();
            if epoch(at) == epoch(held.since) {
                self.proved_bytes += held.bytes;
                self.proved.put(read.instance, held);
                while self.proved_bytes > 0.8 * self.room && self.proved.len() > 1 {
                    let Some((instance, held)) = self.proved.pop_lru() else { break };
                    self.proved_bytes -= held.bytes;
                    self.fresh.put(instance, held);
                }
                return true;
            }
            self.bytes -= held.bytes;
        }
        if read.bytes <= self.room {
            while self.bytes + read.bytes > self.room {
                let gone = self.fresh.pop_lru().or_else(|| {
                    let gone = self.proved.pop_lru()?;
                    self.proved_bytes -= gone.1.bytes;
                    Some(gone)
                });
                let Some((_, gone)) = gone else { break };
                self.bytes -= gone.bytes;
            }
            self.bytes += read.bytes;
            self.fresh.put(read.instance, Held { bytes: read.bytes, since: at });
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(instance: u64, bytes: f64) -> Read {
        Read { shard: 0, instance, bytes, dropped: 0.0 }
    }

    #[test]
    fn a_copy_larger_than_the_room_is_never_there() {
        let mut cache = Cache::new(100.0);
        assert!((0..5).all(|at| !cache.read(read(1, 101.0), f64::from(at))));
        assert!(!cache.read(read(2, 100.0), 9.0));
        assert!(cache.read(read(2, 100.0), 10.0));
    }

    #[test]
    fn single_reads_leave_what_is_read_again() {
        let mut cache = Cache::new(100.0);
        cache.read(read(1, 50.0), 0.0);
        cache.read(read(1, 50.0), 0.0);
        for other in 2..50 {
            assert!(!cache.read(read(other, 20.0), 1.0));
        }
        assert!(cache.read(read(1, 50.0), 2.0));
    }

    #[test]
    fn copies_dropped_before_they_are_read_again_are_missed() {
        let mut cache = Cache::new(100.0);
        let often = Read { dropped: 1.0, ..read(1, 10.0) };
        assert!(!cache.read(often, 0.5));
        assert!(!cache.read(often, 1.5));
        assert!(cache.read(often, 1.9));
        assert!(cache.read(often, 7.0), "in use");
    }

    proptest! {
        #[test]
        fn never_more_than_there_is_room_for(reads in prop::collection::vec((0u64..20, 1u32..60), 0..200)) {
            let mut cache = Cache::new(100.0);
            let mut sizes = HashMap::new();
            for (instance, bytes) in reads {
                let bytes = f64::from(*sizes.entry(instance).or_insert(bytes));
                cache.read(read(instance, bytes), 0.0);
                let sum = |c: &LruCache<u64, Held>| c.iter().map(|(_, h)| h.bytes).sum::<f64>();
                let (fresh, proved) = (sum(&cache.fresh), sum(&cache.proved));
                prop_assert!((fresh + proved - cache.bytes).abs() < 1e-6 && cache.bytes <= 100.0 + 1e-6);
                prop_assert!((proved - cache.proved_bytes).abs() < 1e-6);
            }
        }
    }
}
