use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use foreshard_protocol::{
    FetchFailure, FetchHeader, FetchPart, Horizon, IdError, InstanceId, KeyPart, RowsWriter, encode,
};
use pgrx::PgSqlErrorCode;

use super::edge::{authorized, now};
use super::statement::Readable;
use super::unread::Notes;
use crate::catalog::{self, Shard, Tables, fail};
use crate::pg::identity::Acting;
use crate::pg::rows::{KeyValue, attempt, key_value, read};
use crate::pg::scan::View;
use crate::pg::settled::{Newest, lock_for_reading};
use crate::pg::{Oid, identity, log, unsettled};

/// Instances in one call.
const INSTANCES: usize = 1000;
/// About the size of one message of rows.
const CHUNK: usize = 64 << 10;
/// An instance of more text than this is not given out.
const INSTANCE_BYTES: usize = 64 << 20;
/// A commit becomes visible within milliseconds, unless it waits for a standby that is not there.
const SETTLE_WITHIN: Duration = Duration::from_millis(100);
/// Rows read from the executor at once.
const BATCH: i32 = 200;

type Failure = (FetchFailure, String);

/// Reads all instances in one snapshot and gives each message to `put`.
pub(crate) fn fetch(
    edge: Option<String>,
    instances: Option<Vec<Option<String>>>,
    put: &mut dyn FnMut(&[u8]),
) {
    let (tables, edge) = authorized(edge.as_deref());
    let Some(instances) = instances else {
        fail(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, "instances must not be NULL", "");
    };
    if instances.len() > INSTANCES {
        fail(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("at most {INSTANCES} instances can be fetched at once"),
            "Split the list.",
        );
    }
    let ids: Vec<Result<InstanceId, IdError>> =
        instances.iter().map(|instance| instance.as_deref().unwrap_or_default().parse()).collect();
    let names: BTreeSet<&str> = ids.iter().flatten().map(|id| id.shard.as_str()).collect();
    // The snapshot is newer than the locks on all tables that are read in it; see `settled`.
    let mut locked = BTreeSet::new();
    let (_snapshot, mapped) = loop {
        let snapshot = Newest::snapshot();
        let mapped: BTreeMap<&str, Shard> = names
            .iter()
            .filter_map(|name| Some((*name, catalog::mapped_shard(&tables, name, View::Statement)?)))
            .collect();
        let sources: BTreeSet<u32> =
            mapped.values().flat_map(Shard::dependencies).map(|found| found.source).collect();
        if sources.is_subset(&locked) {
            break (snapshot, mapped);
        }
        drop(snapshot);
        for source in sources.difference(&locked) {
            lock_for_reading(Oid::from(*source));
        }
        locked.extend(sources);
    };
    let header = FetchHeader { snapshot: log::statement_snapshot(), wal_lsn: log::insert_position() };
    put(&encode(&FetchPart::Header(header)));
    if ids.is_empty() {
        put(&encode(&FetchPart::Horizon(horizon(&tables))));
    }
    let mut fetcher = Fetcher {
        tables: &tables,
        mapped: &mapped,
        readable: BTreeMap::new(),
        notes: Notes::of(&edge.slot_name),
    };
    for (index, id) in (0..).zip(&ids) {
        let answer = match id {
            Ok(id) => fetcher.instance(index, id),
            Err(error) => Err((FetchFailure::KeyMismatch, error.to_string())),
        };
        match answer {
            Ok(parts) => parts.iter().for_each(|part| put(part)),
            Err((failure, message)) => put(&encode(&FetchPart::Failed { index, failure, message })),
        }
    }
    // Whoever fetches is answered all the same.
    let _ = fetcher.notes.keep();
}

/// The order counts: what has committed by the first step is among what the second finds, or visible, and the third waits a moment for
/// the former.
fn horizon(tables: &Tables) -> Horizon {
    let flushed = log::insert_position();
    log::flush(flushed);
    let mut unsettled = unsettled::invisible_commits();
    let began = Instant::now();
    loop {
        let _snapshot = Newest::snapshot();
        let seen = log::statement_snapshot();
        unsettled.retain(|xid| !seen.sees(*xid));
        if unsettled.is_empty() || began.elapsed() > SETTLE_WITHIN {
            let (_, mappings) = catalog::definitions(tables, View::Statement).wire();
            return Horizon { flushed, settled: unsettled.is_empty(), mappings };
        }
        unsettled::pause();
    }
}

struct Fetcher<'a> {
    tables: &'a Tables,
    mapped: &'a BTreeMap<&'a str, Shard>,
    /// Prepared once per shard and call.
    readable: BTreeMap<String, Result<Readable, String>>,
    /// For `health()`.
    notes: Notes,
}

impl Fetcher<'_> {
    /// The instance's messages. They are held back until it is complete, so that a failure in the middle takes them along.
    fn instance(&mut self, index: u32, id: &InstanceId) -> Result<Vec<Vec<u8>>, Failure> {
        let Some(shard) = self.mapped.get(id.shard.as_str()) else {
            return Err(if catalog::is_defined(self.tables, &id.shard, View::Statement) {
                (FetchFailure::NotMapped, format!("no function is mapped to shard {}", id.shard))
            } else {
                (FetchFailure::UnknownShard, format!("there is no shard {}", id.shard))
            });
        };
        let owner = Oid::from(shard.owner);
        if !identity::role_exists(owner) {
            return Err((FetchFailure::Broken, format!("the owner of shard {} is gone", shard.name)));
        }
        if !id.key.iter().map(|part| &part.column).eq(&shard.key) {
            let wanted = shard.key.join(", ");
            return Err((
                FetchFailure::KeyMismatch,
                format!("the key of shard {} is ({wanted})", shard.name),
            ));
        }
        let readable = self.readable.entry(shard.name.clone()).or_insert_with(|| {
            attempt(|| Readable::of(shard)).unwrap_or_else(|state| Err(format!("SQLSTATE {state}")))
        });
        let readable = readable.as_ref().map_err(|defect| {
            (FetchFailure::Broken, format!("shard {} can't be read: {defect}", shard.name))
        })?;

        let mut canonical = InstanceId { shard: id.shard.clone(), key: Vec::new() };
        let mut parameters: Vec<KeyValue> = Vec::new();
        let mut nulls = Vec::new();
        for (part, (_, base, typmod)) in id.key.iter().zip(&readable.key) {
            let value = match &part.value {
                None => {
                    if readable.is_query() {
                        parameters.push(KeyValue::null(*base));
                    }
                    None
                }
                Some(text) => {
                    let Some(value) = key_value(text, *base, *typmod) else {
                        let message = format!("the value of {} is not of the column's type", part.column);
                        return Err((FetchFailure::KeyType, message));
                    };
                    let canonical = value.canonical.clone();
                    parameters.push(value);
                    Some(canonical)
                }
            };
            nulls.push(value.is_none());
            canonical.key.push(KeyPart { column: part.column.clone(), value });
        }

        let canonical = canonical.to_string();
        let first = FetchPart::Instance {
            index,
            canonical: canonical.clone(),
            generation: shard.generation,
            columns: readable.form.columns.clone(),
            identity: readable.form.identity.clone(),
            order: readable.form.order.clone(),
        };
        let statement = readable.statement(&nulls);
        let read = attempt(|| {
            // The owner's rights decide, and what his table's types bring along runs restricted.
            let _acting = Acting::as_role(owner);
            rows(index, &statement, &parameters)
        });
        match read {
            Ok(Some(mut parts)) => {
                self.notes.read(&shard.name, &canonical);
                parts.insert(0, encode(&first));
                Ok(parts)
            }
            Ok(None) => Err((
                FetchFailure::TooLarge,
                format!("an instance of shard {} is larger than {INSTANCE_BYTES} bytes", shard.name),
            )),
            Err(state) => {
                self.notes.failed(&shard.name, shard.generation, &canonical, &state, now());
                let message = format!("reading shard {} failed with SQLSTATE {state}", shard.name);
                Err((FetchFailure::Broken, message))
            }
        }
    }
}

/// Messages of rows; `None` if they are too many.
fn rows(index: u32, statement: &str, parameters: &[KeyValue]) -> Option<Vec<Vec<u8>>> {
    let mut parts = Vec::new();
    let mut writer = RowsWriter::default();
    let mut bytes = 0;
    read(statement, parameters, BATCH, &mut writer, |writer| {
        if writer.size() >= CHUNK {
            bytes += writer.size();
            parts.extend(writer.take(index));
        }
        bytes <= INSTANCE_BYTES
    });
    bytes += writer.size();
    if bytes > INSTANCE_BYTES {
        return None;
    }
    parts.extend(writer.take(index));
    Some(parts)
}
