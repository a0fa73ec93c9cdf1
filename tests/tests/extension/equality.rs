//! Shards that demand a value of a column are found by hash: never too few, whatever types the operator takes both sides for.

use anyhow::Result;

use crate::origin::Origin;

/// Types with values whose bytes are others' too, if they are read as those. Not with values for which a comparison fails.
const TYPES: [(&str, &[&str]); 23] = [
    ("smallint", &["-1", "2"]),
    ("integer", &["-1", "2", "-294967296"]),
    ("bigint", &["2", "4294967295", "4000000000"]),
    ("oid", &["4294967295", "2", "4000000000"]),
    ("regclass", &["4294967295", "2", "1259"]),
    ("regtype", &["4000000000", "23"]),
    ("xid", &["4294967295", "2"]),
    ("boolean", &["true", "false"]),
    ("\"char\"", &["a", "b"]),
    ("date", &["1999-12-31", "2000-01-03"]),
    ("timestamp", &["2000-01-01 01:11:34.967295", "2000-01-01 00:00:00.000002"]),
    ("timestamptz", &["1999-12-31 23:59:59.999999+00", "2000-01-01 00:00:00.000002+00"]),
    ("uuid", &["00000000-0000-0000-0000-000000000001", "ffffffff-ffff-ffff-ffff-ffffffffffff"]),
    ("text", &["a", "a ", ""]),
    ("varchar", &["a", "a ", ""]),
    ("character(2)", &["a", "b"]),
    ("name", &["a", "b"]),
    ("bit varying", &["10", "1000"]),
    ("bit(4)", &["1000", "0001"]),
    ("public.mood", &["sad", "glad"]),
    ("public.whole", &["-1", "2"]),
    ("public.number", &["4294967295", "2"]),
    ("public.words", &["a", "a "]),
];

/// Casts that only a superuser can make; types that the built-in casts do not relabel.
const SETUP: &str = "CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE DOMAIN whole AS integer; CREATE DOMAIN number AS oid;
    CREATE DOMAIN words AS text; CREATE CAST (\"char\" AS boolean) WITHOUT FUNCTION; CREATE CAST (date AS integer) WITHOUT FUNCTION;
    CREATE CAST (integer AS date) WITHOUT FUNCTION; CREATE CAST (timestamp AS bigint) WITHOUT FUNCTION;
    CREATE TABLE made (name text, at int, condition text)";

#[tokio::test]
async fn the_same_bytes_under_another_type() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE t (id int PRIMARY KEY, n int, o oid, k int, note text);
         ALTER TABLE t REPLICA IDENTITY FULL;
         SELECT foreshard.create_shard('as_oid', 't', 'n = 4000000000::oid');
         SELECT foreshard.create_shard('as_oids', 't', 'n = ANY (''{4000000000,7}''::oid[])');
         SELECT foreshard.create_shard('as_int', 't', 'o::int = -1');
         SELECT foreshard.create_shard('as_wide', 't', 'o::int = (-1)::bigint');
         SELECT foreshard.create_shard('plain', 't', 'n IN (-294967296)')",
    )
    .await?;
    let all = ["as_int", "as_oid", "as_oids", "as_wide", "plain"].map(|name| format!("{name} Whole(Rows)"));
    let row = "INSERT INTO t VALUES (1, -294967296, 4294967295, 0, 'x')";
    assert_eq!(origin.after(row).await?, all);
    assert_eq!(origin.after("UPDATE t SET note = 'y'").await?, all);
    assert_eq!(origin.after("DELETE FROM t").await?, all);
    assert!(origin.after("INSERT INTO t VALUES (2, 1, 1, 0, 'x')").await?.is_empty());
    Ok(())
}

/// Makes a shard of every comparison that can be written of a table's column, as it is and relabelled in every way there is a cast for, with
/// values of every type.
const DEFINE: &str = "DO $do$
    DECLARE
        kinds constant text[] := ARRAY(SELECT key FROM json_each(:types));
        own text; taken text; other text; literal text; condition text; of_type text; base oid; n int := 0;
    BEGIN
        FOR at IN 1..cardinality(kinds) LOOP
            own := kinds[at];
            EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, c %s)', at, own);
            SELECT coalesce(nullif(typbasetype, 0), t.oid) INTO base FROM pg_type t WHERE t.oid = to_regtype(own);
            FOREACH taken IN ARRAY kinds LOOP
                CONTINUE WHEN taken <> own AND to_regtype(taken) <> base AND NOT EXISTS (SELECT FROM pg_cast
                    WHERE castsource = base AND casttarget = to_regtype(taken) AND castmethod = 'b');
                condition := CASE WHEN taken = own THEN 'c' ELSE format('c::%s', taken) END;
                FOR other, literal IN SELECT key, json_array_elements_text(value) FROM json_each(:types) LOOP
                    FOREACH of_type IN ARRAY '{= %L::%s, = ANY (ARRAY[%L::%s])}'::text[] LOOP
                        BEGIN
                            PERFORM foreshard.create_shard('s' || n, format('t%s', at)::regclass, condition || ' ' || format(of_type, literal, other));
                            INSERT INTO made VALUES ('s' || n, at, condition || ' ' || format(of_type, literal, other));
                            n := n + 1;
                        EXCEPTION WHEN undefined_function OR ambiguous_function OR cannot_coerce OR feature_not_supported THEN -- there is none
                        END;
                    END LOOP;
                END LOOP;
            END LOOP;
        END LOOP;
    END $do$";

/// What is told of a row is held against what a SELECT finds.
#[tokio::test]
async fn comparisons_of_all_pairs_of_types() -> Result<()> {
    let origin = Origin::followed(SETUP).await?;
    let types = TYPES.map(|(name, values)| {
        let values: Vec<String> = values.iter().map(|value| format!("\"{value}\"")).collect();
        format!("{}: [{}]", serde_json::Value::from(name), values.join(", "))
    });
    let types = format!("$json${{{}}}$json$", types.join(", "));
    origin.db.batch_execute(&DEFINE.replace(":types", &types)).await?;
    let made: i64 = origin.value("SELECT count(*) FROM made").await?;
    assert!(made > 500, "{made} comparisons can be written");
    origin.map_all().await?;
    origin.frames().await?;
    let mut told = 0;
    for (at, (name, values)) in (1..).zip(TYPES) {
        let conditions: String = origin
            .value(&format!("SELECT coalesce(string_agg(format('(%L, (%s))', name, condition), ', '), '(NULL, false)') FROM made WHERE at = {at}"))
            .await?;
        let select = format!(
            "SELECT s.name FROM t{at}, LATERAL (VALUES {conditions}) AS s (name, holds) WHERE s.holds ORDER BY s.name COLLATE \"C\""
        );
        for value in values {
            let events = origin.after(&format!("INSERT INTO t{at} VALUES (1, '{value}')")).await?;
            let found = origin.db.query(&select, &[]).await?;
            let found: Vec<String> =
                found.iter().map(|row| format!("{} Whole(Rows)", row.get::<_, &str>(0))).collect();
            assert_eq!(events, found, "{value} in a column of type {name}");
            told += events.len();
            origin.after(&format!("TRUNCATE t{at}")).await?;
        }
    }
    assert!(told > 200, "{told} events");
    Ok(())
}
