//! The past of the stream is lost in every way that a PostgreSQL can lose it: no old copy is served, it is said why, and the
//! edge heals by itself once it can.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use foreshard_tests::{ClusterOptions, Sidecar, StopMode, eventually};
use rustix::process::Signal;
use serde_json::json;

use crate::shop::{
    SOON, Shop, impatient, is_kept, is_streamed, is_warm, keeping, losses, not_ready, quantity, set_quantity,
};

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(copied.success(), "copying {}", from.display());
    Ok(())
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

/// The origin is put back as it was in the backup, and written to by others until its log is longer than it ever was.
async fn restored_and_grown(shop: &mut Shop, backup: &Path) -> Result<()> {
    let end = "SELECT pg_current_wal_insert_lsn()::text";
    let end: String = shop.origin.connect().await?.query_one(end, &[]).await?.get(0);
    shop.origin.stop(StopMode::Immediate).await?;
    let data = shop.origin.data_dir();
    std::fs::remove_dir_all(&data)?;
    std::fs::rename(backup, &data)?;
    shop.origin.start_again().await?;
    let db = shop.origin.connect().await?;
    db.batch_execute("CREATE TABLE noise (t text)").await?;
    eventually("the log is longer than it was", SOON, || async {
        db.batch_execute("INSERT INTO noise SELECT repeat('x', 800) FROM generate_series(1, 100)").await?;
        let grown = "SELECT pg_current_wal_flush_lsn() > $1::text::pg_lsn";
        Ok(db.query_one(grown, &[&end]).await?.get::<_, bool>(0).then_some(()))
    })
    .await
}

/// A backup made while nobody works.
async fn cold_backup(shop: &mut Shop) -> Result<PathBuf> {
    shop.origin.stop(StopMode::Fast).await?;
    let backup = shop.origin.data_dir().with_extension("backup");
    copy(&shop.origin.data_dir(), &backup)?;
    shop.origin.start_again().await?;
    Ok(backup)
}

/// Same cluster, same timeline, a log that is long enough and a slot that was never further: only what the stream brings again
/// tells that it is not the origin it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_origin_that_has_grown_past_what_it_lost_is_noticed() -> Result<()> {
    let mut shop = Shop::open().await?;
    let mut edge = impatient(&shop).start().await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(1));
    let backup = cold_backup(&mut shop).await?;
    set_quantity(&shop, 5).await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(5));
    is_streamed(&shop, &edge).await?;
    // It looks away until all is done.
    edge.process().signal(Signal::STOP)?;
    restored_and_grown(&mut shop, &backup).await?;
    edge.process().signal(Signal::CONT)?;
    eventually("it is noticed", SOON, || async {
        Ok((losses(&edge, "older_origin").await? > 0.0).then_some(()))
    })
    .await
    .with_context(|| edge.log_text())?;
    assert_eq!(quantity(&shop, &edge).await?, json!(1));
    let log = edge.log_text();
    ensure!(log.contains("its log has grown since"), "{log}");
    set_quantity(&shop, 6).await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(6));
    edge.wait_ready().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_of_an_origin_that_was_restored_and_has_grown_is_thrown_away() -> Result<()> {
    let mut shop = Shop::open().await?;
    let dir = tempfile::tempdir()?;
    let mut edge = keeping(&shop, dir.path()).await?.start().await?;
    let backup = cold_backup(&mut shop).await?;
    set_quantity(&shop, 5).await?;
    is_kept(&shop, &edge).await?;
    edge.kill()?;
    edge.start_again().await?;
    is_warm(&edge).await?;
    edge.kill()?;
    restored_and_grown(&mut shop, &backup).await?;
    edge.start_again().await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(1));
    eventually("it is said", SOON, || async {
        Ok((losses(&edge, "older_origin").await? == 1.0).then_some(()))
    })
    .await
    .with_context(|| edge.log_text())?;
    assert_eq!(edge.metric("foreshard_warm_copies_total").await?, 0.0);
    // What is kept from now on is found.
    set_quantity(&shop, 6).await?;
    is_kept(&shop, &edge).await?;
    edge.kill()?;
    edge.start_again().await?;
    is_warm(&edge).await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(6));
    Ok(())
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
