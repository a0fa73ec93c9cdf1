//! The planner keeps the execution log within its retention, where it may.

use anyhow::Result;
use foreshard_tests::{Planner, eventually};

use crate::shop::{ROUND, Shop, clock};

/// An execution that was logged half a year ago.
const OLD: &str = "INSERT INTO foreshard.executions (edge, function_id, started_at, tables, filters, shards, served_from, wait_us, bytes, logged_at, segment)
    VALUES ('paris', 'old', '2023-01-01', '{}', '{}', '{}', 'origin', 0, 0, now() - interval '180 days', (foreshard.log_segment() + 9) % 32)";
const LEFT: &str = "SELECT count(*) FROM foreshard.executions WHERE function_id = 'old'";

#[tokio::test]
async fn the_log_is_kept_within_its_retention_once_an_hour() -> Result<()> {
    let shop = Shop::open_for_weeks().await?;
    shop.origin.configure("track_functions", "pl")?;
    shop.db.batch_execute("SELECT pg_reload_conf()").await?;
    shop.db
        .batch_execute(&format!(
            "CREATE ROLE planner LOGIN PASSWORD 'planner'; GRANT USAGE ON SCHEMA foreshard TO planner;
             GRANT SELECT ON foreshard.executions, foreshard.shards, foreshard.function_shards, foreshard.edges, foreshard.schedules TO planner;
             GRANT EXECUTE ON FUNCTION foreshard.publish_schedule TO planner; {OLD}"
        ))
        .await?;
    let url = shop.origin.url_of("planner", "planner", "postgres");
    let clock = clock(60.0)?;
    let arguments = ["--clock", clock.as_str(), "--every", "60"];

    // Without the right to, it plans all the same, and says so.
    let said = Planner::once(&url, &arguments, ROUND).await?;
    assert!(said.contains("left to others to maintain"), "{said}");
    assert_eq!(shop.schedules().await?, 1);
    assert_eq!(shop.db.query_one(LEFT, &[]).await?.get::<_, i64>(0), 1);

    // With it, once in many rounds.
    shop.db.batch_execute("GRANT EXECUTE ON FUNCTION foreshard.maintain TO planner").await?;
    let mut planner = Planner::spawn(&url, &arguments)?;
    eventually("some rounds", ROUND, || async { Ok((shop.schedules().await? >= 4).then_some(())) }).await?;
    assert_eq!(shop.db.query_one(LEFT, &[]).await?.get::<_, i64>(0), 0);
    planner.process().kill()?;
    // A session's counts are complete when it is gone.
    eventually("the planner's session to end", ROUND, || async {
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'planner'";
        Ok((shop.db.query_one(sessions, &[]).await?.get::<_, i64>(0) == 0).then_some(()))
    })
    .await?;
    let calls = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_user_functions WHERE schemaname = 'foreshard' AND funcname = 'maintain'";
    assert_eq!(shop.db.query_one(calls, &[]).await?.get::<_, i64>(0), 1);
    Ok(())
}
