//! What prefetching by schedule is compared with.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use chrono::{DateTime, Duration, Utc};
use serde_json::json;
use tokio_postgres::Client;

use crate::calls::{Call, EDGES};
use crate::edges::{Run, edge_name};

/// The same sidecar, set up in another way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Peer {
    /// `serve --prefetch off`: what a cache can do that learns of a call when it comes
    Reactive,
    /// `serve --prefetch off --reactive-bytes 0`: every call goes to the origin
    NoCache,
    /// No cache at the edge, and before it one that keeps every answer for 60 s of the day, as CDNs do
    Ttl,
    /// Everything that any call of the six weeks asked for there is scheduled, all day long
    Eager,
}

impl Peer {
    /// What the tables call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Reactive => "reactive only",
            Peer::NoCache => "no cache",
            Peer::Ttl => "TTL of 60 s",
            Peer::Eager => "everything ahead",
        }
    }

    /// How its sidecar is set up.
    pub(crate) fn arguments(self) -> &'static [&'static str] {
        match self {
            Peer::Reactive => &["--prefetch", "off"],
            Peer::NoCache | Peer::Ttl => &["--prefetch", "off", "--reactive-bytes", "0"],
            // What it does is not told to the planner, which would schedule for it, too.
            Peer::Eager => &["--log-interval", "24h"],
        }
    }

    /// Whether its answers may be stale, and carry no stamp.
    pub(crate) fn promises_nothing(self) -> bool {
        self == Peer::Ttl
    }

    /// How many times lower than its p95 wait that with prefetching has to be, at every edge. Who has everything waits for
    /// nothing: what that costs is the question there.
    pub(crate) fn p95_to_beat(self) -> f64 {
        if self == Peer::Eager { 0.0 } else { 2.0 }
    }
}

/// Schedules, for the peer at every edge, all that any of these calls read there.
pub(crate) async fn schedule_everything(db: &Client, calls: &[Call], start: DateTime<Utc>) -> Result<usize> {
    let (from, until) = (start - Duration::hours(1), start + Duration::hours(36));
    let mut count = 0;
    for (number, edge) in EDGES.into_iter().enumerate() {
        let mut read: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for call in calls.iter().filter(|call| call.edge == number) {
            read.entry(&call.function).or_default().extend(call.instances().into_iter().map(|(_, id)| id));
        }
        count += read.values().map(BTreeSet::len).sum::<usize>();
        let entries: Vec<_> = read
            .iter()
            .map(|(function, instances)| {
                json!({"function_id": function, "shard_list": instances, "confidence": 1.0})
            })
            .collect();
        let publish = "SELECT foreshard.publish_schedule($1, $2, $3, $4)";
        db.execute(publish, &[&edge_name(edge, Run::Peer), &from, &until, &json!(entries)])
            .await
            .with_context(|| format!("everything for {edge}"))?;
    }
    Ok(count)
}
