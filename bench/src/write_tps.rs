//! What writers pay: pgbench with 50 shards and one edge that follows, against without the extension and against a publication
//! of PostgreSQL's own that is followed.

use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use foreshard_tests::{Cluster, ClusterOptions, Server, Sidecar};

use crate::results::Comparison;

const SECONDS: &str = "8";
/// Clients: they leave no core idle, so whatever else runs on the machine takes its time from them.
const CLIENTS: &str = "8";

/// All clusters exist all the time and are measured in turn; all write the log that logical decoding needs.
pub(crate) async fn run(server: &Server, rounds: usize) -> Result<Vec<Comparison>> {
    let (with, without, published) = (cluster(server).await?, cluster(server).await?, cluster(server).await?);
    let db = with.connect().await?;
    db.batch_execute(
        "CREATE EXTENSION foreshard;
         SELECT foreshard.create_shard('b' || g, 'pgbench_branches', 'bid = ' || g) FROM generate_series(1, 10) g;
         SELECT foreshard.create_shard('t' || g, 'pgbench_tellers', 'tid = ' || g) FROM generate_series(1, 20) g;
         SELECT foreshard.create_shard('a' || g, 'pgbench_accounts', 'aid = ' || g) FROM generate_series(1, 19) g;
         SELECT foreshard.create_shard('account', 'pgbench_accounts', key => '{aid}');
         SELECT foreshard.map_function('f', array_agg(name)) FROM foreshard.shards",
    )
    .await?;
    let _edge = Sidecar::start(&with.create_edge("bench").await?).await?;
    let _subscriber = Subscriber::start(&published).await?;
    let (mut ours, mut peer, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        let rates = (pgbench(&with)?, pgbench(&without)?, pgbench(&published)?);
        // The first round warms up.
        if round > 0 {
            ours.push(rates.0);
            peer.push(rates.1);
            theirs.push(rates.2);
        }
    }
    let setting = format!(
        "transactions/s of pgbench (TPC-B-like, {CLIENTS} clients, fsync on) with 50 shards and one edge attached, which runs on the same machine"
    );
    Ok(vec![
        Comparison::of(
            "write_tps_with_vs_without",
            setting.clone(),
            "higher",
            &mut ours.clone(),
            "without the extension",
            &mut peer,
        )?,
        Comparison::of(
            "write_tps_vs_pgoutput",
            setting,
            "higher",
            &mut ours,
            "a publication of the same tables, followed by pg_recvlogical",
            &mut theirs,
        )?,
    ])
}

/// Follows a publication of the tables that the shards are on, as cheaply as PostgreSQL's own tools can.
struct Subscriber(Child);

impl Subscriber {
    async fn start(cluster: &Cluster) -> Result<Self> {
        let db = cluster.connect().await?;
        db.batch_execute(
            "CREATE PUBLICATION written FOR TABLE pgbench_accounts, pgbench_tellers, pgbench_branches",
        )
        .await?;
        // Not together: a transaction that has written can't make a slot.
        db.execute("SELECT pg_create_logical_replication_slot('written', 'pgoutput')", &[]).await?;
        let mut command = cluster.client_program("pg_recvlogical");
        command.args(["--slot=written", "--start", "--dbname=postgres", "--file=/dev/null"]);
        command.args(["-o", "proto_version=2", "-o", "publication_names=written"]);
        Ok(Subscriber(command.stdout(Stdio::null()).spawn().context("starting pg_recvlogical")?))
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

async fn cluster(server: &Server) -> Result<Cluster> {
    let options = ClusterOptions { fsync: true, ..ClusterOptions::on(server.clone()) };
    let cluster = options.setting("max_wal_size", "4GB").start().await?;
    let output = cluster.client_program("pgbench").args(["-i", "-q", "-s", "10"]).output()?;
    ensure!(output.status.success(), "pgbench -i: {}", String::from_utf8_lossy(&output.stderr));
    Ok(cluster)
}

fn pgbench(cluster: &Cluster) -> Result<f64> {
    let mut command = cluster.client_program("pgbench");
    let output = command.args(["-n", "-c", CLIENTS, "-j", "2", "-T", SECONDS]).output().context("pgbench")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rate = text.split("tps =").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    rate.with_context(|| format!("no rate: {text}{}", String::from_utf8_lossy(&output.stderr)))
}
