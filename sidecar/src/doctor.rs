//! `foreshard doctor`: what `foreshard.health()` at the origin says, with the statement that mends each finding.

use std::time::Duration;

use anyhow::bail;
use clap::Args;

use crate::config::Mistakes;
use crate::fetch::{OriginError, connect};
use crate::origin::OriginAddress;

/// Flags of `doctor`.
#[derive(Args)]
pub(crate) struct DoctorArgs {
    /// Connection string of the origin
    #[arg(long, value_name = "URL", env = "FORESHARD_ORIGIN", hide_env_values = true)]
    origin: Option<String>,
}

/// Prints every check; fails if one of them failed.
pub(crate) async fn run(args: DoctorArgs) -> anyhow::Result<()> {
    let origin = match &args.origin {
        None => Err("missing: give --origin postgresql://USER@HOST:PORT/DATABASE".to_owned()),
        Some(text) => OriginAddress::parse(text),
    };
    let origin = origin.map_err(|mistake| Mistakes(vec![format!("origin: {mistake}")]))?;
    let client = connect(&origin, Duration::from_secs(10)).await?;
    let query = "SELECT \"check\", status, detail, fix FROM foreshard.health()";
    let rows = client.query(query, &[]).await.map_err(|error| OriginError::of(&error))?;
    let mut failed = 0;
    for row in &rows {
        let (check, status, detail, fix): (String, String, Option<String>, Option<String>) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        failed += usize::from(status == "fail");
        println!("{status:<5} {check}: {}", detail.unwrap_or_default());
        if let Some(fix) = fix.filter(|fix| status != "ok" && !fix.is_empty()) {
            println!("      fix: {fix}");
        }
    }
    if failed > 0 { bail!("{failed} of {} checks failed", rows.len()) } else { Ok(()) }
}
