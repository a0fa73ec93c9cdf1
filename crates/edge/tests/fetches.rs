//! Fetches of a core that is driven by hand: how many are under way, in which order, and what they bring.

use std::collections::VecDeque;

use foreshard_edge::{
    Action, EdgeConfig, EdgeCore, Fetched, FetchedInstance, FlightOrder, Layout, Now, Refusal, Reply,
    Request, RequestId,
};
use foreshard_protocol::{
    CatalogSnapshot, Column, ColumnKind, FetchHeader, InstanceId, Lsn, Mapping, RowOrder, Schedule,
    ScheduleEntry, ShardDef, Snapshot,
};

struct Edge {
    core: EdgeCore,
    mono: u64,
    replies: Vec<(RequestId, Result<(), Refusal>)>,
    orders: VecDeque<FlightOrder>,
}

fn snapshot() -> Snapshot {
    Snapshot { xmin: 9, xmax: 9, in_progress: vec![] }
}

impl Edge {
    /// Of function `f`, which reads the shards `s` and `t` by key.
    fn new(config: EdgeConfig, schedules: Vec<Schedule>) -> Self {
        let mut core = EdgeCore::new(config, 1);
        let now = Now { mono: 1, trace: 1 };
        core.stream_started(now, Lsn(100), false);
        let def = |name: &str| ShardDef {
            name: name.into(),
            generation: 1,
            source: "public.t".into(),
            key: vec!["k".into()],
        };
        let catalog = CatalogSnapshot {
            snapshot: snapshot(),
            wal_lsn: Lsn(100),
            unsettled: vec![],
            shards: vec![def("s"), def("t")],
            mappings: vec![Mapping { function_id: "f".into(), shards: vec!["s".into(), "t".into()] }],
            schedules,
        };
        core.catalog_loaded(now, core.epoch(), catalog);
        let mut edge = Edge { core, mono: 1, replies: vec![], orders: VecDeque::new() };
        edge.pass(0);
        edge
    }

    fn now(&self) -> Now {
        Now { mono: self.mono, trace: self.mono as i64 }
    }

    /// So much time passes, at the end of which the stream is fresh.
    fn pass(&mut self, time: u64) {
        self.mono += time;
        let now = self.now();
        self.core.origin_state(now, (self.mono, Lsn(100)), Lsn(100), &snapshot());
        self.core.tick(now);
        self.act();
    }

    fn act(&mut self) {
        for action in self.core.take_actions() {
            match action {
                Action::Fetch(order) => self.orders.push_back(order),
                Action::Reply(id, result) => self.replies.push((id, result.map(|_| ()))),
                _ => {}
            }
        }
    }

    fn ask(&mut self, instance: &str) -> RequestId {
        let instances = vec![instance.parse::<InstanceId>().unwrap()];
        let request = Request { function: "f".into(), instances, min_lsn: None };
        let Reply::Waiting(id) = self.core.request(self.now(), request) else { panic!("answered at once") };
        self.act();
        id
    }

    /// The fetch brings one row of so many bytes for each instance.
    fn land(&mut self, order: &FlightOrder, bytes: &[usize]) {
        let columns = vec![Column { name: "v".into(), kind: ColumnKind::Text }];
        let instances = order.instances.iter().zip(bytes).map(|(instance, bytes)| {
            Ok(FetchedInstance {
                canonical: instance.to_string(),
                layout: Layout::new(1, columns.clone(), vec![], RowOrder::Hidden),
                rows: vec![vec![Some("x".repeat(bytes - 1))]],
            })
        });
        let header = FetchHeader { snapshot: snapshot(), wal_lsn: Lsn(100) };
        let fetched = Fetched { header, horizon: None, instances: instances.collect() };
        self.core.fetch_done(self.now(), order.id, Ok(fetched));
        self.act();
    }

    fn gauge(&self, name: &str) -> f64 {
        let gauges = self.core.gauges(self.now());
        gauges.into_iter().find(|(known, _)| *known == name).unwrap().1
    }
}

fn two_at_once() -> Edge {
    Edge::new(EdgeConfig { fetch_concurrency: 2, ..EdgeConfig::default() }, vec![])
}

#[test]
fn fetches_on_demand_take_turns() {
    let mut edge = two_at_once();
    let asked: Vec<RequestId> = (0..6).map(|k| edge.ask(&format!("s?k={k}"))).collect();
    // Who asks for the same waits with them.
    let too = edge.ask("s?k=5");
    let mut order = vec![];
    while let Some(next) = edge.orders.pop_front() {
        assert!(edge.gauge("fetches_under_way_demand") <= 2.0);
        order.extend(next.instances.iter().map(ToString::to_string));
        edge.land(&next, &[10]);
    }
    assert_eq!(order, ["s?k=0", "s?k=1", "s?k=2", "s?k=3", "s?k=4", "s?k=5"]);
    assert!(edge.replies.iter().all(|(_, result)| result.is_ok()));
    let answered: Vec<RequestId> = edge.replies.iter().map(|(id, _)| *id).collect();
    assert_eq!(answered, [asked, vec![too]].concat());
}

#[test]
fn what_nobody_waits_for_any_more_is_not_begun() {
    let mut edge = two_at_once();
    let asked: Vec<RequestId> = (0..3_000).map(|k| edge.ask(&format!("s?k={k}"))).collect();
    let stays = edge.ask("s?k=2999");
    assert_eq!((edge.orders.len(), edge.gauge("fetches_waiting_demand")), (2, 2_998.0));
    asked.into_iter().for_each(|id| edge.core.cancel(id));
    assert_eq!(edge.gauge("fetches_waiting_demand"), 1.0, "of the one who stays");
    for _ in 0..2 {
        let order = edge.orders.pop_front().unwrap();
        edge.land(&order, &[10]);
    }
    let order = edge.orders.pop_front().unwrap();
    edge.land(&order, &[10]);
    assert_eq!(edge.replies, [(stays, Ok(()))]);
    assert!(edge.orders.is_empty() && edge.gauge("fetches_under_way_demand") == 0.0);
}

/// Of these instances, for as long as anything takes here.
fn schedule(instances: Vec<String>) -> Schedule {
    let entry = ScheduleEntry { function_id: "f".into(), shard_list: instances, confidence: 0.9 };
    Schedule { id: 1, starts_at: 0, ends_at: i64::MAX / 2, entries: vec![entry] }
}

/// Prefetches take 80 ms and bring what `size` says of an instance: when and how many bytes arrived, within this time.
fn prefetched(
    limit: u64,
    instances: Vec<String>,
    size: impl Fn(&str) -> usize,
    time: u64,
) -> Vec<(u64, u64)> {
    let config =
        EdgeConfig { prefetch_bytes_per_second: limit, prefetch_bytes: 1 << 30, ..EdgeConfig::default() };
    let mut edge = Edge::new(config, vec![schedule(instances)]);
    let (mut under_way, mut arrived) = (VecDeque::new(), vec![]);
    while edge.mono < time {
        edge.pass(5_000);
        while under_way.front().is_some_and(|(at, _)| *at <= edge.mono) {
            let (_, order): (u64, FlightOrder) = under_way.pop_front().unwrap();
            let sizes: Vec<usize> = order.instances.iter().map(|instance| size(instance)).collect();
            arrived.push((edge.mono, sizes.iter().sum::<usize>() as u64));
            edge.land(&order, &sizes);
        }
        let due = edge.mono + 80_000;
        under_way.extend(edge.orders.drain(..).map(|order| (due, order)));
        assert!(under_way.len() <= EdgeConfig::default().prefetch_concurrency);
    }
    arrived
}

/// The most in any second, and all.
fn rates(arrived: &[(u64, u64)]) -> (u64, u64) {
    let within = |end: u64| arrived.iter().filter(move |(at, _)| *at <= end && at + 1_000_000 > end);
    let second = |(end, _): &(u64, u64)| within(*end).map(|(_, bytes)| bytes).sum();
    (arrived.iter().map(second).max().unwrap_or(0), arrived.iter().map(|(_, bytes)| bytes).sum())
}

#[test]
fn prefetches_keep_to_their_bytes_per_second() {
    let (limit, time) = (20_000, 20_000_000);
    let number = |instance: &str| instance.split('=').next_back().unwrap().parse::<usize>().unwrap();
    let of = |shard: &str, count: usize| (0..count).map(|k| format!("{shard}?k={k}")).collect::<Vec<_>>();
    type Size = fn(usize) -> usize;
    let cases: [(&str, Vec<String>, Size, u64); 4] = [
        ("many small ones", of("s", 2_000), |k| 900 + k % 100, 1_000),
        ("larger than what an unknown one is taken for", of("s", 2_000), |_| 6_000, 6_000),
        ("larger than the limit", of("s", 20), |_| 50_000, 50_000),
        ("now and then much larger", of("s", 2_000), |k| if k % 40 == 39 { 15_000 } else { 300 }, 15_000),
    ];
    for (what, instances, size, largest) in cases {
        let arrived = prefetched(limit, instances, |instance| size(number(instance)), time);
        let (second, all) = rates(&arrived);
        assert!(second <= limit + largest, "{what}: {second} bytes in a second");
        assert!(all <= limit * (time / 1_000_000 + 1) + largest, "{what}: {all} bytes");
        assert!(all >= limit * (time / 1_000_000) / 4, "{what}: {all} bytes, of what there was");
    }
}
