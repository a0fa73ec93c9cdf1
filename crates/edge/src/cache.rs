use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use foreshard_protocol::{Lsn, RowChange, ShardName};
use lru::LruCache;

use crate::copy::ShardCopy;
use crate::deltas::Refused;

/// Copies by instance id, never above a byte budget.
///
/// What goes first: copies that are worth nothing now, those that were never served again before those that were, and of
/// either the least recently used; then those that are worth less per byte than what comes. A burst of instances that are
/// asked for once so pushes out others of its kind, and leaves alone what is asked for again and again.
pub(crate) struct Cache {
    /// Came in and were not served again.
    fresh: LruCache<Arc<str>, Entry>,
    /// Were served again.
    proved: LruCache<Arc<str>, Entry>,
    proved_bytes: usize,
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
            fresh: LruCache::unbounded(),
            proved: LruCache::unbounded(),
            proved_bytes: 0,
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
        self.fresh.len() + self.proved.len()
    }

    fn entry(&self, instance: &str) -> Option<&Entry> {
        self.proved.peek(instance).or_else(|| self.fresh.peek(instance))
    }

    /// The least recently used first, and those that were never served again before the others.
    fn oldest_first(&self) -> impl Iterator<Item = (&Arc<str>, &Entry)> {
        self.fresh.iter().rev().chain(self.proved.iter().rev())
    }

    pub(crate) fn peek(&self, instance: &str) -> Option<&Arc<ShardCopy>> {
        self.entry(instance).map(|entry| &entry.copy)
    }

    /// Notes that the copy is being used.
    pub(crate) fn touch(&mut self, instance: &str) {
        let entry = match self.proved.get_mut(instance) {
            Some(entry) => Some(entry),
            None => self.fresh.get_mut(instance),
        };
        if let Some(entry) = entry
            && !entry.used
        {
            entry.used = true;
            self.unused_bytes -= entry.copy.bytes();
        }
    }

    /// Notes that the copy was served from here.
    pub(crate) fn hit(&mut self, instance: &str) {
        if let Some(entry) = self.proved.peek_mut(instance) {
            entry.hits = entry.hits.saturating_add(1);
        } else if let Some((instance, mut entry)) = self.fresh.pop_entry(instance) {
            entry.hits = 1;
            self.proved_bytes += entry.copy.bytes();
            self.proved.put(instance, entry);
            // What once proved itself must prove it again before it can fill the whole cache.
            while self.proved_bytes > self.budget / 10 * 8
                && self.proved.len() > 1
                && let Some((instance, entry)) = self.proved.pop_lru()
            {
                self.proved_bytes -= entry.copy.bytes();
                self.fresh.put(instance, entry);
            }
        }
    }

    /// Copies that go so that `need` bytes become free for `instance`; `None` if there are not enough that may.
    fn victims(&self, need: usize, instance: &str, rank: impl Fn(&str) -> u64) -> Option<Vec<Arc<str>>> {
        let (mut freed, mut victims) = (0, Vec::new());
        let own = rank(instance);
        let mut worth_less = Vec::new();
        for (other, entry) in self.oldest_first() {
            if freed >= need {
                return Some(victims);
            }
            match rank(other) {
                _ if **other == *instance => {}
                0 => {
                    freed += entry.copy.bytes();
                    victims.push(other.clone());
                }
                rank if rank < own => worth_less.push((rank, other, entry.copy.bytes())),
                _ => {}
            }
        }
        worth_less.sort_unstable();
        for (_, other, bytes) in worth_less {
            if freed >= need {
                break;
            }
            freed += bytes;
            victims.push(other.clone());
        }
        (freed >= need).then_some(victims)
    }

    /// Applies changes to the copy of an instance that is held. Gives what had to go because the copy grew; where the changes
    /// are refused, the copy is among it. `rank` tells what a copy is worth per byte, 0 if nothing.
    pub(crate) fn apply(
        &mut self,
        instance: &str,
        changes: &[RowChange],
        rank: impl Fn(&str) -> u64,
    ) -> (Result<(), Refused>, Vec<Removed>) {
        let proved = self.proved.contains(instance);
        let entries = if proved { &mut self.proved } else { &mut self.fresh };
        let Some(entry) = entries.peek_mut(instance) else { return (Ok(()), Vec::new()) };
        if let Some(changed) = &mut self.changed {
            changed.insert(entry.copy.instance.clone());
        }
        let before = entry.copy.bytes();
        let applied = ShardCopy::apply(&mut entry.copy, changes);
        let after = entry.copy.bytes();
        let changed = |sum: usize| sum - before + after;
        self.bytes = changed(self.bytes);
        if !entry.used {
            self.unused_bytes = changed(self.unused_bytes);
        }
        if proved {
            self.proved_bytes = changed(self.proved_bytes);
        }
        if applied.is_err() {
            return (applied, self.remove(instance).into_iter().collect());
        }
        if self.bytes <= self.budget {
            return (Ok(()), Vec::new());
        }
        match self.victims(self.bytes - self.budget, instance, rank) {
            Some(victims) => (Ok(()), victims.iter().filter_map(|victim| self.remove(victim)).collect()),
            None => (Err(Refused::Budget), self.remove(instance).into_iter().collect()),
        }
    }

    /// Stores a copy and returns what had to go for it. It is not stored if it is larger than the budget, or if what is held is
    /// worth more.
    pub(crate) fn insert(
        &mut self,
        shard: &str,
        copy: Arc<ShardCopy>,
        rank: impl Fn(&str) -> u64,
    ) -> Vec<Removed> {
        let mut out: Vec<Removed> = self.remove(&copy.instance).into_iter().collect();
        if copy.bytes() > self.budget {
            return out;
        }
        let over = (self.bytes + copy.bytes()).saturating_sub(self.budget);
        if over > 0 {
            let Some(victims) = self.victims(over, &copy.instance, rank) else { return out };
            out.extend(victims.iter().filter_map(|instance| self.remove(instance)));
        }
        if let Some(changed) = &mut self.changed {
            changed.insert(copy.instance.clone());
        }
        self.bytes += copy.bytes();
        self.unused_bytes += copy.bytes();
        self.by_shard.entry(shard.to_owned()).or_default().insert(copy.instance.clone());
        let instance = copy.instance.clone();
        self.fresh.put(instance, Entry { copy, shard: shard.to_owned(), used: false, hits: 0 });
        out
    }

    pub(crate) fn remove(&mut self, instance: &str) -> Option<Removed> {
        let (instance, entry) = match self.proved.pop_entry(instance) {
            Some((instance, entry)) => {
                self.proved_bytes -= entry.copy.bytes();
                (instance, entry)
            }
            None => self.fresh.pop_entry(instance)?,
        };
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
        self.changed = on.then(|| self.instances().cloned().collect());
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
        let entry = self.entry(instance)?;
        let taken = (entry.shard.clone(), entry.copy.clone());
        self.remove(instance);
        Some(taken)
    }

    pub(crate) fn instances(&self) -> impl Iterator<Item = &Arc<str>> {
        self.oldest_first().map(|(instance, _)| instance)
    }

    /// Copies that hold what the stream has not delivered up to `position`.
    pub(crate) fn ahead_of(&self, position: Lsn) -> Vec<Arc<str>> {
        let ahead = self.oldest_first().filter(|(_, entry)| entry.copy.settled_at > position);
        ahead.map(|(instance, _)| instance.clone()).collect()
    }

    pub(crate) fn clear(&mut self) -> Vec<Removed> {
        let all: Vec<Arc<str>> = self.instances().cloned().collect();
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
        cache.insert("s", copy("s?k=1", 100), |_| 0);
        cache.insert("s", copy("s?k=2", 100), |_| 0);
        let (result, gone) = cache.apply("s?k=2", &[put("y".repeat(100))], |_| 0);
        assert_eq!((result, gone.len(), cache.len()), (Ok(()), 1, 1));
        assert_eq!(cache.bytes(), cache.peek("s?k=2").unwrap().bytes());
        let (result, gone) = cache.apply("s?k=2", &[put("z".repeat(1_000))], |_| 0);
        assert_eq!((result, gone.len()), (Err(Refused::Budget), 1));
        assert_eq!((cache.bytes(), cache.unused_bytes()), (0, 0));
    }

    #[test]
    fn an_answer_that_holds_a_copy_keeps_what_it_was_given() {
        let mut cache = Cache::new(10_000);
        cache.insert("s", copy("s", 3), |_| 0);
        let given = cache.peek("s").unwrap().clone();
        let _ = given.body();
        assert_eq!(cache.apply("s", &[put("y".into())], |_| 0).0, Ok(()));
        assert_eq!((given.rows.len(), cache.peek("s").unwrap().rows.len()), (1, 2));
        assert_eq!(&given.body().json[..], b"[{\"v\":\"xxx\"}]");
        assert_eq!(&cache.peek("s").unwrap().body().json[..], b"[{\"v\":\"xxx\"},{\"v\":\"y\"}]");
        assert_eq!(cache.peek("s").unwrap().fetch, None);
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let one = copy("s?k=1", 100).bytes();
        let mut cache = Cache::new(one * 2);
        cache.insert("s", copy("s?k=1", 100), |_| 0);
        cache.insert("s", copy("s?k=2", 100), |_| 0);
        cache.touch("s?k=1");
        let gone = cache.insert("s", copy("s?k=3", 100), |_| 0);
        assert_eq!(gone.iter().map(|r| &*r.instance).collect::<Vec<_>>(), ["s?k=2"]);
        assert!(!gone[0].used);
        assert!(cache.peek("s?k=1").is_some() && cache.peek("s?k=3").is_some());
    }

    #[test]
    fn what_is_worth_less_makes_room_and_what_is_worth_more_stays() {
        let one = copy("s?k=1", 100).bytes();
        let mut cache = Cache::new(one * 3);
        // The key is what it is worth.
        let rank = |instance: &str| instance.rsplit('=').next().unwrap().parse().unwrap();
        for instance in ["s?k=5", "s?k=2", "s?k=7"] {
            assert!(cache.insert("s", copy(instance, 100), rank).is_empty());
        }
        assert!(cache.insert("s", copy("s?k=1", 100), rank).is_empty());
        assert!(cache.peek("s?k=1").is_none(), "all that is held is worth more");
        let gone = cache.insert("s", copy("s?k=6", 100), rank);
        assert_eq!(gone.iter().map(|r| &*r.instance).collect::<Vec<_>>(), ["s?k=2"]);
        cache.hit("s?k=5");
        let gone =
            cache.insert("s", copy("s?k=9", 100), |other| if other == "s?k=7" { 0 } else { rank(other) });
        assert_eq!(gone.iter().map(|r| &*r.instance).collect::<Vec<_>>(), ["s?k=7"], "worth nothing now");
    }

    #[test]
    fn a_burst_of_single_reads_leaves_what_is_read_again() {
        let one = copy("s?k=100", 100).bytes();
        let mut cache = Cache::new(one * 10);
        for k in 100..104 {
            cache.insert("s", copy(&format!("s?k={k}"), 100), |_| 0);
            cache.touch(&format!("s?k={k}"));
            cache.hit(&format!("s?k={k}"));
        }
        for k in 200..900 {
            cache.insert("s", copy(&format!("s?k={k}"), 100), |_| 0);
            cache.touch(&format!("s?k={k}"));
        }
        assert!((100..104).all(|k| cache.peek(&format!("s?k={k}")).is_some()));
        // But they don't stay for ever: what is read now takes their place.
        for k in 900..920 {
            cache.insert("s", copy(&format!("s?k={k}"), 100), |_| 0);
            cache.hit(&format!("s?k={k}"));
        }
        assert!((100..104).all(|k| cache.peek(&format!("s?k={k}")).is_none()));
    }

    proptest! {
        #[test]
        fn never_above_budget_and_the_sums_are_right(steps in prop::collection::vec((0u8..12, 0usize..300, 0u8..5), 0..120)) {
            let budget = 1500;
            let mut cache = Cache::new(budget);
            for (k, width, kind) in steps {
                let id = format!("s{}?k={k}", k % 3);
                match kind {
                    0 => cache.touch(&id),
                    2 => cache.hit(&id),
                    1 => drop(cache.apply(&id, &[put("y".repeat(width))], |_| 0)),
                    _ => drop(cache.insert(&format!("s{}", k % 3), copy(&id, width), |_| 0)),
                }
                let sum: usize = cache.oldest_first().map(|(_, e)| e.copy.bytes()).sum();
                let unused: usize = cache.oldest_first().filter(|(_, e)| !e.used).map(|(_, e)| e.copy.bytes()).sum();
                prop_assert_eq!(sum, cache.bytes());
                prop_assert_eq!(unused, cache.unused_bytes());
                prop_assert!(sum <= budget);
                let proved: usize = cache.proved.iter().map(|(_, e)| e.copy.bytes()).sum();
                prop_assert_eq!(proved, cache.proved_bytes);
                let listed: usize = (0..3).map(|s| cache.instances_of(&format!("s{s}")).len()).sum();
                prop_assert_eq!(listed, cache.len());
            }
        }
    }
}
