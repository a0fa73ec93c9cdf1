use pgrx::PgSqlErrorCode;
use pgrx::prelude::*;

use crate::catalog::fail;
use crate::output_plugin::failures::Failures;

/// What a slot's stream has come across, by shard.
#[pg_extern(sql = false)]
fn slot_failures(
    slot: &str,
) -> TableIterator<
    'static,
    (
        name!(shard, String),
        name!(generation, i64),
        name!(rows, i64),
        name!(state, String),
        name!(last_us, i64),
    ),
> {
    // It becomes a part of a file's name.
    if slot.is_empty()
        || slot.len() > 63
        || !slot.bytes().all(|byte| byte == b'_' || byte.is_ascii_digit() || byte.is_ascii_lowercase())
    {
        fail(
            PgSqlErrorCode::ERRCODE_INVALID_NAME,
            "that is no name of a replication slot",
            "foreshard.edges has the names of the edges' slots.",
        );
    }
    let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    TableIterator::new(Failures::of(slot).shards.into_iter().map(move |(shard, failure)| {
        (shard, failure.generation.cast_signed(), count(failure.rows), failure.state, failure.last)
    }))
}
