//! Definitions and schedules come in commit order with the data, and apply from where they were committed.

use anyhow::Result;

use crate::origin::{Origin, error_of, in_words};

#[tokio::test]
async fn definitions_schedules_and_data_come_in_commit_order() -> Result<()> {
    let origin =
        Origin::followed("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)").await?;
    origin
        .db
        .batch_execute(
            "INSERT INTO t VALUES (1);
             SELECT foreshard.create_shard('t', 't', key => '{id}');",
        )
        .await?;
    let publish = r#"SELECT foreshard.publish_schedule('jfk', now(), now() + interval '1 min',
        '[{"function_id": "f", "shard_list": ["t?id=2"], "confidence": 0.5}]')"#;
    for statement in [
        "INSERT INTO t VALUES (2)",
        "SELECT foreshard.map_function('f', '{t}')",
        "INSERT INTO t VALUES (3)",
        publish,
        "SELECT foreshard.create_shard('u', 'u')",
        "SELECT foreshard.map_function('f', '{u,t}')",
        "INSERT INTO u VALUES (1)",
        "SELECT foreshard.create_shard('t', 't', key => '{id}', predicate => 'id > 0', or_replace => true)",
        "INSERT INTO t VALUES (4)",
        "SELECT foreshard.drop_shard('u')",
        "INSERT INTO u VALUES (2)",
        "INSERT INTO t VALUES (5)",
        "SELECT foreshard.unmap_function('f')",
        "INSERT INTO t VALUES (6)",
    ] {
        origin.db.batch_execute(statement).await?;
    }
    let wanted = [
        "+shard t",
        "f = t",
        "t 3",
        "schedule 1",
        "+shard u",
        "f = u,t",
        "u Whole(Rows)",
        "+shard t",
        "t 4",
        "f = t",
        "-shard u",
        "t 5",
        "-f",
        "-shard t",
    ];
    assert_eq!(in_words(&origin.peek().await?), wanted, "in one session");
    assert_eq!(in_words(&origin.frames().await?), wanted, "and again");
    Ok(())
}

#[tokio::test]
async fn an_identical_redefinition_is_a_no_op() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE t (id int PRIMARY KEY, s text);
         SELECT foreshard.create_shard('t', 't', predicate => $$s='x'$$, key => '{id}', columns => '{id,s}')",
    )
    .await?;
    let before: i64 = origin.value("SELECT generation FROM foreshard.shards").await?;
    let events = origin
        .after(
            "SELECT foreshard.create_shard('t', 't', $$ s  = 'x' $$, '{id}', '{id,s}', or_replace => true);
             SELECT foreshard.create_shard('t', 't', if_not_exists => true);
             SELECT foreshard.map_function('f', '{t}');
             SELECT foreshard.create_edge('jfk', if_not_exists => true);
             SELECT foreshard.drop_shard('nope', if_exists => true);
             SELECT foreshard.unmap_function('nope', if_exists => true);
             SELECT foreshard.drop_edge('nope', if_exists => true)",
        )
        .await?;
    assert!(events.is_empty(), "{events:?}");
    let after: i64 = origin.value("SELECT generation FROM foreshard.shards").await?;
    assert_eq!(before, after);
    for (change, arguments) in [
        ("predicate", "$$s = 'y'$$, '{id}', '{id,s}'"),
        ("key", "$$s = 'y'$$, '{s}', '{id,s}'"),
        ("columns", "$$s = 'y'$$, '{s}', '{s,id}'"),
        ("all columns", "$$s = 'y'$$, '{s}', NULL"),
    ] {
        let call = format!("SELECT foreshard.create_shard('t', 't', {arguments}, or_replace => true)");
        assert_eq!(origin.after(&call).await?, ["+shard t"], "{change}");
        assert!(origin.after(&call).await?.is_empty(), "{change} again");
    }
    Ok(())
}

/// The row was written before the shard existed and commits after the edge may have copied it: its snapshot does not see the
/// definition, yet the copy must hear of the row.
#[tokio::test]
async fn a_transaction_older_than_the_shard_is_told_to_it() -> Result<()> {
    let origin = Origin::followed("CREATE TABLE t (id int PRIMARY KEY)").await?;
    let writer = origin.cluster.connect().await?;

    // In one session: the definition is decoded before the row.
    writer.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await?;
    origin.db.batch_execute("SELECT foreshard.create_shard('t', 't', key => '{id}')").await?;
    origin.map_all().await?;
    writer.batch_execute("COMMIT").await?;
    assert_eq!(in_words(&origin.peek().await?), ["+shard t", "f = t", "t 1"]);
    assert_eq!(in_words(&origin.frames().await?), ["+shard t", "f = t", "t 1"]);

    // The session begins between the two: the row comes first, and cannot be placed any more.
    writer.batch_execute("BEGIN; INSERT INTO t VALUES (2)").await?;
    origin.db.batch_execute("SELECT foreshard.create_shard('u', 't', key => '{id}')").await?;
    origin.map_all().await?;
    assert_eq!(in_words(&origin.frames().await?), ["+shard u", "f = t,u"]);
    writer.batch_execute("COMMIT").await?;
    assert_eq!(in_words(&origin.frames().await?), ["t 2", "u Whole(Coarsened)"]);
    Ok(())
}

#[tokio::test]
async fn a_definition_and_rows_in_one_transaction() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE t (id int PRIMARY KEY, n int);
         SELECT foreshard.create_shard('t', 't', key => '{id}')",
    )
    .await?;
    let events = origin
        .after(
            "BEGIN; INSERT INTO t VALUES (1, 2);
             SELECT foreshard.create_shard('t', 't', key => '{n}', or_replace => true);
             INSERT INTO t VALUES (3, 4); COMMIT",
        )
        .await?;
    assert_eq!(events[0], "+shard t", "{events:?}");
    assert_eq!(origin.after("INSERT INTO t VALUES (5, 6)").await?, ["t 6"]);
    // A definition that is rolled back is none.
    let events = origin
        .after(
            "BEGIN; SAVEPOINT s; SELECT foreshard.create_shard('t', 't', or_replace => true);
             ROLLBACK TO s; INSERT INTO t VALUES (7, 8); COMMIT",
        )
        .await?;
    assert_eq!(events, ["t 8"]);
    Ok(())
}

/// Copies are kept under one spelling of each value.
#[tokio::test]
async fn key_values_of_schedules_are_spelled_as_those_of_copies() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TYPE mood AS ENUM ('good', 'so so'); CREATE DOMAIN number AS int; CREATE SCHEMA own;
         CREATE TABLE own.t (id int PRIMARY KEY, n number, d date, m mood, c char(4), u uuid, s text, z timestamptz, gone int);
         SELECT foreshard.create_shard('one', 'own.t', key => '{n}'), foreshard.create_shard('four', 'own.t', key => '{d,m,c,u}'),
            foreshard.create_shard('two', 'own.t', key => '{s,z}'), foreshard.create_shard('gone', 'own.t', key => '{gone}'),
            foreshard.create_query_shard('query', 'SELECT id FROM own.t WHERE n = $1 AND n > $2::numeric', '{n,than}'),
            foreshard.create_shard('all', 'own.t')",
    )
    .await?;
    origin.db.batch_execute("ALTER TABLE own.t DROP gone").await?;
    let u = "00000000-0000-0000-0000-00000000000a";
    let spellings = [
        ("all", "all".to_owned()),
        ("one?n=01", "one?n=1".to_owned()),
        ("one?n=1", "one?n=1".to_owned()),
        ("one?n=%20-2%20", "one?n=-2".to_owned()),
        ("one?n", "one?n".to_owned()),
        (
            "four?d=20240501&m=so%20so&c=ab&u=%7B0000000000000000000000000000000A%7D",
            format!("four?d=2024-05-01&m=so%20so&c=ab%20%20&u={u}"),
        ),
        ("two?s=01&z=2024-05-01%2002:00%2B02", "two?s=01&z=2024-05-01%2000%3A00%3A00%2B00".to_owned()),
        ("two?s=x&z=2024-05-01%2010:00", "two?s=x&z=2024-05-01%2010%3A00%3A00%2B00".to_owned()),
        ("query?n=007&than=1.50", "query?n=7&than=1.50".to_owned()),
        ("gone?gone=x", "gone?gone=x".to_owned()),
    ];
    let entries = serde_json::json!([
        {"function_id": "f", "shard_list": spellings.iter().map(|(given, _)| *given).collect::<Vec<_>>(), "confidence": 1},
        {"function_id": "f", "shard_list": ["one?n=3"], "confidence": 0.5},
    ]);
    let publish = "SELECT foreshard.publish_schedule('jfk', now(), now() + interval '1 min', $1)";
    // A fetch does not go by the session's settings either.
    origin.db.batch_execute("SET timezone = 'Asia/Tokyo'; SET datestyle = 'SQL, DMY'").await?;
    origin.db.query_one(publish, &[&entries]).await?;
    let schedules = origin.catalog().await?.schedules;
    let wanted: Vec<&str> = spellings.iter().map(|(_, wanted)| wanted.as_str()).collect();
    assert_eq!(schedules[0].entries[0].shard_list, wanted);
    assert_eq!(schedules[0].entries[1].shard_list, ["one?n=3"]);
    assert_eq!(schedules[0].entries[1].confidence, 0.5);
    // What a fetch says of them, too.
    for (given, wanted) in spellings.iter().filter(|(given, _)| !given.starts_with("gone")) {
        let parts = origin.fetch(&[*given]).await?;
        let foreshard_protocol::FetchPart::Instance { canonical, .. } = &parts[1] else {
            anyhow::bail!("{given}: {parts:?}")
        };
        assert_eq!(canonical, wanted);
    }
    for (instance, words) in [
        ("one?n=1.5", "the value of key column n of shard one is not of type public.number"),
        (
            "four?d=2024-05-01&m=bad&c=a&u",
            "the value of key column m of shard four is not of type public.mood",
        ),
        ("query?n=1&than=much", "the value of key column than of shard query is not of type numeric"),
        ("two?s=%00&z", "the value of key column s of shard two is not of type text"),
    ] {
        let entries = serde_json::json!([
            {"function_id": "f", "shard_list": ["one?n=x"], "confidence": 1},
            {"function_id": "f", "shard_list": [instance, instance, "all"], "confidence": 1},
        ]);
        let publish = format!(
            "SELECT foreshard.publish_schedule('jfk', now(), now() + interval '1 min', $e${entries}$e$)"
        );
        let error = error_of(&origin.db, &publish).await?;
        assert!(error.message().starts_with("entry 0 of the schedule: shard_list has 'one?n=x'"), "{error}");
        // All of them, for foreshard plan to take out.
        let mut misfits: Vec<String> = serde_json::from_str(error.detail().unwrap_or_default())?;
        misfits.sort();
        let mut wanted = vec![instance.to_owned(), "one?n=x".to_owned()];
        wanted.sort();
        assert_eq!(misfits, wanted);
        let error = error_of(&origin.db, &publish.replace("\"one?n=x\"", "\"one?n=1\"")).await?;
        assert!(error.message().ends_with(words), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("ISO")), "{error:?}");
    }
    Ok(())
}

#[tokio::test]
async fn only_the_edge_s_own_schedules_come() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE t (id int PRIMARY KEY); SELECT foreshard.create_shard('t', 't', key => '{id}');
         SELECT foreshard.create_edge('ewr')",
    )
    .await?;
    for edge in ["ewr", "jfk", "ewr"] {
        let publish = format!(
            r#"SELECT foreshard.publish_schedule('{edge}', '2024-05-01 10:00Z', '2024-05-01 10:05Z',
                '[{{"function_id": "f", "shard_list": ["t?id=1", "t?id"], "confidence": 1}},
                  {{"function_id": "f", "shard_list": ["t?id=2"], "confidence": 0.125}}]')"#
        );
        origin.db.batch_execute(&publish).await?;
    }
    let frames = origin.frames().await?;
    assert_eq!(in_words(&frames), ["schedule 2"]);
    let foreshard_protocol::Event::Schedule(schedule) = &frames[0].events[0] else { unreachable!() };
    assert_eq!((schedule.starts_at, schedule.ends_at), (1_714_557_600_000_000, 1_714_557_900_000_000));
    assert_eq!(schedule.entries[0].shard_list, ["t?id=1", "t?id"]);
    assert_eq!(schedule.entries[1].confidence, 0.125);
    assert_eq!(origin.catalog().await?.schedules, std::slice::from_ref(schedule));
    Ok(())
}

/// Larger than a page: the row's entries live in the TOAST table, and the log has them in pieces.
#[tokio::test]
async fn a_large_schedule_comes_whole() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE t (id int PRIMARY KEY); SELECT foreshard.create_shard('t', 't', key => '{id}')",
    )
    .await?;
    let publish = "SELECT foreshard.publish_schedule('jfk', now(), now() + interval '1 min', (
        SELECT jsonb_agg(jsonb_build_object('function_id', 'f', 'shard_list', jsonb_build_array('t?id=' || g), 'confidence', random()))
        FROM generate_series(1, 20000) g))";
    origin.db.batch_execute(publish).await?;
    let frames = origin.frames().await?;
    let foreshard_protocol::Event::Schedule(schedule) = &frames[0].events[0] else { unreachable!() };
    assert_eq!(schedule.entries.len(), 20000);
    assert_eq!(schedule.entries[19999].shard_list, ["t?id=20000"]);
    Ok(())
}

#[tokio::test]
async fn dropping_the_edge_ends_its_stream() -> Result<()> {
    let origin =
        Origin::followed("CREATE TABLE t (id int PRIMARY KEY); SELECT foreshard.create_shard('t', 't')")
            .await?;
    // Its row goes, and comes back, behind the slot's back: drop_edge itself would take the slot along.
    origin.db.batch_execute("DELETE FROM foreshard.edge").await?;
    origin.db.batch_execute("SELECT foreshard.create_edge('jfk')").await?;
    assert_eq!(in_words(&origin.frames().await?), ["edge dropped"]);
    let slots: i64 = origin.value("SELECT count(*) FROM pg_replication_slots").await?;
    assert_eq!(slots, 1);
    origin.db.batch_execute("SELECT foreshard.drop_edge('jfk')").await?;
    let slots: i64 = origin.value("SELECT count(*) FROM pg_replication_slots").await?;
    assert_eq!(slots, 0);
    Ok(())
}

/// A commit that waits for a synchronous standby is in the log, and decoded, but nobody sees it: a shard that is defined meanwhile is told
/// which transactions its first copy has to hold. So is an edge that begins meanwhile.
#[tokio::test]
async fn a_new_shard_is_told_of_commits_that_nobody_sees_yet() -> Result<()> {
    let options = foreshard_tests::ClusterOptions::new()?.setting("synchronous_standby_names", "nobody");
    let origin = Origin::with(options.setting("synchronous_commit", "local")).await?;
    origin.db.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await?;
    origin.create_slot().await?;
    let running = origin.cluster.connect().await?;
    running.batch_execute("BEGIN; INSERT INTO t VALUES (7)").await?;
    let writer = origin.cluster.connect().await?;
    writer.batch_execute("SET synchronous_commit = on; BEGIN; INSERT INTO t VALUES (1)").await?;
    let row = writer.query_one("SELECT pg_current_xact_id()::text::bigint, pg_backend_pid()", &[]).await?;
    let (xid, pid): (i64, i32) = (row.get(0), row.get(1));
    let commit = tokio::spawn(async move { writer.batch_execute("COMMIT").await });
    let waits =
        format!("SELECT coalesce(wait_event = 'SyncRep', false) FROM pg_stat_activity WHERE pid = {pid}");
    foreshard_tests::eventually("the commit waits", std::time::Duration::from_secs(20), || async {
        Ok(origin.value::<bool>(&waits).await?.then_some(()))
    })
    .await?;
    assert_eq!(origin.value::<i64>("SELECT count(*) FROM t").await?, 0, "nobody sees it");

    origin.db.batch_execute("SELECT foreshard.create_shard('t', 't')").await?;
    origin.map_all().await?;
    let told = |frames: &[foreshard_protocol::Frame]| -> Vec<u64> {
        let events = frames.iter().flat_map(|frame| &frame.events);
        let xids = events.filter_map(|event| match event {
            foreshard_protocol::Event::Unsettled(xids) => Some(xids.clone()),
            _ => None,
        });
        xids.flatten().collect()
    };
    assert_eq!(told(&origin.peek().await?), [xid.unsigned_abs()], "not the one that is still running");
    assert_eq!(origin.catalog().await?.unsettled, [xid.unsigned_abs()]);

    origin.db.execute("SELECT pg_cancel_backend($1)", &[&pid]).await?;
    commit.await??;
    assert!(origin.catalog().await?.unsettled.is_empty());
    assert!(told(&origin.frames().await?).is_empty(), "decoded again, when everybody sees it");
    Ok(())
}
