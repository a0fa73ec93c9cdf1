//! What was declared, and what others published, is in the schedule.

use anyhow::Result;
use foreshard_tests::Planner;

use crate::shop::{NOW, ROUND, Shop, clock};

/// The confidence of an instance of a function in the latest schedule.
async fn confidence(shop: &Shop, function: &str, instance: &str) -> Result<f64> {
    let entries = shop.latest().await?;
    let mut its = entries.iter().filter(|e| e.0 == function && e.1.iter().any(|s| s == instance));
    Ok(its.next().map_or(0.0, |e| e.2))
}

async fn plan(shop: &Shop) -> Result<()> {
    Planner::once(&shop.origin.url(), &["--clock", &clock(1.0)?, "--timezone", "paris=Europe/Paris"], ROUND)
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_hinted_function_is_expected_in_the_window_of_its_expression() -> Result<()> {
    let shop = Shop::open().await?;
    // Nothing was ever logged. It is 10:24 in Paris.
    shop.db.batch_execute("SELECT foreshard.hint_function('report', '30 10 * * *')").await?;
    plan(&shop).await?;
    assert!(confidence(&shop, "report", "offers").await? > 0.7, "{:?}", shop.latest().await?);
    shop.db
        .batch_execute(
            "SELECT foreshard.unhint_function('report'), foreshard.hint_function('report', '30 9 * * *')",
        )
        .await?;
    let before = shop.schedules().await?;
    plan(&shop).await?;
    assert_eq!(shop.schedules().await?, before, "half past nine is long over in Paris");
    Ok(())
}

#[tokio::test]
async fn a_hint_that_proved_wrong_since_it_was_declared_is_not_believed() -> Result<()> {
    let shop = Shop::open_for_weeks().await?;
    // Declared ten days ago by this clock; the report has never run at this time, but at nine in UTC.
    shop.db.batch_execute("SELECT foreshard.hint_function('report', '30 10 * * *')").await?;
    let set = format!("UPDATE foreshard.hint SET declared_at = '{NOW}'::timestamptz - interval '10 days'");
    shop.db.batch_execute(&set).await?;
    plan(&shop).await?;
    let expected = confidence(&shop, "report", "offers").await?;
    assert!(expected < 0.2, "{expected}");
    Ok(())
}

#[tokio::test]
async fn what_others_published_stays_in_force_beside_the_planners() -> Result<()> {
    let shop = Shop::open_for_weeks().await?;
    let by_hand = |entries: &str, ends: &str| {
        format!(
            "SELECT foreshard.publish_schedule('paris', '{NOW}'::timestamptz - interval '1 min', '{NOW}'::timestamptz + interval '{ends}', '{entries}')"
        )
    };
    let offers = r#"[{"function_id": "report", "shard_list": ["offers"], "confidence": 0.95}]"#;
    shop.db.batch_execute(&by_hand(offers, "10 min")).await?;
    plan(&shop).await?;
    assert_eq!(confidence(&shop, "report", "offers").await?, 0.95, "{:?}", shop.latest().await?);
    assert!(confidence(&shop, "checkout", "products").await? > 0.6, "{:?}", shop.latest().await?);
    // Taken back by the same publisher; the planner's own does not count as somebody else's.
    shop.db.batch_execute(&by_hand("[]", "10 min")).await?;
    plan(&shop).await?;
    assert!(confidence(&shop, "report", "offers").await? < 0.2, "{:?}", shop.latest().await?);
    assert!(confidence(&shop, "checkout", "products").await? > 0.6, "{:?}", shop.latest().await?);
    let publishers = "SELECT string_agg(DISTINCT publisher, ',') FROM foreshard.schedules";
    let publishers: String = shop.db.query_one(publishers, &[]).await?.get(0);
    assert!(
        publishers.contains("foreshard plan") && publishers.len() > "foreshard plan".len(),
        "{publishers}"
    );
    Ok(())
}
