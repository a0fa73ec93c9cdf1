//! What passes between origin and edge: the stream, heartbeats, definitions and fetches, each with its faults.

use foreshard_edge::{EdgeCore, Fetched, FetchedInstance, FlightId};
use foreshard_protocol::{
    CatalogSnapshot, FetchFailure, FetchHeader, Frame, Horizon, InstanceId, Lsn, Mapping, Snapshot,
};
use rand::Rng;

use crate::catalog::{FUNCTIONS, function_name, instance, resolve};
use crate::mutant::Mutant;
use crate::prefetched::Prefetched;
use crate::rows;
use crate::world::{Settling, Slot, Step, World};

/// The shell gives a fetch up after this long.
const FETCH_TIMEOUT: u64 = 150_000;
/// The origin waits this long for commits to become visible.
const SETTLE_WITHIN: u64 = 20_000;

impl World {
    /// One way over the link.
    pub(crate) fn way(&mut self) -> u64 {
        let link = self.profile.link;
        let usual = self.rng.random_range(link / 2..=link * 2);
        if self.rng.random_bool(0.03) { usual + self.rng.random_range(0..30_000) } else { usual }
    }

    /// The stream is connected again: creates the slot if it is gone, else resumes it.
    pub(crate) fn connect(&mut self) -> Result<(), String> {
        if !self.origin_up {
            let pause = self.rng.random_range(1_000..20_000);
            self.after(pause, Step::Connect);
            return Ok(());
        }
        let now = self.now;
        let created = self.slot.is_none();
        let (insert, mutant) = (self.origin.insert, self.mutant);
        if created {
            self.origin.flush(now, insert);
        }
        let mut confirmed = self.slot.get_or_insert(Slot { confirmed: insert, persisted: insert }).confirmed;
        // As the shell decides; see feed/past.rs.
        let same_history = !self.doubted
            && self.timeline == self.origin.timeline
            && self.core.relied_on() <= self.origin.flushed;
        let continues = !created
            && self.acknowledged > Lsn::ZERO
            && confirmed <= self.acknowledged
            && (same_history || mutant == Some(Mutant::RestoreForgotten))
            || mutant == Some(Mutant::NewSlotContinues);
        if !continues && self.history != self.origin.history {
            self.checker.new_process();
            self.history = self.origin.history;
        }
        (self.timeline, self.doubted) = (self.origin.timeline, false);
        if mutant == Some(Mutant::RegrowthForgotten) && continues {
            confirmed = confirmed.max(self.core.applied());
        }
        let from = match mutant {
            Some(Mutant::AcknowledgeSent) => self
                .origin
                .log
                .iter()
                .filter(|id| self.origin.txns[**id].flushed_at.is_some_and(|at| at + 3_000 < now))
                .count(),
            _ => {
                self.origin.log.iter().take_while(|id| self.origin.txns[**id].commit_lsn < confirmed).count()
            }
        };
        self.connection += 1;
        self.cursor = Some(from);
        self.note(|| format!("stream from {}, continues {continues}", confirmed.0));
        if mutant == Some(Mutant::CrashForgotten) && !self.met_the_crash && continues {
            // The core is not told that the stream was interrupted.
        } else {
            let moment = self.moment();
            self.core.stream_started(moment, confirmed, continues);
        }
        (self.met_the_crash, self.met_the_restore) = (true, true);
        if !continues {
            self.acknowledged = confirmed;
        }
        self.act()?;
        self.after(0, Step::Stream(self.connection));
        Ok(())
    }

    pub(crate) fn disconnect(&mut self) {
        if self.cursor.take().is_some() {
            self.connection += 1;
            let most = if self.calm { 60_000 } else { self.profile.outage };
            let pause = self.rng.random_range(1_000..most);
            self.after(pause, Step::Connect);
        }
    }

    /// Some of what is flushed arrives, or the position if there is nothing more.
    pub(crate) fn stream(&mut self, connection: u64) -> Result<(), String> {
        if connection != self.connection || self.cursor.is_none() {
            return Ok(());
        }
        for _ in 0..self.rng.random_range(0..4) {
            let Some(cursor) = self.cursor else { return Ok(()) };
            let moment = self.moment();
            let next = self.origin.log.get(cursor).map(|id| &self.origin.txns[*id]);
            match next.filter(|txn| txn.end_lsn <= self.origin.flushed) {
                Some(txn) => {
                    let frame = txn.frame.clone();
                    self.cursor = Some(cursor + 1);
                    if let Some(frame) = frame {
                        self.note(|| {
                            format!("frame {} up to {}: {:?}", frame.xid, frame.end_lsn.0, frame.events)
                        });
                        self.deliver(frame);
                    }
                }
                None => {
                    let flushed = self.origin.flushed;
                    self.core.position(moment, flushed);
                }
            }
            self.act()?;
        }
        if self.rng.random_bool(0.3) {
            self.acknowledge()?;
        }
        // More than one step may be due for a connection, since progress can be asked for; only one line of them lives on.
        self.connection += 1;
        let pause = if !self.calm && self.rng.random_bool(self.profile.stall) {
            self.rng.random_range(100_000..500_000)
        } else {
            let pause = if self.calm { 100 } else { self.profile.stream_pause };
            self.rng.random_range(0..pause * 2)
        };
        self.after(pause, Step::Stream(self.connection));
        Ok(())
    }

    /// Hands a frame to the core, as it is or as the planted bug has it.
    fn deliver(&mut self, mut frame: Frame) {
        let moment = self.moment();
        let Some(mutant) = self.mutant else { return self.core.frame(moment, frame) };
        mutant.spoil_frame(&mut frame);
        match mutant {
            Mutant::DeltasOutOfOrder => {
                // Two frames change places; the log positions stay.
                let Some(mut earlier) = self.held_back.take() else {
                    self.held_back = Some(frame);
                    return;
                };
                std::mem::swap(&mut earlier.commit_lsn, &mut frame.commit_lsn);
                std::mem::swap(&mut earlier.end_lsn, &mut frame.end_lsn);
                self.core.frame(moment, frame);
                self.core.frame(moment, earlier);
            }
            Mutant::DeltaTwice => {
                let (commit_lsn, end_lsn) = (frame.commit_lsn, frame.end_lsn);
                self.core.frame(moment, frame.clone());
                if let Some(earlier) = self.held_back.replace(frame) {
                    self.core.frame(moment, Frame { commit_lsn, end_lsn: Lsn(end_lsn.0 + 1), ..earlier });
                }
            }
            _ => self.core.frame(moment, frame),
        }
        if mutant == Mutant::NoGateOnRefetch {
            let all = Snapshot { xmin: u64::MAX, xmax: u64::MAX, in_progress: vec![] };
            self.core.origin_state(moment, (0, Lsn::ZERO), Lsn(u64::MAX), &all);
        }
    }

    pub(crate) fn beat(&mut self) {
        let (way, asked) = (self.way(), (self.now, self.core.relied_on()));
        self.after(way, Step::BeatAsked(asked));
    }

    pub(crate) fn nudge(&mut self) {
        if self.origin_up {
            self.origin.write(8, 0);
            let (now, end) = (self.now, self.origin.insert);
            self.origin.flush(now, end);
        }
    }

    pub(crate) fn beat_asked(&mut self, asked: (u64, Lsn)) {
        let answer = self.origin_up.then(|| (self.origin.flushed, self.origin.snapshot()));
        let way = self.way();
        self.after(way, Step::BeatAnswered(asked, answer));
    }

    pub(crate) fn beat_answered(
        &mut self,
        asked: (u64, Lsn),
        answer: Option<(Lsn, Snapshot)>,
    ) -> Result<(), String> {
        if let Some((flushed, mut snapshot)) = answer {
            if let Some(mutant) = self.mutant {
                mutant.spoil_snapshot(&mut snapshot);
            }
            let moment = self.moment();
            let (asked, flushed) = match self.mutant {
                Some(Mutant::AlwaysFresh) => ((asked.0, Lsn::ZERO), Lsn::ZERO),
                _ => (asked, flushed),
            };
            self.core.origin_state(moment, asked, flushed, &snapshot);
            self.act()?;
        }
        let pause = self.rng.random_range(5_000..30_000);
        self.after(pause, Step::Beat);
        Ok(())
    }

    pub(crate) fn load_catalog(&mut self) {
        if !self.catalog_loading {
            self.catalog_loading = true;
            let way = self.way() + self.rng.random_range(0..5_000);
            self.after(way, Step::CatalogRead(self.core.epoch()));
        }
    }

    pub(crate) fn catalog_read(&mut self, epoch: u64) {
        let answer = (self.origin_up && !self.fetch_fails()).then(|| {
            let (shards, mappings) = self.origin.visible_defs().wire();
            let schedules = self.origin.visible_schedules();
            let (mut snapshot, wal_lsn) = (self.origin.snapshot(), self.origin.insert);
            if let Some(mutant) = self.mutant {
                mutant.spoil_snapshot(&mut snapshot);
            }
            let unsettled = match self.mutant {
                Some(Mutant::UnsettledBeforeForgotten) => Vec::new(),
                _ => self.origin.unsettled(),
            };
            Box::new(CatalogSnapshot { snapshot, wal_lsn, unsettled, shards, mappings, schedules })
        });
        let way = self.way();
        self.after(way, Step::CatalogAnswered(epoch, answer));
    }

    pub(crate) fn catalog_answered(
        &mut self,
        epoch: u64,
        answer: Option<Box<CatalogSnapshot>>,
    ) -> Result<(), String> {
        self.catalog_loading = false;
        match answer {
            Some(catalog) if epoch == self.core.epoch() => {
                self.note(|| format!("definitions: {:?} as of {}", catalog.mappings, catalog.snapshot));
                let moment = self.moment();
                self.core.catalog_loaded(moment, epoch, *catalog);
                self.act()?;
            }
            _ => self.load_catalog(),
        }
        Ok(())
    }

    fn fetch_fails(&mut self) -> bool {
        !self.calm && self.rng.random_bool(self.profile.fetch_error)
    }

    pub(crate) fn fetch_read(&mut self, flight: FlightId, instances: Vec<String>, prove: bool) {
        if !self.origin_up || self.fetch_fails() {
            let wait = if self.rng.random_bool(0.5) { self.way() } else { FETCH_TIMEOUT };
            self.after(wait, Step::FetchAnswered(flight, Err("out of reach".into())));
            return;
        }
        if prove {
            let (now, insert) = (self.now, self.origin.insert);
            self.origin.flush(now, insert);
            let unsettled = match self.mutant {
                Some(Mutant::HorizonOfTheLog) => Vec::new(),
                _ => self.origin.unsettled(),
            };
            let (flushed, incarnation) = (self.origin.flushed, self.incarnation());
            self.fetch_settles(flight, instances, Settling { flushed, unsettled, since: now, incarnation });
        } else {
            self.read_all(flight, &instances, None);
        }
    }

    /// Of the origin: another one after a crash.
    fn incarnation(&self) -> u64 {
        self.summary.crashes + self.summary.restores
    }

    pub(crate) fn fetch_settles(&mut self, flight: FlightId, instances: Vec<String>, mut settling: Settling) {
        if settling.incarnation != self.incarnation() {
            let way = self.way();
            self.after(way, Step::FetchAnswered(flight, Err("the connection is lost".into())));
            return;
        }
        let seen = self.origin.snapshot();
        settling.unsettled.retain(|xid| !seen.sees(*xid));
        let settled = settling.unsettled.is_empty();
        if !settled && self.now < settling.since + SETTLE_WITHIN {
            self.after(500, Step::FetchSettles(flight, instances, settling));
            return;
        }
        let (_, mappings) = match self.mutant {
            Some(Mutant::HorizonOfOldMappings) => self.origin.first_defs().wire(),
            _ => self.origin.visible_defs().wire(),
        };
        let horizon = Horizon { flushed: settling.flushed, settled, mappings };
        self.read_all(flight, &instances, Some(horizon));
    }

    fn read_all(&mut self, flight: FlightId, instances: &[String], horizon: Option<Horizon>) {
        let result = Fetched {
            header: FetchHeader { snapshot: self.origin.snapshot(), wal_lsn: self.origin.insert },
            horizon,
            instances: instances.iter().map(|text| self.read(text)).collect(),
        };
        self.note(|| format!("read {flight} in {}", result.header.snapshot));
        self.reads.insert(flight, self.origin.visible_defs());
        let way = self.way();
        self.after(way, Step::FetchAnswered(flight, Ok(Box::new(result))));
    }

    /// What `foreshard.fetch` gives for one instance.
    fn read(&self, text: &str) -> Result<FetchedInstance, (FetchFailure, String)> {
        let id: InstanceId = text.parse().map_err(|_| (FetchFailure::UnknownShard, String::new()))?;
        let (shard, key) = resolve(&id).ok_or((FetchFailure::KeyType, String::new()))?;
        if !self.origin.visible_defs().mapped().contains(&shard) {
            return Err((FetchFailure::UnknownShard, String::new()));
        }
        let generation = self.origin.visible_defs().shards.get(&shard).copied().unwrap_or_default();
        let canonical = instance(shard, key.map(|key| key.to_string())).to_string();
        let (layout, rows) = (rows::layout(shard, generation), self.origin.content(shard, key));
        Ok(FetchedInstance { canonical, layout, rows })
    }

    pub(crate) fn fetch_answered(
        &mut self,
        flight: FlightId,
        mut result: Result<Box<Fetched>, String>,
    ) -> Result<(), String> {
        if let (Ok(fetched), Some(mutant)) = (&mut result, self.mutant) {
            mutant.spoil_snapshot(&mut fetched.header.snapshot);
            match mutant {
                Mutant::LsnStamp => fetched.header.snapshot = self.origin.snapshot_of_the_log(),
                Mutant::LateFill => fetched.header.snapshot = self.origin.snapshot(),
                Mutant::DeltaToHolder => {
                    // An older transaction that it sees is taken for one that it lacks.
                    let snapshot = &mut fetched.header.snapshot;
                    let old = snapshot.xmax.saturating_sub(4);
                    if snapshot.sees(old) {
                        snapshot.in_progress.push(old);
                        snapshot.in_progress.sort_unstable();
                        snapshot.xmin = snapshot.xmin.min(old);
                    }
                }
                Mutant::HorizonAfterReading => {
                    if let Some(horizon) = &mut fetched.horizon {
                        horizon.flushed = self.origin.flushed;
                    }
                }
                Mutant::MappingsAsKnown => {
                    if let Some(horizon) = &mut fetched.horizon {
                        let known = (0..FUNCTIONS).filter_map(|function| {
                            let function_id = function_name(function);
                            let shards = self.core.definitions().shards_of(&function_id)?.to_vec();
                            Some(Mapping { function_id, shards })
                        });
                        horizon.mappings = known.collect();
                    }
                }
                Mutant::SettledAtOnce => fetched.header.wal_lsn = Lsn::ZERO,
                _ => {}
            }
        }
        let limit = self.profile.config.prefetch_bytes_per_second;
        self.prefetched.landed(self.now, flight, result.as_deref().ok(), limit)?;
        self.note(|| format!("landed {flight}: {}", if result.is_ok() { "rows" } else { "error" }));
        let moment = self.moment();
        self.core.fetch_done(moment, flight, result.map(|fetched| *fetched));
        self.act()
    }

    /// The edge's process ends and another one takes over.
    pub(crate) fn kill_edge(&mut self) {
        self.note(|| "the edge is killed".into());
        self.summary.add_process(self.core.stats());
        self.summary.edge_kills += 1;
        self.core = EdgeCore::new(self.profile.config.clone(), self.life);
        self.life += 1;
        self.connection += 1;
        self.cursor = None;
        self.held_back = None;
        self.acknowledged = Lsn::ZERO;
        self.doubted = false;
        self.catalog_loading = false;
        self.asked.clear();
        self.reads.clear();
        self.prefetched = Prefetched::default();
        self.checker.new_process();
        let pause = self.rng.random_range(1_000..30_000);
        self.after(pause, Step::Connect);
        self.after(pause, Step::Beat);
    }
}
