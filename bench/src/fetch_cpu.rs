//! What a fetched row costs the origin, against the same row as JSON.

use std::pin::pin;
use std::time::Instant;

use anyhow::{Result, ensure};
use foreshard_tests::Cluster;
use futures_util::TryStreamExt;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use crate::cpu::seconds_of;
use crate::results::{Comparison, median};

const ROWS: f64 = 100_000.0;
const REPEATS: usize = 5;

pub(crate) async fn run(cluster: &Cluster, rounds: usize) -> Result<Comparison> {
    let db = cluster.connect().await?;
    db.batch_execute(
        "CREATE TABLE wide (id int PRIMARY KEY, a int, b bigint, c numeric, d timestamptz, e date, f boolean, g text, h text, i text,
             j text, k uuid, l float8, m int, n int, o text, p int, q int, r text, s text);
         INSERT INTO wide SELECT g, g, g, g / 7.0, now(), now()::date, g % 2 = 0, md5(g::text), md5('h' || g), md5('i' || g),
             repeat('x', 40), gen_random_uuid(), g / 3.0, g, g, repeat('y', 60), g, g, 'short', 'text'
             FROM generate_series(1, 100000) g;
         SELECT foreshard.create_shard('wide', 'wide'); SELECT foreshard.map_function('f', '{wide}');
         SELECT foreshard.create_edge('bench')",
    )
    .await?;
    db.batch_execute("VACUUM ANALYZE wide").await?;
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    let (mut our_wall, mut peer_wall) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let ask: [&(dyn ToSql + Sync); 2] = [&"bench", &["wide"].as_slice()];
        let fetch = cost(&db, "SELECT part FROM foreshard.fetch($1, $2) AS part", &ask).await?;
        let json = cost(&db, "SELECT row_to_json(w)::text FROM wide w ORDER BY id", &[]).await?;
        // The first round warms up.
        if round > 0 {
            ours.push(fetch.0 / ROWS * 1e6);
            peer.push(json.0 / ROWS * 1e6);
            our_wall.push(ROWS / fetch.1);
            peer_wall.push(ROWS / json.1);
        }
    }
    let what = format!(
        "microseconds of the origin's CPU per row of 20 columns that is sent; rows/s {:.0} against {:.0}",
        median(&mut our_wall)?,
        median(&mut peer_wall)?
    );
    Comparison::of("fetch_cpu_vs_row_to_json", what, "lower", &mut ours, "row_to_json", &mut peer)
}

/// CPU and wall seconds of one run of a query whose rows are received.
async fn cost(db: &Client, query: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<(f64, f64)> {
    let pid: i32 = db.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    let (began, before) = (Instant::now(), seconds_of(pid.unsigned_abs())?);
    for _ in 0..REPEATS {
        let rows = db.query_raw(query, parameters.iter().copied()).await?;
        let mut rows = pin!(rows);
        let mut received = 0;
        while rows.try_next().await?.is_some() {
            received += 1;
        }
        ensure!(received > 100, "{received} rows from {query}");
    }
    let repeats = REPEATS as f64;
    Ok(((seconds_of(pid.unsigned_abs())? - before) / repeats, began.elapsed().as_secs_f64() / repeats))
}
