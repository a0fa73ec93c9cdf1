//! `make bench`: foreshard beside its peers, both sides in one run on one machine, medians and ratios.

mod apply_rate;
mod bare_http;
mod commit_to_applied;
mod cpu;
mod decode;
mod fetch_cpu;
mod flights;
mod hit_rps;
mod load;
mod parked;
mod recovery;
mod results;
mod write_tps;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use foreshard_tests::{Cluster, ClusterOptions, Server};

use results::Results;

/// Runs the benchmarks and writes target/bench/results.json.
#[derive(Parser)]
struct Args {
    /// The PostgreSQL to run on.
    #[arg(long, default_value = "/usr/bin/pg_config")]
    pg_config: PathBuf,
    /// Where the results go.
    #[arg(long, default_value = "target/bench/results.json")]
    out: PathBuf,
    /// Repetitions of each comparison; the medians count.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only benchmarks whose id contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Instead of benchmarks: an HTTP server that gives one answer of so many bytes.
    #[arg(long, hide = true)]
    bare_http: Option<usize>,
    /// Instead of benchmarks: asks an endpoint for a path whose `{}` is one of so many keys, on so many connections, for so many
    /// seconds.
    #[arg(long, hide = true, num_args = 5, value_names = ["ENDPOINT", "PATH", "KEYS", "CONNECTIONS", "SECONDS"])]
    load: Option<Vec<String>>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(size) = args.bare_http {
        return bare_http::serve(size).await;
    }
    if let Some([endpoint, path, keys, connections, seconds]) = args.load.as_deref() {
        let asked = load::Asked { endpoint, path, keys: keys.parse()?, connections: connections.parse()? };
        return load::generate(&asked, Duration::from_secs(seconds.parse()?));
    }
    let server = Server::prepared(&args.pg_config)?;
    let mut results = Results::default();
    let hits = "hit_rps_vs_pg_select hit_rps_1000keys_vs_same_rows hit_rps_tcp_vs_pg_select hit_rps_tcp_vs_bare_hyper";
    if hits.contains(&args.only) {
        for comparison in hit_rps::run(&cluster(&server).await?, args.rounds).await? {
            results.add(comparison);
        }
    }
    if "commit_to_applied_vs_pg_recvlogical commit_to_applied_p99_vs_pg_recvlogical".contains(&args.only) {
        let (ours, peer) = (cluster(&server).await?, cluster(&server).await?);
        for comparison in commit_to_applied::run(&ours, &peer, args.rounds).await? {
            results.add(comparison);
        }
    }
    if "apply_rate_vs_decode_rate".contains(&args.only) {
        results.add(apply_rate::run(&server, args.rounds).await?);
    }
    if "recovery_warm_vs_cold".contains(&args.only) {
        results.add(recovery::run(&server, args.rounds).await?);
    }
    let decode = "decode_1pct_vs_pgoutput_rowfilter decode_all_vs_wal2json decode_100shards_vs_1shard decode_5000keys_vs_50keys";
    if decode.contains(&args.only) {
        for comparison in decode::run(&server, args.rounds).await? {
            results.add(comparison);
        }
    }
    if "fetch_cpu_vs_row_to_json".contains(&args.only) {
        results.add(fetch_cpu::run(&cluster(&server).await?, args.rounds).await?);
    }
    let writes = "write_tps_with_vs_without write_tps_vs_pgoutput write_tps_saturated_with_vs_without write_tps_saturated_vs_pgoutput";
    if writes.contains(&args.only) {
        for comparison in write_tps::run(&server, args.rounds).await? {
            results.add(comparison);
        }
    }
    if flights::MEASURES.contains(&args.only) {
        for comparison in flights::run(&args.pg_config)? {
            results.add(comparison);
        }
    }
    results.write(&args.out)?;
    results.print();
    Ok(())
}

/// A fresh cluster with the extension, as an administrator would set it up (commits are flushed for real).
async fn cluster(server: &Server) -> Result<Cluster> {
    let options =
        ClusterOptions { fsync: true, ..ClusterOptions::on(server.clone()) }.setting("shared_buffers", "1GB");
    let cluster = options.start().await?;
    cluster.connect().await?.batch_execute("CREATE EXTENSION foreshard").await?;
    Ok(cluster)
}
