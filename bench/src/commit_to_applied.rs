//! How long after a commit an edge can answer with it, against PostgreSQL's own logical client.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use foreshard_tests::{Cluster, HttpClient, Sidecar};
use tokio_postgres::Client;

use crate::parked::Asker;
use crate::results::{Comparison, median};

const COMMITS: usize = 1_000;

/// Both sides follow the same commits of one table. The clock starts when COMMIT is sent. Ours stops when a request that
/// asked for a position inside that commit is answered (from a shard the commit does not touch, so that only the stream
/// is waited for); the peer's stops when `pg_recvlogical` has written the commit to its pipe.
pub(crate) async fn run(cluster: &Cluster, rounds: usize) -> Result<[Comparison; 2]> {
    let db = cluster.connect().await?;
    db.batch_execute(
        "CREATE TABLE busy (id int PRIMARY KEY, v int NOT NULL);
         INSERT INTO busy SELECT i, 0 FROM generate_series(1, 1000) i;
         CREATE TABLE calm (id int PRIMARY KEY);
         INSERT INTO calm VALUES (1);
         SELECT foreshard.create_shard('busy', 'busy', key => '{id}');
         SELECT foreshard.create_shard('calm', 'calm');
         SELECT foreshard.map_function('f', '{busy,calm}');",
    )
    .await?;
    let login = cluster.create_edge("bench").await?;
    let sidecar = Sidecar::start(&login).await?;
    let (mut ours, mut peer) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for _ in 0..rounds {
        let one = through_sidecar(&db, &sidecar.http).await?;
        let other = through_pg_recvlogical(cluster, &db).await?;
        for (series, mut took) in [(&mut ours, one), (&mut peer, other)] {
            series[0].push(median(&mut took)?);
            // Sorted by now.
            series[1].push(took[took.len() * 99 / 100]);
        }
    }
    let what = |percentile: &str| {
        format!(
            "microseconds from sending COMMIT until it can be read at the edge over HTTP ({percentile} of {COMMITS}, loopback, fsync on), against arrival at pg_recvlogical with test_decoding"
        )
    };
    let compare = |id, percentile, ours: &mut [f64], peer: &mut [f64]| {
        Comparison::of(id, what(percentile), "lower", ours, "pg_recvlogical", peer)
    };
    let [ours_p50, ours_p99] = &mut ours;
    let [peer_p50, peer_p99] = &mut peer;
    Ok([
        compare("commit_to_applied_vs_pg_recvlogical", "p50", ours_p50, peer_p50)?,
        compare("commit_to_applied_p99_vs_pg_recvlogical", "p99", ours_p99, peer_p99)?,
    ])
}

/// Writes, and returns a position that only the commit will pass, and the transaction's id.
async fn write(db: &Client, i: usize) -> Result<(String, String)> {
    db.batch_execute("BEGIN").await?;
    db.execute("UPDATE busy SET v = v + 1 WHERE id = $1", &[&(i as i32 % 1000 + 1)]).await?;
    let query = "SELECT (pg_current_wal_insert_lsn() + 1)::text, pg_current_xact_id()::text";
    let row = db.query_one(query, &[]).await?;
    Ok((row.get(0), row.get(1)))
}

async fn through_sidecar(db: &Client, http: &HttpClient) -> Result<Vec<f64>> {
    let path = "/v1/functions/f/shards/calm/rows";
    let mut asker = Asker::connect(http.endpoint())?;
    let mut took = Vec::with_capacity(COMMITS);
    for i in 0.. {
        ensure!(i < COMMITS * 2, "something else writes all the time");
        if took.len() == COMMITS {
            break;
        }
        ensure!(http.get(path).await?.status == 200, "the shard is not served");
        let (inside, _) = write(db, i).await?;
        // The request is parked at the sidecar before the commit is sent.
        let parked = tokio::task::block_in_place(|| asker.ask(path, &inside))?;
        let sent = Instant::now();
        db.batch_execute("COMMIT").await?;
        // Otherwise something else has written to the log, a checkpoint for instance: it was not the commit that was waited for.
        if parked {
            let answered = tokio::task::block_in_place(|| asker.answered())?;
            took.push(answered.duration_since(sent).as_secs_f64() * 1e6);
        }
    }
    Ok(took)
}

async fn through_pg_recvlogical(cluster: &Cluster, db: &Client) -> Result<Vec<f64>> {
    db.execute("SELECT pg_create_logical_replication_slot('peer', 'test_decoding')", &[]).await?;
    let mut command = cluster.client_program("pg_recvlogical");
    command.args([
        "--dbname",
        "postgres",
        "--slot",
        "peer",
        "--start",
        "--no-loop",
        "--file",
        "-",
        "--status-interval",
        "1",
    ]);
    let mut child = command.stdout(Stdio::piped()).spawn().context("starting pg_recvlogical")?;
    let lines = arrivals(child.stdout.take().context("no pipe from pg_recvlogical")?);
    let mut took = Vec::with_capacity(COMMITS);
    // The first commits wait for the connection; they are not counted.
    for i in 0..COMMITS + 5 {
        let (_, xid) = write(db, i).await?;
        tokio::time::sleep(Duration::from_millis(3)).await;
        let sent = Instant::now();
        db.batch_execute("COMMIT").await?;
        let arrived = tokio::task::block_in_place(|| arrival_of(&lines, &format!("COMMIT {xid}")))?;
        if i >= 5 {
            took.push(arrived.duration_since(sent).as_secs_f64() * 1e6);
        }
    }
    child.kill()?;
    child.wait()?;
    foreshard_tests::eventually("the peer's slot is free", Duration::from_secs(10), || async {
        let free =
            db.query_one("SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'peer'", &[]).await?;
        Ok(free.get::<_, bool>(0).then_some(()))
    })
    .await?;
    db.execute("SELECT pg_drop_replication_slot('peer')", &[]).await?;
    Ok(took)
}

/// When the line came; others commit too (the sidecar logs what it served).
fn arrival_of(lines: &Receiver<(String, Instant)>, wanted: &str) -> Result<Instant> {
    loop {
        let (line, at) = lines
            .recv_timeout(Duration::from_secs(10))
            .context("pg_recvlogical did not deliver the commit")?;
        if line == wanted {
            return Ok(at);
        }
    }
}

/// Commit lines with the moment at which they came through the pipe.
fn arrivals(pipe: impl std::io::Read + Send + 'static) -> Receiver<(String, Instant)> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if line.starts_with("COMMIT") && sender.send((line, Instant::now())).is_err() {
                return;
            }
        }
    });
    receiver
}
