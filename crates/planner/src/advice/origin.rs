//! Tables, shards and mappings as they are now, with what statistics say about their sizes.

use std::collections::BTreeMap;

use chrono::{NaiveDate, NaiveDateTime};

/// How the values of a column are ordered, where bounds can be proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Integers and other numbers.
    Number,
    /// `2024-03-01`.
    Date,
    /// `2024-03-01 12:00:00`, without a zone.
    Timestamp,
}

impl Scale {
    /// Where a value stands: a number, days, or seconds.
    pub fn place(self, value: &str) -> Option<f64> {
        match self {
            Scale::Number => value.parse::<f64>().ok().filter(|v| v.is_finite()),
            Scale::Date => {
                let date: NaiveDate = value.parse().ok()?;
                Some(date.signed_duration_since(NaiveDate::default()).num_days() as f64)
            }
            Scale::Timestamp => {
                let text = value.replacen(' ', "T", 1);
                let time = text.parse::<NaiveDateTime>().ok();
                let time = time.or_else(|| text.parse::<NaiveDate>().ok()?.and_hms_opt(0, 0, 0))?;
                Some(time.and_utc().timestamp_micros() as f64 / 1e6)
            }
        }
    }
}

/// A column of a table.
#[derive(Clone, Debug, Default)]
pub struct Column {
    /// Its name, unquoted.
    pub name: String,
    /// Number of distinct values, as estimated.
    pub distinct: f64,
    /// The most common values and the share of the rows that has each.
    pub common: Vec<(String, f64)>,
    /// Mean length of a value as text, bytes.
    pub width: f64,
    /// How its values are ordered, if bounds may be proposed.
    pub scale: Option<Scale>,
    /// Values that divide the rows into parts of equal size, ascending.
    pub histogram: Vec<String>,
    /// Whether it can't be null.
    pub not_null: bool,
    /// Whether it may be a shard's key.
    pub keyable: bool,
}

impl Column {
    /// The share of the rows that has this value, as estimated.
    pub(super) fn share_of(&self, value: &str) -> f64 {
        if let Some((_, share)) = self.common.iter().find(|(v, _)| v == value) {
            return *share;
        }
        let known: f64 = self.common.iter().map(|(_, share)| share).sum();
        let others = (self.distinct - self.common.len() as f64).max(1.0);
        ((1.0 - known) / others).max(0.0)
    }

    /// The share of the rows from `low` up to `high`, as estimated; `None` if statistics don't tell.
    pub(super) fn share_between(&self, low: Option<f64>, high: Option<f64>) -> Option<f64> {
        let scale = self.scale?;
        let bounds: Vec<f64> = self.histogram.iter().filter_map(|v| scale.place(v)).collect();
        let parts = bounds.len().checked_sub(1).filter(|parts| *parts > 0)? as f64;
        let below = |at: f64| {
            let full = bounds.iter().take_while(|b| **b <= at).count();
            match full {
                0 => 0.0,
                f if f == bounds.len() => 1.0,
                f => (f as f64 - 1.0 + (at - bounds[f - 1]) / (bounds[f] - bounds[f - 1]).max(1e-9)) / parts,
            }
        };
        let within = high.map_or(1.0, below) - low.map_or(0.0, below);
        let listed: f64 = self
            .common
            .iter()
            .filter(|(v, _)| {
                scale.place(v).is_some_and(|v| low.is_none_or(|l| v >= l) && high.is_none_or(|h| v <= h))
            })
            .map(|(_, share)| share)
            .sum();
        let outside: f64 = 1.0 - self.common.iter().map(|(_, share)| share).sum::<f64>();
        Some((listed + within.max(0.0) * outside.max(0.0)).clamp(0.0, 1.0))
    }
}

/// A partition of a table.
#[derive(Clone, Debug)]
pub struct Partition {
    /// Its name, qualified and quoted as SQL needs it.
    pub table: String,
    /// Values of a list partition.
    pub values: Vec<String>,
    /// Lower bound (included) and upper bound (excluded) of a range partition.
    pub range: Option<(String, String)>,
    /// Rows in it.
    pub rows: f64,
}

/// Columns that refer to another table's.
#[derive(Clone, Debug, Default)]
pub struct Reference {
    /// Here.
    pub columns: Vec<String>,
    /// The other table, qualified and quoted.
    pub table: String,
    /// There.
    pub targets: Vec<String>,
}

/// A table that shards read.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Its name, qualified and quoted as SQL needs it.
    pub name: String,
    /// Its schema, quoted.
    pub schema: String,
    /// Rows in it.
    pub rows: f64,
    /// Its columns in order.
    pub columns: Vec<Column>,
    /// Columns of the primary key.
    pub primary_key: Vec<String>,
    /// Columns of each index that finds rows by them, in order.
    pub indexes: Vec<Vec<String>>,
    /// Columns whose old values a change brings; `None`: all of them.
    pub identity: Option<Vec<String>>,
    /// Whether that is what a table has if nothing was said.
    pub identity_is_default: bool,
    /// Column that it is partitioned by, if it is by one.
    pub partitioned_by: Option<String>,
    /// Its partitions.
    pub partitions: Vec<Partition>,
    /// Foreign keys.
    pub references: Vec<Reference>,
    /// Rows inserted per second.
    pub inserts: f64,
    /// Rows updated and deleted per second.
    pub rewrites: f64,
}

/// What an edge keeps besides the text of a copy's rows: the copy itself, and for each row and value a place.
const COPY: f64 = 250.0;
const ROW: f64 = 24.0;
const VALUE: f64 = 28.0;

impl Table {
    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name)
    }

    /// Bytes that an edge counts for one row of these columns: its text twice (rows, and the JSON made of them), its names.
    fn row_bytes(&self, columns: Option<&[String]>) -> f64 {
        let kept = self.columns.iter().filter(|c| columns.is_none_or(|list| list.contains(&c.name)));
        ROW + kept.map(|c| 2.0 * c.width + VALUE + c.name.len() as f64).sum::<f64>()
    }

    /// Distinct combinations of values of these columns.
    pub(super) fn combinations(&self, columns: &[String]) -> f64 {
        let distinct = |name: &String| self.column(name).map_or(1.0, |c| c.distinct.max(1.0));
        columns.iter().map(distinct).product::<f64>().min(self.rows.max(1.0))
    }

    /// Row changes per hour.
    pub(super) fn changes_per_hour(&self) -> f64 {
        3600.0 * (self.inserts + self.rewrites)
    }
}

/// A shard of one table as it is defined.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shard {
    /// Its name.
    pub name: String,
    /// Its table, qualified and quoted.
    pub table: String,
    /// Which rows, if not all.
    pub predicate: Option<String>,
    /// Key columns; empty for an unkeyed shard.
    pub key: Vec<String>,
    /// Which columns, if not all.
    pub columns: Option<Vec<String>>,
    /// Role whose rights fetches have.
    pub owner: String,
    /// Rows of all its instances together, as estimated.
    pub rows: f64,
    /// How many transactions ago it was defined as it is.
    pub age: u64,
}

/// A shard that is a query.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryShard {
    /// Its name.
    pub name: String,
    /// Its query, with the types of its parameters.
    pub query: String,
    /// Names of its parameters.
    pub params: Vec<String>,
    /// Role whose rights fetches have.
    pub owner: String,
    /// How many transactions ago it was defined as it is.
    pub age: u64,
}

/// Shards, tables and mappings as they are now.
#[derive(Clone, Debug, Default)]
pub struct Definitions {
    /// Shards of single tables.
    pub shards: Vec<Shard>,
    /// Shards that are queries.
    pub queries: Vec<QueryShard>,
    /// Their tables, by name.
    pub tables: BTreeMap<String, Table>,
    /// The shards of each function, in order.
    pub mappings: BTreeMap<String, Vec<String>>,
    /// How many transactions ago each function was mapped as it is.
    pub mapped: BTreeMap<String, u64>,
    /// The role that asks.
    pub role: String,
}

impl Definitions {
    pub(super) fn shard(&self, name: &str) -> Option<&Shard> {
        self.shards.iter().find(|s| s.name == name)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.shard(name).is_some() || self.queries.iter().any(|q| q.name == name)
    }

    /// The table that a shard is of; of a partition that no shard reads so far nothing else is known than of the table it is part of.
    pub(super) fn table_of(&self, shard: &Shard) -> Option<&Table> {
        let is_part = |table: &&Table| table.partitions.iter().any(|p| p.table == shard.table);
        self.tables.get(&shard.table).or_else(|| self.tables.values().find(is_part))
    }

    /// Bytes of one instance's copy.
    pub(super) fn copy_bytes(&self, shard: &Shard) -> f64 {
        let Some(table) = self.table_of(shard) else { return COPY };
        let rows = match shard.key.as_slice() {
            [] => shard.rows,
            key => shard.rows / table.combinations(key).min(shard.rows.max(1.0)),
        };
        COPY + rows.max(0.0) * table.row_bytes(shard.columns.as_deref())
    }

    /// The functions that may read a shard, each with its list.
    pub(super) fn readers(&self, shard: &str) -> impl Iterator<Item = (&String, &Vec<String>)> {
        self.mappings.iter().filter(move |(_, shards)| shards.iter().any(|s| s == shard))
    }

    /// A name of at most 63 bytes that no shard has.
    pub(super) fn free_name(&self, wanted: &str) -> String {
        let mut end = wanted.len().min(60);
        while !wanted.is_char_boundary(end) {
            end -= 1;
        }
        let base = &wanted[..end];
        let mut name = base.to_owned();
        for n in 2.. {
            if !self.has(&name) {
                break;
            }
            name = format!("{base}_{n}");
        }
        name
    }
}
