//! What rows are made of in the model, and what transactions make of them.
//!
//! An instance holds the rows of its table that belong to it, each with the transaction that wrote it last, and one more row for
//! every transaction that touched the instance: so an answer tells which transactions it holds, and whether it shows exactly
//! what they left.

use std::collections::BTreeMap;

use foreshard_edge::Layout;
use foreshard_protocol::{Column, ColumnKind, Comparison, Row, RowChange, RowOrder};

use crate::catalog::{SHARDS, Sorted};
use crate::origin::{Txn, TxnId};

/// Rows with a higher id stand for transactions.
const JOURNAL: usize = 1_000;

/// Columns, identity and order of a shard of this generation.
pub(crate) fn layout(shard: usize, generation: u64) -> Layout {
    let kind = ColumnKind::Int;
    let last = if generation.is_multiple_of(2) { "flag" } else { "flagged" };
    let columns = ["id", "by", last].map(|name| Column { name: name.into(), kind }).to_vec();
    let (identity, order) = match SHARDS[shard].order {
        Sorted::ById => (vec![0], RowOrder::By(vec![(0, Comparison::Number)])),
        Sorted::Opaque => (vec![0], RowOrder::By(vec![(0, Comparison::Opaque)])),
        Sorted::Unsorted => (vec![0], RowOrder::Unsorted),
        Sorted::Nameless => (vec![], RowOrder::Hidden),
    };
    Layout::new(generation, columns, identity, order)
}

fn state_row(id: u32, by: TxnId, flag: bool) -> Row {
    vec![Some(id.to_string()), Some(by.to_string()), Some(u8::from(flag).to_string())]
}

fn journal_row(txn: TxnId) -> Row {
    vec![Some((JOURNAL + txn).to_string()), Some(txn.to_string()), None]
}

/// The transaction that a row stands for, if it is one of those.
pub(crate) fn journal_of(row: &Row) -> Option<Option<TxnId>> {
    let id: usize = row.first()?.as_ref()?.parse().ok()?;
    Some(id.checked_sub(JOURNAL))
}

/// Rows of an instance after these transactions, each with its number. Of two that touch the same row the one with the higher
/// number came later: it waited for the other's lock before it began.
pub(crate) fn content<'t>(
    shard: usize,
    key: Option<u32>,
    txns: impl Iterator<Item = (TxnId, &'t Txn)>,
) -> Vec<Row> {
    let mut rows: BTreeMap<usize, Row> = BTreeMap::new();
    for (number, txn) in txns {
        if txn.truncates == Some(SHARDS[shard].table) {
            rows.retain(|id, _| *id >= JOURNAL);
        }
        for ((table, id), value) in &txn.writes {
            if *table != SHARDS[shard].table {
                continue;
            }
            rows.remove(&(*id as usize));
            if let Some(value) = value.filter(|value| belongs(shard, key, value)) {
                rows.insert(*id as usize, state_row(*id, number, value.1));
            }
        }
        if txn.touches(shard, key) {
            rows.insert(JOURNAL + number, journal_row(number));
        }
    }
    rows.into_values().collect()
}

fn belongs(shard: usize, key: Option<u32>, value: &(u32, bool)) -> bool {
    (value.1 || !SHARDS[shard].flagged_only) && key.is_none_or(|key| key == value.0)
}

/// What the transaction does to the rows of an instance that it touches. `values`: the columns that were not written are NULL
/// where they should have been looked up.
pub(crate) fn changes(
    shard: usize,
    key: Option<u32>,
    number: TxnId,
    txn: &Txn,
    values: bool,
) -> Vec<RowChange> {
    let mut changes = vec![RowChange::Put { row: journal_row(number) }];
    for ((table, id), value) in &txn.writes {
        if *table == SHARDS[shard].table {
            changes.push(match value.filter(|value| belongs(shard, key, value)) {
                Some(value) => {
                    let mut row = state_row(*id, number, value.1);
                    row[2].take_if(|_| !values);
                    RowChange::Put { row }
                }
                None => RowChange::Remove { identity: vec![Some(id.to_string())] },
            });
        }
    }
    changes
}
