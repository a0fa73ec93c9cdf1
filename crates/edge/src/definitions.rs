use std::collections::{HashMap, VecDeque};

use foreshard_protocol::{
    CatalogChange, CatalogSnapshot, FunctionId, Mapping, ShardDef, ShardName, Snapshot, Xid,
};

/// The origin's definitions as this edge knows them: loaded once, then kept current by the stream.
#[derive(Default)]
pub struct Definitions {
    shards: HashMap<ShardName, ShardDef>,
    functions: HashMap<FunctionId, Vec<ShardName>>,
    loaded: Option<Snapshot>,
    waiting: VecDeque<(Xid, CatalogChange)>,
    waiting_overflowed: bool,
    edge_dropped: bool,
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

/// Changes that came while the definitions were being loaded; more than this and the load starts again.
const MAX_WAITING: usize = 10_000;

impl Definitions {
    /// Whether definitions have been loaded and the edge still exists.
    pub fn ready(&self) -> bool {
        self.loaded.is_some() && !self.edge_dropped
    }

    /// Whether the origin has dropped this edge.
    pub fn edge_dropped(&self) -> bool {
        self.edge_dropped
    }

    /// Takes the definitions as read in one snapshot, then the changes that arrived meanwhile and that it lacks.
    /// False if more changes arrived than were kept: then nothing is loaded, and the load has to be repeated.
    pub(crate) fn load(&mut self, catalog: CatalogSnapshot) -> bool {
        if self.waiting_overflowed {
            self.unload();
            return false;
        }
        self.shards = catalog.shards.into_iter().map(|def| (def.name.clone(), def)).collect();
        self.functions = catalog.mappings.into_iter().map(|m| (m.function_id, m.shards)).collect();
        self.loaded = Some(catalog.snapshot);
        for (xid, change) in std::mem::take(&mut self.waiting) {
            self.apply(xid, change);
        }
        true
    }

    /// Forgets everything until the next load.
    pub(crate) fn unload(&mut self) {
        *self = Definitions::default();
    }

    /// Applies a change of transaction `xid`. Returns the shard whose copies are no longer of its definition, if any.
    pub(crate) fn apply(&mut self, xid: Xid, change: CatalogChange) -> Option<ShardName> {
        if change == CatalogChange::EdgeDropped {
            self.edge_dropped = true;
            return None;
        }
        let Some(loaded) = &self.loaded else {
            if self.waiting.len() < MAX_WAITING {
                self.waiting.push_back((xid, change));
            } else {
                self.waiting_overflowed = true;
            }
            return None;
        };
        if loaded.sees(xid) {
            return None;
        }
        match change {
            CatalogChange::Shard(def) => {
                let name = def.name.clone();
                let before = self.shards.insert(name.clone(), def.clone());
                before.filter(|before| *before != def).map(|_| name)
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
    use foreshard_protocol::Lsn;

    use super::*;

    fn def(name: &str, generation: u64) -> ShardDef {
        ShardDef { name: name.into(), generation, source: "public.t".into(), key: vec![] }
    }

    fn mapping(function: &str, shards: &[&str]) -> Mapping {
        Mapping { function_id: function.into(), shards: shards.iter().map(|s| (*s).into()).collect() }
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
            shards: vec![def("a", 1), def("b", 1)],
            mappings: vec![mapping("f", &["a"]), mapping("g", &["b"])],
            schedules: vec![],
        }
    }

    #[test]
    fn a_change_is_applied_exactly_when_the_snapshot_lacks_it() {
        let mut definitions = loaded("10:10:");
        definitions.apply(9, CatalogChange::FunctionUnmapped("f".into()));
        assert!(definitions.shards_of("f").is_some(), "already in the snapshot");
        definitions.apply(10, CatalogChange::FunctionUnmapped("f".into()));
        assert_eq!(definitions.function_shard("f", "a"), FunctionShard::UnknownFunction);
    }

    #[test]
    fn changes_before_the_load_wait_for_it() {
        let mut definitions = Definitions::default();
        definitions.apply(9, CatalogChange::FunctionUnmapped("f".into()));
        definitions.apply(10, CatalogChange::FunctionUnmapped("g".into()));
        assert!(!definitions.ready());
        definitions.load(catalog("10:10:"));
        assert!(definitions.shards_of("f").is_some());
        assert!(definitions.shards_of("g").is_none());
    }

    #[test]
    fn redefinition_and_drop_name_the_shard() {
        let mut definitions = loaded("10:10:");
        assert_eq!(definitions.apply(11, CatalogChange::Shard(def("a", 1))), None, "identical");
        assert_eq!(definitions.apply(12, CatalogChange::Shard(def("a", 2))), Some("a".into()));
        assert_eq!(definitions.apply(13, CatalogChange::ShardDropped("a".into())), Some("a".into()));
        assert_eq!(definitions.function_shard("f", "a"), FunctionShard::UnknownFunction);
        assert_eq!(definitions.function_shard("g", "a"), FunctionShard::UnknownShard);
    }

    #[test]
    fn access_follows_the_mapping() {
        let mut definitions = loaded("10:10:");
        assert_eq!(definitions.function_shard("f", "b"), FunctionShard::NotMapped);
        definitions.apply(11, CatalogChange::Function(mapping("f", &["b"])));
        assert!(matches!(definitions.function_shard("f", "b"), FunctionShard::Mapped(_)));
        assert_eq!(definitions.function_shard("f", "a"), FunctionShard::NotMapped);
    }
}
