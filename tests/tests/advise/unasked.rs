//! Automatic advice: a planner changes shards by itself only within what the database allows, and never what somebody took back.

use std::time::Duration;

use anyhow::Result;
use foreshard_tests::{Planner, eventually};

use crate::applied::{BY_CUSTOMER, Fixture};
use crate::command::advised;

const LONG: Duration = Duration::from_secs(60);

/// Runs a planner until it says this of automatic advice.
async fn planner_says(f: &Fixture, what: &str) -> Result<()> {
    let mut planner = Planner::spawn(&f.origin.url(), &["--every", "10", "--edge-bytes", "1MiB"])?;
    let log = planner.process().log_path().to_owned();
    eventually(what, LONG, || async { Ok(std::fs::read_to_string(&log)?.contains(what).then_some(())) })
        .await?;
    planner.process().must_be_alive()
}

#[tokio::test]
async fn large_tables_are_left_alone_and_a_failure_counts_for_nothing() -> Result<()> {
    let f = Fixture::open().await?;
    f.db.batch_execute(
        "SELECT foreshard.create_shard('orders', 'orders', key => '{customer_id}', or_replace => true);
         SELECT foreshard.create_shard('ticket', 'ticket', key => '{status}', or_replace => true);
         ALTER DATABASE postgres SET foreshard.auto_shard = 'index';
         ALTER DATABASE postgres SET foreshard.auto_shard_table_size = '1MiB'",
    )
    .await?;
    let url = f.origin.url();
    let before = f.definitions().await?;
    let said = advised(&url, &["--auto"]).await?;
    assert_eq!(said.matches("left to people").count(), 2, "{said}");
    assert_eq!(f.definitions().await?, before);

    // The first one fails each time, for its index has another's name.
    f.db.batch_execute(
        "ALTER DATABASE postgres RESET foreshard.auto_shard_table_size; CREATE TABLE foreshard_orders_key ()",
    )
    .await?;
    let said = advised(&url, &["--auto"]).await?;
    assert!(said.contains("not applied") && said.contains("already exists"), "{said}");
    let made = "SELECT to_regclass('foreshard_ticket_key') IS NOT NULL";
    assert!(f.db.query_one(made, &[]).await?.get::<_, bool>(0), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_planner_changes_what_the_dba_allows_and_not_what_was_taken_back() -> Result<()> {
    let f = Fixture::open().await?;
    f.log("f", "orders", BY_CUSTOMER).await?;
    f.log("f", "ticket", "jsonb_build_object('status', 'eq.s' || i % 4)").await?;
    let before = f.definitions().await?;
    planner_says(&f, "automatic advice: foreshard.auto_shard is off").await?;
    assert_eq!(f.definitions().await?, before);

    f.db.batch_execute("ALTER DATABASE postgres SET foreshard.auto_shard = 'everything'").await?;
    planner_says(&f, "no automatic advice: foreshard.auto_shard: expected on, off or a list").await?;
    assert_eq!(f.definitions().await?, before);

    let applied = "SELECT id, subject FROM foreshard.advice
         WHERE applied_at IS NOT NULL AND reverted_at IS NULL AND evidence ? 'auto'";
    f.db.batch_execute("ALTER DATABASE postgres SET foreshard.auto_shard = 'keyed'").await?;
    planner_says(&f, "automatic advice: applied").await?;
    let first = f.db.query(applied, &[]).await?;
    assert_eq!(first.len(), 1, "one a day is the limit where none is set");
    assert_ne!(f.definitions().await?, before);
    advised(&f.origin.url(), &["--revert", &first[0].get::<_, i64>(0).to_string()]).await?;
    assert_eq!(f.definitions().await?, before);

    f.db.batch_execute("ALTER DATABASE postgres SET foreshard.auto_shard_per_day = 5").await?;
    planner_says(&f, "automatic advice: applied").await?;
    let second = f.db.query(applied, &[]).await?;
    assert_eq!(second.len(), 1);
    assert_ne!(second[0].get::<_, &str>(1), first[0].get::<_, &str>(1), "that one was taken back");
    advised(&f.origin.url(), &["--revert", &second[0].get::<_, i64>(0).to_string()]).await?;
    assert_eq!(f.definitions().await?, before);
    Ok(())
}
