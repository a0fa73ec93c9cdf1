use pgrx::prelude::*;

use crate::pg::log;

/// Version of the library.
#[pg_extern(sql = false)]
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// At or behind the commit LSN of every transaction committed so far, flushed, as `pg_lsn`.
///
/// One byte less than the position in the log, since a stream that has read everything up to a position can promise no
/// record that starts there.
#[pg_extern(sql = false)]
fn commit_token() -> i64 {
    let position = log::insert_position();
    log::flush(position);
    position.0.saturating_sub(1).cast_signed()
}
