//! Every order in which sessions that wait for each other can go: two that define, one that alters the table, two that change a
//! row. What a fetch of the last definition does not hold, the stream tells, which is decoded after every step, and nobody waits
//! forever.
//!
//! The orders without waiting are in `isolation`.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foreshard_protocol::{Event, FetchPart, Frame};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Error};

use crate::isolation::orders;
use crate::origin::Origin;

/// Sessions with their steps. After the last step of each of the first `definers` the instance is fetched anew.
struct Case {
    name: &'static str,
    definers: usize,
    sessions: &'static [&'static [&'static str]],
    /// Whether some order makes a session wait.
    waits: bool,
}

const DEFINE: &str = "BEGIN; SELECT foreshard.create_shard('s', 't', key => '{k}', or_replace => true); SELECT foreshard.map_function('f', '{s}')";

const CASES: [Case; 4] = [
    Case {
        name: "two change a row while a shard is defined",
        definers: 1,
        sessions: &[
            &[DEFINE, "COMMIT"],
            &["BEGIN; UPDATE t SET n = n + 1 WHERE id = 1", "COMMIT"],
            &["UPDATE t SET n = n + 10 WHERE id = 1"],
        ],
        waits: true,
    },
    Case {
        name: "the table is altered while a shard is defined and a row is changed",
        definers: 1,
        sessions: &[
            &[DEFINE, "COMMIT"],
            &[
                "BEGIN; ALTER TABLE t RENAME COLUMN n TO m; ALTER TABLE t ADD COLUMN n int DEFAULT 7",
                "COMMIT",
            ],
            &["UPDATE t SET id = id + 10 WHERE id = 1"],
        ],
        waits: true,
    },
    Case {
        name: "two define the shard while a row is changed",
        definers: 2,
        sessions: &[
            &[DEFINE, "COMMIT"],
            &["SELECT foreshard.create_shard('s', 't', 'n >= 0', '{k}', or_replace => true)"],
            &["BEGIN; UPDATE t SET n = 5 WHERE id = 1", "COMMIT"],
        ],
        waits: true,
    },
    Case {
        name: "the table is truncated while the shard is dropped and made",
        definers: 1,
        sessions: &[
            &["BEGIN; SELECT foreshard.drop_shard('s')", DEFINE_AGAIN, "COMMIT"],
            &["BEGIN; TRUNCATE t; INSERT INTO t VALUES (1, 1, 2)", "COMMIT"],
        ],
        waits: true,
    },
];

const TAKEN: &str = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 't'::regclass AND mode = 'AccessExclusiveLock' AND granted)";

const DEFINE_AGAIN: &str =
    "SELECT foreshard.create_shard('s', 't', 'n < 1000', '{k}'); SELECT foreshard.map_function('f', '{s}')";

const PREPARE: &str = "DROP TABLE IF EXISTS t; CREATE TABLE t (id int PRIMARY KEY, k int, n int); ALTER TABLE t REPLICA IDENTITY FULL;
    INSERT INTO t VALUES (1, 1, 0), (2, 2, 0); TRUNCATE changes;
    SELECT foreshard.create_shard('s', 't', or_replace => true), foreshard.map_function('f', '{s}');
    CREATE TRIGGER note AFTER INSERT OR UPDATE ON t FOR EACH STATEMENT EXECUTE FUNCTION note()";

/// A session that may be waiting for another.
struct Session {
    client: std::sync::Arc<Client>,
    id: i32,
    running: Option<JoinHandle<Result<(), Error>>>,
}

impl Session {
    async fn open(origin: &Origin) -> Result<Self> {
        let client = origin.cluster.connect().await?;
        // An order that never ends fails.
        client.batch_execute("SET statement_timeout = '60s'").await?;
        let id = client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
        Ok(Self { client: client.into(), id, running: None })
    }

    fn start(&mut self, statement: &'static str) {
        let client = self.client.clone();
        self.running = Some(tokio::spawn(async move { client.batch_execute(statement).await }));
    }

    /// Whether the statement has come to its end; if not, it waits for another session.
    async fn ended_or_waits(&mut self, origin: &Origin) -> Result<bool> {
        let Some(running) = &mut self.running else { return Ok(true) };
        loop {
            if let Ok(ended) = tokio::time::timeout(Duration::from_millis(5), &mut *running).await {
                self.running = None;
                ended??;
                return Ok(true);
            }
            let waits = "SELECT cardinality(pg_blocking_pids($1)) > 0";
            if origin.db.query_one(waits, &[&self.id]).await?.get(0) {
                return Ok(false);
            }
        }
    }
}

/// One order of one case; whether any session had to wait. A step whose session still waits is taken when that can go on.
async fn run(origin: &Origin, sessions: &mut [Session], case: &Case, order: &[usize]) -> Result<bool> {
    let mut steps: Vec<VecDeque<&'static str>> =
        case.sessions.iter().map(|steps| steps.iter().copied().collect()).collect();
    let mut left: VecDeque<usize> = order.iter().copied().collect();
    let (mut waited, mut fetched, mut frames) = (false, None, Vec::<Frame>::new());
    let mut unfetched = vec![true; case.definers];
    while !left.is_empty()
        || sessions.iter().any(|session| session.running.is_some())
        || unfetched.contains(&true)
    {
        let free = left.iter().position(|at| sessions[*at].running.is_none());
        if let Some(session) = free.and_then(|place| left.remove(place)) {
            sessions[session].start(steps[session].pop_front().context("a step")?);
        }
        for at in 0..case.sessions.len() {
            waited |= !sessions[at].ended_or_waits(origin).await?;
            let defined = at < case.definers && steps[at].is_empty() && sessions[at].running.is_none();
            // A fetch waits for whoever has the table for himself, and he for his next step here.
            if defined && unfetched[at] && !origin.value::<bool>(TAKEN).await? {
                unfetched[at] = false;
                fetched = Some(origin.fetch(&["s?k=1"]).await?);
            }
        }
        // Also while somebody waits.
        frames.extend(origin.frames().await?);
    }
    let fetched = fetched.context("every order defines the shard")?;
    let Some(FetchPart::Header(header)) = fetched.first() else { anyhow::bail!("no header") };
    for row in origin.db.query("SELECT xid FROM changes", &[]).await? {
        let changed = row.get::<_, i64>(0).unsigned_abs();
        let names = |event: &Event| matches!(event, Event::Shard { shard, .. } if shard == "s");
        let told = frames.iter().any(|frame| frame.xid == changed && frame.events.iter().any(names));
        ensure!(told || header.snapshot.sees(changed), "{changed} is neither in the copy nor in the stream");
    }
    // What is defined in the end is sound, and shows what the table holds.
    let defect: Option<String> = origin.value("SELECT defect FROM foreshard.shards WHERE name = 's'").await?;
    ensure!(defect.is_none(), "{defect:?}");
    let mut shown: Vec<String> = origin.rows("s?k=1").await?;
    shown.sort();
    let held: Vec<String> = origin.value("SELECT array_agg(array_to_string(array(SELECT value FROM json_each_text(row_to_json(t))), '|') ORDER BY id) FROM t WHERE k = 1").await?;
    ensure!(shown == held, "{shown:?} is not {held:?}");
    Ok(waited)
}

#[tokio::test]
async fn sessions_that_wait_for_each_other_lose_nothing() -> Result<()> {
    let origin = Origin::start().await?;
    origin
        .db
        .batch_execute(
            "CREATE TABLE changes (xid bigint);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN INSERT INTO changes VALUES (pg_current_xact_id()::text::bigint); RETURN NULL; END'",
        )
        .await?;
    origin.create_slot().await?;
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(Session::open(&origin).await?);
    }
    for case in &CASES {
        let counts: Vec<usize> = case.sessions.iter().map(|steps| steps.len()).collect();
        let mut waited = false;
        for order in orders(&counts) {
            origin.db.batch_execute(PREPARE).await.with_context(|| case.name)?;
            origin.frames().await?;
            waited |= run(&origin, &mut sessions, case, &order)
                .await
                .with_context(|| format!("{}, {order:?}", case.name))?;
        }
        assert_eq!(waited, case.waits, "{}", case.name);
    }
    Ok(())
}
