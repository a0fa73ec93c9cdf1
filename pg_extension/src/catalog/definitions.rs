use std::collections::{BTreeMap, BTreeSet};

use foreshard_protocol::{CatalogChange, Mapping, ShardDef};

/// A shard as defined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    /// Its name.
    pub(crate) name: String,
    /// OID of the source table; 0 for a query.
    pub(crate) source: u32,
    /// Schema-qualified name of the source table; of all that a query reads, separated by commas.
    pub(crate) source_name: String,
    /// What a query shard depends on; `None` for a table's.
    pub(crate) query: Option<Vec<Dependency>>,
    /// OID of the role that defined it.
    pub(crate) owner: u32,
    /// Grows with every change of the definition.
    pub(crate) generation: u64,
    /// Key columns by name; the parameters of a query.
    pub(crate) key: Vec<String>,
    /// The same by number in the source table.
    pub(crate) key_attnums: Vec<i16>,
    /// Projection by number; `None` is all columns.
    pub(crate) column_attnums: Option<Vec<i16>>,
    /// The predicate as PostgreSQL's expression tree.
    pub(crate) predicate_tree: Option<String>,
    /// Why it can't be served, if so.
    pub(crate) defect: Option<String>,
}

/// One place where a query reads a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dependency {
    /// OID of the table.
    pub(crate) source: u32,
    /// Its schema-qualified name when the definition was last brought up to date.
    pub(crate) source_name: String,
    /// Columns that hold the parameters, in their order; empty if a row may concern any instance.
    pub(crate) key_attnums: Vec<i16>,
    /// Which rows matter, as PostgreSQL's expression tree.
    pub(crate) predicate_tree: Option<String>,
    /// Columns whose values matter; `None`: any, or not known here.
    pub(crate) read_attnums: Option<Vec<i16>>,
}

impl Shard {
    /// The tables whose changes concern it; one may occur several times.
    pub(crate) fn dependencies(&self) -> Vec<Dependency> {
        self.query.clone().unwrap_or_else(|| {
            vec![Dependency {
                source: self.source,
                source_name: self.source_name.clone(),
                key_attnums: self.key_attnums.clone(),
                predicate_tree: self.predicate_tree.clone(),
                read_attnums: None,
            }]
        })
    }

    fn wire(&self) -> ShardDef {
        ShardDef {
            name: self.name.clone(),
            generation: self.generation,
            source: self.source_name.clone(),
            key: self.key.clone(),
        }
    }
}

/// All shards and mappings at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Definitions {
    /// Shards by name.
    pub(crate) shards: BTreeMap<String, Shard>,
    /// Shards of each function in the order they were given.
    pub(crate) functions: BTreeMap<String, Vec<String>>,
}

impl Definitions {
    /// The shards that some function may read: all that an edge ever hears of.
    pub(crate) fn mapped(&self) -> impl Iterator<Item = &Shard> {
        let names: BTreeSet<&String> = self.functions.values().flatten().collect();
        names.into_iter().filter_map(|name| self.shards.get(name))
    }

    /// As edges get them.
    pub(crate) fn wire(&self) -> (Vec<ShardDef>, Vec<Mapping>) {
        let mappings = self.functions.iter().map(|(function_id, shards)| Mapping {
            function_id: function_id.clone(),
            shards: shards.clone(),
        });
        (self.mapped().map(Shard::wire).collect(), mappings.collect())
    }

    /// What an edge that knows `self` must be told so that it knows `next`: shards before the functions that need them.
    pub(crate) fn changes(&self, next: &Definitions) -> Vec<CatalogChange> {
        let known: BTreeMap<&str, ShardDef> =
            self.mapped().map(|shard| (shard.name.as_str(), shard.wire())).collect();
        let wanted: BTreeMap<&str, ShardDef> =
            next.mapped().map(|shard| (shard.name.as_str(), shard.wire())).collect();
        let mut changes = Vec::new();
        for (name, shard) in &wanted {
            // Not the table's name, which is only told for information and changes without a new generation.
            let same = |known: &ShardDef| (known.generation, &known.key) == (shard.generation, &shard.key);
            if !known.get(name).is_some_and(same) {
                changes.push(CatalogChange::Shard(shard.clone()));
            }
        }
        for (function_id, shards) in &next.functions {
            if self.functions.get(function_id) != Some(shards) {
                changes.push(CatalogChange::Function(Mapping {
                    function_id: function_id.clone(),
                    shards: shards.clone(),
                }));
            }
        }
        for function_id in self.functions.keys().filter(|id| !next.functions.contains_key(*id)) {
            changes.push(CatalogChange::FunctionUnmapped(function_id.clone()));
        }
        for name in known.keys().filter(|name| !wanted.contains_key(*name)) {
            changes.push(CatalogChange::ShardDropped((*name).to_owned()));
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(name: &str, generation: u64) -> Shard {
        Shard {
            name: name.into(),
            source: 1,
            source_name: "public.t".into(),
            query: None,
            owner: 10,
            generation,
            key: vec![],
            key_attnums: vec![],
            column_attnums: None,
            predicate_tree: None,
            defect: None,
        }
    }

    fn definitions(shards: &[(&str, u64)], functions: &[(&str, &[&str])]) -> Definitions {
        Definitions {
            shards: shards
                .iter()
                .map(|(name, generation)| ((*name).into(), shard(name, *generation)))
                .collect(),
            functions: functions
                .iter()
                .map(|(id, shards)| ((*id).into(), shards.iter().map(|s| (*s).into()).collect()))
                .collect(),
        }
    }

    fn kinds(changes: &[CatalogChange]) -> Vec<String> {
        changes
            .iter()
            .map(|change| match change {
                CatalogChange::Shard(shard) => format!("shard {} {}", shard.name, shard.generation),
                CatalogChange::ShardDropped(name) => format!("dropped {name}"),
                CatalogChange::Function(mapping) => {
                    format!("function {} {}", mapping.function_id, mapping.shards.join(","))
                }
                CatalogChange::FunctionUnmapped(id) => format!("unmapped {id}"),
                CatalogChange::EdgeDropped => "edge".into(),
            })
            .collect()
    }

    #[test]
    fn an_unmapped_shard_is_nobodys_business() {
        let changes = Definitions::default().changes(&definitions(&[("a", 1)], &[]));
        assert!(changes.is_empty());
    }

    #[test]
    fn a_shard_that_becomes_mapped_comes_before_its_function() {
        let before = definitions(&[("a", 1)], &[]);
        let changes = before.changes(&definitions(&[("a", 1)], &[("f", &["a"])]));
        assert_eq!(kinds(&changes), ["shard a 1", "function f a"]);
    }

    #[test]
    fn a_new_generation_is_told_once() {
        let before = definitions(&[("a", 1), ("b", 2)], &[("f", &["a", "b"])]);
        let after = definitions(&[("a", 3), ("b", 2)], &[("f", &["a", "b"])]);
        assert_eq!(kinds(&before.changes(&after)), ["shard a 3"]);
        assert!(after.changes(&after).is_empty());
    }

    #[test]
    fn order_of_a_mapping_is_part_of_it() {
        let before = definitions(&[("a", 1), ("b", 2)], &[("f", &["a", "b"])]);
        let after = definitions(&[("a", 1), ("b", 2)], &[("f", &["b", "a"])]);
        assert_eq!(kinds(&before.changes(&after)), ["function f b,a"]);
    }

    #[test]
    fn dropping_tells_the_functions_first() {
        let before = definitions(&[("a", 1), ("b", 2)], &[("f", &["a", "b"]), ("g", &["b"])]);
        let after = definitions(&[("a", 1)], &[("f", &["a"])]);
        assert_eq!(kinds(&before.changes(&after)), ["function f a", "unmapped g", "dropped b"]);
    }
}
