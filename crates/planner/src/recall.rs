//! What was said about each history at the last few ticks.
//!
//! What a longer horizon says, now and some minutes ago, tells the model of a shorter one more than it can see by itself: a start that was
//! expected four minutes ago and has not come is due, or won't come.

use std::io::{self, Read};

use borsh::{BorshDeserialize, BorshSerialize};

use crate::numeric::MAX_LOGIT;
use crate::state::sound;

/// How many ticks ago is asked for: now, one tick ago, four ticks ago.
pub(crate) const AGES: [i64; 3] = [0, 1, 4];
const KEPT: usize = 5;
/// Logits are kept in 1/`SCALE` steps.
const SCALE: f32 = 14.0;
const NOTHING: i8 = i8::MIN;

/// Logits said at each of [`AGES`], as far as they are known.
pub(crate) type Recalled = [Option<f32>; AGES.len()];

#[derive(Clone, Copy, Debug, BorshDeserialize, BorshSerialize)]
struct Recent {
    generation: u32,
    /// Number of the latest tick at which something was said.
    tick: i64,
    /// What was said then and at the ticks before, the latest first.
    logits: [i8; KEPT],
}

/// The last few logits of one horizon, by the place of the history.
#[derive(Clone, Debug, Default, BorshSerialize)]
pub(crate) struct Recall(Vec<Recent>);

impl Recall {
    /// Notes what was said at a tick about the history in `slot`.
    pub(crate) fn note(&mut self, slot: u32, generation: u32, tick: i64, logit: f32) {
        let slot = slot as usize;
        if slot >= self.0.len() {
            let nothing = Recent { generation, tick, logits: [NOTHING; KEPT] };
            self.0.resize(slot + 1, nothing);
        }
        let Some(recent) = self.0.get_mut(slot) else { return };
        let passed = tick - recent.tick;
        if recent.generation != generation || !(0..KEPT as i64).contains(&passed) {
            recent.logits = [NOTHING; KEPT];
        } else {
            recent.logits.rotate_right(passed as usize);
            recent.logits[..passed as usize].fill(NOTHING);
        }
        (recent.generation, recent.tick) = (generation, tick);
        recent.logits[0] = (logit.clamp(-MAX_LOGIT, MAX_LOGIT) * SCALE).round() as i8;
    }

    /// What was said about the history in `slot` at the ticks that are [`AGES`] before `tick`.
    pub(crate) fn at(&self, slot: u32, generation: u32, tick: i64) -> Recalled {
        let recent = self.0.get(slot as usize).filter(|r| r.generation == generation);
        AGES.map(|age| {
            let recent = recent?;
            let back = usize::try_from(recent.tick - (tick - age)).ok()?;
            recent.logits.get(back).filter(|&&l| l != NOTHING).map(|&l| f32::from(l) / SCALE)
        })
    }

    /// Memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.0.len() * size_of::<Recent>()
    }

    /// Forgets all of it.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

impl BorshDeserialize for Recall {
    fn deserialize_reader<R: Read>(from: &mut R) -> io::Result<Self> {
        let all: Vec<Recent> = BorshDeserialize::deserialize_reader(from)?;
        let limit = (MAX_LOGIT * SCALE) as i8;
        sound(all.iter().flat_map(|r| r.logits).all(|l| l == NOTHING || (-limit..=limit).contains(&l)))?;
        Ok(Recall(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_found_by_its_age() {
        let mut r = Recall::default();
        (0..6u8).for_each(|t| r.note(3, 7, 100 + i64::from(t), f32::from(t) / 2.0));
        assert_eq!(r.at(3, 7, 105), [Some(2.5), Some(2.0), Some(0.5)]);
        assert_eq!(r.at(3, 7, 106), [None, Some(2.5), Some(1.0)], "a tick that was not noted yet");
        assert_eq!(r.at(3, 7, 200), [None; 3]);
        assert_eq!(r.at(3, 8, 105), [None; 3], "another history in its place");
        assert_eq!((r.at(2, 7, 105), r.at(9, 7, 105)), ([None; 3], [None; 3]));
        r.note(3, 7, 107, -99.0);
        assert_eq!(r.at(3, 7, 107), [Some(-9.0), None, Some(1.5)], "a tick was left out");
        r.note(3, 8, 108, 1.0);
        assert_eq!(r.at(3, 8, 108), [Some(1.0), None, None]);
    }

    #[test]
    fn a_jump_forgets() {
        let mut r = Recall::default();
        r.note(0, 1, 10, 1.0);
        r.note(0, 1, 10_000_000, 2.0);
        assert_eq!(r.at(0, 1, 10_000_000), [Some(2.0), None, None]);
        r.note(0, 1, 5, 3.0);
        assert_eq!(r.at(0, 1, 5), [Some(3.0), None, None], "nor is anything known when time goes back");
        r.clear();
        assert_eq!((r.at(0, 1, 5), r.bytes()), ([None; 3], 0));
    }
}
