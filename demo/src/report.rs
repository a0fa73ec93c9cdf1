//! The tables at the end.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::calls::EDGES;
use crate::cpu::OriginCpu;
use crate::edges::{Edge, RUNS, Run};
use crate::peers::Peer;
use crate::replay::{Observed, Source};
use crate::verdicts::Verdicts;

/// What one run was like for the functions at one edge (or at all).
#[derive(Debug, Clone, PartialEq)]
struct Summary {
    invocations: usize,
    /// Shares of answers from prefetch, reactive, origin.
    shares: [f64; 3],
    /// p50, p95, p99.
    waits: [Duration; 3],
}

impl Summary {
    fn of<'a>(observed: impl Iterator<Item = &'a Observed>) -> Self {
        let mut waits = Vec::new();
        let mut counts = [0usize; 3];
        for seen in observed.filter(|seen| seen.own.is_none()) {
            waits.push(seen.received - seen.sent);
            counts[seen.source as usize] += 1;
        }
        waits.sort_unstable();
        let share = |count: usize| if waits.is_empty() { 0.0 } else { count as f64 / waits.len() as f64 };
        Self {
            invocations: waits.len(),
            shares: counts.map(share),
            waits: [50, 95, 99].map(|percent| percentile(&waits, percent)),
        }
    }
}

/// The smallest value that at least this share of all values does not exceed.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// The report in words, and whether prefetching was worth it everywhere.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) text: String,
    /// The p95 wait, peer ÷ prefetching: the smallest of all edges.
    pub(crate) p95_ratio: f64,
    /// What the two runs came to over all edges.
    pub(crate) totals: [Total; 2],
}

/// What a run came to over all edges.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Total {
    /// p50, p95, p99 of what calls waited, milliseconds.
    pub(crate) waits_ms: [f64; 3],
    /// Calls that waited for the origin.
    pub(crate) misses: f64,
    /// Bytes of copies fetched.
    pub(crate) bytes: f64,
    /// Seconds of CPU that the origin's processes spent on its edges during the day.
    pub(crate) origin_cpu: f64,
    /// The same for the planner, where there is one.
    pub(crate) planner_cpu: f64,
    pub(crate) stale: usize,
}

impl Total {
    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let [p50, p95, p99] = self.waits_ms;
        json!({
            "p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "misses": self.misses, "bytes": self.bytes,
            "origin_cpu_s": self.origin_cpu, "planner_cpu_s": self.planner_cpu, "stale": self.stale,
        })
    }
}

/// Makes the tables, one for each edge and one for all.
pub(crate) async fn report(
    edges: &[Edge],
    observed: &[Observed],
    verdicts: &Verdicts,
    against: Peer,
    cpu: &OriginCpu,
) -> Result<Report> {
    let mut text = String::new();
    let mut p95_ratio = f64::INFINITY;
    let mut all = [Moved::default(); 2];
    for (number, edge) in edges.iter().enumerate() {
        let summaries = RUNS
            .map(|run| Summary::of(observed.iter().filter(|seen| seen.edge == number && seen.run == run)));
        p95_ratio = p95_ratio.min(ratio(&summaries));
        table(&mut text, EDGES[number], against, &summaries);
        let moved = [Moved::by(edge, Run::Prefetch).await?, Moved::by(edge, Run::Peer).await?];
        for (all, (moved, summary)) in all.iter_mut().zip(moved.iter().zip(&summaries)) {
            all.add(moved, summary);
        }
        let kib = |bytes: f64| format!("{:.0} KiB", bytes / 1024.0);
        row(&mut text, "fetches", &moved.map(|m| format!("{:.0}", m.fetches)));
        row(&mut text, "bytes fetched", &moved.map(|m| kib(m.ahead + m.on_demand)));
        row(&mut text, "  prefetched", &moved.map(|m| kib(m.ahead)));
        row(
            &mut text,
            "  never used",
            &moved.map(|m| format!("{:.1} %", 100.0 * m.unused / m.ahead.max(1.0))),
        );
        row(&mut text, "stale answers", &RUNS.map(|run| verdicts.stale_at(number, run).to_string()));
        let _ = writeln!(text, "  p95 wait {:.1} times lower with prefetching\n", ratio(&summaries));
    }
    let [ours, peer] = all;
    let _ = writeln!(
        text,
        "  all edges, against {}: {:.2} of its misses removed, {:+.0} % bytes, {:.2} times its fetches\n  origin CPU: {:.2} s for its edges and {:.2} s for planning, {:.2} s for those of {}\n",
        against.name(),
        1.0 - ours.misses / peer.misses.max(1.0),
        100.0 * ((ours.ahead + ours.on_demand) / (peer.ahead + peer.on_demand).max(1.0) - 1.0),
        ours.fetches / peer.fetches.max(1.0),
        cpu.of(Run::Prefetch),
        cpu.of_the_planner(),
        cpu.of(Run::Peer),
        against.name()
    );
    let total = |(run, moved): (Run, Moved)| Total {
        waits_ms: Summary::of(observed.iter().filter(|seen| seen.run == run))
            .waits
            .map(|wait| 1e3 * wait.as_secs_f64()),
        misses: moved.misses,
        bytes: moved.ahead + moved.on_demand,
        origin_cpu: cpu.of(run),
        planner_cpu: if run == Run::Prefetch { cpu.of_the_planner() } else { 0.0 },
        stale: (0..edges.len()).map(|number| verdicts.stale_at(number, run)).sum(),
    };
    Ok(Report { text, p95_ratio, totals: [(Run::Prefetch, ours), (Run::Peer, peer)].map(total) })
}

/// All that was compared in one table: for each replay, what prefetching by schedule came to, and its peer.
pub(crate) fn compared(replays: &[(Peer, [Total; 2])]) -> String {
    let mut text = String::from(
        "                          wait p50      p95       p99    misses       bytes  origin CPU  planner  stale\n",
    );
    for (against, totals) in replays {
        for (name, total) in ["prefetching", against.name()].into_iter().zip(totals) {
            let [p50, p95, p99] = total.waits_ms.map(|ms| format!("{ms:.2} ms"));
            let bytes = format!("{:.0} KiB", total.bytes / 1024.0);
            let [cpu, planner] = [total.origin_cpu, total.planner_cpu].map(|s| format!("{s:.2} s"));
            let _ = writeln!(
                text,
                "  {name:<20}{p50:>12}{p95:>10}{p99:>10}{:>9.0}{bytes:>13}{cpu:>11}{planner:>9}{:>7}",
                total.misses, total.stale
            );
        }
        text.push('\n');
    }
    text
}

/// What a run asked of the origin, as its sidecars counted it.
#[derive(Debug, Clone, Copy, Default)]
struct Moved {
    /// Bytes of copies fetched ahead of demand, and of these gone without being served.
    ahead: f64,
    unused: f64,
    /// Bytes of copies fetched because a call waited.
    on_demand: f64,
    fetches: f64,
    /// Calls that waited for the origin.
    misses: f64,
}

impl Moved {
    async fn by(edge: &Edge, run: Run) -> Result<Self> {
        let sidecar = edge.sidecar(run);
        Ok(Moved {
            ahead: sidecar.metric("foreshard_prefetch_bytes_total").await?,
            unused: sidecar.metric("foreshard_prefetch_unused_bytes_total").await?,
            on_demand: sidecar.metric("foreshard_demand_bytes_total").await?,
            fetches: sidecar.metric("foreshard_fetches_total").await?,
            misses: 0.0,
        })
    }

    fn add(&mut self, other: &Moved, summary: &Summary) {
        self.ahead += other.ahead;
        self.unused += other.unused;
        self.on_demand += other.on_demand;
        self.fetches += other.fetches;
        self.misses += summary.shares[Source::Origin as usize] * summary.invocations as f64;
    }
}

/// The p95 wait of the peer ÷ that of the prefetching run.
fn ratio([prefetch, peer]: &[Summary; 2]) -> f64 {
    peer.waits[1].as_secs_f64() / prefetch.waits[1].as_secs_f64().max(1e-9)
}

fn table(text: &mut String, edge: &str, against: Peer, summaries: &[Summary; 2]) {
    let cells = |cell: &dyn Fn(&Summary) -> String| [cell(&summaries[0]), cell(&summaries[1])];
    row(text, edge, &["prefetching".to_owned(), against.name().to_owned()]);
    row(text, "invocations", &cells(&|summary| summary.invocations.to_string()));
    for (source, name) in
        [(Source::Prefetch, "prefetch"), (Source::Reactive, "reactive"), (Source::Origin, "origin")]
    {
        let label = format!("  from {name}");
        row(text, &label, &cells(&|summary| format!("{:.1} %", 100.0 * summary.shares[source as usize])));
    }
    for (position, name) in ["p50", "p95", "p99"].into_iter().enumerate() {
        let label = format!("wait {name}");
        row(
            text,
            &label,
            &cells(&|summary| format!("{:.2} ms", 1e3 * summary.waits[position].as_secs_f64())),
        );
    }
}

fn row(text: &mut String, label: &str, cells: &[String; 2]) {
    let _ = writeln!(text, "  {label:<16}{:>16}{:>16}", cells[0], cells[1]);
}

/// Where the answers of each kind of function came from, over all edges.
pub(crate) fn by_function(observed: &[Observed]) -> String {
    let kind = |seen: &Observed| seen.function.split(':').next().unwrap_or_default().to_owned();
    let kinds: BTreeSet<String> = observed.iter().map(kind).collect();
    let mut text = String::new();
    for name in kinds {
        for run in RUNS {
            let summary = Summary::of(observed.iter().filter(|seen| seen.run == run && kind(seen) == name));
            let [prefetch, reactive, origin] = summary.shares.map(|share| format!("{:.1} %", 100.0 * share));
            let waits = summary.waits.map(|wait| format!("{:.1}", 1e3 * wait.as_secs_f64())).join(" / ");
            let _ = writeln!(
                text,
                "  {name:<14} {:<9} {:>5}: prefetch {prefetch:>7} reactive {reactive:>7} origin {origin:>7}   {waits} ms",
                format!("{run:?}").to_lowercase(),
                summary.invocations
            );
        }
    }
    text
}

/// A line of what is known of a run so far.
pub(crate) fn so_far(run: Run, against: Peer, counts: [u64; 3]) -> String {
    let all: u64 = counts.iter().sum();
    let percent = |count: u64| (100 * count + all / 2).checked_div(all).unwrap_or(0);
    let name = match run {
        Run::Prefetch => "prefetching",
        Run::Peer => against.name(),
    };
    let [prefetch, reactive, origin] = counts.map(percent);
    format!("{name} {all}: {prefetch} % prefetch {reactive} % reactive {origin} % origin")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let waits: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&waits, 50), Duration::from_millis(100));
        assert_eq!(percentile(&waits, 95), Duration::from_millis(190));
        assert_eq!(percentile(&waits, 99), Duration::from_millis(198));
        assert_eq!(percentile(&waits[..1], 99), Duration::from_millis(1));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }
}
