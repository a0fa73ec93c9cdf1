use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use foreshard_edge::{Refused, Stats};

use super::App;

/// A counter: name, meaning, samples as labels and value.
type Counter = (&'static str, &'static str, Vec<(&'static str, u64)>);

/// `GET /metrics`, in Prometheus' text format.
pub(super) async fn get(State(app): State<Arc<App>>) -> impl IntoResponse {
    let (stats, gauges, ready) =
        app.shared.look(|core, now| (core.stats().clone(), core.gauges(now), core.is_ready(now)));
    let mut out = String::new();
    let shell = [
        (
            "executions_logged_total",
            "executions written to the origin",
            app.shared.executions_logged.load(Ordering::Relaxed),
        ),
        (
            "executions_dropped_total",
            "executions dropped because the buffer was full",
            app.shared.executions_dropped.load(Ordering::Relaxed),
        ),
        (
            "stream_connects_total",
            "times the change stream was connected",
            app.shared.stream_connects.load(Ordering::Relaxed),
        ),
        (
            "cache_failures_total",
            "times the persistent cache could not be written",
            app.shared.cache_failures.load(Ordering::Relaxed),
        ),
    ];
    let shell = shell.into_iter().map(|(name, help, value)| (name, help, vec![("", value)]));
    for (name, help, times) in [
        (
            "pasts_lost_total",
            "times the stream could not go on where it was, by reason",
            app.shared.pasts_lost(),
        ),
        (
            "origin_failures_total",
            "times the stream or the control connection ended or could not be made, by reason",
            app.shared.origin_failures(),
        ),
    ] {
        let _ = write!(out, "# HELP foreshard_{name} {help}\n# TYPE foreshard_{name} counter\n");
        for (reason, times) in times {
            let _ = writeln!(out, "foreshard_{name}{{reason=\"{reason}\"}} {times}");
        }
    }
    for (name, help, samples) in counters(&stats).into_iter().chain(shell) {
        // Writing to a String can't fail.
        let _ = write!(out, "# HELP foreshard_{name} {help}\n# TYPE foreshard_{name} counter\n");
        for (labels, value) in samples {
            let _ = writeln!(out, "foreshard_{name}{labels} {value}");
        }
    }
    for (name, value) in gauges.into_iter().chain([("ready", f64::from(u8::from(ready)))]) {
        let _ = write!(out, "# TYPE foreshard_{name} gauge\nforeshard_{name} {value}\n");
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], out)
}

fn counters(stats: &Stats) -> Vec<Counter> {
    let one = |value| vec![("", value)];
    let refused = |reason| stats.deltas_refused.get(&reason).copied().unwrap_or_default();
    vec![
        (
            "served_total",
            "shard copies served, by where they came from",
            vec![
                ("{from=\"prefetch\"}", stats.served_prefetch),
                ("{from=\"reactive\"}", stats.served_reactive),
                ("{from=\"origin\"}", stats.served_origin),
            ],
        ),
        (
            "served_beyond_total",
            "requests answered from the origin of a position that the stream had not reached",
            one(stats.served_beyond),
        ),
        ("refused_total", "requests that waited in vain", one(stats.refused)),
        ("frames_total", "stream frames applied", one(stats.frames)),
        ("frames_repeated_total", "stream frames that had been applied before", one(stats.frames_repeated)),
        ("invalidated_total", "copies dropped because the origin changed", one(stats.invalidated)),
        ("refreshed_total", "of these, wanted ones fetched again", one(stats.refreshed)),
        ("let_go_total", "of these, wanted ones that a fetch would not pay for", one(stats.let_go)),
        ("deltas_applied_total", "copies kept current in place by row changes", one(stats.deltas_applied)),
        (
            "deltas_completed_total",
            "fetched instances completed with row changes that their snapshot lacked",
            one(stats.deltas_completed),
        ),
        (
            "deltas_refused_total",
            "copies dropped because they could not take row changes, by reason",
            vec![
                ("{reason=\"generation\"}", refused(Refused::Generation)),
                ("{reason=\"columns\"}", refused(Refused::Columns)),
                ("{reason=\"identity\"}", refused(Refused::Identity)),
                ("{reason=\"order\"}", refused(Refused::Order)),
                ("{reason=\"malformed\"}", refused(Refused::Malformed)),
                ("{reason=\"budget\"}", refused(Refused::Budget)),
            ],
        ),
        ("explored_total", "copies fetched ahead to try what is not believed enough", one(stats.explored)),
        ("explored_used_total", "of these, served while they were scheduled", one(stats.explored_used)),
        ("promoted_total", "copies on demand that moved to the prefetch cache", one(stats.promoted)),
        ("doubts_total", "times another origin answered than the one that was streamed", one(stats.doubts)),
        (
            "rejected_by_snapshot_total",
            "fetched instances whose snapshot lacked a delivered transaction",
            one(stats.rejected_by_snapshot),
        ),
        ("prefetch_bytes_total", "bytes of copies fetched ahead of demand", one(stats.prefetch_bytes)),
        ("prefetch_copies_total", "copies fetched ahead of demand", one(stats.prefetch_copies)),
        (
            "prefetch_unused_bytes_total",
            "bytes fetched ahead of demand that left the cache unused",
            one(stats.prefetch_unused_bytes),
        ),
        ("demand_bytes_total", "bytes of copies fetched on demand", one(stats.demand_bytes)),
        (
            "fetches_total",
            "fetches started",
            vec![
                ("{kind=\"prefetch\"}", stats.prefetch_fetches),
                ("{kind=\"demand\"}", stats.demand_fetches),
            ],
        ),
        ("fetch_errors_total", "fetches that failed as a whole", one(stats.fetch_errors)),
        ("evicted_total", "copies dropped to stay within a byte budget", one(stats.evicted)),
        ("schedules_total", "schedules received", one(stats.schedules)),
        (
            "schedule_entries_dropped_total",
            "schedule entries dropped: low confidence, unknown or not readable",
            one(stats.schedule_entries_dropped),
        ),
        ("warm_copies_total", "copies taken over from a predecessor", one(stats.warm_copies)),
        ("resets_total", "times every copy was dropped because the stream lost its past", one(stats.resets)),
    ]
}
