//! What people do to a running system: concurrently, behind its back, in circles.

use std::time::Duration;

use anyhow::Result;
use foreshard_tests::{SidecarOptions, eventually};
use tokio_postgres::error::SqlState;

use crate::origin::{Origin, error_of};
use crate::rights::role;

/// Two sessions define and drop the same shard as fast as they can: each call does its work or says why not, and nothing is left
/// half done.
#[tokio::test]
async fn one_shard_made_and_dropped_by_two_sessions_at_once() -> Result<()> {
    let origin = Origin::followed("CREATE TABLE t (id int PRIMARY KEY, n int)").await?;
    let other = origin.cluster.connect().await?;
    let busy = async |db: &tokio_postgres::Client, define: &str| -> Result<()> {
        for _ in 0..40 {
            for call in
                [define, "SELECT foreshard.map_function('f', '{s}')", "SELECT foreshard.drop_shard('s')"]
            {
                match db.batch_execute(call).await {
                    Ok(()) => {}
                    Err(error) => {
                        let code = error.code().cloned();
                        let expected = [SqlState::DUPLICATE_OBJECT, SqlState::UNDEFINED_OBJECT];
                        anyhow::ensure!(
                            code.as_ref().is_some_and(|code| expected.contains(code)),
                            "{call}: {error:?}"
                        );
                    }
                }
            }
        }
        Ok(())
    };
    let (one, two) = tokio::join!(
        busy(&origin.db, "SELECT foreshard.create_shard('s', 't', key => '{id}')"),
        busy(&other, "SELECT foreshard.create_shard('s', 't', 'n > 0', or_replace => true)")
    );
    one?;
    two?;
    origin.frames().await?;
    origin.db.batch_execute("SELECT foreshard.drop_shard('s', if_exists => true)").await?;
    let left: i64 = origin.value("SELECT (SELECT count(*) FROM foreshard.shards) + (SELECT count(*) FROM foreshard.function_shards)").await?;
    assert_eq!(left, 0);
    let again =
        "SELECT foreshard.create_shard('s', 't', key => '{id}'); SELECT foreshard.map_function('f', '{s}')";
    assert_eq!(origin.after(again).await?.last().map(String::as_str), Some("f = s"));
    assert_eq!(origin.after("INSERT INTO t VALUES (1, 1)").await?, ["s 1"]);
    Ok(())
}

/// The stream goes on, in the same process, for everybody else.
#[tokio::test]
async fn tables_that_go_under_a_live_walsender() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            "CREATE TABLE kept (id int PRIMARY KEY); CREATE TABLE lost (id int PRIMARY KEY); CREATE TABLE wide (id int PRIMARY KEY, n int);
             SELECT foreshard.create_shard(n, n::regclass, key => '{id}') FROM unnest('{kept,lost,wide}'::text[]) n",
        )
        .await?;
    origin.map_all().await?;
    let sidecar = SidecarOptions::new("jfk", &origin.cluster.url()).start().await?;
    let reader = "SELECT active_pid FROM pg_replication_slots WHERE slot_name LIKE 'foreshard%'";
    let before: Option<i32> = origin.value(reader).await?;
    for round in 0..5 {
        origin
            .db
            .batch_execute(&format!(
                "INSERT INTO lost VALUES ({round}); DROP TABLE lost; INSERT INTO kept VALUES ({round});
                 BEGIN; INSERT INTO wide VALUES ({round}, 1); ALTER TABLE wide DROP n; ALTER TABLE wide ADD n int; COMMIT;
                 CREATE TABLE lost (id int PRIMARY KEY)"
            ))
            .await?;
    }
    let token: String = origin.value("SELECT foreshard.commit_token()::text").await?;
    let answer = eventually("an answer that holds it all", Duration::from_secs(20), async || {
        let answer = sidecar.http.rows("f", "kept", "id=eq.4", &[("foreshard-min-lsn", &token)]).await?;
        Ok((answer.status == 200).then_some(answer))
    })
    .await?;
    assert_eq!(answer.text(), r#"[{"id":4}]"#);
    assert_eq!(origin.value::<Option<i32>>(reader).await?, before, "one process all along");
    Ok(())
}

/// What a role that is gone has defined is not given out, and said to be broken.
#[tokio::test]
async fn the_role_that_defined_a_shard_goes() -> Result<()> {
    let origin = Origin::start().await?;
    let definer = role(&origin, "definer").await?;
    origin
        .db
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); GRANT SELECT ON t TO definer;
             GRANT USAGE ON SCHEMA foreshard TO definer; GRANT EXECUTE ON FUNCTION foreshard.create_shard TO definer;
             SELECT foreshard.create_shard('mine', 't')",
        )
        .await?;
    definer.batch_execute("SELECT foreshard.create_shard('theirs', 't')").await?;
    origin.map_all().await?;
    origin.create_slot().await?;
    assert_eq!(origin.rows("theirs").await?, ["1"]);
    drop(definer);
    origin.db.batch_execute("DROP OWNED BY definer; DROP ROLE definer").await?;
    assert_eq!(origin.rows("theirs").await?, ["Broken"]);
    assert_eq!(origin.rows("mine").await?, ["1"]);
    let told = origin.rows_after("INSERT INTO t VALUES (2)").await?;
    assert_eq!(told, ["mine +2", "theirs Whole(Rows)"]);
    let status: String =
        origin.value("SELECT status FROM foreshard.health() WHERE \"check\" = 'shard theirs'").await?;
    assert_eq!(status, "fail");
    Ok(())
}

/// PostgreSQL refuses tables that would be their own partitions; nothing of the attempt is left in the definitions.
#[tokio::test]
async fn partitions_in_a_circle() -> Result<()> {
    let origin = Origin::followed(
        "CREATE TABLE root (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE mid PARTITION OF root FOR VALUES FROM (0) TO (100) PARTITION BY RANGE (id);
         CREATE TABLE leaf PARTITION OF mid FOR VALUES FROM (0) TO (50);
         SELECT foreshard.create_shard(n, n::regclass, key => '{id}') FROM unnest('{root,mid,leaf}'::text[]) n",
    )
    .await?;
    for statement in [
        "ALTER TABLE mid ATTACH PARTITION root FOR VALUES FROM (60) TO (70)",
        "ALTER TABLE root ATTACH PARTITION root FOR VALUES FROM (200) TO (300)",
        "ALTER TABLE root ATTACH PARTITION leaf FOR VALUES FROM (200) TO (300)",
        "ALTER TABLE leaf INHERIT root",
    ] {
        error_of(&origin.db, statement).await?;
    }
    assert_eq!(origin.after("INSERT INTO root VALUES (1)").await?, ["leaf 1", "mid 1", "root 1"]);
    // In two steps a leaf becomes the root of what it was in.
    let turned =
        "ALTER TABLE root DETACH PARTITION mid; ALTER TABLE mid DETACH PARTITION leaf; DROP TABLE root;
        CREATE TABLE root PARTITION OF mid FOR VALUES FROM (50) TO (100)";
    origin.after(turned).await?;
    assert_eq!(origin.after("INSERT INTO mid VALUES (60)").await?, ["mid 60", "root 60"]);
    assert_eq!(origin.rows("root?id=60").await?, ["60"]);
    Ok(())
}
