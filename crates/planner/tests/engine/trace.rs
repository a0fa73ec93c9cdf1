//! A generated trace with the kinds of functions that real ones have.
//!
//! Archetypes and their shares: timers with a fixed period (3 of 10), daily reports at a fixed minute (2 of 10), office
//! hours with a weekend (3 of 10), chains in which one function calls another some minutes later (1 of 10, two functions
//! each), and rare calls at random (1 of 10).

use foreshard_planner::{Engine, EngineConfig, Horizon, Invocation, Prediction};

/// A generator of numbers that look random and are the same in every run (splitmix64).
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> i64 {
        (self.next() % n) as i64
    }

    pub(crate) fn happens(&mut self, p: f64) -> bool {
        ((self.next() >> 11) as f64) < p * (1u64 << 53) as f64
    }
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Call {
    pub(crate) minute: i64,
    pub(crate) function: String,
    pub(crate) edge: &'static str,
    pub(crate) instances: Vec<String>,
}

pub(crate) const DAY: i64 = 1440;
pub(crate) const EDGES: [&str; 2] = ["ams1", "sin1"];
/// 2024-01-01, a Monday, in minutes since 1970.
pub(crate) const START: i64 = 28_401_120;

/// `functions` functions at each of two edges for `days` days, in order of time.
pub(crate) fn seasonal(days: i64, functions: u64, seed: u64) -> Vec<Call> {
    let mut calls = Vec::new();
    for (e, edge) in EDGES.into_iter().enumerate() {
        for f in 0..functions {
            let mut chance = Chance(seed * 1_000_003 + f * 17 + e as u64);
            let mut add = |minute: i64, name: String, key: Option<i64>| {
                let mut instances = vec!["settings".to_owned()];
                instances.extend(key.map(|k| format!("cart?customer_id={k}")));
                calls.push(Call { minute: START + minute, function: name, edge, instances });
            };
            let end = days * DAY;
            match f % 10 {
                0..=2 => {
                    let period = [15, 20, 37, 60, 90][(f / 10 % 5) as usize];
                    let mut at = chance.below(period);
                    while at < end {
                        add((at + chance.below(2)).min(end - 1), format!("timer{f}"), None);
                        at += period as i64;
                    }
                }
                3..=4 => {
                    let at = chance.below(1400);
                    for day in 0..days {
                        if chance.happens(0.95) {
                            add(day * DAY + at + chance.below(6), format!("report{f}"), None);
                        }
                    }
                }
                5..=7 => {
                    let busy = 0.01 + chance.below(10) as f64 * 0.01;
                    for minute in 0..end {
                        let hour = minute % DAY / 60;
                        let open = (9..17).contains(&hour) && minute / DAY % 7 < 5;
                        if chance.happens(if open { busy } else { busy / 40.0 }) {
                            let favourite = chance.happens(0.6);
                            let key = if favourite { 7 } else { chance.below(500) };
                            add(minute, format!("office{f}"), Some(key));
                        }
                    }
                }
                8 => {
                    for minute in 0..end - 10 {
                        if chance.happens(0.008) {
                            add(minute, format!("first{f}"), None);
                            if chance.happens(0.9) {
                                add(minute + 3 + chance.below(2), format!("second{f}"), None);
                            }
                        }
                    }
                }
                _ => {
                    for minute in 0..end {
                        if chance.happens(0.0015) {
                            add(minute, format!("rare{f}"), None);
                        }
                    }
                }
            }
        }
    }
    calls.sort();
    calls
}

/// Tick, horizons and everything else that these tests use.
pub(crate) fn config() -> EngineConfig {
    EngineConfig {
        horizons: [5, 15, 30].map(Horizon::within).to_vec(),
        tick_minutes: 5,
        ..EngineConfig::default()
    }
}

/// One prediction: minute, function, edge, and the probability for each horizon.
pub(crate) type Predicted = (i64, String, String, Vec<f32>);

/// Feeds `calls` up to and including minute `until`; collects the predictions of ticks from minute `from` on.
pub(crate) fn run(engine: &mut Engine, calls: &[Call], from: i64, until: i64) -> Vec<Predicted> {
    let mut predicted = Vec::new();
    let mut calls = calls.iter().filter(|c| c.minute <= until).peekable();
    let tick = i64::from(engine.config().tick_minutes);
    let Some(first) = calls.peek().map(|c| c.minute) else { return predicted };
    for minute in first..=until {
        while let Some(call) = calls.next_if(|c| c.minute == minute) {
            observe(engine, call);
        }
        if minute % tick != 0 {
            continue;
        }
        let mut sink =
            |p: Prediction<'_>| predicted.push((minute, p.function.into(), p.edge.into(), p.p.to_vec()));
        engine.tick(minute, 1, if minute >= from { Some(&mut sink) } else { None });
    }
    predicted
}

pub(crate) fn observe(engine: &mut Engine, call: &Call) {
    engine.observe(&Invocation {
        edge: call.edge,
        function: &call.function,
        minute: call.minute,
        calls: 1,
        instances: &call.instances,
    });
}

/// Whether each prediction for the horizon at `index` came true, with its probability.
pub(crate) fn outcomes(
    predicted: &[Predicted],
    calls: &[Call],
    index: usize,
    horizon: i64,
) -> Vec<(f32, bool)> {
    let mut minutes: std::collections::HashMap<(&str, &str), Vec<i64>> = std::collections::HashMap::new();
    for c in calls {
        minutes.entry((&c.function, c.edge)).or_default().push(c.minute);
    }
    let last = calls.last().map_or(0, |c| c.minute);
    let known = predicted.iter().filter(|p| p.0 + horizon <= last);
    known
        .map(|(minute, function, edge, p)| {
            let calls = minutes.get(&(function.as_str(), edge.as_str())).map_or(&[][..], Vec::as_slice);
            let next = calls.get(calls.partition_point(|m| m <= minute));
            (p[index], next.is_some_and(|&m| m <= minute + horizon))
        })
        .collect()
}
