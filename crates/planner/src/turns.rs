//! In which order the models of several horizons are asked, and which of them listens to which.

use std::cmp::Reverse;

use crate::config::{EngineConfig, Horizon};
use crate::model::Model;
use crate::recall::Recalled;

/// One model's turn at a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) model: usize,
    /// It learns from the predictions of one in so many ticks: about three per horizon, for their outcomes overlap anyway.
    pub(crate) stride: i64,
    /// The model whose former predictions it is told: that of the next longer horizon, or itself, or of a shorter one.
    listens: Option<usize>,
    /// Whether any model listens to it.
    pub(crate) heard: bool,
}

impl Turn {
    /// What it is told about the history in `slot` at a tick.
    pub(crate) fn recalled(&self, models: &[Model], slot: u32, generation: u32, tick: i64) -> Recalled {
        let Some(to) = self.listens else { return Recalled::default() };
        let mut recalled = models[to].recall(slot, generation, tick);
        if to == self.model {
            // What it says now comes of this.
            recalled[0] = None;
        }
        recalled
    }
}

/// Each model's turn, after the one that it listens to. Nobody listens to a horizon that isn't predicted at every tick: what is said must
/// not depend on whether somebody asked before.
pub(crate) fn turns(config: &EngineConfig) -> Vec<Turn> {
    let horizons = &config.horizons;
    let stride = |h: &Horizon| (i64::from(h.length()) / 3 / i64::from(config.tick_minutes)).max(1);
    let listens = |h: &Horizon| {
        let at_every_tick = |&i: &usize| horizons[i].after == h.after && stride(&horizons[i]) == 1;
        let all = || (0..horizons.len()).filter(at_every_tick);
        let longer = all().filter(|&i| horizons[i].until > h.until).min_by_key(|&i| horizons[i].until);
        // Else itself, or the next shorter one.
        longer.or_else(|| all().rev().max_by_key(|&i| horizons[i].until))
    };
    let listens: Vec<Option<usize>> = horizons.iter().map(listens).collect();
    let turn = |(model, h)| Turn {
        model,
        stride: stride(h),
        listens: listens[model],
        heard: listens.contains(&Some(model)),
    };
    let mut turns: Vec<Turn> = horizons.iter().enumerate().map(turn).collect();
    turns.sort_by_key(|t| (t.stride, Reverse(horizons[t.model].until)));
    turns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(horizons: &[Horizon], tick_minutes: u32) -> Vec<Turn> {
        turns(&EngineConfig { horizons: horizons.to_vec(), tick_minutes, ..EngineConfig::default() })
    }

    fn turn(model: usize, stride: i64, listens: Option<usize>, heard: bool) -> Turn {
        Turn { model, stride, listens, heard }
    }

    #[test]
    fn a_horizon_listens_to_the_next_longer_one_that_is_always_asked() {
        let three = of(&[1, 5, 15].map(Horizon::within), 1);
        // Fifteen minutes are learned from every five only: they listen to five, and nobody to them.
        let expected = [turn(1, 1, Some(1), true), turn(0, 1, Some(1), false), turn(2, 5, Some(1), false)];
        assert_eq!(three, expected);
        assert_eq!(of(&[Horizon::within(15)], 5), [turn(0, 1, Some(0), true)]);
        assert_eq!(of(&[Horizon::within(15)], 1), [turn(0, 5, None, false)]);
    }

    #[test]
    fn windows_that_begin_later_listen_to_themselves() {
        let later = |after| Horizon { after, until: after + 15 };
        let turns = of(&[later(0), later(5)], 5);
        assert_eq!(turns, [turn(1, 1, Some(1), true), turn(0, 1, Some(0), true)]);
    }

    #[test]
    fn a_horizon_given_twice_is_no_circle() {
        let twice = of(&[5, 5].map(Horizon::within), 1);
        assert_eq!(twice.iter().map(|t| t.listens).collect::<Vec<_>>(), [Some(0), Some(0)]);
    }
}
