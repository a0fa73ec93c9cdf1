//! Rows as a fetch would bring them, made from decoded tuples.

use foreshard_protocol::Row;
use pgrx::pg_sys;

use super::Oid;
use super::settings;
use super::subtransaction::caught;
use super::value::{Encoder, built_in_text, kind};

/// Columns of a row in the order in which it is given out, and which of them identify it.
#[derive(Clone, Debug)]
pub(crate) struct WantedRow {
    /// Number in the physical table, and type.
    pub(crate) columns: Vec<(i16, Oid)>,
    /// Indices into `columns`.
    pub(crate) identity: Vec<u16>,
}

/// Writes the rows of one shard on one table.
pub(super) struct RowEncoder {
    columns: Vec<Column>,
    identity: Vec<usize>,
    /// Highest column number.
    pub(super) last: i16,
    /// Something in it might raise an ERROR.
    fallible: bool,
}

struct Column {
    attnum: i16,
    encoder: Encoder,
    /// Makes JSON of it first.
    json: Option<*mut pg_sys::ExprState>,
}

impl RowEncoder {
    /// In the current memory context, which the caller keeps; `None` where only a query can write these columns: what types of users
    /// bring along does not run while decoding.
    pub(super) fn new(wanted: &WantedRow) -> Option<Self> {
        if !wanted.columns.iter().all(|(_, column_type)| built_in_text(*column_type)) {
            return None;
        }
        let columns: Vec<Column> = wanted
            .columns
            .iter()
            .map(|(attnum, column_type)| {
                let nested = kind(*column_type).1;
                Column {
                    attnum: *attnum,
                    encoder: Encoder::row(if nested { pg_sys::JSONOID } else { *column_type }),
                    json: nested.then(|| to_json(*attnum, *column_type)),
                }
            })
            .collect();
        Some(RowEncoder {
            identity: wanted.identity.iter().map(|at| usize::from(*at)).collect(),
            last: columns.iter().map(|column| column.attnum).max().unwrap_or(0),
            fallible: columns.iter().any(|column| column.json.is_some() || !column.encoder.is_plain()),
            columns,
        })
    }

    /// All columns of it.
    pub(super) fn attnums(&self) -> impl Iterator<Item = i16> {
        self.columns.iter().map(|column| column.attnum)
    }

    /// Columns of the identity.
    pub(super) fn identity(&self) -> impl Iterator<Item = i16> {
        self.identity.iter().map(|at| self.columns[*at].attnum)
    }

    /// The identity of a row as written.
    pub(super) fn identity_of(&self, row: &Row) -> Vec<Option<String>> {
        self.identity.iter().map(|at| row[*at].clone()).collect()
    }

    /// The row in a slot; `None` if it could not be written.
    ///
    /// # Safety
    /// The slot is filled with every column of it, none of them out of line. What is allocated goes to the current memory context
    /// and to the per-tuple memory of `expressions`.
    pub(super) unsafe fn row(
        &mut self,
        slot: *mut pg_sys::TupleTableSlot,
        expressions: *mut pg_sys::ExprContext,
    ) -> Option<Row> {
        settings::pin();
        let fallible = self.fallible;
        let columns = &mut self.columns;
        // SAFETY: by contract.
        let mut write =
            || unsafe { columns.iter_mut().map(|column| column.text(slot, expressions)).collect::<Row>() };
        // SAFETY: decoding is inside a transaction.
        if fallible { unsafe { caught(write) }.ok() } else { Some(write()) }
    }

    /// The identity's values of the row in a slot.
    ///
    /// # Safety
    /// As for `row`, of the identity's columns.
    pub(super) unsafe fn identity_in(
        &mut self,
        slot: *mut pg_sys::TupleTableSlot,
        expressions: *mut pg_sys::ExprContext,
    ) -> Option<Vec<Option<String>>> {
        settings::pin();
        let (fallible, identity, columns) = (self.fallible, &self.identity, &mut self.columns);
        // SAFETY: by contract.
        let mut write =
            || unsafe { identity.iter().map(|at| columns[*at].text(slot, expressions)).collect::<Vec<_>>() };
        // SAFETY: decoding is inside a transaction.
        if fallible { unsafe { caught(write) }.ok() } else { Some(write()) }
    }
}

impl Column {
    /// # Safety
    /// The slot is filled with the column, and it is not out of line.
    unsafe fn text(
        &mut self,
        slot: *mut pg_sys::TupleTableSlot,
        expressions: *mut pg_sys::ExprContext,
    ) -> Option<String> {
        // SAFETY: by contract; the expression was prepared for a row of this table.
        unsafe {
            let at = self.attnum as usize - 1;
            if *(*slot).tts_isnull.add(at) {
                return None;
            }
            let mut value = *(*slot).tts_values.add(at);
            if let Some(state) = self.json {
                (*expressions).ecxt_scantuple = slot;
                value = super::expression::value(state, expressions)?;
            }
            Some(self.encoder.text(value))
        }
    }
}

/// `to_json(column)`, as the statement of a fetch has it.
fn to_json(attnum: i16, column_type: Oid) -> *mut pg_sys::ExprState {
    // SAFETY: nodes are made in the current memory context, by contract of `RowEncoder::new` one that is kept.
    unsafe {
        let var = pg_sys::makeVar(1, attnum, column_type, -1, pg_sys::get_typcollation(column_type), 0);
        let call = pg_sys::makeFuncExpr(
            pg_sys::F_TO_JSON.into(),
            pg_sys::JSONOID,
            pg_sys::lappend(std::ptr::null_mut(), var.cast()),
            Oid::INVALID,
            Oid::INVALID,
            pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
        );
        pg_sys::ExecInitExpr(call.cast(), std::ptr::null_mut())
    }
}
