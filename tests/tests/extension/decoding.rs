//! Row changes become the events of exactly the instances they touch, or of more where the log does not tell.

use anyhow::Result;

use crate::origin::{Origin, in_words};

const CARTS: &str = "CREATE TABLE cart (id int PRIMARY KEY, customer int, status text, note text);
    SELECT foreshard.create_shard('cart', 'cart', key => '{customer}');
    SELECT foreshard.create_shard('open', 'cart', predicate => $$status = 'open'$$, key => '{customer}');
    SELECT foreshard.create_shard('whole', 'cart');
    SELECT foreshard.create_shard('paid', 'cart', predicate => $$status = 'paid'$$)";

async fn with_old_images() -> Result<Origin> {
    Origin::followed(&format!("{CARTS}; ALTER TABLE cart REPLICA IDENTITY FULL")).await
}

#[tokio::test]
async fn insert_update_and_delete_touch_the_row_s_instances() -> Result<()> {
    let origin = with_old_images().await?;
    assert_eq!(
        origin.after("INSERT INTO cart VALUES (1, 7, 'open')").await?,
        ["cart 7", "open 7", "whole Whole(Rows)"]
    );
    assert_eq!(origin.after("UPDATE cart SET note = 'x'").await?, ["cart 7", "open 7", "whole Whole(Rows)"]);
    assert_eq!(origin.after("DELETE FROM cart").await?, ["cart 7", "open 7", "whole Whole(Rows)"]);
    Ok(())
}

#[tokio::test]
async fn a_key_move_touches_the_instance_left_and_the_one_entered() -> Result<()> {
    let origin = with_old_images().await?;
    origin.after("INSERT INTO cart VALUES (1, 7, 'open')").await?;
    assert_eq!(
        origin.after("UPDATE cart SET customer = 8").await?,
        ["cart 7 8", "open 7 8", "whole Whole(Rows)"]
    );
    assert_eq!(
        origin.after("UPDATE cart SET customer = NULL").await?,
        ["cart NULL 8", "open NULL 8", "whole Whole(Rows)"]
    );
    Ok(())
}

#[tokio::test]
async fn a_predicate_flip_touches_the_shard_left_and_the_one_entered() -> Result<()> {
    let origin = with_old_images().await?;
    origin.after("INSERT INTO cart VALUES (1, 7, 'open')").await?;
    assert_eq!(
        origin.after("UPDATE cart SET status = 'paid'").await?,
        ["cart 7", "open 7", "paid Whole(Rows)", "whole Whole(Rows)"]
    );
    assert_eq!(
        origin.after("UPDATE cart SET status = 'lost'").await?,
        ["cart 7", "paid Whole(Rows)", "whole Whole(Rows)"]
    );
    // A NULL predicate is not true.
    assert_eq!(origin.after("UPDATE cart SET status = NULL").await?, ["cart 7", "whole Whole(Rows)"]);
    Ok(())
}

#[tokio::test]
async fn without_the_old_image_the_whole_shard_is_invalid() -> Result<()> {
    let origin = Origin::followed(CARTS).await?;
    assert_eq!(
        origin.after("INSERT INTO cart VALUES (1, 7, 'open')").await?,
        ["cart 7", "open 7", "whole Whole(Rows)"]
    );
    let all = ["cart Whole(OldImage)", "open Whole(OldImage)", "paid Whole(OldImage)", "whole Whole(Rows)"];
    for statement in ["UPDATE cart SET note = 'x'", "UPDATE cart SET id = 2", "DELETE FROM cart"] {
        assert_eq!(origin.after(statement).await?, all, "{statement}");
    }
    Ok(())
}

#[tokio::test]
async fn an_identity_index_over_key_and_predicate_is_as_good_as_full() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE cart (id int PRIMARY KEY, customer int NOT NULL, status text NOT NULL, note text);
         CREATE UNIQUE INDEX cart_identity ON cart (customer, status, id);
         ALTER TABLE cart REPLICA IDENTITY USING INDEX cart_identity;
         SELECT foreshard.create_shard('open', 'cart', predicate => $$status = 'open'$$, key => '{customer}')",
    )
    .await?;
    assert_eq!(origin.after("INSERT INTO cart VALUES (1, 7, 'open')").await?, ["open 7"]);
    assert_eq!(origin.after("UPDATE cart SET note = 'x'").await?, ["open 7"]);
    assert_eq!(origin.after("UPDATE cart SET customer = 8").await?, ["open 7 8"]);
    assert_eq!(origin.after("UPDATE cart SET status = 'paid'").await?, ["open 8"]);
    assert!(origin.after("UPDATE cart SET note = 'y'").await?.is_empty());
    assert_eq!(origin.after("UPDATE cart SET status = 'open'").await?, ["open 8"]);
    assert_eq!(origin.after("DELETE FROM cart").await?, ["open 8"]);
    Ok(())
}

#[tokio::test]
async fn a_known_key_with_an_unknown_predicate_touches_the_key_only() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE item (customer int PRIMARY KEY, status text);
         SELECT foreshard.create_shard('open', 'item', predicate => $$status = 'open'$$, key => '{customer}')",
    )
    .await?;
    origin.after("INSERT INTO item VALUES (1, 'open'), (2, 'open')").await?;
    assert_eq!(origin.after("UPDATE item SET status = 'paid' WHERE customer = 1").await?, ["open 1"]);
    assert_eq!(origin.after("DELETE FROM item WHERE customer = 2").await?, ["open 2"]);
    Ok(())
}

#[tokio::test]
async fn replica_identity_nothing_still_invalidates() -> Result<()> {
    let origin = Origin::followed(&format!("{CARTS}; ALTER TABLE cart REPLICA IDENTITY NOTHING")).await?;
    origin.after("INSERT INTO cart VALUES (1, 7, 'open')").await?;
    let all = ["cart Whole(OldImage)", "open Whole(OldImage)", "paid Whole(OldImage)", "whole Whole(Rows)"];
    assert_eq!(origin.after("UPDATE cart SET note = 'x'").await?, all);
    assert_eq!(origin.after("DELETE FROM cart").await?, all);
    Ok(())
}

#[tokio::test]
async fn unchanged_toast_is_not_read_as_null() -> Result<()> {
    let setup = |identity: &str| {
        format!(
            "CREATE TABLE page (id int PRIMARY KEY, body text, n int);
             ALTER TABLE page ALTER body SET STORAGE EXTERNAL, REPLICA IDENTITY {identity};
             SELECT foreshard.create_shard('long', 'page', predicate => 'length(body) > 5000', key => '{{id}}');
             SELECT foreshard.create_shard('none', 'page', predicate => 'body IS NULL', key => '{{id}}')"
        )
    };
    let origin = Origin::followed(&setup("FULL")).await?;
    origin.after("INSERT INTO page VALUES (1, repeat('x', 10000), 0)").await?;
    assert_eq!(origin.after("UPDATE page SET n = n + 1").await?, ["long 1"]);
    assert_eq!(origin.after("UPDATE page SET id = 2").await?, ["long 1 2"]);
    assert_eq!(origin.after("UPDATE page SET body = 'short'").await?, ["long 2"]);

    let origin = Origin::followed(&setup("DEFAULT")).await?;
    origin.after("INSERT INTO page VALUES (1, repeat('x', 10000), 0)").await?;
    // The log holds no body, neither before nor after: the row may be in either shard.
    assert_eq!(origin.after("UPDATE page SET n = n + 1").await?, ["long 1", "none 1"]);
    Ok(())
}

#[tokio::test]
async fn truncate_invalidates_every_shard_on_every_table_it_reaches() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a);
         CREATE TABLE c (id int);
         SELECT foreshard.create_shard(t, t::regclass, key => '{id}') FROM unnest('{a,b,c}'::text[]) t",
    )
    .await?;
    assert_eq!(
        origin.after("TRUNCATE a RESTART IDENTITY CASCADE").await?,
        ["a Whole(Truncate)", "b Whole(Truncate)"]
    );
    assert_eq!(origin.after("TRUNCATE c; ").await?, ["c Whole(Truncate)"]);
    assert_eq!(
        origin
            .after("BEGIN; INSERT INTO c VALUES (1); TRUNCATE b, c; INSERT INTO c VALUES (2); COMMIT")
            .await?,
        ["b Whole(Truncate)", "c Whole(Truncate)"]
    );
    Ok(())
}

#[tokio::test]
async fn what_is_rolled_back_is_not_told() -> Result<()> {
    let origin = with_old_images().await?;
    assert!(origin.after("BEGIN; INSERT INTO cart VALUES (1, 7, 'open'); ROLLBACK").await?.is_empty());
    let events = origin
        .after(
            "BEGIN; INSERT INTO cart VALUES (1, 1, 'x'); SAVEPOINT s; INSERT INTO cart VALUES (2, 2, 'x');
             ROLLBACK TO s; SAVEPOINT t; INSERT INTO cart VALUES (3, 3, 'x'); RELEASE t; COMMIT",
        )
        .await?;
    assert_eq!(events, ["cart 1 3", "whole Whole(Rows)"]);
    Ok(())
}

#[tokio::test]
async fn a_prepared_transaction_is_told_when_it_commits_with_its_own_id() -> Result<()> {
    let origin =
        Origin::with(foreshard_tests::ClusterOptions::new()?.setting("max_prepared_transactions", "5"))
            .await?;
    origin.db.batch_execute(CARTS).await?;
    origin.map_all().await?;
    origin.create_slot().await?;
    origin.db.batch_execute("BEGIN; INSERT INTO cart VALUES (1, 7, 'x')").await?;
    let xid: i64 = origin.value("SELECT pg_current_xact_id()::text::bigint").await?;
    assert!(origin.after("PREPARE TRANSACTION 'p'").await?.is_empty());
    origin.db.batch_execute("COMMIT PREPARED 'p'").await?;
    let frames = origin.frames().await?;
    assert_eq!(in_words(&frames), ["cart 7", "whole Whole(Rows)"]);
    assert_eq!(frames[0].xid, xid.unsigned_abs());
    Ok(())
}

#[tokio::test]
async fn a_frame_says_which_transaction_committed_where_and_when() -> Result<()> {
    let origin = with_old_images().await?;
    origin.db.batch_execute("BEGIN; SAVEPOINT s; INSERT INTO cart VALUES (1, 7, 'x')").await?;
    let xid: i64 = origin.value("SELECT pg_current_xact_id()::text::bigint").await?;
    origin.db.batch_execute("COMMIT").await?;
    let after: String = origin.value("SELECT pg_current_wal_lsn()::text").await?;
    let now: i64 = origin.value("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").await?;
    let frames = origin.frames().await?;
    let [frame] = &frames[..] else { anyhow::bail!("one frame, not {frames:?}") };
    assert_eq!(frame.xid, xid.unsigned_abs(), "the top-level id");
    assert!(frame.commit_lsn < frame.end_lsn && frame.end_lsn <= after.parse()?, "{frame:?}");
    assert!((now - frame.commit_time).abs() < 60_000_000, "{} {now}", frame.commit_time);
    Ok(())
}

#[tokio::test]
async fn a_large_transaction_becomes_one_event_per_shard() -> Result<()> {
    let origin = with_old_images().await?;
    let events = origin
        .after("INSERT INTO cart SELECT g, g, CASE g % 500 WHEN 0 THEN 'open' END FROM generate_series(1, 100000) g")
        .await?;
    assert_eq!(events.len(), 3, "{events:?}");
    assert_eq!(events[0], "cart Whole(Coarsened)");
    assert_eq!(events[1].split(' ').count(), 201, "200 open ones are still told apart");
    Ok(())
}

#[tokio::test]
async fn unrelated_tables_make_no_frames() -> Result<()> {
    let origin = with_old_images().await?;
    let events = origin
        .after("CREATE TABLE other (n int); INSERT INTO other VALUES (1); UPDATE other SET n = 2; DROP TABLE other; ANALYZE cart")
        .await?;
    assert!(events.is_empty(), "{events:?}");
    Ok(())
}

#[tokio::test]
async fn a_predicate_that_fails_on_a_row_means_maybe_and_stops_nothing() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE t (id int PRIMARY KEY, n int, s text);
         ALTER TABLE t REPLICA IDENTITY FULL;
         SELECT foreshard.create_shard('ratio', 't', predicate => '100 / n > 5');
         SELECT foreshard.create_shard('number', 't', predicate => 's::int > 5', key => '{id}');
         SELECT foreshard.create_shard('all', 't', key => '{id}')",
    )
    .await?;
    assert_eq!(
        origin.after("INSERT INTO t VALUES (1, 0, 'x')").await?,
        ["all 1", "number 1", "ratio Whole(Evaluation)"]
    );
    let events = origin.after("INSERT INTO t SELECT g, g % 2, 'x' FROM generate_series(2, 2000) g").await?;
    assert_eq!(events, ["all Whole(Coarsened)", "number Whole(Coarsened)", "ratio Whole(Evaluation)"]);
    assert_eq!(
        origin.after("INSERT INTO t VALUES (0, 1, '9')").await?,
        ["all 0", "number 0", "ratio Whole(Rows)"]
    );
    assert_eq!(origin.after("INSERT INTO t VALUES (-1, 50, '1')").await?, ["all -1"]);
    Ok(())
}

#[tokio::test]
async fn keys_of_every_type_are_what_a_fetch_calls_canonical() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TYPE mood AS ENUM ('sad', 'so so'); CREATE DOMAIN small AS int CHECK (value < 100);
         CREATE TABLE k (a smallint, b int, c bigint, d oid, e bool, f text, g varchar(9), h char(4), i name, j uuid,
             k date, l timestamp, m timestamptz, n mood, o small);
         SELECT foreshard.create_shard('by_' || attname, 'k', key => array[attname])
         FROM pg_attribute WHERE attrelid = 'k'::regclass AND attnum > 0",
    )
    .await?;
    // Settings of the deciding session must not matter.
    origin
        .db
        .batch_execute(
            "SET datestyle = 'German'; SET timezone = 'Asia/Kolkata'; SET intervalstyle = 'iso_8601'",
        )
        .await?;
    origin
        .db
        .batch_execute(
            "INSERT INTO k VALUES (-1, 2, 3, 4, true, 'a b', 'ä', 'x', 'n', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11',
                '2024-05-01', '2024-05-01 10:00:00.5', '2024-05-01 10:00:00+02', 'so so', 7),
             (NULL, NULL, NULL, NULL, NULL, '', '', '', '', NULL, 'infinity', '-infinity', '0044-03-15 00:00:00+00 BC', NULL, NULL)",
        )
        .await?;
    let frames = origin.frames().await?;
    let mut instances = Vec::new();
    for event in frames.iter().flat_map(|frame| &frame.events) {
        let foreshard_protocol::Event::Shard { shard, change: foreshard_protocol::KeyChange::Keys(keys) } =
            event
        else {
            anyhow::bail!("{event:?}")
        };
        for key in keys {
            let id = foreshard_protocol::InstanceId { shard: shard.clone(), key: key.clone() };
            instances.push(id.to_string());
        }
    }
    assert_eq!(instances.len(), 30, "{instances:?}");
    let asked: Vec<&str> = instances.iter().map(String::as_str).collect();
    let mut answered = Vec::new();
    for part in origin.fetch(&asked).await? {
        match part {
            foreshard_protocol::FetchPart::Instance { canonical, .. } => answered.push(canonical),
            foreshard_protocol::FetchPart::Rows { rows, .. } => assert_eq!(rows.len(), 1, "{answered:?}"),
            foreshard_protocol::FetchPart::Failed { message, .. } => anyhow::bail!(message),
            foreshard_protocol::FetchPart::Header(_) | foreshard_protocol::FetchPart::Horizon(_) => {}
        }
    }
    assert_eq!(answered, instances);
    Ok(())
}
