//! The model of one horizon: tables, mixer and calibration, and the predictions whose outcome is not known yet.

use std::collections::VecDeque;

use crate::calibration::Calibration;
use crate::config::Horizon;
use crate::experts::{
    CONTEXT_SIZES, Evidence, HAZARD_INPUT, IDLE_CONTEXTS, SEASONAL_INPUT, TABLES, Tables, starting_weights,
};
use crate::guard::Guard;
use crate::heat::Heat;
use crate::mixer::{Contexts, INPUTS, Inputs, Mixed, Mixer};
use crate::numeric::sigmoid;

/// Logits are remembered in 1/`SCALE` steps until their outcome is known: half the memory, and no visible loss.
const SCALE: f32 = 3000.0;

/// A prediction that waits for its outcome.
#[derive(Clone, Debug)]
struct Waiting {
    minute: i64,
    pair: u32,
    generation: u32,
    inputs: [i16; INPUTS],
    contexts: Contexts,
    mixed: Mixed,
    cells: [u32; TABLES],
    idle_context: u8,
}

/// Learns and predicts for one horizon.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) horizon: Horizon,
    /// Overall share of positives, exponentially averaged.
    pub(crate) base: f32,
    base_n: f32,
    pub(crate) tables: Tables,
    mixer: Mixer,
    calibration: Calibration,
    calibrate: bool,
    guard: Guard,
    pub(crate) heat: Heat,
    waiting: VecDeque<Waiting>,
}

impl Model {
    pub(crate) fn new(horizon: Horizon, calibrate: bool) -> Self {
        Model {
            horizon,
            base: 0.01,
            base_n: 0.0,
            tables: Tables::new(),
            mixer: Mixer::new(&starting_weights(), CONTEXT_SIZES, IDLE_CONTEXTS),
            calibration: Calibration::new(IDLE_CONTEXTS),
            calibrate,
            guard: Guard::default(),
            heat: Heat::default(),
            waiting: VecDeque::new(),
        }
    }

    /// Calibrated probability for the evidence.
    pub(crate) fn predict(&self, e: &Evidence) -> f32 {
        if self.guard.fallen_back() {
            return sigmoid(e.inputs[HAZARD_INPUT]);
        }
        let mixed = self.mixer.predict(&e.inputs, &e.contexts, e.idle_context as usize);
        if self.calibrate {
            self.calibration.predict(mixed.logit, e.idle_context as usize)
        } else {
            sigmoid(mixed.logit)
        }
    }

    /// Remembers the evidence until its outcome is known.
    pub(crate) fn await_outcome(&mut self, minute: i64, pair: u32, generation: u32, e: &Evidence) {
        self.waiting.push_back(Waiting {
            minute,
            pair,
            generation,
            inputs: e.inputs.map(|x| (x * SCALE) as i16),
            contexts: e.contexts,
            mixed: self.mixer.predict(&e.inputs, &e.contexts, e.idle_context as usize),
            cells: e.cells,
            idle_context: e.idle_context,
        });
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
            self.mixer.learn(&x, &w.contexts, w.idle_context as usize, &w.mixed, y);
            let emitted = self.calibration.predict(w.mixed.logit, w.idle_context as usize);
            self.guard.learn(emitted, sigmoid(x[HAZARD_INPUT]), y);
            self.calibration.learn(w.mixed.logit, w.idle_context as usize, y);
            self.heat.add(edge, y, sigmoid(x[SEASONAL_INPUT]));
            self.tables.learn(&w.cells, y);
            self.base_n = (self.base_n + 1.0).min(20_000.0);
            self.base += (f32::from(u8::from(y)) - self.base) / (self.base_n + 50.0);
        }
    }

    /// Memory taken by predictions whose outcome is open.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting.len() * size_of::<Waiting>()
    }

    /// Drops everything that waits, for a jump of the clock.
    pub(crate) fn forget_waiting(&mut self) {
        self.waiting.clear();
    }
}
