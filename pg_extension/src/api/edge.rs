use std::time::{SystemTime, UNIX_EPOCH};

use foreshard_protocol::{CatalogSnapshot, encode};
use pgrx::PgSqlErrorCode;
use pgrx::prelude::*;

use crate::catalog::{self, Edge, Tables, fail};
use crate::pg::scan::View;
use crate::pg::{identity, log, server, trampoline, unsettled};

/// The edge, if the caller may act for it.
pub(super) fn authorized(name: Option<&str>) -> (Tables, Edge) {
    authorized_in(name, View::Statement)
}

fn authorized_in(name: Option<&str>, view: View) -> (Tables, Edge) {
    let Some(name) = name else {
        fail(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, "edge must not be NULL", "");
    };
    let caller = identity::current_role();
    let found = Tables::find().and_then(|tables| Some((tables, catalog::edge(&tables, name, view)?)));
    match found {
        Some((tables, edge)) if identity::may_act_as(caller, edge.role) => (tables, edge),
        None if identity::may_act_as(caller, None) => fail(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("edge \"{name}\" does not exist"),
            "Register it with foreshard.create_edge; foreshard.edges lists the edges.",
        ),
        // The same words for "no such edge" and "not yours", so that names can't be probed.
        _ => fail(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("role \"{}\" may not act for edge \"{name}\"", trampoline::role_name(caller)),
            "Connect as the role that was named in foreshard.create_edge, or as a member of it.",
        ),
    }
}

/// An encoded [`CatalogSnapshot`].
#[pg_extern(sql = false)]
fn edge_catalog(edge: Option<&str>) -> Vec<u8> {
    let (tables, _) = authorized(edge);
    let snapshot = log::statement_snapshot();
    let wal_lsn = log::insert_position();
    let definitions = catalog::definitions(&tables, View::Statement);
    let (shards, mappings) = definitions.wire();
    let schedules = catalog::schedules(&tables, edge.unwrap_or_default(), now(), View::Statement);
    let unsettled = unsettled::commits_unseen_by(&snapshot);
    encode(&CatalogSnapshot { snapshot, wal_lsn, unsettled, shards, mappings, schedules })
}

/// Name of the edge's replication slot, if the server is set up for using it.
#[pg_extern(sql = false)]
fn edge_slot(edge: Option<&str>) -> String {
    // A sidecar that asks while its edge is being dropped must not make the slot again.
    if let Some(tables) = Tables::find() {
        server::wait_for_writers(tables.edge);
    }
    let slot = authorized_in(edge, View::Catalog).1.slot_name;
    if let Some(fault) = server::fault() {
        fail(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, fault.message, &fault.mend);
    }
    slot
}

/// Puts an empty message into the log; the flushed position behind it, as `pg_lsn`.
#[pg_extern(sql = false)]
fn nudge(edge: Option<&str>) -> i64 {
    authorized(edge);
    log::write_message();
    let position = log::insert_position();
    log::flush(position);
    position.0.cast_signed()
}

/// Appends to the execution log; the number of rows. The batch is of the SQL type `jsonb`, and is not looked at here.
#[pg_extern(sql = false)]
fn log_executions(edge: Option<&str>, call: pg_sys::FunctionCallInfo) -> i64 {
    authorized(edge);
    trampoline::append_executions(edge.unwrap_or_default(), call).unwrap_or_else(|| {
        fail(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, "batch must not be NULL", "");
    })
}

/// Microseconds since 1970-01-01 UTC.
pub(super) fn now() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX)
}
