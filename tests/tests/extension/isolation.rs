//! Every order in which sessions that define, change and decode can go: what a fetch of the new definition does not hold, the
//! stream tells.

use anyhow::{Context, Result};
use foreshard_protocol::{Event, FetchPart};
use tokio_postgres::Client;

use crate::origin::Origin;

/// The steps of each session, in its order. Of the first, the last step is the commit that defines; of the second, that changes.
struct Case {
    name: &'static str,
    prepare: &'static str,
    definer: &'static [&'static str],
    changer: &'static [&'static str],
    instance: &'static str,
    shard: &'static str,
}

const CASES: [Case; 4] = [
    Case {
        name: "a shard is created",
        prepare: "",
        definer: &[
            "BEGIN; SELECT foreshard.create_shard('s', 't', key => '{k}'); SELECT foreshard.map_function('f', '{s}')",
            "COMMIT",
        ],
        changer: &["BEGIN; INSERT INTO t VALUES (100, 1)", "COMMIT"],
        instance: "s?k=1",
        shard: "s",
    },
    Case {
        name: "a query shard is created",
        prepare: "",
        definer: &[
            "BEGIN; SELECT foreshard.create_query_shard('s', 'SELECT t.id FROM t JOIN u ON u.k = t.k WHERE t.k = $1', '{k}'); SELECT foreshard.map_function('f', '{s}')",
            "COMMIT",
        ],
        changer: &["BEGIN; INSERT INTO t VALUES (100, 1)", "INSERT INTO u VALUES (100, 1)", "COMMIT"],
        instance: "s?k=1",
        shard: "s",
    },
    Case {
        name: "a shard is redefined",
        prepare: "SELECT foreshard.create_shard('s', 't', 'id < 50', '{k}'); SELECT foreshard.map_function('f', '{s}')",
        definer: &[
            "BEGIN; SELECT foreshard.create_shard('s', 't', 'id > 50', '{k}', or_replace => true)",
            "COMMIT",
        ],
        changer: &[
            "BEGIN; INSERT INTO t VALUES (100, 1)",
            "UPDATE t SET id = id + 100 WHERE id < 3",
            "COMMIT",
        ],
        instance: "s?k=1",
        shard: "s",
    },
    Case {
        name: "a function is mapped",
        prepare: "SELECT foreshard.create_query_shard('s', 'SELECT count(*) AS n FROM t')",
        definer: &["BEGIN; SELECT foreshard.map_function('f', '{s}')", "COMMIT"],
        changer: &["BEGIN; DELETE FROM t WHERE id = 1", "SAVEPOINT a; TRUNCATE u; ROLLBACK TO a", "COMMIT"],
        instance: "s",
        shard: "s",
    },
];

const TABLES: &str = "CREATE TABLE IF NOT EXISTS t (id int PRIMARY KEY, k int); CREATE TABLE IF NOT EXISTS u (id int PRIMARY KEY, k int);
    ALTER TABLE t REPLICA IDENTITY FULL; TRUNCATE t, u; INSERT INTO t VALUES (1, 1), (2, 2); INSERT INTO u VALUES (1, 1);";

/// All orders of `counts[0]` steps of session 0, `counts[1]` of session 1 …
pub(crate) fn orders(counts: &[usize]) -> Vec<Vec<usize>> {
    if counts.iter().all(|count| *count == 0) {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for session in 0..counts.len() {
        if counts[session] == 0 {
            continue;
        }
        let mut rest = counts.to_vec();
        rest[session] -= 1;
        all.extend(orders(&rest).into_iter().map(|mut order| {
            order.insert(0, session);
            order
        }));
    }
    all
}

/// One order of one case. No step ever waits for another session: definitions hold up neither changes nor decoding. (Those
/// that do wait are in `waiting`.)
async fn run(origin: &Origin, sessions: &[Client; 2], case: &Case, order: &[usize]) -> Result<()> {
    let mut steps = [case.definer.iter(), case.changer.iter()];
    let mut fetched = None;
    let mut frames = Vec::new();
    for session in order {
        let Some(steps) = steps.get_mut(*session) else {
            frames.extend(origin.frames().await?);
            continue;
        };
        sessions[*session].batch_execute(steps.next().context("a step")?).await?;
        if *session == 0 && steps.len() == 0 {
            fetched = Some(origin.fetch(&[case.instance]).await?);
        }
    }
    frames.extend(origin.frames().await?);
    let fetched = fetched.context("every order commits the definition")?;
    let Some(FetchPart::Header(header)) = fetched.first() else { anyhow::bail!("no header") };
    let changed = origin.value::<i64>("SELECT xid FROM changes").await?.unsigned_abs();
    let held = header.snapshot.sees(changed);
    let told = frames.iter().any(|frame| {
        let names = |event: &Event| matches!(event, Event::Shard { shard, .. } if shard == case.shard);
        frame.xid == changed && frame.events.iter().any(names)
    });
    assert!(held || told, "{}, {order:?}: neither in the copy nor in the stream", case.name);
    Ok(())
}

#[tokio::test]
async fn in_every_order_a_change_is_in_the_copy_or_in_the_stream() -> Result<()> {
    let origin = Origin::followed(TABLES).await?;
    // Notes the id of the transaction that changes t.
    origin
        .db
        .batch_execute(
            "CREATE TABLE changes (xid bigint);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN UPDATE changes SET xid = pg_current_xact_id()::text::bigint; RETURN NULL; END';
             INSERT INTO changes VALUES (0);",
        )
        .await?;
    let sessions = [origin.cluster.connect().await?, origin.cluster.connect().await?];
    for session in &sessions {
        session.batch_execute("SET statement_timeout = '60s'").await?;
    }
    for case in &CASES {
        for order in orders(&[case.definer.len(), case.changer.len(), 1]) {
            origin
                .db
                .batch_execute(&format!(
                    "SELECT foreshard.unmap_function('f', true), foreshard.drop_shard('s', true); DROP TRIGGER IF EXISTS note ON t;
                     {TABLES} {};
                     CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH STATEMENT EXECUTE FUNCTION note()",
                    case.prepare
                ))
                .await
                .with_context(|| case.name)?;
            origin.frames().await?;
            run(&origin, &sessions, case, &order)
                .await
                .with_context(|| format!("{}, {order:?}", case.name))?;
        }
    }
    Ok(())
}
