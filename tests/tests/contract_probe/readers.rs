//! Readers that ask until they are told to stop, and keep what they saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use foreshard_tests::history::{Answer, Stamp, digest};
use foreshard_tests::{Endpoint, HttpClient, Response};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::OWNERS;
use crate::writers::Writers;

/// An answer with all that is known of it.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) answer: Answer,
    pub(crate) stamp: Stamp,
    /// The worst of its shards: prefetch, reactive or origin.
    pub(crate) source: String,
    /// What was asked for with `Foreshard-Min-Lsn`.
    pub(crate) min_lsn: Option<u64>,
}

/// Readers of one sidecar.
pub(crate) struct Readers {
    http: HttpClient,
    writers: Writers,
    tolerant: bool,
    stop: AtomicBool,
}

/// Readers at work.
pub(crate) struct Reading {
    shared: Arc<Readers>,
    tasks: Vec<JoinHandle<Result<Vec<Seen>>>>,
}

impl Readers {
    pub(crate) fn new(endpoint: Endpoint, writers: Writers) -> Self {
        Self { http: HttpClient::new(endpoint), writers, tolerant: false, stop: AtomicBool::new(false) }
    }

    /// Refusals and broken connections are expected: a fault is about to happen. Wrong answers still are not.
    pub(crate) fn tolerant(self) -> Self {
        Self { tolerant: true, ..self }
    }

    /// Starts this many.
    pub(crate) fn spawn(self, readers: u64) -> Reading {
        let shared = Arc::new(self);
        let start = |seed| {
            let shared = shared.clone();
            tokio::spawn(async move { shared.read(StdRng::seed_from_u64(1_000 + seed)).await })
        };
        let tasks = (0..readers).map(start).collect();
        Reading { shared, tasks }
    }

    async fn read(&self, mut rng: StdRng) -> Result<Vec<Seen>> {
        let mut seen = Vec::new();
        while !self.stop.load(Ordering::SeqCst) {
            match self.ask(&mut rng).await {
                Ok(Some(answer)) => seen.push(answer),
                // Out of reach for the moment; nothing is learned by asking at once again.
                Ok(None) => tokio::task::yield_now().await,
                Err(error) => return Err(error),
            }
        }
        Ok(seen)
    }

    async fn ask(&self, rng: &mut StdRng) -> Result<Option<Seen>> {
        let min_lsn = rng.random_ratio(1, 20).then(|| self.writers.token.load(Ordering::SeqCst));
        let min_text = min_lsn.map(|lsn| format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff));
        let headers: Vec<(&str, &str)> =
            min_text.iter().map(|text| ("Foreshard-Min-Lsn", text.as_str())).collect();
        let owner = rng.random_range(0..OWNERS);
        let instance = format!("owned?owner={owner}");
        let sent = Instant::now();
        let (response, wanted) = match rng.random_range(0..10) {
            0 => (self.http.rows("report", "everything", "", &headers).await, vec!["everything".to_owned()]),
            1..4 => (
                self.http.rows("page", "owned", &format!("owner=eq.{owner}"), &headers).await,
                vec![instance],
            ),
            _ => (
                self.http.invoke("page", &json!({ "owner": owner }), &headers).await,
                vec![instance, "hot".to_owned()],
            ),
        };
        let received = Instant::now();
        let commits_started = self.writers.commits_started();
        let response = match response {
            Ok(response) if response.status == 200 => response,
            Ok(response) if self.tolerant => {
                ensure!(response.status == 503, "{}: {}", response.status, response.text());
                return Ok(None);
            }
            Err(_) if self.tolerant => return Ok(None),
            other => {
                let response = other?;
                anyhow::bail!("{}: {}", response.status, response.text());
            }
        };
        let (parts, source) = parts(&response, &wanted)?;
        let stamp = response.header("foreshard-lsn").context("no Foreshard-Lsn")?;
        let (high, low) = stamp.split_once('/').context("not an LSN")?;
        let lsn = u64::from_str_radix(high, 16)? << 32 | u64::from_str_radix(low, 16)?;
        let answer = Answer { parts, lsn, commits_started };
        Ok(Some(Seen { answer, stamp: Stamp { sent, received, lsn }, source, min_lsn }))
    }
}

impl Reading {
    /// Stops the readers; what they saw, or the first mistake.
    pub(crate) async fn finish(self) -> Result<Vec<Seen>> {
        self.shared.stop.store(true, Ordering::SeqCst);
        let mut seen = Vec::new();
        for task in self.tasks {
            seen.extend(task.await??);
        }
        Ok(seen)
    }
}

type Parts = Vec<(String, foreshard_tests::history::Digest)>;

fn parts(response: &Response, wanted: &[String]) -> Result<(Parts, String)> {
    let body = response.json()?;
    if let Some(rows) = body.as_array() {
        let source = match response.header("cache-status") {
            Some(hit) if hit.starts_with("foreshard-prefetch") => "prefetch",
            Some(hit) if hit.starts_with("foreshard-reactive") => "reactive",
            _ => "origin",
        };
        return Ok((vec![(wanted[0].clone(), digest(rows))], source.to_owned()));
    }
    let mut parts = Vec::new();
    let mut sources = Vec::new();
    for id in wanted {
        let shard = &body["shards"][id.split('?').next().unwrap_or(id)];
        parts.push((id.clone(), digest(shard["rows"].as_array().context("no rows")?)));
        sources.push(shard["served_from"].as_str().map(str::to_owned).context("no served_from")?);
    }
    let rank = |source: &String| ["prefetch", "reactive", "origin"].iter().position(|known| source == known);
    let worst = sources.into_iter().max_by_key(rank).unwrap_or_default();
    Ok((parts, worst))
}
