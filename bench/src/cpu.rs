//! CPU time of a process.

use anyhow::{Context, Result};

/// Seconds that a process has computed, in user and kernel mode, in steps of 10 ms.
pub(crate) fn seconds_of(process: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).context("reading CPU time")?;
    // The name in parentheses may hold anything; user and system time are the 14th and 15th field of all.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11).take(2);
    let ticks = fields.map(str::parse::<f64>).sum::<Result<f64, _>>().context("reading CPU time")?;
    // The kernel reports in hundredths of a second whatever its own clock is.
    Ok(ticks / 100.0)
}
