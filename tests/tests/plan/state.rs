//! What was learned outlives the planner, and what can't be believed is learned again.

use anyhow::Result;
use foreshard_tests::Planner;

use crate::shop::{ROUND, Shop, clock};

#[tokio::test]
async fn what_was_learned_survives_a_restart_and_damage_is_learned_again() -> Result<()> {
    let shop = Shop::open_for_weeks().await?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("state");
    let (file, clock) = (path.to_string_lossy().into_owned(), clock(0.001)?);
    let arguments = ["--clock", clock.as_str(), "--state", file.as_str()];
    Planner::once(&shop.origin.url(), &arguments, ROUND).await?;
    let learned = shop.latest().await?;
    assert!(!learned.is_empty());
    // The log is gone: only the file knows.
    shop.db.batch_execute("TRUNCATE foreshard.executions").await?;
    let output = Planner::once(&shop.origin.url(), &arguments, ROUND).await?;
    assert!(output.contains("going on from"), "{output}");
    assert_eq!(shop.schedules().await?, 2);
    let functions = |entries: &[(String, Vec<String>, f64)]| {
        entries.iter().map(|e| (e.0.clone(), e.1.clone())).collect::<Vec<_>>()
    };
    assert_eq!(functions(&shop.latest().await?), functions(&learned));
    let mut bytes = std::fs::read(&path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes)?;
    let output = Planner::once(&shop.origin.url(), &arguments, ROUND).await?;
    assert!(output.contains("it is damaged"), "{output}");
    assert_eq!(shop.schedules().await?, 2, "nothing is known, so nothing is published");
    Ok(())
}
