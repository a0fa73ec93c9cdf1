//! Reading tables without the changes that snapshots do not cover.
//!
//! TRUNCATE and rewrites of a table are not undone for older snapshots: a reader that took its snapshot first and then waited for
//! such a transaction finds the table empty, which it never was for anybody. So tables are locked first, and the snapshot is taken
//! then: whatever has happened to them is either over, and seen, or waits for this transaction.

use pgrx::pg_sys;

use super::{Oid, ffi};

/// Locks a table, with its partitions, against being truncated or rewritten until the end of the transaction.
pub(crate) fn lock_for_reading(table: Oid) {
    // SAFETY: inside a transaction. A table that is gone can be locked, but not be asked for its partitions; locked, it stays.
    unsafe {
        pg_sys::LockRelationOid(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        if !pg_sys::get_rel_name(table).is_null() {
            ffi::find_all_inheritors(table, pg_sys::AccessShareLock);
        }
    }
}

/// While it lives, statements read in the newest snapshot instead of the caller's. An ERROR restores by itself.
pub(crate) struct Newest(());

impl Newest {
    /// Takes the snapshot.
    pub(crate) fn snapshot() -> Self {
        // SAFETY: inside a transaction; the stack of active snapshots keeps a copy until it is popped by Drop, or by the end of the
        // transaction.
        unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot()) }
        Newest(())
    }
}

impl Drop for Newest {
    fn drop(&mut self) {
        // While an ERROR unwinds, the end of the (sub)transaction pops what was pushed in it.
        if !std::thread::panicking() {
            // SAFETY: pushed by `snapshot`; what was pushed after it has been popped.
            unsafe { pg_sys::PopActiveSnapshot() }
        }
    }
}
