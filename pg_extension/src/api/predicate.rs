use pgrx::prelude::*;

use crate::pg::{Oid, predicate};

/// The tree, canonical text and columns of a predicate that is allowed; an ERROR otherwise.
#[pg_extern(sql = false)]
fn compile_predicate(
    source: Oid,
    predicate: &str,
) -> TableIterator<'static, (name!(tree, String), name!(canonical, String), name!(attnums, Vec<i16>))> {
    let compiled = predicate::compile(source, predicate);
    TableIterator::once((compiled.tree, compiled.canonical, compiled.attnums))
}

/// A stored predicate with the column names of now.
#[pg_extern(sql = false)]
fn predicate_text(source: Oid, tree: &str) -> String {
    predicate::text(source, tree)
}
