use std::collections::{HashMap, VecDeque};

use foreshard_protocol::{
    CatalogChange, CatalogSnapshot, FunctionId, Lsn, Mapping, ShardDef, ShardName, Snapshot,
};

use crate::copy::Brought;

/// The origin's definitions as this edge knows them: loaded once, then kept current by the stream.
#[derive(Default)]
pub struct Definitions {
    shards: HashMap<ShardName, ShardDef>,
    functions: HashMap<FunctionId, Vec<ShardName>>,
    loaded: Option<Loaded>,
    /// Delivered changes that a load may lack, because the origin does not show them to readers yet.
    unseen: VecDeque<(Brought, CatalogChange)>,
    unseen_overflowed: bool,
    edge_dropped: bool,
    version: u64,
}

/// As of when the definitions were read.
struct Loaded {
    snapshot: Snapshot,
    settled_at: Lsn,
}

/// What a function may do with a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionShard<'a> {
    /// It reads it.
    Mapped(&'a ShardDef),
    /// The shard exists, but the function is not mapped to it.
    NotMapped,
    /// No shard of this name that any function reads.
    UnknownShard,
    /// No function of this name.
    UnknownFunction,
}

/// More changes than this while the definitions are being loaded and the load starts again.
const MAX_UNSEEN: usize = 10_000;

impl Definitions {
    /// Whether definitions have been loaded and the edge still exists.
    pub fn ready(&self) -> bool {
        self.loaded.is_some() && !self.edge_dropped
    }

    /// Another number after every change: what was derived from definitions of one version holds while it is the same.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether the origin has dropped this edge.
    pub fn edge_dropped(&self) -> bool {
        self.edge_dropped
    }

    /// Takes the definitions as read in one snapshot, then the changes that were delivered and that it lacks. Gives
    /// the shards that these changed, with the transaction that did. `None` if more changes were delivered than were
    /// kept: then nothing is loaded, and the load has to be repeated.
    pub(crate) fn load(&mut self, catalog: CatalogSnapshot) -> Option<Vec<(Brought, ShardName)>> {
        self.version += 1;
        if self.unseen_overflowed {
            self.unload();
            return None;
        }
        self.shards = catalog.shards.into_iter().map(|def| (def.name.clone(), def)).collect();
        self.functions = catalog.mappings.into_iter().map(|m| (m.function_id, m.shards)).collect();
        self.loaded = Some(Loaded { snapshot: catalog.snapshot, settled_at: catalog.wal_lsn });
        let unseen = std::mem::take(&mut self.unseen).into_iter();
        Some(unseen.filter_map(|(txn, change)| Some((txn, self.apply(txn, change)?))).collect())
    }

    /// A position at or after everything in the load, if there is one.
    pub(crate) fn settled_at(&self) -> Option<Lsn> {
        self.loaded.as_ref().map(|loaded| loaded.settled_at)
    }

    /// A snapshot of the origin arrived. While a load is awaited nothing is forgotten: it may have been read earlier.
    pub(crate) fn seen(&mut self, snapshot: &Snapshot) {
        if self.loaded.is_some() {
            self.unseen.retain(|(txn, _)| !snapshot.sees(txn.xid));
            self.unseen_overflowed &= !self.unseen.is_empty();
        }
    }

    /// The next load replaces these definitions, on the same stream.
    pub(crate) fn reload(&mut self) {
        self.version += 1;
        self.loaded = None;
    }

    /// Forgets everything until the next load, on another stream.
    pub(crate) fn unload(&mut self) {
        *self = Definitions { version: self.version + 1, ..Definitions::default() };
    }

    /// Applies a change of a transaction. Returns the shard whose copies are no longer of its definition, if any.
    pub(crate) fn apply(&mut self, txn: Brought, change: CatalogChange) -> Option<ShardName> {
        self.version += 1;
        if change == CatalogChange::EdgeDropped {
            self.edge_dropped = true;
            return None;
        }
        if self.loaded.as_ref().is_some_and(|loaded| txn.is_in(&loaded.snapshot, loaded.settled_at)) {
            return None;
        }
        if self.unseen.len() < MAX_UNSEEN {
            self.unseen.push_back((txn, change.clone()));
        } else {
            self.unseen_overflowed = true;
        }
        self.loaded.as_ref()?;
        match change {
            CatalogChange::Shard(def) => {
                let name = def.name.clone();
                // One that was not known may have been defined otherwise while no function read it.
                let before = self.shards.insert(name.clone(), def.clone());
                (before != Some(def)).then_some(name)
            }
            CatalogChange::ShardDropped(name) => {
                self.shards.remove(&name);
                for shards in self.functions.values_mut() {
                    shards.retain(|shard| *shard != name);
                }
                self.functions.retain(|_, shards| !shards.is_empty());
                Some(name)
            }
            CatalogChange::Function(Mapping { function_id, shards }) => {
                self.functions.insert(function_id, shards);
                None
            }
            CatalogChange::FunctionUnmapped(function_id) => {
                self.functions.remove(&function_id);
                None
            }
            CatalogChange::EdgeDropped => None,
        }
    }

    /// All shards of a function, in the order of its mapping.
    pub fn shards_of(&self, function: &str) -> Option<&[ShardName]> {
        self.functions.get(function).map(Vec::as_slice)
    }

    /// The definition of a shard.
    pub fn shard(&self, name: &str) -> Option<&ShardDef> {
        self.shards.get(name)
    }

    /// What `function` may do with `shard`.
    pub fn function_shard(&self, function: &str, shard: &str) -> FunctionShard<'_> {
        match (self.functions.get(function), self.shards.get(shard)) {
            (None, _) => FunctionShard::UnknownFunction,
            (_, None) => FunctionShard::UnknownShard,
            (Some(shards), Some(def)) if shards.iter().any(|name| name == shard) => {
                FunctionShard::Mapped(def)
            }
            _ => FunctionShard::NotMapped,
        }
    }

    /// Number of functions and of shards.
    pub fn counts(&self) -> (usize, usize) {
        (self.functions.len(), self.shards.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn def(name: &str, generation: u64) -> ShardDef {
        ShardDef { name: name.into(), generation, source: "public.t".into(), key: vec![] }
    }

    fn mapping(function: &str, shards: &[&str]) -> Mapping {
        Mapping { function_id: function.into(), shards: shards.iter().map(|s| (*s).into()).collect() }
    }

    fn txn(xid: u64) -> Brought {
        Brought { xid, ends: Lsn::ZERO }
    }

    fn loaded(snapshot: &str) -> Definitions {
        let mut definitions = Definitions::default();
        definitions.load(catalog(snapshot));
        definitions
    }

    fn catalog(snapshot: &str) -> CatalogSnapshot {
        CatalogSnapshot {
            snapshot: snapshot.parse().unwrap(),
            wal_lsn: Lsn(0),
            unsettled: vec![],
            shards: vec![def("a", 1), def("b", 1)],
            mappings: vec![mapping("f", &["a"]), mapping("g", &["b"])],
            schedules: vec![],
        }
    }

    #[test]
    fn a_change_is_applied_exactly_when_the_snapshot_lacks_it() {
        let mut definitions = loaded("10:10:");
        definitions.apply(txn(9), CatalogChange::FunctionUnmapped("f".into()));
        assert!(definitions.shards_of("f").is_some(), "already in the snapshot");
        definitions.apply(txn(10), CatalogChange::FunctionUnmapped("f".into()));
        assert_eq!(definitions.function_shard("f", "a"), FunctionShard::UnknownFunction);
    }

    #[test]
    fn changes_before_the_load_wait_for_it() {
        let mut definitions = Definitions::default();
        definitions.apply(txn(9), CatalogChange::FunctionUnmapped("f".into()));
        definitions.apply(txn(10), CatalogChange::FunctionUnmapped("g".into()));
        assert!(!definitions.ready());
        definitions.apply(txn(11), CatalogChange::Shard(def("a", 2)));
        assert_eq!(
            definitions.load(catalog("10:10:")),
            Some(vec![(txn(11), "a".into())]),
            "not seen by the load"
        );
        assert!(definitions.shards_of("f").is_some());
        assert!(definitions.shards_of("g").is_none());
    }

    #[test]
    fn a_reload_keeps_what_it_does_not_see() {
        let mut definitions = loaded("10:10:");
        for (xid, function) in [(10, "f"), (11, "g")] {
            definitions.apply(txn(xid), CatalogChange::FunctionUnmapped(function.into()));
        }
        definitions.seen(&"11:11:".parse().unwrap());
        definitions.reload();
        assert!(!definitions.ready());
        definitions.load(catalog("11:11:"));
        assert!(definitions.shards_of("f").is_some() && definitions.shards_of("g").is_none());
    }

    #[test]
    fn redefinition_and_drop_name_the_shard() {
        let mut definitions = loaded("10:10:");
        assert_eq!(definitions.apply(txn(11), CatalogChange::Shard(def("a", 1))), None, "identical");
        assert_eq!(definitions.apply(txn(12), CatalogChange::Shard(def("a", 2))), Some("a".into()));
        assert_eq!(definitions.apply(txn(13), CatalogChange::ShardDropped("a".into())), Some("a".into()));
        assert_eq!(definitions.function_shard("f", "a"), FunctionShard::UnknownFunction);
        assert_eq!(definitions.function_shard("g", "a"), FunctionShard::UnknownShard);
    }

    #[test]
    fn access_follows_the_mapping() {
        let mut definitions = loaded("10:10:");
        assert_eq!(definitions.function_shard("f", "b"), FunctionShard::NotMapped);
        definitions.apply(txn(11), CatalogChange::Function(mapping("f", &["b"])));
        assert!(matches!(definitions.function_shard("f", "b"), FunctionShard::Mapped(_)));
        assert_eq!(definitions.function_shard("f", "a"), FunctionShard::NotMapped);
    }
}
