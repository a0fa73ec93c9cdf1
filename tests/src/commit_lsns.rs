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
/// has it). Ends what [`start`] began.
pub async fn read(db: &Client) -> Result<HashMap<u32, u64>> {
    let options = format!("'proto_version', '1', 'publication_names', '{SLOT}'");
    let sql = format!("SELECT data FROM pg_logical_slot_get_binary_changes('{SLOT}', NULL, NULL, {options})");
    let mut lsns = HashMap::new();
    for row in db.query(&sql, &[]).await? {
        let message: &[u8] = row.get(0);
        // Begin: the commit's LSN (8 bytes), its time (8), the transaction id (4).
        if let Some((b'B', rest)) = message.split_first() {
            let lsn = rest.get(..8).context("a begin message is long enough")?.try_into()?;
            let xid = rest.get(16..20).context("a begin message is long enough")?.try_into()?;
            lsns.insert(u32::from_be_bytes(xid), u64::from_be_bytes(lsn));
        }
    }
    db.execute(&format!("SELECT pg_drop_replication_slot('{SLOT}')"), &[]).await?;
    Ok(lsns)
}
