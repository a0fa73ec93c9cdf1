//! What the calls do when they are right.

use anyhow::Result;
use foreshard_protocol::ShardDef;

use crate::origin::{Origin, in_words};

#[tokio::test]
async fn the_views_show_what_was_defined() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            r#"CREATE SCHEMA "Odd Schema"; CREATE TABLE "Odd Schema"."T ü" (id int PRIMARY KEY, "Status" text);
               SELECT foreshard.create_shard('Späße & mehr', '"Odd Schema"."T ü"', $$"Status" <> 'x'$$, '{Status}', '{id}');
               SELECT foreshard.map_function('checkout/v2 "beta"', '{Späße & mehr}');
               SELECT foreshard.create_edge('ewr', 40.69, -74.17)"#,
        )
        .await?;
    let row = origin
        .db
        .query_one(
            "SELECT name, source::text, predicate, key::text[], columns::text[], owner::text, defect FROM foreshard.shards",
            &[],
        )
        .await?;
    assert_eq!(row.get::<_, &str>(0), "Späße & mehr");
    assert_eq!(row.get::<_, &str>(1), r#""Odd Schema"."T ü""#);
    assert_eq!(row.get::<_, &str>(2), r#"("Status" <> 'x'::text)"#);
    assert_eq!(row.get::<_, Vec<String>>(3), ["Status"]);
    assert_eq!(row.get::<_, Vec<String>>(4), ["id"]);
    assert_eq!(row.get::<_, &str>(5), "postgres");
    assert_eq!(row.get::<_, Option<&str>>(6), None);
    let mapped: String =
        origin.value("SELECT function_id || ' > ' || shard FROM foreshard.function_shards").await?;
    assert_eq!(mapped, r#"checkout/v2 "beta" > Späße & mehr"#);
    let edge: String = origin
        .value("SELECT concat_ws(' ', latitude, longitude) FROM foreshard.edges WHERE name = 'ewr'")
        .await?;
    assert_eq!(edge, "40.69 -74.17");

    origin.create_slot().await?;
    let insert = r#"INSERT INTO "Odd Schema"."T ü" VALUES (1, 'y'), (2, 'a b&=%')"#;
    assert_eq!(origin.after(insert).await?, ["Späße & mehr a b&=% y"]);
    assert_eq!(origin.rows("Sp%C3%A4%C3%9Fe%20%26%20mehr?Status=a%20b%26%3D%25").await?, ["2"]);
    Ok(())
}

#[tokio::test]
async fn the_catalog_of_an_edge_is_what_its_functions_need() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY);
             SELECT foreshard.create_shard('b', 't'), foreshard.create_shard('a', 't', key => '{id}'), foreshard.create_shard('unmapped', 't');
             SELECT foreshard.map_function('f', '{b,a}'), foreshard.map_function('g', '{a}')",
        )
        .await?;
    let catalog = origin.catalog().await?;
    let shards: Vec<(&str, &str, &[String])> = catalog
        .shards
        .iter()
        .map(|ShardDef { name, source, key, .. }| (name.as_str(), source.as_str(), key.as_slice()))
        .collect();
    assert_eq!(shards, [("a", "public.t", &["id".to_owned()][..]), ("b", "public.t", &[])]);
    let mappings: Vec<(&str, String)> =
        catalog.mappings.iter().map(|m| (m.function_id.as_str(), m.shards.join(","))).collect();
    assert_eq!(mappings, [("f", "b,a".to_owned()), ("g", "a".to_owned())]);
    assert!(catalog.schedules.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_commit_token_is_behind_the_commit_and_on_disk() -> Result<()> {
    let origin =
        Origin::followed("CREATE TABLE t (id int PRIMARY KEY); SELECT foreshard.create_shard('t', 't')")
            .await?;
    for id in 0..50 {
        origin
            .db
            .batch_execute(&format!("SET synchronous_commit = off; INSERT INTO t VALUES ({id})"))
            .await?;
        let row = origin
            .db
            .query_one(
                "SELECT token::text, pg_current_wal_flush_lsn() > token FROM foreshard.commit_token() token",
                &[],
            )
            .await?;
        assert!(row.get::<_, bool>(1));
        let token: foreshard_protocol::Lsn = row.get::<_, &str>(0).parse()?;
        let frames = origin.frames().await?;
        assert_eq!(in_words(&frames), ["t Whole(Rows)"]);
        assert!(frames[0].end_lsn.0 <= token.0 + 1, "{frames:?} {token}");
    }
    Ok(())
}

/// Where a page or a segment begins, the insert position already lies behind its header, which no decoder reaches on an idle server.
#[tokio::test]
async fn a_commit_token_on_an_idle_server_can_be_reached() -> Result<()> {
    let origin = Origin::start().await?;
    origin.create_slot().await?;
    for turn in 0..200 {
        if turn % 50 == 0 {
            origin.db.batch_execute("SELECT pg_switch_wal()").await?;
        }
        // Records of every length, so that some end at the end of a page.
        let filler =
            format!("SELECT pg_logical_emit_message(false, 'filler', repeat('x', {}))", turn * 37 % 8000);
        origin.db.batch_execute(&filler).await?;
        let reached: bool = origin
            .value(
                "SELECT (pg_replication_slot_advance(foreshard.edge_slot('jfk'), t + 1)).end_lsn > t FROM foreshard.commit_token() t",
            )
            .await?;
        assert!(reached, "turn {turn}");
    }
    Ok(())
}

#[tokio::test]
async fn a_nudge_moves_the_log() -> Result<()> {
    let origin = Origin::start().await?;
    let before: String = origin.value("SELECT pg_current_wal_flush_lsn()::text").await?;
    let nudged: String = origin.value("SELECT foreshard.nudge('jfk')::text").await?;
    let flushed: String = origin.value("SELECT pg_current_wal_flush_lsn()::text").await?;
    let (before, nudged, flushed): (
        foreshard_protocol::Lsn,
        foreshard_protocol::Lsn,
        foreshard_protocol::Lsn,
    ) = (before.parse()?, nudged.parse()?, flushed.parse()?);
    assert!(before < nudged && nudged <= flushed, "{before} {nudged} {flushed}");
    origin.create_slot().await?;
    origin.db.batch_execute("SELECT foreshard.nudge('jfk')").await?;
    assert!(origin.frames().await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn executions_are_appended_as_given() -> Result<()> {
    let origin = Origin::start().await?;
    let batch = r#"[
        {"function_id": "f", "started_at": "2024-05-01T10:00:00.123456Z", "tables": ["public.t"], "filters": {"customer_id": "42"},
         "shards": ["cart?customer_id=42"], "served_from": "prefetch", "wait_us": 12, "bytes": 345},
        {"function_id": "g", "started_at": "2024-05-01T12:00:00+02:00", "served_from": "error", "wait_us": 0, "bytes": 0}]"#;
    let written: i64 = origin
        .db
        .query_one("SELECT foreshard.log_executions('jfk', $1::text::jsonb)", &[&batch])
        .await?
        .get(0);
    assert_eq!(written, 2);
    let rows = origin
        .db
        .query(
            "SELECT edge || ' ' || function_id || ' ' || extract(epoch FROM started_at) || ' ' || filters || ' ' || served_from,
                tables, shards, wait_us, bytes, logged_xid < pg_snapshot_xmax(pg_current_snapshot()) FROM foreshard.executions ORDER BY id",
            &[],
        )
        .await?;
    assert_eq!(rows[0].get::<_, &str>(0), r#"jfk f 1714557600.123456 {"customer_id": "42"} prefetch"#);
    assert_eq!(rows[1].get::<_, &str>(0), "jfk g 1714557600.000000 {} error");
    assert_eq!(rows[0].get::<_, Vec<String>>(1), ["public.t"]);
    assert_eq!(rows[0].get::<_, Vec<String>>(2), ["cart?customer_id=42"]);
    assert_eq!((rows[0].get::<_, i64>(3), rows[0].get::<_, i64>(4)), (12, 345));
    assert!(rows[1].get::<_, bool>(5));
    Ok(())
}

#[tokio::test]
async fn old_schedules_make_room() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            "DO $$ BEGIN FOR i IN 1..1200 LOOP
                PERFORM foreshard.publish_schedule('jfk', now(), now() + interval '1 min', '[]'); END LOOP; END $$",
        )
        .await?;
    let kept: i64 = origin.value("SELECT count(*) FROM foreshard.schedules").await?;
    assert_eq!(kept, 1000);
    let newest: i64 = origin.value("SELECT max(id) FROM foreshard.schedules").await?;
    assert_eq!(newest, 1200);
    Ok(())
}

#[tokio::test]
async fn hints_are_declared_changed_and_removed() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY); SELECT foreshard.create_shard('t', 't'), foreshard.map_function('f', '{t}');
             SELECT foreshard.create_edge('ewr'), foreshard.create_edge('ams');
             SELECT foreshard.hint_function('f', '0 6 * * 1-5'), foreshard.hint_function('f', '@daily', 'ewr', 0.5),
                 foreshard.hint_function('f', '@daily', 'ams');
             SELECT foreshard.hint_function('f', '0 6 * * 1-5', confidence => 0.75)",
        )
        .await?;
    let hints = "SELECT coalesce(string_agg(concat_ws(' ', function_id, edge, cron, confidence), ', ' ORDER BY id), '')
        FROM foreshard.hints WHERE declared_by = session_user";
    let told: String = origin.value(hints).await?;
    assert_eq!(told, "f 0 6 * * 1-5 0.75, f ewr @daily 0.5, f ams @daily 0.9");
    origin.db.batch_execute("SELECT foreshard.unhint_function('f', edge => 'ewr')").await?;
    origin.db.batch_execute("SELECT foreshard.drop_edge('ams')").await?;
    assert_eq!(origin.value::<String>(hints).await?, "f 0 6 * * 1-5 0.75");
    origin.db.batch_execute("SELECT foreshard.unhint_function('f')").await?;
    origin.db.batch_execute("SELECT foreshard.unhint_function('f', if_exists => true)").await?;
    assert_eq!(origin.value::<String>(hints).await?, "");
    Ok(())
}
