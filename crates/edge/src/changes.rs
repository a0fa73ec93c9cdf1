//! What delivered transactions do to copies: changed in place, or dropped and fetched again where that pays.

use std::sync::Arc;

use foreshard_protocol::{Deltas, InstanceId, KeyChange, WholeReason};

use crate::agent::renewal::{IN_USE, Renewal};
use crate::cache::{Cache, Removed};
use crate::copy::{Brought, ShardCopy};
use crate::core::EdgeCore;
use crate::deltas::{Refused, fits};
use crate::flights::touches;
use crate::now::Now;
use crate::refetch::Worth;

impl EdgeCore {
    /// A transaction changed rows of a shard.
    pub(crate) fn changed(&mut self, now: Now, txn: Brought, shard: &str, change: Arc<KeyChange>) {
        self.flights.suspect(txn.xid, shard, &change);
        match &*change {
            KeyChange::Rows(deltas) => self.apply(now, txn, shard, deltas),
            other => self.invalidate(now, txn, shard, other),
        }
        self.unpin(txn, shard, &change);
        self.stream.remember_change(txn.xid, shard, change);
    }

    /// Copies of the shard, and fetches that do not see the transaction, are of another definition.
    pub(crate) fn redefined(&mut self, now: Now, txn: Brought, shard: &str) {
        self.changed(now, txn, shard, Arc::new(KeyChange::Whole(WholeReason::Ddl)));
    }

    /// Changes every copy that is touched and that does not already contain the transaction.
    fn apply(&mut self, now: Now, txn: Brought, shard: &str, deltas: &Deltas) {
        for instance in &deltas.instances {
            let text = InstanceId { shard: shard.to_owned(), key: instance.key.clone() }.to_string();
            for prefetched in [true, false] {
                let agenda = &self.agenda;
                let cache = if prefetched { &mut self.prefetch } else { &mut self.reactive };
                let Some(copy) = cache.peek(&text).filter(|copy| !copy.holds(txn)) else { continue };
                let (result, removed) =
                    match fits(&copy.layout, deltas) {
                        Ok(()) => cache.apply(&text, &instance.rows, |other| {
                            if prefetched { agenda.rank(other) } else { 0 }
                        }),
                        Err(refused) => (Err(refused), cache.remove(&text).into_iter().collect()),
                    };
                match result {
                    Ok(()) => {
                        self.stats.deltas_applied += 1;
                        self.stats.evicted += removed.len() as u64;
                        if prefetched {
                            removed.iter().for_each(|removed| self.note_prefetch_removed(removed));
                        }
                    }
                    Err(refused) => {
                        self.refused(refused);
                        self.dropped(now, removed, prefetched);
                    }
                }
            }
        }
    }

    pub(crate) fn refused(&mut self, refused: Refused) {
        *self.stats.deltas_refused.entry(refused).or_default() += 1;
    }

    /// Drops every copy that the change touches and that does not already contain it.
    fn invalidate(&mut self, now: Now, txn: Brought, shard: &str, change: &KeyChange) {
        for prefetched in [true, false] {
            let cache = if prefetched { &mut self.prefetch } else { &mut self.reactive };
            let lacks = |cache: &Cache, text: &str| cache.peek(text).is_some_and(|copy| !copy.holds(txn));
            let touched: Vec<Arc<str>> = match change.keys() {
                None => cache.instances_of(shard),
                Some(keys) => keys
                    .map(|key| InstanceId { shard: shard.to_owned(), key: key.to_vec() }.to_string().into())
                    .collect(),
            };
            let gone = touched.iter().filter(|text| lacks(cache, text)).cloned().collect::<Vec<_>>();
            let removed = gone.iter().filter_map(|text| cache.remove(text)).collect();
            self.dropped(now, removed, prefetched);
        }
    }

    /// These copies were dropped because the origin changed.
    fn dropped(&mut self, now: Now, removed: Vec<Removed>, prefetched: bool) {
        for removed in removed {
            self.stats.invalidated += 1;
            if prefetched {
                self.note_prefetch_removed(&removed);
                self.prefetch_full = false;
            }
            // A copy that was served from the cache while it was there most likely will be again.
            let in_use = removed.hits > 0;
            let scheduled = self.agenda.believed(&removed.instance);
            let Some(expected) = scheduled.or(in_use.then_some(IN_USE)) else { continue };
            let shard = removed.instance.split('?').next().unwrap_or_default();
            let worth = Worth { expected, link: self.agent.costs.worth_it_above(shard) };
            let used = if scheduled.is_some() { removed.used } else { true };
            match self.refetch.dropped(now.mono, &removed.instance, used, worth) {
                Renewal::Refresh => self.stats.refreshed += 1,
                Renewal::Drop => self.stats.let_go += 1,
            }
        }
    }

    /// Copies kept for requests are let go where the change touches them: a fetch brings newer ones.
    fn unpin(&mut self, txn: Brought, shard: &str, change: &KeyChange) {
        let stale = |copy: &mut Arc<ShardCopy>| {
            let id = copy.instance.parse::<InstanceId>();
            let touched = id.is_ok_and(|id| id.shard == shard && touches(change, &id));
            touched && !copy.holds(txn)
        };
        for pending in self.requests.pending.values_mut() {
            for pinned in &mut pending.pinned {
                pinned.take_if(stale);
            }
        }
    }

    /// Copies on demand that a schedule wants move to the prefetch cache, where there is room for them.
    pub(crate) fn promote(&mut self) {
        let wanted: Vec<Arc<str>> =
            self.reactive.instances().filter(|instance| self.agenda.wants(instance)).cloned().collect();
        for instance in wanted {
            if self.prefetch.peek(&instance).is_some() {
                continue;
            }
            let Some((shard, copy)) = self.reactive.take(&instance) else { continue };
            if self.keep_ahead(&shard, copy.clone()) {
                self.stats.promoted += 1;
            } else {
                self.reactive.insert(&shard, copy, |_| 0);
            }
        }
    }

    /// Puts a copy that was fetched on demand into the prefetch cache. False: there is no room.
    pub(crate) fn keep_ahead(&mut self, shard: &str, copy: Arc<ShardCopy>) -> bool {
        let instance = copy.instance.clone();
        let agenda = &self.agenda;
        let removed = self.prefetch.insert(shard, copy, |other| agenda.rank(other));
        self.note_prefetch_evicted(removed, &instance);
        // Nothing was fetched ahead of demand for it, so it can't be in vain.
        self.prefetch.touch(&instance);
        self.prefetch.peek(&instance).is_some()
    }
}
