//! Query shards: analysed by PostgreSQL's own parser, held against what is allowed, and reduced to what they depend on.

mod admit;
mod build;
mod columns;
mod conditions;
mod functions;

use std::collections::BTreeMap;
use std::ffi::{CString, c_void};

use pgrx::pg_sys::{self, NodeTag};
use pgrx::prelude::*;

use super::settings::AsKept;
use super::value::text_of;
use super::{Oid, ffi, predicate};
use crate::catalog::fail;
use crate::query::{Dependency, dependencies};

/// A query that has passed.
pub(crate) struct Compiled {
    /// The analysed query as text; `nodeToString` of PostgreSQL.
    pub(crate) tree: String,
    /// Types of its parameters.
    pub(crate) types: Vec<Oid>,
    /// What it reads.
    pub(crate) dependencies: Vec<Dependency>,
    /// Of which columns, by the table's OID, in all places together; a table that is missing: of any.
    pub(crate) columns: BTreeMap<u32, Vec<i16>>,
}

/// A stored query, ready to be run.
pub(crate) struct Stored {
    /// As PostgreSQL writes it, with the names of now.
    pub(crate) text: String,
    /// Its columns and their types.
    pub(crate) columns: Vec<(String, Oid)>,
}

/// Parses and checks a query with so many parameters; raises an ERROR that names the mend if it can't be a shard. The parser derives
/// the parameters' types unless they are known. Names are looked up in the session's search path.
pub(crate) fn compile(query: &str, parameters: usize, types: Option<&[Oid]>) -> Compiled {
    let Ok(text) = CString::new(query) else {
        fail(PgSqlErrorCode::ERRCODE_SYNTAX_ERROR, "a query can't hold a NUL character", "");
    };
    // SAFETY: everything that the parser allocates lives in the current memory context, which outlives this function; tables stay locked
    // until the end of the transaction.
    unsafe {
        let raw = single_select(&text);
        let mut most = parameters;
        highest_parameter((*raw).stmt, (&raw mut most).cast());
        if most > parameters {
            fail(
                PgSqlErrorCode::ERRCODE_UNDEFINED_PARAMETER,
                format!("the query uses ${most}, and params names {parameters}"),
                "Name every parameter in params, in the order of $1, $2, ….",
            );
        }
        let (query, types) = analyze(raw, &text, parameters, types);
        admit::check(query);
        let tree = text_of(pg_sys::nodeToString(query.cast()));
        let level = build::level(query);
        let mut dependencies = dependencies(&level, parameters);
        // What the derivation has not come across is no less read.
        let reads = columns::read(query);
        for table in reads.keys() {
            if !dependencies.iter().any(|found| found.table == *table) {
                dependencies.push(Dependency { table: *table, key: Vec::new(), predicates: Vec::new() });
            }
        }
        let columns = reads
            .into_iter()
            .filter_map(|(table, columns)| Some((table, columns?.into_iter().collect())))
            .collect();
        if dependencies.is_empty() {
            fail(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                "the query reads no table",
                "Nothing could ever change its result: a shard needs at least one table.",
            );
        }
        Compiled { tree, types, dependencies, columns }
    }
}

/// A stored query with the names of now.
pub(crate) fn stored(tree: &str) -> Stored {
    let Ok(tree) = CString::new(tree) else { error!("a stored query holds a NUL character") };
    // SAFETY: the tree was written by `compile`; results are in the current memory context. The list of targets has one entry per
    // column.
    unsafe {
        let query: *mut pg_sys::Query = pg_sys::stringToNode(tree.as_ptr()).cast();
        let columns = build::list::<pg_sys::TargetEntry>((*query).targetList)
            .filter(|target| !(**target).resjunk)
            .map(|target| (text_of((*target).resname), pg_sys::exprType((*target).expr.cast())))
            .collect();
        let _as_kept = AsKept::new();
        Stored { text: text_of(pg_sys::pg_get_querydef(query, false)).trim_start().to_owned(), columns }
    }
}

/// One SELECT and nothing else.
///
/// # Safety
/// `text` is valid while the result is used.
unsafe fn single_select(text: &CString) -> *mut pg_sys::RawStmt {
    // SAFETY: raw_parser gives a list of RawStmt; the tag says which struct a statement is.
    unsafe {
        let list = pg_sys::raw_parser(text.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT);
        let single = (pg_sys::list_length(list) == 1)
            .then(|| pg_sys::list_nth(list, 0).cast::<pg_sys::RawStmt>())
            .filter(|raw| predicate::tag((**raw).stmt) == NodeTag::T_SelectStmt);
        let Some(raw) = single else {
            fail(
                PgSqlErrorCode::ERRCODE_SYNTAX_ERROR,
                "a query shard must be a single SELECT",
                "Write one SELECT (or WITH … SELECT) without a semicolon.",
            );
        };
        raw
    }
}

/// Before the analysis, which makes room for as many parameters as the highest number says.
#[pg_guard]
unsafe extern "C-unwind" fn highest_parameter(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: called with a raw parse tree, and by the walker with parts of it; the context is a number on the stack of `compile`.
    unsafe {
        if node.is_null() {
            return false;
        }
        if predicate::tag(node) == NodeTag::T_ParamRef {
            let most = &mut *context.cast::<usize>();
            *most = (*most).max(usize::try_from((*node.cast::<pg_sys::ParamRef>()).number).unwrap_or(0));
            return false;
        }
        ffi::raw_expression_tree_walker(node, highest_parameter, context)
    }
}

/// # Safety
/// `raw` was parsed from `text`.
unsafe fn analyze(
    raw: *mut pg_sys::RawStmt,
    text: &CString,
    parameters: usize,
    known: Option<&[Oid]>,
) -> (*mut pg_sys::Query, Vec<Oid>) {
    let none = std::ptr::null_mut();
    // SAFETY: by contract. The parser enlarges the array of types as it finds parameters, and tells its length.
    unsafe {
        if let Some(known) = known {
            let query = pg_sys::parse_analyze_fixedparams(
                raw,
                text.as_ptr(),
                known.as_ptr(),
                known.len() as i32,
                none,
            );
            return (query, known.to_vec());
        }
        let (mut types, mut count) = (std::ptr::null_mut::<Oid>(), 0);
        let query = pg_sys::parse_analyze_varparams(raw, text.as_ptr(), &raw mut types, &raw mut count, none);
        let found: Vec<Oid> = (0..count as usize).map(|index| *types.add(index)).collect();
        let missing = |kind: &Oid| *kind == Oid::INVALID || *kind == pg_sys::UNKNOWNOID;
        let unused = found.iter().position(missing).or((found.len() < parameters).then_some(found.len()));
        if let Some(unused) = unused {
            fail(
                PgSqlErrorCode::ERRCODE_INDETERMINATE_DATATYPE,
                format!("the query does not use ${}, or not so that its type can be told", unused + 1),
                "Each name in params is a parameter of the query; where its type is open, write $1::type.",
            );
        }
        (query, found)
    }
}
