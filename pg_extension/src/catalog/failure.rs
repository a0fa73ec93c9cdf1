use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::ErrorReport;

/// Raises an ERROR with an SQLSTATE, a message and (if not empty) a hint that names the mend.
pub(crate) fn fail(code: PgSqlErrorCode, message: impl Into<String>, hint: &str) -> ! {
    let mut report = ErrorReport::new(code, message.into(), "foreshard");
    if !hint.is_empty() {
        report = report.set_hint(hint);
    }
    report.report(pgrx::PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}
