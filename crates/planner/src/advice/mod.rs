//! Shard advice: from what functions read, which shards would serve them better.
//!
//! Only what holds for every logged read is proposed as a narrower shard: one that left out rows that some function reads
//! would give it a wrong answer. Each piece of advice comes with the statement to run, the one that takes it back, and what to
//! expect, found by replaying the log against caches of the size that edges have.
//!
//! | module | what it is |
//! |---|---|
//! | `origin` | tables, shards and mappings as they are now, with sizes |
//! | `filter`, `usage` | what the log says about each shard |
//! | `replay` | hits and bytes of a cache, under the definitions as they are or as they would be |
//! | `shapes`, `split` | narrower shards, wider ones, several for one |
//! | `together` | shards that are always read together: one instead, of one table or as a query |
//! | `upkeep`, `tables` | what nobody reads; what the tables lack |
//! | `sql` | statements in which nothing that was logged can be taken for SQL |

mod filter;
mod origin;
mod replay;
mod shapes;
mod split;
mod sql;
mod tables;
mod together;
mod upkeep;
mod usage;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde::Serialize;

pub use origin::{Column, Definitions, Partition, QueryShard, Reference, Scale, Shard, Table};
use replay::Replay;
pub use sql::{identifier, literal};
use usage::Usage;

/// One read of one or more shards by one function at one edge.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Edge name.
    pub edge: String,
    /// Function id.
    pub function: String,
    /// When, in milliseconds of any clock.
    pub at: i64,
    /// How many transactions ago it was logged.
    pub age: u64,
    /// When it was logged, in milliseconds of the origin's clock.
    pub logged: i64,
    /// Ids of the shard instances read.
    pub instances: Vec<String>,
    /// Parameters and filters by name, as logged: `("status", "eq.open")`, `("customer_id", "42")`.
    pub filters: Vec<(String, String)>,
}

/// What is proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One instance per value instead of all rows.
    Keyed,
    /// Only the rows with these values.
    Predicate,
    /// Only the rows within bounds.
    Range,
    /// One partition instead of the whole table.
    Partition,
    /// The whole (small) table instead of instances.
    Whole,
    /// Only the columns that are read.
    Columns,
    /// Several shards instead of one of which each function wants another part.
    Split,
    /// One shard instead of several of one table that are always read together.
    Merge,
    /// One query instead of a row and the rows that refer to it.
    Query,
    /// A shard that nobody reads.
    Drop,
    /// A mapping that a function does not use.
    Unmap,
    /// An index that fetching instances needs.
    Index,
    /// A replica identity that lets changes concern single instances.
    ReplicaIdentity,
}

impl Kind {
    /// Every kind, in order.
    pub const ALL: [Kind; 13] = [
        Kind::Keyed,
        Kind::Predicate,
        Kind::Range,
        Kind::Partition,
        Kind::Whole,
        Kind::Columns,
        Kind::Split,
        Kind::Merge,
        Kind::Query,
        Kind::Drop,
        Kind::Unmap,
        Kind::Index,
        Kind::ReplicaIdentity,
    ];

    /// Its name, as in JSON and in `foreshard.advice`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Keyed => "keyed",
            Kind::Predicate => "predicate",
            Kind::Range => "range",
            Kind::Partition => "partition",
            Kind::Whole => "whole",
            Kind::Columns => "columns",
            Kind::Split => "split",
            Kind::Merge => "merge",
            Kind::Query => "query",
            Kind::Drop => "drop",
            Kind::Unmap => "unmap",
            Kind::Index => "index",
            Kind::ReplicaIdentity => "replica_identity",
        }
    }

    /// Whether it changes tables, and not definitions of shards.
    pub fn alters_tables(self) -> bool {
        matches!(self, Kind::Index | Kind::ReplicaIdentity)
    }
}

/// What to expect. Pairs are: as it is, as it would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Expectation {
    /// Reads that the advice rests on.
    pub accesses: u64,
    /// Share of the reads concerned that find all they need at their edge, without any prefetching.
    pub hit_ratio: (f64, f64),
    /// Bytes that these reads need at the edge that needs most.
    pub bytes_per_edge: (u64, u64),
    /// Row changes per hour that concern what one edge holds of it.
    pub invalidation_load: (f64, f64),
}

/// One proposal.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advice {
    /// What is proposed.
    pub kind: Kind,
    /// The shard, the function or the table.
    pub subject: String,
    /// Why, in words.
    pub text: String,
    /// What somebody has to know or do before it is applied; empty if nothing.
    pub caution: String,
    /// SQL that does it.
    pub statement: String,
    /// SQL that takes it back.
    pub undo: String,
    /// What it rests on: if one of them changes, the advice is out of date.
    pub rests_on: RestsOn,
    /// What to expect.
    pub expected: Expectation,
}

/// Names of definitions.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RestsOn {
    /// Shards.
    pub shards: Vec<String>,
    /// Functions.
    pub functions: Vec<String>,
    /// Tables whose replica identity it sets, qualified and quoted.
    pub tables: Vec<String>,
}

/// By which advice is given.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Bytes of copies that an edge has room for.
    pub edge_bytes: u64,
    /// Reads of a shard before anything is said about it.
    pub enough: u64,
    /// Milliseconds of log without a read before a shard counts as read by nobody.
    pub unread: i64,
    /// Shards whose definitions are left alone.
    pub leave: BTreeSet<String>,
}

impl Default for Terms {
    fn default() -> Self {
        // What `serve` has for reactive copies if nothing is set.
        Terms { edge_bytes: 64 << 20, enough: 20, unread: 14 * 86_400_000, leave: BTreeSet::new() }
    }
}

/// What can be said about the definitions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Proposals, by kind and subject.
    pub advice: Vec<Advice>,
    /// Share of all reads that find all they need at their edge without any prefetching: as it is, and with all proposals.
    pub hit_ratio: (f64, f64),
}

/// Everything worth proposing.
pub fn advise(definitions: &Definitions, accesses: &[Access], terms: &Terms) -> Report {
    let usage = Usage::of(definitions, accesses);
    let mut replay = Replay::new(definitions, accesses, terms.edge_bytes);
    let context = Context { definitions, accesses, usage: &usage, terms };
    let mut found = Vec::new();
    shapes::narrower(&context, &mut replay, &mut found);
    shapes::whole(&context, &mut replay, &mut found);
    // One proposal for a shard at a time: what else there is to say about it is said when that is decided.
    split::by_function(&context, &mut replay, &mut found);
    together::merged(&context, &mut replay, &mut found);
    together::joined(&context, &mut replay, &mut found);
    upkeep::dead(&context, &mut found);
    upkeep::unmapped(&context, &mut found);
    tables::indexes(&context, &mut found);
    tables::identities(&context, &mut replay, &mut found);
    let hit_ratio = replay.with_everything();
    found.sort_by(|a, b| a.kind.cmp(&b.kind).then_with(|| a.subject.cmp(&b.subject)));
    Report { advice: found, hit_ratio }
}

/// What every kind of advice is made from.
struct Context<'a> {
    definitions: &'a Definitions,
    accesses: &'a [Access],
    usage: &'a Usage,
    terms: &'a Terms,
}

/// Whether the shard is to be left alone, or something was already proposed for it.
fn spoken_of(context: &Context<'_>, found: &[Advice], shard: &str) -> bool {
    context.terms.leave.contains(shard) || found.iter().any(|a| a.rests_on.shards.iter().any(|s| s == shard))
}
