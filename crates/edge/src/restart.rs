//! The stream begins, resumes, or begins anew: what of the past still counts.

use foreshard_protocol::Lsn;

use crate::core::{Action, EdgeCore};
use crate::now::Now;

impl EdgeCore {
    /// The stream starts at `position`. With `continues` it goes on where it was acknowledged; otherwise its past is
    /// lost, and every copy and every fetch under way is dropped.
    pub fn stream_started(&mut self, now: Now, position: Lsn, continues: bool) {
        self.connected_at = now.mono;
        self.doubted = false;
        if continues && self.stream.position() > Lsn::ZERO {
            self.resume();
            // Nobody is told less than before, while the stream comes again to where it was.
            self.promised = self.promised.max(self.stream.stamp());
            if self.stream.resume(position).is_ok() {
                if self.stream.is_retracing() {
                    self.actions.push(Action::AskForProgress);
                }
                self.tick(now);
                return;
            }
            // There is nothing to tell the past by. Copies may be of another one; its log is as long, so what was promised stands.
        } else {
            self.promised = Lsn::ZERO;
        }
        if self.stream.position() > Lsn::ZERO {
            self.stats.resets += 1;
        }
        self.stream.restart(position);
        self.forget_warm();
        self.definitions.unload();
        self.agenda.clear();
        self.start_empty();
        self.tick(now);
    }

    /// The origin's log ends before what the stream has delivered: another state of it has taken over (a restored backup, a
    /// promoted standby), and what is held is of a past that it does not have. Only a new start of the stream tells.
    pub(crate) fn doubt(&mut self) {
        if !std::mem::replace(&mut self.doubted, true) {
            self.stats.doubts += 1;
            self.actions.push(Action::Reconnect);
        }
    }

    /// The connection may have been lost because the origin crashed. Then log that was not flushed is gone and its
    /// transaction ids are given out again, so a snapshot that saw such an id (an asynchronous commit, or an abort)
    /// would take the new owner for seen. What the stream has passed is flushed: only what is ahead of it is in doubt.
    fn resume(&mut self) {
        let position = self.stream.furthest();
        if self.definitions.settled_at().is_none_or(|settled| settled > position) {
            self.definitions.reload();
            self.start_empty();
            return;
        }
        self.flights.poison_all();
        for instance in self.prefetch.ahead_of(position) {
            if let Some(removed) = self.prefetch.remove(&instance) {
                self.note_prefetch_removed(&removed);
            }
            self.agenda.again(&instance);
        }
        for instance in self.reactive.ahead_of(position) {
            self.reactive.remove(&instance);
            self.agenda.again(&instance);
        }
        for pending in self.requests.pending.values_mut() {
            for pinned in &mut pending.pinned {
                pinned.take_if(|copy| copy.settled_at > position);
            }
            (pending.proven, pending.vouched) = (Lsn::ZERO, false);
        }
    }

    /// Without copies, and with definitions asked for.
    fn start_empty(&mut self) {
        self.epoch += 1;
        self.unsettled = None;
        self.refetch.clear();
        self.flights.poison_all();
        for removed in self.prefetch.clear() {
            self.note_prefetch_removed(&removed);
        }
        self.reactive.clear();
        for pending in self.requests.pending.values_mut() {
            pending.pinned.fill(None);
        }
        self.actions.push(Action::LoadCatalog);
    }
}
