use bincode::{Decode, Encode};

use crate::{FunctionId, KeyPart, Lsn, Mapping, Row, Schedule, ShardDef, ShardName, Xid};

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
    /// Follows the definitions of a frame that defines shards. These transactions committed before this one, their frames could
    /// not say what they did to the shards defined here, and the origin may not show them to readers yet: a copy of such a
    /// shard counts only if its snapshot sees them all.
    Unsettled(Vec<Xid>),
}

/// Which instances of a shard a transaction touched.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum KeyChange {
    /// Every instance, or the plugin can't tell which; also the only form for a shard without key.
    Whole(WholeReason),
    /// Exactly the instances with these keys, each a list in the order of the shard's key columns.
    Keys(Vec<Vec<KeyPart>>),
    /// Exactly these instances, with all that happened to their rows. Only for consumers that ask for deltas.
    Rows(Deltas),
}

impl KeyChange {
    /// The keys of the instances touched (empty ones for a shard without key); `None` where it is all of them.
    pub fn keys(&self) -> Option<impl Iterator<Item = &[KeyPart]>> {
        let (keys, rows): (&[_], &[_]) = match self {
            KeyChange::Whole(_) => return None,
            KeyChange::Keys(keys) => (keys, &[]),
            KeyChange::Rows(deltas) => (&[], &deltas.instances),
        };
        Some(keys.iter().map(Vec::as_slice).chain(rows.iter().map(|instance| instance.key.as_slice())))
    }
}

/// What a transaction did to the rows of a shard, complete: a copy from before it, with these changes applied, is what a fetch
/// after it would bring.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Deltas {
    /// Generation of the definition that decided. A copy of another one can't take these changes.
    pub generation: u64,
    /// [`fingerprint`](crate::fingerprint) of the rows' columns, identity and order. A copy with others can't take these changes.
    pub columns: u64,
    /// The instances, each once.
    pub instances: Vec<InstanceRows>,
}

/// What happened to the rows of one instance.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InstanceRows {
    /// The instance's key, in the order of the shard's key columns; empty for a shard without key.
    pub key: Vec<KeyPart>,
    /// Each row that changed, once. A row that moved from one instance to another is removed from the one and put in the other.
    pub rows: Vec<RowChange>,
}

/// What became of one row, which is told from others by its identity (see
/// [`FetchPart::Instance`](crate::FetchPart::Instance)).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum RowChange {
    /// The row is in the instance, new or in place of the one with the same identity.
    Put {
        /// All columns, with the text that a fetch would bring.
        row: Row,
    },
    /// No row of this identity is in the instance any more, if one was.
    Remove {
        /// Values of the identity's columns, as in a row.
        identity: Vec<Option<String>>,
    },
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
