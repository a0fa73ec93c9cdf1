use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foreshard_protocol::{Lsn, ShardName};
use lru::LruCache;

use crate::copy::ShardCopy;

/// Copies by instance id, least recently used first to go, never above a byte budget.
pub(crate) struct Cache {
    entries: LruCache<Arc<str>, Entry>,
    by_shard: HashMap<ShardName, HashSet<Arc<str>>>,
    bytes: usize,
    unused_bytes: usize,
    budget: usize,
}

struct Entry {
    copy: Arc<ShardCopy>,
    shard: ShardName,
    used: bool,
}

/// A copy that left the cache.
pub(crate) struct Removed {
    pub(crate) instance: Arc<str>,
    pub(crate) bytes: usize,
    pub(crate) used: bool,
}

impl Cache {
    pub(crate) fn new(budget: usize) -> Self {
        Cache { entries: LruCache::unbounded(), by_shard: HashMap::new(), bytes: 0, unused_bytes: 0, budget }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of copies that have not been served since they came.
    pub(crate) fn unused_bytes(&self) -> usize {
        self.unused_bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn has_room_for(&self, bytes: usize) -> bool {
        self.bytes + bytes <= self.budget
    }

    pub(crate) fn peek(&self, instance: &str) -> Option<&Arc<ShardCopy>> {
        self.entries.peek(instance).map(|entry| &entry.copy)
    }

    /// Notes that the copy is being served.
    pub(crate) fn touch(&mut self, instance: &str) {
        if let Some(entry) = self.entries.get_mut(instance)
            && !entry.used
        {
            entry.used = true;
            self.unused_bytes -= entry.copy.bytes();
        }
    }

    /// Stores a copy and returns what had to go for it. A copy larger than the budget is not stored.
    pub(crate) fn insert(
        &mut self,
        shard: &str,
        copy: Arc<ShardCopy>,
        mut evictable: impl FnMut(&str) -> bool,
    ) -> Vec<Removed> {
        let mut out: Vec<Removed> = self.remove(&copy.instance).into_iter().collect();
        if copy.bytes() > self.budget {
            return out;
        }
        if !self.has_room_for(copy.bytes()) {
            let mut room = self.budget - self.bytes;
            let mut victims = Vec::new();
            // `iter` goes from the most to the least recently used.
            for (instance, entry) in self.entries.iter().rev() {
                if room >= copy.bytes() {
                    break;
                }
                if evictable(instance) {
                    room += entry.copy.bytes();
                    victims.push(instance.clone());
                }
            }
            if room < copy.bytes() {
                return out;
            }
            out.extend(victims.iter().filter_map(|instance| self.remove(instance)));
        }
        self.bytes += copy.bytes();
        self.unused_bytes += copy.bytes();
        self.by_shard.entry(shard.to_owned()).or_default().insert(copy.instance.clone());
        self.entries.put(copy.instance.clone(), Entry { copy, shard: shard.to_owned(), used: false });
        out
    }

    pub(crate) fn remove(&mut self, instance: &str) -> Option<Removed> {
        let (instance, entry) = self.entries.pop_entry(instance)?;
        if let Some(instances) = self.by_shard.get_mut(&entry.shard) {
            instances.remove(&instance);
            if instances.is_empty() {
                self.by_shard.remove(&entry.shard);
            }
        }
        let bytes = entry.copy.bytes();
        self.bytes -= bytes;
        if !entry.used {
            self.unused_bytes -= bytes;
        }
        Some(Removed { instance, bytes, used: entry.used })
    }

    pub(crate) fn instances_of(&self, shard: &str) -> Vec<Arc<str>> {
        self.by_shard.get(shard).into_iter().flatten().cloned().collect()
    }

    /// Copies that hold what the stream has not delivered up to `position`.
    pub(crate) fn ahead_of(&self, position: Lsn) -> Vec<Arc<str>> {
        let ahead = self.entries.iter().filter(|(_, entry)| entry.copy.settled_at > position);
        ahead.map(|(instance, _)| instance.clone()).collect()
    }

    pub(crate) fn clear(&mut self) -> Vec<Removed> {
        let all: Vec<Arc<str>> = self.entries.iter().map(|(instance, _)| instance.clone()).collect();
        all.iter().filter_map(|instance| self.remove(instance)).collect()
    }
}

#[cfg(test)]
mod tests {
    use foreshard_protocol::{Column, ColumnKind, Snapshot};
    use proptest::prelude::*;

    use super::*;

    fn copy(instance: &str, width: usize) -> Arc<ShardCopy> {
        let columns = vec![Column { name: "v".into(), kind: ColumnKind::Text }];
        let rows = vec![vec![Some("x".repeat(width))]];
        Arc::new(ShardCopy::new(instance.into(), columns, rows, Arc::new(Snapshot::default()), Lsn(0), 0, 0))
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let one = copy("s?k=1", 100).bytes();
        let mut cache = Cache::new(one * 2);
        cache.insert("s", copy("s?k=1", 100), |_| true);
        cache.insert("s", copy("s?k=2", 100), |_| true);
        cache.touch("s?k=1");
        let gone = cache.insert("s", copy("s?k=3", 100), |_| true);
        assert_eq!(gone.iter().map(|r| &*r.instance).collect::<Vec<_>>(), ["s?k=2"]);
        assert!(!gone[0].used);
        assert!(cache.peek("s?k=1").is_some() && cache.peek("s?k=3").is_some());
    }

    #[test]
    fn protected_copies_stay_and_the_new_one_is_refused() {
        let one = copy("s?k=1", 100).bytes();
        let mut cache = Cache::new(one);
        cache.insert("s", copy("s?k=1", 100), |_| true);
        assert!(cache.insert("s", copy("s?k=2", 100), |_| false).is_empty());
        assert!(cache.peek("s?k=1").is_some() && cache.peek("s?k=2").is_none());
    }

    proptest! {
        #[test]
        fn never_above_budget_and_the_sums_are_right(steps in prop::collection::vec((0u8..12, 0usize..300, any::<bool>()), 0..120)) {
            let budget = 1500;
            let mut cache = Cache::new(budget);
            for (k, width, touch) in steps {
                let id = format!("s{}?k={k}", k % 3);
                if touch { cache.touch(&id) } else { cache.insert(&format!("s{}", k % 3), copy(&id, width), |_| true); }
                let sum: usize = cache.entries.iter().map(|(_, e)| e.copy.bytes()).sum();
                let unused: usize = cache.entries.iter().filter(|(_, e)| !e.used).map(|(_, e)| e.copy.bytes()).sum();
                prop_assert_eq!(sum, cache.bytes());
                prop_assert_eq!(unused, cache.unused_bytes());
                prop_assert!(sum <= budget);
                let listed: usize = (0..3).map(|s| cache.instances_of(&format!("s{s}")).len()).sum();
                prop_assert_eq!(listed, cache.len());
            }
        }
    }
}
