//! Casts to json. `to_json` honours those of types that are not built in: code of whoever made them, which a fetch would run with the
//! rights of a shard's owner.

use std::ffi::{CStr, c_int};

use pgrx::pg_sys;

use super::relation::Shape;
use super::{Oid, identity, value};

/// The function of a type's cast to json, if it has one.
pub(crate) fn to_json(base: Oid) -> Option<Oid> {
    if u32::from(base) < pg_sys::FirstNormalObjectId {
        return None;
    }
    let mut function = Oid::INVALID;
    // SAFETY: a catalog lookup that writes to a local.
    let path = unsafe {
        pg_sys::find_coercion_pathway(
            pg_sys::JSONOID,
            base,
            pg_sys::CoercionContext::COERCION_EXPLICIT,
            &raw mut function,
        )
    };
    (path == pg_sys::CoercionPathType::COERCION_PATH_FUNC && function != Oid::INVALID).then_some(function)
}

/// Why columns of `shape` can't be read with the rights of `reader`: a cast in them runs a function of somebody who may not act as
/// that role.
pub(crate) fn distrusted(shape: &Shape, reader: Oid) -> Option<String> {
    let columns = shape.columns.iter().filter(|column| !column.dropped);
    columns.into_iter().find_map(|column| distrusted_type(column.column_type, reader))
}

/// The same of the values of one type, of which arrays and composites have others in them.
fn distrusted_type(column_type: Oid, reader: Oid) -> Option<String> {
    let base = value::base_type(column_type);
    if let Some(function) = to_json(base) {
        let maker = owner(function);
        if maker.is_none_or(|maker| !identity::may_act_as(maker, Some(reader))) {
            let name = type_name(base);
            return Some(format!(
                "the cast of type {name} to json is a function of a role that may not act as the shard's owner"
            ));
        }
        return None;
    }
    // SAFETY: catalog lookups inside a transaction; each gives InvalidOid for a type of another kind.
    let (element, relation) = unsafe { (pg_sys::get_element_type(base), pg_sys::get_typ_typrelid(base)) };
    if element != Oid::INVALID {
        return distrusted_type(element, reader);
    }
    let shape = (relation != Oid::INVALID).then(|| Shape::of(relation)).flatten()?;
    distrusted(&shape, reader)
}

fn type_name(base: Oid) -> String {
    // SAFETY: gives a string in the current memory context, copied at once.
    unsafe { CStr::from_ptr(pg_sys::format_type_be(base)).to_string_lossy().into_owned() }
}

/// The owner of a function; `None` if it is gone.
pub(super) fn owner(function: Oid) -> Option<Oid> {
    // SAFETY: a syscache row, released after it was read.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::PROCOID as c_int,
            pg_sys::Datum::from(function),
        );
        if tuple.is_null() {
            return None;
        }
        let row: *const pg_sys::FormData_pg_proc = pg_sys::GETSTRUCT(tuple).cast();
        let owner = (*row).proowner;
        pg_sys::ReleaseSysCache(tuple);
        Some(owner)
    }
}
