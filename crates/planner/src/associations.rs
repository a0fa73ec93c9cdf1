//! Which key tends to be read so many accesses after which: second-order context prediction with a lead.
//!
//! A prefetch that needs `lead` further accesses to arrive is of no use to the very next one, so what is learned is the
//! key that follows at a distance of `lead` + 1. Two contexts vote: the last two keys, and the last key alone.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Successors remembered per context.
const WAYS: usize = 2;

#[derive(Clone, Copy, Debug, Default)]
struct Context {
    tag: u32,
    seen: u16,
    next: [(u32, u16); WAYS],
}

/// A bounded memory of what followed what; a new context takes the place of one that hashes to the same cell.
#[derive(Clone, Debug)]
pub struct Associations {
    cells: Vec<Context>,
    /// The last `lead` + 3 accesses, the newest last.
    recent: std::collections::VecDeque<u32>,
    lead: usize,
}

/// A key that is expected, and how often it came after this context.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// The key's number.
    pub key: u32,
    /// Share of the context's occurrences that this key followed, shrunk towards 0 with little evidence.
    pub confidence: f32,
}

impl Associations {
    /// For prefetches that take `lead` further accesses to arrive, with room for 2^`bits` contexts (24 bytes each).
    pub fn new(lead: usize, bits: u32) -> Self {
        Associations {
            cells: vec![Context::default(); 1 << bits.clamp(4, 28)],
            recent: Default::default(),
            lead,
        }
    }

    fn place(&self, before: Option<u32>, key: u32) -> (usize, u32) {
        let mut hasher = DefaultHasher::new();
        (before, key).hash(&mut hasher);
        let h = hasher.finish();
        ((h as usize) & (self.cells.len() - 1), (h >> 32) as u32 | 1)
    }

    fn learn(&mut self, before: Option<u32>, key: u32, followed_by: u32) {
        let (at, tag) = self.place(before, key);
        let cell = &mut self.cells[at];
        if cell.tag != tag {
            *cell = Context { tag, ..Context::default() };
        }
        if cell.seen >= 60 {
            // Halving forgets: what came lately counts more.
            cell.seen /= 2;
            cell.next.iter_mut().for_each(|n| n.1 /= 2);
        }
        cell.seen += 1;
        if let Some(n) = cell.next.iter_mut().find(|n| n.1 > 0 && n.0 == followed_by) {
            n.1 += 1;
        } else if let Some(rarest) = cell.next.iter_mut().min_by_key(|n| n.1) {
            if rarest.1 <= 1 {
                *rarest = (followed_by, 1);
            } else {
                rarest.1 -= 1;
            }
        }
    }

    fn ask(&self, before: Option<u32>, key: u32, out: &mut Vec<Expected>) {
        let (at, tag) = self.place(before, key);
        let cell = &self.cells[at];
        if cell.tag != tag {
            return;
        }
        for &(key, n) in cell.next.iter().filter(|n| n.1 > 0) {
            let confidence = f32::from(n) / (f32::from(cell.seen) + 0.5);
            match out.iter_mut().find(|e| e.key == key) {
                Some(e) => e.confidence = e.confidence.max(confidence),
                None => out.push(Expected { key, confidence }),
            }
        }
    }

    /// Takes in the next access and writes to `out` what is expected `lead` + 1 accesses later, replacing its contents.
    pub fn access(&mut self, key: u32, out: &mut Vec<Expected>) {
        self.recent.push_back(key);
        if self.recent.len() > self.lead + 3 {
            self.recent.pop_front();
        }
        let n = self.recent.len();
        if n >= self.lead + 2 {
            // The context that ended `lead` + 1 accesses ago is followed by this key.
            let context = self.recent[n - self.lead - 2];
            if n >= self.lead + 3 {
                self.learn(Some(self.recent[n - self.lead - 3]), context, key);
            }
            self.learn(None, context, key);
        }
        out.clear();
        if n >= 2 {
            self.ask(Some(self.recent[n - 2]), key, out);
        }
        if out.is_empty() {
            self.ask(None, key, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected_after(lead: usize, accesses: impl Iterator<Item = u32>) -> Vec<Expected> {
        let mut a = Associations::new(lead, 12);
        let mut out = Vec::new();
        accesses.for_each(|k| a.access(k, &mut out));
        out
    }

    #[test]
    fn a_sequence_is_learned_at_any_lead() {
        let accesses = || (0..500u32).map(|i| i % 7);
        // 499 % 7 is 2.
        assert_eq!(expected_after(0, accesses())[0].key, 3);
        assert_eq!(expected_after(3, accesses())[0].key, 6);
        assert!(expected_after(0, accesses())[0].confidence > 0.9);
    }

    #[test]
    fn two_keys_of_context_tell_apart_what_one_cannot() {
        let pattern = [1, 5, 2, 3, 5, 4];
        let expected = expected_after(0, pattern.iter().copied().cycle().take(302));
        // The last two accesses are 1 and 5.
        let best = expected.iter().max_by(|a, b| a.confidence.total_cmp(&b.confidence)).unwrap();
        assert_eq!(best.key, 2);
    }

    #[test]
    fn nothing_is_expected_of_what_was_never_seen() {
        assert_eq!(expected_after(0, 0..100), []);
    }
}
