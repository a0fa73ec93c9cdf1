//! Automatic advice, beside planning: whether shards should change, now and then, within the limits that the database sets.

use std::time::Instant;

use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::settings::Settings;
use crate::advise;

/// The look that is under way, and when the last one began.
#[derive(Default)]
pub(super) struct Advising {
    began: Option<Instant>,
    under_way: Option<JoinHandle<()>>,
}

impl Advising {
    /// Looks again if it is time to. It takes a connection of its own and as long as it takes: schedules don't wait for it.
    pub(super) fn look(&mut self, settings: &Settings) {
        let due =
            settings.advise_every.is_some_and(|every| self.began.is_none_or(|at| at.elapsed() >= every));
        if !due || self.under_way.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        self.began = Some(Instant::now());
        let (origin, edge_bytes) = (settings.origin.clone(), settings.edge_bytes);
        self.under_way = Some(tokio::spawn(async move {
            match advise::automatic(&origin, edge_bytes).await {
                Ok(said) => said.iter().for_each(|what| info!("automatic advice: {what}")),
                // Nothing was changed, and planning goes on.
                Err(error) => warn!("no automatic advice: {error:#}"),
            }
        }));
    }
}

impl Drop for Advising {
    /// What is being applied is one transaction: cut off, it never was.
    fn drop(&mut self) {
        if let Some(task) = &self.under_way {
            task.abort();
        }
    }
}
