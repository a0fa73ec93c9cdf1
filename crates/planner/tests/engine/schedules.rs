//! What is published: which instances, for which windows.

use foreshard_planner::{Engine, EngineConfig, Horizon, ScheduleEntry, ScheduleError, WindowRequest};

use crate::trace::{Call, Chance, DAY, START, config, observe};

fn request(engine: &Engine, minutes: i64) -> WindowRequest {
    let now = (engine.clock().unwrap() + 1) * 60;
    WindowRequest {
        now,
        starts_at: now,
        ends_at: now + minutes * 60,
        lead: 0,
        floor: 0.02,
        max_entries: 1000,
    }
}

/// A function that runs every ten minutes, always reads "products", and the cart of customer 7 every other time, else anybody's.
fn shop() -> Engine {
    let horizons = [(0, 15), (8, 14), (0, 30)].map(|(after, until)| Horizon { after, until }).to_vec();
    let mut engine = Engine::new(EngineConfig { horizons, ..config() }).unwrap();
    let mut chance = Chance(7);
    for minute in START..START + DAY {
        if minute % 10 == 0 {
            let customer = if chance.happens(0.5) { 7 } else { 100 + chance.below(1000) };
            let instances = vec!["products".to_owned(), format!("cart?customer_id={customer}")];
            observe(&mut engine, &Call { minute, function: "checkout".into(), edge: "ams1", instances });
        }
        if minute % 5 == 0 {
            engine.tick(minute, 1, None);
        }
    }
    engine
}

fn confidence(entries: &[ScheduleEntry], instance: &str) -> Option<f64> {
    entries.iter().find(|e| e.shard_list.iter().any(|s| s == instance)).map(|e| e.confidence)
}

#[test]
fn instances_are_published_with_their_own_confidence() {
    let engine = shop();
    let schedules = engine.schedule(&request(&engine, 15)).unwrap();
    let [schedule] = &schedules[..] else { panic!("one edge, not {schedules:?}") };
    let entries = &schedule.entries;
    assert!(entries.iter().all(|e| e.function_id == "checkout" && !e.shard_list.is_empty()));
    assert!(entries.windows(2).all(|w| w[0].confidence >= w[1].confidence), "{entries:?}");
    let products = confidence(entries, "products").unwrap();
    let favourite = confidence(entries, "cart?customer_id=7").unwrap();
    assert!(products > 0.8, "{products}");
    assert!(favourite > 0.4 && favourite < products, "{favourite} against {products}");
    let others =
        entries.iter().filter(|e| e.shard_list.iter().any(|s| s.starts_with("cart") && !s.ends_with("=7")));
    assert!(others.clone().all(|e| e.confidence < 0.2), "{:?}", others.collect::<Vec<_>>());
}

#[test]
fn an_entry_has_exactly_the_published_members() {
    let entry = ScheduleEntry { function_id: "f".into(), shard_list: vec!["s".into()], confidence: 0.5 };
    // The shape that foreshard.publish_schedule accepts.
    let ScheduleEntry { function_id: _, shard_list: _, confidence: _ } = entry;
}

#[test]
fn windows_that_cannot_be_served_in_time_are_refused() {
    let engine = shop();
    let mut late = request(&engine, 15);
    late.lead = 15 * 60;
    let earliest = late.now + late.lead;
    assert_eq!(engine.schedule(&late), Err(ScheduleError::TooLate { ends_at: late.ends_at, earliest }));
    late.lead = i64::MAX;
    assert!(engine.schedule(&late).is_err());
}

#[test]
fn what_comes_before_the_rows_can_be_there_does_not_count() {
    let engine = shop();
    // The next call is due in five minutes, the one after that in fifteen.
    let whole = request(&engine, 14);
    let mut rest = whole;
    rest.lead = 8 * 60;
    let p = |request| {
        let schedules = engine.schedule(&request).unwrap();
        schedules.first().and_then(|s| confidence(&s.entries, "products")).unwrap_or(0.0)
    };
    assert!(p(rest) < p(whole) * 0.8, "{} against {}", p(rest), p(whole));
}

#[test]
fn the_floor_and_the_length_hold() {
    let engine = shop();
    let mut r = request(&engine, 15);
    r.floor = 0.5;
    assert!(engine.schedule(&r).unwrap()[0].entries.iter().all(|e| e.confidence >= 0.5));
    r.floor = 0.0;
    r.max_entries = 1;
    assert_eq!(engine.schedule(&r).unwrap()[0].entries.len(), 1);
    for floor in [-0.1, 1.1, f64::NAN] {
        r.floor = floor;
        assert_eq!(engine.schedule(&r), Err(ScheduleError::Floor));
    }
}
