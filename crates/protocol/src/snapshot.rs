use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};

/// A full 64-bit transaction id (epoch and counter), so that comparisons survive wraparound of the 32-bit counter.
pub type Xid = u64;

/// Which transactions a copy contains: PostgreSQL's `pg_snapshot` with 64-bit ids.
///
/// Only top-level ids matter: a subtransaction becomes visible with the transaction it belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Snapshot {
    /// Every id below this one had ended.
    pub xmin: Xid,
    /// No id at or above this one had ended.
    pub xmax: Xid,
    /// Ids in `xmin..xmax` that were still in progress, ascending.
    pub in_progress: Vec<Xid>,
}

/// The text was not of the form `xmin:xmax:xip,xip,…` with xmin ≤ xip < xmax, ascending.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a snapshot: expected xmin:xmax:xip,… as pg_current_snapshot() writes it")]
pub struct ParseSnapshotError;

impl Snapshot {
    /// Whether the effects of `xid`, known to have committed, are part of this snapshot.
    pub fn sees(&self, xid: Xid) -> bool {
        xid < self.xmin || (xid < self.xmax && self.in_progress.binary_search(&xid).is_err())
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (i, xid) in self.in_progress.iter().enumerate() {
            write!(f, "{}{xid}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl FromStr for Snapshot {
    type Err = ParseSnapshotError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split(':');
        let (Some(xmin), Some(xmax), Some(xip), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ParseSnapshotError);
        };
        let number = |part: &str| part.parse::<Xid>().map_err(|_| ParseSnapshotError);
        let (xmin, xmax) = (number(xmin)?, number(xmax)?);
        let in_progress =
            if xip.is_empty() { Vec::new() } else { xip.split(',').map(number).collect::<Result<_, _>>()? };
        let ordered = in_progress.is_sorted_by(|a, b| a < b);
        let inside = in_progress.iter().all(|xid| (xmin..xmax).contains(xid));
        if xmin > xmax || !ordered || !inside {
            return Err(ParseSnapshotError);
        }
        Ok(Snapshot { xmin, xmax, in_progress })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_what_had_committed_and_nothing_else() {
        let snapshot: Snapshot = "10:20:12,15".parse().unwrap();
        for (xid, seen) in
            [(9, true), (10, true), (12, false), (13, true), (15, false), (19, true), (20, false)]
        {
            assert_eq!(snapshot.sees(xid), seen, "{xid}");
        }
    }

    #[test]
    fn ids_are_compared_in_full() {
        let snapshot: Snapshot = "4294967290:4294967400:4294967300".parse().unwrap();
        assert!(snapshot.sees(5), "an id of the epoch before");
        assert!(!snapshot.sees(4_294_967_300), "counter 4 of the epoch after");
        assert!(snapshot.sees(4_294_967_301));
    }

    #[test]
    fn text_round_trips() {
        for text in ["3:3:", "10:20:12,15", "795:799:795,798"] {
            assert_eq!(text.parse::<Snapshot>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_is_not_a_snapshot() {
        for text in
            ["", "1", "1:2", "2:1:", "1:5:7", "1:5:0", "1:5:3,2", "1:5:3,3", "1:5:3,", "a:b:", "1:5:3:4"]
        {
            assert_eq!(text.parse::<Snapshot>(), Err(ParseSnapshotError), "{text:?}");
        }
    }
}
