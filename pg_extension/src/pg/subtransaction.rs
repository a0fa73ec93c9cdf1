//! Going on after an ERROR.

use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_sys};

/// The SQLSTATE (an errcodes number) if `work` raises an ERROR. A cancelled query, a server that shuts down or one out of
/// memory is not for the caller to deal with: these are raised on.
///
/// An ERROR may leave locks, pins and open references behind; only the end of a (sub)transaction clears them up. Decoding runs
/// inside a transaction without an id, in which a subtransaction is allowed and costs about a microsecond.
pub(super) unsafe fn caught<R>(work: impl FnOnce() -> R) -> Result<R, u32> {
    use PgSqlErrorCode as Code;
    // SAFETY: what was current is set back on both ways out, as PL/pgSQL does around a block with EXCEPTION.
    unsafe {
        let memory = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::CurrentMemoryContext = memory;
        let mut work = Some(work);
        let outcome = PgTryBuilder::new(std::panic::AssertUnwindSafe(|| {
            work.take().map_or(Err(Code::ERRCODE_INTERNAL_ERROR as u32), |work| Ok(work()))
        }))
        .catch_others(|error| match error {
            CaughtError::PostgresError(ref report) | CaughtError::ErrorReport(ref report) => {
                match report.sql_error_code() {
                    Code::ERRCODE_QUERY_CANCELED
                    | Code::ERRCODE_ADMIN_SHUTDOWN
                    | Code::ERRCODE_CRASH_SHUTDOWN
                    | Code::ERRCODE_OUT_OF_MEMORY => error.rethrow(),
                    code => Err(code as u32),
                }
            }
            CaughtError::RustPanic { .. } => error.rethrow(),
        })
        .execute();
        if outcome.is_ok() {
            pg_sys::ReleaseCurrentSubTransaction();
        } else {
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
        }
        pg_sys::CurrentMemoryContext = memory;
        pg_sys::CurrentResourceOwner = owner;
        outcome
    }
}
