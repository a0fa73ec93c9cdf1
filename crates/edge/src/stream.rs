use std::collections::{BTreeMap, HashMap, VecDeque};

use foreshard_protocol::{Event, Frame, KeyChange, Lsn, ShardName, Snapshot, Xid};

/// Where the stream is, which delivered transactions the origin may not yet show to readers, and how fresh we are.
///
/// PostgreSQL makes a commit durable (and the stream delivers it) before readers can see it. A fetch made in between
/// returns the rows from before, so a delivered transaction stays *unseen* until some snapshot of the origin sees it.
pub(crate) struct Stream {
    position: Lsn,
    unseen: HashMap<ShardName, Vec<Unseen>>,
    unseen_everywhere: Vec<Xid>,
    /// Delivered and unseen, by where the commit record starts.
    unconfirmed: BTreeMap<Lsn, Xid>,
    /// Moments at which the origin was asked for its flush position, with the answers not yet reached.
    marks: VecDeque<(u64, Lsn)>,
    fresh_as_of: Option<u64>,
    max_unseen: usize,
}

/// Answers of the origin that the stream has not reached; more are not kept.
const MAX_MARKS: usize = 64;

#[derive(Clone)]
struct Unseen {
    xid: Xid,
    change: KeyChange,
}

impl Stream {
    pub(crate) fn new(max_unseen: usize) -> Self {
        Stream {
            position: Lsn::ZERO,
            unseen: HashMap::new(),
            unseen_everywhere: Vec::new(),
            unconfirmed: BTreeMap::new(),
            marks: VecDeque::new(),
            fresh_as_of: None,
            max_unseen,
        }
    }

    /// Every transaction with a commit record that ends at or before this position has been applied.
    pub(crate) fn position(&self) -> Lsn {
        self.position
    }

    /// The position up to which the origin may forget: everything before it is applied *and* visible to any snapshot
    /// taken from now on, so that a successor that starts there needs no memory of it.
    pub(crate) fn acknowledged(&self) -> Lsn {
        self.unconfirmed.keys().next().copied().map_or(self.position, |lsn| lsn.min(self.position))
    }

    /// The latest moment for which the stream is known to hold all that had committed by then.
    pub(crate) fn fresh_as_of(&self) -> Option<u64> {
        self.fresh_as_of
    }

    pub(crate) fn awaits_progress(&self) -> bool {
        !self.marks.is_empty()
    }

    pub(crate) fn unseen_len(&self) -> usize {
        self.unconfirmed.len()
    }

    /// Forgets everything: the stream now starts at `position` and has no past.
    pub(crate) fn restart(&mut self, position: Lsn) {
        *self = Stream::new(self.max_unseen);
        self.position = position;
    }

    /// Moves forward; a position already passed changes nothing.
    pub(crate) fn advance(&mut self, position: Lsn) {
        self.position = self.position.max(position);
        while let Some(&(asked_at, lsn)) = self.marks.front() {
            if lsn > self.position {
                break;
            }
            self.fresh_as_of = self.fresh_as_of.max(Some(asked_at));
            self.marks.pop_front();
        }
    }

    /// Remembers a frame until some snapshot sees its transaction.
    pub(crate) fn remember(&mut self, frame: &Frame) {
        self.unconfirmed.insert(frame.commit_lsn, frame.xid);
        for event in &frame.events {
            if let Event::Shard { shard, change } = event {
                let unseen = Unseen { xid: frame.xid, change: change.clone() };
                self.unseen.entry(shard.clone()).or_default().push(unseen);
            }
        }
        if self.unconfirmed.len() > self.max_unseen {
            // Bounded, at the price of refusing more fetches than needed until the origin shows these transactions.
            self.unseen.clear();
            self.unseen_everywhere = self.unconfirmed.values().copied().collect();
        }
        debug_assert!(self.unseen_everywhere.len() <= self.unconfirmed.len());
    }

    /// The definition of a shard changed in transaction `xid`, whose frame was remembered.
    pub(crate) fn remember_definition(&mut self, xid: Xid, shard: &str) {
        let unseen = Unseen { xid, change: KeyChange::Whole(foreshard_protocol::WholeReason::Ddl) };
        self.unseen.entry(shard.to_owned()).or_default().push(unseen);
    }

    /// The origin was asked at `asked_at`: `flushed` was its flush position.
    pub(crate) fn origin_state(&mut self, asked_at: u64, flushed: Lsn) {
        // The oldest marks stay: dropping them would mean that a stream that lags by more marks never proves anything.
        if self.marks.len() < MAX_MARKS {
            self.marks.push_back((asked_at, flushed));
        }
        self.advance(self.position);
    }

    /// A snapshot of the origin arrived: what it sees, every later one sees too.
    pub(crate) fn seen(&mut self, snapshot: &Snapshot) {
        self.unconfirmed.retain(|_, xid| !snapshot.sees(*xid));
        self.unseen_everywhere.retain(|xid| !snapshot.sees(*xid));
        self.unseen.retain(|_, list| {
            list.retain(|unseen| !snapshot.sees(unseen.xid));
            !list.is_empty()
        });
    }

    /// Delivered transactions on this instance that a fetch started now might not see.
    pub(crate) fn suspects(&self, shard: &str, touches: impl Fn(&KeyChange) -> bool) -> Vec<Xid> {
        let listed = self.unseen.get(shard).into_iter().flatten().filter(|unseen| touches(&unseen.change));
        listed.map(|unseen| unseen.xid).chain(self.unseen_everywhere.iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use foreshard_protocol::WholeReason;

    use super::*;

    fn frame(xid: Xid, lsn: u64) -> Frame {
        let change = KeyChange::Whole(WholeReason::Rows);
        let events = vec![Event::Shard { shard: "s".into(), change }];
        Frame { xid, commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn + 8), commit_time: 0, events }
    }

    #[test]
    fn only_what_is_visible_is_acknowledged() {
        let mut stream = Stream::new(10);
        for (xid, lsn) in [(5, 100), (6, 200)] {
            stream.remember(&frame(xid, lsn));
            stream.advance(Lsn(lsn + 8));
        }
        assert_eq!(stream.acknowledged(), Lsn(100), "transaction 5 may still be invisible");
        stream.seen(&"6:7:6".parse().unwrap());
        assert_eq!(stream.acknowledged(), Lsn(200));
        stream.seen(&"7:7:".parse().unwrap());
        assert_eq!(stream.acknowledged(), Lsn(208));
    }

    #[test]
    fn freshness_needs_the_stream_to_reach_what_the_origin_had_flushed() {
        let mut stream = Stream::new(10);
        stream.origin_state(1_000, Lsn(50));
        stream.origin_state(2_000, Lsn(90));
        assert_eq!(stream.fresh_as_of(), None);
        stream.advance(Lsn(60));
        assert_eq!(stream.fresh_as_of(), Some(1_000));
        stream.advance(Lsn(90));
        assert_eq!(stream.fresh_as_of(), Some(2_000));
    }

    #[test]
    fn a_stream_that_lags_by_many_marks_still_proves_its_freshness() {
        let mut stream = Stream::new(10);
        for time in 0..1_000 {
            stream.origin_state(time, Lsn(time));
            stream.advance(Lsn(time.saturating_sub(100)));
        }
        assert!(stream.fresh_as_of() >= Some(1_000 - 100 - MAX_MARKS as u64), "{:?}", stream.fresh_as_of());
    }

    #[test]
    fn too_many_unseen_transactions_become_suspects_everywhere() {
        let mut stream = Stream::new(3);
        for xid in 1..=5 {
            stream.remember(&frame(xid, xid * 10));
        }
        assert_eq!(stream.suspects("other", |_| false), [1, 2, 3, 4, 5]);
        stream.seen(&"5:6:5".parse().unwrap());
        assert_eq!(stream.suspects("other", |_| false), [5]);
    }

    #[test]
    fn position_never_goes_back() {
        let mut stream = Stream::new(3);
        stream.advance(Lsn(10));
        stream.advance(Lsn(5));
        assert_eq!(stream.position(), Lsn(10));
    }
}
