//! What a query shard may consist of. Everything that is not known to be fine is refused.

use std::ffi::c_void;

use pgrx::pg_sys::{self, NodeTag, RTEKind};
use pgrx::prelude::*;

use super::build::list;
use super::functions;
use crate::catalog::fail;
use crate::pg::ffi;
use crate::pg::predicate::tag;

/// Raises an ERROR unless the query may be a shard. Tables that are not partitioned are read without children from here on: the
/// stream does not follow children that are added later.
///
/// # Safety
/// `query` is an analysed query.
pub(super) unsafe fn check(query: *mut pg_sys::Query) {
    // SAFETY: by contract; the walk needs no context.
    unsafe {
        visit(query.cast(), std::ptr::null_mut());
        outputs(query);
    }
}

fn refuse(message: &str, hint: &str) -> ! {
    fail(PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED, message, hint)
}

#[pg_guard]
unsafe extern "C-unwind" fn visit(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: called by the walkers with nodes of the query; the tag says which struct a node is.
    unsafe {
        match tag(node) {
            NodeTag::T_Query => return query(node.cast(), context),
            NodeTag::T_Var => {
                if (*node.cast::<pg_sys::Var>()).varattno < 0 {
                    refuse("a query shard can't use system columns", "Use the tables' own columns.");
                }
            }
            NodeTag::T_Const
            | NodeTag::T_Param
            | NodeTag::T_FuncExpr
            | NodeTag::T_NamedArgExpr
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
            | NodeTag::T_List
            | NodeTag::T_SubLink
            | NodeTag::T_Aggref
            | NodeTag::T_GroupingFunc
            | NodeTag::T_WindowFunc
            | NodeTag::T_TargetEntry
            | NodeTag::T_FromExpr
            | NodeTag::T_JoinExpr
            | NodeTag::T_RangeTblRef
            | NodeTag::T_RangeTblFunction
            | NodeTag::T_SetOperationStmt
            | NodeTag::T_CommonTableExpr
            | NodeTag::T_CTECycleClause
            | NodeTag::T_CTESearchClause
            | NodeTag::T_WindowClause
            | NodeTag::T_GroupingSet => {}
            NodeTag::T_SortGroupClause => {
                let clause = &*node.cast::<pg_sys::SortGroupClause>();
                functions::check_operator(clause.eqop);
                functions::check_operator(clause.sortop);
            }
            NodeTag::T_SQLValueFunction | NodeTag::T_NextValueExpr | NodeTag::T_CurrentOfExpr => {
                functions::refuse_changing("current_user, current_timestamp and their like")
            }
            NodeTag::T_CoerceToDomain | NodeTag::T_CoerceToDomainValue => refuse(
                "a query shard can't cast to a domain",
                "Cast to the domain's base type: a domain's checks may call any function.",
            ),
            NodeTag::T_TableSampleClause => refuse(
                "a query shard can't use TABLESAMPLE",
                "Which rows it takes can't be told from the rows.",
            ),
            _ => refuse(
                "this kind of expression is not supported in a query shard",
                "Use columns, parameters, constants, subqueries, aggregates, built-in operators and functions.",
            ),
        }
        functions::check_node(node);
        ffi::expression_tree_walker(node, visit, context)
    }
}

/// # Safety
/// `query` is part of an analysed query.
unsafe fn query(query: *mut pg_sys::Query, context: *mut c_void) -> bool {
    // SAFETY: by contract.
    unsafe {
        let this = &*query;
        if this.commandType != pg_sys::CmdType::CMD_SELECT || !this.utilityStmt.is_null() {
            refuse(
                "a query shard must be a SELECT that changes nothing",
                "Leave out INTO and other commands.",
            );
        }
        if this.hasModifyingCTE {
            refuse("a query shard can't change data in WITH", "Only SELECT is allowed in WITH.");
        }
        if !this.rowMarks.is_null() || this.hasForUpdate {
            refuse("a query shard can't lock rows", "Leave out FOR UPDATE and FOR SHARE.");
        }
        for entry in list::<pg_sys::RangeTblEntry>(this.rtable) {
            match (*entry).rtekind {
                RTEKind::RTE_RELATION => {
                    if !(*entry).tablesample.is_null() {
                        refuse(
                            "a query shard can't use TABLESAMPLE",
                            "Which rows it takes can't be told from the rows.",
                        );
                    }
                    (*entry).inh =
                        pg_sys::get_rel_relkind((*entry).relid) as u8 == pg_sys::RELKIND_PARTITIONED_TABLE;
                }
                RTEKind::RTE_TABLEFUNC => refuse(
                    "a query shard can't use XMLTABLE or JSON_TABLE",
                    "Use functions such as jsonb_array_elements in FROM.",
                ),
                RTEKind::RTE_NAMEDTUPLESTORE => {
                    refuse("a query shard can't read transition tables", "Use tables.")
                }
                _ => {}
            }
        }
        let clauses = [this.groupClause, this.distinctClause, this.sortClause];
        for clauses in clauses {
            for clause in list::<pg_sys::Node>(clauses) {
                visit(clause, context);
            }
        }
        set_operations(this.setOperations);
        ffi::query_tree_walker(query, visit, context)
    }
}

/// The walker does not look at how arms of a set operation are compared.
///
/// # Safety
/// `node` is a set operation, an arm of one, or NULL.
unsafe fn set_operations(node: *mut pg_sys::Node) {
    // SAFETY: by contract; the tag says which struct a node is.
    unsafe {
        if node.is_null() || tag(node) != NodeTag::T_SetOperationStmt {
            return;
        }
        let operation = &*node.cast::<pg_sys::SetOperationStmt>();
        for clause in list::<pg_sys::SortGroupClause>(operation.groupClauses) {
            functions::check_operator((*clause).eqop);
            functions::check_operator((*clause).sortop);
        }
        set_operations(operation.larg);
        set_operations(operation.rarg);
    }
}

/// Columns are told by their names, and travel as values of their own.
///
/// # Safety
/// `query` is an analysed query.
unsafe fn outputs(query: *mut pg_sys::Query) {
    // SAFETY: by contract; names of columns are NUL-terminated.
    unsafe {
        let mut names: Vec<String> = Vec::new();
        for target in list::<pg_sys::TargetEntry>((*query).targetList) {
            if (*target).resjunk {
                continue;
            }
            let name = crate::pg::value::text_of((*target).resname);
            if names.contains(&name) {
                fail(
                    PgSqlErrorCode::ERRCODE_DUPLICATE_COLUMN,
                    format!("column \"{name}\" is given twice by the query"),
                    "Rows are told by column names: give one of them another with AS.",
                );
            }
            let kind = pg_sys::exprType((*target).expr.cast());
            if pg_sys::get_typtype(kind) as u8 == pg_sys::TYPTYPE_PSEUDO {
                fail(
                    PgSqlErrorCode::ERRCODE_INVALID_TABLE_DEFINITION,
                    format!("column \"{name}\" has no type of its own"),
                    "Cast it, or turn it into JSON with to_jsonb.",
                );
            }
            names.push(name);
        }
        if names.is_empty() {
            fail(
                PgSqlErrorCode::ERRCODE_INVALID_TABLE_DEFINITION,
                "the query gives no column",
                "A row needs at least one column.",
            );
        }
    }
}
