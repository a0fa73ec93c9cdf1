//! Two planners, an origin that goes away, and settings that make no sense.

use std::process::Command;

use anyhow::Result;
use foreshard_tests::{Planner, StopMode, eventually, foreshard_binary};

use crate::shop::{ROUND, Shop, clock};

#[tokio::test]
async fn one_of_two_planners_leads_and_the_other_takes_over() -> Result<()> {
    let shop = Shop::open_for_weeks().await?;
    let clock = clock(60.0)?;
    let arguments = ["--clock", clock.as_str(), "--every", "60"];
    let published = async |more_than: i64| {
        eventually("another schedule", ROUND, || async {
            let now = shop.schedules().await?;
            Ok((now > more_than).then_some(now))
        })
        .await
    };
    let mut first = Planner::spawn(&shop.origin.url(), &arguments)?;
    published(0).await?;
    let mut second = Planner::spawn(&shop.origin.url(), &arguments)?;
    let log = second.process().log_path().to_owned();
    eventually("the second waits", ROUND, || async {
        Ok(std::fs::read_to_string(&log)?.contains("another planner is leading").then_some(()))
    })
    .await?;
    assert!(Planner::once(&shop.origin.url(), &arguments, ROUND).await.is_err(), "a third publishes nothing");
    first.process().kill()?;
    first.process().wait_exit(ROUND).await?;
    let before = shop.schedules().await?;
    published(before).await?;
    Ok(())
}

#[tokio::test]
async fn the_planner_outlives_its_origin() -> Result<()> {
    let mut shop = Shop::open_for_weeks().await?;
    let mut planner = Planner::spawn(&shop.origin.url(), &["--clock", &clock(60.0)?, "--every", "60"])?;
    eventually("a schedule", ROUND, || async { Ok((shop.schedules().await? > 0).then_some(())) }).await?;
    shop.origin.restart(StopMode::Immediate).await?;
    shop.db = shop.origin.connect().await?;
    let before = shop.schedules().await?;
    eventually("a schedule after the restart", ROUND, || async {
        Ok((shop.schedules().await? > before).then_some(()))
    })
    .await?;
    planner.process().must_be_alive()
}

/// Exit code and error output of `foreshard plan` with these arguments.
fn plan(arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let output = Command::new(foreshard_binary()?)
        .arg("plan")
        .args(arguments)
        .env_remove("FORESHARD_ORIGIN")
        .output()?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[test]
fn bad_settings_are_all_listed() -> Result<()> {
    let (code, message) = plan(&["--once", "--window", "1", "--floor", "7", "--clock", "sundial"])?;
    assert_eq!(code, Some(64));
    for name in ["origin", "window", "floor", "clock"] {
        assert!(message.contains(&format!("{name}: ")), "{name} in {message}");
    }
    Ok(())
}

#[tokio::test]
async fn an_origin_that_refuses_is_one_clear_line() -> Result<()> {
    let shop = Shop::open().await?;
    shop.db.batch_execute("CREATE ROLE stranger LOGIN PASSWORD 'right'").await?;
    shop.db.batch_execute("CREATE DATABASE empty").await?;
    for (url, says) in [
        (shop.origin.url_of("stranger", "right", "postgres"), "foreshard.publish_schedule"),
        (shop.origin.url_of("nobody", "x", "postgres"), "origin: "),
        (shop.origin.url_of("stranger", "right", "empty"), "CREATE EXTENSION foreshard"),
        (shop.origin.url_of("stranger", "right", "nowhere"), "nowhere"),
    ] {
        // Without --once as well: trying again would not help.
        let (code, message) = plan(&["--origin", &url])?;
        assert_eq!(code, Some(1), "{url}: {message}");
        let last = message.lines().last().unwrap_or_default();
        assert!(last.starts_with("foreshard: ") && last.contains(says), "{url}: {message}");
        assert!(!message.contains("right"), "{message}");
    }
    Ok(())
}
