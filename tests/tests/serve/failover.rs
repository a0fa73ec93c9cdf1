//! Another server takes the origin's place at its address: another cluster, a promoted standby, one that has the slot, too. And
//! the same server with a newer extension.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use foreshard_tests::{Cluster, ClusterOptions, Server, Sidecar, SidecarOptions, StopMode, eventually};
use serde_json::json;

use crate::shop::{SOON, Shop, impatient, is_kept, is_warm, keeping, losses, quantity, set_quantity};

/// From now on the address of `origin` leads to what `other` is; both are stopped.
fn take_the_place(origin: &Cluster, other: &Cluster) -> Result<()> {
    let (data, aside) = (origin.data_dir(), origin.data_dir().with_extension("gone"));
    let rename =
        |from: &Path, to: &Path| std::fs::rename(from, to).with_context(|| format!("{}", from.display()));
    rename(&data, &aside)?;
    rename(&other.data_dir(), &data)
}

/// A physical standby that streams from the shop's origin, with further settings.
async fn standby(shop: &Shop, options: ClusterOptions) -> Result<Cluster> {
    options.setting("primary_conninfo", &shop.origin.url()).standby_of(&shop.origin).await
}

/// The standby has replayed all that the origin has written so far.
async fn caught_up(shop: &Shop, standby: &Cluster) -> Result<()> {
    let end = "SELECT pg_current_wal_flush_lsn()::text";
    let end: String = shop.origin.connect().await?.query_one(end, &[]).await?.get(0);
    let db = standby.connect().await?;
    let replayed = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn";
    eventually("the standby has replayed it", SOON, || async {
        Ok(db.query_one(replayed, &[&end]).await?.get::<_, bool>(0).then_some(()))
    })
    .await
}

/// The origin is gone at once, and the standby takes its place and is promoted.
async fn fail_over(shop: &mut Shop, standby: &mut Cluster) -> Result<()> {
    shop.origin.stop(StopMode::Immediate).await?;
    standby.stop(StopMode::Fast).await?;
    take_the_place(&shop.origin, standby)?;
    shop.origin.start_again().await?;
    shop.origin.connect().await?.batch_execute("SELECT pg_promote()").await?;
    Ok(())
}

async fn lost(edge: &Sidecar, reason: &str) -> Result<()> {
    let what = format!("the past is lost: {reason}");
    eventually(&what, SOON, || async { Ok((losses(edge, reason).await? > 0.0).then_some(())) })
        .await
        .with_context(|| edge.log_text())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_at_the_same_address_is_noticed() -> Result<()> {
    let mut shop = Shop::open().await?;
    let mut edge = impatient(&shop).start().await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(1));
    // The same tables, functions and roles, and another system identifier.
    let mut other = Shop::open_on(ClusterOptions::new()?.start_another().await?).await?;
    set_quantity(&other, 8).await?;
    other.origin.stop(StopMode::Fast).await?;
    shop.origin.stop(StopMode::Fast).await?;
    take_the_place(&shop.origin, &other.origin)?;
    shop.origin.start_again().await?;
    lost(&edge, "other_system").await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(8));
    set_quantity(&shop, 9).await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(9));
    let log = edge.log_text();
    ensure!(log.contains("another cluster answers at the origin's address"), "{log}");
    edge.wait_ready().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_cache_is_not_believed_by_a_promoted_standby() -> Result<()> {
    let mut shop = Shop::open().await?;
    let kept = tempfile::tempdir()?;
    let mut edge = keeping(&shop, kept.path()).await?.start().await?;
    let mut standby = standby(&shop, ClusterOptions::new()?).await?;
    set_quantity(&shop, 5).await?;
    is_kept(&shop, &edge).await?;
    edge.kill()?;
    // The same file is found again as long as the origin is the same.
    edge.start_again().await?;
    is_warm(&edge).await?;
    edge.kill()?;
    caught_up(&shop, &standby).await?;
    fail_over(&mut shop, &mut standby).await?;
    set_quantity(&shop, 6).await?;
    edge.start_again().await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(6));
    assert_eq!(edge.metric("foreshard_warm_copies_total").await?, 0.0);
    assert_eq!(losses(&edge, "timeline").await?, 1.0);
    let log = edge.log_text();
    ensure!(log.contains("the persistent cache is of another past of the origin"), "{log}");
    Ok(())
}

/// From 17 on a standby can have the slot, too: the sidecar goes on with it there, although nothing it held counts any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_with_the_slot_goes_on_with_it() -> Result<()> {
    let server = Server::of_major(18)?;
    let origin = ClusterOptions::on(server.clone()).start().await?;
    let mut shop = Shop::open_on(origin).await?;
    let mut edge = impatient(&shop).start().await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(1));
    shop.db.batch_execute("SELECT pg_create_physical_replication_slot('standby', true)").await?;
    let options = ClusterOptions::on(server);
    let options = options.setting("primary_slot_name", "standby").setting("hot_standby_feedback", "on");
    let mut standby = standby(&shop, options).await?;
    shop.db.batch_execute("ALTER SYSTEM SET synchronized_standby_slots = 'standby'").await?;
    shop.db.batch_execute("SELECT pg_reload_conf()").await?;
    let name: String = shop.db.query_one("SELECT foreshard.edge_slot('paris')", &[]).await?.get(0);
    let there = standby.connect().await?;
    set_quantity(&shop, 5).await?;
    // What the worker of sync_replication_slots = on does by itself, in its own time. The slot can be copied once it needs nothing
    // that the standby has let go: it moves on with these records, else every quarter of a minute.
    eventually("the standby has the slot", SOON, || async {
        shop.db.batch_execute("SELECT pg_log_standby_snapshot()").await?;
        there.batch_execute("SELECT pg_sync_replication_slots()").await?;
        let synced =
            "SELECT slot_name FROM pg_replication_slots WHERE synced AND NOT temporary AND slot_name = $1";
        Ok(there.query_opt(synced, &[&name]).await?.map(|_| ()))
    })
    .await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(5));
    caught_up(&shop, &standby).await?;
    let created = |edge: &Sidecar| edge.log_text().matches("creating the replication slot").count();
    assert_eq!(created(&edge), 1);
    fail_over(&mut shop, &mut standby).await?;
    lost(&edge, "timeline").await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(5));
    set_quantity(&shop, 6).await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(6));
    assert_eq!(created(&edge), 1, "{}", edge.log_text());
    assert_eq!(losses(&edge, "new_slot").await?, 0.0);
    edge.wait_ready().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_that_is_updated_while_a_sidecar_follows_loses_nothing() -> Result<()> {
    let shop = Shop::open_with(Cluster::start().await?, "CREATE EXTENSION foreshard VERSION '0.1.0'").await?;
    let mut edge = SidecarOptions::of(&shop.login).start().await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(1));
    set_quantity(&shop, 2).await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(2));
    shop.db
        .batch_execute(
            "BEGIN; UPDATE cart_line SET quantity = 3 WHERE customer_id = 1; ALTER EXTENSION foreshard UPDATE; COMMIT",
        )
        .await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(3));
    let version = "SELECT extversion FROM pg_extension WHERE extname = 'foreshard'";
    assert_ne!(shop.db.query_one(version, &[]).await?.get::<_, String>(0), "0.1.0");
    // Definitions made with the new SQL arrive on the same stream.
    shop.db
        .batch_execute(
            "SELECT foreshard.create_shard('few', 'cart_line', predicate => 'quantity < 3');
             SELECT foreshard.map_function('checkout', '{products,cart,few}');
             UPDATE cart_line SET quantity = 4 WHERE customer_id = 1;",
        )
        .await?;
    assert_eq!(quantity(&shop, &edge).await?, json!(4));
    let few = edge.http.rows("checkout", "few", "", &[]).await?;
    assert_eq!(few.json()?.as_array().map(Vec::len), Some(4), "{}", few.text());
    assert_eq!(edge.metric("foreshard_resets_total").await?, 0.0);
    edge.wait_ready().await
}
