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
    /// How often in a row decoding failed at the origin.
    failures: u32,
    /// An older state of the origin than the one that was streamed has answered.
    doubted: bool,
}

/// What is said of a message in the stream that can't be read: it will be no better the next time.
pub(super) const NOT_FRAMES: &str = "the change stream holds something else than frames";

/// Decoding that fails this often in a row will not succeed: a part of the log can't be read with the definitions of now, as
/// after an extension was dropped.
const MOST_FAILURES: u32 = 4;

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
            Loss::Older { ends, applied } if ends >= applied => write!(
                f,
                "the origin's log up to {applied} is not what was streamed: an older state was restored, and its log has grown since"
            ),
            Loss::Older { ends, applied } => write!(
                f,
                "the origin's log, now at {ends}, ended before {applied} which is applied here: an older state was restored"
            ),
        }
    }
}

impl Past {
    /// What a predecessor left.
    pub(crate) fn kept(system: String, timeline: u32, applied: Lsn, acknowledged: Lsn) -> Self {
        let origin = Some(Identity { system, timeline, flushed: applied });
        Past { origin, applied, acknowledged, ..Past::default() }
    }

    /// Whether what the core knows still counts, now that the stream goes on at `confirmed` of the slot at `origin`.
    pub(crate) fn loss(&self, origin: &Identity, confirmed: Lsn, created: bool) -> Option<Loss> {
        let Some(known) = &self.origin else { return Some(Loss::Beginning) };
        Some(match () {
            () if known.system != origin.system => Loss::OtherSystem,
            () if known.timeline != origin.timeline => {
                Loss::Timeline { before: known.timeline, now: origin.timeline }
            }
            () if self.doubted || origin.flushed < self.applied => {
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
        self.doubted = false;
        if lost {
            (self.applied, self.acknowledged) = (start, start);
        }
    }

    /// The stream ended with this error.
    pub(crate) fn failed(&mut self, error: &str) {
        if error.contains("server error during replication: ERROR") || error.contains(NOT_FRAMES) {
            self.failures += 1;
        }
    }

    /// The stream was followed for a while.
    pub(crate) fn followed(&mut self) {
        self.failures = 0;
    }

    /// An older state of the origin has answered: even if its log has grown since, what is held is not of its history.
    pub(crate) fn doubt(&mut self) {
        self.doubted = true;
    }

    /// The slot leads nowhere: a new one has to take its place. Told once.
    pub(crate) fn undecodable(&mut self) -> bool {
        self.failures >= MOST_FAILURES && std::mem::take(&mut self.failures) > 0
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
    fn decoding_that_never_succeeds_is_given_up() {
        let mut past = Past::default();
        let error = "server error during replication: ERROR: could not find pg_class entry";
        for _ in 0..MOST_FAILURES - 1 {
            past.failed(error);
            past.failed("connection reset");
        }
        assert!(!past.undecodable());
        past.failed(error);
        assert!(past.undecodable() && !past.undecodable());
        (1..MOST_FAILURES).for_each(|_| past.failed(error));
        past.followed();
        past.failed(error);
        assert!(!past.undecodable());
    }

    #[test]
    fn after_a_loss_the_new_history_is_the_one_that_counts() {
        let mut past = Past::default();
        past.started(identity("a", 1, 500), Lsn(500), true);
        past.moved(Lsn(600), Lsn(600));
        past.started(identity("a", 2, 300), Lsn(200), true);
        assert_eq!(past.loss(&identity("a", 2, 300), Lsn(200), false), None);
        past.doubt();
        let loss = past.loss(&identity("a", 2, 900), Lsn(200), false);
        assert_eq!(loss.as_ref().and_then(Loss::label), Some("older_origin"));
        past.started(identity("a", 2, 300), Lsn(200), true);
        assert_eq!(past.loss(&identity("a", 2, 300), Lsn(250), false), Some(Loss::Moved));
    }
}
