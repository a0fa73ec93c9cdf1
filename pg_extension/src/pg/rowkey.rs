//! By which columns rows of a table are told from each other.

use pgrx::pg_sys;

use super::Oid;
use super::relation::Opened;

/// Sets of columns that each tell any two rows apart at any moment, and whose values the log has of a row before its change: the
/// primary key first.
pub(crate) struct RowKeys {
    pub(crate) sets: Vec<Vec<i16>>,
}

impl RowKeys {
    /// Of a table; of a partitioned one only the primary key, and each partition has to see what its log holds.
    pub(crate) fn of(table: Oid, partitioned: bool) -> RowKeys {
        let mut sets = Vec::new();
        let Some(relation) = Opened::unlocked(table) else { return RowKeys { sets } };
        // SAFETY: the relation is open; asking for the list of its indexes fills in which are special.
        let (identity, primary, chosen) = unsafe {
            pg_sys::RelationGetIndexList(relation.0);
            (
                (*(*relation.0).rd_rel).relreplident as u8,
                (*relation.0).rd_pkindex,
                (*relation.0).rd_replidindex,
            )
        };
        let full = partitioned || identity == pg_sys::REPLICA_IDENTITY_FULL;
        let primary = columns(primary);
        let logged = columns(chosen);
        if let Some(primary) = primary {
            let in_log = |attnum: &i16| full || logged.as_ref().is_some_and(|logged| logged.contains(attnum));
            if primary.iter().all(in_log) {
                sets.push(primary);
            }
        }
        if let Some(logged) = logged.filter(|logged| !partitioned && !sets.contains(logged)) {
            sets.push(logged);
        }
        RowKeys { sets }
    }
}

/// Column numbers of a unique index that is checked row by row, in its order.
fn columns(index: Oid) -> Option<Vec<i16>> {
    let index = Opened::unlocked(index)?;
    // SAFETY: an index's row in pg_index holds as many column numbers as it says.
    unsafe {
        let row = &*(*index.0).rd_index;
        let columns = (0..row.indnkeyatts as usize).map(|at| *row.indkey.values.as_ptr().add(at));
        (row.indimmediate && row.indisunique).then(|| columns.collect())
    }
}
