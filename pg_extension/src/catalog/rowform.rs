use foreshard_protocol::{Column, Comparison, RowOrder, fingerprint};

use super::Shard;
use crate::pg::relation::{ColumnShape, Shape};
use crate::pg::rowkey::RowKeys;
use crate::pg::rows::primary_key;
use crate::pg::value;

/// What rows of a shard look like: the same for those that are fetched and those that the stream brings.
pub(crate) struct RowForm {
    /// The columns in order, as the source table has them.
    pub(crate) chosen: Vec<ColumnShape>,
    /// As edges get them.
    pub(crate) columns: Vec<Column>,
    /// Columns of the key, as the source table has them.
    pub(crate) key: Vec<ColumnShape>,
    /// Indices into `columns` of those that tell rows apart; empty if none do.
    pub(crate) identity: Vec<u16>,
    /// How rows of an instance are sorted.
    pub(crate) order: RowOrder,
    /// Columns of the source table that rows are sorted by.
    pub(crate) sorted_by: Vec<ColumnShape>,
}

impl RowForm {
    /// Says what is wrong where the source no longer fits the definition.
    pub(crate) fn of(shard: &Shard, shape: &Shape) -> Result<RowForm, String> {
        let present = |attnum: &i16| {
            shape.column(*attnum).cloned().ok_or_else(|| "a column of the shard is gone".to_owned())
        };
        let chosen: Vec<ColumnShape> = match &shard.column_attnums {
            Some(attnums) => attnums.iter().map(present).collect::<Result<_, _>>()?,
            None => shape.columns.iter().filter(|column| !column.dropped).cloned().collect(),
        };
        let key: Vec<ColumnShape> = shard.key_attnums.iter().map(present).collect::<Result<_, _>>()?;
        let primary = primary_key(shape.oid);
        let sorted_by: Vec<ColumnShape> = primary
            .iter()
            .filter_map(|attnum| shape.column(*attnum))
            .filter(|column| !key.iter().any(|part| part.attnum == column.attnum))
            .cloned()
            .collect();
        let place = |attnum: i16| {
            chosen.iter().position(|column| column.attnum == attnum).and_then(|at| u16::try_from(at).ok())
        };
        let identity = RowKeys::of(shape.oid, shape.is_partitioned())
            .sets
            .into_iter()
            .find_map(|set| set.into_iter().map(place).collect::<Option<Vec<_>>>());
        let sorted = sorted_by
            .iter()
            .map(|column| Some((place(column.attnum)?, comparison(column))))
            .collect::<Option<Vec<_>>>();
        let order = match sorted {
            _ if primary.is_empty() => RowOrder::Unsorted,
            Some(sorted) => RowOrder::By(sorted),
            None => RowOrder::Hidden,
        };
        Ok(RowForm {
            columns: chosen
                .iter()
                .map(|column| Column {
                    name: column.name.clone(),
                    kind: value::kind_under(column.column_type, column.collation),
                })
                .collect(),
            chosen,
            key,
            identity: identity.unwrap_or_default(),
            order,
            sorted_by,
        })
    }

    /// What a change of a row and the copy that it is applied to must have in common.
    pub(crate) fn fingerprint(&self) -> u64 {
        fingerprint(&self.columns, &self.identity, &self.order)
    }
}

fn comparison(column: &ColumnShape) -> Comparison {
    value::comparison(column.column_type, column.collation)
}
