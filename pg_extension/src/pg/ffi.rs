//! Functions of PostgreSQL that pgrx's bindings leave out, declared as its headers do and guarded as pgrx guards its own.

use std::ffi::{c_char, c_int, c_void};

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

/// Called for every node by the expression walkers; true stops the walk.
pub(super) type Walker = unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut c_void) -> bool;

mod raw {
    use super::{Walker, c_char, c_int, c_void, pg_sys};

    unsafe extern "C-unwind" {
        // catalog/pg_inherits.h
        pub(super) fn find_all_inheritors(
            parent: pg_sys::Oid,
            lockmode: c_int,
            numparents: *mut *mut pg_sys::List,
        ) -> *mut pg_sys::List;

        // replication/message.h; the last argument is new in 17
        pub(super) fn LogLogicalMessage(
            prefix: *const c_char,
            message: *const c_char,
            size: usize,
            transactional: bool,
            #[cfg(not(any(feature = "pg15", feature = "pg16")))] flush: bool,
        ) -> pg_sys::XLogRecPtr;

        // executor/tuptable.h
        pub(super) fn ExecStoreHeapTuple(
            tuple: pg_sys::HeapTuple,
            slot: *mut pg_sys::TupleTableSlot,
            should_free: bool,
        ) -> *mut pg_sys::TupleTableSlot;
        pub(super) fn slot_getsomeattrs_int(slot: *mut pg_sys::TupleTableSlot, attnum: c_int);

        // nodes/nodeFuncs.h; a macro over the _impl function since 16
        #[cfg_attr(not(feature = "pg15"), link_name = "expression_tree_walker_impl")]
        pub(super) fn expression_tree_walker(
            node: *mut pg_sys::Node,
            walker: Option<Walker>,
            context: *mut c_void,
        ) -> bool;
        #[cfg_attr(not(feature = "pg15"), link_name = "raw_expression_tree_walker_impl")]
        pub(super) fn raw_expression_tree_walker(
            node: *mut pg_sys::Node,
            walker: Option<Walker>,
            context: *mut c_void,
        ) -> bool;
        #[cfg_attr(not(feature = "pg15"), link_name = "query_tree_walker_impl")]
        pub(super) fn query_tree_walker(
            query: *mut pg_sys::Query,
            walker: Option<Walker>,
            context: *mut c_void,
            flags: c_int,
        ) -> bool;
    }
}

/// A relation and everything that inherits from it or is a partition of it, as OIDs in the current memory context. The latter
/// are locked in this mode until the end of the transaction.
///
/// # Safety
/// Inside a transaction.
pub(super) unsafe fn find_all_inheritors(parent: pg_sys::Oid, lock: u32) -> *mut pg_sys::List {
    let none = std::ptr::null_mut();
    // SAFETY: by contract; the parents' numbers are not asked for.
    unsafe { pg_guard_ffi_boundary(|| raw::find_all_inheritors(parent, lock as c_int, none)) }
}

/// Writes an empty message of this prefix that belongs to no transaction.
///
/// # Safety
/// `prefix` is NUL-terminated.
pub(super) unsafe fn log_empty_message(prefix: *const c_char) {
    // SAFETY: by contract; the payload has no bytes.
    unsafe {
        pg_guard_ffi_boundary(|| {
            raw::LogLogicalMessage(
                prefix,
                c"".as_ptr(),
                0,
                false,
                #[cfg(not(any(feature = "pg15", feature = "pg16")))]
                false,
            )
        });
    }
}

/// Calls `walker` for every child of `node`.
///
/// # Safety
/// `node` is an expression and `context` what `walker` expects.
pub(super) unsafe fn expression_tree_walker(
    node: *mut pg_sys::Node,
    walker: Walker,
    context: *mut c_void,
) -> bool {
    // SAFETY: by contract.
    unsafe { pg_guard_ffi_boundary(|| raw::expression_tree_walker(node, Some(walker), context)) }
}

/// The same for what the grammar gives, before names are looked up.
///
/// # Safety
/// `node` is a raw parse tree and `context` what `walker` expects.
pub(super) unsafe fn raw_expression_tree_walker(
    node: *mut pg_sys::Node,
    walker: Walker,
    context: *mut c_void,
) -> bool {
    // SAFETY: by contract.
    unsafe { pg_guard_ffi_boundary(|| raw::raw_expression_tree_walker(node, Some(walker), context)) }
}

/// Calls `walker` for every expression and subquery of a query, its range table included.
///
/// # Safety
/// `query` is an analysed query and `context` what `walker` expects.
pub(super) unsafe fn query_tree_walker(
    query: *mut pg_sys::Query,
    walker: Walker,
    context: *mut c_void,
) -> bool {
    // SAFETY: by contract.
    unsafe { pg_guard_ffi_boundary(|| raw::query_tree_walker(query, Some(walker), context, 0)) }
}

/// Puts a tuple into a slot that does not free it, and takes its first columns apart.
///
/// # Safety
/// The tuple is of the slot's kind. To be called inside a guard, with nothing to drop in the frames below it.
pub(super) unsafe fn store_and_deform(
    slot: *mut pg_sys::TupleTableSlot,
    tuple: pg_sys::HeapTuple,
    columns: c_int,
) {
    // SAFETY: by contract.
    unsafe {
        raw::ExecStoreHeapTuple(tuple, slot, false);
        if columns > 0 {
            raw::slot_getsomeattrs_int(slot, columns);
        }
    }
}
