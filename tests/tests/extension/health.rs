//! `health()` names what is wrong, and its fix mends it.

use std::time::Duration;

use anyhow::{Context, Result};
use foreshard_tests::{ClusterOptions, Server, SidecarOptions, StopMode, eventually};
use tokio_postgres::error::SqlState;

use crate::origin::{Origin, error_of};

/// Status, detail and fix of one check.
async fn check(origin: &Origin, name: &str) -> Result<Option<(String, String, Option<String>)>> {
    let query = "SELECT status, detail, fix FROM foreshard.health() WHERE \"check\" = $1";
    let row = origin.db.query_opt(query, &[&name]).await?;
    Ok(row.map(|row| (row.get(0), row.get(1), row.get(2))))
}

/// The check must complain with these words; its fix is run, and then it must not.
async fn mends_itself(origin: &Origin, name: &str, words: &str) -> Result<()> {
    mends_itself_to(origin, name, words, "ok").await
}

/// The same, where the fix leaves another step to take.
async fn mends_itself_to(origin: &Origin, name: &str, words: &str, wanted: &str) -> Result<()> {
    let Some((status, detail, Some(fix))) = check(origin, name).await? else {
        anyhow::bail!("nothing about {name}")
    };
    assert!(status != "ok" && detail.contains(words), "{name}: {status} {detail}");
    for statement in fix.split(';') {
        origin.db.batch_execute(statement).await.map_err(|error| anyhow::anyhow!("{fix}: {error:?}"))?;
    }
    if let Some((status, detail, _)) = check(origin, name).await? {
        assert_eq!(status, wanted, "{name} after {fix}: {detail}");
    }
    Ok(())
}

#[tokio::test]
async fn commits_that_would_wait_for_themselves_are_told() -> Result<()> {
    let options = ClusterOptions::new()?.setting("synchronous_commit", "local");
    let origin =
        Origin::with(options.setting("synchronous_standby_names", "FIRST 1 (s1, \"Paris\")")).await?;
    let mut statuses = Vec::new();
    for (edge, setting) in [("oslo", "on"), ("paris", "on"), ("paris", "remote_apply"), ("paris", "local")] {
        let create = format!("SELECT foreshard.create_edge('{edge}', if_not_exists => true)");
        origin.db.batch_execute(&create).await?;
        origin.db.batch_execute(&format!("SET synchronous_commit = {setting}")).await?;
        let (status, _, fix) = check(&origin, "synchronous_commit").await?.unwrap_or_default();
        statuses.push((status, fix.is_some_and(|fix| fix.contains("remote_apply"))));
        origin.db.batch_execute("SET synchronous_commit = local").await?;
    }
    let expected = [("ok", false), ("fail", true), ("ok", false), ("ok", false)];
    assert_eq!(statuses, expected.map(|(status, mends)| (status.to_owned(), mends)));
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
    mends_itself(&origin, "index for shard p", "scans the table").await?;
    Ok(())
}

/// What `health()` says about replica identities: detail and fix of each warning, in its order.
async fn identity_warnings(origin: &Origin) -> Result<Vec<(String, String)>> {
    let query = "SELECT detail, fix FROM foreshard.health() WHERE status = 'warn' AND detail LIKE 'the log does not hold%'";
    Ok(origin.db.query(query, &[]).await?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Runs the fixes of all warnings, twice: then there must be none. How many there were.
async fn identities_mend_themselves(origin: &Origin) -> Result<usize> {
    let warnings = identity_warnings(origin).await?;
    for (_, fix) in warnings.iter().chain(&warnings) {
        for statement in fix.split(';') {
            origin.db.batch_execute(statement).await.map_err(|error| anyhow::anyhow!("{fix}: {error:?}"))?;
        }
    }
    let left = identity_warnings(origin).await?;
    assert!(left.is_empty(), "{left:?} after the fixes of {warnings:?}");
    Ok(warnings.len())
}

#[tokio::test]
async fn the_fix_of_each_shard_serves_all_shards_of_its_table() -> Result<()> {
    let origin = Origin::start().await?;
    let names =
        "SELECT string_agg(indexrelid::regclass::text, ' ' ORDER BY indexrelid::regclass::text) FROM pg_index
        WHERE indrelid = 't'::regclass AND NOT indisprimary";
    origin
        .db
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL, b int NOT NULL, c text NOT NULL, j json NOT NULL);
             INSERT INTO t SELECT g, g % 3, g % 5, 'x', '{}' FROM generate_series(1, 20) g;
             SELECT foreshard.create_shard('by a', 't', key => '{a}'), foreshard.create_shard('by b', 't', key => '{b}')",
        )
        .await?;
    assert_eq!(identities_mend_themselves(&origin).await?, 2);
    assert_eq!(origin.value::<String>(names).await?, "foreshard_t_identity");
    assert_eq!(identities_mend_themselves(&origin).await?, 0);

    // Another shard, and a query: what was made before gives way to what serves them all.
    origin
        .db
        .batch_execute(
            "SELECT foreshard.create_shard('some', 't', $$c = 'x'$$),
                foreshard.create_query_shard('q', 'SELECT id FROM t WHERE b = $1 AND a > 1', '{b}')",
        )
        .await?;
    assert_eq!(identities_mend_themselves(&origin).await?, 1);
    assert_eq!(origin.value::<String>(names).await?, "foreshard_t_identity_2");
    let columns: String = origin.value("SELECT pg_get_indexdef('foreshard_t_identity_2'::regclass)").await?;
    assert!(columns.ends_with("(a, b, id, c)") || columns.ends_with("(a, b, c, id)"), "{columns}");

    // An index of the user's that has all of them is taken, and what is not foreshard's is never dropped.
    origin
        .db
        .batch_execute(
            "CREATE UNIQUE INDEX mine ON t (id, c, b, a); CREATE UNIQUE INDEX small ON t (id, a);
             ALTER TABLE t REPLICA IDENTITY USING INDEX small; DROP INDEX foreshard_t_identity_2",
        )
        .await?;
    assert_eq!(identities_mend_themselves(&origin).await?, 3, "all but the one by a");
    assert_eq!(origin.value::<String>(names).await?, "mine small");

    // Columns that no index can have.
    origin.db.batch_execute("SELECT foreshard.create_shard('json', 't', $$j->>'k' = 'x'$$)").await?;
    assert_eq!(identities_mend_themselves(&origin).await?, 1);
    let identity: String =
        origin.value("SELECT relreplident::text FROM pg_class WHERE relname = 't'").await?;
    assert_eq!(identity, "f");
    Ok(())
}

#[tokio::test]
async fn identity_indexes_get_names_of_their_own_whatever_a_table_is_called() -> Result<()> {
    let origin = Origin::start().await?;
    // Of 63 bytes, and told apart by the last one; and a name that is taken, by an index and by a table.
    let long: Vec<String> =
        ["a", "b"].iter().map(|end| format!("\"{}{end}\"", "Lang; ü ".repeat(6) + "12345678")).collect();
    let tables = ["taken", "\"it's; \"\"q\"\"\"", &long[0], &long[1]];
    for (at, table) in tables.iter().enumerate() {
        // PostgreSQL takes the statement apart, not this test: semicolons are part of names.
        origin
            .db
            .batch_execute(&format!(
                "CREATE TABLE {table} (id int PRIMARY KEY, a int NOT NULL, \"b;\" int NOT NULL);
                 SELECT foreshard.create_shard('a{at}', $x${table}$x$, key => '{{a}}'),
                    foreshard.create_shard('b{at}', $x${table}$x$, key => '{{b;}}')"
            ))
            .await?;
    }
    origin
        .db
        .batch_execute(
            "CREATE UNIQUE INDEX foreshard_taken_identity ON taken (a, id) WHERE a > 0;
             CREATE TABLE foreshard_taken_identity_2 ()",
        )
        .await?;
    let warnings = identity_warnings(&origin).await?;
    assert_eq!(warnings.len(), 8);
    for (_, fix) in warnings.iter().chain(&warnings) {
        origin.db.batch_execute(fix).await.map_err(|error| anyhow::anyhow!("{fix}: {error:?}"))?;
    }
    let left = identity_warnings(&origin).await?;
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

#[tokio::test]
async fn identities_of_all_partitions_are_mended_at_once() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            "CREATE TABLE p (id int, a int NOT NULL, b int NOT NULL, PRIMARY KEY (id)) PARTITION BY RANGE (id);
             CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9); CREATE TABLE p2 (b int NOT NULL, gone int, id int NOT NULL, a int NOT NULL);
             ALTER TABLE p2 DROP gone; ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (9) TO (19);
             CREATE TABLE u (id int PRIMARY KEY, k int);
             SELECT foreshard.create_shard('whole', 'p', key => '{a}'), foreshard.create_shard('one', 'p2', key => '{b}'),
                foreshard.create_query_shard('q', 'SELECT p.id, u.k FROM p JOIN u ON u.k = p.b WHERE p.b = $1', '{b}')",
        )
        .await?;
    let (_, detail, _) = check(&origin, "shard whole").await?.expect("a line");
    assert!(detail.contains("public.p1 (and 1 more)"), "{detail}");
    assert_eq!(identities_mend_themselves(&origin).await?, 3);
    Ok(())
}

#[tokio::test]
async fn indexes_that_fetches_of_queries_need_are_told() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, k int); CREATE TABLE u (id int, k int);
             ALTER TABLE t REPLICA IDENTITY FULL; ALTER TABLE u REPLICA IDENTITY FULL;
             CREATE INDEX some_rows ON u (k) WHERE id > 0;
             SELECT foreshard.create_query_shard('q', 'SELECT t.id, u.k FROM t JOIN u ON u.k = t.id WHERE t.id = $1', '{t}');
             SELECT foreshard.create_query_shard('all', 'SELECT count(*) AS n FROM u')",
        )
        .await?;
    assert!(
        check(&origin, "index for shard all").await?.is_none(),
        "a query without parameters scans anyway"
    );
    mends_itself(&origin, "index for shard q", "no index of public.u begins").await?;
    assert!(check(&origin, "index for shard q").await?.is_none());
    Ok(())
}

#[tokio::test]
async fn settings_that_do_not_fit_are_mended_by_their_statements() -> Result<()> {
    let mut options = ClusterOptions::new()?
        .setting("max_replication_slots", "2")
        .setting("max_wal_senders", "2")
        .setting("synchronous_commit", "off");
    options.wal_level = "replica".into();
    options.output_plugins = None;
    let mut origin = Origin::with(options).await?;
    origin.db.batch_execute("SELECT foreshard.create_edge('lhr'), foreshard.create_edge('ewr')").await?;
    // Somebody else's slot takes a place.
    origin.db.batch_execute("SELECT pg_create_physical_replication_slot('standby')").await?;
    let faults = [
        ("wal_level", "wal_level is replica", "fail"),
        ("output_plugin_libraries", "output plugin", "fail"),
        ("max_replication_slots", "3 edges, and room for 1 slots", "fail"),
        ("max_wal_senders", "3 edges, and room for 2 streams", "fail"),
        ("max_slot_wal_keep_size", "fill the disk", "warn"),
        ("synchronous_commit", "when the log is flushed", "warn"),
    ];
    for (name, words, wanted) in faults {
        let Some((status, detail, Some(fix))) = check(&origin, name).await? else {
            anyhow::bail!("nothing about {name}")
        };
        // Older minor releases load any plugin.
        let lenient = detail.contains("loads any output plugin");
        assert!(detail.contains(words) && (status == wanted || lenient), "{name}: {status} {detail}");
        if !lenient {
            origin.db.batch_execute(&fix).await?;
        }
    }
    origin.cluster.restart(StopMode::Fast).await?;
    origin.db = origin.cluster.connect().await?;
    for (name, ..) in faults {
        let (status, detail, fix) = check(&origin, name).await?.expect("a line");
        assert!(status == "ok" || detail.contains("loads any output plugin"), "{name}: {detail}, {fix:?}");
    }
    Ok(())
}

/// What stands between these lines of docs/operations.md.
fn block_of_operations(from: &str) -> Result<String> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md"))?;
    let (_, rest) = page.split_once(&format!("   ```{from}\n")).context("the block")?;
    Ok(rest.split("```").next().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn both_ways_to_set_a_server_up_are_written_as_it_takes_them() -> Result<()> {
    let (file, sql) = (block_of_operations("ini")?, block_of_operations("sql")?);
    let mut options = ClusterOptions::new()?;
    options.output_plugins = None;
    options.wal_level = "replica".to_owned();
    for in_file in [true, false] {
        let mut origin = Origin::with(options.clone()).await?;
        // Minor releases without the list refuse it.
        let known = "SELECT current_setting('output_plugin_libraries', true) IS NOT NULL";
        let known: bool = origin.value(known).await?;
        let lines = |text: &str| -> Vec<String> {
            text.lines().filter(|line| known || !line.contains("output_plugin")).map(str::to_owned).collect()
        };
        if in_file {
            let conf = origin.cluster.data_dir().join("postgresql.conf");
            let text = std::fs::read_to_string(&conf)? + &lines(&file).join("\n") + "\n";
            std::fs::write(&conf, text)?;
        } else {
            for line in lines(&sql).iter().filter(|line| line.contains("ALTER")) {
                origin.db.batch_execute(line).await?;
            }
        }
        origin.cluster.restart(StopMode::Fast).await?;
        origin.db = origin.cluster.connect().await?;
        for name in ["wal_level", "max_slot_wal_keep_size"] {
            assert_eq!(check(&origin, name).await?.expect("a line").0, "ok", "{name}, in a file: {in_file}");
        }
        if known {
            let libraries: String = origin.value("SHOW output_plugin_libraries").await?;
            assert_eq!(libraries, "foreshard, pgoutput", "in a file: {in_file}");
            assert_eq!(check(&origin, "output_plugin_libraries").await?.expect("a line").0, "ok");
        }
        origin.create_slot().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_database_of_another_encoding_is_told() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
        )
        .await?;
    let latin = origin.cluster.connect_to("latin").await?;
    latin.batch_execute("CREATE EXTENSION foreshard").await?;
    let query = "SELECT status, detail FROM foreshard.health() WHERE \"check\" = 'encoding'";
    let row = latin.query_one(query, &[]).await?;
    assert_eq!(
        (row.get(0), row.get(1)),
        ("fail", "the database has encoding LATIN1; values travel as UTF-8")
    );
    assert_eq!(origin.value::<String>(query).await?, "ok");
    Ok(())
}

#[tokio::test]
async fn releases_with_bugs_of_decoding_are_told() -> Result<()> {
    // The servers at hand are of several days.
    for server in [Server::for_tests()?, Server::of_major(16)?] {
        let origin = Origin::with(ClusterOptions::on(server)).await?;
        let release: i32 = origin.value("SELECT current_setting('server_version_num')::int").await?;
        let (status, detail, fix) = check(&origin, "minor release").await?.expect("a line");
        let mended = [20, 16, 12, 7][usize::try_from(release / 10000 - 15)?];
        if release % 10000 >= mended {
            assert_eq!((status.as_str(), fix), ("ok", None), "{detail}");
        } else {
            assert_eq!(status, "warn");
            assert!(detail.contains("subtransaction with DDL was rolled back"), "{detail}");
            let update =
                format!("Update PostgreSQL to {}.{mended} or a later minor release", release / 10000);
            assert!(fix.as_ref().is_some_and(|fix| fix.starts_with(&update)), "{fix:?}");
        }
    }
    let origin = Origin::start().await?;
    for (release, known) in [
        (150001, 10),
        (150008, 7),
        (150019, 2),
        (150020, 0),
        (160005, 7),
        (170000, 7),
        (180006, 2),
        (180007, 0),
    ] {
        let found: i64 =
            origin.value(&format!("SELECT count(*) FROM foreshard.decoding_bugs({release})")).await?;
        assert_eq!(found, known, "{release}");
    }
    let later: i64 = origin.value("SELECT count(*) FROM foreshard.decoding_bugs(190000)").await?;
    assert_eq!(later, 0, "nothing is known of majors to come");
    Ok(())
}

#[tokio::test]
async fn a_slot_that_falls_behind_is_told_before_and_after_it_is_lost() -> Result<()> {
    let origin = Origin::with(ClusterOptions::new()?.setting("max_slot_wal_keep_size", "16MB")).await?;
    origin.create_slot().await?;
    for _ in 0..4 {
        origin.db.batch_execute("SELECT pg_logical_emit_message(false, '', ''), pg_switch_wal()").await?;
    }
    let (status, detail, fix) = check(&origin, "slot of edge jfk").await?.expect("a line");
    assert_eq!(status, "fail");
    assert!(detail.contains("will be lost at the next checkpoint"), "{detail}");
    assert!(fix.is_some_and(|fix| fix.contains("max_slot_wal_keep_size")));
    origin.db.batch_execute("CHECKPOINT").await?;
    mends_itself_to(&origin, "slot of edge jfk", "is lost (the log it needs is gone)", "warn").await?;
    let (_, detail, _) = check(&origin, "slot of edge jfk").await?.expect("a line");
    assert!(detail.contains("no slot yet"), "{detail}");
    Ok(())
}

/// As the servers of each major describe slots that are lost.
#[tokio::test]
async fn why_a_slot_was_lost_is_told() -> Result<()> {
    let origin = Origin::start().await?;
    for (slot, words) in [
        (r#"{"wal_status": "lost"}"#, "the log it needs is gone"),
        (r#"{"wal_status": "lost", "conflicting": null}"#, "the log it needs is gone"),
        (r#"{"wal_status": "lost", "conflicting": false}"#, "the log it needs is gone"),
        (r#"{"wal_status": "lost", "conflicting": true}"#, "conflicting: what it needs was removed"),
        (r#"{"conflicting": false, "invalidation_reason": "wal_removed"}"#, "the log it needs is gone"),
        (r#"{"conflicting": true, "invalidation_reason": "rows_removed"}"#, "conflicting: rows of catalogs"),
        (
            r#"{"conflicting": true, "invalidation_reason": "wal_level_insufficient"}"#,
            "conflicting: wal_level",
        ),
        (r#"{"conflicting": false, "invalidation_reason": "idle_timeout"}"#, "idle_replication_slot_timeout"),
    ] {
        let told: String = origin.value(&format!("SELECT foreshard.slot_loss('{slot}')")).await?;
        assert!(told.contains(words), "{slot}: {told}");
    }
    Ok(())
}

#[tokio::test]
async fn a_followed_slot_that_holds_back_much_log_is_told() -> Result<()> {
    let origin = Origin::start().await?;
    let edge = origin.cluster.create_edge("ewr").await?;
    let sidecar = SidecarOptions::new("ewr", &edge.url).start().await?;
    eventually("the slot to be followed", Duration::from_secs(20), async || {
        let line = check(&origin, "slot of edge ewr").await?;
        Ok(line.filter(|(status, detail, _)| status == "ok" && detail.contains("is followed")))
    })
    .await?;
    // An open transaction keeps its log back, however quickly the edge follows.
    let open = origin.cluster.connect().await?;
    open.batch_execute("CREATE TABLE t (n int); BEGIN; INSERT INTO t VALUES (1)").await?;
    origin.db.batch_execute("SELECT pg_switch_wal(); CHECKPOINT").await?;
    origin.db.batch_execute("SET foreshard.retained_log_warning = '16kB'").await?;
    eventually("the warning", Duration::from_secs(20), async || {
        origin.db.batch_execute("SELECT pg_logical_emit_message(false, '', repeat('x', 100000))").await?;
        let line = check(&origin, "slot of edge ewr").await?;
        Ok(line.filter(|(status, detail, fix)| {
            status == "warn" && detail.contains("is behind and holds back") && fix.is_some()
        }))
    })
    .await?;
    origin.db.batch_execute("SET foreshard.retained_log_warning = '1TB'").await?;
    let (status, ..) = check(&origin, "slot of edge ewr").await?.expect("a line");
    assert_eq!(status, "ok");
    origin.db.batch_execute("SET foreshard.retained_log_warning = 'plenty'").await?;
    let error = error_of(&origin.db, "SELECT * FROM foreshard.health()").await?;
    assert_eq!(*error.code(), SqlState::INVALID_PARAMETER_VALUE, "{error}");
    drop(sidecar);
    Ok(())
}

#[tokio::test]
async fn rights_that_were_lost_are_told_and_given_back() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            "CREATE ROLE definer; CREATE SCHEMA own; CREATE TABLE own.t (id int PRIMARY KEY, k int, s text); ALTER TABLE own.t REPLICA IDENTITY FULL;
             GRANT USAGE ON SCHEMA foreshard, own TO definer; GRANT SELECT ON own.t TO definer;
             GRANT EXECUTE ON FUNCTION foreshard.create_shard, foreshard.create_query_shard TO definer;
             SET ROLE definer;
             SELECT foreshard.create_shard('t', 'own.t', 'k > 0', '{id}'), foreshard.create_shard('narrow', 'own.t', columns => '{id}'),
                foreshard.create_query_shard('q', 'SELECT count(*) AS n FROM own.t');
             RESET ROLE;
             CREATE ROLE sidecar LOGIN REPLICATION; SELECT foreshard.create_edge('ewr', role => 'sidecar')",
        )
        .await?;
    let lost = ["REVOKE SELECT ON own.t FROM definer", "REVOKE USAGE ON SCHEMA own FROM definer"];
    for (revoke, shard) in
        lost.iter().flat_map(|revoke| ["shard t", "shard narrow", "shard q"].map(|shard| (revoke, shard)))
    {
        origin.db.batch_execute(revoke).await?;
        mends_itself(&origin, shard, "definer, who defined it, may no longer read own.t").await?;
    }
    // Columns of a shard that shows some of them only.
    origin
        .db
        .batch_execute("REVOKE SELECT ON own.t FROM definer; GRANT SELECT (id, k) ON own.t TO definer")
        .await?;
    assert_eq!(check(&origin, "shard narrow").await?.expect("a line").0, "ok");
    mends_itself(&origin, "shard t", "may no longer read").await?;

    origin.db.batch_execute("ALTER ROLE sidecar NOLOGIN").await?;
    mends_itself(&origin, "role of edge ewr", "may not log in").await?;
    origin.db.batch_execute("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC").await?;
    mends_itself(&origin, "role of edge ewr", "may not connect").await?;
    Ok(())
}

#[tokio::test]
async fn lost_sources_owners_and_roles_are_told() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            "CREATE TABLE gone (id int); CREATE TABLE secured (id int); CREATE TABLE unlogged (id int);
             CREATE TABLE hidden (id int); CREATE TABLE quiet (id int);
             SELECT foreshard.create_shard(n, n::regclass) FROM unnest('{gone,secured,unlogged}'::text[]) n;
             SELECT foreshard.create_query_shard(n || ' query', 'SELECT id FROM ' || n) FROM unnest('{hidden,quiet}'::text[]) n;
             ALTER TABLE hidden ENABLE ROW LEVEL SECURITY; ALTER TABLE quiet SET UNLOGGED; DROP TABLE gone; ALTER TABLE secured ENABLE ROW LEVEL SECURITY; ALTER TABLE unlogged SET UNLOGGED;
             CREATE ROLE sidecar LOGIN REPLICATION; SELECT foreshard.create_edge('ewr', role => 'sidecar');
             ALTER ROLE sidecar NOREPLICATION",
        )
        .await?;
    let (status, detail, _) = check(&origin, "shard gone").await?.expect("a line");
    assert_eq!((status.as_str(), detail.as_str()), ("fail", "the source table is gone"));
    mends_itself(&origin, "shard secured", "row-level security").await?;
    mends_itself(&origin, "shard unlogged", "not logged").await?;
    mends_itself(&origin, "shard \"hidden query\"", "public.hidden has row-level security").await?;
    mends_itself(&origin, "shard \"quiet query\"", "public.quiet are not logged").await?;
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
    origin.db.batch_execute("DROP OWNED BY sidecar; DROP ROLE sidecar").await?;
    for (edge, wanted, words) in
        [("jfk", "warn", "only a superuser can run this edge"), ("ewr", "fail", "its role was dropped")]
    {
        let (status, detail, fix) = check(&origin, &format!("role of edge {edge}")).await?.expect("a line");
        assert!(status == wanted && detail.contains(words), "{edge}: {status} {detail}");
        let fix = fix.expect("a fix").replace('…', "postgres");
        origin.db.batch_execute(&fix).await?;
        let (status, ..) = check(&origin, &format!("role of edge {edge}")).await?.expect("a line");
        assert_eq!(status, "ok", "{edge} after {fix}");
    }
    Ok(())
}
