//! Functions that note who calls and run the one that does the work as the owner of the extension.
//!
//! SECURITY DEFINER would not do: inside it the caller can't be told from the session's role, so a function of somebody else
//! could define shards in the name of the superuser that calls it.

use std::ffi::{CStr, c_int};

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::identity::Acting;
use super::{Oid, casts, rows, value};
use crate::api;

macro_rules! entry {
    ($name:ident, $info:ident, $body:path) => {
        #[unsafe(no_mangle)]
        #[doc(hidden)]
        extern "C-unwind" fn $info() -> &'static pg_sys::Pg_finfo_record {
            const RECORD: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
            &RECORD
        }

        #[unsafe(no_mangle)]
        #[pg_guard]
        #[doc(hidden)]
        unsafe extern "C-unwind" fn $name(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
            // SAFETY: the server calls with the arguments that the extension's script declares.
            unsafe { $body(call) }
        }
    };
}

entry!(foreshard_create_shard, pg_finfo_foreshard_create_shard, create_shard);
entry!(foreshard_create_query_shard, pg_finfo_foreshard_create_query_shard, create_query_shard);
entry!(foreshard_drop_shard, pg_finfo_foreshard_drop_shard, drop_shard);
entry!(foreshard_create_edge, pg_finfo_foreshard_create_edge, create_edge);
entry!(foreshard_drop_edge, pg_finfo_foreshard_drop_edge, drop_edge);
entry!(foreshard_fetch, pg_finfo_foreshard_fetch, fetch);

unsafe fn create_shard(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    use pg_sys::{BOOLOID, NAMEARRAYOID, REGCLASSOID, TEXTOID};
    let types = [TEXTOID, REGCLASSOID, TEXTOID, NAMEARRAYOID, NAMEARRAYOID, BOOLOID, BOOLOID];
    // SAFETY: the types are those of the declaration.
    unsafe { pass_on(call, c"SELECT foreshard.define_shard($1, $2, $3, $4, $5, $6, $7, $8)", &types) }
}

/// Names in the query are the caller's: it is analysed, and held against his rights, before the owner of the extension keeps it.
unsafe fn create_query_shard(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    use pg_sys::{BOOLOID, NAMEARRAYOID, OIDARRAYOID, TEXTOID};
    // SAFETY: declared as create_query_shard(text, text, name[], boolean, boolean).
    unsafe {
        let argument = |index: usize| *(*call).args.as_ptr().add(index);
        let query = String::from_datum(argument(1).value, argument(1).isnull);
        let params = argument(2);
        let count = if params.isnull { 0 } else { value::array_length(params.value) };
        let compiled = query.map(|query| api::caller_query(&query, count));
        let (tree, types) = match compiled {
            Some((tree, types)) => (tree.into_datum(), types.into_datum()),
            None => (None, None),
        };
        let of = |datum: Option<pg_sys::Datum>| pg_sys::NullableDatum {
            value: datum.unwrap_or(pg_sys::Datum::from(0usize)),
            isnull: datum.is_none(),
        };
        let values = [argument(0), of(tree), of(types), params, argument(3), argument(4)];
        let kinds = [TEXTOID, TEXTOID, OIDARRAYOID, NAMEARRAYOID, BOOLOID, BOOLOID];
        run_as_owner(call, c"SELECT foreshard.define_query($1, $2, $3, $4, $5, $6, $7)", &values, &kinds)
    }
}

unsafe fn drop_shard(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: as above.
    unsafe {
        pass_on(call, c"SELECT foreshard.remove_shard($1, $2, $3)", &[pg_sys::TEXTOID, pg_sys::BOOLOID])
    }
}

unsafe fn create_edge(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    use pg_sys::{BOOLOID, FLOAT8OID, REGROLEOID, TEXTOID};
    let types = [TEXTOID, FLOAT8OID, FLOAT8OID, REGROLEOID, BOOLOID];
    // SAFETY: as above.
    unsafe { pass_on(call, c"SELECT foreshard.register_edge($1, $2, $3, $4, $5, $6)", &types) }
}

unsafe fn drop_edge(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: as above.
    unsafe { pass_on(call, c"SELECT foreshard.remove_edge($1, $2, $3)", &[pg_sys::TEXTOID, pg_sys::BOOLOID]) }
}

/// Runs `statement` as the owner of the called function, with the caller as `$1` and the call's arguments behind it.
unsafe fn pass_on(call: pg_sys::FunctionCallInfo, statement: &CStr, types: &[Oid]) -> pg_sys::Datum {
    // SAFETY: `call` has as many arguments as `types`, by contract.
    unsafe {
        let arguments: Vec<_> = (0..types.len()).map(|index| *(*call).args.as_ptr().add(index)).collect();
        run_as_owner(call, statement, &arguments, types)
    }
}

unsafe fn run_as_owner(
    call: pg_sys::FunctionCallInfo,
    statement: &CStr,
    arguments: &[pg_sys::NullableDatum],
    types: &[Oid],
) -> pg_sys::Datum {
    // SAFETY: there is one argument of each type, by contract; values outlive the statement.
    unsafe {
        let caller = super::identity::current_role();
        let mut argument_types = vec![pg_sys::REGROLEOID];
        let mut values = vec![pg_sys::Datum::from(caller)];
        let mut nulls = vec![b' ' as std::ffi::c_char];
        for (argument, kind) in arguments.iter().zip(types) {
            argument_types.push(*kind);
            values.push(argument.value);
            nulls.push(if argument.isnull { b'n' } else { b' ' } as std::ffi::c_char);
        }
        let _acting = Acting::as_owner(owner((*(*call).flinfo).fn_oid));
        pg_sys::SPI_connect();
        pg_sys::SPI_execute_with_args(
            statement.as_ptr(),
            values.len() as c_int,
            argument_types.as_mut_ptr(),
            values.as_mut_ptr(),
            nulls.as_ptr(),
            false,
            0,
        );
        pg_sys::SPI_finish();
        pg_sys::Datum::from(0usize)
    }
}

/// The owner of a function, who is the owner of the extension.
fn owner(function: Oid) -> Oid {
    let Some(owner) = casts::owner(function) else { error!("the called function is gone") };
    owner
}

unsafe fn fetch(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: declared as fetch(text, text[]) RETURNS SETOF bytea. The tuple store keeps what it is given.
    unsafe {
        let argument = |index: usize| &*(*call).args.as_ptr().add(index);
        let edge = String::from_datum(argument(0).value, argument(0).isnull);
        let instances = Vec::<Option<String>>::from_datum(argument(1).value, argument(1).isnull);
        pg_sys::InitMaterializedSRF(call, pg_sys::MAT_SRF_USE_EXPECTED_DESC);
        let result = (*call).resultinfo.cast::<pg_sys::ReturnSetInfo>();
        let mut sink = rows::Sink::new((*result).setResult, (*result).setDesc);
        api::fetch(edge, instances, &mut |bytes| sink.put(bytes));
        (*call).isnull = true;
        pg_sys::Datum::from(0usize)
    }
}

/// The owner of the function that is being called, for functions that pgrx declares.
fn owner_of(call: pg_sys::FunctionCallInfo) -> Oid {
    // SAFETY: pgrx passes the call that is running.
    unsafe { owner((*(*call).flinfo).fn_oid) }
}

/// Appends the batch that `log_executions(text, jsonb)` is called with to the execution log, as the owner of that function: the number of
/// rows, or nothing if the batch is NULL.
pub(crate) fn append_executions(edge: &str, call: pg_sys::FunctionCallInfo) -> Option<i64> {
    // SAFETY: pgrx passes the call that is running, of a function with two arguments. The batch is handed on as it came: taking JSON
    // apart and together again would be most of the work.
    let batch = unsafe {
        let batch = &*(*call).args.as_ptr().add(1);
        if batch.isnull {
            return None;
        }
        DatumWithOid::new(batch.value, pg_sys::JSONBOID)
    };
    let _acting = Acting::as_owner(owner_of(call));
    let written =
        Spi::get_one_with_args::<i64>("SELECT foreshard.append_executions($1, $2)", &[edge.into(), batch]);
    match written {
        Ok(written) => written.or(Some(0)),
        Err(problem) => error!("{problem}"),
    }
}

/// Name of a role for messages.
pub(crate) fn role_name(role: Oid) -> String {
    // SAFETY: a catalog lookup; NULL for a role that is gone.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        if name.is_null() { u32::from(role).to_string() } else { value::text_of(name) }
    }
}
