use std::collections::HashSet;
use std::sync::Arc;

use foreshard_protocol::{
    CatalogSnapshot, Column, Event, FetchFailure, FetchHeader, Frame, KeyChange, Lsn, Row, Schedule,
    Snapshot, WholeReason,
};

use crate::admission::{Admission, Resources};
use crate::agenda::Agenda;
use crate::cache::{Cache, Removed};
use crate::config::EdgeConfig;
use crate::copy::ShardCopy;
use crate::definitions::Definitions;
use crate::flights::{Flight, Flights, Suspects, Wanted, touches};
use crate::now::Now;
use crate::requests::{Answer, Refusal, RequestId, Requests, ServedFrom};
use crate::stats::Stats;
use crate::stream::Stream;

/// Names a fetch.
pub type FlightId = u64;

/// Something the shell has to do.
#[derive(Debug)]
pub enum Action {
    /// Start a fetch and report it with [`EdgeCore::fetch_done`].
    Fetch(FlightOrder),
    /// Answer a request that waited.
    Reply(RequestId, Result<Answer, Refusal>),
    /// Ask the origin how far the stream is: somebody waits for it to move.
    AskForProgress,
    /// Load the definitions again and report them with [`EdgeCore::catalog_loaded`].
    LoadCatalog,
}

/// A fetch to start.
#[derive(Debug)]
pub struct FlightOrder {
    /// Its name.
    pub id: FlightId,
    /// Instances to read in one snapshot.
    pub instances: Vec<Arc<str>>,
    /// True for a prefetch: whatever a request waits for goes first.
    pub ahead_of_demand: bool,
    /// Wait this many microseconds before starting.
    pub delay: u64,
}

/// The answer of the origin to one fetch.
#[derive(Debug)]
pub struct Fetched {
    /// Snapshot and log position.
    pub header: FetchHeader,
    /// One result per instance, in the order of the order.
    pub instances: Vec<Result<FetchedInstance, (FetchFailure, String)>>,
}

/// The rows of one instance.
#[derive(Debug)]
pub struct FetchedInstance {
    /// Id with canonical key values.
    pub canonical: String,
    /// Columns of every row.
    pub columns: Vec<Column>,
    /// The rows.
    pub rows: Vec<Row>,
}

/// Everything an edge knows and decides. See the crate's documentation.
pub struct EdgeCore {
    pub(crate) config: EdgeConfig,
    pub(crate) stream: Stream,
    pub(crate) definitions: Definitions,
    pub(crate) prefetch: Cache,
    pub(crate) reactive: Cache,
    pub(crate) flights: Flights,
    pub(crate) requests: Requests,
    pub(crate) agenda: Agenda,
    pub(crate) admission: Admission,
    pub(crate) stats: Stats,
    pub(crate) actions: Vec<Action>,
    agenda_changes_at: Option<i64>,
    agenda_dirty: bool,
    prefetch_full: bool,
    prefetch_paused_until: u64,
    pub(crate) epoch: u64,
    /// When the stream was last connected. What was asked before may have been answered before a crash of the origin.
    pub(crate) connected_at: u64,
}

/// After a failed prefetch none is started for this long.
const PAUSE_AFTER_ERROR: u64 = 500_000;

impl EdgeCore {
    /// A core with empty caches that knows nothing yet.
    pub fn new(config: EdgeConfig) -> Self {
        EdgeCore {
            stream: Stream::new(config.max_unseen),
            definitions: Definitions::default(),
            prefetch: Cache::new(config.prefetch_bytes),
            reactive: Cache::new(config.reactive_bytes),
            flights: Flights::default(),
            requests: Requests::default(),
            agenda: Agenda::default(),
            admission: Admission::new(config.prefetch_concurrency),
            stats: Stats::default(),
            actions: Vec::new(),
            agenda_changes_at: None,
            agenda_dirty: false,
            prefetch_full: false,
            prefetch_paused_until: 0,
            epoch: 0,
            connected_at: 0,
            config,
        }
    }

    /// What the shell has to do since it last asked.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// One committed transaction. Frames that were applied before are recognised and ignored.
    pub fn frame(&mut self, now: Now, frame: Frame) {
        if frame.end_lsn <= self.stream.position() {
            self.stats.frames_repeated += 1;
            return;
        }
        self.stats.frames += 1;
        self.stream.remember(&frame);
        let Frame { xid, end_lsn, events, .. } = frame;
        for event in events {
            match event {
                Event::Shard { shard, change } => {
                    self.flights.suspect(xid, &shard, &change);
                    self.invalidate(xid, &shard, &change);
                }
                Event::Catalog(change) => {
                    if let Some(shard) = self.definitions.apply(xid, change) {
                        self.redefined(xid, &shard);
                    }
                    self.agenda_dirty = true;
                }
                Event::Schedule(schedule) => self.schedule(now, schedule),
            }
        }
        self.position(now, end_lsn);
    }

    /// The stream holds nothing more for this edge up to `position`.
    pub fn position(&mut self, now: Now, position: Lsn) {
        self.stream.advance(position);
        for id in self.requests.reached(self.stream.position()) {
            self.look_again(now, id);
        }
        self.pump(now);
    }

    /// What the origin said when asked at `asked_at` (microseconds, monotonic clock, before the question was sent):
    /// its flush position and what readers see.
    pub fn origin_state(&mut self, now: Now, asked_at: u64, flushed: Lsn, snapshot: &Snapshot) {
        if asked_at < self.connected_at {
            return;
        }
        self.seen(snapshot);
        self.stream.origin_state(asked_at, flushed);
        if self.stream.awaits_progress() {
            self.actions.push(Action::AskForProgress);
        }
        self.pump(now);
    }

    /// Counts how often the stream started without a past. 0: it never started.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// A snapshot of the origin arrived: what it sees, every later one sees too.
    fn seen(&mut self, snapshot: &Snapshot) {
        self.stream.seen(snapshot);
        self.definitions.seen(snapshot);
    }

    /// The definitions, as an answer to [`Action::LoadCatalog`], read after the stream of `epoch` had started.
    /// Definitions read for an earlier stream are ignored: the new one does not carry what changed in between.
    pub fn catalog_loaded(&mut self, now: Now, epoch: u64, mut catalog: CatalogSnapshot) {
        if epoch != self.epoch {
            return;
        }
        let schedules = std::mem::take(&mut catalog.schedules);
        self.seen(&catalog.snapshot);
        let Some(unseen) = self.definitions.load(catalog) else {
            self.actions.push(Action::LoadCatalog);
            return;
        };
        for (xid, shard) in unseen {
            self.redefined(xid, &shard);
        }
        for schedule in schedules {
            self.schedule(now, schedule);
        }
        self.agenda_dirty = true;
        self.pump(now);
    }

    /// How busy the machine is.
    pub fn resources(&mut self, resources: Resources) {
        self.admission.on_resources(resources);
    }

    /// Time has passed. To be called every few milliseconds.
    pub fn tick(&mut self, now: Now) {
        for id in self.requests.due(now.mono) {
            self.look_again(now, id);
        }
        if self.agenda_changes_at.is_some_and(|moment| moment <= now.trace) {
            self.agenda_dirty = true;
        }
        if self.requests.awaits_lsn() {
            self.actions.push(Action::AskForProgress);
        }
        self.pump(now);
    }

    /// The result of a fetch; an error is one of the whole fetch (origin out of reach, time-out), in words for the log.
    pub fn fetch_done(&mut self, now: Now, id: FlightId, result: Result<Fetched, String>) {
        let Some(flight) = self.flights.finish(id) else { return };
        match result {
            Err(_) => self.fetch_failed(now, flight),
            Ok(fetched) => self.land(now, id, flight, fetched),
        }
        self.pump(now);
    }

    fn fetch_failed(&mut self, now: Now, flight: Flight) {
        self.stats.fetch_errors += 1;
        if flight.ahead_of_demand {
            self.admission.on_error();
            self.prefetch_paused_until = now.mono + PAUSE_AFTER_ERROR;
            for wanted in &flight.instances {
                self.agenda.again(&wanted.text);
            }
        }
        for id in flight.waiters.into_iter().chain(flight.private_to) {
            self.finish(id, Err(Refusal::OriginUnavailable));
        }
    }

    fn land(&mut self, now: Now, id: FlightId, flight: Flight, fetched: Fetched) {
        let waiters: Vec<RequestId> = flight.waiters.iter().copied().chain(flight.private_to).collect();
        if flight.ahead_of_demand {
            self.admission.on_done(now.mono.saturating_sub(flight.started_at));
        }
        if flight.poisoned || fetched.instances.len() != flight.instances.len() {
            for waiter in waiters {
                self.detach(waiter, id);
                self.look_again(now, waiter);
            }
            return;
        }
        let snapshot = Arc::new(fetched.header.snapshot);
        self.seen(&snapshot);
        let mut rejected = Vec::new();
        for (wanted, result) in flight.instances.into_iter().zip(fetched.instances) {
            match result {
                Ok(instance) if *instance.canonical != *wanted.text => {
                    // Stream events name the canonical key, so this fetch was not watched under the right name.
                    self.rename(&waiters, &wanted.text, &instance.canonical);
                }
                // A failure may be due to what the snapshot lacks, too: a definition that has just been made.
                _ if !wanted.suspects.seen_by(&snapshot) => {
                    self.stats.rejected_by_snapshot += 1;
                    rejected.push(Wanted { attempts: wanted.attempts + 1, ..wanted });
                }
                Err((failure, message)) => {
                    for waiter in self.waiting_for(&waiters, &wanted.text) {
                        let instance = wanted.text.to_string();
                        let message = message.clone();
                        self.finish(waiter, Err(Refusal::Failed { instance, failure, message }));
                    }
                }
                Ok(instance) => {
                    let copy = Arc::new(ShardCopy::new(
                        wanted.text,
                        instance.columns,
                        instance.rows,
                        snapshot.clone(),
                        fetched.header.wal_lsn,
                        id,
                        now.mono,
                    ));
                    self.pin(&waiters, &copy);
                    self.store(&wanted.id.shard, copy, flight.ahead_of_demand);
                }
            }
        }
        if !rejected.is_empty() {
            // A private fetch has to be one snapshot: its request starts it again as a whole.
            match flight.private_to {
                None => self.retry(now, rejected, flight.ahead_of_demand, &waiters),
                Some(waiter) => self.unpin_all(waiter),
            }
        }
        for waiter in waiters {
            self.detach(waiter, id);
            self.look_again(now, waiter);
        }
    }

    /// Asks again for instances whose snapshot lacked a delivered transaction. That ends within milliseconds, unless
    /// the origin waits for a synchronous standby: hence the growing delay.
    fn retry(&mut self, now: Now, instances: Vec<Wanted>, ahead_of_demand: bool, waiters: &[RequestId]) {
        let attempts = instances.iter().map(|wanted| wanted.attempts).max().unwrap_or_default();
        let delay = (1_000 << attempts.min(6)).min(50_000);
        let texts: HashSet<&str> = instances.iter().map(|wanted| &*wanted.text).collect();
        let waiters = waiters.iter().copied().filter(|id| {
            let pending = self.requests.pending.get(id);
            pending.is_some_and(|pending| pending.texts.iter().any(|text| texts.contains(&**text)))
        });
        let waiters: Vec<RequestId> = waiters.collect();
        // Without this, a commit that hangs would keep one fetch per instance going long after its requests are gone.
        if ahead_of_demand || !waiters.is_empty() {
            self.launch(now, instances, ahead_of_demand, None, waiters, delay);
        }
    }

    pub(crate) fn launch(
        &mut self,
        now: Now,
        mut instances: Vec<Wanted>,
        ahead_of_demand: bool,
        private_to: Option<RequestId>,
        waiters: Vec<RequestId>,
        delay: u64,
    ) -> FlightId {
        for wanted in &mut instances {
            wanted.suspects = self.stream.suspects(&wanted.id.shard, |change| touches(change, &wanted.id));
        }
        match ahead_of_demand {
            true => self.stats.prefetch_fetches += 1,
            false => self.stats.demand_fetches += 1,
        }
        let texts = instances.iter().map(|wanted| wanted.text.clone()).collect();
        let started_at = now.mono + delay;
        let flight = Flight { instances, ahead_of_demand, private_to, started_at, poisoned: false, waiters };
        let id = self.flights.start(flight);
        self.actions.push(Action::Fetch(FlightOrder { id, instances: texts, ahead_of_demand, delay }));
        id
    }

    fn store(&mut self, shard: &str, copy: Arc<ShardCopy>, ahead_of_demand: bool) {
        let bytes = copy.bytes() as u64;
        let instance = copy.instance.clone();
        // Of two copies the one that is further ahead stays, so that a reader never sees a row go back.
        let newest =
            |cache: &Cache| cache.peek(&instance).is_none_or(|held| held.settled_at <= copy.settled_at);
        if ahead_of_demand {
            self.stats.prefetch_bytes += bytes;
            self.stats.prefetch_copies += 1;
            if newest(&self.prefetch) && newest(&self.reactive) {
                let agenda = &self.agenda;
                let removed = self.prefetch.insert(shard, copy, |other| !agenda.wants(other));
                self.note_prefetch_evicted(removed, &instance);
                if self.prefetch.peek(&instance).is_none() {
                    self.prefetch_full = true;
                    self.stats.prefetch_unused_bytes += bytes;
                }
            } else {
                self.stats.prefetch_unused_bytes += bytes;
            }
        } else {
            self.stats.demand_bytes += bytes;
            if newest(&self.prefetch) && newest(&self.reactive) {
                if let Some(removed) = self.prefetch.remove(&instance) {
                    self.note_prefetch_removed(&removed);
                }
                let removed = self.reactive.insert(shard, copy, |_| true);
                self.stats.evicted +=
                    removed.iter().filter(|removed| removed.instance != instance).count() as u64;
            }
        }
    }

    fn note_prefetch_evicted(&mut self, removed: Vec<Removed>, inserted: &str) {
        for removed in removed {
            if *removed.instance != *inserted {
                self.stats.evicted += 1;
            }
            self.note_prefetch_removed(&removed);
        }
    }

    pub(crate) fn note_prefetch_removed(&mut self, removed: &Removed) {
        if !removed.used {
            self.stats.prefetch_unused_bytes += removed.bytes as u64;
        }
    }

    /// Drops every copy that the change touches and that does not already contain it.
    fn invalidate(&mut self, xid: u64, shard: &str, change: &KeyChange) {
        let touched = |cache: &Cache| -> Vec<Arc<str>> {
            let lacks =
                |instance: &Arc<str>| cache.peek(instance).is_some_and(|copy| !copy.snapshot.sees(xid));
            match change {
                KeyChange::Whole(_) => cache.instances_of(shard).into_iter().filter(lacks).collect(),
                KeyChange::Keys(keys) => keys
                    .iter()
                    .map(|key| {
                        foreshard_protocol::InstanceId { shard: shard.to_owned(), key: key.clone() }
                            .to_string()
                            .into()
                    })
                    .filter(lacks)
                    .collect(),
            }
        };
        let (prefetched, reactive) = (touched(&self.prefetch), touched(&self.reactive));
        for instance in &prefetched {
            if let Some(removed) = self.prefetch.remove(instance) {
                self.note_prefetch_removed(&removed);
            }
        }
        for instance in &reactive {
            self.reactive.remove(instance);
        }
        self.stats.invalidated += (prefetched.len() + reactive.len()) as u64;
        for instance in prefetched.iter().chain(&reactive) {
            self.agenda.again(instance);
        }
        if !prefetched.is_empty() {
            self.prefetch_full = false;
        }
        for pending in self.requests.pending.values_mut() {
            for pinned in &mut pending.pinned {
                let stale = |copy: &Arc<ShardCopy>| {
                    let id = copy.instance.parse::<foreshard_protocol::InstanceId>();
                    let touched = id.is_ok_and(|id| id.shard == shard && touches(change, &id));
                    touched && !copy.snapshot.sees(xid)
                };
                if pinned.as_ref().is_some_and(stale) {
                    *pinned = None;
                }
            }
        }
    }

    /// Copies of the shard, and fetches that do not see `xid`, are of another definition.
    fn redefined(&mut self, xid: u64, shard: &str) {
        let change = KeyChange::Whole(WholeReason::Ddl);
        self.stream.remember_definition(xid, shard);
        self.flights.suspect(xid, shard, &change);
        self.invalidate(xid, shard, &change);
    }

    fn schedule(&mut self, now: Now, schedule: Schedule) {
        if self.agenda.add(schedule, now.trace) {
            self.stats.schedules += 1;
            self.agenda_dirty = true;
        }
    }

    /// Starts as many prefetches as admission allows.
    fn pump(&mut self, now: Now) {
        if self.config.prefetch_bytes == 0 || !self.definitions.ready() {
            return;
        }
        if std::mem::take(&mut self.agenda_dirty) {
            let EdgeConfig { lead, min_confidence, .. } = self.config;
            let held =
                |instance: &str| self.prefetch.peek(instance).or(self.reactive.peek(instance)).is_some();
            let dropped = self.agenda.recompute(now.trace, lead, min_confidence, &self.definitions, held);
            self.stats.schedule_entries_dropped += dropped;
            self.agenda_changes_at = self.agenda.next_change(now.trace, lead);
            self.prefetch_full = false;
        }
        let idle = self.agenda.waiting() == 0 || self.prefetch_full || now.mono < self.prefetch_paused_until;
        if idle || !self.is_fresh(now) {
            return;
        }
        while self.flights.counts().0 < self.admission.limit() {
            let mut batch = Vec::new();
            while batch.len() < self.config.prefetch_batch
                && let Some(text) = self.agenda.next()
            {
                let held = self.prefetch.peek(&text).or(self.reactive.peek(&text)).is_some();
                if !held
                    && !self.flights.has(&text)
                    && let Ok(id) = text.parse()
                {
                    batch.push(Wanted { id, text, suspects: Suspects::default(), attempts: 0 });
                }
            }
            if batch.is_empty() {
                return;
            }
            self.launch(now, batch, true, None, Vec::new(), 0);
        }
    }

    /// Whether copies may be served: the stream is proved to be at most `max_staleness` behind.
    pub fn is_fresh(&self, now: Now) -> bool {
        self.stream.fresh_as_of().is_some_and(|at| now.mono.saturating_sub(at) <= self.config.max_staleness)
    }

    /// Whether requests can be answered from copies: definitions loaded, stream followed and fresh.
    pub fn is_ready(&self, now: Now) -> bool {
        self.definitions.ready() && self.is_fresh(now)
    }

    /// The position every answer given now would carry.
    pub fn applied(&self) -> Lsn {
        self.stream.position()
    }

    /// The position up to which the origin may forget; see `Stream::acknowledged`.
    pub fn acknowledged(&self) -> Lsn {
        if self.definitions.ready() { self.stream.acknowledged() } else { Lsn::ZERO }
    }

    /// Counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Definitions.
    pub fn definitions(&self) -> &Definitions {
        &self.definitions
    }

    /// The schedule in force.
    pub fn schedule_in_force(&self, now: Now) -> Option<&Schedule> {
        self.agenda.in_force(now.trace)
    }

    /// Gauges by metric name: sizes, queue lengths, limits.
    pub fn gauges(&self, now: Now) -> Vec<(&'static str, f64)> {
        let (ahead, demand) = self.flights.counts();
        let behind =
            self.stream.fresh_as_of().map_or(f64::NAN, |at| now.mono.saturating_sub(at) as f64 / 1e6);
        vec![
            ("prefetch_cache_bytes", self.prefetch.bytes() as f64),
            ("prefetch_cache_copies", self.prefetch.len() as f64),
            ("prefetch_cache_unused_bytes", self.prefetch.unused_bytes() as f64),
            ("reactive_cache_bytes", self.reactive.bytes() as f64),
            ("reactive_cache_copies", self.reactive.len() as f64),
            ("fetches_under_way_prefetch", ahead as f64),
            ("fetches_under_way_demand", demand as f64),
            ("prefetch_fetch_limit", self.admission.limit() as f64),
            ("prefetch_queue", self.agenda.waiting() as f64),
            ("requests_waiting", self.requests.pending.len() as f64),
            ("unseen_transactions", self.stream.unseen_len() as f64),
            ("applied_lsn", self.stream.position().0 as f64),
            ("staleness_bound_seconds", behind),
        ]
    }

    /// Instances of a shard held here: id, cache, bytes, microseconds since it was fetched.
    pub fn held(&self, now: Now, shard: &str, most: usize) -> Vec<(Arc<str>, ServedFrom, usize, u64)> {
        let of = |cache: &'_ Cache, from: ServedFrom| -> Vec<_> {
            let found = cache.instances_of(shard).into_iter().filter_map(|instance| {
                let copy = cache.peek(&instance)?;
                Some((instance, from, copy.bytes(), now.mono.saturating_sub(copy.fetched_at)))
            });
            found.take(most).collect()
        };
        let mut held = of(&self.prefetch, ServedFrom::Prefetch);
        held.extend(of(&self.reactive, ServedFrom::Reactive));
        held.truncate(most);
        held
    }
}
