//! What the log says about each shard.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use percent_encoding::percent_decode_str;

use super::filter::{Filter, filters, named_columns};
use super::origin::{Definitions, Shard, Table};
use super::{Access, filter};

/// How one column of a shard is filtered by.
#[derive(Clone, Debug, Default)]
pub(super) struct ColumnUse {
    /// Reads with a filter on it.
    pub(super) reads: u64,
    /// Reads that ask for one value of it.
    pub(super) equal: u64,
    /// The distinct filters; no more than [`MOST_VALUES`].
    pub(super) filters: BTreeSet<Filter>,
    /// Distinct values asked for at each edge.
    pub(super) values: BTreeMap<String, BTreeSet<String>>,
}

/// How one shard is used.
#[derive(Clone, Debug, Default)]
pub(super) struct ShardUsage {
    /// Reads.
    pub(super) accesses: u64,
    /// Those that gave parameters instead of filters, and so got all rows of an unkeyed shard.
    pub(super) invocations: u64,
    /// Instances read, per edge.
    pub(super) instances: BTreeMap<String, BTreeSet<String>>,
    pub(super) columns: BTreeMap<String, ColumnUse>,
    /// Columns asked for, while all reads named theirs.
    pub(super) selected: Option<BTreeSet<String>>,
    /// Reads by each function.
    pub(super) functions: BTreeMap<String, u64>,
}

/// What the log says.
#[derive(Clone, Debug, Default)]
pub(super) struct Usage {
    /// Executions of each function, since it was mapped as it is.
    pub(super) functions: BTreeMap<String, u64>,
    /// Per shard, since it was defined as it is.
    pub(super) shards: BTreeMap<String, ShardUsage>,
    /// Executions that read both of two shards, the smaller name first.
    pub(super) together: BTreeMap<(String, String), u64>,
    /// Shards that each function read since it was mapped as it is.
    pub(super) read_by: BTreeMap<String, BTreeSet<String>>,
}

/// Distinct values and filters that are told apart.
const MOST_VALUES: usize = 100_000;
/// Shards of one execution that are compared with each other.
const MOST_TOGETHER: usize = 32;

/// The shard that an instance id names. Ids write all but letters, digits and `-._~` as in URLs.
pub(super) fn shard_of(instance: &str) -> Cow<'_, str> {
    plain(instance.split_once('?').map_or(instance, |(shard, _)| shard))
}

fn plain(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

/// Whether the id is one of an instance of the shard as it is defined now.
pub(super) fn is_instance_of(instance: &str, shard: &Shard) -> bool {
    match instance.split_once('?') {
        None => shard.key.is_empty() && plain(instance) == shard.name,
        Some((name, key)) => {
            let columns = key.split('&').map(|part| plain(part.split('=').next().unwrap_or(part)));
            plain(name) == shard.name && columns.eq(shard.key.iter().map(String::as_str))
        }
    }
}

impl Usage {
    pub(super) fn of(definitions: &Definitions, accesses: &[Access]) -> Self {
        let mut usage = Usage::default();
        let shards: BTreeMap<&str, &Shard> =
            definitions.shards.iter().map(|s| (s.name.as_str(), s)).collect();
        for access in accesses {
            if definitions.mapped.get(&access.function).is_some_and(|age| access.age < *age) {
                *usage.functions.entry(access.function.clone()).or_default() += 1;
                let read = usage.read_by.entry(access.function.clone()).or_default();
                for instance in &access.instances {
                    let shard = shard_of(instance);
                    if !read.contains(&*shard) {
                        read.insert(shard.into_owned());
                    }
                }
            }
            let current = |i: &&String| {
                let shard = shards.get(&*shard_of(i));
                shard.is_some_and(|s| access.age < s.age && is_instance_of(i, s))
            };
            let read: Vec<&String> = access.instances.iter().filter(current).collect();
            let mut names: Vec<Cow<'_, str>> = read.iter().map(|i| shard_of(i)).take(MOST_TOGETHER).collect();
            names.sort_unstable();
            names.dedup();
            for (i, a) in names.iter().enumerate() {
                for b in &names[i + 1..] {
                    *usage.together.entry((a.to_string(), b.to_string())).or_default() += 1;
                }
            }
            for instance in read {
                let shard = shards[&*shard_of(instance)];
                let table = definitions.table_of(shard);
                usage.shards.entry(shard.name.clone()).or_default().read(access, instance, table);
            }
        }
        usage
    }

    pub(super) fn read_together(&self, a: &str, b: &str) -> u64 {
        let pair = if a < b { (a.to_owned(), b.to_owned()) } else { (b.to_owned(), a.to_owned()) };
        self.together.get(&pair).copied().unwrap_or(0)
    }

    pub(super) fn reads(&self, shard: &str) -> u64 {
        self.shards.get(shard).map_or(0, |u| u.accesses)
    }
}

impl ShardUsage {
    /// The use that some reads make of a shard.
    pub(super) fn of<'a>(shard: &Shard, table: &Table, accesses: impl Iterator<Item = &'a Access>) -> Self {
        let mut usage = ShardUsage::default();
        for access in accesses.filter(|a| a.age < shard.age) {
            for instance in access.instances.iter().filter(|i| is_instance_of(i, shard)) {
                usage.read(access, instance, Some(table));
            }
        }
        usage
    }

    fn read(&mut self, access: &Access, instance: &str, table: Option<&Table>) {
        let is_column = |name: &str| table.is_some_and(|t| t.column(name).is_some());
        self.accesses += 1;
        *self.functions.entry(access.function.clone()).or_default() += 1;
        let instances = self.instances.entry(access.edge.clone()).or_default();
        if instances.len() < MOST_VALUES && !instances.contains(instance) {
            instances.insert(instance.to_owned());
        }
        let mut of_column: BTreeMap<&str, Vec<Filter>> = BTreeMap::new();
        for (name, filter) in filters(&access.filters).filter(|(name, _)| is_column(name)) {
            of_column.entry(name).or_default().push(filter);
        }
        let bare = access.filters.iter().any(|(name, value)| is_column(name) && !value.contains('.'));
        self.invocations += u64::from(bare);
        for (name, filters) in of_column {
            let used = self.columns.entry(name.to_owned()).or_default();
            used.reads += 1;
            if let [Filter::Equal(value)] = filters.as_slice() {
                used.equal += 1;
                let values = used.values.entry(access.edge.clone()).or_default();
                if values.len() < MOST_VALUES && !values.contains(value) {
                    values.insert(value.clone());
                }
            }
            if used.filters.len() < MOST_VALUES {
                used.filters.extend(filters);
            }
        }
        let named = named_columns(&access.filters).filter(|columns| columns.iter().all(|c| is_column(c)));
        let first = self.accesses == 1;
        self.selected = match (first, self.selected.take(), named) {
            (true, _, Some(named)) => Some(named.into_iter().map(str::to_owned).collect()),
            (false, Some(mut all), Some(named)) => {
                all.extend(named.into_iter().map(str::to_owned));
                Some(all)
            }
            _ => None,
        };
    }

    /// How a column is filtered by, if every read does.
    pub(super) fn always(&self, column: &str) -> Option<&ColumnUse> {
        self.columns.get(column).filter(|used| used.reads == self.accesses)
    }
}

impl ColumnUse {
    /// The values asked for, if all filters list theirs and there are no more than `most`.
    pub(super) fn listed(&self, most: usize) -> Option<Vec<String>> {
        let mut values = BTreeSet::new();
        for filter in &self.filters {
            match filter {
                filter::Filter::Equal(v) => {
                    values.insert(v.clone());
                }
                filter::Filter::OneOf(vs) => values.extend(vs.iter().cloned()),
                _ => return None,
            }
            if values.len() > most {
                return None;
            }
        }
        Some(values.into_iter().collect())
    }

    /// Whether every read asks for one value.
    pub(super) fn is_one_each(&self) -> bool {
        self.equal == self.reads
    }
}
