//! A model of a PostgreSQL origin: transactions, write-ahead log, visibility, locks, crash.
//!
//! What rows are made of is in `rows`.

use std::collections::{BTreeMap, BTreeSet};

use foreshard_protocol::{
    CatalogChange, Deltas, Event, Frame, InstanceRows, KeyChange, KeyPart, Lsn, Row, Schedule, Snapshot,
    WholeReason, Xid,
};

use crate::catalog::{CatalogOp, Defs, SHARDS, Sorted, shard_name};
use crate::rows;

/// Index of a transaction in [`Origin::txns`]; unlike an xid it is never used again after a crash.
pub(crate) type TxnId = usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    /// The commit record is written; readers do not see it yet.
    Committed,
    Visible,
    Aborted,
    /// Its commit record was not flushed when the origin crashed.
    Lost,
}

/// Which instances of a shard a transaction touched; no keys: all of them.
#[derive(Clone, Debug)]
pub(crate) struct Touch {
    pub(crate) shard: usize,
    pub(crate) keys: Option<BTreeSet<u32>>,
}

/// Key and predicate flag of a row; `None` does not exist.
pub(crate) type RowValue = Option<(u32, bool)>;

#[derive(Debug)]
pub(crate) struct Txn {
    /// Number of the step that began it.
    pub(crate) write: u64,
    pub(crate) xid: Xid,
    pub(crate) state: State,
    pub(crate) touches: Vec<Touch>,
    pub(crate) writes: Vec<((usize, u32), RowValue)>,
    pub(crate) truncates: Option<usize>,
    pub(crate) ops: Vec<CatalogOp>,
    pub(crate) schedule: Option<Schedule>,
    /// How much of it the frame tells.
    pub(crate) told: Told,
    /// The highest id of its subtransactions, or its own.
    pub(crate) last_xid: Xid,
    pub(crate) commit_lsn: Lsn,
    pub(crate) end_lsn: Lsn,
    pub(crate) flushed_at: Option<u64>,
    /// Rank among all transactions in the order in which they became visible, and when.
    pub(crate) visible: Option<(u64, u64)>,
    pub(crate) frame: Option<Frame>,
}

/// How much the stream tells of a transaction's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// All changes of rows.
    Rows,
    /// Only which instances: deltas are off.
    Keys,
    /// The same, because a value was not written again and the log does not hold it.
    NotAllValues,
    /// Whole shards: it was too much.
    Coarse,
}

impl Txn {
    pub(crate) fn touches(&self, shard: usize, key: Option<u32>) -> bool {
        self.touches.iter().any(|touch| {
            touch.shard == shard
                && match (&touch.keys, key) {
                    (Some(keys), Some(key)) => keys.contains(&key),
                    _ => true,
                }
        })
    }
}

pub(crate) struct Origin {
    pub(crate) txns: Vec<Txn>,
    /// Committed transactions in the order of their commit records.
    pub(crate) log: Vec<TxnId>,
    pub(crate) insert: Lsn,
    pub(crate) flushed: Lsn,
    flushed_count: usize,
    /// End and xid of every record, for what a crash leaves of the xid counter.
    records: Vec<(Lsn, Xid)>,
    running: BTreeMap<Xid, TxnId>,
    next_xid: Xid,
    latest_completed: Xid,
    next_rank: u64,
    rows: BTreeMap<(usize, u32), RowValue>,
    row_locks: BTreeMap<(usize, u32), TxnId>,
    table_locks: BTreeMap<usize, TxnId>,
    shard_locks: BTreeMap<usize, TxnId>,
    catalog_lock: Option<TxnId>,
    /// Definitions as of the end of the log.
    pub(crate) defs: Defs,
    /// A planted bug: values that the log does not hold are told as NULL.
    pub(crate) missing_values_as_null: bool,
    /// Grows with every promoted standby and every backup that is restored to a point in time.
    pub(crate) timeline: u32,
    /// Grows with every other state of the past that takes over.
    pub(crate) history: u32,
    initial_defs: Defs,
    next_generation: u64,
}

pub(crate) const TABLES: usize = 2;
pub(crate) const ROWS: u32 = 8;

impl Origin {
    pub(crate) fn new(first_xid: Xid, defs: Defs) -> Self {
        Origin {
            txns: Vec::new(),
            log: Vec::new(),
            insert: Lsn(1_000),
            flushed: Lsn(1_000),
            flushed_count: 0,
            records: Vec::new(),
            running: BTreeMap::new(),
            next_xid: first_xid,
            latest_completed: first_xid - 1,
            next_rank: 1,
            rows: BTreeMap::new(),
            row_locks: BTreeMap::new(),
            table_locks: BTreeMap::new(),
            shard_locks: BTreeMap::new(),
            catalog_lock: None,
            initial_defs: defs.clone(),
            defs,
            missing_values_as_null: false,
            timeline: 1,
            history: 1,
            next_generation: 100,
        }
    }

    pub(crate) fn row(&self, table: usize, row: u32) -> RowValue {
        self.rows.get(&(table, row)).copied().flatten()
    }

    pub(crate) fn new_generation(&mut self) -> u64 {
        self.next_generation += 1;
        self.next_generation
    }

    /// Starts a transaction that has taken all its locks, or none if it would have to wait for one.
    pub(crate) fn begin(
        &mut self,
        writes: Vec<((usize, u32), RowValue)>,
        truncates: Option<usize>,
        ops: Vec<CatalogOp>,
        schedule: Option<Schedule>,
        (told, subtransactions): (Told, u64),
    ) -> Option<TxnId> {
        let table_free = |table: usize| !self.table_locks.contains_key(&table);
        let rows_free = writes.iter().all(|(row, _)| !self.row_locks.contains_key(row) && table_free(row.0));
        let truncate_free = truncates.is_none_or(|table| {
            table_free(table) && self.row_locks.keys().all(|(locked, _)| *locked != table)
        });
        let ops_free = ops.iter().all(|op| {
            (!op.needs_catalog_lock() || self.catalog_lock.is_none())
                && op.locked_shard().is_none_or(|shard| !self.shard_locks.contains_key(&shard))
        });
        if !(rows_free && truncate_free && ops_free) {
            return None;
        }
        let id = self.txns.len();
        let mut touches = Vec::new();
        for ((table, row), new) in &writes {
            touch_rows(&mut touches, *table, self.row(*table, *row), *new);
            self.row_locks.insert((*table, *row), id);
        }
        if let Some(table) = truncates {
            self.table_locks.insert(table, id);
            let shards = SHARDS.iter().enumerate().filter(|(_, shard)| shard.table == table);
            touches.extend(shards.map(|(shard, _)| Touch { shard, keys: None }));
        }
        for op in &ops {
            if op.needs_catalog_lock() {
                self.catalog_lock = Some(id);
            }
            if let Some(shard) = op.locked_shard() {
                self.shard_locks.insert(shard, id);
                touches.push(Touch { shard, keys: None });
            }
        }
        let xid = self.next_xid;
        let last_xid = xid + subtransactions;
        self.next_xid = last_xid + 1;
        self.running.insert(xid, id);
        self.write(16, last_xid);
        self.txns.push(Txn {
            write: 0,
            xid,
            state: State::Running,
            touches,
            writes,
            truncates,
            ops,
            schedule,
            told,
            last_xid,
            commit_lsn: Lsn::ZERO,
            end_lsn: Lsn::ZERO,
            flushed_at: None,
            visible: None,
            frame: None,
        });
        Some(id)
    }

    /// Log that concerns no transaction of the model.
    pub(crate) fn write(&mut self, bytes: u64, xid: Xid) {
        self.insert = Lsn(self.insert.0 + bytes);
        self.records.push((self.insert, xid));
    }

    /// Writes the commit record.
    pub(crate) fn commit(&mut self, id: TxnId) {
        let mut next = self.defs.clone();
        for op in &self.txns[id].ops {
            next.apply(op);
        }
        let commit_lsn = self.insert;
        self.write(40, self.txns[id].xid);
        let end_lsn = self.insert;
        let frame = self.frame_of(id, &next, commit_lsn, end_lsn);
        let txn = &mut self.txns[id];
        txn.frame = frame;
        (txn.commit_lsn, txn.end_lsn, txn.state) = (commit_lsn, end_lsn, State::Committed);
        apply_writes(&mut self.rows, &self.txns[id]);
        self.defs = next;
        self.log.push(id);
    }

    fn frame_of(&self, id: TxnId, next: &Defs, commit_lsn: Lsn, end_lsn: Lsn) -> Option<Frame> {
        let txn = &self.txns[id];
        let mapped = self.defs.mapped();
        let mut by_shard: BTreeMap<usize, Option<BTreeSet<u32>>> = BTreeMap::new();
        let changed_by_op = |shard| txn.ops.iter().any(|op| op.locked_shard() == Some(shard));
        for touch in &txn.touches {
            // What a definition change does to copies is the edge's own conclusion.
            if !mapped.contains(&touch.shard) || changed_by_op(touch.shard) {
                continue;
            }
            let merged = by_shard.entry(touch.shard).or_insert_with(|| Some(BTreeSet::new()));
            match (&touch.keys, &mut *merged) {
                (Some(keys), Some(merged)) => merged.extend(keys),
                _ => *merged = None,
            }
        }
        let mut events: Vec<Event> = self.defs.changes(next).into_iter().map(Event::Catalog).collect();
        let unsettled = self.unsettled();
        if !unsettled.is_empty()
            && events.iter().any(|event| matches!(event, Event::Catalog(CatalogChange::Shard(_))))
        {
            events.push(Event::Unsettled(unsettled));
        }
        for (shard, keys) in by_shard {
            let change = self.change_of(id, shard, keys);
            events.push(Event::Shard { shard: shard_name(shard), change });
        }
        events.extend(txn.schedule.clone().map(Event::Schedule));
        (!events.is_empty()).then_some(Frame {
            xid: txn.xid,
            commit_lsn,
            end_lsn,
            // Unlike an id, no moment comes twice.
            commit_time: id as i64,
            events,
        })
    }

    fn change_of(&self, id: TxnId, shard: usize, keys: Option<BTreeSet<u32>>) -> KeyChange {
        let txn = &self.txns[id];
        let named = |key: u32| vec![KeyPart { column: "k".into(), value: Some(key.to_string()) }];
        let values = txn.told == Told::Rows;
        let rows = values || (txn.told == Told::NotAllValues && self.missing_values_as_null);
        match keys {
            _ if txn.truncates.is_some() => KeyChange::Whole(WholeReason::Truncate),
            keys if rows && SHARDS[shard].order != Sorted::Nameless => {
                let generation = self.defs.shards.get(&shard).copied().unwrap_or_default();
                let keys: Vec<Option<u32>> = match keys {
                    None => vec![None],
                    Some(keys) => keys.into_iter().map(Some).collect(),
                };
                let instance = |key: Option<u32>| InstanceRows {
                    key: key.map(named).unwrap_or_default(),
                    rows: rows::changes(shard, key, id, txn, values),
                };
                let columns = rows::layout(shard, generation).fingerprint;
                let instances = keys.into_iter().map(instance).collect();
                KeyChange::Rows(Deltas { generation, columns, instances })
            }
            None => KeyChange::Whole(WholeReason::Rows),
            Some(_) if txn.told == Told::Coarse => KeyChange::Whole(WholeReason::Coarsened),
            Some(keys) => KeyChange::Keys(keys.into_iter().map(named).collect()),
        }
    }

    /// Committed, and visible to no reader.
    pub(crate) fn unsettled(&self) -> Vec<Xid> {
        let committed = self.running.iter().filter(|(_, id)| self.txns[**id].state == State::Committed);
        committed.map(|(xid, _)| *xid).collect()
    }

    pub(crate) fn flush(&mut self, now: u64, to: Lsn) {
        // What was asked for before another state took over may lie inside a record of now.
        let whole = self.records.partition_point(|(end, _)| *end <= to.min(self.insert));
        let end = whole.checked_sub(1).map_or(self.flushed, |last| self.records[last].0);
        self.flushed = self.flushed.max(end);
        while let Some(&id) = self.log.get(self.flushed_count)
            && self.txns[id].end_lsn <= self.flushed
        {
            self.txns[id].flushed_at = Some(now);
            self.flushed_count += 1;
        }
    }

    /// Readers see it from now on.
    pub(crate) fn make_visible(&mut self, now: u64, id: TxnId) {
        if self.txns[id].state != State::Committed {
            return;
        }
        self.txns[id].state = State::Visible;
        self.txns[id].visible = Some((self.next_rank, now));
        self.next_rank += 1;
        self.end(id);
    }

    pub(crate) fn abort(&mut self, id: TxnId) {
        self.txns[id].state = State::Aborted;
        self.write(24, self.txns[id].xid);
        self.end(id);
    }

    fn end(&mut self, id: TxnId) {
        let (xid, last) = (self.txns[id].xid, self.txns[id].last_xid);
        self.running.remove(&xid);
        self.latest_completed = self.latest_completed.max(last);
        self.row_locks.retain(|_, holder| *holder != id);
        self.table_locks.retain(|_, holder| *holder != id);
        self.shard_locks.retain(|_, holder| *holder != id);
        if self.catalog_lock == Some(id) {
            self.catalog_lock = None;
        }
    }

    /// An older state of the log takes over: a backup is restored, or a standby is promoted that had not received the rest.
    pub(crate) fn restore(&mut self, now: u64, to: Lsn, as_it_was: bool) {
        self.flushed = to.min(self.flushed);
        while let Some(&id) = self.log[..self.flushed_count].last()
            && self.txns[id].end_lsn > self.flushed
        {
            self.txns[id].flushed_at = None;
            self.flushed_count -= 1;
        }
        self.history += 1;
        self.timeline += u32::from(!as_it_was);
        self.crash(now);
    }

    /// Every process dies; what was not flushed is gone, and so are the xids that only appear there.
    pub(crate) fn crash(&mut self, now: u64) {
        self.log.truncate(self.flushed_count);
        self.insert = self.flushed;
        self.records.retain(|(end, _)| *end <= self.flushed);
        for (id, txn) in self.txns.iter_mut().enumerate() {
            let kept = txn.end_lsn > Lsn::ZERO && txn.flushed_at.is_some();
            match txn.state {
                State::Running => txn.state = State::Aborted,
                State::Committed if kept => {
                    txn.state = State::Visible;
                    txn.visible = Some((self.next_rank, now));
                    self.next_rank += 1;
                    debug_assert!(self.log.contains(&id));
                }
                State::Committed => txn.state = State::Lost,
                State::Visible if !kept => txn.state = State::Lost,
                _ => {}
            }
        }
        let surviving = self.records.iter().map(|(_, xid)| *xid).max().unwrap_or(0);
        self.next_xid = surviving.max(self.latest_completed_before_model()) + 1;
        self.latest_completed = self.next_xid - 1;
        self.running.clear();
        (self.row_locks, self.table_locks, self.shard_locks) = Default::default();
        self.catalog_lock = None;
        self.rows.clear();
        self.defs = self.initial_defs.clone();
        for id in &self.log {
            apply_writes(&mut self.rows, &self.txns[*id]);
            for op in &self.txns[*id].ops {
                self.defs.apply(op);
            }
        }
    }

    fn latest_completed_before_model(&self) -> Xid {
        self.txns.first().map_or(self.latest_completed, |first| first.xid - 1)
    }

    /// `pg_current_snapshot()`.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let xmax = self.latest_completed + 1;
        let in_progress: Vec<Xid> = self.running.range(..xmax).map(|(xid, _)| *xid).collect();
        Snapshot { xmin: in_progress.first().copied().unwrap_or(xmax), xmax, in_progress }
    }

    /// The same, but as if a transaction were visible as soon as its commit record is written.
    pub(crate) fn snapshot_of_the_log(&self) -> Snapshot {
        let running = |id: &TxnId| self.txns[*id].state == State::Running;
        let xmax = self.next_xid;
        let in_progress: Vec<Xid> =
            self.running.iter().filter(|(_, id)| running(id)).map(|(xid, _)| *xid).collect();
        Snapshot { xmin: in_progress.first().copied().unwrap_or(xmax), xmax, in_progress }
    }

    /// Rows of an instance for a reader of now.
    pub(crate) fn content(&self, shard: usize, key: Option<u32>) -> Vec<Row> {
        let visible = self.txns.iter().enumerate().filter(|(_, txn)| txn.state == State::Visible);
        rows::content(shard, key, visible)
    }

    /// Definitions before any transaction.
    pub(crate) fn first_defs(&self) -> &Defs {
        &self.initial_defs
    }

    /// Definitions as a reader of now sees them.
    pub(crate) fn visible_defs(&self) -> Defs {
        self.defs_of(|txn| txn.state == State::Visible)
    }

    /// Definitions after those committed transactions that `counts`, in commit order.
    pub(crate) fn defs_of(&self, counts: impl Fn(&Txn) -> bool) -> Defs {
        let mut defs = self.initial_defs.clone();
        for txn in self.log.iter().map(|id| &self.txns[*id]).filter(|txn| counts(txn)) {
            txn.ops.iter().for_each(|op| defs.apply(op));
        }
        defs
    }

    pub(crate) fn visible_schedules(&self) -> Vec<Schedule> {
        let visible = self.txns.iter().filter(|txn| txn.state == State::Visible);
        let mut schedules: Vec<Schedule> = visible.filter_map(|txn| txn.schedule.clone()).collect();
        schedules.sort_by_key(|schedule| schedule.id);
        schedules
    }
}

fn touch_rows(touches: &mut Vec<Touch>, table: usize, old: RowValue, new: RowValue) {
    for (shard, def) in SHARDS.iter().enumerate().filter(|(_, def)| def.table == table) {
        let inside = |value: &(u32, bool)| value.1 || !def.flagged_only;
        let keys: BTreeSet<u32> =
            [old, new].into_iter().flatten().filter(inside).map(|(key, _)| key).collect();
        if !keys.is_empty() {
            touches.push(Touch { shard, keys: def.keyed.then_some(keys) });
        }
    }
}

fn apply_writes(rows: &mut BTreeMap<(usize, u32), RowValue>, txn: &Txn) {
    if let Some(table) = txn.truncates {
        rows.retain(|(of, _), _| *of != table);
    }
    for (row, value) in &txn.writes {
        rows.insert(*row, *value);
    }
}
