//! Shard predicates: parsed by PostgreSQL's own parser as one expression, then held against a list of what is allowed.

use std::ffi::{CString, c_int, c_void};

use pgrx::pg_sys::{self, NodeTag};
use pgrx::prelude::*;

use super::Oid;
use super::ffi;
use super::settings::AsKept;
use super::subtransaction::caught;
use super::value::text_of;
use crate::catalog::fail;

/// A predicate that has passed.
pub(crate) struct Compiled {
    /// The expression tree as text; `nodeToString` of PostgreSQL.
    pub(crate) tree: String,
    /// As PostgreSQL writes it.
    pub(crate) canonical: String,
    /// Columns of the table that it reads.
    pub(crate) attnums: Vec<i16>,
}

/// Parses and checks `predicate` over the rows of `source`; raises an ERROR that names the mend if it can't be one.
pub(crate) fn compile(source: Oid, predicate: &str) -> Compiled {
    let Ok(text) = CString::new(predicate) else {
        fail(PgSqlErrorCode::ERRCODE_SYNTAX_ERROR, "a predicate can't hold a NUL character", "");
    };
    // SAFETY: the relation is locked while its columns are looked up and closed again with the lock kept; everything that the
    // parser allocates lives in the current memory context, which outlives this function.
    unsafe {
        let expression = parse(&text);
        let relation = pg_sys::table_open(source, pg_sys::AccessShareLock as c_int);
        let state = pg_sys::make_parsestate(std::ptr::null_mut());
        (*state).p_sourcetext = text.as_ptr();
        let item = pg_sys::addRangeTableEntryForRelation(
            state,
            relation,
            pg_sys::AccessShareLock as c_int,
            std::ptr::null_mut(),
            false,
            true,
        );
        pg_sys::addNSItemToQuery(state, item, false, true, true);
        refuse_subqueries(expression, std::ptr::null_mut());
        let node = pg_sys::transformExpr(state, expression, pg_sys::ParseExprKind::EXPR_KIND_WHERE);
        let node = pg_sys::coerce_to_boolean(state, node, c"shard predicate".as_ptr());
        pg_sys::assign_expr_collations(state, node);
        let mut check = Check { attnums: Vec::new() };
        walk(node, (&raw mut check).cast());
        refuse_virtual_columns(relation, &check.attnums);
        let tree = text_of(pg_sys::nodeToString(node.cast()));
        // What PostgreSQL would fold to a constant must not fail: 1/0 is refused here, not at every decoding session.
        pg_sys::expression_planner(pg_sys::copyObjectImpl(node.cast()).cast());
        let canonical = deparse(source, node);
        pg_sys::table_close(relation, pg_sys::NoLock as c_int);
        check.attnums.sort_unstable();
        check.attnums.dedup();
        Compiled { tree, canonical, attnums: check.attnums }
    }
}

/// A condition of a query over the rows of one table as the tree of a shard predicate; `None` if it can't be one. A tree that is
/// too long to be kept counts as such.
///
/// # Safety
/// `condition` is an analysed expression that reads columns of `source` only, at its own level.
pub(super) unsafe fn of_condition(source: Oid, condition: *mut pg_sys::Node) -> Option<String> {
    // SAFETY: by contract; the copy is changed, and the relation is locked by whoever analysed the query.
    unsafe {
        let node: *mut pg_sys::Node = pg_sys::copyObjectImpl(condition.cast()).cast();
        let admitted = caught(|| {
            let mut check = Check { attnums: Vec::new() };
            walk(node, (&raw mut check).cast());
            let relation = pg_sys::table_open(source, pg_sys::AccessShareLock as c_int);
            refuse_virtual_columns(relation, &check.attnums);
            pg_sys::table_close(relation, pg_sys::NoLock as c_int);
        });
        admitted.ok()?;
        renumber(node, std::ptr::null_mut());
        let tree = text_of(pg_sys::nodeToString(node.cast()));
        (tree.len() <= LONGEST_CONDITION).then_some(tree)
    }
}

/// Bytes of a condition's tree; beyond it the table's rows are not told apart.
const LONGEST_CONDITION: usize = 3000;

/// Conditions joined by AND, as one tree.
pub(crate) fn conjunction(trees: &[String]) -> Option<String> {
    let nodes: Vec<CString> = trees.iter().filter_map(|tree| CString::new(tree.as_str()).ok()).collect();
    // SAFETY: the trees were written by `of_condition`; everything is in the current memory context.
    unsafe {
        let mut list = std::ptr::null_mut();
        for tree in &nodes {
            list = pg_sys::lappend(list, pg_sys::stringToNode(tree.as_ptr()));
        }
        match nodes.len() {
            0 => None,
            1 => Some(trees[0].clone()),
            _ => Some(text_of(pg_sys::nodeToString(pg_sys::make_andclause(list).cast()))),
        }
    }
}

/// Columns become those of relation 1, the only one of a predicate.
#[pg_guard]
unsafe extern "C-unwind" fn renumber(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: called with a copy of a condition, and by the walker with parts of it.
    unsafe {
        if tag(node) == NodeTag::T_Var {
            let var = &mut *node.cast::<pg_sys::Var>();
            var.varno = 1;
            var.varnosyn = 1;
            var.varattnosyn = var.varattno;
            #[cfg(not(feature = "pg15"))]
            {
                var.varnullingrels = std::ptr::null_mut();
            }
        }
        ffi::expression_tree_walker(node, renumber, context)
    }
}

/// A stored expression tree as PostgreSQL writes it, with the column names of now.
pub(crate) fn text(source: Oid, tree: &str) -> String {
    let Ok(tree) = CString::new(tree) else {
        error!("a stored predicate holds a NUL character");
    };
    // SAFETY: the tree was written by `compile`; results are in the current memory context.
    unsafe { deparse(source, pg_sys::stringToNode(tree.as_ptr()).cast()) }
}

/// A stored tree, read and written.
pub(crate) fn again(tree: &str) -> String {
    let Ok(tree) = CString::new(tree) else {
        error!("a stored tree holds a NUL character");
    };
    // SAFETY: the server's own reader and writer of trees; what doesn't fit is an ERROR.
    unsafe { text_of(pg_sys::nodeToString(pg_sys::stringToNode(tree.as_ptr()))) }
}

/// One expression and nothing else. The grammar's own entry point for expressions takes a SELECT without its keyword, so it is
/// checked that this one has a single nameless target and no other clause: what would inject one is refused here.
///
/// # Safety
/// `text` is valid while the call lasts.
unsafe fn parse(text: &CString) -> *mut pg_sys::Node {
    // SAFETY: raw_parser gives a list of RawStmt; node types are checked by tag before each cast.
    unsafe {
        let list = pg_sys::raw_parser(text.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_PLPGSQL_EXPR);
        let not_one = || -> ! {
            fail(
                PgSqlErrorCode::ERRCODE_SYNTAX_ERROR,
                "a shard predicate must be a single boolean expression",
                "Write only what would follow WHERE, without ORDER BY or other clauses.",
            )
        };
        if pg_sys::list_length(list) != 1 {
            not_one();
        }
        let raw: *mut pg_sys::RawStmt = pg_sys::list_nth(list, 0).cast();
        if tag((*raw).stmt) != NodeTag::T_SelectStmt {
            not_one();
        }
        let select = &*(*raw).stmt.cast::<pg_sys::SelectStmt>();
        let plain = select.distinctClause.is_null()
            && select.intoClause.is_null()
            && select.fromClause.is_null()
            && select.whereClause.is_null()
            && select.groupClause.is_null()
            && select.havingClause.is_null()
            && select.windowClause.is_null()
            && select.valuesLists.is_null()
            && select.sortClause.is_null()
            && select.limitOffset.is_null()
            && select.limitCount.is_null()
            && select.lockingClause.is_null()
            && select.withClause.is_null()
            && select.op == pg_sys::SetOperation::SETOP_NONE;
        if !plain || pg_sys::list_length(select.targetList) != 1 {
            not_one();
        }
        let target = &*pg_sys::list_nth(select.targetList, 0).cast::<pg_sys::ResTarget>();
        if !target.name.is_null() || !target.indirection.is_null() || target.val.is_null() {
            not_one();
        }
        // The star of SELECT * is a target but no expression, and the parser's functions for expressions trip over it.
        if tag(target.val) == NodeTag::T_ColumnRef {
            let fields = (*target.val.cast::<pg_sys::ColumnRef>()).fields;
            if tag(pg_sys::list_nth(fields, pg_sys::list_length(fields) - 1).cast()) == NodeTag::T_A_Star {
                not_one();
            }
        }
        target.val
    }
}

/// Before names are looked up: the tables of a subquery would be reported as missing, which is not what is wrong.
#[pg_guard]
unsafe extern "C-unwind" fn refuse_subqueries(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: called with a raw parse tree, and by the walker with parts of it.
    unsafe {
        if node.is_null() {
            return false;
        }
        if tag(node) == NodeTag::T_SubLink {
            no_subqueries();
        }
        ffi::raw_expression_tree_walker(node, refuse_subqueries, context)
    }
}

fn no_subqueries() -> ! {
    fail(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        "a shard predicate can't hold a subquery",
        "Only columns of the row itself can decide; store what decides in a column.",
    )
}

struct Check {
    attnums: Vec<i16>,
}

#[pg_guard]
unsafe extern "C-unwind" fn visit(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: called by the walker, with the context that `compile` gave.
    unsafe { walk(node, context) }
}

/// Refuses every node that is not known to be fine; true never, a refusal is an ERROR.
///
/// # Safety
/// `node` is part of a transformed expression, `context` a `Check`.
unsafe fn walk(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    let unsupported = |message: &'static str, hint: &'static str| -> ! {
        fail(PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED, message, hint)
    };
    // SAFETY: the tag says which struct the node is.
    unsafe {
        match tag(node) {
            NodeTag::T_Var => {
                let var = &*node.cast::<pg_sys::Var>();
                // A condition of a query may refer to the query around it.
                if var.varattno <= 0 || var.varlevelsup > 0 {
                    unsupported(
                        "a shard predicate can't use system columns or whole rows",
                        "Use the table's own columns.",
                    );
                }
                (*context.cast::<Check>()).attnums.push(var.varattno);
            }
            NodeTag::T_Const
            | NodeTag::T_FuncExpr
            | NodeTag::T_OpExpr
            | NodeTag::T_DistinctExpr
            | NodeTag::T_NullIfExpr
            | NodeTag::T_ScalarArrayOpExpr
            | NodeTag::T_BoolExpr
            | NodeTag::T_RelabelType
            | NodeTag::T_CoerceViaIO
            | NodeTag::T_ArrayCoerceExpr
            | NodeTag::T_CaseExpr
            | NodeTag::T_CaseWhen
            | NodeTag::T_CaseTestExpr
            | NodeTag::T_CoalesceExpr
            | NodeTag::T_MinMaxExpr
            | NodeTag::T_NullTest
            | NodeTag::T_BooleanTest
            | NodeTag::T_ArrayExpr
            | NodeTag::T_RowExpr
            | NodeTag::T_RowCompareExpr
            | NodeTag::T_FieldSelect
            | NodeTag::T_SubscriptingRef
            | NodeTag::T_CollateExpr
            | NodeTag::T_List => {}
            NodeTag::T_SubLink | NodeTag::T_SubPlan => no_subqueries(),
            NodeTag::T_Aggref | NodeTag::T_GroupingFunc | NodeTag::T_WindowFunc => unsupported(
                "a shard predicate can't hold an aggregate or window function",
                "Only columns of the row itself can decide.",
            ),
            NodeTag::T_SQLValueFunction | NodeTag::T_NextValueExpr | NodeTag::T_CurrentOfExpr => unsupported(
                "functions in a shard predicate must be immutable",
                "What changes with time, session or user can't decide which rows a copy holds.",
            ),
            NodeTag::T_CoerceToDomain | NodeTag::T_CoerceToDomainValue => unsupported(
                "a shard predicate can't cast to a domain",
                "Cast to the domain's base type: a domain's checks may call any function.",
            ),
            _ => unsupported(
                "this kind of expression is not supported in a shard predicate",
                "Use columns, constants, built-in operators and immutable built-in functions.",
            ),
        }
        if tag(node) == NodeTag::T_FuncExpr && (*node.cast::<pg_sys::FuncExpr>()).funcretset {
            unsupported("a shard predicate can't hold a set-returning function", "It must give one boolean.");
        }
        pg_sys::check_functions_in_node(node, Some(check_function), std::ptr::null_mut());
        ffi::expression_tree_walker(node, visit, context)
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn check_function(function: Oid, _context: *mut c_void) -> bool {
    // SAFETY: catalog lookups of a function that the expression names.
    let (volatility, name) = unsafe {
        (pg_sys::func_volatile(function) as u8, {
            let name = pg_sys::get_func_name(function);
            if name.is_null() { u32::from(function).to_string() } else { text_of(name) }
        })
    };
    if u32::from(function) >= pg_sys::FirstNormalObjectId {
        fail(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("a shard predicate can't call the user-defined function {name}"),
            "Only built-in functions and operators are allowed: others may change under a running stream.",
        );
    }
    if volatility != pg_sys::PROVOLATILE_IMMUTABLE {
        fail(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("functions in a shard predicate must be immutable, and {name} is not"),
            "What changes with time, session or settings can't decide which rows a copy holds.",
        );
    }
    false
}

/// # Safety
/// `relation` is open and `attnums` are columns of it.
unsafe fn refuse_virtual_columns(relation: pg_sys::Relation, attnums: &[i16]) {
    // SAFETY: by contract; the descriptor is alive while the relation is open.
    let columns = unsafe { pgrx::PgTupleDesc::from_pg_unchecked((*relation).rd_att) };
    for attnum in attnums {
        let column = columns.get(*attnum as usize - 1);
        if column.is_some_and(|column| column.attgenerated as u8 == b'v') {
            fail(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                "a shard predicate can't read a virtual generated column",
                "Its values are not in the write-ahead log; make it STORED.",
            );
        }
    }
}

/// # Safety
/// `node` is an expression over the columns of `source`, range table index 1.
unsafe fn deparse(source: Oid, node: *mut pg_sys::Node) -> String {
    // SAFETY: by contract; results are in the current memory context.
    unsafe {
        let name = pg_sys::get_rel_name(source);
        if name.is_null() {
            fail(PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE, "the source table of the shard is gone", "");
        }
        let _as_kept = AsKept::new();
        let context = pg_sys::deparse_context_for(name, source);
        text_of(pg_sys::deparse_expression(node, context, false, false))
    }
}

/// # Safety
/// `node` points to a node.
pub(super) unsafe fn tag(node: *mut pg_sys::Node) -> NodeTag {
    // SAFETY: every node starts with its tag.
    unsafe { (*node).type_ }
}
