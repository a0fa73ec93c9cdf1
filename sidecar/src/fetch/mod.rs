//! Brings shard instances from the origin: each fetch is one statement, so one snapshot, over pipelined connections.

mod connection;
mod names;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, bail};
use foreshard_edge::{Fetched, FetchedInstance, FlightOrder, Layout};
use foreshard_protocol::{FetchFailure, FetchHeader, FetchPart, Horizon, decode};
use futures_util::TryStreamExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use connection::Open;
pub(crate) use connection::{Origin, OriginError, connect, one_row, reason, slow};
pub(crate) use names::Names;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::config::Config;
use crate::serve::Shared;

/// Carries out the fetches that the core orders, until the sidecar ends.
///
/// Demand and prefetch have connections of their own, so that a request never queues behind a prefetch. The core
/// bounds how many orders are under way.
pub(crate) async fn run(
    config: Arc<Config>,
    shared: Arc<Shared>,
    mut orders: mpsc::UnboundedReceiver<FlightOrder>,
) {
    let pool = |purpose: &str| -> Vec<Arc<Origin>> {
        (0..config.fetch_connections).map(|_| Arc::new(Origin::new(&config, purpose))).collect()
    };
    let (demand, ahead) = (pool("demand"), pool("prefetch"));
    let mut turn = 0_usize;
    while let Some(order) = orders.recv().await {
        turn = turn.wrapping_add(1);
        let connections = if order.ahead_of_demand { &ahead } else { &demand };
        let origin = connections[turn % connections.len()].clone();
        let (config, shared) = (config.clone(), shared.clone());
        tokio::spawn(async move {
            if order.delay > 0 {
                sleep(std::time::Duration::from_micros(order.delay)).await;
            }
            let met = shared.origin_met.load(Ordering::Relaxed);
            let result = in_time(&origin, &config, met, &order).await;
            if let Err(error) = &result {
                tracing::warn!(
                    error = format!("{error:#}"),
                    instances = order.instances.len(),
                    "a fetch failed"
                );
            }
            let result = result.map_err(|error| format!("{error:#}"));
            shared.with(|core, now| core.fetch_done(now, order.id, result));
        });
    }
}

async fn in_time(origin: &Origin, config: &Config, met: u64, order: &FlightOrder) -> anyhow::Result<Fetched> {
    let within = config.fetch_timeout;
    let deadline = Instant::now() + within;
    let late = || anyhow::anyhow!("no answer from the origin within {within:?}");
    let connected = async {
        origin.heard(met).await;
        origin.get().await
    };
    let connection = timeout_at(deadline, connected).await.map_err(|_| late())??;
    match timeout_at(deadline, fetch(&connection, &config.edge, order)).await {
        Ok(result) => result,
        Err(_) => {
            origin.forget(&connection).await;
            Err(late())
        }
    }
}

async fn fetch(connection: &Open, edge: &str, order: &FlightOrder) -> anyhow::Result<Fetched> {
    let instances: Vec<&str> = order.instances.iter().map(|instance| &**instance).collect();
    let parameters: [&(dyn ToSql + Sync); 2] = [&edge, &instances];
    let ask = async |parameters: [&(dyn ToSql + Sync); 2], mut answer: Assembly| {
        let rows = connection.client.query_raw(&connection.fetch, parameters).await;
        let mut rows = pin!(rows.map_err(|error| OriginError::of(&error))?);
        while let Some(row) = rows.try_next().await.map_err(|error| OriginError::of(&error))? {
            answer.take(&row)?;
        }
        anyhow::Ok(answer)
    };
    if !order.prove {
        return ask(parameters, Assembly::new(instances.len())).await?.finish();
    }
    // One after the other on one connection, sent together: the rows are read when the horizon is known.
    let nothing: &[&str] = &[];
    let (horizon, rows) = tokio::try_join!(
        ask([&edge, &nothing], Assembly::new(0)),
        ask(parameters, Assembly::new(instances.len()))
    )?;
    let horizon =
        horizon.horizon.context("the origin tells no horizon: its library is older than this sidecar");
    Ok(Fetched { horizon: Some(horizon?), ..rows.finish()? })
}

/// Puts the messages of one fetch together.
struct Assembly {
    header: Option<FetchHeader>,
    horizon: Option<Horizon>,
    instances: Vec<Option<Result<FetchedInstance, (FetchFailure, String)>>>,
}

impl Assembly {
    fn new(count: usize) -> Self {
        Assembly { header: None, horizon: None, instances: (0..count).map(|_| None).collect() }
    }

    fn take(&mut self, row: &Row) -> anyhow::Result<()> {
        let bytes: &[u8] = row.try_get(0).context("foreshard.fetch returned something else than bytea")?;
        match decode::<FetchPart>(bytes)? {
            FetchPart::Header(header) => self.header = Some(header),
            FetchPart::Instance { index, canonical, generation, columns, identity, order } => {
                let layout = Layout::new(generation, columns, identity, order);
                *self.slot(index)? = Some(Ok(FetchedInstance { canonical, layout, rows: Vec::new() }));
            }
            FetchPart::Rows { index, mut rows } => match self.slot(index)? {
                Some(Ok(instance)) => instance.rows.append(&mut rows),
                _ => bail!("rows before their instance"),
            },
            FetchPart::Horizon(horizon) => self.horizon = Some(horizon),
            FetchPart::Failed { index, failure, message } => {
                *self.slot(index)? = Some(Err((failure, message)))
            }
        }
        Ok(())
    }

    fn slot(
        &mut self,
        index: u32,
    ) -> anyhow::Result<&mut Option<Result<FetchedInstance, (FetchFailure, String)>>> {
        self.instances.get_mut(index as usize).context("an instance that was not asked for")
    }

    fn finish(self) -> anyhow::Result<Fetched> {
        let header = self.header.context("no header in the answer to a fetch")?;
        let instances = self.instances.into_iter().collect::<Option<Vec<_>>>();
        Ok(Fetched {
            header,
            horizon: None,
            instances: instances.context("an instance is missing in the answer to a fetch")?,
        })
    }
}
