//! Every wrong call gets an SQLSTATE and words that name what is wrong, and leaves the server running.

use anyhow::Result;
use foreshard_tests::ClusterOptions;
use tokio_postgres::error::SqlState as S;

use crate::origin::{Origin, error_of};

const SETUP: &str = r#"
    CREATE TABLE t (id int PRIMARY KEY, n int, s text, j jsonb, a int[], "Q" int, v numeric, ts timestamptz);
    CREATE VIEW a_view AS SELECT * FROM t;
    CREATE MATERIALIZED VIEW a_matview AS SELECT * FROM t;
    CREATE UNLOGGED TABLE unlogged (id int);
    CREATE TABLE parent (id int); CREATE TABLE child () INHERITS (parent);
    CREATE TABLE secured (id int); ALTER TABLE secured ENABLE ROW LEVEL SECURITY;
    CREATE SEQUENCE a_sequence; CREATE INDEX an_index ON t (n);
    CREATE TYPE a_type AS (x int);
    CREATE TABLE root (id int) PARTITION BY RANGE (id);
    CREATE UNLOGGED TABLE leaf PARTITION OF root FOR VALUES FROM (0) TO (9);
    CREATE TABLE texts (k text);
    CREATE DOMAIN checked AS int CHECK (value > 0);
    CREATE FUNCTION mine(int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 > 0';
    CREATE FUNCTION lt(int, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
    CREATE OPERATOR <<<< (leftarg = int, rightarg = text, procedure = lt);
    SELECT foreshard.create_shard('s', 't'), foreshard.create_shard('keyed', 't', key => '{id}');
    SELECT foreshard.map_function('f', '{s,keyed}'), foreshard.map_function('g', '{s}');
"#;

/// Collations that take different texts for equal come with ICU, which not every build of PostgreSQL has.
const LOOSE: &str =
    "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    ALTER TABLE texts ALTER k TYPE text COLLATE loose";

/// Statement, SQLSTATE, part of the message.
pub(crate) fn calls() -> Vec<(String, S, &'static str)> {
    let mut calls: Vec<(String, S, &'static str)> = Vec::new();
    let mut add =
        |statement: &str, state: S, words: &'static str| calls.push((statement.to_owned(), state, words));

    // What a shard can't be defined on.
    add("SELECT foreshard.create_shard('x', 'nowhere')", S::UNDEFINED_TABLE, "nowhere");
    add("SELECT foreshard.create_shard('x', 'no.where')", S::INVALID_SCHEMA_NAME, "no");
    add("SELECT foreshard.create_shard('x', 999999::oid)", S::UNDEFINED_TABLE, "999999");
    for (source, words) in [
        ("a_view", "a view"),
        ("a_matview", "a materialized view"),
        ("a_sequence", "a sequence"),
        ("an_index", "an index"),
        ("a_type", "a composite type"),
        ("pg_class", "a system table"),
        ("information_schema.sql_features", "a system table"),
        ("foreshard.shard", "a system table"),
    ] {
        add(&format!("SELECT foreshard.create_shard('x', '{source}')"), S::WRONG_OBJECT_TYPE, words);
    }
    for (source, words) in [
        ("unlogged", "unlogged"),
        ("parent", "inheritance parent"),
        ("secured", "row-level security"),
        ("root", "partition public.leaf"),
    ] {
        add(&format!("SELECT foreshard.create_shard('x', '{source}')"), S::FEATURE_NOT_SUPPORTED, words);
    }
    add(
        "CREATE TEMP TABLE temporary (id int); SELECT foreshard.create_shard('x', 'temporary')",
        S::FEATURE_NOT_SUPPORTED,
        "temporary table",
    );

    // Names and flags.
    add("SELECT foreshard.create_shard(NULL, 't')", S::NULL_VALUE_NOT_ALLOWED, "NULL");
    add("SELECT foreshard.create_shard('x', NULL)", S::NULL_VALUE_NOT_ALLOWED, "NULL");
    add("SELECT foreshard.create_shard('', 't')", S::INVALID_NAME, "63 bytes");
    add("SELECT foreshard.create_shard(repeat('x', 64), 't')", S::INVALID_NAME, "63 bytes");
    add("SELECT foreshard.create_shard(repeat('x', 1000000), 't')", S::INVALID_NAME, "63 bytes");
    add("SELECT foreshard.create_shard('s', 't')", S::DUPLICATE_OBJECT, "already exists");
    add(
        "SELECT foreshard.create_shard('s', 't', or_replace => true, if_not_exists => true)",
        S::INVALID_PARAMETER_VALUE,
        "exclude each other",
    );
    add("SELECT foreshard.drop_shard(repeat('x', 1000000))", S::UNDEFINED_OBJECT, "does not exist");
    add("SELECT foreshard.drop_shard('nope')", S::UNDEFINED_OBJECT, "nope");
    add("SELECT foreshard.drop_shard(NULL)", S::NULL_VALUE_NOT_ALLOWED, "NULL");

    // Keys and columns.
    add("SELECT foreshard.create_shard('x', 't', key => '{nope}')", S::UNDEFINED_COLUMN, "nope");
    add("SELECT foreshard.create_shard('x', 't', key => '{q}')", S::UNDEFINED_COLUMN, "q");
    add("SELECT foreshard.create_shard('x', 't', key => '{ctid}')", S::UNDEFINED_COLUMN, "ctid");
    add("SELECT foreshard.create_shard('x', 't', columns => '{id,nope}')", S::UNDEFINED_COLUMN, "nope");
    add("SELECT foreshard.create_shard('x', 't', columns => '{id,id}')", S::DUPLICATE_COLUMN, "twice");
    add(
        "SELECT foreshard.create_shard('x', 't', columns => '{}')",
        S::INVALID_PARAMETER_VALUE,
        "at least one",
    );
    add("SELECT foreshard.create_shard('x', 't', key => '{id,NULL}')", S::NULL_VALUE_NOT_ALLOWED, "NULL");
    add(
        "SELECT foreshard.create_shard('x', 't', key => '{{id},{n}}')",
        S::NULL_VALUE_NOT_ALLOWED,
        "plain list",
    );
    for column in ["j", "a", "v"] {
        let call = format!("SELECT foreshard.create_shard('x', 't', key => '{{{column}}}')");
        add(&call, S::FEATURE_NOT_SUPPORTED, "can't be a shard key");
    }
    add(
        "SELECT foreshard.create_shard('x', 'texts', key => '{k}')",
        S::FEATURE_NOT_SUPPORTED,
        "nondeterministic",
    );
    add(
        "CREATE TABLE wide (a int, b int, c int, d int, e int); SELECT foreshard.create_shard('x', 'wide', key => '{a,b,c,d,e}')",
        S::TOO_MANY_COLUMNS,
        "at most 4",
    );

    // Predicates.
    for (predicate, state, words) in [
        ("n >", S::SYNTAX_ERROR, "syntax error"),
        ("", S::SYNTAX_ERROR, "single boolean expression"),
        ("n", S::DATATYPE_MISMATCH, "boolean"),
        ("nope > 1", S::UNDEFINED_COLUMN, "nope"),
        ("n > 1; DROP TABLE t", S::SYNTAX_ERROR, "syntax error"),
        ("true) OR (true", S::SYNTAX_ERROR, "syntax error"),
        ("true) UNION SELECT (true", S::SYNTAX_ERROR, "syntax error"),
        ("true UNION SELECT true", S::SYNTAX_ERROR, "syntax error"),
        ("true FROM t", S::SYNTAX_ERROR, "single boolean expression"),
        ("true WHERE true", S::SYNTAX_ERROR, "single boolean expression"),
        ("true ORDER BY 1", S::SYNTAX_ERROR, "single boolean expression"),
        ("true LIMIT 1", S::SYNTAX_ERROR, "single boolean expression"),
        ("true, true", S::SYNTAX_ERROR, "single boolean expression"),
        ("true AS x", S::SYNTAX_ERROR, "single boolean expression"),
        ("true x", S::SYNTAX_ERROR, "single boolean expression"),
        ("DISTINCT true", S::SYNTAX_ERROR, "single boolean expression"),
        ("true GROUP BY 1", S::SYNTAX_ERROR, "single boolean expression"),
        ("true FOR UPDATE", S::SYNTAX_ERROR, "single boolean expression"),
        ("true INTO x", S::SYNTAX_ERROR, "syntax error"),
        ("$1", S::UNDEFINED_PARAMETER, "parameter"),
        ("*", S::SYNTAX_ERROR, "single boolean expression"),
        ("t.*", S::SYNTAX_ERROR, "single boolean expression"),
        ("(t).*", S::FEATURE_NOT_SUPPORTED, "row expansion"),
        ("count(*)", S::GROUPING_ERROR, "aggregate"),
        ("EXISTS (SELECT FROM t)", S::FEATURE_NOT_SUPPORTED, "subquery"),
        ("n IN (SELECT 1)", S::FEATURE_NOT_SUPPORTED, "subquery"),
        ("(SELECT true)", S::FEATURE_NOT_SUPPORTED, "subquery"),
        ("count(*) > 1", S::GROUPING_ERROR, "aggregate"),
        ("row_number() OVER () > 1", S::WINDOWING_ERROR, "window"),
        ("generate_series(1, n) > 1", S::FEATURE_NOT_SUPPORTED, "set-returning"),
        ("random() > 0.5", S::FEATURE_NOT_SUPPORTED, "immutable"),
        ("ts > now()", S::FEATURE_NOT_SUPPORTED, "immutable"),
        ("ts > current_timestamp", S::FEATURE_NOT_SUPPORTED, "immutable"),
        ("s = current_user", S::FEATURE_NOT_SUPPORTED, "immutable"),
        ("ts::text = ''", S::FEATURE_NOT_SUPPORTED, "immutable"),
        ("pg_sleep(10) IS NULL", S::FEATURE_NOT_SUPPORTED, "immutable"),
        ("public.mine(n)", S::FEATURE_NOT_SUPPORTED, "user-defined function mine"),
        ("mine(n)", S::UNDEFINED_FUNCTION, "mine"),
        ("n OPERATOR(public.<<<<) s", S::FEATURE_NOT_SUPPORTED, "user-defined function lt"),
        ("n::public.checked > 1", S::FEATURE_NOT_SUPPORTED, "domain"),
        ("ctid IS NOT NULL", S::FEATURE_NOT_SUPPORTED, "system columns"),
        ("xmin::text = '1'", S::FEATURE_NOT_SUPPORTED, "system columns"),
        ("t IS NOT NULL", S::FEATURE_NOT_SUPPORTED, "whole rows"),
        ("n > 1 / 0", S::DIVISION_BY_ZERO, "division by zero"),
        ("n = 'x'", S::INVALID_TEXT_REPRESENTATION, "integer"),
        ("nextval('public.a_sequence') > 1", S::FEATURE_NOT_SUPPORTED, "immutable"),
    ] {
        add(&format!("SELECT foreshard.create_shard('x', 't', $p${predicate}$p$)"), state, words);
    }
    add(
        "SELECT foreshard.create_shard('x', 't', 'n > 1 OR ' || repeat('n = 1 OR ', 1000) || 'n = 2')",
        S::PROGRAM_LIMIT_EXCEEDED,
        "8192 bytes",
    );

    // Mappings.
    add("SELECT foreshard.map_function('f', '{nope}')", S::UNDEFINED_OBJECT, "shard nope");
    add("SELECT foreshard.map_function('f', '{s,s}')", S::INVALID_PARAMETER_VALUE, "twice");
    add("SELECT foreshard.map_function('f', '{}')", S::INVALID_PARAMETER_VALUE, "at least one");
    add("SELECT foreshard.map_function('f', NULL)", S::NULL_VALUE_NOT_ALLOWED, "NULL");
    add("SELECT foreshard.map_function('f', '{s,NULL}')", S::NULL_VALUE_NOT_ALLOWED, "NULL");
    add("SELECT foreshard.map_function(NULL, '{s}')", S::NULL_VALUE_NOT_ALLOWED, "NULL");
    add("SELECT foreshard.map_function(repeat('x', 1000000), '{s}')", S::INVALID_NAME, "256 bytes");
    add("SELECT foreshard.map_function('', '{s}')", S::INVALID_NAME, "256 bytes");
    add("SELECT foreshard.map_function(repeat('x', 257), '{s}')", S::INVALID_NAME, "256 bytes");
    add(
        "SELECT foreshard.map_function('f', array['s''; DROP TABLE t; --'])",
        S::UNDEFINED_OBJECT,
        "does not exist",
    );
    add("SELECT foreshard.unmap_function('nope')", S::UNDEFINED_OBJECT, "not mapped");

    // Hints.
    for (cron, words) in [
        ("at nine", "at nine"),
        ("", "empty"),
        ("61 * * * *", "61 * * * *"),
        ("0 0 30 2 *", "no time that ever comes"),
    ] {
        add(&format!("SELECT foreshard.hint_function('f', '{cron}')"), S::INVALID_PARAMETER_VALUE, words);
    }
    add("SELECT foreshard.hint_function('f', '0 0 0 1 1 *')", S::INVALID_PARAMETER_VALUE, "0 0 0 1 1 *");
    add("SELECT foreshard.hint_function('f', repeat('*', 1000000))", S::INVALID_PARAMETER_VALUE, "256 bytes");
    add("SELECT foreshard.hint_function('f', NULL)", S::NULL_VALUE_NOT_ALLOWED, "NULL");
    add("SELECT foreshard.hint_function('nope', '@daily')", S::UNDEFINED_OBJECT, "not mapped");
    add("SELECT foreshard.hint_function('', '@daily')", S::INVALID_NAME, "256 bytes");
    add("SELECT foreshard.hint_function('f', '@daily', 'atlantis')", S::UNDEFINED_OBJECT, "atlantis");
    for confidence in ["1.1", "-0.1", "'NaN'", "'Infinity'"] {
        add(
            &format!("SELECT foreshard.hint_function('f', '@daily', confidence => {confidence})"),
            S::NUMERIC_VALUE_OUT_OF_RANGE,
            "between 0 and 1",
        );
    }
    add("SELECT foreshard.unhint_function(NULL)", S::NULL_VALUE_NOT_ALLOWED, "NULL");
    add("SELECT foreshard.unhint_function('f', '@daily')", S::UNDEFINED_OBJECT, "no such hint");

    // Edges.
    add("SELECT foreshard.create_edge('jfk')", S::DUPLICATE_OBJECT, "already exists");
    add("SELECT foreshard.create_edge(repeat('x', 1000000))", S::INVALID_NAME, "63 bytes");
    add("SELECT foreshard.create_edge('')", S::INVALID_NAME, "63 bytes");
    add("SELECT foreshard.create_edge(NULL)", S::NULL_VALUE_NOT_ALLOWED, "NULL");
    add("SELECT foreshard.create_edge('x', 91, 0)", S::NUMERIC_VALUE_OUT_OF_RANGE, "latitude");
    add("SELECT foreshard.create_edge('x', 0, 'NaN')", S::NUMERIC_VALUE_OUT_OF_RANGE, "longitude");
    add("SELECT foreshard.create_edge('x', role => 'nobody')", S::UNDEFINED_OBJECT, "nobody");
    add("SELECT foreshard.create_edge('x', role => 999999::oid)", S::UNDEFINED_OBJECT, "999999");
    add("SELECT foreshard.drop_edge('nope')", S::UNDEFINED_OBJECT, "nope");

    // Schedules.
    let schedule = |entries: &str| {
        format!("SELECT foreshard.publish_schedule('jfk', now(), now() + interval '1 min', $s${entries}$s$)")
    };
    for (entries, state, words) in [
        ("{}", S::INVALID_PARAMETER_VALUE, "array"),
        ("1", S::INVALID_PARAMETER_VALUE, "array"),
        ("null", S::INVALID_PARAMETER_VALUE, "array"),
        ("[1]", S::INVALID_PARAMETER_VALUE, "entry 0"),
        ("[{}]", S::INVALID_PARAMETER_VALUE, "exactly the members"),
        (
            r#"[{"function_id":"f","shard_list":["s"],"confidence":0.5,"x":1}]"#,
            S::INVALID_PARAMETER_VALUE,
            "exactly the members",
        ),
        (
            r#"[{"function_id":"f","shard_list":["s"],"confidence":1.5}]"#,
            S::INVALID_PARAMETER_VALUE,
            "between 0 and 1",
        ),
        (
            r#"[{"function_id":"f","shard_list":["s"],"confidence":-0.1}]"#,
            S::INVALID_PARAMETER_VALUE,
            "between 0 and 1",
        ),
        (
            r#"[{"function_id":"f","shard_list":["s"],"confidence":"NaN"}]"#,
            S::INVALID_PARAMETER_VALUE,
            "a number",
        ),
        (
            r#"[{"function_id":"f","shard_list":["s"],"confidence":null}]"#,
            S::INVALID_PARAMETER_VALUE,
            "a number",
        ),
        (
            r#"[{"function_id":"f","shard_list":["s"],"confidence":NaN}]"#,
            S::INVALID_TEXT_REPRESENTATION,
            "json",
        ),
        (r#"[{"function_id":7,"shard_list":["s"],"confidence":1}]"#, S::INVALID_PARAMETER_VALUE, "a string"),
        (
            r#"[{"function_id":"f","shard_list":"s","confidence":1}]"#,
            S::INVALID_PARAMETER_VALUE,
            "array of strings",
        ),
        (
            r#"[{"function_id":"f","shard_list":[1],"confidence":1}]"#,
            S::INVALID_PARAMETER_VALUE,
            "array of strings",
        ),
        (
            r#"[{"function_id":"f","shard_list":[["s"]],"confidence":1}]"#,
            S::INVALID_PARAMETER_VALUE,
            "array of strings",
        ),
        (r#"[{"function_id":"f","shard_list":[],"confidence":1}]"#, S::INVALID_PARAMETER_VALUE, "empty"),
        (
            r#"[{"function_id":"f","shard_list":["s"],"confidence":1},{"function_id":"h","shard_list":["s"],"confidence":1}]"#,
            S::UNDEFINED_OBJECT,
            "entry 1",
        ),
        (
            r#"[{"function_id":"f","shard_list":["nope"],"confidence":1}]"#,
            S::UNDEFINED_OBJECT,
            "no such shard",
        ),
        (
            r#"[{"function_id":"f","shard_list":["s","keyed"],"confidence":1}]"#,
            S::INVALID_PARAMETER_VALUE,
            "key is id",
        ),
        (
            r#"[{"function_id":"f","shard_list":["s?id=1"],"confidence":1}]"#,
            S::INVALID_PARAMETER_VALUE,
            "no key",
        ),
        (
            r#"[{"function_id":"f","shard_list":["?id=1"],"confidence":1}]"#,
            S::INVALID_PARAMETER_VALUE,
            "instance id",
        ),
        (
            r#"[{"function_id":"g","shard_list":["keyed?id=1"],"confidence":1}]"#,
            S::INVALID_PARAMETER_VALUE,
            "not mapped",
        ),
        (
            r#"[{"function_id":"f","shard_list":["s"],"confidence":1},{"function_id":"f","shard_list":["keyed?id=1","keyed?id=abc"],"confidence":1}]"#,
            S::INVALID_PARAMETER_VALUE,
            "entry 1 of the schedule: shard_list has 'keyed?id=abc': the value of key column id of shard keyed is not of type integer",
        ),
        (
            r#"[{"function_id":"f","shard_list":["keyed?id=2147483648"],"confidence":1}]"#,
            S::INVALID_PARAMETER_VALUE,
            "not of type integer",
        ),
        (
            r#"[{"function_id":"f","shard_list":["keyed?id="],"confidence":1}]"#,
            S::INVALID_PARAMETER_VALUE,
            "not of type integer",
        ),
    ] {
        add(&schedule(entries), state, words);
    }
    add(
        "SELECT foreshard.publish_schedule('nope', now(), now() + interval '1 min', '[]')",
        S::UNDEFINED_OBJECT,
        "edge nope",
    );
    add(
        "SELECT foreshard.publish_schedule('jfk', now(), now(), '[]')",
        S::INVALID_PARAMETER_VALUE,
        "before it ends",
    );
    add(
        "SELECT foreshard.publish_schedule('jfk', now(), 'infinity', '[]')",
        S::INVALID_PARAMETER_VALUE,
        "finite",
    );
    add("SELECT foreshard.publish_schedule('jfk', now(), NULL, '[]')", S::NULL_VALUE_NOT_ALLOWED, "NULL");

    // What sidecars call.
    add("SELECT foreshard.fetch('nope', '{s}')", S::UNDEFINED_OBJECT, "edge \"nope\"");
    add("SELECT foreshard.fetch(NULL, '{s}')", S::NULL_VALUE_NOT_ALLOWED, "NULL");
    add("SELECT foreshard.fetch('jfk', NULL)", S::NULL_VALUE_NOT_ALLOWED, "NULL");
    add(
        "SELECT foreshard.fetch('jfk', array_agg('s'::text)) FROM generate_series(1, 1001)",
        S::PROGRAM_LIMIT_EXCEEDED,
        "at most 1000",
    );
    add("SELECT foreshard.edge_catalog('nope')", S::UNDEFINED_OBJECT, "nope");
    add("SELECT foreshard.edge_slot(NULL)", S::NULL_VALUE_NOT_ALLOWED, "NULL");
    add("SELECT foreshard.nudge('nope')", S::UNDEFINED_OBJECT, "nope");
    add("SELECT foreshard.log_executions('jfk', '{}')", S::INVALID_PARAMETER_VALUE, "array");
    add("SELECT foreshard.log_executions('jfk', NULL)", S::NULL_VALUE_NOT_ALLOWED, "NULL");
    add("SELECT foreshard.log_executions('jfk', '[{}]')", S::NOT_NULL_VIOLATION, "function_id");
    add(
        r#"SELECT foreshard.log_executions('jfk', '[{"function_id":"f","started_at":"2024-01-01T00:00:00Z","served_from":"moon","wait_us":1,"bytes":1}]')"#,
        S::CHECK_VIOLATION,
        "served_from",
    );
    calls
}

#[tokio::test]
async fn every_wrong_call_has_its_error_and_changes_nothing() -> Result<()> {
    let origin = Origin::start().await?;
    origin.db.batch_execute(SETUP).await?;
    let loose = origin.built_with(LOOSE).await?;
    let before = state(&origin).await?;
    let mut calls = calls();
    assert!(calls.len() >= 60);
    calls.retain(|(statement, ..)| loose || !statement.contains("'texts'"));
    let version: i32 = origin.value("SELECT current_setting('server_version_num')::int").await?;
    for (_, state, _) in &mut calls {
        // What regclass says of a missing schema.
        if version >= 160_000 && *state == S::INVALID_SCHEMA_NAME {
            *state = S::UNDEFINED_TABLE;
        }
    }
    let mut surprises = Vec::new();
    for (statement, state, words) in calls {
        match error_of(&origin.db, &statement).await {
            Ok(error) if *error.code() == state && error.message().contains(words) => {
                assert!(!error.detail().unwrap_or_default().contains(".rs:"), "a backtrace: {error:?}");
            }
            other => surprises.push(format!("{statement}\n  got {other:?}\n  wanted {state:?} {words}")),
        }
    }
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
    assert_eq!(state(&origin).await?, before);
    Ok(())
}

async fn state(origin: &Origin) -> Result<String> {
    origin
        .value(
            "SELECT concat((SELECT json_agg(s) FROM foreshard.shard s), (SELECT json_agg(m) FROM foreshard.mapping m),
                (SELECT json_agg(e) FROM foreshard.edge e), (SELECT count(*) FROM foreshard.schedules),
                (SELECT count(*) FROM foreshard.executions))",
        )
        .await
}

#[tokio::test]
async fn options_of_the_plugin_are_checked() -> Result<()> {
    let origin = Origin::start().await?;
    origin.create_slot().await?;
    let slot: String = origin.value("SELECT foreshard.edge_slot('jfk')").await?;
    for (options, state, words) in [
        ("", S::INVALID_PARAMETER_VALUE, "\"edge\" is missing"),
        (", 'edge', 'jfk'", S::INVALID_PARAMETER_VALUE, "\"protocol\" is missing"),
        (", 'edge', 'jfk', 'protocol', '1'", S::FEATURE_NOT_SUPPORTED, "only 2"),
        (", 'edge', 'jfk', 'protocol', ''", S::FEATURE_NOT_SUPPORTED, "only 2"),
        (", 'edge', 'jfk', 'protocol', '2', 'x', 'y'", S::INVALID_PARAMETER_VALUE, "unknown option \"x\""),
        (", 'edge', 'jfk', 'edge', 'jfk', 'protocol', '2'", S::INVALID_PARAMETER_VALUE, "twice"),
        (", 'edge', 'nope', 'protocol', '2'", S::UNDEFINED_OBJECT, "nope"),
        (
            ", 'edge', 'jfk', 'protocol', '2', 'deltas', 'all'",
            S::INVALID_PARAMETER_VALUE,
            "on or off, not \"all\"",
        ),
    ] {
        let call = format!("SELECT pg_logical_slot_peek_binary_changes('{slot}', NULL, NULL{options})");
        let error = error_of(&origin.db, &call).await?;
        assert_eq!(*error.code(), state, "{call}: {error}");
        assert!(error.message().contains(words), "{call}: {error}");
    }
    let text =
        format!("SELECT pg_logical_slot_peek_changes('{slot}', NULL, NULL, 'edge', 'jfk', 'protocol', '2')");
    assert_eq!(*error_of(&origin.db, &text).await?.code(), S::FEATURE_NOT_SUPPORTED);
    origin.peek().await?;
    Ok(())
}

async fn the_list_of_plugins_is_mended(origin: &Origin) -> Result<()> {
    let error = error_of(
        &origin.db,
        "SELECT pg_create_logical_replication_slot(foreshard.edge_slot('jfk'), 'foreshard')",
    )
    .await?;
    assert!(error.message().contains("output_plugin") || error.message().contains("foreshard"), "{error}");
    let fix: String = origin
        .value("SELECT fix FROM foreshard.health() WHERE \"check\" = 'output_plugin_libraries' AND status = 'fail'")
        .await?;
    origin.db.batch_execute(&fix).await?;
    origin.db.batch_execute("SELECT pg_reload_conf()").await?;
    foreshard_tests::eventually("the new setting", std::time::Duration::from_secs(10), async || {
        let listed: String = origin.value("SHOW output_plugin_libraries").await?;
        Ok(listed.contains("foreshard").then_some(()))
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_not_set_up_says_so() -> Result<()> {
    let mut options = ClusterOptions::new()?;
    options.output_plugins = None;
    let origin = Origin::with(options).await?;
    let list = "SELECT current_setting('output_plugin_libraries', true)";
    if origin.value::<Option<String>>(list).await?.is_none() {
        let status: String = origin
            .value("SELECT status FROM foreshard.health() WHERE \"check\" = 'output_plugin_libraries'")
            .await?;
        assert_eq!(status, "warn", "a minor release without the list");
    } else {
        the_list_of_plugins_is_mended(&origin).await?;
    }
    origin.create_slot().await?;

    let mut options = ClusterOptions::new()?;
    options.wal_level = "replica".to_owned();
    let origin = Origin::with(options).await?;
    let error = error_of(
        &origin.db,
        "SELECT pg_create_logical_replication_slot(foreshard.edge_slot('jfk'), 'foreshard')",
    )
    .await?;
    assert!(error.message().contains("wal_level"), "{error}");
    let fix: String = origin
        .value("SELECT fix FROM foreshard.health() WHERE \"check\" = 'wal_level' AND status = 'fail'")
        .await?;
    assert!(fix.starts_with("ALTER SYSTEM SET wal_level = logical"), "{fix}");
    Ok(())
}
