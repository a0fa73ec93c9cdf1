//! What the origin knows of edges, functions and shards: what a schedule may name.

use std::collections::{BTreeMap, BTreeSet};

use foreshard_planner::EdgeSchedule;
use foreshard_protocol::InstanceId;

use super::hints::Hint;

/// A registered edge.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Edge {
    pub(super) name: String,
    /// Degrees north.
    pub(super) latitude: Option<f64>,
    /// Degrees east.
    pub(super) longitude: Option<f64>,
}

/// Edges, mappings and shard keys as the origin has them now.
#[derive(Clone, Debug, Default)]
pub(super) struct Catalog {
    pub(super) edges: Vec<Edge>,
    /// Shards that each function may read.
    pub(super) mappings: BTreeMap<String, BTreeSet<String>>,
    /// Key columns of each shard.
    pub(super) keys: BTreeMap<String, Vec<String>>,
    /// When functions are known to run; empty where this role may not look.
    pub(super) hints: Vec<Hint>,
}

impl Catalog {
    /// The instances that a function reads whenever it runs, as far as its mapping tells: of its shards without key.
    pub(super) fn unkeyed(&self, function: &str) -> Vec<String> {
        let shards = self.mappings.get(function).into_iter().flatten();
        shards
            .filter(|shard| self.keys.get(*shard).is_some_and(Vec::is_empty))
            .map(|shard| InstanceId::unkeyed(shard.as_str()).to_string())
            .collect()
    }

    /// Takes out of a schedule what the origin would refuse: the log remembers functions and shards that were dropped
    /// or redefined since. False when the edge itself is gone.
    pub(super) fn restrict(&self, schedule: &mut EdgeSchedule) -> bool {
        if !self.edges.iter().any(|e| e.name == schedule.edge) {
            return false;
        }
        schedule.entries.retain_mut(|entry| {
            let Some(shards) = self.mappings.get(&entry.function_id) else { return false };
            entry.shard_list.retain(|instance| {
                instance.parse::<InstanceId>().is_ok_and(|id| {
                    let columns = id.key.iter().map(|k| &k.column);
                    shards.contains(&id.shard)
                        && self.keys.get(&id.shard).is_some_and(|key| key.iter().eq(columns))
                })
            });
            !entry.shard_list.is_empty()
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use foreshard_planner::ScheduleEntry;

    fn catalog() -> Catalog {
        Catalog {
            edges: vec![Edge { name: "ams1".to_owned(), latitude: None, longitude: None }],
            mappings: BTreeMap::from([(
                "checkout".to_owned(),
                BTreeSet::from(["products".to_owned(), "cart".to_owned()]),
            )]),
            keys: BTreeMap::from([
                ("products".to_owned(), vec![]),
                ("cart".to_owned(), vec!["customer_id".to_owned()]),
                ("secrets".to_owned(), vec![]),
            ]),
            hints: vec![],
        }
    }

    fn entry(function: &str, shards: &[&str]) -> ScheduleEntry {
        ScheduleEntry {
            function_id: function.to_owned(),
            shard_list: shards.iter().map(|s| (*s).to_owned()).collect(),
            confidence: 0.5,
        }
    }

    #[test]
    fn only_what_the_origin_accepts_is_left() {
        let mut schedule = EdgeSchedule {
            edge: "ams1".to_owned(),
            entries: vec![
                entry(
                    "checkout",
                    &["products", "cart?customer_id=4", "cart?id=4", "cart", "secrets", "?", "gone"],
                ),
                entry("checkout", &["gone"]),
                entry("dropped", &["products"]),
            ],
        };
        assert!(catalog().restrict(&mut schedule));
        assert_eq!(schedule.entries, [entry("checkout", &["products", "cart?customer_id=4"])]);
    }

    #[test]
    fn whole_shards_are_read_whenever_their_function_runs() {
        assert_eq!(catalog().unkeyed("checkout"), ["products"]);
        assert!(catalog().unkeyed("gone").is_empty());
    }

    #[test]
    fn an_edge_that_was_dropped_gets_nothing() {
        let mut schedule = EdgeSchedule { edge: "gone".to_owned(), entries: vec![] };
        assert!(!catalog().restrict(&mut schedule));
    }
}
