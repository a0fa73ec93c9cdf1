//! Deterministic simulation of an edge against a model origin, judged by a checker that knows the whole history.
//!
//! `FORESHARD_SIM_SEEDS=20000` looks at more worlds; `FORESHARD_SIM_SEED=17` replays one and prints all that happens.

mod catalog;
mod checker;
mod mutant;
mod network;
mod origin;
mod profile;
mod workload;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use mutant::Mutant;
use world::{Account, Summary, World};

/// Worlds that every change has to survive.
const SEEDS: u64 = 2_000;
/// Worlds within which a planted bug has to show.
const BUDGET: u64 = 2_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs worlds on all cores until one fails or `stop` says so; the lowest failing seed that was seen, with its message.
fn search(seeds: u64, mutant: Option<Mutant>, each: impl Fn(Summary) + Sync) -> Option<(u64, String)> {
    let next = AtomicU64::new(0);
    let found: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    match World::new(seed, mutant, Account::Dropped).run() {
                        Ok(summary) => each(summary),
                        Err(message) => {
                            // Seeds below this one are under way already: the lowest is reported.
                            next.store(seeds, Ordering::Relaxed);
                            let mut found = found.lock().unwrap();
                            if found.as_ref().is_none_or(|(known, _)| seed < *known) {
                                *found = Some((seed, message));
                            }
                        }
                    }
                }
            });
        }
    });
    found.into_inner().unwrap()
}

#[test]
fn every_answer_keeps_the_contract() {
    if let Some(seed) = number("FORESHARD_SIM_SEED") {
        World::new(seed, None, Account::Printed).run().unwrap();
        return;
    }
    let total = Mutex::new(Summary::default());
    let found = search(number("FORESHARD_SIM_SEEDS").unwrap_or(SEEDS), None, |summary| {
        total.lock().unwrap().add(&summary);
    });
    if let Some((seed, message)) = found {
        panic!("{message}\nreplay with FORESHARD_SIM_SEED={seed}");
    }
    let total = total.into_inner().unwrap();
    println!("{total:#?}");
    // The worlds have to be worth looking at.
    for (what, count) in [
        ("answers", total.answers),
        ("answers from copies", total.from_copies),
        ("answers of several parts", total.several_parts),
        ("refusals", total.refused),
        ("invalidations", total.invalidated),
        ("fetches refused by their snapshot", total.rejected_by_snapshot),
        ("repeated frames", total.repeated),
        ("resets", total.resets),
        ("kills of the edge", total.edge_kills),
        ("crashes of the origin", total.crashes),
        ("lost slots", total.slots_lost),
    ] {
        assert!(count > 0, "no {what} in any world");
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..20 {
        let [first, second] =
            [(), ()].map(|()| World::new(seed, None, Account::Fingerprint).run().unwrap().fingerprint);
        assert_eq!(first, second, "seed {seed}");
    }
}

/// The planted bug shows within the budget of worlds.
fn is_found(mutant: Mutant) {
    let found = search(BUDGET, Some(mutant), |_| {});
    let (seed, message) = found.unwrap_or_else(|| panic!("{mutant:?} was not found in {BUDGET} worlds"));
    println!("{mutant:?} in world {seed}: {message}");
}

macro_rules! planted {
    ($($name:ident: $mutant:ident),* $(,)?) => {
        mod finds {
            $(#[test] fn $name() { super::is_found(super::Mutant::$mutant); })*
        }
    };
}

planted! {
    lsn_stamp_instead_of_snapshot: LsnStamp,
    no_gate_on_refetch: NoGateOnRefetch,
    late_fill: LateFill,
    acknowledging_what_is_applied: AcknowledgeApplied,
    acknowledging_what_is_sent: AcknowledgeSent,
    key_move_that_forgets_the_old_key: OldKeyForgotten,
    truncate_forgotten: TruncateForgotten,
    always_fresh: AlwaysFresh,
    mapping_removal_forgotten: UnmapForgotten,
    copies_settled_at_once: SettledAtOnce,
    new_slot_continues: NewSlotContinues,
    xids_of_32_bits: ShortXids,
    redefinition_forgotten: RedefinitionForgotten,
    crash_of_the_origin_forgotten: CrashForgotten,
}
