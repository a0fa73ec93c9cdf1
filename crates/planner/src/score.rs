//! How good predictions were: the measures of `foreshard backtest`.

/// Scores of a set of predictions with known outcomes.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Score {
    /// Number of predictions.
    pub windows: usize,
    /// How many came true.
    pub positives: usize,
    /// Average precision; predictions with the same probability share a threshold.
    pub ap: f64,
    /// Share of the positives among as many of the most probable predictions as there are positives.
    pub recall_at_1: f64,
    /// Mean squared error of the probability.
    pub brier: f64,
    /// Expected calibration error over 20 equally wide bins.
    pub ece: f64,
}

/// Scores `(probability, came true)` pairs, which it sorts; `None` when none came true.
pub fn score(rows: &mut [(f32, bool)]) -> Option<Score> {
    let n = rows.len();
    let positives = rows.iter().filter(|r| r.1).count();
    if n == 0 || positives == 0 {
        return None;
    }
    let y = |b: bool| f64::from(u8::from(b));
    let brier = rows.iter().map(|&(p, b)| (f64::from(p) - y(b)).powi(2)).sum::<f64>() / n as f64;
    let mut bins = [(0.0f64, 0.0f64); 20];
    for &(p, b) in rows.iter() {
        let bin = &mut bins[((p * 20.0) as usize).min(19)];
        bin.0 += f64::from(p);
        bin.1 += y(b);
    }
    let ece = bins.iter().map(|b| (b.0 - b.1).abs()).sum::<f64>() / n as f64;
    rows.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut tp, mut ap, mut i) = (0usize, 0.0, 0);
    while i < n {
        let mut j = i;
        let mut t = 0;
        while j < n && rows[j].0 == rows[i].0 {
            t += usize::from(rows[j].1);
            j += 1;
        }
        tp += t;
        ap += tp as f64 / j as f64 * t as f64 / positives as f64;
        i = j;
    }
    let recall_at_1 = rows[..positives].iter().filter(|r| r.1).count() as f64 / positives as f64;
    Some(Score { windows: n, positives, ap, recall_at_1, brier, ece })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perfect_ranking_has_an_average_precision_of_one() {
        let mut rows = vec![(0.9, true), (0.8, true), (0.2, false), (0.1, false)];
        let s = score(&mut rows).unwrap();
        assert_eq!((s.ap, s.recall_at_1, s.windows, s.positives), (1.0, 1.0, 4, 2));
    }

    #[test]
    fn ties_share_a_threshold() {
        let mut rows = vec![(0.5, true), (0.5, false), (0.5, false), (0.5, true)];
        let s = score(&mut rows).unwrap();
        assert!((s.ap - 0.5).abs() < 1e-9);
        assert!(s.ece < 1e-9);
        assert!((s.brier - 0.25).abs() < 1e-9);
    }

    #[test]
    fn nothing_positive_has_no_score() {
        assert_eq!(score(&mut [(0.1, false)]), None);
        assert_eq!(score(&mut []), None);
    }
}
