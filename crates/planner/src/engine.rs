//! The engine: takes what ran, in order of time, and says what will.

use std::io::{self, Read, Write};
use std::sync::Arc;

use borsh::{BorshDeserialize, BorshSerialize};

use crate::archetypes::Archetypes;
use crate::bindings::Bindings;
use crate::config::{ConfigError, EngineConfig, Horizon, Part};
use crate::experts::{Evidence, Surroundings};
use crate::minutes::SPAN;
use crate::model::{Assessed, Model};
use crate::places::{Elsewhere, Place};
use crate::registry::{Pair, Registry};
use crate::season_experts::season_hits;
use crate::turns::{Turn, turns};

/// Invocations of one function at one edge within one minute.
#[derive(Clone, Copy, Debug)]
pub struct Invocation<'a, S> {
    /// Edge name.
    pub edge: &'a str,
    /// Function id.
    pub function: &'a str,
    /// Minute in which it started: Unix time in seconds, divided by 60, rounded down (or any other count of minutes,
    /// used throughout).
    pub minute: i64,
    /// How many there were.
    pub calls: u32,
    /// Ids of the shard instances that were read.
    pub instances: &'a [S],
}

/// What became of an [`Invocation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// It is part of the history now.
    Accepted,
    /// It is older than any history reaches back.
    TooOld,
    /// It is a day or more after the engine's clock, so that clock is not to be believed.
    Future,
    /// Its edge is one too many, or a name is longer than 1,024 bytes.
    Refused,
}

/// How many there were of each kind so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshDeserialize, BorshSerialize)]
pub struct Counters {
    /// Invocations taken in.
    pub accepted: u64,
    /// Invocations too old to be of use.
    pub too_old: u64,
    /// Invocations from an unbelievable future.
    pub future: u64,
    /// Invocations of an edge too many or with an absurd name.
    pub refused: u64,
    /// Histories given up to make room.
    pub evicted: u64,
}

/// One function at one edge, and what is expected of it.
#[derive(Clone, Copy, Debug)]
pub struct Prediction<'a> {
    /// Function id.
    pub function: &'a str,
    /// Edge name.
    pub edge: &'a str,
    /// Minutes since the last invocation there, 0 when it was in the current minute; `None` before the first.
    pub idle: Option<i64>,
    /// Probability of at least one invocation within each of the configured horizons.
    pub p: &'a [f32],
    /// What the plain idle-time hazard would say, which the drift guard falls back to.
    pub hazard: &'a [f32],
}

/// Takes predictions one by one.
pub type Sink<'s> = &'s mut dyn FnMut(Prediction<'_>);

/// Functions unused for so long (minutes) are not worth the look: their probability is [`ASLEEP`].
const SLEEP_AFTER: i64 = 45 * 1440;
const ASLEEP: f32 = 1e-4;
/// Functions that never ran at an edge are given up there after so long.
const UNSEEN_FOR: i64 = 14 * 1440;
/// A jump of the clock by more than this leaves no prediction waiting for its outcome.
const JUMP: i64 = 2 * SPAN;
/// Minutes beyond this are no time at all (two million years).
const FAR: i64 = 1 << 40;
pub(crate) const LONGEST_NAME: usize = 1024;
const MOST_INSTANCES: usize = 256;
/// A younger history than this also asks the other edges.
const YOUNG: i64 = 7 * 1440;

/// Learns from executions and predicts. Deterministic: the same calls give the same answers.
///
/// The caller observes the invocations of a minute, then ticks that minute; a prediction at the tick of minute `m` uses
/// nothing after `m`.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    pub(crate) registry: Registry,
    pub(crate) models: Vec<Model>,
    /// In which order models are asked.
    turns: Vec<Turn>,
    archetypes: Archetypes,
    pub(crate) bindings: Bindings,
    /// Slots of the pairs with hints.
    pub(crate) hinted: Vec<u32>,
    clock: Option<i64>,
    started: i64,
    ticks: i64,
    counters: Counters,
}

impl Engine {
    /// An engine that knows nothing yet.
    ///
    /// # Errors
    /// When the configuration is out of range.
    pub fn new(config: EngineConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Engine {
            registry: Registry::new(config.max_histories, config.max_edges, config.max_keys),
            models: config.horizons.iter().map(|&h| Model::new(h, &config.without)).collect(),
            turns: turns(&config),
            archetypes: Archetypes::default(),
            bindings: Bindings::default(),
            hinted: Vec::new(),
            clock: None,
            started: 0,
            ticks: 0,
            counters: Counters::default(),
            config,
        })
    }

    /// The settings it was made with.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// The last minute ticked, if any.
    pub fn clock(&self) -> Option<i64> {
        self.clock
    }

    /// Minutes between the first invocation and the clock.
    pub fn observed_minutes(&self) -> i64 {
        self.clock.map_or(0, |c| (c - self.started).max(0))
    }

    /// How many invocations were taken or left.
    pub fn counters(&self) -> Counters {
        Counters { evicted: self.registry.evicted(), ..self.counters }
    }

    /// Number of histories kept.
    pub fn histories(&self) -> usize {
        self.registry.pairs.len()
    }

    /// Memory taken by the histories and by predictions that wait for their outcome, bytes.
    pub fn bytes(&self) -> usize {
        let histories: usize = self.registry.pairs.iter().map(Pair::bytes).sum();
        histories + self.bindings.bytes() + self.models.iter().map(Model::said_bytes).sum::<usize>()
    }

    /// As [`Engine::bytes`], were only the first so many horizons predicted.
    pub fn bytes_with(&self, horizons: usize) -> usize {
        let further: usize = self.models.iter().skip(horizons).map(Model::said_bytes).sum();
        self.bytes() - further
    }

    /// Sets local time minus UTC (minutes) of an edge, from now on; makes the edge known. Ignored for an edge too many.
    pub fn set_utc_offset(&mut self, edge: &str, minutes: i32) {
        if let Some(e) = self.registry.edge(edge) {
            self.registry.edges[e as usize].offset = i64::from(minutes.clamp(-24 * 60, 24 * 60));
        }
    }

    /// Says where an edge is, in degrees: what a new edge is expected to do is what edges near by do, as far as they are known. Makes the
    /// edge known; ignored for an edge too many and for what is no place.
    pub fn set_place(&mut self, edge: &str, latitude: f64, longitude: f64) {
        if let Some(e) = self.registry.edge(edge) {
            self.registry.locate(e, Place::new(latitude, longitude));
        }
    }

    /// Adds invocations to the history. Those of minutes that were ticked already (a log that arrives late) still
    /// complete the picture of the past.
    pub fn observe<S: AsRef<str>>(&mut self, i: &Invocation<'_, S>) -> Observed {
        if !(-FAR..=FAR).contains(&i.minute) {
            self.counters.future += u64::from(i.calls.max(1));
            return Observed::Future;
        }
        let clock = self.begin(i.minute);
        let observed = if i.minute > clock.saturating_add(1440) {
            Observed::Future
        } else if i.minute <= clock.saturating_sub(SPAN) {
            Observed::TooOld
        } else if i.edge.len() > LONGEST_NAME || i.function.len() > LONGEST_NAME {
            Observed::Refused
        } else {
            self.record(i)
        };
        let counter = match observed {
            Observed::Accepted => &mut self.counters.accepted,
            Observed::TooOld => &mut self.counters.too_old,
            Observed::Future => &mut self.counters.future,
            Observed::Refused => &mut self.counters.refused,
        };
        *counter += u64::from(i.calls.max(1));
        observed
    }

    /// Time begins with this minute, unless it has begun; the last minute ticked.
    pub(crate) fn begin(&mut self, minute: i64) -> i64 {
        *self.clock.get_or_insert_with(|| {
            self.started = minute;
            minute - 1
        })
    }

    fn record<S: AsRef<str>>(&mut self, i: &Invocation<'_, S>) -> Observed {
        let Some(edge) = self.registry.edge(i.edge) else { return Observed::Refused };
        let first = &mut self.registry.edges[edge as usize].first;
        let new_edge = first.is_none();
        *first = Some(first.map_or(i.minute, |f| f.min(i.minute)));
        if new_edge {
            for function in self.registry.known_functions() {
                self.expect_elsewhere(function, i.minute);
            }
        }
        let function = self.registry.function(i.function);
        let slot = match self.registry.find(edge, function) {
            Some(slot) => slot,
            None => {
                let slot = self.registry.admit(edge, function, None, i.minute);
                self.expect_elsewhere(function, i.minute);
                slot
            }
        };
        let offset = self.registry.edges[edge as usize].offset;
        let pair = &mut self.registry.pairs[slot as usize];
        let onset = pair.history.record(i.minute, offset, i.calls);
        let instances = &i.instances[..i.instances.len().min(MOST_INSTANCES)];
        pair.keys.record(i.minute, instances);
        if pair.history.active.is_power_of_two() {
            pair.history.kinds = self.archetypes.assign(&pair.history, i.minute, offset);
        }
        if onset {
            self.registry.onset(slot, i.minute);
        }
        if !self.config.without.contains(&Part::Bindings) {
            self.bindings.record(edge, i.function, i.minute, instances);
        }
        if self.config.key_histories {
            for instance in instances {
                self.record_key(edge, function, slot, instance.as_ref(), i.minute, offset);
            }
        }
        Observed::Accepted
    }

    /// Keeps a history for an instance that only some invocations read, from its second read on.
    fn record_key(&mut self, edge: u32, function: u32, slot: u32, instance: &str, minute: i64, offset: i64) {
        if instance.len() > LONGEST_NAME {
            return;
        }
        let pair = &self.registry.pairs[slot as usize];
        if !pair.keys.varies(instance) {
            return;
        }
        let instance: Arc<str> = instance.into();
        let own = match self.registry.find_instance(edge, function, &instance) {
            Some(own) => own,
            // Not when it would take the place of the function that it belongs to.
            None if self.registry.pairs.len() >= self.config.max_histories => return,
            None => self.registry.admit(edge, function, Some(instance), minute),
        };
        self.registry.pairs[own as usize].history.record(minute, offset, 1);
    }

    /// Makes a function known at all edges, as long as there is plenty of room.
    fn expect_elsewhere(&mut self, function: u32, minute: i64) {
        if !self.config.unseen_pairs {
            return;
        }
        for edge in 0..self.registry.edges.len() as u32 {
            if self.registry.pairs.len() * 2 >= self.config.max_histories {
                return;
            }
            if self.registry.find(edge, function).is_none() {
                self.registry.admit(edge, function, None, minute);
            }
        }
    }

    /// Writes all that is known.
    pub(crate) fn put(&self, out: &mut impl Write) -> io::Result<()> {
        self.models.iter().try_for_each(|m| m.put(out))?;
        (&self.archetypes, self.clock, self.started, self.ticks, self.counters).serialize(out)?;
        self.bindings.serialize(out)?;
        self.registry.put(out)
    }

    /// Takes over all that another engine of the same settings knew.
    pub(crate) fn take(&mut self, from: &mut impl Read) -> io::Result<()> {
        self.models.iter_mut().try_for_each(|m| m.take(from))?;
        (self.archetypes, self.clock, self.started, self.ticks, self.counters) =
            BorshDeserialize::deserialize_reader(from)?;
        self.bindings = BorshDeserialize::deserialize_reader(from)?;
        self.registry.take(from)?;
        let hinted = self.registry.pairs.iter().zip(0..).filter(|(pair, _)| !pair.hints.is_empty());
        self.hinted = hinted.map(|(_, slot)| slot).collect();
        Ok(())
    }

    /// Ends minute `now`: learns from predictions whose horizon has passed and makes new ones, of every `every`-th
    /// history (1 = all; more makes catching up with a long log cheaper). `sink` receives the prediction for every
    /// function and edge. A minute that is not after the clock is ignored.
    pub fn tick(&mut self, now: i64, every: u32, mut sink: Option<Sink<'_>>) {
        let every = i64::from(every.max(1));
        match self.clock {
            _ if !(-FAR..=FAR).contains(&now) => return,
            Some(c) if now <= c => return,
            Some(c) if now - c > JUMP => self.models.iter_mut().for_each(Model::forget_said),
            _ => {}
        }
        self.clock = Some(now);
        self.ticks += 1;
        self.sort_into_archetypes(now);
        let at = now.div_euclid(i64::from(self.config.tick_minutes));
        let (registry, models, turns) = (&self.registry, &mut self.models, &self.turns);
        let outcome = |slot: u32, generation: u32, after: i64, until: i64| {
            let pair = registry.pairs.get(slot as usize).filter(|p| p.generation == generation)?;
            Some((pair.history.minutes.any(after, until), pair.edge))
        };
        models.iter_mut().for_each(|m| m.settle(now, outcome));
        let (mut p, mut hazard) = (vec![0.0f32; models.len()], vec![0.0f32; models.len()]);
        for (i, pair) in registry.pairs.iter().enumerate() {
            let asleep = asleep(pair, now);
            let key = pair.instance.is_some();
            let place = self.ticks + i as i64;
            p.fill(ASLEEP);
            hazard.fill(ASLEEP);
            for turn in turns {
                let m = &models[turn.model];
                let learn = !asleep && place % (turn.stride * every) == 0;
                if asleep || !(learn || (sink.is_some() && !key)) {
                    continue;
                }
                let around = surroundings(registry, pair, now, m.horizon, m.heat.of(pair.edge));
                let evidence = m.gather(&pair.history, now, &around);
                let said = m.assess(&evidence, turn.recalled(models, i as u32, pair.generation, at));
                (p[turn.model], hazard[turn.model]) = (said.p, evidence.hazard());
                let m = &mut models[turn.model];
                if turn.heard {
                    m.note(i as u32, pair.generation, at, &said);
                }
                if learn {
                    m.await_outcome(now, i as u32, pair.generation, &evidence, &said);
                }
            }
            if let Some(sink) = sink.as_mut().filter(|_| !key) {
                sink(Prediction {
                    function: &registry.functions[pair.function as usize].name,
                    edge: &registry.edges[pair.edge as usize].name,
                    idle: (pair.history.active > 0).then_some((now - pair.history.last).max(0)),
                    p: &p,
                    hazard: &hazard,
                });
            }
        }
        self.tick_hints(now);
    }

    /// Looks for archetypes when that is due, and then sorts every function into them.
    fn sort_into_archetypes(&mut self, now: i64) {
        let age = now - self.started + 1;
        if self.config.without.contains(&Part::Archetypes) || !self.archetypes.due(age) {
            return;
        }
        let registry = &self.registry;
        let histories = registry.pairs.iter().map(|p| (&p.history, registry.edges[p.edge as usize].offset));
        self.archetypes.search(histories, now, age);
        for pair in &mut self.registry.pairs {
            let offset = self.registry.edges[pair.edge as usize].offset;
            pair.history.kinds = self.archetypes.assign(&pair.history, now, offset);
        }
    }

    /// Ticks every tick boundary after the clock up to `now`; after a pause of more than 30 days only the last 30.
    pub fn advance(&mut self, now: i64, every: u32) {
        let tick = i64::from(self.config.tick_minutes);
        let Some(clock) = self.clock else { return };
        let now = now.clamp(-FAR, FAR);
        let mut next = (clock.max(now.saturating_sub(30 * 1440))).div_euclid(tick) * tick + tick;
        while next <= now {
            self.tick(next, every, None);
            next += tick;
        }
    }

    /// Probability of the pair for the horizon at this place of the list, at the clock.
    pub(crate) fn probability(&self, pair: &Pair, horizon: usize) -> f32 {
        let now = self.clock.unwrap_or(0);
        if asleep(pair, now) {
            return ASLEEP;
        }
        let m = &self.models[horizon];
        let around = surroundings(&self.registry, pair, now, m.horizon, m.heat.of(pair.edge));
        self.assess(pair, horizon, &m.gather(&pair.history, now, &around)).p
    }

    /// What the model at this place of the list makes of the evidence, at the clock.
    pub(crate) fn assess(&self, pair: &Pair, horizon: usize, evidence: &Evidence) -> Assessed {
        let turn = self.turns.iter().find(|t| t.model == horizon);
        let slot = self.registry.slot(pair);
        let at = self.clock.unwrap_or(0).div_euclid(i64::from(self.config.tick_minutes));
        let recalled = turn.zip(slot).map(|(t, slot)| t.recalled(&self.models, slot, pair.generation, at));
        self.models[horizon].assess(evidence, recalled.unwrap_or_default())
    }
}

pub(crate) fn asleep(pair: &Pair, now: i64) -> bool {
    let h = &pair.history;
    if h.active == 0 { now - h.first > UNSEEN_FOR } else { now - h.last > SLEEP_AFTER }
}

pub(crate) fn surroundings(
    registry: &Registry,
    pair: &Pair,
    now: i64,
    horizon: Horizon,
    heat: f32,
) -> Surroundings {
    let edge = &registry.edges[pair.edge as usize];
    if pair.instance.is_some() {
        return Surroundings {
            offset: edge.offset,
            sibling_lag: -1,
            followed: None,
            transition: None,
            elsewhere: None,
            heat,
        };
    }
    let function = &registry.functions[pair.function as usize];
    let sibling_lag = function.sibling_lag(pair.edge, now);
    let young = now - pair.history.first < YOUNG || edge.first.is_none_or(|first| now - first < YOUNG);
    let elsewhere = (young && function.slots.len() > 1).then(|| {
        let mut elsewhere = Elsewhere::default();
        let others = || function.slots.iter().map(|&s| &registry.pairs[s as usize]);
        let near = others().filter(|other| edge.nearness(other.edge) > 0.0);
        let far = others().filter(|other| edge.nearness(other.edge) <= 0.0);
        for other in near.chain(far).take(16) {
            let known = ((now - other.history.first) / 1440).clamp(0, 14) as u32;
            if other.edge != pair.edge && other.history.active > 0 && known > 0 {
                let hits = season_hits(&other.history, now + edge.offset, horizon, known);
                elsewhere.add(hits, known as f32, edge.nearness(other.edge));
            }
        }
        elsewhere.share()
    });
    Surroundings {
        offset: edge.offset,
        sibling_lag,
        followed: (sibling_lag >= 0 && pair.followed.len() > 0)
            .then(|| pair.followed.hazard(sibling_lag, i64::from(horizon.after), i64::from(horizon.until)))
            .filter(|h| h.at_risk > 0.0),
        transition: pair.chain.probability(now, i64::from(horizon.after), i64::from(horizon.until)),
        elsewhere: elsewhere.flatten(),
        heat,
    }
}
