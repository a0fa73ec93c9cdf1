//! Controller, costs and budget together on a link in simulated time, through step changes of what they can't control.

use super::budget::{Admission, Budget, Expected, Reserved};
use super::controller::{Controller, Resources, Signal};
use super::costs::Costs;

const MS: u64 = 1_000;
const SECOND: u64 = 1_000_000;
const COPY: u64 = 40_000;
const EXPECTED: Expected = Expected { bytes: COPY, sure: true };
const MAX: usize = 16;

/// One fetch on the way.
struct Transfer {
    demand: bool,
    started: u64,
    /// When its first byte arrives.
    flows_at: u64,
    left: f64,
}

/// A link that its transfers share evenly, and an origin behind it. There is always something to prefetch, and ten times a
/// second a function waits for a fetch.
struct World {
    now: u64,
    /// Bytes per microsecond.
    bandwidth: f64,
    round_trip: u64,
    resources: Resources,
    transfers: Vec<Transfer>,
    controller: Controller,
    costs: Costs,
    budget: Budget,
    /// When a prefetch arrived.
    arrivals: Vec<u64>,
    /// When a demand fetch arrived and what it took.
    waits: Vec<(u64, u64)>,
}

impl World {
    fn new(bytes_per_second: u64) -> Self {
        World {
            now: 0,
            bandwidth: 10.0,
            round_trip: 80 * MS,
            resources: Resources::default(),
            transfers: Vec::new(),
            controller: Controller::new(MAX),
            costs: Costs::new(),
            budget: Budget::new(bytes_per_second),
            arrivals: Vec::new(),
            waits: Vec::new(),
        }
    }

    fn under_way(&self) -> usize {
        self.transfers.iter().filter(|transfer| !transfer.demand).count()
    }

    fn start(&mut self, demand: bool) {
        let flows_at = self.now + self.round_trip;
        self.transfers.push(Transfer { demand, started: self.now, flows_at, left: COPY as f64 });
    }

    fn run(&mut self, until: u64) {
        while self.now < until {
            self.now += MS;
            self.controller.on_resources(self.resources);
            if self.now.is_multiple_of(100 * MS) {
                self.start(true);
            }
            if self.now.is_multiple_of(500 * MS) {
                let took = self.round_trip;
                self.controller.heard(self.now, Signal::Ping { took }, 0);
            }
            self.flow();
            while self.under_way() < self.controller.limit(self.now)
                && self.budget.admits(self.now, Reserved::default(), EXPECTED) != Admission::No
            {
                self.budget.started(Reserved::default().and(EXPECTED));
                self.start(false);
            }
        }
    }

    fn flow(&mut self) {
        let now = self.now;
        let flowing = self.transfers.iter().filter(|transfer| transfer.flows_at <= now).count();
        let share = self.bandwidth * MS as f64 / flowing.max(1) as f64;
        for transfer in self.transfers.iter_mut().filter(|transfer| transfer.flows_at <= now) {
            transfer.left -= share;
        }
        let used = self.under_way();
        let (done, on): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.transfers).into_iter().partition(|t| t.left <= 0.0);
        self.transfers = on;
        for transfer in done {
            let took = now - transfer.started;
            let expected = self.costs.fetch_time(COPY);
            self.costs.fetch(now, COPY, took);
            if transfer.demand {
                self.waits.push((now, took));
                self.controller.heard(now, Signal::Demand { took, expected }, used);
            } else {
                self.budget.ended(now, Reserved::default().and(EXPECTED), COPY);
                self.arrivals.push(now);
                self.controller.heard(now, Signal::Prefetch { took, expected }, used);
            }
        }
    }

    /// Runs on for `observed`; how long it took until no more than `bound` were under way at once (the settling time), and how
    /// many were at most after that (beyond the bound: overshoot).
    fn settles(&mut self, bound: usize, observed: u64) -> (u64, usize) {
        let (start, mut most) = (self.now, 0);
        let mut settled = None;
        while self.now < start + observed {
            let next = self.now + MS;
            self.run(next);
            let under_way = self.under_way();
            if settled.is_none() && under_way <= bound {
                settled = Some(self.now - start);
            } else if settled.is_some() {
                most = most.max(under_way);
            }
        }
        (settled.unwrap_or(u64::MAX), most)
    }

    /// Median wait of the demand fetches that arrived in this time.
    fn wait(&self, from: u64, to: u64) -> u64 {
        let mut waits: Vec<u64> =
            self.waits.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, took)| *took).collect();
        waits.sort_unstable();
        waits[waits.len() / 2]
    }

    fn rate(&self, from: u64, to: u64) -> usize {
        let arrived = self.arrivals.iter().filter(|at| (from..to).contains(*at)).count();
        arrived * SECOND as usize / (to - from) as usize
    }
}

/// A change that nobody announces.
type Step = fn(&mut World);

#[test]
fn after_any_step_it_settles_within_a_second_and_does_not_overshoot() {
    let steps: [(&str, Step, usize, u64); 6] = [
        ("a tenth of the bandwidth", |w| w.bandwidth = 1.0, MAX / 4, SECOND),
        ("an origin of five times the delay", |w| w.round_trip = 400 * MS, MAX / 4, SECOND),
        ("an origin of nearly four times the delay", |w| w.round_trip = 300 * MS, MAX / 4, SECOND),
        ("memory gone", |w| w.resources.memory = 0.97, 0, SECOND / 10),
        ("memory waited for", |w| w.resources.memory_pressure = Some(0.3), 1, SECOND / 10),
        ("CPU waited for", |w| w.resources.cpu = 1.0, MAX / 4, SECOND / 10),
    ];
    for (what, change, bound, within) in steps {
        let mut world = World::new(0);
        world.run(20 * SECOND);
        assert_eq!(world.under_way(), MAX, "before");
        change(&mut world);
        let (took, most) = world.settles(bound, 3 * SECOND);
        assert!(took <= within, "{what}: {took} us until no more than {bound} were under way");
        assert!(most <= bound, "{what}: {most} under way after it had settled at {bound}");
    }
}

#[test]
fn a_new_edge_has_all_the_room_within_three_seconds() {
    let mut world = World::new(0);
    world.run(MS);
    assert_eq!(world.under_way(), 1, "it starts with one");
    while world.under_way() < MAX {
        let next = world.now + MS;
        world.run(next);
        assert!(world.now <= 3 * SECOND, "{} under way", world.under_way());
    }
}

#[test]
fn it_takes_the_room_there_is() {
    let mut world = World::new(0);
    world.run(20 * SECOND);
    assert_eq!(world.under_way(), MAX);
    // 16 at a time, each of a round trip and what it shares of the link.
    assert!(world.rate(10 * SECOND, 20 * SECOND) > 100, "{}", world.rate(10 * SECOND, 20 * SECOND));
    assert!(world.wait(10 * SECOND, 20 * SECOND) < 200 * MS);
}

#[test]
fn a_link_that_collapses_is_left_to_the_functions_within_two_seconds() {
    let mut world = World::new(0);
    world.run(20 * SECOND);
    world.bandwidth = 1.0;
    world.run(22 * SECOND);
    assert!(world.under_way() <= 2, "{} under way", world.under_way());
    world.run(40 * SECOND);
    // Alone on the link a fetch would take 120 ms, and demand itself fills 40 % of it.
    assert!(world.wait(24 * SECOND, 34 * SECOND) < 300 * MS, "{}", world.wait(24 * SECOND, 34 * SECOND));
    world.bandwidth = 10.0;
    world.run(60 * SECOND);
    assert!(world.under_way() > MAX / 2, "the room is taken again: {}", world.under_way());
}

#[test]
fn an_origin_that_slows_down_is_relieved_and_in_the_end_is_the_new_normal() {
    let mut world = World::new(0);
    world.run(20 * SECOND);
    let before = world.under_way();
    world.round_trip = 400 * MS;
    world.run(22 * SECOND);
    assert!(world.under_way() <= before / 4, "{} under way", world.under_way());
    world.run(80 * SECOND);
    assert!(world.under_way() > before / 2, "{} under way", world.under_way());
}

#[test]
fn a_short_machine_is_felt_at_once_and_only_as_long_as_it_is_short() {
    let mut world = World::new(0);
    world.run(20 * SECOND);
    for (resources, most) in [
        (Resources { memory: 0.97, ..Resources::default() }, 0),
        (Resources { cpu: 1.0, ..Resources::default() }, MAX / 4),
        (Resources { memory_pressure: Some(0.3), ..Resources::default() }, 1),
    ] {
        world.resources = resources;
        let start = world.now;
        world.run(start + SECOND);
        assert!(world.under_way() <= most, "{resources:?}: {}", world.under_way());
        world.resources = Resources::default();
        world.run(start + 4 * SECOND);
        assert!(world.under_way() > MAX / 2, "after {resources:?}: {}", world.under_way());
    }
}

#[test]
fn no_second_brings_more_than_the_budget() {
    let limit = 50 * COPY;
    let mut world = World::new(limit);
    for (bandwidth, round_trip) in [(10.0, 80), (1.0, 80), (10.0, 400), (40.0, 5)] {
        (world.bandwidth, world.round_trip) = (bandwidth, round_trip * MS);
        let end = world.now + 15 * SECOND;
        world.run(end);
    }
    for end in &world.arrivals {
        let second = world.arrivals.iter().filter(|at| *at <= end && **at + SECOND > *end).count() as u64;
        assert!(second * COPY <= limit, "{second} copies in the second before {end}");
    }
    let fastest = world.rate(world.now - 5 * SECOND, world.now);
    assert!(fastest >= 40, "what there is is used: {fastest} a second");
}
