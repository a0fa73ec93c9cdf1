//! `pg_upgrade` of a cluster with shards to PostgreSQL 18.
//!
//! From 16, not 15: Debian's 15.20 notes a `pg_attver` with every column, which PostgreSQL refuses to restore before the minor
//! releases of the same day, and there is no 18 of that day to be had yet. It is so for any table, with or without shards.

use anyhow::{Context, Result, ensure};
use foreshard_tests::{ClusterOptions, Server, Sidecar, StopMode};
use serde_json::json;

const DEFINED: &str = "SELECT concat((SELECT json_agg(s ORDER BY name) FROM (SELECT name, source::text, predicate, key, columns, owner::text, generation, defect FROM foreshard.shards) s),
    (SELECT json_agg(m ORDER BY function_id, ordinal) FROM foreshard.function_shards m),
    (SELECT json_agg(e ORDER BY name) FROM (SELECT name, role::text, slot_name FROM foreshard.edges) e),
    (SELECT json_agg(x ORDER BY id) FROM (SELECT * FROM foreshard.executions) x))";

#[tokio::test]
async fn shards_go_on_after_pg_upgrade_and_edges_get_new_slots() -> Result<()> {
    let mut old = ClusterOptions::on(Server::of_major(16)?).start().await?;
    old.connect().await?.batch_execute("CREATE EXTENSION foreshard").await?;
    let login = old.create_edge("jfk").await?;
    let db = old.connect().await?;
    let major = "SELECT current_setting('server_version_num')::int / 10000";
    ensure!(db.query_one(major, &[]).await?.get::<_, i32>(0) == 16);
    db.batch_execute(
        "CREATE SCHEMA shop; CREATE TYPE shop.mood AS ENUM ('sad', 'ok');
         CREATE TABLE shop.cart (gone int, id int PRIMARY KEY, customer int NOT NULL, mood shop.mood);
         ALTER TABLE shop.cart DROP COLUMN gone;
         INSERT INTO shop.cart SELECT i, i % 10, 'ok' FROM generate_series(1, 100) i;
         SELECT foreshard.create_shard('cart', 'shop.cart', key => '{customer}', predicate => $$mood = 'ok'::shop.mood$$);
         SELECT foreshard.map_function('checkout', '{cart}');
         SELECT foreshard.log_executions('jfk', '[{\"function_id\":\"f\",\"started_at\":\"2024-01-01T00:00:00Z\",\"served_from\":\"origin\",\"wait_us\":1,\"bytes\":1}]')",
    )
    .await?;
    let mut sidecar = Sidecar::start(&login).await?;
    sidecar.stop().await?;
    let defined: String = db.query_one(DEFINED, &[]).await?.get(0);
    drop(db);
    old.stop(StopMode::Fast).await?;

    let options = ClusterOptions::on(Server::of_major(18)?);
    let new = options.upgraded_from(&old).await.context("pg_upgrade")?;
    let db = new.connect().await?;
    ensure!(db.query_one(major, &[]).await?.get::<_, i32>(0) == 18);
    assert_eq!(db.query_one(DEFINED, &[]).await?.get::<_, String>(0), defined);
    let catalogs: i64 = db
        .query_one(
            "SELECT count(*) FROM pg_class WHERE relnamespace = 'foreshard'::regnamespace AND 'user_catalog_table=true' = ANY (reloptions)",
            &[],
        )
        .await?
        .get(0);
    assert!(catalogs >= 3, "the plugin reads definitions of the past from user catalog tables");
    let slots: i64 = db.query_one("SELECT count(*) FROM pg_replication_slots", &[]).await?.get(0);
    assert_eq!(slots, 0, "slots of before 17 are not taken along");

    // Expression trees are of one major version: health() says so, and its fix derives them anew.
    let fix = "SELECT fix FROM foreshard.health() WHERE \"check\" = 'definitions'";
    let statement: String = db.query_one(fix, &[]).await?.get(0);
    db.batch_execute(&statement).await?;
    assert!(db.query_opt(fix, &[]).await?.is_none(), "{statement} mends it");

    let login = foreshard_tests::EdgeLogin { url: new.url_of(&login.role, &login.role, "postgres"), ..login };
    let sidecar = Sidecar::start(&login).await?;
    let failover: bool = db.query_one("SELECT failover FROM pg_replication_slots", &[]).await?.get(0);
    assert!(failover, "a standby of 17 and later can take the slot over");
    let rows = async |lsn: &str| -> Result<serde_json::Value> {
        let headers = [("Foreshard-Min-Lsn", lsn)];
        let answer = sidecar.http.invoke("checkout", &json!({"customer": 3}), &headers).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(serde_json::from_str::<serde_json::Value>(&answer.text())?["shards"]["cart"]["rows"].clone())
    };
    let token = "SELECT foreshard.commit_token()::text";
    let lsn: String = db.query_one(token, &[]).await?.get(0);
    assert_eq!(rows(&lsn).await?.as_array().map(Vec::len), Some(10));
    db.batch_execute("UPDATE shop.cart SET mood = 'sad' WHERE id = 3; INSERT INTO shop.cart VALUES (203, 3, 'ok'), (213, 3, 'ok')")
        .await?;
    let lsn: String = db.query_one(token, &[]).await?.get(0);
    assert_eq!(rows(&lsn).await?.as_array().map(Vec::len), Some(11));
    Ok(())
}
