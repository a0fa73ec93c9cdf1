//! The experts: each looks at one side of a function's history and gives a probability that it will be called within
//! the horizon. Together they are the inputs of the mixer.

use std::io::{self, Read};

use borsh::{BorshDeserialize, BorshSerialize};

use crate::archetypes::KINDS;
use crate::config::{Horizon, Part};
use crate::gaps::{COLD, Hazard};
use crate::history::{History, PERIODS};
use crate::mixer::{Contexts, INPUTS, Inputs};
use crate::numeric::{any_of, bin, logits_in_place, shrunk, sigmoid};
use crate::refinement::{LEVELS, TRAITS, Trait, Traits};
use crate::residues::CLOCKS;
use crate::season_experts::seasons;
use crate::state::sound;
use crate::stretches::{self, STRETCHES};
use crate::tables::Table;

/// Number of context tables.
pub(crate) const TABLES: usize = 16;
const SIZES: [usize; TABLES] = [
    IDLE_BINS * RATE_BINS,
    14 * 12 * 3,
    256 * 6,
    18 * 18 * 5,
    96 * RATE_BINS,
    2 * 2 * 8 * 5 * 7,
    10 * 10 * 6,
    9 * 9 * 5 * 5,
    IDLE_BINS * 9 * 9,
    60 * RATE_BINS,
    IDLE_BINS * 7 * 6,
    12 * 12 * 8,
    9 * 7 * 4 * 4 * 5,
    ANNOUNCED * 6,
    (KINDS + 1) * IDLE_BINS,
    (KINDS + 1) * 48 * 6,
];

/// The table that is asked once for each archetype.
const OF_A_KIND: usize = 14;

/// Levels of what predecessors announce, from nothing to nearly certain.
const ANNOUNCED: usize = 9;

const IDLE: [i64; 23] =
    [1, 2, 3, 5, 7, 10, 12, 15, 20, 25, 30, 40, 50, 60, 90, 120, 180, 240, 360, 720, 1440, 2880, 10_080];
const IDLE_BINS: usize = IDLE.len() + 1;
const RATE_BINS: usize = 14;
const COARSE_IDLE: [i64; 5] = [3, 10, 20, 60, 240];
/// Number of coarse idle-time bins: the contexts of calibration and of the mixer's second layer.
pub(crate) const IDLE_CONTEXTS: usize = 12;
const CALIBRATION_IDLE: [i64; 11] = [1, 3, 10, 15, 20, 30, 60, 120, 240, 720, 1440];

/// Everything outside a function's own history that an expert may look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surroundings {
    /// Local time minus UTC, minutes.
    pub(crate) offset: i64,
    /// Minutes since another edge last had an onset of this function; negative when never.
    pub(crate) sibling_lag: i64,
    /// How often this edge followed another after at least so long, and within the horizon.
    pub(crate) followed: Option<Hazard>,
    /// Probability from the functions that ran just before, where transitions say anything.
    pub(crate) transition: Option<f32>,
    /// What other edges' history says about this local time, where this edge has little of its own.
    pub(crate) elsewhere: Option<f32>,
    /// How busy the edge was lately against what was expected of it: logarithm of the ratio.
    pub(crate) heat: f32,
}

/// The mixer's inputs and contexts, and the cells of the tables that were looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evidence {
    pub(crate) inputs: Inputs,
    pub(crate) contexts: Contexts,
    pub(crate) cells: [u16; TABLES],
    pub(crate) idle_context: u8,
    /// What the refinement looks at; nothing within a burst.
    pub(crate) traits: Option<Traits>,
}

impl Evidence {
    /// Probability by the plain idle-time hazard.
    pub(crate) fn hazard(&self) -> f32 {
        sigmoid(self.inputs[HAZARD_INPUT])
    }
}

/// The input that knows time of day and popularity only, which the edges' heat is measured against.
pub(crate) const SEASONAL_INPUT: usize = TABLE_INPUTS + 4;
/// The input that is the plain idle-time hazard, which the drift guard falls back to.
pub(crate) const HAZARD_INPUT: usize = 0;

/// Sizes of the mixer's context sets, in the order of [`Evidence::contexts`].
pub(crate) const CONTEXT_SIZES: [usize; crate::mixer::SETS] = [
    ANNOUNCED * 4,
    12 * 7,
    12 * 6,
    RATE_BINS * 7,
    24,
    6 * 4,
    7 * 6,
    14 * 3 * 6,
    12 * 5 * 6,
    8 * 8 * 6,
    (KINDS + 1) * 12,
];

/// The set whose context is how well a history repeats, what its best lag says, and how long it has been idle.
pub(crate) const REPEATING: usize = 9;

/// The weights that mixing starts with: the hazard and the pooled tables, as one would guess.
pub(crate) fn starting_weights() -> Inputs {
    let mut w = [0.0; INPUTS];
    for i in [0, 1, 2] {
        w[i] = 0.15;
    }
    w[TABLE_INPUTS] = 0.2;
    w[TABLE_INPUTS + 1] = 0.1;
    w[TABLE_INPUTS + 3] = 0.2;
    w[OTHER_INPUTS + 1] = 0.3;
    w
}

const PHASE_INPUTS: usize = 3;
const RATE_INPUTS: usize = PHASE_INPUTS + PERIODS.len() + 2;
const SEASON_INPUTS: usize = RATE_INPUTS + 6;
const SEASON_COUNT: usize = 17;
const RHYTHM_INPUTS: usize = SEASON_INPUTS + SEASON_COUNT;
const TABLE_INPUTS: usize = RHYTHM_INPUTS + 9;
const OTHER_INPUTS: usize = TABLE_INPUTS + TABLES;
const CLOCK_INPUTS: usize = OTHER_INPUTS + 11;
const _: () = assert!(CLOCK_INPUTS + MIXED_CLOCKS.len() <= INPUTS);
/// The clocks that the mixer hears of, by their place.
const MIXED_CLOCKS: [usize; 5] = [0, 1, 2, 4, 5];

/// The inputs that a part of the engine is responsible for, its tables included.
pub(crate) fn inputs_of(part: Part) -> Vec<usize> {
    let (inputs, tables): (Vec<usize>, &[usize]) = match part {
        Part::Hazard => {
            ((0..PHASE_INPUTS).chain(RHYTHM_INPUTS + 4..TABLE_INPUTS).collect(), &[0, 1, 3, 8, 10, 11])
        }
        Part::Phases => {
            ((PHASE_INPUTS..RATE_INPUTS).chain(RHYTHM_INPUTS..RHYTHM_INPUTS + 4).collect(), &[2, 3, 9, 11])
        }
        Part::Seasons => {
            let clock = [OTHER_INPUTS + 4, OTHER_INPUTS + 5, OTHER_INPUTS + 9];
            ((SEASON_INPUTS..RHYTHM_INPUTS).chain(clock).collect(), &[4, 5, 7, 12])
        }
        Part::Transitions => (vec![OTHER_INPUTS], &[13]),
        Part::Siblings => (vec![OTHER_INPUTS + 1, OTHER_INPUTS + 10], &[6]),
        Part::Clocks => ((CLOCK_INPUTS..CLOCK_INPUTS + MIXED_CLOCKS.len()).collect(), &[]),
        Part::Archetypes => (Vec::new(), &[14, 15]),
        // The others work on what the experts say.
        _ => (Vec::new(), &[]),
    };
    inputs.into_iter().chain(tables.iter().map(|t| TABLE_INPUTS + t)).collect()
}

/// Names of the experts, as [`expert_of`] numbers them.
pub(crate) const EXPERTS: [&str; 10] = [
    "idle-time hazard",
    "aligned phases",
    "own periods",
    "rates",
    "seasons",
    "transitions",
    "other edges",
    "archetype",
    "heat of the edge",
    "base rate",
];

/// The expert that an input belongs to.
pub(crate) fn expert_of(input: usize) -> usize {
    match input {
        _ if input < PHASE_INPUTS => 0,
        _ if input < RATE_INPUTS => 1,
        _ if input < SEASON_INPUTS => 3,
        _ if input < RHYTHM_INPUTS => 4,
        _ if input < RHYTHM_INPUTS + 4 => 2,
        _ if input < TABLE_INPUTS => 0,
        _ if input < OTHER_INPUTS => match input - TABLE_INPUTS {
            2 | 9 => 1,
            4 | 5 | 7 | 12 => 4,
            6 => 6,
            11 => 2,
            13 => 5,
            14 | 15 => 7,
            _ => 0,
        },
        _ => match input - OTHER_INPUTS {
            0 => 5,
            1 | 10 => 6,
            4 | 5 => 4,
            6..=8 => 3,
            9 => 8,
            11.. => 1,
            _ => 9,
        },
    }
}

/// The tables of one horizon.
#[derive(Clone, Debug, BorshSerialize)]
pub(crate) struct Tables(Vec<Table>);

impl Tables {
    pub(crate) fn new() -> Self {
        Tables(SIZES.iter().map(|&n| Table::new(n, 2000.0)).collect())
    }

    pub(crate) fn learn(&mut self, cells: &[u16; TABLES], positive: bool) {
        self.0.iter_mut().zip(cells).for_each(|(t, &c)| t.learn(c as usize, positive));
    }
}

impl BorshDeserialize for Tables {
    fn deserialize_reader<R: Read>(from: &mut R) -> io::Result<Self> {
        let tables: Vec<Table> = BorshDeserialize::deserialize_reader(from)?;
        sound(tables.iter().map(Table::size).eq(SIZES))?;
        Ok(Tables(tables))
    }
}

/// Sizes of the tables, in their order.
pub(crate) const fn table_sizes() -> [usize; TABLES] {
    SIZES
}

/// Gaps that the pooled prior of the hazard counts for.
const HAZARD_PRIOR: f32 = 5.0;

fn eighth(p: f32, bins: usize) -> usize {
    // Finer near 0 and 1, where it matters.
    let x = (p / (1.0 - p).max(1e-4)).max(1e-4).ln();
    (((x + 6.0) / 9.0 * bins as f32).max(0.0) as usize).min(bins - 1)
}

/// Gathers what every expert says at the end of minute `now` about the horizon.
pub(crate) fn gather(
    h: &History,
    now: i64,
    horizon: Horizon,
    base: f32,
    around: &Surroundings,
    tables: &Tables,
) -> Evidence {
    let idle = (now - h.last).max(0);
    let age = (now - h.first + 1).max(1);
    let local = now + around.offset;
    let (after, until) = (i64::from(horizon.after), i64::from(horizon.until));
    let hz = (until - after) as f32;
    let mut x: Inputs = [0.5; INPUTS];

    // Popularity and rates.
    let mean = shrunk(h.active as f32, age as f32, 0.005, 120.0);
    let popular = any_of(mean, hz);
    let mut rates = [0.0f32; 6];
    for (r, w) in rates.iter_mut().zip([5i64, 15, 60, 240, 1440]) {
        let seen = w.min(age);
        let n = h.minutes.count(now - seen, now) as f32;
        *r = any_of(shrunk(n, seen as f32, mean, 15.0), hz);
    }
    rates[5] = popular;
    x[RATE_INPUTS..RATE_INPUTS + 6].copy_from_slice(&rates);

    // Hazards.
    let idle_bin = bin(idle, &IDLE);
    let every = (age / i64::from(h.active.max(1))).max(1);
    let rate_bin = (64 - (every as u64).leading_zeros() as usize).min(RATE_BINS) - 1;
    let t0 = idle_bin * RATE_BINS + rate_bin;
    let prior = tables.0[0].predict(t0, base);
    let hazard = h.gaps.hazard(idle, after, until);
    x[0] = shrunk(hazard.hits, hazard.at_risk, prior, HAZARD_PRIOR);
    x[1] = shrunk(hazard.like_hits, hazard.like_at_risk, x[0], 1.0);
    let since = (now - h.last_onset).max(0);
    let rhythm: Hazard = h.gaps.onset.hazard(since, after, until);
    x[2] = shrunk(rhythm.hits, rhythm.at_risk, prior, HAZARD_PRIOR);

    // Aligned phases.
    let mut pattern = 0usize;
    let (mut best, mut best_score) = (0, -1.0f32);
    for (i, period) in PERIODS.into_iter().enumerate() {
        let (mut hits, mut trials, mut weight) = (0.0, 0.0, 1.0);
        let mut k = (until + period - 1) / period;
        let mut newest = true;
        while now - k * period >= h.first && k * period < crate::minutes::SPAN && weight > 0.2 {
            let from = now - k * period;
            if h.minutes.any(from + after, from + until) {
                hits += weight;
                if newest {
                    pattern |= 1 << i;
                }
            }
            newest = false;
            trials += weight;
            weight *= 0.8;
            k += 1;
        }
        x[PHASE_INPUTS + i] = shrunk(hits, trials, rates[3], 0.3);
        if h.phase_score[i] > best_score {
            (best, best_score) = (i, h.phase_score[i]);
        }
    }
    x[PHASE_INPUTS + PERIODS.len()] = x[PHASE_INPUTS + best];
    // The best period again, allowing for a minute's jitter.
    let period = PERIODS[best];
    let (mut hits, mut trials) = (0.0, 0.0);
    let mut k = (until + period) / period;
    while now - k * period > h.first && k * period < crate::minutes::SPAN && trials < 4.0 {
        let from = now - k * period;
        hits += f32::from(u8::from(h.minutes.any(from + after - 1, from + until + 1)));
        trials += 1.0;
        k += 1;
    }
    x[PHASE_INPUTS + PERIODS.len() + 1] = shrunk(hits, trials, rates[3], 1.0);

    // Own periods.
    let mut own = [0.5f32; 2];
    for (i, r) in h.rhythm.iter().enumerate() {
        if r.lag == 0 {
            continue;
        }
        let lag = i64::from(r.lag);
        let (mut hits, mut near, mut trials, mut weight) = (0.0, 0.0, 0.0, 1.0);
        let mut k = (until + lag - 1) / lag;
        while now - k * lag >= h.first && k * lag < crate::minutes::SPAN && weight > 0.2 {
            let from = now - k * lag;
            hits += weight * f32::from(u8::from(h.minutes.any(from + after, from + until)));
            near +=
                weight * f32::from(u8::from(h.minutes.any(from + after - 2, (from + until + 1).min(now))));
            trials += weight;
            weight *= 0.8;
            k += 1;
        }
        own[i] = shrunk(hits, trials, rates[3], 0.7);
        x[RHYTHM_INPUTS + 2 * i] = own[i];
        x[RHYTHM_INPUTS + 2 * i + 1] = shrunk(near, trials, rates[3], 0.7);
    }
    let slack = 1 + idle / 16;
    for (i, (ring, waited)) in [(&h.gaps.long, idle), (&h.gaps.onset, since)].into_iter().enumerate() {
        let (hits, risk) = ring.recent_hazard(waited, after, until, 8, 0);
        x[RHYTHM_INPUTS + 4 + 2 * i] = shrunk(hits, risk, prior, 1.0);
        let (hits, risk) = ring.recent_hazard(waited, after, until, 24, slack);
        x[RHYTHM_INPUTS + 5 + 2 * i] = shrunk(hits, risk, prior, 1.0);
    }
    let (hits, risk) = h.gaps.long.second_order(idle, after, until);
    x[RHYTHM_INPUTS + 8] = shrunk(hits, risk, x[1], 0.7);

    // Seasons.
    let days_known = ((now - h.first) / 1440).clamp(0, 56) as u32;
    let season = seasons(
        h,
        now,
        local,
        horizon,
        days_known,
        rates[5],
        &mut x[SEASON_INPUTS..SEASON_INPUTS + SEASON_COUNT],
    );

    // Tables.
    let last_gap = h.gaps.long.recent(0);
    let previous = h.gaps.long.recent(1);
    let ratio = if last_gap == 0 { 0 } else { 1 + ((idle + 1) * 8 / last_gap).min(12) as usize };
    let likeness = match (last_gap, previous) {
        (0, _) | (_, 0) => 0,
        (a, b) if (a - b).abs() <= 1 + b / 10 => 2,
        _ => 1,
    };
    let short_pattern = {
        // 10, 15, 20, 30, 60, 120, 240 and 1440 minutes ago.
        [1, 2, 3, 4, 5, 6, 8, 10].iter().enumerate().fold(0, |m, (to, &from)| m | (pattern >> from & 1) << to)
    };
    let evidence_bin = (hazard.at_risk as usize).min(12).div_ceil(3);
    let sibling = if around.sibling_lag < 0 {
        0
    } else {
        1 + bin(around.sibling_lag, &[1, 3, 6, 15, 30, 60, 120, 360])
    };
    let coarse = bin(idle, &COARSE_IDLE);
    let kind = h.kinds.likeliest();
    let agree = h.gaps.long.agreement() as usize;
    let rhythm_agree = h.gaps.onset.agreement() as usize;
    let tod = (local.rem_euclid(1440) / 15) as usize;
    let hazard_level = eighth(x[0], 12);
    let own_level = eighth(own[0], 8);
    let own_score = if h.rhythm[0].lag == 0 { 7 } else { ((h.rhythm[0].score * 7.0) as usize).min(6) };
    let followed = around.followed.map(|h| shrunk(h.hits, h.at_risk, 0.05, 2.0));
    let announced = around.transition.map_or(0, |p| 1 + eighth(p, ANNOUNCED - 1));
    let cells = [
        t0,
        (ratio * 12 + bin(last_gap, &[12, 16, 22, 31, 45, 65, 95, 150, 300, 700, 1500])) * 3 + likeness,
        short_pattern * 6 + coarse,
        (eighth(x[0], 18) * 18 + eighth(x[PHASE_INPUTS + best], 18)) * 5 + evidence_bin,
        tod * RATE_BINS + rate_bin,
        season.cell * 7 + if days_known == 0 { 6 } else { coarse },
        (sibling * 10 + followed.map_or(0, |p| 1 + eighth(p, 9))) * 6 + coarse,
        season.trend,
        (idle_bin * 9 + agree) * 9 + rhythm_agree,
        local.rem_euclid(60) as usize * RATE_BINS + rate_bin,
        (idle_bin * 7 + bin(h.last - h.last_onset, &[1, 2, 5, 10, 30, 120])) * 6
            + bin(i64::from(h.last_calls), &[2, 3, 5, 10, 50]),
        (eighth(own[0], 12) * 12 + eighth(x[0], 12)) * 8
            + if h.rhythm[0].lag == 0 { 7 } else { ((h.rhythm[0].score * 7.0) as usize).min(6) },
        season.overdue,
        announced * 6 + coarse,
        kind * IDLE_BINS + idle_bin,
        (kind * 48 + tod / 2) * 6 + coarse,
    ];
    for (i, &c) in cells.iter().enumerate() {
        x[TABLE_INPUTS + i] = tables.0[i].predict(c, base);
    }
    if kind < KINDS {
        // A function that may be of several kinds is expected to behave like all of them.
        x[TABLE_INPUTS + OF_A_KIND] = h
            .kinds
            .shares()
            .map(|(k, share)| share * tables.0[OF_A_KIND].predict(k * IDLE_BINS + idle_bin, base))
            .sum();
    }
    x[OTHER_INPUTS] = around.transition.unwrap_or(0.5);
    x[OTHER_INPUTS + 1] = around.elsewhere.unwrap_or(0.5);
    x[OTHER_INPUTS + 2] = base;
    x[OTHER_INPUTS + 10] = followed.unwrap_or(0.5);

    logits_in_place(&mut x);
    x[OTHER_INPUTS + 3] = 1.0;
    let turn = local.rem_euclid(1440) as f32 / 1440.0 * std::f32::consts::TAU;
    x[OTHER_INPUTS + 4] = turn.sin();
    x[OTHER_INPUTS + 5] = turn.cos();
    x[OTHER_INPUTS + 6] = ((1 + idle) as f32).ln() * 0.4 - 1.0;
    x[OTHER_INPUTS + 7] = (every as f32).ln() * 0.4 - 1.0;
    x[OTHER_INPUTS + 8] = (age as f32).ln() * 0.2;
    x[OTHER_INPUTS + 9] = around.heat;
    let lifts = h.residues.lifts(now + after, now + until).map(f32::ln);
    for (i, clock) in MIXED_CLOCKS.into_iter().enumerate() {
        x[CLOCK_INPUTS + i] = lifts[clock];
    }

    let known = bin(i64::from(h.active), &[1, 2, 4, 8, 32, 128]);
    let aged = bin(age, &[60, 240, 720, 1440, 4 * 1440, 14 * 1440]);
    let calibration = bin(idle, &CALIBRATION_IDLE);
    let regular = ((best_score.max(0.0) * 6.0) as usize).min(5);
    let contexts = [
        announced * 4 + followed.map_or(0, |p| 1 + usize::from(p > 0.1) + usize::from(p > 0.3)),
        calibration * 7 + known,
        best.min(11) * 6 + regular,
        rate_bin * 7 + aged,
        (local.rem_euclid(1440) / 60) as usize,
        (hazard.at_risk as usize).min(15).div_ceil(3) * 4 + (hazard.like_at_risk as usize).min(3),
        bin(i64::from(days_known), &[1, 2, 4, 8, 15, 29]) * 6 + season.weekday_hits,
        (ratio * 3 + likeness) * 6 + coarse,
        (hazard_level * 5 + evidence_bin) * 6 + coarse,
        (own_level * 8 + own_score) * 6 + coarse,
        kind * 12 + calibration,
    ]
    .map(|c| c as u16);
    let traits = (idle >= COLD).then(|| traits(h, now, &x, lifts));
    Evidence { inputs: x, contexts, cells: cells.map(|c| c as u16), idle_context: calibration as u8, traits }
}

/// What the refinement looks at, in steps.
fn traits(h: &History, now: i64, x: &Inputs, lifts: [f32; CLOCKS.len()]) -> Traits {
    const PAUSES: [i64; 11] = [12, 16, 22, 31, 45, 62, 95, 150, 300, 700, 1500];
    let level = |input: usize| {
        let at = (x[input] + 6.0) / 9.0 * LEVELS as f32;
        (at.max(0.0) as usize).min(LEVELS - 1)
    };
    let above = |x: f32, limits: &[f32]| limits.iter().filter(|&&l| x >= l).count();
    let idle = (now - h.last).max(0);
    let mut steps = [0usize; TRAITS];
    let mut set = |t: Trait, step: usize| steps[t as usize] = step;
    set(Trait::Idle, bin(idle, &[12, 15, 20, 25, 30, 40, 50, 60, 90, 120, 180, 240, 360, 720, 1440, 10_080]));
    set(Trait::Burst, bin(h.last - h.last_onset, &[1, 2, 5, 10, 30, 120]));
    set(Trait::Intensity, above(h.intensity, &[1.05, 1.3, 1.7, 2.5, 4.0, 8.0, 20.0, 60.0]));
    set(Trait::Pause, bin(h.gaps.long.recent(0), &PAUSES));
    set(Trait::PauseBefore, bin(h.gaps.long.recent(1), &PAUSES));
    set(Trait::Hazard, level(HAZARD_INPUT));
    set(Trait::SecondOrder, level(RHYTHM_INPUTS + 8));
    set(Trait::BestPhase, level(PHASE_INPUTS + PERIODS.len()));
    set(Trait::OwnPeriod, level(RHYTHM_INPUTS));
    set(Trait::Mean, level(RATE_INPUTS + 5));
    set(Trait::Hour, level(RATE_INPUTS + 2));
    set(Trait::FourHours, level(RATE_INPUTS + 3));
    set(Trait::BurstCalls, bin(i64::from(h.burst_calls), &[2, 3, 4, 5, 6, 8, 11, 16, 25, 40, 80, 200, 1000]));
    for (step, length) in steps[Trait::Stretch as usize..].iter_mut().zip(STRETCHES) {
        *step = stretches::step(&h.minutes, h.first, now, length);
    }
    for (step, lift) in steps[Trait::Clock as usize..].iter_mut().zip(lifts) {
        *step = above(lift, &[-1.5, -0.5, 0.25, 0.75, 1.5]);
    }
    steps.map(|s| s as u8)
}
