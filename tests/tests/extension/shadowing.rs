//! A role that may create objects puts its own beside PostgreSQL's: functions and operators under all their names, types, tables, casts.
//! Nothing of it runs with the rights of somebody else.

use anyhow::{Context, Result};
use tokio_postgres::Client;

use crate::origin::Origin;
use crate::rights::{login, role};

/// Whoever runs one of mallory's functions is noted.
const TRAP: &str = "CREATE SCHEMA evil; CREATE TABLE evil.caught (who name DEFAULT current_user, what text);
    GRANT USAGE ON SCHEMA evil TO PUBLIC; GRANT INSERT, SELECT ON evil.caught TO PUBLIC;
    CREATE FUNCTION evil.spring(what text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$ BEGIN
        INSERT INTO evil.caught (what) VALUES (what); END $$;";

/// Functions and operators with the names and arguments of PostgreSQL's, in a schema that everybody has in front.
const SHADOWS: &str = r#"DO $do$
    DECLARE
        of record;
        body text;
    BEGIN
        SET LOCAL check_function_bodies = off;
        FOR of IN SELECT p.oid, p.proname, p.prorettype::regtype AS result, pg_get_function_identity_arguments(p.oid) AS arguments
            FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND NOT p.proretset
                AND p.provariadic = 0 AND NOT EXISTS (SELECT FROM unnest(p.proargtypes || p.prorettype) t
                    JOIN pg_type y ON y.oid = t WHERE y.typtype = 'p') AND p.proargmodes IS NULL
                AND p.proname IN ('quote_ident', 'quote_literal', 'lower', 'upper', 'left', 'md5', 'length', 'octet_length', 'substr',
                    'regexp_replace', 'current_database', 'current_setting', 'pg_size_pretty', 'format_type', 'now', 'date_trunc',
                    'has_schema_privilege', 'has_column_privilege', 'pg_has_role', 'pg_encoding_to_char', 'txid_current',
                    'pg_current_wal_lsn', 'pg_wal_lsn_diff', 'pg_is_in_recovery', 'hashtextextended', 'pg_try_advisory_xact_lock',
                    'texteq', 'int4eq', 'int8eq', 'oideq', 'nameeq', 'textlike', 'textcat', 'to_timestamp', 'floor', 'greatest')
        LOOP
            body := format('BEGIN PERFORM evil.spring(%L); RETURN NULL; END', of.proname);
            EXECUTE format('CREATE FUNCTION evil.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', of.proname, of.arguments, of.result, body);
        END LOOP;
        CREATE FUNCTION evil.format(text, text) RETURNS text LANGUAGE plpgsql AS $f$ BEGIN PERFORM evil.spring('format'); RETURN 'x'; END $f$;
        CREATE FUNCTION evil.to_json(anyelement) RETURNS json LANGUAGE plpgsql AS $f$ BEGIN PERFORM evil.spring('to_json'); RETURN '0'; END $f$;
        CREATE FUNCTION evil.unnest(name[]) RETURNS SETOF name LANGUAGE plpgsql AS $f$ BEGIN PERFORM evil.spring('unnest'); END $f$;
        FOR of IN SELECT o.oid, o.oprname, o.oprleft::regtype AS l, o.oprright::regtype AS r, o.oprresult::regtype AS result
            FROM pg_operator o WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprkind = 'b'
                AND ARRAY[o.oprleft, o.oprright] <@ '{text,name,oid,int2,int4,int8,bool,jsonb,timestamptz,interval,pg_lsn,"char"}'::regtype[]::oid[]
                AND o.oprresult <> 0
        LOOP
            body := format('BEGIN PERFORM evil.spring(%L); RETURN NULL; END', format('%s %s %s', of.l, of.oprname, of.r));
            EXECUTE format('CREATE FUNCTION evil.%I(%s, %s) RETURNS %s LANGUAGE plpgsql AS %L', 'operator ' || of.oid, of.l, of.r, of.result, body);
            EXECUTE format('CREATE OPERATOR evil.%s (leftarg = %s, rightarg = %s, function = evil.%I)', of.oprname, of.l, of.r, 'operator ' || of.oid);
        END LOOP;
        CREATE DOMAIN evil.text AS int; CREATE DOMAIN evil.regclass AS int; CREATE DOMAIN evil.name AS int; CREATE DOMAIN evil.jsonb AS int;
        CREATE TABLE evil.pg_class (oid int); CREATE TABLE evil.pg_roles (oid int); CREATE TABLE evil.shard (name int);
    END $do$;
    CREATE TEMP TABLE pg_class (oid int); CREATE TEMP TABLE pg_roles (oid int); CREATE TEMP TABLE pg_attribute (oid int);
    CREATE TEMP TABLE pg_replication_slots (oid int); CREATE DOMAIN pg_temp.regrole AS int; CREATE DOMAIN pg_temp.int2 AS int;"#;

const HOSTILE_PATH: &str = "SET search_path = evil, pg_temp, public, pg_catalog";

/// A cluster where mallory has set the trap, and a session of his with all of it in front.
async fn trapped() -> Result<(Origin, Client)> {
    let origin = Origin::start().await?;
    let mallory = role(&origin, "mallory").await?;
    origin.db.batch_execute("GRANT CREATE, TEMPORARY ON DATABASE postgres TO mallory; GRANT CREATE ON SCHEMA public TO mallory").await?;
    mallory.batch_execute(TRAP).await?;
    mallory.batch_execute(SHADOWS).await.context("shadows")?;
    Ok((origin, mallory))
}

/// Functions of mallory's that ran in other names than his.
async fn caught(origin: &Origin) -> Result<Vec<String>> {
    let query = "SELECT DISTINCT pg_catalog.concat(who, ' ran ', what) FROM evil.caught WHERE who OPERATOR(pg_catalog.<>) 'mallory' ORDER BY 1";
    let rows = origin.db.query(query, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
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
             GRANT SELECT ON public.t, public.u TO mallory; GRANT USAGE ON SCHEMA foreshard TO mallory;
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
            format!("SELECT foreshard.publish_schedule('{who}', pg_catalog.now(), pg_catalog.now() OPERATOR(pg_catalog.+) '1 min'::pg_catalog.interval, '[]')"),
            "SELECT foreshard.report_quality('[]', '[]')".to_owned(),
            "SELECT foreshard.set_log_retention('30 days')".to_owned(),
            "SELECT * FROM foreshard.maintain()".to_owned(),
            "SELECT foreshard.rederive()".to_owned(),
            "SELECT foreshard.commit_token()".to_owned(),
            "SELECT * FROM foreshard.health()".to_owned(),
            "SELECT * FROM foreshard.shards".to_owned(),
            "SELECT * FROM foreshard.function_shards, foreshard.edges, foreshard.schedules, foreshard.executions, foreshard.advice".to_owned(),
        ] {
            let done = session.batch_execute(&call).await;
            // Mallory may not do all of it; what he may not is refused in words of the extension.
            if who == "dba" {
                done.with_context(|| call)?;
            }
        }
    }
    assert_eq!(caught(&origin).await?, [""; 0]);
    origin.db.batch_execute("SET search_path = public").await?;
    origin.db.batch_execute("SELECT foreshard.create_edge('lhr', if_not_exists => true)").await?;
    // What was defined is what was meant.
    assert_eq!(origin.rows("dba?id=2").await?, ["2|yy|2"]);
    assert_eq!(origin.rows("dba?id=1").await?, [""; 0]);
    assert_eq!(origin.rows("dba%20query?t=1").await?, ["1"]);
    let predicate: String = origin.value("SELECT predicate FROM foreshard.shards WHERE name = 'dba'").await?;
    assert_eq!(predicate, "(length(s) = 2)");

    // A sidecar's role, and tables that are altered by whoever owns them.
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
    origin.db.batch_execute("ALTER TABLE public.t OWNER TO mallory").await?;
    mallory
        .batch_execute("ALTER TABLE public.t RENAME s TO text; ALTER TABLE public.t ALTER p TYPE bigint")
        .await?;
    origin.db.batch_execute(HOSTILE_PATH).await?;
    origin
        .db
        .batch_execute(
            "SELECT foreshard.drop_shard('dba'), foreshard.unmap_function('dba'), foreshard.drop_edge('ewr')",
        )
        .await?;
    assert_eq!(caught(&origin).await?, [""; 0]);
    let own: i64 = origin.value("SELECT pg_catalog.count(*) FROM evil.caught").await?;
    mallory.batch_execute("SELECT 1 WHERE 1 = 1").await?;
    let sprung: i64 = origin.value("SELECT pg_catalog.count(*) FROM evil.caught").await?;
    assert!(sprung > own, "the trap works");
    Ok(())
}

/// Casts of mallory's types, made before and after a superuser shared a table of his.
#[tokio::test]
async fn casts_of_a_stranger_do_not_run_with_the_rights_of_a_shard_s_owner() -> Result<()> {
    let (origin, mallory) = trapped().await?;
    mallory
        .batch_execute(
            "SET search_path = evil, pg_catalog; CREATE TYPE evil.mood AS ENUM ('a', 'b'); CREATE TYPE evil.pair AS (x int, m evil.mood);
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
    assert_eq!(caught(&origin).await?, [""; 0]);

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
    assert_eq!(caught(&origin).await?, [""; 0]);

    // With his own rights he may run what he likes, and with a superuser's what a superuser has made.
    origin
        .db
        .batch_execute(
            "GRANT USAGE ON SCHEMA foreshard TO mallory; GRANT EXECUTE ON FUNCTION foreshard.create_shard TO mallory",
        )
        .await?;
    mallory.batch_execute("SELECT foreshard.create_shard('his', 'evil.moods', columns => '{id,m}')").await?;
    origin.map_all().await?;
    assert_eq!(origin.rows("his").await?, ["1|0", "2|0"]);
    assert_eq!(caught(&origin).await?, [""; 0]);
    origin.db.batch_execute("ALTER FUNCTION evil.as_json OWNER TO postgres").await?;
    assert_eq!(origin.rows("moods?m=a").await?.len(), 2);
    Ok(())
}
