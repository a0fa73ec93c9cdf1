//! Settings of the engine, and what is wrong with them.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Settings of an [`Engine`](crate::Engine).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// Horizons in minutes, ascending, 1..=1440 each: each has a model of its own. Other windows are interpolated.
    pub horizons: Vec<u32>,
    /// Minutes between two ticks: how often predictions are made and learned from, 1..=60.
    pub tick_minutes: u32,
    /// Most histories kept: (edge, function) pairs and (edge, function, shard instance) triples together. One takes
    /// about 4 KiB. When all places are taken, the least used of a few is evicted for each newcomer.
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
    /// Whether predictions pass through the adaptive probability map. Off only to show what it does.
    pub calibrate: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            horizons: vec![1, 5, 15],
            tick_minutes: 1,
            max_histories: 50_000,
            max_edges: 64,
            max_keys: 256,
            key_histories: true,
            unseen_pairs: true,
            calibrate: true,
        }
    }
}

/// A setting that makes no sense.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The list of horizons is empty, unsorted, or has one outside 1..=1440 minutes.
    #[error("horizons must be 1 to 8 ascending numbers of minutes between 1 and 1440, not {0:?}")]
    Horizons(Vec<u32>),
    /// The tick is outside 1..=60 minutes.
    #[error("tick_minutes must be between 1 and 60, not {0}")]
    Tick(u32),
    /// A limit is zero.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
}

impl EngineConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// The first setting that is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let ascending = self.horizons.windows(2).all(|w| w[0] < w[1]);
        let in_range = self.horizons.iter().all(|h| (1..=1440).contains(h));
        if !ascending || !in_range || !(1..=8).contains(&self.horizons.len()) {
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
        for horizons in [vec![], vec![5, 1], vec![0], vec![1441]] {
            let c = EngineConfig { horizons: horizons.clone(), ..EngineConfig::default() };
            assert_eq!(c.validate(), Err(ConfigError::Horizons(horizons)));
        }
        let c = EngineConfig { max_keys: 0, ..EngineConfig::default() };
        assert_eq!(c.validate(), Err(ConfigError::Zero("max_keys")));
        let c = EngineConfig { tick_minutes: 0, ..EngineConfig::default() };
        assert_eq!(c.validate(), Err(ConfigError::Tick(0)));
    }
}
