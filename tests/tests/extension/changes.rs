//! Every kind of statement that changes rows, and every kind of shard, by example; `differential` mixes them at random.

use anyhow::Result;

use crate::origin::Origin;

#[tokio::test]
async fn merge_tells_what_it_inserts_updates_and_deletes() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE t (id int PRIMARY KEY, k int); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (1, 1), (2, 2);
         SELECT foreshard.create_shard('t', 't', key => '{k}')",
    )
    .await?;
    let merge = "MERGE INTO t USING (VALUES (1), (2), (3)) f (id) ON t.id = f.id
        WHEN MATCHED AND f.id = 1 THEN DELETE WHEN MATCHED THEN UPDATE SET k = 7 WHEN NOT MATCHED THEN INSERT VALUES (f.id, 9)";
    assert_eq!(origin.rows_after(merge).await?, ["t 1: -1; 2: -2; 7: +2/7; 9: +3/9"]);
    Ok(())
}

#[tokio::test]
async fn copy_and_upserts_are_told_row_by_row() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE t (id int PRIMARY KEY, k text); SELECT foreshard.create_shard('t', 't', key => '{id}')",
    )
    .await?;
    let file = origin.cluster.data_dir().join("rows");
    let file = file.to_str().unwrap_or_default();
    let copy = format!(
        "COPY (VALUES (1, 'a'), (2, NULL), (3, E'\\\\x')) TO '{file}'; BEGIN; COPY t FROM '{file}'; COMMIT"
    );
    assert_eq!(origin.rows_after(&copy).await?, ["t 1: +1/a; 2: +2/NULL; 3: +3/\\x"]);
    let frozen = format!(
        "COPY (VALUES (4, 'd')) TO '{file}'; BEGIN; TRUNCATE t; COPY t FROM '{file}' (FREEZE); COMMIT"
    );
    assert_eq!(origin.rows_after(&frozen).await?, ["t Whole(Truncate)"]);
    assert_eq!(origin.rows("t?id=4").await?, ["4|d"]);
    let upsert =
        "INSERT INTO t VALUES (4, 'e'), (5, 'f') ON CONFLICT (id) DO UPDATE SET k = excluded.k || '!'";
    assert_eq!(origin.rows_after(upsert).await?, ["t 4: +4/e!; 5: +5/f"]);
    // Speculative insertions that lose leave nothing.
    assert_eq!(origin.rows_after("INSERT INTO t VALUES (4, 'x') ON CONFLICT DO NOTHING").await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn foreign_key_cascades_reach_the_shards_of_what_references() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE a (id int PRIMARY KEY);
         CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a ON DELETE CASCADE ON UPDATE CASCADE);
         CREATE TABLE c (id int PRIMARY KEY, b int DEFAULT 0 REFERENCES b ON DELETE SET NULL ON UPDATE CASCADE);
         ALTER TABLE b REPLICA IDENTITY FULL; ALTER TABLE c REPLICA IDENTITY FULL;
         INSERT INTO a VALUES (1), (2); INSERT INTO b VALUES (10, 1), (20, 2); INSERT INTO c VALUES (100, 10), (200, 20);
         SELECT foreshard.create_shard('b', 'b', key => '{a}'), foreshard.create_shard('c', 'c', key => '{b}')",
    )
    .await?;
    assert_eq!(origin.rows_after("UPDATE a SET id = 3 WHERE id = 1").await?, ["b 1: -10; 3: +10/3"]);
    assert_eq!(
        origin.rows_after("DELETE FROM a WHERE id = 3").await?,
        ["b 3: -10", "c NULL: +100/NULL; 10: -100"]
    );
    assert_eq!(origin.rows_after("TRUNCATE a CASCADE").await?, ["b Whole(Truncate)", "c Whole(Truncate)"]);
    Ok(())
}

#[tokio::test]
async fn what_triggers_and_rules_write_elsewhere_is_told() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE t (id int PRIMARY KEY, n int); CREATE TABLE total (id int PRIMARY KEY, n int); CREATE TABLE noted (id int PRIMARY KEY);
         INSERT INTO total VALUES (0, 0);
         CREATE FUNCTION add() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN UPDATE total SET n = n + new.n; new.n = new.n + 1; RETURN new; END $$;
         CREATE TRIGGER add BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION add();
         CREATE RULE note AS ON DELETE TO t DO ALSO INSERT INTO noted VALUES (old.id);
         SELECT foreshard.create_shard(n, n::regclass, key => '{id}') FROM unnest('{t,total,noted}'::text[]) n",
    )
    .await?;
    assert_eq!(origin.rows_after("INSERT INTO t VALUES (1, 5)").await?, ["t 1: +1/6", "total 0: +0/5"]);
    assert_eq!(origin.rows_after("DELETE FROM t WHERE id = 1").await?, ["noted 1: +1", "t 1: -1"]);
    // What a trigger does in a subtransaction that fails is not told.
    origin
        .db
        .batch_execute(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN BEGIN INSERT INTO noted VALUES (7); RAISE division_by_zero; EXCEPTION WHEN OTHERS THEN NULL; END; RETURN NULL; END $$;
             CREATE TRIGGER fail AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION fail()",
        )
        .await?;
    assert_eq!(origin.rows_after("INSERT INTO t VALUES (2, 1)").await?, ["t 2: +2/2", "total 0: +0/6"]);
    Ok(())
}

#[tokio::test]
async fn keys_of_four_columns_with_nulls_among_them() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE t (id int PRIMARY KEY, a int, b text, c date, d bool); ALTER TABLE t REPLICA IDENTITY FULL;
         SELECT foreshard.create_shard('t', 't', key => '{d,a,c,b}')",
    )
    .await?;
    let insert = "INSERT INTO t VALUES (1, 1, 'x&y', '2024-02-29', true), (2, NULL, NULL, NULL, NULL), (3, 1, '', NULL, false)";
    assert_eq!(origin.after(insert).await?, ["t NULL/NULL/NULL/NULL f/1/NULL/ t/1/2024-02-29/x&y"]);
    for (instance, rows) in [
        ("t?d=t&a=1&c=2024-02-29&b=x%26y", "1|1|x&y|2024-02-29|true"),
        ("t?d&a&c&b", "2|-|-|-|-"),
        ("t?d=f&a=1&c&b=", "3|1||-|false"),
    ] {
        assert_eq!(origin.rows(instance).await?, [rows], "{instance}");
    }
    let moved = origin.rows_after("UPDATE t SET b = NULL WHERE id = 3").await?;
    assert_eq!(moved, ["t f/1/NULL/NULL: +3/1/NULL/NULL/false; f/1/NULL/: -3"]);
    Ok(())
}

#[tokio::test]
async fn generated_and_identity_columns_decide_and_are_shown() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED);
         ALTER TABLE t REPLICA IDENTITY FULL;
         SELECT foreshard.create_shard('k', 't', key => '{twice}'), foreshard.create_shard('p', 't', predicate => 'twice > 10 AND id > 0')",
    )
    .await?;
    assert_eq!(origin.rows_after("INSERT INTO t (n) VALUES (3)").await?, ["k 6: +1/3/6"]);
    assert_eq!(origin.rows_after("UPDATE t SET n = 7").await?, ["k 14: +1/7/14; 6: -1", "p +1/7/14"]);
    assert_eq!(
        origin.rows_after("TRUNCATE t RESTART IDENTITY; INSERT INTO t (n) VALUES (1)").await?,
        ["k Whole(Truncate)", "p Whole(Truncate)"]
    );
    Ok(())
}

#[tokio::test]
async fn names_may_be_anything_and_tables_and_schemas_be_renamed() -> Result<()> {
    let origin = Origin::followed(
        r#"CREATE SCHEMA "Sch""ma é"; CREATE TABLE "Sch""ma é"."T ab.le" ("I D" int PRIMARY KEY, "sélect" text, "a""b" int);
         SELECT foreshard.create_shard('naïve "shard" ?&=', '"Sch""ma é"."T ab.le"', predicate => '"a""b" > 0', key => '{I D}', columns => '{"a\"b",sélect}')"#,
    )
    .await?;
    let instance = "na%C3%AFve%20%22shard%22%20%3F%26%3D?I%20D=1";
    let event = r#"naïve "shard" ?&= 1"#;
    assert_eq!(origin.after(r#"INSERT INTO "Sch""ma é"."T ab.le" VALUES (1, 'x', 5)"#).await?, [event]);
    assert_eq!(origin.rows(instance).await?, ["5|x"]);
    for rename in [
        r#"ALTER TABLE "Sch""ma é"."T ab.le" RENAME TO t"#,
        r#"ALTER SCHEMA "Sch""ma é" RENAME TO s"#,
        "ALTER TABLE s.t SET SCHEMA public",
    ] {
        assert_eq!(origin.after(rename).await?, [""; 0], "{rename}: the rows are the same");
        assert_eq!(origin.rows(instance).await?, ["5|x"], "{rename}");
    }
    assert_eq!(origin.after(r#"UPDATE t SET "a""b" = 6"#).await?, [event]);
    Ok(())
}

/// Type, a value that is in the shard, one that is not, condition with § for the column.
const TYPES: [(&str, &str, &str, &str); 28] = [
    ("smallint", "5", "1", "§ > 3"),
    ("int", "5", "1", "§ BETWEEN 4 AND 6"),
    ("bigint", "9999999999", "1", "§ > 2147483647"),
    ("numeric(10,2)", "1.50", "0.5", "§ = 1.5"),
    ("real", "1.5", "0", "§ > 1"),
    ("float8", "'NaN'", "1", "§ = 'NaN'"),
    ("money", "'7.50'", "'1'", "§ > '5'"),
    ("bool", "true", "false", "§"),
    ("text", "'abc'", "'b'", "§ LIKE 'a%'"),
    ("varchar(9)", "'abc'", "'b'", "§ ~ '^a'"),
    ("char(4)", "'a'", "'b'", "§ = 'a'"),
    ("name", "'a'", "'b'", "§ = 'a'"),
    ("bytea", "'\\x0102'", "'\\x'", "length(§) = 2"),
    (
        "uuid",
        "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
        "gen_random_uuid()",
        "§ = 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
    ),
    ("date", "'2024-02-29'", "'2023-01-01'", "§ >= '2024-01-01'"),
    ("time", "'10:00'", "'09:00'", "§ > '09:30'"),
    ("timetz", "'10:00+00'", "'09:00+00'", "§ > '09:30+00'"),
    ("timestamp", "'2024-02-29 10:00'", "'-infinity'", "isfinite(§)"),
    ("timestamptz", "'2024-02-29 10:00+02'", "'infinity'", "isfinite(§)"),
    ("interval", "'1 day'", "'1 hour'", "§ > interval '2 hours'"),
    ("int[]", "'{1,2}'", "'{3}'", "§ @> '{1}'"),
    ("jsonb", "'{\"a\": 1}'", "'{}'", "§ @> '{\"a\": 1}'"),
    ("json", "'{\"a\": 1}'", "'{}'", "(§ ->> 'a') = '1'"),
    ("int4range", "'[1,5)'", "'empty'", "§ @> 3"),
    ("inet", "'10.1.2.3'", "'192.168.0.1'", "§ << '10.0.0.0/8'"),
    ("macaddr", "'08:00:2b:01:02:03'", "'08:00:2b:01:02:04'", "§ = '08:00:2b:01:02:03'"),
    ("bit varying", "B'101'", "B'0'", "§ = B'101'"),
    ("point", "'(1,2)'", "'(9,9)'", "§ <@ box '(0,0),(3,3)'"),
];

#[tokio::test]
async fn predicates_over_every_built_in_type() -> Result<()> {
    let mut setup = String::new();
    for (number, (kind, .., condition)) in TYPES.iter().enumerate() {
        let condition = condition.replace('§', "v");
        setup += &format!(
            "CREATE TABLE t{number} (id int PRIMARY KEY, v {kind}); ALTER TABLE t{number} REPLICA IDENTITY FULL;
             SELECT foreshard.create_shard('s{number}', 't{number}', $p${condition}$p$, '{{id}}', '{{id}}');"
        );
    }
    let origin = Origin::followed(&setup).await?;
    for (number, (kind, inside, outside, _)) in TYPES.iter().enumerate() {
        let insert = format!("INSERT INTO t{number} VALUES (1, {inside}), (2, {outside}), (3, NULL)");
        assert_eq!(origin.rows_after(&insert).await?, [format!("s{number} 1: +1")], "{kind}");
        let swap = format!(
            "UPDATE t{number} SET v = CASE id WHEN 2 THEN {inside}::{kind} ELSE {outside}::{kind} END"
        );
        assert_eq!(origin.rows_after(&swap).await?, [format!("s{number} 1: -1; 2: +2")], "{kind}");
        assert_eq!(origin.rows(&format!("s{number}?id=2")).await?, ["2"], "{kind}");
        assert_eq!(origin.rows(&format!("s{number}?id=1")).await?, [""; 0], "{kind}");
    }
    Ok(())
}
