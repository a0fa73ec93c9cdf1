//! What an engine knows, as bytes: so that a restart need not learn everything anew.
//!
//! Bytes of another version, of other settings, or that can't be right are refused; the caller then learns from the log.
//! Predictions whose outcome is open are not kept: the next minutes are not learned from.

use std::io::{self, Write};

use borsh::{BorshDeserialize, BorshSerialize};
use thiserror::Error;

use crate::archetypes::KINDS;
use crate::config::EngineConfig;
use crate::engine::Engine;
use crate::experts::{CONTEXT_SIZES, TABLES, table_sizes};
use crate::mixer::{INPUTS, SETS};
use crate::refinement::{CELLS, TRAITS};

/// To be raised whenever what is remembered changes its meaning; a change of its shape shows by itself.
const VERSION: u64 = 6;

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
    let mut shape = vec![VERSION, INPUTS as u64, SETS as u64, TABLES as u64, KINDS as u64];
    shape.extend(CELLS.iter().chain([&TRAITS]).map(|&n| n as u64));
    shape.extend(table_sizes().iter().chain(&CONTEXT_SIZES).map(|&n| n as u64));
    shape
}

fn settings(config: &EngineConfig) -> Box<str> {
    format!("{config:?}").into()
}

/// What is read can't be right unless `yes`.
pub(crate) fn sound(yes: bool) -> io::Result<()> {
    if yes { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

impl Engine {
    /// Writes all that is known (in small pieces: give it a buffered writer).
    ///
    /// # Errors
    /// When `out` can't be written to.
    pub fn save(&self, out: &mut impl Write) -> io::Result<()> {
        (shape(), settings(self.config())).serialize(out)?;
        self.put(out)
    }

    /// An engine that knows what was saved.
    ///
    /// # Errors
    /// When the bytes are of another version, of other settings, or not what was saved.
    pub fn restored(config: EngineConfig, mut bytes: &[u8]) -> Result<Self, StateError> {
        let from = &mut bytes;
        if Vec::<u64>::deserialize(from).map_err(|_| StateError::Damaged)? != shape() {
            return Err(StateError::Version);
        }
        if Box::<str>::deserialize(from).map_err(|_| StateError::Damaged)? != settings(&config) {
            return Err(StateError::Settings);
        }
        let mut engine = Engine::new(config).map_err(|_| StateError::Settings)?;
        engine.take(from).map_err(|_| StateError::Damaged)?;
        if from.is_empty() { Ok(engine) } else { Err(StateError::Damaged) }
    }
}
