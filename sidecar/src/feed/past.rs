//! What of the past still counts when the stream is connected again.
//!
//! Copies may be kept only if the stream goes on in the very history they were made in, at or before the place up to which
//! it was applied. A slot with the right name proves neither.

use foreshard_protocol::Lsn;

/// The origin as the replication connection found it, before the stream started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Of the cluster, since initdb. A physical copy has the same.
    pub(crate) system: String,
    /// Grows when a standby is promoted and when a backup is restored up to a point in time.
    pub(crate) timeline: u32,
    /// The end of what it has written durably.
    pub(crate) flushed: Lsn,
}

/// What this process remembers of the stream it followed.
#[derive(Debug, Default)]
pub(crate) struct Past {
    origin: Option<Identity>,
    /// Up to where everything was applied.
    pub(crate) applied: Lsn,
    /// Up to where the origin was told it may forget.
    pub(crate) acknowledged: Lsn,
}

/// Why nothing of the past counts any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// There is none: the process has just started.
    Beginning,
    /// The slot was dropped, or invalidated and therefore made anew.
    NewSlot,
    /// Somebody else has followed the slot and moved it past what this process knows.
    Moved,
    /// Another cluster answers at the same address.
    OtherSystem,
    /// Another timeline: a promoted standby, or a backup restored to a point in time.
    Timeline { before: u32, now: u32 },
    /// The log ends before what was applied: an older state of the same cluster.
    Older { ends: Lsn, applied: Lsn },
}

impl Loss {
    /// The word used as a label of the metric.
    pub(crate) fn label(&self) -> Option<&'static str> {
        Some(match self {
            Loss::Beginning => return None,
            Loss::NewSlot => "new_slot",
            Loss::Moved => "slot_moved",
            Loss::OtherSystem => "other_system",
            Loss::Timeline { .. } => "timeline",
            Loss::Older { .. } => "older_origin",
        })
    }
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Loss::Beginning => f.write_str("this process has just started"),
            Loss::NewSlot => f.write_str("the replication slot was dropped or invalidated; it is a new one"),
            Loss::Moved => f.write_str("another process has followed the replication slot and moved it on"),
            Loss::OtherSystem => f.write_str("another cluster answers at the origin's address"),
            Loss::Timeline { before, now } => write!(
                f,
                "the origin is on timeline {now} and was on {before}: a standby was promoted or a backup restored"
            ),
            Loss::Older { ends, applied } => write!(
                f,
                "the origin's log ends at {ends}, before {applied} which is applied here: an older state was restored"
            ),
        }
    }
}

impl Past {
    /// What a predecessor left.
    pub(crate) fn kept(system: String, timeline: u32, applied: Lsn, acknowledged: Lsn) -> Self {
        Past { origin: Some(Identity { system, timeline, flushed: applied }), applied, acknowledged }
    }

    /// Whether what the core knows still counts, now that the stream goes on at `confirmed` of the slot at `origin`.
    pub(crate) fn loss(&self, origin: &Identity, confirmed: Lsn, created: bool) -> Option<Loss> {
        let Some(known) = &self.origin else { return Some(Loss::Beginning) };
        Some(match () {
            () if known.system != origin.system => Loss::OtherSystem,
            () if known.timeline != origin.timeline => {
                Loss::Timeline { before: known.timeline, now: origin.timeline }
            }
            () if origin.flushed < self.applied => {
                Loss::Older { ends: origin.flushed, applied: self.applied }
            }
            () if created => Loss::NewSlot,
            () if confirmed > self.acknowledged => Loss::Moved,
            () => return None,
        })
    }

    /// The stream has started at `start`.
    pub(crate) fn started(&mut self, origin: Identity, start: Lsn, lost: bool) {
        self.origin = Some(origin);
        if lost {
            (self.applied, self.acknowledged) = (start, start);
        }
    }

    /// This is applied, and this acknowledged.
    pub(crate) fn moved(&mut self, applied: Lsn, acknowledged: Lsn) {
        self.applied = self.applied.max(applied);
        self.acknowledged = self.acknowledged.max(acknowledged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(system: &str, timeline: u32, flushed: u64) -> Identity {
        Identity { system: system.into(), timeline, flushed: Lsn(flushed) }
    }

    #[test]
    fn only_the_same_history_goes_on() {
        let mut past = Past::default();
        assert_eq!(past.loss(&identity("a", 1, 100), Lsn(90), false), Some(Loss::Beginning));
        past.started(identity("a", 1, 100), Lsn(90), true);
        past.moved(Lsn(120), Lsn(110));
        for (origin, confirmed, created, expected) in [
            (identity("a", 1, 120), 110, false, None),
            (identity("a", 1, 130), 95, false, None),
            (identity("b", 1, 130), 95, false, Some("other_system")),
            (identity("a", 2, 130), 95, false, Some("timeline")),
            (identity("a", 1, 119), 95, false, Some("older_origin")),
            (identity("a", 1, 130), 130, true, Some("new_slot")),
            (identity("a", 1, 130), 111, false, Some("slot_moved")),
        ] {
            let loss = past.loss(&origin, Lsn(confirmed), created);
            assert_eq!(loss.as_ref().and_then(Loss::label), expected, "{origin:?} {confirmed}");
        }
    }

    #[test]
    fn after_a_loss_the_new_history_is_the_one_that_counts() {
        let mut past = Past::default();
        past.started(identity("a", 1, 500), Lsn(500), true);
        past.moved(Lsn(600), Lsn(600));
        past.started(identity("a", 2, 300), Lsn(200), true);
        assert_eq!(past.loss(&identity("a", 2, 300), Lsn(200), false), None);
        assert_eq!(past.loss(&identity("a", 2, 300), Lsn(250), false), Some(Loss::Moved));
    }
}
