//! `foreshard explain`: why an entry was scheduled, or not.

use std::process::Command;

use anyhow::Result;
use foreshard_tests::foreshard_binary;
use serde_json::Value;

use crate::shop::{NOW, Shop, clock};

/// Whether it ended well, and what it wrote.
fn explain(shop: &Shop, arguments: &[&str]) -> Result<(bool, String)> {
    let output = Command::new(foreshard_binary()?)
        .arg("explain")
        .args(["--origin", &shop.origin.url(), "--clock", &clock(1.0)?])
        .args(arguments)
        .env("FORESHARD_LOG", "error")
        .output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

#[tokio::test]
async fn in_words_and_as_json() -> Result<()> {
    let shop = Shop::open_for_weeks().await?;
    let (good, text) = explain(&shop, &["checkout", "--edge", "paris"])?;
    assert!(good && text.starts_with("checkout at paris: scheduled: "), "{text}");
    for part in ["season", "period      60 minutes", "experts", "threshold", "cart?customer_id=7", "rate"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let (_, text) = explain(&shop, &["report", "--edge", "paris"])?;
    assert!(
        text.starts_with("report at paris: not scheduled: ") && text.contains("below the floor"),
        "{text}"
    );
    let (good, json) = explain(&shop, &["checkout", "--edge", "paris", "--json"])?;
    let json: Value = serde_json::from_str(&json)?;
    assert!(good && json["reaches_floor"] == true && json["probability"].as_f64() > Some(0.6), "{json}");
    let parts = json["experts"].as_array().map_or(0, Vec::len);
    assert!(parts >= 8, "{json}");
    let product = |r: &&Value| r["instance"] == "products" && r["reaches_floor"] == true;
    assert!(json["reads"].as_array().is_some_and(|r| r.iter().any(|r| product(&r))), "{json}");
    Ok(())
}

#[tokio::test]
async fn the_control_group_and_what_is_unknown_are_named() -> Result<()> {
    let shop = Shop::open_for_weeks().await?;
    shop.db
        .execute(
            &format!(
                "INSERT INTO foreshard.control_group VALUES ('paris', 'checkout', '{NOW}', '{NOW}'::timestamptz + '15 min'::interval, 0.9)"
            ),
            &[],
        )
        .await?;
    let (_, text) = explain(&shop, &["checkout", "--edge", "paris"])?;
    assert!(text.contains("control group"), "{text}");
    shop.db.execute("SELECT foreshard.unmap_function('checkout')", &[]).await?;
    let (_, text) = explain(&shop, &["checkout", "--edge", "paris"])?;
    assert!(text.contains("no shard is mapped"), "{text}");
    let (good, text) = explain(&shop, &["nothing", "--edge", "paris"])?;
    assert!(!good && text.contains("never ran"), "{text}");
    let (good, text) = explain(&shop, &["checkout", "--edge", "atlantis"])?;
    assert!(!good && text.contains("not registered") && text.contains("paris"), "{text}");
    Ok(())
}
