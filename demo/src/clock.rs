//! The time of the replay: trace time as a straight line over real time, the same for every process of the demo.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use chrono::{DateTime, SecondsFormat, Utc};

/// Trace time that runs faster than real time.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    trace_start: DateTime<Utc>,
    /// Real time, seconds of the Unix epoch, at which the trace starts.
    real_start: f64,
    rate: f64,
}

impl Clock {
    /// Starts the trace at `trace_start` in `lead` of real time from now, `rate` times as fast as it happened.
    pub(crate) fn starting_in(lead: Duration, trace_start: DateTime<Utc>, rate: f64) -> Result<Self> {
        let real_start =
            (SystemTime::now() + lead).duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
        Ok(Self { trace_start, real_start: real_start.as_secs_f64(), rate })
    }

    /// The form of the `--clock` flag.
    pub(crate) fn to_flag(&self) -> String {
        let start = self.trace_start.to_rfc3339_opts(SecondsFormat::Secs, true);
        format!("replay:{start}@{:.3}*{}", self.real_start, self.rate)
    }

    /// Trace time now.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        let passed = (self.real_now() - self.real_start) * self.rate;
        self.trace_start + chrono::Duration::microseconds((passed * 1e6) as i64)
    }

    /// Waits until trace time has come to `at`.
    pub(crate) async fn reached(&self, at: DateTime<Utc>) {
        let trace = (at - self.trace_start).as_seconds_f64();
        let wait = self.real_start + trace / self.rate - self.real_now();
        if wait > 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(wait)).await;
        }
    }

    fn real_now(&self) -> f64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |passed| passed.as_secs_f64())
    }
}
