//! Reading rows of a table through SPI, and giving results back.

use std::ffi::{CStr, CString, c_char, c_int};

use foreshard_protocol::RowsWriter;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::Oid;
use super::context::Context;
use super::relation::Opened;
use super::settings::AsKept;
use super::subtransaction::caught;
use super::value::{Encoder, text_of};

/// Where a function that returns a set puts its rows: memory up to work_mem, then a file.
pub(super) struct Sink {
    store: *mut pg_sys::Tuplestorestate,
    descriptor: pg_sys::TupleDesc,
}

impl Sink {
    /// # Safety
    /// Both belong to the running call, with one column of type bytea.
    pub(super) unsafe fn new(store: *mut pg_sys::Tuplestorestate, descriptor: pg_sys::TupleDesc) -> Self {
        Sink { store, descriptor }
    }

    /// Adds one row.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        let Some(mut value) = bytes.into_datum() else { return };
        let mut null = false;
        // SAFETY: one value and one flag for one column; the store copies them, and the copy made here is freed.
        unsafe {
            pg_sys::tuplestore_putvalues(self.store, self.descriptor, &raw mut value, &raw mut null);
            pg_sys::pfree(value.cast_mut_ptr());
        }
    }
}

/// A key value, ready to be compared with a column.
pub(crate) struct KeyValue {
    /// Type below any domain.
    pub(crate) base: Oid,
    /// `None` is SQL NULL.
    value: Option<pg_sys::Datum>,
    /// What the type's output function makes of it.
    pub(crate) canonical: String,
}

impl KeyValue {
    /// NULL as a parameter of that type.
    pub(crate) fn null(base: Oid) -> Self {
        KeyValue { base, value: None, canonical: String::new() }
    }
}

/// The value of `text` in a key column of that type; `None` if it is not one.
pub(crate) fn key_value(text: &str, base: Oid, typmod: i32) -> Option<KeyValue> {
    let text = CString::new(text).ok()?;
    let (mut input, mut parameter) = (Oid::INVALID, Oid::INVALID);
    // Only char(n) needs its length, for the padding that is part of its text; varchar(n) would refuse what it can't hold.
    let typmod = if base == pg_sys::BPCHAROID { typmod } else { -1 };
    // SAFETY: the input function is the type's own and gets a copy of the text; an ERROR of it is caught. The value lives in the
    // current memory context, as long as this call of the SQL function.
    unsafe {
        pg_sys::getTypeInputInfo(base, &raw mut input, &raw mut parameter);
        let value =
            caught(|| pg_sys::OidInputFunctionCall(input, text.as_ptr().cast_mut(), parameter, typmod))
                .ok()?;
        let canonical = Encoder::key(base).text(value);
        Some(KeyValue { base, value: Some(value), canonical })
    }
}

/// Runs a query in the snapshot of the running statement, taking `batch` rows at a time from it, and writes its rows as text. `each` is
/// called after every row and says whether to go on.
pub(crate) fn read(
    query: &str,
    parameters: &[KeyValue],
    batch: c_int,
    writer: &mut RowsWriter,
    mut each: impl FnMut(&mut RowsWriter) -> bool,
) {
    let Ok(query) = CString::new(query) else { error!("a query holds a NUL character") };
    let mut types: Vec<Oid> = parameters.iter().map(|parameter| parameter.base).collect();
    let null = pg_sys::Datum::from(0usize);
    let mut values: Vec<pg_sys::Datum> =
        parameters.iter().map(|parameter| parameter.value.unwrap_or(null)).collect();
    let nulls: Vec<c_char> = parameters
        .iter()
        .map(|parameter| if parameter.value.is_some() { b' ' } else { b'n' } as c_char)
        .collect();
    let scratch = Context::new(c"foreshard fetch");
    // SAFETY: types and values have one element per parameter. read_only makes SPI use the active snapshot, that of the statement. The
    // tuples of a batch are read before the next one is asked for.
    unsafe {
        pg_sys::SPI_connect();
        let portal = pg_sys::SPI_cursor_open_with_args(
            std::ptr::null(),
            query.as_ptr(),
            values.len() as c_int,
            types.as_mut_ptr(),
            values.as_mut_ptr(),
            nulls.as_ptr(),
            true,
            0,
        );
        let mut encoders: Option<Vec<Encoder>> = None;
        loop {
            pg_sys::SPI_cursor_fetch(portal, true, batch.into());
            let (table, count) = (pg_sys::SPI_tuptable, pg_sys::SPI_processed as usize);
            if count == 0 {
                break;
            }
            let descriptor = (*table).tupdesc;
            let columns = pgrx::PgTupleDesc::from_pg_unchecked(descriptor);
            let encoders = encoders
                .get_or_insert_with(|| columns.iter().map(|column| Encoder::row(column.atttypid)).collect());
            let mut values = vec![pg_sys::Datum::from(0usize); encoders.len()];
            let mut nulls = vec![true; encoders.len()];
            let go_on = scratch.run(|| {
                (0..count).all(|at| {
                    let tuple = *(*table).vals.add(at);
                    pg_sys::heap_deform_tuple(tuple, descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
                    row(encoders, &values, &nulls, writer);
                    each(writer)
                })
            });
            scratch.reset();
            pg_sys::SPI_freetuptable(table);
            if !go_on {
                break;
            }
        }
        pg_sys::SPI_cursor_close(portal);
        pg_sys::SPI_finish();
    }
}

/// Raises the ERROR that running a query with parameters of these types would raise before it reads a row: of missing privileges,
/// or of constants that can't be computed.
pub(crate) fn check_readable(query: &str, types: &[Oid]) {
    let Ok(query) = CString::new(format!("SELECT * FROM ({query}) AS q LIMIT 0")) else {
        error!("a query holds a NUL character")
    };
    let mut types = types.to_vec();
    let mut values = vec![pg_sys::Datum::from(0usize); types.len()];
    let nulls = vec![b'n' as c_char; types.len()];
    let _as_kept = AsKept::new();
    // SAFETY: types, values and nulls have one element per parameter.
    unsafe {
        pg_sys::SPI_connect();
        pg_sys::SPI_execute_with_args(
            query.as_ptr(),
            types.len() as c_int,
            types.as_mut_ptr(),
            values.as_mut_ptr(),
            nulls.as_ptr(),
            true,
            0,
        );
        pg_sys::SPI_finish();
    }
}

/// # Safety
/// There is one encoder of the right type, one value and one flag per column.
unsafe fn row(encoders: &mut [Encoder], values: &[pg_sys::Datum], nulls: &[bool], writer: &mut RowsWriter) {
    writer.row(encoders.len());
    for (encoder, (value, null)) in encoders.iter_mut().zip(values.iter().zip(nulls)) {
        if *null {
            writer.value(None);
        } else {
            // SAFETY: by contract.
            unsafe { encoder.give(*value, |text| writer.value(Some(text))) }
        }
    }
}

/// Column numbers of the primary key in its order, none without one.
pub(crate) fn primary_key(table: Oid) -> Vec<i16> {
    let Some(relation) = Opened::unlocked(table) else { return Vec::new() };
    // SAFETY: asking for the list of indexes fills in which is the primary key's; an index's row in pg_index holds as many
    // column numbers as it says.
    unsafe {
        pg_sys::RelationGetIndexList(relation.0);
        let Some(index) = Opened::unlocked((*relation.0).rd_pkindex) else { return Vec::new() };
        let row = &*(*index.0).rd_index;
        (0..row.indnkeyatts as usize).map(|at| *row.indkey.values.as_ptr().add(at)).collect()
    }
}

/// An identifier as it must be written in a statement.
pub(crate) fn quoted(name: &str) -> String {
    let Ok(name) = CString::new(name) else { error!("an identifier holds a NUL character") };
    // SAFETY: gives its argument back or a copy in the current memory context.
    unsafe { text_of(pg_sys::quote_identifier(name.as_ptr())) }
}

/// Runs `work`; an ERROR in it undoes what it did and comes back as its SQLSTATE. Cancelling and shutting down are not held up.
pub(crate) fn attempt<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    // SAFETY: the running statement is in a transaction.
    unsafe { caught(work) }.map_err(|code| {
        // SAFETY: gives a static buffer that is copied at once.
        let state = unsafe { CStr::from_ptr(pg_sys::unpack_sql_state(code as c_int)) };
        state.to_string_lossy().into_owned()
    })
}
