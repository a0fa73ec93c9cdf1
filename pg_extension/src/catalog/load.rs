use std::collections::BTreeSet;

use foreshard_protocol::Schedule;

use super::{Definitions, Dependency, POSTGRES_EPOCH, Shard, schedule};
use crate::pg::Oid;
use crate::pg::relation::{own_table, qualified_name};
use crate::pg::scan::{Lookup, Row, View, every_row, matching_rows};

/// The extension's tables that are read by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tables {
    pub(crate) shard: Oid,
    /// What queries depend on. Not there before version 0.2 of the extension's objects.
    pub(crate) shard_source: Option<Oid>,
    pub(crate) mapping: Oid,
    pub(crate) edge: Oid,
    pub(crate) schedules: Oid,
}

impl Tables {
    /// `None` where the extension is not installed.
    pub(crate) fn find() -> Option<Tables> {
        Some(Tables {
            shard: own_table(c"shard")?,
            shard_source: own_table(c"shard_source"),
            mapping: own_table(c"mapping")?,
            edge: own_table(c"edge")?,
            schedules: own_table(c"schedules")?,
        })
    }

    /// Whether `table` holds definitions.
    pub(crate) fn defines(&self, table: Oid) -> bool {
        table == self.shard || Some(table) == self.shard_source || table == self.mapping || table == self.edge
    }
}

/// An edge location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    /// Who may run its sidecar; superusers always may.
    pub(crate) role: Option<Oid>,
    /// Its replication slot.
    pub(crate) slot_name: String,
}

/// The edge of that name.
pub(crate) fn edge(tables: &Tables, name: &str, view: View) -> Option<Edge> {
    let mut found = None;
    let by_name = Lookup { index: own_table(c"edge_pkey")?, column: 1, text: name };
    matching_rows(tables.edge, by_name, view, |row| {
        found = Some(Edge { role: row.oid(4), slot_name: row.text(5).unwrap_or_default() });
    });
    found
}

/// Whether some edge has a slot of that name.
pub(crate) fn has_slot(tables: &Tables, slot: &str, view: View) -> bool {
    let mut found = false;
    every_row(tables.edge, view, |row| found |= row.text(5).as_deref() == Some(slot));
    found
}

/// All shards and mappings.
pub(crate) fn definitions(tables: &Tables, view: View) -> Definitions {
    let mut all = Definitions::default();
    every_row(tables.shard, view, |row| {
        if let Some(shard) = shard(row) {
            all.shards.insert(shard.name.clone(), shard);
        }
    });
    if let Some(sources) = tables.shard_source {
        let mut rows = Vec::new();
        every_row(sources, view, |row| rows.extend(dependency(row)));
        rows.sort_by(|one: &SourceRow, other| (&one.0, one.1).cmp(&(&other.0, other.1)));
        for (name, _, dependency) in rows {
            if let Some(shard) = all.shards.get_mut(&name) {
                attach(shard, dependency);
            }
        }
    }
    all.shards.values_mut().for_each(note_underived);
    let mut rows = Vec::new();
    every_row(tables.mapping, view, |row| {
        if let (Some(function), Some(ordinal), Some(shard)) = (row.text(1), row.integer(2), row.text(3)) {
            rows.push((function, ordinal, shard));
        }
    });
    rows.sort();
    // A dump that is being restored may bring mappings before their shards.
    for (function, _, shard) in rows.into_iter().filter(|(_, _, shard)| all.shards.contains_key(shard)) {
        all.functions.entry(function).or_default().push(shard);
    }
    all
}

/// Whether there is a shard of that name, whoever may read it.
pub(crate) fn is_defined(tables: &Tables, name: &str, view: View) -> bool {
    let Some(index) = own_table(c"shard_pkey") else { return false };
    let mut found = false;
    matching_rows(tables.shard, Lookup { index, column: 1, text: name }, view, |_| found = true);
    found
}

/// The shard of that name, if some function may read it.
pub(crate) fn mapped_shard(tables: &Tables, name: &str, view: View) -> Option<Shard> {
    let by_shard = Lookup { index: own_table(c"mapping_shard")?, column: 3, text: name };
    let mut mapped = false;
    matching_rows(tables.mapping, by_shard, view, |_| mapped = true);
    let by_name = Lookup { index: own_table(c"shard_pkey").filter(|_| mapped)?, column: 1, text: name };
    let mut found = None;
    matching_rows(tables.shard, by_name, view, |row| found = shard(row));
    if let Some(sources) = tables.shard_source
        && let Some(index) = own_table(c"shard_source_pkey")
    {
        let mut rows = Vec::new();
        matching_rows(sources, Lookup { index, column: 1, text: name }, view, |row| {
            rows.extend(dependency(row));
        });
        rows.sort_by_key(|row: &SourceRow| row.1);
        for (_, _, dependency) in rows {
            if let Some(shard) = &mut found {
                attach(shard, dependency);
            }
        }
    }
    found.iter_mut().for_each(note_underived);
    found
}

/// A row of `foreshard.shard_source`: shard, ordinal and what it says.
type SourceRow = (String, i32, Dependency);

/// What can't be read of it makes more rows matter, never fewer.
fn dependency(row: &Row<'_>) -> Option<SourceRow> {
    let dependency = Dependency {
        source: row.oid(3)?.into(),
        source_name: row.text(4).unwrap_or_default(),
        key_attnums: row.smallints(5).unwrap_or_default(),
        predicate_tree: row.text(7),
        read_attnums: row.smallints(8),
    };
    Some((row.text(1)?, row.integer(2)?, dependency))
}

fn attach(shard: &mut Shard, dependency: Dependency) {
    let Some(query) = &mut shard.query else { return };
    let now = qualified_name(Oid::from(dependency.source));
    if !query.iter().any(|known| known.source == dependency.source) {
        if !shard.source_name.is_empty() {
            shard.source_name += ", ";
        }
        shard.source_name += &now;
    }
    query.push(dependency);
}

/// Without its sources, or the tree of its predicate, nothing tells which changes concern a shard.
fn note_underived(shard: &mut Shard) {
    if shard.defect.is_none() && shard.query.as_ref().is_some_and(Vec::is_empty) {
        shard.defect = Some(UNDERIVED.to_owned());
    }
}

const UNDERIVED: &str =
    "its definition was restored without what follows from it; run SELECT foreshard.rederive()";

/// What running a query shard needs.
pub(crate) struct StoredQuery {
    /// The analysed query.
    pub(crate) tree: Option<String>,
    /// Types of the parameters.
    pub(crate) types: Vec<Oid>,
}

/// The query of that shard.
pub(crate) fn stored_query(name: &str, view: View) -> Option<StoredQuery> {
    let by_shard = Lookup { index: own_table(c"shard_query_pkey")?, column: 1, text: name };
    let mut found = None;
    matching_rows(own_table(c"shard_query")?, by_shard, view, |row| {
        found = Some(StoredQuery { tree: row.text(4), types: row.oids(3).unwrap_or_default() });
    });
    found
}

/// Why a shard can't be evaluated while decoding, whatever can be read of it now.
const LOST: &str = "its definition is too large to be read as of then";

fn shard(row: &Row<'_>) -> Option<Shard> {
    let source = row.oid(2);
    Some(Shard {
        name: row.text(1)?,
        source: source.map_or(0, u32::from),
        source_name: source.map(qualified_name).unwrap_or_default(),
        query: source.is_none().then(Vec::new),
        owner: row.oid(6).map_or(0, u32::from),
        generation: row.bigint(7).unwrap_or_default().cast_unsigned(),
        key: row.names(4).unwrap_or_default(),
        key_attnums: row.smallints(9).unwrap_or_default(),
        column_attnums: row.smallints(10),
        predicate_tree: row.text(8),
        // Names of key columns are never so long that they would be moved.
        defect: row
            .text(11)
            .or_else(|| [8, 9, 10, 11].iter().any(|column| row.is_lost(*column)).then(|| LOST.to_owned()))
            .or_else(|| (row.text(3).is_some() && row.text(8).is_none()).then(|| UNDERIVED.to_owned())),
    })
}

/// How many schedules an edge gets that are over by the server's clock: one that replays a trace has a clock of its own.
const PAST_SCHEDULES: usize = 8;

/// Schedules of an edge that are not over at `now` (microseconds since 1970-01-01 UTC) and the newest of the others,
/// ascending by id.
pub(crate) fn schedules(tables: &Tables, edge: &str, now: i64, view: View) -> Vec<Schedule> {
    let Some(index) = own_table(c"schedules_edge") else { return Vec::new() };
    let of_edge = Lookup { index, column: 2, text: edge };
    let mut known = Vec::new();
    matching_rows(tables.schedules, of_edge, view, |row| known.extend(row.bigint(1).zip(row.bigint(4))));
    known.sort_unstable();
    let newest = known.len().saturating_sub(PAST_SCHEDULES);
    let wanted: BTreeSet<i64> = known
        .into_iter()
        .enumerate()
        .filter(|(at, (_, ends_at))| *at >= newest || ends_at.saturating_add(POSTGRES_EPOCH) > now)
        .map(|(_, (id, _))| id)
        .collect();
    // Only what is given is taken apart: entries are most of it.
    let mut found = Vec::new();
    matching_rows(tables.schedules, of_edge, view, |row| {
        if row.bigint(1).is_some_and(|id| wanted.contains(&id)) {
            found.extend(schedule(row));
        }
    });
    found.sort_by_key(|schedule| schedule.id);
    found
}
