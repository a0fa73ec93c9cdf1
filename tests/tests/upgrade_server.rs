//! Clusters with shards go to PostgreSQL 18: by pg_upgrade from 15 and 16, and by pg_dump and pg_restore from 15.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use foreshard_tests::{Cluster, ClusterOptions, EdgeLogin, Response, Server, Sidecar, StopMode};
use serde_json::{Value, json};
use tokio_postgres::Client;

const DEFINED: &str = "SELECT concat((SELECT json_agg(s ORDER BY name) FROM (SELECT name, source::text, predicate, key, columns, owner::text, generation, defect, depends_on FROM foreshard.shards) s),
    (SELECT json_agg(m ORDER BY function_id, ordinal) FROM foreshard.function_shards m),
    (SELECT json_agg(e ORDER BY name) FROM (SELECT name, role::text, slot_name FROM foreshard.edges) e))";
const EXECUTIONS: &str = "SELECT json_agg(x ORDER BY id)::text FROM (SELECT * FROM foreshard.executions) x";
const TOKEN: &str = "SELECT foreshard.commit_token()::text";
/// Whether health() says that expression trees are of another major version, and what mends it.
const DERIVED_ELSEWHERE: &str = "SELECT fix FROM foreshard.health() WHERE \"check\" = 'definitions'";

async fn major(db: &Client) -> Result<i32> {
    Ok(db.query_one("SELECT current_setting('server_version_num')::int / 10000", &[]).await?.get(0))
}

/// A shop with a shard of every kind whose definition holds an expression tree.
async fn shop(major_version: u32) -> Result<(Cluster, Client, EdgeLogin)> {
    let cluster = ClusterOptions::on(Server::of_major(major_version)?).start().await?;
    let db = cluster.connect().await?;
    ensure!(major(&db).await? == i32::try_from(major_version)?);
    db.batch_execute("CREATE EXTENSION foreshard").await?;
    let login = cluster.create_edge("jfk").await?;
    db.batch_execute(
        "CREATE SCHEMA shop; CREATE TYPE shop.mood AS ENUM ('sad', 'ok');
         CREATE TABLE shop.cart (gone int, id int PRIMARY KEY, customer int NOT NULL, mood shop.mood);
         ALTER TABLE shop.cart DROP COLUMN gone;
         CREATE TABLE shop.customer (id int PRIMARY KEY, name text NOT NULL, blocked boolean NOT NULL DEFAULT false);
         INSERT INTO shop.customer SELECT i, 'customer ' || i FROM generate_series(0, 9) i;
         INSERT INTO shop.cart SELECT i, i % 10, 'ok' FROM generate_series(1, 100) i;
         SELECT foreshard.create_shard('cart', 'shop.cart', key => '{customer}', predicate => $$mood = 'ok'::shop.mood$$);
         SELECT foreshard.create_query_shard('account', $$
             SELECT u.name, count(c.id) AS carts FROM shop.customer u LEFT JOIN shop.cart c ON c.customer = u.id AND c.mood = 'ok'::shop.mood
             WHERE u.id = $1 AND NOT u.blocked GROUP BY u.name $$, '{customer}');
         SELECT foreshard.create_shard('order', 'shop.cart', key => '{customer}', columns => '{id,mood}');
         SELECT foreshard.map_function('checkout', '{cart,account}'); SELECT foreshard.map_function('orders', '{order}');
         SELECT foreshard.log_executions('jfk', '[{\"function_id\":\"f\",\"started_at\":\"2024-01-01T00:00:00Z\",\"served_from\":\"origin\",\"wait_us\":1,\"bytes\":1}]')",
    )
    .await?;
    Ok((cluster, db, login))
}

async fn defined(db: &Client) -> Result<String> {
    Ok(db.query_one(DEFINED, &[]).await?.get(0))
}

/// What a function is told of customer 3, of the newest commit or later.
async fn asked(db: &Client, sidecar: &Sidecar, function: &str) -> Result<Response> {
    let lsn: String = db.query_one(TOKEN, &[]).await?.get(0);
    sidecar.http.invoke(function, &json!({"customer": 3}), &[("Foreshard-Min-Lsn", lsn.as_str())]).await
}

/// Expression trees of another major can't be read: shards that have one are refused, and never served as they were. Others go on,
/// and so does the stream.
async fn nothing_is_stale_before_it_is_derived_anew(db: &Client, sidecar: &Sidecar) -> Result<()> {
    for mood in ["sad", "ok"] {
        db.batch_execute(&format!("UPDATE shop.cart SET mood = '{mood}' WHERE id = 33")).await?;
        let answer = asked(db, sidecar, "orders").await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        let told = answer.json()?["shards"]["order"]["rows"].take();
        let row = told.as_array().and_then(|rows| rows.iter().find(|row| row["id"] == 33)).cloned();
        assert_eq!(row, Some(json!({"id": 33, "mood": mood})));
        let answer = asked(db, sidecar, "checkout").await?;
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.text().contains("broken-shard"), "{}", answer.text());
    }
    Ok(())
}

/// Both shards follow changes at an edge of the new cluster.
async fn shards_follow_changes(db: &Client, sidecar: &Sidecar) -> Result<()> {
    let failover: bool = db.query_one("SELECT failover FROM pg_replication_slots", &[]).await?.get(0);
    assert!(failover, "a standby of 17 and later can take the slot over");
    let rows = async || -> Result<(usize, Value)> {
        let answer = asked(db, sidecar, "checkout").await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        let shards = serde_json::from_str::<Value>(&answer.text())?["shards"].take();
        let carts = shards["cart"]["rows"].as_array().map_or(0, Vec::len);
        Ok((carts, shards["account"]["rows"].clone()))
    };
    assert_eq!(rows().await?, (10, json!([{"name": "customer 3", "carts": 10}])));
    db.batch_execute("UPDATE shop.cart SET mood = 'sad' WHERE id = 3; INSERT INTO shop.cart VALUES (203, 3, 'ok'), (213, 3, 'ok')")
        .await?;
    assert_eq!(rows().await?, (11, json!([{"name": "customer 3", "carts": 11}])));
    db.batch_execute("UPDATE shop.customer SET name = 'somebody' WHERE id = 3").await?;
    assert_eq!(rows().await?, (11, json!([{"name": "somebody", "carts": 11}])));
    db.batch_execute("UPDATE shop.customer SET blocked = true WHERE id = 3").await?;
    assert_eq!(rows().await?, (11, json!([])));
    Ok(())
}

/// The minor releases of 12 November 2026 version every column, as an option `pg_attver` in `pg_attribute.attoptions`. The pg_dump
/// of a server from before that day, which pg_upgrade uses, takes it for an option of the user's, and the server refuses it: for
/// any table, with or without shards. Of 18 there is only such a release to be had; with the option taken off, the rest of
/// what pg_upgrade does is what it does from an earlier 15.
async fn without_versions_of_columns(old: &Client, new: &Server) -> Result<()> {
    let knows = std::fs::read(new.program("postgres"))?.windows(9).any(|part| part == b"pg_attver");
    if !knows {
        old.batch_execute(
            "SET allow_system_table_mods = on;
             UPDATE pg_attribute SET attoptions = (SELECT array_agg(o) FROM unnest(attoptions) o WHERE o NOT LIKE 'pg_attver=%')
             WHERE attoptions::text LIKE '%pg_attver=%'",
        )
        .await?;
    }
    Ok(())
}

async fn upgraded(from: u32) -> Result<()> {
    let (mut old, db, login) = shop(from).await?;
    let mut sidecar = Sidecar::start(&login).await?;
    sidecar.stop().await?;
    let before = defined(&db).await?;
    let logged: String = db.query_one(EXECUTIONS, &[]).await?.get(0);
    let server = Server::of_major(18)?;
    without_versions_of_columns(&db, &server).await?;
    drop(db);
    old.stop(StopMode::Fast).await?;

    let new = ClusterOptions::on(server).upgraded_from(&old).await.context("pg_upgrade")?;
    let db = new.connect().await?;
    ensure!(major(&db).await? == 18);
    assert_eq!(defined(&db).await?, before);
    assert_eq!(db.query_one(EXECUTIONS, &[]).await?.get::<_, String>(0), logged);
    let catalogs: i64 = db
        .query_one(
            "SELECT count(*) FROM pg_class WHERE relnamespace = 'foreshard'::regnamespace AND 'user_catalog_table=true' = ANY (reloptions)",
            &[],
        )
        .await?
        .get(0);
    assert!(catalogs >= 4, "the plugin reads definitions of the past from user catalog tables");
    let slots: i64 = db.query_one("SELECT count(*) FROM pg_replication_slots", &[]).await?.get(0);
    assert_eq!(slots, 0, "slots of before 17 are not taken along");

    // Expression trees are of one major version: health() says so, and its fix derives them anew.
    let login = EdgeLogin { url: new.url_of(&login.role, &login.role, "postgres"), ..login };
    let sidecar = Sidecar::start(&login).await?;
    nothing_is_stale_before_it_is_derived_anew(&db, &sidecar).await?;
    let statement: String = db.query_one(DERIVED_ELSEWHERE, &[]).await?.get(0);
    db.batch_execute(&statement).await?;
    assert!(db.query_opt(DERIVED_ELSEWHERE, &[]).await?.is_none(), "{statement} mends it");
    assert_eq!(defined(&db).await?, before, "nothing else changes by that");
    shards_follow_changes(&db, &sidecar).await
}

#[tokio::test]
async fn shards_go_on_after_pg_upgrade_from_15() -> Result<()> {
    upgraded(15).await
}

#[tokio::test]
async fn shards_go_on_after_pg_upgrade_from_16() -> Result<()> {
    upgraded(16).await
}

#[tokio::test]
async fn shards_go_on_after_dump_and_restore_from_15() -> Result<()> {
    let (old, db, login) = shop(15).await?;
    let before = defined(&db).await?;
    let new = ClusterOptions::on(Server::of_major(18)?).start().await?;
    let restored = new.connect().await?;
    restored.batch_execute(&format!("CREATE ROLE {0} LOGIN REPLICATION PASSWORD '{0}'", login.role)).await?;
    let mut dump = old.client_program("pg_dump").arg("-Fc").stdout(Stdio::piped()).spawn()?;
    let archive = dump.stdout.take().context("a pipe")?;
    let restore = new
        .client_program("pg_restore")
        .args(["--exit-on-error", "--dbname=postgres"])
        .stdin(archive)
        .output()?;
    ensure!(restore.status.success(), "{}", String::from_utf8_lossy(&restore.stderr));
    ensure!(dump.wait()?.success());
    assert_eq!(defined(&restored).await?, before);
    assert!(
        restored.query_opt(DERIVED_ELSEWHERE, &[]).await?.is_none(),
        "a dump carries text, derived where it is restored"
    );
    let login = EdgeLogin { url: new.url_of(&login.role, &login.role, "postgres"), ..login };
    shards_follow_changes(&restored, &Sidecar::start(&login).await?).await
}
