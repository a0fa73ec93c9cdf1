//! What writers pay: pgbench with 50 shards and one edge that follows, against without the extension.

use anyhow::{Context, Result, ensure};
use foreshard_tests::{Cluster, ClusterOptions, Server, Sidecar};

use crate::results::Comparison;

const SECONDS: &str = "8";

/// Both clusters exist all the time and are measured in turn; both write the log that logical decoding needs.
pub(crate) async fn run(server: &Server, rounds: usize) -> Result<Comparison> {
    let (with, without) = (cluster(server).await?, cluster(server).await?);
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
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let pair = (pgbench(&with)?, pgbench(&without)?);
        // The first round warms up.
        if round > 0 {
            ours.push(pair.0);
            peer.push(pair.1);
        }
    }
    Comparison::of(
        "write_tps_with_vs_without",
        "transactions/s of pgbench (TPC-B-like, 8 clients, fsync on) with 50 shards and one edge attached, which runs on the same machine".into(),
        "higher",
        &mut ours,
        "without the extension",
        &mut peer,
    )
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
    let output = command.args(["-n", "-c", "8", "-j", "2", "-T", SECONDS]).output().context("pgbench")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rate = text.split("tps =").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    rate.with_context(|| format!("no rate: {text}{}", String::from_utf8_lossy(&output.stderr)))
}
