//! Copies that outlive the process: what is to be kept on disk, and what was kept.

use std::sync::Arc;

use foreshard_protocol::{Frame, InstanceId, Lsn, Witness};

use crate::copy::ShardCopy;
use crate::core::EdgeCore;
use crate::now::Now;
use crate::retrace::Retrace;

/// What has to be written, together and durably, so that a successor can go on from `position`.
#[derive(Debug)]
pub struct DurableStep {
    /// Every copy that is kept holds exactly what the stream has delivered up to here.
    pub position: Lsn,
    /// What the origin may forget once this is durable.
    pub acknowledged: Lsn,
    /// What tells the origin's past that this is of from another one.
    pub witness: Witness,
    /// What was kept before was of another past of the origin: nothing of it may be found again.
    pub refused: bool,
    /// Copies to write, and instances (without one) of which nothing is to be kept.
    pub changed: Vec<(Arc<str>, Option<Arc<ShardCopy>>)>,
}

/// What is known of the disk.
#[derive(Default)]
pub(crate) struct Durability {
    /// The position that may be acknowledged, if copies are kept; what is applied beyond it is not durable.
    acknowledged: Option<Lsn>,
    /// What a predecessor kept, until the stream has come to where it was.
    waiting: Option<Waiting>,
    /// It was of another past of the origin.
    refused: bool,
    /// Copies of a predecessor are in the cache that have not been compared with the definitions.
    unchecked: bool,
}

struct Waiting {
    position: Lsn,
    copies: Vec<ShardCopy>,
    retrace: Retrace,
}

impl EdgeCore {
    /// From now on copies are kept: nothing is acknowledged beyond `acknowledged`, or what [`durable`](Self::durable) says.
    pub fn keep(&mut self, acknowledged: Lsn) {
        self.durability.acknowledged = Some(acknowledged);
        self.prefetch.track(true);
    }

    /// Nothing is kept any more: what was must not be found by a successor.
    pub fn keep_no_more(&mut self) {
        self.durability.acknowledged = None;
        self.prefetch.track(false);
    }

    /// What is to be written now. With `afresh` it is everything. `None`: there is no state that a successor could go on from.
    pub fn durable_step(&mut self, afresh: bool) -> Option<DurableStep> {
        let stands = self.definitions.ready() && !self.doubted && self.durability.waiting.is_none();
        if !stands || self.stream.is_retracing() || self.durability.acknowledged.is_none() {
            return None;
        }
        let position = self.stream.position();
        let refused = std::mem::take(&mut self.durability.refused);
        if afresh || refused {
            self.prefetch.track(true);
        }
        let mut changed = Vec::new();
        let mut ahead = Vec::new();
        for instance in self.prefetch.take_changed() {
            let copy = self.prefetch.peek(&instance).cloned();
            // One that is ahead of the stream holds what a crash of the origin may undo.
            let settled = copy.as_ref().is_none_or(|copy| copy.settled_at <= position);
            if !settled {
                ahead.push(instance.clone());
            }
            changed.push((instance, copy.filter(|_| settled)));
        }
        self.prefetch.changed_again(ahead);
        let (acknowledged, witness) = (self.stream.acknowledged(), self.stream.witness());
        Some(DurableStep { position, acknowledged, witness, refused, changed })
    }

    /// A step is durable: this may be acknowledged.
    pub fn durable(&mut self, acknowledged: Lsn) {
        if let Some(before) = &mut self.durability.acknowledged {
            *before = acknowledged.max(*before);
        }
    }

    /// What a predecessor kept at `position`, on the stream that has just started at or before it.
    pub fn warm(&mut self, now: Now, position: Lsn, witness: Witness, copies: Vec<ShardCopy>) {
        match Retrace::new(witness, self.stream.position(), position) {
            Some(retrace) => self.durability.waiting = Some(Waiting { position, copies, retrace }),
            None => self.refuse_warm(),
        }
        self.warm_up(now, self.stream.position());
    }

    /// What comes before a predecessor's position is what it had.
    pub(crate) fn compare_warm(&mut self, frame: &Frame) {
        if let Some(waiting) = &mut self.durability.waiting
            && frame.end_lsn <= waiting.position
            && !waiting.retrace.again(frame)
        {
            self.refuse_warm();
        }
    }

    fn refuse_warm(&mut self) {
        self.durability.waiting = None;
        self.durability.refused = true;
    }

    /// Takes over what a predecessor kept once the stream is where it was: until then frames come that it has in it.
    pub(crate) fn warm_up(&mut self, now: Now, reached: Lsn) {
        let Some(waiting) = self.durability.waiting.take_if(|waiting| waiting.position <= reached) else {
            return;
        };
        let Waiting { copies, retrace, .. } = waiting;
        if !retrace.holds() {
            return self.refuse_warm();
        }
        for mut copy in copies {
            (copy.fetch, copy.fetched_at) = (None, now.mono);
            let instance = copy.instance.clone();
            let Ok(InstanceId { shard, .. }) = instance.parse() else { continue };
            // What was fetched meanwhile is at least as new.
            if self.prefetch.peek(&instance).is_none() && self.reactive.peek(&instance).is_none() {
                self.prefetch.insert(&shard, Arc::new(copy), |_| 1);
                self.stats.warm_copies += 1;
            }
        }
        self.durability.unchecked = true;
        self.check_warm();
    }

    /// Drops copies of definitions that changed while nobody was here: the stream says so only to those whose definitions are
    /// older than the change.
    pub(crate) fn check_warm(&mut self) {
        if !self.durability.unchecked || !self.definitions.ready() {
            return;
        }
        self.durability.unchecked = false;
        let instances: Vec<Arc<str>> = self.prefetch.instances().cloned().collect();
        for instance in instances {
            let generation = self.prefetch.peek(&instance).map(|copy| copy.layout.generation);
            let def = instance.parse().ok().and_then(|id: InstanceId| self.definitions.shard(&id.shard));
            if def.map(|def| def.generation) != generation
                && let Some(removed) = self.prefetch.remove(&instance)
            {
                self.note_prefetch_removed(&removed);
            }
        }
    }

    /// The stream starts without a past.
    pub(crate) fn forget_warm(&mut self) {
        (self.durability.waiting, self.durability.unchecked) = (None, false);
        self.durability.refused = false;
    }

    /// No more than this may be acknowledged.
    pub(crate) fn durable_up_to(&self) -> Lsn {
        self.durability.acknowledged.unwrap_or(Lsn(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use foreshard_protocol::{
        CatalogSnapshot, Column, ColumnKind, Event, Frame, KeyChange, Mapping, RowOrder, ShardDef, Snapshot,
        WholeReason,
    };

    use super::*;
    use crate::{EdgeConfig, Layout};

    const NOW: Now = Now { mono: 1, trace: 1 };

    fn copy(instance: &str, generation: u64, snapshot: &str) -> ShardCopy {
        let columns = vec![Column { name: "v".into(), kind: ColumnKind::Int }];
        let layout = Layout::new(generation, columns, vec![], RowOrder::Hidden);
        let snapshot: Snapshot = snapshot.parse().unwrap();
        ShardCopy::new(instance.into(), layout.into(), vec![], snapshot.into(), Lsn(40), 1, 0)
    }

    fn frame(xid: u64, lsn: u64, shard: &str) -> Frame {
        let change = KeyChange::Whole(WholeReason::Rows);
        let events = vec![Event::Shard { shard: shard.into(), change }];
        Frame { xid, commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn + 5), commit_time: 0, events }
    }

    fn catalog(generation: u64) -> CatalogSnapshot {
        let def = |name: &str, generation| ShardDef {
            name: name.into(),
            generation,
            source: "public.t".into(),
            key: vec![],
        };
        CatalogSnapshot {
            snapshot: "90:90:".parse().unwrap(),
            wal_lsn: Lsn(90),
            shards: vec![def("a", generation), def("b", 1)],
            mappings: vec![Mapping { function_id: "f".into(), shards: vec!["a".into(), "b".into()] }],
            schedules: vec![],
            unsettled: vec![],
        }
    }

    /// A successor whose stream starts at 20, with what was kept at 50.
    fn successor(generation: u64) -> EdgeCore {
        let mut core = EdgeCore::new(EdgeConfig::default(), 1);
        core.keep(Lsn(20));
        core.stream_started(NOW, Lsn(20), false);
        core.warm(NOW, Lsn(50), witness(), vec![copy("a", generation, "5:5:"), copy("b", 1, "5:5:")]);
        core
    }

    /// The last that the predecessor heard of was transaction 7.
    fn witness() -> Witness {
        let mut witness = Witness::began(Lsn(10));
        witness.brought(&frame(7, 30, "a"));
        witness
    }

    fn held(core: &EdgeCore) -> Vec<String> {
        let mut held: Vec<_> = core.prefetch.instances().map(ToString::to_string).collect();
        held.sort();
        held
    }

    #[test]
    fn kept_copies_count_once_the_stream_is_where_they_were() {
        let mut core = successor(1);
        let epoch = core.epoch();
        core.catalog_loaded(NOW, epoch, catalog(1));
        core.frame(NOW, frame(7, 30, "a"));
        assert!(held(&core).is_empty(), "what was kept has transaction 7 in it");
        assert!(core.durable_step(false).is_none(), "a successor would miss what waits");
        core.frame(NOW, frame(8, 60, "b"));
        assert_eq!(held(&core), ["a"], "transaction 8 came after what was kept");
        assert_eq!(core.acknowledged(), Lsn(20), "nothing has become durable since");
        let step = core.durable_step(false).unwrap();
        assert_eq!(step.position, Lsn(65));
        assert!(step.changed.iter().any(|(instance, copy)| &**instance == "b" && copy.is_none()));
        core.durable(step.acknowledged);
        assert_eq!(core.acknowledged(), Lsn(30), "transaction 7 may be invisible");
    }

    #[test]
    fn what_was_kept_of_another_past_is_refused() {
        for (what, frames) in [
            ("transaction 7 does not come again", vec![frame(8, 60, "b")]),
            (
                "another one has its id",
                vec![Frame { commit_time: 9, ..frame(7, 30, "a") }, frame(8, 60, "b")],
            ),
            ("there is one too many", vec![frame(7, 30, "a"), frame(8, 40, "b"), frame(9, 60, "b")]),
        ] {
            let mut core = successor(1);
            let epoch = core.epoch();
            core.catalog_loaded(NOW, epoch, catalog(1));
            frames.into_iter().for_each(|frame| core.frame(NOW, frame));
            assert!(held(&core).is_empty(), "{what}");
            let step = core.durable_step(false).unwrap();
            assert!(step.refused, "{what}");
            assert!(!core.durable_step(false).unwrap().refused);
        }
    }

    #[test]
    fn kept_copies_of_another_definition_are_dropped_whichever_comes_first() {
        for definitions_first in [true, false] {
            let mut core = successor(1);
            let epoch = core.epoch();
            if definitions_first {
                core.catalog_loaded(NOW, epoch, catalog(2));
            }
            core.frame(NOW, frame(7, 30, "a"));
            core.position(NOW, Lsn(50));
            if !definitions_first {
                core.catalog_loaded(NOW, epoch, catalog(2));
            }
            assert_eq!(held(&core), ["b"], "definitions first: {definitions_first}");
        }
    }

    #[test]
    fn a_stream_without_that_past_forgets_what_was_kept() {
        let mut core = successor(1);
        core.stream_started(NOW, Lsn(45), false);
        core.position(NOW, Lsn(100));
        assert!(held(&core).is_empty());
    }

    #[test]
    fn what_is_ahead_of_the_stream_is_not_kept() {
        let mut core = successor(1);
        let epoch = core.epoch();
        core.catalog_loaded(NOW, epoch, catalog(1));
        core.frame(NOW, frame(7, 30, "a"));
        core.position(NOW, Lsn(50));
        drop(core.durable_step(false));
        let mut ahead = copy("a", 1, "9:9:");
        ahead.settled_at = Lsn(70);
        core.prefetch.insert("a", Arc::new(ahead), |_| 0);
        let kept = |core: &mut EdgeCore| core.durable_step(false).unwrap().changed.pop().unwrap().1.is_some();
        assert!(!kept(&mut core), "the former one is gone, and this one is not yet certain");
        core.position(NOW, Lsn(70));
        assert!(kept(&mut core));
        assert_eq!(core.durable_step(true).unwrap().changed.len(), 2, "afresh is everything");
    }
}
