use foreshard_protocol::Lsn;
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::config::Config;
use crate::fetch::{OriginError, connect, one_row, slow};

/// The edge's slot as it was found.
pub(crate) struct Slot {
    pub(crate) name: String,
    /// It has to be created.
    pub(crate) create: bool,
    /// Its past is lost and it was dropped for that: why, as a label and in words.
    pub(crate) lost: Option<(&'static str, &'static str)>,
}

const MIGRATE: &str = "run CREATE EXTENSION foreshard in this database";

/// Checks that the origin can feed this edge.
pub(crate) async fn check(config: &Config) -> Result<(), OriginError> {
    let client = connect(&config.origin, config.connect_timeout).await?;
    slot_name(config, &client).await.map(drop)
}

/// Finds the slot, and drops one whose past is lost, or can't be decoded any more, so that it is created again.
pub(crate) async fn prepare(
    config: &Config,
    client: &Client,
    undecodable: bool,
) -> Result<Slot, OriginError> {
    let name = slot_name(config, client).await?;
    let query = "SELECT coalesce(wal_status, 'reserved') = 'lost', plugin, database = current_database() \
                 FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";
    let row = timeout(config.connect_timeout, client.query_opt(query, &[&name])).await.map_err(|_| slow())?;
    let Some(row) = row.map_err(|error| OriginError::of(&error))? else {
        return Ok(Slot { name, create: true, lost: None });
    };
    let (lost, plugin, here): (bool, Option<String>, Option<bool>) = (row.get(0), row.get(1), row.get(2));
    if plugin.as_deref() != Some("foreshard") || here != Some(true) {
        return Err(permanent(format!(
            "replication slot {name} belongs to something else; drop it with SELECT pg_drop_replication_slot('{name}')"
        )));
    }
    let lost = match (lost, undecodable) {
        (true, _) => Some(("invalidated", "the origin invalidated it (max_slot_wal_keep_size)")),
        (false, true) => {
            Some(("undecodable", "the origin fails at the same place of its log again and again"))
        }
        (false, false) => None,
    };
    if lost.is_some() {
        let drop = "SELECT pg_catalog.pg_drop_replication_slot($1)";
        let dropped = timeout(config.connect_timeout, client.execute(drop, &[&name])).await;
        dropped.map_err(|_| slow())?.map_err(|error| OriginError::of(&error))?;
    }
    Ok(Slot { name, create: lost.is_some(), lost })
}

/// Where the slot goes on, asked while it is ours: before, somebody else might still have moved it.
pub(crate) async fn confirmed(config: &Config, client: &Client, name: &str) -> Result<Lsn, OriginError> {
    let query = "SELECT coalesce(confirmed_flush_lsn, '0/0')::text FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";
    let row = one_row(client, config.connect_timeout, query, &[&name]).await?;
    Ok(row.get::<_, String>(0).parse().unwrap_or(Lsn::ZERO))
}

async fn slot_name(config: &Config, client: &Client) -> Result<String, OriginError> {
    let settings = "SELECT current_setting('wal_level'), CASE WHEN pg_catalog.pg_has_role('pg_read_all_settings', 'USAGE') THEN current_setting('output_plugin_libraries', true) END, pg_catalog.pg_is_in_recovery(), \
                    EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'foreshard'), \
                    (SELECT rolsuper OR rolreplication FROM pg_catalog.pg_roles WHERE rolname = current_user) \
                    OR EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'rds_replication' AND pg_catalog.pg_has_role(oid, 'MEMBER')), \
                    current_user::text";
    let row = one_row(client, config.connect_timeout, settings, &[]).await?;
    let (wal_level, allowed, standby, installed): (String, Option<String>, bool, bool) =
        (row.get(0), row.get(1), row.get(2), row.get(3));
    let (replicates, user): (bool, String) = (row.get(4), row.get(5));
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
    // Where nobody but the provider may set the attribute, membership stands for it.
    if !replicates {
        let role = user.replace('"', "\"\"");
        return Err(permanent(format!(
            "role {user} may not follow the log: run ALTER ROLE \"{role}\" REPLICATION"
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
    let name =
        one_row(client, config.connect_timeout, "SELECT foreshard.edge_slot($1)", &[&config.edge]).await?;
    Ok(name.get(0))
}

fn permanent(message: String) -> OriginError {
    OriginError { message, permanent: true }
}
