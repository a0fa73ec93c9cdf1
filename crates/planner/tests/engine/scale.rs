//! Ten thousand functions at twenty edges are planned well inside a minute, in little memory.

use std::time::{Duration, Instant};

use foreshard_planner::{Engine, EngineConfig, Invocation, PREDICTIONS_PER_TICK, WindowRequest};

use crate::trace::{Chance, START};

const FUNCTIONS: u64 = 10_000;
const EDGES: u64 = 20;
/// Minutes that the longest horizon of a planner reaches: predictions wait so long for their outcome.
const FULL: i64 = 45;

#[test]
fn a_large_installation_is_planned_in_time() {
    let mut engine = Engine::new(EngineConfig::of_windows(15, 5)).unwrap();
    let names: Vec<String> = (0..FUNCTIONS).map(|f| format!("function-{f}")).collect();
    let edges: Vec<String> = (0..EDGES).map(|e| format!("edge-{e}")).collect();
    // As `foreshard plan` does.
    let every = |engine: &Engine| {
        let predictions = engine.histories() * engine.config().horizons.len();
        predictions.div_ceil(PREDICTIONS_PER_TICK).max(1) as u32
    };
    let mut chance = Chance(1);
    for minute in START..START + 15 + FULL {
        for edge in edges.iter().filter(|_| minute < START + 15) {
            for _ in 0..FUNCTIONS / 5 {
                let function = &names[chance.below(FUNCTIONS) as usize];
                engine.observe(&Invocation { edge, function, minute, calls: 1, instances: &["products"] });
            }
        }
        if minute % 5 == 4 {
            engine.tick(minute, every(&engine), None);
        }
    }
    // Chance leaves out a few.
    assert!(engine.histories() > 190_000, "{}", engine.histories());
    let begun = Instant::now();
    let last = START + 15 + FULL + 4;
    engine.tick(last, every(&engine), None);
    let ticked = begun.elapsed();
    let now = (last + 1) * 60;
    let request = WindowRequest {
        now,
        starts_at: now + 300,
        ends_at: now + 1200,
        lead: 0,
        // Nothing was called for an hour.
        floor: 0.000_001,
        max_entries: 5_000,
    };
    let schedules = engine.schedule(&request).unwrap();
    let took = begun.elapsed();
    let bytes = engine.bytes() / engine.histories();
    println!("planned in {took:?}, of which {ticked:?} to learn, {bytes} bytes for each function at an edge");
    assert!(schedules.len() == EDGES as usize && schedules.iter().all(|s| !s.entries.is_empty()));
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert!(bytes <= 4096, "{bytes} bytes per function at an edge");
}
