//! What is remembered of one function at one edge.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::archetypes::Kinds;
use crate::gaps::{COLD, Gaps};
use crate::minutes::{MinuteBits, SPAN};
use crate::residues::Residues;
use crate::rhythm::{self, Rhythm};
use crate::seasons::Seasons;

/// Periods (minutes) at which functions are looked for in the past.
pub(crate) const PERIODS: [i64; 11] = [5, 10, 15, 20, 30, 60, 120, 180, 240, 360, 1440];

/// Calls of one minute beyond which there are only many.
const MOST_CALLS: u32 = 100_000;

/// The bounded history of one function at one edge: 1 to 3 KiB, by the days it has to remember.
#[derive(Clone, Debug, BorshDeserialize, BorshSerialize)]
pub(crate) struct History {
    /// Minute of the first known invocation.
    pub(crate) first: i64,
    /// Minute of the latest.
    pub(crate) last: i64,
    /// Minute of the latest invocation after a pause of [`COLD`] minutes or more.
    pub(crate) last_onset: i64,
    /// Number of minutes with an invocation so far.
    pub(crate) active: u32,
    /// Invocations per such minute, exponentially averaged.
    pub(crate) intensity: f32,
    /// For each of [`PERIODS`]: how often an onset had a call exactly one period before, exponentially averaged.
    pub(crate) phase_score: [f32; PERIODS.len()],
    /// Its own periods, as last looked for.
    pub(crate) rhythm: [Rhythm; 2],
    /// Number of onsets so far, and at the last look for a rhythm.
    pub(crate) onsets: u32,
    searched: u32,
    /// Calls in the latest active minute.
    pub(crate) last_calls: u32,
    /// Calls since the latest onset.
    pub(crate) burst_calls: u32,
    /// Of which archetypes it may be.
    pub(crate) kinds: Kinds,
    pub(crate) minutes: MinuteBits,
    pub(crate) gaps: Gaps,
    /// Onsets by the minute of the hour.
    pub(crate) residues: Residues,
    pub(crate) seasons: Seasons,
}

impl History {
    /// The empty history of a function that is known since `minute`, from another edge or because its first call
    /// comes now; `offset` is local time minus UTC in minutes.
    pub(crate) fn new(minute: i64, offset: i64) -> Self {
        History {
            first: minute,
            last: minute - SPAN,
            last_onset: minute - SPAN,
            active: 0,
            intensity: 1.0,
            phase_score: [0.0; PERIODS.len()],
            rhythm: [Rhythm::default(); 2],
            onsets: 0,
            searched: 0,
            last_calls: 0,
            burst_calls: 0,
            kinds: Kinds::default(),
            minutes: MinuteBits::new(minute - 1),
            gaps: Gaps::new(),
            residues: Residues::new(),
            seasons: Seasons::new(minute + offset),
        }
    }

    /// Adds `calls` invocations in `minute`; those of the latest minute may come one by one. A minute before the latest (a log that arrives late) fills in the
    /// picture of the past, but makes no gap. Returns whether this was an onset.
    pub(crate) fn record(&mut self, minute: i64, offset: i64, calls: u32) -> bool {
        if !self.minutes.set(minute) {
            if minute == self.last {
                let more = calls.clamp(1, MOST_CALLS).min(MOST_CALLS - self.last_calls.min(MOST_CALLS));
                self.last_calls += more;
                self.intensity += more as f32 * self.weight();
            }
            return false;
        }
        self.seasons.record(minute + offset);
        self.active = self.active.saturating_add(1);
        let calls = calls.clamp(1, MOST_CALLS);
        self.intensity += (calls as f32 - self.intensity) * self.weight();
        if self.active == 1 {
            (self.first, self.last, self.last_onset) = (minute, minute, minute);
            (self.onsets, self.searched, self.last_calls, self.burst_calls) = (1, 1, calls, calls);
            self.residues.record(minute);
            return true;
        }
        if minute < self.last {
            self.first = self.first.min(minute);
            return false;
        }
        let gap = minute - self.last;
        self.gaps.record(gap);
        self.last_calls = calls;
        self.last = minute;
        if gap < COLD {
            self.burst_calls = self.burst_calls.saturating_add(calls);
            return false;
        }
        self.burst_calls = calls;
        for (score, period) in self.phase_score.iter_mut().zip(PERIODS) {
            if minute - period >= self.first {
                let hit = self.minutes.any(minute - period - 1, minute - period);
                *score += 0.15 * (f32::from(u8::from(hit)) - *score);
            }
        }
        self.gaps.onset.push(minute - self.last_onset);
        self.residues.record(minute);
        self.last_onset = minute;
        self.onsets += 1;
        // The search is the dearest thing here: repeat it when there is a quarter more to look at, at the latest after 40 onsets.
        if self.onsets - self.searched >= (self.onsets / 4).clamp(2, 40) {
            self.searched = self.onsets;
            self.rhythm = rhythm::find(&self.minutes, minute, minute - self.first + 1);
        }
        true
    }

    /// What the latest minute counts in the mean of calls.
    fn weight(&self) -> f32 {
        (1.0 / self.active as f32).max(0.05)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_minutes_fill_in_but_make_no_gap() {
        let mut h = History::new(100, 0);
        h.record(100, 0, 1);
        h.record(130, 0, 1);
        assert!(!h.record(115, 0, 1));
        assert_eq!((h.last, h.active, h.gaps.long.len()), (130, 3, 1));
        assert!(h.minutes.any(114, 115));
    }

    #[test]
    fn duplicates_of_a_minute_count_once() {
        let mut h = History::new(100, 0);
        assert!(h.record(100, 0, 1));
        assert!(!h.record(100, 0, 5));
        assert_eq!(h.active, 1);
    }

    #[test]
    fn calls_may_come_one_by_one() {
        let (mut at_once, mut one_by_one) = (History::new(100, 0), History::new(100, 0));
        for (minute, calls) in [(100, 3), (101, 1), (130, 7)] {
            at_once.record(minute, 0, calls);
            for _ in 0..calls {
                one_by_one.record(minute, 0, 1);
            }
        }
        assert_eq!((one_by_one.last_calls, one_by_one.active), (7, 3));
        assert!((one_by_one.intensity - at_once.intensity).abs() < 1e-4, "{}", one_by_one.intensity);
        // Late ones of another minute are none of the latest.
        one_by_one.record(101, 0, 5);
        assert_eq!(one_by_one.last_calls, 7);
        one_by_one.record(130, 0, u32::MAX);
        one_by_one.record(130, 0, u32::MAX);
        assert_eq!(one_by_one.last_calls, MOST_CALLS);
    }

    #[test]
    fn onsets_are_told_from_bursts() {
        let mut h = History::new(0, 0);
        h.record(0, 0, 1);
        assert!(!h.record(1, 0, 1));
        assert!(h.record(60, 0, 1));
        assert_eq!(h.gaps.onset.recent(0), 60);
        assert!(h.phase_score[5] > 0.0, "a call one hour before");
    }
}
