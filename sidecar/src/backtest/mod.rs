//! `foreshard backtest`: replays a trace through the models in order of time, never looking ahead, and scores what they
//! predicted.

mod input;
mod keys;
mod measures;
mod page;
mod predictions;
mod replay;
mod table;
mod trace;

use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Args;

use predictions::PredictionsFile;
use replay::{Plan, replay};
use trace::Trace;

/// Replay a trace of invocations through the models and score the predictions.
#[derive(Clone, Debug, Args)]
pub(crate) struct BacktestArgs {
    /// CSV file (plain, or gzip if it ends in .gz) with the columns `minute,function_id[,edge],count`.
    #[arg(long, value_name = "FILE", required_unless_present = "keys")]
    pub(crate) trace: Option<PathBuf>,
    /// First minute that is scored [default: after two thirds of the trace].
    #[arg(long, value_name = "MINUTE")]
    pub(crate) score_from: Option<i64>,
    /// Minutes between two decisions.
    #[arg(long, value_name = "MINUTES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1440))]
    pub(crate) step: u32,
    /// Horizons in minutes.
    #[arg(long, value_name = "MINUTES", default_value = "1,5,15", value_delimiter = ',')]
    pub(crate) horizon: Vec<u32>,
    /// Writes every scored prediction to this CSV file (gzip if it ends in .gz).
    #[arg(long, value_name = "FILE")]
    pub(crate) predictions: Option<PathBuf>,
    /// Writes the scores to this JSON file.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Writes a page with the table and plots to index.html in this directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) report: Option<PathBuf>,
    /// Instead of --trace: CSV file with the columns seq,function_id,key, replayed through a cache that prefetches by
    /// association, against LRU and Belady.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["trace", "score_from", "predictions", "report"])]
    pub(crate) keys: Option<PathBuf>,
    /// Share of all keys that the cache of --keys holds.
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    pub(crate) cache_fraction: f64,
    /// Accesses that a prefetch of --keys takes to arrive.
    #[arg(long, value_name = "ACCESSES", default_value_t = 0)]
    pub(crate) lead: usize,
    /// Least confidence that --keys prefetches.
    #[arg(long, value_name = "P", default_value_t = 0.3, value_parser = confidence)]
    pub(crate) threshold: f32,
}

/// Horizons that an engine can have.
const MOST_HORIZONS: usize = 8;

fn confidence(text: &str) -> Result<f32, String> {
    let p = text.parse().ok().filter(|p| (0.0..=1.0).contains(p));
    p.ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

/// Runs a backtest and prints its table.
///
/// # Errors
/// When the trace cannot be read or makes no sense, when nothing is left to score, or when a file cannot be written.
pub(crate) fn run(args: BacktestArgs) -> anyhow::Result<()> {
    if let Some(path) = &args.keys {
        let (accesses, keys) = keys::read(path).with_context(|| format!("accesses {}", path.display()))?;
        let report = keys::replay(&accesses, keys, args.cache_fraction, args.lead, args.threshold)?;
        write_json(args.json.as_deref(), &report)?;
        return say(&report);
    }
    let Some(path) = &args.trace else { bail!("give --trace FILE or --keys FILE") };
    let mut horizons = args.horizon.clone();
    horizons.sort_unstable();
    horizons.dedup();
    if !(1..=MOST_HORIZONS).contains(&horizons.len()) || horizons.iter().any(|h| !(1..=1440).contains(h)) {
        let asked: Vec<String> = horizons.iter().map(u32::to_string).collect();
        bail!(
            "--horizon takes one to {MOST_HORIZONS} different numbers of minutes from 1 to 1440, not {}",
            asked.join(",")
        );
    }
    let trace = Trace::read(path).with_context(|| format!("trace {}", path.display()))?;
    let (first, last) = trace.span();
    let score_from = args.score_from.unwrap_or(first + (last - first) * 2 / 3).max(first);
    if score_from > last {
        bail!("nothing to score: the trace ends at minute {last}, before --score-from {score_from}");
    }
    let mut file = args.predictions.as_deref().map(PredictionsFile::create).transpose()?;
    let begun = Instant::now();
    let step = i64::from(args.step);
    let further = measures::further_horizons(&horizons, step);
    let plan = Plan { score_from, step, horizons, further };
    let outcome = replay(&trace, &plan, file.as_mut())?;
    if let Some(file) = file {
        file.finish()?;
    }
    let report = table::Report::new(&trace, &plan, &outcome, begun.elapsed());
    if let Some(dir) = &args.report {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let html = page::page(&name, &report, &trace, &plan, &outcome);
        std::fs::create_dir_all(dir)
            .and_then(|()| std::fs::write(dir.join("index.html"), html))
            .with_context(|| format!("could not write the report to {}", dir.display()))?;
    }
    write_json(args.json.as_deref(), &report)?;
    say(&report)
}

/// Prints it, last of all: who reads the output may have seen enough, as `head` does, which is no failure.
fn say(report: &impl Display) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match write!(out, "{report}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("could not print the scores")
        }
        _ => Ok(()),
    }
}

fn write_json(path: Option<&Path>, report: &impl serde::Serialize) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let json = serde_json::to_string_pretty(report)?;
    std::fs::write(path, json + "\n").with_context(|| format!("could not write {}", path.display()))
}
