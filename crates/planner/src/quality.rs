//! What published schedules are worth, measured live: a small randomised control group that is withheld, and what became of
//! every decision.
//!
//! A decision is about one function at one edge in one period (a window's length, aligned). Which decisions are withheld
//! follows from a hash of a salt, so that every round of a period, and a planner that takes over, draws alike, and nobody
//! can choose to be in the group.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::Serialize;

/// Decisions that wait for their outcome, at most.
const MOST_OPEN: usize = 500_000;
/// Edges and functions whose usual bytes are remembered, at most.
const MOST_SIZES: usize = 100_000;
const BINS: usize = 20;
/// More than this is not believed of one execution: an hour of waiting, a tebibyte of rows.
const LONGEST_WAIT: u64 = 3_600_000_000;
const MOST_BYTES: u64 = 1 << 40;

/// One execution, as far as it tells what a decision was worth.
#[derive(Clone, Copy, Debug)]
pub struct Execution<'a> {
    /// Edge name.
    pub edge: &'a str,
    /// Function id.
    pub function: &'a str,
    /// Unix seconds.
    pub at: i64,
    /// Whether it had to wait for the origin.
    pub missed: bool,
    /// How long it waited for its rows, microseconds.
    pub wait_us: u64,
    /// Bytes of its rows.
    pub bytes: u64,
}

/// What one of the two groups went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Group {
    /// Decisions whose period is over.
    pub decisions: u64,
    /// Executions within their windows.
    pub executions: u64,
    /// Those that had to wait for the origin.
    pub misses: u64,
    /// How long all of them waited together, microseconds.
    pub wait_us: u64,
}

impl Group {
    fn miss_rate(&self) -> Option<f64> {
        (self.executions > 0).then(|| self.misses as f64 / self.executions as f64)
    }

    fn add(&mut self, other: &Group) {
        self.decisions += other.decisions;
        self.executions += other.executions;
        self.misses += other.misses;
        self.wait_us = self.wait_us.saturating_add(other.wait_us);
    }
}

/// Everything measured about one edge in one hour, or over several.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scored {
    /// What was published.
    pub scheduled: Group,
    /// What was withheld.
    pub control: Group,
    /// Decisions in whose window the function ran.
    pub came_true: u64,
    /// Bytes that were, as these functions usually read them, fetched ahead for nothing.
    pub wasted_bytes: u64,
    squared: f64,
    bins: [(f64, f64); BINS],
}

impl Scored {
    /// Decisions of both groups.
    pub fn decisions(&self) -> u64 {
        self.scheduled.decisions + self.control.decisions
    }

    /// Mean squared error of the published probabilities.
    pub fn brier(&self) -> Option<f64> {
        (self.decisions() > 0).then(|| self.squared / self.decisions() as f64)
    }

    /// Expected calibration error over twenty bins.
    pub fn ece(&self) -> Option<f64> {
        let error: f64 = self.bins.iter().map(|(said, came)| (said - came).abs()).sum();
        (self.decisions() > 0).then(|| error / self.decisions() as f64)
    }

    /// Share of the control group's misses per execution that scheduling removes; `None` while one of the groups has no
    /// execution, or the control group no miss.
    pub fn uplift(&self) -> Option<f64> {
        let (with, without) = (self.scheduled.miss_rate()?, self.control.miss_rate()?);
        (without > 0.0).then(|| 1.0 - with / without)
    }

    /// Takes in another edge's or hour's.
    pub fn add(&mut self, other: &Scored) {
        self.scheduled.add(&other.scheduled);
        self.control.add(&other.control);
        self.came_true += other.came_true;
        self.wasted_bytes = self.wasted_bytes.saturating_add(other.wasted_bytes);
        self.squared += other.squared;
        for (mine, theirs) in self.bins.iter_mut().zip(other.bins) {
            mine.0 += theirs.0;
            mine.1 += theirs.1;
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Decision {
    period: i64,
    starts: i64,
    ends: i64,
    p: f64,
    withheld: bool,
    seen: Group,
}

type Key = (Box<str>, Box<str>);

/// Who is in the control group, the decisions that are open, and what became of the others.
#[derive(Debug)]
pub struct Quality {
    share: f64,
    salt: u64,
    /// Seconds.
    period: i64,
    open: HashMap<Key, VecDeque<Decision>>,
    waiting: usize,
    /// Exponentially averaged bytes of an execution.
    sizes: HashMap<Key, f64>,
    hours: BTreeMap<(Box<str>, i64), Scored>,
    total: BTreeMap<Box<str>, Scored>,
    left_out: u64,
}

impl Quality {
    /// Withholds about `share` (0..=1) of all decisions; `period` is the length of a window, seconds.
    pub fn new(share: f64, salt: u64, period: i64) -> Self {
        Quality {
            share: share.clamp(0.0, 1.0),
            salt,
            period: period.max(1),
            open: HashMap::new(),
            waiting: 0,
            sizes: HashMap::new(),
            hours: BTreeMap::new(),
            total: BTreeMap::new(),
            left_out: 0,
        }
    }

    /// Sets what decides who is in the control group.
    pub fn draw(&mut self, salt: u64) {
        self.salt = salt;
    }

    /// Whether the function is withheld from the edge in the period of this moment (Unix seconds).
    pub fn withheld(&self, edge: &str, function: &str, at: i64) -> bool {
        // FNV-1a, then splitmix64's finish: the same in every process and version.
        let mut hash = 0xcbf2_9ce4_8422_2325u64 ^ self.salt;
        let period = at.div_euclid(self.period).to_le_bytes();
        for byte in edge.bytes().chain([0]).chain(function.bytes()).chain([0]).chain(period) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^= hash >> 31;
        ((hash >> 11) as f64) < self.share * (1u64 << 53) as f64
    }

    /// Notes that the function was scheduled at the edge for `[starts, ends)` with probability `p`, or withheld. Only the
    /// first decision of a period counts; returns whether this was it.
    pub fn decide(
        &mut self,
        edge: &str,
        function: &str,
        (starts, ends): (i64, i64),
        p: f64,
        withheld: bool,
    ) -> bool {
        let period = starts.div_euclid(self.period);
        if self.waiting >= MOST_OPEN {
            self.left_out += 1;
            return false;
        }
        let open = self.open.entry((edge.into(), function.into())).or_default();
        if open.back().is_some_and(|d| d.period >= period) {
            return false;
        }
        let p = if p.is_finite() { p.clamp(0.0, 1.0) } else { 0.0 };
        open.push_back(Decision { period, starts, ends, p, withheld, seen: Group::default() });
        self.waiting += 1;
        true
    }

    /// Counts an execution towards the open decisions whose window it is in.
    pub fn observe(&mut self, e: &Execution<'_>) {
        let key: Key = (e.edge.into(), e.function.into());
        if let Some(open) = self.open.get_mut(&key) {
            for d in open.iter_mut().filter(|d| (d.starts..d.ends).contains(&e.at)) {
                d.seen.executions += 1;
                d.seen.misses += u64::from(e.missed);
                d.seen.wait_us = d.seen.wait_us.saturating_add(e.wait_us.min(LONGEST_WAIT));
            }
        }
        let bytes = e.bytes.min(MOST_BYTES) as f64;
        if let Some(size) = self.sizes.get_mut(&key) {
            *size += 0.1 * (bytes - *size);
        } else if self.sizes.len() < MOST_SIZES {
            self.sizes.insert(key, bytes);
        }
    }

    /// Scores every decision whose window ended at `known` (Unix seconds) or before: up to there the log is complete.
    pub fn settle(&mut self, known: i64) {
        let Quality { open, waiting, sizes, hours, total, .. } = self;
        open.retain(|key, decisions| {
            while let Some(d) = decisions.front().filter(|d| d.ends <= known).copied() {
                decisions.pop_front();
                *waiting -= 1;
                let scored = score(&d, sizes.get(key).copied().unwrap_or(0.0));
                let hour = d.starts.div_euclid(3600) * 3600;
                hours.entry((key.0.clone(), hour)).or_default().add(&scored);
                total.entry(key.0.clone()).or_default().add(&scored);
            }
            !decisions.is_empty()
        });
    }

    /// All that was scored since this was made, by edge.
    pub fn total(&self) -> impl Iterator<Item = (&str, &Scored)> {
        self.total.iter().map(|(edge, scored)| (&**edge, scored))
    }

    /// Hands over what was scored since the last call, by edge and beginning of the hour (Unix seconds): to be added to
    /// what was handed over before.
    pub fn take_hours(&mut self) -> Vec<(String, i64, Scored)> {
        let hours = std::mem::take(&mut self.hours);
        hours.into_iter().map(|((edge, hour), scored)| (edge.into(), hour, scored)).collect()
    }

    /// Puts back what could not be written down.
    pub fn put_back(&mut self, edge: &str, hour: i64, scored: &Scored) {
        self.hours.entry((edge.into(), hour)).or_default().add(scored);
    }

    /// Decisions that wait for their outcome, and those that there was no room for.
    pub fn open(&self) -> (usize, u64) {
        (self.waiting, self.left_out)
    }
}

fn score(d: &Decision, usual_bytes: f64) -> Scored {
    let mut scored = Scored::default();
    let ran = d.seen.executions > 0;
    let y = f64::from(u8::from(ran));
    let group = Group { decisions: 1, ..d.seen };
    if d.withheld {
        scored.control = group;
    } else {
        scored.scheduled = group;
        scored.wasted_bytes = if ran { 0 } else { usual_bytes.max(0.0) as u64 };
    }
    scored.came_true = u64::from(ran);
    scored.squared = (d.p - y) * (d.p - y);
    scored.bins[((d.p * BINS as f64) as usize).min(BINS - 1)] = (d.p, y);
    scored
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: i64 = 900;

    fn execution(function: &str, at: i64, missed: bool) -> Execution<'_> {
        Execution {
            edge: "ams1",
            function,
            at,
            missed,
            wait_us: if missed { 80_000 } else { 200 },
            bytes: 1000,
        }
    }

    #[test]
    fn about_the_share_is_withheld_and_all_rounds_of_a_period_agree() {
        let q = Quality::new(0.02, 7, WINDOW);
        let withheld = |q: &Quality, f: usize, at: i64| q.withheld("ams1", &format!("f{f}"), at);
        let n = (0..100).flat_map(|f| (0..200).map(move |w| (f, w)));
        let hit = n.filter(|&(f, w)| withheld(&q, f, w * WINDOW)).count();
        assert!((300..500).contains(&hit), "{hit} of 20000");
        for f in 0..2000 {
            assert_eq!(withheld(&q, f, 9 * WINDOW), withheld(&q, f, 10 * WINDOW - 1));
        }
        let other = Quality::new(0.02, 8, WINDOW);
        assert!((0..2000).any(|f| withheld(&q, f, 0) != withheld(&other, f, 0)), "the salt decides");
        let (none, all) = (Quality::new(0.0, 7, WINDOW), Quality::new(1.0, 7, WINDOW));
        assert!((0..2000).all(|f| !withheld(&none, f, 0) && withheld(&all, f, 0)));
    }

    #[test]
    fn uplift_is_what_the_control_group_lacks() {
        let mut q = Quality::new(0.5, 1, WINDOW);
        for period in 0..200 {
            let starts = period * WINDOW;
            let withheld = q.withheld("ams1", "f", starts);
            assert!(q.decide("ams1", "f", (starts, starts + WINDOW), 0.9, withheld));
            assert!(
                !q.decide("ams1", "f", (starts + 300, starts + 300 + WINDOW), 0.1, false),
                "a later round"
            );
            // Without the schedule every call misses; with it one of four does.
            q.observe(&execution("f", starts + 100, withheld || period % 4 == 0));
            q.settle(starts + WINDOW);
        }
        let (_, s) = q.total().next().unwrap();
        assert_eq!(s.decisions(), 200);
        assert!((60..140).contains(&s.control.decisions), "{s:?}");
        assert!((s.uplift().unwrap() - 0.75).abs() < 0.1, "{:?}", s.uplift());
        assert!((s.brier().unwrap() - 0.01).abs() < 1e-9);
        assert!((s.ece().unwrap() - 0.1).abs() < 1e-9);
        assert_eq!((s.came_true, s.wasted_bytes, q.open()), (200, 0, (0, 0)));
    }

    #[test]
    fn what_nobody_asked_for_was_wasted_and_hours_add_up_to_the_total() {
        let mut q = Quality::new(0.0, 1, WINDOW);
        q.observe(&execution("f", 10, false));
        for period in 0..8 {
            let starts = period * WINDOW;
            q.decide("ams1", "f", (starts, starts + WINDOW), f64::NAN, false);
        }
        q.settle(8 * WINDOW);
        let hours = q.take_hours();
        assert_eq!(hours.iter().map(|h| h.1).collect::<Vec<_>>(), [0, 3600]);
        assert_eq!(hours[0].2.wasted_bytes, 4000);
        assert_eq!(hours[0].2.uplift(), None, "no control group");
        assert_eq!(q.total().next().unwrap().1.wasted_bytes, 8000);
        assert!(q.take_hours().is_empty());
        q.put_back(&hours[0].0, hours[0].1, &hours[0].2);
        assert_eq!(q.take_hours()[0], hours[0]);
    }

    #[test]
    fn absurd_sizes_and_waits_neither_overflow_nor_count_for_everything() {
        let mut q = Quality::new(0.0, 1, WINDOW);
        for period in 0..100 {
            let starts = period * WINDOW;
            q.decide("ams1", "f", (starts, starts + WINDOW), 0.5, false);
            q.decide("ams1", "g", (starts, starts + WINDOW), 0.5, false);
            for function in ["f", "g"] {
                let sane = execution(function, starts + 1, true);
                // The size of what nobody asks for counts as wasted: "g" tells it before its windows begin.
                let at = if function == "f" { sane.at } else { -1 };
                q.observe(&Execution { at, wait_us: u64::MAX, bytes: u64::MAX, ..sane });
            }
        }
        q.settle(100 * WINDOW);
        let all = q.total().next().unwrap().1;
        assert_eq!(all.scheduled.wait_us, 100 * LONGEST_WAIT);
        assert_eq!(all.wasted_bytes, 100 * MOST_BYTES);
        assert!(all.brier().is_some_and(f64::is_finite) && all.ece().is_some_and(f64::is_finite));
    }

    #[test]
    fn a_flood_stays_bounded() {
        let mut q = Quality::new(0.0, 1, WINDOW);
        for i in 0..MOST_OPEN + 10 {
            q.decide("ams1", &i.to_string(), (0, WINDOW), 0.5, false);
        }
        assert_eq!(q.open(), (MOST_OPEN, 10));
        q.settle(WINDOW);
        assert_eq!(q.open().0, 0);
        assert!(q.open.is_empty());
    }
}
