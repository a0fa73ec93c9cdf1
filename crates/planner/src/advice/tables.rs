//! What tables lack to serve the shards on them: indexes that find instances, old values that tell which one a change concerns.

use std::collections::BTreeSet;

use super::origin::{Shard, Table};
use super::replay::{Read, Remake, Replay};
use super::shapes::expectation;
use super::sql::{identifier, identifiers};
use super::{Advice, Context, Expectation, Kind, RestsOn};

/// A table of fewer rows is read as fast without an index.
const WORTH_AN_INDEX: f64 = 1_000.0;

fn keyed<'a>(context: &Context<'a>) -> Vec<(&'a Shard, &'a Table)> {
    let keyed = context.definitions.shards.iter().filter(|s| !s.key.is_empty());
    keyed.filter_map(|s| Some((s, context.definitions.table_of(s)?))).collect()
}

/// A name for an index of this shard, unquoted.
fn index_name(shard: &Shard, what: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let name: String = shard.name.chars().map(plain).take(40).collect();
    format!("foreshard_{name}_{what}")
}

fn rests_on(shard: &Shard) -> RestsOn {
    RestsOn { shards: vec![shard.name.clone()], ..RestsOn::default() }
}

/// Keys whose instances can only be found by reading the whole table.
pub(super) fn indexes(context: &Context<'_>, found: &mut Vec<Advice>) {
    let mut proposed: Vec<(&str, &[String])> = Vec::new();
    for (shard, table) in keyed(context) {
        let begins = |index: &Vec<String>| {
            index.len() >= shard.key.len() && index[..shard.key.len()].iter().all(|c| shard.key.contains(c))
        };
        let wanted = (table.name.as_str(), shard.key.as_slice());
        if table.rows < WORTH_AN_INDEX || table.indexes.iter().any(begins) || proposed.contains(&wanted) {
            continue;
        }
        proposed.push(wanted);
        let name = identifier(&index_name(shard, "key"));
        found.push(Advice {
            kind: Kind::Index,
            subject: shard.name.clone(),
            text: format!(
                "each fetch of an instance of {} reads all {:.0} rows of {}: no index begins with its key",
                shard.name, table.rows, table.name
            ),
            caution:
                "writers of the table wait while it is built; CREATE INDEX CONCURRENTLY by hand spares them"
                    .into(),
            statement: format!("CREATE INDEX {name} ON {} ({});", table.name, identifiers(&shard.key)),
            undo: format!("DROP INDEX {}.{name};", table.schema),
            rests_on: rests_on(shard),
            expected: Expectation { accesses: context.usage.reads(&shard.name), ..Expectation::default() },
        });
    }
}

/// Columns that a shard's key and predicate name; a word in a predicate that is a column's name counts.
fn needed(shard: &Shard, table: &Table) -> Vec<String> {
    let predicate = shard.predicate.as_deref().unwrap_or("");
    let words: Vec<&str> = predicate.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
    let named = |c: &&super::Column| {
        shard.key.contains(&c.name)
            || words.contains(&c.name.as_str())
            || predicate.contains(&identifier(&c.name))
    };
    table.columns.iter().filter(named).map(|c| c.name.clone()).collect()
}

/// Whether the log's old row of a change does not show if the row was in the shard.
pub(super) fn hides(shard: &Shard, table: &Table) -> bool {
    let needed = needed(shard, table);
    table.identity.as_ref().is_some_and(|covered| needed.iter().any(|c| !covered.contains(c)))
}

/// Instances of a shard that are read at the edge that reads most of them.
fn instances(context: &Context<'_>, shard: &Shard) -> usize {
    let used = context.usage.shards.get(&shard.name);
    used.and_then(|u| u.instances.values().map(BTreeSet::len).max()).unwrap_or(0)
}

/// The share of the table's rows that one edge holds of a shard.
pub(super) fn held(context: &Context<'_>, shard: &Shard, table: &Table) -> f64 {
    let rows = (shard.rows / table.rows.max(1.0)).min(1.0);
    rows * (instances(context, shard) as f64 / table.combinations(&shard.key)).min(1.0)
}

/// Keys and predicates that a deleted or moved row does not show, so that every such change concerns all instances.
pub(super) fn identities<'a>(context: &Context<'a>, replay: &mut Replay<'a>, found: &mut Vec<Advice>) {
    let mut tables: Vec<(&Table, Vec<&Shard>, Vec<String>)> = Vec::new();
    for shard in &context.definitions.shards {
        let Some(table) = context.definitions.table_of(shard) else { continue };
        let needed = needed(shard, table);
        // Who said something else about the identity had a reason.
        if !hides(shard, table) || !table.identity_is_default || table.partitioned_by.is_some() {
            continue;
        }
        let at = tables.iter().position(|(t, ..)| t.name == table.name).unwrap_or_else(|| {
            tables.push((table, Vec::new(), Vec::new()));
            tables.len() - 1
        });
        let (_, shards, columns) = &mut tables[at];
        shards.push(shard);
        columns.extend(needed.into_iter().filter(|c| !columns.contains(c)).collect::<Vec<_>>());
    }
    for (table, shards, columns) in tables {
        found.extend(identity(context, replay, table, &shards, columns));
    }
}

fn identity<'a>(
    context: &Context<'a>,
    replay: &mut Replay<'a>,
    table: &'a Table,
    shards: &[&'a Shard],
    mut columns: Vec<String>,
) -> Option<Advice> {
    columns.extend(table.primary_key.iter().filter(|c| !columns.contains(c)).cloned().collect::<Vec<_>>());
    let names: Vec<&str> = shards.iter().map(|s| s.name.as_str()).collect();
    let strict = columns.iter().all(|c| table.column(c).is_some_and(|x| x.not_null));
    let (statement, undo, log) = if strict && !table.primary_key.is_empty() && columns.len() <= 32 {
        let name = identifier(&index_name(shards.first()?, "identity"));
        (
            format!(
                "CREATE UNIQUE INDEX {name} ON {table} ({columns});\nALTER TABLE {table} REPLICA IDENTITY USING INDEX {name};",
                columns = identifiers(&columns),
                table = table.name
            ),
            format!(
                "ALTER TABLE {} REPLICA IDENTITY DEFAULT;\nDROP INDEX {}.{name};",
                table.name, table.schema
            ),
            "the log grows by a few bytes per change",
        )
    } else {
        (
            format!("ALTER TABLE {} REPLICA IDENTITY FULL;", table.name),
            format!("ALTER TABLE {} REPLICA IDENTITY DEFAULT;", table.name),
            "the log holds every old row, about three quarters more per change",
        )
    };
    let remake: Remake<'a> = Box::new(|_, read: Read| Some(Read { dropped: 0.0, ..read }));
    let (now, then) = (replay.as_is(&names), replay.if_remade(&names, &remake));
    replay.propose(&names, remake);
    // Now each such change concerns all an edge holds of each of the shards; then the share of it that the edge holds.
    let load = table.changes_per_hour();
    let blind = shards.iter().filter(|s| instances(context, s) > 0).count().max(1) as f64;
    let share: f64 = shards.iter().map(|s| held(context, s, table)).sum();
    Some(Advice {
        kind: Kind::ReplicaIdentity,
        subject: names.join(", "),
        text: format!(
            "the old row of a change of {} does not bring {}: a delete, or a move, concerns all instances of {}",
            table.name,
            columns.join(", "),
            names.join(" and ")
        ),
        caution: format!("{log}; writers of the table wait while it is done"),
        statement,
        undo,
        rests_on: RestsOn {
            shards: names.iter().map(|n| (*n).to_owned()).collect(),
            tables: vec![table.name.clone()],
            ..RestsOn::default()
        },
        expected: expectation(context.usage.reads(names[0]), now, then, (load * blind, load * share)),
    })
}
