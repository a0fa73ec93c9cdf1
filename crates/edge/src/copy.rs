use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use foreshard_protocol::{Column, Lsn, Row, Snapshot};
use xxhash_rust::xxh3::xxh3_128;

use crate::rows;

/// The rows of one shard instance as one snapshot of the origin saw them.
#[derive(Debug)]
pub struct ShardCopy {
    /// Canonical instance id.
    pub instance: Arc<str>,
    /// Columns of every row.
    pub columns: Vec<Column>,
    /// Rows in key then primary-key order.
    pub rows: Vec<Row>,
    /// What the copy contains: exactly the transactions this snapshot sees.
    pub snapshot: Arc<Snapshot>,
    /// Once the stream has passed this position it has delivered everything the snapshot sees, so the copy is no longer
    /// ahead of the stream.
    pub settled_at: Lsn,
    /// Which fetch brought it; copies of one fetch share one snapshot.
    pub fetch: u64,
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

impl ShardCopy {
    /// A copy of `rows`, read in `snapshot` by fetch number `fetch`.
    pub fn new(
        instance: Arc<str>,
        columns: Vec<Column>,
        rows: Vec<Row>,
        snapshot: Arc<Snapshot>,
        settled_at: Lsn,
        fetch: u64,
        fetched_at: u64,
    ) -> Self {
        let names: usize = columns.iter().map(|column| column.name.len() + 4).sum();
        let slot = size_of::<Option<String>>();
        let text: usize = rows.iter().flatten().flatten().map(String::len).sum();
        // Rows as they are held, plus the JSON that the first answer will build from them.
        let held = text + rows.len() * (columns.len() * slot + size_of::<Row>());
        let json = text + rows.len() * names;
        ShardCopy {
            bytes: held + json + instance.len() + size_of::<Self>(),
            instance,
            columns,
            rows,
            snapshot,
            settled_at,
            fetch,
            fetched_at,
            body: OnceLock::new(),
        }
    }

    /// Bytes this copy is accounted with.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// All rows as JSON, built on first use.
    pub fn body(&self) -> &Body {
        self.body.get_or_init(|| Body::new(rows::to_json(&self.columns, self.rows.iter())))
    }
}

impl Body {
    /// A body with its entity tag.
    pub fn new(json: Vec<u8>) -> Self {
        let etag = format!("\"{:032x}\"", xxh3_128(&json)).into();
        Body { json: json.into(), etag }
    }
}
