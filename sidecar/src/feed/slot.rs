use foreshard_protocol::Lsn;
use tokio_postgres::Client;

use crate::config::Config;
use crate::fetch::{OriginError, connect};

/// What to do with the edge's slot.
pub(crate) struct Slot {
    pub(crate) name: String,
    /// It has to be created.
    pub(crate) create: bool,
    /// Where it resumes.
    pub(crate) confirmed: Lsn,
    /// It resumes at or before what this process acknowledged: nothing is missing.
    pub(crate) continues: bool,
}

const MIGRATE: &str = "run CREATE EXTENSION foreshard in this database";

/// Checks that the origin can feed this edge.
pub(crate) async fn check(config: &Config) -> Result<(), OriginError> {
    let client = connect(&config.origin, config.connect_timeout).await?;
    slot_name(&client, &config.edge).await.map(drop)
}

/// Finds the slot, and drops one whose past is lost so that it is created again.
pub(crate) async fn prepare(config: &Config, acknowledged: Lsn) -> Result<Slot, OriginError> {
    let client = connect(&config.origin, config.connect_timeout).await?;
    let name = slot_name(&client, &config.edge).await?;
    let query = "SELECT coalesce(confirmed_flush_lsn, '0/0')::text, coalesce(wal_status, 'reserved') = 'lost', plugin, database = current_database() \
                 FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";
    let row = client.query_opt(query, &[&name]).await.map_err(|error| OriginError::of(&error))?;
    let Some(row) = row else {
        return Ok(Slot { name, create: true, confirmed: Lsn::ZERO, continues: false });
    };
    let confirmed: Lsn = row.get::<_, String>(0).parse().unwrap_or(Lsn::ZERO);
    let (lost, plugin, here): (bool, Option<String>, Option<bool>) = (row.get(1), row.get(2), row.get(3));
    if plugin.as_deref() != Some("foreshard") || here != Some(true) {
        return Err(permanent(format!(
            "replication slot {name} belongs to something else; drop it with SELECT pg_drop_replication_slot('{name}')"
        )));
    }
    if lost {
        tracing::warn!(
            slot = name,
            "the slot lost its past (max_slot_wal_keep_size); every copy is dropped and the slot created anew"
        );
        let drop = client.execute("SELECT pg_catalog.pg_drop_replication_slot($1)", &[&name]).await;
        drop.map_err(|error| OriginError::of(&error))?;
        return Ok(Slot { name, create: true, confirmed: Lsn::ZERO, continues: false });
    }
    let continues = acknowledged > Lsn::ZERO && confirmed <= acknowledged;
    Ok(Slot { name, create: false, confirmed, continues })
}

async fn slot_name(client: &Client, edge: &str) -> Result<String, OriginError> {
    let settings = "SELECT current_setting('wal_level'), CASE WHEN pg_catalog.pg_has_role('pg_read_all_settings', 'USAGE') THEN current_setting('output_plugin_libraries', true) END, pg_catalog.pg_is_in_recovery(), \
                    EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'foreshard')";
    let row = client.query_one(settings, &[]).await.map_err(|error| OriginError::of(&error))?;
    let (wal_level, allowed, standby, installed): (String, Option<String>, bool, bool) =
        (row.get(0), row.get(1), row.get(2), row.get(3));
    if !installed {
        return Err(permanent(format!("the origin has no foreshard: {MIGRATE}")));
    }
    if standby {
        return Err(OriginError {
            message: "the origin is a standby in recovery: connect to the primary".into(),
            permanent: false,
        });
    }
    if wal_level != "logical" {
        return Err(permanent(format!(
            "wal_level is {wal_level}: run ALTER SYSTEM SET wal_level = logical and restart PostgreSQL"
        )));
    }
    let listed = |list: &str| list.split(',').any(|item| item.trim().trim_matches('"') == "foreshard");
    if allowed.as_deref().is_some_and(|list| !listed(list)) {
        let list = allowed.unwrap_or_default();
        let rest = if list.trim().is_empty() { String::new() } else { format!(", {list}") };
        return Err(permanent(format!(
            "the output plugin is not allowed: run ALTER SYSTEM SET output_plugin_libraries = foreshard{rest}; SELECT pg_reload_conf();"
        )));
    }
    let row = client.query_one("SELECT foreshard.edge_slot($1)", &[&edge]).await;
    row.map(|row| row.get(0)).map_err(|error| OriginError::of(&error))
}

fn permanent(message: String) -> OriginError {
    OriginError { message, permanent: true }
}
