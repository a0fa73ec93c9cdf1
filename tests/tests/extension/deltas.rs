//! What becomes of rows, for consumers that ask for it: the same bytes that a fetch brings, or no rows at all.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use foreshard_protocol::{Event, FetchPart, KeyChange, Row, RowChange, fingerprint};

use crate::origin::Origin;
use crate::values::{fetched, table};

const CARTS: &str = "CREATE TABLE cart (id int PRIMARY KEY, customer int, status text, note text);
    SELECT foreshard.create_shard('cart', 'cart', key => '{customer}', columns => '{id,status}');
    SELECT foreshard.create_shard('open', 'cart', predicate => $$status = 'open'$$, columns => '{note,id}');";

async fn with_old_images() -> Result<Origin> {
    Origin::followed(&format!("{CARTS}; ALTER TABLE cart REPLICA IDENTITY FULL")).await
}

#[tokio::test]
async fn rows_are_put_and_removed_where_they_belong() -> Result<()> {
    let origin = with_old_images().await?;
    for (statement, events) in [
        ("INSERT INTO cart VALUES (1, 7, 'open', 'a')", &["cart 7: +1/open", "open +a/1"][..]),
        ("UPDATE cart SET note = NULL", &["open +NULL/1"]),
        ("UPDATE cart SET status = 'paid'", &["cart 7: +1/paid", "open -1"]),
        ("UPDATE cart SET customer = 8", &["cart 7: -1; 8: +1/paid"]),
        ("UPDATE cart SET id = 2, status = 'open'", &["cart 8: -1 +2/open", "open +NULL/2"]),
        ("UPDATE cart SET id = 3", &["cart 8: -2 +3/open", "open -2 +NULL/3"]),
        ("DELETE FROM cart", &["cart 8: -3", "open -3"]),
    ] {
        assert_eq!(origin.rows_after(statement).await?, events, "{statement}");
    }
    Ok(())
}

#[tokio::test]
async fn the_last_change_of_a_row_in_a_transaction_wins() -> Result<()> {
    let origin = with_old_images().await?;
    let events = origin
        .rows_after(
            "BEGIN; INSERT INTO cart VALUES (1, 7, 'x'), (2, 7, 'x'); UPDATE cart SET status = 'y' WHERE id = 1;
             SAVEPOINT s; UPDATE cart SET status = 'z'; ROLLBACK TO s; DELETE FROM cart WHERE id = 2;
             INSERT INTO cart VALUES (3, 7, 'x'); DELETE FROM cart WHERE id = 3; INSERT INTO cart VALUES (3, 8, 'w'); COMMIT",
        )
        .await?;
    assert_eq!(events, ["cart 7: +1/y -2 -3; 8: +3/w"]);
    Ok(())
}

/// With the primary key alone in the log a row that perhaps was in a shard is known to be in it, or not, afterwards.
#[tokio::test]
async fn the_primary_key_is_enough_for_a_shard_without_key() -> Result<()> {
    let origin = Origin::followed(CARTS).await?;
    for (statement, events) in [
        ("INSERT INTO cart VALUES (1, 7, 'open', 'a')", &["cart 7: +1/open", "open +a/1"][..]),
        ("UPDATE cart SET note = 'b'", &["cart Whole(OldImage)", "open +b/1"]),
        ("UPDATE cart SET status = 'paid'", &["cart Whole(OldImage)", "open -1"]),
        ("UPDATE cart SET id = 2", &["cart Whole(OldImage)", "open -1"]),
        ("DELETE FROM cart", &["cart Whole(OldImage)", "open -2"]),
    ] {
        assert_eq!(origin.rows_after(statement).await?, events, "{statement}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_not_certain_comes_without_rows() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE page (id int PRIMARY KEY, body text, n int);
         ALTER TABLE page ALTER body SET STORAGE EXTERNAL;
         CREATE TABLE log (n int); ALTER TABLE log REPLICA IDENTITY FULL;
         CREATE TABLE late (id int PRIMARY KEY DEFERRABLE, n int); ALTER TABLE late REPLICA IDENTITY FULL;
         SELECT foreshard.create_shard('page', 'page', key => '{id}');
         SELECT foreshard.create_shard('ratio', 'page', '100 / n > 5');
         SELECT foreshard.create_shard('hidden', 'page', columns => '{n}');
         SELECT foreshard.create_shard('log', 'log'); SELECT foreshard.create_shard('late', 'late')",
    )
    .await?;
    let long = "x".repeat(10_000);
    let insert = format!("INSERT INTO page VALUES (1, '{long}', 10)");
    let put = format!("+1/{long}/10");
    assert_eq!(
        origin.rows_after(&insert).await?,
        ["hidden Whole(Rows)".to_owned(), format!("page 1: {put}"), format!("ratio {put}")]
    );
    for (statement, events) in [
        // The log does not say what is in the body.
        ("UPDATE page SET n = 15", &["hidden Whole(Rows)", "page 1", "ratio Whole(Rows)"][..]),
        (
            "UPDATE page SET n = 0, body = ''",
            &["hidden Whole(Rows)", "page 1: +1//0", "ratio Whole(Evaluation)"],
        ),
        ("TRUNCATE page", &["hidden Whole(Truncate)", "page Whole(Truncate)", "ratio Whole(Truncate)"]),
        ("INSERT INTO log VALUES (1)", &["log Whole(Rows)"]),
        ("INSERT INTO late VALUES (1, 1)", &["late Whole(Rows)"]),
        (
            "BEGIN; INSERT INTO page VALUES (2, '', 9); ALTER TABLE page ADD x int; COMMIT",
            &["hidden Whole(Rows)", "page Whole(Ddl)", "ratio Whole(Ddl)"],
        ),
    ] {
        assert_eq!(origin.rows_after(statement).await?, events, "{statement}");
    }
    // With the whole old row in the log, an unchanged body is known.
    origin.db.batch_execute("ALTER TABLE page REPLICA IDENTITY FULL, DROP x; TRUNCATE page").await?;
    origin.rows_after(&insert).await?;
    let events = origin.rows_after("UPDATE page SET n = 20").await?;
    assert_eq!(events[1], format!("page 1: +1/{long}/20"));
    Ok(())
}

/// Rights are those of the shard's owner, as they were when the transaction committed.
#[tokio::test]
async fn rows_that_the_owner_may_not_read_any_more_do_not_travel() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            "CREATE ROLE definer; GRANT USAGE ON SCHEMA foreshard TO definer;
             GRANT EXECUTE ON FUNCTION foreshard.create_shard TO definer;
             CREATE TABLE t (id int PRIMARY KEY, n int, secret int); GRANT SELECT ON t TO definer;
             CREATE ROLE readers; SET ROLE definer;
             SELECT foreshard.create_shard('t', 't', columns => '{id,n}'); RESET ROLE",
        )
        .await?;
    origin.map_all().await?;
    origin.create_slot().await?;
    assert_eq!(origin.rows_after("INSERT INTO t VALUES (1, 1)").await?, ["t +1/1"]);
    for (change, told) in [
        ("REVOKE SELECT ON t FROM definer", false),
        ("GRANT SELECT (id, n) ON t TO definer", true),
        ("REVOKE SELECT (n) ON t FROM definer", false),
        ("GRANT SELECT ON t TO readers; GRANT readers TO definer", true),
        ("REVOKE readers FROM definer", false),
        ("GRANT SELECT ON t TO definer", true),
        ("REVOKE USAGE ON SCHEMA public FROM PUBLIC", false),
        ("GRANT USAGE ON SCHEMA public TO definer", true),
    ] {
        let events = origin.rows_after(&format!("{change}; UPDATE t SET n = 2")).await?;
        assert_eq!(events, [if told { "t +1/2" } else { "t Whole(Rows)" }], "{change}");
        // In another session as well as in one that has prepared the table.
        let events = origin.rows_after(&format!("UPDATE t SET n = 1; {change}; UPDATE t SET n = 2")).await?;
        assert_eq!(
            events.last().map(String::as_str),
            Some(if told { "t +1/2" } else { "t Whole(Rows)" }),
            "{change}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn rows_of_the_stream_are_the_bytes_of_a_fetch() -> Result<()> {
    let origin = Origin::start().await?;
    let settings =
        "SET datestyle = 'SQL, DMY'; SET intervalstyle = 'sql_standard'; SET timezone = 'America/New_York';
         SET extra_float_digits = -5; SET bytea_output = 'escape'; SET xmlbinary = 'hex'";
    // A type of names is not told.
    let table = table(&origin).await?.replace("rc regclass", "rc oid").replace("'pg_class'", "1259");
    let (create, insert) = table.split_once("INSERT INTO").expect("rows follow the table");
    origin.db.batch_execute(create).await?;
    let shards = "SELECT foreshard.create_shard('v', 'v', key => '{b}');
        SELECT foreshard.create_shard('part', 'v', columns => '{tstz,id,ps}')";
    origin.db.batch_execute(shards).await?;
    origin.map_all().await?;
    origin.create_slot().await?;
    origin.db.batch_execute(&format!("{settings}; INSERT INTO {insert}")).await?;
    let mut streamed: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    let mut forms: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for frame in origin.frames_with_rows().await? {
        for event in frame.events {
            let Event::Shard { shard, change: KeyChange::Rows(deltas) } = event else { bail!("{event:?}") };
            forms.insert(shard.clone(), (deltas.generation, deltas.columns));
            for change in deltas.instances.into_iter().flat_map(|instance| instance.rows) {
                let RowChange::Put { row } = change else { bail!("{change:?}") };
                streamed.entry(shard.clone()).or_default().push(row);
            }
        }
    }
    for instance in ["v?b", "v?b=t", "part"] {
        for part in origin.fetch(&[instance]).await? {
            let FetchPart::Instance { columns, identity, order, generation, .. } = part else { continue };
            let form = (generation, fingerprint(&columns, &identity, &order));
            assert_eq!(Some(&form), forms.get(instance.split('?').next().unwrap_or_default()), "{instance}");
        }
    }
    for (shard, instances) in [("v", &["v?b", "v?b=t"][..]), ("part", &["part"])] {
        let mut wanted = Vec::new();
        for instance in instances {
            wanted.extend(fetched(&origin, instance).await?.1);
        }
        let mut rows = streamed.remove(shard).unwrap_or_default();
        rows.sort();
        wanted.sort();
        assert!(wanted.len() > 5);
        assert_eq!(rows, wanted, "{shard}");
    }
    let zone: String = origin.value("SHOW timezone").await?;
    assert_eq!(zone, "America/New_York", "the session has its settings back");
    Ok(())
}

#[tokio::test]
async fn a_fetch_says_how_rows_are_told_apart_and_sorted() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            r#"CREATE TABLE t (a text COLLATE "C", b timestamptz, c int, d text, PRIMARY KEY (b, a, c));
             CREATE TABLE u (a int NOT NULL, b text NOT NULL PRIMARY KEY); CREATE UNIQUE INDEX ua ON u (a);
             ALTER TABLE u REPLICA IDENTITY USING INDEX ua; CREATE TABLE v (a int);
             SELECT foreshard.create_shard('t', 't', key => '{c}');
             SELECT foreshard.create_shard('narrow', 't', columns => '{a,d}');
             SELECT foreshard.create_shard('u', 'u'); SELECT foreshard.create_shard('v', 'v')"#,
        )
        .await?;
    origin.map_all().await?;
    for (instance, wanted) in [
        ("t?c=1", "[1, 0, 2] By([(1, Time), (0, Bytes)])"),
        ("narrow", "[] Hidden"),
        // The log has this index's column of a row before a change, not the primary key's.
        ("u", "[0] By([(1, Opaque)])"),
        ("v", "[] Unsorted"),
    ] {
        let parts = origin.fetch(&[instance]).await?;
        let said = parts.iter().find_map(|part| match part {
            FetchPart::Instance { identity, order, .. } => Some(format!("{identity:?} {order:?}")),
            _ => None,
        });
        assert_eq!(said.as_deref(), Some(wanted), "{instance}");
    }
    Ok(())
}

#[tokio::test]
async fn many_rows_become_instances_and_many_instances_the_shard() -> Result<()> {
    let origin = with_old_images().await?;
    let insert = |rows: u32, carts: u32| {
        format!("INSERT INTO cart SELECT g, g % {carts}, 'open', g FROM generate_series(1, {rows}) g")
    };
    let words =
        |events: &[String]| -> Vec<usize> { events.iter().map(|event| event.matches('+').count()).collect() };
    let events = origin.rows_after(&insert(900, 30)).await?;
    assert_eq!(words(&events), [900, 900]);
    origin.rows_after("TRUNCATE cart").await?;
    let events = origin.rows_after(&insert(1_500, 30)).await?;
    assert_eq!(words(&events), [0, 0]);
    assert_eq!((events[0].split(' ').count(), events[1].as_str()), (31, "open Whole(Rows)"));
    origin.rows_after("TRUNCATE cart").await?;
    let events = origin.rows_after(&insert(1_500, 1_500)).await?;
    assert_eq!(events, ["cart Whole(Coarsened)", "open Whole(Rows)"]);
    Ok(())
}
