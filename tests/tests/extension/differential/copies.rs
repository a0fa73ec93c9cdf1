//! Copies of every instance, kept as an edge keeps them: changes of rows are applied, what is invalidated is read again.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use foreshard_protocol::{
    CatalogChange, Deltas, Event, FetchPart, Frame, InstanceId, KeyChange, KeyPart, Row, RowChange,
    fingerprint,
};

use super::schema::{FAILS, World};
use crate::origin::Origin;

pub(super) type Key = Vec<Option<String>>;
/// Rows, sorted, by shard and key. An instance without rows may be missing.
pub(super) type State = BTreeMap<String, BTreeMap<Key, Vec<Row>>>;

/// In what form a fetch brings a shard's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Form {
    generation: u64,
    columns: u64,
    identity: Vec<usize>,
}

/// What has become of a shard's copies.
enum Stale {
    All,
    Some(BTreeSet<Key>),
}

#[derive(Default)]
pub(super) struct Copies {
    held: State,
    forms: BTreeMap<String, Form>,
    /// Shards of which no instance could be read: nobody has a copy, or knows the form.
    unread: BTreeSet<String>,
    stale: BTreeMap<String, Stale>,
    /// Row changes that were applied.
    pub(super) applied: usize,
    /// Copies that were right after a transaction that touched their shard, without having been read again.
    pub(super) kept: usize,
    /// Events that invalidated.
    pub(super) invalidated: usize,
    /// Instances that could not be read.
    pub(super) failed: usize,
}

pub(super) fn parse_state(text: &str) -> Result<State> {
    let all: BTreeMap<String, Option<Vec<(Key, Row)>>> = serde_json::from_str(text)?;
    let mut state = State::new();
    for (shard, rows) in all {
        let instances = state.entry(shard).or_default();
        for (key, row) in rows.into_iter().flatten() {
            instances.entry(key).or_default().push(row);
        }
        instances.values_mut().for_each(|rows| rows.sort());
    }
    Ok(state)
}

impl Copies {
    pub(super) fn of(held: State) -> Self {
        Copies { held, ..Copies::default() }
    }

    /// Does to the copies what a frame says. `altering`: forms may differ from those known.
    pub(super) fn take(&mut self, frame: Frame, altering: bool) -> Result<()> {
        for event in frame.events {
            match event {
                Event::Shard { shard, change } => match change {
                    KeyChange::Whole(_) => self.invalidate(&shard),
                    KeyChange::Keys(keys) => {
                        self.invalidated += 1;
                        let stale = self.stale.entry(shard).or_insert_with(|| Stale::Some(BTreeSet::new()));
                        if let Stale::Some(known) = stale {
                            known.extend(keys.into_iter().map(values));
                        }
                    }
                    KeyChange::Rows(deltas) => self.apply(&shard, deltas, altering)?,
                },
                Event::Catalog(CatalogChange::Shard(shard)) => self.invalidate(&shard.name),
                Event::Catalog(_) | Event::Schedule(_) | Event::Unsettled(_) => {}
            }
        }
        Ok(())
    }

    fn invalidate(&mut self, shard: &str) {
        self.invalidated += 1;
        self.stale.insert(shard.to_owned(), Stale::All);
    }

    fn apply(&mut self, shard: &str, deltas: Deltas, altering: bool) -> Result<()> {
        if self.unread.contains(shard) {
            self.invalidate(shard);
            return Ok(());
        }
        let form = self.forms.get(shard).with_context(|| format!("rows of {shard}, which has no form"))?;
        if (deltas.generation, deltas.columns) != (form.generation, form.columns) {
            assert!(altering, "{shard}: rows in another form than a fetch brings");
            self.invalidate(shard);
            return Ok(());
        }
        assert!(!form.identity.is_empty(), "{shard}: rows that can't be told apart");
        let copies = self.held.entry(shard.to_owned()).or_default();
        let identity = |row: &Row| -> Row { form.identity.iter().map(|at| row[*at].clone()).collect() };
        for instance in deltas.instances {
            let rows = copies.entry(values(instance.key)).or_default();
            for change in instance.rows {
                self.applied += 1;
                let (gone, put) = match change {
                    RowChange::Put { row } => (identity(&row), Some(row)),
                    RowChange::Remove { identity } => (identity, None),
                };
                rows.retain(|row| identity(row) != gone);
                rows.extend(put);
            }
            rows.sort();
        }
        Ok(())
    }

    /// After a transaction: what was not invalidated must be what the database holds; the rest is read again.
    pub(super) fn check(&mut self, now: &State, script: &str) {
        let stale = std::mem::take(&mut self.stale);
        for (shard, instances) in now {
            let held = self.held.entry(shard.clone()).or_default();
            let keys: BTreeSet<Key> = held.keys().chain(instances.keys()).cloned().collect();
            for key in keys {
                let rows = instances.get(&key).map_or(&[][..], Vec::as_slice);
                let touched = match stale.get(shard) {
                    Some(Stale::All) => true,
                    Some(Stale::Some(keys)) => keys.contains(&key),
                    None => false,
                };
                let copy = held.get(&key).map_or(&[][..], Vec::as_slice);
                // What can't be read is nowhere held: there is no copy to be kept.
                if !touched && !fails(copy) {
                    assert_eq!(copy, rows, "the copy of {shard} {key:?}, and the database, after {script}");
                    self.kept += 1;
                }
            }
            // Empty copies are as good as none.
            held.clone_from(instances);
        }
        self.held.retain(|shard, _| now.contains_key(shard));
    }

    /// Fetches instances, at most so many of each shard: the copies must have the same bytes. Learns the forms that hold from here on.
    pub(super) async fn compare(&mut self, origin: &Origin, world: &World, most: usize) -> Result<()> {
        let mut asked: Vec<(String, Key, String)> = Vec::new();
        for shard in world.names() {
            let held = self.held.get(shard);
            let names = world.key_names(shard);
            let nobody = vec![None; names.len()];
            let known = held.into_iter().flat_map(BTreeMap::keys);
            for key in [&nobody].into_iter().chain(known).take(most) {
                let parts = names.iter().cloned().zip(key.clone());
                let key_parts = parts.map(|(column, value)| KeyPart { column, value }).collect();
                let id = InstanceId { shard: shard.to_owned(), key: key_parts };
                asked.push((shard.to_owned(), key.clone(), id.to_string()));
            }
        }
        let ids: Vec<&str> = asked.iter().map(|(.., id)| id.as_str()).collect();
        let mut answers: Vec<Vec<Row>> = vec![Vec::new(); asked.len()];
        let mut formed = BTreeSet::new();
        for part in origin.fetch(&ids).await? {
            match part {
                FetchPart::Header(_) => {}
                FetchPart::Instance { index, canonical, generation, columns, identity, order } => {
                    let (shard, _, id) = &asked[index as usize];
                    assert_eq!(&canonical, id);
                    let form = Form {
                        generation,
                        columns: fingerprint(&columns, &identity, &order),
                        identity: identity.into_iter().map(usize::from).collect(),
                    };
                    self.forms.insert(shard.clone(), form);
                    self.unread.remove(shard);
                    formed.insert(shard.clone());
                }
                FetchPart::Rows { index, rows } => answers[index as usize].extend(rows),
                FetchPart::Horizon(_) => {}
                FetchPart::Failed { index, message, .. } => {
                    let (shard, key, id) = &asked[index as usize];
                    let held = self.held.get(shard).and_then(|held| held.get(key));
                    anyhow::ensure!(held.is_some_and(|rows| fails(rows)), "{id}: {message}");
                    answers[index as usize] = held.cloned().unwrap_or_default();
                    self.failed += 1;
                    if !formed.contains(shard) {
                        self.unread.insert(shard.clone());
                    }
                }
            }
        }
        for ((shard, key, id), mut rows) in asked.into_iter().zip(answers) {
            rows.sort();
            let copy = self.held.get(&shard).and_then(|held| held.get(&key)).map_or(&[][..], Vec::as_slice);
            assert_eq!(copy, rows, "the copy of {id}, and a fetch");
        }
        Ok(())
    }
}

/// Whether a condition fails on one of the rows.
fn fails(rows: &[Row]) -> bool {
    rows.iter().any(|row| row.iter().any(|value| value.as_deref() == Some(FAILS)))
}

fn values(key: Vec<KeyPart>) -> Key {
    key.into_iter().map(|part| part.value).collect()
}
