//! What somebody who should know has declared: that a function runs at an edge at these times.
//!
//! A hint is believed as declared until there is evidence. Each time that it names is then compared with what became of it, and
//! with what the engine would have said without the hint: how often it came true becomes its probability, and whichever of
//! the two explains better what happened becomes what is listened to.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::Serialize;

use crate::config::Horizon;
use crate::engine::{Engine, LONGEST_NAME};
use crate::minutes::MinuteBits;
use crate::registry::Pair;
use crate::schedule::WindowRequest;

/// What is declared of one function at one edge.
#[derive(Clone, Copy, Debug)]
pub struct Declaration<'a, S> {
    /// Tells it from others of the same function and edge; what was learned of it is kept under this number.
    pub id: i64,
    /// Edge name.
    pub edge: &'a str,
    /// Function id.
    pub function: &'a str,
    /// How sure the one who declares it is that the function runs at such a time, 0..=1.
    pub confidence: f64,
    /// Minutes at which it runs, as in [`Invocation::minute`](crate::Invocation::minute), ascending: from a few before the
    /// engine's clock to the end of the window to plan, and at most 10,000.
    pub minutes: &'a [i64],
    /// Ids of the shard instances that it reads, as far as they are known; what it is seen to read replaces them.
    pub instances: &'a [S],
}

/// Most minutes, instances and hints of one function at one edge that are taken in.
pub(crate) const MOST_MINUTES: usize = 10_000;
pub(crate) const MOST_INSTANCES: usize = 64;
pub(crate) const MOST_HINTS: usize = 16;

/// Outcomes that what was declared counts for.
const PRIOR: f32 = 2.0;
/// What is left of older outcomes at each new one.
const MEMORY: f32 = 0.95;
/// Share that is always left to the other side, so that it can be listened to again.
const OPEN_MIND: f32 = 0.02;
/// How far hints are listened to at first.
const CREDIT: f32 = 0.9;
/// Runs may begin so many minutes later than declared.
const LATE: i64 = 2;

/// A declared time whose outcome is not known yet.
#[derive(Clone, Copy, Debug, BorshDeserialize, BorshSerialize)]
struct Open {
    after: i64,
    until: i64,
    /// What the engine said without the hint.
    without: f32,
}

/// One hint, and what has become of it.
#[derive(Clone, Debug, BorshDeserialize, BorshSerialize)]
pub(crate) struct Hint {
    pub(crate) id: i64,
    confidence: f32,
    minutes: Vec<i64>,
    pub(crate) instances: Vec<Box<str>>,
    hits: f32,
    trials: f32,
    /// How far it is listened to rather than the engine without it.
    weight: f32,
    /// The latest declared minute that was compared, or is being.
    judged: i64,
    open: Option<Open>,
}

impl Hint {
    pub(crate) fn new(id: i64) -> Self {
        Hint {
            id,
            confidence: 0.0,
            minutes: Vec::new(),
            instances: Vec::new(),
            hits: 0.0,
            trials: 0.0,
            weight: CREDIT,
            judged: i64::MIN,
            open: None,
        }
    }

    /// Takes over what is declared now.
    pub(crate) fn declare<S: AsRef<str>>(&mut self, declared: &Declaration<'_, S>) {
        self.confidence =
            if declared.confidence.is_finite() { declared.confidence.clamp(0.0, 1.0) as f32 } else { 0.0 };
        self.minutes.clear();
        self.minutes.extend(declared.minutes.iter().take(MOST_MINUTES));
        self.minutes.sort_unstable();
        let instances = declared.instances.iter().take(MOST_INSTANCES).map(AsRef::as_ref);
        if !self.instances.iter().map(AsRef::as_ref).eq(instances.clone()) {
            self.instances = instances.map(Into::into).collect();
        }
    }

    /// The first declared minute in `(after, until]`.
    pub(crate) fn first_within(&self, after: i64, until: i64) -> Option<i64> {
        let at = self.minutes.partition_point(|&m| m <= after);
        self.minutes.get(at).copied().filter(|&m| m <= until)
    }

    /// Probability that the function runs in a window with a declared time, going by the hint alone.
    pub(crate) fn probability(&self) -> f32 {
        (PRIOR * self.confidence + self.hits) / (PRIOR + self.trials)
    }

    /// How far it is listened to, 0..=1.
    pub(crate) fn weight(&self) -> f32 {
        self.weight
    }

    /// Probability of a window with a declared time, where it would be `without` this hint.
    pub(crate) fn mix(&self, without: f64) -> f64 {
        let weight = f64::from(self.weight);
        weight * f64::from(self.probability()) + (1.0 - weight) * without
    }

    /// At the end of minute `now`: learns from a declared time whose window is over, and notes the next. `without` is what the
    /// engine says of the horizon without the hint; ticks are `tick` minutes apart.
    pub(crate) fn tick(
        &mut self,
        now: i64,
        tick: i64,
        horizon: Horizon,
        minutes: &MinuteBits,
        without: impl FnOnce() -> f32,
    ) {
        if let Some(open) = self.open.filter(|open| open.until <= now) {
            self.open = None;
            self.learn(open.without, minutes.any(open.after, open.until));
        }
        if self.open.is_some() {
            return;
        }
        let (after, until) = (now + i64::from(horizon.after), now + i64::from(horizon.until));
        // Not where it could begin a little late and be out of the window, unless this is the last look.
        let surely = (until - LATE).max(after + tick).min(until);
        let Some(next) = self.first_within(after.max(self.judged), surely) else { return };
        self.judged = self.first_within(next, until).map_or(next, |_| until);
        self.open = Some(Open { after, until, without: without() });
    }

    fn learn(&mut self, without: f32, ran: bool) {
        let likelihood = |p: f32| if ran { p } else { 1.0 - p }.clamp(0.01, 0.99);
        let (hint, other) = (likelihood(self.probability()), likelihood(without));
        let weight = self.weight * hint / (self.weight * hint + (1.0 - self.weight) * other);
        self.weight = OPEN_MIND + (1.0 - 2.0 * OPEN_MIND) * weight;
        self.hits = self.hits * MEMORY + f32::from(u8::from(ran));
        self.trials = self.trials * MEMORY + 1.0;
    }
}

/// A hint, in an explanation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HintSays {
    /// As it was declared.
    pub id: i64,
    /// How sure whoever declared it is.
    pub declared: f64,
    /// Probability of a window with a declared time, by what became of those before.
    pub says: f64,
    /// How far it is listened to rather than the engine without it, 0..=1.
    pub weight: f64,
    /// The declared time within the window, if there is one: Unix seconds.
    pub at: Option<i64>,
}

impl Engine {
    /// Replaces all that was declared; what was learned of those that are still declared is kept. `now` is the minute that the
    /// engine's time begins with if nothing was observed yet. What is one too many (16 of a function at an edge), or of an edge
    /// too many, is left out.
    pub fn declare<S: AsRef<str>>(&mut self, now: i64, declarations: &[Declaration<'_, S>]) {
        let mut before = Vec::new();
        for slot in std::mem::take(&mut self.hinted) {
            let hints = std::mem::take(&mut self.registry.pairs[slot as usize].hints);
            before.extend(hints.into_iter().map(|hint| ((slot, hint.id), hint)));
        }
        let mut before: std::collections::HashMap<(u32, i64), Hint> = before.into_iter().collect();
        for declared in declarations {
            if declared.edge.len() > LONGEST_NAME || declared.function.len() > LONGEST_NAME {
                continue;
            }
            self.begin(now);
            let Some(edge) = self.registry.edge(declared.edge) else { continue };
            let function = self.registry.function(declared.function);
            let slot = self
                .registry
                .find(edge, function)
                .unwrap_or_else(|| self.registry.admit(edge, function, None, now));
            let mut hint = before.remove(&(slot, declared.id)).unwrap_or_else(|| Hint::new(declared.id));
            hint.declare(declared);
            let hints = &mut self.registry.pairs[slot as usize].hints;
            if hints.len() < MOST_HINTS {
                hints.push(hint);
            }
            if hints.len() == 1 {
                self.hinted.push(slot);
            }
        }
    }

    /// Learns, at the end of minute `now`, what became of declared times.
    pub(crate) fn tick_hints(&mut self, now: i64) {
        let tick = i64::from(self.config().tick_minutes);
        let Some(&horizon) = self.config().horizons.first() else { return };
        for at in 0..self.hinted.len() {
            let slot = self.hinted[at] as usize;
            let mut hints = std::mem::take(&mut self.registry.pairs[slot].hints);
            let pair = &self.registry.pairs[slot];
            for hint in &mut hints {
                hint.tick(now, tick, horizon, &pair.history.minutes, || self.probability(pair, 0));
            }
            self.registry.pairs[slot].hints = hints;
        }
    }

    /// The hints that name a time within the window.
    pub(crate) fn hints_within<'a>(
        &self,
        pair: &'a Pair,
        request: &WindowRequest,
    ) -> impl Iterator<Item = (&'a Hint, i64)> + use<'a> {
        let (after, until) = request.minutes();
        pair.hints.iter().filter_map(move |hint| Some((hint, hint.first_within(after, until)?)))
    }

    pub(crate) fn explain_hints(&self, pair: &Pair, request: &WindowRequest) -> Vec<HintSays> {
        let (after, until) = request.minutes();
        let says = |hint: &Hint| HintSays {
            id: hint.id,
            declared: f64::from(hint.confidence),
            says: f64::from(hint.probability()),
            weight: f64::from(hint.weight()),
            at: hint.first_within(after, until).map(|minute| minute.saturating_mul(60)),
        };
        pair.hints.iter().map(says).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HORIZON: Horizon = Horizon::within(15);
    const DAY: i64 = 1440;

    fn daily() -> Hint {
        let mut hint = Hint::new(1);
        let minutes: Vec<i64> = (1..60).map(|day| day * DAY).collect();
        let instances: [&str; 0] = [];
        hint.declare(&Declaration {
            id: 1,
            edge: "e",
            function: "f",
            confidence: 0.9,
            minutes: &minutes,
            instances: &instances,
        });
        hint
    }

    /// The hint after so many days, of a function that then runs two minutes late, or not at all.
    fn after(days: i64, tick: i64, runs: impl Fn(i64) -> bool, without: f32) -> Hint {
        let (mut hint, mut minutes) = (daily(), MinuteBits::new(0));
        for now in 1..=days * DAY + 30 {
            if now % DAY == LATE && now > DAY && runs(now / DAY) {
                minutes.set(now);
            }
            if now % tick == 0 {
                hint.tick(now, tick, HORIZON, &minutes, || without);
            }
        }
        hint
    }

    #[test]
    fn is_believed_as_declared_until_there_is_evidence() {
        let hint = daily();
        assert!((hint.probability() - 0.9).abs() < 1e-6);
        assert!(hint.mix(0.0) > 0.8);
        assert_eq!(hint.first_within(DAY - 1, DAY), Some(DAY));
        assert_eq!(hint.first_within(DAY, 2 * DAY - 1), None);
    }

    #[test]
    fn every_declared_time_is_judged_once_however_far_apart_ticks_are() {
        for tick in [1, 5, 15] {
            let hint = after(10, tick, |_| true, 0.1);
            let trials = (0..9).fold(0.0, |n, _| n * MEMORY + 1.0);
            assert!((hint.trials - trials).abs() < 1.01, "{} of {trials} at {tick}", hint.trials);
        }
    }

    #[test]
    fn a_wrong_hint_loses_its_weight() {
        let hint = after(8, 5, |_| false, 0.01);
        assert!(hint.weight() < 0.1 && hint.mix(0.01) < 0.05, "{hint:?}");
    }

    #[test]
    fn a_right_hint_keeps_it_and_one_that_is_sometimes_right_says_so() {
        let hint = after(20, 5, |_| true, 0.05);
        assert!(hint.weight() > 0.9 && hint.mix(0.05) > 0.9, "{hint:?}");
        let hint = after(40, 5, |day| day % 2 == 0, 0.05);
        assert!((0.35..0.65).contains(&hint.mix(0.05)), "{hint:?}");
    }

    #[test]
    fn where_the_engine_knows_better_it_is_listened_to() {
        let hint = after(20, 5, |day| day % 2 == 0, 0.5);
        let sure = after(20, 5, |_| true, 0.98);
        assert!((0.3..0.7).contains(&hint.mix(0.5)), "{hint:?}");
        assert!(sure.mix(0.98) > 0.93, "{sure:?}");
    }
}
