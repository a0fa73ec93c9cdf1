//! How long after a commit an edge can answer with it, against PostgreSQL's own logical client.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use foreshard_tests::{Cluster, HttpClient, Sidecar};
use tokio_postgres::Client;

use crate::parked::Asker;
use crate::results::{Comparison, median};

const COMMITS: usize = 1_000;
/// The two sides take turns after so many commits: a disk that is slow for a while is slow for both.
const TURN: usize = 50;
/// The first commits of a turn find everything asleep, and are not counted.
const WARM_UP: usize = 5;

/// Each side follows a cluster of its own. The clock starts when COMMIT is sent. Ours stops when a request that
/// asked for a position inside that commit is answered (from a shard the commit does not touch, so that only the stream
/// is waited for); the peer's stops when `pg_recvlogical` has written the commit to its pipe.
pub(crate) async fn run(ours: &Cluster, peer: &Cluster, rounds: usize) -> Result<[Comparison; 2]> {
    let mut edge = Edge::start(ours).await?;
    let mut subscriber = Subscriber::start(peer).await?;
    let (mut ours, mut peer) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for _ in 0..rounds {
        let (mut one, mut other) = (Vec::new(), Vec::new());
        while one.len() < COMMITS {
            one.append(&mut edge.turn().await?);
            other.append(&mut subscriber.turn().await?);
        }
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

/// The table that is written.
async fn table(cluster: &Cluster) -> Result<Client> {
    let db = cluster.connect().await?;
    db.batch_execute(
        "CREATE TABLE busy (id int PRIMARY KEY, v int NOT NULL);
         INSERT INTO busy SELECT i, 0 FROM generate_series(1, 1000) i",
    )
    .await?;
    Ok(db)
}

/// Writes, and returns a position that only the commit will pass, and the transaction's id.
async fn write(db: &Client, i: usize) -> Result<(String, String)> {
    db.batch_execute("BEGIN").await?;
    db.execute("UPDATE busy SET v = v + 1 WHERE id = $1", &[&(i as i32 % 1000 + 1)]).await?;
    let query = "SELECT (pg_current_wal_insert_lsn() + 1)::text, pg_current_xact_id()::text";
    let row = db.query_one(query, &[]).await?;
    Ok((row.get(0), row.get(1)))
}

struct Edge {
    db: Client,
    sidecar: Sidecar,
    asker: Asker,
    written: usize,
}

impl Edge {
    async fn start(cluster: &Cluster) -> Result<Self> {
        let db = table(cluster).await?;
        db.batch_execute(
            "CREATE TABLE calm (id int PRIMARY KEY);
             INSERT INTO calm VALUES (1);
             SELECT foreshard.create_shard('busy', 'busy', key => '{id}');
             SELECT foreshard.create_shard('calm', 'calm');
             SELECT foreshard.map_function('f', '{busy,calm}');",
        )
        .await?;
        let sidecar = Sidecar::start(&cluster.create_edge("bench").await?).await?;
        let asker = Asker::connect(sidecar.http.endpoint())?;
        Ok(Edge { db, sidecar, asker, written: 0 })
    }

    /// Microseconds of each commit that counts.
    async fn turn(&mut self) -> Result<Vec<f64>> {
        let path = "/v1/functions/f/shards/calm/rows";
        let mut took = Vec::with_capacity(TURN);
        let http: &HttpClient = &self.sidecar.http;
        for i in 0.. {
            ensure!(i < TURN * 3, "something else writes all the time");
            if took.len() == TURN {
                break;
            }
            ensure!(http.get(path).await?.status == 200, "the shard is not served");
            self.written += 1;
            let (inside, _) = write(&self.db, self.written).await?;
            // The request is parked at the sidecar before the commit is sent.
            let parked = tokio::task::block_in_place(|| self.asker.ask(path, &inside))?;
            let sent = Instant::now();
            self.db.batch_execute("COMMIT").await?;
            // Otherwise something else has written to the log, a checkpoint for instance: it was not the commit that was waited for.
            if parked {
                let answered = tokio::task::block_in_place(|| self.asker.answered())?;
                if i >= WARM_UP {
                    took.push(answered.duration_since(sent).as_secs_f64() * 1e6);
                }
            }
        }
        Ok(took)
    }
}

struct Subscriber {
    db: Client,
    process: Child,
    lines: Receiver<(String, Instant)>,
    written: usize,
}

impl Subscriber {
    async fn start(cluster: &Cluster) -> Result<Self> {
        let db = table(cluster).await?;
        db.execute("SELECT pg_create_logical_replication_slot('peer', 'test_decoding')", &[]).await?;
        let mut command = cluster.client_program("pg_recvlogical");
        command.args(["--dbname", "postgres", "--slot", "peer", "--start", "--no-loop", "--file", "-"]);
        command.args(["--status-interval", "1"]);
        let mut process = command.stdout(Stdio::piped()).spawn().context("starting pg_recvlogical")?;
        let lines = arrivals(process.stdout.take().context("no pipe from pg_recvlogical")?);
        Ok(Subscriber { db, process, lines, written: 0 })
    }

    /// Microseconds of each commit that counts.
    async fn turn(&mut self) -> Result<Vec<f64>> {
        let mut took = Vec::with_capacity(TURN);
        for i in 0..TURN + WARM_UP {
            self.written += 1;
            let (_, xid) = write(&self.db, self.written).await?;
            tokio::time::sleep(Duration::from_millis(3)).await;
            let sent = Instant::now();
            self.db.batch_execute("COMMIT").await?;
            let wanted = format!("COMMIT {xid}");
            let arrived = tokio::task::block_in_place(|| arrival_of(&self.lines, &wanted))?;
            if i >= WARM_UP {
                took.push(arrived.duration_since(sent).as_secs_f64() * 1e6);
            }
        }
        Ok(took)
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// When the line came.
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
