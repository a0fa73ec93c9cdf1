//! Where in the log each transaction committed, read back from the log with PostgreSQL's own output plugin: nothing of
//! foreshard takes part in finding out what foreshard should have answered.

use std::collections::HashMap;

use anyhow::{Context, Result};
use tokio_postgres::Client;

/// Of the slot and of the publication.
const SLOT: &str = "commit_lsns";

/// Starts to keep the log of these tables.
pub async fn start(db: &Client, tables: &[&str]) -> Result<()> {
    db.batch_execute(&format!("CREATE PUBLICATION {SLOT} FOR TABLE {}", tables.join(", "))).await?;
    db.execute(&format!("SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')"), &[]).await?;
    Ok(())
}

/// The commit LSN of every transaction since [`start`] that changed them, by transaction id (its low 32 bits, as the log
/// has it): where its commit record ends, as `pg_current_wal_lsn()` says after the commit. Where the record begins is where
/// the one before it ended, which a stream that has not got this one may well have reached. Ends what [`start`] began.
pub async fn read(db: &Client) -> Result<HashMap<u32, u64>> {
    let options = format!("'proto_version', '1', 'publication_names', '{SLOT}'");
    let sql = format!("SELECT data FROM pg_logical_slot_get_binary_changes('{SLOT}', NULL, NULL, {options})");
    let mut lsns = HashMap::new();
    let mut running = None;
    for row in db.query(&sql, &[]).await? {
        let message: &[u8] = row.get(0);
        match message.split_first() {
            // Begin: where the commit record begins (8 bytes), its time (8), the transaction id (4).
            Some((b'B', rest)) => {
                let xid = rest.get(16..20).context("a begin message is long enough")?.try_into()?;
                running = Some(u32::from_be_bytes(xid));
            }
            // Commit: flags (1), where the commit record begins (8) and ends (8).
            Some((b'C', rest)) => {
                let end = rest.get(9..17).context("a commit message is long enough")?.try_into()?;
                lsns.insert(running.take().context("a commit follows a begin")?, u64::from_be_bytes(end));
            }
            _ => {}
        }
    }
    db.execute(&format!("SELECT pg_drop_replication_slot('{SLOT}')"), &[]).await?;
    Ok(lsns)
}
