//! What is declared is expected before it was ever seen, and as far as it proves true.

use foreshard_planner::{Declaration, Engine, EngineConfig, Horizon, WindowRequest};

use crate::trace::{Call, Chance, DAY, START, config, observe};

const EDGE: &str = "ams1";
const NINE: i64 = 9 * 60;

fn engine() -> Engine {
    let horizons = [(0, 15), (3, 18), (7, 22), (15, 30)].map(|(after, until)| Horizon { after, until });
    Engine::new(EngineConfig { horizons: horizons.to_vec(), tick_minutes: 5, ..config() }).unwrap()
}

/// Nine o'clock on each of so many days, from the day before.
fn daily(days: i64) -> Vec<i64> {
    (-1..days).map(|day| START + day * DAY + NINE).collect()
}

fn declare(engine: &mut Engine, now: i64, minutes: &[i64]) {
    let instances = ["offers", "products"];
    let report = Declaration {
        id: 7,
        edge: EDGE,
        function: "report",
        confidence: 0.9,
        minutes,
        instances: &instances,
    };
    engine.declare(now, &[report]);
}

/// What is expected of the report in a quarter of an hour from this minute on: its confidence, and what it is published to read.
fn expected(engine: &Engine, minute: i64) -> (f64, Vec<String>) {
    let starts_at = minute * 60;
    let request = WindowRequest {
        now: starts_at - 2,
        starts_at,
        ends_at: starts_at + 900,
        lead: 2,
        floor: 0.02,
        max_entries: 100,
    };
    let schedules = engine.schedule(&request).unwrap();
    let mut entries = schedules.into_iter().flat_map(|s| s.entries).filter(|e| e.function_id == "report");
    let Some(first) = entries.next() else { return (0.0, Vec::new()) };
    (first.confidence, first.shard_list)
}

/// An engine that has seen other functions until a few minutes before nine of that day; the report runs at a minute past nine on days that `runs` names.
fn after(days: i64, declared: bool, runs: impl Fn(i64) -> bool) -> Engine {
    let (mut engine, mut chance) = (engine(), Chance(11));
    if declared {
        declare(&mut engine, START - 1, &daily(days + 2));
    }
    for minute in START..=START + days * DAY + NINE - 5 {
        let mut call = |function: &str, instances: &[&str]| {
            let instances = instances.iter().map(|&i| i.to_owned()).collect();
            observe(&mut engine, &Call { minute, function: function.into(), edge: EDGE, instances });
        };
        for other in ["a", "b", "c", "d"] {
            if chance.happens(0.02) {
                call(other, &["products"]);
            }
        }
        let at = minute - START;
        if at % DAY == NINE + 1 && runs(at / DAY) {
            call("report", &["offers"]);
        }
        if minute % 5 == 0 {
            engine.tick(minute, 1, None);
        }
    }
    engine
}

#[test]
fn a_function_that_never_ran_is_expected_as_declared_in_its_window_only() {
    let mut engine = engine();
    declare(&mut engine, START + NINE - 10, &daily(2));
    let (confidence, reads) = expected(&engine, START + NINE - 5);
    assert!((0.75..=0.9).contains(&confidence), "{confidence}");
    assert_eq!(reads, ["offers", "products"]);
    assert_eq!(expected(&engine, START + NINE + 1).0, 0.0);
    assert_eq!(expected(&engine, START + NINE - 16).0, 0.0);
    engine.declare::<&str>(START + NINE - 10, &[]);
    assert_eq!(expected(&engine, START + NINE - 5).0, 0.0, "what is withdrawn is not expected");
}

#[test]
fn a_hint_that_proves_wrong_loses_its_weight() {
    let engine = after(5, true, |_| false);
    let (confidence, _) = expected(&engine, START + 5 * DAY + NINE - 5);
    assert!(confidence < 0.1, "{confidence}");
}

#[test]
fn a_hint_that_proves_true_keeps_it_and_is_worth_more_than_the_history_at_first() {
    for (days, at_least) in [(1, 0.75), (2, 0.75), (6, 0.85)] {
        let (confidence, reads) = expected(&after(days, true, |_| true), START + days * DAY + NINE - 5);
        assert!(confidence >= at_least, "{confidence} after {days} days");
        assert_eq!(reads[0], "offers", "{reads:?}");
    }
    let (seen, _) = expected(&after(2, false, |_| true), START + 2 * DAY + NINE - 5);
    assert!(seen < 0.5, "the history alone would have been enough: {seen}");
}

#[test]
fn what_is_confirmed_on_half_of_the_days_is_published_as_likely_as_that() {
    let engine = after(16, true, |day| Chance(day as u64).happens(0.5));
    let at = START + 16 * DAY + NINE - 5;
    let (confidence, _) = expected(&engine, at);
    assert!((0.3..0.75).contains(&confidence), "{confidence}");
}

#[test]
fn what_was_learned_of_a_hint_survives_a_restart_and_being_declared_again() {
    let mut engine = after(5, true, |_| false);
    let at = START + 5 * DAY + NINE - 5;
    let before = expected(&engine, at);
    let mut bytes = Vec::new();
    engine.save(&mut bytes).unwrap();
    let mut restored = Engine::restored(engine.config().clone(), &bytes).unwrap();
    assert_eq!(expected(&restored, at), before);
    for engine in [&mut engine, &mut restored] {
        declare(engine, START + 5 * DAY, &daily(8));
        assert_eq!(expected(engine, at), before);
    }
}

#[test]
fn nonsense_is_survived_and_floods_are_bounded() {
    let mut engine = after(1, true, |_| true);
    let minutes = [i64::MAX, i64::MIN, 0, START + DAY + NINE];
    let none: [&str; 0] = [];
    let many: Vec<_> = (0..1_000)
        .map(|id| Declaration {
            id,
            edge: EDGE,
            function: "report",
            confidence: if id % 2 == 0 { f64::NAN } else { 7.0 },
            minutes: &minutes,
            instances: &none,
        })
        .collect();
    engine.declare(START + DAY, &many);
    (0..3 * DAY).for_each(|m| engine.tick(START + DAY + m, 1, None));
    let (confidence, _) = expected(&engine, START + 4 * DAY + NINE - 5);
    assert!((0.0..=1.0).contains(&confidence), "{confidence}");
}
