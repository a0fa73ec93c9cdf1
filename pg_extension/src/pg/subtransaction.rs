//! Going on after an ERROR.

use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_sys};

/// `None` if PostgreSQL comes upon what must not happen (`XX000`), in work that reads while decoding; any other ERROR is raised on.
pub(crate) fn unless_inconsistent<R>(work: impl FnOnce() -> R) -> Option<R> {
    // SAFETY: decoding is inside a transaction.
    unsafe { attempt(work, |code| code == PgSqlErrorCode::ERRCODE_INTERNAL_ERROR) }.ok()
}

/// The SQLSTATE (an errcodes number) if `work` raises an ERROR. A cancelled query, a server that shuts down or one out of
/// memory is not for the caller to deal with: these are raised on.
///
/// An ERROR may leave locks, pins and open references behind; only the end of a (sub)transaction clears them up. Decoding runs
/// inside a transaction without an id, in which a subtransaction is allowed and costs about a microsecond.
pub(super) unsafe fn caught<R>(work: impl FnOnce() -> R) -> Result<R, u32> {
    use PgSqlErrorCode as Code;
    let deals_with = |code: PgSqlErrorCode| {
        !matches!(
            code,
            Code::ERRCODE_QUERY_CANCELED
                | Code::ERRCODE_ADMIN_SHUTDOWN
                | Code::ERRCODE_CRASH_SHUTDOWN
                | Code::ERRCODE_OUT_OF_MEMORY
        )
    };
    // SAFETY: by contract.
    unsafe { attempt(work, deals_with) }
}

/// As `caught`, for the ERRORs that `deals_with` names; all others are raised on.
unsafe fn attempt<R>(work: impl FnOnce() -> R, deals_with: fn(PgSqlErrorCode) -> bool) -> Result<R, u32> {
    // SAFETY: what was current is set back on both ways out, as PL/pgSQL does around a block with EXCEPTION.
    unsafe {
        let memory = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::CurrentMemoryContext = memory;
        let mut work = Some(work);
        let outcome = PgTryBuilder::new(std::panic::AssertUnwindSafe(|| {
            work.take().map_or(Err(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR as u32), |work| Ok(work()))
        }))
        .catch_others(|error| match error {
            CaughtError::PostgresError(ref report) | CaughtError::ErrorReport(ref report) => {
                let code = report.sql_error_code();
                if deals_with(code) { Err(code as u32) } else { error.rethrow() }
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
