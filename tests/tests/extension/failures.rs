//! Predicates that fail on rows are counted, shards that can't be read are noted, and `health()` shows it.

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

/// Detail and fix of what `health()` says of fetches of a shard.
async fn unread(origin: &Origin, shard: &str) -> Result<Option<(String, String)>> {
    let query =
        "SELECT status, detail, fix FROM foreshard.health() WHERE \"check\" = 'fetches of shard ' || $1";
    let row = origin.db.query_opt(query, &[&shard]).await?;
    Ok(row.map(|row| {
        assert_eq!(row.get::<_, &str>(0), "fail");
        (row.get(1), row.get(2))
    }))
}

#[tokio::test]
async fn a_shard_that_can_not_be_read_is_told_although_no_change_tells() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, k int, n int); INSERT INTO t VALUES (1, 1, 1), (2, 2, 0), (3, 3, 100);
             SELECT foreshard.create_shard('ratio', 't', '100 / n > 5'), foreshard.create_shard('keyed', 't', '100 / n > 5', '{k}'),
                foreshard.create_query_shard('q', 'SELECT 1 / n AS x FROM t')",
        )
        .await?;
    origin.map_all().await?;
    origin.create_slot().await?;
    assert_eq!(unread(&origin, "ratio").await?, None, "nobody has asked for it yet");
    for instance in ["ratio", "keyed?k=2", "q"] {
        assert!(origin.rows(instance).await?[0].starts_with("Broken"), "{instance}");
    }
    for shard in ["ratio", "keyed", "q"] {
        let (detail, fix) = unread(&origin, shard).await?.expect("a line");
        assert!(detail.contains("edge jfk could not read") && detail.contains("SQLSTATE 22012"), "{detail}");
        assert!(fix.contains("or_replace => true") && fix.contains("nullif()"), "{fix}");
    }
    // Another instance says nothing about the one that failed; that one does, and a new definition.
    assert_eq!(origin.rows("keyed?k=1").await?, ["1|1|1"]);
    assert!(unread(&origin, "keyed").await?.is_some());
    origin
        .db
        .batch_execute(
            "UPDATE t SET n = 50 WHERE id = 2;
             SELECT foreshard.create_query_shard('q', 'SELECT 1 / nullif(n, 0) AS x FROM t', or_replace => true)",
        )
        .await?;
    assert_eq!(origin.rows("keyed?k=02").await?, [""; 0], "the same instance");
    for shard in ["keyed", "q"] {
        assert_eq!(unread(&origin, shard).await?, None, "{shard}");
    }
    assert!(unread(&origin, "ratio").await?.is_some(), "not read since");
    origin.rows("ratio").await?;
    assert_eq!(unread(&origin, "ratio").await?, None);
    Ok(())
}

#[tokio::test]
async fn what_is_known_of_fetches_goes_with_the_slot_and_stops_nothing() -> Result<()> {
    let origin = Origin::start().await?;
    let setup = "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 0); SELECT foreshard.create_shard('ratio', 't', '100 / n > 5')";
    origin.db.batch_execute(setup).await?;
    origin.map_all().await?;
    // Without a slot there is no sidecar, and no place for it.
    assert!(origin.rows("ratio").await?[0].starts_with("Broken"));
    assert_eq!(unread(&origin, "ratio").await?, None);
    origin.create_slot().await?;
    let slot: String = origin.value("SELECT foreshard.edge_slot('jfk')").await?;
    let file = origin.cluster.data_dir().join("pg_replslot").join(&slot).join("foreshard.unread");
    std::fs::write(&file, "{")?;
    assert_eq!(unread(&origin, "ratio").await?, None);
    // A transaction that may not write notes it all the same.
    origin.db.batch_execute("BEGIN READ ONLY").await?;
    origin.rows("ratio").await?;
    origin.db.batch_execute("COMMIT").await?;
    assert!(unread(&origin, "ratio").await?.is_some());
    // What nobody has asked for in a day may have been mended.
    let text = std::fs::read_to_string(&file)?;
    let mut notes: serde_json::Value = serde_json::from_str(&text)?;
    notes[0][3] = (notes[0][3].as_i64().unwrap_or_default() - 25 * 3600 * 1_000_000).into();
    std::fs::write(&file, notes.to_string())?;
    assert_eq!(unread(&origin, "ratio").await?, None);
    std::fs::write(&file, text)?;
    assert!(unread(&origin, "ratio").await?.is_some());
    origin.db.batch_execute("SELECT pg_drop_replication_slot(foreshard.edge_slot('jfk'))").await?;
    assert!(!file.exists());
    assert_eq!(unread(&origin, "ratio").await?, None);
    for name in ["../../etc", "a/b", ""] {
        let error =
            error_of(&origin.db, &format!("SELECT * FROM foreshard.fetch_failures('{name}')")).await?;
        assert_eq!(*error.code(), SqlState::INVALID_NAME, "{name}");
    }
    Ok(())
}
