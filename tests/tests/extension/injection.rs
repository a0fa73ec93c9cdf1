//! Text that would be SQL if anything pasted it together, and text of a megabyte, in every argument of every function that takes text.

use anyhow::{Context, Result};
use tokio_postgres::Client;

use crate::origin::Origin;

/// Each takes the next number if it is run; that is not undone by a rollback.
const HOSTILE: [&str; 9] = [
    "'; SELECT nextval('public.canary'); --",
    "') IS NULL; SELECT nextval('public.canary'); --",
    "' || nextval('public.canary') || '",
    "\\'; SELECT nextval('public.canary'); --",
    "\"; SELECT nextval('public.canary'); --",
    "$$ || nextval('public.canary') || $$",
    "nextval('public.canary') > 0",
    "SELECT nextval('public.canary')",
    "%s %I %1$s '",
];

/// A sound argument: text, an array of one text, or JSON with the text in it where § is.
enum Sound {
    Text(&'static str),
    Array(&'static str),
    Json(&'static str, &'static str),
}

use Sound::{Array, Json, Text};

impl Sound {
    fn literal(&self, hostile: Option<&str>) -> String {
        let quoted = |text: &str| format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"));
        let inner = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        match self {
            Text(sound) => quoted(hostile.unwrap_or(sound)),
            Array(sound) => quoted(&format!("{{\"{}\"}}", inner(hostile.unwrap_or(sound)))),
            Json(around, sound) => quoted(&around.replace('§', &inner(hostile.unwrap_or(sound)))),
        }
    }
}

/// A schedule, an execution and a report of the planner's, each with its text left open.
const ENTRY: &str = r#"[{"function_id":"f","shard_list":["§"],"confidence":0.5}]"#;
const KEYED: &str = r#"[{"function_id":"f","shard_list":["keyed?id=§"],"confidence":0.5}]"#;
const FUNCTION: &str = r#"[{"function_id":"§","shard_list":["s"],"confidence":0.5}]"#;
const EXECUTION: &str = r#"[{"function_id":"§","started_at":"2024-01-01T00:00:00Z","served_from":"origin","wait_us":1,"bytes":2}]"#;
const SERVED: &str =
    r#"[{"function_id":"f","started_at":"2024-01-01T00:00:00Z","served_from":"§","wait_us":1,"bytes":2}]"#;
const WITHHELD: &str =
    r#"[{"edge":"jfk","function_id":"§","starts_at":1700000000,"ends_at":1700000060,"confidence":0.5}]"#;

/// Calls, with one `?` for each argument.
fn calls() -> Vec<(&'static str, Vec<Sound>)> {
    vec![
        (
            "create_shard(?, ?, ?, ?, ?)",
            vec![Text("x"), Text("public.t"), Text("n > 0"), Array("id"), Array("id")],
        ),
        (
            "create_query_shard(?, ?, ?)",
            vec![Text("x"), Text("SELECT n FROM public.t WHERE id = $1"), Array("id")],
        ),
        ("drop_shard(?)", vec![Text("unused")]),
        ("map_function(?, ?)", vec![Text("x"), Array("s")]),
        ("unmap_function(?)", vec![Text("f")]),
        ("hint_function(?, ?, ?)", vec![Text("f"), Text("@daily"), Text("jfk")]),
        ("unhint_function(?, ?, ?)", vec![Text("f"), Text("@hourly"), Text("jfk")]),
        ("create_edge(?, role => ?)", vec![Text("x"), Text("postgres")]),
        ("drop_edge(?)", vec![Text("jfk")]),
        ("edge_rights(?, true)", vec![Text("postgres")]),
        ("publish_schedule(?, now(), now() + interval '1 min', ?)", vec![Text("jfk"), Json(ENTRY, "s")]),
        ("publish_schedule('jfk', now(), now() + interval '1 min', ?)", vec![Json(FUNCTION, "f")]),
        ("report_quality('[]', ?)", vec![Json(WITHHELD, "f")]),
        ("fetch(?, ?)", vec![Text("jfk"), Array("s")]),
        ("fetch('jfk', ?)", vec![Json("{keyed?id=§}", "1")]),
        ("edge_catalog(?)", vec![Text("jfk")]),
        ("edge_slot(?)", vec![Text("jfk")]),
        ("nudge(?)", vec![Text("jfk")]),
        ("log_executions(?, ?)", vec![Text("jfk"), Json(EXECUTION, "f")]),
        ("log_executions('jfk', ?)", vec![Json(SERVED, "origin")]),
        ("cron_fault(?)", vec![Text("@daily")]),
        ("slot_failures(?)", vec![Text("foreshard_jfk")]),
        ("fetch_failures(?)", vec![Text("foreshard_jfk")]),
        ("instance_shard(?)", vec![Text("s?id=1")]),
        ("instance_fault(?, ?, ?, true)", vec![Text("s?id=1"), Text("s"), Array("id")]),
        ("instance_spelled(?, '{23}', '{-1}')", vec![Text("s?id=1")]),
        ("instance_misfit(?, '{23}', '{-1}')", vec![Text("s?id=1")]),
        ("publish_schedule('jfk', now(), now() + interval '1 min', ?)", vec![Json(KEYED, "1")]),
        ("set_log_retention(?)", vec![Text("30 days")]),
    ]
}

/// What those call with what they were given.
const BEHIND: &str = "append_executions attnums_of check_columns check_definition check_key check_params check_schedule \
    check_schedule_names compile_predicate compile_query deciding_columns decisive_columns define_query define_shard \
    follow_query forget_shard identity_fault identity_gaps misspelled names_of predicate_text query_state query_text register_edge \
    remove_edge remove_shard said_now slot_loss slot_name_of spelled_entries tree_again";

/// Runs it in a transaction that is open; whether it was accepted, and then it stays if it is to.
async fn tried(db: &Client, call: &str, stays: bool) -> Result<bool> {
    db.batch_execute("SAVEPOINT before").await?;
    let accepted = db.batch_execute(&format!("SELECT foreshard.{call}")).await.is_ok();
    let end = if accepted && stays { "RELEASE before" } else { "ROLLBACK TO before; RELEASE before" };
    db.batch_execute(end).await.with_context(|| format!("{call:.300} ended the session"))?;
    Ok(accepted)
}

/// What is stored may be pasted together later: everything looks at it.
const LOOK: &str = "SELECT foreshard.map_function('all', array_agg(name)) FROM foreshard.shards; SELECT foreshard.rederive();
    ALTER TABLE public.t RENAME n TO m; SELECT * FROM foreshard.health();
    SELECT * FROM foreshard.shards, foreshard.function_shards, foreshard.edges, foreshard.hints;
    SELECT foreshard.edge_catalog(name), foreshard.fetch(name, '{s}') FROM foreshard.edge; SELECT FROM foreshard.maintain()";

#[tokio::test]
async fn no_text_of_any_argument_is_run() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            "CREATE SEQUENCE public.canary; CREATE TABLE public.t (id int PRIMARY KEY, n int); INSERT INTO public.t VALUES (1, 1);
             SELECT foreshard.create_shard('s', 't'), foreshard.create_shard('keyed', 't', 'n > 0', '{id}'), foreshard.create_shard('unused', 't');
             SELECT foreshard.map_function('f', '{s,keyed}'); SELECT foreshard.hint_function('f', '@hourly', 'jfk')",
        )
        .await?;
    let sung = "SELECT is_called FROM public.canary";
    let long = "x".repeat(1 << 20);
    for (call, arguments) in calls() {
        let with = |hostile: Option<(usize, &str)>| {
            let mut parts = call.split('?');
            let mut text = parts.next().unwrap_or_default().to_owned();
            for (index, (argument, part)) in arguments.iter().zip(parts).enumerate() {
                let hostile = hostile.filter(|(place, _)| *place == index).map(|(_, text)| text);
                text += &(argument.literal(hostile) + part);
            }
            text
        };
        assert_eq!(call.matches('?').count(), arguments.len(), "{call}");
        origin.db.batch_execute("BEGIN").await?;
        assert!(tried(&origin.db, &with(None), false).await?, "{} is sound", with(None));
        let mut stored = false;
        for place in 0..arguments.len() {
            for hostile in HOSTILE.into_iter().chain([long.as_str()]) {
                let call = with(Some((place, hostile)));
                stored |= tried(&origin.db, &call, true).await?;
                assert!(!origin.value::<bool>(sung).await?, "run by {call:.300}");
            }
        }
        if stored {
            origin.db.batch_execute(LOOK).await.with_context(|| format!("after {call}"))?;
            assert!(!origin.value::<bool>(sung).await?, "run after {call}");
        }
        origin.db.batch_execute("ROLLBACK").await?;
    }

    // The canary sings for whoever pastes.
    origin
        .db
        .batch_execute(
            "CREATE FUNCTION pasted(text) RETURNS void LANGUAGE plpgsql AS $f$ BEGIN EXECUTE 'SELECT ''' || $1 || ''''; END $f$",
        )
        .await?;
    for hostile in HOSTILE {
        let paste = format!("SELECT pasted({})", Text("").literal(Some(hostile)));
        let _ = origin.db.batch_execute(&paste).await;
    }
    assert!(origin.value::<bool>(sung).await?, "the canary is mute");

    let called: Vec<&str> = calls().iter().filter_map(|(call, _)| call.split('(').next()).collect();
    let left_out: String = origin
        .db
        .query_one(
            "SELECT concat(string_agg(p.proname, ' ' ORDER BY p.proname)) FROM pg_proc p
             WHERE p.pronamespace = 'foreshard'::regnamespace AND p.proname <> ALL ($1) AND p.proname <> ALL ($2)
                AND p.proargtypes::oid[] && '{text,text[],name,name[],jsonb}'::regtype[]::oid[]",
            &[&called, &BEHIND.split_whitespace().collect::<Vec<_>>()],
        )
        .await?
        .get(0);
    assert_eq!(left_out, "", "functions that take text and are not called here");
    Ok(())
}
