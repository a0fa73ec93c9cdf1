//! `ALTER EXTENSION foreshard UPDATE` from each released version gives what `CREATE EXTENSION` gives.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use foreshard_tests::Cluster;
use tokio_postgres::Client;

use crate::origin::Origin;

/// One line for everything there is to an extension, whichever way it came about. Column order is left out.
const EVERYTHING: &str = r"
    WITH member AS (SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
            WHERE e.extname = 'foreshard' AND d.deptype = 'e'),
        rel AS (SELECT c.* FROM member m JOIN pg_class c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid),
        acl(items, line) AS (VALUES (NULL::aclitem[], NULL::text))
    SELECT format('extension %s, relocatable %s, in %s, requires %s', extversion, extrelocatable, extnamespace::regnamespace,
            (SELECT string_agg(r.extname, ' ') FROM pg_depend d JOIN pg_extension r ON r.oid = d.refobjid
                WHERE d.classid = 'pg_extension'::regclass AND d.objid = e.oid AND d.refclassid = 'pg_extension'::regclass))
        FROM pg_extension e WHERE extname = 'foreshard'
    UNION ALL SELECT format('dumped: %s %s', c.id::regclass, c.condition)
        FROM pg_extension e, unnest(e.extconfig, e.extcondition) AS c(id, condition) WHERE extname = 'foreshard'
    UNION ALL SELECT 'member: ' || pg_describe_object(classid, objid, 0) FROM member
    UNION ALL SELECT format('comment of %s: %s', pg_describe_object(d.classoid, d.objoid, d.objsubid), d.description)
        FROM pg_description d JOIN member m ON (m.classid, m.objid) = (d.classoid, d.objoid)
    UNION ALL SELECT format('first rights on %s: %s', pg_describe_object(i.classoid, i.objoid, i.objsubid),
            (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(i.initprivs) a))
        FROM pg_init_privs i JOIN member m ON (m.classid, m.objid) = (i.classoid, i.objoid)
    UNION ALL SELECT format('schema: %s', (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(nspacl) a))
        FROM pg_namespace WHERE nspname = 'foreshard'
    UNION ALL SELECT format('%s rights: %s', pg_get_functiondef(p.oid), (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(p.proacl) a))
        FROM member m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
    UNION ALL SELECT format('relation %s: kind %s, persistence %s, identity %s, row security %s, options %s, partitioned by %s, partition %s, rights %s, view %s',
            oid::regclass, relkind, relpersistence, relreplident, relrowsecurity, (SELECT string_agg(o, ' ' ORDER BY o) FROM unnest(reloptions) o),
            CASE relkind WHEN 'p' THEN pg_get_partkeydef(oid) END, pg_get_expr(relpartbound, oid),
            (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(relacl) a), CASE relkind WHEN 'v' THEN pg_get_viewdef(oid) END)
        FROM rel
    UNION ALL SELECT format('column %s.%s: %s, not null %s, default %s, identity %s, generated %s, collation %s, storage %s, compression %s, rights %s',
            a.attrelid::regclass, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
            a.attidentity, a.attgenerated, a.attcollation::regcollation, a.attstorage, a.attcompression, a.attacl)
        FROM rel JOIN pg_attribute a ON a.attrelid = rel.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
    UNION ALL SELECT format('constraint %s of %s: %s', c.conname, c.conrelid::regclass, pg_get_constraintdef(c.oid))
        FROM rel JOIN pg_constraint c ON c.conrelid = rel.oid
    UNION ALL SELECT format('index: %s, valid %s', pg_get_indexdef(i.indexrelid), i.indisvalid) FROM rel JOIN pg_index i ON i.indrelid = rel.oid
    UNION ALL SELECT format('trigger: %s, %s', pg_get_triggerdef(t.oid), t.tgenabled)
        FROM rel JOIN pg_trigger t ON t.tgrelid = rel.oid AND NOT t.tgisinternal
    UNION ALL SELECT format('event trigger %s: %s %s %s %s', evtname, evtevent, evtfoid::regproc, evtenabled, evttags)
        FROM member m JOIN pg_event_trigger t ON m.classid = 'pg_event_trigger'::regclass AND t.oid = m.objid
    UNION ALL SELECT format('sequence %s: %s from %s to %s by %s, cycles %s, of %s', s.seqrelid::regclass, s.seqtypid::regtype, s.seqmin, s.seqmax,
            s.seqincrement, s.seqcycle, (SELECT d.refobjid::regclass || '.' || d.refobjsubid::text FROM pg_depend d
                WHERE d.classid = 'pg_class'::regclass AND d.objid = s.seqrelid AND d.deptype IN ('a', 'i') LIMIT 1))
        FROM pg_sequence s WHERE s.seqrelid::regclass::text LIKE 'foreshard.%'
    UNION ALL SELECT format('type: %s', t.typname) FROM pg_type t WHERE t.typnamespace = 'foreshard'::regnamespace";

pub(crate) async fn everything(db: &Client) -> Result<BTreeSet<String>> {
    let rows = db.query(EVERYTHING, &[]).await.context("reading the catalogs")?;
    Ok(rows.iter().filter_map(|row| row.get(0)).collect())
}

/// Versions that have an install script of their own in `migrations/`.
fn released() -> Result<Vec<String>> {
    let mut versions = Vec::new();
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations"))? {
        let name = file?.file_name().to_string_lossy().into_owned();
        let version = name.strip_prefix("foreshard--").and_then(|name| name.strip_suffix(".sql"));
        versions.extend(version.filter(|version| !version.contains("--")).map(str::to_owned));
    }
    assert!(versions.contains(&"0.1.0".to_owned()), "{versions:?}");
    Ok(versions)
}

#[tokio::test]
async fn an_updated_extension_is_a_fresh_one() -> Result<()> {
    let cluster = Cluster::start().await?;
    let db = cluster.connect().await?;
    db.batch_execute("CREATE EXTENSION foreshard").await?;
    let fresh = everything(&db).await?;
    assert!(fresh.len() > 200, "only {} lines", fresh.len());
    for version in released()? {
        let name = format!("from_{}", version.replace('.', "_"));
        db.batch_execute(&format!("CREATE DATABASE {name}")).await?;
        let old = cluster.connect_to(&name).await?;
        old.batch_execute(&format!("CREATE EXTENSION foreshard VERSION '{version}'")).await?;
        assert_ne!(everything(&old).await?, fresh);
        old.batch_execute("ALTER EXTENSION foreshard UPDATE").await?;
        let updated = everything(&old).await?;
        let list = |from: &BTreeSet<String>, without: &BTreeSet<String>| {
            from.difference(without).map(|line| format!("  {line}\n")).collect::<String>()
        };
        assert!(
            updated == fresh,
            "sql/ and the migration from {version} differ. Write what is missing into migrations/foreshard--{version}--*.sql \
             (functions, views, triggers and comments that can be replaced come by themselves; see CONTRIBUTING.md).\n\
             Only a fresh install has:\n{}Only the updated one has:\n{}",
            list(&fresh, &updated),
            list(&updated, &fresh)
        );
    }
    Ok(())
}

#[tokio::test]
async fn definitions_rights_log_and_stream_go_on_over_an_update() -> Result<()> {
    let cluster = Cluster::start().await?;
    let db = cluster.connect().await?;
    db.batch_execute(
        "CREATE EXTENSION foreshard VERSION '0.1.0';
         CREATE ROLE planner; GRANT USAGE ON SCHEMA foreshard TO planner; GRANT SELECT ON foreshard.executions TO planner;
         CREATE ROLE sidecar LOGIN REPLICATION; SELECT foreshard.create_edge('jfk', role => 'sidecar');
         CREATE TABLE t (id int PRIMARY KEY, k int);
         SELECT foreshard.create_shard('t', 't', key => '{id}', predicate => 'k > 0');
         SELECT foreshard.map_function('f', '{t}');
         INSERT INTO foreshard.executions (edge, function_id, started_at, tables, filters, shards, served_from, wait_us, bytes)
            SELECT 'jfk', 'f', now() - i * interval '1 day', '{t}', '{}', '{t?id=1}', 'origin', i, 0 FROM generate_series(1, 100) i",
    )
    .await?;
    let origin = Origin { db, cluster };
    origin.create_slot().await?;
    let log = "SELECT string_agg(e::text, ' ' ORDER BY id) FROM (SELECT id, edge, function_id, started_at, tables, filters, shards,
        served_from, wait_us, bytes, logged_xid FROM foreshard.executions) e";
    let logged: String = origin.value(log).await?;
    let slots: String = origin.value("SELECT slot_name FROM foreshard.edges").await?;

    origin.db.batch_execute("ALTER EXTENSION foreshard UPDATE").await?;
    assert_eq!(origin.value::<String>(log).await?, logged);
    assert_eq!(origin.value::<String>("SELECT slot_name FROM foreshard.edges").await?, slots);
    let next: i64 = origin
        .value(
            "INSERT INTO foreshard.executions (edge, function_id, started_at, tables, filters, shards, served_from, wait_us, bytes)
             VALUES ('jfk', 'f', now(), '{}', '{}', '{}', 'origin', 0, 0) RETURNING id",
        )
        .await?;
    assert_eq!(next, 101);
    // Rights that were given still hold, and are part of a dump: they are not taken for the extension's own.
    origin.db.batch_execute("SET ROLE planner; SELECT * FROM foreshard.executions; RESET ROLE").await?;
    let dump = origin.cluster.client_program("pg_dump").arg("--schema-only").output()?;
    let dump = String::from_utf8_lossy(&dump.stdout).into_owned();
    for granted in
        ["GRANT SELECT ON TABLE foreshard.executions TO planner", "(edge text, instances text[]) TO sidecar"]
    {
        assert!(dump.contains(granted), "{granted} is missing from:\n{dump}");
    }
    // The slot made before goes on with what comes after.
    assert_eq!(origin.after("INSERT INTO t VALUES (1, 1)").await?.last().map(String::as_str), Some("t 1"));
    assert_eq!(origin.rows("t?id=1").await?, ["1|1"]);
    Ok(())
}

/// Between the upgrade of the package and ALTER EXTENSION UPDATE, SQL of before calls the library of now.
#[tokio::test]
async fn the_sql_of_before_works_with_the_library_of_now() -> Result<()> {
    for version in released()? {
        let cluster = Cluster::start().await?;
        let db = cluster.connect().await?;
        // Fails where the library lacks a symbol that the SQL of that time names.
        db.batch_execute(&format!(
            "CREATE EXTENSION foreshard VERSION '{version}'; SELECT foreshard.create_edge('jfk');
             CREATE TABLE t (id int PRIMARY KEY, k int); INSERT INTO t VALUES (1, 1);"
        ))
        .await?;
        let origin = Origin { db, cluster };
        for call in [
            "SELECT foreshard.version()",
            "SELECT foreshard.create_shard('t', 't', key => '{id}', predicate => 'k > 0')",
            "SELECT foreshard.create_shard('t', 't', key => '{id}', or_replace => true)",
            "SELECT foreshard.create_shard('u', 't'); SELECT foreshard.drop_shard('u')",
            "SELECT foreshard.map_function('f', '{t}')",
            "SELECT foreshard.commit_token()",
            "SELECT foreshard.nudge('jfk')",
            "SELECT foreshard.edge_slot('jfk')",
            "SELECT foreshard.log_executions('jfk', '[{\"function_id\":\"f\",\"started_at\":\"2024-01-01T00:00:00Z\",\"served_from\":\"origin\",\"wait_us\":1,\"bytes\":1}]')",
            "SELECT foreshard.publish_schedule('jfk', now(), now() + interval '1 min', '[{\"function_id\":\"f\",\"shard_list\":[\"t?id=1\"],\"confidence\":0.5}]')",
            "ALTER TABLE t RENAME COLUMN k TO l",
        ] {
            origin.db.batch_execute(call).await.with_context(|| format!("{version}: {call}"))?;
        }
        let health = "SELECT count(*) FROM foreshard.health() WHERE status = 'fail'";
        assert_eq!(origin.value::<i64>(health).await?, 0);
        origin.create_slot().await?;
        assert_eq!(origin.catalog().await?.shards.len(), 1);
        assert_eq!(origin.after("INSERT INTO t VALUES (2, 2)").await?, ["t 2"]);
        assert_eq!(origin.rows("t?id=2").await?, ["2|2"]);
    }
    Ok(())
}
