//! Wrong calls of create_query_shard, and definitions that fail or vanish while others go on.

use anyhow::Result;
use tokio_postgres::error::SqlState as S;

use crate::origin::{Origin, error_of};
use crate::rights::role;

const SETUP: &str = r#"
    CREATE TABLE t (id int PRIMARY KEY, n int, s text, j jsonb, at timestamptz, v numeric);
    CREATE TABLE u (id int PRIMARY KEY, n int);
    CREATE VIEW a_view AS SELECT * FROM t;
    CREATE MATERIALIZED VIEW a_matview AS SELECT * FROM t;
    CREATE UNLOGGED TABLE unlogged (id int);
    CREATE TABLE parent (id int); CREATE TABLE child () INHERITS (parent);
    CREATE TABLE secured (id int); ALTER TABLE secured ENABLE ROW LEVEL SECURITY;
    CREATE SEQUENCE a_sequence;
    CREATE DOMAIN checked AS int CHECK (value > 0);
    CREATE FUNCTION mine(int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 > 0';
    CREATE FUNCTION lt(int, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
    CREATE OPERATOR <<<< (leftarg = int, rightarg = text, procedure = lt);
    CREATE AGGREGATE my_sum(int) (sfunc = int4pl, stype = int);
    SELECT foreshard.create_shard('s', 't'), foreshard.map_function('f', '{s}');
"#;

/// Query, params, SQLSTATE, part of the message.
pub(crate) fn calls() -> Vec<(&'static str, &'static str, S, &'static str)> {
    vec![
        // No single SELECT.
        ("", "{}", S::SYNTAX_ERROR, "single SELECT"),
        ("SELECT", "{}", S::INVALID_TABLE_DEFINITION, "no column"),
        ("SELECT id FROM t; SELECT 1", "{}", S::SYNTAX_ERROR, "single SELECT"),
        ("SELECT id FROM t; DROP TABLE t", "{}", S::SYNTAX_ERROR, "single SELECT"),
        ("DROP TABLE t", "{}", S::SYNTAX_ERROR, "single SELECT"),
        ("DELETE FROM t RETURNING id", "{}", S::SYNTAX_ERROR, "single SELECT"),
        ("INSERT INTO t VALUES (1) RETURNING id", "{}", S::SYNTAX_ERROR, "single SELECT"),
        ("COPY t TO PROGRAM 'true'", "{}", S::SYNTAX_ERROR, "single SELECT"),
        ("SELECT id FROM t) AS q; DROP TABLE t; --", "{}", S::SYNTAX_ERROR, "syntax error"),
        ("SELECT id INTO stolen FROM t", "{}", S::FEATURE_NOT_SUPPORTED, "changes nothing"),
        (
            "WITH d AS (DELETE FROM t RETURNING id) SELECT id FROM d",
            "{}",
            S::FEATURE_NOT_SUPPORTED,
            "change data in WITH",
        ),
        (
            "WITH d AS (UPDATE t SET n = 1 RETURNING id) SELECT id FROM d",
            "{}",
            S::FEATURE_NOT_SUPPORTED,
            "change data in WITH",
        ),
        ("SELECT id FROM t FOR UPDATE", "{}", S::FEATURE_NOT_SUPPORTED, "lock rows"),
        ("SELECT id FROM (SELECT id FROM t FOR SHARE) x", "{}", S::FEATURE_NOT_SUPPORTED, "lock rows"),
        // What it may read.
        ("SELECT 1 AS x", "{}", S::INVALID_PARAMETER_VALUE, "no table"),
        ("VALUES (1)", "{}", S::INVALID_PARAMETER_VALUE, "no table"),
        ("SELECT id FROM nowhere", "{}", S::UNDEFINED_TABLE, "nowhere"),
        ("SELECT nope FROM t", "{}", S::UNDEFINED_COLUMN, "nope"),
        ("SELECT id FROM a_view", "{}", S::WRONG_OBJECT_TYPE, "a view"),
        ("SELECT t.id FROM t WHERE EXISTS (SELECT FROM a_view)", "{}", S::WRONG_OBJECT_TYPE, "a view"),
        ("SELECT id FROM a_matview", "{}", S::WRONG_OBJECT_TYPE, "a materialized view"),
        ("SELECT last_value FROM a_sequence", "{}", S::WRONG_OBJECT_TYPE, "a sequence"),
        ("SELECT relname FROM pg_class", "{}", S::WRONG_OBJECT_TYPE, "a system table"),
        ("SELECT name FROM foreshard.edge", "{}", S::WRONG_OBJECT_TYPE, "a system table"),
        ("SELECT id FROM unlogged", "{}", S::FEATURE_NOT_SUPPORTED, "unlogged"),
        ("SELECT id FROM parent", "{}", S::FEATURE_NOT_SUPPORTED, "inheritance parent"),
        ("SELECT id FROM secured", "{}", S::FEATURE_NOT_SUPPORTED, "row-level security"),
        ("SELECT id FROM t TABLESAMPLE system (10)", "{}", S::FEATURE_NOT_SUPPORTED, "TABLESAMPLE"),
        ("SELECT ctid::text AS c FROM t", "{}", S::FEATURE_NOT_SUPPORTED, "system columns"),
        ("SELECT tableoid FROM t", "{}", S::FEATURE_NOT_SUPPORTED, "system columns"),
        // What it may call.
        ("SELECT id, now() AS x FROM t", "{}", S::FEATURE_NOT_SUPPORTED, "can't call now"),
        ("SELECT id FROM t WHERE at > current_timestamp", "{}", S::FEATURE_NOT_SUPPORTED, "can't call"),
        ("SELECT id FROM t WHERE at > current_date", "{}", S::FEATURE_NOT_SUPPORTED, "can't call"),
        ("SELECT id FROM t WHERE s = current_user", "{}", S::FEATURE_NOT_SUPPORTED, "can't call"),
        ("SELECT id FROM t WHERE s = session_user", "{}", S::FEATURE_NOT_SUPPORTED, "can't call"),
        ("SELECT id, random() AS r FROM t", "{}", S::FEATURE_NOT_SUPPORTED, "can't call random"),
        (
            "SELECT id, nextval('a_sequence') AS r FROM t",
            "{}",
            S::FEATURE_NOT_SUPPORTED,
            "can't call nextval",
        ),
        ("SELECT id, pg_sleep(9)::text AS r FROM t", "{}", S::FEATURE_NOT_SUPPORTED, "can't call pg_sleep"),
        (
            "SELECT id, pg_read_file('x') AS r FROM t",
            "{}",
            S::FEATURE_NOT_SUPPORTED,
            "can't call pg_read_file",
        ),
        (
            "SELECT id, current_setting('x') AS r FROM t",
            "{}",
            S::FEATURE_NOT_SUPPORTED,
            "can't call current_setting",
        ),
        ("SELECT id, age(at) AS r FROM t", "{}", S::FEATURE_NOT_SUPPORTED, "can't call age"),
        (
            "SELECT id FROM t WHERE s::timestamptz > at",
            "{}",
            S::FEATURE_NOT_SUPPORTED,
            "can't call timestamptz_in",
        ),
        ("SELECT id, txid_current() AS r FROM t", "{}", S::FEATURE_NOT_SUPPORTED, "can't call txid_current"),
        (
            "SELECT id, query_to_xml('SELECT 1', true, true, '')::text AS x FROM t",
            "{}",
            S::FEATURE_NOT_SUPPORTED,
            "can't call query_to_xml",
        ),
        ("SELECT id FROM t ORDER BY random()", "{}", S::FEATURE_NOT_SUPPORTED, "can't call random"),
        ("SELECT id FROM t LIMIT (random() * 5)::int", "{}", S::FEATURE_NOT_SUPPORTED, "can't call random"),
        ("SELECT id FROM t, pg_ls_dir('.') d", "{}", S::FEATURE_NOT_SUPPORTED, "can't call pg_ls_dir"),
        (
            "SELECT id FROM t WHERE public.mine(n)",
            "{}",
            S::FEATURE_NOT_SUPPORTED,
            "user-defined function mine",
        ),
        ("SELECT id FROM t WHERE n <<<< s", "{}", S::FEATURE_NOT_SUPPORTED, "user-defined function lt"),
        (
            "SELECT public.my_sum(n) AS x FROM t",
            "{}",
            S::FEATURE_NOT_SUPPORTED,
            "user-defined function my_sum",
        ),
        (
            "SELECT public.my_sum(n) OVER () AS x FROM t",
            "{}",
            S::FEATURE_NOT_SUPPORTED,
            "user-defined function my_sum",
        ),
        ("SELECT n::checked AS x FROM t", "{}", S::FEATURE_NOT_SUPPORTED, "domain"),
        // Columns.
        ("SELECT t.id, u.id FROM t, u", "{}", S::DUPLICATE_COLUMN, "twice"),
        ("SELECT t.*, u.* FROM t, u", "{}", S::DUPLICATE_COLUMN, "twice"),
        ("SELECT row(id, n) AS r FROM t", "{}", S::INVALID_TABLE_DEFINITION, "no type of its own"),
        // Parameters.
        ("SELECT id FROM t WHERE id = $1", "{}", S::UNDEFINED_PARAMETER, "$1"),
        ("SELECT id FROM t WHERE id = $2", "{a,b}", S::INDETERMINATE_DATATYPE, "$1"),
        ("SELECT id FROM t", "{a}", S::INDETERMINATE_DATATYPE, "$1"),
        ("SELECT id FROM t WHERE id = $0", "{a}", S::UNDEFINED_PARAMETER, "$0"),
        ("SELECT id FROM t WHERE $1 IS NULL", "{a}", S::INDETERMINATE_DATATYPE, "$1"),
        ("SELECT id FROM t WHERE id = $99999999", "{a}", S::UNDEFINED_PARAMETER, "$"),
        ("SELECT id FROM t WHERE j = $1", "{a}", S::FEATURE_NOT_SUPPORTED, "type jsonb"),
        ("SELECT id FROM t WHERE id = ANY ($1)", "{a}", S::FEATURE_NOT_SUPPORTED, "type integer[]"),
        (
            "SELECT id FROM t WHERE id = $1 AND s = $1",
            "{a}",
            S::UNDEFINED_FUNCTION,
            "operator does not exist",
        ),
        ("SELECT id FROM t WHERE id = $1 AND n = $2", "{a,a}", S::DUPLICATE_OBJECT, "twice"),
        ("SELECT id FROM t WHERE id = $1", "{limit}", S::INVALID_NAME, "limit"),
        ("SELECT id FROM t WHERE id = $1", "{\"\"}", S::INVALID_NAME, "name of a parameter"),
        ("SELECT id FROM t WHERE id = $1", "{NULL}", S::NULL_VALUE_NOT_ALLOWED, "NULL"),
        // What PostgreSQL itself refuses.
        ("SELECT id FROM t WHERE count(*) > 1", "{}", S::GROUPING_ERROR, "aggregate"),
        ("SELECT id, count(*) AS c FROM t GROUP BY n", "{}", S::GROUPING_ERROR, "GROUP BY"),
        ("SELECT 1 / 0 AS x FROM t", "{}", S::DIVISION_BY_ZERO, "division by zero"),
        ("SELECT t.id FROM t FULL JOIN u ON t.id < u.id", "{}", S::FEATURE_NOT_SUPPORTED, "FULL JOIN"),
    ]
}

#[tokio::test]
async fn every_wrong_query_has_its_error_and_changes_nothing() -> Result<()> {
    let origin = Origin::start().await?;
    origin.db.batch_execute(SETUP).await?;
    let mut wrong: Vec<(String, S, &str)> = calls()
        .into_iter()
        .map(|(query, params, state, words)| {
            (format!("SELECT foreshard.create_query_shard('x', $q${query}$q$, '{params}')"), state, words)
        })
        .collect();
    let good = "'SELECT id FROM t'";
    for (call, state, words) in [
        ("NULL, 'SELECT id FROM t'".to_owned(), S::NULL_VALUE_NOT_ALLOWED, "NULL"),
        ("'x', NULL".to_owned(), S::NULL_VALUE_NOT_ALLOWED, "NULL"),
        (format!("'', {good}"), S::INVALID_NAME, "63 bytes"),
        (format!("repeat('x', 1000000), {good}"), S::INVALID_NAME, "63 bytes"),
        (format!("'s', {good}"), S::DUPLICATE_OBJECT, "already exists"),
        (format!("'s', {good}, or_replace => true, if_not_exists => true"), S::INVALID_PARAMETER_VALUE, "exclude"),
        (format!("'x', {good}, or_replace => NULL"), S::NULL_VALUE_NOT_ALLOWED, "NULL"),
        ("'x', 'SELECT id FROM t --' || repeat('x', 1000000)".to_owned(), S::PROGRAM_LIMIT_EXCEEDED, "32768 bytes"),
        ("'x', 'SELECT id FROM t WHERE id = ' || repeat('(', 6000) || '1'".to_owned(), S::SYNTAX_ERROR, "syntax error"),
        (
            "'x', 'SELECT ' || (SELECT string_agg('$' || g || '::int AS c' || g, ',') FROM generate_series(1, 9) g) || ' FROM t', \
             (SELECT array_agg('p' || g)::name[] FROM generate_series(1, 9) g)".to_owned(),
            S::TOO_MANY_ARGUMENTS,
            "at most 8",
        ),
    ] {
        wrong.push((format!("SELECT foreshard.create_query_shard({call})"), state, words));
    }
    assert!(wrong.len() >= 60);
    let mut surprises = Vec::new();
    for (statement, state, words) in wrong {
        match error_of(&origin.db, &statement).await {
            Ok(error) if *error.code() == state && error.message().contains(words) => {}
            other => surprises.push(format!("{statement}\n  got {other:?}\n  wanted {state:?} {words}")),
        }
    }
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
    let left: i64 = origin
        .value(
            "SELECT (SELECT count(*) FROM foreshard.shard) + (SELECT count(*) FROM foreshard.shard_source)",
        )
        .await?;
    assert_eq!(left, 1);
    Ok(())
}

#[tokio::test]
async fn what_fails_at_run_time_concerns_that_shard_only() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE t (id int PRIMARY KEY, n int); CREATE TABLE other (id int PRIMARY KEY);
         INSERT INTO t VALUES (1, 5); ALTER TABLE t REPLICA IDENTITY FULL;
         SELECT foreshard.create_query_shard('ratio', 'SELECT id, 10 / n AS r FROM t WHERE id = $1', '{id}');
         SELECT foreshard.create_query_shard('where', 'SELECT id FROM t WHERE 10 / n > 1 AND id = $1', '{id}');
         SELECT foreshard.create_query_shard('huge', 'SELECT id, n * 1000000000 AS r FROM t');
         SELECT foreshard.create_shard('other', 'other')",
    )
    .await?;
    assert_eq!(origin.rows("ratio?id=1").await?, ["1|2"]);
    // The row that can't be evaluated may be in the shard: it is told, and the fetch says what is wrong.
    assert_eq!(origin.after("UPDATE t SET n = 0").await?, ["huge Whole(Rows)", "ratio 1", "where 1"]);
    assert_eq!(origin.rows("ratio?id=1").await?, ["Broken"]);
    assert_eq!(origin.rows("other").await?, Vec::<String>::new());
    assert_eq!(
        origin.after("UPDATE t SET n = 2000000000").await?,
        ["huge Whole(Rows)", "ratio 1", "where 1"]
    );
    assert_eq!(origin.rows("huge").await?, ["Broken"]);
    assert_eq!(origin.rows("ratio?id=1").await?, ["1|0"]);
    assert_eq!(origin.rows("ratio?id=99999999999").await?, ["KeyType"]);
    // A table that is gone takes its shards along, and nothing else.
    let events =
        origin.after("INSERT INTO t VALUES (2, 1); DROP TABLE t; INSERT INTO other VALUES (1)").await?;
    assert!(events.contains(&"other Whole(Rows)".to_owned()), "{events:?}");
    assert_eq!(origin.rows("other").await?, ["1"]);
    assert_eq!(origin.rows("ratio?id=1").await?, ["Broken"]);
    assert_eq!(
        origin.after("SELECT foreshard.drop_shard('ratio')").await?.last().map(String::as_str),
        Some("-shard ratio")
    );
    Ok(())
}

#[tokio::test]
async fn the_same_shard_is_defined_and_dropped_by_many_at_once() -> Result<()> {
    let origin = Origin::followed("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await?;
    let mut sessions = Vec::new();
    for number in 0..6 {
        let session = origin.cluster.connect().await?;
        sessions.push(async move {
            for round in 0..10 {
                let call = match (number + round) % 3 {
                    0 => "SELECT foreshard.create_query_shard('x', 'SELECT id FROM t', or_replace => true)",
                    1 => "SELECT foreshard.create_shard('x', 't', or_replace => true)",
                    _ => "SELECT foreshard.drop_shard('x', if_exists => true)",
                };
                session.batch_execute(call).await?;
            }
            Ok::<_, tokio_postgres::Error>(())
        });
    }
    for done in futures_util::future::join_all(sessions).await {
        done?;
    }
    origin.frames().await?;
    let define = "SELECT foreshard.create_query_shard('x', 'SELECT id FROM t', or_replace => true)";
    origin.db.batch_execute(define).await?;
    origin.map_all().await?;
    assert_eq!(origin.rows("x").await?, ["1"]);
    let left: i64 = origin.value("SELECT count(*) FROM foreshard.shard_source").await?;
    assert_eq!(left, 1);
    Ok(())
}

#[tokio::test]
async fn nobody_else_s_operators_casts_or_tables_get_into_a_query() -> Result<()> {
    let origin = Origin::start().await?;
    let evil = role(&origin, "evil").await?;
    origin
        .db
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, s text); INSERT INTO t VALUES (1, 'x'), (2, 'y');
             CREATE SCHEMA trap AUTHORIZATION evil; GRANT USAGE ON SCHEMA trap TO PUBLIC;
             GRANT USAGE ON SCHEMA foreshard TO evil",
        )
        .await?;
    evil.batch_execute(
        "CREATE FUNCTION trap.yes(int, int) RETURNS boolean LANGUAGE sql AS 'SELECT true';
         CREATE OPERATOR trap.= (leftarg = int, rightarg = int, procedure = trap.yes);
         CREATE FUNCTION trap.count(int) RETURNS bigint LANGUAGE sql AS 'SELECT 99::bigint';
         CREATE FUNCTION trap.lower(text) RETURNS text LANGUAGE sql AS 'SELECT $1';
         CREATE TABLE trap.pg_class (oid oid); CREATE TABLE trap.shard (name text)",
    )
    .await?;
    // Whose names come first in the path of him who defines is refused, not called.
    origin.db.batch_execute("SET search_path = trap, pg_catalog, public").await?;
    let error =
        error_of(&origin.db, "SELECT foreshard.create_query_shard('q', 'SELECT s FROM t WHERE id = 1')")
            .await?;
    assert!(error.message().contains("user-defined function yes"), "{error}");
    // Afterwards the path of nobody matters.
    origin.db.batch_execute("RESET search_path").await?;
    let define = "SELECT foreshard.create_query_shard('q', 'SELECT lower(s) AS s FROM t WHERE id = $1', '{id}'); SELECT foreshard.map_function('f', '{q}')";
    origin.db.batch_execute(define).await?;
    origin
        .db
        .batch_execute("SET search_path = trap, pg_catalog, public; CREATE TEMP TABLE t (id int, s text)")
        .await?;
    assert_eq!(origin.rows("q?id=2").await?, ["y"]);
    for call in [
        "SELECT foreshard.create_query_shard('e', 'SELECT s FROM public.t')",
        "SELECT foreshard.define_query('postgres', 'e', '', '{}', '{}', false, false)",
        "SELECT foreshard.compile_query('SELECT s FROM public.t', '{}', 'postgres'::regrole)",
        "SELECT * FROM foreshard.shard_source",
    ] {
        assert_eq!(*error_of(&evil, call).await?.code(), S::INSUFFICIENT_PRIVILEGE, "{call}");
    }
    Ok(())
}
