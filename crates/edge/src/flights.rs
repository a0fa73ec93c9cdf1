use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use foreshard_protocol::{InstanceId, KeyChange, Lsn, Snapshot, Xid};

use crate::agent::Reserved;
use crate::requests::RequestId;

/// Fetches under way: at most one shared fetch per instance, and for each the transactions its snapshot must see.
#[derive(Default)]
pub(crate) struct Flights {
    flights: HashMap<u64, Flight>,
    by_instance: HashMap<Arc<str>, u64>,
    by_cut: HashMap<Cut, u64>,
    /// Not started yet; the first one has waited longest.
    waiting: BTreeSet<u64>,
    /// How many of all are ahead of demand.
    ahead: usize,
    last_id: u64,
}

/// All that some requests want, in one snapshot and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Cut {
    pub(crate) instances: Vec<Arc<str>>,
    /// It has to hold what the stream has not brought yet: the origin is asked for its horizon first.
    pub(crate) proving: bool,
}

/// One fetch.
pub(crate) struct Flight {
    pub(crate) instances: Vec<Wanted>,
    pub(crate) ahead_of_demand: bool,
    /// Only requests for exactly this join it, and its copies are pinned to them.
    pub(crate) cut: Option<Cut>,
    /// When it is to start, while it waits for its turn.
    pub(crate) started_at: u64,
    /// What the stream had applied then, or an answer had promised: nothing that the same origin says later is older.
    pub(crate) position: Lsn,
    /// Its result is void: the stream lost its past while it was under way.
    pub(crate) poisoned: bool,
    /// What is set aside for it.
    pub(crate) reserved: Reserved,
    pub(crate) waiters: Vec<RequestId>,
}

/// One instance of a fetch.
pub(crate) struct Wanted {
    pub(crate) id: InstanceId,
    pub(crate) text: Arc<str>,
    /// Delivered transactions that touch the instance; the result counts only if its snapshot sees all of them.
    pub(crate) suspects: Suspects,
    /// How often a result was refused because of its snapshot.
    pub(crate) attempts: u32,
    /// No schedule wants it, but functions used the copy that was dropped.
    pub(crate) hot: bool,
}

impl Wanted {
    pub(crate) fn new(id: InstanceId, text: Arc<str>) -> Self {
        Wanted { id, text, suspects: Suspects::default(), attempts: 0, hot: false }
    }
}

/// Delivered transactions that a fetch might not see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Suspects {
    /// One by one.
    pub(crate) xids: Vec<Xid>,
    /// And every one below this id.
    pub(crate) below: Xid,
}

impl Suspects {
    /// Whether all of them are part of the snapshot.
    pub(crate) fn seen_by(&self, snapshot: &Snapshot) -> bool {
        self.below <= snapshot.xmin && self.xids.iter().all(|xid| snapshot.sees(*xid))
    }
}

impl Flights {
    /// Notes a fetch; it waits for its turn until it [begins](Self::begin).
    pub(crate) fn add(&mut self, flight: Flight) -> u64 {
        self.last_id += 1;
        self.ahead += usize::from(flight.ahead_of_demand);
        self.waiting.insert(self.last_id);
        match &flight.cut {
            Some(cut) => drop(self.by_cut.insert(cut.clone(), self.last_id)),
            None => {
                for wanted in &flight.instances {
                    self.by_instance.insert(wanted.text.clone(), self.last_id);
                }
            }
        }
        self.flights.insert(self.last_id, flight);
        self.last_id
    }

    /// Its turn has come.
    pub(crate) fn begin(&mut self, id: u64) -> Option<&mut Flight> {
        self.waiting.remove(&id);
        self.flights.get_mut(&id)
    }

    /// The one that has waited longest for its turn.
    pub(crate) fn next(&self) -> Option<(u64, &Flight)> {
        let id = *self.waiting.first()?;
        Some((id, self.flights.get(&id)?))
    }

    /// A request is gone. What has not been started and nobody else waits for never will be.
    pub(crate) fn leave(&mut self, id: u64, waiter: RequestId) {
        if !self.waiting.contains(&id) {
            return;
        }
        let Some(flight) = self.flights.get_mut(&id) else { return };
        flight.waiters.retain(|other| *other != waiter);
        if flight.waiters.is_empty() {
            self.finish(id);
        }
    }

    pub(crate) fn id_of(&self, instance: &str) -> Option<u64> {
        self.by_instance.get(instance).copied()
    }

    /// The shared fetch under way for this instance.
    pub(crate) fn of(&mut self, instance: &str) -> Option<&mut Flight> {
        self.flights.get_mut(self.by_instance.get(instance)?)
    }

    /// The fetch under way of exactly this, if it began no earlier than `since` and will count.
    pub(crate) fn of_cut(&mut self, cut: &Cut, since: u64) -> Option<(u64, &mut Flight)> {
        let id = *self.by_cut.get(cut)?;
        let waits = self.waiting.contains(&id);
        let flight = self.flights.get_mut(&id)?;
        (waits || (flight.started_at >= since && !flight.poisoned)).then_some((id, flight))
    }

    /// Notes what was set aside for a fetch.
    pub(crate) fn reserve(&mut self, id: u64, reserved: Reserved) {
        if let Some(flight) = self.flights.get_mut(&id) {
            flight.reserved = reserved;
        }
    }

    pub(crate) fn has(&self, instance: &str) -> bool {
        self.by_instance.contains_key(instance)
    }

    pub(crate) fn finish(&mut self, id: u64) -> Option<Flight> {
        let flight = self.flights.remove(&id)?;
        self.waiting.remove(&id);
        self.ahead -= usize::from(flight.ahead_of_demand);
        match &flight.cut {
            // A newer one may have taken its place.
            Some(cut) if self.by_cut.get(cut) == Some(&id) => drop(self.by_cut.remove(cut)),
            Some(_) => {}
            None => {
                for wanted in &flight.instances {
                    self.by_instance.remove(&wanted.text);
                }
            }
        }
        Some(flight)
    }

    /// Transaction `xid` touched these instances of `shard`: every fetch of one of them must see it.
    pub(crate) fn suspect(&mut self, xid: Xid, shard: &str, change: &KeyChange) {
        let under_way = self.flights.iter_mut().filter(|(id, _)| !self.waiting.contains(*id));
        for (_, flight) in under_way {
            for wanted in &mut flight.instances {
                if wanted.id.shard == shard && touches(change, &wanted.id) {
                    wanted.suspects.xids.push(xid);
                }
            }
        }
    }

    pub(crate) fn poison_all(&mut self) {
        for flight in self.flights.values_mut() {
            flight.poisoned = true;
        }
    }

    /// Number of fetches under way ahead of demand, and on demand.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.ahead, self.flights.len() - self.ahead - self.waiting.len())
    }

    /// Fetches on demand that wait for their turn.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

/// Whether a change of a shard touches this instance of it.
pub(crate) fn touches(change: &KeyChange, id: &InstanceId) -> bool {
    change.keys().is_none_or(|mut keys| keys.any(|key| *key == *id.key))
}
