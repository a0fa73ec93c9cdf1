//! The binding graph: which function reads the key that another has just read, and how long after it.
//!
//! A *role* is a function with a key column of a shard that it reads. When the same value appears in two roles of different
//! functions at one edge, the later of them shortly after the earlier, the earlier one announces the later: seen often enough, a
//! value read in the first role says which instance will be read in the second, before anybody asked for it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use borsh::{BorshDeserialize, BorshSerialize};

/// A function, and `shard?column` as in the ids of the instances that it reads.
type Role = (Box<str>, Box<str>);

/// Instances that are expected because their key was read, with their probabilities, by edge and function.
pub(crate) type Bound = HashMap<(u32, Box<str>), Vec<(String, f64)>>;

/// Longest time from one role to the other, minutes.
const LONGEST: usize = 90;
/// Bounds of what is remembered.
const MOST_ROLES: usize = 4_000;
const MOST_LINKS: usize = 8;
const MOST_VALUES: usize = 8_192;
const MOST_READS: usize = 8;
const LONGEST_VALUE: usize = 256;
/// Reads of a role from which on older ones fade.
const FADE_FROM: f32 = 500.0;
/// How often the one must have followed the other before that is believed, and in which share of the cases at least: equal
/// numbers that have nothing to do with one another do meet.
const EVIDENCE: f32 = 3.0;
const LEAST_SHARE: f32 = 0.15;
/// Cases in which it did not follow, that are added to those seen.
const DOUBT: f32 = 1.0;

/// How often one role followed another, by the minutes in between.
#[derive(Clone, Debug, BorshDeserialize, BorshSerialize)]
struct Link {
    to: Arc<Role>,
    lags: Vec<f32>,
}

impl Link {
    /// How often it followed within `(after, until]` minutes.
    fn followed(&self, after: i64, until: i64) -> f32 {
        let place = |lag: i64| (lag + 1).clamp(0, self.lags.len() as i64) as usize;
        let (from, to) = (place(after), place(until));
        self.lags.get(from..to).map_or(0.0, |lags| lags.iter().sum())
    }
}

#[derive(Clone, Debug, Default, BorshDeserialize, BorshSerialize)]
struct Source {
    /// Values read in this role, and what was read afterwards.
    reads: f32,
    links: Vec<Link>,
}

/// A value that was read in a role.
#[derive(Clone, Debug, BorshDeserialize, BorshSerialize)]
struct Read {
    minute: i64,
    role: Arc<Role>,
    /// Roles that it was read in since.
    followed: Vec<Arc<Role>>,
}

/// What was read lately at one edge, by value.
#[derive(Clone, Debug, Default, BorshDeserialize, BorshSerialize)]
struct Recent {
    values: HashMap<Box<str>, Vec<Read>>,
    order: VecDeque<(i64, Box<str>)>,
}

impl Recent {
    fn forget(&mut self, now: i64) {
        let old = |minute: i64| minute < now - LONGEST as i64;
        while self.order.front().is_some_and(|&(minute, _)| old(minute)) || self.order.len() > MOST_VALUES {
            let Some((_, value)) = self.order.pop_front() else { return };
            // Read again since, it has a place further behind, too.
            let full = self.order.len() >= MOST_VALUES;
            if full || self.values.get(&value).is_some_and(|reads| reads.iter().all(|r| old(r.minute))) {
                self.values.remove(&value);
            }
        }
    }
}

/// Learns which roles follow which, over all edges, and what was read lately at each.
#[derive(Clone, Debug, Default, BorshDeserialize, BorshSerialize)]
pub(crate) struct Bindings {
    sources: HashMap<Arc<Role>, Source>,
    edges: Vec<Recent>,
}

/// The key columns of an instance id with their values, and whether the column is the whole key.
fn parts(instance: &str) -> impl Iterator<Item = (String, &str, bool)> {
    let (shard, key) = instance.split_once('?').unwrap_or((instance, ""));
    let whole = !key.contains('&');
    key.split('&').filter_map(move |part| {
        let (column, value) = part.split_once('=')?;
        let fits = !value.is_empty() && value.len() <= LONGEST_VALUE;
        fits.then(|| (format!("{shard}?{column}"), value, whole))
    })
}

impl Bindings {
    /// One invocation at an edge in `minute` read `instances`.
    pub(crate) fn record<S: AsRef<str>>(&mut self, edge: u32, function: &str, minute: i64, instances: &[S]) {
        for instance in instances {
            for (column, value, whole) in parts(instance.as_ref()) {
                self.read(edge as usize, (function.into(), column.into()), minute, value, whole);
            }
        }
    }

    fn read(&mut self, edge: usize, role: Role, minute: i64, value: &str, whole: bool) {
        let role = match self.sources.get_key_value(&role) {
            Some((role, _)) => role.clone(),
            None => Arc::new(role),
        };
        if self.edges.len() <= edge {
            self.edges.resize_with(edge + 1, Recent::default);
        }
        let recent = &mut self.edges[edge];
        recent.forget(minute);
        let reads = recent.values.entry(value.into()).or_default();
        for read in reads.iter_mut().filter(|_| whole) {
            let lag = minute - read.minute;
            if (0..=LONGEST as i64).contains(&lag) && read.role.0 != role.0 && !read.followed.contains(&role)
            {
                if read.followed.len() < MOST_LINKS {
                    read.followed.push(role.clone());
                }
                if let Some(source) = self.sources.get_mut(&read.role) {
                    source.follow(&role, lag as usize);
                }
            }
        }
        match reads.iter_mut().find(|read| read.role == role) {
            // A read of before, told late.
            Some(read) if read.minute > minute => return,
            // Within one minute it is one read.
            Some(read) if read.minute == minute => return,
            Some(read) => {
                read.minute = minute;
                read.followed.clear();
            }
            None => {
                if reads.len() >= MOST_READS {
                    reads.remove(0);
                }
                reads.push(Read { minute, role: role.clone(), followed: Vec::new() });
            }
        }
        recent.order.push_back((minute, value.into()));
        if self.sources.len() >= MOST_ROLES && !self.sources.contains_key(&role) {
            self.fade();
        }
        self.sources.entry(role).or_default().read();
    }

    /// Makes room: what was read least is forgotten.
    fn fade(&mut self) {
        while self.sources.len() >= MOST_ROLES {
            self.sources.retain(|_, source| {
                source.fade();
                source.reads >= 1.0
            });
        }
    }

    /// What is expected in minutes `(after, until]`, as the log is known up to the end of minute `now`.
    pub(crate) fn expected(&self, now: i64, after: i64, until: i64) -> Bound {
        let mut bound = Bound::new();
        for (edge, recent) in (0..).zip(&self.edges) {
            for (value, reads) in &recent.values {
                for read in reads {
                    let Some(source) = self.sources.get(&read.role) else { continue };
                    let since = |minute: i64| minute - read.minute;
                    for link in source.links.iter().filter(|link| !read.followed.contains(&link.to)) {
                        let p = source.probability(link, since(now), since(after), since(until));
                        if p > 0.0 {
                            let instances = bound.entry((edge, link.to.0.clone())).or_default();
                            instances.push((format!("{}={value}", link.to.1), f64::from(p)));
                        }
                    }
                }
            }
        }
        for instances in bound.values_mut() {
            instances.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)));
            instances.dedup_by(|later, first| later.0 == first.0);
        }
        bound
    }

    /// Memory taken, roughly: by what is of any size.
    pub(crate) fn bytes(&self) -> usize {
        let links: usize = self.sources.values().map(|s| s.links.len()).sum();
        let reads: usize = self.edges.iter().map(|e| e.order.len()).sum();
        links * (LONGEST + 1) * size_of::<f32>() + reads * 2 * size_of::<Read>()
    }
}

impl Source {
    fn read(&mut self) {
        self.reads += 1.0;
        if self.reads > FADE_FROM {
            self.fade();
        }
    }

    fn fade(&mut self) {
        self.reads *= 0.5;
        self.links.iter_mut().flat_map(|l| &mut l.lags).for_each(|n| *n *= 0.5);
    }

    fn follow(&mut self, to: &Arc<Role>, lag: usize) {
        let link = match self.links.iter().position(|link| link.to == *to) {
            Some(at) => &mut self.links[at],
            None => {
                let new = Link { to: to.clone(), lags: vec![0.0; LONGEST + 1] };
                if self.links.len() < MOST_LINKS {
                    self.links.push(new);
                    let last = self.links.len() - 1;
                    &mut self.links[last]
                } else {
                    let total = |link: &Link| link.followed(-1, LONGEST as i64);
                    let weakest = self.links.iter_mut().min_by(|a, b| total(a).total_cmp(&total(b)));
                    let Some(weakest) = weakest else { return };
                    // A newcomer has to come more often than the weakest before it takes the place.
                    weakest.lags.iter_mut().for_each(|n| *n *= 0.9);
                    if total(weakest) >= 1.0 {
                        return;
                    }
                    *weakest = new;
                    weakest
                }
            }
        };
        link.lags[lag.min(LONGEST)] += 1.0;
    }

    /// Probability that the role of the link follows `(after, until]` minutes after a read that it has not followed for `waited`
    /// minutes; 0 where that is not known well enough.
    fn probability(&self, link: &Link, waited: i64, after: i64, until: i64) -> f32 {
        let all = link.followed(-1, LONGEST as i64);
        if all < EVIDENCE || all < LEAST_SHARE * self.reads {
            return 0.0;
        }
        let at_risk = (self.reads - link.followed(-1, waited)).max(0.0);
        (link.followed(after.max(waited), until) / (at_risk + DOUBT)).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `pay` reads what `order` read ten minutes before, for `share` of ten orders out of ten.
    fn learned(orders: i64, share: i64) -> Bindings {
        let mut bindings = Bindings::default();
        for i in 0..orders {
            let minute = i * 20;
            bindings.record(0, "order", minute, &[format!("orders?id={i}"), "settings".to_owned()]);
            if i % 10 < share {
                bindings.record(0, "pay", minute + 10, &[format!("invoices?order_id={i}")]);
            }
        }
        bindings
    }

    fn expected(bindings: &Bindings, now: i64, after: i64, until: i64) -> Vec<(String, f64)> {
        bindings.expected(now, after, until).remove(&(0, "pay".into())).unwrap_or_default()
    }

    #[test]
    fn the_key_that_was_read_is_expected_where_it_was_read_next_before() {
        let mut bindings = learned(40, 10);
        bindings.record(0, "order", 1_000, &["orders?id=77"]);
        let [(instance, p)] = &expected(&bindings, 1_002, 1_003, 1_018)[..] else { panic!("one instance") };
        assert_eq!(instance, "invoices?order_id=77");
        assert!(*p > 0.9, "{p}");
        assert!(expected(&bindings, 1_002, 1_011, 1_026).is_empty(), "by then it is over");
        bindings.record(0, "pay", 1_010, &["invoices?order_id=77"]);
        assert!(expected(&bindings, 1_010, 1_011, 1_026).is_empty(), "it has followed");
    }

    #[test]
    fn a_link_is_as_sure_as_it_is_often_followed() {
        let mut bindings = learned(60, 5);
        bindings.record(0, "order", 1_300, &["orders?id=77"]);
        let p = expected(&bindings, 1_301, 1_301, 1_320)[0].1;
        assert!((0.4..0.6).contains(&p), "{p}");
        let mut rare = learned(60, 1);
        rare.record(0, "order", 1_300, &["orders?id=77"]);
        assert!(expected(&rare, 1_301, 1_301, 1_320).is_empty());
    }

    #[test]
    fn what_one_invocation_reads_says_nothing_of_another() {
        let mut bindings = Bindings::default();
        for i in 0..40 {
            let both = [format!("orders?id={i}"), format!("lines?order_id={i}&n=1")];
            bindings.record(0, "order", i * 20, &both);
        }
        assert!(bindings.sources.values().all(|s| s.links.is_empty()));
    }

    proptest! {
        /// Told in any order, too: a log arrives late, and is told twice.
        #[test]
        fn whatever_was_read_what_follows_has_a_probability(
            reads in prop::collection::vec((0u32..2, 0u8..3, 0u8..3, 0i64..240), 0..200),
            now in 0i64..300,
            (after, length) in (-30i64..120, -5i64..120),
        ) {
            let mut bindings = Bindings::default();
            for (edge, function, key, minute) in reads {
                bindings.record(edge, &format!("f{function}"), minute, &[format!("s{}?id={key}", function % 2)]);
            }
            let bound = bindings.expected(now, now + after, now + after + length);
            for ((edge, function), instances) in &bound {
                prop_assert!(*edge < 2 && !instances.is_empty());
                for (instance, p) in instances {
                    prop_assert!(*p > 0.0 && *p <= 1.0, "{function} reads {instance} with {p}");
                }
                prop_assert!(instances.is_sorted_by(|a, b| a.0 < b.0), "each once: {instances:?}");
            }
        }
    }

    #[test]
    fn a_flood_of_functions_and_values_stays_bounded() {
        let mut bindings = Bindings::default();
        for i in 0..30_000i64 {
            bindings.record(0, &format!("f{i}"), i / 1_000, &[format!("s?id={}", i % 20_000)]);
        }
        assert!(bindings.sources.len() <= MOST_ROLES);
        assert!(bindings.edges[0].values.len() <= MOST_VALUES + 1);
        assert!(bindings.edges[0].order.len() <= MOST_VALUES + 1);
    }
}
