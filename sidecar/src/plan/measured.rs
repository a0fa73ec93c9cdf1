//! The control group, and what is measured: drawn before publishing, noted after, reported to the origin, shown as metrics.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use chrono::{DateTime, Utc};
use foreshard_planner::{EdgeSchedule, Scored};
use serde_json::{Value, json};
use tracing::warn;

use super::origin::Failure;
use super::{Planner, Session};

/// A function that an edge is not told of, at random.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Withheld {
    edge: String,
    function: String,
    window: (i64, i64),
    confidence: f64,
}

/// What was decided about each function of a schedule.
pub(super) struct Decided {
    window: (i64, i64),
    /// Function, confidence, whether it is withheld.
    functions: Vec<(String, f64, bool)>,
}

impl Planner {
    /// Takes the control group out of a schedule.
    pub(super) fn draw(&self, schedule: &mut EdgeSchedule, window: (i64, i64)) -> Decided {
        let mut functions: BTreeMap<&str, f64> = BTreeMap::new();
        for entry in &schedule.entries {
            let confidence = functions.entry(&entry.function_id).or_default();
            *confidence = confidence.max(entry.confidence);
        }
        let quality = &self.learner.quality;
        let functions = functions
            .into_iter()
            .map(|(f, p)| (f.to_owned(), p, quality.withheld(&schedule.edge, f, window.0)))
            .collect::<Vec<_>>();
        let withheld = |f: &str| functions.iter().any(|(name, _, withheld)| *withheld && name == f);
        if functions.iter().any(|f| f.2) {
            schedule.entries.retain(|e| !withheld(&e.function_id));
        }
        Decided { window, functions }
    }

    /// Notes what was decided, once it is published.
    pub(super) fn note(&mut self, edge: &str, decided: Decided) {
        for (function, p, withheld) in decided.functions {
            let first = self.learner.quality.decide(edge, &function, decided.window, p, withheld);
            if first && withheld {
                self.withheld_total += 1;
                self.withheld.push(Withheld {
                    edge: edge.to_owned(),
                    function,
                    window: decided.window,
                    confidence: p,
                });
            }
        }
    }

    /// Writes down at the origin what was measured and withheld since the last report.
    pub(super) async fn report(&mut self, session: &Session) -> Result<(), Failure> {
        let hours = self.learner.quality.take_hours();
        if hours.is_empty() && self.withheld.is_empty() {
            return Ok(());
        }
        let measures: Vec<Value> = hours.iter().map(|(edge, hour, s)| measure(edge, *hour, s)).collect();
        let withheld: Vec<Value> = self
            .withheld
            .iter()
            .map(|w| {
                json!({"edge": w.edge, "function_id": w.function, "starts_at": w.window.0, "ends_at": w.window.1,
                    "confidence": w.confidence})
            })
            .collect();
        match session.origin.report(&measures.into(), &withheld.into()).await {
            Ok(()) => self.withheld.clear(),
            // An older extension, or no right to it: planning needs neither, and metrics still tell.
            Err(failure) if failure.refused => {
                self.withheld.clear();
                if !std::mem::replace(&mut self.unreported, true) {
                    warn!("what schedules are worth is not written down: {failure}");
                }
            }
            Err(failure) => {
                hours.iter().for_each(|(edge, hour, s)| self.learner.quality.put_back(edge, *hour, s));
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Everything that `/metrics` says.
    pub(super) fn metrics(
        &self,
        leading: bool,
        published: usize,
        took: Duration,
        now: DateTime<Utc>,
    ) -> String {
        let engine = self.learner.engine();
        let counters = engine.counters();
        let (open, left_out) = self.learner.quality.open();
        let behind = engine.clock().map_or(0.0, |c| (now.timestamp() - (c + 1) * 60) as f64);
        let mut out = String::new();
        let plain = [
            ("plan_leading", "gauge", "1 while this planner publishes", f64::from(u8::from(leading))),
            ("plan_rounds_total", "counter", "rounds published", self.rounds as f64),
            ("plan_round_seconds", "gauge", "how long the last round took", took.as_secs_f64()),
            ("plan_entries", "gauge", "entries published in the last round", published as f64),
            ("plan_histories", "gauge", "histories kept", engine.histories() as f64),
            ("plan_engine_bytes", "gauge", "memory of the histories", engine.bytes() as f64),
            ("plan_log_behind_seconds", "gauge", "how far the complete log lies behind the clock", behind),
            ("plan_executions_total", "counter", "executions learned from", counters.accepted as f64),
            (
                "plan_executions_future_total",
                "counter",
                "executions not believed because they lie in the future",
                (counters.future + self.learner.unbelievable()) as f64,
            ),
            (
                "plan_executions_old_total",
                "counter",
                "executions too old to be of use",
                counters.too_old as f64,
            ),
            (
                "plan_executions_refused_total",
                "counter",
                "executions of an edge too many or with an absurd name",
                counters.refused as f64,
            ),
            ("plan_evicted_total", "counter", "histories given up to make room", counters.evicted as f64),
            (
                "plan_withheld_total",
                "counter",
                "functions withheld from a window at random",
                self.withheld_total as f64,
            ),
            ("plan_decisions_open", "gauge", "decisions whose window is not over", open as f64),
            (
                "plan_decisions_left_out_total",
                "counter",
                "decisions not measured for lack of room",
                left_out as f64,
            ),
        ];
        for (name, kind, help, value) in plain {
            head(&mut out, name, kind, help);
            let _ = writeln!(out, "foreshard_{name} {value}");
        }
        self.per_edge(&mut out);
        out
    }

    fn per_edge(&self, out: &mut String) {
        type Value = fn(&Scored) -> Option<f64>;
        let measures: [(&str, &str, &str, Value); 5] = [
            ("plan_brier", "gauge", "mean squared error of published confidences", Scored::brier),
            ("plan_ece", "gauge", "calibration error of published confidences", Scored::ece),
            (
                "plan_uplift",
                "gauge",
                "share of the control group's misses that scheduling removes",
                Scored::uplift,
            ),
            ("plan_came_true_total", "counter", "decisions in whose window the function ran", |s| {
                Some(s.came_true as f64)
            }),
            (
                "plan_wasted_bytes_total",
                "counter",
                "bytes fetched ahead for functions that did not run, as they usually read them",
                |s| Some(s.wasted_bytes as f64),
            ),
        ];
        for (name, kind, help, value) in measures {
            head(out, name, kind, help);
            for (edge, scored) in self.learner.quality.total() {
                if let Some(value) = value(scored) {
                    let _ = writeln!(out, "foreshard_{name}{{edge=\"{}\"}} {value}", label(edge));
                }
            }
        }
        type Count = fn(&foreshard_planner::Group) -> f64;
        let groups: [(&str, &str, Count); 4] = [
            ("plan_decisions_total", "decisions that are over", |g| g.decisions as f64),
            ("plan_runs_total", "executions within the windows of decisions", |g| g.executions as f64),
            ("plan_misses_total", "those that waited for the origin", |g| g.misses as f64),
            ("plan_wait_seconds_total", "how long they waited for their rows", |g| g.wait_us as f64 / 1e6),
        ];
        for (name, help, count) in groups {
            head(out, name, "counter", help);
            for (edge, scored) in self.learner.quality.total() {
                for (group, of) in [("scheduled", &scored.scheduled), ("control", &scored.control)] {
                    let (edge, value) = (label(edge), count(of));
                    let _ = writeln!(out, "foreshard_{name}{{edge=\"{edge}\",group=\"{group}\"}} {value}");
                }
            }
        }
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = write!(out, "# HELP foreshard_{name} {help}\n# TYPE foreshard_{name} {kind}\n");
}

/// A label's value as Prometheus' text format wants it.
fn label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn measure(edge: &str, hour: i64, s: &Scored) -> Value {
    json!({
        "edge": edge, "hour": hour, "decisions": s.decisions(), "came_true": s.came_true,
        "brier": s.brier().unwrap_or(0.0), "ece": s.ece().unwrap_or(0.0),
        "scheduled": s.scheduled.decisions, "scheduled_runs": s.scheduled.executions,
        "scheduled_misses": s.scheduled.misses, "scheduled_wait_us": s.scheduled.wait_us,
        "control": s.control.decisions, "control_runs": s.control.executions,
        "control_misses": s.control.misses, "control_wait_us": s.control.wait_us,
        "wasted_bytes": s.wasted_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        assert_eq!(label("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
