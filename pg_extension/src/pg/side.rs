//! A row before or after a change, in a slot, with what is known of it.

use foreshard_protocol::Row;
use pgrx::pg_sys;

use super::datum::Storage;
use super::equality::IndexedColumn;
use super::rowencoder::RowEncoder;
use super::rule::Identity;
use crate::output_plugin::delta::RowSource;

#[derive(Clone, Copy)]
pub(super) struct Side<'a> {
    slot: *mut pg_sys::TupleTableSlot,
    expressions: *mut pg_sys::ExprContext,
    known: Known<'a>,
}

/// Which columns of the row the log has.
#[derive(Clone, Copy)]
pub(super) enum Known<'a> {
    /// All but these.
    All { absent: &'a [i16] },
    /// Those of the replica identity, but these.
    Identity { identity: &'a Identity, absent: &'a [i16] },
}

impl<'a> Side<'a> {
    /// Puts a tuple into a slot and takes its first `columns` apart; false if there is none.
    ///
    /// # Safety
    /// The tuple is of the slot's kind and alive as long as the slot is read. The slot does not free it, and forgets it when the next
    /// one is put in.
    pub(super) unsafe fn fill(
        slot: *mut pg_sys::TupleTableSlot,
        tuple: pg_sys::HeapTuple,
        columns: i16,
    ) -> bool {
        if tuple.is_null() {
            return false;
        }
        // SAFETY: by contract. One guard for both calls: nothing in between has anything to drop.
        unsafe {
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                super::ffi::store_and_deform(slot, tuple, i32::from(columns));
            });
        }
        true
    }

    pub(super) fn new(
        slot: *mut pg_sys::TupleTableSlot,
        expressions: *mut pg_sys::ExprContext,
        known: Known<'a>,
    ) -> Self {
        Side { slot, expressions, known }
    }

    pub(super) fn knows(&self, attnum: i16) -> bool {
        match self.known {
            Known::All { absent } => !absent.contains(&attnum),
            Known::Identity { identity, absent } => identity.holds(attnum) && !absent.contains(&attnum),
        }
    }

    /// The context with this row as the one to look at.
    pub(super) fn expressions(&self) -> *mut pg_sys::ExprContext {
        // SAFETY: the evaluator owns both.
        unsafe { (*self.expressions).ecxt_scantuple = self.slot }
        self.expressions
    }

    /// Takes the row apart up to this column.
    pub(super) unsafe fn reach(&self, attnum: i16) {
        // SAFETY: the slot holds a row.
        unsafe { deform(self.slot, attnum) }
    }

    /// `None` is SQL NULL.
    ///
    /// # Safety
    /// The row is taken apart up to this column.
    pub(super) unsafe fn value(&self, attnum: i16) -> Option<pg_sys::Datum> {
        let at = attnum as usize - 1;
        // SAFETY: by contract.
        unsafe { (!*(*self.slot).tts_isnull.add(at)).then(|| *(*self.slot).tts_values.add(at)) }
    }

    pub(super) fn storage(&self, attnum: i16) -> Storage {
        // SAFETY: the descriptor is alive as long as the slot.
        let columns = unsafe { pgrx::PgTupleDesc::from_pg_unchecked((*self.slot).tts_tupleDescriptor) };
        let column = columns.get(attnum as usize - 1);
        column.map_or(Storage { by_value: true, length: 8 }, |column| Storage {
            by_value: column.attbyval,
            length: column.attlen,
        })
    }

    /// Gives `add` the rules of an index that the row can satisfy.
    ///
    /// # Safety
    /// As for `value`.
    pub(super) unsafe fn matching(&self, column: &IndexedColumn, add: &mut impl FnMut(&[usize])) {
        // SAFETY: by contract; a value that is known is in the row.
        unsafe {
            if !self.knows(column.attnum) {
                add(&column.rules);
            } else if let Some(value) = self.value(column.attnum) {
                add(column.matching(value));
            }
        }
    }
}

/// Whether a value of variable length is only a pointer into a TOAST table.
///
/// # Safety
/// The value is of variable length and not NULL.
pub(super) unsafe fn is_moved(value: pg_sys::Datum) -> bool {
    let value: *const u8 = value.cast_mut_ptr();
    const EXTERNAL: u8 = if cfg!(target_endian = "little") { 0x01 } else { 0x80 };
    // SAFETY: by contract; an external value has at least the two bytes that are read of it.
    unsafe { *value == EXTERNAL && u32::from(*value.add(1)) == pg_sys::vartag_external::VARTAG_ONDISK }
}

/// Takes a row apart up to this column, if it is not yet.
///
/// # Safety
/// The slot holds a row.
pub(super) unsafe fn deform(slot: *mut pg_sys::TupleTableSlot, attnum: i16) {
    // SAFETY: by contract.
    unsafe {
        if (*slot).tts_nvalid < attnum {
            pg_sys::slot_getsomeattrs_int(slot, i32::from(attnum));
        }
    }
}

/// Writes what a shard shows of a row before and after a change.
pub(super) struct Writer<'a, 'b> {
    pub(super) encoder: &'b mut RowEncoder,
    pub(super) before: Option<&'b Side<'a>>,
    pub(super) after: Option<&'b Side<'a>>,
}

impl RowSource for Writer<'_, '_> {
    fn old_identity(&mut self) -> Option<Vec<Option<String>>> {
        let side = self.before?;
        if !self.encoder.identity().all(|attnum| side.knows(attnum)) {
            return None;
        }
        // SAFETY: the side has a row, and what is known of it is in line.
        unsafe {
            side.reach(self.encoder.last);
            self.encoder.identity_in(side.slot, side.expressions)
        }
    }

    fn new_row(&mut self) -> Option<Row> {
        let side = self.after?;
        if !self.encoder.attnums().all(|attnum| side.knows(attnum)) {
            return None;
        }
        // SAFETY: as above.
        unsafe {
            side.reach(self.encoder.last);
            self.encoder.row(side.slot, side.expressions)
        }
    }

    fn identity_of(&self, row: &Row) -> Vec<Option<String>> {
        self.encoder.identity_of(row)
    }
}
