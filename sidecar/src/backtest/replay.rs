//! Replays a trace: feeds the engine and the baselines minute by minute, and keeps what they said.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::bail;
use foreshard_planner::measure::{Baseline, Baselines, Grid};
use foreshard_planner::{Engine, EngineConfig, Horizon, Invocation, Prediction};

use super::predictions::PredictionsFile;
use super::trace::Trace;

/// The method that all the others are for comparison with.
pub(super) const OURS: &str = "foreshard";
/// The strongest of the others on most traces: how probable a call is after so long a pause.
pub(super) const HAZARD: &str = "idle-time hazard";

/// What to replay and score.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) score_from: i64,
    pub(super) step: i64,
    /// Horizons asked for, minutes.
    pub(super) horizons: Vec<u32>,
    /// Further horizons that the replays of a cache need, minutes.
    pub(super) further: Vec<u32>,
}

impl Plan {
    /// All horizons, those asked for first.
    pub(super) fn all_horizons(&self) -> Vec<u32> {
        self.horizons.iter().chain(&self.further).copied().collect()
    }
}

/// A way to predict and what it said.
#[derive(Debug)]
pub(super) struct Method {
    pub(super) name: &'static str,
    /// One for each of the plan's horizons.
    pub(super) grids: Vec<Grid>,
}

/// Everything that a replay yields.
#[derive(Debug)]
pub(super) struct Outcome {
    /// foreshard, the plain hazard, and the baselines unless the trace is too large for them.
    pub(super) methods: Vec<Method>,
    /// Functions at edges times ticks times horizons, before the scored part.
    pub(super) windows: u64,
    /// Time that the engine took for those.
    pub(super) engine: Duration,
    /// Bytes that the engine keeps per function at an edge.
    pub(super) bytes_per_function: usize,
    /// Calls that the engine did not take.
    pub(super) left_out: u64,
}

/// Cells of all grids together: two GB.
const MOST_CELLS: usize = 500_000_000;

/// Histories that the engine may keep. Twice as many as functions at edges that are looked at before they have run there: no matter of what
/// else is in the trace, or what is said would depend on what comes later.
const MOST_HISTORIES: usize = 1 << 22;

/// Minutes between ticks: the largest divisor of the step up to five.
fn tick_for(step: i64) -> i64 {
    (1..=5).rev().find(|t| step % t == 0).unwrap_or(1)
}

/// Minutes of a pause that are gone through before what is scored: as many as a planner makes up for.
const LONGEST_PAUSE: i64 = 30 * 1440;

/// The minute to go on with at `minute`, when the next call is in the minute `next`.
fn after_pause(minute: i64, next: i64, score_from: i64) -> i64 {
    minute.max((next - LONGEST_PAUSE).min(score_from))
}

/// The cells of one method, if there is room for those of the two that are always scored.
fn cells(trace: &Trace, plan: &Plan) -> anyhow::Result<usize> {
    let (first, last) = trace.span();
    let decisions = usize::try_from((last - plan.score_from) / plan.step + 1).ok();
    let horizons = plan.all_horizons().len();
    let cells = decisions.and_then(|d| d.checked_mul(trace.pairs.len())?.checked_mul(horizons));
    if let Some(cells) = cells.filter(|c| c.checked_mul(2).is_some_and(|both| both <= MOST_CELLS)) {
        return Ok(cells);
    }
    let most = MOST_CELLS / 2 / (trace.pairs.len() * horizons).max(1);
    // A minute that is further from all others than they are from each other is hardly one that was meant.
    let mut minutes: Vec<i64> = trace.rows.iter().map(|r| r.minute).collect();
    minutes.dedup();
    let gap = minutes
        .windows(2)
        .max_by_key(|pair| pair[1] - pair[0])
        .filter(|pair| (pair[1] - pair[0]) * 2 > last - first);
    let outlying = gap.map_or_else(String::new, |gap| {
        let before = minutes.partition_point(|&m| m <= gap[0]);
        let (alone, others) = if before * 2 < minutes.len() { (gap[0], gap[1]) } else { (gap[1], gap[0]) };
        format!(" Minute {alone} is {} minutes away from minute {others}, the nearest other one: if it is a mistake, take it out.", gap[1] - gap[0])
    });
    bail!(
        "there is no room to score {} functions at edges from minute {} to {last} every {} min: at most {most} decisions fit.{outlying} Raise \
         --score-from or --step, or ask for fewer horizons.",
        trace.pairs.len(),
        plan.score_from,
        plan.step
    )
}

/// Runs the whole trace through a fresh engine.
pub(super) fn replay(
    trace: &Trace,
    plan: &Plan,
    mut file: Option<&mut PredictionsFile>,
) -> anyhow::Result<Outcome> {
    let tick = tick_for(plan.step);
    let lengths = plan.all_horizons();
    let horizons: Vec<Horizon> = lengths.iter().map(|&h| Horizon::within(h)).collect();
    let mut engine = Engine::new(EngineConfig {
        horizons: horizons.clone(),
        tick_minutes: tick as u32,
        max_histories: MOST_HISTORIES,
        max_edges: trace.pairs.len(),
        ..EngineConfig::default()
    })?;
    let (first, last) = trace.span();
    let mut names = vec![OURS, HAZARD];
    let cells = cells(trace, plan)?;
    let mut baselines = None;
    if cells.saturating_mul(names.len() + Baseline::ALL.len()) <= MOST_CELLS {
        names.extend(Baseline::ALL.map(Baseline::name));
        baselines = Some(Baselines::new(trace.pairs.len(), &horizons));
    }
    let grid = || Grid::new(trace.pairs.len(), plan.score_from, plan.step, last);
    let method = |name| Method { name, grids: lengths.iter().map(|_| grid()).collect() };
    let mut methods: Vec<Method> = names.into_iter().map(method).collect();
    let (mut windows, mut spent) = (0u64, Duration::ZERO);
    let mut rows = trace.rows.iter().peekable();
    let mut progress = Progress::new(first, last);
    let mut places = Places::default();
    let mut minute = first - 1;
    while minute < last {
        minute += 1;
        if let Some(row) = rows.peek() {
            minute = after_pause(minute, row.minute, plan.score_from);
        }
        let begun = Instant::now();
        let from = rows.clone();
        while let Some(row) = rows.next_if(|r| r.minute == minute) {
            let (function, edge) = &trace.pairs[row.pair as usize];
            engine.observe::<&str>(&Invocation { edge, function, minute, calls: row.count, instances: &[] });
        }
        let observing = begun.elapsed();
        if let Some(baselines) = &mut baselines {
            from.take_while(|r| r.minute == minute).for_each(|r| baselines.observe(r.pair as usize, minute));
            baselines.end_minute(minute);
        }
        if (minute - plan.score_from).rem_euclid(tick) != 0 {
            continue;
        }
        let scored = minute >= plan.score_from && (minute - plan.score_from) % plan.step == 0;
        if scored {
            let mut failed = Ok(());
            places.restart();
            engine.tick(
                minute,
                1,
                Some(&mut |prediction: Prediction<'_>| {
                    if let Some(pair) = places.of(trace, &prediction) {
                        for (i, (&p, &hazard)) in prediction.p.iter().zip(prediction.hazard).enumerate() {
                            methods[0].grids[i].set(pair, minute, p);
                            methods[1].grids[i].set(pair, minute, hazard);
                        }
                    }
                    if let (Ok(()), Some(file)) = (&failed, file.as_deref_mut()) {
                        failed = write(file, plan, minute, &prediction);
                    }
                }),
            );
            failed?;
        } else {
            // Only these are timed: the others also keep what was said and write files.
            let begun = Instant::now();
            engine.tick(minute, 1, None);
            spent += observing + begun.elapsed();
            windows += (engine.histories() * lengths.len()) as u64;
        }
        if let Some(baselines) = &mut baselines {
            baselines.tick(minute, |pair, place, said| {
                for (method, p) in methods[2..].iter_mut().zip(said) {
                    method.grids[place].set(pair, minute, p);
                }
            });
        }
        progress.at(minute);
    }
    progress.done();
    // What the replays of caches need besides is no part of what was asked for.
    let bytes_per_function = engine.bytes_with(plan.horizons.len()) / engine.histories().max(1);
    let counters = engine.counters();
    let left_out = counters.refused + counters.future + counters.too_old;
    Ok(Outcome { methods, windows, engine: spent, bytes_per_function, left_out })
}

fn write(
    file: &mut PredictionsFile,
    plan: &Plan,
    minute: i64,
    prediction: &Prediction<'_>,
) -> anyhow::Result<()> {
    for (&horizon, &p) in plan.horizons.iter().zip(prediction.p) {
        file.write(minute, prediction.function, prediction.edge, horizon, p)?;
    }
    Ok(())
}

/// Which pair of the trace each prediction is about. The engine goes through them in the same order each time, so that
/// the names need looking up once only.
#[derive(Default)]
struct Places {
    seen: Vec<Option<u32>>,
    at: usize,
}

impl Places {
    fn restart(&mut self) {
        self.at = 0;
    }

    fn of(&mut self, trace: &Trace, prediction: &Prediction<'_>) -> Option<usize> {
        let is = |pair: u32| {
            let (function, edge) = &trace.pairs[pair as usize];
            function == prediction.function && edge == prediction.edge
        };
        let known = self.seen.get(self.at).copied().flatten().filter(|&pair| is(pair));
        let pair = known.or_else(|| trace.pair(prediction.function, prediction.edge));
        if self.at >= self.seen.len() {
            self.seen.push(pair);
        } else {
            self.seen[self.at] = pair;
        }
        self.at += 1;
        pair.map(|p| p as usize)
    }
}

/// A line on the terminal that says how far the replay is; silent when nobody watches.
struct Progress {
    first: i64,
    length: i64,
    shown: i64,
}

impl Progress {
    fn new(first: i64, last: i64) -> Self {
        let watched = std::io::stderr().is_terminal();
        Progress { first, length: (last - first).max(1), shown: if watched { -1 } else { i64::MAX } }
    }

    fn at(&mut self, minute: i64) {
        let percent = (minute - self.first) * 100 / self.length;
        if percent > self.shown {
            self.shown = percent;
            let bar = "#".repeat(percent as usize / 2);
            eprint!("\rreplaying [{bar:<50}] {percent:>3} %");
            let _ = std::io::stderr().flush();
        }
    }

    fn done(&self) {
        if self.shown != i64::MAX {
            eprintln!();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_divide_the_step() {
        assert_eq!([1, 2, 5, 7, 12, 15, 30].map(tick_for), [1, 2, 5, 1, 4, 5, 5]);
    }

    fn plan(score_from: i64) -> Plan {
        Plan { score_from, step: 1, horizons: vec![1], further: vec![10] }
    }

    #[test]
    fn what_would_take_too_much_is_refused_and_the_minute_named() {
        let refused = |minutes: &[i64], from: i64| {
            let csv: String = minutes.iter().map(|m| format!("{m},f,1\n")).collect();
            let trace = Trace::parse(format!("minute,function_id,count\n{csv}").as_bytes()).unwrap();
            replay(&trace, &plan(from), None).unwrap_err().to_string()
        };
        let says = refused(&[0, 1, 2, 500_000_000], 2);
        assert!(
            says.contains("Minute 500000000 is 499999998 minutes away from minute 2")
                && says.contains("--score-from"),
            "{says}"
        );
        assert!(refused(&[-500_000_000, 1, 2, 3], -500_000_000).contains("Minute -500000000 is"));
        let even: Vec<i64> = (0..500).map(|i| i * 1_000_000).collect();
        let says = refused(&even, 0);
        assert!(says.contains("--step") && !says.contains("mistake"), "{says}");
    }

    #[test]
    fn a_long_pause_is_not_gone_through_minute_by_minute() {
        assert_eq!(
            [after_pause(5, 6, 100), after_pause(5, 43_205, 100), after_pause(5, 43_300, 1_000)],
            [5, 5, 100]
        );
        assert_eq!(after_pause(5, 400_000_000, 399_999_990), 399_956_800);
        assert_eq!(after_pause(5, 400_000_000, 90), 90, "what is scored is scored at every step");
        let trace = "minute,function_id,count\n0,f,1\n1,f,1\n400000000,f,1\n400000010,f,1\n400000030,f,1\n";
        let trace = Trace::parse(trace.as_bytes()).unwrap();
        let outcome = replay(&trace, &plan(400_000_005), None).unwrap();
        assert_eq!(outcome.methods[0].grids[0].row(0).count(), 26);
        assert_eq!(outcome.left_out, 0, "the clock is not so far behind that the calls are not believed");
    }

    #[test]
    fn what_is_said_does_not_depend_on_what_comes_after() {
        let csv = |until: i64| {
            let mut csv = "minute,function_id,count\n".to_owned();
            for minute in 0..until {
                for (every, phase) in [(7, 1), (30, 4), (61, 5)] {
                    if (minute * minute / 900 + minute) % every == phase {
                        csv += &format!("{minute},every{every},1\n");
                    }
                }
            }
            Trace::parse(csv.as_bytes()).unwrap()
        };
        let plan = Plan { score_from: 300, step: 1, horizons: vec![1, 5], further: vec![10] };
        let whole = csv(900);
        let whole = (replay(&whole, &plan, None).unwrap(), whole);
        let mut compared = 0;
        for cut in [400, 555, 700] {
            let short = csv(cut);
            let outcome = replay(&short, &plan, None).unwrap();
            for (all, part) in whole.0.methods.iter().zip(&outcome.methods) {
                for (all, part) in all.grids.iter().zip(&part.grids) {
                    for pair in 0..3 {
                        assert_eq!(whole.1.pairs[pair], short.pairs[pair]);
                        let known: Vec<_> = part.row(pair).collect();
                        compared += known.len();
                        let same = all.row(pair).take(known.len());
                        assert!(same.eq(known.iter().copied()), "{} cut at {cut}", all.pairs());
                    }
                }
            }
        }
        assert!(compared > 10_000, "{compared}");
    }

    #[test]
    fn what_is_written_does_not_depend_on_what_comes_after() {
        // Each function runs at one of many edges, and half of them for the first time after the cut: every function is looked at everywhere.
        const CUT: i64 = 60;
        let csv = |until: i64| {
            let mut csv = "minute,function_id,edge,count\n".to_owned();
            for minute in 0..until {
                for f in 0..60 {
                    if (minute + f) % 7 == 0 && (f % 2 == 0 || minute > CUT) {
                        csv += &format!("{minute},f{f},edge{},1\n", f / 2 % 20);
                    }
                }
            }
            Trace::parse(csv.as_bytes()).unwrap()
        };
        let dir = tempfile::tempdir().unwrap();
        let written = |until: i64| {
            let path = dir.path().join(until.to_string());
            let mut file = PredictionsFile::create(&path).unwrap();
            let plan = Plan { score_from: CUT - 20, step: 1, horizons: vec![1, 5], further: vec![] };
            replay(&csv(until), &plan, Some(&mut file)).unwrap();
            file.finish().unwrap();
            std::fs::read_to_string(path).unwrap()
        };
        let (short, whole) = (written(CUT + 1), written(CUT + 60));
        // 30 functions at 20 edges, at 21 minutes, within two horizons.
        assert_eq!(short.lines().count(), 1 + 30 * 20 * 21 * 2);
        assert!(whole.starts_with(&short), "{} lines and {}", short.lines().count(), whole.lines().count());
    }
}
