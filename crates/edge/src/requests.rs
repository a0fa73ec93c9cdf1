use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foreshard_protocol::{FetchFailure, FunctionId, InstanceId, Lsn};

use crate::copy::ShardCopy;

/// Names a request that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A function wants these instances, all as of one moment.
#[derive(Clone, Debug)]
pub struct Request {
    /// The function that asks.
    pub function: FunctionId,
    /// What it asks for; at least one.
    pub instances: Vec<InstanceId>,
    /// The answer's own position must be at least this.
    pub min_lsn: Option<Lsn>,
}

/// Where one part of an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServedFrom {
    /// The prefetch cache.
    Prefetch,
    /// The reactive cache.
    Reactive,
    /// The origin: the request waited for a fetch.
    Origin,
}

impl ServedFrom {
    /// The word used in answers, metrics and the execution log.
    pub fn as_str(self) -> &'static str {
        match self {
            ServedFrom::Prefetch => "prefetch",
            ServedFrom::Reactive => "reactive",
            ServedFrom::Origin => "origin",
        }
    }
}

/// One instance of an answer.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its rows.
    pub copy: Arc<ShardCopy>,
    /// Where they came from.
    pub served_from: ServedFrom,
}

/// Rows for every instance of a request, one consistent cut.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The answer holds every transaction on its shards whose commit record starts at or before this position.
    pub lsn: Lsn,
    /// One per requested instance, in its order.
    pub parts: Vec<Part>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No function of this name is mapped to anything.
    UnknownFunction,
    /// No shard of this name that any function reads.
    UnknownShard(String),
    /// The function is not mapped to this shard.
    NotMapped(String),
    /// The key columns of the request are not those of the shard's definition.
    KeyMismatch {
        /// The shard.
        shard: String,
        /// Its key columns.
        key: Vec<String>,
    },
    /// The origin can't give this instance.
    Failed {
        /// The instance.
        instance: String,
        /// Why.
        failure: FetchFailure,
        /// Words for the log.
        message: String,
    },
    /// Definitions are not loaded yet, or this edge was dropped.
    NotReady,
    /// The origin is out of reach and nothing held is fresh enough.
    OriginUnavailable,
    /// No answer within the time limit.
    TimedOut,
    /// Too many requests are waiting.
    Overloaded,
}

/// What came of a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Answered or refused at once.
    Done(Result<Answer, Refusal>),
    /// An [`crate::Action::Reply`] with this id will follow.
    Waiting(RequestId),
}

/// A request that waits for a fetch or for the stream.
pub(crate) struct Pending {
    pub(crate) request: Request,
    pub(crate) texts: Vec<Arc<str>>,
    /// Instances for which it had to wait for a fetch.
    pub(crate) waited: Vec<bool>,
    /// Copies fetched for it; kept here so that eviction or a small cache can't take them away before the answer.
    pub(crate) pinned: Vec<Option<Arc<ShardCopy>>>,
    pub(crate) deadline: u64,
    /// Until when it waits for the position it asked for.
    pub(crate) lsn_deadline: u64,
    /// Since when everything is there except that some copies are ahead of the stream.
    pub(crate) torn_since: Option<u64>,
    /// A fetch of all its instances in one snapshot is under way.
    pub(crate) cut_flight: Option<u64>,
    /// How many such fetches have been made.
    pub(crate) cut_attempts: u32,
    /// When it first asked the origin because the stream did not come.
    pub(crate) resorted_at: Option<u64>,
    /// What is pinned holds every transaction whose commit record starts at or before this.
    pub(crate) proven: Lsn,
    /// The origin said, when it read what is pinned, that the function may read it.
    pub(crate) vouched: bool,
    /// The position it is listed under.
    pub(crate) awaited_lsn: Option<Lsn>,
}

/// Requests that wait, by what they wait for.
#[derive(Default)]
pub(crate) struct Requests {
    pub(crate) pending: HashMap<RequestId, Pending>,
    by_lsn: BTreeMap<(Lsn, RequestId), ()>,
    by_time: BTreeMap<(u64, RequestId), ()>,
    last_id: u64,
}

impl Requests {
    pub(crate) fn new_id(&mut self) -> RequestId {
        self.last_id += 1;
        RequestId(self.last_id)
    }

    /// Takes a request out of every list.
    pub(crate) fn remove(&mut self, id: RequestId) -> Option<Pending> {
        let pending = self.pending.remove(&id)?;
        self.by_time.remove(&(pending.deadline, id));
        if let Some(lsn) = pending.awaited_lsn {
            self.by_lsn.remove(&(lsn, id));
        }
        Some(pending)
    }

    pub(crate) fn at_lsn(&mut self, lsn: Lsn, id: RequestId) {
        if let Some(pending) = self.pending.get_mut(&id) {
            if let Some(before) = pending.awaited_lsn.replace(lsn) {
                self.by_lsn.remove(&(before, id));
            }
            self.by_lsn.insert((lsn, id), ());
        }
    }

    pub(crate) fn at_time(&mut self, time: u64, id: RequestId) {
        self.by_time.insert((time, id), ());
    }

    /// Requests that waited for a position that has been reached.
    pub(crate) fn reached(&mut self, position: Lsn) -> Vec<RequestId> {
        let mut out = Vec::new();
        while let Some(entry) = self.by_lsn.first_entry()
            && entry.key().0 <= position
        {
            let id = entry.remove_entry().0.1;
            if let Some(pending) = self.pending.get_mut(&id) {
                pending.awaited_lsn = None;
            }
            out.push(id);
        }
        out
    }

    /// Requests to look at again because of the time.
    pub(crate) fn due(&mut self, mono: u64) -> Vec<RequestId> {
        let mut out = Vec::new();
        while let Some(entry) = self.by_time.first_entry()
            && entry.key().0 <= mono
        {
            out.push(entry.remove_entry().0.1);
        }
        out
    }

    /// Whether a request waits for exactly this position.
    pub(crate) fn awaits(&self, position: Lsn) -> bool {
        self.by_lsn.first_key_value().is_some_and(|((lsn, _), ())| *lsn == position)
    }

    pub(crate) fn awaits_lsn(&self) -> bool {
        !self.by_lsn.is_empty()
    }
}
