//! Writers with overlapping transactions, and the record of what they committed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use foreshard_tests::Cluster;
use foreshard_tests::history::{Change, Row, RowKey};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{Mutex, MutexGuard};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::OWNERS;

/// Ids that writers insert and delete; the first 120 stay unless the table is truncated.
const IDS: i64 = 200;

/// Of one writer. As fast as they can, writers leave no copy alone for long enough to be served.
const PACE: Duration = Duration::from_millis(60);

/// A committed transaction.
#[derive(Debug)]
pub(crate) struct Commit {
    pub(crate) xid: u32,
    pub(crate) changes: Vec<Change>,
}

/// What has committed, in order, and what the table holds.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) commits: Vec<Commit>,
    now: HashMap<RowKey, Row>,
}

/// What a transaction did, statement by statement.
#[derive(Debug)]
enum Effect {
    Put(i64, Row),
    Gone(i64),
    Emptied,
}

/// The writers' shared state; clones are the same writers.
#[derive(Debug, Clone)]
pub(crate) struct Writers {
    record: Arc<Mutex<Record>>,
    started: Arc<AtomicUsize>,
    /// The newest commit token.
    pub(crate) token: Arc<AtomicU64>,
    seed: Arc<AtomicU64>,
    revision: Arc<AtomicU64>,
}

impl Writers {
    pub(crate) fn new(before: &[(&'static str, RowKey, Row)]) -> Self {
        let now = before.iter().map(|(_, key, row)| (key.clone(), row.clone())).collect();
        Self {
            record: Arc::new(Mutex::new(Record { commits: Vec::new(), now })),
            started: Arc::default(),
            token: Arc::default(),
            seed: Arc::default(),
            revision: Arc::default(),
        }
    }

    /// How many commits have been asked for so far.
    pub(crate) fn commits_started(&self) -> usize {
        self.started.load(Ordering::SeqCst)
    }

    pub(crate) async fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().await
    }

    /// Runs this many writers at a time until they have tried this many transactions together.
    pub(crate) async fn run(&self, cluster: &Cluster, writers: usize, transactions: usize) -> Result<()> {
        let left = AtomicUsize::new(transactions);
        let mut running = Vec::new();
        for _ in 0..writers {
            let db = cluster.connect().await?;
            let rng = StdRng::seed_from_u64(self.seed.fetch_add(1, Ordering::SeqCst));
            running.push(self.write(db, rng, &left));
        }
        futures_util::future::try_join_all(running).await?;
        Ok(())
    }

    async fn write(&self, db: Client, mut rng: StdRng, left: &AtomicUsize) -> Result<()> {
        let take = |n: usize| n.checked_sub(1);
        let mut pace = tokio::time::interval(PACE);
        while left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
            pace.tick().await;
            self.transaction(&db, &mut rng).await?;
        }
        Ok(())
    }

    async fn transaction(&self, db: &Client, rng: &mut StdRng) -> Result<()> {
        let revision = self.revision.fetch_add(1, Ordering::SeqCst) + 1;
        let xid: u64 = one(db, "BEGIN; SELECT pg_current_xact_id()").await?.context("an xid")?.parse()?;
        let mut effects = Vec::new();
        if rng.random_ratio(1, 150) {
            db.batch_execute("TRUNCATE items").await?;
            effects.push(Effect::Emptied);
            for id in 1..=60 {
                effects.extend(upsert(db, rng, id, revision).await?);
            }
        }
        // In ascending order, so that two transactions never wait for each other.
        let mut ids: Vec<i64> = (0..rng.random_range(1..=4)).map(|_| rng.random_range(1..=IDS)).collect();
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            let doubtful = rng.random_ratio(1, 6);
            if doubtful {
                db.batch_execute("SAVEPOINT doubt").await?;
            }
            let effect = change(db, rng, id, revision).await?;
            if doubtful && rng.random_ratio(1, 2) {
                db.batch_execute("ROLLBACK TO SAVEPOINT doubt").await?;
            } else {
                effects.extend(effect);
            }
        }
        if effects.is_empty() || rng.random_ratio(1, 8) {
            db.batch_execute("ROLLBACK").await?;
            return Ok(());
        }
        let two_phase = rng.random_ratio(1, 10);
        if two_phase {
            db.batch_execute(&format!("PREPARE TRANSACTION 'p{xid}'")).await?;
        }
        // One commit at a time: their order is then known, and a state of the origin is how many there were.
        let mut record = self.record.lock().await;
        self.started.fetch_add(1, Ordering::SeqCst);
        let commit = if two_phase { format!("COMMIT PREPARED 'p{xid}'") } else { "COMMIT".to_owned() };
        db.batch_execute(&commit).await?;
        let token = one(db, "SELECT foreshard.commit_token() - '0/0'").await?.context("a token")?;
        self.token.store(token.parse()?, Ordering::SeqCst);
        let changes = effects.into_iter().flat_map(|effect| record.apply(effect)).collect();
        record.commits.push(Commit { xid: (xid & u64::from(u32::MAX)) as u32, changes });
        Ok(())
    }
}

impl Record {
    fn apply(&mut self, effect: Effect) -> Vec<Change> {
        let change = |key: RowKey, old, new| Change { table: "items", key, old, new };
        match effect {
            Effect::Put(id, row) => {
                let key = RowKey::Number(id);
                let old = self.now.insert(key.clone(), row.clone());
                vec![change(key, old, Some(row))]
            }
            Effect::Gone(id) => {
                let key = RowKey::Number(id);
                let old = self.now.remove(&key);
                vec![change(key, old, None)]
            }
            Effect::Emptied => self.now.drain().map(|(key, old)| change(key, Some(old), None)).collect(),
        }
    }
}

/// One change of one row, if the row allows it.
async fn change(db: &Client, rng: &mut StdRng, id: i64, revision: u64) -> Result<Option<Effect>> {
    let set = match rng.random_range(0..7) {
        0 => format!("owner = {}", rng.random_range(0..OWNERS)),
        1 => "visible = NOT visible".to_owned(),
        2 => "kind = CASE kind WHEN 'hot' THEN 'cold' ELSE 'hot' END".to_owned(),
        3 => format!("amount = {}, noted = clock_timestamp()", rng.random_range(0..100_000) as f64 / 100.0),
        4 => "note = repeat(md5(random()::text), 3)".to_owned(),
        5 => return upsert(db, rng, id, revision).await,
        _ => {
            let gone = one(db, &format!("DELETE FROM items WHERE id = {id} RETURNING id")).await?;
            return Ok(gone.map(|_| Effect::Gone(id)));
        }
    };
    let sql =
        format!("UPDATE items SET {set}, rev = {revision} WHERE id = {id} RETURNING row_to_json(items)");
    put(db, id, &sql).await
}

async fn upsert(db: &Client, rng: &mut StdRng, id: i64, revision: u64) -> Result<Option<Effect>> {
    let (owner, kind) = (rng.random_range(0..OWNERS), if rng.random_ratio(1, 4) { "hot" } else { "cold" });
    let visible = rng.random_ratio(3, 4);
    let sql = format!(
        "INSERT INTO items VALUES ({id}, {owner}, {visible}, '{kind}', NULL, now(), NULL, {revision}) \
         ON CONFLICT (id) DO UPDATE SET owner = excluded.owner, rev = excluded.rev RETURNING row_to_json(items)"
    );
    put(db, id, &sql).await
}

async fn put(db: &Client, id: i64, sql: &str) -> Result<Option<Effect>> {
    match one(db, sql).await? {
        Some(row) => Ok(Some(Effect::Put(id, serde_json::from_str(&row)?))),
        None => Ok(None),
    }
}

/// The first value that a script returns.
async fn one(db: &Client, sql: &str) -> Result<Option<String>> {
    let answers = db.simple_query(sql).await.with_context(|| sql.to_owned())?;
    for answer in &answers {
        if let SimpleQueryMessage::Row(row) = answer {
            match row.get(0) {
                Some(value) => return Ok(Some(value.to_owned())),
                None => bail!("{sql}: NULL"),
            }
        }
    }
    Ok(None)
}
