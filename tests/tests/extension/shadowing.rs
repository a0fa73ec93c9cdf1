//! A role that may create objects puts its own in front of PostgreSQL's and of the extension's: functions, aggregates and operators with
//! every name and every arguments that there are, relations and types of every name, casts. Nothing of it runs with the rights of somebody
//! else, whatever of the extension is called; that everything of it is called is counted.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foreshard_tests::{ClusterOptions, eventually};
use tokio_postgres::Client;

use crate::origin::Origin;
use crate::rights::{login, role};

/// Whoever runs one of mallory's functions is noted; that it was not he himself, even where the transaction is rolled back.
const TRAP: &str = "CREATE SCHEMA evil; CREATE TABLE evil.caught (who name DEFAULT current_user, what text); CREATE SEQUENCE evil.others;
    GRANT USAGE ON SCHEMA evil TO PUBLIC; GRANT INSERT, SELECT ON evil.caught TO PUBLIC; GRANT USAGE ON SEQUENCE evil.others TO PUBLIC;
    CREATE FUNCTION evil.spring(what text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$ BEGIN
        INSERT INTO evil.caught (what) VALUES (what); PERFORM nextval('evil.others') WHERE current_user <> 'mallory'; END $$;";

const SHADOWS: &str = include_str!("shadows.sql");

const HOSTILE_PATH: &str = "SET search_path = evil, pg_temp, public, pg_catalog";

/// A cluster where mallory has set the trap, and a session of his with all of it in front.
async fn trapped() -> Result<(Origin, Client)> {
    let origin = Origin::with(ClusterOptions::new()?.setting("track_functions", "all")).await?;
    let mallory = role(&origin, "mallory").await?;
    origin
        .db
        .batch_execute(
            "GRANT CREATE, TEMPORARY ON DATABASE postgres TO mallory; GRANT CREATE ON SCHEMA public TO mallory;
             GRANT USAGE ON SCHEMA foreshard TO mallory",
        )
        .await?;
    mallory.batch_execute(TRAP).await?;
    mallory.batch_execute(SHADOWS).await.context("shadows")?;
    let missing = "SELECT pg_catalog.concat(name, ': ', why) FROM evil.missing";
    let missing = mallory.query(missing, &[]).await?;
    let missing: Vec<String> = missing.iter().map(|row| row.get(0)).collect();
    assert_eq!(missing, [""; 0]);
    Ok((origin, mallory))
}

/// Nothing of mallory's ran in another name than his.
async fn nothing_is_caught(origin: &Origin) -> Result<()> {
    let query = "SELECT DISTINCT pg_catalog.concat(who, ' ran ', what) FROM evil.caught WHERE who OPERATOR(pg_catalog.<>) 'mallory' ORDER BY 1";
    let rows = origin.db.query(query, &[]).await?;
    let caught: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(caught, [""; 0]);
    let rolled_back: bool = origin.value("SELECT is_called FROM evil.others").await?;
    assert!(!rolled_back, "something ran in a transaction that was rolled back");
    Ok(())
}

/// The trap is sound: a session with its path in front runs mallory's for functions, aggregates, operators, relations and types.
async fn the_trap_works(mallory: &Client, origin: &Origin) -> Result<()> {
    mallory.batch_execute(HOSTILE_PATH).await?;
    let used = "SELECT lower('A'), format('%s %s', lower('A'), lower('B')), now(), count(*), max(i), array_agg(i) FROM (VALUES (1)) v (i); SELECT 1 = 1";
    mallory.batch_execute(used).await?;
    mallory.batch_execute("SELECT FROM pg_roles; SELECT FROM shard").await?;
    assert!(mallory.batch_execute("SELECT 'a'::text").await.is_err(), "a text that takes numbers only");
    let caught: String = origin
        .value("SELECT pg_catalog.string_agg(DISTINCT what, ' ' ORDER BY what) FROM evil.caught WHERE who OPERATOR(pg_catalog.=) 'mallory'")
        .await?;
    for name in
        ["array_agg", "count", "format", "integer = integer", "lower", "max", "now", "pg_roles", "shard"]
    {
        assert!(caught.contains(name), "{name} is not among {caught}");
    }
    Ok(())
}

/// Every function, called by a superuser and by mallory himself with everything of his in front, does what it did.
#[tokio::test]
async fn what_stands_in_front_of_the_search_path_is_not_run() -> Result<()> {
    let (origin, mallory) = trapped().await?;
    origin
        .db
        .batch_execute(
            "CREATE TABLE public.t (id int PRIMARY KEY, s text, p int); INSERT INTO public.t VALUES (1, 'x', 1), (2, 'yy', 2);
             CREATE TABLE public.u (id int PRIMARY KEY, t int) ; INSERT INTO public.u VALUES (7, 1);
             GRANT SELECT ON public.t, public.u TO mallory;
             GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA foreshard TO mallory;
             GRANT SELECT ON ALL TABLES IN SCHEMA foreshard TO mallory",
        )
        .await?;
    for (who, session) in [("dba", &origin.db), ("mallory", &mallory)] {
        session.batch_execute(HOSTILE_PATH).await?;
        for call in [
            format!("SELECT foreshard.create_shard('{who}', 'public.t', 'length(s) = 1', '{{id}}')"),
            format!("SELECT foreshard.create_shard('{who} all', 'public.t', columns => '{{id,s}}')"),
            format!("SELECT foreshard.create_shard('{who}', 'public.t', 'length(s) = 2', '{{id}}', or_replace => true)"),
            format!("SELECT foreshard.create_query_shard('{who} query', 'SELECT pg_catalog.count(*) AS n FROM public.t JOIN public.u ON u.t OPERATOR(pg_catalog.=) t.id WHERE t.id OPERATOR(pg_catalog.=) $1', '{{t}}')"),
            format!("SELECT foreshard.map_function('{who}', '{{{who},{who} all,{who} query}}')"),
            format!("SELECT foreshard.create_edge('{who}', 1.5, 2.5)"),
            format!("SELECT foreshard.hint_function('{who}', '@daily', '{who}'), foreshard.hint_function('{who}', '@hourly')"),
            format!("SELECT foreshard.unhint_function('{who}', '@hourly')"),
            format!("SELECT foreshard.publish_schedule('{who}', pg_catalog.now(), pg_catalog.now() OPERATOR(pg_catalog.+) '1 min'::pg_catalog.interval,
                '[{{\"function_id\":\"{who}\",\"shard_list\":[\"{who}?id=1\",\"{who}?id=01\"],\"confidence\":0.5}}]')"),
            QUALITY.replace("dba", who),
            QUALITY.replace("dba", who),
            "SELECT foreshard.set_log_retention('30 days')".to_owned(),
            "SELECT * FROM foreshard.maintain()".to_owned(),
            "SELECT foreshard.rederive()".to_owned(),
            "SELECT foreshard.commit_token(), foreshard.version()".to_owned(),
            "SELECT * FROM foreshard.health()".to_owned(),
            "SELECT * FROM foreshard.shards".to_owned(),
            "SELECT * FROM foreshard.function_shards, foreshard.hints, foreshard.edges, foreshard.schedules, foreshard.executions, foreshard.advice".to_owned(),
        ] {
            let done = session.batch_execute(&call).await;
            // Mallory may not do all of it; what he may not is refused in words of the extension.
            if who == "dba" {
                done.with_context(|| call)?;
            }
        }
    }
    nothing_is_caught(&origin).await?;
    origin
        .db
        .batch_execute("SET search_path = ''; SELECT foreshard.create_edge('jfk', if_not_exists => true)")
        .await?;
    // What was defined is what was meant.
    assert_eq!(origin.rows("dba?id=2").await?, ["2|yy|2"]);
    assert_eq!(origin.rows("dba?id=1").await?, [""; 0]);
    assert_eq!(origin.rows("dba%20query?t=1").await?, ["1"]);
    let predicate: String = origin.value("SELECT predicate FROM foreshard.shards WHERE name = 'dba'").await?;
    assert_eq!(predicate, "(length(s) = 2)");

    // A sidecar's role, and tables that are altered, dropped and made again by whoever owns them.
    let edge = origin.cluster.create_edge("ewr").await?;
    let sidecar = login(&edge.url).await?;
    sidecar.batch_execute(HOSTILE_PATH).await?;
    for call in [
        "SELECT foreshard.fetch('ewr', '{dba?id=2,dba%20query?t=1,dba%20all}')",
        "SELECT foreshard.edge_catalog('ewr'), foreshard.edge_slot('ewr'), foreshard.nudge('ewr'), foreshard.version()",
        r#"SELECT foreshard.log_executions('ewr', '[{"function_id":"f","started_at":"2024-01-01T00:00:00Z","served_from":"origin","wait_us":1,"bytes":2}]')"#,
        "SELECT pg_catalog.pg_create_logical_replication_slot(foreshard.edge_slot('ewr'), 'foreshard')",
        "SELECT pg_catalog.pg_logical_slot_peek_binary_changes(foreshard.edge_slot('ewr'), NULL, NULL, 'edge', 'ewr', 'protocol', '2', 'deltas', 'on')",
    ] {
        sidecar.batch_execute(call).await.with_context(|| call)?;
    }
    origin
        .db
        .batch_execute("ALTER TABLE public.t OWNER TO mallory; ALTER TABLE public.u OWNER TO mallory")
        .await?;
    mallory
        .batch_execute(
            "ALTER TABLE public.t RENAME s TO text; ALTER TABLE public.t ALTER p TYPE bigint; DROP TABLE public.u;
             CREATE TABLE public.u (id int PRIMARY KEY, t int)",
        )
        .await?;
    mallory
        .batch_execute(
            "DROP TABLE public.t; CREATE TABLE public.t (id int PRIMARY KEY, s pg_catalog.text, p int)",
        )
        .await?;
    origin.db.batch_execute(HOSTILE_PATH).await?;
    origin
        .db
        .batch_execute(
            "SELECT * FROM foreshard.health();
             SELECT foreshard.drop_shard('dba'), foreshard.unmap_function('dba'), foreshard.drop_edge('ewr')",
        )
        .await?;
    nothing_is_caught(&origin).await?;
    the_trap_works(&mallory, &origin).await?;

    // None of the extension's functions has been left out. What a session did is counted when it ends.
    drop((mallory, sidecar));
    origin.db.batch_execute("SET search_path = ''; SELECT pg_stat_force_next_flush()").await?;
    eventually("calls of every function", Duration::from_secs(30), async || {
        let left_out: String = origin
            .value(
                "SELECT concat(string_agg(p.proname, ' ' ORDER BY p.proname)) FROM pg_proc p
                 WHERE p.pronamespace = 'foreshard'::regnamespace AND NOT EXISTS (SELECT FROM pg_stat_user_functions s WHERE s.funcid = p.oid)",
            )
            .await?;
        ensure!(left_out.is_empty(), "left out: {left_out}");
        Ok(Some(()))
    })
    .await
}

/// A report of the planner's, as the superuser's edge has it.
const QUALITY: &str = r#"SELECT foreshard.report_quality(
    '[{"edge":"dba","hour":1700000000,"decisions":1,"came_true":1,"brier":0.1,"ece":0.1,"scheduled":1,"scheduled_runs":1,"scheduled_misses":0,
       "scheduled_wait_us":5,"control":0,"control_runs":0,"control_misses":0,"control_wait_us":0,"wasted_bytes":0}]',
    '[{"edge":"dba","function_id":"dba","starts_at":1700000000,"ends_at":1700000060,"confidence":0.5}]')"#;

/// Casts of mallory's types, made before and after a superuser shared a table of his.
#[tokio::test]
async fn casts_of_a_stranger_do_not_run_with_the_rights_of_a_shard_s_owner() -> Result<()> {
    let (origin, mallory) = trapped().await?;
    mallory
        .batch_execute(
            "SET search_path = pg_catalog, evil, pg_temp; CREATE TYPE evil.mood AS ENUM ('a', 'b'); CREATE TYPE evil.pair AS (x int, m evil.mood);
             CREATE FUNCTION evil.as_json(evil.mood) RETURNS json LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.spring('json'); RETURN '0'; END $$;
             CREATE FUNCTION evil.as_text(evil.mood) RETURNS pg_catalog.text LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.spring('text'); RETURN 'a'; END $$;
             CREATE FUNCTION evil.as_int(evil.mood) RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.spring('int'); RETURN 1; END $$;
             CREATE FUNCTION evil.of_text(pg_catalog.text) RETURNS evil.mood LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.spring('mood'); RETURN 'a'; END $$;
             CREATE CAST (evil.mood AS pg_catalog.text) WITH FUNCTION evil.as_text(evil.mood) AS ASSIGNMENT;
             CREATE CAST (evil.mood AS int) WITH FUNCTION evil.as_int(evil.mood) AS ASSIGNMENT;
             CREATE CAST (pg_catalog.text AS evil.mood) WITH FUNCTION evil.of_text(pg_catalog.text) AS ASSIGNMENT;
             CREATE TABLE evil.moods (id int PRIMARY KEY, m evil.mood, p evil.pair, l evil.mood[]);
             INSERT INTO evil.moods VALUES (1, 'a', row(1, 'a'), '{a,b}')",
        )
        .await?;
    let define = "SELECT foreshard.create_shard('moods', 'evil.moods', key => '{m}', predicate => $$m = 'a'::evil.mood$$);
        SELECT foreshard.create_shard('nested', 'evil.moods', columns => '{id,p,l}');
        SELECT foreshard.create_query_shard('query', 'SELECT m.id, to_json(m) AS j FROM evil.moods m')";
    origin.db.batch_execute(define).await?;
    origin.map_all().await?;
    origin.create_slot().await?;
    assert_eq!(origin.rows("moods?m=a").await?, [r#"1|a|{"x":1,"m":"a"}|["a","b"]"#]);
    // A cast to text in the predicate would be his function's.
    let refused = "SELECT foreshard.create_shard('cast', 'evil.moods', $$m::text = 'a'$$)";
    assert!(origin.db.batch_execute(refused).await.is_err());
    for call in [
        "SELECT foreshard.create_shard('int', 'evil.moods', 'm + 1 = 2')",
        "SELECT foreshard.create_query_shard('text', 'SELECT lower(m) AS t FROM evil.moods')",
    ] {
        assert!(origin.db.batch_execute(call).await.is_err(), "{call}");
    }
    nothing_is_caught(&origin).await?;

    // The cast that to_json honours comes when the shards are there.
    mallory.batch_execute("CREATE CAST (evil.mood AS json) WITH FUNCTION evil.as_json(evil.mood)").await?;
    for shard in ["moods?m=a", "nested", "query"] {
        assert_eq!(origin.rows(shard).await?, ["Broken"], "{shard}");
    }
    for shard in ["moods", "nested", "query"] {
        let query =
            format!("SELECT status || ' ' || fix FROM foreshard.health() WHERE \"check\" = 'shard {shard}'");
        assert_eq!(origin.value::<String>(&query).await?, "fail DROP CAST (evil.mood AS json)", "{shard}");
    }
    origin.rows_after("INSERT INTO evil.moods VALUES (2, 'a', row(1, 'a'), '{a,b}')").await?;
    nothing_is_caught(&origin).await?;

    // With his own rights he may run what he likes, and with a superuser's what a superuser has made.
    origin.db.batch_execute("GRANT EXECUTE ON FUNCTION foreshard.create_shard TO mallory").await?;
    mallory.batch_execute("SELECT foreshard.create_shard('his', 'evil.moods', columns => '{id,m}')").await?;
    origin.map_all().await?;
    assert_eq!(origin.rows("his").await?, ["1|0", "2|0"]);
    nothing_is_caught(&origin).await?;
    origin.db.batch_execute("ALTER FUNCTION evil.as_json OWNER TO postgres").await?;
    assert_eq!(origin.rows("moods?m=a").await?.len(), 2);
    Ok(())
}
