//! A planner that dies for an hour: schedules run out, what is left is a reactive cache that is never wrong, and planning goes on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use foreshard_tests::{Planner, Sidecar, SidecarOptions, eventually};
use serde_json::json;

use crate::shop::{NOW, ROUND, Shop, clock};

/// Ten minutes of the shop's time in a second.
const RATE: f64 = 600.0;

/// An hour of the shop's time.
const HOUR: Duration = Duration::from_secs(6);

/// Waits until a schedule is in force at the edge, or until none is.
async fn in_force(sidecar: &Sidecar, wanted: bool) -> Result<()> {
    eventually("the schedule in force", ROUND, || async {
        let schedule = sidecar.http.get("/v1/schedule").await?.json()?;
        let some = schedule["entries"].as_array().is_some_and(|entries| !entries.is_empty());
        Ok((some == wanted).then_some(()))
    })
    .await
}

/// Reads the products as `checkout` does; gives where they came from, and checks that the discount is this one.
async fn read(sidecar: &Sidecar, token: &str, discount: i64) -> Result<String> {
    let headers = [("Foreshard-Min-Lsn", token)];
    let response = sidecar.http.invoke("checkout", &json!({"customer_id": 7}), &headers).await?;
    ensure!(response.status == 200, "{}: {}", response.status, response.text());
    let body = response.json()?;
    let products = &body["shards"]["products"];
    ensure!(products["rows"][0]["discount"] == discount, "{discount} expected in {body}");
    Ok(products["served_from"].as_str().context("where from")?.to_owned())
}

#[tokio::test]
async fn without_a_planner_the_edge_is_a_reactive_cache_until_one_is_back() -> Result<()> {
    let shop = Shop::open().await?;
    let login = shop.origin.create_edge("lyon").await?;
    shop.db.batch_execute("INSERT INTO product VALUES (1, 0)").await?;
    shop.log(&format!(
        "SELECT 'lyon', 'checkout', at, '{{products,cart?customer_id=7}}'::text[]
         FROM generate_series('{NOW}'::timestamptz - '10 days'::interval, '{NOW}', '5 min') AS at"
    ))
    .await?;
    let clock = clock(RATE)?;
    let options = SidecarOptions::of(&login).args(&["--clock", &clock, "--min-confidence", "0"]);
    let sidecar = options.start().await?;
    let plan = ["--clock", &clock, "--every", "60", "--control", "0"];
    let mut planner = Planner::spawn(&shop.origin.url(), &plan)?;
    in_force(&sidecar, true).await?;
    eventually("something is prefetched", ROUND, || async {
        Ok((sidecar.metric("foreshard_prefetch_copies_total").await? > 0.0).then_some(()))
    })
    .await?;

    planner.process().kill()?;
    planner.process().wait_exit(ROUND).await?;
    in_force(&sidecar, false).await?;
    let prefetched = sidecar.metric("foreshard_prefetch_copies_total").await?;
    let dead = Instant::now();
    let (mut discount, mut sources) = (0, Vec::new());
    while dead.elapsed() < HOUR {
        discount += 1;
        shop.db.execute("UPDATE product SET discount = $1", &[&(discount as i32)]).await?;
        let token: String = shop.db.query_one("SELECT foreshard.commit_token()::text", &[]).await?.get(0);
        // Twice: the first may have to fetch, and from then on a copy is held.
        for _ in 0..2 {
            sources.push(read(&sidecar, &token, discount).await?);
        }
    }
    let waited = sources.iter().filter(|from| *from == "origin").count();
    assert!(waited * 2 <= sources.len(), "of {} reads {waited} waited for the origin", sources.len());
    assert_eq!(
        sidecar.metric("foreshard_prefetch_copies_total").await?,
        prefetched,
        "nothing asked for more"
    );

    let mut planner = Planner::spawn(&shop.origin.url(), &plan)?;
    in_force(&sidecar, true).await?;
    planner.process().must_be_alive()
}
