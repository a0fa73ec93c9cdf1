//! What the text of a column's values depends on besides the values: the parts of its type.

use std::ffi::c_int;

use pgrx::pg_sys;

use super::Oid;
use super::relation::Shape;
use super::value::text_of;

/// Deeper than this, types in types are not followed.
const DEPTH: usize = 8;

/// A column's type as far as users can alter it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TypeShape {
    /// Labels of enums, names and types of attributes, in a form that is only compared.
    signature: String,
    /// The relations that stand for composite types: altering the type invalidates them.
    pub(crate) relations: Vec<Oid>,
}

impl TypeShape {
    /// Of all columns of a table together.
    pub(crate) fn of(shape: &Shape) -> Self {
        let mut types = TypeShape::default();
        for column in shape.columns.iter().filter(|column| !column.dropped) {
            types.add(column.column_type, DEPTH);
        }
        types
    }

    fn add(&mut self, column_type: Oid, depth: usize) {
        if u32::from(column_type) < pg_sys::FirstNormalObjectId || depth == 0 {
            return;
        }
        // SAFETY: catalog lookups inside a transaction; each gives InvalidOid for a type of another kind.
        let (base, element, relation, range, multirange) = unsafe {
            let base = pg_sys::getBaseType(column_type);
            (
                base,
                pg_sys::get_element_type(base),
                pg_sys::get_typ_typrelid(base),
                pg_sys::get_range_subtype(base),
                pg_sys::get_multirange_range(base),
            )
        };
        self.signature += &format!("[{}", u32::from(base));
        for inner in [element, range, multirange] {
            if inner != Oid::INVALID {
                self.add(inner, depth - 1);
            }
        }
        if relation != Oid::INVALID {
            self.relations.push(relation);
            for column in Shape::of(relation).map(|shape| shape.columns).unwrap_or_default() {
                self.signature += &format!("({}:{:?}:{})", column.attnum, column.name, column.dropped);
                if !column.dropped {
                    self.signature += &u32::from(column.column_type).to_string();
                    self.add(column.column_type, depth - 1);
                }
            }
        }
        for (oid, label) in labels(base) {
            self.signature += &format!("<{oid}:{label:?}>");
        }
        self.signature.push(']');
    }
}

/// Numbers and labels of an enum, none for another type.
fn labels(base: Oid) -> Vec<(u32, String)> {
    let mut labels = Vec::new();
    // SAFETY: pg_enum is scanned by type under the snapshot in force; a row is read before the next is fetched.
    unsafe {
        if pg_sys::get_typtype(base) as u8 != pg_sys::TYPTYPE_ENUM {
            return labels;
        }
        let mut key: pg_sys::ScanKeyData = std::mem::zeroed();
        pg_sys::ScanKeyInit(
            &raw mut key,
            pg_sys::Anum_pg_enum_enumtypid as pg_sys::AttrNumber,
            pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
            pg_sys::F_OIDEQ.into(),
            pg_sys::Datum::from(base),
        );
        let relation = pg_sys::table_open(pg_sys::EnumRelationId, pg_sys::AccessShareLock as c_int);
        let scan = pg_sys::systable_beginscan(
            relation,
            pg_sys::EnumTypIdLabelIndexId.into(),
            true,
            std::ptr::null_mut(),
            1,
            &raw mut key,
        );
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            let row = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_enum>();
            labels.push((row.oid.into(), text_of(row.enumlabel.data.as_ptr())));
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as c_int);
    }
    labels.sort();
    labels
}
