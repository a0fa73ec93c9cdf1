//! What nobody reads.

use super::origin::Definitions;
use super::sql::{define, define_query, drop_shard, map};
use super::{Access, Advice, Context, Expectation, Kind, RestsOn};

/// Executions since a shard was defined before its silence means something, as a multiple of what is enough to speak.
const LONG_ENOUGH: u64 = 10;

fn since(accesses: &[Access], age: u64) -> impl Iterator<Item = &Access> {
    accesses.iter().filter(move |a| a.age < age)
}

/// Whether the log since then goes on for so long that what it does not say is not only late.
fn long_enough(context: &Context<'_>, age: u64) -> bool {
    let logged = || since(context.accesses, age).map(|a| a.logged);
    logged()
        .max()
        .zip(logged().min())
        .is_some_and(|(last, first)| last.saturating_sub(first) >= context.terms.unread)
}

/// Whether everybody who may read the shard, if anybody may, ran often enough since then to have done so.
fn had_a_chance(context: &Context<'_>, shard: &str, age: u64) -> bool {
    context.definitions.readers(shard).all(|(function, _)| {
        since(context.accesses, age).filter(|a| a.function == *function).count() as u64
            >= context.terms.enough
    })
}

/// Shards that no execution read.
pub(super) fn dead(context: &Context<'_>, found: &mut Vec<Advice>) {
    let definitions = context.definitions;
    let shards = definitions.shards.iter().map(|s| {
        let bytes = if s.key.is_empty() { definitions.copy_bytes(s) as u64 } else { 0 };
        let load = definitions.table_of(s).map_or(0.0, |t| t.changes_per_hour());
        (&s.name, s.age, define(definitions, s), bytes, load)
    });
    let queries = definitions.queries.iter().map(|q| (&q.name, q.age, define_query(definitions, q), 0, 0.0));
    for (name, age, define, bytes, load) in shards.chain(queries) {
        let executions = since(context.accesses, age).count() as u64;
        let read =
            context.accesses.iter().any(|a| a.instances.iter().any(|i| super::usage::shard_of(i) == *name));
        if read || context.terms.leave.contains(name) || executions < context.terms.enough * LONG_ENOUGH {
            continue;
        }
        if !long_enough(context, age) || !had_a_chance(context, name, age) {
            continue;
        }
        let functions: Vec<String> = definitions.readers(name).map(|(f, _)| f.clone()).collect();
        let mut undo = vec![define];
        undo.extend(functions.iter().map(|f| map(f, &definitions.mappings[f])));
        found.push(Advice {
            kind: Kind::Drop,
            subject: name.clone(),
            text: format!("none of {executions} executions since it was defined read {name}"),
            caution: if functions.is_empty() {
                String::new()
            } else {
                format!("{} may read it no more", functions.join(" and "))
            },
            statement: drop_shard(name),
            undo: undo.join("\n"),
            rests_on: RestsOn { shards: vec![name.clone()], functions, ..RestsOn::default() },
            expected: Expectation {
                accesses: executions,
                bytes_per_edge: (bytes, 0),
                invalidation_load: (load, 0.0),
                ..Expectation::default()
            },
        });
    }
}

/// Shards that a function may read and never does, while others do.
pub(super) fn unmapped(context: &Context<'_>, found: &mut Vec<Advice>) {
    let Definitions { mappings, .. } = context.definitions;
    for (function, shards) in mappings {
        let runs = context.usage.functions.get(function).copied().unwrap_or(0);
        let read = context.usage.read_by.get(function);
        let used: Vec<String> =
            shards.iter().filter(|s| read.is_some_and(|r| r.contains(*s))).cloned().collect();
        // What is new has had no time to be read; what nobody reads is dropped as a whole.
        let fresh = |s: &String| {
            let definitions = context.definitions;
            let age = definitions
                .shard(s)
                .map(|s| s.age)
                .or_else(|| definitions.queries.iter().find(|q| q.name == *s).map(|q| q.age));
            age.is_none_or(|age| {
                let executions = since(context.accesses, age).count() as u64;
                executions < context.terms.enough * LONG_ENOUGH / 2 || !long_enough(context, age)
            })
        };
        let dropped = |s: &String| found.iter().any(|a| a.kind == Kind::Drop && a.subject == *s);
        let unused: Vec<&str> = shards
            .iter()
            .filter(|s| !used.contains(s) && !dropped(s) && !fresh(s))
            .map(String::as_str)
            .collect();
        if runs < context.terms.enough * LONG_ENOUGH / 2 || used.is_empty() || unused.is_empty() {
            continue;
        }
        let kept: Vec<String> = shards.iter().filter(|s| !unused.contains(&s.as_str())).cloned().collect();
        found.push(Advice {
            kind: Kind::Unmap,
            subject: function.clone(),
            text: format!(
                "{function} ran {runs} times since it was mapped and never read {}",
                unused.join(" or ")
            ),
            caution: format!(
                "{function} may not read it any more; what schedules fetch for {function} gets less"
            ),
            statement: map(function, &kept),
            undo: map(function, shards),
            rests_on: RestsOn { functions: vec![function.clone()], ..RestsOn::default() },
            expected: Expectation { accesses: runs, ..Expectation::default() },
        });
    }
}
