//! The SELECT that reads one shard instance.

use foreshard_protocol::RowOrder;

use super::query;
use crate::catalog::{Dependency, RowForm, Shard, stored_query};
use crate::pg::relation::{ColumnShape, Shape, with_partitions};
use crate::pg::rows::quoted;
use crate::pg::scan::View;
use crate::pg::{Oid, casts, predicate, value};

/// Everything of a shard that its statement needs, as the source table is now.
pub(super) struct Readable {
    /// What its rows look like.
    pub(super) form: RowForm,
    /// Key columns: name, type below any domain, type modifier.
    pub(super) key: Vec<(String, Oid, i32)>,
    select: String,
    filter: Option<String>,
    order: Vec<String>,
    query: bool,
}

impl Readable {
    /// Says what is wrong where the source no longer fits the definition.
    pub(super) fn of(shard: &Shard) -> Result<Readable, String> {
        if let Some(defect) = &shard.defect {
            return Err(defect.clone());
        }
        if let Some(dependencies) = &shard.query {
            return Self::of_query(shard, dependencies);
        }
        let source = Oid::from(shard.source);
        let shape = Shape::of(source).ok_or("the source table is gone")?;
        if shape.row_security() {
            return Err("the source table has row-level security".into());
        }
        let members = if shape.is_partitioned() { with_partitions(source) } else { Vec::new() };
        let logged =
            shape.is_logged() && members.into_iter().filter_map(Shape::of).all(|part| part.is_logged());
        if !logged {
            return Err("changes of the source table, or of a partition, are not in the log".into());
        }
        if let Some(reason) = casts::distrusted(&shape, Oid::from(shard.owner)) {
            return Err(reason);
        }
        let form = RowForm::of(shard, &shape)?;
        let list: Vec<String> = form.chosen.iter().map(expression).collect();
        // Children that were added to an ordinary table later are not followed by the stream, so they are not read either.
        let only = if shape.is_partitioned() { "" } else { "ONLY " };
        Ok(Readable {
            key: form
                .key
                .iter()
                .map(|column| (column.name.clone(), value::base_type(column.column_type), column.typmod()))
                .collect(),
            select: format!("SELECT {} FROM {only}{} AS t", list.join(", "), shard.source_name),
            filter: shard.predicate_tree.as_deref().map(|tree| predicate::text(source, tree)),
            order: form.sorted_by.iter().map(|column| format!("t.{}", quoted(&column.name))).collect(),
            form,
            query: false,
        })
    }

    fn of_query(shard: &Shard, dependencies: &[Dependency]) -> Result<Readable, String> {
        let stored = stored_query(&shard.name, View::Statement).ok_or("its query is gone")?;
        let tree = stored.tree.ok_or("its query does not fit the tables")?;
        let (columns, select) = query::readable(&tree, dependencies, Oid::from(shard.owner))?;
        let key = shard.key.iter().cloned().zip(stored.types).map(|(name, kind)| (name, kind, -1)).collect();
        // The query may sort its rows, or not; nothing tells rows of it apart.
        let form = RowForm {
            chosen: Vec::new(),
            columns,
            key: Vec::new(),
            identity: Vec::new(),
            order: RowOrder::Hidden,
            sorted_by: Vec::new(),
        };
        Ok(Readable { form, key, select, filter: None, order: Vec::new(), query: true })
    }

    /// Whether every key value is a parameter of the statement, NULL included.
    pub(super) fn is_query(&self) -> bool {
        self.query
    }

    /// The statement for an instance whose key columns are NULL where `nulls` says so; the others are parameters in order.
    pub(super) fn statement(&self, nulls: &[bool]) -> String {
        if self.query {
            return self.select.clone();
        }
        let mut conditions: Vec<String> = self.filter.iter().map(|filter| format!("({filter})")).collect();
        let mut parameter = 0;
        for ((name, _, _), null) in self.key.iter().zip(nulls) {
            conditions.push(if *null {
                format!("t.{} IS NULL", quoted(name))
            } else {
                parameter += 1;
                format!("t.{} = ${parameter}", quoted(name))
            });
        }
        let mut statement = self.select.clone();
        if !conditions.is_empty() {
            statement += " WHERE ";
            statement += &conditions.join(" AND ");
        }
        if !self.order.is_empty() {
            statement += " ORDER BY ";
            statement += &self.order.join(", ");
        }
        statement
    }
}

/// Nested types become JSON where their parts are known; all others leave as they are and become JSON at the edge.
fn expression(column: &ColumnShape) -> String {
    let name = quoted(&column.name);
    match value::kind(column.column_type) {
        (_, true) => format!("pg_catalog.to_json(t.{name}) AS {name}"),
        _ => format!("t.{name}"),
    }
}
