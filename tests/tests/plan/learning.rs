//! What is learned from the log, and what is published.

use anyhow::Result;
use foreshard_tests::Planner;

use crate::shop::{NOW, ROUND, Shop, clock, log};

#[tokio::test]
async fn what_the_log_says_is_published_with_its_keys() -> Result<()> {
    let shop = Shop::open_for_weeks().await?;
    Planner::once(&shop.origin.url(), &["--clock", &clock(1.0)?], ROUND).await?;
    let entries = shop.latest().await?;
    let confidence = |instance: &str| {
        entries.iter().find(|(_, shards, _)| shards.iter().any(|s| s == instance)).map_or(0.0, |e| e.2)
    };
    // Half past nine is near; nine o'clock is over until tomorrow.
    assert!(confidence("products") > 0.6, "{entries:?}");
    assert!(confidence("cart?customer_id=7") > 0.3, "{entries:?}");
    assert!(confidence("offers") < 0.2, "{entries:?}");
    assert!(entries.is_sorted_by(|a, b| a.2 >= b.2), "{entries:?}");
    let window = "SELECT starts_at > $1::text::timestamptz AND ends_at - starts_at = '15 min' FROM foreshard.schedules";
    assert!(shop.db.query_one(window, &[&NOW]).await?.get::<_, bool>(0));
    Ok(())
}

#[tokio::test]
async fn a_cold_start_publishes_nothing() -> Result<()> {
    let shop = Shop::open().await?;
    Planner::once(&shop.origin.url(), &["--clock", &clock(1.0)?], ROUND).await?;
    shop.log(&format!(
        "SELECT 'paris', 'checkout', '{NOW}'::timestamptz - '3 min'::interval, '{{products}}'::text[]"
    ))
    .await?;
    Planner::once(&shop.origin.url(), &["--clock", &clock(1.0)?], ROUND).await?;
    assert_eq!(shop.schedules().await?, 0);
    Ok(())
}

#[tokio::test]
async fn what_was_dropped_or_redefined_since_does_not_stop_the_rest() -> Result<()> {
    let shop = Shop::open_for_weeks().await?;
    shop.log(&format!(
        "SELECT edge, function_id, at, shards FROM (VALUES ('paris', 'gone', '{{products}}'::text[]),
             ('paris', 'checkout', '{{cart?id=7,nothing,???}}'), ('paris', 'checkout', '{{cart?customer_id=abc}}'), ('atlantis', 'checkout', '{{products}}')) AS v(edge, function_id, shards),
             generate_series('{NOW}'::timestamptz - '5 days'::interval, '{NOW}', '10 min') AS at"
    ))
    .await?;
    let output = Planner::once(&shop.origin.url(), &["--clock", &clock(1.0)?], ROUND).await?;
    let entries = shop.latest().await?;
    assert!(entries.iter().any(|e| e.1.iter().any(|s| s == "products")), "{entries:?}\n{output}");
    assert!(
        entries.iter().all(|e| e.0 != "gone"
            && !e.1.iter().any(|s| ["nothing", "cart?id=7", "cart?customer_id=abc"].contains(&s.as_str()))),
        "{entries:?}"
    );
    Ok(())
}

#[tokio::test]
async fn executions_at_no_time_are_left_out() -> Result<()> {
    let shop = Shop::open_for_weeks().await?;
    let ran = |at: &str| {
        format!(
            r#"{{"function_id":"checkout","started_at":"{at}","served_from":"origin","wait_us":1,"bytes":1}}"#
        )
    };
    let batch = ["infinity", "-infinity", "2024-03-01T09:20:00Z"].map(ran).join(",");
    let log = format!("SELECT foreshard.log_executions('paris', '[{batch}]')");
    assert_eq!(shop.db.query_one(&log, &[]).await?.get::<_, i64>(0), 1);
    // Written by an earlier version, or by hand: one that is read with the history, and one afterwards.
    let arguments = ["--clock", &clock(60.0)?, "--every", "60"];
    let forever = "SELECT 'paris', 'checkout', 'infinity'::timestamptz, '{products}'::text[]";
    shop.log(forever).await?;
    let mut planner = Planner::spawn(&shop.origin.url(), &arguments)?;
    foreshard_tests::eventually("a schedule", ROUND, || async {
        Ok((shop.schedules().await? > 0).then_some(()))
    })
    .await?;
    shop.log(forever).await?;
    let before = shop.schedules().await?;
    foreshard_tests::eventually("further schedules", ROUND, || async {
        Ok((shop.schedules().await? > before + 1).then_some(()))
    })
    .await?;
    planner.process().must_be_alive()
}

#[tokio::test]
async fn an_execution_that_commits_late_is_not_passed_over() -> Result<()> {
    let shop = Shop::open().await?;
    // The slow transaction has the lower number, and commits when the planner has read what came after it.
    let slow = shop.origin.connect().await?;
    slow.batch_execute("BEGIN").await?;
    let weeks = |function: &str, instance: &str| {
        format!(
            "SELECT 'paris', '{function}', at, '{{{instance}}}'::text[]
             FROM generate_series('{NOW}'::timestamptz - '9 days'::interval, '{NOW}', '10 min') AS at"
        )
    };
    log(&slow, &weeks("report", "offers")).await?;
    shop.log(&weeks("checkout", "products")).await?;
    let arguments = ["--clock", &clock(60.0)?, "--every", "60"];
    let _planner = Planner::spawn(&shop.origin.url(), &arguments)?;
    foreshard_tests::eventually("the planner has read the log once", ROUND, || async {
        let read = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'foreshard plan' AND query LIKE '%executions%logged_xid%'";
        Ok((shop.db.query_one(read, &[]).await?.get::<_, i64>(0) > 0).then_some(()))
    })
    .await?;
    slow.batch_execute("COMMIT").await?;
    foreshard_tests::eventually("both functions are scheduled", ROUND, || async {
        let entries = shop.latest().await?;
        let has = |function: &str| entries.iter().any(|e| e.0 == function);
        Ok((has("report") && has("checkout")).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_key_that_was_just_read_is_published_for_the_function_that_follows() -> Result<()> {
    let shop = Shop::open().await?;
    shop.db
        .batch_execute(
            "CREATE TABLE invoice (id int PRIMARY KEY, customer int NOT NULL);
             SELECT foreshard.create_shard('invoices', 'invoice', key => '{customer}');
             SELECT foreshard.map_function('pay', '{invoices}')",
        )
        .await?;
    // For two days somebody new looks into a cart every quarter of an hour, and pays ten minutes later. The last one, customer 7,777, has
    // looked three minutes ago and is known nowhere else.
    shop.log(&format!(
        "WITH seen AS (SELECT at, CASE WHEN at = '{NOW}'::timestamptz - '3 min'::interval THEN 7777
                 ELSE extract(epoch FROM at)::bigint / 900 END AS customer
             FROM generate_series('{NOW}'::timestamptz - '2 days 3 min'::interval, '{NOW}', '15 min') AS at)
         SELECT 'paris', 'checkout', at, ARRAY['cart?customer_id=' || customer] FROM seen
         UNION ALL SELECT 'paris', 'pay', at + '10 min', ARRAY['invoices?customer=' || customer] FROM seen
             WHERE at + '10 min' <= '{NOW}'"
    ))
    .await?;
    Planner::once(&shop.origin.url(), &["--clock", &clock(1.0)?], ROUND).await?;
    let entries = shop.latest().await?;
    let its = entries.iter().find(|e| e.0 == "pay" && e.1.iter().any(|i| i == "invoices?customer=7777"));
    assert!(its.is_some_and(|e| e.2 > 0.5), "{entries:?}");
    // Who has paid is not expected to pay once more.
    let paid = "invoices?customer=";
    let others = entries.iter().flat_map(|e| &e.1).filter(|i| i.starts_with(paid)).count();
    assert!(others <= 2, "{entries:?}");
    Ok(())
}
