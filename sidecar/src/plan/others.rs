//! Schedules that somebody else published. Of two for one moment an edge follows the later one, so the planner takes theirs
//! into its own: both are in force, and where both name an instance the higher confidence counts.

use std::collections::{BTreeMap, HashMap};

use foreshard_planner::{EdgeSchedule, ScheduleEntry};

/// A schedule of another publisher. Times in Unix seconds.
#[derive(Clone, Debug)]
pub(super) struct Theirs {
    pub(super) edge: String,
    pub(super) publisher: String,
    pub(super) starts_at: i64,
    pub(super) ends_at: i64,
    pub(super) entries: Vec<ScheduleEntry>,
}

/// Those that are in force at some moment of the window, given the newest first: of one publisher, too, the later one replaces
/// the earlier, so that a mistake can be mended and an empty one takes back.
pub(super) fn in_force(newest_first: Vec<Theirs>, starts_at: i64, ends_at: i64) -> Vec<Theirs> {
    let mut left: HashMap<(String, String), Vec<(i64, i64)>> = HashMap::new();
    let mut kept = Vec::new();
    for theirs in newest_first {
        let key = (theirs.edge.clone(), theirs.publisher.clone());
        let open = left.entry(key).or_insert_with(|| vec![(starts_at, ends_at)]);
        let before: i64 = open.iter().map(|(from, to)| to - from).sum();
        *open = open
            .iter()
            .flat_map(|&(from, to)| {
                [(from, to.min(theirs.starts_at)), (from.max(theirs.ends_at), to)]
                    .into_iter()
                    .filter(|(from, to)| from < to)
            })
            .collect();
        if open.iter().map(|(from, to)| to - from).sum::<i64>() < before {
            kept.push(theirs);
        }
    }
    kept
}

/// Takes theirs into a schedule for the same edge.
pub(super) fn beside(own: &mut EdgeSchedule, theirs: &[Theirs]) {
    let mut theirs = theirs.iter().filter(|t| t.edge == own.edge).flat_map(|t| &t.entries).peekable();
    if theirs.peek().is_none() {
        return;
    }
    let mut highest: BTreeMap<(&str, &str), f64> = BTreeMap::new();
    for entry in own.entries.iter().chain(theirs) {
        for instance in &entry.shard_list {
            let confidence = highest.entry((&entry.function_id, instance)).or_insert(0.0);
            *confidence = confidence.max(entry.confidence);
        }
    }
    let mut lines: Vec<((&str, &str), f64)> = highest.into_iter().collect();
    lines.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    own.entries = lines
        .chunk_by(|a, b| a.0.0 == b.0.0 && a.1 == b.1)
        .map(|group| ScheduleEntry {
            function_id: group[0].0.0.to_owned(),
            shard_list: group.iter().map(|line| line.0.1.to_owned()).collect(),
            confidence: group[0].1,
        })
        .collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: &str, shards: &[&str], confidence: f64) -> ScheduleEntry {
        let shard_list = shards.iter().map(|s| (*s).to_owned()).collect();
        ScheduleEntry { function_id: function.to_owned(), shard_list, confidence }
    }

    fn theirs(publisher: &str, starts_at: i64, ends_at: i64, confidence: f64) -> Theirs {
        let entries = vec![entry("f", &["a"], confidence)];
        Theirs { edge: "paris".into(), publisher: publisher.into(), starts_at, ends_at, entries }
    }

    fn kept(newest_first: Vec<Theirs>) -> Vec<f64> {
        in_force(newest_first, 100, 200).iter().map(|t| t.entries[0].confidence).collect()
    }

    #[test]
    fn the_later_of_one_publisher_replaces_the_earlier_as_far_as_it_reaches() {
        assert_eq!(kept(vec![theirs("psql", 0, 900, 0.2), theirs("psql", 0, 900, 0.1)]), [0.2]);
        assert_eq!(kept(vec![theirs("psql", 150, 900, 0.2), theirs("psql", 0, 900, 0.1)]), [0.2, 0.1]);
        assert_eq!(kept(vec![theirs("psql", 0, 900, 0.2), theirs("app", 0, 900, 0.1)]), [0.2, 0.1]);
        let halves =
            vec![theirs("psql", 0, 150, 0.3), theirs("psql", 150, 200, 0.2), theirs("psql", 0, 900, 0.1)];
        assert_eq!(kept(halves), [0.3, 0.2]);
        assert_eq!(kept(vec![theirs("psql", 200, 900, 0.2), theirs("psql", 0, 100, 0.1)]), [0.0; 0]);
    }

    #[test]
    fn both_are_in_force_with_the_higher_confidence() {
        let mut own = EdgeSchedule {
            edge: "paris".into(),
            entries: vec![entry("f", &["a", "b"], 0.8), entry("g", &["a"], 0.3)],
        };
        let other = Theirs {
            entries: vec![entry("f", &["a", "c"], 0.5), entry("g", &["a"], 0.9)],
            ..theirs("psql", 0, 900, 0.0)
        };
        let elsewhere = Theirs { edge: "rome".into(), ..theirs("psql", 0, 900, 1.0) };
        beside(&mut own, &[elsewhere, other]);
        let expected = [entry("g", &["a"], 0.9), entry("f", &["a", "b"], 0.8), entry("f", &["c"], 0.5)];
        assert_eq!(own.entries, expected);
    }

    #[test]
    fn where_there_is_nothing_else_a_schedule_stays_as_it_is() {
        let entries = vec![entry("g", &["b", "a"], 0.3), entry("f", &["a"], 0.3)];
        let mut own = EdgeSchedule { edge: "paris".into(), entries: entries.clone() };
        beside(&mut own, &[]);
        assert_eq!(own.entries, entries);
    }
}
