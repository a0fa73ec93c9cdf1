//! Why a function is expected, or not: what each expert said, and what became of it.

use serde::Serialize;

use crate::config::Horizon;
use crate::engine::{Engine, asleep, surroundings};
use crate::experts::{EXPERTS, expert_of};
use crate::hints::HintSays;
use crate::numeric::sigmoid;
use crate::registry::Pair;
use crate::schedule::WindowRequest;
use crate::season_experts::season_hits;

/// Instances that an explanation lists.
const MOST_READS: usize = 20;

/// One expert's part in a prediction.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Contribution {
    /// The expert, in words.
    pub expert: &'static str,
    /// The probability that the weightiest of its voices gives for the horizon.
    pub says: f64,
    /// What it adds to the mixed logit: above 0 it speaks for a call.
    pub adds: f64,
}

/// Another function that announces this one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Announcement {
    /// The function that started.
    pub function: String,
    /// How long ago, minutes.
    pub minutes_ago: i64,
    /// Probability that this function follows it within the horizon.
    pub probability: f64,
}

/// A shard instance that the function reads.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InstanceRead {
    /// Its id.
    pub instance: String,
    /// Share of the function's invocations that read it.
    pub share: f64,
    /// Probability that it is read within the window.
    pub confidence: f64,
    /// Whether that comes from a history of its own rather than from the share.
    pub own_history: bool,
    /// Whether it comes from the key that another function has just read.
    pub bound: bool,
    /// Whether it is sure enough to be scheduled.
    pub reaches_floor: bool,
}

/// Why a function is expected at an edge within a window, or not.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// Function id.
    pub function: String,
    /// Edge name.
    pub edge: String,
    /// Calibrated probability for the window.
    pub probability: f64,
    /// Discount for how little is known, 0..=1.
    pub trust: f64,
    /// Least discounted probability that is published.
    pub floor: f64,
    /// Whether it is published (unless it is in the control group).
    pub reaches_floor: bool,
    /// Unused for so long that it is not looked at any more.
    pub asleep: bool,
    /// Active minutes so far.
    pub active_minutes: u32,
    /// Days since it was first seen.
    pub known_days: f64,
    /// Minutes since its latest call; absent before the first.
    pub idle_minutes: Option<i64>,
    /// Active minutes per day, over the last day and over all its history.
    pub per_day: (f64, f64),
    /// On how many of so many past days it was called at this time of day.
    pub same_time_of_day: (u32, u32),
    /// A period of its own (minutes) and how well its past repeats at it, 0..=1.
    pub period: Option<(u16, f64)>,
    /// The archetypes that it may be of, by number, with their shares.
    pub archetypes: Vec<(usize, f64)>,
    /// The modelled horizon nearest to the window, which the experts below speak about.
    pub horizon: Horizon,
    /// What the mixture gives for that horizon, calibrated.
    pub horizon_probability: f64,
    /// Whether the drift guard has fallen back to the plain hazard.
    pub fallen_back: bool,
    /// Experts, the weightiest first.
    pub experts: Vec<Contribution>,
    /// Functions that announce it.
    pub announced_by: Vec<Announcement>,
    /// What was declared of it.
    pub hints: Vec<HintSays>,
    /// What it reads, the likeliest first, twenty at most.
    pub reads: Vec<InstanceRead>,
}

impl Engine {
    /// Explains what is expected of a function at an edge within a window; `None` when that function was never seen there
    /// or the window lies before anything is known.
    pub fn explain(&self, edge: &str, function: &str, request: &WindowRequest) -> Option<Explanation> {
        let pair = self.registry.look_up(edge, function)?;
        let now = self.clock()?;
        let window = self.derivation(request)?;
        let model = &self.models[window.nearest()];
        let horizon = model.horizon;
        let around = surroundings(&self.registry, pair, now, horizon, model.heat.of(pair.edge));
        let evidence = model.gather(&pair.history, now, &around);
        let (parts, fallen_back) = model.contributions(&evidence);
        let expected = self.expectation(pair, &window, request, &self.bound(request));
        let reaches_floor = expected.firm() >= request.floor && expected.probability > 0.0;
        let mut reads: Vec<InstanceRead> = self
            .instances(pair, &expected, &window)
            .map(|r| InstanceRead {
                instance: r.instance.into_owned(),
                share: f64::from(r.share),
                confidence: r.p,
                own_history: r.own,
                bound: r.bound,
                reaches_floor: reaches_floor && r.p * expected.trust >= request.floor,
            })
            .collect();
        reads.sort_by(|a, b| b.confidence.total_cmp(&a.confidence).then_with(|| a.instance.cmp(&b.instance)));
        reads.truncate(MOST_READS);
        let h = &pair.history;
        let age = (now - h.first + 1).max(1);
        let days = ((now - h.first) / 1440).clamp(0, 28) as u32;
        Some(Explanation {
            function: function.to_owned(),
            edge: edge.to_owned(),
            probability: expected.probability,
            trust: expected.trust,
            floor: request.floor,
            reaches_floor,
            asleep: asleep(pair, now),
            active_minutes: h.active,
            known_days: if h.active > 0 { age as f64 / 1440.0 } else { 0.0 },
            idle_minutes: (h.active > 0).then_some((now - h.last).max(0)),
            per_day: (
                f64::from(h.minutes.count(now - 1440, now)),
                f64::from(h.active) / (age as f64 / 1440.0).max(1.0),
            ),
            same_time_of_day: (season_hits(h, now + around.offset, horizon, days) as u32, days),
            period: (h.rhythm[0].lag > 0).then_some((h.rhythm[0].lag, f64::from(h.rhythm[0].score))),
            archetypes: h.kinds.shares().map(|(k, share)| (k, f64::from(share))).collect(),
            horizon,
            horizon_probability: f64::from(self.assess(pair, window.nearest(), &evidence).p),
            fallen_back,
            experts: contributions(&parts, &evidence.inputs),
            announced_by: self.announcements(pair, now, horizon),
            hints: self.explain_hints(pair, request),
            reads,
        })
    }

    fn announcements(&self, pair: &Pair, now: i64, horizon: Horizon) -> Vec<Announcement> {
        let (after, until) = (i64::from(horizon.after), i64::from(horizon.until));
        let announced = pair.chain.announced(now, after, until).filter_map(|((slot, generation), ago, p)| {
            let from = self.registry.pairs.get(slot as usize).filter(|p| p.generation == generation)?;
            Some(Announcement {
                function: self.registry.functions[from.function as usize].name.to_string(),
                minutes_ago: ago,
                probability: f64::from(p),
            })
        });
        announced.collect()
    }
}

/// Sums up the inputs of each expert, the weightiest expert first.
fn contributions(parts: &[f32], inputs: &[f32]) -> Vec<Contribution> {
    let mut experts: Vec<(f32, usize)> = vec![(0.0, 0); EXPERTS.len()];
    for (i, &part) in parts.iter().enumerate() {
        let (sum, loudest) = &mut experts[expert_of(i)];
        *sum += part;
        if part.abs() > parts[*loudest].abs() || expert_of(*loudest) != expert_of(i) {
            *loudest = i;
        }
    }
    let mut out: Vec<Contribution> = EXPERTS
        .into_iter()
        .zip(experts)
        .map(|(expert, (sum, loudest))| Contribution {
            expert,
            says: f64::from(sigmoid(inputs[loudest])),
            adds: f64::from(sum),
        })
        .collect();
    out.sort_by(|a, b| b.adds.abs().total_cmp(&a.adds.abs()));
    out
}
