//! Feeds the execution log to the engine: in order of time, with the edge's local time, and only what is believable.

use std::collections::BTreeMap;

use chrono::{DateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use foreshard_planner::{Engine, EngineConfig, Invocation};

use super::catalog::Catalog;
use super::settings::Settings;
use crate::clock::Clock;

/// A place in the log: `(logged_xid, id)` in that order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cursor {
    pub(super) xid: i64,
    pub(super) id: i64,
}

/// One execution.
#[derive(Clone, Debug)]
pub(super) struct LogRow {
    pub(super) edge: String,
    pub(super) function: String,
    /// Unix seconds.
    pub(super) started_at: i64,
    pub(super) shards: Vec<String>,
}

/// Where an edge's local time comes from.
#[derive(Clone, Copy, Debug)]
enum LocalTime {
    Zone(Tz),
    /// Minutes east of UTC.
    Fixed(i32),
}

impl LocalTime {
    fn offset_minutes(self, at: DateTime<Utc>) -> i32 {
        match self {
            LocalTime::Zone(zone) => {
                zone.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc() / 60
            }
            LocalTime::Fixed(minutes) => minutes,
        }
    }
}

/// An edge ships its log in batches; after so much real time all of it should have arrived.
const SHIPPING: f64 = 3.0;
/// Executions so far ahead of the clock (seconds) are not believed.
const AHEAD: i64 = 120;
/// Predictions to learn from per tick, while catching up with history more than two weeks old, with recent history, and
/// with the present.
const OLD: usize = 60;
const RECENT: usize = 300;
const PRESENT: usize = 20_000;

/// The engine and where it is in the log.
#[derive(Debug)]
pub(super) struct Learner {
    engine: Engine,
    cursor: Option<Cursor>,
    timezones: BTreeMap<String, Tz>,
    local: BTreeMap<String, LocalTime>,
    /// Day for which the edges' offsets were last set.
    day: i64,
    /// Seconds (of the clock) that the log may lag behind.
    shipping: i64,
    /// Latest execution seen of each edge, Unix seconds.
    latest: BTreeMap<String, i64>,
    unbelievable: u64,
}

impl Learner {
    pub(super) fn new(settings: &Settings) -> Self {
        let window = (settings.window / 60).clamp(1, 360) as u32;
        let config = EngineConfig {
            // The log lags, so a window may end later than its length from the last minute known.
            horizons: vec![window, window * 2, window * 4],
            tick_minutes: (settings.every / 60).clamp(1, 15) as u32,
            ..EngineConfig::default()
        };
        let engine = Engine::new(config).expect("horizons and tick derive from checked settings");
        Learner {
            engine,
            cursor: None,
            timezones: settings.timezones.clone(),
            local: BTreeMap::new(),
            day: i64::MIN,
            shipping: (SHIPPING * rate(&settings.clock)).clamp(1.0, 6.0 * 3600.0) as i64,
            latest: BTreeMap::new(),
            unbelievable: 0,
        }
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Up to where the log was read, if it was.
    pub(super) fn cursor(&self) -> Option<Cursor> {
        self.cursor
    }

    pub(super) fn read_up_to(&mut self, cursor: Cursor) {
        self.cursor = Some(self.cursor.unwrap_or_default().max(cursor));
    }

    /// Executions whose time was too far ahead to be believed.
    pub(super) fn unbelievable(&self) -> u64 {
        self.unbelievable
    }

    /// Takes over where the edges are, and thereby their local time.
    pub(super) fn locate(&mut self, catalog: &Catalog, now: DateTime<Utc>) {
        for edge in &catalog.edges {
            let local = match (self.timezones.get(&edge.name), edge.longitude) {
                (Some(&zone), _) => LocalTime::Zone(zone),
                // Nautical time: close enough for seasons that repeat every day.
                (None, Some(east)) if east.is_finite() => {
                    LocalTime::Fixed((east.clamp(-180.0, 180.0) / 15.0).round() as i32 * 60)
                }
                _ => LocalTime::Fixed(0),
            };
            self.local.insert(edge.name.clone(), local);
        }
        if self.cursor.is_some() {
            self.set_offsets(now);
        }
    }

    fn set_offsets(&mut self, at: DateTime<Utc>) {
        for (edge, local) in &self.local {
            self.engine.set_utc_offset(edge, local.offset_minutes(at));
        }
    }

    /// Learns from one execution. Executions should come in order of time, by and large.
    pub(super) fn learn(&mut self, row: &LogRow, now: DateTime<Utc>) {
        if row.started_at > now.timestamp() + AHEAD {
            self.unbelievable += 1;
            return;
        }
        let minute = row.started_at.div_euclid(60);
        let day = minute.div_euclid(1440);
        if day > self.day {
            self.day = day;
            self.set_offsets(DateTime::from_timestamp(row.started_at, 0).unwrap_or(now));
        }
        self.advance(minute - 1, now);
        self.engine.observe(&Invocation {
            edge: &row.edge,
            function: &row.function,
            minute,
            calls: 1,
            instances: &row.shards,
        });
        if let Some(latest) = self.latest.get_mut(&row.edge) {
            *latest = (*latest).max(row.started_at);
        } else if self.latest.len() < self.engine.config().max_edges {
            self.latest.insert(row.edge.clone(), row.started_at);
        }
    }

    /// Brings the engine's clock as close to the present as the log is known to be complete: where nothing arrived for
    /// long, nothing happened; else up to what has arrived from every edge.
    pub(super) fn settle(&mut self, now: DateTime<Utc>) {
        let surely = now.timestamp() - self.shipping;
        let arrived = self.latest.values().copied().filter(|&at| at >= surely).min();
        let complete = arrived.unwrap_or(surely).min(now.timestamp());
        self.advance(complete.div_euclid(60) - 1, now);
    }

    fn advance(&mut self, minute: i64, now: DateTime<Utc>) {
        let age = now.timestamp().div_euclid(60) - minute;
        let budget = if age <= 180 {
            PRESENT
        } else if age <= 14 * 1440 {
            RECENT
        } else {
            OLD
        };
        let predictions = self.engine.histories() * self.engine.config().horizons.len();
        self.engine.advance(minute, predictions.div_ceil(budget).max(1) as u32);
    }
}

/// How many seconds of the clock pass in one real second.
fn rate(clock: &Clock) -> f64 {
    let ahead = TimeDelta::days(1);
    let real = clock.until(clock.now() + ahead).as_secs_f64();
    ahead.as_seconds_f64() / real.max(1e-3)
}
