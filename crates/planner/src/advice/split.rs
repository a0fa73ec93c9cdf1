//! One shard that serves several functions, each of which wants another part of it: a shard for each.

use super::origin::Shard;
use super::replay::{Remake, Replay};
use super::shapes::{expectation, load, narrow, remake};
use super::sql::{define, drop_shard, map};
use super::usage::ShardUsage;
use super::{Access, Advice, Context, Kind, RestsOn, spoken_of};

/// The parts may have this share of the whole's bytes together.
const MOST: f64 = 0.6;
/// Functions that a shard is split for.
const MOST_PARTS: usize = 8;

/// Unkeyed shards that functions use parts of, if each has a part of its own.
pub(super) fn by_function<'a>(context: &Context<'a>, replay: &mut Replay<'a>, found: &mut Vec<Advice>) {
    let definitions = context.definitions;
    for shard in definitions.shards.iter().filter(|s| s.key.is_empty()) {
        let Some(used) = context.usage.shards.get(&shard.name) else { continue };
        let readers: Vec<(&String, &Vec<String>)> = definitions.readers(&shard.name).collect();
        let enough = |f: &String| used.functions.get(f).is_some_and(|n| *n >= context.terms.enough);
        let several = (2..=MOST_PARTS).contains(&readers.len()) && readers.iter().all(|(f, _)| enough(f));
        if !several || spoken_of(context, found, &shard.name) {
            continue;
        }
        let Some((parts, load)) = parts(context, shard, &readers) else { continue };
        let remakes: Vec<(String, Remake<'a>)> =
            parts.iter().map(|(f, part)| (f.clone(), remake(context, replay, part))).collect();
        let one: Remake<'a> = Box::new(move |access, read| {
            let (_, remake) = remakes.iter().find(|(f, _)| *f == access.function)?;
            remake(access, read)
        });
        let (now, then) = (replay.as_is(&[&shard.name]), replay.if_remade(&[&shard.name], &one));
        if then.bytes_per_edge > MOST * now.bytes_per_edge || then.hit_ratio + 0.03 < now.hit_ratio {
            continue;
        }
        replay.propose(&[&shard.name], one);
        let (statement, undo) = statements(context, shard, &readers, &parts);
        let before = definitions.table_of(shard).map_or(0.0, |t| t.changes_per_hour());
        let names: Vec<String> =
            parts.iter().map(|(f, part)| format!("{f} has to read {}", part.name)).collect();
        found.push(Advice {
            kind: Kind::Split,
            subject: shard.name.clone(),
            text: format!("{} functions read {}, each another part of it", parts.len(), shard.name),
            caution: names.join(", "),
            statement,
            undo,
            rests_on: RestsOn {
                tables: Vec::new(),
                shards: vec![shard.name.clone()],
                functions: readers.iter().map(|(f, _)| (*f).clone()).collect(),
            },
            expected: expectation(used.accesses, now, then, (before, load)),
        });
    }
}

/// For each function its part, if every one has one, and the changes per hour that concern all parts.
fn parts(
    context: &Context<'_>,
    shard: &Shard,
    readers: &[(&String, &Vec<String>)],
) -> Option<(Vec<(String, Shard)>, f64)> {
    let mut changes = 0.0;
    let table = context.definitions.table_of(shard)?;
    let part = |(number, (function, _)): (usize, &(&String, &Vec<String>))| {
        let own = |a: &&Access| a.function == **function;
        let used = ShardUsage::of(shard, table, context.accesses.iter().filter(own));
        let narrowed = narrow(shard, table, &used).filter(|n| n.kind != Kind::Columns)?;
        changes += load(context, shard, table, &narrowed.shard, &used);
        // The functions' names may be anything: numbers do.
        let name = context.definitions.free_name(&format!("{}_{}", shard.name, number + 1));
        Some(((*function).clone(), Shard { name, ..narrowed.shard }))
    };
    let parts: Option<Vec<(String, Shard)>> = readers.iter().enumerate().map(part).collect();
    parts.map(|parts| (parts, changes))
}

fn statements(
    context: &Context<'_>,
    shard: &Shard,
    readers: &[(&String, &Vec<String>)],
    parts: &[(String, Shard)],
) -> (String, String) {
    let (mut statement, mut undo) = (Vec::new(), vec![define(context.definitions, shard)]);
    for ((function, shards), (_, part)) in readers.iter().zip(parts) {
        let instead: Vec<String> =
            shards.iter().map(|s| if *s == shard.name { part.name.clone() } else { s.clone() }).collect();
        statement.push(define(context.definitions, part));
        statement.push(map(function, &instead));
        undo.push(map(function, shards));
        undo.push(drop_shard(&part.name));
    }
    statement.push(drop_shard(&shard.name));
    (statement.join("\n"), undo.join("\n"))
}
