//! Mixes the experts' logits into one probability by online gradient steps.
//!
//! Two layers. In the first, several weight sets, each chosen by one small context, mix the same inputs; in the
//! second, one more set mixes their outputs. Weights are shared by all functions and edges, so that a function with no
//! history is predicted by what works for functions like it. Step sizes are per weight (AdaGrad with forgetting).

use std::io::{self, Read, Write};

use borsh::{BorshDeserialize, BorshSerialize};

use crate::numeric::{MAX_LOGIT, sigmoid};
use crate::state::sound;

/// Number of inputs of the first layer, padded so that loops over them vectorise.
pub(crate) const INPUTS: usize = 80;
/// Number of weight sets used per prediction.
pub(crate) const SETS: usize = 11;

/// Inputs of the first layer: logits, 0 where an expert has nothing to say.
pub(crate) type Inputs = [f32; INPUTS];
/// For each weight set the context that chooses its weights.
pub(crate) type Contexts = [u16; SETS];

#[derive(Clone, Debug, BorshDeserialize, BorshSerialize)]
struct Weights<const N: usize> {
    w: [f32; N],
    g2: [f32; N],
}

impl<const N: usize> Weights<N> {
    fn new(w: [f32; N]) -> Self {
        Weights { w, g2: [1e-2; N] }
    }

    #[inline]
    fn dot(&self, x: &[f32; N]) -> f32 {
        // Four independent sums: the compiler may not reorder float additions by itself.
        let mut acc = [0.0f32; 8];
        let mut i = 0;
        while i + 8 <= N {
            for (k, a) in acc.iter_mut().enumerate() {
                *a += self.w[i + k] * x[i + k];
            }
            i += 8;
        }
        let mut sum: f32 = acc.iter().sum();
        while i < N {
            sum += self.w[i] * x[i];
            i += 1;
        }
        sum.clamp(-MAX_LOGIT, MAX_LOGIT)
    }

    #[inline]
    fn step(&mut self, x: &[f32; N], error: f32, rate: f32, memory: f32) {
        for ((w, g2), x) in self.w.iter_mut().zip(&mut self.g2).zip(x) {
            let g = error * x;
            *g2 = *g2 * memory + g * g;
            *w += rate * g / (*g2 + 1e-4).sqrt();
        }
    }
}

/// One mixed prediction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mixed {
    /// Outputs (logits) of the first layer.
    pub(crate) hidden: [f32; SETS],
    /// Logit of the final mix.
    pub(crate) logit: f32,
}

/// The two layers and their learning state.
#[derive(Clone, Debug)]
pub(crate) struct Mixer {
    first: Vec<Vec<Weights<INPUTS>>>,
    second: Vec<Weights<SETS>>,
}

const RATE_FIRST: f32 = 0.035;
const RATE_SECOND: f32 = 0.002;
const MEMORY: f32 = 0.9999;

impl Mixer {
    /// `start` are the weights that every set begins with; `sizes[i]` the number of contexts of set `i`;
    /// `final_contexts` that of the second layer.
    pub(crate) fn new(start: &Inputs, sizes: [usize; SETS], final_contexts: usize) -> Self {
        Mixer {
            first: sizes.iter().map(|&n| vec![Weights::new(*start); n]).collect(),
            second: vec![Weights::new([1.0 / SETS as f32; SETS]); final_contexts],
        }
    }

    #[inline]
    pub(crate) fn predict(&self, x: &Inputs, contexts: &Contexts, last: usize) -> Mixed {
        let mut hidden = [0.0; SETS];
        for (i, h) in hidden.iter_mut().enumerate() {
            *h = self.first[i][contexts[i] as usize].dot(x);
        }
        Mixed { hidden, logit: self.second[last].dot(&hidden) }
    }

    /// What each input counts for in the end, were no limit reached on the way.
    pub(crate) fn weights(&self, contexts: &Contexts, last: usize) -> Inputs {
        let mut total = [0.0; INPUTS];
        for ((sets, &context), share) in self.first.iter().zip(contexts).zip(self.second[last].w) {
            for (t, w) in total.iter_mut().zip(&sets[context as usize].w) {
                *t += share * w;
            }
        }
        total
    }

    /// One gradient step of every layer on its own log-loss. `then` is what was predicted from these inputs when their
    /// outcome was open: the first layer has learned since from windows that overlap this one, so that what it would say
    /// today flatters it, and the second layer must not be taught to trust that.
    #[inline]
    pub(crate) fn learn(
        &mut self,
        x: &Inputs,
        contexts: &Contexts,
        last: usize,
        then: &Mixed,
        positive: bool,
    ) {
        let y = f32::from(u8::from(positive));
        let now = self.predict(x, contexts, last);
        for ((sets, &context), hidden) in self.first.iter_mut().zip(contexts).zip(now.hidden) {
            let error = y - sigmoid(hidden);
            sets[context as usize].step(x, error, RATE_FIRST, MEMORY);
        }
        let logit = self.second[last].dot(&then.hidden);
        self.second[last].step(&then.hidden, y - sigmoid(logit), RATE_SECOND, MEMORY);
    }
}

impl Mixer {
    /// Writes what was learned.
    pub(crate) fn put(&self, out: &mut impl Write) -> io::Result<()> {
        (&self.first, &self.second).serialize(out)
    }

    /// Takes over what another mixer of the same shape had learned.
    pub(crate) fn take(&mut self, from: &mut impl Read) -> io::Result<()> {
        let (first, second): (Vec<Vec<Weights<INPUTS>>>, Vec<Weights<SETS>>) =
            BorshDeserialize::deserialize_reader(from)?;
        let same = first.iter().map(Vec::len).eq(self.first.iter().map(Vec::len));
        sound(same && second.len() == self.second.len())?;
        (self.first, self.second) = (first, second);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mixer() -> Mixer {
        let mut start = [0.0; INPUTS];
        start[0] = 0.5;
        Mixer::new(&start, [2; SETS], 1)
    }

    #[test]
    fn learns_which_expert_to_believe() {
        let mut m = mixer();
        let contexts = [0; SETS];
        let mut state = 1u32;
        for _ in 0..20_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let truth = state >> 31 == 1;
            let noise = state >> 30 & 1 == 1;
            let mut x = [0.0; INPUTS];
            x[0] = if noise { 2.0 } else { -2.0 };
            x[1] = if truth { 2.0 } else { -2.0 };
            let then = m.predict(&x, &contexts, 0);
            m.learn(&x, &contexts, 0, &then, truth);
        }
        let mut x = [0.0; INPUTS];
        (x[0], x[1]) = (-2.0, 2.0);
        assert!(sigmoid(m.predict(&x, &contexts, 0).logit) > 0.95);
        // The other context has learned nothing.
        assert!(sigmoid(m.predict(&x, &[1; SETS], 0).logit) < 0.95);
    }

    #[test]
    fn outputs_stay_finite_under_contradiction() {
        let mut m = mixer();
        let x = [9.0; INPUTS];
        for i in 0..10_000 {
            let then = m.predict(&x, &[0; SETS], 0);
            m.learn(&x, &[0; SETS], 0, &then, i % 2 == 0);
        }
        let out = m.predict(&x, &[0; SETS], 0).logit;
        assert!(out.is_finite() && out.abs() <= MAX_LOGIT);
    }
}
