use bincode::{Decode, Encode};

use crate::{Lsn, ShardName, Snapshot, Xid};

/// Name of an edge location, as given to `foreshard.create_edge`.
pub type EdgeName = String;

/// Name of an edge function, as given to `foreshard.map_function`.
pub type FunctionId = String;

/// What an edge needs to know of a shard's definition.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ShardDef {
    /// Unique name.
    pub name: ShardName,
    /// Grows with every change of the definition; copies of another generation are dropped.
    pub generation: u64,
    /// Source table, schema-qualified and quoted where needed, for the execution log.
    pub source: String,
    /// Key columns in the order of the definition; empty for a shard without key.
    pub key: Vec<String>,
}

/// The shards one function may read.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Mapping {
    /// The function.
    pub function_id: FunctionId,
    /// All its shards, in the order given to `foreshard.map_function`.
    pub shards: Vec<ShardName>,
}

/// One line of a prefetch schedule.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct ScheduleEntry {
    /// The function that is expected to run.
    pub function_id: FunctionId,
    /// Shard instance ids in text form (see [`crate::InstanceId`]), as published.
    pub shard_list: Vec<String>,
    /// Probability that the function runs and reads these shards within the window, 0 to 1.
    pub confidence: f64,
}

/// A published prefetch schedule of one edge.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Schedule {
    /// Id given by `foreshard.publish_schedule`; of two schedules for one moment the higher id is in force.
    pub id: i64,
    /// Start of the window, microseconds since 1970-01-01 UTC, inclusive.
    pub starts_at: i64,
    /// End of the window, microseconds since 1970-01-01 UTC, exclusive.
    pub ends_at: i64,
    /// The entries as published.
    pub entries: Vec<ScheduleEntry>,
}

/// All definitions an edge works with, read in one snapshot.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct CatalogSnapshot {
    /// The snapshot it was read in.
    pub snapshot: Snapshot,
    /// A log position at or after the commit of every transaction that `snapshot` sees.
    pub wal_lsn: Lsn,
    /// Transactions that have committed but that no reader sees yet, not even `snapshot`. A stream that has begun before this was
    /// read may have begun behind them and never tell of them: a copy of any shard counts only if its snapshot sees them all.
    pub unsettled: Vec<Xid>,
    /// Every shard that some function is mapped to.
    pub shards: Vec<ShardDef>,
    /// Every function with its shards.
    pub mappings: Vec<Mapping>,
    /// Schedules of this edge that are not over, ascending by id.
    pub schedules: Vec<Schedule>,
}
