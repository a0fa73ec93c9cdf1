//! What happens to tables happens to their shards, and later writes still arrive.

use anyhow::Result;

use crate::origin::{Origin, in_words};

/// The table is another one now; if the definition follows, as it does a renamed or retyped column, that comes first.
fn is_told(events: &[String]) -> bool {
    events == ["t Whole(Ddl)"] || events == ["+shard t", "t Whole(Ddl)"]
}

async fn one_table() -> Result<Origin> {
    Origin::followed(
        "CREATE TABLE t (id int PRIMARY KEY, a int, b text, c int);
         ALTER TABLE t DROP COLUMN c;
         INSERT INTO t VALUES (1, 1, 'x');
         SELECT foreshard.create_shard('t', 't', predicate => 'a > 0', key => '{id}')",
    )
    .await
}

#[tokio::test]
async fn every_alteration_invalidates_and_later_writes_arrive() -> Result<()> {
    let origin = one_table().await?;
    for (id, statement) in [
        "ALTER TABLE t ADD COLUMN d int",
        "ALTER TABLE t ADD COLUMN e int DEFAULT 7",
        "ALTER TABLE t ADD COLUMN f timestamptz DEFAULT clock_timestamp()",
        "ALTER TABLE t DROP COLUMN d",
        "ALTER TABLE t RENAME COLUMN e TO g",
        "ALTER TABLE t ALTER COLUMN b TYPE varchar(20)",
        "ALTER TABLE t ALTER COLUMN g TYPE int USING g + 1",
        "ALTER TABLE t ADD COLUMN h int GENERATED ALWAYS AS (a * 2) STORED",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE t DISABLE ROW LEVEL SECURITY",
        "VACUUM FULL t",
        "CLUSTER t USING t_pkey",
        "ALTER TABLE t DROP COLUMN h",
        "ALTER TABLE t RENAME COLUMN a TO aa",
        "ALTER TABLE t ALTER COLUMN aa TYPE bigint",
    ]
    .iter()
    .enumerate()
    {
        let events = origin.after(statement).await?;
        assert!(is_told(&events), "{statement}: {events:?}");
        let id = id + 10;
        assert_eq!(origin.after(&format!("INSERT INTO t (id) VALUES ({id})")).await?, [""; 0], "{statement}");
        let column = if statement.contains("aa") || id >= 23 { "aa" } else { "a" };
        let insert = format!("INSERT INTO t (id, {column}) VALUES (-{id}, 1)");
        assert_eq!(origin.after(&insert).await?, [format!("t -{id}")], "{statement}");
        assert_eq!(origin.rows(&format!("t?id=-{id}")).await?.len(), 1, "{statement}");
    }
    Ok(())
}

#[tokio::test]
async fn definitions_follow_renamed_and_retyped_columns() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE t (id int PRIMARY KEY, a int, b text, c int);
         SELECT foreshard.create_shard('t', 't', predicate => 'a > 0', key => '{id}', columns => '{id,b}')",
    )
    .await?;
    let defined = "SELECT concat_ws(' ', predicate, key, columns, defect) FROM foreshard.shards";
    origin.db.batch_execute("ALTER TABLE t RENAME id TO ident").await?;
    origin.db.batch_execute("ALTER TABLE t RENAME a TO \"A b\"").await?;
    origin.db.batch_execute("ALTER TABLE t RENAME b TO d").await?;
    assert_eq!(origin.value::<String>(defined).await?, "(\"A b\" > 0) {ident} {ident,d}");
    origin.frames().await?;
    assert_eq!(origin.after("INSERT INTO t VALUES (1, 1, 'x'), (2, 0, 'y')").await?, ["t 1"]);
    assert_eq!(origin.rows("t?ident=1").await?, ["1|x"]);
    assert_eq!(origin.rows("t?id=1").await?, ["KeyMismatch"]);

    origin.db.batch_execute("ALTER TABLE t ALTER COLUMN \"A b\" TYPE numeric").await?;
    origin.frames().await?;
    assert_eq!(origin.after("INSERT INTO t VALUES (3, 0.5, 'z'), (4, -0.5, 'z')").await?, ["t 3"]);

    origin.db.batch_execute("ALTER TABLE t ALTER COLUMN \"A b\" TYPE text").await?;
    let defect: String = origin.value("SELECT defect FROM foreshard.shards").await?;
    assert!(defect.contains("operator does not exist"), "{defect}");
    origin.frames().await?;
    assert_eq!(origin.after("INSERT INTO t VALUES (5, 'x', 'z')").await?, ["t Whole(Evaluation)"]);
    assert_eq!(origin.rows("t?ident=5").await?, ["Broken"]);
    Ok(())
}

#[tokio::test]
async fn what_leaves_the_rows_alone_invalidates_nothing() -> Result<()> {
    let origin = one_table().await?;
    for statement in [
        "ANALYZE t",
        "VACUUM t",
        "CREATE INDEX ON t (a)",
        "GRANT SELECT ON t TO PUBLIC",
        "COMMENT ON TABLE t IS 'x'",
        "ALTER TABLE t ADD CHECK (a > -100)",
        "ALTER TABLE t ALTER COLUMN b SET DEFAULT 'y'",
        "ALTER TABLE t SET (fillfactor = 80)",
        "CREATE TABLE x (t int REFERENCES t)",
        "ALTER TABLE t REPLICA IDENTITY FULL",
        "ALTER TABLE t RENAME TO renamed",
    ] {
        assert_eq!(origin.after(statement).await?, [""; 0], "{statement}");
    }
    assert_eq!(origin.after("UPDATE renamed SET a = -1 WHERE id = 1").await?, ["t 1"]);
    Ok(())
}

#[tokio::test]
async fn an_alteration_between_rows_of_one_transaction() -> Result<()> {
    let origin = one_table().await?;
    let events = origin
        .after(
            "BEGIN; INSERT INTO t VALUES (2, 1); ALTER TABLE t ADD COLUMN z int DEFAULT 1;
             INSERT INTO t VALUES (3, 1, 'x', 5); UPDATE t SET z = 9; ALTER TABLE t DROP COLUMN b; INSERT INTO t VALUES (4, 1, 1); COMMIT",
        )
        .await?;
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(events[0].starts_with("t Whole("), "{events:?}");
    assert_eq!(origin.after("INSERT INTO t VALUES (5, 1, 1)").await?, ["t 5"]);
    // Rolled back, it never was.
    let events = origin
        .after("BEGIN; SAVEPOINT s; ALTER TABLE t ADD COLUMN y int; ROLLBACK TO s; INSERT INTO t VALUES (6, 1, 1); COMMIT")
        .await?;
    assert_eq!(events, ["t 6"]);
    Ok(())
}

#[tokio::test]
async fn a_dropped_table_is_told_and_the_others_go_on() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY);
         SELECT foreshard.create_shard(n, n::regclass, key => '{id}') FROM unnest('{t,u}'::text[]) n",
    )
    .await?;
    // The slot lags: everything is decoded after the table is gone.
    origin.db.batch_execute("INSERT INTO t VALUES (1); INSERT INTO u VALUES (1)").await?;
    origin.db.batch_execute("DROP TABLE t").await?;
    origin.db.batch_execute("INSERT INTO u VALUES (2)").await?;
    assert_eq!(in_words(&origin.peek().await?), ["t 1", "u 1", "t Whole(Ddl)", "u 2"]);
    origin.frames().await?;
    assert_eq!(origin.rows("t?id=1").await?, ["Broken"]);
    assert_eq!(origin.rows("u?id=1").await?, ["1"]);
    let defect: String = origin.value("SELECT defect FROM foreshard.shards WHERE name = 't'").await?;
    assert_eq!(defect, "the source table is gone");

    // Made again, it is taken over.
    assert_eq!(
        origin.after("CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (9)").await?,
        ["+shard t"]
    );
    assert_eq!(origin.after("INSERT INTO t VALUES (10)").await?, ["t 10"]);
    assert_eq!(origin.rows("t?id=9").await?, ["9|-"]);
    let events = origin
        .after("BEGIN; DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (11); COMMIT")
        .await?;
    assert_eq!(events[0], "+shard t", "{events:?}");
    assert_eq!(origin.rows("t?id=11").await?, ["11"]);

    // Unless the definition does not fit it.
    origin.after("DROP TABLE t; CREATE TABLE t (other int)").await?;
    assert_eq!(origin.rows("t?id=9").await?, ["Broken"]);
    assert_eq!(origin.after("ALTER TABLE t RENAME other TO id").await?, ["+shard t"]);
    assert_eq!(origin.after("INSERT INTO t VALUES (10)").await?, ["t 10"]);
    origin.after("DROP TABLE t; CREATE VIEW t AS SELECT 1 AS id").await?;
    assert_eq!(origin.rows("t?id=1").await?, ["Broken"]);
    let redefine = "DROP VIEW t; CREATE TABLE s (id int); SELECT foreshard.create_shard('t', 's', key => '{id}', or_replace => true)";
    assert_eq!(origin.after(redefine).await?, ["+shard t"]);
    Ok(())
}

#[tokio::test]
async fn a_lost_column_is_a_broken_shard_and_stops_nothing() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE t (id int PRIMARY KEY, a int);
         SELECT foreshard.create_shard('k', 't', key => '{a}');
         SELECT foreshard.create_shard('p', 't', predicate => 'a > 1');
         SELECT foreshard.create_shard('t', 't', key => '{id}')",
    )
    .await?;
    let all = ["+shard k", "+shard p", "k Whole(Ddl)", "p Whole(Ddl)", "t Whole(Ddl)"];
    assert_eq!(origin.after("ALTER TABLE t DROP COLUMN a").await?, all);
    let defects = "SELECT string_agg(name || ': ' || defect, '; ' ORDER BY name) FROM foreshard.shards";
    assert_eq!(
        origin.value::<String>(defects).await?,
        "k: a column of shard k is missing from public.t; p: column \"a\" does not exist"
    );
    assert_eq!(
        origin.after("INSERT INTO t VALUES (1)").await?,
        ["k Whole(Evaluation)", "p Whole(Evaluation)", "t 1"]
    );
    assert_eq!(origin.rows("k?a=1").await?, ["Broken"]);
    assert_eq!(origin.rows("p").await?, ["Broken"]);
    assert_eq!(origin.rows("t?id=1").await?, ["1"]);
    // It heals when the column is back.
    origin.after("ALTER TABLE t ADD COLUMN a int DEFAULT 7").await?;
    assert_eq!(origin.after("INSERT INTO t VALUES (2, 9)").await?, ["k 9", "p Whole(Rows)", "t 2"]);
    assert_eq!(origin.rows("k?a=7").await?, ["1|7"]);
    Ok(())
}

#[tokio::test]
async fn what_is_no_longer_logged_is_no_longer_given_out() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);
         CREATE TABLE root (id int) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF root FOR VALUES FROM (0) TO (9);
         SELECT foreshard.create_shard('t', 't', key => '{id}'), foreshard.create_shard('root', 'root', key => '{id}')",
    )
    .await?;
    assert_eq!(origin.after("ALTER TABLE t SET UNLOGGED").await?, ["t Whole(Ddl)"]);
    assert_eq!(origin.rows("t?id=1").await?, ["Broken"]);
    assert_eq!(origin.after("ALTER TABLE t SET LOGGED").await?, ["t Whole(Ddl)"]);
    assert_eq!(origin.rows("t?id=1").await?, ["1"]);
    let attach = "CREATE UNLOGGED TABLE p2 PARTITION OF root FOR VALUES FROM (10) TO (19)";
    assert_eq!(origin.after(attach).await?, ["root Whole(Ddl)"]);
    assert_eq!(origin.rows("root?id=1").await?, ["Broken"]);
    assert_eq!(origin.after("DROP TABLE p2").await?, ["root Whole(Ddl)"]);
    assert_eq!(origin.rows("root?id=1").await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn altered_types_invalidate_the_shards_that_show_them() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a int, m mood); CREATE DOMAIN several AS pair[];
         CREATE TABLE moods (id int PRIMARY KEY, m mood); CREATE TABLE pairs (id int PRIMARY KEY, p several);
         CREATE TABLE plain (id int PRIMARY KEY, t text);
         INSERT INTO moods VALUES (1, 'ok'); INSERT INTO pairs VALUES (1, array[row(1, 'ok')::pair]);
         SELECT foreshard.create_shard(n, n::regclass) FROM unnest('{moods,pairs,plain}'::text[]) n",
    )
    .await?;
    let both = ["moods Whole(Ddl)", "pairs Whole(Ddl)"];
    assert_eq!(origin.after("ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'").await?, both);
    assert_eq!(origin.rows("pairs").await?, [r#"1|[{"a":1,"m":"fine"}]"#]);
    assert_eq!(origin.after("ALTER TYPE pair ADD ATTRIBUTE x text").await?, ["pairs Whole(Ddl)"]);
    assert_eq!(origin.after("ALTER TYPE pair RENAME ATTRIBUTE x TO y").await?, ["pairs Whole(Ddl)"]);
    assert_eq!(origin.after("CREATE TYPE other AS ENUM ('a'); CREATE TYPE third AS (a int)").await?, [""; 0]);
    assert_eq!(origin.after("UPDATE moods SET m = 'sad'").await?, ["moods Whole(Rows)"]);
    Ok(())
}

/// What a dump carries is text: it has to name types, labels and schemas as they are called now.
#[tokio::test]
async fn definitions_follow_renamed_types_and_labels() -> Result<()> {
    let origin = Origin::followed(
        "CREATE SCHEMA kinds; CREATE TYPE kinds.mood AS ENUM ('sad', 'ok'); CREATE TABLE t (id int PRIMARY KEY, m kinds.mood);
         ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (1, 'sad'), (2, 'ok');
         SELECT foreshard.create_shard('t', 't', predicate => $$m = 'sad'::kinds.mood$$)",
    )
    .await?;
    for (alteration, predicate) in [
        ("ALTER TYPE kinds.mood RENAME VALUE 'sad' TO 'so so'", "(m = 'so so'::kinds.mood)"),
        ("ALTER TYPE kinds.mood RENAME TO feeling", "(m = 'so so'::kinds.feeling)"),
        ("ALTER SCHEMA kinds RENAME TO sorts", "(m = 'so so'::sorts.feeling)"),
        ("ALTER TYPE sorts.feeling SET SCHEMA public", "(m = 'so so'::public.feeling)"),
    ] {
        origin.db.batch_execute(alteration).await?;
        let kept: String = origin.value("SELECT predicate FROM foreshard.shards").await?;
        assert_eq!(kept, predicate, "{alteration}");
        assert!(origin.rows("t").await?.len() == 1, "{alteration}");
    }
    origin.frames().await?;
    assert_eq!(origin.after("DELETE FROM t WHERE id = 2").await?, [""; 0]);
    assert_eq!(origin.after("DELETE FROM t WHERE id = 1").await?, ["t Whole(Rows)"]);
    origin.db.batch_execute("SELECT foreshard.rederive()").await?;
    let defect: Option<String> = origin.value("SELECT defect FROM foreshard.shards").await?;
    assert_eq!(defect, None);
    Ok(())
}

/// Rows written before a column was added have no value for it; PostgreSQL reads the default.
#[tokio::test]
async fn a_column_added_with_a_default_is_read_in_old_rows() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (1), (2);
         ALTER TABLE t ADD COLUMN n int DEFAULT 7, ADD COLUMN s text DEFAULT 'x';
         SELECT foreshard.create_shard('t', 't', predicate => $$s = 'x'$$, key => '{n}')",
    )
    .await?;
    assert_eq!(origin.after("DELETE FROM t WHERE id = 1").await?, ["t 7"]);
    assert_eq!(origin.after("UPDATE t SET n = 8").await?, ["t 7 8"]);
    Ok(())
}

const PARTITIONED: &str = "CREATE TABLE root (id int, region text, n int) PARTITION BY LIST (region);
    CREATE TABLE east PARTITION OF root FOR VALUES IN ('east');
    CREATE TABLE west (x int, n int, region text, id int);
    ALTER TABLE west DROP COLUMN x;
    ALTER TABLE root ATTACH PARTITION west FOR VALUES IN ('west');
    CREATE TABLE south (x text, region text, y text, id int, n int);
    ALTER TABLE south DROP COLUMN x, DROP COLUMN y;
    ALTER TABLE east REPLICA IDENTITY FULL; ALTER TABLE west REPLICA IDENTITY FULL; ALTER TABLE south REPLICA IDENTITY FULL;
    SELECT foreshard.create_shard('root', 'root', predicate => 'n > 0', key => '{id}');
    SELECT foreshard.create_shard('west', 'west', key => '{id}')";

#[tokio::test]
async fn changes_of_partitions_reach_shards_of_their_root() -> Result<()> {
    let origin = Origin::followed(PARTITIONED).await?;
    assert_eq!(origin.after("INSERT INTO root VALUES (1, 'east', 5)").await?, ["root 1"]);
    // Another order of columns, and a dropped one, in this partition.
    assert_eq!(origin.after("INSERT INTO root VALUES (2, 'west', 5)").await?, ["root 2", "west 2"]);
    assert_eq!(origin.after("INSERT INTO west (id, region, n) VALUES (3, 'west', -5)").await?, ["west 3"]);
    assert_eq!(origin.after("UPDATE root SET n = 0 WHERE id = 2").await?, ["root 2", "west 2"]);
    // The row moves to the other partition.
    assert_eq!(origin.after("UPDATE root SET region = 'west' WHERE id = 1").await?, ["root 1", "west 1"]);
    assert_eq!(origin.rows("root?id=1").await?, ["1|west|5"]);
    assert_eq!(origin.after("TRUNCATE west").await?, ["root Whole(Truncate)", "west Whole(Truncate)"]);
    assert_eq!(origin.after("TRUNCATE root").await?, ["root Whole(Truncate)", "west Whole(Truncate)"]);
    Ok(())
}

#[tokio::test]
async fn partitions_come_and_go() -> Result<()> {
    let origin = Origin::followed(PARTITIONED).await?;
    let ddl = ["root Whole(Ddl)"];
    assert_eq!(origin.after("INSERT INTO south (id, region, n) VALUES (1, 'south', 1)").await?, [""; 0]);
    assert_eq!(origin.after("ALTER TABLE root ATTACH PARTITION south FOR VALUES IN ('south')").await?, ddl);
    assert_eq!(origin.after("INSERT INTO root VALUES (2, 'south', 1)").await?, ["root 2"]);
    assert_eq!(origin.after("ALTER TABLE root DETACH PARTITION south").await?, ddl);
    assert_eq!(origin.after("UPDATE south SET n = 2").await?, [""; 0]);
    let made_and_filled = "BEGIN; CREATE TABLE north PARTITION OF root FOR VALUES IN ('north') PARTITION BY RANGE (id);
        CREATE TABLE north1 PARTITION OF north FOR VALUES FROM (0) TO (100); INSERT INTO root VALUES (3, 'north', 1); COMMIT";
    assert_eq!(origin.after(made_and_filled).await?, ddl);
    assert_eq!(origin.after("INSERT INTO root VALUES (4, 'north', 1)").await?, ["root 4"], "two levels down");
    assert_eq!(
        origin.after("CREATE TABLE north2 PARTITION OF north FOR VALUES FROM (100) TO (200)").await?,
        ddl
    );
    assert_eq!(origin.after("INSERT INTO root VALUES (104, 'north', 1)").await?, ["root 104"]);
    assert_eq!(origin.after("DROP TABLE north1").await?, ddl);
    assert_eq!(origin.after("ALTER TABLE root DETACH PARTITION west").await?, ["root Whole(Ddl)"]);
    assert_eq!(origin.after("INSERT INTO west (id, region, n) VALUES (5, 'west', 1)").await?, ["west 5"]);
    assert_eq!(origin.after("ALTER TABLE root ADD COLUMN z int").await?, ddl);
    // The shard of a partition follows what is done at the root.
    let attach =
        "ALTER TABLE west ADD COLUMN z int; ALTER TABLE root ATTACH PARTITION west FOR VALUES IN ('west')";
    origin.after(attach).await?;
    origin.after("ALTER TABLE root RENAME id TO ident").await?;
    assert_eq!(origin.after("INSERT INTO root VALUES (7, 'west', 1)").await?, ["root 7", "west 7"]);
    assert_eq!(origin.rows("west?ident=7").await?, ["1|west|7|-"]);
    origin.after("ALTER TABLE root RENAME ident TO id; ALTER TABLE root DETACH PARTITION west").await?;
    assert_eq!(origin.after("INSERT INTO root VALUES (6, 'east', 1)").await?, ["root 6"]);
    Ok(())
}

/// A definition that was moved to the TOAST table, where VACUUM does not spare it for slots, is not looked for: its shard is told as a whole.
#[tokio::test]
async fn a_definition_that_outgrows_its_row_stops_no_stream() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE large (id int PRIMARY KEY, a text); CREATE TABLE other (id int PRIMARY KEY);
         SELECT foreshard.create_shard('other', 'other', key => '{id}');
         CREATE FUNCTION condition(many int, pad int) RETURNS text LANGUAGE sql AS $$
             SELECT format('a IN (%s, %L)', string_agg(quote_literal(left(encode(sha256(i::text::bytea), 'base64'), 40)), ','), left(encode(sha256('x'), 'hex') || encode(sha256('y'), 'hex'), pad)) FROM generate_series(1, many) i $$;
         -- As large as it may be.
         DO $do$ BEGIN
             FOR length IN REVERSE 160 * 40 .. 20 * 40 LOOP
                 BEGIN
                     PERFORM foreshard.create_shard('large', 'large', condition(length / 40, length % 40));
                     RETURN;
                 EXCEPTION WHEN program_limit_exceeded THEN END;
             END LOOP;
         END $do$",
    )
    .await?;
    let long = "a".repeat(58);
    assert_eq!(origin.after("INSERT INTO other VALUES (1)").await?, ["other 1"]);
    origin.db.batch_execute(&format!("ALTER TABLE large RENAME a TO {long}")).await?;
    let moved: i64 = origin
        .value("SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE oid = 'foreshard.shard'::regclass")
        .await?;
    assert!(moved > 0, "the definition fits");
    origin
        .db
        .batch_execute(
            "INSERT INTO large VALUES (1, 'x'); INSERT INTO other VALUES (2);
             SELECT foreshard.create_shard('large', 'large', 'id > 0', or_replace => true)",
        )
        .await?;
    origin.db.batch_execute("VACUUM foreshard.shard").await?;
    let told = origin.after("INSERT INTO other VALUES (3); INSERT INTO large VALUES (2, 'x')").await?;
    let renamed = ["+shard large", "large Whole(Ddl)"];
    let meanwhile = ["+shard large", "large Whole(Evaluation)", "other 2"];
    assert_eq!(told, [&renamed[..], &meanwhile, &["large Whole(Rows)", "other 3"]].concat());
    Ok(())
}

/// Each row that is written has every stream read the definitions again.
#[tokio::test]
async fn what_concerns_no_shard_writes_no_definition() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TYPE mood AS ENUM ('sad'); CREATE TYPE other AS ENUM ('a'); CREATE SCHEMA elsewhere; CREATE TABLE other_table (id int);
         CREATE TABLE t (id int PRIMARY KEY, k int, m mood); CREATE TABLE u (id int PRIMARY KEY, k int);
         SELECT foreshard.create_shard('s', 't', $$m <> 'sad' AND k > 1$$, '{id}');
         SELECT foreshard.create_query_shard('q', $$SELECT t.id, u.k FROM t JOIN u USING (id) WHERE u.k = $1 AND t.m <> 'sad'$$, '{k}')",
    )
    .await?;
    let written =
        "SELECT concat((SELECT json_agg(s.xmin::text || s.ctid ORDER BY name) FROM foreshard.shard s),
        (SELECT json_agg(q.xmin::text || q.ctid ORDER BY shard) FROM foreshard.shard_query q),
        (SELECT json_agg(d.xmin::text || d.ctid ORDER BY shard, ordinal) FROM foreshard.shard_source d))";
    let before: String = origin.value(written).await?;
    for statement in [
        "CREATE TEMP TABLE passing (id int)",
        "ALTER TABLE passing ADD k int",
        "CREATE TABLE made (id int)",
        "CREATE TABLE made_as AS SELECT 1 AS x",
        "ALTER TYPE other ADD VALUE 'b'",
        "ALTER TYPE other RENAME TO another",
        "ALTER SCHEMA elsewhere RENAME TO nowhere",
        "CREATE DOMAIN positive AS int CHECK (VALUE > 0); ALTER DOMAIN positive DROP CONSTRAINT positive_check",
        "ALTER TABLE other_table ADD k int",
        "GRANT SELECT ON other_table TO PUBLIC",
        "ALTER TABLE u ALTER k SET STATISTICS 10",
    ] {
        origin.db.batch_execute(statement).await?;
        assert_eq!(origin.value::<String>(written).await?, before, "{statement}");
    }
    origin.db.batch_execute("ALTER TYPE mood RENAME VALUE 'sad' TO 'bad'").await?;
    assert_ne!(origin.value::<String>(written).await?, before);
    let named: i64 = origin
        .value("SELECT count(*) FROM foreshard.shards WHERE concat(predicate, query) LIKE '%''bad''%'")
        .await?;
    assert_eq!(named, 2);
    Ok(())
}
