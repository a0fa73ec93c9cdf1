use std::sync::Arc;

use foreshard_protocol::{
    CatalogChange, CatalogSnapshot, Event, FetchFailure, FetchHeader, Frame, Horizon, Lsn, Row, Schedule,
    Snapshot, Xid,
};

use crate::agenda::Agenda;
use crate::agent::{Agent, Resources};
use crate::cache::Cache;
use crate::config::EdgeConfig;
use crate::copy::{Brought, Layout};
use crate::definitions::Definitions;
use crate::flights::Flights;
use crate::now::Now;
use crate::refetch::Refetch;
use crate::requests::{Answer, Refusal, RequestId, Requests};
use crate::stats::Stats;
use crate::stream::{AnotherPast, Stream};
use crate::warm::Durability;

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
    /// Have the origin write something: somebody waits for the very next record, and on an idle server none comes.
    AskForRecord,
    /// Connect the stream again: it is not of the origin that answers.
    Reconnect,
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
    /// Ask for the origin's horizon, and read only when that is known.
    pub prove: bool,
    /// Wait this many microseconds before starting.
    pub delay: u64,
}

/// The answer of the origin to one fetch.
#[derive(Debug)]
pub struct Fetched {
    /// Snapshot and log position.
    pub header: FetchHeader,
    /// What was asked for before, where the order says so.
    pub horizon: Option<Horizon>,
    /// One result per instance, in the order of the order.
    pub instances: Vec<Result<FetchedInstance, (FetchFailure, String)>>,
}

impl Fetched {
    /// Where the origin's log ended at the latest when this was read.
    pub(crate) fn ends(&self) -> Lsn {
        self.horizon.as_ref().map_or(self.header.wal_lsn, |horizon| horizon.flushed.min(self.header.wal_lsn))
    }

    /// Bytes of the text of all rows.
    pub(crate) fn bytes(&self) -> u64 {
        self.instances.iter().flatten().map(FetchedInstance::bytes).sum()
    }
}

/// The rows of one instance.
#[derive(Debug)]
pub struct FetchedInstance {
    /// Id with canonical key values.
    pub canonical: String,
    /// What the rows are made of.
    pub layout: Layout,
    /// The rows.
    pub rows: Vec<Row>,
}

impl FetchedInstance {
    /// Bytes of the text of its rows.
    pub(crate) fn bytes(&self) -> u64 {
        self.rows.iter().flatten().flatten().map(|text| text.len() as u64 + 1).sum()
    }
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
    pub(crate) agent: Agent,
    pub(crate) refetch: Refetch,
    pub(crate) durability: Durability,
    pub(crate) stats: Stats,
    pub(crate) actions: Vec<Action>,
    pub(crate) agenda_changes_at: Option<i64>,
    pub(crate) agenda_dirty: bool,
    pub(crate) prefetch_full: bool,
    pub(crate) prefetch_paused_until: u64,
    pub(crate) epoch: u64,
    /// Transactions before the beginning of the stream that readers did not see when it had begun; `None`: not known yet.
    pub(crate) unsettled: Option<Vec<Xid>>,
    /// Another origin than the one that is streamed seems to answer.
    pub(crate) doubted: bool,
    /// When the stream was last connected. What was asked before may have been answered before a crash of the origin.
    pub(crate) connected_at: u64,
    /// The highest position that an answer was stamped with; ahead of the stream after one that was read at the origin.
    pub(crate) promised: Lsn,
}

impl EdgeCore {
    /// A core with empty caches that knows nothing yet. `seed` is for the jitter of what it does by itself.
    pub fn new(config: EdgeConfig, seed: u64) -> Self {
        EdgeCore {
            stream: Stream::new((&config).into()),
            definitions: Definitions::default(),
            prefetch: Cache::new(config.prefetch_bytes),
            reactive: Cache::new(config.reactive_bytes),
            flights: Flights::default(),
            requests: Requests::default(),
            agenda: Agenda::default(),
            agent: Agent::new(config.prefetch_concurrency, config.prefetch_bytes_per_second),
            refetch: Refetch::new(seed),
            durability: Durability::default(),
            stats: Stats::default(),
            actions: Vec::new(),
            agenda_changes_at: None,
            agenda_dirty: false,
            prefetch_full: false,
            prefetch_paused_until: 0,
            epoch: 0,
            unsettled: None,
            doubted: false,
            connected_at: 0,
            promised: Lsn::ZERO,
            config,
        }
    }

    /// What the shell has to do since it last asked.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// One committed transaction. Frames that were applied before are recognised and ignored.
    pub fn frame(&mut self, now: Now, frame: Frame) {
        if self.doubted {
            return;
        }
        match self.stream.brings(&frame) {
            Ok(false) => {}
            Ok(true) => {
                self.stats.frames_repeated += 1;
                self.position(now, frame.end_lsn);
                return;
            }
            Err(AnotherPast) => return self.doubt(),
        }
        self.stats.frames += 1;
        // What a predecessor kept lies before this frame, or is reached with it.
        self.compare_warm(&frame);
        self.warm_up(now, Lsn(frame.end_lsn.0 - 1));
        let Frame { xid, commit_lsn, end_lsn, events, .. } = frame;
        self.stream.remember(xid, commit_lsn);
        let txn = Brought { xid, ends: end_lsn };
        let mut defined = Vec::new();
        for event in events {
            match event {
                Event::Shard { shard, change } => self.changed(now, txn, &shard, Arc::new(change)),
                Event::Catalog(change) => {
                    if let CatalogChange::Shard(def) = &change {
                        defined.push(def.name.clone());
                    }
                    if let Some(shard) = self.definitions.apply(txn, change) {
                        self.redefined(now, txn, &shard);
                    }
                    self.agenda_dirty = true;
                }
                Event::Schedule(schedule) => self.schedule(now, schedule),
                Event::Unsettled(xids) => {
                    for (xid, shard) in xids.iter().flat_map(|xid| defined.iter().map(|shard| (*xid, shard)))
                    {
                        self.redefined(now, Brought { xid, ends: Lsn::ZERO }, shard);
                    }
                }
            }
        }
        self.position(now, end_lsn);
    }

    /// The stream holds nothing more for this edge up to `position`.
    pub fn position(&mut self, now: Now, position: Lsn) {
        if self.doubted {
            return;
        }
        if self.stream.advance(position).is_err() {
            return self.doubt();
        }
        self.warm_up(now, self.stream.position());
        for id in self.requests.reached(self.stream.position()) {
            self.look_again(now, id);
        }
        self.ask_for_record();
        self.pump(now);
    }

    pub(crate) fn ask_for_record(&mut self) {
        if self.requests.awaits(Lsn(self.stream.position().0.saturating_add(1))) {
            self.actions.push(Action::AskForRecord);
        }
    }

    /// What the origin said when asked at `asked_at` (microseconds, monotonic clock, before the question was sent):
    /// its flush position and what readers see.
    /// `position` is [`relied_on`](Self::relied_on) as it was when the question was sent.
    pub fn origin_state(
        &mut self,
        now: Now,
        (asked_at, position): (u64, Lsn),
        flushed: Lsn,
        snapshot: &Snapshot,
    ) {
        if asked_at < self.connected_at {
            return;
        }
        if flushed < position {
            self.doubt();
            return;
        }
        self.agent.ping(now.mono, now.mono.saturating_sub(asked_at));
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
    pub(crate) fn seen(&mut self, snapshot: &Snapshot) {
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
        // What had committed before the stream began, and was invisible when it had, is in no frame. Neither definitions nor
        // copies count before it is visible.
        let unsettled = self.unsettled.get_or_insert_with(|| catalog.unsettled.clone());
        unsettled.retain(|xid| !catalog.snapshot.sees(*xid) && !self.stream.awaits(*xid));
        if !unsettled.is_empty() {
            self.actions.push(Action::LoadCatalog);
            return;
        }
        self.stream.remember_untold(std::mem::take(&mut catalog.unsettled));
        let Some(unseen) = self.definitions.load(catalog) else {
            self.actions.push(Action::LoadCatalog);
            return;
        };
        self.check_warm();
        for (txn, shard) in unseen {
            self.redefined(now, txn, &shard);
        }
        for schedule in schedules {
            self.schedule(now, schedule);
        }
        self.agenda_dirty = true;
        self.pump(now);
    }

    /// How busy the machine is.
    pub fn resources(&mut self, resources: Resources) {
        self.agent.on_resources(resources);
    }

    /// Time has passed. To be called every few milliseconds.
    pub fn tick(&mut self, now: Now) {
        self.agent.at(now);
        for id in self.requests.due(now.mono) {
            self.look_again(now, id);
        }
        for instance in self.refetch.due(now.mono) {
            self.agenda.again_or_last(&instance);
        }
        if self.agenda_changes_at.is_some_and(|moment| moment <= now.trace) {
            self.agenda_dirty = true;
        }
        if self.requests.awaits_lsn() {
            self.actions.push(Action::AskForProgress);
        }
        self.pump(now);
    }

    pub(crate) fn schedule(&mut self, now: Now, schedule: Schedule) {
        if self.agenda.add(schedule, now.trace) {
            self.stats.schedules += 1;
            self.agenda_dirty = true;
        }
    }
}
