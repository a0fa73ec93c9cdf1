//! What is known survives a restart, and nothing else is taken for it.

use foreshard_planner::{EdgeSchedule, Engine, EngineConfig, Horizon, Invocation, StateError, WindowRequest};

use crate::trace::{Call, DAY, START, config, observe, run, seasonal};

fn learned(calls: &[Call]) -> Engine {
    let mut engine = Engine::new(config()).unwrap();
    run(&mut engine, calls, START, START + 3 * DAY);
    engine
}

fn saved(engine: &Engine) -> Vec<u8> {
    let mut bytes = Vec::new();
    engine.save(&mut bytes).unwrap();
    bytes
}

fn planned(engine: &Engine) -> Vec<EdgeSchedule> {
    let now = (engine.clock().unwrap() + 1) * 60;
    let request =
        WindowRequest { now, starts_at: now, ends_at: now + 900, lead: 0, floor: 0.01, max_entries: 1000 };
    engine.schedule(&request).unwrap()
}

#[test]
fn a_restored_engine_plans_and_learns_as_before() {
    let calls = seasonal(4, 20, 5);
    let engine = learned(&calls);
    let bytes = saved(&engine);
    let mut restored = Engine::restored(config(), &bytes).unwrap();
    assert!(!planned(&engine).is_empty());
    assert_eq!(planned(&restored), planned(&engine));
    assert_eq!(restored.counters(), engine.counters());
    assert_eq!(saved(&restored), bytes);
    // It goes on, and twice alike.
    let mut twin = Engine::restored(config(), &bytes).unwrap();
    for call in calls.iter().filter(|c| c.minute > START + 3 * DAY) {
        for engine in [&mut restored, &mut twin] {
            engine.advance(call.minute - 1, 1);
            observe(engine, call);
        }
    }
    assert_eq!(planned(&restored), planned(&twin));
    assert!(restored.counters().accepted > engine.counters().accepted);
}

#[test]
fn what_was_not_written_by_this_engine_is_refused() {
    let bytes = saved(&learned(&seasonal(4, 20, 6)));
    let error = |config: EngineConfig, bytes: &[u8]| Engine::restored(config, bytes).err();
    let other = EngineConfig { horizons: vec![Horizon::within(7)], ..config() };
    assert_eq!(error(other, &bytes), Some(StateError::Settings));
    let mut version = bytes.clone();
    version[8] ^= 1;
    assert_eq!(error(config(), &version), Some(StateError::Version));
    assert_eq!(error(config(), &[]), Some(StateError::Damaged));
    for cut in (bytes.len() / 50..bytes.len()).step_by(bytes.len() / 50) {
        assert_eq!(error(config(), &bytes[..cut]), Some(StateError::Damaged), "cut at {cut}");
    }
    assert_eq!(error(config(), &[bytes.as_slice(), &[0]].concat()), Some(StateError::Damaged));
}

#[test]
fn no_damage_does_harm() {
    let bytes = saved(&learned(&seasonal(2, 10, 7)));
    // Where lengths, places and counts are, and some of everything between.
    let places =
        (0..400).chain((400..bytes.len()).step_by(bytes.len() / 60)).chain(bytes.len() - 3000..bytes.len());
    let mut refused = 0;
    for at in places.step_by(7) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0xff;
        refused += usize::from(Engine::restored(config(), &damaged).is_err());
    }
    assert!(refused > 50, "{refused}");
}

#[test]
fn slots_and_names_are_found_again() {
    let mut engine = Engine::new(EngineConfig { max_histories: 50, ..config() }).unwrap();
    for i in 0..400i64 {
        let function = format!("f{}", i % 130);
        let instances = [format!("cart?id={}", i % 3), "settings".to_owned()];
        engine.observe(&Invocation {
            edge: "ams1",
            function: &function,
            minute: START + i * 10,
            calls: 1,
            instances: &instances,
        });
        engine.advance(START + i * 10, 1);
    }
    let config = engine.config().clone();
    let mut restored = Engine::restored(config, &saved(&engine)).unwrap();
    for i in 400..600i64 {
        let function = format!("f{}", i % 130);
        for engine in [&mut engine, &mut restored] {
            engine.observe::<&str>(&Invocation {
                edge: "ams1",
                function: &function,
                minute: START + i * 10,
                calls: 1,
                instances: &[],
            });
        }
    }
    assert_eq!(engine.histories(), restored.histories());
    assert_eq!(engine.counters(), restored.counters());
}
