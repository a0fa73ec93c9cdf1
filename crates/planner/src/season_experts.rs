//! What time of day and day of week say.

use crate::config::Horizon;
use crate::history::History;
use crate::numeric::{any_of, shrunk};
use crate::seasons::{Seasons, day, last_days, same_kind, same_weekday};

/// Number of the last `days` days on which the function was called in the slots of local `horizon`.
pub(crate) fn season_hits(h: &History, local: i64, horizon: Horizon, days: u32) -> f32 {
    (h.seasons.days(local + i64::from(horizon.after), local + i64::from(horizon.until), 0) & last_days(days))
        .count_ones() as f32
}

/// Cells and contexts that follow from the seasons.
pub(crate) struct Season {
    pub(crate) overdue: usize,
    pub(crate) cell: usize,
    pub(crate) trend: usize,
    pub(crate) weekday_hits: usize,
}

/// Time-of-day and day-of-week averages at several forgetting speeds, written to `x` as probabilities.
pub(crate) fn seasons(
    h: &History,
    now: i64,
    local: i64,
    horizon: Horizon,
    known: u32,
    popular: f32,
    x: &mut [f32],
) -> Season {
    if known == 0 {
        return Season { overdue: 0, cell: 0, trend: 0, weekday_hits: 0 };
    }
    let (after, until) = (local + i64::from(horizon.after), local + i64::from(horizon.until));
    let exact = h.seasons.days(after, until, 0);
    let near = h.seasons.days(after, until, 2);
    let kind = same_kind(local.div_euclid(1440));
    let rate = |word: u64, mask: u64, days: u32, prior: f32, weight: f32| {
        shrunk((word & mask).count_ones() as f32, days as f32, prior, weight)
    };
    let wide_mask = last_days(known.min(28));
    let wide_slots = Seasons::slots(after, until) + 12;
    let wide_hits = h.seasons.count(after, until, 6, wide_mask) as f32;
    let wide = any_of(
        shrunk(
            wide_hits / wide_slots as f32,
            known.min(28) as f32,
            popular / Seasons::slots(after, until) as f32,
            0.5,
        ),
        Seasons::slots(after, until) as f32,
    );
    let near14 = rate(near, last_days(known.min(14)), known.min(14), popular, 1.0);
    let all28 = rate(exact, last_days(known.min(28)), known.min(28), wide, 1.5);
    x[0] = wide;
    x[1] = near14;
    x[2] = all28;
    x[3] = rate(exact, last_days(known.min(7)), known.min(7), all28, 1.0);
    x[4] = rate(exact, last_days(known.min(3)), known.min(3), all28, 0.7);
    x[5] = rate(exact, last_days(known), known, wide, 1.5);
    let (kind28, kind56) = (kind & last_days(known.min(28)), kind & last_days(known));
    x[6] = rate(exact, kind28, kind28.count_ones(), all28, 1.0);
    x[7] = rate(near, kind56, kind56.count_ones(), near14, 1.0);
    let weeks = known / 7;
    if weeks > 0 {
        let (w4, w8) = (weeks.min(4), weeks.min(8));
        x[8] = rate(exact, same_weekday(w4), w4, x[6], 1.0);
        x[9] = rate(exact, same_weekday(w8), w8, x[6], 1.0);
        x[10] = rate(near, same_weekday(w4), w4, x[7], 1.0);
        x[11] = rate(exact, day(1) | day(7), 2, x[8], 0.7);
    }
    // Densities around the window, from narrow to wide.
    let slots = Seasons::slots(after, until) as f32;
    let density = |wider: i64, mask: u64, prior: f32| {
        let days = mask.count_ones() as f32;
        let hits = h.seasons.count(after, until, wider, mask) as f32 / (slots + 2.0 * wider as f32);
        any_of(shrunk(hits, days, prior / slots, 0.5), slots)
    };
    let kind14 = kind & last_days(known.min(14));
    x[12] = density(1, kind28, wide);
    x[13] = density(3, kind28, wide);
    x[14] = density(3, kind14, wide);
    x[15] = density(12, kind14, wide);
    if weeks > 0 {
        x[16] = density(3, same_weekday(weeks.min(6)), wide);
    }
    let recent = (exact & last_days(7)).count_ones() as usize;
    let weekday_hits = (exact & same_weekday(4)).count_ones() as usize;
    let bit = |k| usize::from(exact & day(k) != 0);
    let cell = ((bit(1) * 2 + bit(7)) * 8 + recent) * 5 + weekday_hits;
    // Expected and actual calls in the last hour: a departure that is overdue is still to come.
    let days = last_days(known.min(14));
    let expected_past = h.seasons.count(local - 60, local, 0, days) as f32 / known.min(14) as f32;
    let expected_next = h.seasons.count(after, until, 1, days) as f32 / known.min(14) as f32;
    let actual = h.minutes.count(now - 60, now).min(4) as usize;
    let quant = |e: f32| ((e * 4.0) as usize).min(8);
    // The same for the last half hour against days of the same kind.
    let kind_days = kind28.count_ones().max(1) as f32;
    let past_kind = h.seasons.count(local - 30, local, 0, kind28) as f32 / kind_days;
    let next_kind = h.seasons.count(after, until, 1, kind28) as f32 / kind_days;
    let third = |e: f32, bins: usize| ((e * 3.0 + 0.5) as usize).min(bins - 1);
    let done = h.minutes.count(now - 30, now).min(3) as usize;
    let before = h.minutes.count(now - 90, now - 30).min(3) as usize;
    let overdue = (((quant(next_kind) * 7 + third(past_kind, 7)) * 4 + done) * 4 + before) * 5 + weekday_hits;
    let trend = ((quant(expected_next) * 9 + quant(expected_past)) * 5 + actual) * 5 + weekday_hits;
    Season { overdue, cell, trend, weekday_hits: weekday_hits.min(4) + usize::from(weeks > 0) }
}
