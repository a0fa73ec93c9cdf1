//! How many prefetches may be under way.
//!
//! Additive increase, multiplicative decrease, as TCP does it and for its reason: where many share a path without knowing of
//! each other, it is the rule under which they come to fair shares and a queue that has built up drains. What is added:
//!
//! * Congestion is told from delay, not loss. A fetch is slow if it took much longer than the best ones of its size lately
//!   (`Costs::fetch_time`); so is a question to the origin. Waiting until something fails would be too late for the functions
//!   that share the link.
//! * A demand fetch that is slow counts for more than a slow prefetch: nothing is prefetched for a while once the places are
//!   down to one, because whom the prefetches are made for is being hurt by them.
//! * One step down in a while: the fetches that were under way together all come back slow and are one piece of news.
//! * Places that are not used do not grow: a limit that was never tried proves nothing.
//! * A short machine caps the places, and a machine out of memory closes them, whatever the link allows.

use super::extreme::Extreme;

/// How busy the machine is. Shares of what the process may use, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Resources {
    /// CPU in use.
    pub cpu: f64,
    /// Memory in use.
    pub memory: f64,
    /// Share of the last ten seconds in which something waited for CPU (pressure stall information), where it is known.
    pub cpu_pressure: Option<f64>,
    /// The same for memory.
    pub memory_pressure: Option<f64>,
}

/// What may tell how much more the path and the origin bear. Times in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Signal {
    /// A prefetch came back; `expected`: what it takes when nothing is in its way.
    Prefetch { took: u64, expected: Option<u64> },
    /// A prefetch failed.
    Failed,
    /// A fetch that a request waited for came back.
    Demand { took: u64, expected: Option<u64> },
    /// The origin answered a small question.
    Ping { took: u64 },
}

pub(crate) struct Controller {
    places: f64,
    max: usize,
    resources: Resources,
    ping: Extreme,
    stepped_down_at: Option<u64>,
    closed_until: u64,
}

/// Slower than the best of its size by this factor is slow. Demand is more sensitive than what nobody waits for.
const SLOW_PREFETCH: u64 = 3;
const SLOW_DEMAND: u64 = 2;
const SLOW_PING: f64 = 3.0;
/// And by this much: below it, scheduling noise decides.
const NOISE: u64 = 10_000;
/// From one step down to the next.
const STEP_DOWN_EVERY: u64 = 200_000;
/// How long nothing starts when demand is slow and the places are down to one.
const CLOSED_FOR: u64 = 500_000;
/// Between these shares of CPU in use, or of time in which something waited for CPU, the places shrink to a quarter: a
/// prefetch mostly waits for the link, so a busy CPU is no reason to stop.
const CPU_USE: (f64, f64) = (0.7, 0.95);
const CPU_WAITS: (f64, f64) = (0.5, 0.9);
const MEMORY_SHORT: f64 = 0.85;
const MEMORY_EXHAUSTED: f64 = 0.95;
const MEMORY_WAITS: f64 = 0.1;

impl Controller {
    pub(crate) fn new(max: usize) -> Self {
        Controller {
            places: 1.0,
            max: max.max(1),
            resources: Resources::default(),
            ping: Extreme::smallest(),
            stepped_down_at: None,
            closed_until: 0,
        }
    }

    /// Prefetches that may be under way now.
    pub(crate) fn limit(&self, now: u64) -> usize {
        if now < self.closed_until {
            return 0;
        }
        (self.places as usize).min(self.cap())
    }

    /// What the machine allows.
    fn cap(&self) -> usize {
        let Resources { cpu, memory, cpu_pressure, memory_pressure } = self.resources;
        if memory >= MEMORY_EXHAUSTED {
            return 0;
        }
        if memory >= MEMORY_SHORT || memory_pressure.is_some_and(|share| share >= MEMORY_WAITS) {
            return 1;
        }
        // A CPU in full use for which nothing waits is no trouble, where that is known.
        let (load, (busy, full)) = cpu_pressure.map_or((cpu, CPU_USE), |waits| (waits, CPU_WAITS));
        let room = 1.0 - 0.75 * ((load - busy) / (full - busy)).clamp(0.0, 1.0);
        ((self.max as f64 * room) as usize).max(1)
    }

    pub(crate) fn on_resources(&mut self, resources: Resources) {
        // A reading that is no number is one of a machine in trouble.
        let clean = |share: f64| if share.is_finite() { share.clamp(0.0, 1.0) } else { MEMORY_SHORT };
        self.resources = Resources {
            cpu: clean(resources.cpu),
            memory: clean(resources.memory),
            cpu_pressure: resources.cpu_pressure.map(clean),
            memory_pressure: resources.memory_pressure.map(clean),
        };
    }

    /// `used`: how many prefetches were under way, this one included.
    pub(crate) fn heard(&mut self, now: u64, signal: Signal, used: usize) {
        let slow = |took: u64, expected: Option<u64>, factor: u64| {
            expected.is_some_and(|expected| took > expected * factor && took > expected + NOISE)
        };
        match signal {
            Signal::Failed => self.step_down(now),
            Signal::Prefetch { took, expected } if slow(took, expected, SLOW_PREFETCH) => self.step_down(now),
            Signal::Prefetch { .. } => {
                if used as f64 + 1.0 > self.places {
                    self.places = (self.places + 1.0 / self.places).min(self.max as f64);
                }
            }
            Signal::Demand { took, expected } => {
                if slow(took, expected, SLOW_DEMAND) {
                    if self.places < 2.0 {
                        self.closed_until = now + CLOSED_FOR;
                    }
                    self.step_down(now);
                }
            }
            Signal::Ping { took } => {
                let usual = self.ping.get();
                self.ping.add(now, took as f64);
                if usual.is_some_and(|usual| {
                    took as f64 > usual * SLOW_PING && took as f64 > usual + NOISE as f64
                }) {
                    self.step_down(now);
                }
            }
        }
    }

    fn step_down(&mut self, now: u64) {
        if self.stepped_down_at.is_some_and(|at| now < at + STEP_DOWN_EVERY) {
            return;
        }
        self.stepped_down_at = Some(now);
        self.places = (self.places / 2.0).max(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: u64 = 80_000;

    fn full(max: usize) -> Controller {
        let mut controller = Controller::new(max);
        for i in 0..200 {
            let used = controller.limit(i * RTT);
            controller.heard(i * RTT, Signal::Prefetch { took: RTT, expected: Some(RTT) }, used);
        }
        controller
    }

    #[test]
    fn starts_with_one_and_grows_only_where_places_are_used() {
        assert_eq!(Controller::new(8).limit(0), 1);
        assert_eq!(full(8).limit(0), 8);
        let mut idle = Controller::new(8);
        for i in 0..200 {
            idle.heard(i, Signal::Prefetch { took: RTT, expected: Some(RTT) }, 1);
        }
        assert_eq!(idle.limit(0), 2, "one in use proves no more than that two may be tried");
    }

    #[test]
    fn what_came_back_slow_together_is_one_step_down() {
        let mut controller = full(8);
        let now = 1_000_000_000;
        for i in 0..8 {
            controller.heard(now + i, Signal::Prefetch { took: 4 * RTT, expected: Some(RTT) }, 8);
        }
        assert_eq!(controller.limit(now), 4);
        controller.heard(now + STEP_DOWN_EVERY, Signal::Failed, 4);
        assert_eq!(controller.limit(now), 2);
    }

    #[test]
    fn slow_demand_closes_within_a_second_and_for_a_while_only() {
        let mut controller = full(8);
        let start = 1_000_000_000;
        let mut now = start;
        while controller.limit(now) > 0 {
            now += 50_000;
            controller.heard(now, Signal::Demand { took: 3 * RTT, expected: Some(RTT) }, 0);
        }
        assert!(now - start <= 1_000_000, "{} us", now - start);
        assert_eq!(controller.limit(now + CLOSED_FOR), 1);
    }

    #[test]
    fn a_slow_origin_is_noticed_without_any_fetch() {
        let mut controller = full(8);
        for i in 0..10 {
            controller.heard(i, Signal::Ping { took: 1_000 }, 0);
        }
        assert_eq!(controller.limit(0), 8, "quick");
        controller.heard(1_000_000_000, Signal::Ping { took: 40_000 }, 0);
        assert_eq!(controller.limit(0), 4);
    }

    #[test]
    fn the_machine_caps_it_and_nonsense_readings_count_as_short() {
        let mut controller = full(8);
        let calm = Resources::default();
        for (resources, limit) in [
            (calm, 8),
            (Resources { cpu: 0.825, ..calm }, 5),
            (Resources { cpu: 1.0, ..calm }, 2),
            (Resources { cpu: 1.0, cpu_pressure: Some(0.2), ..calm }, 8),
            (Resources { cpu_pressure: Some(0.95), ..calm }, 2),
            (Resources { memory: 0.9, ..calm }, 1),
            (Resources { memory_pressure: Some(0.2), ..calm }, 1),
            (Resources { memory: 0.96, ..calm }, 0),
            (Resources { memory: f64::NAN, ..calm }, 1),
        ] {
            controller.on_resources(resources);
            assert_eq!(controller.limit(0), limit, "{resources:?}");
        }
    }
}
