use bincode::{Decode, Encode};

use crate::{Column, Row};

/// Rows as a function gets them with `Accept: application/x-bincode`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RowSet {
    /// The columns of every row, with the kinds that [`ColumnKind::written`](crate::ColumnKind::written) gives.
    pub columns: Vec<Column>,
    /// The rows.
    pub rows: Vec<Row>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ColumnKind, decode, encode};

    /// What clients have been written against.
    #[test]
    fn golden_row_set() {
        let column = |name: &str, kind| Column { name: name.into(), kind };
        let columns = vec![column("id", ColumnKind::Int), column("name", ColumnKind::Text)];
        let rows = RowSet { columns, rows: vec![vec![Some("7".into()), None]] };
        let bytes = encode(&rows);
        assert_eq!(bytes, b"\x02\x02id\x00\x04name\x04\x01\x02\x01\x017\x00");
        assert_eq!(decode::<RowSet>(&bytes).unwrap(), rows);
    }
}
