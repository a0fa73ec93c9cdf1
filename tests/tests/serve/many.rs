//! Very many rows: shards of them are read whole and followed, in bounded memory at the origin, and refused when they are more than it
//! gives out; a transaction of them leaves the memory of both sides as it is.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foreshard_tests::{Cluster, ClusterOptions, SidecarOptions, eventually};
use serde_json::json;
use tokio_postgres::Client;

const ROWS: usize = 1_000_000;
/// An instance that is as large as any that is given out (64 MiB) is put together before it is sent; a server's process is about as large
/// again. Of what is not given out there are 300 MiB.
const PROCESS_KIB: u64 = 192 << 10;
/// Less than half of the keys alone of a million rows.
const GROWTH_KIB: u64 = 32 << 10;

/// The most memory that a process has had, in KiB.
fn peak(process: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(peak.trim().trim_end_matches(" kB").parse()?)
}

/// The same of the walsender.
async fn peak_of_walsender(db: &Client) -> Result<u64> {
    let process: i32 = db.query_one("SELECT active_pid FROM pg_replication_slots", &[]).await?.get(0);
    peak(process.try_into()?)
}

/// How many rows of `{"id": …, "n": …}` an answer holds, and the sum of their ids.
fn count_and_sum(answer: &str) -> Result<(usize, u64)> {
    let mut found = (0, 0);
    for row in answer.split("\"id\":").skip(1) {
        let digits = row.trim_start().split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        found = (found.0 + 1, found.1 + digits.parse::<u64>().with_context(|| row.to_owned())?);
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_of_a_million_rows_is_read_whole_and_followed() -> Result<()> {
    let options = ClusterOptions::new()?.setting("shared_buffers", "32MB").setting("max_wal_size", "2GB");
    let origin: Cluster = options.start().await?;
    let db = origin.connect().await?;
    db.batch_execute(&format!(
        "CREATE TABLE much (id int PRIMARY KEY, n int NOT NULL);
         INSERT INTO much SELECT i, i % 1000 FROM generate_series(1, {ROWS}) i;
         CREATE TABLE wide (id int PRIMARY KEY, n text NOT NULL);
         INSERT INTO wide SELECT i, repeat('x', 8000) FROM generate_series(1, 40000) i;
         CREATE EXTENSION foreshard;
         SELECT foreshard.create_shard('much', 'much'), foreshard.create_shard('wide', 'wide');
         SELECT foreshard.map_function('f', '{{much,wide}}')"
    ))
    .await?;
    let login = origin.create_edge("paris").await?;
    // One that can hold it, and one that can't.
    for budget in ["512MiB", "1MiB"] {
        let mut sidecar = SidecarOptions::of(&login);
        sidecar.environment = vec![("FORESHARD_REACTIVE_BYTES".to_owned(), budget.to_owned())];
        let mut sidecar = sidecar.start().await?;
        db.batch_execute("DELETE FROM much WHERE id = 1").await?;
        for (statement, more) in [("SELECT 1", 0), ("INSERT INTO much VALUES (1, 5)", 1)] {
            db.batch_execute(statement).await?;
            let token: String = db.query_one("SELECT foreshard.commit_token()::text", &[]).await?.get(0);
            let answer = sidecar.http.rows("f", "much", "", &[("Foreshard-Min-Lsn", &token)]).await?;
            ensure!(answer.status == 200, "{budget}: {} {:.300}", answer.status, answer.text());
            let sum = (ROWS * (ROWS + 1) / 2) as u64 - 1 + more;
            assert_eq!(count_and_sum(&answer.text())?, (ROWS - 1 + more as usize, sum), "{budget}");
        }
        // More than 64 MiB: no part of it is given out, and the next request is answered.
        let answer = sidecar.http.rows("f", "wide", "", &[]).await?;
        assert_eq!(answer.status, 413, "{budget}: {:.300}", answer.text());
        sidecar.stop().await?;
    }
    // What the edge's sessions do, in one that is still there to be asked.
    let (session, connection) = tokio_postgres::connect(&login.url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let process: i32 = session.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    for (shard, most) in [("much", 1000), ("wide", 2)] {
        let fetch = format!("SELECT count(*) FROM foreshard.fetch('paris', '{{{shard}}}')");
        let parts: i64 = session.query_one(&fetch, &[]).await?.get(0);
        ensure!(parts > 1 && parts <= most, "{shard} came in {parts} parts");
        let peak = peak(process.try_into()?)?;
        ensure!(peak < PROCESS_KIB, "a process at the origin has grown to {peak} KiB with {shard}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_a_million_rows_leaves_memory_flat() -> Result<()> {
    // What is decoded is kept in files beyond this much.
    let options =
        ClusterOptions::new()?.setting("logical_decoding_work_mem", "1MB").setting("max_wal_size", "2GB");
    let origin = options.setting("shared_buffers", "32MB").start().await?;
    let db = origin.connect().await?;
    db.batch_execute(
        "CREATE TABLE t (id int PRIMARY KEY, key text NOT NULL); CREATE INDEX ON t (key); INSERT INTO t VALUES (0, 'zero');
         CREATE EXTENSION foreshard;
         SELECT foreshard.create_shard('t', 't', key => '{key}'); SELECT foreshard.map_function('f', '{t}')",
    )
    .await?;
    let login = origin.create_edge("paris").await?;
    let mut sidecar = SidecarOptions::of(&login).start().await?;
    let answer = sidecar.http.rows("f", "t", "key=eq.zero", &[]).await?;
    assert_eq!((answer.status.as_u16(), answer.json()?), (200, json!([{"id": 0, "key": "zero"}])));
    let process = sidecar.process().id();
    let before = (peak_of_walsender(&db).await?, peak(process)?);

    // Keys of 64 bytes, a million of them.
    db.batch_execute(&format!(
        "BEGIN; INSERT INTO t SELECT i, repeat(md5(i::text), 2) FROM generate_series(1, {ROWS}) i;
         INSERT INTO t VALUES (-1, 'zero'); COMMIT"
    ))
    .await?;
    let token: String = db.query_one("SELECT (foreshard.commit_token() - '0/0')::text", &[]).await?.get(0);
    let token: f64 = token.parse()?;
    eventually("the transaction has come", Duration::from_secs(120), async || {
        Ok((sidecar.metric("foreshard_applied_lsn").await? >= token).then_some(()))
    })
    .await?;
    let after = (peak_of_walsender(&db).await?, peak(process)?);
    let answer = sidecar.http.rows("f", "t", "key=eq.zero", &[]).await?;
    assert_eq!(answer.json()?.as_array().map(Vec::len), Some(2), "{}", answer.text());
    // What the kernel tells of a process is exact to some pages: a peak can seem to sink.
    let grown = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
    ensure!(
        grown.0 < GROWTH_KIB && grown.1 < GROWTH_KIB,
        "walsender and sidecar have grown by {grown:?} KiB"
    );
    Ok(())
}
