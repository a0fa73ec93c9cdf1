//! Where predictions were good or bad: over time, over functions, and over thresholds.

use foreshard_planner::score;

use crate::backtest::measures::Said;

/// One stretch of time.
pub(super) struct Stretch {
    /// Its first minute.
    pub(super) from: i64,
    /// Mean probability that was said.
    pub(super) said: f64,
    /// Share that came true.
    pub(super) true_share: f64,
    /// Average precision, 0 when nothing came true.
    pub(super) ap: f64,
}

/// Cold windows over time, in at most `parts` stretches of equal length.
pub(super) fn drift(cold: &[Said], span: (i64, i64), parts: i64) -> Vec<Stretch> {
    let length = ((span.1 - span.0 + 1) / parts.max(1)).max(1);
    let mut stretches: Vec<Vec<(f32, bool)>> = vec![Vec::new(); parts.max(1) as usize + 1];
    for s in cold {
        let at = ((s.minute - span.0) / length).clamp(0, parts) as usize;
        stretches[at].push((s.p, s.positive));
    }
    let of = |(i, mut rows): (usize, Vec<(f32, bool)>)| {
        let n = rows.len();
        (n >= 50).then(|| Stretch {
            from: span.0 + i as i64 * length,
            said: rows.iter().map(|r| f64::from(r.0)).sum::<f64>() / n as f64,
            true_share: rows.iter().filter(|r| r.1).count() as f64 / n as f64,
            ap: score(&mut rows).map_or(0.0, |s| s.ap),
        })
    };
    stretches.into_iter().enumerate().filter_map(of).collect()
}

/// A pair and how far off its predictions were.
pub(super) struct Worst {
    pub(super) pair: usize,
    pub(super) windows: usize,
    pub(super) positives: usize,
    pub(super) said: f64,
    /// Its share of the squared error over all pairs.
    pub(super) share: f64,
}

/// The pairs that contribute most to the squared error.
pub(super) fn worst(cold: &[Said], most: usize) -> Vec<Worst> {
    let mut sums: std::collections::BTreeMap<usize, (usize, usize, f64, f64)> = Default::default();
    let mut total = 0.0;
    for s in cold {
        let y = f64::from(u8::from(s.positive));
        let error = (f64::from(s.p) - y).powi(2);
        let sum = sums.entry(s.pair).or_default();
        *sum = (sum.0 + 1, sum.1 + usize::from(s.positive), sum.2 + f64::from(s.p), sum.3 + error);
        total += error;
    }
    let mut all: Vec<Worst> = sums
        .into_iter()
        .map(|(pair, (windows, positives, said, error))| Worst {
            pair,
            windows,
            positives,
            said: said / windows as f64,
            share: error / f64::max(total, 1e-12),
        })
        .collect();
    all.sort_by(|a, b| b.share.total_cmp(&a.share));
    all.truncate(most);
    all
}

/// Precision over recall, at up to 200 thresholds.
pub(super) fn precision_recall(rows: &mut [(f32, bool)]) -> Vec<(f64, f64)> {
    rows.sort_by(|a, b| b.0.total_cmp(&a.0));
    let positives = rows.iter().filter(|r| r.1).count().max(1);
    let step = (positives / 200).max(1);
    let mut points = Vec::new();
    let (mut found, mut from) = (0usize, 0usize);
    // Ties share a threshold.
    for group in rows.chunk_by(|a, b| a.0 == b.0) {
        let before = found;
        found += group.iter().filter(|r| r.1).count();
        from += group.len();
        if found / step > before / step {
            points.push((found as f64 / positives as f64, found as f64 / from as f64));
        }
    }
    points
}

/// Share that came true over the mean probability, in 20 bins with at least 50 windows.
pub(super) fn reliability(rows: &[(f32, bool)]) -> Vec<(f64, f64)> {
    let mut bins = [(0.0f64, 0usize, 0usize); 20];
    for &(p, y) in rows {
        let bin = &mut bins[((p * 20.0) as usize).min(19)];
        *bin = (bin.0 + f64::from(p), bin.1 + usize::from(y), bin.2 + 1);
    }
    bins.iter().filter(|b| b.2 >= 50).map(|&(p, y, n)| (p / n as f64, y as f64 / n as f64)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(pair: usize, minute: i64, p: f32, positive: bool) -> Said {
        Said { pair, minute, cold: true, p, positive }
    }

    #[test]
    fn the_worst_come_first() {
        let rows =
            [said(0, 1, 0.9, true), said(1, 1, 0.9, false), said(1, 2, 0.8, false), said(2, 1, 0.5, true)];
        let found = worst(&rows, 2);
        assert_eq!((found[0].pair, found[0].windows, found[1].pair), (1, 2, 2));
        assert!(found[0].share > 0.8);
    }

    #[test]
    fn drift_shows_when_it_came() {
        let rows: Vec<Said> = (0..2000).map(|m| said(0, m, 0.1, m >= 1000 && m % 2 == 0)).collect();
        let stretches = drift(&rows, (0, 1999), 10);
        assert_eq!(stretches.len(), 10);
        assert!(stretches[0].true_share < 0.01 && stretches[9].true_share > 0.4 && stretches[9].from == 1800);
    }

    #[test]
    fn curves() {
        let mut rows = [(0.9, true), (0.8, false), (0.7, true), (0.1, false)];
        assert_eq!(precision_recall(&mut rows), [(0.5, 1.0), (1.0, 2.0 / 3.0)]);
        assert_eq!(reliability(&rows), []);
        let all_alike = &mut [(0.5, true), (0.5, false)];
        assert_eq!(precision_recall(all_alike), [(1.0, 0.5)]);
    }
}
