//! With little history little is published; more comes with evidence.

use foreshard_planner::{Engine, EngineConfig, WindowRequest};

use crate::trace::{Call, DAY, START, config, observe, run, seasonal};

fn request(engine: &Engine, floor: f64) -> WindowRequest {
    let now = (engine.clock().unwrap_or(0) + 1) * 60;
    WindowRequest { now, starts_at: now, ends_at: now + 15 * 60, lead: 0, floor, max_entries: 1000 }
}

/// Entries that an engine publishes after `minutes` of the trace.
fn entries_after(minutes: i64) -> usize {
    let calls = seasonal(3, 30, 5);
    let mut engine = Engine::new(config()).unwrap();
    run(&mut engine, &calls, i64::MAX, START + minutes);
    let schedules = engine.schedule(&request(&engine, 0.05)).unwrap();
    schedules.iter().map(|s| s.entries.len()).sum()
}

#[test]
fn nothing_is_published_before_anything_is_known() {
    let engine = Engine::new(EngineConfig::default()).unwrap();
    assert_eq!(engine.schedule(&request(&engine, 0.0)).unwrap(), []);
}

#[test]
fn a_new_installation_publishes_little() {
    let noon = 12 * 60;
    let (first_minutes, first_noon, later_noon) =
        (entries_after(20), entries_after(noon), entries_after(2 * DAY + noon));
    assert!(first_minutes <= 2, "{first_minutes} entries after twenty minutes");
    assert!(first_noon > 5 && later_noon > first_noon, "{first_minutes}, {first_noon}, {later_noon}");
}

#[test]
fn one_call_is_no_pattern() {
    let mut engine = Engine::new(config()).unwrap();
    let call =
        |minute| Call { minute, function: "once".into(), edge: "ams1", instances: vec!["products".into()] };
    observe(&mut engine, &call(START));
    engine.advance(START + 10, 1);
    assert_eq!(engine.schedule(&request(&engine, 0.02)).unwrap(), []);
}

#[test]
fn a_new_edge_learns_from_the_others() {
    let mut engine = Engine::new(config()).unwrap();
    // "report" runs every day at noon at three edges; the fourth is known for an hour.
    for minute in START..START + 9 * DAY + 11 * 60 + 50 {
        let call = |function: &str, edge| Call {
            minute,
            function: function.into(),
            edge,
            instances: vec!["settings".into()],
        };
        if minute % DAY == 12 * 60 {
            ["a", "b", "c"].into_iter().for_each(|edge| observe(&mut engine, &call("report", edge)));
        }
        if minute % 30 == 0 {
            ["a", "b", "c"].into_iter().for_each(|edge| observe(&mut engine, &call("other", edge)));
        }
        if minute == START + 9 * DAY + 11 * 60 {
            observe(&mut engine, &call("other", "d"));
        }
        if minute % 5 == 0 {
            engine.tick(minute, 1, None);
        }
    }
    let mut at_new_edge = Vec::new();
    let mut sink = |p: foreshard_planner::Prediction<'_>| {
        if p.function == "report" && p.edge == "d" {
            at_new_edge.push((p.idle, p.p[1]));
        }
    };
    engine.tick(START + 9 * DAY + 11 * 60 + 50, 1, Some(&mut sink));
    let [(idle, p)] = at_new_edge[..] else { panic!("one prediction, not {at_new_edge:?}") };
    assert_eq!(idle, None);
    // Once a day is one in a hundred such windows.
    assert!(p > 0.08, "{p}");
}
