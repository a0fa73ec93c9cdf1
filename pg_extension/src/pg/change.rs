//! One decoded row change, as long as its callback lasts.

use std::marker::PhantomData;

use pgrx::pg_sys;

use super::Oid;
use super::evaluator::{Evaluator, Tuples};
use super::scan::{Row, with_row};
use crate::output_plugin::watch::Watch;

/// An INSERT, UPDATE or DELETE of one row.
pub(crate) struct RowChange<'a> {
    relation: pg_sys::Relation,
    tuples: Tuples,
    _callback: PhantomData<&'a ()>,
}

impl RowChange<'_> {
    /// # Safety
    /// Both pointers come from a running change callback and `Self` does not outlive it.
    pub(super) unsafe fn new(relation: pg_sys::Relation, change: *mut pg_sys::ReorderBufferChange) -> Self {
        use pg_sys::ReorderBufferChangeType::{REORDER_BUFFER_CHANGE_DELETE, REORDER_BUFFER_CHANGE_UPDATE};
        // SAFETY: by contract; for these kinds of change the tuple member of the union is the one in use.
        unsafe {
            let action = (*change).action;
            let tuples = &(*change).data.tp;
            RowChange {
                relation,
                tuples: Tuples {
                    old: tuple(tuples.oldtuple),
                    new: tuple(tuples.newtuple),
                    update: action == REORDER_BUFFER_CHANGE_UPDATE,
                    delete: action == REORDER_BUFFER_CHANGE_DELETE,
                },
                _callback: PhantomData,
            }
        }
    }

    /// The table that physically holds the row: a partition, not its root.
    pub(crate) fn table(&self) -> Oid {
        // SAFETY: the relation is open while the callback runs.
        unsafe { (*self.relation).rd_id }
    }

    /// Tells `watch` of every rule of `evaluator`, which must be this table's, that the change may concern.
    pub(crate) fn evaluate(&self, evaluator: &mut Evaluator, watch: &mut impl Watch) {
        assert_eq!(evaluator.table(), self.table(), "an evaluator reads rows of its own table");
        // SAFETY: same table, and the evaluator is rebuilt after every change of the table's shape.
        unsafe { evaluator.evaluate(&self.tuples, watch) }
    }

    /// Calls `each` with the new row, if there is one.
    pub(crate) fn new_row(&self, mut each: impl FnMut(&Row<'_>)) {
        if !self.tuples.new.is_null() {
            // SAFETY: the tuple belongs to the relation, both alive while the callback runs.
            unsafe { with_row(self.tuples.new, (*self.relation).rd_att, &mut each) }
        }
    }
}

#[cfg(any(feature = "pg15", feature = "pg16"))]
unsafe fn tuple(buffer: *mut pg_sys::ReorderBufferTupleBuf) -> pg_sys::HeapTuple {
    // SAFETY: NULL or a buffer that the change owns.
    if buffer.is_null() { std::ptr::null_mut() } else { unsafe { &raw mut (*buffer).tuple } }
}

#[cfg(not(any(feature = "pg15", feature = "pg16")))]
unsafe fn tuple(tuple: pg_sys::HeapTuple) -> pg_sys::HeapTuple {
    tuple
}
