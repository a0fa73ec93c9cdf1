//! Which shards a row can be in at all, found by hash: shards whose predicate demands that a column equals a constant, or one of
//! several, cost nothing for rows with another value.

use std::collections::HashMap;

use pgrx::pg_sys::{self, NodeTag};
use pgrx::varlena::{varatt_is_1b_e, varatt_is_4b_c, varlena_to_byte_slice, varsize_any_exhdr};

use super::Oid;
use super::glance::{Fixed, Seen};
use crate::number_hash::ByNumber;

/// What a predicate demands of one column: any other value makes it false or NULL.
pub(super) struct Demand {
    attnum: i16,
    /// How the operator takes the column.
    kind: Kind,
    values: Vec<Value>,
}

/// How a column's value is read and compared. Equality under PostgreSQL's operator and of what is read are the same.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Int2,
    Int4,
    Int8,
    Oid,
    Bool,
    /// By reference, 16 bytes.
    Uuid,
    /// With a deterministic collation.
    Text,
}

enum Value {
    Number(i64),
    Bytes(Box<[u8]>),
}

impl Kind {
    /// Of values that an operator takes for this type.
    fn of(taken_for: Oid) -> Option<Kind> {
        Some(match taken_for {
            pg_sys::INT2OID => Kind::Int2,
            pg_sys::INT4OID | pg_sys::DATEOID => Kind::Int4,
            pg_sys::INT8OID | pg_sys::TIMESTAMPOID | pg_sys::TIMESTAMPTZOID => Kind::Int8,
            pg_sys::OIDOID => Kind::Oid,
            pg_sys::BOOLOID => Kind::Bool,
            pg_sys::UUIDOID => Kind::Uuid,
            pg_sys::TEXTOID | pg_sys::VARCHAROID => Kind::Text,
            // SAFETY: a catalog lookup.
            other if unsafe { pg_sys::get_typtype(other) } as u8 == pg_sys::TYPTYPE_ENUM => Kind::Oid,
            _ => return None,
        })
    }

    pub(super) fn is_number(self) -> bool {
        !matches!(self, Kind::Uuid | Kind::Text)
    }

    /// # Safety
    /// `datum` is of this kind, which is a number.
    unsafe fn number(self, datum: pg_sys::Datum) -> i64 {
        match self {
            Kind::Int2 => i64::from(datum.value() as i16),
            Kind::Int4 => i64::from(datum.value() as i32),
            Kind::Oid => i64::from(datum.value() as u32),
            Kind::Bool => i64::from(datum.value() as u8 != 0),
            _ => datum.value() as i64,
        }
    }

    /// Bytes of a number.
    pub(super) fn width(self) -> usize {
        match self {
            Kind::Bool => 1,
            Kind::Int2 => 2,
            Kind::Int4 | Kind::Oid => 4,
            _ => 8,
        }
    }

    /// What [`Self::number`] makes of a value, read from where it lies in a row.
    ///
    /// # Safety
    /// A number of this kind is there.
    pub(super) unsafe fn read(self, at: *const u8) -> i64 {
        // SAFETY: by contract.
        unsafe {
            match self {
                Kind::Bool => i64::from(*at != 0),
                Kind::Int2 => i64::from(at.cast::<i16>().read_unaligned()),
                Kind::Int4 => i64::from(at.cast::<i32>().read_unaligned()),
                Kind::Oid => i64::from(at.cast::<u32>().read_unaligned()),
                _ => at.cast::<i64>().read_unaligned(),
            }
        }
    }

    /// # Safety
    /// `datum` is of this kind, which is no number, and its memory is alive as long as the result. Not for a value out of line.
    unsafe fn bytes<'a>(self, datum: pg_sys::Datum) -> &'a [u8] {
        // SAFETY: by contract; a compressed value is unpacked into the current memory context.
        unsafe {
            match self {
                Kind::Uuid => std::slice::from_raw_parts(datum.cast_mut_ptr::<u8>(), 16),
                _ => text_bytes(datum),
            }
        }
    }

    /// # Safety
    /// As for `number` or `bytes`.
    unsafe fn value(self, datum: pg_sys::Datum) -> Value {
        // SAFETY: by contract.
        unsafe {
            if self.is_number() {
                Value::Number(self.number(datum))
            } else {
                Value::Bytes(self.bytes(datum).into())
            }
        }
    }
}

/// The bytes of a text, unpacked where it is compressed.
///
/// # Safety
/// `datum` is a text in this process's memory, not a pointer into a TOAST table unless it may be followed.
pub(super) unsafe fn text_bytes<'a>(datum: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: by contract; what is unpacked lives in the current memory context.
    unsafe {
        let mut text: *mut pg_sys::varlena = datum.cast_mut_ptr();
        if varatt_is_1b_e(text) || varatt_is_4b_c(text) {
            text = pg_sys::pg_detoast_datum_packed(text);
        }
        if varsize_any_exhdr(text) == 0 { &[] } else { varlena_to_byte_slice(text) }
    }
}

/// The demand of an expression, if it makes one: it is an equality or an IN list, or an AND with one in it.
///
/// # Safety
/// `node` is a planned expression whose only variables are columns of one row.
pub(super) unsafe fn demand(node: *mut pg_sys::Node) -> Option<Demand> {
    // SAFETY: the tag says which struct a node is; lists have as many elements as they say.
    unsafe {
        match (*node).type_ {
            NodeTag::T_BoolExpr => {
                let all = &*node.cast::<pg_sys::BoolExpr>();
                let and = all.boolop == pg_sys::BoolExprType::AND_EXPR;
                let parts = 0..if and { pg_sys::list_length(all.args) } else { 0 };
                parts.into_iter().find_map(|index| demand(pg_sys::list_nth(all.args, index).cast()))
            }
            NodeTag::T_OpExpr => {
                let equal = &*node.cast::<pg_sys::OpExpr>();
                let (left, right) = arguments(equal.args)?;
                let (column, constant) = match column(left) {
                    Some(column) => (column, constant(right)?),
                    None => (column(right)?, constant(left)?),
                };
                is_equality(equal.opfuncid, equal.inputcollid).then_some(())?;
                Demand::of(column, constant.consttype, &[constant.constvalue])
            }
            NodeTag::T_ScalarArrayOpExpr => {
                let any = &*node.cast::<pg_sys::ScalarArrayOpExpr>();
                let (left, right) = arguments(any.args)?;
                let (column, constant) = (column(left)?, constant(right)?);
                (any.useOr && is_equality(any.opfuncid, any.inputcollid)).then_some(())?;
                let element = pg_sys::get_element_type(constant.consttype);
                Demand::of(column, element, &elements(constant.constvalue, element)?)
            }
            _ => None,
        }
    }
}

impl Demand {
    /// # Safety
    /// The values are of that type, not NULL and alive.
    unsafe fn of(column: (i16, Oid), value_type: Oid, values: &[pg_sys::Datum]) -> Option<Demand> {
        let (kind, given) = (Kind::of(column.1)?, Kind::of(value_type)?);
        (kind.is_number() == given.is_number()).then_some(())?;
        // SAFETY: by contract.
        let values = unsafe { values.iter().map(|value| given.value(*value)).collect() };
        Some(Demand { attnum: column.0, kind, values })
    }
}

unsafe fn arguments(list: *mut pg_sys::List) -> Option<(*mut pg_sys::Node, *mut pg_sys::Node)> {
    // SAFETY: a list of nodes of that length.
    unsafe {
        (pg_sys::list_length(list) == 2)
            .then(|| (pg_sys::list_nth(list, 0).cast(), pg_sys::list_nth(list, 1).cast()))
    }
}

/// A column and the type that the operator takes it for: its own, or one that its very bytes are relabelled to. The same bytes may be
/// another number then, as those of an int4 that is compared as an oid.
unsafe fn column(mut node: *mut pg_sys::Node) -> Option<(i16, Oid)> {
    // SAFETY: the tag says which struct a node is.
    unsafe {
        let mut taken_for = None;
        if (*node).type_ == NodeTag::T_RelabelType {
            let relabel = &*node.cast::<pg_sys::RelabelType>();
            (node, taken_for) = (relabel.arg.cast(), Some(relabel.resulttype));
        }
        if (*node).type_ != NodeTag::T_Var {
            return None;
        }
        let var = &*node.cast::<pg_sys::Var>();
        Some((var.varattno, pg_sys::getBaseType(taken_for.unwrap_or(var.vartype))))
    }
}

unsafe fn constant<'a>(node: *mut pg_sys::Node) -> Option<&'a pg_sys::Const> {
    // SAFETY: the tag says which struct the node is.
    unsafe {
        if (*node).type_ != NodeTag::T_Const {
            return None;
        }
        let constant = &*node.cast::<pg_sys::Const>();
        (!constant.constisnull).then_some(constant)
    }
}

/// Elements of an array constant; `None` if one is NULL, or if they are none.
unsafe fn elements(array: pg_sys::Datum, element: Oid) -> Option<Vec<pg_sys::Datum>> {
    let (mut length, mut by_value, mut align) = (0, false, 0);
    let (mut values, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
    // SAFETY: the array is of that element type, which says how it is laid out; the arrays made have `count` elements.
    unsafe {
        pg_sys::get_typlenbyvalalign(element, &raw mut length, &raw mut by_value, &raw mut align);
        let array: *mut pg_sys::ArrayType = pg_sys::pg_detoast_datum(array.cast_mut_ptr()).cast();
        pg_sys::deconstruct_array(
            array,
            element,
            length.into(),
            by_value,
            align,
            &raw mut values,
            &raw mut nulls,
            &raw mut count,
        );
        let found: Vec<_> = (0..count as usize).map(|at| *values.add(at)).collect();
        let any_null = (0..count as usize).any(|at| *nulls.add(at));
        (!found.is_empty() && !any_null).then_some(found)
    }
}

/// Built-in equality of types that `Kind` can read; of integers also where the sides differ in width.
fn is_equality(function: Oid, collation: Oid) -> bool {
    match u32::from(function) {
        pg_sys::F_BOOLEQ
        | pg_sys::F_INT2EQ
        | pg_sys::F_INT4EQ
        | pg_sys::F_INT8EQ
        | pg_sys::F_INT24EQ
        | pg_sys::F_INT42EQ
        | pg_sys::F_INT28EQ
        | pg_sys::F_INT82EQ
        | pg_sys::F_INT48EQ
        | pg_sys::F_INT84EQ
        | pg_sys::F_OIDEQ
        | pg_sys::F_DATE_EQ
        | pg_sys::F_TIMESTAMP_EQ
        | pg_sys::F_TIMESTAMPTZ_EQ
        | pg_sys::F_UUID_EQ
        | pg_sys::F_ENUM_EQ => true,
        // SAFETY: a catalog lookup of a collation that the expression names.
        pg_sys::F_TEXTEQ => unsafe { pg_sys::get_collation_isdeterministic(collation) },
        _ => false,
    }
}

/// Rules by what they demand.
#[derive(Default)]
pub(super) struct EqualityIndex {
    columns: Vec<IndexedColumn>,
}

/// The rules that demand something of one column, read in one way.
pub(super) struct IndexedColumn {
    pub(super) attnum: i16,
    /// All of them.
    pub(super) rules: Vec<usize>,
    kind: Kind,
    numbers: ByNumber<i64, Vec<usize>>,
    bytes: HashMap<Box<[u8]>, Vec<usize>>,
}

impl EqualityIndex {
    pub(super) fn add(&mut self, rule: usize, demand: Demand) {
        let Demand { attnum, kind, values } = demand;
        let same = |column: &IndexedColumn| column.attnum == attnum && column.kind == kind;
        let at = self.columns.iter().position(same).unwrap_or_else(|| {
            let (numbers, bytes) = (ByNumber::default(), HashMap::new());
            self.columns.push(IndexedColumn { attnum, rules: Vec::new(), kind, numbers, bytes });
            self.columns.len() - 1
        });
        let column = &mut self.columns[at];
        column.rules.push(rule);
        for value in values {
            match value {
                Value::Number(number) => column.numbers.entry(number).or_default().push(rule),
                Value::Bytes(bytes) => column.bytes.entry(bytes).or_default().push(rule),
            }
        }
    }

    pub(super) fn columns(&self) -> &[IndexedColumn] {
        &self.columns
    }
}

impl IndexedColumn {
    /// The column, if it can be looked at where it lies in a row.
    pub(super) fn fixed(&self, columns: &pgrx::PgTupleDesc<'_>) -> Option<Fixed> {
        Fixed::new(columns, self.attnum, self.kind)
    }

    /// Whether no rule can be satisfied by what is in the column.
    pub(super) fn rules_out(&self, seen: &Seen) -> bool {
        match seen {
            Seen::Null => true,
            Seen::Number(number) => !self.numbers.contains_key(number),
        }
    }

    /// The rules that a row with this value in the column can satisfy.
    ///
    /// # Safety
    /// The value is one of this column, not NULL and not out of line.
    pub(super) unsafe fn matching(&self, datum: pg_sys::Datum) -> &[usize] {
        // SAFETY: by contract.
        let found = unsafe {
            if self.kind.is_number() {
                self.numbers.get(&self.kind.number(datum))
            } else {
                self.bytes.get(self.kind.bytes(datum))
            }
        };
        found.map_or(&[], Vec::as_slice)
    }
}
