//! What two traits of a moment say together, beyond the mixture: small tables, each over a pair of traits, that add to the
//! mixed logit.
//!
//! A weighted sum of the experts' logits can't say "a steady pause counts for more where calls come in bursts". Trees can; these
//! tables are the part of trees that is learned online, a gradient step each. They are about starts after a pause only:
//! there the experts disagree, and within a burst there is little to add.
//!
//! Some stand behind the calibration: what they are told of is new to it, and there they have no other error to mend.

use std::io::{self, Read, Write};

use borsh::{BorshDeserialize, BorshSerialize};

use crate::numeric::{MAX_LOGIT, sigmoid};
use crate::recall::Recalled;
use crate::residues::CLOCKS;
use crate::state::sound;
use crate::stretches::{self, STRETCHES};

/// Number of traits.
pub(crate) const TRAITS: usize = Trait::Clock as usize + CLOCKS.len();

/// What is looked at, in steps. [`Trait::Clock`] and those after it are the lifts of the function's minutes of the hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trait {
    /// The mixed logit itself: never stored, but taken from the prediction.
    Mixed,
    /// Minutes since the last call.
    Idle,
    /// Length of the last burst.
    Burst,
    /// Calls per active minute.
    Intensity,
    /// The last two pauses.
    Pause,
    PauseBefore,
    /// Levels of single experts.
    Hazard,
    SecondOrder,
    BestPhase,
    OwnPeriod,
    Mean,
    Hour,
    FourHours,
    /// Calls of the last burst.
    BurstCalls,
    /// What the stretches of the clock say, one for each of [`STRETCHES`].
    Stretch,
    Stretch1,
    Stretch2,
    Stretch3,
    /// By how much what a longer horizon (or else another) said, now and one and four ticks ago, exceeds the mixed logit.
    Longer,
    LongerBefore,
    LongerEarlier,
    Clock,
}

/// The steps of all traits, [`Trait::Mixed`] unset.
pub(crate) type Traits = [u8; TRAITS];

/// With what a longer horizon said at several ticks, against the mixed logit.
pub(crate) fn with_recalled(mut traits: Traits, mixed: f32, recalled: Recalled) -> Traits {
    for (step, said) in traits[Trait::Longer as usize..].iter_mut().zip(recalled) {
        let beyond = said.map(|said| ((said - mixed + 3.0) * 2.0).max(0.0) as u8);
        *step = beyond.map_or(0, |steps| 1 + steps.min(BEYOND as u8 - 2));
    }
    traits
}

/// As if nothing were known of the function's minutes of the hour.
pub(crate) fn without_clocks(mut traits: Traits) -> Traits {
    traits[CLOCK..].fill(2);
    traits
}

/// Steps of each trait.
pub(crate) const STEPS: [usize; TRAITS] = [
    24, 17, 7, 9, 12, 12, LEVELS, LEVELS, LEVELS, LEVELS, LEVELS, LEVELS, LEVELS, 14, STRETCHED, STRETCHED,
    STRETCHED, STRETCHED, BEYOND, BEYOND, BEYOND, 6, 6, 6, 6, 6, 6,
];
/// Steps of the difference between two logits; the first is for what isn't known.
const BEYOND: usize = 16;
/// Steps of an expert's logit.
pub(crate) const LEVELS: usize = 10;

/// Steps of what a stretch says.
const STRETCHED: usize = stretches::STEPS;
const CLOCK: usize = Trait::Clock as usize;
const STRETCH: usize = Trait::Stretch as usize;
const _: () = assert!(STRETCH + STRETCHES.len() == Trait::Longer as usize);

const fn pair(a: Trait, b: Trait) -> (usize, usize) {
    (a as usize, b as usize)
}

const fn clock(a: Trait, which: usize) -> (usize, usize) {
    (a as usize, CLOCK + which)
}

/// The pairs that have a table before calibration.
const EARLY: [(usize, usize); 37] = [
    clock(Trait::Mixed, 0),
    clock(Trait::Mixed, 1),
    clock(Trait::Mixed, 3),
    clock(Trait::Mixed, 4),
    clock(Trait::Mixed, 5),
    clock(Trait::Intensity, 1),
    clock(Trait::Intensity, 2),
    clock(Trait::Intensity, 3),
    clock(Trait::Intensity, 4),
    clock(Trait::Intensity, 5),
    clock(Trait::Idle, 2),
    clock(Trait::Idle, 3),
    pair(Trait::Pause, Trait::PauseBefore),
    pair(Trait::Idle, Trait::Pause),
    pair(Trait::Mixed, Trait::Pause),
    pair(Trait::Mixed, Trait::Hour),
    pair(Trait::Mixed, Trait::FourHours),
    pair(Trait::Mixed, Trait::Burst),
    pair(Trait::Mixed, Trait::SecondOrder),
    pair(Trait::Idle, Trait::Burst),
    pair(Trait::Hazard, Trait::BestPhase),
    pair(Trait::OwnPeriod, Trait::BestPhase),
    pair(Trait::Mean, Trait::Hour),
    pair(Trait::BestPhase, Trait::Mean),
    pair(Trait::Mixed, Trait::Intensity),
    pair(Trait::Mixed, Trait::Idle),
    clock(Trait::Pause, 1),
    clock(Trait::Pause, 5),
    (CLOCK + 2, CLOCK + 3),
    pair(Trait::Mixed, Trait::Longer),
    pair(Trait::Mixed, Trait::LongerBefore),
    pair(Trait::Mixed, Trait::LongerEarlier),
    pair(Trait::Longer, Trait::LongerBefore),
    pair(Trait::Longer, Trait::LongerEarlier),
    pair(Trait::LongerBefore, Trait::LongerEarlier),
    pair(Trait::Intensity, Trait::LongerEarlier),
    pair(Trait::OwnPeriod, Trait::LongerEarlier),
];

/// The pairs that have a table after it, where [`Trait::Mixed`] is the logit of the calibrated probability.
const LATE: [(usize, usize); 10] = [
    pair(Trait::Mixed, Trait::BurstCalls),
    pair(Trait::Idle, Trait::BurstCalls),
    pair(Trait::Mixed, Trait::Stretch),
    pair(Trait::Mixed, Trait::Stretch1),
    pair(Trait::Mixed, Trait::Stretch2),
    pair(Trait::Mixed, Trait::Stretch3),
    pair(Trait::Idle, Trait::Stretch),
    pair(Trait::Idle, Trait::Stretch1),
    pair(Trait::Idle, Trait::Stretch2),
    pair(Trait::Idle, Trait::Stretch3),
];

/// Number of cells of one horizon, before and after calibration.
pub(crate) const CELLS: [usize; 2] = [cells(&EARLY), cells(&LATE)];

const fn cells(pairs: &[(usize, usize)]) -> usize {
    let (mut sum, mut i) = (0, 0);
    while i < pairs.len() {
        sum += STEPS[pairs[i].0] * STEPS[pairs[i].1];
        i += 1;
    }
    sum
}

/// Size of the first steps, for predictions of one minute; where windows overlap, outcomes repeat each other.
const RATE: f32 = 0.02;

#[derive(Clone, Copy, Debug, BorshSerialize, BorshDeserialize)]
struct Cell {
    add: f32,
    /// Sum of squared gradients.
    g2: f32,
}

/// The tables of one horizon.
#[derive(Clone, Debug)]
pub(crate) struct Refinement {
    pairs: &'static [(usize, usize)],
    cells: Vec<Cell>,
    rate: f32,
}

fn places(pairs: &[(usize, usize)], traits: &Traits, logit: f32) -> impl Iterator<Item = usize> {
    let mut traits = *traits;
    traits[Trait::Mixed as usize] = (((logit + MAX_LOGIT) / 0.75).max(0.0) as u8).min(STEPS[0] as u8 - 1);
    let mut start = 0;
    pairs.iter().map(move |&(a, b)| {
        let place = start + usize::from(traits[a]) * STEPS[b] + usize::from(traits[b]);
        start += STEPS[a] * STEPS[b];
        place
    })
}

impl Refinement {
    /// Of the mixed logit, for predictions that reach over so many minutes.
    pub(crate) fn early(minutes: u32) -> Self {
        Refinement::of(&EARLY, minutes)
    }

    /// Of the calibrated one.
    pub(crate) fn late(minutes: u32) -> Self {
        Refinement::of(&LATE, minutes)
    }

    fn of(pairs: &'static [(usize, usize)], minutes: u32) -> Self {
        let cells = vec![Cell { add: 0.0, g2: 1.0 }; cells(pairs)];
        Refinement { pairs, cells, rate: RATE / (minutes.max(1) as f32).sqrt() }
    }

    /// The refined logit.
    #[inline]
    pub(crate) fn predict(&self, logit: f32, traits: &Traits) -> f32 {
        let add: f32 =
            places(self.pairs, traits, logit).map(|i| self.cells.get(i).map_or(0.0, |c| c.add)).sum();
        (logit + add).clamp(-MAX_LOGIT, MAX_LOGIT)
    }

    /// One gradient step on the log-loss, of every table.
    #[inline]
    pub(crate) fn learn(&mut self, logit: f32, traits: &Traits, positive: bool) {
        let error = f32::from(u8::from(positive)) - sigmoid(self.predict(logit, traits));
        for i in places(self.pairs, traits, logit) {
            if let Some(c) = self.cells.get_mut(i) {
                c.g2 += error * error;
                c.add += self.rate * error / c.g2.sqrt();
            }
        }
    }

    /// Writes what was learned.
    pub(crate) fn put(&self, out: &mut impl Write) -> io::Result<()> {
        self.cells.serialize(out)
    }

    /// Takes over what another one had learned.
    pub(crate) fn take(&mut self, from: &mut impl Read) -> io::Result<()> {
        self.cells = BorshDeserialize::deserialize_reader(from)?;
        sound(self.cells.len() == cells(self.pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learns_what_only_two_traits_together_say() {
        let mut r = Refinement::early(1);
        let at = |a: u8, b: u8| {
            let mut t = [0; TRAITS];
            (t[Trait::Pause as usize], t[Trait::PauseBefore as usize]) = (a, b);
            t
        };
        for i in 0..40_000u32 {
            let (a, b) = ((i % 2) as u8, (i / 2 % 2) as u8);
            r.learn(0.0, &at(a, b), a == b);
        }
        let says = |a, b| sigmoid(r.predict(0.0, &at(a, b)));
        assert!(says(0, 0) > 0.7 && says(1, 1) > 0.7, "{} {}", says(0, 0), says(1, 1));
        assert!(says(0, 1) < 0.3 && says(1, 0) < 0.3, "{} {}", says(0, 1), says(1, 0));
    }

    #[test]
    fn what_was_said_is_measured_against_the_mixture() {
        let steps = |mixed, recalled| {
            let traits = with_recalled([0; TRAITS], mixed, recalled);
            [Trait::Longer, Trait::LongerBefore, Trait::LongerEarlier].map(|t| traits[t as usize])
        };
        assert_eq!(steps(-2.0, [None; 3]), [0; 3]);
        assert_eq!(steps(-2.0, [Some(-2.0), Some(-1.0), Some(-9.0)]), [7, 9, 1]);
        assert_eq!(steps(-9.0, [Some(9.0), None, Some(9.0)]), [BEYOND as u8 - 1, 0, BEYOND as u8 - 1]);
    }

    #[test]
    fn any_traits_have_a_place_and_sums_stay_finite() {
        let last: Traits = std::array::from_fn(|i| STEPS[i] as u8 - 1);
        for mut r in [Refinement::early(15), Refinement::late(15)] {
            assert!(places(r.pairs, &last, 99.0).all(|i| i < r.cells.len()));
            (0..100_000).for_each(|i| r.learn(f32::from(i as u8) - 100.0, &last, true));
            assert!(r.predict(9.0, &last) <= MAX_LOGIT && r.predict(-9.0, &[0; TRAITS]).is_finite());
        }
    }
}
