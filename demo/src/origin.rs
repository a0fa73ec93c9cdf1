//! The origin: PostgreSQL, the tables, and what a DBA defines.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, NaiveDate, Utc};
use foreshard_tests::{Cluster, ClusterOptions, Server};
use tokio_postgres::Client;

use crate::data::Data;
use crate::load;

const TABLES: &str = include_str!("../sql/1_tables.sql");
const SHARDS: &str = include_str!("../sql/2_shards.sql");
const FUNCTIONS: &str = include_str!("../sql/3_functions.sql");

/// A cluster with the extension created in it.
pub(crate) async fn start(pg_config: &Path) -> Result<Cluster> {
    let options = ClusterOptions::on(Server::prepared(pg_config)?)
        .setting("shared_buffers", "256MB")
        .setting("max_wal_size", "4GB")
        .setting("max_slot_wal_keep_size", "8GB");
    let cluster = options.start().await?;
    cluster
        .connect()
        .await?
        .batch_execute("CREATE EXTENSION foreshard")
        .await
        .context("CREATE EXTENSION foreshard")?;
    Ok(cluster)
}

/// Fills the tables as of `now`; tells how much there is.
pub(crate) async fn fill(db: &Client, data: &Data, today: NaiveDate, now: DateTime<Utc>) -> Result<String> {
    db.batch_execute(TABLES).await.context("1_tables.sql")?;
    let loaded = load::tables(db, data, today, now).await?;
    let total: u64 = loaded.iter().map(|(_, rows)| rows).sum();
    let each: Vec<String> = loaded.iter().map(|(table, rows)| format!("{table} {rows}")).collect();
    Ok(format!("{total} rows ({})", each.join(", ")))
}

/// Defines shards and functions; tells how many there are.
pub(crate) async fn define(db: &Client) -> Result<String> {
    db.batch_execute(SHARDS).await.context("2_shards.sql")?;
    db.batch_execute(FUNCTIONS).await.context("3_functions.sql")?;
    let counted = "SELECT (SELECT count(*) FROM foreshard.shards), count(DISTINCT function_id) FROM foreshard.function_shards";
    let row = db.query_one(counted, &[]).await?;
    let (shards, functions): (i64, i64) = (row.get(0), row.get(1));
    ensure!(functions >= 200, "only {functions} functions are mapped");
    Ok(format!("{shards} shards defined, {functions} functions mapped to them"))
}

/// Shows what the extension says of the origin's set-up; a failed check ends the demo.
pub(crate) async fn health(db: &Client) -> Result<()> {
    let mut failed = Vec::new();
    for row in db
        .query("SELECT \"check\", status, detail, fix FROM foreshard.health() WHERE status <> 'ok'", &[])
        .await?
    {
        let text = |column: usize| row.get::<_, Option<&str>>(column).unwrap_or_default();
        println!("          {}: {}: {} {}", text(1), text(0), text(2), text(3));
        if text(1) == "fail" {
            failed.push(text(0).to_owned());
        }
    }
    ensure!(failed.is_empty(), "foreshard.health() reports {failed:?}");
    Ok(())
}
