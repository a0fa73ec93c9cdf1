//! Row changes that the stream brings: applied to copies in place, or refused with a reason.

mod change;
mod unseen;

use foreshard_protocol::{Deltas, RowChange};

use crate::copy::Layout;

pub(crate) use change::change;
pub(crate) use unseen::{Missed, Unseen};

/// Why a copy can't take a change; it is dropped then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refused {
    /// The copy is of another definition of the shard.
    Generation,
    /// The copy has other columns.
    Columns,
    /// Nothing tells one row of the copy from another.
    Identity,
    /// The place of a new row can't be told.
    Order,
    /// The change does not have the form that the copy's rows have.
    Malformed,
    /// The copy has outgrown its cache.
    Budget,
}

/// The changes are of the definition and the columns that the copy has.
pub(crate) fn fits(layout: &Layout, deltas: &Deltas) -> Result<(), Refused> {
    match () {
        () if layout.generation != deltas.generation => Err(Refused::Generation),
        () if layout.fingerprint != deltas.columns => Err(Refused::Columns),
        () if layout.identity.is_empty() => Err(Refused::Identity),
        () => Ok(()),
    }
}

/// About how many bytes changes take while they are kept.
pub(crate) fn bytes(changes: &[RowChange]) -> usize {
    let value = |value: &Option<String>| size_of::<Option<String>>() + value.as_ref().map_or(0, String::len);
    let of = |change: &RowChange| {
        let (RowChange::Put { row: values } | RowChange::Remove { identity: values }) = change;
        size_of::<RowChange>() + values.iter().map(value).sum::<usize>()
    };
    changes.iter().map(of).sum()
}
