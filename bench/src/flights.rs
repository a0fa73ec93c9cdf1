//! The day of `make demo`: prefetching by schedule beside a cache that only reacts, and beside everything fetched ahead.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::results::Comparison;

/// The measures that come of it.
pub(crate) const MEASURES: &str = "misses_removed_vs_reactive p99_wait_vs_reactive origin_load_vs_eager";

/// What a run of the demo came to: for each peer a pair, prefetching first.
struct Day(Value);

impl Day {
    /// Replays the day against some peers. The demo checks every answer, and fails if one was stale or wrong.
    fn against(peers: &str, pg_config: &Path) -> Result<Self> {
        let demo = std::env::current_exe()?.with_file_name("foreshard-demo");
        ensure!(demo.is_file(), "{} is missing: build the package foreshard-demo, too", demo.display());
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("totals.json");
        let run = Command::new(demo)
            .args(["--against", peers, "--pg-config"])
            .arg(pg_config)
            .arg("--json")
            .arg(&file)
            .stdout(Stdio::piped())
            .output()?;
        let said = String::from_utf8_lossy(&run.stdout).into_owned();
        let text =
            std::fs::read_to_string(&file).with_context(|| format!("the demo ended early:\n{said}"))?;
        // Whether it was fast enough is for the one who reads the numbers; whether it was right is not.
        let right = said.matches(" 0 stale, 0 wrong, 0 stamps").count() == peers.split(',').count();
        ensure!(right, "the demo was not right:\n{said}");
        Ok(Day(serde_json::from_str(&text)?))
    }

    fn pair(&self, peer: &str, what: &str) -> Result<[f64; 2]> {
        let value = |at: usize| {
            self.0[peer][at][what].as_f64().with_context(|| format!("no {what} of {peer} in {}", self.0))
        };
        Ok([value(0)?, value(1)?])
    }
}

/// The comparisons: two replays, of about a minute and a half each, of the same day every time.
pub(crate) fn run(pg_config: &Path) -> Result<Vec<Comparison>> {
    let day = Day::against("reactive,eager", pg_config)?;
    let [misses, missed] = day.pair("reactive", "misses")?;
    let [bytes, moved] = day.pair("reactive", "bytes")?;
    let [p99, waited] = day.pair("reactive", "p99_ms")?;
    let [load, eager] = day.pair("eager", "origin_cpu_s")?;
    let [planning, _] = day.pair("eager", "planner_cpu_s")?;
    let removed = 1.0 - misses / missed.max(1.0);
    let more_bytes = 100.0 * (bytes / moved.max(1.0) - 1.0);
    Ok(vec![
        Comparison::of(
            "misses_removed_vs_reactive",
            format!(
                "share of a reactive cache's {missed:.0} misses on the flights day that prefetching removes, at {more_bytes:+.0} % bytes"
            ),
            "higher",
            &mut [removed],
            "all of them",
            &mut [1.0],
        )?,
        Comparison::of(
            "p99_wait_vs_reactive",
            "ms, 99th percentile of what calls wait at three edges 40 ms away each way, the flights day"
                .into(),
            "lower",
            &mut [p99],
            "the same sidecar, --prefetch off",
            &mut [waited],
        )?,
        Comparison::of(
            "origin_load_vs_eager",
            format!(
                "s of the origin's CPU for three edges, the flights day (and {planning:.1} s for planning)"
            ),
            "lower",
            &mut [load],
            "all that was ever read there, fetched ahead and kept",
            &mut [eager],
        )?,
    ])
}
