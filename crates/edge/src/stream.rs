use std::collections::{BTreeMap, HashMap, VecDeque};

use foreshard_protocol::{Event, Frame, KeyChange, Lsn, ShardName, Snapshot, Xid};

use crate::flights::Suspects;

/// Where the stream is, which delivered transactions the origin may not yet show to readers, and how fresh we are.
///
/// PostgreSQL makes a commit durable (and the stream delivers it) before readers can see it. A fetch made in between
/// returns the rows from before, so a delivered transaction stays *unseen* until some snapshot of the origin sees it.
pub(crate) struct Stream {
    position: Lsn,
    unseen: HashMap<ShardName, Vec<Unseen>>,
    /// Delivered and unseen, by where the commit record starts.
    unconfirmed: BTreeMap<Lsn, Xid>,
    /// More of them than are kept one by one.
    merged: Option<Merged>,
    /// Moments at which the origin was asked for its flush position, with the answers not yet reached.
    marks: VecDeque<(u64, Lsn)>,
    fresh_as_of: Option<u64>,
    max_unseen: usize,
}

/// Answers of the origin that the stream has not reached; more are not kept.
const MAX_MARKS: usize = 64;

/// Transactions of which it is only known that they lie in a range, whatever they touched.
struct Merged {
    first: Lsn,
    newest: Xid,
}

struct Unseen {
    xid: Xid,
    change: KeyChange,
}

impl Stream {
    pub(crate) fn new(max_unseen: usize) -> Self {
        Stream {
            position: Lsn::ZERO,
            unseen: HashMap::new(),
            unconfirmed: BTreeMap::new(),
            merged: None,
            marks: VecDeque::new(),
            fresh_as_of: None,
            max_unseen,
        }
    }

    /// Every transaction with a commit record that ends at or before this position has been applied.
    pub(crate) fn position(&self) -> Lsn {
        self.position
    }

    /// What an answer is stamped with: every transaction whose commit record *starts* at or before this has been applied.
    ///
    /// PostgreSQL calls the start of its record the commit LSN of a transaction, and the next record may start just where
    /// the applied ones end; so this is one byte less than the position.
    pub(crate) fn stamp(&self) -> Lsn {
        Lsn(self.position.0.saturating_sub(1))
    }

    /// The position up to which the origin may forget: everything before it is applied *and* visible to any snapshot
    /// taken from now on, so that a successor that starts there needs no memory of it.
    pub(crate) fn acknowledged(&self) -> Lsn {
        let merged = self.merged.as_ref().map(|merged| merged.first);
        let first = self.unconfirmed.keys().next().copied();
        merged.into_iter().chain(first).fold(self.position, Lsn::min)
    }

    /// The latest moment for which the stream is known to hold all that had committed by then.
    pub(crate) fn fresh_as_of(&self) -> Option<u64> {
        self.fresh_as_of
    }

    pub(crate) fn awaits_progress(&self) -> bool {
        !self.marks.is_empty()
    }

    pub(crate) fn unseen_len(&self) -> usize {
        self.unconfirmed.len() + usize::from(self.merged.is_some())
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
            // Bounded, at the price of refusing all fetches until the origin shows these transactions.
            let (first, newest) = (*self.unconfirmed.keys().next().unwrap_or(&frame.commit_lsn), frame.xid);
            let newest = self.unconfirmed.values().copied().fold(newest, Xid::max);
            self.merged = Some(match self.merged.take() {
                Some(older) => Merged { first: older.first, newest: newest.max(older.newest) },
                None => Merged { first, newest },
            });
            self.unconfirmed.clear();
            self.unseen.clear();
        }
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
        self.merged.take_if(|merged| merged.newest < snapshot.xmin);
        self.unseen.retain(|_, list| {
            list.retain(|unseen| !snapshot.sees(unseen.xid));
            !list.is_empty()
        });
    }

    /// Delivered transactions on this instance that a fetch started now might not see.
    pub(crate) fn suspects(&self, shard: &str, touches: impl Fn(&KeyChange) -> bool) -> Suspects {
        let listed = self.unseen.get(shard).into_iter().flatten().filter(|unseen| touches(&unseen.change));
        Suspects {
            xids: listed.map(|unseen| unseen.xid).collect(),
            below: self.merged.as_ref().map_or(0, |merged| merged.newest + 1),
        }
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
            stream.advance(Lsn(xid * 10 + 8));
        }
        let all = || Suspects { xids: vec![], below: 5 };
        assert_eq!(stream.suspects("other", |_| false), all());
        assert_eq!(stream.suspects("s", |_| true), Suspects { xids: vec![5], ..all() });
        assert_eq!(stream.acknowledged(), Lsn(10));
        stream.seen(&"3:6:3".parse().unwrap());
        assert_eq!(stream.suspects("s", |_| true), all(), "3 is among them");
        assert_eq!(stream.acknowledged(), Lsn(10));
        stream.seen(&"5:6:5".parse().unwrap());
        assert_eq!(stream.suspects("s", |_| true), Suspects::default());
        assert_eq!((stream.acknowledged(), stream.unseen_len()), (Lsn(58), 0));
    }

    #[test]
    fn position_never_goes_back() {
        let mut stream = Stream::new(3);
        stream.advance(Lsn(10));
        stream.advance(Lsn(5));
        assert_eq!(stream.position(), Lsn(10));
    }
}
