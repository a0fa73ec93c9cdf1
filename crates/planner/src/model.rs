//! The model of one horizon: tables, mixer and calibration, and the predictions whose outcome is not known yet.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use borsh::{BorshDeserialize, BorshSerialize};

use crate::calibration::Calibration;
use crate::config::{Horizon, Part};
use crate::experts::{
    CONTEXT_SIZES, Evidence, HAZARD_INPUT, IDLE_CONTEXTS, REPEATING, SEASONAL_INPUT, Surroundings, TABLES,
    Tables, gather, inputs_of, starting_weights,
};
use crate::guard::Guard;
use crate::heat::Heat;
use crate::history::History;
use crate::mixer::{Contexts, INPUTS, Inputs, Mixed, Mixer, SETS};
use crate::numeric::{logit as logit_of, sigmoid};
use crate::recall::{Recall, Recalled};
use crate::refinement::{Refinement, Traits, with_recalled, without_clocks};
use crate::state::sound;

/// Logits are remembered in 1/`SCALE` steps until their outcome is known: a quarter of the memory, and no visible loss.
const SCALE: f32 = 14.0;
/// The same for the outputs of the mixer's first layer, which the second learns from.
const HIDDEN_SCALE: f32 = 3000.0;

/// Evidence that the identity counts for at the start, in the map by idle time and in that of many contexts.
const PRIOR: f32 = 30.0;
const PRIOR_REPEATING: f32 = 120.0;

/// A prediction that waits for its outcome.
#[derive(Clone, Debug)]
struct Waiting {
    minute: i64,
    pair: u32,
    generation: u32,
    inputs: [i8; INPUTS],
    contexts: Contexts,
    hidden: [i16; SETS],
    mixed: f32,
    traits: Option<Traits>,
    /// The refined logit, as it was said, and that of the calibrated probability.
    logit: f32,
    calibrated: f32,
    cells: [u16; TABLES],
    idle_context: u8,
}

/// What the model makes of the evidence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Assessed {
    mixed: Mixed,
    traits: Option<Traits>,
    /// The refined logit, and that of the calibrated probability.
    logit: f32,
    calibrated: f32,
    /// The probability that is said.
    pub(crate) p: f32,
}

/// Learns and predicts for one horizon.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) horizon: Horizon,
    /// Overall share of positives, exponentially averaged.
    base: f32,
    base_n: f32,
    tables: Tables,
    mixer: Mixer,
    refinement: Refinement,
    /// What is added behind the maps.
    late: Refinement,
    refine: bool,
    recalls: bool,
    repeats: bool,
    clocks: bool,
    stretches: bool,
    /// By idle time.
    calibration: Calibration,
    /// By how well the history repeats; after a pause only.
    repeating: Calibration,
    calibrate: bool,
    linked: bool,
    related: bool,
    guarded: bool,
    /// Inputs that say nothing.
    silent: Vec<usize>,
    guard: Guard,
    pub(crate) heat: Heat,
    recall: Recall,
    waiting: VecDeque<Waiting>,
}

impl Model {
    pub(crate) fn new(horizon: Horizon, without: &[Part]) -> Self {
        Model {
            horizon,
            base: 0.01,
            base_n: 0.0,
            tables: Tables::new(),
            mixer: Mixer::new(&starting_weights(), CONTEXT_SIZES, IDLE_CONTEXTS),
            refinement: Refinement::early(horizon.length()),
            late: Refinement::late(horizon.length()),
            clocks: !without.contains(&Part::Clocks),
            stretches: !without.contains(&Part::Stretches),
            refine: !without.contains(&Part::Refinement),
            recalls: !without.contains(&Part::Recall),
            repeats: !without.contains(&Part::Phases),
            calibration: Calibration::new(IDLE_CONTEXTS, PRIOR),
            repeating: Calibration::new(CONTEXT_SIZES[REPEATING], PRIOR_REPEATING),
            calibrate: !without.contains(&Part::Calibration),
            linked: !without.contains(&Part::Transitions),
            related: !without.contains(&Part::Siblings),
            guarded: !without.contains(&Part::Guard),
            silent: without.iter().flat_map(|&part| inputs_of(part)).collect(),
            guard: Guard::default(),
            heat: Heat::default(),
            recall: Recall::default(),
            waiting: VecDeque::new(),
        }
    }

    /// What every expert says about a history at the end of minute `now`.
    pub(crate) fn gather(&self, history: &History, now: i64, around: &Surroundings) -> Evidence {
        let around = Surroundings {
            transition: around.transition.filter(|_| self.linked),
            sibling_lag: if self.related { around.sibling_lag } else { -1 },
            followed: around.followed.filter(|_| self.related),
            ..*around
        };
        let mut evidence = gather(history, now, self.horizon, self.base, &around, &self.tables);
        self.silent.iter().for_each(|&i| evidence.inputs[i] = 0.0);
        if !self.clocks {
            evidence.traits = evidence.traits.map(without_clocks);
        }
        evidence
    }

    /// Weighs the evidence. `recalled` is what the model that this one listens to said.
    pub(crate) fn assess(&self, e: &Evidence, recalled: Recalled) -> Assessed {
        let mixed = self.mixer.predict(&e.inputs, &e.contexts, e.idle_context as usize);
        let recalled = if self.recalls { recalled } else { Recalled::default() };
        let traits = e.traits.map(|t| with_recalled(t, mixed.logit, recalled));
        let logit = self.refined(mixed.logit, traits.as_ref());
        let calibrated = self.calibrated(logit, &e.contexts, e.idle_context, e.traits.is_some());
        let p = if self.guarded && self.guard.fallen_back() {
            sigmoid(e.inputs[HAZARD_INPUT])
        } else {
            self.late(calibrated, traits.as_ref())
        };
        Assessed { mixed, traits, logit, calibrated: logit_of(calibrated), p }
    }

    /// After a pause the mean of both maps, else that by idle time. The probability as it is, where that is left out.
    fn calibrated(&self, logit: f32, contexts: &Contexts, idle_context: u8, paused: bool) -> f32 {
        if !self.calibrate {
            return sigmoid(logit);
        }
        let by_idle = self.calibration.predict(logit, idle_context as usize);
        if !paused || !self.repeats {
            return by_idle;
        }
        (by_idle + self.repeating.predict(logit, contexts[REPEATING] as usize)) / 2.0
    }

    /// The calibrated probability refined once more, after a pause.
    fn late(&self, calibrated: f32, traits: Option<&Traits>) -> f32 {
        match traits.filter(|_| self.refine && self.stretches) {
            Some(traits) => sigmoid(self.late.predict(logit_of(calibrated), traits)),
            None => calibrated,
        }
    }

    fn refined(&self, mixed: f32, traits: Option<&Traits>) -> f32 {
        traits.filter(|_| self.refine).map_or(mixed, |t| self.refinement.predict(mixed, t))
    }

    /// Each input's part in the mixed logit; and whether the drift guard has put the hazard in its place.
    pub(crate) fn contributions(&self, e: &Evidence) -> (Inputs, bool) {
        let weights = self.mixer.weights(&e.contexts, e.idle_context as usize);
        let parts = std::array::from_fn(|i| weights[i] * e.inputs[i]);
        (parts, self.guarded && self.guard.fallen_back())
    }

    /// Remembers the evidence, and what was made of it, until its outcome is known.
    pub(crate) fn await_outcome(
        &mut self,
        minute: i64,
        pair: u32,
        generation: u32,
        e: &Evidence,
        said: &Assessed,
    ) {
        self.waiting.push_back(Waiting {
            minute,
            pair,
            generation,
            inputs: e.inputs.map(|x| (x * SCALE).round() as i8),
            contexts: e.contexts,
            hidden: said.mixed.hidden.map(|x| (x * HIDDEN_SCALE) as i16),
            mixed: said.mixed.logit,
            traits: said.traits,
            logit: said.logit,
            calibrated: said.calibrated,
            cells: e.cells,
            idle_context: e.idle_context,
        });
    }

    /// Notes what was said at a tick, for [`Model::recall`].
    pub(crate) fn note(&mut self, slot: u32, generation: u32, tick: i64, said: &Assessed) {
        self.recall.note(slot, generation, tick, said.logit);
    }

    /// What was said about a history at this tick and some before it.
    pub(crate) fn recall(&self, slot: u32, generation: u32, tick: i64) -> Recalled {
        self.recall.at(slot, generation, tick)
    }

    /// Learns from every remembered prediction whose horizon has passed at the end of minute `known`. `outcome(pair,
    /// generation, after, until)` tells whether there was a call in
    /// `(after, until]`, and at which edge; `None` when the pair is gone.
    pub(crate) fn settle(&mut self, known: i64, outcome: impl Fn(u32, u32, i64, i64) -> Option<(bool, u32)>) {
        self.heat.cool(known);
        let (from, to) = (i64::from(self.horizon.after), i64::from(self.horizon.until));
        while self.waiting.front().is_some_and(|w| w.minute + to <= known) {
            let Some(w) = self.waiting.pop_front() else { return };
            let Some((y, edge)) = outcome(w.pair, w.generation, w.minute + from, w.minute + to) else {
                continue;
            };
            let x: Inputs = w.inputs.map(|i| f32::from(i) / SCALE);
            let then = Mixed { hidden: w.hidden.map(|i| f32::from(i) / HIDDEN_SCALE), logit: w.mixed };
            self.mixer.learn(&x, &w.contexts, w.idle_context as usize, &then, y);
            if let Some(traits) = w.traits.filter(|_| self.refine) {
                self.refinement.learn(w.mixed, &traits, y);
            }
            let calibrated = self.calibrated(w.logit, &w.contexts, w.idle_context, w.traits.is_some());
            let emitted = self.late(calibrated, w.traits.as_ref());
            if let Some(traits) = w.traits.filter(|_| self.refine && self.stretches) {
                self.late.learn(w.calibrated, &traits, y);
            }
            self.guard.learn(emitted, sigmoid(x[HAZARD_INPUT]), y);
            self.calibration.learn(w.logit, w.idle_context as usize, y);
            if w.traits.is_some() {
                self.repeating.learn(w.logit, w.contexts[REPEATING] as usize, y);
            }

            self.heat.add(edge, y, sigmoid(x[SEASONAL_INPUT]));
            self.tables.learn(&w.cells, y);
            self.base_n = (self.base_n + 1.0).min(20_000.0);
            self.base += (f32::from(u8::from(y)) - self.base) / (self.base_n + 50.0);
        }
    }

    /// Writes what was learned.
    pub(crate) fn put(&self, out: &mut impl Write) -> io::Result<()> {
        (self.base, self.base_n, &self.tables).serialize(out)?;
        self.mixer.put(out)?;
        self.refinement.put(out)?;
        self.late.put(out)?;
        (&self.calibration, &self.repeating, self.guard, &self.heat, &self.recall).serialize(out)
    }

    /// Takes over what another model of the same horizon had learned.
    pub(crate) fn take(&mut self, from: &mut impl Read) -> io::Result<()> {
        (self.base, self.base_n, self.tables) = BorshDeserialize::deserialize_reader(from)?;
        self.mixer.take(from)?;
        self.refinement.take(from)?;
        self.late.take(from)?;
        (self.calibration, self.repeating, self.guard, self.heat, self.recall) =
            BorshDeserialize::deserialize_reader(from)?;
        let repeating = self.repeating.contexts() == CONTEXT_SIZES[REPEATING];
        sound(self.calibration.contexts() == IDLE_CONTEXTS && repeating)
    }

    /// Memory taken by what was said: predictions whose outcome is open, and those that are recalled.
    pub(crate) fn said_bytes(&self) -> usize {
        self.waiting.len() * size_of::<Waiting>() + self.recall.bytes()
    }

    /// Drops everything that was said, for a jump of the clock.
    pub(crate) fn forget_said(&mut self) {
        self.waiting.clear();
        self.recall.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Squared error once a long time in which every expert but the hazard could be trusted is over: from then on what
    /// they say, as firmly as before, is chance.
    fn error_when_trust_breaks(without: &[Part]) -> f32 {
        let mut model = Model::new(Horizon::within(1), without);
        let (mut sum, mut dice) = (0.0, 1u32);
        let (broken, end) = (6_000i64, 7_500i64);
        for minute in 0..end {
            dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let y = dice >> 30 == 0;
            let said = if minute < broken { y } else { dice >> 20 & 1 == 0 };
            let mut inputs = [if said { 6.0 } else { -6.0 }; INPUTS];
            inputs[HAZARD_INPUT] = -1.1;
            let evidence =
                Evidence { inputs, contexts: [0; SETS], cells: [0; TABLES], idle_context: 0, traits: None };
            if minute >= broken {
                sum += (model.assess(&evidence, Recalled::default()).p - f32::from(u8::from(y))).powi(2);
            }
            let said = model.assess(&evidence, Recalled::default());
            model.await_outcome(minute, 0, 0, &evidence, &said);
            model.settle(minute + 1, |_, _, _, _| Some((y, 0)));
        }
        sum / (end - broken) as f32
    }

    #[test]
    fn the_guard_falls_back_to_the_hazard_when_trust_breaks() {
        let (with, without) = (error_when_trust_breaks(&[]), error_when_trust_breaks(&[Part::Guard]));
        // The hazard says a quarter, always, which is an error of 3/16; it takes a while to notice.
        assert!(with < 0.26, "{with}");
        assert!(without > 0.3, "the bound is no test of the guard: {without}");
    }
}
