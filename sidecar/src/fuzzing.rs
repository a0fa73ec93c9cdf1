//! Mutated input for what anybody may send or a disk may hand back, on the stable toolchain, for as long as there is time.
//!
//! `FORESHARD_FUZZ_SECONDS` (10 unless set) is the time of each target, `FORESHARD_FUZZ_SEED` replays a run.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Inputs longer than this are cut.
const LONGEST: usize = 64 << 10;
/// Inputs that are kept to be mutated further.
const POPULATION: usize = 256;

/// Runs `target` on mutations of `samples`, into which pieces of `words` are put. It must not panic; if it answers
/// true, the input is worth being mutated further.
pub(crate) fn fuzz(name: &str, samples: &[Vec<u8>], words: &[&[u8]], mut target: impl FnMut(&[u8]) -> bool) {
    let number = |variable: &str| std::env::var(variable).ok().and_then(|text| text.parse::<u64>().ok());
    let time = Duration::from_secs(number("FORESHARD_FUZZ_SECONDS").unwrap_or(10));
    let seed = number("FORESHARD_FUZZ_SEED").unwrap_or_else(rand::random);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut population = samples.to_vec();
    let began = Instant::now();
    let mut runs = 0_u64;
    while began.elapsed() < time {
        let mut input = population[rng.random_range(0..population.len())].clone();
        for _ in 0..rng.random_range(1..=6) {
            mutate(&mut rng, &mut input, &population, words);
        }
        input.truncate(LONGEST);
        match catch_unwind(AssertUnwindSafe(|| target(&input))) {
            Ok(false) => {}
            Ok(true) if population.len() < POPULATION => population.push(input),
            Ok(true) => {
                let at = rng.random_range(samples.len()..population.len().max(samples.len() + 1));
                population[at] = input;
            }
            Err(panic) => {
                eprintln!("{name}: FORESHARD_FUZZ_SEED={seed}, run {runs}: {}", input.escape_ascii());
                resume_unwind(panic);
            }
        }
        runs += 1;
    }
    eprintln!("{name}: {runs} inputs, FORESHARD_FUZZ_SEED={seed}");
    assert!(runs > 0, "no time to run anything");
}

fn mutate(rng: &mut ChaCha8Rng, input: &mut Vec<u8>, others: &[Vec<u8>], words: &[&[u8]]) {
    let at = rng.random_range(0..=input.len());
    let end = (at + rng.random_range(0..=16)).min(input.len());
    match rng.random_range(0..7) {
        0 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
        1 if at < input.len() => input[at] = rng.random(),
        2 => drop(input.drain(at..end)),
        3 => {
            let piece: Vec<u8> = input[at..end].to_vec();
            input.splice(at..at, piece);
        }
        4 => {
            let other = &others[rng.random_range(0..others.len())];
            let from = rng.random_range(0..=other.len());
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        5 => input.insert(at, rng.random()),
        _ if !words.is_empty() => {
            let word = words[rng.random_range(0..words.len())];
            input.splice(at..at, word.iter().copied());
        }
        _ => input.truncate(at),
    }
}
