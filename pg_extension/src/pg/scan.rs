//! Reading the extension's own tables row by row, under a statement's snapshot or under the one of the decoding.

use pgrx::prelude::*;
use pgrx::{PgTupleDesc, pg_sys};

use super::Oid;
use super::side::is_moved;

/// Under which snapshot to read.
#[derive(Clone, Copy)]
pub(crate) enum View {
    /// The catalogs' own: while decoding, that of the position in the log; outside, the newest.
    Catalog,
    /// That of the running statement.
    Statement,
}

/// One row; columns are counted from 1 as in the table's definition.
pub(crate) struct Row<'a> {
    values: &'a [pg_sys::Datum],
    nulls: &'a [bool],
    descriptor: pg_sys::TupleDesc,
}

impl Row<'_> {
    fn datum(&self, column: usize) -> Option<pg_sys::Datum> {
        match self.nulls.get(column - 1) {
            Some(false) if !self.is_lost(column) => Some(self.values[column - 1]),
            _ => None,
        }
    }

    /// Whether a value was moved to the TOAST table and the row is read as of then: VACUUM spares old rows of catalogs for slots, but not
    /// what these have there, and looking for it would end the stream. Such a value reads as NULL.
    pub(crate) fn is_lost(&self, column: usize) -> bool {
        // SAFETY: the descriptor is that of the values and alive as long as they are; a value of variable length that is not NULL is at
        // least as long as is looked at.
        unsafe {
            self.nulls.get(column - 1) == Some(&false)
                && PgTupleDesc::from_pg_unchecked(self.descriptor)
                    .get(column - 1)
                    .is_some_and(|shape| shape.attlen == -1)
                && is_moved(self.values[column - 1])
                && pg_sys::HistoricSnapshotActive()
        }
    }

    /// A column of type text.
    pub(crate) fn text(&self, column: usize) -> Option<String> {
        // SAFETY: the value is not NULL and of the type that the extension's script gave the column.
        self.datum(column).and_then(|datum| unsafe { String::from_datum(datum, false) })
    }

    /// A column of type regclass, regrole or oid.
    pub(crate) fn oid(&self, column: usize) -> Option<Oid> {
        // SAFETY: as above.
        self.datum(column).and_then(|datum| unsafe { Oid::from_datum(datum, false) })
    }

    /// A column of type bigint, or of timestamptz: then microseconds since 2000-01-01 UTC.
    pub(crate) fn bigint(&self, column: usize) -> Option<i64> {
        // SAFETY: as above; both types are 64-bit integers passed by value.
        self.datum(column).and_then(|datum| unsafe { i64::from_datum(datum, false) })
    }

    /// A column of type boolean.
    pub(super) fn boolean(&self, column: usize) -> Option<bool> {
        // SAFETY: as above.
        self.datum(column).and_then(|datum| unsafe { bool::from_datum(datum, false) })
    }

    /// A column of type integer.
    pub(crate) fn integer(&self, column: usize) -> Option<i32> {
        // SAFETY: as above.
        self.datum(column).and_then(|datum| unsafe { i32::from_datum(datum, false) })
    }

    /// A column of type smallint[]; NULL elements are 0, which is no column's number.
    pub(crate) fn smallints(&self, column: usize) -> Option<Vec<i16>> {
        // SAFETY: as above.
        let array =
            self.datum(column).and_then(|datum| unsafe { Vec::<Option<i16>>::from_datum(datum, false) })?;
        Some(array.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// A column of type oid[] or regtype[].
    pub(crate) fn oids(&self, column: usize) -> Option<Vec<Oid>> {
        // SAFETY: as above; both element types are OIDs.
        let array =
            self.datum(column).and_then(|datum| unsafe { Vec::<Option<Oid>>::from_datum(datum, false) })?;
        Some(array.into_iter().map(|oid| oid.unwrap_or(Oid::INVALID)).collect())
    }

    /// A column of type name[].
    pub(crate) fn names(&self, column: usize) -> Option<Vec<String>> {
        let datum = self.datum(column)?;
        // SAFETY: the value is an array of the fixed-length type name, so the element size and alignment given are right; the
        // arrays that are filled have the length that is written beside them.
        unsafe {
            let array: *mut pg_sys::ArrayType = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast();
            let (mut elements, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
            pg_sys::deconstruct_array(
                array,
                pg_sys::NAMEOID,
                pg_sys::NAMEDATALEN as i32,
                false,
                pg_sys::TYPALIGN_CHAR as std::ffi::c_char,
                &raw mut elements,
                &raw mut nulls,
                &raw mut count,
            );
            Some(
                (0..count as usize)
                    .map(|index| super::value::text_of((*elements.add(index)).cast_mut_ptr()))
                    .collect(),
            )
        }
    }

    /// A column of type jsonb, as JSON text.
    pub(crate) fn json(&self, column: usize) -> Option<serde_json::Value> {
        // SAFETY: as above.
        self.datum(column)
            .and_then(|datum| unsafe { pgrx::JsonB::from_datum(datum, false) })
            .map(|json| json.0)
    }
}

/// An index on a column of type text, and the text to look for.
#[derive(Clone, Copy)]
pub(crate) struct Lookup<'a> {
    /// The index; its first column is the one looked up.
    pub(crate) index: Oid,
    /// Number of that column in the table.
    pub(crate) column: i16,
    /// The value.
    pub(crate) text: &'a str,
}

/// Calls `each` for every row of `table`. Memory it takes from PostgreSQL belongs to the caller's current context.
pub(crate) fn every_row(table: Oid, view: View, each: impl FnMut(&Row<'_>)) {
    scan(table, None, view, each);
}

/// Calls `each` for the rows of `table` that hold a text.
pub(crate) fn matching_rows(table: Oid, lookup: Lookup<'_>, view: View, each: impl FnMut(&Row<'_>)) {
    scan(table, Some(lookup), view, each);
}

/// Calls `each` for the rows of a catalog that hold a number in the first column of an index, which is this one of the catalog.
pub(super) fn catalog_rows(
    catalog: Oid,
    (index, column): (Oid, i16),
    wanted: Oid,
    each: impl FnMut(&Row<'_>),
) {
    let key = Key { index, column, equal: pg_sys::F_OIDEQ, value: wanted.into() };
    scan_by(catalog, Some(key), View::Catalog, each);
}

fn scan(table: Oid, lookup: Option<Lookup<'_>>, view: View, each: impl FnMut(&Row<'_>)) {
    let key = lookup.map(|lookup| Key {
        index: lookup.index,
        column: lookup.column,
        equal: pg_sys::F_TEXTEQ,
        value: lookup.text.into_datum().unwrap_or(pg_sys::Datum::from(0usize)),
    });
    scan_by(table, key, view, each);
}

/// What a scan looks for.
struct Key {
    index: Oid,
    column: i16,
    equal: u32,
    value: pg_sys::Datum,
}

fn scan_by(table: Oid, wanted: Option<Key>, view: View, mut each: impl FnMut(&Row<'_>)) {
    // SAFETY: the table is locked against being dropped while it is scanned; the snapshot is NULL (chosen by PostgreSQL) or the
    // active one, which outlives the scan. Tuples are read before the next one is fetched. The key compares texts by their bytes,
    // as the columns' collation does, and its value is alive until the scan ends.
    unsafe {
        let mut key: pg_sys::ScanKeyData = std::mem::zeroed();
        if let Some(wanted) = &wanted {
            let equal = pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber;
            pg_sys::ScanKeyInit(&raw mut key, wanted.column, equal, wanted.equal.into(), wanted.value);
        }
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
        let snapshot = match view {
            View::Catalog => std::ptr::null_mut(),
            View::Statement => pg_sys::GetActiveSnapshot(),
        };
        let scan = pg_sys::systable_beginscan(
            relation,
            wanted.as_ref().map_or(Oid::INVALID, |wanted| wanted.index),
            wanted.is_some(),
            snapshot,
            i32::from(wanted.is_some()),
            &raw mut key,
        );
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            with_row(tuple, (*relation).rd_att, &mut each);
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
    }
}

/// Takes a tuple apart.
///
/// # Safety
/// `tuple` is valid for `descriptor`, and both are alive.
pub(super) unsafe fn with_row(
    tuple: pg_sys::HeapTuple,
    descriptor: pg_sys::TupleDesc,
    each: &mut impl FnMut(&Row<'_>),
) {
    // SAFETY: by contract; the arrays have one element per column.
    unsafe {
        let columns = PgTupleDesc::from_pg_unchecked(descriptor).len();
        let mut values = vec![pg_sys::Datum::from(0usize); columns];
        let mut nulls = vec![true; columns];
        pg_sys::heap_deform_tuple(tuple, descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
        each(&Row { values: &values, nulls: &nulls, descriptor });
    }
}
