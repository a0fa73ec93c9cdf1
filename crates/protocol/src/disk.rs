//! What an edge keeps on its disk, before it is encrypted.

use bincode::{Decode, Encode};

use crate::{Column, EdgeName, Lsn, Row, RowOrder, Snapshot, Witness};

/// Version of the kept form; a file of another version is thrown away.
pub const DISK_VERSION: u16 = 3;

/// One copy of a shard instance, with everything that is needed to serve it and to keep it current.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct KeptCopy {
    /// Canonical instance id.
    pub instance: String,
    /// Generation of the shard's definition.
    pub generation: u64,
    /// Columns of every row.
    pub columns: Vec<Column>,
    /// As in [`FetchPart::Instance`](crate::FetchPart::Instance).
    pub identity: Vec<u16>,
    /// How the rows are sorted.
    pub order: RowOrder,
    /// The rows.
    pub rows: Vec<Row>,
    /// What the copy contains beside what the stream has delivered.
    pub snapshot: Snapshot,
    /// A position at or after everything that `snapshot` sees.
    pub settled_at: Lsn,
}

/// Of which origin and moment the kept copies are: all of them hold exactly what the stream has delivered up to
/// `position`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct KeptState {
    /// The edge.
    pub edge: EdgeName,
    /// System identifier of the origin's cluster.
    pub system: String,
    /// Its timeline.
    pub timeline: u32,
    /// The replication slot.
    pub slot: String,
    /// Up to where the stream is applied.
    pub position: Lsn,
    /// Up to where the origin may have been told that it can forget. Beyond it the slot is not this edge's any more.
    pub acknowledged: Lsn,
    /// What tells the origin's past that this is of from another one.
    pub witness: Witness,
    /// How many copies there are.
    pub copies: u64,
    /// Over all of them: one that is missing, or of another moment, changes it.
    pub digest: [u8; 16],
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ColumnKind, Comparison, Delivered, decode, encode};

    /// If this fails, the change needs a new `DISK_VERSION`.
    #[test]
    fn golden_copy_and_state() {
        let copy = KeptCopy {
            instance: "s?k=1".into(),
            generation: 3,
            columns: vec![Column { name: "k".into(), kind: ColumnKind::Int }],
            identity: vec![0],
            order: RowOrder::By(vec![(0, Comparison::Number)]),
            rows: vec![vec![Some("1".into())]],
            snapshot: Snapshot { xmin: 5, xmax: 7, in_progress: vec![6] },
            settled_at: Lsn(9),
        };
        let bytes = encode(&copy);
        assert_eq!(
            bytes,
            b"\x05s?k=1\x03\x01\x01k\x00\x01\x00\x01\x01\x00\x00\x01\x01\x01\x011\x05\x07\x01\x06\x09"
        );
        assert_eq!(decode::<KeptCopy>(&bytes).unwrap(), copy);
        let state = KeptState {
            edge: "e".into(),
            system: "7".into(),
            timeline: 1,
            slot: "s".into(),
            position: Lsn(2),
            acknowledged: Lsn(1),
            witness: Witness {
                since: Lsn(1),
                last: Some(Delivered { xid: 3, commit_lsn: Lsn(2), commit_time: -1 }),
            },
            copies: 1,
            digest: [0xAA; 16],
        };
        let bytes = encode(&state);
        assert_eq!(
            bytes,
            [b"\x01e\x017\x01\x01s\x02\x01\x01\x01\x03\x02\x01\x01".as_slice(), &[0xAA; 16]].concat()
        );
        assert_eq!(decode::<KeptState>(&bytes).unwrap(), state);
    }
}
