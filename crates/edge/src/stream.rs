use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use foreshard_protocol::{Frame, InstanceId, KeyChange, Lsn, Snapshot, Witness, Xid};

use crate::config::EdgeConfig;
use crate::deltas::{Missed, Unseen};
use crate::flights::{Suspects, touches};
use crate::retrace::Retrace;

/// Where the stream is, which delivered transactions the origin may not yet show to readers, and how fresh we are.
///
/// PostgreSQL makes a commit durable (and the stream delivers it) before readers can see it. A fetch made in between
/// returns the rows from before, so a delivered transaction stays *unseen* until some snapshot of the origin sees it.
pub(crate) struct Stream {
    position: Lsn,
    unseen: Unseen,
    /// Transactions that no frame tells everything of, to be waited for whatever they touched.
    untold: Vec<Xid>,
    /// Delivered and unseen, by where the commit record starts.
    unconfirmed: BTreeMap<Lsn, Xid>,
    /// More of them than are kept one by one.
    merged: Option<Merged>,
    /// Moments at which the origin was asked for its flush position, with the answers not yet reached.
    marks: VecDeque<(u64, Lsn)>,
    fresh_as_of: Option<u64>,
    /// What tells this past of the origin from another one.
    witness: Witness,
    /// It went on before the place that it had come to, and has not come there again.
    retrace: Option<Retrace>,
    limits: Limits,
}

/// How much is remembered of what no snapshot has shown; see [`EdgeConfig`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    max_unseen: usize,
    unseen_bytes: usize,
    delta_buffer: usize,
}

impl From<&EdgeConfig> for Limits {
    fn from(config: &EdgeConfig) -> Self {
        let EdgeConfig { max_unseen, unseen_bytes, delta_buffer, .. } = *config;
        Limits { max_unseen, unseen_bytes, delta_buffer }
    }
}

/// The stream is of another past of the origin than what it brought before.
#[derive(Debug)]
pub(crate) struct AnotherPast;

/// Answers of the origin that the stream has not reached; more are not kept.
const MAX_MARKS: usize = 64;

/// Transactions of which it is only known that they lie in a range, whatever they touched.
struct Merged {
    first: Lsn,
    newest: Xid,
}

impl Stream {
    pub(crate) fn new(limits: Limits) -> Self {
        Stream {
            position: Lsn::ZERO,
            unseen: Unseen::new(limits.delta_buffer),
            untold: Vec::new(),
            unconfirmed: BTreeMap::new(),
            merged: None,
            marks: VecDeque::new(),
            fresh_as_of: None,
            witness: Witness::default(),
            retrace: None,
            limits,
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
        let retraced = self.retrace.as_ref().map(Retrace::start);
        merged.into_iter().chain(first).chain(retraced).fold(self.position, Lsn::min)
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
        *self = Stream::new(self.limits);
        (self.position, self.witness) = (position, Witness::began(position));
    }

    /// Goes on at `start`, where it was acknowledged. Until it has come again to where it was, that is no position of it.
    pub(crate) fn resume(&mut self, start: Lsn) -> Result<(), AnotherPast> {
        let until = self.furthest();
        self.retrace = None;
        // The log may end before what the origin had flushed when it was asked: another past that this stream never saw.
        self.marks.clear();
        if start < until {
            self.retrace = Some(Retrace::new(self.witness, start, until).ok_or(AnotherPast)?);
            self.position = start;
        }
        Ok(())
    }

    /// Where it had come to before it went on, or has come to since.
    pub(crate) fn furthest(&self) -> Lsn {
        self.retrace.as_ref().map_or(self.position, Retrace::until)
    }

    /// Whether it has not yet come again to where it was.
    pub(crate) fn is_retracing(&self) -> bool {
        self.retrace.is_some()
    }

    pub(crate) fn witness(&self) -> Witness {
        self.witness
    }

    /// Whether this was brought before.
    pub(crate) fn brings(&mut self, frame: &Frame) -> Result<bool, AnotherPast> {
        let again = match &mut self.retrace {
            None => frame.end_lsn <= self.position,
            Some(retrace) if frame.end_lsn <= retrace.until() => {
                return if retrace.again(frame) { Ok(true) } else { Err(AnotherPast) };
            }
            Some(retrace) => {
                let until = retrace.until();
                self.advance(until)?;
                false
            }
        };
        if !again {
            self.witness.brought(frame);
        }
        Ok(again)
    }

    /// Moves forward; a position already passed changes nothing.
    pub(crate) fn advance(&mut self, position: Lsn) -> Result<(), AnotherPast> {
        if let Some(retrace) = self.retrace.take_if(|retrace| retrace.until() <= position)
            && !retrace.holds()
        {
            self.retrace = Some(retrace);
            return Err(AnotherPast);
        }
        self.position = self.position.max(position);
        self.pass_marks();
        Ok(())
    }

    fn pass_marks(&mut self) {
        while let Some(&(asked_at, lsn)) = self.marks.front() {
            if lsn > self.position {
                break;
            }
            self.fresh_as_of = self.fresh_as_of.max(Some(asked_at));
            self.marks.pop_front();
        }
    }

    /// Remembers a delivered transaction until some snapshot sees it.
    pub(crate) fn remember(&mut self, xid: Xid, commit_lsn: Lsn) {
        self.unconfirmed.insert(commit_lsn, xid);
        if self.unconfirmed.len() > self.limits.max_unseen {
            self.merge(xid);
        }
    }

    /// Bounded, at the price of refusing all fetches until the origin shows these transactions, of which `xid` is one.
    fn merge(&mut self, xid: Xid) {
        let first = self.unconfirmed.keys().next().copied().unwrap_or(self.position);
        let newest = self.unconfirmed.values().copied().chain(self.unseen.newest()).fold(xid, Xid::max);
        self.merged = Some(match self.merged.take() {
            Some(older) => Merged { first: older.first, newest: newest.max(older.newest) },
            None => Merged { first, newest },
        });
        self.unconfirmed.clear();
        self.unseen.clear();
    }

    /// A remembered transaction changed a shard.
    pub(crate) fn remember_change(&mut self, xid: Xid, shard: &str, change: Arc<KeyChange>) {
        if self.merged.as_ref().is_none_or(|merged| merged.newest < xid) {
            self.unseen.remember(xid, shard, change);
            if self.unseen.bytes() > self.limits.unseen_bytes {
                self.merge(xid);
            }
        }
    }

    /// These committed before the definitions were read and no reader sees them yet. Of a shard that was mapped after them their
    /// frames say nothing, and those from before the beginning of the stream are on it not at all.
    pub(crate) fn remember_untold(&mut self, xids: Vec<Xid>) {
        self.untold = xids;
    }

    /// The transaction was delivered and no snapshot has shown it yet.
    pub(crate) fn awaits(&self, xid: Xid) -> bool {
        self.unconfirmed.values().any(|known| *known == xid)
    }

    /// Bytes of row changes kept for fetches that lack them.
    pub(crate) fn delta_bytes(&self) -> usize {
        self.unseen.row_bytes()
    }

    /// Bytes of all that is remembered of transactions that no snapshot has shown.
    pub(crate) fn unseen_bytes(&self) -> usize {
        self.unseen.bytes()
    }

    /// The origin was asked at `asked_at`: `flushed` was its flush position.
    pub(crate) fn origin_state(&mut self, asked_at: u64, flushed: Lsn) {
        // The oldest marks stay: dropping them would mean that a stream that lags by more marks never proves anything.
        if self.marks.len() < MAX_MARKS {
            self.marks.push_back((asked_at, flushed));
        }
        self.pass_marks();
    }

    /// A snapshot of the origin arrived: what it sees, every later one sees too.
    pub(crate) fn seen(&mut self, snapshot: &Snapshot) {
        self.unconfirmed.retain(|_, xid| !snapshot.sees(*xid));
        self.merged.take_if(|merged| merged.newest < snapshot.xmin);
        self.unseen.seen(snapshot);
        self.untold.retain(|xid| !snapshot.sees(*xid));
    }

    /// Delivered transactions on this instance that a fetch started now might not see.
    pub(crate) fn suspects(&self, id: &InstanceId) -> Suspects {
        let told = self.unseen.touching(&id.shard, |change| touches(change, id));
        Suspects {
            xids: self.untold.iter().copied().chain(told).collect(),
            below: self.merged.as_ref().map_or(0, |merged| merged.newest + 1),
        }
    }

    /// See [`Unseen::missed`].
    pub(crate) fn missed(
        &self,
        id: &InstanceId,
        suspects: &Suspects,
        snapshot: &Snapshot,
    ) -> Option<Vec<Missed>> {
        self.unseen.missed(id, suspects, snapshot)
    }
}

#[cfg(test)]
mod tests {
    use foreshard_protocol::{KeyPart, WholeReason};

    use super::*;

    fn limits(max_unseen: usize) -> Limits {
        Limits { max_unseen, unseen_bytes: 1 << 20, delta_buffer: 1_000 }
    }

    fn deliver(stream: &mut Stream, xid: Xid, lsn: u64) {
        stream.remember(xid, Lsn(lsn));
        stream.remember_change(xid, "s", Arc::new(KeyChange::Whole(WholeReason::Rows)));
        stream.advance(Lsn(lsn + 8)).unwrap();
    }

    #[test]
    fn only_what_is_visible_is_acknowledged() {
        let mut stream = Stream::new(limits(10));
        for (xid, lsn) in [(5, 100), (6, 200)] {
            deliver(&mut stream, xid, lsn);
        }
        assert_eq!(stream.acknowledged(), Lsn(100), "transaction 5 may still be invisible");
        stream.seen(&"6:7:6".parse().unwrap());
        assert_eq!(stream.acknowledged(), Lsn(200));
        stream.seen(&"7:7:".parse().unwrap());
        assert_eq!(stream.acknowledged(), Lsn(208));
    }

    #[test]
    fn freshness_needs_the_stream_to_reach_what_the_origin_had_flushed() {
        let mut stream = Stream::new(limits(10));
        stream.origin_state(1_000, Lsn(50));
        stream.origin_state(2_000, Lsn(90));
        assert_eq!(stream.fresh_as_of(), None);
        stream.advance(Lsn(60)).unwrap();
        assert_eq!(stream.fresh_as_of(), Some(1_000));
        stream.advance(Lsn(90)).unwrap();
        assert_eq!(stream.fresh_as_of(), Some(2_000));
    }

    #[test]
    fn a_stream_that_lags_by_many_marks_still_proves_its_freshness() {
        let mut stream = Stream::new(limits(10));
        for time in 0..1_000 {
            stream.origin_state(time, Lsn(time));
            stream.advance(Lsn(time.saturating_sub(100))).unwrap();
        }
        assert!(stream.fresh_as_of() >= Some(1_000 - 100 - MAX_MARKS as u64), "{:?}", stream.fresh_as_of());
    }

    #[test]
    fn too_many_unseen_transactions_become_suspects_everywhere() {
        let mut stream = Stream::new(limits(3));
        for xid in 1..=5 {
            deliver(&mut stream, xid, xid * 10);
        }
        let all = || Suspects { xids: vec![], below: 5 };
        assert_eq!(stream.suspects(&InstanceId::unkeyed("other")), all());
        assert_eq!(stream.suspects(&InstanceId::unkeyed("s")), Suspects { xids: vec![5], ..all() });
        assert_eq!(stream.acknowledged(), Lsn(10));
        stream.seen(&"3:6:3".parse().unwrap());
        assert_eq!(stream.suspects(&InstanceId::unkeyed("s")), all(), "3 is among them");
        assert_eq!(stream.acknowledged(), Lsn(10));
        stream.seen(&"5:6:5".parse().unwrap());
        assert_eq!(stream.suspects(&InstanceId::unkeyed("s")), Suspects::default());
        assert_eq!((stream.acknowledged(), stream.unseen_len()), (Lsn(58), 0));
    }

    /// The origin is followed, but nothing is heard of what its readers see: the control connection is refused.
    #[test]
    fn memory_stays_bounded_however_much_is_touched() {
        let unseen_bytes = 100_000;
        let mut stream = Stream::new(Limits { unseen_bytes, ..limits(1_000_000) });
        for xid in 1..=1_000 {
            let key = |i| vec![KeyPart { column: "k".into(), value: Some(format!("{xid:>60}{i:>60}")) }];
            stream.remember(xid, Lsn(xid * 10));
            stream.remember_change(xid, "s", Arc::new(KeyChange::Keys((0..10).map(key).collect())));
            stream.advance(Lsn(xid * 10 + 8)).unwrap();
            assert!(stream.unseen_bytes() <= unseen_bytes, "{} after {xid}", stream.unseen_bytes());
        }
        assert!(stream.suspects(&InstanceId::unkeyed("other")).below > 900, "older ones are merged");
        assert_eq!(stream.acknowledged(), Lsn(10));
        stream.seen(&"1001:1001:".parse().unwrap());
        assert_eq!((stream.unseen_bytes(), stream.acknowledged()), (0, Lsn(10_008)));
    }

    #[test]
    fn position_never_goes_back() {
        let mut stream = Stream::new(limits(3));
        stream.advance(Lsn(10)).unwrap();
        stream.advance(Lsn(5)).unwrap();
        assert_eq!(stream.position(), Lsn(10));
    }
}
