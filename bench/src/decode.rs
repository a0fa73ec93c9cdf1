//! What decoding costs: the plugin and its peers over the same log, inside a backend of their own, so that nothing is measured but
//! reading the log, deciding and writing messages.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use foreshard_tests::{Cluster, ClusterOptions, Server};
use tokio_postgres::Client;

use crate::cpu::seconds_of;
use crate::results::{Comparison, median};

const ROWS: usize = 10_000;
const PASSES: usize = 30;
const CHANGES: f64 = (ROWS * PASSES) as f64;
const ROWS_PER_TRANSACTION: usize = 10;

/// 20 columns, some 390 bytes. The replica identity holds what shards are told apart by, as `health()` recommends, and as a row filter of a
/// publication demands.
const TABLE: &str = "
    CREATE TABLE wide (id int PRIMARY KEY, region int NOT NULL, bucket int NOT NULL, few int NOT NULL, many int NOT NULL,
        a int, b bigint, c numeric, d timestamptz, e date, f boolean, g text, h text, i text, j text, k uuid, l float8, m int, n int, o text);
    INSERT INTO wide SELECT g, g % 100, (g * 7919::bigint) % 10000, (g * 31) % 50, (g * 17) % 5000, g, g, g / 7.0, now(), now()::date, g % 2 = 0,
        md5(g::text), md5('h' || g), md5('i' || g), repeat('x', 40), gen_random_uuid(), g / 3.0, g, g, repeat('y', 60)
        FROM generate_series(0, 9999) g;
    CREATE UNIQUE INDEX wide_identity ON wide (region, bucket, few, many, id);
    ALTER TABLE wide REPLICA IDENTITY USING INDEX wide_identity;
    CREATE PUBLICATION one_region FOR TABLE wide WHERE (region = 7);
    CREATE PROCEDURE churn(passes int, size int) LANGUAGE plpgsql AS $$
    BEGIN
        FOR pass IN 1..passes LOOP
            FOR low IN 0..9999 BY size LOOP
                UPDATE wide SET a = a + 1, g = md5(pass::text), d = now() WHERE id >= low AND id < low + size;
                COMMIT;
            END LOOP;
        END LOOP;
    END $$";

const PGOUTPUT: Decoder = Decoder {
    plugin: "pgoutput",
    call: "binary_changes",
    options: "'proto_version', '2', 'publication_names', 'one_region'",
};
const WAL2JSON: Decoder = Decoder { plugin: "wal2json", call: "changes", options: "'format-version', '2'" };
const OURS: Decoder = Decoder {
    plugin: "foreshard",
    call: "binary_changes",
    options: "'edge', 'bench', 'protocol', '2', 'deltas', 'on'",
};

#[derive(Clone, Copy)]
struct Decoder {
    plugin: &'static str,
    call: &'static str,
    options: &'static str,
}

/// One series of measurements.
#[derive(Default)]
struct Series {
    wall: Vec<f64>,
    cpu: Vec<f64>,
}

impl Series {
    fn rate(&self) -> Vec<f64> {
        self.wall.iter().map(|seconds| CHANGES / seconds).collect()
    }

    fn cpu(&self) -> Result<f64> {
        median(&mut self.cpu.clone())
    }
}

pub(crate) async fn run(server: &Server, rounds: usize) -> Result<Vec<Comparison>> {
    let options = ClusterOptions {
        output_plugins: Some("foreshard, pgoutput, wal2json".to_owned()),
        ..ClusterOptions::on(server.clone())
    };
    // No checkpoint in between, and room for the log of a phase in memory.
    let cluster = options.setting("max_wal_size", "8GB").setting("shared_buffers", "512MB").start().await?;
    let db = cluster.connect().await?;
    db.batch_execute("CREATE EXTENSION foreshard; SELECT foreshard.create_edge('bench')").await?;
    db.batch_execute(TABLE).await?;

    let one_region = [("one", "region = 7".to_owned(), None)];
    let [few_rows, filtered] = phase(&cluster, &db, &one_region, [OURS, PGOUTPUT], rounds).await?;
    let [all_rows, json] =
        phase(&cluster, &db, &[("all", "true".to_owned(), None)], [OURS, WAL2JSON], rounds).await?;
    let hundred: Vec<(String, String)> =
        (0..100).map(|bucket| (format!("b{bucket}"), format!("bucket = {bucket}"))).collect();
    let hundred: Vec<_> =
        hundred.iter().map(|(name, predicate)| (name.as_str(), predicate.clone(), None)).collect();
    let [of_hundred] = phase(&cluster, &db, &hundred, [OURS], rounds).await?;
    let list: Vec<String> = (0..100).map(|bucket| bucket.to_string()).collect();
    let same_rows = [("b", format!("bucket IN ({})", list.join(", ")), None)];
    let [of_one] = phase(&cluster, &db, &same_rows, [OURS], rounds).await?;
    let [fifty] = phase(&cluster, &db, &[("k", "true".to_owned(), Some("few"))], [OURS], rounds).await?;
    let [thousands] = phase(&cluster, &db, &[("k", "true".to_owned(), Some("many"))], [OURS], rounds).await?;

    let rates = |id, what: &str, better: &'static str, ours: &Series, peer_name: &str, peer: &Series| {
        let what = format!(
            "{what}: row changes/s of {CHANGES} in transactions of {ROWS_PER_TRANSACTION}, 20 columns; CPU seconds {:.2} against {:.2}",
            ours.cpu()?,
            peer.cpu()?
        );
        Comparison::of(id, what, better, &mut ours.rate(), peer_name, &mut peer.rate())
    };
    let cost = |id, what: &str, ours: &Series, peer_name: &str, peer: &Series| {
        let what = format!(
            "{what}: seconds for {CHANGES} row changes; CPU seconds {:.2} against {:.2}, row changes/s {:.0} against {:.0}",
            ours.cpu()?,
            peer.cpu()?,
            median(&mut ours.rate())?,
            median(&mut peer.rate())?
        );
        Comparison::of(id, what, "lower", &mut ours.wall.clone(), peer_name, &mut peer.wall.clone())
    };
    Ok(vec![
        rates(
            "decode_1pct_vs_pgoutput_rowfilter",
            "one shard of 1 % of the rows, same log",
            "higher",
            &few_rows,
            "pgoutput with a row filter",
            &filtered,
        )?,
        rates(
            "decode_all_vs_wal2json",
            "every row told with all columns, same log",
            "higher",
            &all_rows,
            "wal2json",
            &json,
        )?,
        cost(
            "decode_100shards_vs_1shard",
            "100 shards on one table against one shard of the same rows",
            &of_hundred,
            "one shard",
            &of_one,
        )?,
        cost(
            "decode_5000keys_vs_50keys",
            "5,000 instances of a keyed shard hit against fifty, every row in one",
            &thousands,
            "fifty instances",
            &fifty,
        )?,
    ])
}

/// Defines shards, changes rows, and lets each decoder read the log of that, in turn.
async fn phase<const N: usize>(
    cluster: &Cluster,
    db: &Client,
    shards: &[(&str, String, Option<&str>)],
    decoders: [Decoder; N],
    rounds: usize,
) -> Result<[Series; N]> {
    for (name, predicate, key) in shards {
        let key = key.map_or("NULL".to_owned(), |key| format!("'{{{key}}}'"));
        let define = format!("SELECT foreshard.create_shard('{name}', 'wide', $${predicate}$$, {key})");
        db.batch_execute(&define).await?;
    }
    db.batch_execute("SELECT foreshard.map_function('f', array_agg(name)) FROM foreshard.shards").await?;
    for decoder in decoders {
        let create = "SELECT pg_create_logical_replication_slot($1, $2)";
        db.execute(create, &[&format!("bench_{}", decoder.plugin), &decoder.plugin])
            .await
            .with_context(|| format!("{} is needed: scripts/setup.sh bench installs it", decoder.plugin))?;
    }
    // A procedure that commits must be called outside of any transaction.
    db.batch_execute(&format!("CALL churn({PASSES}, {ROWS_PER_TRANSACTION})")).await?;
    db.batch_execute("CHECKPOINT").await?;
    let mut all: [Series; N] = std::array::from_fn(|_| Series::default());
    // The first round warms up.
    for round in 0..=rounds {
        for (decoder, series) in decoders.iter().zip(&mut all) {
            let reader = cluster.connect().await?;
            let pid: i32 = reader.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
            let query = format!(
                "SELECT count(*), sum(length(data)) FROM pg_logical_slot_peek_{}('bench_{}', NULL, NULL, {})",
                decoder.call, decoder.plugin, decoder.options
            );
            let (began, before) = (Instant::now(), seconds_of(pid.unsigned_abs())?);
            let messages: i64 = reader.query_one(&query, &[]).await?.get(0);
            let (wall, cpu) = (began.elapsed().as_secs_f64(), seconds_of(pid.unsigned_abs())? - before);
            ensure!(messages > 1_000, "{} told nothing: {messages} messages", decoder.plugin);
            if round > 0 {
                series.wall.push(wall);
                series.cpu.push(cpu);
            }
        }
    }
    for decoder in decoders {
        db.execute("SELECT pg_drop_replication_slot($1)", &[&format!("bench_{}", decoder.plugin)]).await?;
    }
    db.batch_execute("SELECT foreshard.drop_shard(name) FROM foreshard.shards").await?;
    Ok(all)
}
