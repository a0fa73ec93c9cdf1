//! Predicates made executable on the rows of one physical table.

use std::ffi::CString;

use pgrx::pg_guard;
use pgrx::pg_sys::{self, NodeTag};

use super::context::Switched;
use super::equality::{Demand, demand};
use super::subtransaction::caught;
use super::{Oid, ffi};

/// Which rows are in a shard.
pub(crate) enum WantedPredicate<'a> {
    /// All.
    None,
    /// Those of this expression.
    Tree(&'a str),
    /// Perhaps any: the definition no longer fits the table.
    Unusable,
}

/// Which rows of a table are in a shard, ready to be asked.
pub(super) enum Predicate {
    None,
    Expression {
        state: *mut pg_sys::ExprState,
        attnums: Vec<i16>,
        /// What it demands of one column, for the index.
        demand: Option<Demand>,
        /// No function in it can raise an error, whatever the row holds.
        infallible: bool,
    },
    /// Could not be prepared: every row may be in the shard.
    Broken,
}

impl Predicate {
    /// What it demands of one column; asked once.
    pub(super) fn take_demand(&mut self) -> Option<Demand> {
        match self {
            Predicate::Expression { demand, .. } => demand.take(),
            Predicate::None | Predicate::Broken => None,
        }
    }
}

/// Makes a stored tree executable on this table's rows, whose columns have these types.
pub(super) fn prepare(tree: &str, mapping: &[i16], types: &[Oid]) -> Predicate {
    let Ok(tree) = CString::new(tree) else { return Predicate::Broken };
    // SAFETY: the tree was written by `predicate::compile` of this version's server; all that is built lives in the current
    // memory context, which the evaluator owns. The mapping is only read.
    let prepared = unsafe {
        caught(|| {
            let node: *mut pg_sys::Node = pg_sys::stringToNode(tree.as_ptr()).cast();
            let mut numbers = mapping.to_vec();
            let mut map: pg_sys::AttrMap = std::mem::zeroed();
            map.attnums = numbers.as_mut_ptr();
            map.maplen = numbers.len() as i32;
            let mut whole_row = false;
            let node =
                pg_sys::map_variable_attnos(node, 1, 0, &raw const map, Oid::INVALID, &raw mut whole_row);
            let planned = pg_sys::expression_planner(node.cast());
            let demand = demand(planned.cast());
            let mut look = Look { columns: Vec::new(), infallible: true };
            look_at(planned.cast(), (&raw mut look).cast());
            let state = pg_sys::ExecInitExpr(planned, std::ptr::null_mut());
            assert!(!state.is_null(), "a stored predicate is an expression");
            (state, look, demand)
        })
    };
    match prepared {
        // A column that has another type than when the shard was defined can't be read by this expression any more.
        Ok((_, look, _))
            if look.columns.iter().any(|(attnum, kind)| types.get(*attnum as usize - 1) != Some(kind)) =>
        {
            Predicate::Broken
        }
        Ok((state, look, demand)) => Predicate::Expression {
            state,
            demand,
            attnums: look.columns.into_iter().map(|(attnum, _)| attnum).collect(),
            infallible: look.infallible,
        },
        Err(_) => Predicate::Broken,
    }
}

/// The columns that a stored tree reads, in numbers of the named table; `None` if it can't be read.
pub(crate) fn columns_read(tree: &str) -> Option<Vec<i16>> {
    let tree = CString::new(tree).ok()?;
    // SAFETY: as in `prepare`; nothing of the tree is kept.
    let read = unsafe {
        caught(|| {
            let mut look = Look { columns: Vec::new(), infallible: true };
            look_at(pg_sys::stringToNode(tree.as_ptr()).cast(), (&raw mut look).cast());
            look.columns
        })
    };
    Some(read.ok()?.into_iter().map(|(attnum, _)| attnum).collect())
}

struct Look {
    /// Columns and the types that the expression takes them for.
    columns: Vec<(i16, Oid)>,
    infallible: bool,
}

#[pg_guard]
unsafe extern "C-unwind" fn look_at(node: *mut pg_sys::Node, context: *mut std::ffi::c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: the context is a `Look` on the stack of `prepare`; the tag says which struct the node is.
    unsafe {
        let look = &mut *context.cast::<Look>();
        match (*node).type_ {
            NodeTag::T_Var => {
                let var = &*node.cast::<pg_sys::Var>();
                look.columns.push((var.varattno, var.vartype));
            }
            NodeTag::T_Const
            | NodeTag::T_OpExpr
            | NodeTag::T_FuncExpr
            | NodeTag::T_DistinctExpr
            | NodeTag::T_ScalarArrayOpExpr
            | NodeTag::T_BoolExpr
            | NodeTag::T_RelabelType
            | NodeTag::T_NullTest
            | NodeTag::T_BooleanTest
            | NodeTag::T_List => {}
            _ => look.infallible = false,
        }
        // Leakproof functions are those that raise no error that depends on their arguments.
        if pg_sys::check_functions_in_node(node, Some(may_fail), std::ptr::null_mut()) {
            look.infallible = false;
        }
        ffi::expression_tree_walker(node, look_at, context)
    }
}

/// Common in predicates and not marked leakproof, though no argument makes them raise an error.
const NEVER_FAILING: [u32; 10] = [
    pg_sys::F_NUMERIC_EQ,
    pg_sys::F_NUMERIC_NE,
    pg_sys::F_NUMERIC_LT,
    pg_sys::F_NUMERIC_LE,
    pg_sys::F_NUMERIC_GT,
    pg_sys::F_NUMERIC_GE,
    pg_sys::F_JSONB_OBJECT_FIELD,
    pg_sys::F_JSONB_OBJECT_FIELD_TEXT,
    pg_sys::F_JSONB_EXISTS,
    pg_sys::F_LENGTH_TEXT,
];

#[pg_guard]
unsafe extern "C-unwind" fn may_fail(function: Oid, _context: *mut std::ffi::c_void) -> bool {
    // SAFETY: a catalog lookup.
    !NEVER_FAILING.contains(&function.into()) && unsafe { !pg_sys::get_func_leakproof(function) }
}

/// NULL counts as false, as in WHERE.
///
/// # Safety
/// As for `value`, of an expression that gives a boolean.
pub(super) unsafe fn holds(state: *mut pg_sys::ExprState, expressions: *mut pg_sys::ExprContext) -> bool {
    // SAFETY: by contract.
    unsafe { value(state, expressions) }.is_some_and(|value| value.value() as u8 != 0)
}

/// What the expression gives, `None` for NULL; in the per-tuple memory of `expressions`.
///
/// # Safety
/// `state` is alive and was prepared for rows of the table whose slot `expressions` has; the slot is filled with every column that the
/// expression reads.
pub(super) unsafe fn value(
    state: *mut pg_sys::ExprState,
    expressions: *mut pg_sys::ExprContext,
) -> Option<pg_sys::Datum> {
    // SAFETY: the call through the function pointer is guarded as pgrx guards named functions, and the frames below hold nothing
    // to drop.
    unsafe {
        let evaluate = (*state).evalfunc?;
        let _back = Switched::to((*expressions).ecxt_per_tuple_memory);
        let mut null = false;
        let result = pg_sys::ffi::pg_guard_ffi_boundary(|| evaluate(state, expressions, &raw mut null));
        (!null).then_some(result)
    }
}
