use pgrx::PgSqlErrorCode;
use pgrx::prelude::*;

use super::unread::Notes;
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
    must_be_a_slot_s_name(slot);
    let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    TableIterator::new(Failures::of(slot).shards.into_iter().map(move |(shard, failure)| {
        (shard, failure.generation.cast_signed(), count(failure.rows), failure.state, failure.last)
    }))
}

/// What fetches of a slot's edge could not read, by shard.
#[pg_extern(sql = false)]
fn fetch_failures(
    slot: &str,
) -> TableIterator<
    'static,
    (name!(shard, String), name!(generation, i64), name!(state, String), name!(last_us, i64)),
> {
    must_be_a_slot_s_name(slot);
    TableIterator::new(
        Notes::of(slot)
            .shards()
            .into_iter()
            .map(|(shard, unread)| (shard, unread.generation.cast_signed(), unread.state, unread.last)),
    )
}

/// It becomes a part of a file's name.
fn must_be_a_slot_s_name(slot: &str) {
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
}
