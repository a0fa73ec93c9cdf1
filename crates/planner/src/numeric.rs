//! Logits and their inverse, and the small numeric guards that every model needs.

/// Logits are kept within ±`MAX_LOGIT`, so that no expert can veto the others for ever.
pub(crate) const MAX_LOGIT: f32 = 9.0;

/// Natural logarithm of a positive finite `x` to about 1e-4 relative error.
///
/// Written without branches or table look-ups so that the compiler vectorises a loop over it: the logits of all
/// experts are the largest single cost of a prediction.
#[inline(always)]
fn fast_ln(x: f32) -> f32 {
    let bits = x.to_bits();
    let exponent = ((bits >> 23) as i32 - 127) as f32;
    let m = f32::from_bits((bits & 0x007f_ffff) | 0x3f80_0000);
    // Minimax polynomial of log2 on [1, 2).
    let log2 = -2.786_831_2
        + m * (5.046_876 + m * (-3.492_494_3 + m * (1.593_901_4 + m * (-0.404_866_7 + m * 0.043_428_1))));
    (exponent + log2) * std::f32::consts::LN_2
}

/// Replaces every probability in `xs` by its logit, limited to ±[`MAX_LOGIT`].
#[inline]
pub(crate) fn logits_in_place(xs: &mut [f32]) {
    for x in xs {
        let p = x.clamp(1e-5, 1.0 - 1e-5);
        *x = (fast_ln(p) - fast_ln(1.0 - p)).clamp(-MAX_LOGIT, MAX_LOGIT);
    }
}

/// Logit of one probability, limited to ±[`MAX_LOGIT`].
#[inline]
pub(crate) fn logit(p: f32) -> f32 {
    let mut x = [p];
    logits_in_place(&mut x);
    x[0]
}

/// The logistic function.
#[inline]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// `hits` successes in `trials` trials, shrunk towards `prior` as if it had been seen `weight` times.
#[inline(always)]
pub(crate) fn shrunk(hits: f32, trials: f32, prior: f32, weight: f32) -> f32 {
    (hits + prior * weight) / (trials + weight)
}

/// Probability of at least one event in `minutes` independent minutes that each have one with probability `p`.
#[inline(always)]
pub(crate) fn any_of(p: f32, minutes: f32) -> f32 {
    1.0 - (minutes * (-(p.clamp(0.0, 0.999))).ln_1p()).exp()
}

/// Index of the first limit above `x`: a bin number in `0..=limits.len()`.
#[inline]
pub(crate) fn bin(x: i64, limits: &[i64]) -> usize {
    limits.iter().take_while(|&&l| x >= l).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logit_agrees_with_the_exact_one() {
        for i in 1..1000 {
            let p = i as f32 / 1000.0;
            let exact = (p / (1.0 - p)).ln();
            assert!((logit(p) - exact).abs() < 2e-3, "p {p}: {} against {exact}", logit(p));
        }
        assert!((sigmoid(logit(0.3)) - 0.3).abs() < 1e-3);
    }

    #[test]
    fn impossible_probabilities_stay_finite() {
        for p in [0.0, 1.0, -3.0, 7.0] {
            assert!(logit(p).is_finite());
            assert!(logit(p).abs() <= MAX_LOGIT);
        }
    }

    #[test]
    fn bins_are_ordered() {
        let limits = [1, 5, 10];
        assert_eq!([0, 1, 4, 5, 10, 99].map(|x| bin(x, &limits)), [0, 1, 1, 2, 3, 3]);
    }
}
