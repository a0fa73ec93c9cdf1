//! An analysed query as the model that the derivation works on.

use std::ffi::{CStr, c_void};

use pgrx::pg_sys::{self, JoinType, NodeTag, RTEKind};
use pgrx::prelude::*;

use super::conditions::quals;
use crate::pg::ffi;
use crate::pg::predicate::tag;
use crate::query::{Cte, Item, Join, Level, Output, Quals, Relation};

/// The elements of a list of pointers.
///
/// # Safety
/// The list is alive while it is iterated, and its elements are what `T` says.
pub(super) unsafe fn list<T>(list: *mut pg_sys::List) -> impl Iterator<Item = *mut T> {
    // SAFETY: by contract; a NULL list has length 0.
    unsafe { (0..pg_sys::list_length(list)).map(move |index| pg_sys::list_nth(list, index).cast()) }
}

/// # Safety
/// `query` is an analysed query whose kinds of nodes were admitted.
pub(super) unsafe fn level(query: *mut pg_sys::Query) -> Level {
    // SAFETY: by contract, here and for what the query consists of.
    unsafe {
        let this = &*query;
        let relations =
            list::<pg_sys::RangeTblEntry>(this.rtable).map(|entry| relation(query, entry)).collect();
        let join = match this.jointree.is_null() {
            true => Join::Inner(Vec::new(), Quals::default()),
            false => from(query, this.jointree),
        };
        let ctes = list::<pg_sys::CommonTableExpr>(this.cteList)
            .map(|cte| Cte {
                level: level((*cte).ctequery.cast()),
                single: (*cte).cterefcount == 1 && !(*cte).cterecursive,
            })
            .collect();
        let mut subqueries = Vec::new();
        for node in [
            this.targetList.cast(),
            this.havingQual,
            this.windowClause.cast(),
            this.limitCount,
            this.limitOffset,
        ] {
            subqueries.extend(subqueries_in(node));
        }
        Level {
            relations,
            join,
            ctes,
            outputs: outputs(query),
            set_operation: !this.setOperations.is_null(),
            grouping_sets: !this.groupingSets.is_null(),
            subqueries,
        }
    }
}

unsafe fn relation(query: *mut pg_sys::Query, entry: *mut pg_sys::RangeTblEntry) -> Relation {
    // SAFETY: the kind says which fields an entry has.
    unsafe {
        match (*entry).rtekind {
            RTEKind::RTE_RELATION => Relation::Table((*entry).relid.into()),
            RTEKind::RTE_SUBQUERY => Relation::Subquery(level((*entry).subquery)),
            RTEKind::RTE_CTE if (*entry).ctelevelsup == 0 => {
                let name = CStr::from_ptr((*entry).ctename);
                let index = list::<pg_sys::CommonTableExpr>((*query).cteList)
                    .position(|cte| CStr::from_ptr((*cte).ctename) == name);
                index.map_or(Relation::Other(Vec::new()), |index| Relation::Cte { depth: 0, index })
            }
            RTEKind::RTE_FUNCTION => Relation::Other(subqueries_in((*entry).functions.cast())),
            RTEKind::RTE_VALUES => Relation::Other(subqueries_in((*entry).values_lists.cast())),
            // Joins stand in the tree of joins. A WITH query of a level further out is walked there.
            _ => Relation::Other(Vec::new()),
        }
    }
}

unsafe fn from(query: *mut pg_sys::Query, node: *mut pg_sys::FromExpr) -> Join {
    // SAFETY: as above.
    unsafe {
        let inputs = list::<pg_sys::Node>((*node).fromlist).map(|input| join(query, input)).collect();
        Join::Inner(inputs, quals(query, (*node).quals))
    }
}

unsafe fn join(query: *mut pg_sys::Query, node: *mut pg_sys::Node) -> Join {
    // SAFETY: the tag says which struct the node is.
    unsafe {
        match tag(node) {
            NodeTag::T_RangeTblRef => {
                Join::Relation((*node.cast::<pg_sys::RangeTblRef>()).rtindex as usize - 1)
            }
            NodeTag::T_FromExpr => from(query, node.cast()),
            _ => {
                let expression = &*node.cast::<pg_sys::JoinExpr>();
                let (left, right) = (join(query, expression.larg), join(query, expression.rarg));
                let quals = quals(query, expression.quals);
                match expression.jointype {
                    JoinType::JOIN_INNER => Join::Inner(vec![left, right], quals),
                    JoinType::JOIN_LEFT => Join::Left(Box::new(left), Box::new(right), quals),
                    JoinType::JOIN_RIGHT => Join::Left(Box::new(right), Box::new(left), quals),
                    _ => Join::Full(Box::new(left), Box::new(right), quals),
                }
            }
        }
    }
}

unsafe fn outputs(query: *mut pg_sys::Query) -> Vec<Output> {
    // SAFETY: as above. Expressions that are looked at are copies.
    unsafe {
        let this = &*query;
        let whole = this.limitCount.is_null()
            && this.limitOffset.is_null()
            && this.groupingSets.is_null()
            && !this.hasWindowFuncs
            && !this.hasDistinctOn;
        let grouped = this.hasAggs || !this.groupClause.is_null() || !this.havingQual.is_null();
        let groups: Vec<pg_sys::Index> = list::<pg_sys::SortGroupClause>(this.groupClause)
            .map(|clause| (*clause).tleSortGroupRef)
            .collect();
        list::<pg_sys::TargetEntry>(this.targetList)
            .filter(|target| !(**target).resjunk)
            .map(|target| {
                let group = (*target).ressortgroupref;
                let expression = flattened(query, (*target).expr.cast());
                Output {
                    item: super::conditions::item(query, expression)
                        .filter(|item| matches!(item, Item::Column { depth: 0, .. })),
                    filterable: whole && (!grouped || group != 0 && groups.contains(&group)),
                }
            })
            .collect()
    }
}

/// A copy of an expression in which columns of joins are columns of what is joined.
///
/// # Safety
/// `node` is part of `query`.
pub(super) unsafe fn flattened(query: *mut pg_sys::Query, node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: by contract.
    unsafe {
        let node: *mut pg_sys::Node = pg_sys::copyObjectImpl(node.cast()).cast();
        #[cfg(feature = "pg18")]
        let node = match (*query).hasGroupRTE {
            true => pg_sys::flatten_group_exprs(std::ptr::null_mut(), query, node),
            false => node,
        };
        #[cfg(feature = "pg15")]
        return pg_sys::flatten_join_alias_vars(query, node);
        #[cfg(not(feature = "pg15"))]
        return pg_sys::flatten_join_alias_vars(std::ptr::null_mut(), query, node);
    }
}

/// The subqueries in an expression, without those inside them.
///
/// # Safety
/// `node` is an expression, a list of them or NULL.
pub(super) unsafe fn subqueries_in(node: *mut pg_sys::Node) -> Vec<Level> {
    let mut found: Vec<*mut pg_sys::Query> = Vec::new();
    // SAFETY: by contract; the context is what the walker expects.
    unsafe {
        collect(node, (&raw mut found).cast());
        found.into_iter().map(|query| level(query)).collect()
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn collect(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: called by the walker with parts of an expression, and with the vector of `subqueries_in`.
    unsafe {
        if tag(node) == NodeTag::T_Query {
            (*context.cast::<Vec<*mut pg_sys::Query>>()).push(node.cast());
            return false;
        }
        ffi::expression_tree_walker(node, collect, context)
    }
}
