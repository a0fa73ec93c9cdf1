//! What the origin spends on whom: CPU time of PostgreSQL's processes, by the role they serve.

use std::collections::HashMap;

use anyhow::{Context, Result};
use tokio_postgres::Client;

use crate::calls::EDGES;
use crate::edges::{RUNS, Run, role};

/// Clock ticks per second in /proc, on every Linux there is.
const TICKS: f64 = 100.0;

/// What the planner calls itself at the origin.
const PLANNER: &str = "foreshard plan";

/// CPU time of the processes that served each run, their edges' streams, fetches and logs, and the planner, also of those that
/// are gone.
#[derive(Debug, Default)]
pub(crate) struct OriginCpu {
    /// By process: whose edges it serves (nobody's: the planner's), what it had used when the day began and when it was last seen.
    seen: HashMap<i32, (Option<Run>, u64, u64)>,
}

impl OriginCpu {
    /// Looks at all processes. What one used after it was last looked at, before it ended, is missed.
    pub(crate) async fn look(&mut self, db: &Client) -> Result<()> {
        let serving = "SELECT pid, CASE application_name WHEN $1 THEN $1 ELSE usename::text END
             FROM pg_stat_activity WHERE backend_type IN ('client backend', 'walsender')";
        let mut roles: Vec<(String, Option<Run>)> =
            EDGES.iter().flat_map(|edge| RUNS.map(|run| (role(edge, run), Some(run)))).collect();
        roles.push((PLANNER.to_owned(), None));
        for row in db.query(serving, &[&PLANNER]).await? {
            let (pid, name): (i32, &str) = (row.get(0), row.get(1));
            let Some((_, run)) = roles.iter().find(|(role, _)| role == name) else { continue };
            // One that ended since has nothing more to say.
            let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            let used = ticks(&stat).with_context(|| format!("/proc/{pid}/stat: {stat}"))?;
            self.seen.entry(pid).or_insert((*run, 0, used)).2 = used;
        }
        Ok(())
    }

    /// From here on counts what comes: what was used before is not part of the day.
    pub(crate) fn begin(&mut self) {
        self.seen.values_mut().for_each(|(_, before, now)| *before = *now);
    }

    /// Seconds of CPU spent on the edges of a run.
    pub(crate) fn of(&self, run: Run) -> f64 {
        self.seconds(Some(run))
    }

    /// Seconds of CPU spent on the planner.
    pub(crate) fn of_the_planner(&self) -> f64 {
        self.seconds(None)
    }

    fn seconds(&self, of: Option<Run>) -> f64 {
        let ticks: u64 =
            self.seen.values().filter(|seen| seen.0 == of).map(|(_, before, now)| now - before).sum();
        ticks as f64 / TICKS
    }
}

/// User and system time in the contents of /proc/PID/stat, in ticks. The name, in brackets, may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_confuses_nothing() {
        let stat = "42 (postgres: edge_ewr (a) b) S 1 42 42 0 -1 4194560 1043 0 5 0 17 25 0 0 20 0 1 0 99";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("42 postgres"), None);
    }
}
