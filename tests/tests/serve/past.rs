//! The past of the stream is lost in every way that a PostgreSQL can lose it: no old copy is served, it is said why, and the
//! edge heals by itself once it can.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foreshard_tests::{ClusterOptions, Sidecar, SidecarOptions, StopMode, eventually};
use rustix::process::Signal;
use serde_json::json;

use crate::shop::Shop;

const SOON: Duration = Duration::from_secs(60);

/// What the edge says of one row, at or after the newest commit.
async fn quantity(shop: &Shop, edge: &Sidecar) -> Result<serde_json::Value> {
    let db = shop.origin.connect().await?;
    let token: String = db.query_one("SELECT foreshard.commit_token()::text", &[]).await?.get(0);
    eventually("the edge answers", SOON, || async {
        let headers = [("Foreshard-Min-Lsn", token.as_str())];
        let answer = edge.http.rows("checkout", "cart", "customer_id=eq.1", &headers).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(Some(answer.json()?[0]["quantity"].clone()))
    })
    .await
}

async fn set_quantity(shop: &Shop, quantity: i32) -> Result<()> {
    let db = shop.origin.connect().await?;
    db.execute("UPDATE cart_line SET quantity = $1 WHERE customer_id = 1", &[&quantity]).await?;
    Ok(())
}

/// How often the past was lost for this reason.
async fn losses(edge: &Sidecar, reason: &str) -> Result<f64> {
    let text = edge.http.get("/metrics").await?.text();
    let name = format!("foreshard_pasts_lost_total{{reason=\"{reason}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    Ok(line.map_or(Ok(0.0), str::parse)?)
}

/// `/ready` says no, with these words.
async fn not_ready(edge: &Sidecar, words: &str) -> Result<()> {
    eventually(&format!("not ready: {words}"), SOON, || async {
        let ready = edge.http.get("/ready").await?;
        ensure!(ready.status == 503 && ready.text().contains(words), "{} {}", ready.status, ready.text());
        Ok(Some(()))
    })
    .await
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(copied.success(), "copying {}", from.display());
    Ok(())
}

fn impatient(shop: &Shop) -> SidecarOptions {
    SidecarOptions {
        environment: vec![("FORESHARD_MAX_STALENESS".into(), "1s".into())],
        ..SidecarOptions::of(&shop.login)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_the_origin_invalidated_is_made_anew() -> Result<()> {
    let options =
        ClusterOptions::new()?.setting("max_slot_wal_keep_size", "1MB").setting("min_wal_size", "32MB");
    let shop = Shop::open_on(options.setting("max_wal_size", "32MB").start().await?).await?;
    let mut edge = Sidecar::start(&shop.login).await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(1));
    // An edge that hangs, while the log grows beyond what may be kept for it.
    edge.process().signal(Signal::STOP)?;
    shop.db.batch_execute("CREATE TABLE noise (t text)").await?;
    let lost = "SELECT wal_status = 'lost' FROM pg_replication_slots";
    eventually("the slot is invalidated", SOON, || async {
        let noise = "INSERT INTO noise SELECT repeat('x', 800) FROM generate_series(1, 20000)";
        shop.db.batch_execute(noise).await?;
        shop.db.batch_execute("SELECT pg_switch_wal()").await?;
        shop.db.batch_execute("CHECKPOINT").await?;
        Ok(shop.db.query_one(lost, &[]).await?.get::<_, bool>(0).then_some(()))
    })
    .await?;
    set_quantity(&shop, 7).await?;
    edge.process().signal(Signal::CONT)?;
    assert_eq!(quantity(&shop, &edge).await?, json!(7));
    assert_eq!(losses(&edge, "invalidated").await?, 1.0);
    ensure!(edge.process().log_text().contains("max_slot_wal_keep_size"), "{}", edge.process().log_text());
    edge.wait_ready().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_restored_from_a_cold_backup_is_noticed() -> Result<()> {
    let mut shop = Shop::open().await?;
    let mut edge = impatient(&shop).start().await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(1));
    shop.origin.stop(StopMode::Fast).await?;
    let (data, backup) = (shop.origin.data_dir(), shop.origin.data_dir().with_extension("backup"));
    copy(&data, &backup)?;
    shop.origin.start_again().await?;
    set_quantity(&shop, 5).await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(5));
    shop.origin.stop(StopMode::Immediate).await?;
    std::fs::remove_dir_all(&data)?;
    std::fs::rename(&backup, &data)?;
    shop.origin.start_again().await?;
    // The slot is there, as it was; the cluster and its timeline are the same: only the log is shorter.
    eventually("it is noticed", SOON, || async {
        Ok((losses(&edge, "older_origin").await? > 0.0).then_some(()))
    })
    .await
    .with_context(|| edge.process().log_text())?;
    assert_eq!(quantity(&shop, &edge).await?, json!(1));
    let log = edge.process().log_text();
    ensure!(log.contains("an older state was restored"), "{log}");
    edge.wait_ready().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_that_lacks_the_newest_is_noticed() -> Result<()> {
    let mut shop = Shop::open().await?;
    let mut edge = impatient(&shop).start().await?;
    let (data, standby) = (shop.origin.data_dir(), shop.origin.data_dir().with_extension("standby"));
    let mut backup = Command::new(shop.origin.server().program("pg_basebackup"));
    let url = shop.origin.url();
    let made =
        backup.args(["--checkpoint=fast", "--wal-method=stream", "-d", &url, "-D"]).arg(&standby).output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    set_quantity(&shop, 5).await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(5));
    shop.origin.stop(StopMode::Immediate).await?;
    // The same address leads to the standby from now on.
    std::fs::write(standby.join("standby.signal"), "")?;
    let owner = Command::new("chown").arg("-R").arg("--reference").arg(&data).arg(&standby).status()?;
    ensure!(owner.success(), "chown");
    std::fs::remove_dir_all(&data)?;
    std::fs::rename(&standby, &data)?;
    shop.origin.start_again().await?;
    not_ready(&edge, "standby in recovery").await?;
    shop.origin.connect().await?.batch_execute("SELECT pg_promote()").await?;
    // A request may be answered by the new origin before the stream has met it: the loss is what is waited for.
    eventually("it is noticed", SOON, || async {
        Ok((losses(&edge, "timeline").await? > 0.0).then_some(()))
    })
    .await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(1));
    assert_eq!(losses(&edge, "timeline").await?, 1.0);
    set_quantity(&shop, 6).await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(6));
    edge.wait_ready().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_that_is_dropped_and_created_again_ends_and_begins_the_service() -> Result<()> {
    let shop = Shop::open().await?;
    let mut edge = impatient(&shop).start().await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(1));
    shop.db.batch_execute("DROP EXTENSION foreshard CASCADE").await?;
    not_ready(&edge, "CREATE EXTENSION foreshard").await?;
    assert_ne!(edge.http.rows("checkout", "cart", "customer_id=eq.1", &[]).await?.status, 200);
    shop.define().await?;
    shop.db.execute("SELECT foreshard.create_edge('paris', role => 'edge_paris')", &[]).await?;
    set_quantity(&shop, 9).await?;
    edge.wait_ready().await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(9));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_on_one_slot_take_turns() -> Result<()> {
    let shop = Shop::open().await?;
    let mut first = impatient(&shop).start().await?;
    let mut second = impatient(&shop).spawn()?;
    not_ready(&second, "is active for PID").await?;
    set_quantity(&shop, 3).await?;
    assert_eq!(quantity(&shop, &first).await?, json!(3));
    first.process().signal(Signal::STOP)?;
    let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active";
    shop.db.batch_execute(end).await?;
    second.wait_ready().await?;
    set_quantity(&shop, 4).await?;
    assert_eq!(quantity(&shop, &second).await?, json!(4));
    let moved = "SELECT confirmed_flush_lsn >= $1::text::pg_lsn FROM pg_replication_slots";
    let token: String = shop.db.query_one("SELECT foreshard.commit_token()::text", &[]).await?.get(0);
    eventually("the second has acknowledged it", SOON, || async {
        Ok(shop.db.query_one(moved, &[&token]).await?.get::<_, bool>(0).then_some(()))
    })
    .await?;
    second.kill()?;
    first.process().signal(Signal::CONT)?;
    // What the other has acknowledged is on no stream any more.
    assert_eq!(quantity(&shop, &first).await?, json!(4));
    assert_eq!(losses(&first, "slot_moved").await?, 1.0);
    first.wait_ready().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_takes_no_more_connections_is_waited_for() -> Result<()> {
    let shop = Shop::open().await?;
    let mut edge = impatient(&shop).start().await?;
    shop.db.batch_execute("ALTER ROLE edge_paris CONNECTION LIMIT 0").await?;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'edge_paris'";
    shop.db.batch_execute(end).await?;
    not_ready(&edge, "too many connections").await?;
    set_quantity(&shop, 2).await?;
    let refused = eventually("copies are not served", SOON, || async {
        let answer = edge.http.rows("checkout", "cart", "customer_id=eq.1", &[]).await?;
        Ok((answer.status == 503).then_some(answer))
    })
    .await?;
    refused.header("retry-after").context("no Retry-After")?;
    shop.db.batch_execute("ALTER ROLE edge_paris CONNECTION LIMIT -1").await?;
    edge.wait_ready().await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(2));
    Ok(())
}

/// Strict mode: a commit returns only once the edge has applied it.
#[tokio::test(flavor = "multi_thread")]
async fn with_the_edge_as_synchronous_standby_nobody_there_reads_what_is_older_than_a_commit() -> Result<()> {
    let shop = Shop::open().await?;
    let mut edge = Sidecar::start(&shop.login).await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(1));
    for setting in ["synchronous_standby_names = 'paris'", "synchronous_commit = 'remote_apply'"] {
        shop.db.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await?;
    }
    shop.db.batch_execute("SELECT pg_reload_conf()").await?;
    let state = "SELECT sync_state = 'sync' FROM pg_stat_replication WHERE application_name = 'paris'";
    eventually("the edge is a synchronous standby", SOON, || async {
        let row = shop.db.query_opt(state, &[]).await?;
        ensure!(row.is_some(), "no such standby");
        Ok(row.is_some_and(|row| row.get(0)).then_some(()))
    })
    .await?;
    for round in 10..60 {
        set_quantity(&shop, round).await?;
        // No Foreshard-Min-Lsn: whoever asks after the commit sees it.
        let answer = edge.http.rows("checkout", "cart", "customer_id=eq.1", &[]).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        assert_eq!(answer.json()?[0]["quantity"], json!(round));
    }
    // An edge that hangs holds commits, as the operator chose.
    edge.process().signal(Signal::STOP)?;
    let db = shop.origin.connect().await?;
    let held = tokio::spawn(async move {
        db.execute("UPDATE cart_line SET quantity = 70 WHERE customer_id = 1", &[]).await
    });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    eventually("the commit waits", SOON, || async {
        Ok((shop.db.query_one(waits, &[]).await?.get::<_, i64>(0) == 1).then_some(()))
    })
    .await?;
    assert!(!held.is_finished());
    edge.process().signal(Signal::CONT)?;
    held.await??;
    let answer = edge.http.rows("checkout", "cart", "customer_id=eq.1", &[]).await?;
    assert_eq!(answer.json()?[0]["quantity"], json!(70));
    Ok(())
}
