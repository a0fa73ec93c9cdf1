//! Narrower shards where every read asks for less, and wider ones where instances are not worth their number.

use std::collections::BTreeSet;

use super::filter::{Filter, filters};
use super::origin::{Column, Partition, Scale, Shard, Table};
use super::replay::{Outcome, Read, Remake, Replay, drops};
use super::sql::{define, identifier, literal};
use super::tables::hides;
use super::usage::{ColumnUse, ShardUsage};
use super::{Advice, Context, Expectation, Kind, RestsOn, spoken_of};

/// A proposal has to save this share of the bytes, and so many bytes per edge.
const WORTH: f64 = 0.3;
const WORTH_BYTES: f64 = 65_536.0;
/// A narrower shard may lose this much of the hit ratio, if it saves bytes: instances have to come in one by one.
const TOLERATED: f64 = 0.03;
/// Share of a cache that one table held whole may take.
const SMALL: f64 = 0.1;
/// Values that a predicate may list.
pub(super) const MOST_LISTED: usize = 8;
/// Key columns that a shard may have.
const MOST_KEYS: usize = 4;

/// What a shard would become.
pub(super) struct Narrowed {
    pub(super) kind: Kind,
    pub(super) shard: Shard,
    pub(super) reasons: Vec<String>,
    pub(super) caution: String,
}

/// Unkeyed shards of which every read wants a part only.
pub(super) fn narrower<'a>(context: &Context<'a>, replay: &mut Replay<'a>, found: &mut Vec<Advice>) {
    let definitions = context.definitions;
    for shard in definitions.shards.iter().filter(|s| s.key.is_empty()) {
        if spoken_of(context, found, &shard.name) {
            continue;
        }
        let used = context.usage.shards.get(&shard.name).filter(|u| u.accesses >= context.terms.enough);
        let (Some(used), Some(table)) = (used, definitions.table_of(shard)) else { continue };
        let Some(narrowed) = narrow(shard, table, used) else { continue };
        let remake = remake(context, replay, &narrowed.shard);
        let (now, then) = (replay.as_is(&[&shard.name]), replay.if_remade(&[&shard.name], &remake));
        if !is_worth_it(context, &now, &then) {
            continue;
        }
        replay.propose(&[&shard.name], remake);
        let load = load(context, shard, table, &narrowed.shard, used);
        found.push(Advice {
            kind: narrowed.kind,
            subject: shard.name.clone(),
            text: format!(
                "every one of {} reads of {} {}",
                used.accesses,
                shard.name,
                narrowed.reasons.join(" and ")
            ),
            caution: narrowed.caution,
            statement: define(definitions, &narrowed.shard),
            undo: define(definitions, shard),
            rests_on: RestsOn { shards: vec![shard.name.clone()], ..RestsOn::default() },
            expected: expectation(used.accesses, now, then, (table.changes_per_hour(), load)),
        });
    }
}

pub(super) fn expectation(accesses: u64, now: Outcome, then: Outcome, load: (f64, f64)) -> Expectation {
    Expectation {
        accesses,
        hit_ratio: (now.hit_ratio, then.hit_ratio),
        bytes_per_edge: (now.bytes_per_edge as u64, then.bytes_per_edge as u64),
        invalidation_load: load,
    }
}

fn is_worth_it(context: &Context<'_>, now: &Outcome, then: &Outcome) -> bool {
    let saved = now.bytes_per_edge - then.bytes_per_edge;
    let room = context.terms.edge_bytes as f64;
    let fits_easily = now.bytes_per_edge <= room * SMALL;
    let loses = now.hit_ratio - then.hit_ratio;
    saved >= WORTH_BYTES.min(room * 0.02)
        && saved >= WORTH * now.bytes_per_edge
        && loses <= TOLERATED * if fits_easily { 1.0 } else { 2.0 }
}

/// Row changes per hour that concern what an edge holds once a shard of this table is defined as another.
pub(super) fn load(
    context: &Context<'_>,
    shard: &Shard,
    table: &Table,
    narrowed: &Shard,
    used: &ShardUsage,
) -> f64 {
    // Whatever changes may have been among the rows before, where the log does not say.
    let blind = narrowed.key.is_empty() && hides(narrowed, table);
    let rows = if blind { 1.0 } else { (narrowed.rows / shard.rows.max(1.0)).min(1.0) };
    let changes = context.definitions.table_of(narrowed).unwrap_or(table).changes_per_hour();
    changes * rows * held(table, narrowed, used)
}

/// The share of a keyed shard's rows that one edge reads.
fn held(table: &Table, shard: &Shard, used: &ShardUsage) -> f64 {
    let all = table.combinations(&shard.key);
    let read = |column: &String| {
        let values =
            used.columns.get(column).map(|c| c.values.values().map(BTreeSet::len).max().unwrap_or(0));
        values.unwrap_or(0) as f64
    };
    if shard.key.is_empty() { 1.0 } else { (shard.key.iter().map(read).product::<f64>() / all).min(1.0) }
}

/// What becomes of reads if a shard is defined as this one.
pub(super) fn remake<'a>(context: &Context<'a>, replay: &Replay<'a>, shard: &Shard) -> Remake<'a> {
    let bytes = context.definitions.copy_bytes(shard);
    let dropped = drops(context.definitions, shard);
    let (key, whole) = (shard.key.clone(), replay.hash(&[&shard.name, &shard.table]));
    let hasher = std::hash::RandomState::new();
    Box::new(move |access, read: Read| {
        let mut instance = whole;
        for column in &key {
            let value = filters(&access.filters).find_map(|(name, filter)| match filter {
                Filter::Equal(value) if name == column => Some(value),
                _ => None,
            });
            instance = std::hash::BuildHasher::hash_one(&hasher, (instance, value));
        }
        Some(Read { instance, bytes, dropped, ..read })
    })
}

/// The narrowest shard that all these reads could do with; `None` if that is the one they have.
pub(super) fn narrow(shard: &Shard, table: &Table, used: &ShardUsage) -> Option<Narrowed> {
    let mut n =
        Narrowed { kind: Kind::Columns, shard: shard.clone(), reasons: Vec::new(), caution: String::new() };
    project(&mut n, table, used);
    if !by_partition(&mut n, table, used) {
        by_values(&mut n, table, used);
    }
    if used.invocations > 0 && !n.shard.key.is_empty() {
        n.caution = format!(
            "{} reads were invocations: they will get only the rows that they name",
            used.invocations
        );
    }
    (n.shard != *shard).then_some(n)
}

fn by_values(n: &mut Narrowed, table: &Table, used: &ShardUsage) {
    let mut predicates: Vec<String> = n.shard.predicate.iter().map(|p| format!("({p})")).collect();
    let before = predicates.len();
    for column in &table.columns {
        let Some(filtered) = used.always(&column.name) else { continue };
        if let Some(values) = filtered.listed(MOST_LISTED).filter(|_| column.distinct >= 2.0) {
            // Several values, one at a time: instances do, and leave out nothing that may be asked for tomorrow.
            if values.len() == 1 || !filtered.is_one_each() {
                predicates.extend(values_of(n, column, &values));
            } else {
                key(n, table, column, filtered);
            }
        } else if filtered.is_one_each() {
            key(n, table, column, filtered);
        } else if let Some((condition, reason, share)) = bounds(column, filtered) {
            predicates.push(condition);
            n.reasons.push(reason);
            n.shard.rows *= share;
            if n.kind == Kind::Columns {
                n.kind = Kind::Range;
            }
        }
    }
    if predicates.len() > before {
        n.shard.predicate = Some(predicates.join(" AND "));
        n.caution = "a read for anything else will find no rows".into();
    }
    if !n.shard.key.is_empty() {
        n.kind = Kind::Keyed;
    }
}

fn values_of(n: &mut Narrowed, column: &Column, values: &[String]) -> Option<String> {
    let share: f64 = values.iter().map(|v| column.share_of(v)).sum();
    // A condition that most rows meet is not worth having.
    if share > 1.0 - WORTH {
        return None;
    }
    n.reasons.push(format!("asks for {} {}", column.name, values.join(" or ")));
    n.shard.rows *= share;
    n.kind = Kind::Predicate;
    Some(match values {
        [one] => format!("{} = {}", identifier(&column.name), literal(one)),
        several => {
            let list: Vec<String> = several.iter().map(|v| literal(v)).collect();
            format!("{} IN ({})", identifier(&column.name), list.join(", "))
        }
    })
}

/// One instance per value.
fn key(n: &mut Narrowed, table: &Table, column: &Column, used: &ColumnUse) {
    let most = used.values.values().map(BTreeSet::len).max().unwrap_or(0);
    let unread = most as f64 <= 0.5 * column.distinct.max(1.0);
    // A key that divides no further makes instances no smaller.
    let with = [n.shard.key.as_slice(), std::slice::from_ref(&column.name)].concat();
    let divides = table.combinations(&with) > 1.5 * table.combinations(&n.shard.key);
    if column.keyable && (unread || !n.shard.key.is_empty()) && divides && n.shard.key.len() < MOST_KEYS {
        n.shard.key.push(column.name.clone());
        n.reasons.push(format!("names one {} of about {:.0}", column.name, column.distinct));
    }
}

/// The loosest bounds of all reads, if all have some and there are few: condition, reason, share of the rows. Bounds that move,
/// as "since yesterday" does, would be wrong tomorrow.
fn bounds(column: &Column, used: &ColumnUse) -> Option<(String, String, f64)> {
    let scale = column.scale?;
    if used.filters.len() > MOST_LISTED {
        return None;
    }
    // A read with one bound leaves the other side open, and a filter is of one side.
    let both = used.filters.iter().any(|f| matches!(f, Filter::From(_)))
        && used.filters.iter().any(|f| matches!(f, Filter::To(_)));
    if both || used.equal > 0 {
        return None;
    }
    let mut loosest: Option<(f64, &String)> = None;
    let mut below = false;
    for filter in &used.filters {
        let (value, is_upper) = match filter {
            Filter::From(value) => (value, false),
            Filter::To(value) => (value, true),
            _ => return None,
        };
        below = is_upper;
        let place = scale.place(value)?;
        if loosest.is_none_or(|(known, _)| if is_upper { place > known } else { place < known }) {
            loosest = Some((place, value));
        }
    }
    let (place, value) = loosest?;
    let share = if below {
        column.share_between(None, Some(place))
    } else {
        column.share_between(Some(place), None)
    }?;
    let (operator, words) = if below { ("<=", "up to") } else { (">=", "from") };
    let written = if scale == Scale::Number { place.to_string() } else { literal(value) };
    (share <= 1.0 - WORTH).then(|| {
        (
            format!("{} {operator} {written}", identifier(&column.name)),
            format!("asks for {} {words} {value}", column.name),
            share,
        )
    })
}

/// One partition, if all reads stay within it.
fn by_partition(n: &mut Narrowed, table: &Table, used: &ShardUsage) -> bool {
    let column = table.partitioned_by.as_deref().and_then(|c| table.column(c));
    let Some((column, filtered)) = column.and_then(|c| Some((c, used.always(&c.name)?))) else {
        return false;
    };
    if n.shard.predicate.is_some() {
        return false;
    }
    let Some(values) = filtered.listed(MOST_LISTED) else { return false };
    let holds_all = |p: &&Partition| values.iter().all(|v| p.holds(column.scale, v));
    let Some(home) = table.partitions.iter().find(holds_all) else { return false };
    n.kind = Kind::Partition;
    n.shard.table = home.table.clone();
    n.shard.rows = home.rows;
    n.reasons.push(format!("stays within the partition {}", home.table));
    n.caution = "a read for another partition's rows will find none".into();
    true
}

impl Partition {
    fn holds(&self, scale: Option<Scale>, value: &str) -> bool {
        if self.values.iter().any(|v| v == value) {
            return true;
        }
        let Some(((from, to), scale)) = self.range.as_ref().zip(scale) else { return false };
        match (scale.place(value), scale.place(from), scale.place(to)) {
            (Some(value), Some(from), Some(to)) => from <= value && value < to,
            _ => false,
        }
    }
}

/// Only the columns that are read.
fn project(n: &mut Narrowed, table: &Table, used: &ShardUsage) {
    let Some(selected) = used.selected.as_ref().filter(|_| n.shard.columns.is_none()) else { return };
    let needed = |c: &&Column| selected.contains(&c.name) || table.primary_key.contains(&c.name);
    let kept: Vec<String> = table.columns.iter().filter(needed).map(|c| c.name.clone()).collect();
    let width = |c: &Column| c.width.max(1.0);
    let (narrow, all): (f64, f64) =
        (table.columns.iter().filter(needed).map(width).sum(), table.columns.iter().map(width).sum());
    if narrow <= (1.0 - WORTH) * all {
        n.reasons.push(format!("selects from {} of {} columns", kept.len(), table.columns.len()));
        n.caution = "a read that asks for other columns will be refused".into();
        n.shard.columns = Some(kept);
    }
}

/// Keyed shards of small tables that edges read nearly all of, one by one.
pub(super) fn whole<'a>(context: &Context<'a>, replay: &mut Replay<'a>, found: &mut Vec<Advice>) {
    let definitions = context.definitions;
    for shard in definitions.shards.iter().filter(|s| !s.key.is_empty()) {
        if spoken_of(context, found, &shard.name) {
            continue;
        }
        let used = context.usage.shards.get(&shard.name).filter(|u| u.accesses >= context.terms.enough);
        let (Some(used), Some(table)) = (used, definitions.table_of(shard)) else { continue };
        let all = table.combinations(&shard.key);
        let least = used.instances.values().map(BTreeSet::len).min().unwrap_or(0) as f64;
        let unkeyed = Shard { key: Vec::new(), ..shard.clone() };
        let small = definitions.copy_bytes(&unkeyed) <= SMALL * context.terms.edge_bytes as f64;
        // Reads of one row must name it as a filter: an invocation would get all rows instead of its own.
        if least < 0.7 * all || all < 2.0 || !small || used.invocations > 0 {
            continue;
        }
        let remake = remake(context, replay, &unkeyed);
        let (now, then) = (replay.as_is(&[&shard.name]), replay.if_remade(&[&shard.name], &remake));
        if then.hit_ratio < now.hit_ratio + TOLERATED {
            continue;
        }
        replay.propose(&[&shard.name], remake);
        let load = table.changes_per_hour();
        found.push(Advice {
            kind: Kind::Whole,
            subject: shard.name.clone(),
            text: format!(
                "each edge reads at least {least:.0} of the {all:.0} instances of {}, one by one, and all of it is small",
                shard.name
            ),
            caution: "an invocation will get all rows and has to pick its own".into(),
            statement: define(definitions, &unkeyed),
            undo: define(definitions, shard),
            rests_on: RestsOn { shards: vec![shard.name.clone()], ..RestsOn::default() },
            expected: expectation(used.accesses, now, then, (load * (least / all).min(1.0), load)),
        });
    }
}
