//! Which shard instances a function reads when it runs: decayed counts of at most so many instances per function and
//! edge.

use borsh::{BorshDeserialize, BorshSerialize};

/// An instance and how often it was read, at two forgetting speeds.
#[derive(Clone, Debug, BorshDeserialize, BorshSerialize)]
struct Seen {
    instance: Box<str>,
    slow: f32,
    fast: f32,
}

/// Half-lives of the counts, minutes: two weeks and eight hours.
const SLOW: f32 = 14.0 * 1440.0;
const FAST: f32 = 480.0;
/// Evidence of "none of these" that every share is shrunk with.
const DOUBT: f32 = 0.5;

/// The instances that one function reads at one edge.
#[derive(Clone, Debug, BorshDeserialize, BorshSerialize)]
pub(crate) struct Keys {
    seen: Vec<Seen>,
    capacity: usize,
    /// Invocations, at the same two speeds.
    calls_slow: f32,
    calls_fast: f32,
    as_of: i64,
}

impl Keys {
    pub(crate) fn new(capacity: usize) -> Self {
        Keys {
            seen: Vec::new(),
            capacity: capacity.max(1),
            calls_slow: 0.0,
            calls_fast: 0.0,
            as_of: i64::MIN,
        }
    }

    fn decay_to(&mut self, minute: i64) {
        if self.as_of == i64::MIN {
            self.as_of = minute;
        }
        let passed = minute.saturating_sub(self.as_of);
        // Re-scaling all counts each hour is cheap and keeps reads exact enough (a half-life is 8 hours or more).
        if passed < 60 {
            return;
        }
        let (slow, fast) = ((-(passed as f32) / SLOW).exp2(), (-(passed as f32) / FAST).exp2());
        for s in &mut self.seen {
            s.slow *= slow;
            s.fast *= fast;
        }
        self.calls_slow *= slow;
        self.calls_fast *= fast;
        self.as_of = minute;
    }

    /// One invocation in `minute` read `instances`.
    pub(crate) fn record<S: AsRef<str>>(&mut self, minute: i64, instances: &[S]) {
        self.decay_to(minute);
        self.calls_slow += 1.0;
        self.calls_fast += 1.0;
        for instance in instances {
            let instance = instance.as_ref();
            if let Some(s) = self.seen.iter_mut().find(|s| &*s.instance == instance) {
                s.slow += 1.0;
                s.fast += 1.0;
            } else if self.seen.len() < self.capacity {
                self.seen.push(Seen { instance: instance.into(), slow: 1.0, fast: 1.0 });
            } else if let Some(rarest) = self.seen.iter_mut().min_by(|a, b| a.slow.total_cmp(&b.slow)) {
                // A newcomer has to come more often than the rarest is forgotten before it takes the place.
                rarest.slow -= 1.0;
                if rarest.slow <= 0.0 {
                    *rarest = Seen { instance: instance.into(), slow: 1.0, fast: 1.0 };
                }
            }
        }
    }

    /// Memory behind its pointers.
    pub(crate) fn bytes(&self) -> usize {
        self.seen.capacity() * size_of::<Seen>() + self.seen.iter().map(|s| s.instance.len()).sum::<usize>()
    }

    /// Every remembered instance with the probability that one invocation reads it.
    pub(crate) fn shares(&self) -> impl Iterator<Item = (&str, f32)> + '_ {
        let trust = self.calls_fast / (self.calls_fast + 10.0);
        self.seen.iter().map(move |s| {
            let slow = s.slow / (self.calls_slow + DOUBT);
            let fast = s.fast / (self.calls_fast + DOUBT);
            (&*s.instance, (trust * fast + (1.0 - trust) * slow).clamp(0.0, 1.0))
        })
    }

    /// Whether the instance was read, as far as is remembered.
    pub(crate) fn knows(&self, instance: &str) -> bool {
        self.seen.iter().any(|s| &*s.instance == instance)
    }

    /// Probability that one invocation reads an instance that it is said to read always.
    pub(crate) fn declared(&self, instance: &str) -> f32 {
        let read = self.seen.iter().find(|s| &*s.instance == instance).map_or(0.0, |s| s.slow);
        ((read + 1.0) / (self.calls_slow + 1.0)).clamp(0.0, 1.0)
    }

    /// Whether the instance was read more than once, and by some invocations only.
    pub(crate) fn varies(&self, instance: &str) -> bool {
        self.seen
            .iter()
            .find(|s| &*s.instance == instance)
            .is_some_and(|s| s.slow > 1.0 && s.slow < 0.9 * self.calls_slow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(keys: &Keys, instance: &str) -> f32 {
        keys.shares().find(|s| s.0 == instance).map_or(0.0, |s| s.1)
    }

    #[test]
    fn what_is_always_read_is_nearly_certain() {
        let mut k = Keys::new(8);
        (0..50).for_each(|i| k.record(i * 30, &["airlines".to_string(), format!("flight?id={i}")]));
        assert!(share(&k, "airlines") > 0.9);
        assert!(k.shares().filter(|s| s.0.starts_with("flight")).all(|s| s.1 < 0.2));
    }

    #[test]
    fn follows_a_change_of_habit() {
        let mut k = Keys::new(8);
        (0..200).for_each(|i| k.record(i * 10, &["old"]));
        (200..320).for_each(|i| k.record(i * 10, &["new"]));
        assert!(share(&k, "new") > share(&k, "old"));
    }

    #[test]
    fn a_flood_of_keys_stays_bounded_and_keeps_the_regular_ones() {
        let mut k = Keys::new(8);
        for i in 0..20_000 {
            k.record(i, &["always".to_string(), format!("k{i}")]);
        }
        assert!(k.seen.len() <= 8);
        assert!(share(&k, "always") > 0.9);
    }
}
