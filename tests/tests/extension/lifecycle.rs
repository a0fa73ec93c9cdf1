//! Install, dump and restore, drop.

use std::time::Duration;

use anyhow::{Result, ensure};
use foreshard_tests::eventually;
use tokio_postgres::error::SqlState;

use crate::origin::{Origin, error_of};
use crate::rights::login;
use crate::upgrade::everything;

const DEFINED: &str = "SELECT concat((SELECT json_agg(s ORDER BY name) FROM (SELECT name, source::text, predicate, key, columns, owner::text, defect FROM foreshard.shards) s),
    (SELECT json_agg(m ORDER BY function_id, ordinal) FROM foreshard.mapping m),
    (SELECT json_agg(e ORDER BY name) FROM (SELECT name, latitude, longitude, role::text FROM foreshard.edge) e))";

#[tokio::test]
async fn definitions_survive_dump_and_restore() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            r#"CREATE ROLE sidecar LOGIN REPLICATION; SELECT foreshard.create_edge('ewr', 1, 2, 'sidecar');
               CREATE TYPE mood AS ENUM ('sad', 'ok');
               CREATE TABLE t (x int, id int PRIMARY KEY, m mood, "Odd" text); ALTER TABLE t DROP COLUMN x;
               INSERT INTO t VALUES (1, 'ok', 'o'), (2, 'sad', 'o');
               CREATE TABLE gone (id int);
               SELECT foreshard.create_shard('t', 't', predicate => $$m <> 'sad' AND "Odd" IS NOT NULL$$, key => '{m}', columns => '{Odd,id}'),
                    foreshard.create_shard('all', 't'), foreshard.create_shard('gone', 'gone');
               SELECT foreshard.map_function('f', '{t,all,gone}'), foreshard.map_function('g', '{all}');
               DROP TABLE gone;
               ALTER TABLE t RENAME "Odd" TO odd"#,
        )
        .await?;
    let file = tempfile::NamedTempFile::new()?;
    let dumped = origin.cluster.client_program("pg_dump").arg("-Fc").stdout(file.reopen()?).status()?;
    ensure!(dumped.success());
    // What a dump leaves out: shards of tables that are gone.
    origin.db.batch_execute("SELECT foreshard.drop_shard('gone')").await?;
    let before: String = origin.value(DEFINED).await?;

    origin.db.batch_execute("CREATE DATABASE restored").await?;
    let restored = origin
        .cluster
        .client_program("pg_restore")
        .args(["--exit-on-error", "-d", "restored"])
        .stdin(file.reopen()?)
        .output()?;
    ensure!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    let slot: String = origin.value("SELECT slot_name FROM foreshard.edge WHERE name = 'jfk'").await?;
    let copy = Origin { db: origin.cluster.connect_to("restored").await?, cluster: origin.cluster };
    assert_eq!(copy.value::<String>(DEFINED).await?, before);
    let other: String = copy.value("SELECT slot_name FROM foreshard.edge WHERE name = 'jfk'").await?;
    assert_ne!(slot, other, "slots are shared by all databases of a cluster");
    assert_eq!(copy.rows("t?m=ok").await?, ["o|1"]);
    copy.create_slot().await?;
    assert_eq!(copy.after("INSERT INTO t VALUES (3, 'ok', 'p')").await?, ["all Whole(Rows)", "t ok"]);
    // A definition made after the restore has a generation of its own.
    copy.db.batch_execute("SELECT foreshard.create_shard('new', 't')").await?;
    let distinct: bool =
        copy.value("SELECT count(DISTINCT generation) = count(*) AND max(generation) = (SELECT generation FROM foreshard.shard WHERE name = 'new') FROM foreshard.shard").await?;
    assert!(distinct);
    Ok(())
}

/// A query that fits only once the primary keys are there, which a dump restores after the definitions; a join; hints; hundreds of rows, so that
/// the tables of definitions are loaded at the same time.
#[tokio::test]
async fn definitions_survive_a_parallel_restore() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            "DO $$ BEGIN FOR i IN 1 .. 12 LOOP
                EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, k int, name text)', i);
                EXECUTE format('INSERT INTO t%s SELECT g, g %% 7, ''n'' || g FROM generate_series(1, 100) g', i);
             END LOOP; END $$;
             SELECT foreshard.create_shard('s' || i, ('t' || i % 12 + 1)::regclass, CASE WHEN i % 2 = 0 THEN 'k > ' || i % 5 END, '{id}')
                FROM generate_series(1, 300) i;
             SELECT foreshard.create_query_shard('q' || i, CASE i % 3
                WHEN 0 THEN format('SELECT id, name FROM public.t%s WHERE k = $1', i % 12 + 1)
                WHEN 1 THEN format('SELECT a.id, b.name FROM public.t%s a JOIN public.t%s b USING (id) WHERE a.k = $1', i % 12 + 1, (i + 5) % 12 + 1)
                ELSE format('SELECT a.id, a.name, count(*) FROM public.t%s a JOIN public.t%s b USING (k) WHERE a.k = $1 GROUP BY a.id', i % 12 + 1, (i + 1) % 12 + 1)
                END, '{k}') FROM generate_series(1, 240) i;
             SELECT foreshard.create_edge('e' || i, i, i) FROM generate_series(1, 8) i;
             SELECT foreshard.map_function('f' || i, ARRAY['s' || i, 'q' || (i % 240 + 1)]) FROM generate_series(1, 300) i;
             SELECT foreshard.hint_function('f' || i, '0 6 * * *', CASE WHEN i % 5 > 0 THEN 'e' || (i % 8 + 1) END) FROM generate_series(1, 200) i",
        )
        .await?;
    let defined = "SELECT concat((SELECT json_agg(s ORDER BY name) FROM (SELECT name, source::text, predicate, key, owner::text, defect, query,
            (SELECT json_agg(d ORDER BY d::text) FROM jsonb_array_elements(depends_on) d) FROM foreshard.shards) s),
        (SELECT json_agg(m ORDER BY function_id, ordinal) FROM foreshard.mapping m), (SELECT json_agg(h ORDER BY id) FROM foreshard.hint h),
        (SELECT json_agg(e ORDER BY name) FROM (SELECT name, latitude, longitude FROM foreshard.edge) e),
        (SELECT json_agg(c ORDER BY c) FROM (SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE conrelid::regclass::text LIKE 't%') c))";
    // Indexes that would serve the parameters are missing here and there.
    let complaints = "SELECT coalesce(string_agg(concat_ws(': ', \"check\", detail, fix), chr(10)), '') FROM foreshard.health() WHERE status = 'fail'
        OR \"check\" LIKE 'names in %' OR \"check\" LIKE 'definitions%'";
    let before: String = origin.value(defined).await?;
    assert_eq!(origin.value::<String>(complaints).await?, "");
    let folder = tempfile::tempdir()?;
    let dump = folder.path().join("dump");
    let dumped = origin.cluster.client_program("pg_dump").arg("-Fd").arg("-f").arg(&dump).status()?;
    ensure!(dumped.success());
    let mut origin = origin;
    // Everything at once; then the definitions before the primary keys of the tables that they read, which are made at the same time.
    let rounds: [&[&[&str]]; 2] =
        [&[&["-j4"]], &[&["--section=pre-data"], &["--section=data"], &["--section=post-data", "-j4"]]];
    for (round, steps) in rounds.into_iter().enumerate() {
        let name = format!("parallel_{round}");
        origin.db.batch_execute(&format!("CREATE DATABASE {name}")).await?;
        for step in steps {
            let restored = origin
                .cluster
                .client_program("pg_restore")
                .args(["-d", &name])
                .args(*step)
                .arg(&dump)
                .output()?;
            ensure!(restored.status.success(), "{step:?}: {}", String::from_utf8_lossy(&restored.stderr));
        }
        let copy = Origin { db: origin.cluster.connect_to(&name).await?, cluster: origin.cluster };
        // Whatever could not be derived while it was restored is said, and not given out.
        let unsaid: i64 = copy
            .value(
                "SELECT count(*) FROM foreshard.shards s WHERE s.defect IS NULL AND s.source IS NULL
                    AND NOT EXISTS (SELECT FROM foreshard.shard_query q WHERE q.shard = s.name AND q.query_tree IS NOT NULL)",
            )
            .await?;
        assert_eq!(unsaid, 0);
        copy.db.batch_execute("SELECT foreshard.rederive()").await?;
        assert_eq!(copy.value::<String>(defined).await?, before);
        assert_eq!(copy.value::<String>(complaints).await?, "");
        assert_eq!(copy.catalog().await?.mappings.len(), 300);
        for shard in 1..=240 {
            let rows = copy.rows(&format!("q{shard}?k=3")).await?;
            assert!(rows.len() >= 14, "q{shard}: {rows:?}");
        }
        for shard in 1..=300 {
            assert_eq!(copy.rows(&format!("s{shard}?id=5")).await?, ["5|5|n5"], "s{shard}");
        }
        origin = Origin { db: copy.cluster.connect().await?, cluster: copy.cluster };
    }
    Ok(())
}

/// Nothing but a direct change of the tables, or a dump restored in part, leaves such rows behind.
#[tokio::test]
async fn what_is_left_of_shards_and_edges_is_of_no_effect() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE t (id int PRIMARY KEY); SELECT foreshard.create_shard('t', 't'), foreshard.create_edge('ewr');
         SELECT foreshard.map_function('f', '{t}'); SELECT foreshard.hint_function('f', '0 6 * * *', 'ewr'), foreshard.hint_function('f', '0 7 * * *')",
    )
    .await?;
    origin.db.batch_execute("SELECT foreshard.drop_edge('ewr')").await?;
    assert_eq!(origin.value::<i64>("SELECT count(*) FROM foreshard.hints").await?, 1);
    origin.db.batch_execute("SELECT foreshard.drop_shard('t')").await?;
    assert_eq!(origin.value::<i64>("SELECT count(*) FROM foreshard.function_shards").await?, 0);

    let leave = "INSERT INTO foreshard.mapping VALUES ('f', 1, 't'), ('f', 2, 'u');
        INSERT INTO foreshard.hint (function_id, edge, cron, confidence) VALUES ('f', 'ewr', '0 6 * * *', 1), ('f', 'lhr', '0 6 * * *', 1)";
    origin.db.batch_execute(leave).await?;
    assert!(origin.catalog().await?.mappings.is_empty());
    let warned = "SELECT coalesce(string_agg(\"check\" || ': ' || fix, '; ' ORDER BY \"check\"), '') FROM foreshard.health() WHERE detail LIKE '%of no effect'";
    assert_eq!(
        origin.value::<String>(warned).await?,
        "edge ewr: SELECT foreshard.drop_edge('ewr', if_exists => true); edge lhr: SELECT foreshard.drop_edge('lhr', if_exists => true); \
         shard t: SELECT foreshard.drop_shard('t', if_exists => true); shard u: SELECT foreshard.drop_shard('u', if_exists => true)"
    );
    // Whoever takes the name does not take over who could read it.
    origin.db.batch_execute("SELECT foreshard.create_shard('t', 't'), foreshard.create_edge('ewr')").await?;
    assert!(origin.catalog().await?.mappings.is_empty());
    origin
        .db
        .batch_execute("SELECT foreshard.drop_edge('lhr', if_exists => true), foreshard.drop_shard('u', if_exists => true)")
        .await?;
    assert_eq!(origin.value::<String>(warned).await?, "");
    Ok(())
}

#[tokio::test]
async fn drop_extension_leaves_nothing() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE t (id int PRIMARY KEY); SELECT foreshard.create_shard('t', 't', key => '{id}')",
    )
    .await?;
    origin.db.batch_execute("SELECT foreshard.drop_edge('jfk'); DROP EXTENSION foreshard").await?;
    let left: i64 = origin
        .value(
            "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = 'foreshard') + (SELECT count(*) FROM pg_event_trigger)
                + (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_proc WHERE probin LIKE '%foreshard%')",
        )
        .await?;
    assert_eq!(left, 0);
    // And it can be had again, whatever the search path.
    origin
        .db
        .batch_execute("ALTER TABLE t ADD COLUMN a int; SET search_path = ''; CREATE EXTENSION foreshard")
        .await?;
    origin
        .db
        .batch_execute("SELECT foreshard.create_edge('jfk'), foreshard.create_shard('t', 'public.t')")
        .await?;
    origin.map_all().await?;
    assert_eq!(origin.rows("t").await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn dropping_the_extension_under_a_slot_ends_that_slot_only() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE t (id int PRIMARY KEY); SELECT foreshard.create_shard('t', 't', key => '{id}')",
    )
    .await?;
    let slot: String = origin.value("SELECT foreshard.edge_slot('jfk')").await?;
    origin.db.batch_execute("INSERT INTO t VALUES (1)").await?;
    origin.db.batch_execute("DROP EXTENSION foreshard").await?;
    let peek = format!(
        "SELECT pg_logical_slot_peek_binary_changes('{slot}', NULL, NULL, 'edge', 'jfk', 'protocol', '2')"
    );
    let error = error_of(&origin.db, &peek).await?;
    assert!(error.message().contains("not installed"), "{error}");
    // Back again, there is nothing to decode the old log with: PostgreSQL keeps rows of catalogs for slots, not dropped tables.
    origin.db.batch_execute("CREATE EXTENSION foreshard; SELECT foreshard.create_edge('jfk')").await?;
    let error = error_of(&origin.db, &peek).await?;
    assert_eq!(*error.code(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "{error}");
    assert!(error.message().contains("before extension foreshard was dropped"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("drop_edge")), "{error:?}");
    // The edge begins anew.
    origin.db.batch_execute("SELECT foreshard.drop_edge('jfk'); SELECT foreshard.create_edge('jfk')").await?;
    origin.db.batch_execute("SELECT foreshard.create_shard('t', 't', key => '{id}')").await?;
    origin.map_all().await?;
    origin.create_slot().await?;
    assert_eq!(origin.after("INSERT INTO t VALUES (2)").await?, ["t 2"]);
    Ok(())
}

#[tokio::test]
async fn a_dropped_edge_cannot_be_asked_for_its_slot_while_it_goes() -> Result<()> {
    let origin = Origin::followed("CREATE TABLE t (id int)").await?;
    let slot: String = origin.value("SELECT foreshard.edge_slot('jfk')").await?;
    let other = origin.cluster.connect().await?;
    origin.db.batch_execute("BEGIN; SELECT foreshard.drop_edge('jfk')").await?;
    let asking = tokio::spawn(async move {
        let asked = other.batch_execute("SELECT foreshard.edge_slot('jfk')").await;
        let create = format!("SELECT pg_create_logical_replication_slot('{slot}', 'foreshard')");
        (asked, other.batch_execute(&create).await)
    });
    eventually("the other session to wait", Duration::from_secs(10), async || {
        let waiting: i64 = origin.value("SELECT count(*) FROM pg_locks WHERE NOT granted").await?;
        Ok((waiting > 0).then_some(()))
    })
    .await?;
    origin.db.batch_execute("COMMIT").await?;
    let (asked, made) = asking.await?;
    assert!(format!("{:?}", asked.unwrap_err()).contains("does not exist"));
    assert!(format!("{:?}", made.unwrap_err()).contains("no edge has the replication slot"));
    // The server clears up a slot that failed to be made after it has said so.
    eventually("the slot to be gone", Duration::from_secs(10), async || {
        let slots: i64 = origin.value("SELECT count(*) FROM pg_replication_slots").await?;
        Ok((slots == 0).then_some(()))
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn definitions_and_calls_in_one_migration_run_twice() -> Result<()> {
    let origin = Origin::start().await?;
    let migration = "BEGIN;
        CREATE TABLE IF NOT EXISTS t (id int PRIMARY KEY, k int);
        SELECT foreshard.create_edge('ewr', if_not_exists => true);
        SELECT foreshard.create_shard('t', 't', key => '{k}', or_replace => true);
        SELECT foreshard.map_function('f', '{t}');
        COMMIT";
    origin.db.batch_execute(migration).await?;
    let before: String = origin.value(DEFINED).await?;
    origin.db.batch_execute(migration).await?;
    assert_eq!(origin.value::<String>(DEFINED).await?, before);
    origin
        .db
        .batch_execute("BEGIN; SELECT foreshard.drop_shard('t'); SELECT foreshard.drop_edge('ewr'); ROLLBACK")
        .await?;
    assert_eq!(origin.value::<String>(DEFINED).await?, before);
    Ok(())
}

/// Names that the install script and the functions use, as somebody else would have them.
const SHADOWS: &str = "
    CREATE FUNCTION hostile.format(text, VARIADIC \"any\") RETURNS text LANGUAGE internal AS 'pgsql_version';
    CREATE FUNCTION hostile.now() RETURNS timestamptz LANGUAGE plpgsql AS 'BEGIN RAISE ''shadowed''; END';
    CREATE FUNCTION hostile.current_setting(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE ''shadowed''; END';
    CREATE FUNCTION hostile.quote_ident(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE ''shadowed''; END';
    CREATE FUNCTION hostile.octet_length(text) RETURNS int LANGUAGE plpgsql AS 'BEGIN RAISE ''shadowed''; END';
    CREATE FUNCTION hostile.eq(text, text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE ''shadowed''; END';
    CREATE OPERATOR hostile.= (leftarg = text, rightarg = text, procedure = hostile.eq);
    CREATE DOMAIN hostile.regclass AS text CHECK (false); CREATE DOMAIN hostile.text AS int CHECK (false);
    CREATE TABLE hostile.pg_class (x int); CREATE TABLE hostile.pg_attribute (x int); CREATE TABLE hostile.pg_roles (x int);
    CREATE TABLE hostile.shard (x int);";

#[tokio::test]
async fn the_extension_is_the_same_under_any_search_path() -> Result<()> {
    let origin = Origin::start().await?;
    origin.db.batch_execute("SELECT foreshard.drop_edge('jfk')").await?;
    let usual = everything(&origin.db).await?;
    let temporary =
        SHADOWS.replace("CREATE TABLE hostile.", "CREATE TEMP TABLE ").replace("hostile.", "pg_temp.");
    for (name, setup) in [
        ("empty", "SET search_path = ''".to_owned()),
        ("temporary", format!("{temporary} SET search_path = pg_temp, pg_catalog, public")),
        (
            "shadowed",
            format!("CREATE SCHEMA hostile; {SHADOWS} SET search_path = hostile, pg_catalog, public"),
        ),
    ] {
        origin.db.batch_execute(&format!("CREATE DATABASE {name}")).await?;
        let db = origin.cluster.connect_to(name).await?;
        db.batch_execute(&format!("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); {setup}; CREATE EXTENSION foreshard")).await?;
        // As another session sees it.
        let made = everything(&origin.cluster.connect_to(name).await?).await?;
        assert_eq!(made, usual, "{name}");
        db.batch_execute(
            "SELECT foreshard.create_edge('jfk');
             SELECT foreshard.create_shard('t', 'public.t', 'id > 0', '{id}');
             SELECT foreshard.create_query_shard('q', 'SELECT id FROM public.t');
             SELECT foreshard.map_function('f', '{t,q}'); SELECT FROM foreshard.health(); SELECT FROM foreshard.maintain()",
        )
        .await?;
        let fetched: i64 = db
            .query_one("SELECT pg_catalog.count(*) FROM foreshard.fetch('jfk', '{t?id=1,q}')", &[])
            .await?
            .get(0);
        assert!(fetched >= 5, "{name}: {fetched} parts");
        db.batch_execute("SELECT foreshard.drop_edge('jfk'); DROP EXTENSION foreshard").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_schema_of_that_name_that_is_somebody_else_s_is_left_alone() -> Result<()> {
    let cluster = foreshard_tests::Cluster::start().await?;
    let db = cluster.connect().await?;
    db.batch_execute(
        "CREATE ROLE mallory; CREATE SCHEMA foreshard AUTHORIZATION mallory; SET ROLE mallory;
         CREATE TABLE foreshard.shard (x int); CREATE FUNCTION foreshard.log_segment() RETURNS int2 LANGUAGE sql AS 'SELECT 1::int2'; RESET ROLE",
    )
    .await?;
    let error = error_of(&db, "CREATE EXTENSION foreshard").await?;
    assert_eq!(error.code(), &tokio_postgres::error::SqlState::DUPLICATE_SCHEMA, "{error}");
    let left: i64 = db
        .query_one(
            "SELECT (SELECT count(*) FROM pg_extension WHERE extname = 'foreshard') + (SELECT count(*) FROM pg_event_trigger)
                + (SELECT count(*) FROM pg_class WHERE relnamespace = 'foreshard'::regnamespace AND relname <> 'shard')",
            &[],
        )
        .await?
        .get(0);
    assert_eq!(left, 0);
    db.batch_execute("DROP SCHEMA foreshard CASCADE; CREATE EXTENSION foreshard").await?;
    Ok(())
}

#[tokio::test]
async fn drop_extension_leaves_no_right_and_no_file() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            "CREATE ROLE definer LOGIN PASSWORD 'definer'; CREATE ROLE planner; CREATE ROLE sidecar LOGIN REPLICATION;
             CREATE TABLE t (id int PRIMARY KEY, k int); GRANT SELECT ON t TO definer; INSERT INTO t VALUES (1, 0);
             GRANT USAGE ON SCHEMA foreshard TO definer, planner; GRANT EXECUTE ON FUNCTION foreshard.create_shard TO definer;
             GRANT SELECT ON foreshard.executions, foreshard.shards TO planner; GRANT EXECUTE ON FUNCTION foreshard.maintain TO planner;
             SELECT foreshard.create_edge('ewr', role => 'sidecar');",
        )
        .await?;
    let definer = login(&origin.cluster.url_of("definer", "definer", "postgres")).await?;
    definer.batch_execute("SELECT foreshard.create_shard('t', 't', '1 / k > 0', '{id}')").await?;
    drop(definer);
    origin.map_all().await?;
    origin.create_slot().await?;
    // A row that the predicate fails on is noted in a file.
    origin.after("UPDATE t SET k = 0").await?;
    origin
        .db
        .batch_execute("SELECT foreshard.drop_edge(name) FROM foreshard.edges; DROP EXTENSION foreshard")
        .await?;
    let left: i64 = origin
        .value(
            "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_event_trigger)
                + (SELECT count(*) FROM pg_init_privs i WHERE i.classoid = 'pg_proc'::regclass AND NOT EXISTS (SELECT FROM pg_proc p WHERE p.oid = i.objoid))
                + (SELECT count(*) FROM pg_init_privs i WHERE i.classoid = 'pg_class'::regclass AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = i.objoid))
                + (SELECT count(*) FROM pg_default_acl) + (SELECT count(*) FROM pg_db_role_setting)",
        )
        .await?;
    assert_eq!(left, 0);
    assert_eq!(
        std::fs::read_dir(origin.cluster.data_dir().join("pg_replslot"))?.count(),
        0,
        "files of slots"
    );
    let named = std::process::Command::new("find")
        .arg(origin.cluster.data_dir())
        .args(["-name", "*foreshard*"])
        .output()?;
    assert_eq!(String::from_utf8_lossy(&named.stdout), "");
    // Nothing of the extension's holds on to a role.
    origin.db.batch_execute("DROP ROLE planner, sidecar; DROP TABLE t; DROP ROLE definer").await?;
    Ok(())
}
