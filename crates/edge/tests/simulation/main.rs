//! Deterministic simulation of an edge against a model origin, judged by a checker that knows the whole history.
//!
//! `FORESHARD_SIM_SEEDS=20000` looks at more worlds. A world that fails is made smaller, and what happens in it is printed with
//! the variables that replay it: `FORESHARD_SIM_SEED=17 FORESHARD_SIM_WITHOUT=w1-20,a7`.

mod account;
mod catalog;
mod checker;
mod mutant;
mod network;
mod origin;
mod prefetched;
mod profile;
mod rows;
mod shrink;
mod workload;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use account::{Account, Summary};
use mutant::Mutant;
use shrink::LeftOut;
use world::World;

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
                    match World::new(seed, mutant, Account::Dropped, &LeftOut::default()).run() {
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
        replay(seed);
        return;
    }
    let total = Mutex::new(Summary::default());
    let found = search(number("FORESHARD_SIM_SEEDS").unwrap_or(SEEDS), None, |summary| {
        total.lock().unwrap().add(&summary);
    });
    if let Some((seed, message)) = found {
        println!("seed {seed}: {message}\nmaking it smaller");
        let (left_out, message) = shrink::shrink(seed, None);
        World::new(seed, None, Account::Printed, &left_out).run().unwrap_err();
        panic!("{message}\nreplay with FORESHARD_SIM_SEED={seed} FORESHARD_SIM_WITHOUT={left_out}");
    }
    let total = total.into_inner().unwrap();
    println!("{total:#?}");
    // The worlds have to be worth looking at.
    for (what, count) in [
        ("answers", total.answers),
        ("answers from copies", total.from_copies),
        ("answers of positions that the stream has not reached", total.beyond),
        ("answers of several parts", total.several_parts),
        ("refusals", total.refused),
        ("invalidations", total.invalidated),
        ("fetches refused by their snapshot", total.rejected_by_snapshot),
        ("repeated frames", total.repeated),
        ("resets", total.resets),
        ("kills of the edge", total.edge_kills),
        ("crashes of the origin", total.crashes),
        ("lost slots", total.slots_lost),
        ("restored origins", total.restores),
        ("restored origins that had grown past what they had lost", total.regrown),
        ("copies changed in place", total.deltas_applied),
        ("fetches completed with changes", total.deltas_completed),
        ("refused changes", total.deltas_refused),
        ("promoted copies", total.promoted),
        ("answers without the stream", total.without_stream),
    ] {
        assert!(count > 0, "no {what} in any world");
    }
}

/// One world again, as it was or made smaller, with all that happens in it.
fn replay(seed: u64) {
    let left_out = std::env::var("FORESHARD_SIM_WITHOUT").unwrap_or_default().parse().unwrap();
    World::new(seed, None, Account::Printed, &left_out).run().unwrap();
}

fn fingerprint(seed: u64) -> u64 {
    World::new(seed, None, Account::Fingerprint, &LeftOut::default()).run().unwrap().fingerprint
}

/// A failing world is made much smaller and still fails, and what is left out can be written down.
#[test]
fn a_failing_world_shrinks() {
    let mutant = Some(Mutant::DeltasOutOfOrder);
    let (seed, _) = search(BUDGET, mutant, |_| {}).unwrap();
    let (left_out, message) = shrink::shrink(seed, mutant);
    let text = left_out.to_string();
    assert_eq!(text.parse(), Ok(left_out.clone()));
    let (mut whole, mut small) = (
        World::new(seed, mutant, Account::Dropped, &LeftOut::default()),
        World::new(seed, mutant, Account::Dropped, &left_out),
    );
    assert!(whole.run().is_err());
    assert_eq!(small.run().unwrap_err(), message);
    let transactions = |world: &World| world.origin.txns.len();
    println!("{message}\n{} transactions of {}, without {text}", transactions(&small), transactions(&whole));
    assert!(transactions(&small) * 2 <= transactions(&whole).max(8));
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..20 {
        let [first, second] = [(), ()].map(|()| fingerprint(seed));
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
    restored_origin_forgotten: RestoreForgotten,
    regrown_origin_forgotten: RegrowthForgotten,
    delta_applied_twice: DeltaTwice,
    delta_applied_to_a_copy_that_has_it: DeltaToHolder,
    deltas_out_of_order: DeltasOutOfOrder,
    half_a_transaction: HalfATransaction,
    removal_forgotten: RemovalForgotten,
    unwritten_values_as_null: MissingValuesAsNull,
    invisible_before_a_definition_forgotten: UnsettledForgotten,
    invisible_before_the_stream_forgotten: UnsettledBeforeForgotten,
    invisible_before_the_horizon_forgotten: HorizonOfTheLog,
    horizon_asked_for_after_reading: HorizonAfterReading,
    mappings_beyond_the_stream_forgotten: HorizonOfOldMappings,
    mappings_while_the_stream_is_down_forgotten: MappingsAsKnown,
}
