//! Replays the calls of the day against both runs and keeps what came back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use foreshard_tests::Response;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::calls::{Call, EDGES, Request};
use crate::clock::Clock;
use crate::edges::{Edge, RUNS, Run};
use crate::writer::{Own, Progress};
use foreshard_tests::history::{Answer, Digest, digest, filtered_id};

/// A call that has no answer after this long has failed.
const GIVE_UP: Duration = Duration::from_secs(10);

/// Real time between two reads of one's own write at an edge.
const PROBE_EVERY: Duration = Duration::from_millis(500);

/// Where an answer came from; the worst of its shards counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    Prefetch,
    Reactive,
    Origin,
}

/// What came back for one call.
#[derive(Debug)]
pub(crate) struct Observed {
    pub(crate) edge: usize,
    pub(crate) run: Run,
    pub(crate) function: String,
    pub(crate) sent: Instant,
    pub(crate) received: Instant,
    pub(crate) source: Source,
    pub(crate) answer: Answer,
    /// Set if this was a read of one's own write, which counts for correctness and not for waits.
    pub(crate) own: Option<Own>,
}

/// The part of an answer that a cache before the edge keeps.
pub(crate) type Kept = (Parts, Source);

/// Everything that came back.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) observed: Vec<Observed>,
    /// What went wrong, with the call it went wrong for.
    pub(crate) failures: Vec<String>,
}

impl Outcome {
    fn add(&mut self, result: Result<Observed>) {
        match result {
            Ok(observed) => self.observed.push(observed),
            Err(error) => self.failures.push(format!("{error:#}")),
        }
    }
}

/// Counts for the display of progress: answers by run and source, failures.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    answers: [[AtomicU64; 3]; 2],
    failures: AtomicU64,
}

impl Tally {
    fn add(&self, result: &Result<Observed>) {
        match result {
            Ok(observed) => &self.answers[observed.run as usize][observed.source as usize],
            Err(_) => &self.failures,
        }
        .fetch_add(1, Ordering::Relaxed);
    }

    /// Answers of one run from prefetch, reactive, origin.
    pub(crate) fn of(&self, run: Run) -> [u64; 3] {
        self.answers[run as usize].each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

/// Makes every call at its time, to both runs, and waits for all answers.
pub(crate) async fn run(
    calls: &[Call],
    edges: &Arc<Vec<Edge>>,
    clock: &Clock,
    progress: &Arc<Progress>,
    tally: &Arc<Tally>,
) -> Outcome {
    let mut under_way = JoinSet::new();
    let mut outcome = Outcome::default();
    for call in calls {
        clock.reached(call.at).await;
        for run in RUNS {
            let (call, edges, clock) = (call.clone(), edges.clone(), clock.clone());
            let (progress, tally) = (progress.clone(), tally.clone());
            under_way.spawn(async move {
                let result = one(&call, &edges[call.edge], run, &clock, &progress, None).await;
                tally.add(&result);
                result
            });
        }
        while let Some(done) = under_way.try_join_next() {
            outcome.add(done.unwrap_or_else(|failed| Err(failed.into())));
        }
    }
    while let Some(done) = under_way.join_next().await {
        outcome.add(done.unwrap_or_else(|failed| Err(failed.into())));
    }
    outcome
}

/// Reads the writer's own writes at every edge, with the token of the newest commit, until the calls are over.
pub(crate) async fn read_own_writes(
    edges: &[Edge],
    progress: &Progress,
    clock: &Clock,
    until: chrono::DateTime<chrono::Utc>,
) -> Outcome {
    let mut outcome = Outcome::default();
    let mut ticks = tokio::time::interval(PROBE_EVERY);
    while clock.now() < until {
        ticks.tick().await;
        let Some(own) = progress.newest() else { continue };
        for (number, edge) in edges.iter().enumerate() {
            // A cache that keeps answers for a time can't be asked for a write of one's own.
            for run in RUNS.into_iter().filter(|run| *run == Run::Prefetch || edge.ttl.is_none()) {
                let params = vec![("origin", EDGES[number].into())];
                let request = Request::Invoke(params);
                let call = Call { at: clock.now(), edge: number, function: "lobby".to_owned(), request };
                outcome.add(one(&call, edge, run, clock, progress, Some(own.clone())).await);
            }
        }
    }
    outcome
}

async fn one(
    call: &Call,
    edge: &Edge,
    run: Run,
    clock: &Clock,
    progress: &Progress,
    own: Option<Own>,
) -> Result<Observed> {
    let describe = || format!("{} at {} ({run:?})", call.function, EDGES[call.edge]);
    let sent = Instant::now();
    let asked = async {
        let Some(ttl) = edge.ttl.as_ref().filter(|_| run == Run::Peer) else {
            return ask(call, edge, run, own.as_ref()).await;
        };
        // Who relies on such an answer relies on all that had committed when it was asked for.
        let promised = progress.newest().map_or(Ok(0), |newest| parse_lsn(&newest.token))?;
        let fetch = async { ask(call, edge, run, None).await.map(|(kept, _)| kept) };
        let key = format!("{} {:?}", call.function, call.request);
        let ((parts, source), was_kept) = ttl.get(key, || clock.now(), fetch).await?;
        Ok(((parts, if was_kept { Source::Reactive } else { source }), promised))
    };
    let ((parts, source), lsn) =
        tokio::time::timeout(GIVE_UP, asked).await.with_context(describe)?.with_context(describe)?;
    let received = Instant::now();
    let answer = Answer { parts, lsn, commits_started: progress.commits_started() };
    Ok(Observed {
        edge: call.edge,
        run,
        function: call.function.clone(),
        sent,
        received,
        source,
        answer,
        own,
    })
}

/// Asks a sidecar; what it answered, where that came from, and its stamp.
async fn ask(call: &Call, edge: &Edge, run: Run, own: Option<&Own>) -> Result<(Kept, u64)> {
    let http = &edge.sidecar(run).http;
    let headers: Vec<(&str, &str)> =
        own.iter().map(|own| ("Foreshard-Min-Lsn", own.token.as_str())).collect();
    let response = match &call.request {
        Request::Invoke(params) => {
            let params: serde_json::Map<String, Value> =
                params.iter().map(|(name, value)| ((*name).into(), (**value).into())).collect();
            http.invoke(&call.function, &Value::Object(params), &headers).await?
        }
        Request::Rows { shard, filters } => {
            let query: Vec<String> =
                filters.iter().map(|(column, value)| format!("{column}=eq.{value}")).collect();
            http.rows(&call.function, shard, &query.join("&"), &headers).await?
        }
    };
    let kept = parts_of(call, &response)?;
    Ok((kept, parse_lsn(response.header("foreshard-lsn").context("no Foreshard-Lsn")?)?))
}

/// What was read of each instance.
type Parts = Vec<(String, Digest)>;

fn parts_of(call: &Call, response: &Response) -> Result<Kept> {
    ensure!(response.status == 200, "{}: {:.300}", response.status, response.text());
    let body = response.json()?;
    match &call.request {
        Request::Invoke(_) => {
            let mut parts = Vec::new();
            let mut worst = Source::Prefetch;
            for (name, id) in call.instances() {
                let shard = &body["shards"][name];
                let rows =
                    shard["rows"].as_array().with_context(|| format!("no rows of {name} in {body:.300}"))?;
                parts.push((id, digest(rows)));
                worst = worst.max(match shard["served_from"].as_str() {
                    Some("prefetch") => Source::Prefetch,
                    Some("reactive") => Source::Reactive,
                    Some("origin") => Source::Origin,
                    other => bail!("served from {other:?}"),
                });
            }
            Ok((parts, worst))
        }
        Request::Rows { shard, filters } => {
            let rows = body.as_array().context("the body is not an array")?;
            let id = filtered_id(shard, filters.iter().map(|(_, value)| value.clone()));
            let status = response.header("cache-status").context("no Cache-Status")?;
            let source = match status {
                hit if hit.starts_with("foreshard-prefetch") => Source::Prefetch,
                hit if hit.starts_with("foreshard-reactive") => Source::Reactive,
                _ => Source::Origin,
            };
            Ok((vec![(id, digest(rows))], source))
        }
    }
}

/// An LSN from its form `X/Y`.
pub(crate) fn parse_lsn(text: &str) -> Result<u64> {
    let (high, low) = text.split_once('/').with_context(|| format!("{text:?} is not an LSN"))?;
    Ok(u64::from(u32::from_str_radix(high, 16)?) << 32 | u64::from(u32::from_str_radix(low, 16)?))
}
