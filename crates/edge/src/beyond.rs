//! Answers of positions that the stream has not reached: waited for, and then read at the origin.
//!
//! That the origin's log is past a position does not mean that readers see all that committed before it. So the origin is first
//! asked for its horizon: a place of the log, once all that committed before it is visible. Only then are rows read. Such an answer promises more than the stream has brought, and what is promised once holds for whoever asks
//! next: until the stream has come that far, copies are not enough for anybody.

use foreshard_protocol::{Horizon, Lsn};

use crate::core::{Action, EdgeCore};
use crate::lookup::Step;
use crate::now::Now;
use crate::requests::{Answer, Refusal, RequestId};

impl EdgeCore {
    /// The position that an answer has to be of at least, where `min_lsn` is asked for.
    pub(crate) fn needed(&self, min_lsn: Option<Lsn>) -> Lsn {
        min_lsn.map_or(self.promised, |min| min.max(self.promised))
    }

    /// What the log of the origin has to hold, as long as it is the same: what is applied here, and what answers have promised.
    pub fn relied_on(&self) -> Lsn {
        self.applied().max(self.promised)
    }

    /// A request needs more than the stream has brought.
    pub(crate) fn ahead_of_the_stream(&mut self, now: Now, id: RequestId) -> Step {
        let stamp = self.stream.stamp();
        let Some(pending) = self.requests.pending.get_mut(&id) else { return Step::Wait };
        if pending.cut_flight.is_some() {
            return Step::Wait;
        }
        let asked = pending.request.min_lsn.unwrap_or(Lsn::ZERO);
        let needed = asked.max(self.promised);
        if pending.proven >= needed && pending.pinned.iter().all(Option::is_some) {
            let (texts, pinned, waited) =
                (pending.texts.clone(), pending.pinned.clone(), pending.waited.clone());
            if let Some(answer) = self.answer_from(&texts, &pinned, &waited) {
                self.promised = needed;
                self.stats.served_beyond += 1;
                return Step::Done(Ok(Answer { lsn: needed, ..answer }));
            }
        }
        let Some(pending) = self.requests.pending.get_mut(&id) else { return Step::Wait };
        // Who did not ask for this position waits no longer than for a stream that is about to come.
        let until = match asked > stamp {
            true => pending.lsn_deadline,
            false => *pending.torn_since.get_or_insert(now.mono) + self.config.cut_wait,
        };
        if now.mono >= until {
            pending.resorted_at.get_or_insert(now.mono);
            self.requests.at_lsn(Lsn(needed.0.saturating_add(1)), id);
            self.fetch_in_one_snapshot(now, id, true);
            return Step::Wait;
        }
        self.requests.at_lsn(Lsn(needed.0.saturating_add(1)), id);
        self.requests.at_time(until, id);
        self.actions.push(Action::AskForProgress);
        self.ask_for_record();
        Step::Wait
    }

    /// What is pinned to the request holds all that committed before the horizon.
    pub(crate) fn proven(&mut self, id: RequestId, horizon: &Horizon) {
        if let Some(pending) = self.requests.pending.get_mut(&id).filter(|_| horizon.settled) {
            pending.proven = Lsn(horizon.flushed.0.saturating_sub(1));
        }
    }

    /// What the origin, as it was at `looked_at`, says of a request for which it was read.
    pub(crate) fn verdict(&self, id: RequestId, horizon: &Horizon, looked_at: u64) -> Verdict {
        let Some(pending) = self.requests.pending.get(&id) else { return Verdict::Doubtful };
        // Looked at for this request, not before it asked.
        let late_enough = pending.resorted_at.is_some_and(|since| looked_at >= since);
        let min_lsn = pending.request.min_lsn;
        if horizon.settled && late_enough && min_lsn.is_some_and(|min| min >= horizon.flushed) {
            return Verdict::Refused(Refusal::TimedOut);
        }
        // What the function may read when the rows are read; the definitions known here are older.
        let function =
            horizon.mappings.iter().find(|mapping| mapping.function_id == pending.request.function);
        let refusal = match function {
            None => Refusal::UnknownFunction,
            Some(function) => {
                let mut wanted = pending.request.instances.iter().map(|id| &id.shard);
                match wanted.find(|shard| !function.shards.contains(shard)) {
                    None => return Verdict::Mapped,
                    Some(shard) => Refusal::NotMapped(shard.clone()),
                }
            }
        };
        // Without a settled horizon a mapping that the stream has brought may be one that readers do not see yet.
        if horizon.settled { Verdict::Refused(refusal) } else { Verdict::Doubtful }
    }

    /// The function may read what is pinned for this request.
    pub(crate) fn vouch(&mut self, id: RequestId) {
        if let Some(pending) = self.requests.pending.get_mut(&id) {
            pending.vouched = true;
        }
    }
}

/// What the origin says of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The function may read all it asks for.
    Mapped,
    Refused(Refusal),
    /// To be asked again.
    Doubtful,
}

#[cfg(test)]
mod tests {
    use foreshard_protocol::{
        CatalogSnapshot, Column, ColumnKind, FetchHeader, InstanceId, Mapping, RowOrder, ShardDef,
    };

    use super::*;
    use crate::{EdgeConfig, Fetched, FetchedInstance, FlightId, FlightOrder, Layout, Reply, Request};

    fn mapping() -> Mapping {
        Mapping { function_id: "f".into(), shards: vec!["s".into()] }
    }

    /// A core whose stream stands at 100.
    fn core(config: EdgeConfig) -> EdgeCore {
        let mut core = EdgeCore::new(config, 1);
        let now = Now { mono: 1, trace: 1 };
        core.stream_started(now, Lsn(100), false);
        let def = ShardDef { name: "s".into(), generation: 1, source: "public.t".into(), key: vec![] };
        let catalog = CatalogSnapshot {
            snapshot: "5:5:".parse().unwrap(),
            wal_lsn: Lsn(100),
            unsettled: vec![],
            shards: vec![def],
            mappings: vec![mapping()],
            schedules: vec![],
        };
        core.catalog_loaded(now, core.epoch(), catalog);
        core.take_actions();
        core
    }

    fn ask(core: &mut EdgeCore, mono: u64, min_lsn: Option<u64>) -> RequestId {
        let instances = vec![InstanceId::unkeyed("s")];
        let request = Request { function: "f".into(), instances, min_lsn: min_lsn.map(Lsn) };
        match core.request(Now { mono, trace: 1 }, request) {
            Reply::Waiting(id) => id,
            Reply::Done(result) => panic!("{result:?}"),
        }
    }

    fn orders(core: &mut EdgeCore) -> Vec<FlightOrder> {
        let orders = core.take_actions().into_iter();
        orders
            .filter_map(|action| if let Action::Fetch(order) = action { Some(order) } else { None })
            .collect()
    }

    fn replies(core: &mut EdgeCore) -> Vec<(RequestId, Result<Lsn, Refusal>)> {
        let replies = core.take_actions().into_iter().filter_map(|action| match action {
            Action::Reply(id, result) => Some((id, result.map(|answer| answer.lsn))),
            _ => None,
        });
        replies.collect()
    }

    fn land(core: &mut EdgeCore, mono: u64, id: FlightId, horizon: Option<Horizon>) {
        let columns = vec![Column { name: "v".into(), kind: ColumnKind::Int }];
        let layout = Layout::new(1, columns, vec![], RowOrder::Hidden);
        let fetched = Fetched {
            header: FetchHeader { snapshot: "9:9:".parse().unwrap(), wal_lsn: Lsn(250) },
            horizon,
            instances: vec![Ok(FetchedInstance { canonical: "s".into(), layout, rows: vec![] })],
        };
        core.fetch_done(Now { mono, trace: 1 }, id, Ok(fetched));
    }

    fn horizon(flushed: u64, settled: bool) -> Option<Horizon> {
        Some(Horizon { flushed: Lsn(flushed), settled, mappings: vec![mapping()] })
    }

    #[test]
    fn one_fetch_answers_all_who_wait_for_what_it_proves() {
        let mut core = core(EdgeConfig::default());
        let asked: Vec<(RequestId, u64)> =
            [150, 200, 199, 240].into_iter().map(|min| (ask(&mut core, 10, Some(min)), min)).collect();
        assert!(orders(&mut core).is_empty(), "the stream may come");
        core.tick(Now { mono: 3_000_000, trace: 1 });
        let [order] = &orders(&mut core)[..] else { panic!("not one fetch") };
        assert!(order.prove);
        land(&mut core, 3_010_000, order.id, horizon(241, true));
        let answered = replies(&mut core);
        assert_eq!(answered.len(), asked.len());
        for (id, min) in asked {
            let (_, result) = answered.iter().find(|(known, _)| *known == id).unwrap();
            assert!(result.as_ref().is_ok_and(|lsn| *lsn >= Lsn(min)), "{min}: {result:?}");
        }
        // What was promised holds for whoever comes next.
        let next = ask(&mut core, 3_020_000, None);
        core.tick(Now { mono: 3_100_000, trace: 1 });
        let [order] = &orders(&mut core)[..] else { panic!("not one fetch") };
        land(&mut core, 3_110_000, order.id, horizon(245, true));
        assert_eq!(replies(&mut core), [(next, Ok(Lsn(240)))]);
    }

    #[test]
    fn what_is_not_proved_is_asked_for_again_and_what_is_not_there_is_refused() {
        let mut core = core(EdgeConfig::default());
        let id = ask(&mut core, 10, Some(200));
        core.tick(Now { mono: 3_000_000, trace: 1 });
        let order = orders(&mut core).remove(0);
        land(&mut core, 3_010_000, order.id, horizon(241, false));
        let [again] = &orders(&mut core)[..] else { panic!("a commit hangs: not asked again") };
        assert!(again.prove && again.delay > 0);
        land(&mut core, 3_020_000, again.id, horizon(200, true));
        assert_eq!(replies(&mut core), [(id, Err(Refusal::TimedOut))], "the log ends before it");
    }

    /// What answers while nothing proves the stream to be fresh, with these mappings at the origin.
    fn answered_as_of(mappings: Vec<Mapping>, settled: bool) -> Vec<Result<Lsn, Refusal>> {
        let mut core = core(EdgeConfig::default());
        ask(&mut core, 10, None);
        let order = orders(&mut core).remove(0);
        let horizon = Horizon { flushed: Lsn(150), settled, mappings };
        land(&mut core, 20, order.id, Some(horizon));
        replies(&mut core).into_iter().map(|(_, result)| result).collect()
    }

    #[test]
    fn a_mapping_that_was_removed_bites_while_the_stream_is_down() {
        assert_eq!(answered_as_of(vec![mapping()], true), [Ok(Lsn(99))]);
        assert_eq!(answered_as_of(vec![mapping()], false), [Ok(Lsn(99))], "what readers see is enough");
        assert_eq!(answered_as_of(vec![], true), [Err(Refusal::UnknownFunction)]);
        let other = Mapping { shards: vec!["t".into()], ..mapping() };
        assert_eq!(answered_as_of(vec![other], true), [Err(Refusal::NotMapped("s".into()))]);
        assert!(answered_as_of(vec![], false).is_empty(), "asked again");
    }

    /// The fetch was started while the stream was fresh, and lands when it is not any more.
    #[test]
    fn what_was_read_without_asking_for_mappings_is_not_enough_once_the_stream_is_down() {
        let mut core = core(EdgeConfig::default());
        let at = |mono| Now { mono, trace: 1 };
        core.origin_state(at(5), (2, Lsn(100)), Lsn(100), &"5:5:".parse().unwrap());
        ask(&mut core, 10, None);
        let order = orders(&mut core).remove(0);
        assert!(!order.prove);
        land(&mut core, 6_000_000, order.id, None);
        let [again] = &orders(&mut core)[..] else { panic!("not asked again") };
        assert!(again.prove);
        land(
            &mut core,
            6_010_000,
            again.id,
            Some(Horizon { flushed: Lsn(150), settled: true, mappings: vec![] }),
        );
        assert_eq!(replies(&mut core).len(), 1);
    }

    #[test]
    fn requests_share_fetches_while_copies_are_stale() {
        let mut core = core(EdgeConfig::default());
        // Nothing proves the stream to be fresh.
        let asked: Vec<RequestId> = (0..50).map(|_| ask(&mut core, 10, None)).collect();
        let [order] = &orders(&mut core)[..] else { panic!("not one fetch for all") };
        assert!(order.prove, "the definitions known here may be as old as the copies");
        land(&mut core, 1_000, order.id, horizon(101, true));
        assert_eq!(replies(&mut core).len(), asked.len());
        // One that began too long ago is not joined.
        ask(&mut core, 2_000, None);
        ask(&mut core, 2_000 + EdgeConfig::default().max_staleness + 1, None);
        assert_eq!(orders(&mut core).len(), 2);
    }
}
