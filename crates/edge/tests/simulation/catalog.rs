//! Shards, functions and their definitions in the model.

use std::collections::{BTreeMap, BTreeSet};

use foreshard_protocol::{CatalogChange, InstanceId, KeyPart, Mapping, ShardDef};

/// A shard of the model.
pub(crate) struct ShardKind {
    pub(crate) name: &'static str,
    pub(crate) table: usize,
    pub(crate) keyed: bool,
    /// Holds only rows whose flag is set.
    pub(crate) flagged_only: bool,
    pub(crate) order: Sorted,
}

/// How rows of a shard are told apart and sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sorted {
    ById,
    /// By id, in a way that the edge can't follow.
    Opaque,
    Unsorted,
    /// Nothing tells rows apart: no changes of rows are streamed.
    Nameless,
}

pub(crate) const SHARDS: [ShardKind; 6] = [
    ShardKind { name: "all", table: 0, keyed: false, flagged_only: false, order: Sorted::ById },
    ShardKind { name: "hot", table: 0, keyed: false, flagged_only: true, order: Sorted::Opaque },
    ShardKind { name: "cart", table: 0, keyed: true, flagged_only: false, order: Sorted::ById },
    ShardKind { name: "hot cart", table: 0, keyed: true, flagged_only: true, order: Sorted::ById },
    ShardKind { name: "other", table: 1, keyed: false, flagged_only: false, order: Sorted::Nameless },
    ShardKind { name: "part", table: 1, keyed: true, flagged_only: false, order: Sorted::Unsorted },
];

pub(crate) const FUNCTIONS: usize = 4;
pub(crate) const KEYS: u32 = 4;

pub(crate) fn shard_name(shard: usize) -> String {
    SHARDS[shard].name.to_owned()
}

pub(crate) fn function_name(function: usize) -> String {
    format!("f{function}")
}

/// A change of definitions, with absolute values.
#[derive(Clone, Debug)]
pub(crate) enum CatalogOp {
    Redefine { shard: usize, generation: u64 },
    Drop { shard: usize },
    Create { shard: usize, generation: u64 },
    Map { function: usize, shards: Vec<usize> },
    Unmap { function: usize },
}

impl CatalogOp {
    /// All but redefinitions exclude each other.
    pub(crate) fn needs_catalog_lock(&self) -> bool {
        !matches!(self, CatalogOp::Redefine { .. })
    }

    /// The shard whose rows are not the same any more.
    pub(crate) fn locked_shard(&self) -> Option<usize> {
        match self {
            CatalogOp::Redefine { shard, .. }
            | CatalogOp::Drop { shard }
            | CatalogOp::Create { shard, .. } => Some(*shard),
            CatalogOp::Map { .. } | CatalogOp::Unmap { .. } => None,
        }
    }
}

/// All definitions at one moment: generation of each shard, shards of each function.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Defs {
    pub(crate) shards: BTreeMap<usize, u64>,
    pub(crate) functions: BTreeMap<usize, Vec<usize>>,
}

impl Defs {
    pub(crate) fn apply(&mut self, op: &CatalogOp) {
        match op {
            CatalogOp::Redefine { shard, generation } | CatalogOp::Create { shard, generation } => {
                self.shards.insert(*shard, *generation);
            }
            CatalogOp::Drop { shard } => {
                self.shards.remove(shard);
                self.functions.values_mut().for_each(|shards| shards.retain(|mapped| mapped != shard));
                self.functions.retain(|_, shards| !shards.is_empty());
            }
            CatalogOp::Map { function, shards } => {
                self.functions.insert(*function, shards.clone());
            }
            CatalogOp::Unmap { function } => {
                self.functions.remove(function);
            }
        }
    }

    pub(crate) fn maps(&self, function: usize, shard: usize) -> bool {
        self.functions.get(&function).is_some_and(|shards| shards.contains(&shard))
    }

    /// Shards that some function reads: all that an edge hears of.
    pub(crate) fn mapped(&self) -> BTreeSet<usize> {
        self.functions.values().flatten().copied().filter(|shard| self.shards.contains_key(shard)).collect()
    }

    fn def(&self, shard: usize) -> ShardDef {
        ShardDef {
            name: shard_name(shard),
            generation: self.shards.get(&shard).copied().unwrap_or_default(),
            source: format!("public.t{}", SHARDS[shard].table),
            key: if SHARDS[shard].keyed { vec!["k".into()] } else { vec![] },
        }
    }

    fn mapping(function: usize, shards: &[usize]) -> Mapping {
        Mapping {
            function_id: function_name(function),
            shards: shards.iter().map(|s| shard_name(*s)).collect(),
        }
    }

    /// As edges load them.
    pub(crate) fn wire(&self) -> (Vec<ShardDef>, Vec<Mapping>) {
        let mappings = self.functions.iter().map(|(function, shards)| Self::mapping(*function, shards));
        (self.mapped().into_iter().map(|shard| self.def(shard)).collect(), mappings.collect())
    }

    /// What the plugin says when a transaction turns `self` into `next`, in its order.
    pub(crate) fn changes(&self, next: &Defs) -> Vec<CatalogChange> {
        let (known, wanted) = (self.mapped(), next.mapped());
        let mut changes = Vec::new();
        for shard in &wanted {
            if !known.contains(shard) || self.def(*shard) != next.def(*shard) {
                changes.push(CatalogChange::Shard(next.def(*shard)));
            }
        }
        for (function, shards) in &next.functions {
            if self.functions.get(function) != Some(shards) {
                changes.push(CatalogChange::Function(Self::mapping(*function, shards)));
            }
        }
        for function in self.functions.keys().filter(|function| !next.functions.contains_key(function)) {
            changes.push(CatalogChange::FunctionUnmapped(function_name(*function)));
        }
        for shard in known.difference(&wanted) {
            changes.push(CatalogChange::ShardDropped(shard_name(*shard)));
        }
        changes
    }
}

/// An instance as a request names it. A key may be spelled in another than the canonical form.
pub(crate) fn instance(shard: usize, key: Option<String>) -> InstanceId {
    let key = key.map(|value| KeyPart { column: "k".into(), value: Some(value) });
    InstanceId { shard: shard_name(shard), key: key.into_iter().collect() }
}

/// Shard, and key where it has one, of an instance id; `None` if the model's origin refuses it.
pub(crate) fn resolve(id: &InstanceId) -> Option<(usize, Option<u32>)> {
    let shard = SHARDS.iter().position(|kind| kind.name == id.shard)?;
    match id.key.as_slice() {
        [] if !SHARDS[shard].keyed => Some((shard, None)),
        [part] if SHARDS[shard].keyed => Some((shard, Some(part.value.as_ref()?.parse().ok()?))),
        _ => None,
    }
}
