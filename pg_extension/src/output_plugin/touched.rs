use std::collections::{BTreeMap, BTreeSet};

use foreshard_protocol::{Event, KeyChange, KeyPart, WholeReason};

use super::image::{Key, Touch};

/// Keys of one shard in one frame.
const KEYS_PER_SHARD: usize = 1000;
/// Keys of all shards in one frame, and bytes of their text.
const KEYS_PER_FRAME: usize = 4096;
const BYTES_PER_FRAME: usize = 1 << 20;

/// What a transaction has touched so far: bounded, however many rows it changes.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    shards: BTreeMap<String, State>,
    keys: usize,
    bytes: usize,
}

#[derive(Debug)]
enum State {
    Keys(BTreeSet<Key>),
    Whole(WholeReason),
}

impl Touched {
    /// Notes what one row change does to a shard.
    pub(crate) fn note(&mut self, shard: &str, touch: Touch) {
        match touch {
            Touch::Whole(reason) => self.whole(shard, reason),
            Touch::Keys(keys) => keys.into_iter().for_each(|key| self.key(shard, key)),
        }
    }

    /// Every instance of a shard; the first reason is the one that is told.
    pub(crate) fn whole(&mut self, shard: &str, reason: WholeReason) {
        match self.shards.get_mut(shard) {
            Some(State::Whole(_)) => {}
            Some(state) => {
                if let State::Keys(keys) = std::mem::replace(state, State::Whole(reason)) {
                    self.keys -= keys.len();
                    self.bytes -= keys.iter().map(size).sum::<usize>();
                }
            }
            None => {
                self.shards.insert(shard.to_owned(), State::Whole(reason));
            }
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
        if many || self.keys > KEYS_PER_FRAME || self.bytes > BYTES_PER_FRAME {
            self.whole(shard, WholeReason::Coarsened);
        }
    }

    /// The events, and an empty start for the next transaction. `columns` gives a shard's key columns, `None` if the edge is
    /// not to hear of it.
    pub(crate) fn take<'a>(&mut self, columns: impl Fn(&str) -> Option<&'a [String]>) -> Vec<Event> {
        let touched = std::mem::take(self);
        let mut events = Vec::new();
        for (shard, state) in touched.shards {
            let Some(columns) = columns(&shard) else { continue };
            let change = match state {
                State::Whole(reason) => KeyChange::Whole(reason),
                // The key was redefined in this very transaction: the edge drops all copies for that anyway.
                State::Keys(keys) if keys.iter().any(|key| key.len() != columns.len()) => {
                    KeyChange::Whole(WholeReason::Ddl)
                }
                State::Keys(keys) => {
                    KeyChange::Keys(keys.into_iter().map(|key| parts(columns, key)).collect())
                }
            };
            events.push(Event::Shard { shard, change });
        }
        events
    }
}

fn parts(columns: &[String], key: Key) -> Vec<KeyPart> {
    columns.iter().cloned().zip(key).map(|(column, value)| KeyPart { column, value }).collect()
}

fn size(key: &Key) -> usize {
    key.iter().flatten().map(String::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(value: usize) -> Touch {
        Touch::Keys(vec![vec![Some(value.to_string())]])
    }

    fn take(touched: &mut Touched) -> Vec<Event> {
        let columns = ["k".to_owned()];
        let events = touched.take(|shard| (shard != "hidden").then_some(&columns[..]));
        assert_eq!((touched.keys, touched.bytes, touched.shards.len()), (0, 0, 0));
        events
    }

    #[test]
    fn one_event_per_shard_with_each_key_once() {
        let mut touched = Touched::default();
        for value in [2, 1, 2, 1] {
            touched.note("cart", key(value));
        }
        touched.note("hidden", key(1));
        let part = |value: &str| vec![KeyPart { column: "k".into(), value: Some(value.into()) }];
        let change = KeyChange::Keys(vec![part("1"), part("2")]);
        assert_eq!(take(&mut touched), [Event::Shard { shard: "cart".into(), change }]);
    }

    #[test]
    fn many_keys_coarsen_and_stay_flat() {
        let mut touched = Touched::default();
        for value in 0..1_000_000 {
            touched.note("cart", key(value));
        }
        assert_eq!((touched.keys, touched.bytes), (0, 0));
        let change = KeyChange::Whole(WholeReason::Coarsened);
        assert_eq!(take(&mut touched), [Event::Shard { shard: "cart".into(), change }]);
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
        for value in 0..100 {
            let long = format!("{value}{}", "x".repeat(100_000));
            touched.note("cart", Touch::Keys(vec![vec![Some(long)]]));
            assert!(touched.bytes <= BYTES_PER_FRAME);
        }
        assert!(matches!(take(&mut touched)[..], [Event::Shard { change: KeyChange::Whole(_), .. }]));
    }

    #[test]
    fn the_first_reason_for_the_whole_is_told() {
        let mut touched = Touched::default();
        touched.note("cart", key(1));
        touched.whole("cart", WholeReason::Truncate);
        touched.whole("cart", WholeReason::Ddl);
        let change = KeyChange::Whole(WholeReason::Truncate);
        assert_eq!(take(&mut touched), [Event::Shard { shard: "cart".into(), change }]);
    }
}
