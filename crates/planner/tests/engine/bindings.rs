//! What one function has read is expected to be read by the one that usually follows with it.

use foreshard_planner::{Engine, EngineConfig, Horizon, Part, ScheduleEntry, WindowRequest};

use crate::trace::{Call, Chance, DAY, START, config, observe};

const EDGE: &str = "ams1";

/// The confidence with which an instance of `pay` is published for the quarter of an hour from three minutes on after `order` has read
/// order 7,777.
fn published(without: Vec<Part>) -> f64 {
    let horizons = vec![Horizon::within(15), Horizon { after: 3, until: 18 }];
    let mut engine = Engine::new(EngineConfig { horizons, tick_minutes: 1, without, ..config() }).unwrap();
    let (mut chance, mut due) = (Chance(5), std::collections::VecDeque::new());
    let last = START + 2 * DAY;
    for minute in START..=last {
        let mut call = |function: &str, instance: String| {
            let instances = vec![instance, "settings".to_owned()];
            observe(&mut engine, &Call { minute, function: function.into(), edge: EDGE, instances });
        };
        if minute == last || chance.happens(0.02) {
            let order = if minute == last { 7_777 } else { 100_000 + minute - START };
            call("order", format!("orders?id={order}"));
            due.push_back((minute + 9 + chance.below(3), order));
        }
        while due.front().is_some_and(|&(at, _)| at <= minute) {
            let Some((_, order)) = due.pop_front() else { break };
            call("pay", format!("invoices?order_id={order}"));
        }
        engine.tick(minute, 1, None);
    }
    let starts_at = (last + 4) * 60;
    let request = WindowRequest {
        now: starts_at,
        starts_at,
        ends_at: starts_at + 900,
        lead: 0,
        floor: 0.02,
        max_entries: 1_000,
    };
    let schedules = engine.schedule(&request).unwrap();
    let mut entries = schedules.iter().flat_map(|s| &s.entries).filter(|e| e.function_id == "pay");
    let named = |e: &&ScheduleEntry| e.shard_list.iter().any(|i| i == "invoices?order_id=7777");
    entries.find(named).map_or(0.0, |e| e.confidence)
}

#[test]
fn the_key_that_was_just_read_is_published_for_the_function_that_follows() {
    let bound = published(vec![]);
    assert!(bound > 0.85, "{bound}");
    // It was never read before, so that nothing else can know of it.
    let without = published(vec![Part::Bindings]);
    assert!(without < 0.02, "the bound is no test of the binding graph: {without}");
}

#[test]
fn what_was_learned_survives_a_restart() {
    let mut engine = Engine::new(config()).unwrap();
    for i in 0..30 {
        let mut call = |minute, function: &str, instance: String| {
            let instances = vec![instance];
            observe(&mut engine, &Call { minute, function: function.into(), edge: EDGE, instances });
        };
        call(START + i * 30, "order", format!("orders?id={i}"));
        call(START + i * 30 + 10, "pay", format!("invoices?order_id={i}"));
    }
    engine.advance(START + 900, 1);
    let instances = vec!["orders?id=77".to_owned()];
    observe(&mut engine, &Call { minute: START + 901, function: "order".into(), edge: EDGE, instances });
    engine.advance(START + 905, 1);
    let mut bytes = Vec::new();
    engine.save(&mut bytes).unwrap();
    let restored = Engine::restored(engine.config().clone(), &bytes).unwrap();
    let now = (START + 906) * 60;
    let request =
        WindowRequest { now, starts_at: now, ends_at: now + 900, lead: 0, floor: 0.02, max_entries: 100 };
    let schedules = restored.schedule(&request).unwrap();
    assert_eq!(schedules, engine.schedule(&request).unwrap());
    let named = |e: &ScheduleEntry| e.shard_list.iter().any(|i| i == "invoices?order_id=77");
    assert!(
        schedules.iter().flat_map(|s| &s.entries).any(|e| named(e) && e.confidence > 0.8),
        "{schedules:?}"
    );
}
