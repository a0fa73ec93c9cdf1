use std::collections::VecDeque;

/// Keeps the bytes that prefetches bring within a limit in any second, and on average.
///
/// A fetch may start if what came in during the last second, what is under way and the fetch itself stay within the limit
/// together. Whatever second is looked at, all of it was counted when the last of its fetches started. What a fetch brings is known only
/// when it is there: of those that may bring anything at most one instance is under way, and what came beyond the limit is paid back
/// before anything else starts.
pub(crate) struct Budget {
    /// Bytes; `None`: no limit.
    per_second: Option<u64>,
    arrived: VecDeque<(u64, u64)>,
    arrived_sum: u64,
    under_way: u64,
    unsure_under_way: u32,
    /// What has come and is not paid yet, in millionths of a byte; every microsecond pays a millionth of the limit.
    owed: u128,
    paid_at: u64,
}

/// What an instance is expected to bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) bytes: u64,
    /// It hardly brings more.
    pub(crate) sure: bool,
}

/// What is set aside for a fetch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reserved {
    bytes: u64,
    /// Of instances that may bring more.
    unsure: u32,
}

impl Reserved {
    /// With one instance more.
    pub(crate) fn and(self, more: Expected) -> Reserved {
        Reserved { bytes: self.bytes + more.bytes, unsure: self.unsure + u32::from(!more.sure) }
    }
}

/// Whether an instance may be part of a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Yes,
    /// And nothing after it.
    Last,
    No,
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
            unsure_under_way: 0,
            owed: 0,
            paid_at: 0,
        }
    }

    /// Whether a fetch for which so much is set aside already may bring one instance more. One that is larger than the limit may when
    /// nothing else counts, since it could never be fetched otherwise.
    pub(crate) fn admits(&mut self, now: u64, already: Reserved, more: Expected) -> Admission {
        let Some(limit) = self.per_second else { return Admission::Yes };
        while let Some(&(at, bytes)) = self.arrived.front()
            && at + SECOND <= now
        {
            self.arrived.pop_front();
            self.arrived_sum -= bytes;
        }
        self.pay(now);
        let first = already == Reserved::default();
        if !more.sure && (!first || self.unsure_under_way > 0) {
            return Admission::No;
        }
        let owed = self.owed.div_ceil(u128::from(SECOND)) as u64;
        let counted = self.under_way + already.bytes + self.arrived_sum.max(owed);
        match () {
            () if counted + more.bytes <= limit && more.sure => Admission::Yes,
            () if counted + more.bytes <= limit || (first && counted == 0) => Admission::Last,
            () => Admission::No,
        }
    }

    fn pay(&mut self, now: u64) {
        let paid =
            u128::from(self.per_second.unwrap_or_default()) * u128::from(now.saturating_sub(self.paid_at));
        self.owed = self.owed.saturating_sub(paid);
        self.paid_at = self.paid_at.max(now);
    }

    /// A fetch started for which this is set aside.
    pub(crate) fn started(&mut self, reserved: Reserved) {
        self.under_way += reserved.bytes;
        self.unsure_under_way += reserved.unsure;
    }

    /// That fetch is over and brought `bytes`.
    pub(crate) fn ended(&mut self, now: u64, reserved: Reserved, bytes: u64) {
        self.under_way = self.under_way.saturating_sub(reserved.bytes);
        self.unsure_under_way = self.unsure_under_way.saturating_sub(reserved.unsure);
        if self.per_second.is_some() && bytes > 0 {
            self.pay(now);
            self.owed += u128::from(bytes) * u128::from(SECOND);
            self.arrived.push_back((now, bytes));
            self.arrived_sum += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: u64 = 2_500;

    /// Prefetches that take their time, and what they bring.
    struct Link {
        budget: Budget,
        now: u64,
        /// When it ends, what was set aside, and what it brings.
        under_way: Vec<(u64, Reserved, u64)>,
        arrivals: Vec<(u64, u64)>,
    }

    impl Link {
        fn new() -> Self {
            Link { budget: Budget::new(LIMIT), now: 0, under_way: vec![], arrivals: vec![] }
        }

        fn pass(&mut self, time: u64) {
            self.now += time;
            self.under_way.sort_unstable_by_key(|(at, ..)| *at);
            while self.under_way.first().is_some_and(|(at, ..)| *at <= self.now) {
                let (at, reserved, bytes) = self.under_way.remove(0);
                self.budget.ended(at, reserved, bytes);
                self.arrivals.push((at, bytes));
            }
        }

        /// Starts one fetch of as many of these instances as are admitted, each expected to bring this and bringing that.
        fn start(&mut self, instances: &[(Expected, u64)], takes: u64) {
            let (mut reserved, mut brings) = (Reserved::default(), 0);
            for (expected, bytes) in instances {
                let admission = self.budget.admits(self.now, reserved, *expected);
                if admission == Admission::No {
                    break;
                }
                (reserved, brings) = (reserved.and(*expected), brings + bytes);
                if admission == Admission::Last {
                    break;
                }
            }
            if reserved != Reserved::default() {
                self.budget.started(reserved);
                self.under_way.push((self.now + takes, reserved, brings));
            }
        }

        /// No second brought more than this.
        fn in_any_second(&self, most: u64) -> Result<(), TestCaseError> {
            for (end, _) in &self.arrivals {
                let within = self.arrivals.iter().filter(|(at, _)| at <= end && at + SECOND > *end);
                let second: u64 = within.map(|(_, bytes)| bytes).sum();
                prop_assert!(second <= most, "{second} in the second before {end}");
            }
            Ok(())
        }

        /// All that has come fits the time, give or take a second and what was under way at once.
        fn on_average(&self, at_once: u64) -> Result<(), TestCaseError> {
            let all: u64 = self.arrivals.iter().map(|(_, bytes)| bytes).sum();
            let last = self.arrivals.iter().map(|(at, _)| *at).max().unwrap_or_default();
            prop_assert!(all <= LIMIT + last * LIMIT / SECOND + at_once, "{all} bytes in {last} us");
            Ok(())
        }
    }

    fn sure(bytes: u64) -> Expected {
        Expected { bytes, sure: true }
    }

    proptest! {
        #[test]
        fn no_second_brings_more_than_the_limit_where_sizes_are_known(
            steps in prop::collection::vec(
                (0u64..200_000, prop::collection::vec(1u64..1_000, 1..8), 0u64..3_000_000), 1..300),
        ) {
            let mut link = Link::new();
            for (pause, sizes, takes) in steps {
                link.pass(pause);
                let instances: Vec<_> = sizes.into_iter().map(|bytes| (sure(bytes), bytes)).collect();
                link.start(&instances, takes);
            }
            link.pass(10 * SECOND);
            link.in_any_second(LIMIT)?;
            link.on_average(0)?;
        }

        #[test]
        fn whatever_sizes_arrive_it_is_one_instance_too_much_and_that_is_paid_back(
            steps in prop::collection::vec(
                (0u64..200_000, prop::collection::vec((1u64..500, 1u64..20_000, any::<bool>()), 1..8), 0u64..3_000_000),
                1..300),
        ) {
            let (mut link, mut largest) = (Link::new(), 0);
            for (pause, sizes, takes) in steps {
                link.pass(pause);
                let instances: Vec<_> = sizes
                    .into_iter()
                    // What is said to be sure brings no more than that.
                    .map(|(bytes, brings, sure)| (Expected { bytes, sure }, if sure { bytes.min(brings) } else { brings }))
                    .collect();
                largest = instances.iter().map(|(_, brings)| *brings).fold(largest, u64::max);
                link.start(&instances, takes);
            }
            link.pass(10 * SECOND);
            link.in_any_second(LIMIT + largest)?;
            link.on_average(largest)?;
        }
    }

    #[test]
    fn no_limit_and_larger_than_the_limit() {
        let none = Reserved::default();
        let mut free = Budget::new(0);
        free.started(none.and(sure(u64::MAX / 2)));
        assert_eq!(free.admits(0, none.and(sure(7)), sure(u64::MAX)), Admission::Yes);
        let mut tight = Budget::new(10);
        assert_eq!(tight.admits(0, none.and(sure(1)), sure(100)), Admission::No, "not behind another one");
        assert_eq!(tight.admits(0, none, sure(100)), Admission::Last);
        let large = none.and(sure(100));
        tight.started(large);
        assert_eq!(tight.admits(0, none, sure(1)), Admission::No);
        tight.ended(5, large, 100);
        assert_eq!(tight.admits(SECOND + 5, none, sure(1)), Admission::No, "90 bytes are owed");
        assert_eq!(tight.admits(9 * SECOND + 5, none, sure(1)), Admission::No);
        assert_eq!(tight.admits(10 * SECOND + 5, none, sure(1)), Admission::Yes);
    }

    #[test]
    fn one_of_unknown_size_at_a_time() {
        let none = Reserved::default();
        let unknown = Expected { bytes: 2, sure: false };
        let mut budget = Budget::new(10);
        assert_eq!(budget.admits(0, none.and(sure(1)), unknown), Admission::No);
        assert_eq!(budget.admits(0, none, unknown), Admission::Last);
        budget.started(none.and(unknown));
        assert_eq!(budget.admits(0, none, unknown), Admission::No);
        assert_eq!(budget.admits(0, none, sure(8)), Admission::Yes);
        budget.ended(0, none.and(unknown), 3);
        assert_eq!(budget.admits(0, none, unknown), Admission::Last);
    }
}
