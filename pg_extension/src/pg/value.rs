//! Column values as text: one encoder for keys in the stream, keys of a fetch and fetched rows.

use std::ffi::CStr;

use foreshard_protocol::{ColumnKind, Comparison};
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::equality::text_bytes;
use super::relation::Shape;
use super::{Oid, casts};
use crate::datetime::{self, Style};

/// `POSIX`, the same as `C`; headers name its number up to PostgreSQL 15 only.
const POSIX_COLLATION: pg_sys::Oid = pg_sys::Oid::from_u32(951);

/// How values of one type are written.
pub(crate) struct Encoder {
    form: Form,
}

enum Form {
    Int2,
    Int4,
    Int8,
    Bool {
        yes: &'static str,
        no: &'static str,
    },
    Date,
    Timestamp {
        zone: bool,
        style: Style,
    },
    /// Whose bytes are its text.
    Text,
    /// By the type's output function.
    Output(Box<pg_sys::FmgrInfo>),
}

impl Encoder {
    /// For a key column: the canonical text, exactly what the type's output function gives with ISO dates in UTC.
    pub(crate) fn key(column_type: Oid) -> Self {
        Self::new(column_type, Style::Plain)
    }

    /// For a column of a row: text as [`ColumnKind`] wants it.
    pub(crate) fn row(column_type: Oid) -> Self {
        Self::new(column_type, Style::Json)
    }

    fn new(column_type: Oid, style: Style) -> Self {
        let form = match base_type(column_type) {
            pg_sys::INT2OID => Form::Int2,
            pg_sys::INT4OID => Form::Int4,
            pg_sys::INT8OID => Form::Int8,
            pg_sys::BOOLOID if style == Style::Json => Form::Bool { yes: "true", no: "false" },
            pg_sys::BOOLOID => Form::Bool { yes: "t", no: "f" },
            pg_sys::DATEOID => Form::Date,
            pg_sys::TIMESTAMPOID => Form::Timestamp { zone: false, style },
            pg_sys::TIMESTAMPTZOID => Form::Timestamp { zone: true, style },
            pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID | pg_sys::JSONOID => Form::Text,
            _ => Form::Output(output_function(column_type)),
        };
        Encoder { form }
    }

    /// Gives the text of `value` to `put`, without a copy where the value or the output function's result is it.
    ///
    /// # Safety
    /// As for `text`.
    pub(super) unsafe fn give(&mut self, value: pg_sys::Datum, put: impl FnOnce(&str)) {
        match &mut self.form {
            // SAFETY: a value of such a type is a text.
            Form::Text => put(utf8(unsafe { text_bytes(value) })),
            // SAFETY: as in `text`; the result is not kept.
            Form::Output(function) => unsafe {
                let text = pg_sys::OutputFunctionCall(&raw mut **function, value);
                put(utf8(CStr::from_ptr(text).to_bytes()));
            },
            // SAFETY: by contract.
            _ => put(&unsafe { self.text(value) }),
        }
    }

    /// Whether no value makes it raise an ERROR.
    pub(super) fn is_plain(&self) -> bool {
        match &self.form {
            Form::Output(function) => PLAIN.contains(&function.fn_oid.into()),
            _ => true,
        }
    }

    /// The text of `value`.
    ///
    /// # Safety
    /// `value` is not NULL, of the type given to the constructor, and its memory is alive.
    pub(super) unsafe fn text(&mut self, value: pg_sys::Datum) -> String {
        match &mut self.form {
            Form::Int2 => (value.value() as i16).to_string(),
            Form::Int4 => (value.value() as i32).to_string(),
            Form::Int8 => (value.value() as i64).to_string(),
            Form::Bool { yes, no } => if value.value() as u8 != 0 { *yes } else { *no }.to_owned(),
            Form::Date => datetime::date(value.value() as i32),
            Form::Timestamp { zone, style } => datetime::timestamp(value.value() as i64, *zone, *style),
            // SAFETY: a value of such a type is a text.
            Form::Text => utf8(unsafe { text_bytes(value) }).to_owned(),
            // SAFETY: the function is the type's own, set up by `output_function`; its result is a NUL-terminated string in the
            // current memory context, which every caller resets.
            Form::Output(function) => unsafe {
                let text = pg_sys::OutputFunctionCall(&raw mut **function, value);
                text_of(text)
            },
        }
    }
}

/// Copies a C string of the server, whose encoding the extension requires to be UTF-8.
///
/// # Safety
/// `text` is NUL-terminated and alive.
pub(super) unsafe fn text_of(text: *const std::ffi::c_char) -> String {
    // SAFETY: by contract.
    utf8(unsafe { CStr::from_ptr(text) }.to_bytes()).to_owned()
}

fn utf8(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => error!("a value is not UTF-8; foreshard needs a database with encoding UTF8"),
    }
}

/// Output functions that only write down what is in the value.
const PLAIN: [u32; 8] = [
    pg_sys::F_NUMERIC_OUT,
    pg_sys::F_FLOAT4OUT,
    pg_sys::F_FLOAT8OUT,
    pg_sys::F_UUID_OUT,
    pg_sys::F_JSONB_OUT,
    pg_sys::F_BYTEAOUT,
    pg_sys::F_NAMEOUT,
    pg_sys::F_OIDOUT,
];

/// The type below any domains.
pub(crate) fn base_type(column_type: Oid) -> Oid {
    // SAFETY: a catalog lookup; an unknown type raises an ERROR.
    unsafe { pg_sys::getBaseType(column_type) }
}

fn output_function(column_type: Oid) -> Box<pg_sys::FmgrInfo> {
    let mut function = Oid::INVALID;
    let mut varlena = false;
    // SAFETY: FmgrInfo is plain data that fmgr_info_cxt fills; what the function caches goes to the named context, which
    // lives as long as the process. The set of distinct functions is small and looked up once per relation or fetch.
    unsafe {
        let mut info: Box<pg_sys::FmgrInfo> = Box::new(std::mem::zeroed());
        pg_sys::getTypeOutputInfo(column_type, &raw mut function, &raw mut varlena);
        pg_sys::fmgr_info_cxt(function, &raw mut *info, pg_sys::CurrentMemoryContext);
        info
    }
}

/// How `row_to_json` would write a type, and whether the origin must turn the value into JSON itself.
pub(crate) fn kind(column_type: Oid) -> (ColumnKind, bool) {
    match base_type(column_type) {
        pg_sys::BOOLOID => (ColumnKind::Bool, false),
        pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID => (ColumnKind::Int, false),
        pg_sys::FLOAT4OID | pg_sys::FLOAT8OID | pg_sys::NUMERICOID => (ColumnKind::Number, false),
        pg_sys::DATEOID => (ColumnKind::Date, false),
        pg_sys::TIMESTAMPOID => (ColumnKind::Timestamp, false),
        pg_sys::TIMESTAMPTZOID => (ColumnKind::TimestampTz, false),
        pg_sys::JSONOID | pg_sys::JSONBOID => (ColumnKind::Json, false),
        other if is_nested(other) || casts::to_json(other).is_some() => (ColumnKind::Json, true),
        other => (text_kind(other), false),
    }
}

/// As [`kind`], for a column with a collation: under one that is not deterministic, texts that differ may be equal.
pub(crate) fn kind_under(column_type: Oid, collation: Oid) -> ColumnKind {
    match kind(column_type).0 {
        // SAFETY: a catalog lookup.
        ColumnKind::Text | ColumnKind::Padded
            if collation != Oid::INVALID && !unsafe { pg_sys::get_collation_isdeterministic(collation) } =>
        {
            ColumnKind::Opaque
        }
        kind => kind,
    }
}

/// How filters compare a type that JSON has as a string.
fn text_kind(base: Oid) -> ColumnKind {
    match base {
        pg_sys::TEXTOID
        | pg_sys::VARCHAROID
        | pg_sys::NAMEOID
        | pg_sys::CHAROID
        | pg_sys::BITOID
        | pg_sys::VARBITOID => ColumnKind::Text,
        pg_sys::BPCHAROID => ColumnKind::Padded,
        pg_sys::UUIDOID => ColumnKind::Uuid,
        pg_sys::BYTEAOID => ColumnKind::Bytea,
        pg_sys::TIMEOID => ColumnKind::Time,
        pg_sys::OIDOID | pg_sys::XIDOID | pg_sys::XID8OID => ColumnKind::Oid,
        pg_sys::INETOID | pg_sys::CIDROID => ColumnKind::Network,
        pg_sys::MACADDROID | pg_sys::MACADDR8OID => ColumnKind::Mac,
        pg_sys::INTERVALOID => ColumnKind::Interval,
        pg_sys::MONEYOID => ColumnKind::Money,
        // SAFETY: a catalog lookup.
        other if unsafe { pg_sys::get_typtype(other) } as u8 == pg_sys::TYPTYPE_ENUM => ColumnKind::Enum,
        _ => ColumnKind::Opaque,
    }
}

/// How values of a type compare, as far as their text tells.
pub(crate) fn comparison(column_type: Oid, collation: Oid) -> Comparison {
    match base_type(column_type) {
        pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID | pg_sys::OIDOID => Comparison::Number,
        pg_sys::FLOAT4OID | pg_sys::FLOAT8OID | pg_sys::NUMERICOID => Comparison::Number,
        // The text of the smaller one is the smaller text.
        pg_sys::BOOLOID | pg_sys::UUIDOID | pg_sys::BYTEAOID | pg_sys::TIMEOID => Comparison::Bytes,
        pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::NAMEOID
            if [pg_sys::C_COLLATION_OID, POSIX_COLLATION].contains(&collation) =>
        {
            Comparison::Bytes
        }
        pg_sys::DATEOID | pg_sys::TIMESTAMPOID | pg_sys::TIMESTAMPTZOID => Comparison::Time,
        _ => Comparison::Opaque,
    }
}

/// Types whose text is the name of something else that may be renamed.
const NAMES: [Oid; 11] = [
    pg_sys::REGPROCOID,
    pg_sys::REGPROCEDUREOID,
    pg_sys::REGOPEROID,
    pg_sys::REGOPERATOROID,
    pg_sys::REGCLASSOID,
    pg_sys::REGCOLLATIONOID,
    pg_sys::REGTYPEOID,
    pg_sys::REGROLEOID,
    pg_sys::REGNAMESPACEOID,
    pg_sys::REGCONFIGOID,
    pg_sys::REGDICTIONARYOID,
];

/// Whether PostgreSQL itself writes the text of such values, and from nothing but the value and its type: then it can be written
/// while decoding, with the rights of whoever decodes.
pub(super) fn built_in_text(column_type: Oid) -> bool {
    let base = base_type(column_type);
    let (mut function, mut varlena) = (Oid::INVALID, false);
    // SAFETY: catalog lookups inside a transaction; each gives InvalidOid for a type of another kind.
    let (element, relation, range, multirange) = unsafe {
        pg_sys::getTypeOutputInfo(base, &raw mut function, &raw mut varlena);
        (
            pg_sys::get_element_type(base),
            pg_sys::get_typ_typrelid(base),
            pg_sys::get_range_subtype(base),
            pg_sys::get_multirange_range(base),
        )
    };
    if NAMES.contains(&base)
        || u32::from(function) >= pg_sys::FirstNormalObjectId
        || casts::to_json(base).is_some()
    {
        return false;
    }
    let inner = [element, range, multirange].into_iter().filter(|inner| *inner != Oid::INVALID);
    let attributes = (relation != Oid::INVALID).then(|| Shape::of(relation)).flatten();
    let mut attributes =
        attributes.into_iter().flat_map(|shape| shape.columns).filter(|column| !column.dropped);
    inner.into_iter().all(built_in_text) && attributes.all(|column| built_in_text(column.column_type))
}

fn is_nested(base: Oid) -> bool {
    // SAFETY: catalog lookups.
    unsafe { pg_sys::get_element_type(base) != Oid::INVALID || pg_sys::type_is_rowtype(base) }
}

/// How many elements an array has.
///
/// # Safety
/// `array` is an array that is not NULL.
pub(super) unsafe fn array_length(array: pg_sys::Datum) -> usize {
    // SAFETY: by contract; a copy is made where it is packed.
    unsafe {
        let array: *mut pg_sys::ArrayType = pg_sys::pg_detoast_datum(array.cast_mut_ptr()).cast();
        let dimensions = array.add(1).cast::<std::ffi::c_int>();
        usize::try_from(pg_sys::ArrayGetNItems((*array).ndim, dimensions)).unwrap_or(0)
    }
}
