//! `health()` names what is wrong, and its fix mends it.

use anyhow::Result;

use crate::origin::Origin;

/// Status, detail and fix of one check.
async fn check(origin: &Origin, name: &str) -> Result<Option<(String, String, Option<String>)>> {
    let query = "SELECT status, detail, fix FROM foreshard.health() WHERE \"check\" = $1";
    let row = origin.db.query_opt(query, &[&name]).await?;
    Ok(row.map(|row| (row.get(0), row.get(1), row.get(2))))
}

/// The check must complain with these words; its fix is run, and then it must not.
async fn mends_itself(origin: &Origin, name: &str, words: &str) -> Result<()> {
    let Some((status, detail, Some(fix))) = check(origin, name).await? else {
        anyhow::bail!("nothing about {name}")
    };
    assert!(status != "ok" && detail.contains(words), "{name}: {status} {detail}");
    for statement in fix.split(';') {
        origin.db.batch_execute(statement).await.map_err(|error| anyhow::anyhow!("{fix}: {error:?}"))?;
    }
    if let Some((status, detail, _)) = check(origin, name).await? {
        assert_eq!(status, "ok", "{name} after {fix}: {detail}");
    }
    Ok(())
}

#[tokio::test]
async fn a_sound_server_is_ok() -> Result<()> {
    let origin = Origin::start().await?;
    let rows = origin.db.query("SELECT \"check\", status, fix FROM foreshard.health()", &[]).await?;
    for row in &rows {
        let (name, status, fix): (&str, &str, Option<&str>) = (row.get(0), row.get(1), row.get(2));
        assert!(["ok", "warn", "fail"].contains(&status));
        assert_eq!(fix.is_none(), status == "ok", "{name}");
        assert_ne!(status, "fail", "{name}");
    }
    let names: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    for wanted in [
        "wal_level",
        "output_plugin_libraries",
        "max_replication_slots",
        "max_wal_senders",
        "synchronous_commit",
    ] {
        assert!(names.contains(&wanted), "{names:?}");
    }
    Ok(())
}

#[tokio::test]
async fn replica_identities_that_do_not_cover_a_shard_are_mended() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, k int NOT NULL, s text NOT NULL);
             CREATE TABLE n (id int PRIMARY KEY, k int);
             CREATE TABLE p (id int, k int) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9);
             CREATE TABLE fine (id int PRIMARY KEY);
             SELECT foreshard.create_shard('t', 't', key => '{k}', predicate => $$s = 'x'$$),
                foreshard.create_shard('n', 'n', key => '{k}'), foreshard.create_shard('p', 'p', key => '{k}'),
                foreshard.create_shard('fine', 'fine', key => '{id}'), foreshard.create_shard('whole', 't')",
        )
        .await?;
    for name in ["shard fine", "shard whole"] {
        let (status, ..) = check(&origin, name).await?.expect("every shard has a line");
        assert_eq!(status, "ok", "{name}");
    }
    mends_itself(&origin, "shard t", "does not hold k, s").await?;
    let identity: String =
        origin.value("SELECT relreplident::text FROM pg_class WHERE relname = 't'").await?;
    assert_eq!(identity, "i", "an index is cheaper than FULL");
    mends_itself(&origin, "shard n", "does not hold k").await?;
    mends_itself(&origin, "shard p", "p1").await?;
    mends_itself(&origin, "index for shard n", "scans the table").await?;
    Ok(())
}

#[tokio::test]
async fn lost_sources_owners_and_roles_are_told() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            "CREATE TABLE gone (id int); CREATE TABLE secured (id int); CREATE TABLE unlogged (id int);
             SELECT foreshard.create_shard(n, n::regclass) FROM unnest('{gone,secured,unlogged}'::text[]) n;
             DROP TABLE gone; ALTER TABLE secured ENABLE ROW LEVEL SECURITY; ALTER TABLE unlogged SET UNLOGGED;
             CREATE ROLE sidecar LOGIN REPLICATION; SELECT foreshard.create_edge('ewr', role => 'sidecar');
             ALTER ROLE sidecar NOREPLICATION",
        )
        .await?;
    let (status, detail, _) = check(&origin, "shard gone").await?.expect("a line");
    assert_eq!((status.as_str(), detail.as_str()), ("fail", "the source table is gone"));
    mends_itself(&origin, "shard secured", "row-level security").await?;
    mends_itself(&origin, "shard unlogged", "not logged").await?;
    mends_itself(&origin, "role of edge ewr", "REPLICATION").await?;
    origin.db.batch_execute("REVOKE EXECUTE ON FUNCTION foreshard.fetch FROM sidecar").await?;
    mends_itself(&origin, "role of edge ewr", "may not call").await?;
    let (status, detail, _) = check(&origin, "slot of edge ewr").await?.expect("a line");
    assert_eq!(status, "warn");
    assert!(detail.contains("no slot yet"), "{detail}");
    origin.create_slot().await?;
    let (status, detail, _) = check(&origin, "slot of edge jfk").await?.expect("a line");
    assert_eq!(status, "warn");
    assert!(detail.contains("nobody reads slot"), "{detail}");
    Ok(())
}
