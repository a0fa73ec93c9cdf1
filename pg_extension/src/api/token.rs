use pgrx::prelude::*;

use crate::pg::log;

/// Version of the library.
#[pg_extern(sql = false)]
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// A flushed log position behind every commit so far, as `pg_lsn`.
#[pg_extern(sql = false)]
fn commit_token() -> i64 {
    let position = log::insert_position();
    log::flush(position);
    position.0.cast_signed()
}
