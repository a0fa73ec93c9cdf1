//! What schedules are worth, measured live: the control group, the table a DBA reads, and metrics.

use anyhow::{Context, Result};
use foreshard_tests::{Endpoint, HttpClient, Planner, eventually};

use crate::shop::{NOW, ROUND, Shop, clock};

/// A shop whose thirty further functions all run every ten minutes.
async fn busy() -> Result<Shop> {
    let shop = Shop::open().await?;
    shop.db
        .batch_execute(
            "SELECT foreshard.map_function('f' || i, '{products}') FROM generate_series(1, 30) AS i",
        )
        .await?;
    shop.log(&format!(
        "SELECT 'paris', 'f' || i, at, '{{products}}'::text[]
         FROM generate_series(1, 30) AS i, generate_series('{NOW}'::timestamptz - '3 days'::interval, '{NOW}', '10 min') AS at"
    ))
    .await?;
    Ok(shop)
}

/// Where the planner listens, as it says.
async fn address(planner: &mut Planner) -> Result<String> {
    let log = planner.process().log_path().to_owned();
    eventually("the planner listens", ROUND, || async {
        let text = std::fs::read_to_string(&log)?;
        Ok(text.split("listening=").nth(1).and_then(|rest| rest.split_whitespace().next()).map(str::to_owned))
    })
    .await
}

/// Lets the functions run half a minute into the latest window that has a control group, unless they did: those that are
/// scheduled then hit, those that are withheld then miss, and those that windows disagree about do not run.
const RUN: &str = "
    WITH chosen AS (SELECT max(starts_at) + interval '30 s' AS at FROM foreshard.control_group),
    withheld AS (SELECT function_id FROM foreshard.control_group, chosen WHERE at >= starts_at AND at < ends_at),
    told AS (SELECT e ->> 'function_id' AS function_id FROM foreshard.schedules, chosen, jsonb_array_elements(entries) AS e
        WHERE at >= starts_at AND at < ends_at),
    ran AS (
        (SELECT function_id, 'origin' AS served_from, 80000 AS wait_us FROM withheld WHERE function_id NOT IN (SELECT function_id FROM told))
        UNION (SELECT function_id, 'prefetch', 300 FROM told WHERE function_id NOT IN (SELECT function_id FROM withheld)))
    INSERT INTO foreshard.executions (edge, function_id, started_at, tables, filters, shards, served_from, wait_us, bytes)
    SELECT 'paris', function_id, at, '{}', '{}', '{products}', served_from, wait_us, 2500 FROM ran, chosen
    WHERE NOT EXISTS (SELECT FROM foreshard.executions x WHERE x.edge = 'paris' AND x.started_at = at AND x.bytes = 2500)";

#[tokio::test]
async fn a_control_group_is_withheld_recorded_and_shows_what_scheduling_is_worth() -> Result<()> {
    let shop = busy().await?;
    let clock = clock(120.0)?;
    let arguments = ["--clock", &clock, "--every", "60", "--control", "0.4", "--listen", "127.0.0.1:0"];
    let mut planner = Planner::spawn(&shop.origin.url(), &arguments)?;
    let address = address(&mut planner).await?;
    eventually("somebody is withheld", ROUND, || async {
        let n: i64 = shop.db.query_one("SELECT count(*) FROM foreshard.control_group", &[]).await?.get(0);
        Ok((n > 0).then_some(()))
    })
    .await?;
    let told = "SELECT count(*) FROM foreshard.control_group c JOIN foreshard.schedules s
             ON extract(epoch FROM s.starts_at)::bigint = extract(epoch FROM c.starts_at)::bigint,
         jsonb_array_elements(s.entries) AS e WHERE e ->> 'function_id' = c.function_id";
    assert_eq!(shop.db.query_one(told, &[]).await?.get::<_, i64>(0), 0, "the withheld were published");
    // On a slow machine a window may be measured before its executions are logged: then another one has to do.
    let uplift = eventually("a window is over and measured", ROUND, || async {
        shop.db.execute(RUN, &[]).await?;
        let read = "SELECT max(uplift) FROM foreshard.schedule_quality WHERE edge = 'paris' AND control_runs > 0 AND scheduled_runs > 0
             AND brier BETWEEN 0 AND 1 AND ece BETWEEN 0 AND 1 AND decisions = scheduled + control";
        Ok(shop.db.query_one(read, &[]).await?.get::<_, Option<f64>>(0))
    })
    .await?;
    assert!(uplift > 0.99, "those that were withheld missed, the others did not: {uplift}");
    let client = HttpClient::new(Endpoint::Tcp(address));
    // They are renewed at the end of the round that reported.
    let metrics = eventually("the metrics tell of it", ROUND, || async {
        let text = client.get("/metrics").await?.text();
        Ok(text.contains("\nforeshard_plan_uplift{").then_some(text))
    })
    .await?;
    let value = |name: &str| -> Result<f64> {
        let line =
            metrics.lines().find(|l| l.starts_with(name)).with_context(|| format!("{name} in {metrics}"))?;
        Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
    };
    assert_eq!(value("foreshard_plan_leading ")?, 1.0);
    assert!(value("foreshard_plan_uplift{edge=\"paris\"}")? > 0.99);
    assert!((0.0..=1.0).contains(&value("foreshard_plan_brier{edge=\"paris\"}")?));
    assert!((0.0..=1.0).contains(&value("foreshard_plan_ece{edge=\"paris\"}")?));
    assert!(value("foreshard_plan_wasted_bytes_total{edge=\"paris\"}")? >= 0.0);
    assert!(value("foreshard_plan_misses_total{edge=\"paris\",group=\"control\"}")? >= 1.0);
    assert_eq!(client.get("/ready").await?.status, 200);
    planner.process().must_be_alive()
}

#[tokio::test]
async fn without_the_right_to_report_planning_goes_on() -> Result<()> {
    let shop = busy().await?;
    shop.db
        .batch_execute(
            "CREATE ROLE planner LOGIN PASSWORD 'plan';
             GRANT USAGE ON SCHEMA foreshard TO planner;
             GRANT SELECT ON foreshard.executions, foreshard.shards, foreshard.function_shards, foreshard.edges TO planner;
             GRANT EXECUTE ON FUNCTION foreshard.publish_schedule TO planner",
        )
        .await?;
    let url = shop.origin.url_of("planner", "plan", "postgres");
    let output = Planner::once(&url, &["--clock", &clock(1.0)?, "--control", "0.4"], ROUND).await?;
    assert!(output.contains("report_quality"), "{output}");
    let entries = shop.latest().await?;
    assert!(!entries.is_empty() && entries.len() < 30, "{entries:?}");
    let withheld: i64 = shop.db.query_one("SELECT count(*) FROM foreshard.control_group", &[]).await?.get(0);
    assert_eq!(withheld, 0);
    Ok(())
}
