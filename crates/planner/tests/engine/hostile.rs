//! A broken or hostile log: nothing panics, grows without bound, or spoils what is known.

use foreshard_planner::{Engine, EngineConfig, Invocation, Observed, WindowRequest};
use proptest::prelude::*;

use crate::trace::{Call, DAY, START, config, observe, run, seasonal};

fn small() -> EngineConfig {
    EngineConfig { max_histories: 64, max_edges: 3, max_keys: 4, ..config() }
}

fn at<'a>(function: &'a str, edge: &'a str, minute: i64) -> Invocation<'a, &'a str> {
    Invocation { edge, function, minute, calls: 1, instances: &["products"] }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_sequence_of_calls_gives_probabilities(
        steps in prop::collection::vec((0u8..6, 0u8..5, any::<i64>(), 0i64..3000, any::<u32>(), any::<i64>()), 1..120),
    ) {
        let mut engine = Engine::new(small()).unwrap();
        for (kind, who, wild, tame, calls, seconds) in steps {
            let minute = if kind == 0 { wild } else { START + tame };
            let (function, edge) = (format!("f{who}"), format!("e{}", who % 4));
            match kind {
                0..=2 => {
                    let key = format!("{}?id={}", ["orders", "invoices"][usize::from(kind == 1)], tame % 8);
                    let instances = [key.as_str(), "products", "s?a=1&b=2", "?", "x?=", "s?=1"];
                    let instances = &instances[..1 + (calls % 6) as usize];
                    engine.observe(&Invocation { calls, instances, ..at(&function, &edge, minute) });
                }
                3 => {
                    let mut sound = true;
                    engine.tick(minute, calls, Some(&mut |p| sound &= p.p.iter().all(|p| (0.0..=1.0).contains(p))));
                    prop_assert!(sound);
                }
                4 => engine.set_utc_offset(&edge, calls as i32),
                _ => {
                    let request = WindowRequest {
                        now: minute * 60, starts_at: seconds, ends_at: seconds.saturating_add(900), lead: tame,
                        floor: 0.0, max_entries: 50,
                    };
                    for schedule in engine.schedule(&request).unwrap_or_default() {
                        prop_assert!(schedule.entries.iter().all(|e| (0.0..=1.0).contains(&e.confidence)));
                    }
                }
            }
        }
        prop_assert!(engine.histories() <= 64);
    }
}

#[test]
fn executions_from_the_future_do_not_move_the_clock() {
    let mut engine = Engine::new(config()).unwrap();
    engine.observe(&at("f", "ams1", START));
    engine.tick(START, 1, None);
    for minute in [START + 2 * DAY, START + 3_650 * DAY, i64::MAX, i64::MIN] {
        assert_eq!(engine.observe(&at("f", "ams1", minute)), Observed::Future);
    }
    assert_eq!(engine.observe(&at("f", "ams1", START - 10 * DAY)), Observed::TooOld);
    assert_eq!(engine.observe(&at("f", "ams1", START + 1)), Observed::Accepted);
    assert_eq!((engine.clock(), engine.counters().future), (Some(START), 4));
}

#[test]
fn an_execution_a_day_ahead_of_the_clock_is_planned_for() {
    let mut engine = Engine::new(config()).unwrap();
    engine.observe(&at("f", "ams1", START));
    engine.tick(START + 10, 1, None);
    assert_eq!(engine.observe(&at("g", "ams1", START + 10 + DAY)), Observed::Accepted);
    let request = WindowRequest {
        now: (START + 11) * 60,
        starts_at: (START + 11) * 60,
        ends_at: (START + 26) * 60,
        lead: 0,
        floor: 0.0,
        max_entries: 50,
    };
    let schedules = engine.schedule(&request).unwrap();
    assert!(schedules[0].entries.iter().any(|e| e.function_id == "g" && (0.0..=1.0).contains(&e.confidence)));
}

#[test]
fn duplicates_change_nothing() {
    let calls = seasonal(1, 10, 6);
    let twice: Vec<Call> = calls.iter().flat_map(|c| [c.clone(), c.clone()]).collect();
    let last = |calls: &[Call]| {
        let predicted = run(&mut Engine::new(config()).unwrap(), calls, START + DAY - 5, START + DAY - 1);
        predicted.into_iter().map(|p| (p.1, p.2, p.3)).collect::<Vec<_>>()
    };
    let (once, twice) = (last(&calls), last(&twice));
    assert_eq!(once.len(), twice.len());
    for (a, b) in once.iter().zip(&twice) {
        assert!(a.2.iter().zip(&b.2).all(|(p, q)| (p - q).abs() < 0.25), "{a:?} {b:?}");
    }
}

#[test]
fn the_clock_does_not_go_back() {
    let mut engine = Engine::new(config()).unwrap();
    engine.observe(&at("f", "ams1", START));
    engine.tick(START + 100, 1, None);
    engine.tick(START + 50, 1, None);
    engine.advance(START - 10_000, 1);
    assert_eq!(engine.clock(), Some(START + 100));
}

#[test]
fn a_jump_of_years_is_no_loop_of_years() {
    let mut engine = Engine::new(config()).unwrap();
    engine.observe(&at("f", "ams1", START));
    engine.advance(START + 50 * 366 * DAY, 1);
    assert!(engine.clock() > Some(START + 49 * 366 * DAY));
    assert_eq!(engine.observe(&at("f", "ams1", START + 50 * 366 * DAY)), Observed::Accepted);
}

#[test]
fn a_flood_of_function_ids_stays_bounded_and_keeps_the_regulars() {
    let mut engine = Engine::new(EngineConfig { max_histories: 300, ..config() }).unwrap();
    let mut flood = 0;
    for minute in START..START + 600 {
        if minute % 10 == 0 {
            for f in 0..20 {
                engine.observe(&at(&format!("regular{f}"), "ams1", minute));
            }
        }
        if minute >= START + 300 {
            for _ in 0..100 {
                flood += 1;
                engine.observe(&at(&format!("flood{flood}"), "ams1", minute));
            }
        }
    }
    assert_eq!(engine.histories(), 300);
    assert!(engine.counters().evicted > 29_000);
    let mut regulars = 0;
    engine.tick(START + 600, 1, Some(&mut |p| regulars += usize::from(p.function.starts_with("regular"))));
    assert_eq!(regulars, 20);
}

#[test]
fn a_million_function_ids_from_one_edge_leave_the_other_edges_alone() {
    let mut engine = Engine::new(EngineConfig { max_histories: 2_000, ..config() }).unwrap();
    let mut flood = 0;
    for minute in START..START + 400 {
        if minute % 10 == 0 {
            for f in 0..50 {
                engine.observe(&at(&format!("regular{f}"), "ams1", minute));
            }
        }
        if minute >= START + 200 {
            for _ in 0..5_000 {
                flood += 1;
                engine.observe::<&str>(&Invocation {
                    instances: &[],
                    ..at(&flood.to_string(), "evil", minute)
                });
            }
        }
    }
    assert_eq!((flood, engine.histories()), (1_000_000, 2_000));
    assert!(engine.bytes() < 2_000 * 8_192, "{} bytes", engine.bytes());
    let mut regulars = 0;
    engine.tick(
        START + 400,
        1,
        Some(&mut |p| {
            regulars += usize::from(p.edge == "ams1" && p.function.starts_with("regular"));
        }),
    );
    assert_eq!(regulars, 50);
}

#[test]
fn too_many_edges_and_endless_names_are_refused() {
    let mut engine = Engine::new(small()).unwrap();
    for e in 0..10 {
        let expected = if e < 3 { Observed::Accepted } else { Observed::Refused };
        assert_eq!(engine.observe(&at("f", &format!("e{e}"), START)), expected);
    }
    let endless = "x".repeat(5000);
    assert_eq!(engine.observe(&at(&endless, "e0", START)), Observed::Refused);
}

#[test]
fn a_flood_of_keys_stays_bounded() {
    let mut engine = Engine::new(small()).unwrap();
    for minute in START..START + 2000 {
        let instances: Vec<String> =
            (0..50).map(|k| format!("cart?customer_id={}", (minute - START) * 20 + k)).collect();
        observe(&mut engine, &Call { minute, function: "f".into(), edge: "ams1", instances });
    }
    assert!(engine.histories() <= 64);
}
