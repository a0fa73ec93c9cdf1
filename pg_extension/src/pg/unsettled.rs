//! Transactions that have committed but that no reader sees yet.
//!
//! A commit is written to the log, then noted in the commit status, and only then does the transaction leave the list of running
//! ones, which is what snapshots are made of. While a synchronous standby is absent that last step does not come.

use std::ffi::c_int;

use foreshard_protocol::{Snapshot, Xid};
use pgrx::pg_sys;

use super::log::widen;

/// Places of two locks in the server's array of them (storage/lwlocknames.txt).
const XID_GEN_LOCK: usize = 3;
const PROC_ARRAY_LOCK: usize = 4;

/// Every transaction whose commit record is in the log by now and that a snapshot taken now does not see, ascending.
pub(crate) fn invisible_commits() -> Vec<Xid> {
    committed(running())
}

/// The same for a snapshot that was taken a moment ago.
pub(crate) fn commits_unseen_by(snapshot: &Snapshot) -> Vec<Xid> {
    // SAFETY: reads shared memory; no argument.
    let next = unsafe { pg_sys::ReadNextFullTransactionId() }.value;
    // What has begun since, subtransactions included: ids that a later snapshot sees all the same.
    let newer = (snapshot.xmax..next).map(|xid| xid as u32);
    let known = snapshot.in_progress.iter().map(|xid| *xid as u32);
    committed(known.chain(newer).filter(|xid| *xid >= 3).map(pg_sys::TransactionId::from).collect())
}

/// Lets the others go on for a moment; an ERROR if this statement is to end.
pub(crate) fn pause() {
    pgrx::check_for_interrupts!();
    // SAFETY: sleeps, and nothing else.
    unsafe { pg_sys::pg_usleep(100) }
}

/// Ids of all transactions that are in the list of running ones.
fn running() -> Vec<pg_sys::TransactionId> {
    // SAFETY: the function returns with two locks held, for the caller to release, and the ids in memory that they protect. Nothing in
    // between can raise an ERROR.
    unsafe {
        let data = &*pg_sys::GetRunningTransactionData();
        let count = usize::try_from(data.xcnt).unwrap_or_default();
        let xids = if count == 0 { &[][..] } else { std::slice::from_raw_parts(data.xids, count) };
        let xids = xids.to_vec();
        for lock in [PROC_ARRAY_LOCK, XID_GEN_LOCK] {
            let lock = &raw mut (*pg_sys::MainLWLockArray.add(lock)).lock;
            assert!(pg_sys::LWLockHeldByMe(lock), "a lock has another number in this release");
            pg_sys::LWLockRelease(lock);
        }
        xids
    }
}

/// Those of `xids` that have committed.
fn committed(xids: Vec<pg_sys::TransactionId>) -> Vec<Xid> {
    if xids.is_empty() {
        return Vec::new();
    }
    wait_for_statuses();
    // SAFETY: a look at the commit status of ids that are not older than what is kept of it.
    let committed = xids.into_iter().filter(|xid| unsafe { pg_sys::TransactionIdDidCommit(*xid) });
    let mut committed: Vec<Xid> = committed.map(widen).collect();
    committed.sort_unstable();
    committed
}

/// Waits until every commit that is in the log by now is in the commit status as well: a matter of microseconds, and what a
/// checkpoint waits for when it begins.
fn wait_for_statuses() {
    let kind = pg_sys::DELAY_CHKPT_START as c_int;
    let mut count = 0;
    // SAFETY: the list is allocated in the current memory context and freed below.
    unsafe {
        let list = pg_sys::GetVirtualXIDsDelayingChkpt(&raw mut count, kind);
        while count > 0 && pg_sys::HaveVirtualXIDsDelayingChkpt(list, count, kind) {
            pause();
        }
        pg_sys::pfree(list.cast());
    }
}
