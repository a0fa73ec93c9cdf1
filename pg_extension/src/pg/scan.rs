//! Reading the extension's own tables row by row, under a statement's snapshot or under the one of the decoding.

use pgrx::prelude::*;
use pgrx::{PgTupleDesc, pg_sys};

use super::Oid;

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
}

impl Row<'_> {
    fn datum(&self, column: usize) -> Option<pg_sys::Datum> {
        match self.nulls.get(column - 1) {
            Some(false) => Some(self.values[column - 1]),
            _ => None,
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

fn scan(table: Oid, lookup: Option<Lookup<'_>>, view: View, mut each: impl FnMut(&Row<'_>)) {
    // SAFETY: the table is locked against being dropped while it is scanned; the snapshot is NULL (chosen by PostgreSQL) or the
    // active one, which outlives the scan. Tuples are read before the next one is fetched. The key compares texts by their bytes,
    // as the columns' collation does, and its value is alive until the scan ends.
    unsafe {
        let mut key: pg_sys::ScanKeyData = std::mem::zeroed();
        if let Some(lookup) = lookup {
            let text = lookup.text.into_datum().unwrap_or(pg_sys::Datum::from(0usize));
            let equal = pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber;
            pg_sys::ScanKeyInit(&raw mut key, lookup.column, equal, pg_sys::F_TEXTEQ.into(), text);
        }
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
        let snapshot = match view {
            View::Catalog => std::ptr::null_mut(),
            View::Statement => pg_sys::GetActiveSnapshot(),
        };
        let scan = pg_sys::systable_beginscan(
            relation,
            lookup.map_or(Oid::INVALID, |lookup| lookup.index),
            lookup.is_some(),
            snapshot,
            i32::from(lookup.is_some()),
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
        each(&Row { values: &values, nulls: &nulls });
    }
}
