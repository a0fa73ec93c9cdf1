use std::time::Duration;

use foreshard_protocol::{FetchFailure, FetchPart, decode};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Origin, OriginError, slow};
use crate::config::Config;

/// Asks the origin about names that the stream does not tell of: an edge hears nothing of shards that no function reads.
///
/// Only requests that will be refused come here. They have a connection of their own, and few at a time, so that they take nothing from
/// those that will be answered.
pub(crate) struct Names {
    origin: Origin,
    edge: String,
    within: Duration,
    places: Semaphore,
}

/// Questions under way at once; further ones wait.
const PLACES: usize = 4;

impl Names {
    pub(crate) fn new(config: &Config) -> Self {
        let origin = Origin::new(config, "names");
        let (edge, within) = (config.edge.clone(), config.connect_timeout);
        Names { origin, edge, within, places: Semaphore::new(PLACES) }
    }

    /// Whether there is a shard of that name, as far as the origin says so in time.
    pub(crate) async fn knows(&self, shard: &str) -> bool {
        let asked = async {
            let _place = self.places.acquire().await.map_err(|_| slow())?;
            self.ask(shard).await
        };
        match timeout(self.within, asked).await.unwrap_or_else(|_| Err(slow())) {
            Ok(known) => known,
            Err(error) => {
                tracing::debug!(%error, "the origin does not say whether there is such a shard");
                false
            }
        }
    }

    async fn ask(&self, shard: &str) -> Result<bool, OriginError> {
        let open = self.origin.get().await?;
        let instance = foreshard_protocol::InstanceId::unkeyed(shard.to_owned()).to_string();
        let rows = open.client.query(&open.fetch, &[&self.edge, &[instance.as_str()].as_slice()]).await;
        let rows = rows.map_err(|error| OriginError::of(&error))?;
        let parts = rows.iter().filter_map(|row| decode::<FetchPart>(row.try_get(0).ok()?).ok());
        let unknown = |part| matches!(part, FetchPart::Failed { failure: FetchFailure::UnknownShard, .. });
        Ok(!parts.into_iter().any(unknown))
    }
}
