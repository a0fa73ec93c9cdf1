//! The engine never looks ahead, and says the same when asked the same.

use foreshard_planner::Engine;

use crate::trace::{DAY, START, config, run, seasonal};

#[test]
fn predictions_do_not_change_when_the_future_is_cut_off() {
    let calls = seasonal(4, 20, 1);
    let cut = START + 3 * DAY;
    let until = START + 4 * DAY - 1;
    let whole = run(&mut Engine::new(config()).unwrap(), &calls, START + 2 * DAY, until);
    let past: Vec<_> = calls.iter().filter(|c| c.minute <= cut).cloned().collect();
    let truncated = run(&mut Engine::new(config()).unwrap(), &past, START + 2 * DAY, cut);
    let of_whole: Vec<_> = whole.into_iter().filter(|p| p.0 <= cut).collect();
    assert!(truncated.len() > 1000);
    assert_eq!(of_whole, truncated);
}

#[test]
fn predictions_do_not_change_when_the_future_is_another() {
    let calls = seasonal(3, 20, 2);
    let cut = START + 2 * DAY;
    let other: Vec<_> =
        calls.iter().filter(|c| c.minute <= cut || c.function.starts_with("rare")).cloned().collect();
    assert_ne!(calls, other);
    let at_cut = |calls: &[_]| {
        let all = run(&mut Engine::new(config()).unwrap(), calls, cut - 600, cut + 300);
        all.into_iter().filter(|p| p.0 <= cut).collect::<Vec<_>>()
    };
    assert_eq!(at_cut(&calls), at_cut(&other));
}

#[test]
fn the_same_log_gives_the_same_predictions() {
    let calls = seasonal(2, 20, 3);
    let until = START + 2 * DAY - 1;
    let once = run(&mut Engine::new(config()).unwrap(), &calls, START + DAY, until);
    let again = run(&mut Engine::new(config()).unwrap(), &calls, START + DAY, until);
    assert_eq!(once, again);
}

#[test]
fn predictions_do_not_depend_on_who_asked_before() {
    let calls = seasonal(2, 20, 4);
    let (late, until) = (START + 2 * DAY - 120, START + 2 * DAY - 1);
    let always = run(&mut Engine::new(config()).unwrap(), &calls, START, until);
    let seldom = run(&mut Engine::new(config()).unwrap(), &calls, late, until);
    assert!(seldom.len() > 100);
    assert!(always.into_iter().filter(|p| p.0 >= late).eq(seldom));
}
