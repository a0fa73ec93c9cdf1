//! Random transactions.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::kinds::Kind;
use super::schema::{Column, Table, World, quoted};

/// Ids are below.
const IDS: u32 = 24;

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Commit,
    Rollback,
    CommitPrepared,
    RollbackPrepared,
    /// Statements that PostgreSQL wants outside of transactions.
    Alone,
}

#[derive(Debug)]
pub(super) struct Script {
    pub(super) statements: Vec<String>,
    pub(super) end: End,
    /// It changes definitions of tables or shards.
    pub(super) alters: bool,
}

impl Script {
    pub(super) fn in_words(&self) -> String {
        format!("{:?}: {}", self.end, self.statements.join("; "))
    }
}

/// One transaction, or a statement that can't be in one; `world` becomes what it is if that commits.
pub(super) fn script(world: &mut World, files: &str, rng: &mut StdRng) -> Script {
    if rng.random_bool(0.01) {
        let table = world.tables.choose(rng).map_or("audit", |table| table.name.as_str());
        let statement = match rng.random_range(0..4) {
            0 => format!("VACUUM FULL {table}"),
            1 => "CLUSTER child USING child_pkey".to_owned(),
            2 => world.detach_concurrently(),
            _ => format!("VACUUM {table}"),
        };
        return Script { statements: vec![statement], end: End::Alone, alters: true };
    }
    transaction(world, files, 0.02, rng)
}

/// One transaction, of whose statements so many alter definitions.
pub(super) fn transaction(world: &mut World, files: &str, altering: f64, rng: &mut StdRng) -> Script {
    let mut alters = false;
    let mut statements = Vec::new();
    for _ in 0..rng.random_range(1..4) {
        if rng.random_bool(altering) {
            alters = true;
            statements.push(alteration(world, rng));
            continue;
        }
        let inner = change(world, files, rng);
        statements.push(match rng.random_range(0..20) {
            0 => format!("SAVEPOINT a; {inner}; ROLLBACK TO a"),
            1 => format!("SAVEPOINT a; {inner}; SAVEPOINT b; {}; ROLLBACK TO b", change(world, files, rng)),
            2 => format!(
                "SAVEPOINT a; SAVEPOINT b; {inner}; RELEASE b; {}; RELEASE a",
                change(world, files, rng)
            ),
            3 => format!(
                "DO $do$ BEGIN {inner}; RAISE division_by_zero; EXCEPTION WHEN OTHERS THEN {}; END $do$",
                change(world, files, rng)
            ),
            _ => inner,
        });
    }
    let end = match rng.random_range(0..100) {
        0..5 => End::Rollback,
        5..10 => End::CommitPrepared,
        10..12 => End::RollbackPrepared,
        _ => End::Commit,
    };
    Script { statements, end, alters }
}

fn some(rng: &mut StdRng) -> String {
    let low = rng.random_range(0..IDS);
    match rng.random_range(0..3) {
        0 => format!("id = {low}"),
        _ => format!("id BETWEEN {low} AND {}", low + rng.random_range(0..4)),
    }
}

fn list(columns: &[&Column]) -> String {
    columns.iter().map(|column| quoted(&column.name)).collect::<Vec<_>>().join(", ")
}

/// Values for the columns, each a constant.
fn values(world: &World, columns: &[&Column], rng: &mut StdRng) -> String {
    columns.iter().map(|column| value(world, column, rng)).collect::<Vec<_>>().join(", ")
}

fn value(world: &World, column: &Column, rng: &mut StdRng) -> String {
    format!("{}::{}", world.value(column, rng), column.kind.sql_type())
}

/// Columns to insert and rows for a few ids.
fn rows(world: &World, table: &Table, rng: &mut StdRng) -> (String, String) {
    let parents = &world.tables[0].name;
    let written = table.written();
    let has_parent = table.columns.iter().any(|column| column.kind == Kind::Parent);
    let low = rng.random_range(0..IDS);
    let high = (low + rng.random_range(0..4)).min(IDS - 1);
    let (parent, parents) = if has_parent {
        (", parent", format!(", (SELECT max(p.id) FROM {parents} p WHERE p.id <= g)"))
    } else {
        ("", String::new())
    };
    let columns = format!("id{parent}{}{}", if written.is_empty() { "" } else { ", " }, list(&written));
    let source = format!(
        "SELECT g{parents}{}{} FROM generate_series({low}, {high}) g",
        if written.is_empty() { "" } else { ", " },
        values(world, &written, rng)
    );
    (columns, source)
}

/// A statement that changes rows.
fn change(world: &World, files: &str, rng: &mut StdRng) -> String {
    let number = *[0, 0, 1, 1, 2, 2, 3, 4].choose(rng).unwrap_or(&0);
    let table = &world.tables[number];
    let parent_table = &world.tables[0].name;
    let name = &table.name;
    let written = table.written();
    let column = written.choose(rng).copied().unwrap_or(&table.columns[0]);
    let set = |rng: &mut StdRng| format!("{} = {}", quoted(&column.name), value(world, column, rng));
    match rng.random_range(0..100) {
        0..22 => {
            let (columns, source) = rows(world, table, rng);
            let unless = if table.has_key { "ON CONFLICT DO NOTHING".to_owned() } else { String::new() };
            format!("INSERT INTO {name} ({columns}) {source} {unless}")
        }
        22..28 if table.has_key => {
            let (columns, source) = rows(world, table, rng);
            format!("INSERT INTO {name} ({columns}) {source} ON CONFLICT (id) DO UPDATE SET {}", set(rng))
        }
        28..52 => format!("UPDATE {name} SET {} WHERE {}", set(rng), some(rng)),
        52..58 => {
            // Written, but not changed.
            format!("UPDATE {name} SET {0} = {0} WHERE {1}", quoted(&column.name), some(rng))
        }
        58..66 => {
            let (from, to) = (rng.random_range(0..IDS), rng.random_range(0..IDS));
            format!(
                "UPDATE {name} SET id = {to} WHERE id = {from} AND NOT EXISTS (SELECT FROM {name} WHERE id = {to})"
            )
        }
        66..78 => format!("DELETE FROM {name} WHERE {}", some(rng)),
        78..85 if table.has_key => {
            let (columns, source) = rows(world, table, rng);
            let names: Vec<String> = columns.split(", ").map(|name| format!("f.{name}")).collect();
            format!(
                "MERGE INTO {name} t USING ({source}) f ({columns}) ON t.id = f.id
                 WHEN MATCHED AND t.id % 3 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET {}
                 WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ({})",
                set(rng),
                names.join(", ")
            )
        }
        85..91 => {
            let (columns, source) = rows(world, table, rng);
            let file = format!("{files}/rows");
            // Only rows whose ids are free.
            let form = ["text", "csv"][rng.random_range(0..2)];
            format!(
                "COPY (SELECT * FROM ({source}) f ({columns}) WHERE id NOT IN (SELECT id FROM {name})) TO '{file}' (FORMAT {form});
                 COPY {name} ({columns}) FROM '{file}' (FORMAT {form})"
            )
        }
        91..93 => match rng.random_range(0..5) {
            0 => format!("TRUNCATE {parent_table} CASCADE"),
            1 => format!("TRUNCATE {}, audit RESTART IDENTITY", world.tables[3].name),
            2 => "TRUNCATE parts_low".to_owned(),
            _ => format!("TRUNCATE {name} CASCADE"),
        },
        _ => format!(
            "WITH moved AS (DELETE FROM {name} WHERE {} RETURNING 1) UPDATE audit SET k = (SELECT count(*) FROM moved) WHERE id % 4 = 0",
            some(rng)
        ),
    }
}

/// A statement that changes what tables or shards are.
fn alteration(world: &mut World, rng: &mut StdRng) -> String {
    world.named += 1;
    let unique = world.named;
    let number = rng.random_range(0..4);
    let extra = world.tables[number].columns.iter().position(|column| column.name.starts_with("extra"));
    let partitioned = world.tables[number].is_partitioned();
    let name = world.tables[number].name.clone();
    match rng.random_range(0..18) {
        12..15 => world.alter_third(rng),
        15 | 16 => alter_enum(world, rng),
        0 | 1 if extra.is_none() => {
            let column = Column { name: format!("extra {unique}"), kind: Kind::Int, nullable: true };
            let sql = format!("ALTER TABLE {name} ADD COLUMN {} int DEFAULT 2", quoted(&column.name));
            world.tables[number].columns.push(column);
            sql
        }
        0..3 if extra.is_some() => {
            let column = world.tables[number].columns.remove(extra.unwrap_or_default());
            format!("ALTER TABLE {name} DROP COLUMN {}", quoted(&column.name))
        }
        3 | 4 => {
            let columns = &mut world.tables[number].columns;
            let at = rng.random_range(0..columns.len());
            let column = &mut columns[at];
            if [Kind::Id, Kind::Parent].contains(&column.kind) || column.name.starts_with("extra") {
                return format!("ANALYZE {name}");
            }
            let before = std::mem::replace(&mut column.name, format!("rén \"{unique}"));
            format!("ALTER TABLE {name} RENAME COLUMN {} TO {}", quoted(&before), quoted(&column.name))
        }
        5 if !partitioned && number == 0 => {
            let to = if name.starts_with("public.") { "\"S q\"" } else { "public" };
            let bare = name.rsplit('.').next().unwrap_or_default().to_owned();
            rename(&mut world.tables[number], format!("{to}.{bare}"));
            format!("ALTER TABLE {name} SET SCHEMA {to}")
        }
        6 if !partitioned && number == 3 => {
            let to = quoted(&format!("Tbl {unique}"));
            rename(&mut world.tables[number], to.clone());
            format!("ALTER TABLE {name} RENAME TO {to}")
        }
        5 | 6 => {
            // Rows that come and go while it is no part of the whole.
            "ALTER TABLE parts DETACH PARTITION parts_high; DELETE FROM parts_high WHERE id % 5 = 0;
             ALTER TABLE parts ATTACH PARTITION parts_high FOR VALUES FROM (12) TO (18)"
                .to_owned()
        }
        7 => {
            let loose = &world.tables[3].name;
            format!(
                "ALTER TABLE {loose} SET UNLOGGED; DELETE FROM {loose} WHERE id % 4 = 0; ALTER TABLE {loose} SET LOGGED"
            )
        }
        8 => {
            let table = &world.tables[number];
            let small = table.columns.iter().find(|column| column.kind == Kind::Small);
            match small {
                Some(column) => {
                    let to = ["int", "smallint", "bigint"][rng.random_range(0..3)];
                    format!("ALTER TABLE {name} ALTER COLUMN {} TYPE {to}", quoted(&column.name))
                }
                None => format!("CREATE INDEX ON {name} (id)"),
            }
        }
        9 => world.identity(number, rng).trim_end_matches(';').to_owned(),
        10 => {
            let at = rng.random_range(0..world.shards.len());
            let (old, table, leaf) =
                (world.shards[at].name.clone(), world.shards[at].table, world.shards[at].leaf);
            let fresh = world.shard(old, table, leaf, rng);
            let sql = world.define(&fresh, true);
            world.shards[at] = fresh;
            sql.trim_end_matches(';').to_owned()
        }
        _ => {
            let loose = &world.tables[3];
            format!(
                "DROP TABLE {0}; CREATE TABLE {0} ({1}); ALTER TABLE {0} REPLICA IDENTITY FULL",
                loose.name,
                loose.columns_sql()
            )
        }
    }
}

/// Labels of the enum are renamed, or more of them come, in between or at the end.
fn alter_enum(world: &mut World, rng: &mut StdRng) -> String {
    let label = format!("feels {}", world.named);
    let at = rng.random_range(0..world.moods.len());
    let known = world.moods[at].clone();
    if world.moods.len() > 8 || rng.random_bool(0.5) {
        world.moods[at].clone_from(&label);
        return format!("ALTER TYPE mood RENAME VALUE '{known}' TO '{label}'");
    }
    let place = ["BEFORE", "AFTER"][rng.random_range(0..2)];
    world.moods.push(label.clone());
    format!("ALTER TYPE mood ADD VALUE '{label}' {place} '{known}'")
}

fn rename(table: &mut Table, name: String) {
    table.leaves = vec![name.clone()];
    table.name = name;
}
