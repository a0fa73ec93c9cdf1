//! A probability means something: held-out windows come true as often as it says.

use std::collections::{BTreeSet, HashMap};

use foreshard_planner::{Engine, EngineConfig, Horizon, Part, Score, WindowRequest, score};

use crate::trace::{Call, DAY, START, config, observe, outcomes, run, seasonal};

const LEARN: i64 = 4 * DAY;
const END: i64 = 6 * DAY;

fn calls() -> Vec<Call> {
    seasonal(END / DAY, 20, 4)
}

#[test]
fn held_out_horizons_come_true_as_often_as_predicted() {
    let calls = calls();
    let mut engine = Engine::new(config()).unwrap();
    let predicted = run(&mut engine, &calls, START + LEARN, START + END - 1);
    for (index, horizon) in [(0, 5), (1, 15), (2, 30)] {
        let score = score(&mut outcomes(&predicted, &calls, index, horizon)).unwrap();
        // Some of it is chance: 20 bins share the windows of two days.
        assert!(score.ece < 0.02, "horizon {horizon}: {score:?}");
        assert!(score.ap > 0.8, "horizon {horizon}: {score:?}");
    }
}

/// Scores, on windows before which nothing was called for ten minutes, the next minute of the third day.
fn next_minute(config: EngineConfig) -> Score {
    let calls = seasonal(3, 20, 0);
    let config = EngineConfig { horizons: vec![Horizon::within(1)], tick_minutes: 1, ..config };
    let predicted = run(&mut Engine::new(config).unwrap(), &calls, START + 2 * DAY, START + 3 * DAY - 1);
    let mut latest: HashMap<(&str, &str), BTreeSet<i64>> = HashMap::new();
    for c in &calls {
        latest.entry((&c.function, c.edge)).or_default().insert(c.minute);
    }
    let cold: Vec<_> = predicted
        .into_iter()
        .filter(|p| {
            latest.get(&(p.1.as_str(), p.2.as_str())).is_none_or(|m| m.range(p.0 - 9..=p.0).next().is_none())
        })
        .collect();
    score(&mut outcomes(&cold, &calls, 0, 1)).unwrap()
}

#[test]
fn cold_windows_are_calibrated_and_would_not_be_without_the_map() {
    // The refinement corrects what is wrong on the whole, too: here the map is on its own.
    let alone = |parts: &[Part]| EngineConfig { without: [parts, &[Part::Refinement]].concat(), ..config() };
    let with = next_minute(alone(&[]));
    let without = next_minute(alone(&[Part::Calibration]));
    assert!(with.ece < 0.002, "{with:?}");
    assert!(without.ece > 0.0024, "the bound is no test of the calibration: {without:?}");
    assert!(with.brier < without.brier, "{with:?} {without:?}");
}

/// Plans, all through the held-out days, the quarter of an hour that begins twelve minutes later, and scores the
/// confidence of every function against whether it ran then.
fn published() -> Score {
    let calls = calls();
    let mut ran: HashMap<(&str, &str), Vec<i64>> = HashMap::new();
    for c in &calls {
        ran.entry((c.edge, &c.function)).or_default().push(c.minute);
    }
    // As the planner has it: windows of one length that begin later and later.
    let starts = [0, 4, 8, 15, 30].into_iter();
    let horizons = starts.map(|after| Horizon { after, until: after + 15 }).collect();
    let mut engine = Engine::new(EngineConfig { horizons, ..config() }).unwrap();
    let mut next = calls.iter().peekable();
    let mut scored = Vec::new();
    for minute in START..START + END - 30 {
        while let Some(call) = next.next_if(|c| c.minute == minute) {
            observe(&mut engine, call);
        }
        if minute % 5 == 0 {
            engine.tick(minute, 1, None);
        }
        if minute % 25 != 0 || minute < START + LEARN {
            continue;
        }
        let now = (minute + 1) * 60;
        let (starts_at, ends_at) = (now + 12 * 60, now + 27 * 60);
        let request = WindowRequest { now, starts_at, ends_at, lead: 0, floor: 0.0, max_entries: 10_000 };
        for schedule in engine.schedule(&request).unwrap() {
            // All functions read "settings", so that entry has the function's own probability.
            for e in schedule.entries.iter().filter(|e| e.shard_list.iter().any(|s| s == "settings")) {
                let minutes = &ran[&(schedule.edge.as_str(), e.function_id.as_str())];
                let called = minutes.iter().any(|&m| m > minute + 12 && m <= minute + 27);
                scored.push((e.confidence as f32, called));
            }
        }
    }
    score(&mut scored).unwrap()
}

#[test]
fn published_confidence_is_the_share_that_comes_true() {
    let score = published();
    assert!(score.windows > 3000, "{score:?}");
    assert!(score.ece < 0.05, "{score:?}");
}
