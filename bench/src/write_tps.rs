//! What writers pay: pgbench with 50 shards and one edge that follows, against without the extension and against a publication
//! of PostgreSQL's own that is followed.

use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use foreshard_tests::{Cluster, ClusterOptions, Server, Sidecar};

use crate::results::Comparison;

/// Of one turn. What a disk does differs more from second to second than what is compared, so many short turns tell more than few
/// long ones.
const SECONDS: &str = "4";
/// In each round.
const TURNS: usize = 3;
/// pgbench's own default. It leaves a core of two to the server's other processes, as a server that is not overloaded does.
const ONE: &str = "1";
/// They leave no core idle, so that whatever else runs on the machine takes its time from them.
const MANY: &str = "8";

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
    let mut comparisons = Vec::new();
    for (clients, without_it, against_publication) in [
        (ONE, "write_tps_with_vs_without", "write_tps_vs_pgoutput"),
        (MANY, "write_tps_saturated_with_vs_without", "write_tps_saturated_vs_pgoutput"),
    ] {
        let (mut ours, mut peer, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
        for turn in 0..=rounds * TURNS {
            let rates =
                (pgbench(&with, clients)?, pgbench(&without, clients)?, pgbench(&published, clients)?);
            // The first turn warms up.
            if turn > 0 {
                ours.push(rates.0);
                peer.push(rates.1);
                theirs.push(rates.2);
            }
        }
        let setting = format!(
            "transactions/s of pgbench (TPC-B-like, clients: {clients}, fsync on) with 50 shards and one edge attached, which runs on the same machine"
        );
        let publication = "a publication of the same tables, followed by pg_recvlogical";
        let mut compare = |id, peer_name, peer: &mut [f64]| {
            Comparison::of(id, setting.clone(), "higher", &mut ours, peer_name, peer)
        };
        comparisons.push(compare(without_it, "without the extension", &mut peer)?);
        comparisons.push(compare(against_publication, publication, &mut theirs)?);
    }
    Ok(comparisons)
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

fn pgbench(cluster: &Cluster, clients: &str) -> Result<f64> {
    let mut command = cluster.client_program("pgbench");
    let threads = if clients == ONE { "1" } else { "2" };
    let output =
        command.args(["-n", "-c", clients, "-j", threads, "-T", SECONDS]).output().context("pgbench")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rate = text.split("tps =").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    rate.with_context(|| format!("no rate: {text}{}", String::from_utf8_lossy(&output.stderr)))
}
