use std::collections::HashMap;
use std::sync::Arc;

use foreshard_protocol::{Deltas, InstanceId, KeyChange, KeyPart, ShardName, Snapshot, Xid};

use super::bytes;
use crate::flights::{Suspects, touches};

/// Delivered transactions that the origin may not show to readers yet, with what they changed, in the order of delivery.
///
/// What they did to rows is kept within a byte budget; beyond it only what they touched is. That takes memory, too: it is counted, and
/// whoever keeps this sets an end to it.
pub(crate) struct Unseen {
    by_shard: HashMap<ShardName, Vec<Entry>>,
    rows: usize,
    all: usize,
    budget: usize,
}

struct Entry {
    xid: Xid,
    change: Arc<KeyChange>,
    /// Of row changes.
    rows: usize,
    /// Of everything.
    all: usize,
}

impl Unseen {
    pub(crate) fn new(budget: usize) -> Self {
        Unseen { by_shard: HashMap::new(), rows: 0, all: 0, budget }
    }

    /// Bytes of row changes kept.
    pub(crate) fn row_bytes(&self) -> usize {
        self.rows
    }

    /// Bytes of all that is kept.
    pub(crate) fn bytes(&self) -> usize {
        self.all
    }

    pub(crate) fn remember(&mut self, xid: Xid, shard: &str, change: Arc<KeyChange>) {
        let mut rows = match &*change {
            KeyChange::Rows(deltas) => deltas.instances.iter().map(|instance| bytes(&instance.rows)).sum(),
            _ => 0,
        };
        let mut change = change;
        if self.rows + rows > self.budget
            && let Some(keys) = change.keys().map(|keys| keys.map(<[_]>::to_vec).collect())
        {
            change = Arc::new(KeyChange::Keys(keys));
            rows = 0;
        }
        let keys = change.keys().map_or(0, |keys| keys.map(key_bytes).sum());
        let all = size_of::<Entry>() + size_of::<KeyChange>() + keys + rows;
        (self.rows, self.all) = (self.rows + rows, self.all + all);
        self.by_shard.entry(shard.to_owned()).or_default().push(Entry { xid, change, rows, all });
    }

    /// What a snapshot sees, every later one sees too.
    pub(crate) fn seen(&mut self, snapshot: &Snapshot) {
        let (rows, all) = (&mut self.rows, &mut self.all);
        self.by_shard.retain(|_, entries| {
            entries.retain(|entry| {
                let seen = snapshot.sees(entry.xid);
                if seen {
                    *rows -= entry.rows;
                    *all -= entry.all;
                }
                !seen
            });
            !entries.is_empty()
        });
    }

    pub(crate) fn clear(&mut self) {
        self.by_shard.clear();
        (self.rows, self.all) = (0, 0);
    }

    /// The highest id of all.
    pub(crate) fn newest(&self) -> Option<Xid> {
        self.by_shard.values().flatten().map(|entry| entry.xid).max()
    }

    /// Those that touch this instance, or would if it existed.
    pub(crate) fn touching(&self, shard: &str, touches: impl Fn(&KeyChange) -> bool) -> Vec<Xid> {
        let entries = self.by_shard.get(shard).into_iter().flatten();
        entries.filter(|entry| touches(&entry.change)).map(|entry| entry.xid).collect()
    }

    /// What has to be applied to rows of this instance, read in a snapshot that lacks some suspects, so that they hold all that
    /// was delivered. `None` if that is not known of every transaction that the snapshot lacks.
    pub(crate) fn missed(
        &self,
        id: &InstanceId,
        suspects: &Suspects,
        snapshot: &Snapshot,
    ) -> Option<Vec<Missed>> {
        if suspects.below > snapshot.xmin {
            return None;
        }
        let entries = self.by_shard.get(&id.shard).into_iter().flatten();
        let lacking: Vec<&Entry> =
            entries.filter(|entry| !snapshot.sees(entry.xid) && touches(&entry.change, id)).collect();
        let known = |xid: &Xid| snapshot.sees(*xid) || lacking.iter().any(|entry| entry.xid == *xid);
        if !suspects.xids.iter().all(known) {
            return None;
        }
        lacking.into_iter().map(|entry| Missed::of(&entry.change, id)).collect()
    }
}

/// About how many bytes the key of an instance takes.
fn key_bytes(key: &[KeyPart]) -> usize {
    let part = |part: &KeyPart| {
        size_of::<KeyPart>() + part.column.len() + part.value.as_ref().map_or(0, String::len)
    };
    size_of::<Vec<KeyPart>>() + key.iter().map(part).sum::<usize>()
}

/// Changes of one instance by one transaction.
pub(crate) struct Missed {
    change: Arc<KeyChange>,
    instance: usize,
}

impl Missed {
    fn of(change: &Arc<KeyChange>, id: &InstanceId) -> Option<Missed> {
        let KeyChange::Rows(deltas) = &**change else { return None };
        let instance = deltas.instances.iter().position(|instance| instance.key == id.key)?;
        Some(Missed { change: change.clone(), instance })
    }

    /// All that its transaction did to the shard, and the place of the instance in it.
    pub(crate) fn deltas(&self) -> Option<(&Deltas, usize)> {
        match &*self.change {
            KeyChange::Rows(deltas) => Some((deltas, self.instance)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use foreshard_protocol::{InstanceRows, RowChange, WholeReason};

    use super::*;

    fn rows(key: &str, text: &str) -> Arc<KeyChange> {
        let key = vec![KeyPart { column: "k".into(), value: Some(key.into()) }];
        let rows = vec![RowChange::Put { row: vec![Some(text.into())] }];
        let instances = vec![InstanceRows { key, rows }];
        Arc::new(KeyChange::Rows(Deltas { generation: 1, columns: 0, instances }))
    }

    fn missed(unseen: &Unseen, xids: &[Xid], snapshot: &str) -> Option<usize> {
        let id = "s?k=1".parse().unwrap();
        let suspects = Suspects { xids: xids.to_vec(), below: 0 };
        unseen.missed(&id, &suspects, &snapshot.parse().unwrap()).map(|missed| missed.len())
    }

    #[test]
    fn all_that_a_snapshot_lacks_or_nothing() {
        let mut unseen = Unseen::new(1 << 20);
        unseen.remember(5, "s", rows("1", "a"));
        unseen.remember(6, "s", rows("2", "b"));
        unseen.remember(7, "s", rows("1", "c"));
        assert_eq!(missed(&unseen, &[5, 7], "5:9:5,6,7"), Some(2));
        assert_eq!(missed(&unseen, &[5, 7], "7:9:7"), Some(1));
        assert_eq!(missed(&unseen, &[5, 7], "9:9:"), Some(0));
        assert_eq!(missed(&unseen, &[4, 7], "4:9:4,7"), None, "4 is not known any more");
        unseen.remember(8, "s", Arc::new(KeyChange::Whole(WholeReason::Truncate)));
        assert_eq!(missed(&unseen, &[5, 7, 8], "5:9:5,8"), None, "8 is no change of rows");
        unseen.seen(&"9:9:".parse().unwrap());
        assert_eq!((unseen.bytes(), unseen.newest()), (0, None));
    }

    #[test]
    fn beyond_the_budget_only_what_was_touched_is_kept() {
        let mut unseen = Unseen::new(200);
        unseen.remember(5, "s", rows("1", "a"));
        unseen.remember(6, "s", rows("1", &"x".repeat(300)));
        assert!(unseen.row_bytes() <= 200);
        let id = "s?k=1".parse().unwrap();
        assert_eq!(unseen.touching("s", |change| touches(change, &id)), [5, 6]);
        assert_eq!(missed(&unseen, &[5, 6], "5:9:5"), Some(1));
        assert_eq!(missed(&unseen, &[5, 6], "5:9:5,6"), None);
    }
}
