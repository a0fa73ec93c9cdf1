//! Columns with what `pg_stats` says about their values.

use std::collections::BTreeMap;

use foreshard_planner::advice::{Column, Scale};
use tokio_postgres::Transaction;

/// Columns of each table by its oid, in order.
pub(super) async fn columns(
    transaction: &Transaction<'_>,
    tables: &[u32],
    rows: &BTreeMap<u32, f64>,
) -> Result<BTreeMap<u32, Vec<Column>>, tokio_postgres::Error> {
    let found = transaction
        .query(
            "WITH RECURSIVE base AS (
                 SELECT t.oid, t.oid AS root, t.typtype, t.typbasetype FROM pg_type t
                 UNION ALL SELECT t.oid, b.root, t.typtype, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.typbasetype
                     WHERE b.typtype = 'd')
             SELECT a.attrelid, a.attname::text, CASE b.typtype WHEN 'e' THEN 'enum' ELSE b.oid::regtype::text END, a.attnotnull,
                 s.n_distinct::float8, s.avg_width::float8, s.most_common_vals::text::text[], s.most_common_freqs::float8[],
                 s.histogram_bounds::text::text[], coalesce(c.collisdeterministic, true)
             FROM pg_attribute a JOIN pg_class r ON r.oid = a.attrelid JOIN pg_namespace n ON n.oid = r.relnamespace
             JOIN base b ON b.root = a.atttypid AND b.typtype <> 'd'
             LEFT JOIN pg_collation c ON c.oid = a.attcollation
             LEFT JOIN pg_stats s ON (s.schemaname, s.tablename, s.attname, s.inherited)
                 = (n.nspname, r.relname, a.attname, r.relkind = 'p')
             WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v'
             ORDER BY a.attrelid, a.attnum",
            &[&tables],
        )
        .await?;
    let mut columns: BTreeMap<u32, Vec<Column>> = BTreeMap::new();
    for row in &found {
        let table: u32 = row.try_get(0)?;
        let rows = rows.get(&table).copied().unwrap_or_default();
        let kind: String = row.try_get(2)?;
        let values: Vec<String> = row.try_get::<_, Option<_>>(6)?.unwrap_or_default();
        let shares: Vec<f64> = row.try_get::<_, Option<_>>(7)?.unwrap_or_default();
        let histogram: Vec<String> = row.try_get::<_, Option<_>>(8)?.unwrap_or_default();
        let stored: f64 = row.try_get::<_, Option<_>>(5)?.unwrap_or(8.0);
        columns.entry(table).or_default().push(Column {
            name: row.try_get(1)?,
            distinct: distinct(row.try_get(4)?, rows),
            width: text_width(&kind, stored, values.iter().chain(&histogram)),
            scale: scale(&kind),
            keyable: keyable(&kind) && row.try_get(9)?,
            not_null: row.try_get(3)?,
            common: values.into_iter().zip(shares).collect(),
            histogram,
        });
    }
    Ok(columns)
}

/// Number of distinct values: a number, a share of the rows below zero, unknown.
fn distinct(estimate: Option<f64>, rows: f64) -> f64 {
    match estimate {
        Some(share) if share < 0.0 => (-share * rows).max(1.0),
        Some(count) if count > 0.0 => count,
        // Nothing is known: not worth a proposal that rests on it.
        _ => 1.0,
    }
}

/// Mean length of a value as text.
fn text_width<'a>(kind: &str, stored: f64, seen: impl Iterator<Item = &'a String>) -> f64 {
    match kind {
        "boolean" => 4.5,
        "date" => 10.0,
        "uuid" => 36.0,
        "timestamp without time zone" => 26.0,
        "timestamp with time zone" => 29.0,
        // A byte of the stored width is the header of a short value.
        "text" | "character varying" | "character" | "json" => (stored - 1.0).max(1.0),
        "jsonb" => stored * 1.2,
        "bytea" => stored * 2.0,
        _ => {
            let (sum, count) = seen.fold((0, 0), |(sum, count), v| (sum + v.len(), count + 1));
            if count > 0 { sum as f64 / f64::from(count) } else { stored }
        }
    }
}

fn scale(kind: &str) -> Option<Scale> {
    match kind {
        "smallint" | "integer" | "bigint" | "numeric" | "real" | "double precision" => Some(Scale::Number),
        "date" => Some(Scale::Date),
        "timestamp without time zone" => Some(Scale::Timestamp),
        _ => None,
    }
}

/// Whether values of the type have one text each: what `foreshard.create_shard` takes as a key.
fn keyable(kind: &str) -> bool {
    matches!(
        kind,
        "smallint"
            | "integer"
            | "bigint"
            | "oid"
            | "boolean"
            | "text"
            | "character varying"
            | "character"
            | "name"
            | "uuid"
            | "date"
            | "timestamp without time zone"
            | "timestamp with time zone"
            | "enum"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_are_read_as_pg_stats_means_them() {
        assert_eq!(distinct(Some(-1.0), 500.0), 500.0);
        assert_eq!(distinct(Some(-0.5), 500.0), 250.0);
        assert_eq!(distinct(Some(7.0), 500.0), 7.0);
        assert_eq!(distinct(None, 500.0), 1.0);
        let seen = ["10".to_owned(), "2000".to_owned()];
        assert_eq!(text_width("integer", 4.0, seen.iter()), 3.0);
        assert_eq!(text_width("text", 33.0, [].iter()), 32.0);
    }
}
