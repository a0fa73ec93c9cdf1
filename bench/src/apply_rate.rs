//! Whether the sidecar keeps up with the walsender: what each of the two computes per row change, over the same backlog.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use foreshard_tests::{ClusterOptions, Server, Sidecar, eventually};
use rustix::process::Signal;
use tokio_postgres::Client;

use crate::cpu::seconds_of;
use crate::results::{Comparison, median};

const ROWS: usize = 10_000;
const PASSES: usize = 10;
const ROWS_PER_TRANSACTION: usize = 10;
const CHANGES: f64 = (ROWS * PASSES) as f64;
const INSTANCES: usize = 50;
const SOON: Duration = Duration::from_secs(120);

const SCHEMA: &str = "
    CREATE TABLE busy (id int PRIMARY KEY, owner int NOT NULL, a int, b bigint, c numeric, d timestamptz, e boolean, f text, g text, h text);
    INSERT INTO busy SELECT g, g % 50, g, g, g / 7.0, now(), g % 2 = 0, md5(g::text), repeat('x', 40), repeat('y', 60)
        FROM generate_series(0, 9999) g;
    CREATE UNIQUE INDEX busy_identity ON busy (owner, id);
    ALTER TABLE busy REPLICA IDENTITY USING INDEX busy_identity;
    SELECT foreshard.create_shard('busy', 'busy', key => '{owner}');
    SELECT foreshard.map_function('f', '{busy}');
    CREATE TABLE quiet (at int);
    CREATE PROCEDURE churn(passes int, size int) LANGUAGE plpgsql AS $$
    BEGIN
        FOR pass IN 1..passes LOOP
            FOR low IN 0..9999 BY size LOOP
                UPDATE busy SET a = a + 1, f = md5(pass::text), d = now() WHERE id >= low AND id < low + size;
                COMMIT;
            END LOOP;
        END LOOP;
    END $$";

/// A sidecar that holds every instance of the table is cut off while rows change, and then catches up. Each change is applied
/// to a copy: nothing is fetched again.
pub(crate) async fn run(server: &Server, rounds: usize) -> Result<Comparison> {
    let options = ClusterOptions::on(server.clone()).setting("max_wal_size", "8GB");
    let cluster = options.setting("shared_buffers", "256MB").start().await?;
    let db = cluster.connect().await?;
    db.batch_execute("CREATE EXTENSION foreshard").await?;
    db.batch_execute(SCHEMA).await?;
    let login = cluster.create_edge("bench").await?;
    let mut sidecar = Sidecar::start(&login).await?;
    let (mut ours, mut peer, mut wall) = (Vec::new(), Vec::new(), Vec::new());
    // The first round warms up.
    for round in 0..=rounds {
        for owner in 0..INSTANCES {
            let query = format!("owner=eq.{owner}&limit=1");
            ensure!(sidecar.http.rows("f", "busy", &query, &[]).await?.status == 200, "not served");
        }
        // A copy that is ahead of the stream does not outlive the connection.
        db.batch_execute("INSERT INTO quiet VALUES (1)").await?;
        let written = token(&db).await?;
        passed(&sidecar, written).await?;
        let applied = sidecar.metric("foreshard_deltas_applied_total").await?;
        let (apply, decode, took) = catch_up(&db, &mut sidecar).await?;
        let applied = sidecar.metric("foreshard_deltas_applied_total").await? - applied;
        ensure!(
            applied >= CHANGES / ROWS_PER_TRANSACTION as f64,
            "only {applied} changes were applied in place"
        );
        if round > 0 {
            ours.push(CHANGES / apply);
            peer.push(CHANGES / decode);
            wall.push(CHANGES / took);
        }
    }
    let what = format!(
        "row changes per second of CPU ({CHANGES} in transactions of {ROWS_PER_TRANSACTION}, 10 columns, {INSTANCES} copies kept current in place), against the walsender that decodes and sends them; together {:.0} changes/s on the clock",
        median(&mut wall)?
    );
    Comparison::of(
        "apply_rate_vs_decode_rate",
        what,
        "higher",
        &mut ours,
        "walsender with the plugin",
        &mut peer,
    )
}

/// Seconds of CPU of the sidecar and of its walsender for one backlog, and seconds on the clock.
async fn catch_up(db: &Client, sidecar: &mut Sidecar) -> Result<(f64, f64, f64)> {
    sidecar.process().signal(Signal::STOP)?;
    let end = "SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots WHERE active";
    db.batch_execute(end).await?;
    db.batch_execute(&format!("CALL churn({PASSES}, {ROWS_PER_TRANSACTION})")).await?;
    let written = token(db).await?;
    let process = sidecar.process().id();
    let (before, began) = (seconds_of(process)?, Instant::now());
    sidecar.process().signal(Signal::CONT)?;
    passed(sidecar, written).await?;
    let (apply, took) = (seconds_of(process)? - before, began.elapsed().as_secs_f64());
    let walsender = db.query_opt("SELECT active_pid FROM pg_replication_slots WHERE active", &[]).await?;
    let walsender: i32 = walsender.context("the stream is not connected")?.get(0);
    Ok((apply, seconds_of(walsender.unsigned_abs())?, took))
}

/// Where the log of the origin is.
async fn token(db: &Client) -> Result<f64> {
    Ok(db.query_one("SELECT (foreshard.commit_token() - '0/0')::float8", &[]).await?.get(0))
}

/// Waits until the sidecar has applied what was written before.
async fn passed(sidecar: &Sidecar, token: f64) -> Result<()> {
    eventually("the sidecar has caught up", SOON, || async {
        Ok((sidecar.metric("foreshard_applied_lsn").await? > token).then_some(()))
    })
    .await
}
