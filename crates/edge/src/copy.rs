use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use foreshard_protocol::{Column, Lsn, Row, RowChange, RowOrder, Snapshot, Xid, fingerprint};
use xxhash_rust::xxh3::xxh3_128;

use crate::deltas::{Refused, change};
use crate::rows;

/// What the rows of a copy are made of, and what their changes need to know of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Generation of the shard's definition.
    pub generation: u64,
    /// Columns of every row.
    pub columns: Vec<Column>,
    /// Of columns, identity and order, as changes name it.
    pub fingerprint: u64,
    /// Columns (by number) that tell a row from all others; empty where nothing does.
    pub identity: Vec<u16>,
    /// How the rows are sorted.
    pub order: RowOrder,
}

impl Layout {
    /// The layout of rows with these columns.
    pub fn new(generation: u64, columns: Vec<Column>, identity: Vec<u16>, order: RowOrder) -> Self {
        let fingerprint = fingerprint(&columns, &identity, &order);
        Layout { generation, fingerprint, columns, identity, order }
    }

    /// Bytes that a row is accounted with: as it is held, and in the JSON that the first answer will build.
    fn row_bytes(&self, row: &Row, names: usize) -> usize {
        let text: usize = row.iter().flatten().map(String::len).sum();
        2 * text + self.columns.len() * size_of::<Option<String>>() + size_of::<Row>() + names
    }

    fn names(&self) -> usize {
        self.columns.iter().map(|column| column.name.len() + 4).sum()
    }
}

/// The rows of one shard instance as one snapshot of the origin saw them, with what the stream has brought since.
#[derive(Debug)]
pub struct ShardCopy {
    /// Canonical instance id.
    pub instance: Arc<str>,
    /// What the rows are made of.
    pub layout: Arc<Layout>,
    /// Rows in key then primary-key order.
    pub rows: Vec<Row>,
    /// The copy contains exactly the transactions that this snapshot sees, and those that the stream has delivered.
    pub snapshot: Arc<Snapshot>,
    /// Once the stream has passed this position it has delivered everything the snapshot sees, so the copy is no longer
    /// ahead of the stream.
    pub settled_at: Lsn,
    /// Which fetch brought it, while it is exactly what that fetch has read; copies of one fetch share one snapshot.
    pub fetch: Option<u64>,
    /// When it arrived, microseconds of the monotonic clock.
    pub fetched_at: u64,
    bytes: usize,
    body: OnceLock<Body>,
}

/// All rows of a copy as a JSON array.
#[derive(Clone, Debug)]
pub struct Body {
    /// The JSON text.
    pub json: Bytes,
    /// Strong entity tag of that text, with its quotes.
    pub etag: Arc<str>,
}

/// A transaction that the stream brought, as far as it matters to what holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Brought {
    pub(crate) xid: Xid,
    /// Where its commit record ends; zero where only its id is known.
    pub(crate) ends: Lsn,
}

impl Brought {
    /// Whether it is in what was read in `snapshot` before the log came to `settled_at`. The id alone does not tell: an origin that
    /// was restored to an older state gives ids out again.
    pub(crate) fn is_in(self, snapshot: &Snapshot, settled_at: Lsn) -> bool {
        self.ends <= settled_at && snapshot.sees(self.xid)
    }
}

impl ShardCopy {
    /// Whether the copy contained the transaction when it was read.
    pub(crate) fn holds(&self, txn: Brought) -> bool {
        txn.is_in(&self.snapshot, self.settled_at)
    }

    /// A copy of `rows`, read in `snapshot` by fetch number `fetch`.
    pub fn new(
        instance: Arc<str>,
        layout: Arc<Layout>,
        rows: Vec<Row>,
        snapshot: Arc<Snapshot>,
        settled_at: Lsn,
        fetch: u64,
        fetched_at: u64,
    ) -> Self {
        let names = layout.names();
        let held: usize = rows.iter().map(|row| layout.row_bytes(row, names)).sum();
        ShardCopy {
            bytes: held + instance.len() + size_of::<Self>(),
            instance,
            layout,
            rows,
            snapshot,
            settled_at,
            fetch: Some(fetch),
            fetched_at,
            body: OnceLock::new(),
        }
    }

    /// Bytes this copy is accounted with.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Columns of every row.
    pub fn columns(&self) -> &[Column] {
        &self.layout.columns
    }

    /// All rows as JSON, built on first use.
    pub fn body(&self) -> &Body {
        self.body.get_or_init(|| Body::new(rows::to_json(self.columns(), self.rows.iter())))
    }

    /// Applies what a transaction that the snapshot does not see did to the rows. Where it is refused the copy is of no use any
    /// more: it may hold a part of the changes.
    pub(crate) fn apply(copy: &mut Arc<ShardCopy>, changes: &[RowChange]) -> Result<(), Refused> {
        if let Some(own) = Arc::get_mut(copy) {
            return own.apply_here(changes);
        }
        // Answers that hold it keep what they were given.
        let mut fork = ShardCopy {
            instance: copy.instance.clone(),
            layout: copy.layout.clone(),
            rows: copy.rows.clone(),
            snapshot: copy.snapshot.clone(),
            settled_at: copy.settled_at,
            fetch: None,
            fetched_at: copy.fetched_at,
            bytes: copy.bytes,
            body: OnceLock::new(),
        };
        fork.apply_here(changes)?;
        *copy = Arc::new(fork);
        Ok(())
    }

    fn apply_here(&mut self, changes: &[RowChange]) -> Result<(), Refused> {
        (self.fetch, self.body) = (None, OnceLock::new());
        let names = self.layout.names();
        for one in changes {
            let (removed, added) = change(&self.layout, &mut self.rows, one)?;
            let bytes = |row: &Row| self.layout.row_bytes(row, names);
            self.bytes -= removed.as_ref().map_or(0, bytes);
            self.bytes += added.map_or(0, |at| bytes(&self.rows[at]));
        }
        Ok(())
    }
}

impl Body {
    /// A body with its entity tag.
    pub fn new(json: Vec<u8>) -> Self {
        let etag = format!("\"{:032x}\"", xxh3_128(&json)).into();
        Body { json: json.into(), etag }
    }
}
