//! Archetypes: functions of a kind, found by clustering those with a history. A function with little history of its own is
//! expected to behave like the kinds it may be of, each as likely as it looks.
//!
//! A timer, a daily report, an API in office hours and a queue worker differ in a few traits (how regular, how bursty, when
//! in the day, how often), whatever their names. Clusters are looked for anew as the log grows, beginning from where
//! they were, so that a number keeps its meaning and what was learned under it stays true.

use borsh::{BorshDeserialize, BorshSerialize};

use linfa::DatasetBase;
use linfa::traits::Fit;
use linfa_clustering::{KMeans, KMeansInit};
use ndarray::Array2;

use crate::history::{History, PERIODS};

/// Number of archetypes.
pub(crate) const KINDS: usize = 8;
/// Traits of a function.
const TRAITS: usize = 12;
/// Active minutes that count as half of full trust in a function's own traits.
const HALF_TRUST: f32 = 12.0;
/// Functions with fewer active minutes don't shape the clusters.
const TELLING: u32 = 8;
/// Least number of functions to look for archetypes in, and the most that are looked at.
const FEWEST: usize = 4 * KINDS;
const MOST: usize = 2_000;
/// Minutes of history at which archetypes are first looked for; from then on whenever it has doubled, at least daily.
const FIRST_FIT: i64 = 120;
const LONGEST_WAIT: i64 = 1440;
/// Rounds of one search.
const ROUNDS: u64 = 25;

type Traits = [f32; TRAITS];

/// How likely a function is of each archetype, in 1/255; all 0 while there are no archetypes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshDeserialize, BorshSerialize)]
pub(crate) struct Kinds([u8; KINDS]);

impl Kinds {
    /// The likeliest, or [`KINDS`] while nothing is known.
    pub(crate) fn likeliest(self) -> usize {
        let best = (0..KINDS).max_by_key(|&k| (self.0[k], std::cmp::Reverse(k)));
        best.filter(|&k| self.0[k] > 0).unwrap_or(KINDS)
    }

    /// Archetypes with their shares, which add up to 1 (to nothing while nothing is known).
    pub(crate) fn shares(self) -> impl Iterator<Item = (usize, f32)> {
        let sum: f32 = self.0.iter().map(|&w| f32::from(w)).sum();
        self.0.into_iter().enumerate().filter(|w| w.1 > 0).map(move |(k, w)| (k, f32::from(w) / sum))
    }

    fn of(weights: [f32; KINDS]) -> Self {
        let most = weights.iter().copied().fold(1e-9, f32::max);
        Kinds(weights.map(|w| (w / most * 255.0).round() as u8))
    }
}

/// The archetypes found last.
#[derive(Clone, Debug, Default, BorshDeserialize, BorshSerialize)]
pub(crate) struct Archetypes {
    centres: Vec<Traits>,
    shares: [f32; KINDS],
    /// Mean squared distance of a function to its centre.
    spread: f32,
    mean: Traits,
    /// Age of the log at the last search.
    searched: i64,
}

impl Archetypes {
    /// Whether it is time to look again, `age` minutes after the log began.
    pub(crate) fn due(&self, age: i64) -> bool {
        age >= FIRST_FIT && age >= (self.searched * 2).min(self.searched + LONGEST_WAIT)
    }

    /// Looks for archetypes among these histories, each with its local time minus UTC (at most some thousand of them, evenly
    /// chosen). Costs a few
    /// milliseconds; the same histories give the same archetypes.
    pub(crate) fn search<'a>(
        &mut self,
        histories: impl ExactSizeIterator<Item = (&'a History, i64)>,
        now: i64,
        age: i64,
    ) {
        self.searched = age;
        let stride = histories.len().div_ceil(MOST).max(1);
        let seen: Vec<Traits> = histories
            .step_by(stride)
            .filter(|(h, _)| h.active >= TELLING)
            .map(|(h, offset)| traits(h, now, offset))
            .collect();
        if seen.len() < FEWEST {
            return;
        }
        let n = seen.len() as f32;
        self.mean = std::array::from_fn(|i| seen.iter().map(|t| t[i]).sum::<f32>() / n);
        let flat = |rows: &[Traits]| Array2::from_shape_fn((rows.len(), TRAITS), |(i, j)| rows[i][j]);
        // From where they were: an archetype's number keeps its meaning.
        let init = if self.centres.is_empty() {
            KMeansInit::KMeansPlusPlus
        } else {
            KMeansInit::Precomputed(flat(&self.centres))
        };
        let runs = if self.centres.is_empty() { 4 } else { 1 };
        // The generator behind it has a fixed seed.
        let clusters = KMeans::params(KINDS)
            .init_method(init)
            .n_runs(runs)
            .max_n_iterations(ROUNDS)
            .tolerance(1e-3)
            .fit(&DatasetBase::from(flat(&seen)));
        let Ok(clusters) = clusters else { return };
        let centres = clusters.centroids();
        if centres.iter().any(|c| !c.is_finite()) {
            return;
        }
        self.centres = centres.rows().into_iter().map(|r| std::array::from_fn(|j| r[j])).collect();
        self.shares = std::array::from_fn(|k| (clusters.cluster_count()[k] + 1.0) / (n + KINDS as f32));
        self.spread = clusters.inertia().max(1e-3);
    }

    /// How likely the function is of each archetype: by its traits as far as there is a history, else by how common they are.
    pub(crate) fn assign(&self, h: &History, now: i64, offset: i64) -> Kinds {
        if self.centres.is_empty() {
            return Kinds::default();
        }
        let trust = h.active as f32 / (h.active as f32 + HALF_TRUST);
        let own = traits(h, now, offset);
        let mut likely = [0.0f32; KINDS];
        for ((l, centre), share) in likely.iter_mut().zip(&self.centres).zip(self.shares) {
            let d2: f32 = own.iter().zip(centre).map(|(a, b)| (a - b) * (a - b)).sum();
            *l = share * (-d2 / self.spread).max(-60.0).exp();
        }
        let sum: f32 = likely.iter().sum::<f32>().max(1e-30);
        Kinds::of(std::array::from_fn(|k| trust * likely[k] / sum + (1.0 - trust) * self.shares[k]))
    }
}

/// What tells kinds apart, each scaled to about 0..=1.
fn traits(h: &History, now: i64, offset: i64) -> Traits {
    let age = (now - h.first + 1).max(1) as f32;
    let active = h.active.max(1) as f32;
    let gaps: Vec<f32> = (0..h.gaps.long.len()).map(|i| h.gaps.long.recent(i) as f32).collect();
    let n = gaps.len().max(1) as f32;
    let mean = gaps.iter().sum::<f32>() / n;
    let variance = gaps.iter().map(|g| (g - mean) * (g - mean)).sum::<f32>() / n;
    let phase = |i: usize| h.phase_score[i];
    let hour = PERIODS.iter().position(|&p| p == 60).unwrap_or(0);
    // Where in the local day: the mean direction of its active minutes on the clock's face.
    let (mut east, mut north, mut all) = (0.0f32, 0.0f32, 0.0f32);
    for k in 0..48 {
        let until = now - k * 30;
        let count = h.minutes.count(until - 30, until) as f32;
        let turn = (until + offset).rem_euclid(1440) as f32 / 1440.0 * std::f32::consts::TAU;
        east += count * turn.sin();
        north += count * turn.cos();
        all += count;
    }
    let all = all.max(1.0);
    [
        (age / active).ln() / 7.0,
        h.onsets as f32 / active,
        f32::from(h.gaps.long.agreement()) / 8.0,
        f32::from(h.gaps.onset.agreement()) / 8.0,
        h.rhythm[0].score,
        phase(hour),
        (0..hour).map(phase).fold(0.0, f32::max),
        (variance.sqrt() / mean.max(1.0)).min(3.0) / 2.0,
        (h.intensity.max(1.0).ln() / 5.0).min(1.5),
        east / all * 0.5,
        north / all * 0.5,
        (f32::from(h.rhythm[0].lag) + 1.0).ln() / 8.0,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Timers of different periods, bursts and rare calls: a third each.
    fn histories() -> Vec<History> {
        let mut dice = 1u32;
        let mut chance = |one_in: u32| {
            dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (dice >> 8).is_multiple_of(one_in)
        };
        (0..120)
            .map(|i| {
                let mut h = History::new(0, 0);
                for minute in 0..2000i64 {
                    let called = match i % 3 {
                        0 => minute % (20 + i) == 0,
                        1 => minute % 300 < 60 && chance(2),
                        _ => chance(90),
                    };
                    if called {
                        h.record(minute, 0, 1);
                    }
                }
                h
            })
            .collect()
    }

    fn found(histories: &[History]) -> Archetypes {
        let mut a = Archetypes::default();
        a.search(histories.iter().map(|h| (h, 0)), 2000, 2000);
        a
    }

    #[test]
    fn kinds_that_differ_get_different_archetypes() {
        let histories = histories();
        let a = found(&histories);
        let kind = |i: usize| a.assign(&histories[i], 2000, 0).likeliest();
        let timers: Vec<usize> = (0..40).map(|i| kind(i * 3)).collect();
        let others: Vec<usize> = (0..40).flat_map(|i| [kind(i * 3 + 1), kind(i * 3 + 2)]).collect();
        let shared = timers.iter().filter(|k| others.contains(k)).count();
        assert!(shared <= 4, "{timers:?} {others:?}");
    }

    #[test]
    fn the_same_histories_give_the_same_archetypes_and_numbers_last() {
        let histories = histories();
        let (a, b) = (found(&histories), found(&histories));
        assert_eq!(a.centres, b.centres);
        let mut again = a.clone();
        again.search(histories.iter().map(|h| (h, 0)), 2000, 4000);
        let kept = histories
            .iter()
            .filter(|h| again.assign(h, 2000, 0).likeliest() == a.assign(h, 2000, 0).likeliest());
        assert!(kept.count() > 115);
    }

    #[test]
    fn a_newcomer_may_be_of_any_kind() {
        let a = found(&histories());
        let new = a.assign(&History::new(2000, 0), 2000, 0);
        assert!(new.shares().filter(|s| s.1 > 0.02).count() >= 3, "{new:?}");
        assert!((new.shares().map(|s| s.1).sum::<f32>() - 1.0).abs() < 1e-4);
    }

    #[test]
    fn too_few_functions_have_no_archetypes() {
        let few: Vec<History> = histories().into_iter().take(10).collect();
        let a = found(&few);
        assert_eq!(a.assign(&few[0], 2000, 0), Kinds::default());
        assert_eq!(Kinds::default().likeliest(), KINDS);
        assert_eq!(Kinds::default().shares().count(), 0);
    }

    #[test]
    fn looked_for_rarely() {
        let mut a = Archetypes::default();
        let times = (0..10_000).filter(|&age| {
            let due = a.due(age);
            if due {
                a.searched = age;
            }
            due
        });
        assert!(times.count() < 14);
    }
}
