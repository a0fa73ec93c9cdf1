//! One simulated world: the origin, the edge's core and what lies between them, driven by an event queue.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use foreshard_edge::{Action, Answer, EdgeCore, Fetched, FlightId, Now, Refusal, RequestId};
use foreshard_protocol::{CatalogSnapshot, Frame, Lsn, Snapshot, Xid};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::account::{Account, Summary};
use crate::catalog::{CatalogOp, Defs};
use crate::checker::{Asked, Checker, Moment, acknowledgement};
use crate::mutant::Mutant;
use crate::origin::{Origin, TxnId};
use crate::prefetched::Prefetched;
use crate::profile::Profile;
use crate::shrink::LeftOut;

/// Something that happens at a moment.
pub(crate) enum Step {
    Write,
    Commit(TxnId),
    Abort(TxnId),
    Flush(Lsn),
    Visible(TxnId),
    Ask,
    Cancel(RequestId),
    Tick,
    Fault,
    OriginUp,
    Connect,
    /// Of the connection with this number.
    Stream(u64),
    Beat,
    /// The edge has the origin write an empty message.
    Nudge,
    BeatAsked((u64, Lsn)),
    BeatAnswered((u64, Lsn), Option<(Lsn, Snapshot)>),
    CatalogRead(u64),
    CatalogAnswered(u64, Option<Box<CatalogSnapshot>>),
    FetchRead(FlightId, Vec<String>, bool),
    /// The origin waits for commits to become visible, before it tells its horizon.
    FetchSettles(FlightId, Vec<String>, Settling),
    FetchAnswered(FlightId, Result<Box<Fetched>, String>),
}

/// A horizon in the making.
pub(crate) struct Settling {
    pub(crate) flushed: Lsn,
    pub(crate) unsettled: Vec<Xid>,
    pub(crate) since: u64,
    /// Of the origin; another one has taken its place after a crash.
    pub(crate) incarnation: u64,
}

/// Steps that are numbered each for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Write = 1,
    Commit,
    Ask,
    Fault,
    Other,
}

/// The replication slot at the origin.
pub(crate) struct Slot {
    pub(crate) confirmed: Lsn,
    /// What a crash of the origin leaves of it.
    pub(crate) persisted: Lsn,
}

pub(crate) struct World {
    pub(crate) now: u64,
    /// Seeded anew at every step by its kind and number, so that leaving one out changes what the others draw as little as
    /// possible.
    pub(crate) rng: ChaCha8Rng,
    seed: u64,
    numbers: BTreeMap<Kind, u64>,
    left_out: LeftOut,
    pub(crate) profile: Profile,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) origin: Origin,
    pub(crate) origin_up: bool,
    pub(crate) slot: Option<Slot>,
    pub(crate) core: EdgeCore,
    /// Steps of an earlier process of the edge are void.
    pub(crate) life: u64,
    /// What this process has acknowledged, as the shell remembers it.
    pub(crate) acknowledged: Lsn,
    /// Number of the stream's connection, and the next place of the log to send on it.
    pub(crate) connection: u64,
    pub(crate) cursor: Option<usize>,
    pub(crate) met_the_crash: bool,
    pub(crate) met_the_restore: bool,
    /// Of the origin when the stream was last connected.
    pub(crate) timeline: u32,
    /// The same, with what it can't tell.
    pub(crate) history: u32,
    /// The edge has found out that another state of the origin answers.
    pub(crate) doubted: bool,
    /// Bytes of log that the restored origin writes before anybody looks.
    pub(crate) regrowth: u64,
    /// A frame that a planted bug has not delivered yet.
    pub(crate) held_back: Option<Frame>,
    pub(crate) calm: bool,
    pub(crate) catalog_loading: bool,
    pub(crate) asked: BTreeMap<RequestId, Asked>,
    pub(crate) checker: Checker,
    /// What functions could read when each fetch was read.
    pub(crate) reads: BTreeMap<FlightId, Defs>,
    pub(crate) prefetched: Prefetched,
    pub(crate) summary: Summary,
    pub(crate) next_schedule: i64,
    queue: BinaryHeap<Reverse<(u64, u64, u64)>>,
    steps: BTreeMap<u64, Step>,
    next_step: u64,
    account: Account,
}

/// How long a process may take to notice that a deadline has passed.
const TICK: u64 = 3_000;
/// Requests and fetches that were under way when the world becomes quiet are over by then.
const QUIET: u64 = 700_000;
/// All is at rest this long after the last commit has become visible.
const CALM: u64 = 300_000;

impl World {
    pub(crate) fn new(seed: u64, mutant: Option<Mutant>, account: Account, left_out: &LeftOut) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let profile = Profile::draw(&mut rng);
        if account == Account::Printed {
            println!("{profile:#?}");
        }
        let mut defs = Defs::default();
        for shard in 0..5 {
            defs.apply(&CatalogOp::Create { shard, generation: 1 });
        }
        for (function, shards) in [vec![0, 2], vec![2, 3, 4], vec![1, 4]].into_iter().enumerate() {
            defs.apply(&CatalogOp::Map { function, shards });
        }
        let mut origin = Origin::new(profile.first_xid, defs);
        origin.missing_values_as_null = mutant == Some(Mutant::MissingValuesAsNull);
        World {
            now: 0,
            origin,
            origin_up: true,
            slot: None,
            core: EdgeCore::new(profile.config.clone(), seed),
            life: 1,
            acknowledged: Lsn::ZERO,
            connection: 0,
            cursor: None,
            met_the_crash: true,
            met_the_restore: true,
            timeline: 1,
            history: 1,
            doubted: false,
            regrowth: 0,
            held_back: None,
            calm: false,
            catalog_loading: false,
            asked: BTreeMap::new(),
            checker: Checker::default(),
            reads: BTreeMap::new(),
            prefetched: Prefetched::default(),
            summary: Summary::default(),
            next_schedule: 1,
            queue: BinaryHeap::new(),
            steps: BTreeMap::new(),
            next_step: 0,
            rng,
            seed,
            numbers: BTreeMap::new(),
            left_out: left_out.clone(),
            profile,
            mutant,
            account,
        }
    }

    /// Lives through a busy time with faults, a quiet one in which some commits still hang, and a calm one in which
    /// everything must come to rest.
    pub(crate) fn run(&mut self) -> Result<Summary, String> {
        for step in [Step::Connect, Step::Write, Step::Ask, Step::Tick, Step::Fault, Step::Beat] {
            self.after(0, step);
        }
        let busy = self.profile.busy_until;
        self.run_until(busy)?;
        self.quieten();
        self.run_until(busy + QUIET)?;
        if self.gauge("fetches_under_way_demand") + self.gauge("fetches_waiting_demand") != 0.0 {
            return Err("nobody waits, but fetches on demand go on".into());
        }
        self.calm_down();
        self.run_until(busy + QUIET + CALM)?;
        self.at_rest()?;
        self.summary.add_process(self.core.stats());
        Ok(self.summary.clone())
    }

    pub(crate) fn run_until(&mut self, end: u64) -> Result<(), String> {
        while let Some(Reverse((at, number, life))) = self.queue.pop() {
            if at > end {
                self.queue.push(Reverse((at, number, life)));
                break;
            }
            self.now = at;
            let Some(step) = self.steps.remove(&number) else { continue };
            if life == 0 || life == self.life {
                self.take(step).map_err(|message| format!("at {} us: {message}", self.now))?;
            }
        }
        self.now = end;
        Ok(())
    }

    pub(crate) fn after(&mut self, delay: u64, step: Step) {
        // The world outside goes on when the edge's process dies; what was meant for that process does not.
        let of_the_edge = matches!(
            step,
            Step::Cancel(_)
                | Step::Connect
                | Step::Stream(_)
                | Step::Beat
                | Step::Nudge
                | Step::BeatAsked(_)
                | Step::BeatAnswered(..)
                | Step::CatalogRead(_)
                | Step::CatalogAnswered(..)
                | Step::FetchRead(..)
                | Step::FetchSettles(..)
                | Step::FetchAnswered(..)
        );
        self.next_step += 1;
        self.steps.insert(self.next_step, step);
        let life = if of_the_edge { self.life } else { 0 };
        self.queue.push(Reverse((self.now + delay, self.next_step, life)));
    }

    /// Counts a step of this kind and seeds what it draws. False: it is left out.
    pub(crate) fn draw(&mut self, kind: Kind) -> bool {
        let number = self.numbers.entry(kind).or_default();
        *number += 1;
        let number = *number;
        self.draw_as(kind, number);
        !self.left_out.contains(kind, number)
    }

    pub(crate) fn draw_as(&mut self, kind: Kind, number: u64) {
        let mixed = (self.seed ^ (kind as u64) << 56).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ number;
        self.rng = ChaCha8Rng::seed_from_u64(mixed);
    }

    /// How many steps of a kind there were.
    pub(crate) fn number(&self, kind: Kind) -> u64 {
        self.numbers.get(&kind).copied().unwrap_or_default()
    }

    fn take(&mut self, step: Step) -> Result<(), String> {
        let of_its_own = matches!(
            step,
            Step::Write | Step::Ask | Step::Fault | Step::Commit(_) | Step::Abort(_) | Step::Tick
        );
        if !of_its_own {
            self.draw(Kind::Other);
        }
        match step {
            Step::Write => self.write(),
            Step::Commit(txn) => self.commit(txn),
            Step::Abort(txn) => self.abort(txn),
            Step::Flush(to) => {
                let now = self.now;
                self.origin.flush(now, to);
            }
            Step::Visible(txn) => self.visible(txn),
            Step::Ask => self.ask()?,
            Step::Cancel(id) => {
                if self.asked.remove(&id).is_some() {
                    self.core.cancel(id);
                }
            }
            Step::Tick => {
                let now = self.moment();
                self.core.tick(now);
                self.act()?;
                self.overdue()?;
                self.bounded()?;
                self.after(TICK, Step::Tick);
            }
            Step::Fault => self.fault(),
            Step::OriginUp => {
                self.origin_up = true;
                let (now, grown) = (self.now, std::mem::take(&mut self.regrowth));
                if grown > 0 {
                    self.origin.write(grown, 0);
                    let end = self.origin.insert;
                    self.origin.flush(now, end);
                }
            }
            Step::Connect => self.connect()?,
            Step::Stream(connection) => self.stream(connection)?,
            Step::Beat => self.beat(),
            Step::Nudge => self.nudge(),
            Step::BeatAsked(asked) => self.beat_asked(asked),
            Step::BeatAnswered(asked, answer) => self.beat_answered(asked, answer)?,
            Step::CatalogRead(epoch) => self.catalog_read(epoch),
            Step::CatalogAnswered(epoch, answer) => self.catalog_answered(epoch, answer)?,
            Step::FetchRead(flight, instances, prove) => self.fetch_read(flight, instances, prove),
            Step::FetchSettles(flight, instances, settling) => {
                self.fetch_settles(flight, instances, settling);
            }
            Step::FetchAnswered(flight, result) => self.fetch_answered(flight, result)?,
        }
        Ok(())
    }

    pub(crate) fn moment(&self) -> Now {
        Now { mono: self.now, trace: self.now as i64 }
    }

    /// Carries out what the core decided.
    pub(crate) fn act(&mut self) -> Result<(), String> {
        for action in self.core.take_actions() {
            match action {
                Action::Fetch(order) => {
                    let texts: Vec<String> = order.instances.iter().map(|text| text.to_string()).collect();
                    self.note(|| format!("fetch {} of {texts:?} after {}", order.id, order.delay));
                    if order.ahead_of_demand {
                        self.prefetched.started(order.id);
                    }
                    let way = order.delay + self.way();
                    self.after(way, Step::FetchRead(order.id, texts, order.prove));
                }
                Action::Reply(id, result) => self.reply(id, result)?,
                Action::AskForProgress => {
                    let way = 2 * self.way();
                    self.after(way, Step::Stream(self.connection));
                }
                Action::AskForRecord => {
                    let way = self.way();
                    self.after(way, Step::Nudge);
                }
                Action::Reconnect => {
                    self.note(|| "another origin seems to answer".into());
                    self.doubted = true;
                    self.disconnect();
                }
                Action::LoadCatalog => self.load_catalog(),
            }
        }
        Ok(())
    }

    fn reply(&mut self, id: RequestId, result: Result<Answer, Refusal>) -> Result<(), String> {
        match self.asked.remove(&id) {
            Some(asked) => self.judge(&asked, result),
            None => Err(format!("a reply to request {} that does not wait", id.0)),
        }
    }

    pub(crate) fn judge(&mut self, asked: &Asked, result: Result<Answer, Refusal>) -> Result<(), String> {
        match result {
            Ok(answer) => {
                self.note(|| {
                    let parts = answer.parts.iter().map(|part| {
                        let rows: Vec<&str> =
                            part.copy.rows.iter().filter_map(|row| row[0].as_deref()).collect();
                        format!("{} {:?} [{}]", part.copy.instance, part.served_from, rows.join(","))
                    });
                    format!("answer at {}: {}", answer.lsn.0, parts.collect::<Vec<_>>().join("; "))
                });
                self.summary.answers += 1;
                self.summary.several_parts += u64::from(answer.parts.len() > 1);
                let copies =
                    answer.parts.iter().filter(|p| p.served_from != foreshard_edge::ServedFrom::Origin);
                self.summary.from_copies += u64::from(copies.count() > 0);
                self.summary.beyond += u64::from(answer.lsn >= self.core.applied());
                // What it says is of a past that the origin does not have any more, and of which nobody has told it.
                if !self.met_the_restore {
                    return Ok(());
                }
                let moment = Moment {
                    now: self.now,
                    applied: self.core.applied(),
                    max_staleness: self.profile.config.max_staleness,
                    fresh: self.core.is_fresh(self.moment()),
                    met_the_crash: self.met_the_crash,
                };
                self.summary.without_stream += u64::from(!moment.fresh);
                self.checker.answer(&self.origin, asked, &answer, &moment, &self.reads)
            }
            Err(refusal) => {
                self.note(|| format!("refused: {refusal:?}"));
                self.summary.refused += 1;
                Ok(())
            }
        }
    }

    /// The core acknowledges; the origin hears of it while the stream is connected.
    pub(crate) fn acknowledge(&mut self) -> Result<(), String> {
        let position = match self.mutant {
            Some(Mutant::AcknowledgeApplied) => self.core.applied(),
            _ => self.core.acknowledged(),
        };
        if position == Lsn::ZERO {
            return Ok(());
        }
        if matches!(self.mutant, None | Some(Mutant::AcknowledgeApplied)) {
            acknowledgement(&self.origin, position, self.core.applied())?;
        }
        self.acknowledged = self.acknowledged.max(position);
        if let Some(slot) = &mut self.slot {
            slot.confirmed = slot.confirmed.max(position);
            if self.rng.random_bool(0.1) {
                slot.persisted = slot.confirmed;
            }
        }
        Ok(())
    }

    fn overdue(&self) -> Result<(), String> {
        let late = self.asked.iter().find(|(_, asked)| asked.deadline + TICK < self.now);
        late.map_or(Ok(()), |(id, _)| Err(format!("request {} has no reply after its deadline", id.0)))
    }

    fn gauge(&self, name: &str) -> f64 {
        let gauges = self.core.gauges(self.moment());
        gauges.into_iter().find(|(known, _)| *known == name).map_or(f64::NAN, |(_, value)| value)
    }

    fn bounded(&self) -> Result<(), String> {
        let config = &self.profile.config;
        let over = |(name, value): &(&str, f64)| {
            let limit = match *name {
                "prefetch_cache_bytes" => config.prefetch_bytes,
                "reactive_cache_bytes" => config.reactive_bytes,
                "requests_waiting" => config.max_waiting,
                "unseen_bytes" => config.unseen_bytes,
                "delta_buffer_bytes" => config.delta_buffer,
                "fetches_under_way_demand" => config.fetch_concurrency,
                "fetches_under_way_prefetch" => config.prefetch_concurrency,
                _ => return false,
            };
            *value > limit as f64
        };
        match self.core.gauges(self.moment()).iter().find(|gauge| over(gauge)) {
            Some((name, value)) => Err(format!("{name} is {value}, above its limit")),
            None => Ok(()),
        }
    }

    /// The calm time is over: nothing is left behind, and everything is answered as it is at the origin.
    fn at_rest(&mut self) -> Result<(), String> {
        for name in [
            "requests_waiting",
            "fetches_under_way_demand",
            "fetches_waiting_demand",
            "fetches_under_way_prefetch",
            "unseen_transactions",
        ] {
            let value = self.gauge(name);
            if value != 0.0 {
                return Err(format!("at rest, {name} is {value}"));
            }
        }
        if !self.core.is_ready(self.moment()) {
            return Err("at rest, but not ready".into());
        }
        let (acknowledged, flushed) = (self.core.acknowledged(), self.origin.flushed);
        if acknowledged != flushed {
            return Err(format!("at rest, {acknowledged} of {flushed} is acknowledged"));
        }
        let defs = self.origin.visible_defs();
        for (function, shards) in &defs.functions {
            let answers = self.summary.answers;
            self.ask_for(*function, shards.iter().map(|shard| (*shard, 0)).collect(), None)?;
            let end = self.now + 200_000;
            self.run_until(end)?;
            if self.summary.answers != answers + 1 {
                return Err(format!("at rest, f{function} is not answered"));
            }
        }
        Ok(())
    }

    /// Adds to the account of the run.
    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        if self.account == Account::Dropped {
            return;
        }
        let what = what();
        if self.account == Account::Printed {
            println!("{:>9} {what}", self.now);
        }
        for byte in what.bytes().chain(self.now.to_le_bytes()) {
            self.summary.fingerprint =
                (self.summary.fingerprint ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }
}
