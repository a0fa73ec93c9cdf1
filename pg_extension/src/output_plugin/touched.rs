//! What a transaction has done so far: bounded, however many rows it changes.

use std::collections::{BTreeMap, BTreeSet};

use foreshard_protocol::{Deltas, Event, InstanceRows, KeyChange, KeyPart, Row, RowChange, WholeReason};

use super::delta::{RowDelta, RowIdentity};
use super::image::{Key, Touch};
use super::watch::Interest;

/// Keys of one shard in one frame.
const KEYS_PER_SHARD: usize = 1000;
/// Keys of all shards in one frame.
const KEYS_PER_FRAME: usize = 4096;
/// Rows of one shard in one frame: beyond that the instances are named.
const ROWS_PER_SHARD: usize = 1000;
/// Text of keys and rows in one frame.
const BYTES_PER_FRAME: usize = 1 << 20;

/// Which definition decides about a shard, and in what form its rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowForm {
    pub(crate) generation: u64,
    /// `foreshard_protocol::fingerprint` of the rows.
    pub(crate) columns: u64,
}

/// By shard. A shard goes from rows to keys to the whole, never back, until the transaction ends.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    shards: BTreeMap<String, State>,
    keys: usize,
    bytes: usize,
}

#[derive(Debug)]
enum State {
    /// The last is how many rows there are in all instances.
    Rows(RowForm, BTreeMap<Key, Rows>, usize),
    Keys(BTreeSet<Key>),
    Whole(WholeReason),
}

/// The last change of each row; `None` is a removal.
type Rows = BTreeMap<RowIdentity, Option<Row>>;

impl Touched {
    /// Whether nothing has been touched.
    pub(crate) fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    /// What of a shard can still change what is told; `rows` says whether its rows may be told at all.
    pub(crate) fn interest(&self, shard: &str, rows: bool) -> Interest {
        match self.shards.get(shard) {
            Some(State::Whole(_)) => Interest::None,
            Some(State::Keys(_)) => Interest::Keys,
            None | Some(State::Rows(..)) if rows => Interest::Rows,
            _ => Interest::Keys,
        }
    }

    /// Notes what one row change does to a shard whose rows are not told.
    pub(crate) fn note(&mut self, shard: &str, touch: Touch) {
        match touch {
            Touch::Whole(reason) => self.whole(shard, reason),
            Touch::Keys(keys) => {
                self.coarsen_to_keys(shard);
                keys.into_iter().for_each(|key| self.key(shard, key));
            }
        }
    }

    /// Notes what one row change does to the rows of a shard.
    pub(crate) fn note_rows(&mut self, shard: &str, form: RowForm, deltas: Vec<RowDelta>) {
        match self.shards.get_mut(shard) {
            None => {
                self.shards.insert(shard.to_owned(), State::Rows(form, BTreeMap::new(), 0));
            }
            // The table's shape changed within the transaction: all of it is told to be invalid when it commits.
            Some(State::Rows(before, ..)) if *before != form => {
                return self.whole(shard, WholeReason::Ddl);
            }
            Some(_) => {}
        }
        let Some(State::Rows(_, instances, rows_told)) = self.shards.get_mut(shard) else { return };
        for RowDelta { key, identity, row } in deltas {
            let added = size(&identity) + row.as_ref().map_or(0, |row| size(row));
            let key_size = size(&key);
            let rows = instances.entry(key).or_default();
            if rows.is_empty() {
                self.keys += 1;
                self.bytes += key_size;
            }
            self.bytes += added;
            let identity_size = size(&identity);
            match rows.insert(identity, row) {
                Some(before) => self.bytes -= identity_size + before.as_ref().map_or(0, |row| size(row)),
                None => *rows_told += 1,
            }
        }
        let many = instances.len() > KEYS_PER_SHARD || *rows_told > ROWS_PER_SHARD;
        if many || self.over_limit() {
            self.coarsen_to_keys(shard);
        }
    }

    /// Every instance of a shard; the first reason is the one that is told.
    pub(crate) fn whole(&mut self, shard: &str, reason: WholeReason) {
        match self.shards.get_mut(shard) {
            Some(State::Whole(_)) => {}
            Some(state) => {
                let before = std::mem::replace(state, State::Whole(reason));
                self.forget(&before);
            }
            None => {
                self.shards.insert(shard.to_owned(), State::Whole(reason));
            }
        }
    }

    /// From now on only the instances of a shard are told, if they are not too many.
    fn coarsen_to_keys(&mut self, shard: &str) {
        let Some(state) = self.shards.get_mut(shard) else { return };
        if !matches!(state, State::Rows(..)) {
            return;
        }
        let before = std::mem::replace(state, State::Keys(BTreeSet::new()));
        self.forget(&before);
        let State::Rows(_, instances, _) = before else { return };
        for key in instances.into_keys() {
            // A shard without key has one instance only.
            if key.is_empty() { self.whole(shard, WholeReason::Rows) } else { self.key(shard, key) }
        }
    }

    fn key(&mut self, shard: &str, key: Key) {
        if !self.shards.contains_key(shard) {
            self.shards.insert(shard.to_owned(), State::Keys(BTreeSet::new()));
        }
        let Some(State::Keys(keys)) = self.shards.get_mut(shard) else { return };
        let bytes = size(&key);
        if !keys.insert(key) {
            return;
        }
        let many = keys.len() > KEYS_PER_SHARD;
        self.keys += 1;
        self.bytes += bytes;
        if many || self.over_limit() {
            self.whole(shard, WholeReason::Coarsened);
        }
    }

    fn over_limit(&self) -> bool {
        self.keys > KEYS_PER_FRAME || self.bytes > BYTES_PER_FRAME
    }

    fn forget(&mut self, state: &State) {
        let (keys, bytes) = match state {
            State::Whole(_) => (0, 0),
            State::Keys(keys) => (keys.len(), keys.iter().map(|key| size(key)).sum()),
            State::Rows(_, instances, _) => {
                let rows = |rows: &Rows| -> usize {
                    rows.iter()
                        .map(|(identity, row)| size(identity) + row.as_ref().map_or(0, |row| size(row)))
                        .sum()
                };
                (instances.len(), instances.iter().map(|(key, changes)| size(key) + rows(changes)).sum())
            }
        };
        self.keys -= keys;
        self.bytes -= bytes;
    }

    /// The events, and an empty start for the next transaction. `shard` gives a shard's key columns and generation, `None` if the
    /// edge is not to hear of it.
    pub(crate) fn take<'a>(&mut self, of: impl Fn(&str) -> Option<(&'a [String], u64)>) -> Vec<Event> {
        let touched = std::mem::take(self);
        let mut events = Vec::new();
        for (shard, state) in touched.shards {
            let Some((columns, generation)) = of(&shard) else { continue };
            let fits = |key: &Key| key.len() == columns.len();
            let change = match state {
                State::Whole(reason) => KeyChange::Whole(reason),
                State::Keys(keys) if keys.iter().all(fits) => {
                    KeyChange::Keys(keys.into_iter().map(|key| parts(columns, key)).collect())
                }
                State::Rows(form, instances, _)
                    if form.generation == generation && instances.keys().all(fits) =>
                {
                    let instances = instances.into_iter().map(|(key, rows)| InstanceRows {
                        key: parts(columns, key),
                        rows: rows.into_iter().map(row_change).collect(),
                    });
                    let instances: Vec<InstanceRows> = instances.collect();
                    if instances.is_empty() {
                        continue;
                    }
                    KeyChange::Rows(Deltas { generation, columns: form.columns, instances })
                }
                // It was redefined in this very transaction: the edge drops all copies for that anyway.
                State::Keys(_) | State::Rows(..) => KeyChange::Whole(WholeReason::Ddl),
            };
            events.push(Event::Shard { shard, change });
        }
        events
    }
}

fn row_change((identity, row): (RowIdentity, Option<Row>)) -> RowChange {
    match row {
        Some(row) => RowChange::Put { row },
        None => RowChange::Remove { identity },
    }
}

fn parts(columns: &[String], key: Key) -> Vec<KeyPart> {
    columns.iter().cloned().zip(key).map(|(column, value)| KeyPart { column, value }).collect()
}

/// What values are counted with: their text, and a little for each.
fn size(values: &[Option<String>]) -> usize {
    values.iter().map(|value| 8 + value.as_ref().map_or(0, String::len)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: RowForm = RowForm { generation: 7, columns: 9 };

    fn key(value: usize) -> Touch {
        Touch::Keys(vec![vec![Some(value.to_string())]])
    }

    fn row(key: usize, id: usize, text: Option<&str>) -> RowDelta {
        let value = |number: usize| vec![Some(number.to_string())];
        let row = text.map(|text| vec![Some(id.to_string()), Some(text.to_owned())]);
        RowDelta { key: value(key), identity: value(id), row }
    }

    fn take(touched: &mut Touched) -> Vec<Event> {
        let columns = ["k".to_owned()];
        let events = touched.take(|shard| (shard != "hidden").then_some((&columns[..], 7)));
        assert_eq!((touched.keys, touched.bytes, touched.shards.len()), (0, 0, 0));
        events
    }

    fn part(value: &str) -> Vec<KeyPart> {
        vec![KeyPart { column: "k".into(), value: Some(value.into()) }]
    }

    fn cart(change: KeyChange) -> [Event; 1] {
        [Event::Shard { shard: "cart".into(), change }]
    }

    #[test]
    fn one_event_per_shard_with_each_key_once() {
        let mut touched = Touched::default();
        for value in [2, 1, 2, 1] {
            touched.note("cart", key(value));
        }
        touched.note("hidden", key(1));
        assert_eq!(take(&mut touched), cart(KeyChange::Keys(vec![part("1"), part("2")])));
    }

    #[test]
    fn the_last_change_of_a_row_wins() {
        let mut touched = Touched::default();
        for delta in [
            row(1, 5, Some("a")),
            row(1, 5, Some("b")),
            row(1, 6, Some("c")),
            row(1, 6, None),
            row(2, 6, Some("d")),
            row(2, 7, None),
            row(2, 7, Some("e")),
        ] {
            touched.note_rows("cart", FORM, vec![delta]);
        }
        let put = |id: &str, text: &str| RowChange::Put { row: vec![Some(id.into()), Some(text.into())] };
        let removed = RowChange::Remove { identity: vec![Some("6".into())] };
        let instances = vec![
            InstanceRows { key: part("1"), rows: vec![put("5", "b"), removed] },
            InstanceRows { key: part("2"), rows: vec![put("6", "d"), put("7", "e")] },
        ];
        let deltas = Deltas { generation: 7, columns: 9, instances };
        assert_eq!(take(&mut touched), cart(KeyChange::Rows(deltas)));
    }

    #[test]
    fn one_uncertain_change_leaves_only_the_keys() {
        let mut touched = Touched::default();
        touched.note_rows("cart", FORM, vec![row(1, 5, Some("a"))]);
        assert_eq!(touched.interest("cart", true), Interest::Rows);
        touched.note("cart", key(2));
        assert_eq!(touched.interest("cart", true), Interest::Keys);
        assert_eq!(take(&mut touched), cart(KeyChange::Keys(vec![part("1"), part("2")])));
    }

    #[test]
    fn rows_of_another_definition_are_not_told() {
        let mut touched = Touched::default();
        touched.note_rows("cart", RowForm { generation: 6, columns: 9 }, vec![row(1, 5, Some("a"))]);
        assert_eq!(take(&mut touched), cart(KeyChange::Whole(WholeReason::Ddl)));
        touched.note_rows("cart", FORM, vec![row(1, 5, Some("a"))]);
        touched.note_rows("cart", RowForm { columns: 8, ..FORM }, vec![row(1, 5, Some("a"))]);
        assert_eq!(take(&mut touched), cart(KeyChange::Whole(WholeReason::Ddl)));
    }

    #[test]
    fn many_rows_become_keys_and_many_keys_the_whole() {
        let mut touched = Touched::default();
        for id in 0..2_000 {
            touched.note_rows("cart", FORM, vec![row(id % 3, id, Some("a"))]);
        }
        assert_eq!((touched.keys, touched.interest("cart", true)), (3, Interest::Keys));
        assert_eq!(take(&mut touched), cart(KeyChange::Keys(vec![part("0"), part("1"), part("2")])));
        for id in 0..2_000 {
            touched.note("cart", key(id));
        }
        assert_eq!((touched.keys, touched.bytes), (0, 0));
        assert_eq!(take(&mut touched), cart(KeyChange::Whole(WholeReason::Coarsened)));
    }

    #[test]
    fn a_row_that_changes_again_is_counted_once() {
        let mut touched = Touched::default();
        for round in 0..3 {
            for id in 0..ROWS_PER_SHARD {
                let text = (round != 1).then_some("a");
                touched.note_rows("cart", FORM, vec![row(id % 3, id, text)]);
            }
        }
        assert_eq!(touched.interest("cart", true), Interest::Rows);
        touched.note_rows("cart", FORM, vec![row(0, ROWS_PER_SHARD, Some("a"))]);
        assert_eq!(touched.interest("cart", true), Interest::Keys);
    }

    #[test]
    fn the_only_instance_of_a_shard_without_key_becomes_the_whole() {
        let mut touched = Touched::default();
        for id in 0..2_000 {
            let delta = RowDelta { key: vec![], ..row(0, id, Some("a")) };
            if touched.interest("cart", true) == Interest::Rows {
                touched.note_rows("cart", FORM, vec![delta]);
            }
        }
        assert_eq!(take(&mut touched), cart(KeyChange::Whole(WholeReason::Rows)));
    }

    #[test]
    fn all_shards_together_are_bounded_in_keys_and_bytes() {
        let mut touched = Touched::default();
        for shard in 0..20 {
            for value in 0..900 {
                touched.note(&shard.to_string(), key(value));
                assert!(touched.keys <= KEYS_PER_FRAME);
            }
        }
        take(&mut touched);
        let long = "x".repeat(100_000);
        for value in 0..100 {
            touched.note_rows("cart", FORM, vec![row(value, value, Some(&long))]);
            assert!(touched.bytes <= BYTES_PER_FRAME);
        }
        assert!(
            matches!(&take(&mut touched)[..], [Event::Shard { change: KeyChange::Keys(keys), .. }] if !keys.is_empty())
        );
        for value in 0..100 {
            touched.note("cart", Touch::Keys(vec![vec![Some(format!("{value}{long}"))]]));
            assert!(touched.bytes <= BYTES_PER_FRAME);
        }
        assert_eq!(take(&mut touched), cart(KeyChange::Whole(WholeReason::Coarsened)));
    }

    #[test]
    fn the_first_reason_for_the_whole_is_told() {
        let mut touched = Touched::default();
        touched.note("cart", key(1));
        touched.whole("cart", WholeReason::Truncate);
        touched.whole("cart", WholeReason::Ddl);
        assert_eq!(take(&mut touched), cart(KeyChange::Whole(WholeReason::Truncate)));
    }
}
