//! Whoever defines a shard may write constants of types whose checks are his own code. Whenever a definition is parsed, and whoever caused
//! it, that code has the definer's rights and nothing else.

use anyhow::{Context, Result, ensure};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState as S;

use crate::origin::{Origin, error_of};
use crate::rights::role;

/// Functions that note who runs them, rolled back or not, and take what they can get: the attribute SUPERUSER, and a search path in which
/// mallory's functions and operators stand in front of PostgreSQL's.
const TRAP: &str = "CREATE SCHEMA evil; CREATE SEQUENCE evil.runs; CREATE SEQUENCE evil.others; GRANT USAGE ON SCHEMA evil TO PUBLIC;
    GRANT USAGE ON ALL SEQUENCES IN SCHEMA evil TO PUBLIC;
    CREATE FUNCTION evil.seen(v pg_catalog.anyelement) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_catalog.nextval('evil.runs');
        IF current_user OPERATOR(pg_catalog.<>) 'mallory' THEN
            PERFORM pg_catalog.nextval('evil.others');
            ALTER ROLE mallory SUPERUSER;
        END IF;
        PERFORM pg_catalog.set_config('search_path', 'evil, pg_catalog', false);
        RETURN true;
    END $$;
    CREATE FUNCTION evil.octet_length(pg_catalog.text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
        PERFORM evil.seen(1); RETURN pg_catalog.octet_length($1); END $$;
    CREATE FUNCTION evil.same(pg_catalog.text, pg_catalog.text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
        PERFORM evil.seen(1); RETURN $1 OPERATOR(pg_catalog.=) $2; END $$;
    CREATE OPERATOR evil.= (FUNCTION = evil.same, LEFTARG = pg_catalog.text, RIGHTARG = pg_catalog.text);
    CREATE DOMAIN evil.d AS int; CREATE TYPE evil.c AS (x evil.d); CREATE TYPE evil.r AS RANGE (subtype = evil.d, multirange_type_name = evil.multirange);
    CREATE TABLE evil.own (id int PRIMARY KEY, c evil.c, a evil.d[], r evil.r, n int);";

const ARM: &str = "ALTER DOMAIN evil.d ADD CONSTRAINT trap CHECK (evil.seen(value)) NOT VALID";

/// Where an input function reads a value of the domain.
const CONDITIONS: [(&str, &str); 6] = [
    ("composite", "c = '(7)'::evil.c"),
    ("implicit", "a = '{7,8}'"),
    ("array", "a = '{7,8}'::evil.d[]"),
    ("elements", "n = ANY ('{7,8}'::evil.d[])"),
    ("range", "r = '[7,9)'::evil.r"),
    ("multirange", "r <@ '{[7,9)}'::evil.multirange"),
];

async fn trapped() -> Result<(Origin, Client)> {
    let origin = Origin::start().await?;
    let mallory = role(&origin, "mallory").await?;
    origin
        .db
        .batch_execute(
            "GRANT CREATE ON DATABASE postgres TO mallory; GRANT USAGE ON SCHEMA foreshard TO mallory;
             GRANT EXECUTE ON FUNCTION foreshard.create_shard, foreshard.create_query_shard TO mallory",
        )
        .await?;
    mallory.batch_execute(TRAP).await.context("the trap")?;
    Ok((origin, mallory))
}

/// Runs it as whoever the session is of, and sees that a check ran then, and never but as mallory.
async fn springs(origin: &Origin, session: &Client, call: &str) -> Result<()> {
    origin.db.batch_execute("ALTER SEQUENCE evil.runs RESTART").await?;
    session.batch_execute(call).await.with_context(|| call.to_owned())?;
    ensure!(origin.value::<bool>("SELECT is_called FROM evil.runs").await?, "no check ran in {call}");
    nothing_is_caught(origin).await.with_context(|| call.to_owned())
}

async fn nothing_is_caught(origin: &Origin) -> Result<()> {
    let caught = "SELECT is_called OR (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = 'mallory') FROM evil.others";
    ensure!(!origin.value::<bool>(caught).await?, "a check ran with the rights of somebody else");
    Ok(())
}

fn definitions(replace: bool) -> impl Iterator<Item = String> {
    CONDITIONS.iter().flat_map(move |(name, condition)| {
        [
            format!("SELECT foreshard.create_shard('{name}', 'evil.own', $${condition}$$, or_replace => {replace})"),
            format!("SELECT foreshard.create_query_shard('{name} query', $$SELECT id FROM evil.own WHERE {condition}$$, or_replace => {replace})"),
        ]
    })
}

const DEFECTS: &str = "SELECT concat(string_agg(name || ': ' || defect, ' ')) FROM foreshard.shards";

#[tokio::test]
async fn checks_of_a_definer_s_types_run_with_his_rights() -> Result<()> {
    let (origin, mallory) = trapped().await?;
    mallory.batch_execute(ARM).await?;
    for define in definitions(false).chain(definitions(true)) {
        mallory.batch_execute("RESET search_path").await?;
        springs(&origin, &mallory, &define).await?;
    }
    assert_eq!(origin.value::<String>(DEFECTS).await?, "");
    // Nor when such rows are decoded, and read by an edge.
    origin.map_all().await?;
    origin.create_slot().await?;
    mallory.batch_execute("INSERT INTO evil.own VALUES (1, row(7), '{7,8}', '[7,9)', 7)").await?;
    let told = origin.frames_with_rows().await?;
    assert_eq!(crate::origin::in_words(&told).len(), 2 * CONDITIONS.len());
    for (name, _) in CONDITIONS {
        assert_eq!(origin.rows(&format!("{name}%20query")).await?, ["1"], "{name}");
        assert_eq!(origin.rows(name).await?.len(), 1, "{name}");
    }
    nothing_is_caught(&origin).await
}

/// The check comes when the shards are there, and somebody else makes PostgreSQL parse them again.
#[tokio::test]
async fn checks_that_come_later_run_with_the_definer_s_rights() -> Result<()> {
    let (origin, mallory) = trapped().await?;
    for define in definitions(false) {
        mallory.batch_execute(&define).await?;
    }
    springs(&origin, &mallory, ARM).await?;
    for call in [
        "SELECT foreshard.rederive()",
        "ALTER TABLE evil.own RENAME n TO m",
        "ALTER SCHEMA evil RENAME TO worse; ALTER SCHEMA worse RENAME TO evil",
        "DROP TABLE evil.own; SET ROLE mallory; CREATE TABLE evil.own (id int PRIMARY KEY, c evil.c, a evil.d[], r evil.r, m int); RESET ROLE",
        "DROP TABLE evil.own; SELECT foreshard.rederive(); SET ROLE mallory; CREATE TABLE evil.own (id int PRIMARY KEY, c evil.c, a evil.d[], r evil.r, m int); RESET ROLE",
    ] {
        springs(&origin, &origin.db, call).await?;
        assert_eq!(origin.value::<String>(DEFECTS).await?, "", "{call}");
    }
    springs(&origin, &mallory, "ALTER TABLE evil.own ADD later int").await
}

/// Also the restoring of a dump, in which rights come after definitions that need them.
#[tokio::test]
async fn a_dump_is_parsed_with_the_definers_rights() -> Result<()> {
    let (origin, mallory) = trapped().await?;
    for define in definitions(false) {
        mallory.batch_execute(&define).await?;
    }
    mallory.batch_execute(ARM).await?;
    let guest = role(&origin, "guest").await?;
    origin
        .db
        .batch_execute(
            "CREATE SCHEMA shop; CREATE TYPE shop.mood AS ENUM ('sad', 'ok'); CREATE TABLE shop.t (id int PRIMARY KEY, m shop.mood);
             INSERT INTO shop.t VALUES (1, 'ok'); GRANT USAGE ON SCHEMA shop, foreshard TO guest; GRANT SELECT ON shop.t TO guest;
             GRANT EXECUTE ON FUNCTION foreshard.create_shard, foreshard.create_query_shard TO guest",
        )
        .await?;
    guest
        .batch_execute(
            "SELECT foreshard.create_shard('t', 'shop.t', $$m = 'ok'::shop.mood$$);
             SELECT foreshard.create_query_shard('q', $$SELECT id FROM shop.t WHERE m <> 'sad'::shop.mood$$)",
        )
        .await?;
    let defined = "SELECT json_agg(json_build_array(name, predicate, query, owner::text, defect, depends_on) ORDER BY name)::text FROM foreshard.shards";
    let before: String = origin.value(defined).await?;
    let file = tempfile::NamedTempFile::new()?;
    let dumped = origin.cluster.client_program("pg_dump").arg("-Fc").stdout(file.reopen()?).status()?;
    ensure!(dumped.success());
    origin.db.batch_execute("CREATE DATABASE restored").await?;
    let restored = origin
        .cluster
        .client_program("pg_restore")
        .args(["--exit-on-error", "-d", "restored"])
        .stdin(file.reopen()?)
        .output()?;
    ensure!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    nothing_is_caught(&origin).await?;
    let copy = Origin { db: origin.cluster.connect_to("restored").await?, cluster: origin.cluster };
    nothing_is_caught(&copy).await?;
    assert_eq!(copy.value::<String>(defined).await?, before);
    copy.map_all().await?;
    assert_eq!(copy.rows("t").await?, ["1|ok"]);
    assert_eq!(copy.rows("q").await?, ["1"]);
    Ok(())
}

/// The functions that parse take a role, and nobody's but the caller's own.
#[tokio::test]
async fn nobody_compiles_in_the_name_of_another_role() -> Result<()> {
    let (origin, mallory) = trapped().await?;
    mallory.batch_execute(ARM).await?;
    let compile = [
        "SELECT foreshard.compile_predicate('evil.own'::regclass, $$c = '(7)'::evil.c$$, 'WHO'::regrole)",
        "SELECT foreshard.compile_query($$SELECT id FROM evil.own WHERE c = '(7)'::evil.c$$, '{}', 'WHO'::regrole)",
    ];
    for call in compile {
        let error = error_of(&mallory, &call.replace("WHO", "mallory")).await?;
        assert_eq!(*error.code(), S::INSUFFICIENT_PRIVILEGE, "{call}");
    }
    // Somebody granted too much.
    origin.db.batch_execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA foreshard TO mallory").await?;
    for call in compile {
        let error = error_of(&mallory, &call.replace("WHO", "postgres")).await?;
        assert_eq!(*error.code(), S::INSUFFICIENT_PRIVILEGE, "{call}");
        assert!(error.message().contains("of another role"), "{error}");
        mallory.batch_execute(&call.replace("WHO", "mallory")).await?;
    }
    let gone = compile[0].replace("'WHO'::regrole", "4294967295");
    assert_eq!(*error_of(&origin.db, &gone).await?.code(), S::UNDEFINED_OBJECT);
    nothing_is_caught(&origin).await
}

/// What the SQL of 0.1.0 calls, until it is updated, does not know whose predicate it parses: it is nobody's.
#[tokio::test]
async fn the_sql_of_before_gives_nobody_more_rights() -> Result<()> {
    let (origin, mallory) = trapped().await?;
    origin
        .db
        .batch_execute(
            "DROP EXTENSION foreshard; CREATE EXTENSION foreshard VERSION '0.1.0'; GRANT USAGE ON SCHEMA foreshard TO mallory;
             GRANT EXECUTE ON FUNCTION foreshard.create_shard TO mallory",
        )
        .await?;
    // Not as anybody with more than nothing.
    let armed = ARM.replace(
        "evil.seen(value)",
        "CASE current_user WHEN 'pg_checkpoint' THEN true ELSE evil.seen(value) END",
    );
    mallory.batch_execute(&armed).await?;
    for (name, condition) in CONDITIONS {
        let define = format!("SELECT foreshard.create_shard('{name}', 'evil.own', $${condition}$$)");
        mallory.batch_execute(&define).await.with_context(|| define)?;
    }
    origin.db.batch_execute("ALTER TABLE evil.own RENAME n TO m").await?;
    nothing_is_caught(&origin).await
}
