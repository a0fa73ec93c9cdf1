//! Shards that are always read together: clustered by who reads them, then checked read by read.

use std::collections::{BTreeMap, BTreeSet};

use linfa::traits::Transformer;
use linfa_clustering::Dbscan;
use ndarray::Array2;

use super::origin::{Definitions, QueryShard, Shard, Table};
use super::replay::{Read, Remake, Replay};
use super::shapes::expectation;
use super::sql::{define, define_query, drop_shard, identifier, identifiers, literal, map};
use super::tables::{held, hides};
use super::usage::{Usage, shard_of};
use super::{Advice, Context, Kind, RestsOn, spoken_of};

/// Share of the reads of either that have to be of both.
const ALWAYS: f64 = 0.98;
/// Distance of access vectors (each of length one) up to which shards are neighbours.
const NEAR: f64 = 0.15;
/// Shards and functions that are compared: the most used ones. More would take too long for what it brings.
const MOST: usize = 500;
/// Columns that the rows of a query shard may nest.
const MOST_NESTED: usize = 50;

/// The clusters of shards that the same functions read as often, by name.
fn clusters(usage: &Usage, enough: u64) -> Vec<Vec<&String>> {
    fn most_used<T>(mut all: Vec<(&String, T)>, count: impl Fn(&T) -> u64) -> Vec<(&String, T)> {
        all.sort_by_key(|(name, of)| (std::cmp::Reverse(count(of)), *name));
        all.truncate(MOST);
        all
    }
    let shards = usage.shards.iter().filter(|(_, u)| u.accesses >= enough).collect();
    let shards = most_used(shards, |used| used.accesses);
    let functions = most_used(usage.functions.iter().collect(), |n| **n);
    if shards.len() < 2 {
        return Vec::new();
    }
    let mut vectors = Array2::<f64>::zeros((shards.len(), functions.len().max(1)));
    for (i, (_, used)) in shards.iter().enumerate() {
        let length = used.functions.values().map(|&n| (n as f64).powi(2)).sum::<f64>().sqrt().max(1e-9);
        for (j, (function, _)) in functions.iter().enumerate() {
            vectors[(i, j)] = used.functions.get(*function).map_or(0.0, |&n| n as f64 / length);
        }
    }
    let mut found: BTreeMap<usize, Vec<&String>> = BTreeMap::new();
    if let Ok(labels) = Dbscan::params(2).tolerance(NEAR).transform(&vectors) {
        for ((shard, _), label) in shards.into_iter().zip(labels.iter()) {
            if let Some(label) = label {
                found.entry(*label).or_default().push(shard);
            }
        }
    }
    found.into_values().collect()
}

fn always_together(usage: &Usage, a: &str, b: &str) -> bool {
    let most = usage.reads(a).max(usage.reads(b)).max(1) as f64;
    usage.read_together(a, b) as f64 >= ALWAYS * most
}

/// Merges of shards of one table with the same key.
pub(super) fn merged<'a>(context: &Context<'a>, replay: &mut Replay<'a>, found: &mut Vec<Advice>) {
    for names in clusters(context.usage, context.terms.enough) {
        let mut alike: BTreeMap<(&str, &[String]), Vec<&Shard>> = BTreeMap::new();
        for shard in context.definitions.shards.iter().filter(|s| names.contains(&&s.name)) {
            if !spoken_of(context, found, &shard.name) {
                alike.entry((&shard.table, &shard.key)).or_default().push(shard);
            }
        }
        for shards in alike.into_values() {
            let [first, rest @ ..] = shards.as_slice() else { continue };
            let with = rest.iter().copied().filter(|s| always_together(context.usage, &first.name, &s.name));
            let members: Vec<&Shard> = std::iter::once(*first).chain(with).collect();
            if members.len() > 1 {
                merge(context, replay, found, &members);
            }
        }
    }
}

/// The shard that holds what all of these hold.
fn union(definitions: &Definitions, members: &[&Shard]) -> Shard {
    let names: Vec<&str> = members.iter().map(|s| s.name.as_str()).collect();
    let predicates: Option<BTreeSet<&String>> = members.iter().map(|s| s.predicate.as_ref()).collect();
    let columns: Option<Vec<&Vec<String>>> = members.iter().map(|s| s.columns.as_ref()).collect();
    let columns = columns.map(|lists| {
        let all: BTreeSet<&String> = lists.into_iter().flatten().collect();
        all.into_iter().cloned().collect()
    });
    let table_rows = definitions.table_of(members[0]).map_or(f64::MAX, |t| t.rows);
    let rows = match &predicates {
        // Parts of the table, or the same rows with other columns.
        Some(different) if different.len() == members.len() => members.iter().map(|s| s.rows).sum(),
        _ => members.iter().map(|s| s.rows).fold(0.0, f64::max),
    };
    let predicate = predicates.map(|all| {
        let parts: Vec<String> = all.into_iter().map(|p| format!("({p})")).collect();
        parts.join(" OR ")
    });
    Shard {
        name: definitions.free_name(&names.join("_and_")),
        predicate,
        columns,
        rows: f64::min(rows, table_rows),
        ..members[0].clone()
    }
}

fn merge<'a>(context: &Context<'a>, replay: &mut Replay<'a>, found: &mut Vec<Advice>, members: &[&'a Shard]) {
    let definitions = context.definitions;
    let names: Vec<&str> = members.iter().map(|s| s.name.as_str()).collect();
    let one = union(definitions, members);
    let instead_of: BTreeSet<&str> = names.iter().copied().collect();
    let (mut statement, mut undo) = (vec![define(definitions, &one)], Vec::new());
    undo.extend(members.iter().map(|member| define(definitions, member)));
    let mut functions = Vec::new();
    for (function, shards) in &definitions.mappings {
        if !shards.iter().any(|s| instead_of.contains(s.as_str())) {
            continue;
        }
        let mut list: Vec<String> =
            shards.iter().filter(|s| !instead_of.contains(s.as_str())).cloned().collect();
        list.push(one.name.clone());
        statement.push(map(function, &list));
        undo.push(map(function, shards));
        functions.push(function.clone());
    }
    statement.extend(names.iter().map(|name| drop_shard(name)));
    undo.push(drop_shard(&one.name));
    let remake = as_one(replay, &names, definitions.copy_bytes(&one));
    let (now, then) = (replay.as_is(&names), replay.if_remade(&names, &remake));
    replay.propose(&names, remake);
    let load = definitions.table_of(members[0]).map_or(0.0, |t| t.changes_per_hour());
    found.push(Advice {
        kind: Kind::Merge,
        subject: names.join(", "),
        text: format!(
            "{} are read in the same executions: one copy and one fetch instead of {}",
            names.join(" and "),
            names.len()
        ),
        caution: format!("{} has to read {} and tell the rows apart", functions.join(" and "), one.name),
        statement: statement.join("\n"),
        undo: undo.join("\n"),
        rests_on: RestsOn {
            shards: names.iter().map(|n| (*n).to_owned()).collect(),
            functions,
            ..RestsOn::default()
        },
        expected: expectation(context.usage.reads(names[0]), now, then, (load * names.len() as f64, load)),
    });
}

/// Reads of these shards for the same key values become one.
fn as_one<'a>(replay: &Replay<'a>, shards: &[&'a str], bytes: f64) -> Remake<'a> {
    let hasher = std::hash::RandomState::new();
    let (name, shards) = (replay.hash(shards), shards.to_vec());
    Box::new(move |access, read: Read| {
        let members = access.instances.iter().filter(|i| shards.contains(&&*shard_of(i)));
        let mut values: Vec<&str> = members.filter_map(|i| key_values(i)).collect();
        values.sort_unstable();
        values.dedup();
        let instance = std::hash::BuildHasher::hash_one(&hasher, (name, values));
        Some(Read { instance, bytes, ..read })
    })
}

/// The values of a key, as the instance id writes them, from the first one on.
fn key_values(instance: &str) -> Option<&str> {
    instance.split_once('?')?.1.split_once('=').map(|(_, values)| values)
}

/// A row and the rows that refer to it, always read together by the same value: one query.
pub(super) fn joined<'a>(context: &Context<'a>, replay: &mut Replay<'a>, found: &mut Vec<Advice>) {
    let definitions = context.definitions;
    for child in definitions.shards.iter().filter(|s| s.key.len() == 1) {
        let Some(table) = definitions.table_of(child) else { continue };
        for reference in table.references.iter().filter(|r| r.columns == child.key) {
            let parents = definitions
                .shards
                .iter()
                .filter(|s| s.table == reference.table && s.key == reference.targets && s.name != child.name);
            for parent in parents {
                let known = spoken_of(context, found, &child.name) || spoken_of(context, found, &parent.name);
                let enough = context.usage.reads(&child.name) >= context.terms.enough;
                if !known && enough && always_together(context.usage, &child.name, &parent.name) {
                    found.extend(join(context, replay, child, parent));
                }
            }
        }
    }
}

fn join<'a>(
    context: &Context<'a>,
    replay: &mut Replay<'a>,
    child: &'a Shard,
    parent: &'a Shard,
) -> Option<Advice> {
    let definitions = context.definitions;
    if !by_the_same_value(context, child, parent) {
        return None;
    }
    let (rows, row) = (definitions.table_of(child)?, definitions.table_of(parent)?);
    let one = QueryShard {
        name: definitions.free_name(&format!("{}_with_{}", parent.name, child.name)),
        query: query(child, rows, parent, row)?,
        params: child.key.clone(),
        owner: parent.owner.clone(),
        age: 0,
    };
    let names = [child.name.as_str(), parent.name.as_str()];
    let mut statement = vec![define_query(definitions, &one)];
    let mut undo = Vec::new();
    let mut functions = Vec::new();
    for (function, shards) in definitions.readers(&child.name) {
        let mut list: Vec<String> = shards.iter().filter(|s| !names.contains(&s.as_str())).cloned().collect();
        list.push(one.name.clone());
        statement.push(map(function, &list));
        undo.push(map(function, shards));
        functions.push(function.clone());
    }
    undo.push(drop_shard(&one.name));
    let bytes = definitions.copy_bytes(child) + definitions.copy_bytes(parent);
    let remake = as_one(replay, &names, bytes);
    let (now, then) = (replay.as_is(&names), replay.if_remade(&names, &remake));
    replay.propose(&names, remake);
    // A change whose old row does not tell the key concerns every copy.
    let concerned = |shard: &Shard, table: &Table| {
        let share = if hides(shard, table) { 1.0 } else { held(context, shard, table) };
        share * table.changes_per_hour()
    };
    let load = concerned(child, rows) + concerned(parent, row);
    Some(Advice {
        kind: Kind::Query,
        subject: format!("{}, {}", child.name, parent.name),
        text: format!(
            "{} and {} are read in the same executions, by the same value: one row with the rows that refer to it",
            child.name, parent.name
        ),
        caution: format!(
            "{} has to read {}, whose row nests those of {} in a column of that name",
            functions.join(" and "),
            one.name,
            child.name
        ),
        statement: statement.join("\n"),
        undo: undo.join("\n"),
        rests_on: RestsOn {
            shards: names.iter().map(|n| (*n).to_owned()).collect(),
            functions,
            ..RestsOn::default()
        },
        expected: expectation(context.usage.reads(&child.name), now, then, (load, load)),
    })
}

/// Whether executions that read both gave both the same key value.
fn by_the_same_value(context: &Context<'_>, child: &Shard, parent: &Shard) -> bool {
    let value = |instances: &[String], shard: &Shard| {
        instances.iter().find(|i| shard_of(i) == shard.name).and_then(|i| key_values(i)).map(str::to_owned)
    };
    let (mut same, mut both) = (0u64, 0u64);
    for access in context.accesses {
        if let (Some(a), Some(b)) = (value(&access.instances, child), value(&access.instances, parent)) {
            both += 1;
            same += u64::from(a == b);
        }
    }
    both > 0 && same as f64 >= ALWAYS * both as f64
}

fn query(child: &Shard, rows: &Table, parent: &Shard, row: &Table) -> Option<String> {
    let names = |shard: &Shard, table: &Table| -> Vec<String> {
        let all = || table.columns.iter().map(|c| c.name.clone()).collect();
        shard.columns.clone().unwrap_or_else(all)
    };
    let (nested, own) = (names(child, rows), names(parent, row));
    if nested.len() > MOST_NESTED || own.contains(&child.name) {
        return None;
    }
    let pairs: Vec<String> = nested.iter().map(|c| format!("{}, {}", literal(c), identifier(c))).collect();
    let order = match rows.primary_key.as_slice() {
        [] => String::new(),
        key => format!(" ORDER BY {}", identifiers(key)),
    };
    let also = |shard: &Shard| shard.predicate.as_ref().map_or(String::new(), |p| format!(" AND ({p})"));
    Some(format!(
        "SELECT {own}, (SELECT coalesce(jsonb_agg(jsonb_build_object({pairs}){order}), '[]') FROM {rows} WHERE {foreign} = $1{of_rows}) AS {name} \
         FROM {row} WHERE {key} = $1{of_row}",
        own = identifiers(&own),
        pairs = pairs.join(", "),
        rows = rows.name,
        foreign = identifier(&child.key[0]),
        of_rows = also(child),
        name = identifier(&child.name),
        row = row.name,
        key = identifier(&parent.key[0]),
        of_row = also(parent),
    ))
}
