//! Which columns of which tables a query reads.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_void;

use pgrx::pg_sys::{self, NodeTag, RTEKind};
use pgrx::prelude::*;

use super::build::list;
use crate::pg::predicate::tag;
use crate::pg::{Oid, ffi};

/// Above so many it is not worth keeping which they are.
const MOST: usize = 200;

/// By the table's OID: the numbers of its columns, `None` where any may matter.
pub(super) type Reads = BTreeMap<u32, Option<BTreeSet<i16>>>;

/// Every table in the query, at any depth, and what is read of it in all places together. PostgreSQL notes it while it parses, for
/// the check of privileges.
///
/// # Safety
/// `query` is an analysed query.
pub(super) unsafe fn read(query: *mut pg_sys::Query) -> Reads {
    let mut reads = Reads::new();
    // SAFETY: by contract; the context is what the walker expects.
    unsafe { collect(query.cast(), (&raw mut reads).cast()) };
    for (table, columns) in &mut reads {
        // A column that is computed when it is read depends on others, which are not noted.
        // SAFETY: a look into the catalog.
        let computed =
            |attnum: &i16| unsafe { pg_sys::get_attgenerated(Oid::from(*table), *attnum) as u8 == b'v' };
        if columns.as_ref().is_some_and(|columns| columns.len() > MOST || columns.iter().any(computed)) {
            *columns = None;
        }
    }
    reads
}

#[pg_guard]
unsafe extern "C-unwind" fn collect(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: called by the walkers with nodes of the query, and with the map of `read`.
    unsafe {
        if tag(node) != NodeTag::T_Query {
            return ffi::expression_tree_walker(node, collect, context);
        }
        let query = node.cast::<pg_sys::Query>();
        for entry in list::<pg_sys::RangeTblEntry>((*query).rtable) {
            if (*entry).rtekind == RTEKind::RTE_RELATION {
                let reads = &mut *context.cast::<Reads>();
                let known = reads.entry((*entry).relid.into()).or_insert_with(|| Some(BTreeSet::new()));
                *known = known.take().zip(selected(query, entry)).map(|(mut known, more)| {
                    known.extend(more);
                    known
                });
            }
        }
        ffi::query_tree_walker(query, collect, context)
    }
}

/// `None`: whole rows are read, or it can't be told.
///
/// # Safety
/// `entry` is a table of `query`.
unsafe fn selected(query: *mut pg_sys::Query, entry: *mut pg_sys::RangeTblEntry) -> Option<BTreeSet<i16>> {
    // SAFETY: by contract.
    unsafe {
        let set = noted(query, entry)?;
        let mut columns = BTreeSet::new();
        let mut member = -1;
        loop {
            member = pg_sys::bms_next_member(set, member);
            if member < 0 {
                return Some(columns);
            }
            // Numbers are shifted so that system columns fit; 0 is the whole row.
            let attnum = i16::try_from(member + pg_sys::FirstLowInvalidHeapAttributeNumber).ok()?;
            if attnum < 1 {
                return None;
            }
            columns.insert(attnum);
        }
    }
}

#[cfg(feature = "pg15")]
unsafe fn noted(
    _query: *mut pg_sys::Query,
    entry: *mut pg_sys::RangeTblEntry,
) -> Option<*mut pg_sys::Bitmapset> {
    // SAFETY: by contract of `selected`.
    Some(unsafe { (*entry).selectedCols })
}

#[cfg(not(feature = "pg15"))]
unsafe fn noted(
    query: *mut pg_sys::Query,
    entry: *mut pg_sys::RangeTblEntry,
) -> Option<*mut pg_sys::Bitmapset> {
    // SAFETY: by contract of `selected`; an entry tells the place of its permissions in the query's list, from 1.
    unsafe {
        let at = (*entry).perminfoindex.checked_sub(1)?;
        let wanted = list::<pg_sys::RTEPermissionInfo>((*query).rteperminfos).nth(at as usize)?;
        ((*wanted).relid == (*entry).relid).then(|| (*wanted).selectedCols)
    }
}
