//! Feeds the execution log to the engine: in order of time, with the edge's local time, and only what is believable.

use std::collections::BTreeMap;

use chrono::{DateTime, FixedOffset, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use foreshard_planner::{
    Declaration, Engine, EngineConfig, Execution, Invocation, PREDICTIONS_PER_TICK, Quality, StateError,
};
use serde::{Deserialize, Serialize};

use super::catalog::Catalog;
use super::hints::Hint;
use super::settings::Settings;
use crate::clock::Clock;

/// A place in the log: `(logged_xid, id)` in that order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
    /// Whether it had to wait for the origin.
    pub(super) missed: bool,
    pub(super) wait_us: i64,
    pub(super) bytes: i64,
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

    /// The minutes that a hint names here in `[from, to)`, both Unix seconds.
    fn minutes_of(self, hint: &Hint, from: i64, to: i64) -> Vec<i64> {
        let (Some(from), Some(to)) = (DateTime::from_timestamp(from, 0), DateTime::from_timestamp(to, 0))
        else {
            return Vec::new();
        };
        match self {
            LocalTime::Zone(zone) => hint.minutes(&from.with_timezone(&zone), &to.with_timezone(&zone)),
            LocalTime::Fixed(minutes) => FixedOffset::east_opt(minutes * 60).map_or_else(Vec::new, |east| {
                hint.minutes(&from.with_timezone(&east), &to.with_timezone(&east))
            }),
        }
    }
}

/// An edge ships its log in batches; after so much real time (seconds) all of it should have arrived, at first and at
/// most. What is seen to arrive shows how long it really takes.
const SHIPPING: f64 = 3.0;
/// How many executions it takes to believe that the log arrives sooner than it used to.
const PATIENCE: i64 = 100;
/// Executions so far ahead of the clock (seconds) are not believed.
const AHEAD: i64 = 120;
/// Predictions to learn from per tick, while catching up with history more than two weeks old, with recent history, and
/// with the present.
const OLD: usize = 60;
const RECENT: usize = 300;
const PRESENT: usize = PREDICTIONS_PER_TICK;

/// Declared times are told again from so many seconds before the present: what became of them is not known yet.
const BACK: i64 = 3600;

/// Where a learner is in the log, and how the log comes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    cursor: Cursor,
    lag: i64,
    latest: BTreeMap<String, i64>,
}

/// A hint at one edge.
#[derive(Debug)]
struct Hinted {
    hint: Hint,
    edge: String,
    /// Unix seconds: earlier times say nothing about it.
    since: i64,
    /// What the function reads, as far as its mapping tells.
    instances: Vec<String>,
}

/// The engine and where it is in the log.
#[derive(Debug)]
pub(super) struct Learner {
    engine: Engine,
    cursor: Option<Cursor>,
    timezones: BTreeMap<String, Tz>,
    local: BTreeMap<String, LocalTime>,
    /// Hints, each for one edge.
    hints: Vec<Hinted>,
    /// Day for which the edges' offsets were last set.
    day: i64,
    /// Seconds (of the clock) that the log may lag behind, at most and as seen lately.
    longest_lag: i64,
    lag: i64,
    /// Latest execution seen of each edge, Unix seconds.
    latest: BTreeMap<String, i64>,
    unbelievable: u64,
    /// The control group, and what became of schedules.
    pub(super) quality: Quality,
}

impl Learner {
    pub(super) fn new(settings: &Settings) -> Self {
        let engine = Engine::new(Self::config(settings));
        Self::around(engine.expect("horizons and tick derive from checked settings"), settings)
    }

    /// One that knows what another knew: `engine` is what that one's engine saved.
    pub(super) fn restored(settings: &Settings, place: Place, engine: &[u8]) -> Result<Self, StateError> {
        let engine = Engine::restored(Self::config(settings), engine)?;
        let mut learner = Self::around(engine, settings);
        learner.cursor = Some(place.cursor);
        learner.lag = place.lag.clamp(0, learner.longest_lag);
        learner.latest = place.latest;
        Ok(learner)
    }

    /// Where it is in the log, if it has read any.
    pub(super) fn place(&self) -> Option<Place> {
        Some(Place { cursor: self.cursor?, lag: self.lag, latest: self.latest.clone() })
    }

    fn config(settings: &Settings) -> EngineConfig {
        let window = (settings.window / 60).clamp(1, 360) as u32;
        EngineConfig::of_windows(window, (settings.every / 60).clamp(1, 15) as u32)
    }

    fn around(engine: Engine, settings: &Settings) -> Self {
        let longest_lag = (SHIPPING * rate(&settings.clock)).clamp(1.0, 6.0 * 3600.0) as i64;
        Learner {
            engine,
            cursor: None,
            timezones: settings.timezones.clone(),
            local: BTreeMap::new(),
            hints: Vec::new(),
            day: i64::MIN,
            longest_lag,
            lag: longest_lag,
            latest: BTreeMap::new(),
            unbelievable: 0,
            quality: Quality::new(settings.control, 0, settings.window),
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

    /// Whether its clock is so far after `now` that the present will not teach it anything for long: the clock that it went by was wrong, and
    /// was set right. `every` is in seconds.
    pub(super) fn ahead(&self, now: DateTime<Utc>, every: i64) -> bool {
        self.engine
            .clock()
            .is_some_and(|minute| minute.saturating_mul(60) > now.timestamp() + AHEAD + 2 * every)
    }

    /// Executions whose time was too far ahead to be believed.
    pub(super) fn unbelievable(&self) -> u64 {
        self.unbelievable
    }

    /// Takes over where the edges are, and thereby their local time, and what was declared.
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
            if let (Some(north), Some(east)) = (edge.latitude, edge.longitude) {
                self.engine.set_place(&edge.name, north, east);
            }
        }
        self.take_hints(catalog, now.timestamp());
        if self.cursor.is_some() {
            self.set_offsets(now);
        }
    }

    fn take_hints(&mut self, catalog: &Catalog, now: i64) {
        let known: BTreeMap<i64, i64> = self.hints.iter().map(|h| (h.hint.id, h.since)).collect();
        self.hints.clear();
        for hint in &catalog.hints {
            // On another clock than the origin's, it is declared when it is first seen.
            let seen = known.get(&hint.id).copied().unwrap_or(now);
            let since = if hint.declared_at <= now { hint.declared_at } else { seen };
            let here = |name: &str| hint.edge.as_deref().is_none_or(|edge| edge == name);
            self.hints.extend(catalog.edges.iter().filter(|edge| here(&edge.name)).map(|edge| Hinted {
                hint: hint.clone(),
                edge: edge.name.clone(),
                since,
                instances: catalog.unkeyed(&hint.function),
            }));
        }
    }

    /// Tells the engine which declared times there are from some way before `from` until all windows from `to` on are over;
    /// Unix seconds.
    fn declare(&mut self, from: i64, to: i64) {
        let longest = self.engine.config().horizons.iter().map(|h| h.until).max().unwrap_or(0);
        let (before, end) = (from - BACK, to.saturating_add(i64::from(longest) * 60));
        let minutes: Vec<Vec<i64>> = self
            .hints
            .iter()
            .map(|h| {
                let local = self.local.get(&h.edge).copied().unwrap_or(LocalTime::Fixed(0));
                local.minutes_of(&h.hint, before.max(h.since), end)
            })
            .collect();
        let declarations: Vec<Declaration<'_, String>> = self
            .hints
            .iter()
            .zip(&minutes)
            .map(|(h, minutes)| Declaration {
                id: h.hint.id,
                edge: &h.edge,
                function: &h.hint.function,
                confidence: h.hint.confidence,
                minutes,
                instances: &h.instances,
            })
            .collect();
        self.engine.declare(from.div_euclid(60), &declarations);
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
        if self.cursor.is_some() {
            // Not part of the history read at the start, so its lateness tells how the log is shipped.
            let lag = (now.timestamp() - row.started_at).clamp(0, self.longest_lag);
            self.lag = lag.max(self.lag - (self.lag - lag).div_euclid(PATIENCE).max(1)).max(0);
        }
        let minute = row.started_at.div_euclid(60);
        let day = minute.div_euclid(1440);
        if day > self.day {
            self.day = day;
            self.set_offsets(DateTime::from_timestamp(row.started_at, 0).unwrap_or(now));
            self.declare(row.started_at, (day + 1) * 86_400);
        }
        self.quality.observe(&Execution {
            edge: &row.edge,
            function: &row.function,
            at: row.started_at,
            missed: row.missed,
            wait_us: row.wait_us.max(0) as u64,
            bytes: row.bytes.max(0) as u64,
        });
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
        let surely = now.timestamp() - self.lag;
        let arrived = self.latest.values().copied().filter(|&at| at >= surely).min();
        let complete = arrived.unwrap_or(surely).min(now.timestamp());
        self.declare(complete, now.timestamp());
        self.advance(complete.div_euclid(60) - 1, now);
        self.quality.settle(complete);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::catalog::Edge;
    use crate::plan::settings::{PlanArgs, Settings};

    const DAY: i64 = 86_400;
    /// 2024-01-01, a Monday.
    const START: i64 = 1_704_067_200;

    fn learner() -> Learner {
        let args = PlanArgs { origin: Some("host=localhost".to_owned()), ..PlanArgs::default() };
        Learner::new(&Settings::load(&args).unwrap())
    }

    fn row(function: &str, at: i64) -> LogRow {
        LogRow {
            edge: "ams1".into(),
            function: function.into(),
            started_at: at,
            shards: vec!["products".into()],
            missed: true,
            wait_us: 80_000,
            bytes: 1000,
        }
    }

    fn time(at: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(at, 0).unwrap()
    }

    #[test]
    fn executions_from_the_future_are_not_believed() {
        let mut l = learner();
        l.learn(&row("f", START + 10 * DAY), time(START));
        assert_eq!((l.unbelievable(), l.engine().counters().accepted), (1, 0));
    }

    #[test]
    fn the_clock_follows_what_has_arrived() {
        let mut l = learner();
        l.learn(&row("f", START), time(START));
        l.read_up_to(Cursor::default());
        // The log is three seconds late at most in real time: a minute later nothing can be missing.
        l.settle(time(START + 3600));
        let settled = l.engine().clock().unwrap() * 60;
        assert!((START + 3600 - 600..START + 3600).contains(&settled), "{}", settled - START);
    }

    #[test]
    fn hints_count_from_when_they_were_declared_and_in_local_time() {
        let mut l = learner();
        let hint = |id, at| Hint::new(id, "report".into(), None, "0 9 * * *".into(), 0.9, at).unwrap();
        let edges = vec![Edge { name: "ewr".into(), latitude: None, longitude: Some(-74.2) }];
        let mappings = BTreeMap::from([("report".to_owned(), ["offers".to_owned()].into())]);
        let keys = BTreeMap::from([("offers".to_owned(), vec![])]);
        let hints = vec![hint(1, START - DAY), hint(2, START + 400 * DAY)];
        let catalog = Catalog { edges, mappings, keys, hints };
        l.locate(&catalog, time(START));
        assert_eq!(l.hints.iter().map(|h| h.since).collect::<Vec<_>>(), [START - DAY, START]);
        l.locate(&catalog, time(START + DAY));
        assert_eq!(l.hints[1].since, START, "it was seen then");
        // Nothing has ever run, and nine o'clock in New York is two in the afternoon.
        let at = START + DAY + 14 * 3600 - 300;
        l.settle(time(at));
        let request = foreshard_planner::WindowRequest {
            now: at,
            starts_at: at + 2,
            ends_at: at + 902,
            lead: 2,
            floor: 0.02,
            max_entries: 10,
        };
        let schedules = l.engine().schedule(&request).unwrap();
        assert_eq!(schedules[0].entries[0].shard_list, ["offers"]);
        assert!(schedules[0].entries[0].confidence > 0.7, "{schedules:?}");
    }

    #[test]
    fn local_time_comes_from_the_zone_or_else_the_longitude() {
        let zone = LocalTime::Zone(chrono_tz::America::New_York);
        assert_eq!(zone.offset_minutes(time(START)), -300);
        assert_eq!(zone.offset_minutes(time(START + 180 * DAY)), -240);
        let mut l = learner();
        let edge = |name: &str, longitude| Edge { name: name.to_owned(), latitude: None, longitude };
        let edges = vec![edge("ewr", Some(-74.2)), edge("nowhere", Some(f64::NAN)), edge("unknown", None)];
        l.locate(&Catalog { edges, ..Catalog::default() }, time(START));
        let offset = |name: &str| l.local[name].offset_minutes(time(START));
        assert_eq!((offset("ewr"), offset("nowhere"), offset("unknown")), (-300, 0, 0));
    }
}
