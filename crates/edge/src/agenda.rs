use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use foreshard_protocol::{InstanceId, Schedule, ScheduleEntry};

use crate::agent::costs::Costs;
use crate::agent::exploration::{self, Candidate};
use crate::agent::trust::Trust;
use crate::definitions::{Definitions, FunctionShard};

/// What the schedules in force ask for: what saves most waiting per byte comes first.
#[derive(Default)]
pub(crate) struct Agenda {
    /// Ascending by id; of two for one moment the later is in force.
    schedules: Vec<Schedule>,
    wanted: HashMap<Arc<str>, Want>,
    todo: BTreeSet<(Reverse<Rank>, Arc<str>)>,
    trust: Trust,
}

/// An instance that is wanted.
#[derive(Clone, Copy)]
struct Want {
    /// As published; the highest of the entries that name it.
    confidence: f64,
    rank: Rank,
    /// When it stops being wanted, in the time of schedules.
    until: i64,
    /// It was fetched while it was wanted, and it was served since.
    fetched: bool,
    used: bool,
    /// It is not believed enough, and tried all the same.
    explored: bool,
}

/// Waiting saved per byte, so that it can be ordered: the bits of a positive number have its order.
type Rank = u64;

fn rank(density: f64) -> Rank {
    density.max(0.0).to_bits()
}

/// By which entries are judged.
pub(crate) struct Terms<'a> {
    /// Entries that claim this much or less are dropped, and all the more so once claims have proved too high.
    pub(crate) min_confidence: f64,
    pub(crate) costs: &'a Costs,
}

/// Schedules kept at once; the oldest goes first.
const MAX_SCHEDULES: usize = 64;
/// Instances wanted at once; the least confident are left out.
const MAX_WANTED: usize = 200_000;

impl Agenda {
    /// Takes a schedule. One that is already known, or over, changes nothing.
    pub(crate) fn add(&mut self, schedule: Schedule, trace_now: i64) -> bool {
        if schedule.ends_at <= trace_now {
            return false;
        }
        let Err(place) = self.schedules.binary_search_by_key(&schedule.id, |known| known.id) else {
            return false;
        };
        self.schedules.insert(place, schedule);
        if self.schedules.len() > MAX_SCHEDULES {
            self.schedules.remove(0);
        }
        true
    }

    /// Forgets the schedules; how far they were right stays known.
    pub(crate) fn clear(&mut self) {
        *self = Agenda { trust: std::mem::take(&mut self.trust), ..Agenda::default() };
    }

    /// The schedule in force at a moment.
    pub(crate) fn in_force(&self, trace_now: i64) -> Option<&Schedule> {
        self.schedules.iter().rev().find(|s| s.starts_at <= trace_now && trace_now < s.ends_at)
    }

    /// The next moment at which another schedule comes into force, each of the leads early, or one ends.
    pub(crate) fn next_change(&self, trace_now: i64, leads: [i64; 2]) -> Option<i64> {
        let moments = self.schedules.iter().flat_map(|s| {
            let [a, b] = leads.map(|lead| s.starts_at - lead);
            [a, b, s.starts_at, s.ends_at]
        });
        moments.filter(|moment| *moment > trace_now).min()
    }

    /// Works out anew what is wanted: entries of the schedule in force and of the one that will be, `lead` from now, of a
    /// known function and of shards that function may read, whose confidence is above the threshold (less what trust was lost since
    /// the beginning, so that the operator's number is taken literally until there is evidence) and, as far as it is believed,
    /// worth the bytes. `held` tells which instances need no fetch. Returns how many entries were dropped.
    pub(crate) fn recompute(
        &mut self,
        trace_now: i64,
        lead: i64,
        terms: &Terms<'_>,
        definitions: &Definitions,
        held: impl Fn(&str) -> bool,
    ) -> u64 {
        self.schedules.retain(|schedule| schedule.ends_at > trace_now);
        let mut wanted: HashMap<Arc<str>, Want> = HashMap::new();
        let (mut dropped, mut below) = (0, Vec::new());
        let (trust, left) = (self.trust.factor(), self.trust.left());
        let current = self.in_force(trace_now);
        let coming =
            self.in_force(trace_now + lead).filter(|coming| current.is_none_or(|c| c.id != coming.id));
        let schedules = current.into_iter().chain(coming);
        let mut drawn_for = 0;
        let entries = schedules.flat_map(|s| s.entries.iter().map(move |entry| (entry, s.ends_at, s.id)));
        for (entry, until, schedule) in entries {
            drawn_for = schedule;
            let believed = entry.confidence * trust;
            if !(entry.confidence * left > terms.min_confidence && entry.confidence <= 1.0) {
                dropped += 1;
                if entry.confidence > terms.min_confidence {
                    below.extend(candidates(entry, until, terms.costs, definitions));
                }
                continue;
            }
            for text in &entry.shard_list {
                match text.parse::<InstanceId>() {
                    Ok(id)
                        if readable(definitions, &entry.function_id, &id)
                            && believed > terms.costs.worth_it_above(&id.shard) =>
                    {
                        let confidence = entry.confidence;
                        let rank = rank(terms.costs.density(&id.shard, believed));
                        let fresh =
                            Want { confidence, rank, until, fetched: false, used: false, explored: false };
                        let want = wanted.entry(id.to_string().into()).or_insert(fresh);
                        let until = want.until.max(until);
                        if confidence > want.confidence {
                            *want = fresh;
                        }
                        want.until = until;
                    }
                    _ => dropped += 1,
                }
            }
        }
        if wanted.len() > MAX_WANTED {
            let mut ranked: Vec<_> = wanted.into_iter().collect();
            ranked.sort_unstable_by(|a, b| b.1.rank.cmp(&a.1.rank).then_with(|| a.0.cmp(&b.0)));
            dropped += (ranked.len() - MAX_WANTED) as u64;
            ranked.truncate(MAX_WANTED);
            wanted = ranked.into_iter().collect();
        }
        let paying = wanted.keys().map(|instance| terms.costs.bytes(shard_of(instance))).sum();
        for Candidate { instance, confidence, until, .. } in exploration::drawn(below, drawn_for, paying) {
            let rank = rank(terms.costs.density(shard_of(&instance), confidence * trust));
            let tried = Want { confidence, rank, until, fetched: false, used: false, explored: true };
            wanted.entry(instance).or_insert(tried);
        }
        self.todo = wanted
            .iter()
            .filter(|(instance, _)| !held(instance))
            .map(|(instance, want)| (Reverse(want.rank), instance.clone()))
            .collect();
        for (instance, before) in std::mem::take(&mut self.wanted) {
            match wanted.get_mut(&instance) {
                Some(want) => (want.fetched, want.used) = (before.fetched, before.used),
                None if before.fetched => self.trust.outcome(before.confidence, before.used),
                None => {}
            }
        }
        self.wanted = wanted;
        dropped
    }

    pub(crate) fn wants(&self, instance: &str) -> bool {
        self.wanted.contains_key(instance)
    }

    /// Puts an instance that is wanted and no longer held back in line.
    pub(crate) fn again(&mut self, instance: &str) {
        if let Some((instance, want)) = self.wanted.get_key_value(instance) {
            self.todo.insert((Reverse(want.rank), instance.clone()));
        }
    }

    /// The same, but one that is not wanted goes to the end of the line instead of nowhere.
    pub(crate) fn again_or_last(&mut self, instance: &Arc<str>) {
        self.todo.insert((Reverse(self.rank(instance)), instance.clone()));
    }

    /// A copy was fetched because a schedule wanted it. Whether that was only a try.
    pub(crate) fn fetched(&mut self, instance: &str) -> bool {
        self.wanted.get_mut(instance).is_some_and(|want| {
            want.fetched = true;
            want.explored
        })
    }

    /// A copy was served. Whether it was there because of a try that nobody had profited from yet.
    pub(crate) fn used(&mut self, instance: &str) -> bool {
        self.wanted
            .get_mut(instance)
            .is_some_and(|want| !std::mem::replace(&mut want.used, true) && want.fetched && want.explored)
    }

    /// How much waiting per byte a copy of this instance is expected to save; zero if it is not wanted.
    pub(crate) fn rank(&self, instance: &str) -> u64 {
        self.wanted.get(instance).map_or(0, |want| want.rank)
    }

    /// Whether the instance is still wanted at this moment, in the time of schedules.
    pub(crate) fn wants_at(&self, instance: &str, trace: i64) -> bool {
        self.wanted.get(instance).is_some_and(|want| trace < want.until)
    }

    /// How likely an instance that is wanted is used, as far as schedules are believed.
    pub(crate) fn believed(&self, instance: &str) -> Option<f64> {
        self.wanted.get(instance).map(|want| want.confidence * self.trust.factor())
    }

    /// How far confidences are believed, 0 to 1.
    pub(crate) fn trust(&self) -> f64 {
        self.trust.factor()
    }

    /// What the schedule that starts next, within `lead`, asks for: instances and about how many bytes.
    pub(crate) fn coming(&self, trace_now: i64, lead: i64, costs: &Costs) -> Option<(u64, u64)> {
        let coming =
            self.schedules.iter().filter(|s| s.starts_at > trace_now && s.starts_at <= trace_now + lead);
        let coming = coming.min_by_key(|schedule| schedule.starts_at)?;
        let shards = coming.entries.iter().flat_map(|entry| &entry.shard_list);
        let bytes = |text: &str| costs.bytes(shard_of(text));
        Some(shards.fold((0, 0), |(count, sum), text| (count + 1, sum + bytes(text))))
    }

    /// Takes what saves most waiting per byte off the line.
    pub(crate) fn next(&mut self) -> Option<Arc<str>> {
        self.todo.pop_first().map(|(_, instance)| instance)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.todo.len()
    }
}

/// The shard of an instance id.
fn shard_of(instance: &str) -> &str {
    instance.split('?').next().unwrap_or_default()
}

/// What of an entry that would be carried out if it were believed may be tried: what its function may read, and whose size is known.
fn candidates<'a>(
    entry: &'a ScheduleEntry,
    until: i64,
    costs: &'a Costs,
    definitions: &'a Definitions,
) -> impl Iterator<Item = Candidate> + 'a {
    let confidence = entry.confidence;
    let sane = confidence > 0.0 && confidence <= 1.0;
    entry.shard_list.iter().filter(move |_| sane).filter_map(move |text| {
        let bytes = costs.bytes_at_most(shard_of(text))?;
        let id = text.parse().ok().filter(|id| readable(definitions, &entry.function_id, id))?;
        Some(Candidate { instance: id.to_string().into(), confidence, until, bytes })
    })
}

fn readable(definitions: &Definitions, function: &str, id: &InstanceId) -> bool {
    match definitions.function_shard(function, &id.shard) {
        FunctionShard::Mapped(def) => def.key.iter().eq(id.key.iter().map(|part| &part.column)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use foreshard_protocol::{CatalogSnapshot, Lsn, Mapping, ShardDef, Snapshot};

    use super::*;

    fn definitions() -> Definitions {
        let shard = |name: &str, key: &[&str]| ShardDef {
            name: name.into(),
            generation: 1,
            source: "t".into(),
            key: key.iter().map(|k| (*k).into()).collect(),
        };
        let mut definitions = Definitions::default();
        definitions.load(CatalogSnapshot {
            snapshot: Snapshot::default(),
            wal_lsn: Lsn(0),
            unsettled: vec![],
            shards: vec![shard("a", &[]), shard("b", &["k"]), shard("c", &[])],
            mappings: vec![Mapping { function_id: "f".into(), shards: vec!["a".into(), "b".into()] }],
            schedules: vec![],
        });
        definitions
    }

    fn terms(costs: &Costs) -> Terms<'_> {
        Terms { min_confidence: 0.2, costs }
    }

    fn schedule(id: i64, window: (i64, i64), entries: &[(&str, &[&str], f64)]) -> Schedule {
        let entries = entries
            .iter()
            .map(|(function, shards, confidence)| ScheduleEntry {
                function_id: (*function).into(),
                shard_list: shards.iter().map(|s| (*s).into()).collect(),
                confidence: *confidence,
            })
            .collect();
        Schedule { id, starts_at: window.0, ends_at: window.1, entries }
    }

    fn line(agenda: &mut Agenda) -> Vec<String> {
        std::iter::from_fn(|| agenda.next()).map(|instance| instance.to_string()).collect()
    }

    #[test]
    fn low_confidence_is_dropped_and_the_rest_is_ordered() {
        let mut agenda = Agenda::default();
        let entries: &[(&str, &[&str], f64)] = &[
            ("f", &["b?k=1"], 0.5),
            ("f", &["b?k=2"], 0.1),
            ("f", &["a"], 0.9),
            ("f", &["b?k=3"], 0.2),
            ("f", &["b?k=4"], f64::NAN),
            ("f", &["b?k=5"], 0.201),
        ];
        agenda.add(schedule(1, (0, 100), entries), 0);
        assert_eq!(agenda.recompute(0, 0, &terms(&Costs::new()), &definitions(), |_| false), 3);
        assert_eq!(line(&mut agenda), ["a", "b?k=1", "b?k=5"], "a new edge takes the threshold literally");
    }

    /// What comes of schedules of one window each, that claim this and whose instances are all used, or none.
    fn after(agenda: &mut Agenda, windows: std::ops::Range<i64>, claimed: f64, used: bool) -> usize {
        let mut costs = Costs::new();
        costs.copy("b", 2_000);
        let mut fetched = 0;
        for id in windows {
            let instances: Vec<String> = (0..100).map(|k| format!("b?k={}", id * 100 + k)).collect();
            let names: Vec<&str> = instances.iter().map(String::as_str).collect();
            let entries: Vec<(&str, &[&str], f64)> =
                names.iter().map(|name| ("f", std::slice::from_ref(name), claimed)).collect();
            agenda.add(schedule(id, (id * 100, id * 100 + 100), &entries), id * 100);
            let terms = Terms { min_confidence: 0.2, costs: &costs };
            agenda.recompute(id * 100, 0, &terms, &definitions(), |_| false);
            for instance in line(agenda) {
                fetched += 1;
                agenda.fetched(&instance);
                if used {
                    agenda.used(&instance);
                }
            }
        }
        fetched
    }

    #[test]
    fn a_planner_that_was_wrong_for_long_is_tried_and_believed_again() {
        let mut agenda = Agenda::default();
        // What became of a window is known when the next but one begins.
        assert_eq!(after(&mut agenda, 0..2, 0.9, false), 200);
        let tried = after(&mut agenda, 2..12, 0.9, false);
        assert!(agenda.trust.left() < 0.2 / 0.9, "nothing of it is carried out any more: {}", agenda.trust());
        assert_eq!(tried, 80, "and little is tried");
        let carried_out = after(&mut agenda, 12..150, 0.9, true);
        assert!(agenda.trust() > 0.8 && carried_out > 5_000, "{} {carried_out}", agenda.trust());
    }

    #[test]
    fn what_is_tried_is_no_more_than_a_fiftieth_of_what_pays() {
        let mut costs = Costs::new();
        costs.copy("b", 1_000);
        let instances: Vec<String> = (0..10_000).map(|k| format!("b?k={k}")).collect();
        let names: Vec<&str> = instances.iter().map(String::as_str).collect();
        let (paying, below) = names.split_at(5_000);
        let entries = [("f", paying, 0.9), ("f", below, 0.25), ("f", &["a", "c"][..], 0.25)];
        let mut agenda = Agenda::default();
        (0..1_000).for_each(|i| agenda.trust.outcome(0.9, i % 2 == 0));
        agenda.add(schedule(1, (0, 100), &entries), 0);
        agenda.recompute(0, 0, &terms(&costs), &definitions(), |_| false);
        let line = line(&mut agenda);
        let (tried, paying): (Vec<&String>, Vec<_>) = line.iter().partition(|i| agenda.fetched(i));
        assert_eq!((paying.len(), tried.len()), (5_000, 100));
        assert!(line[..5_000].iter().all(|instance| !tried.contains(&instance)), "what pays comes first");
        assert!(
            tried.iter().all(|i| i.starts_with("b?")),
            "unknown sizes and what may not be read are not tried"
        );
        assert!(agenda.used(tried[0]) && !agenda.used(tried[0]) && !agenda.used(paying[0]));
        let none: &[&str] = &["b?k=10001", "b?k=10002"];
        agenda.add(schedule(2, (0, 100), &[("f", none, 0.1)]), 0);
        agenda.recompute(0, 0, &terms(&costs), &definitions(), |_| false);
        assert!(!agenda.wants("b?k=10001"), "what claims little itself is dropped, always");
    }

    #[test]
    fn what_the_function_may_not_read_is_never_wanted() {
        let mut agenda = Agenda::default();
        let entries: &[(&str, &[&str], f64)] =
            &[("f", &["c", "nope", "b", "b?x=1", "b?k=1&x=2", "?", "a"], 0.9), ("stranger", &["b?k=1"], 0.9)];
        agenda.add(schedule(1, (0, 100), entries), 0);
        assert_eq!(agenda.recompute(0, 0, &terms(&Costs::new()), &definitions(), |_| false), 7);
        assert_eq!(line(&mut agenda), ["a"]);
    }

    #[test]
    fn the_later_schedule_replaces_the_earlier_and_the_lead_looks_ahead() {
        let mut agenda = Agenda::default();
        agenda.add(schedule(1, (0, 100), &[("f", &["b?k=1"], 0.9)]), 0);
        agenda.add(schedule(2, (50, 150), &[("f", &["b?k=2"], 0.9)]), 0);
        assert!(!agenda.add(schedule(2, (50, 150), &[]), 0), "known");
        assert!(!agenda.add(schedule(3, (-50, 0), &[]), 0), "over");
        agenda.recompute(0, 10, &terms(&Costs::new()), &definitions(), |_| false);
        assert_eq!(line(&mut agenda), ["b?k=1"]);
        assert_eq!(agenda.next_change(0, [10, 10]), Some(40));
        agenda.recompute(40, 10, &terms(&Costs::new()), &definitions(), |_| false);
        assert_eq!(line(&mut agenda), ["b?k=1", "b?k=2"]);
        agenda.recompute(60, 10, &terms(&Costs::new()), &definitions(), |_| false);
        assert_eq!(line(&mut agenda), ["b?k=2"]);
        assert_eq!(agenda.in_force(60).map(|s| s.id), Some(2));
        assert_eq!(agenda.in_force(150).map(|s| s.id), None);
    }

    #[test]
    fn held_instances_wait_until_they_are_lost() {
        let mut agenda = Agenda::default();
        agenda.add(schedule(1, (0, 100), &[("f", &["a", "b?k=1"], 0.9)]), 0);
        agenda.recompute(0, 0, &terms(&Costs::new()), &definitions(), |instance| instance == "a");
        assert_eq!(line(&mut agenda), ["b?k=1"]);
        agenda.again("a");
        agenda.again("unwanted");
        assert_eq!(line(&mut agenda), ["a"]);
    }
}
