//! A new edge is expected to do what edges near by do, before what all do.

use foreshard_planner::{Engine, score};

use crate::trace::{Call, Chance, DAY, START, config, outcomes, run};

/// Three edges in Europe, three in Japan, and one in Europe that is opened on the sixth day.
const EDGES: [(&str, f64, f64); 7] = [
    ("paris", 48.86, 2.35),
    ("tokyo", 35.68, 139.69),
    ("lille", 50.63, 3.06),
    ("osaka", 34.69, 135.50),
    ("bonn", 50.73, 7.10),
    ("kobe", 34.69, 135.20),
    ("ghent", 51.05, 3.72),
];
const NEW: &str = "ghent";
const OPENED: i64 = 6;
const DAYS: i64 = 8;

/// Every function runs three times a day, within some twenty minutes, at other times in Europe than in Japan.
fn calls() -> Vec<Call> {
    let (mut chance, mut calls) = (Chance(21), Vec::new());
    for f in 0..12 {
        let times: [Vec<i64>; 2] = [(); 2].map(|()| (0..3).map(|_| 30 + chance.below(1380)).collect());
        for (edge, _, longitude) in EDGES {
            let its = &times[usize::from(longitude > 90.0)];
            for day in if edge == NEW { OPENED } else { 0 }..DAYS {
                for time in its {
                    let minute = START + day * DAY + time + chance.below(21) - 10;
                    calls.push(Call { minute, function: format!("f{f}"), edge, instances: vec![] });
                }
            }
        }
    }
    calls.sort();
    calls
}

/// Average precision within 15 minutes at the new edge.
fn precision(located: bool) -> f64 {
    let mut engine = Engine::new(config()).unwrap();
    for (edge, latitude, longitude) in EDGES.into_iter().filter(|_| located) {
        engine.set_place(edge, latitude, longitude);
    }
    let calls = calls();
    let mut predicted = run(&mut engine, &calls, START + OPENED * DAY, START + DAYS * DAY);
    predicted.retain(|p| p.2 == NEW);
    score(&mut outcomes(&predicted, &calls, 1, 15)).unwrap().ap
}

#[test]
fn a_region_says_more_about_a_new_edge_than_the_world() {
    let (region, world) = (precision(true), precision(false));
    println!("average precision {region:.3} with places, {world:.3} without");
    assert!(region > 1.1 * world, "{region} against {world}");
}

#[test]
fn what_is_no_place_changes_nothing() {
    let (calls, end) = (calls(), START + 2 * DAY);
    let mut plain = Engine::new(config()).unwrap();
    let mut nowhere = Engine::new(config()).unwrap();
    for (edge, ..) in EDGES {
        plain.set_utc_offset(edge, 0);
        nowhere.set_place(edge, f64::NAN, 500.0);
    }
    assert_eq!(run(&mut plain, &calls, START + DAY, end), run(&mut nowhere, &calls, START + DAY, end));
}
