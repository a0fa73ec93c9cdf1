//! Positions that the stream has not reached: they are waited for, and then answered from the origin.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foreshard_tests::{Response, Sidecar, SidecarOptions, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::shop::{Shop, impatient, not_ready};

const SOON: Duration = Duration::from_secs(30);

/// A walsender that hangs until this value goes.
struct Held(Pid);

impl Held {
    async fn of(shop: &Shop) -> Result<Self> {
        let query = "SELECT active_pid FROM pg_replication_slots WHERE active";
        let pid = Pid::from_raw(shop.db.query_one(query, &[]).await?.get(0)).context("no walsender")?;
        kill_process(pid, Signal::STOP)?;
        Ok(Held(pid))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

async fn edge(shop: &Shop) -> Result<Sidecar> {
    let set = |name: &str, value: &str| (format!("FORESHARD_{name}"), value.to_owned());
    let environment = vec![set("MIN_LSN_WAIT", "200ms"), set("MAX_STALENESS", "60s")];
    SidecarOptions { environment, ..SidecarOptions::of(&shop.login) }.start().await
}

async fn cart(edge: &Sidecar, headers: &[(&str, &str)]) -> Result<Response> {
    edge.http.rows("checkout", "cart", "customer_id=eq.1", headers).await
}

async fn token(shop: &Shop) -> Result<String> {
    Ok(shop.db.query_one("SELECT foreshard.commit_token()::text", &[]).await?.get(0))
}

fn position(text: &str) -> Result<u64> {
    let (high, low) = text.split_once('/').context("not a position")?;
    Ok(u64::from_str_radix(high, 16)? << 32 | u64::from_str_radix(low, 16)?)
}

fn stamp(answer: &Response) -> Result<u64> {
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    position(answer.header("foreshard-lsn").context("no Foreshard-Lsn")?)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_stream_does_not_bring_is_read_at_the_origin() -> Result<()> {
    let shop = Shop::open().await?;
    let edge = edge(&shop).await?;
    // Held in a cache, as of before.
    assert_eq!(cart(&edge, &[]).await?.json()?[0]["quantity"], json!(1));
    let held = Held::of(&shop).await?;
    shop.db.batch_execute("UPDATE cart_line SET quantity = 5 WHERE customer_id = 1").await?;
    let wanted = token(&shop).await?;
    let headers = [("Foreshard-Min-Lsn", wanted.as_str())];
    let answer = cart(&edge, &headers).await?;
    ensure!(stamp(&answer)? >= position(&wanted)?, "{:?} for {wanted}", answer.headers);
    assert_eq!(answer.json()?[0]["quantity"], json!(5));
    let all = edge.http.invoke("checkout", &json!({ "customer_id": 1 }), &headers).await?;
    ensure!(stamp(&all)? >= position(&wanted)?, "{:?} for {wanted}", all.headers);
    assert!(edge.metric("foreshard_served_beyond_total").await? >= 2.0);
    // Positions never go back, also for those who ask for none.
    let answer = cart(&edge, &[]).await?;
    ensure!(stamp(&answer)? >= position(&wanted)?, "{:?} after {wanted}", answer.headers);
    assert_eq!(answer.json()?[0]["quantity"], json!(5));
    // A position that the origin does not have either.
    let answer = cart(&edge, &[("Foreshard-Min-Lsn", "FFFF/0")]).await?;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after").is_some()), (503, true));
    // A mapping that is removed there is not used here.
    shop.db.batch_execute("SELECT foreshard.unmap_function('checkout')").await?;
    let answer = cart(&edge, &[("Foreshard-Min-Lsn", &token(&shop).await?)]).await?;
    assert_eq!(answer.status, 404, "{}", answer.text());
    drop(held);
    eventually("the stream has brought it", SOON, || async {
        let answer = cart(&edge, &[]).await?;
        Ok((answer.status == 404).then_some(()))
    })
    .await
}

/// The edge's role loses the right to follow the log, and still may ask for rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_that_is_removed_bites_while_the_stream_is_down() -> Result<()> {
    let shop = Shop::open().await?;
    shop.db.batch_execute("SELECT foreshard.map_function('account', '{cart}')").await?;
    let edge = impatient(&shop).start().await?;
    shop.db.batch_execute("ALTER ROLE edge_paris NOREPLICATION").await?;
    let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active";
    shop.db.batch_execute(end).await?;
    shop.db.batch_execute("UPDATE cart_line SET quantity = 2 WHERE customer_id = 1").await?;
    not_ready(&edge, "not ready").await?;
    let answer = cart(&edge, &[]).await?;
    assert_eq!((answer.status.as_u16(), answer.json()?[0]["quantity"].clone()), (200, json!(2)));
    shop.db.batch_execute("SELECT foreshard.unmap_function('checkout')").await?;
    shop.db.batch_execute("UPDATE cart_line SET quantity = 5 WHERE customer_id = 1").await?;
    let answer = cart(&edge, &[]).await?;
    assert_eq!(answer.status, 404, "{}", answer.text());
    let answer = edge.http.invoke("checkout", &json!({ "customer_id": 1 }), &[]).await?;
    assert_eq!(answer.status, 404, "{}", answer.text());
    let answer = edge.http.rows("account", "cart", "customer_id=eq.1", &[]).await?;
    assert_eq!((answer.status.as_u16(), answer.json()?[0]["quantity"].clone()), (200, json!(5)));
    Ok(())
}

/// A commit that nobody sees, because it waits for a standby, is not proved to be in any answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_hangs_is_not_taken_for_read() -> Result<()> {
    let shop = Shop::open().await?;
    let set = |name: &str, value: &str| (format!("FORESHARD_{name}"), value.to_owned());
    let environment = vec![set("MIN_LSN_WAIT", "50ms"), set("REQUEST_TIMEOUT", "2s")];
    let edge = SidecarOptions { environment, ..SidecarOptions::of(&shop.login) }.start().await?;
    assert_eq!(cart(&edge, &[]).await?.json()?[0]["quantity"], json!(1));
    let held = Held::of(&shop).await?;
    shop.db.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await?;
    shop.db.batch_execute("SELECT pg_reload_conf()").await?;
    let writer = shop.origin.connect().await?;
    let hanging = tokio::spawn(async move {
        writer.batch_execute("UPDATE cart_line SET quantity = 6 WHERE customer_id = 1").await
    });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    eventually("the commit waits", SOON, || async {
        Ok((shop.db.query_one(waits, &[]).await?.get::<_, i64>(0) == 1).then_some(()))
    })
    .await?;
    let wanted = token(&shop).await?;
    let headers = [("Foreshard-Min-Lsn", wanted.as_str())];
    let answer = cart(&edge, &headers).await?;
    assert_eq!(answer.status, 503, "{}", answer.text());
    shop.db.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await?;
    shop.db.batch_execute("SELECT pg_reload_conf()").await?;
    hanging.await??;
    assert_eq!(cart(&edge, &headers).await?.json()?[0]["quantity"], json!(6));
    drop(held);
    Ok(())
}
