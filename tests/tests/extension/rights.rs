//! Who may do what: PUBLIC nothing, an edge's role its own edge only, a definer only what he may read.

use std::time::Duration;

use anyhow::Result;
use foreshard_tests::{EdgeLogin, eventually};
use tokio_postgres::error::SqlState as S;
use tokio_postgres::{Client, NoTls};

use crate::origin::{Origin, error_of};

pub(crate) async fn login(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

pub(crate) async fn role(origin: &Origin, name: &str) -> Result<Client> {
    origin.db.batch_execute(&format!("CREATE ROLE {name} LOGIN PASSWORD '{name}'")).await?;
    login(&origin.cluster.url_of(name, name, "postgres")).await
}

#[tokio::test]
async fn public_can_do_nothing() -> Result<()> {
    let origin = Origin::start().await?;
    let anybody = role(&origin, "anybody").await?;
    for query in [
        "SELECT foreshard.version()",
        "SELECT foreshard.create_shard('x', 'pg_class')",
        "SELECT * FROM foreshard.shards",
        "SELECT * FROM foreshard.health()",
        "SELECT foreshard.commit_token()",
    ] {
        assert_eq!(*error_of(&anybody, query).await?.code(), S::INSUFFICIENT_PRIVILEGE, "{query}");
    }
    let reachable: i64 = origin
        .value(
            "SELECT (SELECT count(*) FROM pg_proc p WHERE pronamespace = 'foreshard'::regnamespace
                        AND has_function_privilege('anybody', p.oid, 'EXECUTE'))
                  + (SELECT count(*) FROM pg_class c WHERE relnamespace = 'foreshard'::regnamespace AND relkind IN ('r', 'v', 'S')
                        AND (CASE relkind WHEN 'S' THEN has_sequence_privilege('anybody', c.oid, 'USAGE, SELECT, UPDATE')
                             ELSE has_table_privilege('anybody', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER') END))",
        )
        .await?;
    assert_eq!(reachable, 0);
    Ok(())
}

#[tokio::test]
async fn every_function_with_more_rights_than_its_caller_pins_its_search_path() -> Result<()> {
    let origin = Origin::start().await?;
    let unpinned: i64 = origin
        .value(
            "SELECT count(*) FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
             WHERE pronamespace = 'foreshard'::regnamespace AND (prosecdef OR l.lanname IN ('plpgsql', 'sql'))
                AND NOT coalesce(proconfig @> '{\"search_path=pg_catalog, pg_temp\"}', false)",
        )
        .await?;
    assert_eq!(unpinned, 0);
    // Functions in C run with the rights of their caller and look names up by number. Those without a search path of their own either
    // hand on to one that has it, or have to see the caller's, whose names a definition is in.
    let in_c: String = origin
        .value(
            "SELECT string_agg(proname, ' ' ORDER BY proname COLLATE \"C\") FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
             WHERE pronamespace = 'foreshard'::regnamespace AND l.lanname = 'c'
                AND (prosecdef OR NOT coalesce(proconfig @> '{\"search_path=pg_catalog, pg_temp\"}', false))",
        )
        .await?;
    let handing_on = "create_edge create_query_shard create_shard drop_edge drop_shard";
    let without_names = "commit_token instance_fault instance_shard log_executions version";
    let mut known: Vec<&str> = handing_on.split(' ').chain(without_names.split(' ')).collect();
    known.sort_unstable();
    assert_eq!(in_c, known.join(" "));
    Ok(())
}

/// The statements of docs/reference-sql.md that grant to this role.
fn grants(role: &str) -> Result<String> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference-sql.md"))?;
    let to = format!(" TO {role};");
    let lines: Vec<&str> =
        page.lines().filter(|line| line.starts_with("GRANT ") && line.ends_with(&to)).collect();
    Ok(lines.join("\n"))
}

#[tokio::test]
async fn the_rights_that_the_page_gives_are_enough() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, k int); SELECT foreshard.create_shard('t', 't', 'k > 0'),
                foreshard.create_query_shard('q', 'SELECT count(*) AS n FROM t')",
        )
        .await?;
    origin.create_slot().await?;
    let app = role(&origin, "app").await?;
    let error = error_of(&app, "SELECT foreshard.commit_token()").await?;
    assert_eq!(*error.code(), S::INSUFFICIENT_PRIVILEGE);
    origin.db.batch_execute(&grants("app")?).await?;
    app.batch_execute("SELECT foreshard.commit_token()").await?;
    for query in
        ["SELECT foreshard.version()", "SELECT * FROM foreshard.health()", "SELECT * FROM foreshard.shards"]
    {
        assert_eq!(*error_of(&app, query).await?.code(), S::INSUFFICIENT_PRIVILEGE, "{query}");
    }
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md"))?;
    assert!(readme.contains(&grants("app")?.replace('\n', " ")), "README.md has the same statements");

    let monitor = role(&origin, "monitor").await?;
    assert_eq!(
        *error_of(&monitor, "SELECT * FROM foreshard.health()").await?.code(),
        S::INSUFFICIENT_PRIVILEGE
    );
    origin.db.batch_execute(&grants("monitor")?).await?;
    let all = "SELECT string_agg(h::text, E'\n') FROM foreshard.health() h";
    let seen: String = monitor.query_one(all, &[]).await?.get(0);
    assert_eq!(seen.lines().count(), origin.value::<String>(all).await?.lines().count());
    assert!(seen.contains("shard t") && seen.contains("slot of edge jfk"), "{seen}");
    for query in [
        "SELECT foreshard.commit_token()",
        "SELECT * FROM foreshard.edges",
        "SELECT * FROM foreshard.health_edges()",
    ] {
        assert_eq!(*error_of(&monitor, query).await?.code(), S::INSUFFICIENT_PRIVILEGE, "{query}");
    }
    let url = origin.cluster.url_of("monitor", "monitor", "postgres");
    let doctor = std::process::Command::new(foreshard_tests::foreshard_binary()?)
        .args(["doctor", "--origin", &url])
        .output()?;
    let said = String::from_utf8_lossy(&doctor.stdout);
    assert!(
        doctor.status.success() && said.contains("shard t"),
        "{said}{}",
        String::from_utf8_lossy(&doctor.stderr)
    );
    Ok(())
}

async fn two_edges(origin: &Origin) -> Result<(EdgeLogin, EdgeLogin)> {
    origin
        .db
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);
             SELECT foreshard.create_shard('t', 't'); SELECT foreshard.map_function('f', '{t}');
             CREATE TABLE secret (id int PRIMARY KEY); SELECT foreshard.create_shard('secret', 'secret')",
        )
        .await?;
    Ok((origin.cluster.create_edge("ewr").await?, origin.cluster.create_edge("lga").await?))
}

#[tokio::test]
async fn an_edge_s_role_reads_its_edge_and_nothing_else() -> Result<()> {
    let origin = Origin::start().await?;
    let (ewr, lga) = two_edges(&origin).await?;
    let edge = login(&ewr.url).await?;
    for query in [
        "SELECT foreshard.fetch('ewr', '{t}')",
        "SELECT foreshard.edge_catalog('ewr')",
        "SELECT foreshard.edge_slot('ewr')",
        "SELECT foreshard.nudge('ewr')",
        "SELECT foreshard.commit_token()",
        "SELECT foreshard.version()",
        r#"SELECT foreshard.log_executions('ewr', '[{"function_id":"f","started_at":"2024-01-01T00:00:00Z","served_from":"origin","wait_us":1,"bytes":2}]')"#,
        "SELECT pg_create_logical_replication_slot(foreshard.edge_slot('ewr'), 'foreshard')",
        "SELECT pg_logical_slot_peek_binary_changes(foreshard.edge_slot('ewr'), NULL, NULL, 'edge', 'ewr', 'protocol', '2')",
    ] {
        edge.batch_execute(query).await.map_err(|error| anyhow::anyhow!("{query}: {error:?}"))?;
    }
    for query in [
        "SELECT foreshard.fetch('lga', '{t}')",
        "SELECT foreshard.fetch('nope', '{t}')",
        "SELECT foreshard.edge_catalog('lga')",
        "SELECT foreshard.edge_slot('lga')",
        "SELECT foreshard.nudge('lga')",
        "SELECT foreshard.log_executions('lga', '[]')",
        "SELECT pg_logical_slot_peek_binary_changes(foreshard.edge_slot('ewr'), NULL, NULL, 'edge', 'lga', 'protocol', '2')",
        "SELECT foreshard.publish_schedule('ewr', now(), now() + interval '1 min', '[]')",
        "SELECT foreshard.map_function('f', '{secret}')",
        "SELECT foreshard.create_shard('x', 't')",
        "SELECT foreshard.create_edge('x')",
        "SELECT foreshard.drop_edge('lga')",
        "SELECT foreshard.append_executions('lga', '[]')",
        "SELECT foreshard.define_shard('postgres', 'x', 't', NULL, NULL, NULL, false, false)",
        "SELECT foreshard.edge_rights('edge_ewr', true)",
        "SELECT * FROM t",
        "SELECT * FROM foreshard.executions",
        "SELECT * FROM foreshard.edges",
        "INSERT INTO foreshard.mapping VALUES ('f', 1, 'secret')",
    ] {
        assert_eq!(*error_of(&edge, query).await?.code(), S::INSUFFICIENT_PRIVILEGE, "{query}");
    }
    // Not mapped to any function: nobody's business at an edge.
    let row = edge.query("SELECT foreshard.fetch('ewr', '{secret}')", &[]).await?;
    let part: foreshard_protocol::FetchPart = foreshard_protocol::decode(row[1].get::<_, &[u8]>(0))?;
    assert!(matches!(
        part,
        foreshard_protocol::FetchPart::Failed { failure: foreshard_protocol::FetchFailure::NotMapped, .. }
    ));

    // Membership counts, and ends.
    origin.db.batch_execute(&format!("GRANT {} TO {}", lga.role, ewr.role)).await?;
    edge.batch_execute("SELECT foreshard.fetch('lga', '{t}')").await?;
    origin.db.batch_execute(&format!("REVOKE {} FROM {}", lga.role, ewr.role)).await?;
    assert!(error_of(&edge, "SELECT foreshard.fetch('lga', '{t}')").await.is_ok());

    // Dropping the edge takes the rights back; the role can be dropped then.
    origin.db.batch_execute("SELECT foreshard.drop_edge('ewr')").await?;
    assert_eq!(*error_of(&edge, "SELECT foreshard.version()").await?.code(), S::INSUFFICIENT_PRIVILEGE);
    origin.db.batch_execute(&format!("DROP ROLE {}", ewr.role)).await?;
    Ok(())
}

/// Who reads a slot takes what is in it from whom it is for.
#[tokio::test]
async fn an_edge_reads_its_own_slot_only() -> Result<()> {
    let origin = Origin::start().await?;
    let (ewr, lga) = two_edges(&origin).await?;
    let (ewr, lga) = (login(&ewr.url).await?, login(&lga.url).await?);
    let create = "SELECT pg_create_logical_replication_slot(foreshard.edge_slot('ewr'), 'foreshard')";
    ewr.batch_execute(create).await?;
    let slot: String = origin.value("SELECT foreshard.edge_slot('ewr')").await?;
    origin.db.batch_execute("INSERT INTO t VALUES (2)").await?;
    let get = |slot: &str, edge: &str| {
        format!(
            "SELECT pg_logical_slot_get_binary_changes('{slot}', NULL, NULL, 'edge', '{edge}', 'protocol', '2')"
        )
    };
    for db in [&lga, &origin.db] {
        // A session that fails gives the slot back only after it has said so.
        let error = eventually("the slot is free", Duration::from_secs(20), || async {
            let error = error_of(db, &get(&slot, "lga")).await?;
            Ok((*error.code() != S::OBJECT_IN_USE).then_some(error))
        })
        .await?;
        assert_eq!(*error.code(), S::INSUFFICIENT_PRIVILEGE);
        assert_eq!(
            error.message(),
            format!("replication slot \"{slot}\" is another edge's, not edge \"lga\"'s")
        );
        assert!(error.hint().is_some_and(|hint| hint.contains("foreshard.edge_slot(name)")));
    }
    let left = eventually("the slot is free", Duration::from_secs(20), || async {
        Ok(Some(ewr.query(&get(&slot, "ewr"), &[]).await?.len()))
    });
    assert_eq!(left.await?, 1, "it is still there");
    // A slot that is no edge's may be looked into.
    lga.batch_execute("SELECT pg_create_logical_replication_slot('look', 'foreshard')").await?;
    lga.batch_execute(&get("look", "lga")).await?;
    Ok(())
}

#[tokio::test]
async fn an_edge_without_a_role_is_for_superusers() -> Result<()> {
    let origin = Origin::start().await?;
    let (ewr, _) = two_edges(&origin).await?;
    let edge = login(&ewr.url).await?;
    assert_eq!(
        *error_of(&edge, "SELECT foreshard.fetch('jfk', '{t}')").await?.code(),
        S::INSUFFICIENT_PRIVILEGE
    );
    origin.fetch(&["t"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_definer_shares_only_what_he_may_read() -> Result<()> {
    let origin = Origin::start().await?;
    let definer = role(&origin, "definer").await?;
    origin
        .db
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, shown text, hidden text); INSERT INTO t VALUES (1, 'a', 'b');
             CREATE SCHEMA closed; CREATE TABLE closed.u (id int PRIMARY KEY); GRANT SELECT ON closed.u TO definer;
             GRANT USAGE ON SCHEMA foreshard TO definer;
             GRANT EXECUTE ON FUNCTION foreshard.create_shard, foreshard.drop_shard, foreshard.map_function TO definer;
             GRANT SELECT ON foreshard.shards TO definer",
        )
        .await?;
    let denied = [
        "SELECT foreshard.create_shard('t', 't')",
        "SELECT foreshard.create_shard('t', 't', columns => '{id,shown}')",
    ];
    for call in denied {
        assert_eq!(*error_of(&definer, call).await?.code(), S::INSUFFICIENT_PRIVILEGE, "{call}");
    }
    origin.db.batch_execute("GRANT SELECT (id, shown) ON t TO definer").await?;
    for call in [
        "SELECT foreshard.create_shard('t', 't')",
        "SELECT foreshard.create_shard('t', 't', columns => '{id,hidden}')",
        "SELECT foreshard.create_shard('t', 't', columns => '{id}', predicate => $$hidden = 'b'$$)",
        "SELECT foreshard.create_shard('t', 't', columns => '{id}', key => '{hidden}')",
        "SELECT foreshard.create_shard('u', 16384::oid::regclass)",
        "SELECT foreshard.create_shard('u', (SELECT oid FROM pg_class WHERE relname = 'u')::regclass)",
    ] {
        let error = error_of(&definer, call).await?;
        assert!([S::INSUFFICIENT_PRIVILEGE, S::UNDEFINED_TABLE].contains(error.code()), "{call}: {error}");
    }
    definer.batch_execute("SELECT foreshard.create_shard('t', 't', columns => '{shown}')").await?;
    definer.batch_execute("SELECT foreshard.map_function('f', '{t}')").await?;
    let owner: String = origin.value("SELECT owner::text FROM foreshard.shards WHERE name = 't'").await?;
    assert_eq!(owner, "definer");
    assert_eq!(origin.rows("t").await?, ["a"]);
    // Revoked, the shard is given out no more.
    origin.db.batch_execute("REVOKE SELECT (id, shown) ON t FROM definer").await?;
    assert_eq!(origin.rows("t").await?, ["Broken"]);

    // Another's shard can be neither replaced nor dropped.
    origin
        .db
        .batch_execute("GRANT SELECT ON t TO definer; SELECT foreshard.create_shard('mine', 't')")
        .await?;
    for call in [
        "SELECT foreshard.create_shard('mine', 't', columns => '{id}', or_replace => true)",
        "SELECT foreshard.drop_shard('mine')",
    ] {
        assert_eq!(*error_of(&definer, call).await?.code(), S::INSUFFICIENT_PRIVILEGE, "{call}");
    }
    // What a superuser calls in somebody's SECURITY DEFINER function is done in the name of that somebody.
    definer.batch_execute("SELECT 1").await?;
    origin
        .db
        .batch_execute(
            "CREATE FUNCTION trap() RETURNS void LANGUAGE sql SECURITY DEFINER
                AS $$ SELECT foreshard.create_shard('trapped', 't', columns => '{hidden}') $$;
             ALTER FUNCTION trap() OWNER TO definer; REVOKE SELECT ON t FROM definer",
        )
        .await?;
    assert_eq!(*error_of(&origin.db, "SELECT trap()").await?.code(), S::INSUFFICIENT_PRIVILEGE);
    Ok(())
}

/// What a fetch would read is what its owner must be allowed to read, columns that only the predicate looks at included.
#[tokio::test]
async fn rows_are_told_only_if_a_fetch_may_read_them() -> Result<()> {
    let origin = Origin::followed(
        "CREATE ROLE definer; GRANT USAGE ON SCHEMA foreshard TO definer; GRANT EXECUTE ON FUNCTION foreshard.create_shard TO definer;
         CREATE TABLE t (id int PRIMARY KEY, a text, secret int); ALTER TABLE t REPLICA IDENTITY FULL; GRANT SELECT ON t TO definer;
         SET ROLE definer; SELECT foreshard.create_shard('t', 't', 'secret > 5', columns => '{id,a}'); RESET ROLE",
    )
    .await?;
    assert_eq!(origin.rows_after("INSERT INTO t VALUES (1, 'a', 7)").await?, ["t +1/a"]);
    let columns = "REVOKE SELECT ON t FROM definer; GRANT SELECT (id, a) ON t TO definer";
    origin.rows_after(columns).await?;
    assert_eq!(origin.rows("t").await?, ["Broken"]);
    assert_eq!(origin.rows_after("INSERT INTO t VALUES (2, 'b', 7)").await?, ["t Whole(Rows)"]);
    origin.rows_after("GRANT SELECT (secret) ON t TO definer").await?;
    assert_eq!(origin.rows("t").await?, ["1|a", "2|b"]);
    assert_eq!(origin.rows_after("INSERT INTO t VALUES (3, 'c', 7)").await?, ["t +3/c"]);
    Ok(())
}

#[tokio::test]
async fn shadowing_operators_and_functions_changes_nothing() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, s text); INSERT INTO t VALUES (1, 'x'), (2, 'y');
             CREATE SCHEMA evil;
             CREATE FUNCTION evil.yes(int, int) RETURNS boolean LANGUAGE sql AS 'SELECT true';
             CREATE OPERATOR evil.= (leftarg = int, rightarg = int, procedure = evil.yes);
             CREATE FUNCTION evil.to_json(anyelement) RETURNS json LANGUAGE sql AS $$SELECT '0'::json$$;
             CREATE FUNCTION evil.length(text) RETURNS int LANGUAGE sql AS 'SELECT 99';
             CREATE TABLE evil.shard (name text); CREATE VIEW evil.pg_class AS SELECT 1 AS oid;
             SET search_path = evil, pg_catalog, public",
        )
        .await?;
    origin
        .db
        .batch_execute(
            "SELECT foreshard.create_shard('t', 'public.t', key => '{id}', predicate => 'length(s) = 1');
             SELECT foreshard.map_function('f', '{t}')",
        )
        .await?;
    assert_eq!(origin.rows("t?id=1").await?, ["1|x"]);
    let health: i64 = origin.value("SELECT pg_catalog.count(*) FROM foreshard.health()").await?;
    assert!(health > 5);
    Ok(())
}

#[tokio::test]
async fn create_edge_gives_replication_or_says_who_can() -> Result<()> {
    let origin = Origin::start().await?;
    let helper = role(&origin, "helper").await?;
    origin
        .db
        .batch_execute(
            "CREATE ROLE plain LOGIN; CREATE ROLE \"Odd \"\"Name\" LOGIN;
             GRANT USAGE ON SCHEMA foreshard TO helper; GRANT EXECUTE ON FUNCTION foreshard.create_edge TO helper",
        )
        .await?;
    let error = error_of(&helper, "SELECT foreshard.create_edge('x', role => 'plain')").await?;
    assert_eq!(*error.code(), S::INSUFFICIENT_PRIVILEGE);
    assert_eq!(error.hint(), Some("Have a superuser run: ALTER ROLE plain REPLICATION"));
    origin.db.batch_execute("SELECT foreshard.create_edge('x', role => 'plain')").await?;
    origin.db.batch_execute(r#"SELECT foreshard.create_edge('y', role => '"Odd ""Name"')"#).await?;
    let replicating: i64 =
        origin.value("SELECT count(*) FROM pg_roles WHERE rolreplication AND NOT rolsuper").await?;
    assert_eq!(replicating, 2);
    helper.batch_execute("SELECT foreshard.create_edge('z', role => 'plain')").await?;
    Ok(())
}

#[tokio::test]
async fn publishing_is_a_right_of_its_own() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY); SELECT foreshard.create_shard('t', 't');
             SELECT foreshard.map_function('f', '{t}')",
        )
        .await?;
    let planner = role(&origin, "planner").await?;
    origin
        .db
        .batch_execute(
            "GRANT USAGE ON SCHEMA foreshard TO planner;
             GRANT SELECT ON foreshard.executions, foreshard.shards, foreshard.function_shards, foreshard.edges, foreshard.schedules TO planner;
             GRANT EXECUTE ON FUNCTION foreshard.publish_schedule TO planner",
        )
        .await?;
    planner
        .batch_execute(
            r#"SELECT foreshard.publish_schedule('jfk', now(), now() + interval '1 min',
                '[{"function_id": "f", "shard_list": ["t"], "confidence": 0.5}]');
               SELECT * FROM foreshard.executions; SELECT * FROM foreshard.shards; SELECT * FROM foreshard.edges"#,
        )
        .await?;
    for query in
        ["SELECT * FROM t", "SELECT foreshard.fetch('jfk', '{t}')", "SELECT foreshard.drop_edge('jfk')"]
    {
        assert_eq!(*error_of(&planner, query).await?.code(), S::INSUFFICIENT_PRIVILEGE, "{query}");
    }
    Ok(())
}
