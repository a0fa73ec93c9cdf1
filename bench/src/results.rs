use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// One comparison.
#[derive(Serialize)]
pub(crate) struct Comparison {
    pub(crate) id: &'static str,
    /// What was measured, with its unit and setting.
    pub(crate) what: String,
    pub(crate) ours: f64,
    pub(crate) peer: f64,
    pub(crate) peer_name: String,
    /// `ours` ÷ `peer`.
    pub(crate) ratio: f64,
    /// Which direction is good: "higher" or "lower".
    pub(crate) better: &'static str,
}

impl Comparison {
    /// Compares the medians of two series that were measured in turn.
    pub(crate) fn of(
        id: &'static str,
        what: String,
        better: &'static str,
        ours: &mut [f64],
        peer_name: &str,
        peer: &mut [f64],
    ) -> Result<Self> {
        let (ours, peer) = (median(ours)?, median(peer)?);
        Ok(Comparison { id, what, ours, peer, peer_name: peer_name.into(), ratio: ours / peer, better })
    }
}

/// The middle of the values, which are sorted on the way.
pub(crate) fn median(values: &mut [f64]) -> Result<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().context("nothing was measured")
}

/// All comparisons of a run.
#[derive(Default)]
pub(crate) struct Results(Vec<Comparison>);

impl Results {
    pub(crate) fn add(&mut self, comparison: Comparison) {
        self.0.push(comparison);
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, serde_json::to_vec_pretty(&self.0)?)
            .with_context(|| format!("writing {}", path.display()))
    }

    pub(crate) fn print(&self) {
        println!("{:<38} {:>12} {:>12} {:>7}  better  peer", "benchmark", "ours", "peer", "ratio");
        for c in &self.0 {
            let Comparison { id, ours, peer, ratio, better, peer_name, what } = c;
            println!("{id:<38} {ours:>12.1} {peer:>12.1} {ratio:>7.2}  {better:<6}  {peer_name}");
            println!("    {what}");
        }
    }
}
