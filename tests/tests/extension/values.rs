//! A fetched row, written as JSON by the rules of the protocol, is what `row_to_json` writes.

use anyhow::Result;
use foreshard_protocol::{Column, ColumnKind, FetchFailure, FetchPart};

use crate::origin::{Origin, error_of};

const TABLE: &str = r#"
    CREATE TYPE mood AS ENUM ('sad', 'so "so"');
    CREATE TYPE pair AS (a int, "B c" text);
    CREATE DOMAIN positive AS numeric CHECK (value > 0);
    CREATE DOMAIN moods AS mood[];
    CREATE TABLE v (
        id int PRIMARY KEY, i2 smallint, i8 bigint, f4 real, f8 float8, num numeric, dom positive, b boolean,
        t text, vc varchar(40), c char(5), n name, ch "char", e mood, o oid, rc regclass, u uuid,
        by bytea, j json, jb jsonb, d date, tm time, tz timetz, ts timestamp, tstz timestamptz, iv interval,
        arr int[], arr2 text[][], em moods, p pair, ps pair[], r int4range, mr int4multirange, trange tstzrange,
        ip inet, ci cidr, mac macaddr, bits bit(3), vb varbit, pt point, bx box, mo money, x xml, ts_v tsvector, lsn pg_lsn,
        xid xid8, "Quoted ""Name""" text, gen int GENERATED ALWAYS AS (id * 2) STORED, tsarr timestamptz[]
    );
    INSERT INTO v (id) VALUES (0);
    INSERT INTO v VALUES (1, -32768, 9223372036854775807, 0.1, 1e300, 12345678901234567890.1234567890, 1.50, true,
        E'tab\t "quote" \\ newline\n ü 𝄞 \u0001 </script>', 'vc', 'ab', 'nm', 'x', 'so "so"', 4294967295, 'pg_class', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11',
        '\x00ff', '{"a" :  1, "a": 2}', '{"b": [1, null, "x"], "a": 1.50}', '2024-02-29', '23:59:59.999999', '10:00:00+05:30',
        '2024-05-01 10:00:00.120', '2024-05-01 10:00:00.000001+02', '1 year 2 mons -3 days 04:05:06.7',
        '{1,NULL,3}', '{{a,"b,c"},{NULL,"NULL"}}', '{sad,"so \"so\""}', '(1,"x, y")', '{"(1,x)","(,)"}', '[1,5)', '{[1,3),[7,9)}', '[2024-01-01 00:00Z,)',
        '192.168.0.1/24', '10.0.0.0/8', '08:00:2b:01:02:03', B'101', B'1', '(1.5,2)', '(1,1),(0,0)', '12.34', '<a b="c">x</a>', 'fat cat', '16/B374D848',
        '18446744073709551615', 'q', DEFAULT, '{2024-05-01 10:00:00Z,NULL}');
    INSERT INTO v (id, f4, f8, num, d, ts, tstz, t, c, arr, iv) VALUES
        (2, 'NaN', 'Infinity', 'NaN', 'infinity', 'infinity', '-infinity', '', '', '{}', '0'),
        (3, '-Infinity', '-0', 'Infinity', '0044-03-15 BC', '0044-03-15 12:00:00 BC', '0044-03-15 12:00:00+00 BC', 'x', 'abcde', '{-1}', '-1 day'),
        (4, 1e-7, 123456789.123456789, '-Infinity', '12345-06-07', '12345-06-07 00:00:00', '12345-06-07 00:00:00+00', 'y', ' a ', '{{1},{2}}', '1000 hours'),
        (5, 3.4028235e38, 5e-324, 0.00, '0001-01-01', '0001-01-01', '1900-01-01 00:00:00+00', 'z', NULL, NULL, NULL);
    CREATE TYPE celsius AS (degrees numeric);
    CREATE FUNCTION to_json_text(mood) RETURNS json LANGUAGE sql IMMUTABLE AS $$ SELECT json_build_object('mood', $1::text) $$;
"#;

/// The table, with text in the place of xml where PostgreSQL was built without libxml.
pub(crate) async fn table(origin: &Origin) -> Result<String> {
    let xml = origin.built_with("SELECT '<a/>'::xml").await?;
    Ok(if xml { TABLE.to_owned() } else { TABLE.replace("x xml", "x text") })
}

/// What the edge makes of a value; the sidecar's encoder follows the same lines.
fn json(value: Option<&str>, kind: ColumnKind) -> String {
    let Some(text) = value else { return "null".into() };
    let string = || serde_json::to_string(text).expect("text is a JSON string");
    match kind {
        ColumnKind::Int | ColumnKind::Bool | ColumnKind::Json => text.to_owned(),
        ColumnKind::Number if text.contains("NaN") || text.contains("Infinity") => string(),
        ColumnKind::Number => text.to_owned(),
        _ => string(),
    }
}

pub(crate) async fn fetched(
    origin: &Origin,
    instance: &str,
) -> Result<(Vec<Column>, Vec<foreshard_protocol::Row>)> {
    let (mut columns, mut all) = (Vec::new(), Vec::new());
    for part in origin.fetch(&[instance]).await? {
        match part {
            FetchPart::Instance { columns: described, .. } => columns = described,
            FetchPart::Rows { rows, .. } => all.extend(rows),
            FetchPart::Failed { message, .. } => anyhow::bail!(message),
            FetchPart::Header(_) | FetchPart::Horizon(_) => {}
        }
    }
    Ok((columns, all))
}

async fn compare(origin: &Origin) -> Result<()> {
    let (columns, rows) = fetched(origin, "v").await?;
    // The oracle, under the settings that the protocol promises.
    let oracle = origin.cluster.connect().await?;
    oracle.batch_execute("SET timezone = 'UTC'; SET datestyle = 'ISO, MDY'; SET lc_monetary = 'C'").await?;
    let wanted = oracle.query("SELECT row_to_json(v)::text, id FROM v ORDER BY id", &[]).await?;
    assert_eq!(rows.len(), wanted.len());
    for (row, wanted) in rows.iter().zip(&wanted) {
        let members: Vec<String> = columns
            .iter()
            .zip(row)
            .map(|(column, value)| {
                let name = serde_json::to_string(&column.name).expect("a name is a JSON string");
                format!("{name}:{}", json(value.as_deref(), column.kind))
            })
            .collect();
        let ours = format!("{{{}}}", members.join(","));
        let oracle: &str = wanted.get(0);
        // Texts may be escaped in several ways; everything else must be the same bytes.
        let (ours_read, oracle_read): (serde_json::Value, serde_json::Value) =
            (serde_json::from_str(&ours)?, serde_json::from_str(oracle)?);
        assert_eq!(ours_read, oracle_read);
        let unescaped = |text: &str| text.replace("\\u0001", "\u{1}");
        assert_eq!(unescaped(&ours), unescaped(oracle));
    }
    Ok(())
}

#[tokio::test]
async fn rows_are_what_row_to_json_writes() -> Result<()> {
    let origin = Origin::start().await?;
    origin.db.batch_execute(&table(&origin).await?).await?;
    origin.db.batch_execute("SELECT foreshard.create_shard('v', 'v')").await?;
    origin.map_all().await?;
    compare(&origin).await?;
    // A cast to json that a type brings along is honoured, as row_to_json does.
    origin.db.batch_execute("CREATE CAST (mood AS json) WITH FUNCTION to_json_text(mood)").await?;
    compare(&origin).await
}

#[tokio::test]
async fn bytes_do_not_depend_on_the_session_s_settings() -> Result<()> {
    let origin = Origin::start().await?;
    origin.db.batch_execute(&table(&origin).await?).await?;
    origin.db.batch_execute("SELECT foreshard.create_shard('v', 'v')").await?;
    origin.map_all().await?;
    let plain = fetched(&origin, "v").await?;
    origin
        .db
        .batch_execute(
            "SET datestyle = 'SQL, DMY'; SET intervalstyle = 'sql_standard'; SET timezone = 'America/New_York';
             SET extra_float_digits = -5; SET bytea_output = 'escape'; SET xmlbinary = 'hex'; SET search_path = ''",
        )
        .await?;
    assert_eq!(fetched(&origin, "v").await?, plain);
    Ok(())
}

#[tokio::test]
async fn projection_order_and_instances() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            "CREATE TABLE t (a int, b text, c int, d int, PRIMARY KEY (c, a));
             INSERT INTO t SELECT g % 3, 'b' || g, 10 - g, NULLIF(g % 4, 0) FROM generate_series(1, 9) g;
             SELECT foreshard.create_shard('all', 't');
             SELECT foreshard.create_shard('part', 't', columns => '{b,a}', predicate => 'a > 0');
             SELECT foreshard.create_shard('keyed', 't', key => '{d,a}', columns => '{b}')",
        )
        .await?;
    origin.map_all().await?;
    let all = origin.rows("all").await?;
    assert_eq!((all.len(), all[0].as_str(), all[8].as_str()), (9, "0|b9|1|1", "1|b1|9|1"));
    assert_eq!(origin.rows("part").await?, ["b8|2", "b7|1", "b5|2", "b4|1", "b2|2", "b1|1"]);
    assert_eq!(origin.rows("keyed?d=1&a=0").await?, ["b9"]);
    assert_eq!(origin.rows("keyed?d&a=2").await?, ["b8"]);
    assert_eq!(origin.rows("keyed?d=3&a").await?, [""; 0]);
    assert_eq!(origin.rows("keyed?d=77&a=7").await?, [""; 0]);
    for (instance, failure) in [
        ("keyed", FetchFailure::KeyMismatch),
        ("keyed?a=1&d=1", FetchFailure::KeyMismatch),
        ("keyed?d=1", FetchFailure::KeyMismatch),
        ("all?d=1", FetchFailure::KeyMismatch),
        ("?", FetchFailure::KeyMismatch),
        ("", FetchFailure::KeyMismatch),
        ("keyed?d=x&a=1", FetchFailure::KeyType),
        ("keyed?d=99999999999&a=1", FetchFailure::KeyType),
        ("keyed?d=1%00&a=1", FetchFailure::KeyType),
        ("keyed?d=1;DROP%20TABLE%20t&a=1", FetchFailure::KeyType),
        ("nope", FetchFailure::UnknownShard),
    ] {
        assert_eq!(origin.rows(instance).await?, [format!("{failure:?}")], "{instance}");
    }
    Ok(())
}

#[tokio::test]
async fn one_snapshot_for_all_and_a_position_behind_it() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY);
             SELECT foreshard.create_shard('a', 'a'), foreshard.create_shard('b', 'b')",
        )
        .await?;
    origin.map_all().await?;
    let writer = origin.cluster.connect().await?;
    writer.batch_execute("BEGIN; INSERT INTO a VALUES (1)").await?;
    let open: i64 = writer.query_one("SELECT pg_current_xact_id()::text::bigint", &[]).await?.get(0);
    origin.db.batch_execute("INSERT INTO b VALUES (1)").await?;
    let done: i64 = origin.value("SELECT max(xmin::text::bigint) FROM b").await?;
    let before: String = origin.value("SELECT pg_current_wal_lsn()::text").await?;
    let parts = origin.fetch(&["a", "b"]).await?;
    let FetchPart::Header(header) = &parts[0] else { anyhow::bail!("{parts:?}") };
    assert!(!header.snapshot.sees(open.unsigned_abs()), "{header:?}");
    assert!(header.snapshot.sees(done.unsigned_abs()), "{header:?}");
    assert!(header.wal_lsn >= before.parse()?, "{header:?} {before}");
    writer.batch_execute("COMMIT").await?;
    let FetchPart::Header(header) = &origin.fetch(&[]).await?[0] else { unreachable!() };
    assert!(header.snapshot.sees(open.unsigned_abs()), "{header:?}");

    // A transaction that holds an older snapshot gets the newest rows too, and is told the snapshot they are from.
    origin.db.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await?;
    writer.batch_execute("INSERT INTO a VALUES (2)").await?;
    assert_eq!(origin.rows("a").await?, ["1", "2"]);
    origin.db.batch_execute("COMMIT").await?;
    Ok(())
}

#[tokio::test]
async fn many_rows_come_in_messages_of_bounded_size() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            "CREATE TABLE big (id int PRIMARY KEY, t text);
             INSERT INTO big SELECT g, repeat('x', 500) FROM generate_series(1, 20000) g;
             CREATE TABLE huge (id int PRIMARY KEY, t text);
             INSERT INTO huge SELECT g, repeat('x', 10000000) FROM generate_series(1, 8) g;
             SELECT foreshard.create_shard('big', 'big'), foreshard.create_shard('huge', 'huge'),
                foreshard.create_shard('one', 'huge', key => '{id}')",
        )
        .await?;
    origin.map_all().await?;
    let query = "SELECT octet_length(f), count(*) OVER () FROM foreshard.fetch('jfk', '{big}') f ORDER BY 1 DESC LIMIT 1";
    let row = origin.db.query_one(query, &[]).await?;
    assert!(row.get::<_, i32>(0) < 80_000 && row.get::<_, i64>(1) > 100, "{row:?}");
    assert_eq!(origin.rows("big").await?.len(), 20000);
    assert_eq!(origin.rows("huge").await?, ["TooLarge"]);
    assert_eq!(origin.rows("one?id=3").await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn an_instance_that_cannot_be_read_does_not_take_the_others_along() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 0), (2, 5);
             SELECT foreshard.create_shard('fails', 't', predicate => '10 / n > 1'), foreshard.create_shard('t', 't', key => '{id}')",
        )
        .await?;
    origin.map_all().await?;
    let parts = origin.fetch(&["t?id=1", "fails", "t?id=2"]).await?;
    let failed: Vec<&FetchPart> =
        parts.iter().filter(|part| matches!(part, FetchPart::Failed { .. })).collect();
    let [FetchPart::Failed { index: 1, failure: FetchFailure::Broken, message }] = failed[..] else {
        anyhow::bail!("{failed:?}")
    };
    assert!(message.contains("22012"), "{message}");
    assert_eq!(parts.iter().filter(|part| matches!(part, FetchPart::Rows { .. })).count(), 2);
    origin.db.batch_execute("ALTER TABLE t ENABLE ROW LEVEL SECURITY").await?;
    assert_eq!(origin.rows("t?id=1").await?, ["Broken"]);
    origin.db.batch_execute("ALTER TABLE t DISABLE ROW LEVEL SECURITY").await?;
    // Cancelling is not swallowed.
    let error = error_of(
        &origin.db,
        "SET statement_timeout = 1; SELECT foreshard.fetch('jfk', array_agg('t?id=' || g)) FROM generate_series(1, 1000) g",
    )
    .await?;
    assert_eq!(error.code().code(), "57014");
    Ok(())
}
