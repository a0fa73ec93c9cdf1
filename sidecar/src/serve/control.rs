//! One connection to the origin for everything that is not rows: freshness, definitions, the execution log.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use foreshard_protocol::{CatalogSnapshot, Lsn, Snapshot, decode};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_postgres::Client;

use super::Shared;
use super::log::Log;
use crate::config::Config;
use crate::fetch::{OriginError, connect, one_row, reason};

/// The longest pause between two attempts to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A connection that lived this long worked: the next attempt follows at once.
const WORKED: Duration = Duration::from_secs(5);

/// Before definitions are read again that did not count.
const LOAD_PAUSE: Duration = Duration::from_millis(5);

/// Keeps the connection until the sidecar ends.
pub(crate) async fn run(config: Arc<Config>, shared: Arc<Shared>, mut log: Log) {
    let (mut load, mut attempt) = (true, 0_u32);
    let mut told: Option<String> = None;
    loop {
        let began = Instant::now();
        let error = match connect(&config.origin, config.connect_timeout).await {
            Ok(client) => converse(&config, &shared, &mut log, &client, &mut load).await,
            Err(error) => {
                if error.takes_no_connections() {
                    shared.origin_closes.notify_waiters();
                }
                error.into()
            }
        };
        let words = format!("{error:#}");
        shared.origin_failed(reason(&words));
        if began.elapsed() > WORKED {
            (attempt, told) = (0, None);
        } else {
            attempt += 1;
        }
        // Copies go stale without this connection, but it is tried for every two seconds: the same reason is told once.
        if told.as_ref() == Some(&words) {
            tracing::debug!(error = words, attempt, "the control connection is interrupted");
        } else {
            tracing::warn!(error = words, attempt, "the control connection is interrupted");
            told = Some(words.clone());
        }
        shared.set_control_trouble(Some(words));
        let most = LONGEST_PAUSE.min(Duration::from_millis(100) * 2_u32.pow(attempt.min(6)));
        let pause = sleep(most.mul_f64(rand::random_range(0.25..=1.0)));
        // What functions report meanwhile is taken in, so that the bounded buffer decides what is dropped.
        tokio::select! {
            () = pause => {}
            () = log.collect_forever() => {}
        }
    }
}

async fn converse(
    config: &Config,
    shared: &Shared,
    log: &mut Log,
    client: &Client,
    load: &mut bool,
) -> anyhow::Error {
    let mut heartbeat = interval(config.heartbeat);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Writing the log must not wait for a synchronous standby: heartbeats would wait behind it, and copies go stale. Nor for the disk, which
    // it would keep from the application's commits: an origin that crashes may forget the executions of its last moments.
    let lazily = timeout(config.connect_timeout, client.batch_execute("SET synchronous_commit = off"));
    match lazily.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return OriginError::of(&error).into(),
        Err(_) => return anyhow::anyhow!("no answer from the origin"),
    }
    let mut ship = interval(config.log_interval);
    ship.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut previous = Lsn::ZERO;
    // Before anything is written there: what this sidecar writes would make the log of an origin that was restored to an older state
    // look as long as the one that was streamed.
    if let Err(error) = beat(config, shared, client, &mut previous).await {
        return error;
    }
    Shared::count(&shared.origin_met, 1);
    shared.set_control_trouble(None);
    // Definitions may have to be read again at once, and again, until all that had committed is visible.
    let mut pause = LOAD_PAUSE;
    loop {
        let step = tokio::select! {
            _ = heartbeat.tick() => beat(config, shared, client, &mut previous).await,
            () = shared.ask_for_record.notified() => nudge(config, client).await,
            () = shared.load_catalog.notified() => { *load = true; Ok(()) }
            () = log.collect() => Ok(()),
            _ = ship.tick() => log.ship(&config.edge, client, config.fetch_timeout, shared).await,
        };
        if let Err(error) = step {
            return error;
        }
        // Definitions are read after the stream has started: what is committed later arrives on it.
        let epoch = shared.look(|core, _| core.epoch());
        if *load && epoch > 0 {
            if shared.look(|core, _| core.definitions().ready()) {
                pause = LOAD_PAUSE;
            } else {
                sleep(pause).await;
                pause = (pause * 2).min(config.heartbeat);
            }
            match catalog(config, client).await {
                Ok(catalog) => {
                    *load = false;
                    let (functions, shards) = (catalog.mappings.len(), catalog.shards.len());
                    tracing::info!(
                        functions,
                        shards,
                        schedules = catalog.schedules.len(),
                        "definitions loaded"
                    );
                    shared.with(|core, now| core.catalog_loaded(now, epoch, catalog));
                }
                Err(error) => return error,
            }
        }
    }
}

/// Asks the origin what it has flushed and what readers see; makes the stream move if it stands still behind that.
async fn beat(config: &Config, shared: &Shared, client: &Client, previous: &mut Lsn) -> anyhow::Result<()> {
    let asked = (shared.mono(), shared.look(|core, _| core.relied_on()));
    let query = "SELECT pg_catalog.pg_current_snapshot()::text, pg_catalog.pg_current_wal_flush_lsn()::text, \
                 pg_catalog.current_setting('synchronous_standby_names') <> ''";
    let row = one_row(client, config.connect_timeout, query, &[]).await?;
    let snapshot: Snapshot = row.get::<_, String>(0).parse()?;
    let flushed: Lsn = row.get::<_, String>(1).parse()?;
    shared.commits_wait.store(row.get(2), Ordering::Relaxed);
    shared.with(|core, now| core.origin_state(now, asked, flushed, &snapshot));
    let applied = shared.look(|core, _| core.applied());
    if applied < flushed && applied == *previous {
        // The flush position can lie inside a record whose rest nobody flushes; a record behind it ends that.
        nudge(config, client).await?;
    }
    *previous = applied;
    Ok(())
}

/// Makes the origin write a record that the stream will pass.
async fn nudge(config: &Config, client: &Client) -> anyhow::Result<()> {
    one_row(client, config.connect_timeout, "SELECT foreshard.nudge($1)::text", &[&config.edge]).await?;
    Ok(())
}

async fn catalog(config: &Config, client: &Client) -> anyhow::Result<CatalogSnapshot> {
    let row =
        one_row(client, config.fetch_timeout, "SELECT foreshard.edge_catalog($1)", &[&config.edge]).await?;
    Ok(decode(row.try_get(0)?)?)
}
