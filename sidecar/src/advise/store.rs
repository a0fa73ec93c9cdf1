//! `foreshard.advice`: what was said, done and taken back.

use anyhow::Context;
use foreshard_planner::advice::{Advice, Report, RestsOn};
use serde_json::{Value, json};
use tokio_postgres::types::Json;
use tokio_postgres::{Client, IsolationLevel, Row, Transaction};

use super::{begin, explained, no_such, refuse, trial};

/// What was advised, with the numbers it has in `foreshard.advice`.
pub(super) struct Stored {
    pub(super) advice: Vec<(i64, Advice)>,
    /// Of all reads: as it is, and with everything applied.
    pub(super) hit_ratio: (f64, f64),
    /// Executions it was judged by.
    pub(super) executions: usize,
}

/// What `--apply` and `--revert` did.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) text: String,
    pub(super) statement: String,
}

/// Stores what is advised. What was advised before and is again keeps its number; what is no longer goes, unless it was applied.
pub(super) async fn keep(client: &mut Client, report: Report, executions: usize) -> anyhow::Result<Stored> {
    let transaction = begin(client, IsolationLevel::ReadCommitted).await?;
    transaction
        .batch_execute("LOCK TABLE foreshard.advice IN SHARE ROW EXCLUSIVE MODE")
        .await
        .map_err(explained)?;
    let mut ids = Vec::with_capacity(report.advice.len());
    let mut advice = Vec::with_capacity(report.advice.len());
    for one in report.advice {
        let rests_on = fingerprint(&transaction, &one.rests_on).await?;
        let evidence = json!({
            "caution": one.caution,
            "expected": one.expected,
            "rests_on": one.rests_on,
            "executions": executions,
            "before": rests_on,
        });
        let row = transaction
            .query_opt(
                "UPDATE foreshard.advice SET made_at = now(), advice = $4, evidence = $6
                 WHERE (kind, subject, statement, undo) = ($1, $2, $3, $5) AND applied_at IS NULL RETURNING id",
                &[&one.kind.name(), &one.subject, &one.statement, &one.text, &one.undo, &Json(&evidence)],
            )
            .await
            .map_err(explained)?;
        let row = match row {
            Some(row) => row,
            None => transaction
                .query_one(
                    "INSERT INTO foreshard.advice (kind, subject, statement, advice, undo, evidence)
                     VALUES ($1, $2, $3, $4, $5, $6) RETURNING id",
                    &[&one.kind.name(), &one.subject, &one.statement, &one.text, &one.undo, &Json(&evidence)],
                )
                .await
                .map_err(explained)?,
        };
        let id: i64 = row.get(0);
        ids.push(id);
        advice.push((id, one));
    }
    // Only what this command has written: others may keep their own advice there.
    transaction
        .execute(
            "DELETE FROM foreshard.advice WHERE applied_at IS NULL AND kind IS NOT NULL AND evidence ? 'before' AND id <> ALL ($1)",
            &[&ids],
        )
        .await
        .map_err(explained)?;
    transaction.commit().await.map_err(explained)?;
    Ok(Stored { advice, hit_ratio: report.hit_ratio, executions })
}

/// A text that is the same as long as these definitions are.
async fn fingerprint(transaction: &Transaction<'_>, of: &RestsOn) -> anyhow::Result<String> {
    let row = transaction
        .query_one(trial::ALL, &[&of.shards, &of.functions, &of.tables])
        .await
        .map_err(explained)?;
    Ok(row.get(0))
}

fn rests_on(evidence: &Value) -> RestsOn {
    let names = |of: &str| {
        let list = evidence["rests_on"][of].as_array().into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    RestsOn { shards: names("shards"), functions: names("functions"), tables: names("tables") }
}

struct Kept {
    text: String,
    statement: Option<String>,
    undo: Option<String>,
    evidence: Value,
    applied: bool,
    reverted: bool,
}

async fn kept(transaction: &Transaction<'_>, id: i64) -> anyhow::Result<Kept> {
    // Another --apply of the same waits here, and then finds it applied.
    let row = transaction
        .query_opt(
            "SELECT advice, statement, undo, evidence, applied_at IS NOT NULL, reverted_at IS NOT NULL
             FROM foreshard.advice WHERE id = $1 FOR UPDATE",
            &[&id],
        )
        .await
        .map_err(explained)?;
    let row: Row = row.ok_or_else(|| no_such(id))?;
    Ok(Kept {
        text: row.get(0),
        statement: row.get(1),
        undo: row.get(2),
        evidence: row.get(3),
        applied: row.get(4),
        reverted: row.get(5),
    })
}

fn names(rests_on: RestsOn) -> String {
    let RestsOn { shards, functions, tables } = rests_on;
    [shards, functions, tables].concat().join(", ")
}

/// Runs the statement of one piece of advice and records it, both or neither.
pub(super) async fn apply(client: &mut Client, id: i64) -> anyhow::Result<Done> {
    let transaction = begin(client, IsolationLevel::RepeatableRead).await?;
    let kept = kept(&transaction, id).await?;
    if kept.applied && !kept.reverted {
        return refuse(format!("it was applied already; foreshard advise --revert {id} takes it back"));
    }
    let (Some(statement), Some(undo)) = (kept.statement, kept.undo) else {
        return refuse("it has no statement to run and take back");
    };
    let rests_on = rests_on(&kept.evidence);
    if kept.evidence["before"] != fingerprint(&transaction, &rests_on).await? {
        return refuse(format!(
            "what it rests on ({}) was changed since: run foreshard advise again",
            names(rests_on)
        ));
    }
    run(&transaction, &statement).await?;
    let after = fingerprint(&transaction, &rests_on).await?;
    let record =
        "UPDATE foreshard.advice SET applied_at = now(), applied_by = session_user, reverted_at = NULL,
             evidence = evidence || jsonb_build_object('after', $2::text) WHERE id = $1";
    transaction.execute(record, &[&id, &after]).await.map_err(explained)?;
    transaction.commit().await.map_err(explained)?;
    Ok(Done { text: kept.text, statement: format!("{statement}\n-- taken back by:\n{undo}") })
}

/// Takes back what was applied, if nobody changed it since.
pub(super) async fn revert(client: &mut Client, id: i64) -> anyhow::Result<Done> {
    let transaction = begin(client, IsolationLevel::RepeatableRead).await?;
    let kept = kept(&transaction, id).await?;
    if !kept.applied || kept.reverted {
        return refuse("it is not applied");
    }
    let undo = kept.undo.context("nothing is stored that takes it back")?;
    let rests_on = rests_on(&kept.evidence);
    if kept.evidence["after"] != fingerprint(&transaction, &rests_on).await? {
        return refuse(format!(
            "{} was changed since it was applied, and that would be lost; the column undo of foreshard.advice has the statement, to \
             run by hand",
            names(rests_on)
        ));
    }
    run(&transaction, &undo).await?;
    let record = "UPDATE foreshard.advice SET reverted_at = now() WHERE id = $1";
    transaction.execute(record, &[&id]).await.map_err(explained)?;
    transaction.commit().await.map_err(explained)?;
    Ok(Done { text: kept.text, statement: undo })
}

/// Kind and subject of what was applied and taken back: somebody did not want it.
pub(super) async fn taken_back(client: &Client) -> anyhow::Result<Vec<(String, String)>> {
    let them =
        "SELECT kind, subject FROM foreshard.advice WHERE reverted_at IS NOT NULL AND kind IS NOT NULL";
    let rows = client.query(them, &[]).await.map_err(explained)?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn run(transaction: &Transaction<'_>, statement: &str) -> anyhow::Result<()> {
    // Definitions and tables are waited for, but nobody has to wait long behind this.
    transaction.batch_execute("SET LOCAL lock_timeout = '5s'").await.map_err(explained)?;
    transaction.batch_execute(statement).await.map_err(explained)
}
