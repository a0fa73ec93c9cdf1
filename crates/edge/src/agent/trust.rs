use super::fading::Fading;

/// How far the confidences of schedules are believed at this edge.
///
/// Of everything that was prefetched it is noted what was claimed and whether it was used before it was no longer wanted.
/// The quotient corrects what is claimed next. It starts below one, as if some prefetches had already been in vain, so that
/// a new edge begins with what surely pays, and it forgets, so that a planner that becomes better is believed again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trust(Fading);

/// Uses claimed at the beginning, and the share of them that is taken to have come.
const PRIOR: f64 = 10.0;
const PRIOR_SHARE: f64 = 0.75;
/// What remains of the past with each outcome: it halves in about 350 of them.
const KEEP: f64 = 0.998;

impl Trust {
    /// A copy fetched on a claim of `confidence` is no longer wanted; `used`: it was served while it was.
    pub(crate) fn outcome(&mut self, confidence: f64, used: bool) {
        self.0.add(KEEP, confidence, f64::from(u8::from(used)));
    }

    /// What a claim is to be multiplied with: 0 to 1.
    pub(crate) fn factor(&self) -> f64 {
        self.0.share(PRIOR, PRIOR_SHARE).min(1.0)
    }

    /// What is left of the trust that every edge begins with, 0 to 1: 1 until outcomes speak against it.
    pub(crate) fn left(&self) -> f64 {
        (self.factor() / PRIOR_SHARE).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_careful_and_believes_who_was_right() {
        let mut trust = Trust::default();
        assert_eq!((trust.factor(), trust.left()), (PRIOR_SHARE, 1.0));
        for i in 0..200 {
            trust.outcome(0.5, i % 2 == 0);
        }
        assert!(trust.factor() > 0.95, "{}", trust.factor());
    }

    #[test]
    fn who_claims_too_much_is_believed_less_until_he_mends() {
        let mut trust = Trust::default();
        for i in 0..1_000 {
            trust.outcome(0.9, i % 10 == 0);
        }
        assert!(trust.factor() < 0.15 && trust.left() < 0.2, "{}", trust.factor());
        for i in 0..3_000 {
            trust.outcome(0.9, i % 10 != 0);
        }
        assert!(trust.factor() > 0.9, "{}", trust.factor());
    }
}
