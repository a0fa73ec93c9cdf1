use bincode::{Decode, Encode};

use crate::{Frame, Lsn, Xid};

/// What a stream has to bring again when it goes on before the place that it had come to, if the origin has the same past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Witness {
    /// Where the stream began; what it brings from before is not known.
    pub since: Lsn,
    /// The last transaction that it brought.
    pub last: Option<Delivered>,
}

/// A transaction that the stream brought. No other has all of these in another past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Delivered {
    /// Top-level transaction id.
    pub xid: Xid,
    /// Where the commit record starts.
    pub commit_lsn: Lsn,
    /// Microseconds since 1970-01-01 UTC, by the origin's clock.
    pub commit_time: i64,
}

impl Witness {
    /// Of a stream that begins here.
    pub fn began(since: Lsn) -> Self {
        Witness { since, last: None }
    }

    /// The stream brought this.
    pub fn brought(&mut self, frame: &Frame) {
        self.last = Some(Delivered::of(frame));
    }
}

impl Delivered {
    /// The transaction of a frame.
    pub fn of(frame: &Frame) -> Self {
        let Frame { xid, commit_lsn, commit_time, .. } = *frame;
        Delivered { xid, commit_lsn, commit_time }
    }
}
