//! The dispatch system: carries out the day's transactions, one after another, and keeps a record of them.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::clock::Clock;
use crate::day::Transaction;
use foreshard_tests::history::{Change, Row, RowKey};

/// The tables it changes, with their primary keys (of `flights` the part that is unique within a day's shards).
pub(crate) const TABLES: [(&str, &str); 5] =
    [("airlines", "carrier"), ("airports", "faa"), ("planes", "tailnum"), ("flights", "id"), ("weather", "")];

/// A committed transaction.
#[derive(Debug, Clone)]
pub(crate) struct Commit {
    /// Its transaction id (the low 32 bits, as the log has it).
    pub(crate) xid: u32,
    pub(crate) changes: Vec<Change>,
}

/// What others may ask about the writer while it writes.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    started: AtomicUsize,
    newest: Mutex<Option<Own>>,
}

/// A committed write with the token that reads it.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    /// The value for `Foreshard-Min-Lsn`.
    pub(crate) token: String,
    /// The number of the commit, from 1.
    pub(crate) commit: usize,
}

impl Progress {
    /// How many commits have been asked for so far.
    pub(crate) fn commits_started(&self) -> usize {
        self.started.load(Ordering::SeqCst)
    }

    /// The last committed write.
    pub(crate) fn newest(&self) -> Option<Own> {
        self.newest.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// The rows of all tables as they are now.
pub(crate) async fn rows(db: &Client) -> Result<Vec<(&'static str, RowKey, Row)>> {
    let mut rows = Vec::new();
    for (table, key) in TABLES {
        // Of the flights only the day's: no shard shows another.
        let which = if table == "flights" {
            "WHERE flight_date = (SELECT min(flight_date) FROM flights WHERE status = 'scheduled')"
        } else {
            ""
        };
        for row in db.simple_query(&format!("SELECT row_to_json(t) FROM {table} AS t {which}")).await? {
            if let SimpleQueryMessage::Row(row) = row {
                let row = parse(row.get(0).context("a row")?)?;
                rows.push((table, row_key(table, key, &row)?, row));
            }
        }
    }
    Ok(rows)
}

/// Carries out the transactions at their times. Returns the record of those that committed, in order.
pub(crate) async fn run(
    db: &Client,
    transactions: &[Transaction],
    clock: &Clock,
    before: &[(&'static str, RowKey, Row)],
    progress: &Progress,
) -> Result<Vec<Commit>> {
    let mut now: HashMap<(&'static str, RowKey), Row> =
        before.iter().map(|(table, key, row)| ((*table, key.clone()), row.clone())).collect();
    let mut commits = Vec::new();
    for (transaction, number) in transactions.iter().zip(1..) {
        clock.reached(transaction.at).await;
        let (xid, changes) = carry_out(db, transaction, number, &now).await?;
        // What changed nothing (an aircraft unknown to the registry) is not in the log either.
        if transaction.rolls_back || changes.is_empty() {
            db.batch_execute("ROLLBACK").await?;
            continue;
        }
        progress.started.fetch_add(1, Ordering::SeqCst);
        let answers = db.simple_query("COMMIT; SELECT foreshard.commit_token()").await?;
        let token = values(&answers).into_iter().next().context("commit_token gives a value")?;
        for change in &changes {
            let place = (change.table, change.key.clone());
            match &change.new {
                Some(row) => now.insert(place, row.clone()),
                None => now.remove(&place),
            };
        }
        commits.push(Commit { xid, changes });
        let own = Own { token, commit: commits.len() };
        *progress.newest.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(own);
    }
    Ok(commits)
}

/// Opens the transaction and does what it does, in one round trip.
async fn carry_out(
    db: &Client,
    transaction: &Transaction,
    number: usize,
    now: &HashMap<(&'static str, RowKey), Row>,
) -> Result<(u32, Vec<Change>)> {
    let mut script = String::from("BEGIN; SELECT pg_current_xact_id();");
    for statement in &transaction.statements {
        let sql = statement.sql.replace("$rev", &number.to_string());
        script.push_str(&format!("{sql} RETURNING row_to_json({}.*);", statement.table));
    }
    let answers = db.simple_query(&script).await.with_context(|| format!("running {script}"))?;
    let mut values = values(&answers).into_iter();
    let xid: u64 = values.next().context("pg_current_xact_id gives a value")?.parse()?;
    let mut changes = Vec::new();
    for statement in &transaction.statements {
        // Every statement of the day changes exactly one row; one that finds none returns nothing, and has to be the only
        // one of its transaction.
        let Some(returned) = values.next() else {
            ensure!(transaction.statements.len() == 1, "{} changed nothing", statement.sql);
            break;
        };
        let row = parse(&returned)?;
        let key_column =
            TABLES.iter().find(|(table, _)| *table == statement.table).map_or("", |(_, key)| key);
        let key = row_key(statement.table, key_column, &row)?;
        let old = now.get(&(statement.table, key.clone())).cloned();
        let new = if statement.deletes { None } else { Some(row) };
        changes.push(Change { table: statement.table, key, old, new });
    }
    // The low half: what the log itself has.
    Ok(((xid & u64::from(u32::MAX)) as u32, changes))
}

fn values(answers: &[SimpleQueryMessage]) -> Vec<String> {
    answers
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
        .collect()
}

fn parse(row: &str) -> Result<Row> {
    serde_json::from_str(row).with_context(|| format!("not a row: {row}"))
}

fn row_key(table: &str, column: &str, row: &Row) -> Result<RowKey> {
    if table == "weather" {
        let text = |column: &str| row[column].as_str().unwrap_or_default().to_owned();
        return Ok(RowKey::Text(format!("{} {}", text("origin"), text("observed_at"))));
    }
    Ok(match &row[column] {
        serde_json::Value::String(text) => RowKey::Text(text.clone()),
        number => RowKey::Number(number.as_i64().context("a key is text or a number")?),
    })
}
