//! The planner: started early enough to have learned when the replayed day begins.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use foreshard_tests::{Cluster, Planner, eventually};

use crate::clock::Clock;

/// Settings of the planner, in seconds of trace time: a round each 300 (a third of a real second) for the next half hour,
/// and what a fetch over the link takes.
const PLAN: [&str; 6] = ["--every", "300", "--window", "3600", "--publish-lead", "120"];

/// What the planner writes once it has read the log that was there when it started.
const LEARNED: &str = "learned from the execution log";

/// Real time that is left for the sidecars to start in, once the planner has learned.
const SIDECARS: Duration = Duration::from_secs(5);

/// First guess of how long learning takes, and the longest that is tried.
const FIRST_LEAD: Duration = Duration::from_secs(15);
const LONGEST_LEAD: Duration = Duration::from_secs(135);

/// A planner that has learned, and the clock that it and everybody else follows: the day begins in a few seconds.
pub(crate) struct Learned {
    pub(crate) planner: Planner,
    pub(crate) clock: Clock,
    /// How long it took.
    pub(crate) took: Duration,
}

/// Starts the planner so that it has learned before trace time `start`. When the day is to begin has to be said before it is
/// known how long this machine needs to learn: on a slow one it is tried again with more time.
pub(crate) async fn learn(cluster: &Cluster, start: DateTime<Utc>, rate: f64) -> Result<Learned> {
    let mut lead = FIRST_LEAD;
    while lead <= LONGEST_LEAD {
        let began = Instant::now();
        let clock = Clock::starting_in(lead, start, rate)?;
        let mut planner =
            Planner::spawn(&cluster.url(), &[&["--clock", &clock.to_flag()], &PLAN[..]].concat())?;
        if learned_within(&mut planner, lead.saturating_sub(SIDECARS)).await? {
            return Ok(Learned { planner, clock, took: began.elapsed() });
        }
        lead *= 3;
    }
    bail!(
        "the planner could not learn from the log within {LONGEST_LEAD:?}: this machine is too slow, or too busy"
    )
}

/// Whether it learned in time; an error if it ended.
async fn learned_within(planner: &mut Planner, within: Duration) -> Result<bool> {
    let planner = std::cell::RefCell::new(planner);
    let learned = eventually("the planner learns", within, || async {
        let mut planner = planner.borrow_mut();
        if let Err(ended) = planner.process().must_be_alive() {
            return Ok(Some(Err(ended)));
        }
        Ok(planner.process().log_text().contains(LEARNED).then_some(Ok(())))
    });
    match learned.await {
        Ok(outcome) => outcome.context("foreshard plan").map(|()| true),
        Err(_too_late) => Ok(false),
    }
}
