//! Settings of the engine, and what is wrong with them.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A stretch of the future: minutes `(after, until]` from the end of the minute in which it is predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Horizon {
    /// Minutes from now to where it begins.
    pub after: u32,
    /// Minutes from now to where it ends.
    pub until: u32,
}

impl Horizon {
    /// The next `minutes` minutes.
    pub const fn within(minutes: u32) -> Self {
        Horizon { after: 0, until: minutes }
    }

    /// Minutes from its beginning to its end.
    pub const fn length(self) -> u32 {
        self.until - self.after
    }
}

/// A part of the engine that a backtest may leave out, to show what it is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Pauses that lasted as long as this one: how many ended within the horizon.
    Hazard,
    /// Calls one fixed period before, and multiples of it; a function's own periods.
    Phases,
    /// The minutes of the hour at which a function starts after a pause.
    Clocks,
    /// Which stretches of the clock (half-hours, hours, …) it was called in. A part of the refinement.
    Stretches,
    /// Time of day and day of week.
    Seasons,
    /// Which function follows which.
    Transitions,
    /// When and how the function runs at other edges.
    Siblings,
    /// Functions of a kind.
    Archetypes,
    /// What pairs of traits say beyond the mixture.
    Refinement,
    /// What was said a few ticks before, and what longer horizons say. A part of the refinement.
    Recall,
    /// The adaptive probability map.
    Calibration,
    /// The drift guard.
    Guard,
    /// Which function reads the key that another has just read.
    Bindings,
}

/// Settings of an [`Engine`](crate::Engine).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// What is predicted; each has a model of its own. Other windows are derived from the nearest two.
    pub horizons: Vec<Horizon>,
    /// Minutes between two ticks: how often predictions are made and learned from, 1..=60.
    pub tick_minutes: u32,
    /// Most histories kept: (edge, function) pairs and (edge, function, shard instance) triples together. One takes
    /// 1 to 4 KiB, predictions whose outcome is open included. When all places are taken, the least used of a few is evicted for each newcomer.
    pub max_histories: usize,
    /// Most edges; executions at further ones are ignored.
    pub max_edges: usize,
    /// Most shard instances remembered per edge and function.
    pub max_keys: usize,
    /// Keeps a history for shard instances that only some invocations of a function read, so that each such key has a
    /// probability of its own.
    pub key_histories: bool,
    /// Also predicts functions at edges where they have not run yet, if they ran at another edge.
    pub unseen_pairs: bool,
    /// What to leave out, for backtests.
    pub without: Vec<Part>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            horizons: [1, 5, 15].map(Horizon::within).to_vec(),
            tick_minutes: 1,
            max_histories: 250_000,
            max_edges: 64,
            max_keys: 256,
            key_histories: true,
            unseen_pairs: true,
            without: Vec::new(),
        }
    }
}

/// A setting that makes no sense.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// No horizon, more than eight, or one that is empty or reaches further than a day.
    #[error(
        "there must be 1 to 8 horizons, each at least a minute long and ending within 1440 minutes, not {0:?}"
    )]
    Horizons(Vec<Horizon>),
    /// The tick is outside 1..=60 minutes.
    #[error("tick_minutes must be between 1 and 60, not {0}")]
    Tick(u32),
    /// A limit is zero.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
}

/// Predictions that a planner learns from at a tick: those of 5,000 functions at sixteen edges, about a second on one core. Of more, every second or
/// third one is.
pub const PREDICTIONS_PER_TICK: usize = 400_000;

impl EngineConfig {
    /// What planning windows of so many minutes needs: the log lags behind the present, so the window to plan begins some way after the last
    /// minute known.
    pub fn of_windows(window: u32, tick_minutes: u32) -> Self {
        let mut starts = vec![0, window / 4, window / 2, window, window * 2];
        starts.dedup();
        let horizons = starts.into_iter().map(|after| Horizon { after, until: after + window }).collect();
        EngineConfig { horizons, tick_minutes, ..EngineConfig::default() }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// The first setting that is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let sound = self.horizons.iter().all(|h| h.after < h.until && h.until <= 1440);
        if !sound || !(1..=8).contains(&self.horizons.len()) {
            return Err(ConfigError::Horizons(self.horizons.clone()));
        }
        if !(1..=60).contains(&self.tick_minutes) {
            return Err(ConfigError::Tick(self.tick_minutes));
        }
        let limits = [
            ("max_histories", self.max_histories),
            ("max_edges", self.max_edges),
            ("max_keys", self.max_keys),
        ];
        match limits.into_iter().find(|l| l.1 == 0) {
            Some((name, _)) => Err(ConfigError::Zero(name)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_nonsense_is_named() {
        assert_eq!(EngineConfig::default().validate(), Ok(()));
        let empty = Horizon { after: 5, until: 5 };
        for horizons in [vec![], vec![empty], vec![Horizon::within(0)], vec![Horizon::within(1441)]] {
            let c = EngineConfig { horizons: horizons.clone(), ..EngineConfig::default() };
            assert_eq!(c.validate(), Err(ConfigError::Horizons(horizons)));
        }
        let c = EngineConfig { max_keys: 0, ..EngineConfig::default() };
        assert_eq!(c.validate(), Err(ConfigError::Zero("max_keys")));
        let c = EngineConfig { tick_minutes: 0, ..EngineConfig::default() };
        assert_eq!(c.validate(), Err(ConfigError::Tick(0)));
    }
}
