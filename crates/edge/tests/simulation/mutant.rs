//! Planted bugs: each spoils what the core is told, or what is done with what it says. The checker has to find them.

use std::collections::BTreeSet;

use foreshard_protocol::{CatalogChange, Event, Frame, KeyChange, RowChange, Snapshot, WholeReason};

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Copies are stamped with the log position of their reading instead of with what they see.
    LsnStamp,
    /// A fetch caused by a transaction is accepted although it does not see it.
    NoGateOnRefetch,
    /// A fill that began before an invalidation lands after it.
    LateFill,
    /// What is applied is acknowledged, visible or not.
    AcknowledgeApplied,
    /// What was sent is taken as applied: after a reconnection the stream goes on behind it.
    AcknowledgeSent,
    /// A row that moves to another key invalidates only where it went.
    OldKeyForgotten,
    TruncateForgotten,
    /// The stream is believed to be fresh however far it is behind.
    AlwaysFresh,
    /// A removed mapping does not bite.
    UnmapForgotten,
    /// Copies that are ahead of the stream count as settled.
    SettledAtOnce,
    /// A new slot continues an old position.
    NewSlotContinues,
    /// Transaction ids are compared by their lower 32 bits.
    ShortXids,
    /// A redefined shard keeps its copies.
    RedefinitionForgotten,
    /// After the origin crashed, copies of what it never flushed stay.
    CrashForgotten,
    /// An older state of the origin continues a newer position.
    RestoreForgotten,
    /// The stream is asked for from where the edge is, not from where its slot is.
    RegrowthForgotten,
    /// Changes of rows are applied once more, after those of the next transaction.
    DeltaTwice,
    /// Changes of rows are applied to copies that hold them.
    DeltaToHolder,
    /// Transactions are applied in another order than that of the log.
    DeltasOutOfOrder,
    /// The last change of each transaction is not applied.
    HalfATransaction,
    /// Rows that leave an instance stay.
    RemovalForgotten,
    /// Values that were not written again, and are not in the log, are taken for NULL.
    MissingValuesAsNull,
    /// What had committed invisibly when a shard was defined is not waited for.
    UnsettledForgotten,
    /// The same, when the stream began.
    UnsettledBeforeForgotten,
    /// Beyond the stream, what the log holds is taken for visible.
    HorizonOfTheLog,
    /// The origin is asked how far its log is after it was read.
    HorizonAfterReading,
    /// Beyond the stream, functions may read what they might before.
    HorizonOfOldMappings,
    /// While the stream is not fresh, functions may read what the definitions known here say.
    MappingsAsKnown,
}

/// The changes of rows in a frame, instance by instance.
fn changes(frame: &mut Frame) -> impl Iterator<Item = &mut Vec<RowChange>> {
    let deltas = frame.events.iter_mut().filter_map(|event| match event {
        Event::Shard { change: KeyChange::Rows(deltas), .. } => Some(deltas),
        _ => None,
    });
    deltas.flat_map(|deltas| deltas.instances.iter_mut().map(|instance| &mut instance.rows))
}

impl Mutant {
    /// What becomes of a frame on its way to the core.
    pub(crate) fn spoil_frame(self, frame: &mut Frame) {
        match self {
            Mutant::ShortXids => frame.xid &= 0xFFFF_FFFF,
            Mutant::OldKeyForgotten => {
                for event in &mut frame.events {
                    match event {
                        Event::Shard { change: KeyChange::Keys(keys), .. } if keys.len() > 1 => {
                            keys.remove(0);
                        }
                        Event::Shard { change: KeyChange::Rows(deltas), .. }
                            if deltas.instances.len() > 1 =>
                        {
                            deltas.instances.remove(0);
                        }
                        _ => {}
                    }
                }
            }
            Mutant::HalfATransaction => {
                if let Some(rows) = changes(frame).filter(|rows| rows.len() > 1).last() {
                    rows.pop();
                }
            }
            Mutant::RemovalForgotten => {
                for rows in changes(frame) {
                    rows.retain(|change| matches!(change, RowChange::Put { .. }));
                }
            }
            Mutant::UnsettledForgotten => {
                frame.events.retain(|event| !matches!(event, Event::Unsettled(_)));
            }
            Mutant::TruncateForgotten => frame.events.retain(|event| {
                !matches!(event, Event::Shard { change: KeyChange::Whole(WholeReason::Truncate), .. })
            }),
            Mutant::UnmapForgotten => frame
                .events
                .retain(|event| !matches!(event, Event::Catalog(CatalogChange::FunctionUnmapped(_)))),
            Mutant::RedefinitionForgotten => {
                frame.events.retain(|event| !matches!(event, Event::Catalog(CatalogChange::Shard(_))));
            }
            _ => {}
        }
    }

    /// What becomes of a snapshot.
    pub(crate) fn spoil_snapshot(self, snapshot: &mut Snapshot) {
        if self == Mutant::ShortXids {
            let short = |xid: u64| xid & 0xFFFF_FFFF;
            snapshot.xmin = short(snapshot.xmin);
            snapshot.xmax = short(snapshot.xmax);
            let xids: BTreeSet<u64> = snapshot.in_progress.iter().map(|xid| short(*xid)).collect();
            snapshot.in_progress = xids.into_iter().collect();
        }
    }
}
