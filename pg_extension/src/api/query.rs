//! Query shards: from their text to what is kept of them, and back to something that can be run.

use foreshard_protocol::Column;
use pgrx::PgSqlErrorCode;
use pgrx::prelude::*;

use crate::catalog::{Dependency, fail};
use crate::pg::identity::Acting;
use crate::pg::query::{self, Stored};
use crate::pg::relation::{Shape, with_partitions};
use crate::pg::rows::{check_readable, quoted};
use crate::pg::{Oid, casts, predicate, value};

/// Bytes of a query.
const LONGEST: usize = 32 << 10;

/// Tree and parameter types of a query that the caller wrote and may run; names are looked up in his search path.
pub(crate) fn caller_query(text: &str, parameters: usize) -> (String, Vec<Oid>) {
    if text.len() > LONGEST {
        fail(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("a query has at most {LONGEST} bytes"),
            "Shorten it, or define several shards.",
        );
    }
    let compiled = query::compile(text, parameters, None);
    check_readable(&query::stored(&compiled.tree).text, &compiled.types);
    (compiled.tree, compiled.types)
}

/// The tree of a query with known parameter types, and what it depends on, one row each. Everything is done as `role`.
#[expect(clippy::type_complexity, reason = "the columns as the extension's script declares them")]
#[pg_extern(sql = false)]
fn compile_query(
    query: &str,
    types: Vec<Oid>,
    role: Oid,
) -> TableIterator<
    'static,
    (
        name!(tree, String),
        name!(source, Oid),
        name!(key_attnums, Vec<i16>),
        name!(predicate, Option<String>),
        name!(predicate_tree, Option<String>),
        name!(read_attnums, Option<Vec<i16>>),
    ),
> {
    let _acting = Acting::as_definer(role);
    let compiled = query::compile(query, types.len(), Some(&types));
    let tree = compiled.tree;
    let row = |found: crate::query::Dependency| {
        let source = Oid::from(found.table);
        let predicate_tree = predicate::conjunction(&found.predicates);
        let predicate = predicate_tree.as_deref().map(|tree| predicate::text(source, tree));
        let read = compiled.columns.get(&found.table).cloned();
        (tree.clone(), source, found.key, predicate, predicate_tree, read)
    };
    TableIterator::new(compiled.dependencies.into_iter().map(row).collect::<Vec<_>>())
}

/// A stored query with the names of now.
#[pg_extern(sql = false)]
fn query_text(tree: &str) -> String {
    query::stored(tree).text
}

/// What a fetch of a query shard needs: columns and statement; the parameters stay `$1`, `$2` ….
pub(super) fn readable(
    tree: &str,
    dependencies: &[Dependency],
    owner: Oid,
) -> Result<(Vec<Column>, String), String> {
    for found in dependencies {
        let source = Oid::from(found.source);
        let gone = || format!("table {} is gone", found.source_name);
        let shape = Shape::of(source).ok_or_else(gone)?;
        if shape.row_security() {
            return Err(format!("table {} has row-level security", found.source_name));
        }
        // Any expression of the query may make JSON of any column.
        if let Some(reason) = casts::distrusted(&shape, owner) {
            return Err(reason);
        }
        let members = if shape.is_partitioned() { with_partitions(source) } else { Vec::new() };
        if !shape.is_logged() || !members.into_iter().filter_map(Shape::of).all(|part| part.is_logged()) {
            return Err(format!("changes of {}, or of a partition, are not in the log", found.source_name));
        }
    }
    let Stored { text, columns } = query::stored(tree);
    let list: Vec<String> = columns
        .iter()
        .map(|(name, kind)| {
            let name = quoted(name);
            match value::kind(*kind) {
                (_, true) => format!("pg_catalog.to_json(q.{name}) AS {name}"),
                _ => format!("q.{name}"),
            }
        })
        .collect();
    let columns =
        columns.into_iter().map(|(name, kind)| Column { name, kind: value::kind(kind).0 }).collect();
    Ok((columns, format!("SELECT {} FROM ({text}) AS q", list.join(", "))))
}
