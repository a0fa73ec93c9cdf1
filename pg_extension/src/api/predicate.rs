use pgrx::prelude::*;

use crate::pg::identity::{Acting, POWERLESS};
use crate::pg::{Oid, predicate};

/// The tree, canonical text and columns of a predicate that is allowed, and of which everything is done as `role`; an ERROR otherwise.
#[pg_extern(sql = false)]
fn compile_predicate_as(
    source: Oid,
    predicate: &str,
    role: Oid,
) -> TableIterator<'static, (name!(tree, String), name!(canonical, String), name!(attnums, Vec<i16>))> {
    compiled(Acting::as_definer(role), source, predicate)
}

/// What the SQL of 0.1.0 calls until `ALTER EXTENSION UPDATE`. It does not say whose predicate it is.
#[pg_extern(sql = false)]
fn compile_predicate(
    source: Oid,
    predicate: &str,
) -> TableIterator<'static, (name!(tree, String), name!(canonical, String), name!(attnums, Vec<i16>))> {
    compiled(Acting::as_role(POWERLESS), source, predicate)
}

fn compiled(
    _acting: Acting,
    source: Oid,
    predicate: &str,
) -> TableIterator<'static, (name!(tree, String), name!(canonical, String), name!(attnums, Vec<i16>))> {
    let compiled = predicate::compile(source, predicate);
    TableIterator::once((compiled.tree, compiled.canonical, compiled.attnums))
}

/// A stored tree as this server writes what it has read.
#[pg_extern(sql = false)]
fn tree_again(tree: &str) -> String {
    predicate::again(tree)
}

/// A stored predicate with the column names of now.
#[pg_extern(sql = false)]
fn predicate_text(source: Oid, tree: &str) -> String {
    predicate::text(source, tree)
}
