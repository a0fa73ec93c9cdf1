use std::collections::VecDeque;

/// Keeps the bytes that prefetches bring within a limit in any second.
///
/// A fetch may start if what came in during the last second, what is under way and the fetch itself stay within the limit
/// together. Whatever second is looked at, all of it was counted when the last of its fetches started.
pub(crate) struct Budget {
    /// Bytes; `None`: no limit.
    per_second: Option<u64>,
    arrived: VecDeque<(u64, u64)>,
    arrived_sum: u64,
    under_way: u64,
}

const SECOND: u64 = 1_000_000;

impl Budget {
    /// `per_second` bytes; 0: no limit.
    pub(crate) fn new(per_second: u64) -> Self {
        Budget {
            per_second: Some(per_second).filter(|limit| *limit > 0),
            arrived: VecDeque::new(),
            arrived_sum: 0,
            under_way: 0,
        }
    }

    /// Whether a fetch of so many bytes may start. One that is larger than the limit may when nothing else counts, since it
    /// could never start otherwise.
    pub(crate) fn admits(&mut self, now: u64, bytes: u64) -> bool {
        let Some(limit) = self.per_second else { return true };
        while let Some(&(at, bytes)) = self.arrived.front()
            && at + SECOND <= now
        {
            self.arrived.pop_front();
            self.arrived_sum -= bytes;
        }
        let counted = self.arrived_sum + self.under_way;
        counted == 0 || counted + bytes <= limit
    }

    /// A fetch that is expected to bring so many bytes started.
    pub(crate) fn started(&mut self, expected: u64) {
        self.under_way += expected;
    }

    /// That fetch is over and brought `bytes`.
    pub(crate) fn ended(&mut self, now: u64, expected: u64, bytes: u64) {
        self.under_way = self.under_way.saturating_sub(expected);
        if self.per_second.is_some() && bytes > 0 {
            self.arrived.push_back((now, bytes));
            self.arrived_sum += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_second_brings_more_than_the_limit(
            steps in prop::collection::vec((0u64..200_000, 1u64..1_000, 0u64..3_000_000), 1..300),
        ) {
            let limit = 2_500;
            let mut budget = Budget::new(limit);
            let mut under_way: Vec<(u64, u64)> = Vec::new();
            let mut arrivals: Vec<(u64, u64)> = Vec::new();
            let mut now = 0;
            for (pause, bytes, takes) in steps {
                now += pause;
                under_way.sort_unstable();
                while under_way.first().is_some_and(|(at, _)| *at <= now) {
                    let (at, bytes) = under_way.remove(0);
                    budget.ended(at, bytes, bytes);
                    arrivals.push((at, bytes));
                }
                if budget.admits(now, bytes) {
                    budget.started(bytes);
                    under_way.push((now + takes, bytes));
                }
            }
            for (end, _) in &arrivals {
                let second: u64 =
                    arrivals.iter().filter(|(at, _)| at <= end && at + SECOND > *end).map(|(_, bytes)| bytes).sum();
                prop_assert!(second <= limit, "{second} in the second before {end}");
            }
        }
    }

    #[test]
    fn no_limit_and_larger_than_the_limit() {
        let mut free = Budget::new(0);
        free.started(u64::MAX / 2);
        assert!(free.admits(0, u64::MAX));
        let mut tight = Budget::new(10);
        assert!(tight.admits(0, 100));
        tight.started(100);
        assert!(!tight.admits(0, 1));
        tight.ended(5, 100, 100);
        assert!(!tight.admits(SECOND, 1));
        assert!(tight.admits(SECOND + 5, 1));
    }
}
