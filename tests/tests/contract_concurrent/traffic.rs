//! Writers whose commits overlap, and readers.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use foreshard_tests::{Cluster, Endpoint, HttpClient, Response, eventually};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::KEYS;
use crate::ledger::{Committed, Part};

/// Of one writer: as fast as they can, writers leave no copy alone for long enough to be served.
const PACE: Duration = Duration::from_millis(50);

/// An answer, with the position that was asked for.
pub(crate) struct Seen {
    pub(crate) parts: Arc<Vec<Part>>,
    pub(crate) lsn: u64,
    pub(crate) min_lsn: Option<u64>,
}

#[derive(Default)]
struct State {
    stop: AtomicBool,
    tolerant: AtomicBool,
    answers: AtomicUsize,
    token: AtomicU64,
}

/// Writers and readers at work.
pub(crate) struct Traffic {
    state: Arc<State>,
    writers: Vec<JoinHandle<Result<Vec<Committed>>>>,
    readers: Vec<JoinHandle<Result<Vec<Seen>>>>,
}

impl Traffic {
    pub(crate) async fn start(
        cluster: &Cluster,
        endpoint: &Endpoint,
        writers: u64,
        readers: u64,
    ) -> Result<Self> {
        let state = Arc::new(State::default());
        let mut traffic = Traffic { state: state.clone(), writers: Vec::new(), readers: Vec::new() };
        for seed in 0..writers {
            let (db, state) = (cluster.connect().await?, state.clone());
            traffic.writers.push(tokio::spawn(write(db, StdRng::seed_from_u64(seed), state)));
        }
        for seed in 0..readers {
            let (http, state) = (HttpClient::new(endpoint.clone()), state.clone());
            let rng = StdRng::seed_from_u64(1_000 + seed);
            traffic.readers.push(tokio::spawn(async move { read(&http, rng, &state).await }));
        }
        Ok(traffic)
    }

    /// Refusals are in order from now on; wrong answers still are not.
    pub(crate) fn tolerant(self) -> Self {
        self.state.tolerant.store(true, Ordering::SeqCst);
        self
    }

    /// Until there are this many more answers.
    pub(crate) async fn wait_for_answers(&self, count: usize, within: Duration) -> Result<()> {
        let goal = self.state.answers.load(Ordering::SeqCst) + count;
        eventually("readers have their answers", within, || async {
            let ended = self.readers.iter().any(JoinHandle::is_finished)
                || self.writers.iter().any(JoinHandle::is_finished);
            Ok((ended || self.state.answers.load(Ordering::SeqCst) >= goal).then_some(()))
        })
        .await
    }

    /// Stops everybody; what was committed and what was seen, or the first mistake.
    pub(crate) async fn finish(self) -> Result<(Vec<Committed>, Vec<Seen>)> {
        self.state.stop.store(true, Ordering::SeqCst);
        let (mut committed, mut seen) = (Vec::new(), Vec::new());
        for writer in self.writers {
            committed.extend(writer.await??);
        }
        for reader in self.readers {
            seen.extend(reader.await??);
        }
        Ok((committed, seen))
    }
}

async fn write(db: Client, mut rng: StdRng, state: Arc<State>) -> Result<Vec<Committed>> {
    let mut committed = Vec::new();
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !state.stop.load(Ordering::SeqCst) {
        pace.tick().await;
        let began = Instant::now();
        db.batch_execute("BEGIN").await?;
        let xid: String = db.query_one("SELECT pg_current_xact_id()::text", &[]).await?.get(0);
        let mut instances = BTreeSet::new();
        for _ in 0..rng.random_range(1..=3) {
            let k = rng.random_range(0..KEYS);
            let flagged = rng.random_ratio(1, 4);
            let insert = match rng.random_ratio(1, 2) {
                true => format!("INSERT INTO notes VALUES ({xid}, {k}) ON CONFLICT DO NOTHING"),
                false => format!("INSERT INTO items VALUES ({xid}, {k}, {flagged}) ON CONFLICT DO NOTHING"),
            };
            if db.execute(&insert, &[]).await? == 1 {
                let table = if insert.contains("notes") { "notes" } else { "items" };
                instances.insert(format!("{table}?k={k}"));
                if table == "items" && flagged {
                    instances.insert("flagged".to_owned());
                }
            }
        }
        if rng.random_ratio(1, 8) {
            db.batch_execute("ROLLBACK").await?;
            continue;
        }
        db.batch_execute("COMMIT").await?;
        committed.push(Committed { xid: xid.parse()?, instances, began, done: Instant::now() });
        let token: String = db.query_one("SELECT foreshard.commit_token()::text", &[]).await?.get(0);
        state.token.fetch_max(position(&token)?, Ordering::SeqCst);
    }
    Ok(committed)
}

async fn read(http: &HttpClient, mut rng: StdRng, state: &State) -> Result<Vec<Seen>> {
    let mut seen = Vec::new();
    let mut known: HashMap<u64, Arc<Vec<Part>>> = HashMap::new();
    while !state.stop.load(Ordering::SeqCst) {
        let min_lsn = rng.random_ratio(1, 20).then(|| state.token.load(Ordering::SeqCst));
        let text = min_lsn.map(|lsn| format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF));
        let headers: Vec<(&str, &str)> =
            text.iter().map(|text| ("Foreshard-Min-Lsn", text.as_str())).collect();
        let (k, alone) = (rng.random_range(0..KEYS), rng.random_ratio(1, 2));
        let response = match alone {
            true => http.rows("page", "items", &format!("k=eq.{k}"), &headers).await?,
            false => http.invoke("page", &json!({ "k": k }), &headers).await?,
        };
        if response.status == 503 && state.tolerant.load(Ordering::SeqCst) {
            continue;
        }
        ensure!(response.status == 200, "{}: {}", response.status, response.text());
        let lsn = position(response.header("foreshard-lsn").context("no Foreshard-Lsn")?)?;
        let parts = match known.get(&digest(&response, k, alone)?) {
            Some(parts) => parts.clone(),
            None => {
                let body = response.json()?;
                let parts = if alone {
                    vec![part(&body, format!("items?k={k}"))?]
                } else {
                    parts(&body["shards"], k)?
                };
                known.entry(digest(&response, k, alone)?).or_insert(Arc::new(parts)).clone()
            }
        };
        seen.push(Seen { parts, lsn, min_lsn });
        state.answers.fetch_add(1, Ordering::SeqCst);
    }
    Ok(seen)
}

/// Of everything that a body says of rows: the same again need not be taken apart again.
fn digest(response: &Response, k: u32, alone: bool) -> Result<u64> {
    let word = b"\"shards\"";
    let rows = match alone {
        true => 0,
        false => {
            response.body.windows(word.len()).position(|at| at == word).context("no shards in the answer")?
        }
    };
    let mut hasher = DefaultHasher::new();
    (k, alone, &response.body[rows..]).hash(&mut hasher);
    Ok(hasher.finish())
}

fn parts(shards: &Value, k: u32) -> Result<Vec<Part>> {
    Ok(vec![
        part(&shards["items"]["rows"], format!("items?k={k}"))?,
        part(&shards["notes"]["rows"], format!("notes?k={k}"))?,
        part(&shards["flagged"]["rows"], "flagged".to_owned())?,
    ])
}

fn part(rows: &Value, instance: String) -> Result<Part> {
    let rows = rows.as_array().with_context(|| format!("no rows of {instance}"))?;
    let xids = rows.iter().map(|row| row["xid"].as_u64().context("a row without xid"));
    Ok((instance, xids.collect::<Result<BTreeSet<u64>>>()?))
}

fn position(text: &str) -> Result<u64> {
    let Some((high, low)) = text.split_once('/') else { bail!("not a log position: {text}") };
    Ok(u64::from_str_radix(high, 16)? << 32 | u64::from_str_radix(low, 16)?)
}
