use bincode::{Decode, Encode};

use crate::{Lsn, Snapshot};

/// One message of the answer to `foreshard.fetch`: first a header, then for each requested instance either
/// `Failed`, or `Instance` and its `Rows` (zero or more messages).
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum FetchPart {
    /// Always first.
    Header(FetchHeader),
    /// The rows of this instance follow.
    Instance {
        /// Position in the request, from 0.
        index: u32,
        /// The instance id with its key values in canonical form; stream events name this form.
        canonical: String,
        /// Generation of the definition that was used.
        generation: u64,
        /// The columns of every row.
        columns: Vec<Column>,
    },
    /// Rows of the instance, in key then primary-key order, continuing the message before.
    Rows {
        /// Position in the request, from 0.
        index: u32,
        /// The rows.
        rows: Vec<Row>,
    },
    /// This instance can't be read; the others are unaffected.
    Failed {
        /// Position in the request, from 0.
        index: u32,
        /// What kind of failure.
        failure: FetchFailure,
        /// Words for the operator's log; may name columns and types, never row values.
        message: String,
    },
}

/// In which state of the origin the fetch was made.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FetchHeader {
    /// The one snapshot in which every instance of the answer was read.
    pub snapshot: Snapshot,
    /// A log position at or after the commit of every transaction that `snapshot` sees (the insert position, read
    /// after the snapshot was taken): a stream that has passed it has delivered all of them.
    pub wal_lsn: Lsn,
}

/// Why one instance could not be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum FetchFailure {
    /// No such shard, or no function of the edge is mapped to it.
    UnknownShard,
    /// The key columns named are not those of the definition.
    KeyMismatch,
    /// A key value is not of its column's type.
    KeyType,
    /// The source table is gone or no longer fits the definition.
    Broken,
    /// The instance is larger than the origin gives out at once.
    TooLarge,
}

/// A column of a fetched instance.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Column {
    /// Name.
    pub name: String,
    /// How its text is written in JSON and compared in filters.
    pub kind: ColumnKind,
}

/// How a value's text becomes JSON (as `row_to_json` would write it) and how filters compare it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ColumnKind {
    /// smallint, integer, bigint: a JSON number. (oid is `Text`: `row_to_json` writes it as a string.)
    Int,
    /// real, double precision, numeric: a JSON number, but NaN and the infinities are strings.
    Number,
    /// boolean: the text is `true` or `false`.
    Bool,
    /// The text is already JSON: json, jsonb, and arrays and composites turned into JSON at the origin.
    Json,
    /// A JSON string holding the type's text form.
    Text,
    /// date, ISO 8601 text, written as a JSON string.
    Date,
    /// timestamp without time zone, ISO 8601 text with `T`, written as a JSON string.
    Timestamp,
    /// timestamp with time zone, ISO 8601 text with `T` and offset (the origin writes it in UTC), a JSON string.
    TimestampTz,
}

/// One row: a value per column, `None` is SQL NULL. Each value is text as its [`ColumnKind`] says.
pub type Row = Vec<Option<String>>;
