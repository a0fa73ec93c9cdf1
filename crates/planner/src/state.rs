//! What an engine knows, as bytes: so that a restart need not learn everything anew.
//!
//! Bytes of another version, of other settings, or that can't be right are refused; the caller then learns from the log.
//! Predictions whose outcome is open are not kept: the next minutes are not learned from.

use thiserror::Error;

use crate::archetypes::KINDS;
use crate::config::EngineConfig;
use crate::engine::Engine;
use crate::experts::{CONTEXT_SIZES, TABLES, table_sizes};
use crate::kept::{Bytes, Kept};
use crate::mixer::{INPUTS, SETS};

/// To be raised whenever what is remembered changes its meaning; a change of its shape shows by itself.
const VERSION: u32 = 1;

/// Why state can't be used.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum StateError {
    /// It was written by another version of the engine.
    #[error("it was written by another version")]
    Version,
    /// It was written under other settings.
    #[error("it was written under other settings")]
    Settings,
    /// It is not what was written.
    #[error("it is damaged")]
    Damaged,
}

/// The shape of what is kept.
fn shape() -> Vec<u64> {
    let mut shape = vec![u64::from(VERSION), INPUTS as u64, SETS as u64, TABLES as u64, KINDS as u64];
    shape.extend(table_sizes().iter().chain(&CONTEXT_SIZES).map(|&n| n as u64));
    shape
}

fn settings(config: &EngineConfig) -> Box<str> {
    format!("{config:?}").into()
}

impl Engine {
    /// Hands over all that is known, piece by piece, in the order in which [`Engine::restored`] wants them one after another.
    pub fn save(&self, mut sink: impl FnMut(&[u8])) {
        let mut out = Vec::new();
        shape().put(&mut out);
        settings(self.config()).put(&mut out);
        self.put_head(&mut out);
        sink(&out);
        for pair in &self.registry.pairs {
            out.clear();
            pair.put(&mut out);
            sink(&out);
        }
    }

    /// An engine that knows what was saved.
    ///
    /// # Errors
    /// When the bytes are of another version, of other settings, or not what was saved.
    pub fn restored(config: EngineConfig, bytes: &[u8]) -> Result<Self, StateError> {
        let mut from = Bytes(bytes);
        if Vec::<u64>::take(&mut from).ok_or(StateError::Damaged)? != shape() {
            return Err(StateError::Version);
        }
        if Box::<str>::take(&mut from).ok_or(StateError::Damaged)? != settings(&config) {
            return Err(StateError::Settings);
        }
        let mut engine = Engine::new(config).map_err(|_| StateError::Settings)?;
        let pairs = engine.take_head(&mut from).ok_or(StateError::Damaged)?;
        engine.registry.take_pairs(&mut from, pairs).ok_or(StateError::Damaged)?;
        if from.0.is_empty() { Ok(engine) } else { Err(StateError::Damaged) }
    }
}
