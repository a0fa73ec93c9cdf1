//! The execution log and its upkeep.

use anyhow::Result;
use tokio_postgres::error::SqlState;

use crate::origin::{Origin, error_of};

/// Executions logged some days ago, one an hour, each in the segment of its time.
const LOG: &str = "INSERT INTO foreshard.executions (edge, function_id, started_at, tables, filters, shards, served_from, wait_us, bytes, logged_at, segment)
    SELECT 'jfk', 'f', at, '{}', '{}', '{}', 'origin', 0, 0, at,
        floor(extract(epoch FROM at) / (extract(epoch FROM foreshard.log_retention()) / 30))::bigint % 32
    FROM generate_series(now() - $$120 days$$::interval, now(), '1 hour') at";

async fn upkeep(origin: &Origin) -> Result<Vec<String>> {
    let rows = origin.db.query("SELECT action FROM foreshard.maintain()", &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

const OLDEST: &str = "SELECT extract(day FROM now() - min(logged_at))::int FROM foreshard.executions";
const HEALTH: &str = "SELECT status FROM foreshard.health() WHERE \"check\" = 'execution log'";

#[tokio::test]
async fn the_log_is_kept_within_its_retention() -> Result<()> {
    let origin = Origin::start().await?;
    assert_eq!(upkeep(&origin).await?, [""; 0]);
    origin.db.batch_execute(LOG).await?;
    assert_eq!(origin.value::<String>(HEALTH).await?, "warn");
    // 120 days in segments of 3: the ring has come round, so some segments hold both ends.
    let done = upkeep(&origin).await?;
    assert!(done.iter().any(|action| action.contains("rows deleted")), "{done:?}");
    assert!((90..=93).contains(&origin.value::<i32>(OLDEST).await?));
    assert_eq!(origin.value::<String>(HEALTH).await?, "ok");
    assert_eq!(upkeep(&origin).await?, [""; 0], "nothing is left to do");
    // Called again later, it goes on.
    let shift = "UPDATE foreshard.executions SET logged_at = logged_at - interval '4 days'";
    origin.db.batch_execute(shift).await?;
    assert_ne!(upkeep(&origin).await?, [""; 0]);
    assert!((86..=93).contains(&origin.value::<i32>(OLDEST).await?));

    origin.db.batch_execute("SELECT foreshard.set_log_retention('10 days')").await?;
    let done = upkeep(&origin).await?;
    assert!(done.iter().any(|action| action == "emptied"), "{done:?}");
    assert!((10..=13).contains(&origin.value::<i32>(OLDEST).await?));
    let kept: i64 = origin.value("SELECT count(*) FROM foreshard.executions").await?;
    assert!((144..=217).contains(&kept), "{kept}");
    for wrong in ["NULL", "'1 minute'", "'100 years'"] {
        let error = error_of(&origin.db, &format!("SELECT foreshard.set_log_retention({wrong})")).await?;
        assert!(
            [SqlState::NULL_VALUE_NOT_ALLOWED, SqlState::INVALID_PARAMETER_VALUE].contains(error.code()),
            "{error}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn upkeep_blocks_nobody_and_runs_once_at_a_time() -> Result<()> {
    let origin = Origin::start().await?;
    origin.db.batch_execute(LOG).await?;
    origin.db.batch_execute("SELECT foreshard.set_log_retention('30 days')").await?;
    // A reader of the whole log is in the way of emptying segments: they are left for later.
    let reader = origin.cluster.connect().await?;
    reader.batch_execute("BEGIN; SELECT count(*) FROM foreshard.executions").await?;
    let done = upkeep(&origin).await?;
    assert!(done.iter().any(|action| action.starts_with("in use")), "{done:?}");
    assert!(!done.iter().any(|action| action == "emptied"), "{done:?}");
    reader.batch_execute("COMMIT").await?;

    // While one is at it, another does nothing, and executions are logged and read.
    let other = origin.cluster.connect().await?;
    other.batch_execute("BEGIN").await?;
    let emptied = other.query("SELECT FROM foreshard.maintain() WHERE action = 'emptied'", &[]).await?;
    assert!(!emptied.is_empty());
    assert_eq!(upkeep(&origin).await?, [""; 0]);
    origin
        .db
        .batch_execute(
            "SET statement_timeout = '10s';
             SELECT foreshard.log_executions('jfk', '[{\"function_id\":\"f\",\"started_at\":\"2024-01-01T00:00:00Z\",\"served_from\":\"origin\",\"wait_us\":1,\"bytes\":1}]')",
        )
        .await?;
    other.batch_execute("COMMIT").await?;
    let late: i64 =
        origin.value("SELECT count(*) FROM foreshard.executions WHERE started_at < '2024-01-02'").await?;
    assert_eq!(late, 1, "what an edge logs late is kept: retention counts from when it was logged");
    Ok(())
}

#[tokio::test]
async fn an_incremental_reader_misses_nothing_across_segments() -> Result<()> {
    let origin = Origin::start().await?;
    // A short retention turns a segment every two minutes; segments are chosen by hand here to have them all.
    origin
        .db
        .batch_execute(
            "INSERT INTO foreshard.executions (edge, function_id, started_at, tables, filters, shards, served_from, wait_us, bytes, segment)
             SELECT 'jfk', 'f', now(), '{}', '{}', '{}', 'origin', i, 0, i % 32 FROM generate_series(1, 500) i",
        )
        .await?;
    let (mut seen, mut xid, mut id) = (Vec::new(), "0".to_owned(), 0_i64);
    loop {
        let rows = origin
            .db
            .query(
                "SELECT logged_xid::text, id FROM foreshard.executions
                 WHERE logged_xid < pg_snapshot_xmin(pg_current_snapshot()) AND (logged_xid, id) > ($1::text::xid8, $2)
                 ORDER BY logged_xid, id LIMIT 70",
                &[&xid, &id],
            )
            .await?;
        let Some(last) = rows.last() else { break };
        (xid, id) = (last.get(0), last.get(1));
        seen.extend(rows.iter().map(|row| row.get::<_, i64>(1)));
    }
    assert_eq!(seen, (1..=500).collect::<Vec<i64>>());
    Ok(())
}

#[tokio::test]
async fn upkeep_beside_writers_and_readers_loses_nothing() -> Result<()> {
    let origin = Origin::start().await?;
    // Something due in every segment, under a retention whose segments take two minutes.
    origin
        .db
        .batch_execute(
            "SELECT foreshard.set_log_retention('1 hour');
             INSERT INTO foreshard.executions (edge, function_id, started_at, tables, filters, shards, served_from, wait_us, bytes, logged_at, segment)
             SELECT 'jfk', 'old', now(), '{}', '{}', '{}', 'origin', 0, 0, now() - interval '3 days', i % 32 FROM generate_series(1, 3200) i",
        )
        .await?;
    let write = "SELECT foreshard.log_executions('jfk', (SELECT jsonb_agg(jsonb_build_object('function_id', 'new', 'started_at', now(),
        'served_from', 'origin', 'wait_us', 1, 'bytes', i)) FROM generate_series(1, 20) i))";
    let mut writers = Vec::new();
    for writer in 0..4 {
        let db = origin.cluster.connect().await?;
        writers.push(tokio::spawn(async move {
            for turn in 0..30 {
                // Some batches are open for longer than a call of maintain() takes.
                let waits = if (turn + writer) % 5 == 0 { "SELECT pg_sleep(0.02);" } else { "" };
                db.batch_execute(&format!("BEGIN; {write}; {waits} COMMIT")).await?;
            }
            anyhow::Ok(())
        }));
    }
    let reader = origin.cluster.connect().await?;
    let (mut upkept, mut counted) = (0, 0);
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        upkept += upkeep(&origin).await?.len();
        let new: i64 = reader
            .query_one("SELECT count(*) FROM foreshard.executions WHERE function_id = 'new'", &[])
            .await?
            .get(0);
        assert!(new >= counted && new % 20 == 0, "{new} after {counted}: batches appear as a whole and stay");
        counted = new;
    }
    for writer in writers {
        writer.await??;
    }
    upkept += upkeep(&origin).await?.len();
    assert!(upkept >= 32, "every segment was emptied or cleared: {upkept}");
    let left = "SELECT count(*) FROM foreshard.executions WHERE function_id = ";
    assert_eq!(origin.value::<i64>(&format!("{left}'new'")).await?, 4 * 30 * 20);
    assert_eq!(origin.value::<i64>(&format!("{left}'old'")).await?, 0);
    Ok(())
}
