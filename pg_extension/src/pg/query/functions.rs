//! Functions that a query shard may call: built-in ones whose result nothing but their arguments and the tables decides. Settings
//! that some depend on are the same at every fetch.

use std::ffi::c_void;

use pgrx::pg_sys::{self, NodeTag};
use pgrx::prelude::*;

use super::build::list;
use crate::catalog::fail;
use crate::pg::Oid;
use crate::pg::casts;
use crate::pg::predicate::tag;
use crate::pg::value::text_of;

/// Built-in functions that PostgreSQL calls stable for settings that `foreshard.fetch` pins: date style, time zone, locale of
/// numbers and money. Those that read the clock, the session or the catalogs are not here, nor those that parse times: of 'now'.
const HARMLESS: [&str; 74] = [
    "age",
    "array_agg",
    "array_out",
    "array_to_json",
    "array_to_string",
    "cash_out",
    "concat",
    "concat_ws",
    "date",
    "date_bin",
    "date_cmp_timestamptz",
    "date_eq_timestamptz",
    "date_ge_timestamptz",
    "date_gt_timestamptz",
    "date_le_timestamptz",
    "date_lt_timestamptz",
    "date_ne_timestamptz",
    "date_out",
    "date_part",
    "date_trunc",
    "enum_out",
    "extract",
    "format",
    "generate_series",
    "interval_out",
    "interval_pl_timestamptz",
    "json_agg",
    "json_agg_strict",
    "json_build_array",
    "json_build_object",
    "json_object_agg",
    "json_object_agg_strict",
    "json_object_agg_unique",
    "json_object_agg_unique_strict",
    "jsonb_agg",
    "jsonb_agg_strict",
    "jsonb_build_array",
    "jsonb_build_object",
    "jsonb_object_agg",
    "jsonb_object_agg_strict",
    "jsonb_object_agg_unique",
    "jsonb_object_agg_unique_strict",
    "multirange_out",
    "overlaps",
    "range_out",
    "record_out",
    "row_to_json",
    "string_agg",
    "time",
    "time_out",
    "timestamp",
    "timestamp_cmp_timestamptz",
    "timestamp_eq_timestamptz",
    "timestamp_ge_timestamptz",
    "timestamp_gt_timestamptz",
    "timestamp_le_timestamptz",
    "timestamp_lt_timestamptz",
    "timestamp_ne_timestamptz",
    "timestamp_out",
    "timestamptz",
    "timestamptz_eq_date",
    "timestamptz_eq_timestamp",
    "timestamptz_ge_date",
    "timestamptz_gt_date",
    "timestamptz_le_date",
    "timestamptz_lt_date",
    "timestamptz_mi_interval",
    "timestamptz_out",
    "timestamptz_pl_interval",
    "timetz_out",
    "timezone",
    "to_char",
    "to_json",
    "to_jsonb",
];

/// Raises an ERROR unless all functions of this one node may be called.
///
/// # Safety
/// `node` is part of an analysed query.
pub(super) unsafe fn check_node(node: *mut pg_sys::Node) {
    // SAFETY: by contract; the tag says which struct the node is.
    unsafe {
        pg_sys::check_functions_in_node(node, Some(check), std::ptr::null_mut());
        let arguments = match tag(node) {
            NodeTag::T_FuncExpr => (*node.cast::<pg_sys::FuncExpr>()).args,
            NodeTag::T_Aggref => (*node.cast::<pg_sys::Aggref>()).args,
            NodeTag::T_WindowFunc => (*node.cast::<pg_sys::WindowFunc>()).args,
            _ => return,
        };
        // json functions call casts to json, which for types of somebody's own may be anything.
        for argument in list::<pg_sys::Node>(arguments) {
            let argument = match tag(argument) {
                NodeTag::T_TargetEntry => (*argument.cast::<pg_sys::TargetEntry>()).expr.cast(),
                _ => argument,
            };
            if casts::to_json(pg_sys::getBaseType(pg_sys::exprType(argument))).is_some() {
                fail(
                    PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                    "a query shard can't pass a type with a cast to json of its own to a function",
                    "Pass columns of built-in types.",
                );
            }
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn check(function: Oid, _context: *mut c_void) -> bool {
    // SAFETY: catalog lookups of a function that the query names; a missing one has no name.
    let (name, volatility) = unsafe {
        let name = pg_sys::get_func_name(function);
        let name = if name.is_null() { u32::from(function).to_string() } else { text_of(name) };
        (name, pg_sys::func_volatile(function) as u8)
    };
    if u32::from(function) >= pg_sys::FirstNormalObjectId {
        fail(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("a query shard can't call the user-defined function {name}"),
            "Only built-in functions and operators are allowed: what others read or return may change unnoticed.",
        );
    }
    let harmless = match volatility {
        pg_sys::PROVOLATILE_IMMUTABLE => true,
        // With one argument it counts from today.
        // SAFETY: a catalog lookup.
        pg_sys::PROVOLATILE_STABLE if name == "age" => unsafe { pg_sys::get_func_nargs(function) == 2 },
        pg_sys::PROVOLATILE_STABLE => HARMLESS.binary_search(&name.as_str()).is_ok(),
        _ => false,
    };
    if !harmless {
        refuse_changing(&name);
    }
    false
}

pub(super) fn refuse_changing(name: &str) -> ! {
    fail(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("a query shard can't call {name}: its result may change while no row does"),
        "Use immutable functions; what depends on time, session or user belongs into a parameter or a column.",
    )
}

/// Raises an ERROR if rows are compared, sorted or grouped by somebody's own operator.
pub(super) fn check_operator(operator: Oid) {
    if operator == Oid::INVALID {
        return;
    }
    // SAFETY: a catalog lookup.
    let function = unsafe { pg_sys::get_opcode(operator) };
    if u32::from(function) >= pg_sys::FirstNormalObjectId {
        fail(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "a query shard can't sort, group or compare by a type that is not built in",
            "Cast to a built-in type, such as text.",
        );
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_list_can_be_searched() {
        assert!(super::HARMLESS.is_sorted());
    }
}
