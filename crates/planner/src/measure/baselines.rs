//! The usual ways to predict, to compare with: each as good as it can be made without learning across functions.

use std::collections::VecDeque;

use crate::config::Horizon;
use crate::minutes::{MinuteBits, SPAN};
use crate::numeric::{any_of, bin, shrunk};
use crate::seasons::{Seasons, last_days};
use crate::tables::Table;

/// A way to predict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// The latest called is the next to be called, as a least-recently-used cache has it.
    Recency,
    /// What is called most is called next.
    Popularity,
    /// What was called in the minute after the functions that are running now.
    Markov,
    /// What was called an hour ago.
    HourAgo,
    /// What was called a day ago.
    DayAgo,
    /// The share of the last 28 days on which it was called in these five-minute slots.
    SlotMean,
}

impl Baseline {
    /// All of them, in the order of [`Baselines::tick`]'s probabilities.
    pub const ALL: [Baseline; 6] = [
        Baseline::Recency,
        Baseline::Popularity,
        Baseline::Markov,
        Baseline::HourAgo,
        Baseline::DayAgo,
        Baseline::SlotMean,
    ];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Baseline::Recency => "recency (LRU)",
            Baseline::Popularity => "popularity",
            Baseline::Markov => "Markov-1",
            Baseline::HourAgo => "an hour ago",
            Baseline::DayAgo => "a day ago",
            Baseline::SlotMean => "same slot, 28 days",
        }
    }
}

const IDLE: [i64; 20] = [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 45, 60, 90, 120, 240, 720, 1440];
const IDLE_BINS: usize = IDLE.len() + 1;
/// Pairs up to which transitions between all of them are counted (a square matrix of 4-byte cells).
const MOST_CHAINED: usize = 2_048;

#[derive(Clone, Debug)]
struct Known {
    first: i64,
    last: i64,
    active: f32,
    minutes: MinuteBits,
    seasons: Seasons,
}

/// Tables that turn what a baseline looks at into a probability, learned as outcomes become known.
#[derive(Clone, Debug)]
struct Calibrated {
    horizon: Horizon,
    idle: Table,
    hour: Table,
    day: Table,
    /// For each tick whose outcome is open: its minute, and each pair's cells.
    waiting: VecDeque<(i64, Vec<Option<[u8; 3]>>)>,
}

/// Predicts in all these ways, minute by minute, without looking ahead.
#[derive(Clone, Debug)]
pub struct Baselines {
    pairs: Vec<Option<Known>>,
    calibrated: Vec<Calibrated>,
    /// `follows[a * pairs + b]`: minutes in which `b` was called, right after a minute with `a`.
    follows: Vec<f32>,
    /// Minutes with `a` whose successor is known.
    led: Vec<f32>,
    /// Pairs called in the minute that is open, and in the one before it.
    running: Vec<u32>,
    before: (i64, Vec<u32>),
}

impl Baselines {
    /// For so many pairs (a function at an edge each) and these horizons.
    pub fn new(pairs: usize, horizons: &[Horizon]) -> Self {
        let chained = if pairs <= MOST_CHAINED { pairs } else { 0 };
        let calibrated = |&horizon: &Horizon| Calibrated {
            horizon,
            idle: Table::new(IDLE_BINS, 1e6),
            hour: Table::new(2, 1e6),
            day: Table::new(2, 1e6),
            waiting: VecDeque::new(),
        };
        Baselines {
            pairs: vec![None; pairs],
            calibrated: horizons.iter().map(calibrated).collect(),
            follows: vec![0.0; chained * chained],
            led: vec![0.0; chained],
            running: Vec::new(),
            before: (i64::MIN, Vec::new()),
        }
    }

    /// A pair was called in `minute`. Minutes come in order.
    pub fn observe(&mut self, pair: usize, minute: i64) {
        let known = self.pairs[pair].get_or_insert_with(|| Known {
            first: minute,
            last: minute,
            active: 0.0,
            minutes: MinuteBits::new(minute - 1),
            seasons: Seasons::new(minute),
        });
        if known.minutes.set(minute) {
            known.last = minute;
            known.active += 1.0;
            known.seasons.record(minute);
            self.running.push(pair as u32);
        }
    }

    /// Ends `minute`, which may be without calls. Has to be called for every minute.
    pub fn end_minute(&mut self, minute: i64) {
        let running = std::mem::take(&mut self.running);
        let n = self.led.len();
        if n > 0 && self.before.0 == minute - 1 {
            for &a in &self.before.1 {
                self.led[a as usize] += 1.0;
                let row = &mut self.follows[a as usize * n..][..n];
                running.iter().for_each(|&b| row[b as usize] += 1.0);
            }
        }
        self.before = (minute, running);
    }

    /// After the end of `minute`: `sink(pair, horizon's place, probabilities in the order of [`Baseline::ALL`])` for every
    /// pair that was ever called.
    pub fn tick(&mut self, minute: i64, mut sink: impl FnMut(usize, usize, [f32; 6])) {
        let n = self.led.len();
        let mut chained = vec![0.0f32; self.pairs.len()];
        if n > 0 && self.before.0 == minute && !self.before.1.is_empty() {
            for &a in &self.before.1 {
                let led = self.led[a as usize] + 1.0;
                let row = &self.follows[a as usize * n..][..n];
                chained.iter_mut().zip(row).for_each(|(c, f)| *c += f / led);
            }
            let running = self.before.1.len() as f32;
            chained.iter_mut().for_each(|c| *c /= running);
        }
        for (place, c) in self.calibrated.iter_mut().enumerate() {
            c.settle(minute, &self.pairs);
            let (after, until) = (i64::from(c.horizon.after), i64::from(c.horizon.until));
            let length = (until - after) as f32;
            let mut cells = Vec::with_capacity(self.pairs.len());
            for (pair, known) in self.pairs.iter().enumerate() {
                let Some(k) = known else {
                    cells.push(None);
                    continue;
                };
                let age = (minute - k.first + 1) as f32;
                let popular = any_of(shrunk(k.active, age, 0.005, 120.0), length);
                let back = |by: i64| k.minutes.any(minute - by + after, minute - by + until);
                let looked = [
                    bin(minute - k.last, &IDLE) as u8,
                    u8::from(back(60)),
                    u8::from(1440 < SPAN && back(1440)),
                ];
                let days = ((minute - k.first) / 1440).clamp(0, 28) as u32;
                let slots = k.seasons.days(minute + after, minute + until, 0) & last_days(days);
                // Popularity breaks the ties of what knows two values only.
                let tie = popular * 1e-4;
                sink(
                    pair,
                    place,
                    [
                        c.idle.predict(looked[0] as usize, 0.01),
                        popular,
                        any_of(chained[pair], length),
                        c.hour.predict(looked[1] as usize, 0.01) + tie,
                        c.day.predict(looked[2] as usize, 0.01) + tie,
                        shrunk(slots.count_ones() as f32, days as f32, popular, 0.1),
                    ],
                );
                cells.push(Some(looked));
            }
            c.waiting.push_back((minute, cells));
        }
    }
}

impl Calibrated {
    fn settle(&mut self, known: i64, pairs: &[Option<Known>]) {
        let (after, until) = (i64::from(self.horizon.after), i64::from(self.horizon.until));
        while let Some((minute, cells)) = self.waiting.pop_front_if(|w| w.0 + until <= known) {
            for (cells, pair) in cells.iter().zip(pairs) {
                if let (Some(cells), Some(pair)) = (cells, pair) {
                    let y = pair.minutes.any(minute + after, minute + until);
                    self.idle.learn(cells[0] as usize, y);
                    self.hour.learn(cells[1] as usize, y);
                    self.day.learn(cells[2] as usize, y);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pair 0 is called every hour, pair 1 in the minute after, pair 2 in every third minute.
    fn after(minutes: i64) -> Vec<[f32; 6]> {
        let mut b = Baselines::new(3, &[Horizon::within(1)]);
        let mut said = vec![[0.0; 6]; 3];
        for minute in 0..minutes {
            for (pair, every, at) in [(0, 60, 30), (1, 60, 31), (2, 3, 0)] {
                if minute % every == at {
                    b.observe(pair, minute);
                }
            }
            b.end_minute(minute);
            b.tick(minute, |pair, _, p| said[pair] = p);
        }
        said
    }

    #[test]
    fn each_sees_what_it_looks_at() {
        // The last minute is 30 past the hour: pair 0 has just been called.
        let said = after(40 * 60 + 31);
        let of = |pair: usize, baseline: Baseline| {
            said[pair][Baseline::ALL.iter().position(|&b| b == baseline).unwrap()]
        };
        assert!(of(1, Baseline::HourAgo) > 0.5 && of(0, Baseline::HourAgo) < 0.2, "{said:?}");
        assert!(of(1, Baseline::DayAgo) > 0.5, "{said:?}");
        assert!(of(2, Baseline::Popularity) > 0.3 && of(1, Baseline::Popularity) < 0.03, "{said:?}");
        assert!(of(1, Baseline::Markov) > 0.4 && of(0, Baseline::Markov) < 0.1, "{said:?}");
        assert!(said.iter().flatten().all(|p| (0.0..=1.01).contains(p)), "{said:?}");
    }
}
