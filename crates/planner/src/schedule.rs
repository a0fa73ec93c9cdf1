//! From probabilities to a schedule: which shard instances each edge should hold for which functions in a window.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::bindings::Bound;
use crate::engine::Engine;
use crate::registry::Pair;
use crate::window::Derivation;

/// One line of a schedule, as it is published.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleEntry {
    /// Function expected to run.
    pub function_id: String,
    /// Ids of the shard instances it is expected to read.
    pub shard_list: Vec<String>,
    /// Calibrated probability, 0..=1, that they are read within the window.
    pub confidence: f64,
}

/// The schedule of one edge for one window.
#[derive(Clone, Debug, PartialEq)]
pub struct EdgeSchedule {
    /// Edge name.
    pub edge: String,
    /// Entries, the most probable first.
    pub entries: Vec<ScheduleEntry>,
}

/// The window to plan for. Times are Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WindowRequest {
    /// The present.
    pub now: i64,
    /// First second of the window.
    pub starts_at: i64,
    /// First second after it.
    pub ends_at: i64,
    /// Seconds from publishing until the rows can be at the edge.
    pub lead: i64,
    /// Least probability worth publishing.
    pub floor: f64,
    /// Most entries per edge.
    pub max_entries: usize,
}

impl WindowRequest {
    /// When prefetched rows can be there at the earliest, Unix seconds.
    fn earliest(&self) -> i64 {
        self.now.saturating_add(self.lead.max(0))
    }

    /// The minutes of which a part lies in the window, as `(after, until]`.
    pub(crate) fn minutes(&self) -> (i64, i64) {
        let from = self.starts_at.max(self.earliest());
        (from.div_euclid(60) - 1, self.ends_at.saturating_sub(1).div_euclid(60))
    }
}

/// A window that cannot be planned.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ScheduleError {
    /// It ends before anything published now could be at the edge.
    #[error("the window ends at {ends_at}, before anything decided now could arrive ({earliest})")]
    TooLate {
        /// End of the window asked for.
        ends_at: i64,
        /// When prefetched rows can be there at the earliest.
        earliest: i64,
    },
    /// The floor is not a probability.
    #[error("the publishing floor must be a number between 0 and 1")]
    Floor,
}

/// Invocations in minutes that count as half of full trust in a history.
const HALF_TRUST: f64 = 2.0;
/// Minutes of observation that count as half of full trust in the engine.
const WARM_UP: f64 = 60.0;
/// Reads of an instance before its own history is believed over its share of the function's invocations.
const KEY_EVIDENCE: u32 = 3;

/// One shard instance that a function may read.
pub(crate) struct Read<'a> {
    pub(crate) instance: Cow<'a, str>,
    /// Share of the function's invocations that read it.
    pub(crate) share: f32,
    /// Probability that it is read within the window.
    pub(crate) p: f64,
    /// Whether that comes from a history of its own.
    pub(crate) own: bool,
    /// Whether it comes from the key that another function has read.
    pub(crate) bound: bool,
}

/// What is expected of a function within a window.
#[derive(Clone, Debug)]
pub(crate) struct Expectation {
    pub(crate) probability: f64,
    /// Discount for how little is known, 0..=1.
    pub(crate) trust: f64,
    /// Whether a declared time lies in the window.
    hinted: bool,
    /// Instances whose key another function has just read, with their probabilities.
    bound: Vec<(String, f64)>,
}

impl Expectation {
    /// A function that reads one of these runs at least as likely as it reads the likeliest of them.
    fn bind(&mut self, bound: Vec<(String, f64)>) {
        let likeliest = bound.iter().map(|b| b.1).fold(0.0, f64::max);
        if likeliest > 0.0 {
            let firm = self.firm().max(likeliest);
            self.probability = self.probability.max(likeliest);
            self.trust = (firm / self.probability).min(1.0);
        }
        self.bound = bound;
    }

    /// The discounted probability, which has to reach the floor.
    pub(crate) fn firm(&self) -> f64 {
        self.probability * self.trust
    }
}

/// What a function reads, with the share of its invocations that do; what is declared counts as one more of them.
fn shares(pair: &Pair) -> impl Iterator<Item = (&str, f32)> {
    let mut declared: Vec<&str> = pair.hints.iter().flat_map(|h| &h.instances).map(AsRef::as_ref).collect();
    declared.sort_unstable();
    declared.dedup();
    let unseen: Vec<&str> = declared.iter().copied().filter(|instance| !pair.keys.knows(instance)).collect();
    let seen = pair.keys.shares().map(move |(instance, share)| match declared.binary_search(&instance) {
        Ok(_) => (instance, share.max(pair.keys.declared(instance))),
        Err(_) => (instance, share),
    });
    seen.chain(unseen.into_iter().map(|instance| (instance, pair.keys.declared(instance))))
}

fn rounded(p: f64) -> f64 {
    (p * 1000.0).round() / 1000.0
}

impl Engine {
    /// Plans the window for every edge with something worth publishing.
    ///
    /// What would arrive too late is left out: the window effectively starts `lead` after `now`. A function is published
    /// only if its probability, discounted for how little is known yet, reaches the floor; the confidence published is
    /// the undiscounted one. Instances that are expected with different probabilities are in separate entries.
    ///
    /// # Errors
    /// When the window is over before anything could arrive, or the floor is not a probability.
    pub fn schedule(&self, request: &WindowRequest) -> Result<Vec<EdgeSchedule>, ScheduleError> {
        if !(0.0..=1.0).contains(&request.floor) {
            return Err(ScheduleError::Floor);
        }
        let earliest = request.earliest();
        if request.ends_at <= earliest {
            return Err(ScheduleError::TooLate { ends_at: request.ends_at, earliest });
        }
        let mut by_edge: Vec<Vec<ScheduleEntry>> = vec![Vec::new(); self.registry.edges.len()];
        let Some(derivation) = self.derivation(request) else { return Ok(Vec::new()) };
        let bound = self.bound(request);
        for pair in self.registry.pairs.iter().filter(|p| p.instance.is_none()) {
            let expected = self.expectation(pair, &derivation, request, &bound);
            if expected.firm() >= request.floor {
                self.entries(pair, &expected, &derivation, request.floor, &mut by_edge[pair.edge as usize]);
            }
        }
        let mut schedules: Vec<EdgeSchedule> = Vec::new();
        for (edge, mut entries) in self.registry.edges.iter().zip(by_edge) {
            entries.sort_by(|a, b| {
                b.confidence
                    .total_cmp(&a.confidence)
                    .then_with(|| a.function_id.cmp(&b.function_id))
                    .then_with(|| a.shard_list.cmp(&b.shard_list))
            });
            entries.truncate(request.max_entries);
            if !entries.is_empty() {
                schedules.push(EdgeSchedule { edge: edge.name.to_string(), entries });
            }
        }
        schedules.sort_by(|a, b| a.edge.cmp(&b.edge));
        Ok(schedules)
    }

    /// How the window follows from the horizons; `None` before anything is known.
    pub(crate) fn derivation(&self, request: &WindowRequest) -> Option<Derivation> {
        let clock = self.clock()?;
        let earliest = request.now.saturating_add(request.lead.max(0));
        // The engine's clock stands at the end of a minute; the log may lag behind the present.
        let after_clock = |t: i64| t.saturating_sub((clock + 1).saturating_mul(60)) as f64 / 60.0;
        let span = (after_clock(request.starts_at.max(earliest)), after_clock(request.ends_at));
        Derivation::of(&self.config().horizons, span.0, span.1)
    }

    /// How much is known, of this history and of everything: what is published must reach the floor after this discount.
    pub(crate) fn trust(&self, pair: &Pair) -> f64 {
        let observed = self.observed_minutes() as f64;
        let calls = f64::from(pair.history.active);
        observed / (observed + WARM_UP) * calls / (calls + HALF_TRUST)
    }

    /// What is expected of a function within the window.
    pub(crate) fn expectation(
        &self,
        pair: &Pair,
        window: &Derivation,
        request: &WindowRequest,
        bound: &Bound,
    ) -> Expectation {
        let alone = window.probability(&self.config().horizons, |h| self.probability(pair, h));
        let trust = self.trust(pair);
        let mut expected = Expectation { probability: alone, trust, hinted: false, bound: Vec::new() };
        for (hint, _) in self.hints_within(pair, request) {
            // Declared is known, however little has been seen.
            let firm = hint.mix(expected.firm());
            let probability = hint.mix(expected.probability);
            let trust = if probability > 0.0 { (firm / probability).min(1.0) } else { 0.0 };
            expected = Expectation { probability, trust, hinted: true, ..expected };
        }
        if !bound.is_empty() {
            let function = &self.registry.functions[pair.function as usize].name;
            let key: (u32, Box<str>) = (pair.edge, (&**function).into());
            expected.bind(bound.get(&key).cloned().unwrap_or_default());
        }
        expected
    }

    /// The entries of one function: its instances, those of equal confidence together.
    fn entries(
        &self,
        pair: &Pair,
        expected: &Expectation,
        window: &Derivation,
        floor: f64,
        out: &mut Vec<ScheduleEntry>,
    ) {
        let mut expected: Vec<(f64, Cow<'_, str>)> = self
            .instances(pair, expected, window)
            .filter(|i| i.p * expected.trust >= floor)
            .map(|i| (rounded(i.p), i.instance))
            .collect();
        expected.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        for group in expected.chunk_by(|a, b| a.0 == b.0) {
            out.push(ScheduleEntry {
                function_id: self.registry.functions[pair.function as usize].name.to_string(),
                shard_list: group.iter().map(|e| e.1.to_string()).collect(),
                confidence: group[0].0,
            });
        }
    }

    /// What is expected at all edges because its key was read, in a window.
    pub(crate) fn bound(&self, request: &WindowRequest) -> Bound {
        let (after, until) = request.minutes();
        self.clock().map_or_else(Bound::new, |now| self.bindings.expected(now, after, until))
    }

    /// What the function reads, and with which probability within the window.
    pub(crate) fn instances<'a>(
        &'a self,
        pair: &'a Pair,
        expected: &'a Expectation,
        window: &'a Derivation,
    ) -> impl Iterator<Item = Read<'a>> + 'a {
        let &Expectation { probability, hinted, ref bound, .. } = expected;
        // A function that runs several times in the window reads several keys.
        let minutes = window.length.max(1.0);
        let now = self.clock().unwrap_or(0);
        let recent = f64::from(pair.history.minutes.count(now - 240, now)) * minutes / 240.0;
        let calls = f64::from(pair.history.intensity) * recent.max(1.0);
        let usual = shares(pair).map(move |(instance, share)| {
            let by_share = probability * (1.0 - (1.0 - f64::from(share)).powf(calls.max(1.0)));
            let own = self.key_pair(pair, instance).filter(|key| key.history.active >= KEY_EVIDENCE);
            let p = own.map_or(by_share, |key| {
                let alone = window.probability(&self.config().horizons, |h| self.probability(key, h));
                // The key's own history knows nothing of what was declared.
                if hinted { alone.max(by_share) } else { alone }
            });
            let known = bound.binary_search_by(|b| b.0.as_str().cmp(instance)).map_or(0.0, |at| bound[at].1);
            Read { instance: instance.into(), share, p: p.max(known), own: own.is_some(), bound: known > p }
        });
        let others = bound.iter().filter(|b| !shares(pair).any(|(instance, _)| instance == b.0));
        usual.chain(others.map(|(instance, p)| Read {
            instance: instance.as_str().into(),
            share: 0.0,
            p: *p,
            own: false,
            bound: true,
        }))
    }

    fn key_pair(&self, pair: &Pair, instance: &str) -> Option<&Pair> {
        if !self.config().key_histories || !pair.keys.varies(instance) {
            return None;
        }
        let slot = self.registry.find_instance(pair.edge, pair.function, &instance.into())?;
        self.registry.pairs.get(slot as usize)
    }
}
