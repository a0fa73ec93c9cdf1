use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use foreshard_protocol::{Lsn, RowChange, ShardName};
use lru::LruCache;

use crate::copy::ShardCopy;
use crate::deltas::Refused;

/// Copies by instance id, least recently used first to go, never above a byte budget.
pub(crate) struct Cache {
    entries: LruCache<Arc<str>, Entry>,
    by_shard: HashMap<ShardName, BTreeSet<Arc<str>>>,
    bytes: usize,
    unused_bytes: usize,
    budget: usize,
    /// Instances that came, changed or went since they were last taken, where that matters.
    changed: Option<HashSet<Arc<str>>>,
}

struct Entry {
    copy: Arc<ShardCopy>,
    shard: ShardName,
    used: bool,
    /// How often it was served from here.
    hits: u32,
}

/// A copy that left the cache.
pub(crate) struct Removed {
    pub(crate) instance: Arc<str>,
    pub(crate) bytes: usize,
    pub(crate) used: bool,
    pub(crate) hits: u32,
}

impl Cache {
    pub(crate) fn new(budget: usize) -> Self {
        Cache {
            entries: LruCache::unbounded(),
            by_shard: HashMap::new(),
            bytes: 0,
            unused_bytes: 0,
            budget,
            changed: None,
        }
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

    /// Notes that the copy is being used.
    pub(crate) fn touch(&mut self, instance: &str) {
        if let Some(entry) = self.entries.get_mut(instance)
            && !entry.used
        {
            entry.used = true;
            self.unused_bytes -= entry.copy.bytes();
        }
    }

    /// Notes that the copy was served from here.
    pub(crate) fn hit(&mut self, instance: &str) {
        if let Some(entry) = self.entries.peek_mut(instance) {
            entry.hits = entry.hits.saturating_add(1);
        }
    }

    /// Applies changes to the copy of an instance that is held. Gives what had to go because the copy grew; where the changes
    /// are refused, the copy is among it.
    pub(crate) fn apply(
        &mut self,
        instance: &str,
        changes: &[RowChange],
        mut evictable: impl FnMut(&str) -> bool,
    ) -> (Result<(), Refused>, Vec<Removed>) {
        let Some(entry) = self.entries.peek_mut(instance) else { return (Ok(()), Vec::new()) };
        if let Some(changed) = &mut self.changed {
            changed.insert(entry.copy.instance.clone());
        }
        let before = entry.copy.bytes();
        let applied = ShardCopy::apply(&mut entry.copy, changes);
        let after = entry.copy.bytes();
        self.bytes = self.bytes - before + after;
        if !entry.used {
            self.unused_bytes = self.unused_bytes - before + after;
        }
        if applied.is_err() {
            return (applied, self.remove(instance).into_iter().collect());
        }
        let mut out = Vec::new();
        if self.bytes > self.budget {
            let (mut over, mut victims) = (self.bytes - self.budget, Vec::new());
            for (other, entry) in self.entries.iter().rev() {
                if over == 0 {
                    break;
                }
                if **other != *instance && evictable(other) {
                    over = over.saturating_sub(entry.copy.bytes());
                    victims.push(other.clone());
                }
            }
            if over > 0 {
                return (Err(Refused::Budget), self.remove(instance).into_iter().collect());
            }
            out.extend(victims.iter().filter_map(|victim| self.remove(victim)));
        }
        (Ok(()), out)
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
        if let Some(changed) = &mut self.changed {
            changed.insert(copy.instance.clone());
        }
        self.bytes += copy.bytes();
        self.unused_bytes += copy.bytes();
        self.by_shard.entry(shard.to_owned()).or_default().insert(copy.instance.clone());
        self.entries
            .put(copy.instance.clone(), Entry { copy, shard: shard.to_owned(), used: false, hits: 0 });
        out
    }

    pub(crate) fn remove(&mut self, instance: &str) -> Option<Removed> {
        let (instance, entry) = self.entries.pop_entry(instance)?;
        if let Some(changed) = &mut self.changed {
            changed.insert(instance.clone());
        }
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
        Some(Removed { instance, bytes, used: entry.used, hits: entry.hits })
    }

    /// Notes from now on what changes, beginning with everything that is here; or no longer.
    pub(crate) fn track(&mut self, on: bool) {
        self.changed = on.then(|| self.entries.iter().map(|(instance, _)| instance.clone()).collect());
    }

    /// What has changed since this was last asked.
    pub(crate) fn take_changed(&mut self) -> HashSet<Arc<str>> {
        self.changed.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// To be told again the next time.
    pub(crate) fn changed_again(&mut self, instances: Vec<Arc<str>>) {
        if let Some(changed) = &mut self.changed {
            changed.extend(instances);
        }
    }

    pub(crate) fn instances_of(&self, shard: &str) -> Vec<Arc<str>> {
        self.by_shard.get(shard).into_iter().flatten().cloned().collect()
    }

    /// Takes a copy out, with its shard, to be put somewhere else.
    pub(crate) fn take(&mut self, instance: &str) -> Option<(ShardName, Arc<ShardCopy>)> {
        let entry = self.entries.peek(instance)?;
        let taken = (entry.shard.clone(), entry.copy.clone());
        self.remove(instance);
        Some(taken)
    }

    pub(crate) fn instances(&self) -> impl Iterator<Item = &Arc<str>> {
        self.entries.iter().map(|(instance, _)| instance)
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
    use foreshard_protocol::{Column, ColumnKind, Comparison, RowOrder, Snapshot};
    use proptest::prelude::*;

    use super::*;
    use crate::copy::Layout;

    fn copy(instance: &str, width: usize) -> Arc<ShardCopy> {
        let columns = vec![Column { name: "v".into(), kind: ColumnKind::Text }];
        let order = RowOrder::By(vec![(0, Comparison::Bytes)]);
        let layout = Arc::new(Layout::new(1, columns, vec![0], order));
        let rows = vec![vec![Some("x".repeat(width))]];
        Arc::new(ShardCopy::new(instance.into(), layout, rows, Arc::new(Snapshot::default()), Lsn(0), 0, 0))
    }

    fn put(text: String) -> RowChange {
        RowChange::Put { row: vec![Some(text)] }
    }

    #[test]
    fn a_copy_that_grows_pushes_others_out_or_goes() {
        let one = copy("s?k=1", 100).bytes();
        let mut cache = Cache::new(one * 2 + 100);
        cache.insert("s", copy("s?k=1", 100), |_| true);
        cache.insert("s", copy("s?k=2", 100), |_| true);
        let (result, gone) = cache.apply("s?k=2", &[put("y".repeat(100))], |_| true);
        assert_eq!((result, gone.len(), cache.len()), (Ok(()), 1, 1));
        assert_eq!(cache.bytes(), cache.peek("s?k=2").unwrap().bytes());
        let (result, gone) = cache.apply("s?k=2", &[put("z".repeat(1_000))], |_| true);
        assert_eq!((result, gone.len()), (Err(Refused::Budget), 1));
        assert_eq!((cache.bytes(), cache.unused_bytes()), (0, 0));
    }

    #[test]
    fn an_answer_that_holds_a_copy_keeps_what_it_was_given() {
        let mut cache = Cache::new(10_000);
        cache.insert("s", copy("s", 3), |_| true);
        let given = cache.peek("s").unwrap().clone();
        let _ = given.body();
        assert_eq!(cache.apply("s", &[put("y".into())], |_| true).0, Ok(()));
        assert_eq!((given.rows.len(), cache.peek("s").unwrap().rows.len()), (1, 2));
        assert_eq!(&given.body().json[..], b"[{\"v\":\"xxx\"}]");
        assert_eq!(&cache.peek("s").unwrap().body().json[..], b"[{\"v\":\"xxx\"},{\"v\":\"y\"}]");
        assert_eq!(cache.peek("s").unwrap().fetch, None);
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
        fn never_above_budget_and_the_sums_are_right(steps in prop::collection::vec((0u8..12, 0usize..300, 0u8..4), 0..120)) {
            let budget = 1500;
            let mut cache = Cache::new(budget);
            for (k, width, kind) in steps {
                let id = format!("s{}?k={k}", k % 3);
                match kind {
                    0 => cache.touch(&id),
                    1 => drop(cache.apply(&id, &[put("y".repeat(width))], |_| true)),
                    _ => drop(cache.insert(&format!("s{}", k % 3), copy(&id, width), |_| true)),
                }
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
