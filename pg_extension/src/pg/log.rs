//! Positions in the write-ahead log, and transaction ids in full width.

use foreshard_protocol::{Lsn, Snapshot};
use pgrx::pg_sys;

use super::ffi;

/// Size of the header of the first page of a segment, and of every other page (access/xlog_internal.h).
const LONG_PAGE_HEADER: u64 = 40;
const SHORT_PAGE_HEADER: u64 = 24;

/// A position at or after every record that exists by now, which a reader of the log really reaches.
///
/// When the last record ends exactly at a page's end the insert position already lies behind the next page's header. A
/// decoder stops at the end of the record, before that header, and on an idle server never gets further.
pub(crate) fn insert_position() -> Lsn {
    // SAFETY: reads a spinlock-protected counter in shared memory; no argument.
    let position = unsafe { pg_sys::GetXLogInsertRecPtr() };
    // SAFETY: a variable that only the startup of the server sets.
    let segment = unsafe { pg_sys::wal_segment_size } as u64;
    Lsn(behind_header(position, segment))
}

fn behind_header(position: u64, segment: u64) -> u64 {
    let page = u64::from(pg_sys::XLOG_BLCKSZ);
    let header = if position % segment < page { LONG_PAGE_HEADER } else { SHORT_PAGE_HEADER };
    if position % page == header { position - header } else { position }
}

/// Waits until the log is on disk up to `position`: decoding only sees what is.
pub(crate) fn flush(position: Lsn) {
    // SAFETY: takes any position up to the insert position, which `insert_position` gave.
    unsafe { pg_sys::XLogFlush(position.0) }
}

/// Writes a message into the log that belongs to no transaction, so that decoders have something to read.
pub(crate) fn write_message() {
    // SAFETY: a NUL-terminated prefix.
    unsafe { ffi::log_empty_message(c"foreshard".as_ptr()) }
}

/// A 32-bit transaction id of the recent past in 64 bits.
pub(crate) fn widen(xid: pg_sys::TransactionId) -> u64 {
    // SAFETY: reads shared memory; no argument.
    let next = unsafe { pg_sys::ReadNextFullTransactionId() }.value;
    let low = u64::from(u32::from(xid));
    let epoch = next & !0xFFFF_FFFF;
    // An id above the next one is of the epoch before: ids in use span less than 2³¹.
    if low > (next & 0xFFFF_FFFF) { (epoch | low).wrapping_sub(1 << 32) } else { epoch | low }
}

/// The snapshot in which the running statement reads.
pub(crate) fn statement_snapshot() -> Snapshot {
    // SAFETY: inside a function called from SQL there is an active snapshot; it outlives this call and is only read. Its
    // id arrays have the lengths beside them. Subtransaction ids are left out: only top-level ids are compared.
    unsafe {
        let snapshot = &*pg_sys::GetActiveSnapshot();
        let xip = if snapshot.xcnt == 0 {
            &[][..]
        } else {
            std::slice::from_raw_parts(snapshot.xip, snapshot.xcnt as usize)
        };
        let (xmin, xmax) = (widen(snapshot.xmin), widen(snapshot.xmax));
        let mut in_progress: Vec<u64> =
            xip.iter().map(|xid| widen(*xid)).filter(|xid| (xmin..xmax).contains(xid)).collect();
        in_progress.sort_unstable();
        in_progress.dedup();
        Snapshot { xmin, xmax, in_progress }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_just_behind_a_page_header_is_moved_before_it() {
        let segment = 16 << 20;
        assert_eq!(behind_header(segment + 40, segment), segment);
        assert_eq!(behind_header(segment + 8192 + 24, segment), segment + 8192);
        for position in [segment + 8192, segment + 8192 + 40, segment + 24, segment + 8192 + 32] {
            assert_eq!(behind_header(position, segment), position);
        }
    }
}
