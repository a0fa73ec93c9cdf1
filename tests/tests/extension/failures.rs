//! Predicates that fail on rows are counted, and `health()` shows it.

use std::time::Duration;

use anyhow::Result;
use foreshard_tests::{SidecarOptions, StopMode, eventually};
use tokio_postgres::error::SqlState;

use crate::origin::{Origin, error_of};

const RATIO: &str = "CREATE TABLE t (id int PRIMARY KEY, n int); ALTER TABLE t REPLICA IDENTITY FULL;
    SELECT foreshard.create_shard('ratio', 't', '100 / n > 5');
    SELECT foreshard.create_shard('sound', 't', 'n > 5')";

/// Shard, number of rows, SQLSTATE.
async fn told(origin: &Origin) -> Result<Vec<String>> {
    let query =
        "SELECT \"check\", status, detail, fix FROM foreshard.health() WHERE \"check\" LIKE 'predicate of %'";
    let rows = origin.db.query(query, &[]).await?;
    let words = |row: &tokio_postgres::Row| {
        let (check, status, detail, fix): (&str, &str, &str, &str) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        assert!(status == "warn" && fix.contains("or_replace => true"), "{status} {fix}");
        assert!(detail.contains("perhaps in the shard") && detail.contains(" jfk"), "{detail}");
        let word =
            |before: &str| detail.split(before).nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or("?");
        format!(
            "{}: {} of {}",
            check.trim_start_matches("predicate of shard "),
            word("failed on "),
            word("SQLSTATE ")
        )
    };
    Ok(rows.iter().map(words).collect())
}

#[tokio::test]
async fn rows_that_a_predicate_fails_on_are_counted_once() -> Result<()> {
    let origin = Origin::followed(RATIO).await?;
    origin.db.batch_execute("INSERT INTO t SELECT g, (g - 1) % 2 FROM generate_series(1, 10) g").await?;
    assert_eq!(told(&origin).await?, [""; 0], "nobody has decoded it yet");
    // Only what can still change the event is evaluated: the first failure makes it the whole shard.
    for _ in 0..3 {
        origin.peek().await?;
        assert_eq!(told(&origin).await?, ["ratio: 1 of 22012"]);
    }
    origin.frames_with_rows().await?;
    assert_eq!(told(&origin).await?, ["ratio: 1 of 22012"], "however often it is decoded");
    // Before and after the change: one row.
    origin.after("UPDATE t SET id = 100 WHERE id = 1").await?;
    origin.after("INSERT INTO t VALUES (11, 0)").await?;
    assert_eq!(told(&origin).await?, ["ratio: 3 of 22012"]);
    origin.after("BEGIN; INSERT INTO t VALUES (12, 0); ROLLBACK; INSERT INTO t VALUES (13, 7)").await?;
    assert_eq!(told(&origin).await?, ["ratio: 3 of 22012"]);
    // Another definition starts at nothing, and goes on with nothing if it can't fail.
    let redefine =
        "SELECT foreshard.create_shard('ratio', 't', '100 / nullif(n, 0) > 5', or_replace => true)";
    origin.after(redefine).await?;
    origin.after("INSERT INTO t VALUES (14, 0)").await?;
    assert_eq!(told(&origin).await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn conditions_of_query_shards_are_counted_too() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE t (id int PRIMARY KEY, n int);
         SELECT foreshard.create_query_shard('q', 'SELECT id FROM t WHERE 100 / n > 5')",
    )
    .await?;
    assert_eq!(origin.after("INSERT INTO t VALUES (1, 0)").await?, ["q Whole(Evaluation)"]);
    assert_eq!(told(&origin).await?, ["q: 1 of 22012"]);
    Ok(())
}

#[tokio::test]
async fn counts_outlive_the_server_s_restart_and_go_with_the_slot() -> Result<()> {
    let mut origin = Origin::followed(RATIO).await?;
    origin.after("INSERT INTO t VALUES (1, 0)").await?;
    origin.cluster.restart(StopMode::Immediate).await?;
    origin.db = origin.cluster.connect().await?;
    assert_eq!(told(&origin).await?, ["ratio: 1 of 22012"]);
    origin.after("INSERT INTO t VALUES (2, 0)").await?;
    assert_eq!(told(&origin).await?, ["ratio: 2 of 22012"]);
    // What a crash of the machine may leave of the file counts nothing, and stops nothing.
    let slot: String = origin.value("SELECT foreshard.edge_slot('jfk')").await?;
    let file = origin.cluster.data_dir().join("pg_replslot").join(slot).join("foreshard.failures");
    std::fs::write(&file, "{")?;
    assert_eq!(told(&origin).await?, [""; 0]);
    origin.after("INSERT INTO t VALUES (3, 0)").await?;
    assert_eq!(told(&origin).await?, ["ratio: 1 of 22012"]);
    origin.db.batch_execute("SELECT pg_drop_replication_slot(foreshard.edge_slot('jfk'))").await?;
    assert!(!file.exists());
    assert_eq!(told(&origin).await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_name_that_is_no_slot_s_reads_no_file() -> Result<()> {
    let origin = Origin::start().await?;
    for name in ["../../etc", "a/b", "", "A", &"x".repeat(64)] {
        let error = error_of(&origin.db, &format!("SELECT * FROM foreshard.slot_failures('{name}')")).await?;
        assert_eq!(*error.code(), SqlState::INVALID_NAME, "{name}");
    }
    assert_eq!(origin.value::<i64>("SELECT count(*) FROM foreshard.slot_failures('nope')").await?, 0);
    Ok(())
}

/// The stream of a sidecar is another process than the one that is asked.
#[tokio::test]
async fn a_walsender_counts_for_everybody() -> Result<()> {
    let origin = Origin::start().await?;
    origin.db.batch_execute(RATIO).await?;
    origin.map_all().await?;
    let url = origin.cluster.url();
    let sidecar = SidecarOptions::new("jfk", &url).start().await?;
    origin.db.batch_execute("INSERT INTO t VALUES (1, 0)").await?;
    eventually("the failure in health()", Duration::from_secs(20), async || {
        Ok((told(&origin).await? == ["ratio: 1 of 22012"]).then_some(()))
    })
    .await?;
    drop(sidecar);
    Ok(())
}
