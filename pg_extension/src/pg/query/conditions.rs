//! Conditions of WHERE and ON, one by one.

use std::collections::BTreeSet;
use std::ffi::c_void;
use std::rc::Rc;

use pgrx::pg_sys::{self, BoolExprType, NodeTag, ParamKind, RTEKind};
use pgrx::prelude::*;

use super::build::{flattened, list, subqueries_in};
use crate::pg::predicate::{self, tag};
use crate::pg::value::base_type;
use crate::pg::{Oid, ffi};
use crate::query::{Fact, Item, Quals};

/// # Safety
/// `node` is a condition in the tree of joins of `query`, or NULL.
pub(super) unsafe fn quals(query: *mut pg_sys::Query, node: *mut pg_sys::Node) -> Quals {
    let mut quals = Quals::default();
    if node.is_null() {
        return quals;
    }
    // SAFETY: by contract; what is taken apart is a copy.
    unsafe {
        let mut parts = Vec::new();
        split(flattened(query, node), &mut parts);
        quals.facts = parts.into_iter().map(|part| Rc::new(fact(query, part))).collect();
        quals.subqueries = subqueries_in(node);
    }
    quals
}

unsafe fn split(node: *mut pg_sys::Node, parts: &mut Vec<*mut pg_sys::Node>) {
    // SAFETY: the tag says which struct the node is.
    unsafe {
        if tag(node) == NodeTag::T_BoolExpr
            && (*node.cast::<pg_sys::BoolExpr>()).boolop == BoolExprType::AND_EXPR
        {
            for part in list((*node.cast::<pg_sys::BoolExpr>()).args) {
                split(part, parts);
            }
        } else {
            parts.push(node);
        }
    }
}

unsafe fn fact(query: *mut pg_sys::Query, node: *mut pg_sys::Node) -> Fact {
    // SAFETY: `node` is a condition of `query` in terms of its base relations.
    unsafe {
        let mut reads = Reads { depth: 0, relations: BTreeSet::new() };
        note(node, (&raw mut reads).cast());
        let relations = reads.relations;
        let mut not_null = BTreeSet::new();
        let set = pg_sys::find_nonnullable_rels(node);
        let mut member = pg_sys::bms_next_member(set, -1);
        while member > 0 {
            not_null.insert(member as usize - 1);
            member = pg_sys::bms_next_member(set, member);
        }
        let equal = equality(query, node);
        let predicate = match relations.iter().collect::<Vec<_>>()[..] {
            [only] => table(query, *only).and_then(|table| predicate::of_condition(table, node)),
            _ => None,
        };
        Fact { relations, not_null, equal, predicate }
    }
}

/// The two items that a condition says are equal, so that their texts are.
unsafe fn equality(query: *mut pg_sys::Query, node: *mut pg_sys::Node) -> Option<(Item, Item)> {
    // SAFETY: the tag says which struct the node is; IS DISTINCT FROM is the same struct as an operator.
    unsafe {
        let operator = match tag(node) {
            NodeTag::T_OpExpr => node.cast::<pg_sys::OpExpr>(),
            NodeTag::T_BoolExpr => {
                let not = &*node.cast::<pg_sys::BoolExpr>();
                let inner: *mut pg_sys::Node = list(not.args).next()?;
                if not.boolop != BoolExprType::NOT_EXPR || tag(inner) != NodeTag::T_DistinctExpr {
                    return None;
                }
                inner.cast()
            }
            _ => return None,
        };
        pg_sys::set_opfuncid(operator);
        let operator = &*operator;
        if !keeps_text(operator.opfuncid, operator.inputcollid) || pg_sys::list_length(operator.args) != 2 {
            return None;
        }
        let mut items = list(operator.args).map(|argument| item(query, argument));
        Some((items.next()??, items.next()??))
    }
}

/// Whether operands that are equal by this function have the same text.
fn keeps_text(function: Oid, collation: Oid) -> bool {
    match function.into() {
        pg_sys::F_INT2EQ
        | pg_sys::F_INT4EQ
        | pg_sys::F_INT8EQ
        | pg_sys::F_INT24EQ
        | pg_sys::F_INT42EQ
        | pg_sys::F_INT28EQ
        | pg_sys::F_INT82EQ
        | pg_sys::F_INT48EQ
        | pg_sys::F_INT84EQ
        | pg_sys::F_BOOLEQ
        | pg_sys::F_OIDEQ
        | pg_sys::F_NAMEEQ
        | pg_sys::F_UUID_EQ
        | pg_sys::F_DATE_EQ
        | pg_sys::F_TIMESTAMP_EQ
        | pg_sys::F_TIMESTAMPTZ_EQ
        | pg_sys::F_ENUM_EQ => true,
        // SAFETY: a catalog lookup of a collation that the parser has chosen.
        pg_sys::F_TEXTEQ => unsafe {
            collation != Oid::INVALID && pg_sys::get_collation_isdeterministic(collation)
        },
        _ => false,
    }
}

/// A column or parameter whose text the expression has.
///
/// # Safety
/// `node` is an expression of `query` in terms of its base relations.
pub(super) unsafe fn item(query: *mut pg_sys::Query, node: *mut pg_sys::Node) -> Option<Item> {
    // SAFETY: the tag says which struct the node is.
    unsafe {
        match tag(node) {
            NodeTag::T_RelabelType => {
                let relabel = &*node.cast::<pg_sys::RelabelType>();
                let inner: *mut pg_sys::Node = relabel.arg.cast();
                let before = base_type(pg_sys::exprType(inner));
                let texts = [pg_sys::TEXTOID, pg_sys::VARCHAROID];
                let same = before == relabel.resulttype
                    || texts.contains(&before) && texts.contains(&relabel.resulttype);
                if same { item(query, inner) } else { None }
            }
            NodeTag::T_Var => {
                let var = &*node.cast::<pg_sys::Var>();
                let relation = usize::try_from(var.varno).ok()?.checked_sub(1)?;
                if var.varattno <= 0 {
                    return None;
                }
                // A value that is computed when it is read is not in the log.
                let computed = var.varlevelsup == 0
                    && table(query, relation)
                        .is_some_and(|table| pg_sys::get_attgenerated(table, var.varattno) as u8 == b'v');
                (!computed).then_some(Item::Column {
                    depth: var.varlevelsup as usize,
                    relation,
                    column: var.varattno,
                })
            }
            NodeTag::T_Param => {
                let param = &*node.cast::<pg_sys::Param>();
                let number = usize::try_from(param.paramid).ok()?.checked_sub(1)?;
                (param.paramkind == ParamKind::PARAM_EXTERN).then_some(Item::Parameter(number))
            }
            _ => None,
        }
    }
}

unsafe fn table(query: *mut pg_sys::Query, relation: usize) -> Option<Oid> {
    // SAFETY: the range table holds entries, and the kind says whether it is a table's.
    unsafe {
        let entry = list::<pg_sys::RangeTblEntry>((*query).rtable).nth(relation)?;
        ((*entry).rtekind == RTEKind::RTE_RELATION).then_some((*entry).relid)
    }
}

struct Reads {
    depth: u32,
    relations: BTreeSet<usize>,
}

/// Notes which relations of the condition's own level are read, from inside its subqueries too.
#[pg_guard]
unsafe extern "C-unwind" fn note(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: called by the walkers with parts of a condition, and with the `Reads` of `fact`.
    unsafe {
        let reads = &mut *context.cast::<Reads>();
        match tag(node) {
            NodeTag::T_Var => {
                let var = &*node.cast::<pg_sys::Var>();
                if var.varlevelsup == reads.depth && var.varno > 0 {
                    reads.relations.insert(var.varno as usize - 1);
                }
                false
            }
            NodeTag::T_Query => {
                reads.depth += 1;
                ffi::query_tree_walker(node.cast(), note, context);
                (*context.cast::<Reads>()).depth -= 1;
                false
            }
            _ => ffi::expression_tree_walker(node, note, context),
        }
    }
}
