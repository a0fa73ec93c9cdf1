//! Prefetching by the engine never does harm: in no hour does it cost more than it saves, and it does not save less than going by the idle time
//! alone, not while functions change what they do, nor with a log full of rubbish.

use std::collections::BTreeMap;

use foreshard_planner::measure::{Grid, RESIDENCY, reside};
use foreshard_planner::{Engine, EngineConfig, Horizon, Prediction};

use crate::trace::{Call, Chance, DAY, START, config, observe, seasonal};

/// What a prefetch costs over what a miss costs.
const COST: f64 = 0.05;
const HOUR: i64 = 60;
/// Hours over which both are compared: an hour of these traces has some 60 misses, of which one or two could not be known.
const STRETCH: usize = 6;

/// Savings in each hour from day `from` on, of the engine and of the idle-time hazard.
fn by_hour(calls: &[Call], from: i64, days: i64) -> Vec<(f64, f64)> {
    let horizons = vec![Horizon::within(RESIDENCY as u32)];
    let mut engine =
        Engine::new(EngineConfig { horizons, tick_minutes: 1, max_histories: 4096, ..config() }).unwrap();
    let mut pairs: BTreeMap<(&str, &str), Vec<i64>> = BTreeMap::new();
    for call in calls {
        pairs.entry((&call.function, call.edge)).or_default().push(call.minute);
    }
    let place: BTreeMap<(&str, &str), usize> = pairs.keys().copied().zip(0..).collect();
    let minutes: Vec<Vec<i64>> = pairs.into_values().collect();
    let (first, last) = (START + from * DAY, START + days * DAY - 1);
    let grid = || Grid::new(minutes.len(), first, 1, last);
    let (mut ours, mut hazard) = (grid(), grid());
    let mut waiting = calls.iter().peekable();
    for minute in START..=last {
        while let Some(call) = waiting.next_if(|c| c.minute == minute) {
            observe(&mut engine, call);
        }
        let mut sink = |p: Prediction<'_>| {
            if let Some(&pair) = place.get(&(p.function, p.edge)) {
                ours.set(pair, minute, p.p[0]);
                hazard.set(pair, minute, p.hazard[0]);
            }
        };
        engine.tick(minute, 1, if minute >= first { Some(&mut sink) } else { None });
    }
    let savings = |grid: &Grid, hour: i64| {
        reside(&grid.during(hour, hour + HOUR - 1), &minutes, last, COST as f32).savings(COST)
    };
    let hours = (first..last - HOUR).step_by(HOUR as usize);
    hours.map(|hour| (savings(&ours, hour), savings(&hazard, hour))).collect()
}

fn no_harm(hours: &[(f64, f64)]) {
    assert!(hours.len() > STRETCH);
    for (hour, (ours, _)) in hours.iter().enumerate() {
        assert!(*ours >= 0.0, "in hour {hour} prefetching costs more than it saves: {ours}");
    }
    for (hour, stretch) in hours.windows(STRETCH).enumerate() {
        let mean = |of: fn(&(f64, f64)) -> f64| stretch.iter().map(of).sum::<f64>() / STRETCH as f64;
        let (ours, hazard) = (mean(|h| h.0), mean(|h| h.1));
        assert!(
            ours + 0.02 >= hazard,
            "from hour {hour} on {ours} is saved, {hazard} by the idle time alone"
        );
    }
}

#[test]
fn in_no_hour_of_an_ordinary_week() {
    no_harm(&by_hour(&seasonal(3, 40, 11), 1, 3));
}

#[test]
fn in_no_hour_while_all_functions_change_what_they_do() {
    // From the third day on each function does what another one did.
    let mut calls = seasonal(3, 40, 12);
    for call in calls.iter_mut().filter(|c| c.minute >= START + 2 * DAY) {
        let digits = call.function.find(|c: char| c.is_ascii_digit()).unwrap();
        let number: u64 = call.function[digits..].parse().unwrap();
        call.function = format!("{}{}", &call.function[..digits], (number + 7) % 40);
    }
    no_harm(&by_hour(&calls, 1, 3));
}

#[test]
fn in_no_hour_of_a_log_full_of_rubbish() {
    // Each minute some of 3,000 functions that mean nothing are said to have run, and the true ones at times twice.
    let mut calls = seasonal(2, 40, 13);
    let mut chance = Chance(14);
    let mut rubbish: Vec<Call> = (START..START + 2 * DAY)
        .flat_map(|minute| std::iter::repeat_n(minute, 3))
        .map(|minute| Call {
            minute,
            function: format!("rubbish{}", chance.below(3_000)),
            edge: "ams1",
            instances: Vec::new(),
        })
        .collect();
    let twice: Vec<Call> = calls.iter().step_by(5).cloned().collect();
    calls.append(&mut rubbish);
    calls.extend(twice);
    calls.sort();
    no_harm(&by_hour(&calls, 1, 2));
}
