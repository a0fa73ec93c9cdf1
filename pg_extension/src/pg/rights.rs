//! Whether a role may read columns, as a SELECT of it would be asked.

use pgrx::pg_sys;

use super::{Oid, identity};

/// Whether `role` exists and may select these columns of `table`; they are asked for where it may not select all. `None`: any, perhaps.
pub(crate) fn may_select(role: Oid, table: Oid, columns: impl FnOnce() -> Option<Vec<i16>>) -> bool {
    if !identity::role_exists(role) {
        return false;
    }
    let select = pg_sys::AclMode::from(pg_sys::ACL_SELECT);
    let granted = |answer| answer == pg_sys::AclResult::ACLCHECK_OK;
    // SAFETY: catalog lookups inside a transaction about a role and a table that exist.
    unsafe {
        let schema = pg_sys::get_rel_namespace(table);
        granted(schema_usage(schema, role))
            && (granted(pg_sys::pg_class_aclcheck(table, role, select))
                || columns().is_some_and(|columns| {
                    let column = |attnum| pg_sys::pg_attribute_aclcheck(table, attnum, role, select);
                    columns.into_iter().all(|attnum| granted(column(attnum)))
                }))
    }
}

#[cfg(feature = "pg15")]
unsafe fn schema_usage(schema: Oid, role: Oid) -> pg_sys::AclResult::Type {
    // SAFETY: as the caller's.
    unsafe { pg_sys::pg_namespace_aclcheck(schema, role, pg_sys::AclMode::from(pg_sys::ACL_USAGE)) }
}

#[cfg(not(feature = "pg15"))]
unsafe fn schema_usage(schema: Oid, role: Oid) -> pg_sys::AclResult::Type {
    let usage = pg_sys::AclMode::from(pg_sys::ACL_USAGE);
    // SAFETY: as the caller's.
    unsafe { pg_sys::object_aclcheck(pg_sys::NamespaceRelationId, schema, role, usage) }
}
