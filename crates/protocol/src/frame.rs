use bincode::{Decode, Encode};

use crate::{FunctionId, KeyPart, Lsn, Mapping, Schedule, ShardDef, ShardName, Xid};

/// One committed transaction, reduced to what concerns one edge. Frames arrive in commit order.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Frame {
    /// Top-level transaction id.
    pub xid: Xid,
    /// Where the commit record starts.
    pub commit_lsn: Lsn,
    /// Where the commit record ends: a consumer that has applied the frame is at this position.
    pub end_lsn: Lsn,
    /// When it committed, microseconds since 1970-01-01 UTC, by the origin's clock.
    pub commit_time: i64,
    /// What happened; at most one [`Event::Shard`] per shard.
    pub events: Vec<Event>,
}

/// One thing that a transaction did.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Event {
    /// Rows of a shard changed.
    Shard {
        /// The shard.
        shard: ShardName,
        /// Which of its instances.
        change: KeyChange,
    },
    /// A definition changed.
    Catalog(CatalogChange),
    /// A schedule for this edge was published.
    Schedule(Schedule),
}

/// Which instances of a shard a transaction touched.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum KeyChange {
    /// Every instance, or the plugin can't tell which; also the only form for a shard without key.
    Whole(WholeReason),
    /// Exactly the instances with these keys, each a list in the order of the shard's key columns.
    Keys(Vec<Vec<KeyPart>>),
}

/// Why a whole shard is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum WholeReason {
    /// The shard has no key and one of its rows changed.
    Rows,
    /// The table was truncated.
    Truncate,
    /// The table, a partition of it or a column changed its definition, or the table was rewritten.
    Ddl,
    /// The old row image does not hold the columns that the predicate or the key needs.
    OldImage,
    /// More instances were touched than a frame lists.
    Coarsened,
    /// The predicate or the key could not be evaluated on a row.
    Evaluation,
}

/// A change of the definitions.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum CatalogChange {
    /// The shard was created or redefined.
    Shard(ShardDef),
    /// The shard is gone; its mappings went with it.
    ShardDropped(ShardName),
    /// This is now the complete list of the function's shards.
    Function(Mapping),
    /// The function is no longer mapped to anything.
    FunctionUnmapped(FunctionId),
    /// This edge was dropped: the consumer must stop.
    EdgeDropped,
}
