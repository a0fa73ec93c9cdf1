use bincode::{Decode, Encode};
use xxhash_rust::xxh3::Xxh3;

use crate::{Lsn, Mapping, Snapshot};

/// One message of the answer to `foreshard.fetch`: first a header, then for each requested instance either
/// `Failed`, or `Instance` and its `Rows` (zero or more messages). Where no instance is requested, a `Horizon` follows.
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
        /// Which columns (by number from 0) tell a row from all others, in the order that
        /// [`RowChange::Remove`](crate::RowChange::Remove) names their values. Empty: there are none, and no deltas.
        identity: Vec<u16>,
        /// How the rows are sorted.
        order: RowOrder,
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
    /// How far the log is, and what readers do not see of it.
    Horizon(Horizon),
}

/// A place of the log such that a later snapshot holds all that had committed before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Horizon {
    /// The log is written and flushed up to here.
    pub flushed: Lsn,
    /// Every transaction whose commit is before that is visible to readers. If not, one of them hangs, waiting for a standby for
    /// instance, and nothing is proved.
    pub settled: bool,
    /// What each function may read, in a snapshot that sees all of these.
    pub mappings: Vec<Mapping>,
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
    /// No such shard.
    UnknownShard,
    /// The key columns named are not those of the definition.
    KeyMismatch,
    /// A key value is not of its column's type.
    KeyType,
    /// The source table is gone or no longer fits the definition.
    Broken,
    /// The instance is larger than the origin gives out at once.
    TooLarge,
    /// No function is mapped to the shard.
    NotMapped,
}

/// How the rows of an instance are sorted.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum RowOrder {
    /// Not at all: any place is right for a row.
    Unsorted,
    /// By these columns (by number from 0), the first one first, ascending, NULL last. No two rows have the same values.
    By(Vec<(u16, Comparison)>),
    /// By something that can't be told from the rows.
    Hidden,
}

/// How PostgreSQL compares the values of a column, as far as their text tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Comparison {
    /// As numbers of any size and precision: -Infinity first, then numbers, Infinity, NaN last.
    Number,
    /// By the bytes of their text: boolean, uuid, bytea, and text under the collation C.
    Bytes,
    /// As moments: dates and timestamps in ISO 8601, the latter in UTC, with ` BC` behind years before Christ and more than
    /// four digits for late years; -infinity first, infinity last.
    Time,
    /// In a way that the text does not tell.
    Opaque,
}

/// A column of a fetched instance.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Column {
    /// Name.
    pub name: String,
    /// How its text is written in JSON and compared in filters.
    pub kind: ColumnKind,
}

/// How a value's text becomes JSON (as `row_to_json` would write it) and how filters compare it. All kinds from [`Self::Padded`]
/// on are written as [`Self::Text`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ColumnKind {
    /// smallint, integer, bigint: a JSON number. (oid is `Text`: `row_to_json` writes it as a string.)
    Int,
    /// real, double precision, numeric: a JSON number, but NaN and the infinities are strings.
    Number,
    /// boolean: the text is `true` or `false`.
    Bool,
    /// The text is already JSON: json, jsonb, and arrays and composites turned into JSON at the origin. Not compared.
    Json,
    /// A JSON string holding the type's text form, compared by its bytes.
    Text,
    /// date, ISO 8601 text, written as a JSON string.
    Date,
    /// timestamp without time zone, ISO 8601 text with `T`, written as a JSON string.
    Timestamp,
    /// timestamp with time zone, ISO 8601 text with `T` and offset (the origin writes it in UTC), a JSON string.
    TimestampTz,
    /// character(n): blanks at the end do not count.
    Padded,
    /// uuid, in lower case with hyphens.
    Uuid,
    /// bytea, as `\x` and hexadecimal digits.
    Bytea,
    /// time without time zone.
    Time,
    /// A whole number that JSON has as a string: oid, xid, xid8.
    Oid,
    /// inet and cidr.
    Network,
    /// macaddr and macaddr8.
    Mac,
    /// interval, in the style `postgres`.
    Interval,
    /// money, as the locale C writes it: `-$1,234.50`.
    Money,
    /// An enum: equal if the labels are; their order is known to the origin only.
    Enum,
    /// Values that only the origin can compare.
    Opaque,
}

impl ColumnKind {
    /// Of the kinds that say how a value is written, the one that writes as this does.
    pub fn written(self) -> ColumnKind {
        use ColumnKind::{Bool, Date, Int, Json, Number, Text, Timestamp, TimestampTz};
        match self {
            Int | Number | Bool | Json | Date | Timestamp | TimestampTz => self,
            _ => Text,
        }
    }
}

/// A number that two descriptions of rows share only if they are the same: what a change of a row needs to have in common with
/// the copy it is applied to.
pub fn fingerprint(columns: &[Column], identity: &[u16], order: &RowOrder) -> u64 {
    let mut hasher = Xxh3::new();
    for column in columns {
        // Names have no NUL.
        hasher.update(column.name.as_bytes());
        hasher.update(&[0, column.kind as u8]);
    }
    let mut numbers = vec![identity.len() as u16];
    numbers.extend(identity);
    match order {
        RowOrder::Unsorted => numbers.push(0),
        RowOrder::Hidden => numbers.push(1),
        RowOrder::By(sorted) => {
            numbers.push(2);
            numbers.extend(sorted.iter().flat_map(|(column, comparison)| [*column, *comparison as u16]));
        }
    }
    numbers.iter().for_each(|number| hasher.update(&number.to_le_bytes()));
    hasher.digest()
}

/// One row: a value per column, `None` is SQL NULL. Each value is text as its [`ColumnKind`] says.
pub type Row = Vec<Option<String>>;
