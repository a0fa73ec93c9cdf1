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

/// The commit LSN of every transaction since [`start`] that changed them, by transaction id (its low 32 bits, as the log has
/// it). As PostgreSQL uses the word: where the commit record starts, so that a stamp just behind the record before it
/// promises the transaction too early. Ends what [`start`] began.
pub async fn read(db: &Client) -> Result<HashMap<u32, u64>> {
    let options = format!("'proto_version', '1', 'publication_names', '{SLOT}'");
    let sql = format!("SELECT data FROM pg_logical_slot_get_binary_changes('{SLOT}', NULL, NULL, {options})");
    let mut lsns = HashMap::new();
    let mut open = None;
    for row in db.query(&sql, &[]).await? {
        let message: &[u8] = row.get(0);
        match message.first() {
            // Begin: LSN of the commit (8 bytes), its time (8), the transaction id (4).
            Some(b'B') => {
                let xid = message.get(17..21).context("a begin message is long enough")?;
                open = Some(u32::from_be_bytes(xid.try_into()?));
            }
            // Commit: flags (1), LSN of the commit (8), end of its record (8), its time (8).
            Some(b'C') => {
                let start = message.get(2..10).context("a commit message is long enough")?;
                lsns.insert(
                    open.take().context("a commit follows its begin")?,
                    u64::from_be_bytes(start.try_into()?),
                );
            }
            _ => {}
        }
    }
    db.execute(&format!("SELECT pg_drop_replication_slot('{SLOT}')"), &[]).await?;
    Ok(lsns)
}
