//! Shards, mappings and tables as the origin has them.

use std::collections::BTreeMap;

use foreshard_planner::advice::{Definitions, Partition, QueryShard, Reference, Shard, Table};
use serde_json::Value;
use tokio_postgres::{Row, Transaction};

use super::bounds::{self, Bounds};
use super::{explained, statistics};

/// Everything, with sizes from statistics.
pub(super) async fn read(transaction: &Transaction<'_>) -> anyhow::Result<Definitions> {
    let mut definitions = definitions(transaction).await.map_err(explained)?;
    let oids = transaction
        .query(
            "SELECT DISTINCT s.source::oid FROM foreshard.shard s JOIN pg_class c ON c.oid = s.source WHERE s.defect IS NULL",
            &[],
        )
        .await
        .map_err(explained)?;
    let oids: Vec<u32> = oids.iter().map(|row| row.get(0)).collect();
    for (_, table) in tables(transaction, &oids).await.map_err(explained)? {
        definitions.tables.insert(table.name.clone(), table);
    }
    for shard in &mut definitions.shards {
        let Some(table) = definitions.tables.get(&shard.table) else { continue };
        shard.rows = match &shard.predicate {
            None => table.rows,
            Some(predicate) => matching(transaction, &shard.table, predicate)
                .await
                .unwrap_or(table.rows)
                .min(table.rows.max(1.0)),
        };
    }
    Ok(definitions)
}

async fn definitions(transaction: &Transaction<'_>) -> Result<Definitions, tokio_postgres::Error> {
    let mut definitions = Definitions {
        role: transaction.query_one("SELECT current_user::text", &[]).await?.try_get(0)?,
        ..Definitions::default()
    };
    let shards = transaction
        .query(
            "SELECT s.name::text, format('%I.%I', n.nspname, c.relname), s.predicate, s.key::text[], s.columns::text[],
                 pg_get_userbyid(s.owner::oid)::text, age(s.xmin)::bigint
             FROM foreshard.shard s JOIN pg_class c ON c.oid = s.source JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE s.defect IS NULL ORDER BY s.name",
            &[],
        )
        .await?;
    for row in &shards {
        definitions.shards.push(Shard {
            name: row.try_get(0)?,
            table: row.try_get(1)?,
            predicate: row.try_get(2)?,
            key: row.try_get(3)?,
            columns: row.try_get(4)?,
            owner: row.try_get(5)?,
            rows: 0.0,
            age: age(row, 6)?,
        });
    }
    let queries = transaction
        .query(
            "SELECT s.name::text, q.query, s.key::text[], pg_get_userbyid(s.owner::oid)::text, age(s.xmin)::bigint
             FROM foreshard.shard s JOIN foreshard.shard_query q ON q.shard = s.name WHERE s.defect IS NULL ORDER BY s.name",
            &[],
        )
        .await?;
    for row in &queries {
        definitions.queries.push(QueryShard {
            name: row.try_get(0)?,
            query: row.try_get(1)?,
            params: row.try_get(2)?,
            owner: row.try_get(3)?,
            age: age(row, 4)?,
        });
    }
    let mappings = transaction
        .query(
            "SELECT function_id::text, array_agg(shard::text ORDER BY ordinal), min(age(xmin))::bigint
             FROM foreshard.mapping GROUP BY function_id",
            &[],
        )
        .await?;
    for row in &mappings {
        definitions.mappings.insert(row.try_get(0)?, row.try_get(1)?);
        definitions.mapped.insert(row.try_get(0)?, age(row, 2)?);
    }
    Ok(definitions)
}

fn age(row: &Row, at: usize) -> Result<u64, tokio_postgres::Error> {
    Ok(row.try_get::<_, i64>(at)?.max(0) as u64)
}

/// Rows that a predicate is estimated to match; the predicate is the catalog's own text.
async fn matching(transaction: &Transaction<'_>, table: &str, predicate: &str) -> Option<f64> {
    transaction.batch_execute("SAVEPOINT estimate").await.ok()?;
    let explain = format!("EXPLAIN (FORMAT JSON) SELECT FROM {table} WHERE {predicate}");
    let plan = transaction.query_one(&explain, &[]).await;
    // Without the right to read the table there is no estimate, and the table's size has to do.
    transaction.batch_execute("ROLLBACK TO estimate; RELEASE estimate").await.ok()?;
    let plan: Value = plan.ok()?.try_get(0).ok()?;
    plan[0]["Plan"]["Plan Rows"].as_f64()
}

async fn tables(
    transaction: &Transaction<'_>,
    oids: &[u32],
) -> Result<BTreeMap<u32, Table>, tokio_postgres::Error> {
    let found = transaction
        .query(
            "SELECT c.oid, format('%I.%I', n.nspname, c.relname), quote_ident(n.nspname), c.relreplident = 'd',
                 CASE c.relreplident WHEN 'f' THEN NULL WHEN 'n' THEN '{}' ELSE coalesce((
                     SELECT array_agg(a.attname::text) FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
                     WHERE i.indrelid = c.oid AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END), '{}') END,
                 (SELECT a.attname::text FROM pg_partitioned_table p JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]
                     WHERE p.partrelid = c.oid AND p.partnatts = 1),
                 size.rows, size.inserts, size.rewrites
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
             LATERAL (SELECT
                     -- Never analysed: a guess from the size on disk.
                     sum(CASE WHEN l.reltuples < 0 THEN pg_relation_size(l.oid) / 100.0 ELSE l.reltuples END)::float8 AS rows,
                     sum(s.n_tup_ins)::float8 / observed.seconds AS inserts,
                     sum(s.n_tup_upd + s.n_tup_del)::float8 / observed.seconds AS rewrites
                 FROM (SELECT c.oid AS leaf UNION SELECT relid FROM pg_partition_tree(c.oid) WHERE isleaf) AS leaves
                 JOIN pg_class l ON l.oid = leaves.leaf AND l.relkind = 'r'
                 LEFT JOIN pg_stat_all_tables s ON s.relid = l.oid,
                 (SELECT greatest(extract(epoch FROM now() - coalesce(d.stats_reset, pg_postmaster_start_time())), 1)::float8 AS seconds
                     FROM pg_stat_database d WHERE d.datname = current_database()) AS observed
                 GROUP BY observed.seconds) AS size
             WHERE c.oid = ANY ($1)",
            &[&oids],
        )
        .await?;
    let mut tables = BTreeMap::new();
    let mut rows = BTreeMap::new();
    for row in &found {
        let oid: u32 = row.try_get(0)?;
        let number = |at| Ok::<f64, tokio_postgres::Error>(row.try_get::<_, Option<f64>>(at)?.unwrap_or(0.0));
        rows.insert(oid, number(6)?);
        tables.insert(
            oid,
            Table {
                name: row.try_get(1)?,
                schema: row.try_get(2)?,
                identity_is_default: row.try_get(3)?,
                identity: row.try_get(4)?,
                partitioned_by: row.try_get(5)?,
                rows: number(6)?,
                inserts: number(7)?,
                rewrites: number(8)?,
                ..Table::default()
            },
        );
    }
    for (oid, columns) in statistics::columns(transaction, oids, &rows).await? {
        if let Some(table) = tables.get_mut(&oid) {
            table.columns = columns;
        }
    }
    indexes(transaction, oids, &mut tables).await?;
    references(transaction, oids, &mut tables).await?;
    partitions(transaction, oids, &mut tables).await?;
    // A key of one column tells rows apart even where nobody has counted its values.
    for table in tables.values_mut() {
        let (key, rows) = (table.primary_key.clone(), table.rows);
        if let [key] = key.as_slice()
            && let Some(column) = table.columns.iter_mut().find(|c| c.name == *key)
        {
            column.distinct = column.distinct.max(rows);
        }
    }
    Ok(tables)
}

async fn indexes(
    transaction: &Transaction<'_>,
    oids: &[u32],
    tables: &mut BTreeMap<u32, Table>,
) -> Result<(), tokio_postgres::Error> {
    let found = transaction
        .query(
            "SELECT i.indrelid, i.indisprimary, (SELECT array_agg(a.attname::text ORDER BY k.at) FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, at)
                 JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum WHERE k.at <= i.indnkeyatts)
             FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
             WHERE i.indrelid = ANY ($1) AND i.indisvalid AND i.indpred IS NULL AND 0 <> ALL (i.indkey::int2[]) AND m.amname IN ('btree', 'hash')",
            &[&oids],
        )
        .await?;
    for row in &found {
        let columns: Vec<String> = row.try_get(2)?;
        if let Some(table) = tables.get_mut(&row.try_get(0)?) {
            if row.try_get(1)? {
                table.primary_key = columns.clone();
            }
            table.indexes.push(columns);
        }
    }
    Ok(())
}

async fn references(
    transaction: &Transaction<'_>,
    oids: &[u32],
    tables: &mut BTreeMap<u32, Table>,
) -> Result<(), tokio_postgres::Error> {
    let found = transaction
        .query(
            "SELECT k.conrelid, format('%I.%I', n.nspname, c.relname),
                 (SELECT array_agg(a.attname::text ORDER BY o.at) FROM unnest(k.conkey) WITH ORDINALITY AS o(attnum, at)
                     JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = o.attnum),
                 (SELECT array_agg(a.attname::text ORDER BY o.at) FROM unnest(k.confkey) WITH ORDINALITY AS o(attnum, at)
                     JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = o.attnum)
             FROM pg_constraint k JOIN pg_class c ON c.oid = k.confrelid JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE k.contype = 'f' AND k.conrelid = ANY ($1)",
            &[&oids],
        )
        .await?;
    for row in &found {
        if let Some(table) = tables.get_mut(&row.try_get(0)?) {
            table.references.push(Reference {
                table: row.try_get(1)?,
                columns: row.try_get(2)?,
                targets: row.try_get(3)?,
            });
        }
    }
    Ok(())
}

async fn partitions(
    transaction: &Transaction<'_>,
    oids: &[u32],
    tables: &mut BTreeMap<u32, Table>,
) -> Result<(), tokio_postgres::Error> {
    let found = transaction
        .query(
            "SELECT i.inhparent, format('%I.%I', n.nspname, c.relname), pg_get_expr(c.relpartbound, c.oid), greatest(c.reltuples, 0)::float8
             FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition AND c.relkind = 'r'
             JOIN pg_namespace n ON n.oid = c.relnamespace WHERE i.inhparent = ANY ($1)",
            &[&oids],
        )
        .await?;
    for row in &found {
        let bounds = bounds::parse(row.try_get(2)?);
        if let (Some(table), Some(bounds)) = (tables.get_mut(&row.try_get(0)?), bounds) {
            let (values, range) = match bounds {
                Bounds::List(values) => (values, None),
                Bounds::Range(from, to) => (Vec::new(), Some((from, to))),
            };
            table.partitions.push(Partition { table: row.try_get(1)?, values, range, rows: row.try_get(3)? });
        }
    }
    Ok(())
}
