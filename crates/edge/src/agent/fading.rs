/// How much came of how much, where the past counts less and less.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fading {
    of: f64,
    came: f64,
}

impl Fading {
    /// `keep` of the past remains; `came` of `of` is added.
    pub(crate) fn add(&mut self, keep: f64, of: f64, came: f64) {
        self.of = self.of * keep + of;
        self.came = self.came * keep + came;
    }

    /// The share that came, as if `expected` of `prior` more had.
    pub(crate) fn share(&self, prior: f64, expected: f64) -> f64 {
        (self.came + prior * expected) / (self.of + prior)
    }
}
