//! Who defines and who alters a table don't wait for each other but where they mean the same table; what can't follow at once is an error of
//! the ALTER TABLE, and nothing that is only said.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio_postgres::error::SqlState as S;

use crate::origin::{Origin, error_of};

const TABLES: &str =
    "CREATE TABLE l (id int PRIMARY KEY, k int, v text); CREATE TABLE m (LIKE l INCLUDING ALL);
    INSERT INTO l VALUES (1, 1, 'x'); INSERT INTO m VALUES (2, 2, 'y');
    SELECT foreshard.create_shard('s', 'l', 'k > 0', '{k}', '{id,k}');
    SELECT foreshard.create_query_shard('q', 'SELECT v, k FROM l WHERE k = $1', '{k}')";

/// Key, columns, predicate and defect of `s`, and what is read of it and of `q`.
async fn state(origin: &Origin) -> Result<String> {
    let kept =
        "SELECT concat_ws(' ', key, columns, predicate, defect) FROM foreshard.shards WHERE name = 's'";
    origin.value(kept).await
}

async fn ails(origin: &Origin) -> Result<Vec<String>> {
    let query = r#"SELECT concat_ws(': ', "check", detail, fix) FROM foreshard.health() WHERE "check" LIKE 'names%' ORDER BY 1"#;
    Ok(origin.db.query(query, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// Waits until a session waits for a lock.
async fn waits(origin: &Origin) -> Result<()> {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    let waiting = async || Ok((origin.value::<i64>(waiting).await? > 0).then_some(()));
    foreshard_tests::eventually("a session that waits", Duration::from_secs(30), waiting).await
}

#[tokio::test]
async fn an_open_definition_holds_up_no_alteration_of_other_tables() -> Result<()> {
    let origin = Origin::start().await?;
    origin.db.batch_execute(TABLES).await?;
    origin.db.batch_execute("CREATE TABLE other (id int PRIMARY KEY)").await?;
    let definer = origin.cluster.connect().await?;
    for (number, open) in [
        "SELECT foreshard.map_function('other', '{s}')",
        "SELECT foreshard.unmap_function('other', true)",
        "SELECT foreshard.create_shard('new', 'other')",
        "SELECT foreshard.create_query_shard('new', 'SELECT id FROM other', or_replace => true)",
        "SELECT foreshard.drop_shard('new')",
    ]
    .into_iter()
    .enumerate()
    {
        definer.batch_execute("BEGIN").await?;
        definer.batch_execute(open).await.with_context(|| open)?;
        let alter = format!(
            "SET lock_timeout = '5s'; ALTER TABLE l RENAME {} TO k{number}",
            match number {
                0 => "k".to_owned(),
                _ => format!("k{}", number - 1),
            }
        );
        origin.db.batch_execute(&alter).await.with_context(|| open)?;
        definer.batch_execute("COMMIT").await?;
        assert_eq!(
            state(&origin).await?,
            format!("{{k{number}}} {{id,k{number}}} (k{number} > 0)"),
            "{open}"
        );
    }
    assert_eq!(ails(&origin).await?, [""; 0]);
    // Definitions still come one after the other.
    definer.batch_execute("BEGIN; SELECT foreshard.map_function('other', '{s}')").await?;
    let second = "SET lock_timeout = '100ms'; SELECT foreshard.map_function('another', '{s}')";
    assert_eq!(*error_of(&origin.db, second).await?.code(), S::LOCK_NOT_AVAILABLE);
    Ok(())
}

#[tokio::test]
async fn an_alteration_that_can_t_be_followed_at_once_fails() -> Result<()> {
    let origin = Origin::start().await?;
    origin.db.batch_execute(TABLES).await?;
    let before = state(&origin).await?;
    let other = origin.cluster.connect().await?;
    for (held, alter) in [
        ("BEGIN; SELECT FROM foreshard.shard WHERE name = 's' FOR UPDATE", "ALTER TABLE l RENAME k TO kk"),
        ("BEGIN; SELECT FROM foreshard.shard_query FOR UPDATE", "ALTER TABLE l RENAME v TO vv"),
        ("BEGIN; LOCK TABLE foreshard.shard IN SHARE MODE", "ALTER TABLE l RENAME k TO kk"),
    ] {
        other.batch_execute(held).await?;
        let alter = format!("SET lock_timeout = '200ms'; {alter}");
        assert_eq!(*error_of(&origin.db, &alter).await?.code(), S::LOCK_NOT_AVAILABLE, "{held}");
        other.batch_execute("ROLLBACK").await?;
        assert_eq!(state(&origin).await?, before, "{held}");
        assert_eq!(ails(&origin).await?, [""; 0], "{held}");
    }
    // Parsing waits for another table of the same query.
    origin
        .db
        .batch_execute("SELECT foreshard.create_query_shard('two', 'SELECT l.k FROM l JOIN m USING (id)')")
        .await?;
    other.batch_execute("BEGIN; LOCK TABLE m").await?;
    let alter = "SET lock_timeout = '200ms'; ALTER TABLE l RENAME k TO kk";
    assert_eq!(*error_of(&origin.db, alter).await?.code(), S::LOCK_NOT_AVAILABLE);
    other.batch_execute("ROLLBACK").await?;
    let defects: i64 = origin.value("SELECT count(defect) FROM foreshard.shards").await?;
    assert_eq!(defects, 0);
    // A snapshot that is too old.
    origin.db.batch_execute("RESET lock_timeout; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT").await?;
    origin.db.batch_execute("SELECT count(*) FROM foreshard.shard").await?;
    other
        .batch_execute(
            "SELECT foreshard.create_shard('s', 'l', 'k > 1', '{k}', '{id,k}', or_replace => true)",
        )
        .await?;
    let error = error_of(&origin.db, "ALTER TABLE l RENAME k TO kk").await?;
    assert_eq!(*error.code(), S::T_R_SERIALIZATION_FAILURE);
    origin.db.batch_execute("ROLLBACK").await?;
    assert_eq!(ails(&origin).await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_migration_and_an_alteration_do_not_deadlock() -> Result<()> {
    let origin = Origin::start().await?;
    origin.db.batch_execute(TABLES).await?;
    let (migration, alteration) = (origin.cluster.connect().await?, origin.cluster.connect().await?);
    migration.batch_execute("BEGIN; SELECT foreshard.create_shard('x1', 'm')").await?;
    alteration.batch_execute("BEGIN; LOCK TABLE l").await?;
    let second = tokio::spawn(async move {
        migration.batch_execute("SELECT foreshard.create_shard('x2', 'l'); COMMIT").await
    });
    waits(&origin).await?;
    alteration.batch_execute("ALTER TABLE l RENAME k TO kk; COMMIT").await?;
    second.await??;
    assert_eq!(state(&origin).await?, "{kk} {id,kk} (kk > 0)");
    assert_eq!(origin.value::<i64>("SELECT count(*) FROM foreshard.shards WHERE defect IS NULL").await?, 4);
    Ok(())
}

/// Nothing but the order of definitions keeps a type's name from changing while a definition is written with it.
#[tokio::test]
async fn a_renamed_type_is_followed_by_a_definition_that_was_not_committed() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute("CREATE TYPE mood AS ENUM ('ok'); CREATE TABLE l (id int PRIMARY KEY, k mood)")
        .await?;
    let (definer, alteration) = (origin.cluster.connect().await?, origin.cluster.connect().await?);
    definer
        .batch_execute(
            "BEGIN; SELECT foreshard.create_shard('s', 'l', $$k = 'ok'::public.mood$$);
             SELECT foreshard.create_query_shard('q', $$SELECT id FROM l WHERE k = 'ok'::mood$$)",
        )
        .await?;
    let altered =
        tokio::spawn(async move { alteration.batch_execute("ALTER TYPE mood RENAME TO temper").await });
    waits(&origin).await?;
    definer.batch_execute("COMMIT").await?;
    altered.await??;
    assert_eq!(state(&origin).await?, "{} (k = 'ok'::public.temper)");
    assert_eq!(ails(&origin).await?, [""; 0]);
    Ok(())
}

/// The row of a shard that goes to another table is awaited, and left alone then.
#[tokio::test]
async fn a_shard_that_goes_to_another_table_does_not_follow_the_old_one() -> Result<()> {
    let origin = Origin::start().await?;
    origin.db.batch_execute(TABLES).await?;
    let (definer, alteration) = (origin.cluster.connect().await?, origin.cluster.connect().await?);
    definer
        .batch_execute("BEGIN; SELECT foreshard.create_shard('s', 'm', 'k > 7', '{k}', or_replace => true)")
        .await?;
    let altered = tokio::spawn(async move { alteration.batch_execute("ALTER TABLE l RENAME k TO kk").await });
    waits(&origin).await?;
    definer.batch_execute("COMMIT").await?;
    altered.await??;
    assert_eq!(state(&origin).await?, "{k} (k > 7)");
    assert_eq!(ails(&origin).await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn definitions_follow_a_replica_s_alterations_too() -> Result<()> {
    let origin = Origin::start().await?;
    origin.db.batch_execute(TABLES).await?;
    origin.db.batch_execute("SET session_replication_role = replica; ALTER TABLE l RENAME k TO kk; RESET session_replication_role").await?;
    assert_eq!(state(&origin).await?, "{kk} {id,kk} (kk > 0)");
    assert_eq!(ails(&origin).await?, [""; 0]);
    origin.map_all().await?;
    assert_eq!(origin.rows("s?kk=1").await?, ["1|1"]);
    Ok(())
}

#[tokio::test]
async fn names_that_did_not_follow_are_told_and_mended() -> Result<()> {
    let origin = Origin::start().await?;
    origin.db.batch_execute(TABLES).await?;
    origin.db.batch_execute("SELECT foreshard.create_shard('p', 'l', $$v <> ''$$)").await?;
    let generation = "SELECT generation FROM foreshard.shards WHERE name = 's'";
    let before: i64 = origin.value(generation).await?;
    origin
        .db
        .batch_execute(
            "ALTER EVENT TRIGGER foreshard_follow_ddl DISABLE; ALTER TABLE l RENAME k TO v2; ALTER TABLE l RENAME v TO k; ALTER TABLE l RENAME v2 TO v;
             ALTER EVENT TRIGGER foreshard_follow_ddl ENABLE ALWAYS",
        )
        .await?;
    let told = ails(&origin).await?;
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[2].contains("its key {k} is now called {v}: SELECT foreshard.rederive()"), "{told:?}");
    origin.db.batch_execute("SELECT foreshard.rederive()").await?;
    assert_eq!(ails(&origin).await?, [""; 0]);
    assert_eq!(state(&origin).await?, "{v} {id,v} (v > 0)");
    // Its key has another name: edges have to know.
    let after: i64 = origin.value(generation).await?;
    assert!(after > before);
    origin.db.batch_execute("SELECT foreshard.rederive()").await?;
    assert_eq!(origin.value::<i64>(generation).await?, after);
    origin.map_all().await?;
    assert_eq!(origin.rows("s?v=1").await?, ["1|1"]);
    assert_eq!(origin.rows("q?k=1").await?, ["x|1"]);
    assert_eq!(origin.rows("p").await?.len(), 1);
    Ok(())
}
