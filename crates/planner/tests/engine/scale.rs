//! Ten thousand functions at twenty edges are planned well inside a minute, in little memory.

use std::time::{Duration, Instant};

use foreshard_planner::{Engine, EngineConfig, Horizon, Invocation, WindowRequest};

use crate::trace::{Chance, START};

const FUNCTIONS: u64 = 10_000;
const EDGES: u64 = 20;

#[test]
fn a_large_installation_is_planned_in_time() {
    let horizons = vec![Horizon::within(15), Horizon { after: 15, until: 30 }];
    let mut engine =
        Engine::new(EngineConfig { horizons, tick_minutes: 5, ..EngineConfig::default() }).unwrap();
    let names: Vec<String> = (0..FUNCTIONS).map(|f| format!("function-{f}")).collect();
    let edges: Vec<String> = (0..EDGES).map(|e| format!("edge-{e}")).collect();
    let mut chance = Chance(1);
    for minute in START..START + 15 {
        for edge in &edges {
            for _ in 0..FUNCTIONS / 5 {
                let function = &names[chance.below(FUNCTIONS) as usize];
                engine.observe(&Invocation { edge, function, minute, calls: 1, instances: &["products"] });
            }
        }
        if minute % 5 == 4 {
            engine.tick(minute, 1, None);
        }
    }
    // Chance leaves out a few.
    assert!(engine.histories() > 190_000, "{}", engine.histories());
    let begun = Instant::now();
    engine.tick(START + 19, 1, None);
    let now = (START + 20) * 60;
    let request = WindowRequest {
        now,
        starts_at: now + 300,
        ends_at: now + 1200,
        lead: 0,
        floor: 0.02,
        max_entries: 5_000,
    };
    let schedules = engine.schedule(&request).unwrap();
    let took = begun.elapsed();
    assert!(schedules.len() == EDGES as usize && schedules.iter().all(|s| !s.entries.is_empty()));
    assert!(took < Duration::from_secs(60), "{took:?}");
    let bytes = engine.bytes() / engine.histories();
    println!("planned in {took:?}, {bytes} bytes for each function at an edge");
    assert!(bytes <= 4096, "{bytes} bytes per function at an edge");
}
