//! Whether a stream that goes on is of the past that it was left in.
//!
//! An origin that was restored to an older state may have grown past all that was streamed before anybody looks: the same cluster,
//! the same timeline, a log that is long enough. But the slot in it is of before what was lost, so the stream brings again
//! what follows. If what was lost concerned this edge, the last transaction that it had brought does not come again; if what
//! was written instead does, there is one that it had not brought; and if neither does, copies are the same in both pasts.

use foreshard_protocol::{Delivered, Frame, Lsn, Witness};

/// What has to come again before anything counts.
#[derive(Debug)]
pub(crate) struct Retrace {
    witness: Witness,
    /// Where the stream goes on.
    start: Lsn,
    /// Where the stream had come to.
    until: Lsn,
    /// The last transaction does come again.
    awaited: bool,
}

impl Retrace {
    /// Of a stream that goes on at `start` and had come to `until`. `None`: there is nothing to tell the past by.
    pub(crate) fn new(witness: Witness, start: Lsn, until: Lsn) -> Option<Self> {
        let awaited = witness.last.is_some_and(|last| last.commit_lsn >= start);
        let told = witness.last.is_some() || start >= witness.since;
        told.then_some(Retrace { witness, start, until, awaited })
    }

    /// No more may be acknowledged before it is over: of another past, nothing is known of what lies between.
    pub(crate) fn start(&self) -> Lsn {
        self.start
    }

    pub(crate) fn until(&self) -> Lsn {
        self.until
    }

    /// A transaction that ends at or before the place that the stream had come to. False: it is of another past.
    pub(crate) fn again(&mut self, frame: &Frame) -> bool {
        let this = Delivered::of(frame);
        match self.witness.last {
            Some(last) if this == last => {
                self.awaited = false;
                true
            }
            Some(last) => this.commit_lsn < last.commit_lsn,
            None => this.commit_lsn < self.witness.since,
        }
    }

    /// The stream has come to where it was. False: it is of another past.
    pub(crate) fn holds(&self) -> bool {
        !self.awaited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(xid: u64, lsn: u64, commit_time: i64) -> Frame {
        Frame { xid, commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn + 5), commit_time, events: vec![] }
    }

    #[test]
    fn the_last_transaction_comes_again_and_none_behind_it() {
        let mut witness = Witness::began(Lsn(100));
        witness.brought(&frame(7, 200, 1));
        let compare = |start| Retrace::new(witness, Lsn(start), Lsn(300)).unwrap();
        let mut same = compare(150);
        assert!(same.again(&frame(6, 180, 0)) && !same.holds());
        assert!(same.again(&frame(7, 200, 1)) && same.holds());
        assert!(!same.again(&frame(8, 250, 2)), "one too many");
        for (what, other) in
            [("id", frame(8, 200, 1)), ("moment", frame(7, 200, 2)), ("place", frame(7, 201, 1))]
        {
            assert!(!compare(150).again(&other), "another {what}");
        }
        // Behind where the slot is there is nothing to come.
        assert!(compare(201).holds());
        // The slot may be further back than where this stream began.
        assert!(compare(50).again(&frame(3, 60, 0)));
    }

    #[test]
    fn without_a_transaction_the_beginning_tells() {
        let witness = Witness::began(Lsn(100));
        assert!(Retrace::new(witness, Lsn(99), Lsn(300)).is_none());
        let mut idle = Retrace::new(witness, Lsn(100), Lsn(300)).unwrap();
        assert!(idle.holds() && !idle.again(&frame(1, 100, 0)));
    }
}
